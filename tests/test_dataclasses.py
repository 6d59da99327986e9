"""A law of every dataclass: those that hold arrays compare by identity."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest

ROOTS = ("sdrt", "sdrt_metrics", "sdrt_export", "sdrt_train", "sdrt_batch", "bench")


def modules(root: str) -> Iterator[ModuleType]:
    package = importlib.import_module(root)
    yield package
    for entry in pkgutil.walk_packages(package.__path__, f"{root}."):
        if not entry.name.endswith("__main__"):
            yield importlib.import_module(entry.name)


def dataclasses_of(root: str) -> set[type]:
    found = (value for module in modules(root) for value in vars(module).values())
    return {value for value in found if inspect.isclass(value) and dataclasses.is_dataclass(value)}


def compares_by_value(kind: type) -> bool:
    return dataclasses.is_dataclass(kind) and kind.__dataclass_params__.eq  # type: ignore[attr-defined, no-any-return]


def holds_arrays(hint: object) -> bool:
    """Whether values of this type are arrays, hold arrays, or hold what is compared by the arrays that it holds."""
    if hint is np.ndarray or typing.get_origin(hint) is np.ndarray:
        return True
    if inspect.isclass(hint) and compares_by_value(hint):
        return any(map(holds_arrays, typing.get_type_hints(hint).values()))
    if typing.get_origin(hint) in (None, typing.get_origin(typing.Callable[..., object])):
        return False
    return any(map(holds_arrays, typing.get_args(hint)))


@pytest.mark.parametrize("root", ROOTS)
def test_what_holds_arrays_compares_by_identity(root: str) -> None:
    """``==`` of two arrays is an array, which has no truth: a comparison by value of what holds them would fail.

    Until Python 3.12 the comparison of two objects that share their arrays happened not to.
    """
    pytest.importorskip({"sdrt": "numpy", "sdrt_batch": "ray"}.get(root, "torch"))
    wrong = [kind.__qualname__ for kind in dataclasses_of(root) if compares_by_value(kind) and holds_arrays(kind)]
    assert not wrong


def test_the_law_above_can_fail() -> None:
    """An array is seen in a field, in a container of a field, and in a field's own fields."""

    Array = np.ndarray[typing.Any, np.dtype[np.uint8]]  # noqa: N806 (a type)
    inner = dataclasses.make_dataclass("inner", [("array", Array | None)])
    outer = dataclasses.make_dataclass("outer", [("inner", dict[str, tuple[inner, ...]])])  # type: ignore[valid-type]
    apart = dataclasses.make_dataclass("apart", [("function", typing.Callable[[Array], int])])
    assert holds_arrays(outer) and not holds_arrays(apart)
