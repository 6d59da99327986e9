"""Lets several threads read pictures although Pillow's pixel limit and Python's warnings are process-wide.

The first reader saves both, the last one restores them; no thread waits for another's picture.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator

from PIL import Image

_lock = threading.Lock()
_readers: list[tuple[int, int | None]] = []
"""Thread and ``max_pixels`` of everybody who is reading."""
_aside = contextlib.ExitStack()
"""Restores the state that the first reader saved."""


@contextlib.contextmanager
def reading(max_pixels: int | None) -> Iterator[None]:
    """Within the block no warnings are shown, and Pillow accepts pictures of up to ``max_pixels`` (None: any size).

    Pillow's limit gives way only where it is the smaller one. While several read, it is as wide as one of them needs:
    each has to check its own.
    """
    reader = threading.get_ident(), max_pixels
    with _lock:
        if not _readers:
            _set_aside()
        _readers.append(reader)
        _widen(max_pixels)
    try:
        yield
    finally:
        with _lock:
            _readers.remove(reader)
            if not _readers:
                _aside.close()


def _set_aside() -> None:
    _aside.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    _aside.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


def _widen(max_pixels: int | None) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and (max_pixels is None or max_pixels > 2 * limit):  # Pillow refuses beyond twice its limit
        Image.MAX_IMAGE_PIXELS = max_pixels


def _after_fork_in_child() -> None:
    """In the child only the thread that forked exists. It may be reading, and goes on."""
    _readers[:] = [reader for reader in _readers if reader[0] == threading.get_ident()]
    if not _readers:
        _aside.close()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork_in_child)
