"""Laws of the container."""

from __future__ import annotations

import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from tests.make_container_golden import GOOD, PRIOR, SPACE, bad_files, build, with_chunks

from sdrt import errors
from sdrt.container.sdl import ALPHA, MAX_ANCILLARY_BYTES, MAX_SIDE_PX, TRUTH, Chunk, SdlFile, pack, unpack
from sdrt.errors import CorruptError, LimitError, NotSdlError, SdrtError, UnsupportedError

GOLDEN = Path(__file__).parent / "golden"
PLAIN = GOOD["plain"]
CHUNKY = GOOD["all-chunks"]


@pytest.mark.parametrize("name", GOOD)
def test_golden_files_unpack_for_ever(name: str) -> None:
    """A golden file says what it always said, and the same contents still make the same bytes."""
    data = (GOLDEN / "good" / f"{name}.sdl").read_bytes()
    assert unpack(data, max_pixels=None) == GOOD[name]
    assert pack(GOOD[name]) == data


@pytest.mark.parametrize("disease", bad_files())
def test_each_disease_has_its_error(disease: str) -> None:
    """A broken file raises the leaf that its disease calls for, in one line, and the golden file is that disease."""
    leaf, data = bad_files()[disease]
    assert (GOLDEN / "errors" / f"{disease}.sdl").read_bytes() == data
    with pytest.raises(getattr(errors, leaf)) as caught:
        unpack(data)
    assert type(caught.value).__name__ == leaf
    assert "\n" not in str(caught.value)


def test_no_golden_error_file_is_left_untested() -> None:
    """Every file in golden/errors and golden/good belongs to a case."""
    assert {path.stem for path in (GOLDEN / "errors").iterdir()} == set(bad_files())
    assert {path.stem for path in (GOLDEN / "good").iterdir()} == set(GOOD)


def test_random_contents_come_back() -> None:
    """unpack undoes pack for sides, steps, chunks and payloads of all sizes."""
    rng = np.random.default_rng(1)
    for _ in range(500):
        sides = [int(2 ** rng.uniform(0, 21)) for _ in range(2)]
        kinds = [kind for kind in (ALPHA, TRUTH, b"zzzz") if rng.random() < 0.4]
        chunks = tuple(Chunk(kind, rng.bytes(int(2 ** rng.uniform(0, 9)) - 1)) for kind in sorted(kinds))
        file = SdlFile(
            *sides, rng.bytes(4), rng.bytes(4), int(rng.integers(1024)), rng.bytes(int(rng.integers(99))), chunks
        )
        assert unpack(pack(file), max_pixels=None) == file


