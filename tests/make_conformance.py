"""Writes tests/conformance, what any decoder of .sdl files can be held against: ``python -m tests.make_conformance``.

Two packs. *wide* has every kind of scan of docs/PRIOR.md: extents in front, near channels on lattices of stride 4 and
2, bands behind them, the last one cut, own neighbors; its decoder is told the quality level. *dense* codes all
channels at all positions. Their networks are random and as heavy as a prior may be, so that every clip clips.

``NAME.json`` beside ``NAME.sdl`` has the integers on the way: for each scan its positions, means in eighths of a
symbol, scales in 1/256, tables and symbols, position by position, channels innermost. They are what tests/reference.py
finds.
``coder.json`` has the quality input of every step index, and where the range coder's intervals of some tables begin.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests import reference, testpack
from tests.prior_samples import heavy_arrays, laplace, plan

from sdrt.codec import Codec
from sdrt.coding import payload
from sdrt.coding.prior import Grid
from sdrt.coding.prior_file import build_prior, write_prior
from sdrt.coding.symbols import to_channels
from sdrt.container import sdl
from sdrt.container.step_map import Offsets, cells, encode_step_map, spread
from sdrt.packs.manifest import LatentSpace
from sdrt_export.pack_writer import write_pack
from sdrt_export.prior_plan import TAPS, Plan, ScanPlan

FOLDER = Path(__file__).parent / "conformance"
CELL = testpack.CELL
CHANNELS = 20
EXTENTS = (2, 5, 13, CHANNELS)
TABLES = (0, 3, 44, 101)
"""Tables whose intervals are written down."""

_LATTICE = (
    (Grid(0, 0, 4),),
    (Grid(2, 2, 4),),
    (Grid(0, 2, 4), Grid(2, 0, 4)),
    (Grid(1, 1, 2),),
    (Grid(0, 1, 2), Grid(1, 0, 2)),
)
_BESIDE = tuple(tap for tap in TAPS if tap != (0, 0))
_FAR = ((-2, 0), (0, -2), (0, 2), (2, 0))


def wide_plan() -> Plan:
    """The extents at once, near channels on a lattice, wide ones on a checkerboard."""
    checkerboard = plan(CHANNELS, 6, EXTENTS, (0, 1, 3, 6, 14, 1 + CHANNELS), hidden=6)
    near = [
        ScanPlan(start, stop, grids, _FAR if grids[0].stride == 4 else _BESIDE, 6 + start)
        for start, stop in pairwise((1, 3, 6))
        for grids in _LATTICE
    ]
    first = ScanPlan(0, 1, (Grid(0, 0, 1),), (), 5)
    return Plan(CHANNELS, 6, EXTENTS, (first, *near, *(scan for scan in checkerboard.scans if scan.start >= 6)))


@dataclass(frozen=True)
class Case:
    """A picture of random symbols: its size, how widely they spread, and the step index, with a map or without."""

    pack: str
    width_px: int
    height_px: int
    spread: float
    step_index: int
    mapped: bool = False
    alpha: bytes = b""


CASES = {
    "wide": Case("wide", 75, 60, 2.0, 512),
    "wide-map": Case("wide", 70, 140, 0.7, 600, mapped=True),
    "wide-escapes": Case("wide", 30, 22, 1e5, 0),
    "wide-silent": Case("wide", 9, 33, 0, 1023),
    "dense": Case("dense", 50, 61, 2.0, 437),
    "dense-one": Case("dense", 1, 1, 3.0, 512, alpha=b"\0\x80"),
}


def write_wide(folder: Path) -> None:
    random = np.random.default_rng(11)
    cell = random.normal(scale=0.08, size=(3 * CELL * CELL, CHANNELS + 1, 1, 1)).astype(np.float32)
    decoder = testpack.graph(
        "decoder",
        "latent_sample",
        "sample",
        (CHANNELS + 1, 3),
        [("shuffle", cell), ("conv", testpack.near_identity(3, 0.05, 12))],
    )
    arrays = {**heavy_arrays(wide_plan(), seed=4), "steps": np.linspace(0.2, 0.6, CHANNELS).astype("<f4")}
    write_pack(
        folder,
        name="conformance-wide",
        space=LatentSpace("sdrt-conformance-wide", CHANNELS, CELL, 2.0, 0.125),
        files={"decoder.onnx": decoder, "prior.npz": write_prior(arrays)},
        halo={"encoder_px": 1, "decoder_latents": 1},
        quality_input=True,
        license="CC0-1.0",
    )


def write_dense(folder: Path) -> None:
    write_pack(
        folder,
        name="conformance-dense",
        space=LatentSpace("sdrt-conformance-dense", 8, CELL, 1.0, 0.0),
        files={"prior.npz": write_prior(heavy_arrays(plan(8, 8, (), (0, 4, 8), hidden=10), seed=5))},
        license="CC0-1.0",
    )


def offsets_of(case: Case, rows: int, columns: int) -> Offsets | None:
    if not case.mapped:
        return None
    shape = cells(rows, columns, CELL)[:2]
    return (np.arange(shape[0] * shape[1]) * 4 % 15 - 7).astype(np.int8).reshape(shape)


def write_case(folder: Path, name: str, case: Case) -> None:
    """``NAME.sdl`` and ``NAME.json``."""
    arrays = prior_arrays(folder)
    prior, manifest = build_prior(arrays), json.loads((folder / "manifest.json").read_text())
    rows, columns = -(-case.height_px // CELL), -(-case.width_px // CELL)
    coded = laplace((rows, columns), prior, case.spread, seed=len(name))
    offsets = offsets_of(case, rows, columns)
    indices = spread(offsets, case.step_index, rows, columns, CELL)
    chunks = [] if offsets is None else [sdl.Chunk(sdl.STEP_MAP, encode_step_map(offsets))]
    if case.alpha:
        chunks.append(sdl.Chunk(sdl.ALPHA, case.alpha))
    file = sdl.SdlFile(
        width_px=case.width_px,
        height_px=case.height_px,
        space_identity=bytes.fromhex(manifest["space"]["identity"]),
        prior_identity=bytes.fromhex(manifest["files"]["prior.npz"]["sha256"])[:4],
        step_index=case.step_index,
        payload=payload.encode(coded, prior, indices),
        chunks=tuple(chunks),
    )
    (folder / f"{name}.sdl").write_bytes(sdl.pack(file))
    symbols = to_channels(coded, prior)
    write_json(
        folder / f"{name}.json",
        {"shape": list(symbols.shape), "step_indices": indices.ravel().tolist(), "symbols": symbols.ravel().tolist()},
        [
            scan_of(arrays, coded, *found)
            for found in zip(
                reference.scans_of(arrays), reference.predictions(arrays, coded.astype(np.int64), indices), strict=True
            )
        ],
    )


def scan_of(
    arrays: reference.Arrays,
    coded: NDArray[np.int32],
    scan: reference.Scan,
    prediction: tuple[list[reference.Place], reference.Int64, reference.Int64],
) -> dict[str, Any]:
    """The integers of one scan."""
    tables = reference.Tables(arrays)
    places, means, scales = prediction
    flat_means, flat_scales = means.ravel().tolist(), scales.ravel().tolist()
    fractions = [e - 8 * (e + 4 >> 3) for e in flat_means]
    return {
        "start": scan.start,
        "stop": scan.stop,
        "positions": [[int(y), int(x)] for y, x in places],
        "means": flat_means,
        "scales": flat_scales,
        "tables": [tables.table(scale, fraction) for scale, fraction in zip(flat_scales, fractions, strict=True)],
        "symbols": [int(s) for place in places for s in coded[place][scan.start : scan.stop]],
    }


def prior_arrays(folder: Path) -> reference.Arrays:
    """The arrays of the folder's prior, as numpy reads them."""
    with np.load(folder / "prior.npz") as archive:
        return {key: archive[key] for key in archive.files}


