"""docs/FORMAT.md and the docstring of sdl.py say what the code does."""

from __future__ import annotations

import inspect
import re
import zlib
from pathlib import Path

import pytest
from tests import reference_patches, reference_step_map, reference_truth
from tests.make_container_golden import CLASSES, GOOD, PATCH, PRIOR, SAMPLES, SPACE, STEPS, bad_files

from sdrt.container import sdl
from sdrt.container.sdl import (
    ALPHA,
    KNOWN_CRITICAL,
    PATCHES,
    SCALE,
    STEP_MAP,
    Chunk,
    SdlFile,
    pack,
    unpack,
)
from sdrt.limits import DEFAULT_MAX_PIXELS, DEFAULT_MAX_SIDE_PX, MAX_ANCILLARY_BYTES, MAX_STEP_INDEX
from sdrt.pixels.metadata import ITEMS

DOC = (Path(__file__).parents[1] / "docs" / "FORMAT.md").read_text(encoding="utf-8")
DOCSTRING = inspect.getdoc(sdl) or ""
PLAIN = SdlFile(768, 512, SPACE, PRIOR, 512, b"hello")
CHUNKY = SdlFile(100, 50, SPACE, PRIOR, 512, b"hello", (Chunk(ALPHA, b"\x00\x80"), Chunk(b"xmpp", b"<x:xmpmeta/>")))


def dumps(text: str) -> list[list[tuple[int | None, bytes]]]:
    """Every block of hex dump lines: "[offset  ]bytes  meaning"."""
    blocks: list[list[tuple[int | None, bytes]]] = [[]]
    for line in text.splitlines():
        found = re.fullmatch(r" *(?:([0-9a-f]{2})  )?([0-9a-f]{2}(?: [0-9a-f]{2})*)  +\S.*", line)
        if found:
            offset = None if found[1] is None else int(found[1], 16)
            blocks[-1].append((offset, bytes.fromhex(found[2])))
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


@pytest.mark.parametrize(
    ("index", "file"),
    [(0, PLAIN), (1, CHUNKY), (2, GOOD["step-map"]), (3, GOOD["patches"]), (4, GOOD["truth-map"])],
    ids=["plain", "chunks", "steps", "patches", "truth"],
)
def test_worked_examples_are_what_pack_writes(index: int, file: SdlFile) -> None:
    """Each hex dump of the page is the file that its heading describes, with right offsets, and unpack reads it."""
    block = dumps(DOC)[index]
    data = b"".join(part for _, part in block)
    assert data == pack(file)
    assert unpack(data) == file
    at = 0
    for offset, part in block:
        assert offset == at
        at += len(part)
    assert f"{len(data)} bytes:" in DOC


def test_page_has_five_dumps() -> None:
    """No dump escapes the test above."""
    assert len(dumps(DOC)) == 5


def test_the_decisions_of_the_step_map_are_as_listed() -> None:
    """The page walks through the third dump's map decision by decision."""
    data = unpack(pack(GOOD["step-map"])).chunk(STEP_MAP)
    assert data is not None
    assert reference_step_map.decode(data, 2, 2) == STEPS.tolist()
    bits = reference_step_map.Bits(data)
    listed = DOC.split("Its decisions, as context:bit, are")[1].split("(the promise")[0]
    found = [(int(context), int(bit)) for context, bit in re.findall(r"(\d+):(\d)", listed)]
    assert len(found) == 10
    for context, bit in found:
        assert bits.bit(context) == bit


def test_the_decisions_of_the_patches_are_as_listed() -> None:
    """The page walks through the fourth dump's mask, cell by cell."""
    fields = reference_patches.decode(PATCH, 24, 40)
    assert fields.mask == [[0, 1, 0], [0, 0, 0]] and fields.feather_px == 2
    bits = reference_step_map.Bits(PATCH[2 : 2 + PATCH[1]])
    listed = re.findall(r"(\d+):(\d)", DOC.split("a cell each.")[0].rsplit("Its decisions", 1)[1])
    assert len(listed) == 6
    for context, bit in listed:
        assert bits.bit(int(context)) == int(bit)


