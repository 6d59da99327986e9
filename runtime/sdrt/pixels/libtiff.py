"""Turns libtiff's error messages into notes. By default libtiff writes them to the process's stderr, past Python.

Its error handler is process-wide: the first reader installs ours, the last one restores the old one, to which ours
passes the messages of other threads. Redirecting descriptor 2 would capture the output of every thread instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from PIL import _imaging

_MAX_BYTES = 300
_lock = threading.RLock()
_heard: dict[int, list[str]] = {}
"""Thread that is reading -> the messages in it."""
_old: Any = None
"""The previous handler, a pointer."""


@contextlib.contextmanager
def overheard() -> Iterator[list[str]]:
    """Collects the first message of libtiff in this thread within the block.

    Nothing where its handler is unavailable (a library linked statically): it writes to stderr then, as ever.
    """
    thread, words = threading.get_ident(), list[str]()
    set_handler = _setter()
    if set_handler is None or thread in _heard:
        yield words
        return
    with _lock:
        if not _heard:
            _exchange(set_handler)
        _heard[thread] = words
    try:
        yield words
    finally:
        with _lock:
            if _heard.pop(thread, None) is not None and not _heard:
                set_handler(_old)


def _exchange(set_handler: Callable[[Any], Any]) -> None:
    global _old  # noqa: PLW0603 (of the process, as the handler is)
    _old = set_handler(_handler())


def _after_fork_in_child() -> None:
    """After a fork the other threads do not exist in the child."""
    set_handler = _setter() if _heard else None
    _heard.clear()
    if set_handler is not None:
        set_handler(_old)
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork_in_child)


@cache
def _setter() -> Callable[[Any], Any] | None:
    """``TIFFSetErrorHandler`` of the library that Pillow is linked with; None if it cannot be found."""
    try:
        if sys.platform == "win32":
            return None
        function = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
        _handler()  # some systems allow no code that is made at run time
    except (OSError, AttributeError, MemoryError):
        return None
    return function


@cache
def _handler() -> Any:
    """``void (*)(const char *module, const char *format, va_list)``; the list is a pointer to us."""
    kind = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
    print_to = ctypes.CDLL(None).vsnprintf
    print_to.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]

    def said(module: bytes | None, text: bytes | None, arguments: int | None) -> None:
        words = _heard.get(threading.get_ident())
        if words is None:
            if _old:
                kind(_old)(module, text, arguments)
        elif not words and text is not None:
            buffer = ctypes.create_string_buffer(_MAX_BYTES)
            print_to(buffer, _MAX_BYTES, text, arguments)
            words.append(" ".join(buffer.value.decode("utf-8", "replace").split()))

    return kind(said)