@pytest.mark.parametrize("file", [PLAIN, CHUNKY], ids=["plain", "chunks"])
def test_every_flipped_bit_is_refused(file: SdlFile) -> None:
    """Each single flipped bit is refused: in the magic as no .sdl, in the version as newer or none, else as corrupt."""
    data = pack(file)
    for position in range(8 * len(data)):
        altered = bytearray(data)
        altered[position // 8] ^= 1 << position % 8
        where = position // 8
        wanted = NotSdlError if where < 3 else (UnsupportedError, CorruptError) if where == 3 else CorruptError
        with pytest.raises(wanted):
            unpack(bytes(altered))


@pytest.mark.parametrize("file", [PLAIN, CHUNKY], ids=["plain", "chunks"])
def test_every_truncation_and_extension_is_refused(file: SdlFile) -> None:
    """Each proper beginning of a file is refused, and so is the file with a byte more at its end."""
    data = pack(file)
    for size_bytes in range(len(data)):
        with pytest.raises(NotSdlError if size_bytes < 3 else CorruptError):
            unpack(data[:size_bytes])
    for byte in range(256):
        with pytest.raises(CorruptError):
            unpack(data + bytes([byte]))


def test_bursts_and_swaps_are_refused() -> None:
    """Altered spans of up to 32 bits, and neighboring bytes exchanged, are refused."""
    data = pack(PLAIN)
    rng = np.random.default_rng(2)
    for start in range(4, len(data) - 4):
        burst = bytes(a ^ b for a, b in zip(data[start : start + 4], rng.bytes(4), strict=True))
        with pytest.raises(CorruptError):
            unpack(data[:start] + burst + data[start + 4 :])
        if data[start] != data[start + 1]:
            with pytest.raises(CorruptError):
                unpack(data[:start] + data[start + 1 : start + 2] + data[start : start + 1] + data[start + 2 :])


def test_hostile_files_with_right_checksums_raise_only_ours() -> None:
    """Random bytes behind a right magic, version and checksum are read as they are or refused with an SdrtError."""
    rng = np.random.default_rng(3)
    outcomes = set()
    for _ in range(5000):
        body = b"SDL\x01" + rng.bytes(int(rng.integers(16, 60)))
        if rng.random() < 0.8:
            flags = (1 << 10 | int(rng.integers(1024))).to_bytes(2, "little")
            body = (
                b"SDL\x01"
                + flags
                + bytes(rng.integers(0, 128, 2, dtype=np.uint8))
                + SPACE
                + PRIOR
                + b"\x01exif"
                + rng.bytes(9)
            )
        data = body + zlib.crc32(body).to_bytes(4, "little")
        try:
            file = unpack(data)
        except SdrtError as error:
            outcomes.add(type(error))
        else:
            assert pack(file) == data
            outcomes.add(SdlFile)
    assert outcomes >= {SdlFile, CorruptError, LimitError}


@pytest.mark.parametrize("side_px", [1, 128, 129, 512, 16384, 16385, MAX_SIDE_PX])
def test_a_plain_file_spends_at_most_24_bytes(side_px: int) -> None:
    """Everything but the payload takes at most 24 bytes at any size, and at most 22 up to 16384 pixels a side."""
    overhead = len(pack(SdlFile(side_px, side_px, SPACE, PRIOR, 0, b"12345"))) - 5
    assert overhead <= (22 if side_px <= 16384 else 24)


def test_pixel_limit_is_exact_and_adjustable() -> None:
    """A picture of exactly max_pixels is read, one more is refused, and None reads all."""
    data = pack(PLAIN)
    assert unpack(data, max_pixels=768 * 512) == PLAIN
    with pytest.raises(LimitError, match="393216"):
        unpack(data, max_pixels=768 * 512 - 1)
    assert unpack(build(sides=bytes.fromhex("ffff7f ffff7f")), max_pixels=None).width_px == MAX_SIDE_PX


def test_nothing_is_allocated_from_a_number_in_the_file() -> None:
    """A file of 40 bytes that announces the largest sizes is refused with next to no memory."""
    for data in (build(sides=bytes.fromhex("ffff7f ffff7f")), with_chunks(b"\x01ALPH\xff\xff\xff\x7fhello")):
        tracemalloc.start()
        with pytest.raises(SdrtError):
            unpack(data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 50_000


def test_chunks_are_put_in_order() -> None:
    """The order in which chunks are given does not change the file."""
    backwards = SdlFile(**{**CHUNKY.__dict__, "chunks": CHUNKY.chunks[::-1]})
    assert pack(backwards) == pack(CHUNKY)


def test_largest_ancillary_chunk_comes_back() -> None:
    """A metadata chunk of exactly the limit is kept, one byte more is refused on writing."""
    file = SdlFile(1, 1, SPACE, PRIOR, 0, b"", (Chunk(TRUTH, bytes(MAX_ANCILLARY_BYTES)),))
    assert unpack(pack(file)) == file
    with pytest.raises(LimitError, match="trth"):
        pack(SdlFile(1, 1, SPACE, PRIOR, 0, b"", (Chunk(TRUTH, bytes(MAX_ANCILLARY_BYTES + 1)),)))


@pytest.mark.parametrize(
    ("change", "leaf"),
    [
        ({"width_px": 0}, LimitError),
        ({"height_px": MAX_SIDE_PX + 1}, LimitError),
        ({"step_index": 1024}, UnsupportedError),
        ({"step_index": -1}, UnsupportedError),
        ({"space_identity": b"abc"}, UnsupportedError),
        ({"prior_identity": b"abcde"}, UnsupportedError),
        ({"chunks": (Chunk(b"exi", b""),)}, UnsupportedError),
        ({"chunks": (Chunk(b"ex1f", b""),)}, UnsupportedError),
        ({"chunks": (Chunk(TRUTH, b"1"), Chunk(TRUTH, b"2"))}, UnsupportedError),
        ({"chunks": tuple(Chunk(b"abc" + bytes([97 + i]), b"") for i in range(17))}, LimitError),
    ],
)
def test_what_the_format_cannot_hold_is_not_written(change: dict[str, object], leaf: type[SdrtError]) -> None:
    """pack refuses what unpack would refuse."""
    with pytest.raises(leaf):
        pack(SdlFile(**{**PLAIN.__dict__, **change}))


def test_buffers_of_other_types_are_read() -> None:
    """bytearray and memoryview are read like bytes, and the contents are bytes."""
    data = pack(CHUNKY)
    for buffer in (bytearray(data), memoryview(data)):
        file = unpack(buffer)
        assert file == CHUNKY
        assert type(file.payload) is bytes
