"""The truth map: its chunk returns, its bounds hold on every device, and hostile maps are refused when asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests import reference_truth
from tests.command import one_line

import sdrt
from sdrt.codec import Codec
from sdrt.command import cli
from sdrt.container import sdl
from sdrt.container.truth_map import CELL_PX, Truth, decode_truth_map, encode_truth_map, max_bytes, shares
from sdrt.errors import ArgumentError, CorruptError, EngineError, LimitError
from sdrt.options import EncodeOptions
from sdrt.packs.manifest import ModelPack
from sdrt.pixels import structure
from sdrt.pixels.truth_overlay import overlay

Pixels = NDArray[np.uint8]
PHOTOS = Path(__file__).parents[1] / "bench" / "photos"
DISEASES = Path(__file__).parent / "diseases"


def part_of(name: str, left: int, top: int, side: int = 192) -> Pixels:
    with Image.open(PHOTOS / f"{name}.webp") as image:
        return np.asarray(image.convert("RGB"))[top : top + side, left : left + side]


def test_maps_return() -> None:
    """Every map comes back, and a decoder written from docs/FORMAT.md reads the same; all kept is no byte at all."""
    random = np.random.default_rng(0)
    for rows in range(1, 7):
        for columns in range(1, 7):
            classes = random.integers(0, 3, (rows, columns)).tolist()
            data = encode_truth_map(classes)
            assert decode_truth_map(data, rows * CELL_PX, columns * CELL_PX - 31) == classes
            assert reference_truth.decode_map(data, rows, columns) == classes
    assert encode_truth_map([[0] * 40] * 30) == b""
    assert decode_truth_map(b"", 65, 33) == [[0, 0]] * 3


def test_altered_maps_are_refused_or_are_other_maps() -> None:
    """Cut, continued, altered and made-up data: CorruptError, or the very data of another map."""
    random = np.random.default_rng(1)
    refused = total = 0
    for _ in range(40):
        data = encode_truth_map(random.integers(0, 3, (6, 7)).tolist())
        with pytest.raises(CorruptError, match="truth map"):
            decode_truth_map(data + b"\0", 192, 224)
        for altered in (data[:-1], random.bytes(len(data)), random.bytes(3)):
            total += 1
            try:
                found = decode_truth_map(altered, 192, 224)
            except CorruptError:
                refused += 1
                continue
            assert encode_truth_map(found) == altered
    assert refused > total // 2


def test_the_measure_is_that_of_the_page() -> None:
    """The formulas of docs/TRUTH.md, written again pixel by pixel, give the same numbers, cut cells included."""
    random = np.random.default_rng(2)
    before = random.integers(0, 256, (41, 37, 3)).astype(np.uint8)
    after = np.clip(before + random.normal(0, 25, before.shape), 0, 255).astype(np.uint8)
    found = structure.compare(before, after, CELL_PX)
    contrast, error = reference_truth.measure(before, after)
    np.testing.assert_allclose(found.contrast, contrast, atol=2e-3)
    np.testing.assert_allclose(found.error, error, atol=2e-3)
    tall = np.tile(before, (20, 1, 1))
    same = structure.compare(tall, tall, CELL_PX)
    assert same.error.max() == 0 and same.contrast.shape == (26, 2)


def test_what_each_class_means() -> None:
    """The picture itself and one that is brighter are kept, a shifted texture is not, and noise is invented."""
    rgb = part_of("mechanics", 100, 100)
    brighter = np.clip(rgb.astype(int) + 5, 0, 255).astype(np.uint8)
    noise = np.random.default_rng(3).integers(0, 256, rgb.shape).astype(np.uint8)

    def mean(painted: Pixels) -> float:
        return float(structure.classes(structure.compare(rgb, painted, CELL_PX), margin=0).mean())

    assert mean(rgb) == mean(brighter) == 0
    assert mean(np.roll(rgb, 1, 1)) < mean(np.roll(rgb, 4, 1)) <= mean(noise) == 2


@pytest.fixture(scope="module")
def told() -> list[tuple[Pixels, bytes]]:
    """Pictures and their files by the default pack, with maps."""
    codec = Codec(device="cpu", threads=1)
    pictures = [part_of("astronaut", 130, 40), part_of("coffee", 60, 40), part_of("manhattan", 300, 200)]
    return [(rgb, codec.encode(rgb, target_bpp=0.25, truth=True)) for rgb in pictures]


@pytest.mark.parametrize(
    ("device", "precision"),
    [("cpu", "int8"), ("cpu", "w16"), ("openvino", "int8"), ("openvino", "w16")],
)
def test_bounds_hold_on_every_device(
    device: sdrt.Device, precision: sdrt.Precision, told: list[tuple[Pixels, bytes]]
) -> None:
    """No cell that any engine paints here is further from the photograph than its class says."""
    codec = Codec(device=device, precision=precision, threads=1)
    for rgb, data in told:
        try:
            painted = codec.decode_picture(data).rgb
        except EngineError as error:
            pytest.skip(str(error))
        promised = codec.truth_map(data)
        assert promised is not None and promised.dtype == np.uint8
        holds = structure.classes(structure.compare(rgb, painted, CELL_PX), margin=0)
        assert (holds <= promised).all()
        assert len(np.unique(promised)) > 1


def test_a_target_is_held_and_a_map_is_small(told: list[tuple[Pixels, bytes]]) -> None:
    """The map's bytes are of the file's: it keeps to its target and uses it; 60 bytes a map at 512x512 at most."""
    for rgb, data in told:
        budget = 192 * 192 * 0.25 / 8
        assert 0.95 * budget < len(data) <= budget
        assert rgb.shape == (192, 192, 3)
        assert sdrt.info(data).chunks["trth"] <= max_bytes(36)
    assert max_bytes(256) + 5 == 60


def test_a_map_of_noise_is_told_coarser_to_keep_its_size(testpack: ModelPack) -> None:
    """Where each cell differs from the next the map exceeds its room: it promises less, never more."""
    random = np.random.default_rng(4)
    calm = random.integers(0, 2, (16, 16)).repeat(32, 0).repeat(32, 1)[:, :, None]
    rgb = np.where(calm == 0, 128, random.integers(0, 256, (512, 512, 3))).astype(np.uint8)
    codec = Codec("testpack", device="cpu")
    for wishes in (EncodeOptions(truth=True), EncodeOptions(truth=True, target_bytes=6000)):
        data = codec.encode(rgb, wishes)
        assert codec.info(data).chunks["trth"] <= 55
        promised = codec.truth_map(data)
        assert promised is not None
        holds = structure.classes(structure.compare(rgb, codec.decode_picture(data).rgb, CELL_PX), margin=0)
        assert (holds <= promised).all()


def test_the_map_changes_nothing_else(testpack: ModelPack, photo: Pixels) -> None:
    """At a quality the file is the same but for the chunk; without one there is no map; what nobody sees is kept."""
    codec = Codec("testpack", device="cpu")
    plain, told_ = codec.encode(photo, quality=40), codec.encode(photo, quality=40, truth=True)
    file = sdl.unpack(told_)
    assert sdl.pack(replace(file, chunks=())) == plain
    assert codec.truth_map(plain) is None and sdrt.truth_map(told_) is not None
    clear = np.dstack([photo, np.zeros(photo.shape[:2], np.uint8)])
    of_clear = codec.truth_map(codec.encode(clear, truth=True))
    assert of_clear is not None and not of_clear.any()
    with pytest.raises(ArgumentError, match="truth"):
        EncodeOptions(truth=1)  # type: ignore[arg-type]


def test_the_command_tells_and_paints(
    testpack: ModelPack, photo: Pixels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """info prints the shares, decode writes an overlay of the same picture with a legend; a file without a map gets one
    line and nothing is written."""
    source, coded, painted = tmp_path / "in.png", tmp_path / "in.sdl", tmp_path / "map.png"
    Image.fromarray(photo).save(source)
    assert cli.main(["encode", str(source), "--model", "testpack", "--truth"]) == 0
    assert cli.main(["info", "--truth", str(coded)]) == 0
    assert "invented" in capsys.readouterr().out
    assert cli.main(["info", "--truth", "--json", str(coded)]) == 0
    assert sum(json.loads(capsys.readouterr().out)["truth"].values()) == pytest.approx(1)
    assert cli.main(["decode", str(coded), "-o", str(tmp_path / "out.png"), "--truth", str(painted)]) == 0
    with Image.open(painted) as image:
        assert image.width == 161 and image.height > 97
    assert cli.main(["decode", str(coded), "-o", "-", "--truth", "-"]) == 2
    capsys.readouterr()
    late = tmp_path / "late.png"
    assert cli.main(["decode", str(coded), "-o", str(late), "--truth", str(tmp_path / "map.xyz")]) == 10
    assert ".xyz" in one_line(capsys.readouterr().err) and not late.exists()
    assert cli.main(["encode", str(source), "--model", "testpack", "-f"]) == 0
    capsys.readouterr()
    for path in (tmp_path / "out.png", painted):
        path.unlink()
    assert cli.main(["decode", str(coded), "-o", str(tmp_path / "out.png"), "--truth", str(painted)]) == 4
    assert "no truth map" in one_line(capsys.readouterr().err)
    assert {path.name for path in tmp_path.iterdir()} == {"in.png", "in.sdl"}


def test_an_overlay_leaves_what_is_kept() -> None:
    """Kept cells keep their pixels, others turn yellow and red; a crop shows its own cells."""
    rgb = np.full((64, 96, 3), 100, np.uint8)
    classes = [[Truth.KEPT, Truth.PLAUSIBLE, Truth.INVENTED], [Truth.KEPT] * 3]
    of_cells = np.array(classes, np.uint8)
    whole = overlay(rgb, of_cells, CELL_PX)
    assert (whole[:32, :32] == 100).all() and (whole[32:64] == 100).all()
    yellow, red = whole[5, 40].astype(int), whole[5, 80].astype(int)
    assert yellow[0] > 150 < yellow[1] and yellow[2] < 60 and red[0] > 150 and max(red[1:]) < 70
    part = overlay(rgb[:20, 30:50], of_cells, CELL_PX, (30, 0, 20, 20))
    assert (part[:20] == whole[:20, 30:50]).all()
    assert shares(classes) == pytest.approx({"kept": 4 / 6, "plausible": 1 / 6, "invented": 1 / 6})


@pytest.mark.parametrize("name", ["truth-cut-short.sdl", "truth-goes-on.sdl"])
def test_a_broken_map_is_refused_where_it_is_asked_for(
    name: str, testpack: ModelPack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is ancillary: the picture decodes. Who asks for the map gets one line, and nothing is written."""
    path = DISEASES / name
    assert Codec(device="cpu").decode(path).size == (24, 16)
    with pytest.raises(CorruptError, match="truth map"):
        sdrt.truth_map(path)
    out = str(tmp_path / "out.png")
    for command in (["info", "--truth", str(path)], ["decode", str(path), "-o", out, "--truth", f"{out}.png"]):
        assert cli.main(command) == CorruptError.exit_code
        assert "truth map" in one_line(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_a_small_file_of_a_huge_picture_is_refused_before_its_map_is_read(
    testpack: ModelPack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cells follow the picture's size, which has its limit: a bomb of 2**32 cells takes no memory."""
    huge = replace(sdl.unpack((DISEASES / "truth-goes-on.sdl").read_bytes()), width_px=2**21, height_px=2**21)
    path = tmp_path / "huge.sdl"
    path.write_bytes(sdl.pack(huge))
    with pytest.raises(LimitError):
        sdrt.truth_map(path)
    for command in (["info", "--truth", str(path)], ["decode", str(path), "--truth", str(tmp_path / "map.png")]):
        assert cli.main(command) == LimitError.exit_code
        assert one_line(capsys.readouterr().err)
