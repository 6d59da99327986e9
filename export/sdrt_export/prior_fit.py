"""Fits the arrays of a prior to latents: networks scan by scan, then tables counted under them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdrt.coding.prior import Int32
from sdrt.coding.prior_file import build_prior
from sdrt.coding.quantize import step_sizes
from sdrt.coding.symbols import arrange, with_extents
from sdrt_export.prior_plan import Arrays, channel_arrays, plan_scans, unfitted_prior
from sdrt_export.prior_steps import channel_order
from sdrt_export.prior_tables import count_tables, shape_arrays
from sdrt_export.prior_training import FitConfig, Sample, train_networks
from sdrt_export.progress import Progress

_STEPS = 3  # of each picture, at least
_ANYWHERE = 0.25

Float32 = NDArray[np.float32]
MapOf = Callable[[Float32, int], NDArray[np.integer]]
"""Latents (C, h, w), and the step index of a file -> the step index at each position, (h, w)."""


@dataclass(frozen=True, eq=False)
class Quantizable:
    """Latents (C, h, w) in ``(raw - shift) * scale`` units, and the step index (h, w) of each position."""

    latents: Float32
    step_indices: NDArray[np.integer]


def fit_prior(
    training: Sequence[Quantizable],
    held: Sequence[Quantizable],
    *,
    steps: Float32 | None = None,
    sensitivity: Float32 | None = None,
    config: FitConfig | None = None,
    dead_zone: float = 0.0,
    finished: Path | None = None,
) -> Arrays:
    """The arrays of a prior.

    Args:
        training: what it learns to predict.
        held: pictures by which the best state of each network is chosen.
        steps: base step of each channel; None: 1.
        sensitivity: pixel error for a squared step of error in each channel; None: 1.
        config: how networks are trained.
        dead_zone: by how much more than half a step a value must differ from an integer nearer to zero to be rounded
            away from it: what decisions do, about.
        finished: where scans that are done are kept (see ``sdrt_export.prior_training.train_networks``).

    Returns:
        The arrays of ``prior.npz``; the same arguments give the same ones on one machine.
    """
    config = config or FitConfig()
    channels = training[0].latents.shape[0]
    steps = np.ones(channels, np.float32) if steps is None else steps
    sensitivity = np.ones(channels, np.float32) if sensitivity is None else sensitivity
    plan = plan_scans(channels, config.hidden, config.sparse_hidden)
    order = channel_order([one.latents for one in training], steps)
    per_channel = channel_arrays(steps, sensitivity, order)
    layout = replace(unfitted_prior(plan), order=order)

    def sample(one: Quantizable) -> Sample:
        exact = arrange(one.latents / step_sizes(steps, one.step_indices), layout)
        nearest = np.sign(exact) * np.floor(np.abs(exact) + (0.5 - dead_zone))
        return Sample(with_extents(nearest.astype(np.int32), layout), one.step_indices)

    samples, kept = [sample(one) for one in training], [sample(one) for one in held]
    arrays = {**train_networks(plan, samples, kept, config, finished), **per_channel, **shape_arrays()}
    with Progress("prior: counting symbols", len(samples)) as progress:

        def counted() -> Iterator[tuple[Int32, NDArray[np.integer]]]:
            for number, one in enumerate(samples, 1):
                yield one.coded, one.step_indices
                progress.reach(number)

        return {**arrays, **count_tables(build_prior(arrays), counted())}


def at_several_steps(
    latents: Sequence[Float32], index_range: tuple[int, int], seed: int, map_of: MapOf, usual: tuple[int, int, int]
) -> list[Quantizable]:
    """Each of the latents at a few step indices, for ``map_of`` to spread.

    Three in four are near where files usually are: between the first and the last of ``usual``, most often the second.
    The others are anywhere in ``index_range``, both ends included.
    """
    random = np.random.default_rng(seed)
    shape = (len(latents), max(_STEPS, min(8, 600 // len(latents))))
    anywhere = random.integers(index_range[0], index_range[1] + 1, shape)
    first, most, last = usual
    near = np.rint(random.triangular(first - 0.5, most, last + 0.5, shape)).astype(np.int64).clip(first, last)
    indices = np.where(random.random(shape) < _ANYWHERE, anywhere, near)
    return [
        Quantizable(one, map_of(one, index))
        for one, row in zip(latents, indices.tolist(), strict=True)
        for index in row
    ]
