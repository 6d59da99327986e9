"""Signals and standard descriptors of the command's process.

``begin`` comes first of all, before anything that takes time is imported: hardly more than the interpreter has loaded
anyway is imported here.
"""

from __future__ import annotations

import os
import signal
import sys

TRACEBACK_VARIABLE = "SDRT_TRACEBACK"
"""If set, errors are printed with their stack, and what libraries write to stderr is not intercepted."""

_STDERR = 2
_noise_set_apart = False


def begin() -> None:
    """Sets up signals and descriptors of this process. For the command only, never for users of the library."""
    _let_interrupts_end_us()
    _fill_closed_descriptors()
    if not os.environ.get(TRACEBACK_VARIABLE):
        _set_noise_apart()


def take_noise() -> str:
    """The first line that a library has written to stderr by itself since the last call, or ""."""
    if not _noise_set_apart:
        return ""
    os.lseek(_STDERR, 0, os.SEEK_SET)
    lines = os.read(_STDERR, 4096).decode("utf-8", "replace").splitlines()
    os.lseek(_STDERR, 0, os.SEEK_SET)
    os.ftruncate(_STDERR, 0)
    return lines[0] if lines else ""


def _let_interrupts_end_us() -> None:
    """Lets SIGINT end the process at once and silently, as SIGTERM and SIGHUP do, so that a shell's loop ends as well.

    Python's KeyboardInterrupt comes only after a long call of a library, and some turn it into errors of their own.
    What has to be removed first is removed by ``sdrt.atomic.scratch``. Who started us with SIGINT ignored means it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _fill_closed_descriptors() -> None:
    """Opens /dev/null for closed standard descriptors. Otherwise the next opened file, perhaps our output, gets the
    descriptor that libraries write their messages to.

    What stands in for stdin cannot be read and what stands in for stdout cannot be written: closed stays closed.
    """
    for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (_STDERR, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest number that is free, which is this one
    if sys.stderr is None:  # print, argparse and traceback would take stdout instead
        sys.stderr = os.fdopen(_STDERR, "w", closefd=False)


def _set_noise_apart() -> None:
    """Moves Python's stderr to another descriptor, and captures what C libraries write to descriptor 2."""
    global _noise_set_apart  # noqa: PLW0603 (of the process, which has one stderr)
    encoding = sys.stderr.encoding
    sys.stderr = os.fdopen(os.dup(_STDERR), "w", 1, encoding=encoding, errors="backslashreplace")
    if hasattr(os, "memfd_create"):
        aside = os.memfd_create("stderr of libraries")
        _noise_set_apart = True
    else:
        aside = os.open(os.devnull, os.O_WRONLY)
    os.dup2(aside, _STDERR)
    os.close(aside)
