"""A training recipe: model, data, stages and seed as one TOML file, and nothing else decides what is trained.

seed = 1
[model]               # ModelConfig
[data]                # CropConfig
[[stages]]            # StageConfig, in order; each goes on where the one before it ended
[stages.loss]         # LossConfig
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from sdrt_metrics.fidelity import MS_SSIM_MIN_SIDE_PX
from sdrt_train.data import CropConfig
from sdrt_train.loss import LossConfig
from sdrt_train.model import ModelConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # the same under its older name

LEARNS = ("all", "encoder", "decoder")
T = TypeVar("T")


@dataclass(frozen=True)
class StageConfig:
    """One stage of a run.

    Attributes:
        name: for logs.
        steps: updates.
        batch: crops a step, of all workers together.
        crop_px: sides of a crop, a multiple of 16.
        learning_rate: after the warm-up.
        warm_up: updates over which the rate rises.
        decay: share of the stage, at its end, over which the rate falls to a fiftieth along a cosine.
        average: decay of the weights' running average.
        learns: "all", "encoder" (with the rate model) or "decoder"; the rest stands still.
        decisions: the decoder sees symbols chosen by rate and distortion, of strength 0 to this.
        maps: share of crops whose step differs from cell to cell at random.
        adapted: share of crops whose step follows the picture's activity, as in files.
        loss: weights of the distortion.
    """

    name: str = "mse"
    steps: int = 1000
    batch: int = 8
    crop_px: int = 192
    learning_rate: float = 5e-4
    warm_up: int = 200
    decay: float = 0.2
    average: float = 0.998
    learns: str = "all"
    decisions: float = 1.0
    maps: float = 0.25
    adapted: float = 0.0
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        if self.learns not in LEARNS:
            raise ValueError(f"stage {self.name!r}: learns is one of {LEARNS}, not {self.learns!r}")
        if self.loss.structure > 0 and self.crop_px < MS_SSIM_MIN_SIDE_PX:
            raise ValueError(f"stage {self.name!r}: MS-SSIM needs crops of {MS_SSIM_MIN_SIDE_PX} pixels or more")


@dataclass(frozen=True)
class Recipe:
    """All that decides what a run trains."""

    seed: int = 1
    model: ModelConfig = field(default_factory=ModelConfig)
    data: CropConfig = field(default_factory=CropConfig)
    stages: tuple[StageConfig, ...] = (StageConfig(),)

    @property
    def steps(self) -> int:
        """Updates of all stages."""
        return sum(stage.steps for stage in self.stages)


def _build(kind: type[T], values: object, where: str) -> T:
    if not isinstance(values, dict):
        raise ValueError(f"{where} is a table, not {values!r}")
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise ValueError(f"{where} has no setting {unknown[0]!r}; there are {', '.join(sorted(known))}")
    built: dict[str, Any] = {}
    for name, value in values.items():
        hint = hints[name]
        if name == "stages":
            if not isinstance(value, list) or not value:
                raise ValueError(f"{where}: stages are tables, one or more, not {value!r}")
            built[name] = tuple(_build(StageConfig, stage, f"stages[{i}]") for i, stage in enumerate(value))
        elif is_dataclass(hint):
            built[name] = _build(hint, value, name)  # type: ignore[arg-type]
        else:
            built[name] = tuple(value) if isinstance(value, list) else value
            if not _is_of(hint, built[name]):
                raise ValueError(f"{where}: {name} cannot be {value!r}")
    return kind(**built)


def _is_of(hint: Any, value: object) -> bool:
    """Whether a setting is of its field's type: a bool, a string, a number, or a tuple of such."""
    if isinstance(value, tuple):
        kinds = get_args(hint)
        return (
            bool(kinds)
            and len(kinds) == len(value)
            and all(_is_of(kind, one) for kind, one in zip(kinds, value, strict=True))
        )
    return type(value) is hint or (hint is float and type(value) is int)


def _override(values: dict[str, Any], setting: str) -> None:
    path, separator, text = setting.partition("=")
    if not separator:
        raise ValueError(f"{setting!r} is not NAME=VALUE")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = path.split(".")
    target: Any = values
    for part in parents:
        if isinstance(target, list) and part in map(str, range(len(target))):
            target = target[int(part)]
        elif isinstance(target, dict):
            target = target.setdefault(part, {})
        else:
            target = None
    if not isinstance(target, dict):
        raise ValueError(f"{setting!r} names no setting")
    target[last] = value


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> tuple[Recipe, str]:
    """A recipe and its name: the file's stem and the first 8 digits of the sha256 of what it says.

    Args:
        path: a TOML file.
        overrides: "model.latent_channels=128", "stages.0.steps=500": for trials; they change the name.

    Raises:
        ValueError: no TOML, a setting that does not exist, or a value out of its range.
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    try:
        values = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    for setting in overrides:
        _override(values, setting)
    digest = hashlib.sha256(data + "\n".join(overrides).encode()).hexdigest()[:8]
    return _build(Recipe, values, str(path)), f"{path.stem}-{digest}"
