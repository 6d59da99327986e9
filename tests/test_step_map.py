"""The step map: its chunk returns, is compact and canonical; files that carry one decode as others do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from tests import reference_step_map

from sdrt.bitstream import FileWriter, LatentCoder
from sdrt.codec import Codec
from sdrt.container import sdl
from sdrt.container.step_map import (
    MAX_OFFSET,
    UNIT,
    Offsets,
    cells,
    decode_step_map,
    encode_step_map,
    spread,
)
from sdrt.errors import CorruptError
from sdrt.network import transform
from sdrt.network.engine import Engine
from sdrt.options import EncodeOptions
from sdrt.packs.manifest import ModelPack

Pixels = NDArray[np.uint8]


def random_map(rows: int, columns: int, most: int, seed: int) -> Offsets:
    offsets = np.random.default_rng(seed).integers(-most, most + 1, (rows, columns)).astype(np.int8)
    offsets[-1, -1] = offsets[-1, -1] or 1
    return offsets


@pytest.mark.parametrize("most", [1, 2, MAX_OFFSET])
def test_decoding_gives_the_encoded_map(most: int) -> None:
    """Every map of up to 6x6 cells comes back, and a decoder written from docs/FORMAT.md reads the same."""
    for rows in range(1, 7):
        for columns in range(1, 7):
            offsets = random_map(rows, columns, most, 6 * rows + columns)
            data = encode_step_map(offsets)
            found = decode_step_map(data, offsets.shape)
            assert found.dtype == np.int8
            np.testing.assert_array_equal(found, offsets)
            assert reference_step_map.decode(data, rows, columns) == offsets.tolist()


def test_a_calm_map_is_small() -> None:
    """A map of 12x8 cells with one region apart costs less than 16 bytes."""
    offsets = np.zeros((8, 12), np.int8)
    offsets[2:5, 3:8] = -3
    assert len(encode_step_map(offsets)) < 16


def test_a_flat_map_is_no_map() -> None:
    """All offsets 0: the encoder refuses to write it, a reader to read it: a file has one form."""
    with pytest.raises(ValueError, match="not all 0"):
        encode_step_map(np.zeros((3, 3), np.int8))
    with pytest.raises(CorruptError, match="flat"):
        decode_step_map(b"", (3, 3))
    with pytest.raises(ValueError, match="within"):
        encode_step_map(np.full((1, 1), MAX_OFFSET + 1, np.int8))


def test_corrupt_maps_are_refused_or_are_other_maps() -> None:
    """Cut, continued, altered and made-up data: CorruptError, or the very data of another map in range."""
    random = np.random.default_rng(0)
    refused = total = 0
    for seed in range(30):
        offsets = random_map(4, 5, 3, seed)
        data = encode_step_map(offsets)
        for behind in (b"\0", b"\1", b"\0\1"):
            with pytest.raises(CorruptError):
                decode_step_map(data + behind, (4, 5))
        flipped = bytearray(data)
        flipped[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
        for altered in (data[:-1], bytes(flipped), random.bytes(len(data)), random.bytes(3)):
            total += 1
            try:
                found = decode_step_map(altered, (4, 5))
            except CorruptError:
                refused += 1
                continue
            assert np.abs(found.astype(int)).max() <= MAX_OFFSET
            assert encode_step_map(found) == altered
    assert refused > total // 2


def test_cells_are_squares_of_64_pixels() -> None:
    """Cells begin at the upper left, hold whole latents, and the last of a row may be cut."""
    assert cells(5, 9, 16) == (2, 3, 4)
    assert cells(8, 8, 8) == (1, 1, 8)
    assert cells(3, 2, 128) == (3, 2, 1)
    indices = spread(np.array([[1, 0, -2], [0, 0, 7]], np.int8), 512, 5, 9, 16)
    assert indices.shape == (5, 9)
    assert indices[0].tolist() == [512 + UNIT] * 4 + [512] * 4 + [512 - 2 * UNIT]
    assert indices[4].tolist() == [512] * 8 + [512 + 7 * UNIT]
    with pytest.raises(ValueError, match="does not fit"):
        spread(np.ones((2, 2), np.int8), 512, 5, 9, 16)
    assert spread(None, 300, 2, 3, 16).tolist() == [[300] * 3] * 2
    assert spread(np.array([[7, -7]], np.int8), 1000, 1, 8, 16).max() == 1023, "indices end where the scale ends"


@pytest.fixture
def mapped(testpack: ModelPack, photo: Pixels) -> tuple[bytes, Offsets]:
    """A file of the shared picture, 2x3 cells, with a step map, and its offsets."""
    offsets = np.array([[5, 0, -7], [0, -2, 6]], np.int8)
    return write(testpack, photo, offsets), offsets


def write(pack: ModelPack, rgb: Pixels, offsets: Offsets | None) -> bytes:
    encoder = Engine(pack.encoder_path(), device="cpu")

    options = EncodeOptions(quality=30)
    writer = FileWriter(LatentCoder(pack), rgb.shape[1], rgb.shape[0], (), options, offsets)
    return writer.write(lambda *_: transform.to_latents(rgb, pack, encoder))[0]


def test_a_flat_map_does_no_harm(testpack: ModelPack, photo: Pixels) -> None:
    """Without a map, and with one of zeros, the file is byte for byte the one that the codec writes."""
    plain = Codec("testpack", device="cpu").encode(photo, quality=30)
    assert write(testpack, photo, None) == write(testpack, photo, np.zeros((2, 3), np.int8)) == plain


def test_a_file_with_a_map_decodes(
    mapped: tuple[bytes, Offsets], testpack: ModelPack, photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, tiled and cropped alike; where the step is finer than without a map, the picture is nearer to the
    original, and further away where it is coarser."""
    data, offsets = mapped
    codec = Codec(device="cpu")
    assert codec.info(data).chunks == {"STEP": len(encode_step_map(offsets))}
    whole = codec.decode_picture(data).rgb.astype(int)
    error = np.square(whole - photo).mean(2)
    flat_error = np.square(codec.decode_picture(write(testpack, photo, None)).rgb.astype(int) - photo).mean(2)
    assert error[:64, 128:].mean() < 0.9 * flat_error[:64, 128:].mean()
    assert error[:64, :64].mean() > 1.1 * flat_error[:64, :64].mean()
    part = codec.decode_picture(data, crop=(33, 41, 100, 50)).rgb
    assert np.abs(part - whole[41:91, 33:133]).max() <= 1
    monkeypatch.setattr(transform, "FRAME_PX", 64 * 64)
    tiles: list[int] = []
    tiled = codec.decode_picture(data, progress=lambda _done, total: tiles.append(total)).rgb
    assert np.abs(tiled - whole).max() <= 1 and tiles[0] > 4


def test_a_file_with_a_broken_map_is_refused(mapped: tuple[bytes, Offsets]) -> None:
    """A map that is absent, cut or altered is a CorruptError before any network runs."""
    file = sdl.unpack(mapped[0])
    chunk = file.chunk(sdl.STEP_MAP)
    assert chunk is not None
    for broken in (b"", chunk[:-1], chunk + b"\0", b"\xff" * 9):
        altered = sdl.pack(replace(file, chunks=(sdl.Chunk(sdl.STEP_MAP, broken),)))
        with pytest.raises(CorruptError, match="step map"):
            Codec().symbols(altered)
