"""Crops of photographs and their latents, kept so that a pack's encoder runs over them once.

    <cache>/prior/<encoder's sha256, 16 digits>/<photographs and settings, 16 digits>/
        00017.npz       latents of the 18th photograph of the plan, and where the plan's random numbers stood after it

The first folder belongs to the pack's encoder, so that an encoder that is exported again finds none of it; the second
to what was cut: names, sizes and times of the photographs, their number, the seed. A run that was interrupted goes on
after the last photograph that was finished. <cache> is $SDRT_CACHE, or ``sdrt`` in the user's cache folder; it may be
deleted at any time.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdrt.atomic import make_folder, write_atomic
from sdrt.errors import ImageError
from sdrt.network.engine import Engine
from sdrt.network.tensorrt_cache import cache_root
from sdrt.network.transform import to_latents
from sdrt.packs.manifest import ModelPack
from sdrt_export.photographs import CROP_PX, CropPlan, list_images
from sdrt_export.progress import Progress

_NO_CROP = np.zeros((0, 0, 3), np.uint8)
_LAYOUT = 3
"""Of the cached files: another number is another folder."""


@dataclass(frozen=True, eq=False)
class Example:
    """A crop, uint8 (H, W, 3), and its latents (C, h, w) in ``(raw - shift) * scale`` units."""

    crop: NDArray[np.uint8]
    latents: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class EncodedCrops:
    """What a prior is fitted on."""

    training: list[NDArray[np.float32]]
    """Latents, as those of an ``Example``."""
    held: list[Example]
    """Of photographs that nothing is fitted to, with their crops."""
    folder: Path
    """Where they are kept, and what else belongs to this run may be."""


def encode_crops(pack: ModelPack, images: Path, count: int, *, seed: int, threads: int | None) -> EncodedCrops:
    """Crops of the photographs in a folder, through the pack's encoder or out of the cache.

    Args:
        pack: with an encoder.
        images: the folder, searched below too.
        count: crops in all.
        seed: of what is cut.
        threads: of the engine; None: all cores.

    Raises:
        ImageError: too few pictures, or too few that can be read.
        ModelError: the pack has no encoder.
        EngineError: it cannot run.
        OutputError: the cache cannot be written.
    """
    paths = list_images(images)
    plan = CropPlan(paths, count, pack.space.downscale, seed)
    folder = _folder(pack, images, paths, count, seed)
    result = EncodedCrops([], [], folder)
    kept = 0
    for index, path in enumerate(plan.order):
        if not _recall(folder / f"{index:05}.npz", path in plan.held, plan, result):
            break
        kept = index + 1
    with Progress("prior: photographs through the encoder", len(plan.order), done=kept) as progress:
        if kept < len(plan.order):
            encoder = Engine(pack.encoder_path(), device="auto", threads=threads)
            for index, path in enumerate(plan.order[kept:], kept):
                examples = [Example(crop, to_latents(crop, pack, encoder)) for crop in plan.cut(path)]
                _keep(folder / f"{index:05}.npz", examples, path in plan.held, plan)
                _add(result, examples, path in plan.held)
                progress.reach(index + 1)
    if not result.training or not result.held:
        raise ImageError(f"{images}: too few pictures that can be read")
    return result


def _add(result: EncodedCrops, examples: list[Example], held: bool) -> None:
    if held:
        result.held.extend(examples)
    else:
        result.training.extend(example.latents for example in examples)


def _folder(pack: ModelPack, images: Path, paths: list[Path], count: int, seed: int) -> Path:
    listed = [(path.relative_to(images).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    graph = [pack.space.canonical_json(), pack.latent_distribution, pack.halo]
    settings = [_LAYOUT, CROP_PX, graph, count, seed, listed]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    return cache_root() / "prior" / pack.files[pack.encoder_path().name][:16] / key


def _keep(path: Path, examples: list[Example], held: bool, plan: CropPlan) -> None:
    """All or nothing, so that an interruption leaves no half of a file. Only held-out crops are looked at again."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for number, example in enumerate(examples):
        arrays[f"latents{number}"] = example.latents
        if held:
            arrays[f"crop{number}"] = example.crop
    state = json.dumps(plan.random.bit_generator.state)
    stream = io.BytesIO()
    # Without allow_pickle, which numpy 1 takes for an array of that name; no array here holds objects.
    np.savez(stream, **arrays, state=np.frombuffer(state.encode(), np.uint8))  # type: ignore[arg-type]
    make_folder(path.parent)
    write_atomic(path, stream.getvalue())


def _recall(path: Path, held: bool, plan: CropPlan, result: EncodedCrops) -> bool:
    """Adds what ``_keep`` kept and puts the plan's random numbers where they stood; False where nothing whole is."""
    try:
        with np.load(path, allow_pickle=False) as data:
            state = json.loads(data["state"].tobytes())
            count = sum(name.startswith("latents") for name in data.files)
            examples = [Example(data[f"crop{n}"] if held else _NO_CROP, data[f"latents{n}"]) for n in range(count)]
        plan.random.bit_generator.state = state
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return False
    _add(result, examples, held)
    return True