def test_the_decisions_of_the_truth_map_are_as_listed() -> None:
    """The page walks through the fifth dump's map, cell by cell."""
    data = unpack(pack(GOOD["truth-map"])).chunk(sdl.TRUTH)
    assert data is not None
    assert reference_truth.decode_map(data, 2, 2) == CLASSES
    bits = reference_step_map.Bits(data)
    listed = re.findall(r"(\d+):(\d)", DOC.split("(invented).")[0].rsplit("Its decisions", 1)[1])
    assert len(listed) == 7
    for context, bit in listed:
        assert bits.bit(int(context)) == int(bit)


def test_docstring_dump_is_what_pack_writes() -> None:
    """The docstring's dump is the first example."""
    (block,) = dumps(DOCSTRING)
    assert b"".join(part for _, part in block) == pack(PLAIN)


def test_layout_is_the_same_on_both_pages() -> None:
    """The layout block of the docstring stands in the page word for word."""
    layout = DOCSTRING.split("::\n\n")[1].split("\n\n")[0]
    assert layout.startswith("    size    field")
    assert "\n".join(line.removeprefix("    ") for line in layout.splitlines()) in DOC


@pytest.mark.parametrize(
    ("row", "number"),
    [
        ("width and height | 1 to {} pixels", sdl.MAX_SIDE_PX),
        ("step_index | 0 to {}", MAX_STEP_INDEX),
        ("chunks | {}", sdl.MAX_CHUNKS),
        ("data of a critical chunk | {} bytes", sdl.MAX_CRITICAL_BYTES),
        ("data of an ancillary chunk | {} bytes", MAX_ANCILLARY_BYTES),
        ("whole file | {} bytes", sdl.MAX_FILE_BYTES),
        ("pixels, unless the caller says otherwise | {}", DEFAULT_MAX_PIXELS),
        ("width and height, unless the caller allows any number of pixels | {} pixels", DEFAULT_MAX_SIDE_PX),
    ],
)
def test_limits_are_the_codes(row: str, number: int) -> None:
    """Every limit that the page states is the constant in the code."""
    assert f"| {row.format(number)} |" in DOC


def test_every_refusal_has_its_golden_file() -> None:
    """The table of checks names each golden error file once, with the error that it raises."""
    table = DOC.split("## Reading")[1].split("## Versions")[0]
    stated = {
        disease: cells[2].strip()
        for cells in (line.split("|") for line in table.splitlines() if line.startswith("|"))
        for disease in re.findall(r"`([a-z0-9-]+)`", cells[3])
    }
    assert stated == {disease: leaf for disease, (leaf, _) in bad_files().items()}


def test_checks_come_in_the_stated_order() -> None:
    """Of two diseases in one file the check that the table puts first decides."""
    newer = b"SDL\x02" + bytes(4)
    with pytest.raises(sdl.UnsupportedError):
        unpack(newer)
    reserved_and_altered = bytearray(pack(PLAIN))
    reserved_and_altered[5] |= 0x80
    with pytest.raises(sdl.CorruptError, match="checksum"):
        unpack(bytes(reserved_and_altered))


def test_known_chunks_are_listed() -> None:
    """The page's chunk table lists the kinds that the code knows, and each is in a golden file."""
    table = DOC.split("## Chunks")[1].split("### The alpha plane")[0]
    known = SAMPLES.keys() - {b"newS"}
    assert {kind.encode() for kind in re.findall(r"^\| `(\w{4})`", table, re.MULTILINE)} == known
    assert known >= {*KNOWN_CRITICAL, *(item.chunk for item in ITEMS.values())}
    assert frozenset({ALPHA, PATCHES, SCALE, STEP_MAP}) == KNOWN_CRITICAL


def test_check_value_of_the_checksum() -> None:
    """The page's check value is zlib's CRC-32."""
    stated = re.search(r"`123456789` is (0x[0-9A-F]{8})", DOC)
    assert stated is not None
    assert int(stated[1], 16) == zlib.crc32(b"123456789")


def test_media_type_and_suffix_are_the_page_s() -> None:
    """What Pillow and others are told."""
    assert f"Media type `{sdl.MEDIA_TYPE}`, suffix `{sdl.SUFFIX}`" in DOC
