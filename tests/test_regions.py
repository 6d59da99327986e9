"""Regions: bytes move to a part of the picture at the same file size, and bad boxes get one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.command import one_line

from sdrt.codec import Codec
from sdrt.command import cli
from sdrt.container.step_map import reduced
from sdrt.errors import ArgumentError
from sdrt.network import transform
from sdrt.options import EncodeOptions, Region, Resampling
from sdrt.packs.manifest import ModelPack
from sdrt.steering import offsets_of

Pixels = NDArray[np.uint8]
UPPER_LEFT = Region(0, 0, 60, 50, 3)


def test_regions_become_cells() -> None:
    """A region is every cell that it touches; the finest of several counts; weights are octaves of the step."""
    found = offsets_of([Region(63, 64, 2, 1), Region(64, 0, 65, 64, 0.5), Region(0, 0, 1, 1, 3)], 130, 200, 16)
    assert found is not None
    assert found.tolist() == [[-6, 4, 4, 0], [-4, -4, 0, 0], [0, 0, 0, 0]]
    assert offsets_of([Region(64, 0, 1, 1, 0.5), Region(64, 0, 1, 1)], 64, 128, 16) is not None
    assert offsets_of([], 64, 64, 16) is None and offsets_of([Region(0, 0, 9, 9, 1)], 64, 64, 16) is None
    assert reduced(found, 2).tolist() == [[-6, 0], [0, 0]]


@pytest.mark.parametrize(("target_bytes", "resampling", "share"), [(900, 1, 0.9), (350, 2, 0.99)])
def test_bytes_move_at_the_same_size(
    target_bytes: int, resampling: Resampling, share: float, testpack: ModelPack, photo: Pixels
) -> None:
    """At one target size the error inside falls and that outside rises; the target is held and used."""
    codec = Codec("testpack", device="cpu")
    plain, moved = (
        codec.encode(photo, target_bytes=target_bytes, resampling=resampling, regions=regions)
        for regions in ((), (UPPER_LEFT,))
    )
    assert 0.95 * target_bytes < len(moved) <= target_bytes
    side = 64 * resampling

    def errors(data: bytes) -> tuple[float, float]:
        error = np.square(codec.decode_picture(data).rgb.astype(float) - photo)
        inside = float(error[:side, :side].sum())
        return inside, float(error.sum()) - inside

    before, after = errors(plain), errors(moved)
    assert after[0] < share * before[0] and after[1] > before[1]


def test_tiles_and_crops_agree(testpack: ModelPack, photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with regions decodes alike whole, cropped and in tiles."""
    codec = Codec("testpack", device="cpu")
    data = codec.encode(photo, quality=60, regions=(UPPER_LEFT, Region(100, 60, 61, 37, 0.4)))
    assert "STEP" in codec.info(data).chunks
    whole = codec.decode_picture(data).rgb.astype(int)
    part = codec.decode_picture(data, crop=(33, 41, 100, 50)).rgb
    assert np.abs(part - whole[41:91, 33:133]).max() <= 1
    monkeypatch.setattr(transform, "FRAME_PX", 64 * 64)
    assert np.abs(codec.decode_picture(data).rgb - whole).max() <= 1


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((-1, 0, 5, 5), "x of a region is -1"),
        ((0, 0, 0, 5), "width of a region is 0"),
        ((0, 0, 5, 2.5), "height of a region is 2.5"),
        ((0, 0, 5, 5, 4), "weight of a region is 4"),
        ((0, 0, 5, 5, float("nan")), "weight of a region is nan"),
        ((0, 0, 5, 5, None), "weight of a region is None"),
    ],
)
def test_bad_boxes_are_refused(box: tuple[int, ...], words: str) -> None:
    """Each field by its name."""
    with pytest.raises(ArgumentError, match=words):
        Region(*box)


def test_boxes_beside_the_picture_are_refused(testpack: ModelPack, photo: Pixels) -> None:
    """A region that sticks out is named with the picture's size, before any network runs; so is what is no region."""
    for box in ((100, 0, 62, 1), (0, 97, 1, 1), (161, 0, 1, 1)):
        with pytest.raises(ArgumentError, match="does not lie in the picture of 161x97"):
            Codec("testpack").encode(photo, regions=[Region(*box)])
    with pytest.raises(ArgumentError, match="sequence of Region"):
        EncodeOptions(regions=[(0, 0, 5, 5)])  # type: ignore[list-item]


def test_the_command_takes_boxes(
    testpack: ModelPack, photo: Pixels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--roi may be repeated and gives what Python gives; a bad one gets one line and nothing is written."""
    source, out = tmp_path / "in.png", tmp_path / "out.sdl"
    Image.fromarray(photo).save(source)
    command = ["encode", str(source), "-o", str(out), "--model", "testpack", "--device", "cpu"]
    assert cli.main([*command, "--roi", "0,0,60,50,3", "--roi", "100,60,20,20"]) == 0
    regions = [UPPER_LEFT, Region(100, 60, 20, 20)]
    assert out.read_bytes() == Codec("testpack", device="cpu").encode(source, regions=regions)
    out.unlink()
    for text in ("0,0,60", "a,0,1,1", "0,0,1,1,1,1", "0,0,1,1,99", "0,0,0,1"):
        with pytest.raises(SystemExit) as left:
            cli.main([*command, "--roi", text])
        assert left.value.code == 2
        assert "region" in capsys.readouterr().err.splitlines()[-1]
    assert cli.main([*command, "--roi", "0,0,500,1"]) == ArgumentError.exit_code
    assert "161x97" in one_line(capsys.readouterr().err)
    assert not out.exists()
