"""The browser's decoder (web/), under plain node: the runtime's integers and its refusals. No engine, no browser."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests import testpack
from tests.make_conformance import CASES, FOLDER
from tests.make_container_golden import bad_files
from tests.test_diseases import DISEASES, EXPECTED
from tests.web import Answer, under_node

from sdrt.bitstream import LatentCoder
from sdrt.codec import Codec
from sdrt.coding.activity import adapted
from sdrt.coding.prior_file import load_prior, write_prior
from sdrt.coding.quantize import KEPT, quantize, step_scale
from sdrt.coding.symbols import to_channels
from sdrt.container import patches, sdl, step_map
from sdrt.container.alpha import decode_alpha, encode_alpha
from sdrt.container.patches import FEATHERS_PX, Coding, Patches, decode_patches, encode_patches, kept_lines
from sdrt.container.step_map import encode_step_map
from sdrt.errors import CorruptError, ModelError, SdrtError
from sdrt.limits import DEFAULT_MAX_SIDE_PX
from sdrt.packs.manifest import ModelPack
from sdrt.packs.search import load_pack, read_prior
from sdrt.pixels.atlas import encode_av1, encode_vp8l
from sdrt.pixels.still_streams import avif_file, read_sequence_header, vp8l_size, webp_file
from sdrt_export.prior_plan import generic_arrays

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden" / "codec"
TINY = TESTS.parent / "models" / "tiny"
WIDE = FOLDER / "wide"

ILL_SDL = {name: error.__name__ for name, (error, _) in EXPECTED.items() if name.endswith(".sdl")}
"""What the runtime says of ill files, and the browser too but for ILL_AV1."""
ILL_AV1 = "patches-av1-broken-frame.sdl"
"""Whole but for the inside of its frame, which the browser's own AV1 decoder judges: Chromium's paints it."""
ILL_STREAMS = {ILL_AV1, "patches-vp8l-cut.sdl"}
"""What only a decoder of the atlas finds, which node has not."""


def golden_files() -> dict[str, dict[str, Any]]:
    """What is expected of the golden files."""
    expected: dict[str, dict[str, Any]] = json.loads((GOLDEN / "expected.json").read_text())
    return expected


def case(sdl_file: Path | bytes, folder: Path, **more: Any) -> dict[str, Any]:
    """A file, and the prior and the space of the pack in ``folder``."""
    space = json.loads((folder / "manifest.json").read_text())["space"]
    return {
        "sdl": list(sdl_file) if isinstance(sdl_file, bytes) else str(sdl_file),
        "prior": str(folder / "prior.npz"),
        "space": space["identity"],
        "downscale": space["downscale"],
        **more,
    }


def sha256(array: NDArray[Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def outcome(data: bytes, coder: LatentCoder) -> Answer:
    """What the runtime says of a file, in the words of web/test/integers.mjs: hashes, or the error's name."""
    try:
        file = sdl.unpack(data)
        chunk = file.chunk(sdl.PATCHES)
        if chunk is not None:
            check_atlas(decode_patches(chunk, file.height_px, file.width_px), file)
        answer: Answer = {"sha256": sha256(coder.symbols(file).astype("<i4"))}
        alpha = file.chunk(sdl.ALPHA)
        if alpha is not None:
            answer["alpha"] = sha256(decode_alpha(alpha, file.height_px, file.width_px))
    except SdrtError as error:
        return {"error": type(error).__name__}
    return answer


