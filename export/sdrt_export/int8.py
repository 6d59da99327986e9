"""8-bit graphs for a pack, calibrated on photographs: ``python -m sdrt_export int8 PACK --images FOLDER``.

Needs no checkpoint: the pack's own w16 or fp32 graphs are what is quantized. Layers are left in float by a rule that
measures: first the most harmful ones for their arithmetic, as long as they hold at most a small share of it
(FREE_SHARE); then more of them until the pictures of the calibration hold, and the pack's finest files too. A graph is
kept only if other photographs hold as well.
"""

from __future__ import annotations

import argparse
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sdrt.atomic import write_atomic
from sdrt.coding.prior import Prior
from sdrt.coding.prior_file import load_prior
from sdrt.coding.quantize import dequantize, quantize
from sdrt.errors import ImageError, ModelError, OutputError
from sdrt.network.transform import quality_level
from sdrt.packs.manifest import PRIOR, ModelPack, graph_file_name
from sdrt.packs.search import load_pack, read_prior, read_verified
from sdrt.pixels.tensors import to_sample
from sdrt_export.int8_graph import quantize_graph
from sdrt_export.int8_scales import Calibration, calibrate
from sdrt_export.likeness import Likeness, compare, psnr_db
from sdrt_export.pack_writer import update_manifest
from sdrt_export.photographs import crops, list_images, spread
from sdrt_export.pixel_output import gives_pixels, set_output, without_pixels
from sdrt_export.precision import widen
from sdrt_export.session import open_session

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Picture = Callable[[Floats], Floats]
"""An output of a half -> a sample (1, 3, H, W)."""

MIN_PSNR_DB = 40.0
"""Between the pictures of the int8 and the float graph."""
MAX_LPIPS = 0.005
MAX_LOST_DB = 0.05
"""Mean PSNR to the photographs that one half in int8 may cost a file of the pack's finest step, where the codec itself
loses least. Both halves together: .1 dB."""
FREE_SHARE = {"encoder": 0.2, "decoder": 0.05}
"""Share of a half's multiplications that may stay float even if the bounds hold without. An encoder runs once a picture
and what it loses is lost in every file; its share of models/tiny brings LPIPS between the two pictures from .0034 to
.0001 for a quarter more of the encoder's time."""
MAX_SHARE = 0.5
"""A graph that is more than half float saves too little to be worth a second file."""

MARGIN_DB, MARGIN_LPIPS, MARGIN_LOST = 1.5, 0.5, 0.1
"""Margin to the bounds during calibration: other photographs lose more, smooth ones ten times as much as rough ones."""

_CROPS, _SEEN, _JUDGED = 96, 12, 8
_LOOK_PX = 256


@dataclass(frozen=True)
class Outcome:
    """What became of one half."""

    file: str
    kept: bool
    """False: the picture does not hold, and the file was not written."""
    bytes: int
    likeness: Likeness
    """Of pictures through the int8 graph to pictures through the float one, on photographs kept apart."""
    lost_db: float
    """See MAX_LOST_DB, on the same photographs."""
    photographs: int
    """How many crops that was."""
    convolutions: int
    left_in_float: tuple[str, ...]
    float_share: float
    """Of the multiplications in convolutions."""


def add_int8(pack: ModelPack, photographs: Path) -> list[Outcome]:
    """Writes ``encoder.int8.onnx`` and ``decoder.int8.onnx`` where they hold, and the figures into the manifest.

    A graph that does not hold is not written, and an older one of its name goes. Raises ImageError if there are too
    few photographs, ModelError if a graph is altered or has no convolutions, OutputError if the pack cannot be written.
    """
    originals = {half: _original(pack, half) for half in ("encoder", "decoder")}
    graphs = {half: widen(without_pixels(original)) for half, original in originals.items()}
    encode, paint = (open_session(graphs[half]) for half in ("encoder", "decoder"))

    def painted(latents: Floats) -> Floats:
        picture: Floats = paint.run(None, {"latent_sample": latents})[0]
        return picture

    def uncoded(raw: Floats) -> Floats:
        return painted(_with_level(pack, raw[:, : pack.space.channels], pack.default_step))

    def coded(raw: Floats) -> Floats:
        return painted(_coded(pack, prior, raw, finest))

    def same(picture: Floats) -> Floats:
        return picture

    prior = load_prior(read_prior(pack)) if PRIOR in pack.files else None
    cell, finest = pack.space.downscale, min(pack.quality_range)
    encoder, decoder = _Half(graphs["encoder"], uncoded, coded), _Half(graphs["decoder"], same, same)
    encoders, decoders = [], []
    for crops_apart in _photographs(photographs, cell):
        samples = [to_sample(crop, cell) for crop in crops_apart]
        raw = [encode.run(None, {"sample": sample})[0] for sample in samples]
        steps = _step_indices(pack, len(samples))
        latents = [_coded(pack, prior, each, step_index) for each, step_index in zip(raw, steps, strict=True)]
        fine = [_coded(pack, prior, each, finest) for each in raw]
        encoders.append(_Judge(encoder, samples, samples, samples))
        decoders.append(_Judge(decoder, latents, fine, samples))
    outcomes = [
        _convert(pack.folder / graph_file_name("encoder", "int8"), FREE_SHARE["encoder"], *encoders),
        _convert(pack.folder / graph_file_name("decoder", "int8"), FREE_SHARE["decoder"], *decoders),
    ]
    update_manifest(pack.folder, int8=report(outcomes))
    if gives_pixels(originals["decoder"]):
        set_output(load_pack(pack.folder), "uint8")
    return outcomes