def write_json(path: Path, fields: Mapping[str, Any], scans: list[dict[str, Any]]) -> None:
    """One line for each field and each scan."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in fields.items()]
    rows = ",\n".join(json.dumps(scan, separators=(",", ":")) for scan in scans)
    path.write_text("{\n" + ",\n".join(lines) + ',\n"scans": [\n' + rows + "\n]\n}\n")


def write_coder(folder: Path) -> None:
    starts = reference.Tables(prior_arrays(folder)).starts
    lines = [f"{json.dumps(str(table))}: {json.dumps(starts[table], separators=(',', ':'))}" for table in TABLES]
    inverse = json.dumps([reference.inverse_step(index) for index in range(1024)], separators=(",", ":"))
    (folder / "coder.json").write_text(
        '{\n"inverse_step": ' + inverse + ',\n"starts": {\n' + ",\n".join(lines) + "\n}\n}\n"
    )


def write(folder: Path = FOLDER) -> None:
    """Write all of them anew, the painted pictures of *wide* included."""
    write_wide(folder / "wide")
    write_dense(folder / "dense")
    for name, case in CASES.items():
        write_case(folder / case.pack, name, case)
        if case.pack == "wide":
            path = folder / "wide" / f"{name}.sdl"
            Codec(folder / "wide", device="cpu").decode(path).save(path.with_suffix(".png"), optimize=True)
    write_coder(folder / "wide")


if __name__ == "__main__":
    write()