def check_atlas(patches: Patches, file: sdl.SdlFile) -> None:
    """As far as no decoder of AV1 or VP8L is needed: the stream states the atlas's size, and is whole."""
    rows, columns = kept_lines(patches.mask, file.height_px, file.width_px)
    half = 2 if patches.halved else 1
    if patches.coding == "av1":
        header = read_sequence_header(patches.stream)
        stated = header.width_px, header.height_px
    else:
        stated = vp8l_size(patches.stream)
    if stated != (-(-len(columns) // half), -(-len(rows) // half)):
        raise CorruptError("another size")


def agree(answers: list[Answer], wanted: list[Answer]) -> None:
    for number, (answer, want) in enumerate(zip(answers, wanted, strict=True)):
        assert {key: answer.get(key) for key in ("sha256", "alpha", "error")} == {
            key: want.get(key) for key in ("sha256", "alpha", "error")
        }, f"case {number}: {answer.get('message')}"


def test_the_integers_are_the_golden_ones() -> None:
    """Every golden file, and every conformance vector with all that is computed on the way."""
    expected = golden_files()
    answers = under_node(case(GOLDEN / name, testpack.FOLDER) for name in expected)
    assert [(answer["shape"], answer["sha256"]) for answer in answers] == [
        (want["shape"], want["sha256"]) for want in expected.values()
    ]
    paths = {name: FOLDER / one.pack / name for name, one in CASES.items()}
    answers = under_node(case(p.with_suffix(".sdl"), p.parent, scans=True) for p in paths.values())
    for path, answer in zip(paths.values(), answers, strict=True):
        wanted = json.loads(path.with_suffix(".json").read_text())
        assert answer["sha256"] == sha256(np.array(wanted["symbols"], "<i4"))
        for scan, want in zip(answer["scans"], wanted["scans"], strict=True):
            assert scan == {key: want[key] for key in scan}


def test_files_are_written_again() -> None:
    """The integers of every golden file and conformance vector, encoded by the browser's encoder: the file's bytes."""
    paths = [(GOLDEN / name, testpack.FOLDER) for name in golden_files()]
    paths += [((FOLDER / one.pack / name).with_suffix(".sdl"), FOLDER / one.pack) for name, one in CASES.items()]
    answers = under_node(case(path, folder) for path, folder in paths)
    wanted = [hashlib.sha256(path.read_bytes()).hexdigest() for path, _ in paths]
    assert [answer["again"] for answer in answers] == wanted


@pytest.mark.parametrize("folder", [WIDE, FOLDER / "dense", TINY], ids=["wide", "dense", "default"])
def test_symbols_are_chosen_alike(folder: Path) -> None:
    """Of latents, under priors with and without extents, at steps that change: but for ties the runtime's symbols."""
    prior = load_prior((folder / "prior.npz").read_bytes())
    random, rows, columns = np.random.default_rng(6), 9, 7
    indices = random.integers(400, 620, (rows, columns))
    values = random.laplace(0, 1.5, (prior.channels, rows, columns)) * prior.steps[:, None, None]
    values *= np.linspace(2, 0.05, prior.channels)[prior.order.argsort(), None, None]
    latents = values.astype(np.float32)
    wanted = quantize(latents, prior, indices)
    job = {"latents": latents.ravel().tolist(), "indices": indices.ravel().tolist(), "rows": rows, "columns": columns}
    (answer,) = under_node([{**job, "prior": str(folder / "prior.npz")}])
    found = np.array(answer["symbols"]).reshape(wanted.shape)
    assert np.abs(wanted).max() > 2 and (found != wanted).mean() < 0.002


def busy_and_smooth(pack: ModelPack, rows: int, columns: int, step_index: int) -> NDArray[np.float32]:
    """Latents (C, rows, columns) whose activity wanders from cell to cell. Some just count as symbols that are not 0,
    some just do not."""
    prior, random = load_prior(read_prior(pack)), np.random.default_rng(step_index)
    side = step_map.cells(1, 1, pack.space.downscale)[2]
    busy = np.exp2(random.uniform(-4, 2, (-(-rows // side), -(-columns // side))))
    spread = np.repeat(np.repeat(busy, side, 0), side, 1)[:rows, :columns]
    scale, steps = np.float32(step_scale(step_index)), prior.steps[:, None, None]
    latents = np.asarray(random.laplace(0, 1, (prior.channels, rows, columns)) * spread * steps * scale, np.float32)
    bounds = KEPT * scale * steps
    kind = random.random(latents.shape)
    latents = np.where(kind < 0.02, -bounds, latents)
    return np.where(kind > 0.98, np.nextafter(bounds, np.float32(np.inf)), latents)


@pytest.mark.parametrize("folder", [TINY, WIDE], ids=["default", "wide"])
def test_step_maps_are_the_runtimes(folder: Path) -> None:
    """Of the same latents at the same step, cells that the grid cuts included: the same bytes. Files that hold them are
    read alike, and their symbols are those that the runtime chooses at these steps, but for ties."""
    pack = load_pack(folder)
    coder, downscale, jobs, wanted = LatentCoder(pack), pack.space.downscale, [], []
    side = step_map.cells(1, 1, downscale)[2]
    for step_index in range(pack.quality_range[1], pack.quality_range[0] + 1, 47):
        rows, columns = 2 * side + 1 + step_index % side, 5 * side - step_index % side
        latents = busy_and_smooth(pack, rows, columns, step_index)
        wanted.append((latents, adapted(latents, coder.prior.steps, downscale, step_index)))
        jobs.append(writing(pack, latents, step_index))
    answers = [bytes(answer["file"]) for answer in under_node(jobs)]
    for data, (latents, offsets) in zip(answers, wanted, strict=True):
        file = sdl.unpack(data)
        assert offsets is not None and len(np.unique(offsets)) > 3
        assert file.chunk(sdl.STEP_MAP) == encode_step_map(offsets)
        chosen = to_channels(quantize(latents, coder.prior, coder.step_indices(file)), coder.prior)
        assert (coder.symbols(file) != chosen).mean() < 0.002
    agree(under_node(case(data, folder) for data in answers), [outcome(data, coder) for data in answers])


def test_who_gets_a_step_map() -> None:
    """As in the runtime: no pack whose decoder is not told the step, no picture of one kind, none too small for it."""
    pack, step_index = load_pack(WIDE), 512
    latents = busy_and_smooth(pack, 24, 40, step_index)
    steps = load_prior(read_prior(pack)).steps
    even = np.broadcast_to(3 * steps[:, None, None], latents.shape).astype(np.float32)
    few = [(even, True), (np.zeros_like(even), True), (latents[:, :9, :9], True)]
    assert all(adapted(one, steps, pack.space.downscale, step_index) is None for one, _ in few)
    jobs = [writing(pack, one, step_index, told=told) for one, told in [*few, (latents, False), (latents, True)]]
    files = [sdl.unpack(bytes(answer["file"])) for answer in under_node(jobs)]
    assert [file.chunk(sdl.STEP_MAP) is not None for file in files] == [False, False, False, False, True]


def writing(pack: ModelPack, latents: NDArray[np.float32], step_index: int, *, told: bool = True) -> dict[str, Any]:
    """The job of writing a file of these latents."""
    rows, columns = latents.shape[1:]
    space = {"space": pack.space.identity.hex(), "downscale": pack.space.downscale}
    job = {"latents": latents.ravel().tolist(), "rows": rows, "columns": columns, "told": told, "step": step_index}
    return {**job, **space, "prior": str(pack.folder / "prior.npz")}


def test_a_photograph_in_the_default_pack(photo: NDArray[np.uint8]) -> None:
    """The pack that is shipped, whatever it is by now: the runtime's integers, with alpha of every coding."""
    codec, coder = Codec(TINY, device="cpu", threads=1), LatentCoder(load_pack(TINY))
    soft = np.linspace(0, 255, photo.shape[0] * photo.shape[1]).reshape(photo.shape[:2]).astype(np.uint8)
    hard = np.where(np.hypot(*np.mgrid[-48:49, -80:81]) < 40, 255, 0).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, soft.shape).astype(np.uint8)
    half = np.where(hard > 0, np.uint8(200), np.uint8(0))
    plain = sdl.unpack(codec.encode(photo))
    planes = [encode_alpha(plane, max_error=error) for plane in (soft, hard, noise, half) for error in (0, 8)]
    assert {plane[0] for plane in planes} == {1, 2, 3}
    files = [sdl.pack(replace(plain, chunks=(sdl.Chunk(sdl.ALPHA, plane),))) for plane in planes]
    files.append(codec.encode(photo, target_bytes=200))
    agree(under_node(case(file, TINY) for file in files), [outcome(file, coder) for file in files])


def test_ill_files_get_the_same_names() -> None:
    """Every golden error of the container and every ill file beyond it: the runtime's error, one line of words."""
    errors = {name: leaf for name, (leaf, _) in bad_files().items()}
    ill = {name: error for name, error in ILL_SDL.items() if name not in ILL_STREAMS}
    answers = under_node({"sdl": str(TESTS / "golden" / "errors" / f"{name}.sdl")} for name in errors)
    answers += under_node(case(DISEASES / name, testpack.FOLDER) for name in ill)
    assert [answer.get("error") for answer in answers] == [*errors.values(), *ill.values()]
    assert all(answer["message"] and "\n" not in answer["message"] for answer in answers)


def test_patches_are_read_alike(photo: NDArray[np.uint8]) -> None:
    """Masks and feathers of every kind, and the file around each stream byte for byte: those of the runtime."""
    plain = sdl.unpack((GOLDEN / "161x97-high.sdl").read_bytes())
    rng = np.random.default_rng(4)
    shape = patches.cells(97, 161)
    masks = [np.ones(shape, np.bool_)] + [rng.random(shape) < share for share in (0.02, 0.5, 0.97)]
    wanted, files = [], list[bytes]()
    for number, mask in enumerate(masks):
        mask[3, 4] = True
        rows, columns = kept_lines(mask, 97, 161)
        atlas = photo[np.ix_(rows, columns)]
        halved = number == 2
        stored = atlas[::2, ::2] if halved else atlas
        feather_px = 0 if mask.all() else FEATHERS_PX[number]
        streams: list[tuple[Coding, bytes]] = [("vp8l", encode_vp8l(stored))]
        for subsampling in ("4:4:4", "4:2:0"):
            streams.append(("av1", encode_av1(stored, 50, speed=9, subsampling=subsampling)))
        for coding, stream in streams:
            chunk = sdl.Chunk(sdl.PATCHES, encode_patches(Patches(mask, feather_px, coding, stream, halved)))
            files.append(sdl.pack(replace(plain, chunks=(chunk,))))
            boxed = avif_file(stream) if coding == "av1" else webp_file(stream)
            found = {"mask": mask.ravel().astype(int).tolist(), "featherPx": feather_px}
            wanted.append({**found, "atlas": hashlib.sha256(boxed).hexdigest()})
    assert [answer["patches"] for answer in under_node(case(file, testpack.FOLDER) for file in files)] == wanted


def test_the_limit_of_a_side_holds() -> None:
    """65,535 pixels: of a thin picture all cells are computed whole."""
    thin = replace(sdl.unpack((GOLDEN / "1x1.sdl").read_bytes()), height_px=DEFAULT_MAX_SIDE_PX)
    sides = [DEFAULT_MAX_SIDE_PX, DEFAULT_MAX_SIDE_PX + 1]
    answers = under_node({"sdl": list(sdl.pack(replace(thin, height_px=side)))} for side in sides)
    assert answers[0]["height"] == DEFAULT_MAX_SIDE_PX and answers[1]["error"] == "LimitError"


@pytest.mark.parametrize("folder", [testpack.FOLDER, WIDE], ids=["testpack", "wide"])
def test_altered_files_end_alike(folder: Path) -> None:
    """Payload, map, alpha, patches cut, altered and made up, under a right checksum: the same integers or errors."""
    random = np.random.default_rng(1)
    healthy = [*GOLDEN.glob("161x97-[almp]*.sdl")] if folder == testpack.FOLDER else [WIDE / "wide-map.sdl"]
    files = []
    for path in sorted(healthy):
        parsed = sdl.unpack(path.read_bytes())
        for _ in range(12):
            files.append(sdl.pack(replace(parsed, payload=altered(parsed.payload, random))))
            chunks = tuple(replace(chunk, data=altered(chunk.data, random)) for chunk in parsed.chunks)
            files.append(sdl.pack(replace(parsed, chunks=chunks)))
    wanted = [outcome(file, LatentCoder(load_pack(folder))) for file in files]
    assert {None, "CorruptError"} <= {want.get("error") for want in wanted}
    agree(under_node(case(file, folder) for file in files), wanted)


def altered(data: bytes, random: np.random.Generator) -> bytes:
    """``data`` cut short, longer, with a byte changed, or other bytes altogether."""
    at = int(random.integers(len(data) + 1))
    return [
        data[:at],
        data + random.bytes(2),
        data[:at] + random.bytes(1) + data[at + 1 :],
        data[:-1],
        random.bytes(len(data)),
    ][int(random.integers(5))]


def test_priors_are_refused_alike(tmp_path: Path) -> None:
    """Priors that break a rule, and archives that are damaged: ModelError in both, or read in both."""
    random, good = np.random.default_rng(2), write_prior(generic_arrays(3))
    priors = [good, good + b"\0", good[:-1], b"", zip_of(generic_arrays(3), zipfile.ZIP_STORED)]
    for key, value in {
        "format": np.array(3, "<u2"),
        "steps": np.array([1, np.nan, 1], "<f4"),
        "order": np.array([0, 1, 1], np.uint8),
        "extents": np.array([3, 2], "<i2"),
        "near": np.array(4, "<i2"),
        "thresholds": np.array([9, 9], "<u2"),
        "weights": np.zeros(3, np.int8),
        "shift": generic_arrays(3)["shift"].astype("<u2"),
        "global_weights": np.full_like(generic_arrays(3)["global_weights"], 2**31 - 1),
        "decisions": np.array(101, "<f4"),
    }.items():
        priors.append(zip_of({**generic_arrays(3), key: value}))
    for _ in range(60):
        at = int(random.integers(len(good)))
        priors.append(good[:at] + random.bytes(1) + good[at + 1 :])
    file = sdl.pack(sdl.SdlFile(8, 8, bytes(4), bytes(4), 512, b""))
    cases, readable = [], []
    for number, prior in enumerate(priors):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(prior)
        identity = hashlib.sha256(prior).digest()[:4]
        file = sdl.pack(sdl.SdlFile(8, 8, bytes(4), identity, 512, b""))
        cases.append({"sdl": list(file), "prior": str(path), "space": "00000000", "downscale": 8})
        try:
            load_prior(prior)
            readable.append(True)
        except ModelError:
            readable.append(False)
    assert [answer.get("error") != "ModelError" for answer in under_node(cases)] == readable
    assert readable[0] and readable[4] and readable.count(False) > 30


def zip_of(arrays: Mapping[str, NDArray[Any]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive of arrays that nobody has checked."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for key, value in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, value, version=(1, 0), allow_pickle=False)
            archive.writestr(f"{key}.npy", member.getvalue())
    return buffer.getvalue()