def report(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures in the form in which the manifest keeps them."""
    return {
        "bounds": {"psnr_db": MIN_PSNR_DB, "lpips": MAX_LPIPS, "lost_db": MAX_LOST_DB},
        "graphs": [asdict(outcome) for outcome in outcomes],
    }


@dataclass(frozen=True)
class _Verdict:
    likeness: Likeness
    lost_db: float

    def holds(self, *, on_others: bool = False) -> bool:
        """Within the bounds; ``on_others``: by such a margin that other photographs will be too."""
        more_db, of_lpips, of_lost = (MARGIN_DB, MARGIN_LPIPS, MARGIN_LOST) if on_others else (0.0, 1.0, 1.0)
        return (
            self.likeness.psnr_db >= MIN_PSNR_DB + more_db
            and (self.likeness.lpips is None or self.likeness.lpips <= MAX_LPIPS * of_lpips)
            and self.lost_db <= MAX_LOST_DB * of_lost
        )


@dataclass(frozen=True, eq=False)
class _Half:
    """One half of a pack in float, and what its outputs look like in the end."""

    graph: onnx.ModelProto
    picture_of: Picture
    coded_picture_of: Picture
    """After coding at the finest step."""


class _Judge:
    """Compares graphs with the float one that they were made from, on some photographs.

    Args:
        half: The float graph.
        inputs: What its pictures are judged on.
        finest: What files of the finest step are judged on: inputs too.
        photographs: What ``finest`` show, samples (1, 3, H, W).
    """

    def __init__(
        self, half: _Half, inputs: Sequence[Floats], finest: Sequence[Floats], photographs: Sequence[Floats]
    ) -> None:
        self.half, self.inputs = half, inputs
        self._finest, self._photographs = finest, photographs
        session = open_session(half.graph)
        self._before = self._pictures(session)
        self._before_db = self._psnr_db(session)

    def __call__(self, model: onnx.ModelProto) -> _Verdict:
        session = open_session(model)
        likeness = compare(self._pictures(session), self._before)
        return _Verdict(likeness, round(self._before_db - self._psnr_db(session), 4))

    def _pictures(self, session: Any) -> list[Floats]:
        return [self.half.picture_of(_run(session, array)) for array in self.inputs]

    def _psnr_db(self, session: Any) -> float:
        """Of files of the finest step to the photographs, the mean."""
        pictures = (self.half.coded_picture_of(_run(session, array)) for array in self._finest)
        return float(np.mean([psnr_db(*pair) for pair in zip(pictures, self._photographs, strict=True)]))


def _run(session: Any, array: Floats) -> Floats:
    output: Floats = session.run(None, {session.get_inputs()[0].name: array})[0]
    return output


def _convert(path: Path, free_share: float, seen: _Judge, apart: _Judge) -> Outcome:
    """``seen``: what the graph is calibrated with; ``apart``: what decides whether it is kept."""
    graph = seen.half.graph
    calibration = calibrate(graph, seen.inputs)
    if not calibration.layers:
        raise ModelError(f"there is no convolution to compute in int8 for {path}")
    converted, floats, share = _choose(graph, calibration, free_share, lambda model: seen(model).holds(on_others=True))
    verdict = apart(converted)
    data = converted.SerializeToString(deterministic=True)
    try:
        if verdict.holds():
            write_atomic(path, data)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
    return Outcome(
        file=path.name,
        kept=path.exists(),
        bytes=len(data),
        likeness=verdict.likeness,
        lost_db=verdict.lost_db,
        photographs=len(apart.inputs),
        convolutions=len(calibration.layers),
        left_in_float=tuple(floats),
        float_share=round(share, 4),
    )


def _choose(
    graph: onnx.ModelProto, calibration: Calibration, free_share: float, holds: Callable[[onnx.ModelProto], bool]
) -> tuple[onnx.ModelProto, list[str], float]:
    """The quantized graph, the convolutions that stay float, and their share of the multiplications."""
    order = calibration.harmful_first()
    work = np.array([layer.work for layer in order])
    shares = np.append(0, np.cumsum(work) / work.sum())
    fewest, limit = (int((shares[: len(order)] <= share).sum()) - 1 for share in (free_share, MAX_SHARE))

    def converted(count: int) -> onnx.ModelProto:
        return quantize_graph(graph, calibration.scales, [layer.output for layer in order[count:]])

    count = fewest
    if not holds(converted(fewest)):
        # More float is closer, so bisection finds the smallest count that holds; if none does, the largest is judged.
        counts = range(min(fewest + 1, limit), limit)
        count = counts.start + bisect_left(counts, True, key=lambda count: holds(converted(count)))
    return converted(count), [layer.output for layer in order[:count]], float(shares[count])


def _original(pack: ModelPack, half: str) -> onnx.ModelProto:
    names = [graph_file_name(half, precision) for precision in ("fp32", "w16")]
    name = next((name for name in names if name in pack.files), None)
    if name is None:
        raise ModelError(f"{pack.folder} has neither {' nor '.join(names)}: int8 is made and judged with both halves")
    return onnx.load_model_from_string(read_verified(pack, name))


def _photographs(folder: Path, cell_px: int) -> tuple[list[Pixels], list[Pixels]]:
    """Crops to calibrate with, and crops of other photographs to judge by."""
    shown = crops(list_images(folder), _CROPS, cell_px, seed=0)
    side_px = max(cell_px, _LOOK_PX // cell_px * cell_px)
    cut = [(held, np.ascontiguousarray(crop[:side_px, :side_px])) for held, crop in shown]
    groups = [[crop for held, crop in cut if held is apart] for apart in (False, True)]
    if not all(groups):
        raise ImageError(f"{folder}: too few readable photographs to keep some apart")
    return spread(groups[0], _SEEN), spread(groups[1], _JUDGED)


def _step_indices(pack: ModelPack, count: int) -> list[int]:
    """From the finest to the coarsest that the pack is made for: coarse steps leave the decoder the most to paint, and
    that is where 8 bits show first."""
    coarse, fine = max(pack.quality_range), min(pack.quality_range)
    return [round(index) for index in np.linspace(fine, coarse, count)]


def _coded(pack: ModelPack, prior: Prior | None, raw: Floats, step_index: int) -> Floats:
    """The decoder's input: latents (1, C, h, w), quantized as by the codec if the pack has a prior."""
    latents = raw[:, : pack.space.channels]
    if prior is not None:
        scale, shift = np.float32(pack.space.scale), np.float32(pack.space.shift)
        at = np.full(latents.shape[2:], step_index)
        coded = quantize((latents[0] - shift) * scale, prior, at)
        latents = np.asarray(dequantize(coded, prior, at)[None] / scale + shift, np.float32)
    return _with_level(pack, latents, step_index)


def _with_level(pack: ModelPack, latents: Floats, step_index: int) -> Floats:
    """Latents (1, C, h, w), and behind them the level of a step where the pack's decoder takes one."""
    rows, columns = latents.shape[2:]
    level = quality_level(pack, rows, columns, np.full((rows, columns), step_index))
    return np.concatenate([latents] if level is None else [latents, level[None]], axis=1)


def main(arguments: Sequence[str]) -> int:
    """``python -m sdrt_export int8``: 0 if both halves hold, 1 if one was refused."""
    parser = argparse.ArgumentParser(prog="python -m sdrt_export int8", description=__doc__)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="photographs, 16 or more")
    options = parser.parse_args(arguments)
    outcomes = add_int8(load_pack(options.pack), options.images)
    for outcome in outcomes:
        shown = outcome.likeness
        lpips = "not measured" if shown.lpips is None else f"{shown.lpips:.4f}"
        print(
            f"{outcome.file}: {'kept' if outcome.kept else 'REFUSED'}, {outcome.bytes / 1e6:.2f} MB; "
            f"on {outcome.photographs} photographs PSNR {shown.psnr_db:.2f} dB (worst {shown.worst_psnr_db:.2f}, "
            f"at least {MIN_PSNR_DB:g}), LPIPS {lpips} (at most {MAX_LPIPS:g}), "
            f"largest difference {shown.max_abs:.1f} of 255; finest files lose {outcome.lost_db:.3f} dB (at most "
            f"{MAX_LOST_DB:g}); {len(outcome.left_in_float)} of {outcome.convolutions} "
            f"convolutions in float ({outcome.float_share:.1%} of the multiplications)"
        )
    return 0 if all(outcome.kept for outcome in outcomes) else 1
