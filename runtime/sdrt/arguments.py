"""Checks of numbers that callers give, so that a wrong one is refused by its name before any work begins."""

from __future__ import annotations

import math
from numbers import Integral, Real

from sdrt.errors import ArgumentError


def check_count(name: str, value: object) -> None:
    """Accept None and integers of 1 or more, numpy's too. Raises ArgumentError."""
    if value is None:
        return
    check_integer(name, value, 1, " or None")


def check_integer(name: str, value: object, minimum: int, or_else: str = "") -> None:
    """Accept integers of ``minimum`` or more. ``or_else``: for the message, what else is accepted. Raises
    ArgumentError."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ArgumentError(f"{name} is {value!r}, it must be an integer{or_else}")
    if int(value) < minimum:
        raise ArgumentError(f"{name} is {value}, it must be at least {minimum}")


def check_range(name: str, value: object, low: float, high: float) -> None:
    """Accept None and finite numbers from ``low`` to ``high``, both included. Raises ArgumentError."""
    if value is None:
        return
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ArgumentError(f"{name} is {value!r}, it must be a number or None")
    if not math.isfinite(value) or not low <= float(value) <= high:
        raise ArgumentError(f"{name} is {value:g}, it must be from {low:g} to {high:g}")
