"""Everything that sdrt raises on purpose. Each leaf answers: what can the caller do now?"""

from __future__ import annotations

import errno


class SdrtError(Exception):
    """The root: catch this to catch everything that sdrt raises on purpose.

    ``exit_code`` is what the command line returns for it.
    """

    exit_code = 1


class NotSdlError(SdrtError):
    """The data is not an .sdl file at all: give another file."""

    exit_code = 3


class UnsupportedError(SdrtError):
    """A valid request or file that this version cannot serve: update sdrt or change the request."""

    exit_code = 4


class ArgumentError(UnsupportedError, ValueError):
    """An argument is unknown, out of range, of the wrong type, or contradicts another: change the call."""


class CorruptError(SdrtError):
    """An .sdl file that is truncated or altered: fetch it again."""

    exit_code = 5


class LimitError(SdrtError):
    """Larger than the limits allow: raise the limit if the source is trusted."""

    exit_code = 6


class ModelError(SdrtError):
    """A model pack is missing, altered, or has another latent space or prior: install the right one."""

    exit_code = 7


class EngineError(SdrtError):
    """The inference engine is missing or cannot use the device: install it or choose another device."""

    exit_code = 8


class ImageError(SdrtError):
    """The input is not a readable picture: give another file."""

    exit_code = 9


class MissingFileError(ImageError, FileNotFoundError):
    """There is no file of the name given: check the path."""

    errno = errno.ENOENT


class OutputError(SdrtError):
    """The result cannot be written: it already exists, the disk is full, the path is wrong."""

    exit_code = 10


def first_line(error: BaseException) -> str:
    """The first line of a foreign error's message, at most 300 characters: the rest is somebody's stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def raise_interrupt_behind(error: BaseException) -> None:
    """Raises the KeyboardInterrupt that ``error`` stands for, if there is one behind it.

    An extension module whose import is interrupted is reported as one that cannot be imported.
    """
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, KeyboardInterrupt):
            raise behind
        behind = behind.__cause__ or behind.__context__
