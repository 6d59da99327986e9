"""Folders of the user that the XDG Base Directory Specification names.

Source: https://specifications.freedesktop.org/basedir-spec/latest/
"""

from __future__ import annotations

import os
from pathlib import Path

DATA = ("XDG_DATA_HOME", "~/.local/share")
CACHE = ("XDG_CACHE_HOME", "~/.cache")


def user_folder(variable: str, default: str) -> str:
    """The value of ``variable``, or ``default``, with its ~, where it is unset or relative: the specification says to
    ignore a relative path, which would name another folder wherever one stands."""
    value = os.environ.get(variable, "")
    return value if Path(value).is_absolute() else default
