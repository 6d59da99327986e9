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
_limits: list[int | None] = []
"""The ``max_pixels`` of every thread that is reading."""
_aside = contextlib.ExitStack()
"""Restores the state that the first reader saved."""


@contextlib.contextmanager
def reading(max_pixels: int | None) -> Iterator[None]:
    """Within the block no warnings are shown, and Pillow accepts pictures of up to ``max_pixels`` (None: any size).

    Pillow's limit gives way only where it is the smaller one. While several read, it is as wide as one of them needs:
    each has to check its own.
    """
    with _lock:
        if not _limits:
            _set_aside()
        _limits.append(max_pixels)
        _widen(max_pixels)
    try:
        yield
    finally:
        with _lock:
            _limits.remove(max_pixels)
            if not _limits:
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
    """After a fork the reading threads do not exist in the child."""
    _limits.clear()
    _aside.close()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork_in_child)
