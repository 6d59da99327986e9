"""Laws of all inputs: Hypothesis looks for one that breaks them, among the same examples each time."""

from __future__ import annotations

import argparse
import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from tests.fuzz import payloads, priors

from sdrt.coding import payload, rate
from sdrt.coding.prior import MAX_SYMBOL
from sdrt.coding.prior_file import DTYPES, MAX_BYTES, load_prior
from sdrt.coding.symbols import with_extents
from sdrt.command import convert_arguments
from sdrt.container import npz, sdl
from sdrt.container.alpha import decode_alpha, encode_alpha
from sdrt.container.step_map import MAX_OFFSET, decode_step_map, encode_step_map
from sdrt.errors import ModelError, SdrtError, UnsupportedError
from sdrt.limits import MAX_STEP_INDEX
from sdrt.network import tile
from sdrt.network.graph import Graph
from sdrt.packs.manifest import LatentSpace

law = settings(derandomize=True, deadline=None, database=None, max_examples=60)

kinds = st.sampled_from((sdl.ALPHA, sdl.TRUTH, b"xmpp", b"news", b"abcd")).map(bytes)
chunks = st.lists(st.tuples(kinds, st.binary(max_size=300)), max_size=4, unique_by=lambda chunk: chunk[0])
files = st.builds(
    sdl.SdlFile,
    width_px=st.integers(1, sdl.MAX_SIDE_PX),
    height_px=st.integers(1, sdl.MAX_SIDE_PX),
    space_identity=st.binary(min_size=4, max_size=4),
    prior_identity=st.binary(min_size=4, max_size=4),
    step_index=st.integers(0, MAX_STEP_INDEX),
    payload=st.binary(max_size=300),
    chunks=chunks.map(lambda found: tuple(sdl.Chunk(*chunk) for chunk in sorted(found))),
)


@law
@given(files)
def test_every_file_comes_back_and_has_one_spelling(file: sdl.SdlFile) -> None:
    """unpack(pack(f)) == f."""
    assert sdl.unpack(sdl.pack(file), max_pixels=None) == file


@law
@given(files, st.data())
def test_no_file_with_a_changed_byte_is_accepted(file: sdl.SdlFile, draw: st.DataObject) -> None:
    """A byte changed, taken out or put in, anywhere, is noticed: CRC-32 finds every burst of up to 32 bits."""
    packed = sdl.pack(file)
    at = draw.draw(st.integers(0, len(packed) - 1))
    byte = draw.draw(st.integers(1, 255))
    for changed in (packed[:at] + bytes([packed[at] ^ byte]) + packed[at + 1 :], packed[:at]):
        with pytest.raises(SdrtError):
            sdl.unpack(changed, max_pixels=None)


planes = arrays.arrays(
    np.uint8,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=70),
    elements=st.sampled_from((0, 0, 0, 255, 255, 255, 1, 128, 254, 77)),
)


@law
@given(planes, st.integers(0, 126))
def test_every_alpha_plane_comes_back_within_its_error(plane: NDArray[np.uint8], max_error: int) -> None:
    """0 and 255 exactly, the rest within ``max_error``."""
    found = decode_alpha(encode_alpha(plane, max_error=max_error), *plane.shape)
    hard = np.isin(plane, (0, 255))
    assert np.array_equal(found[hard], plane[hard])
    assert np.abs(found.astype(int) - plane).max() <= max_error


symbols = st.integers(-3, 3) | st.integers(-2000, 2000) | st.integers(-MAX_SYMBOL, MAX_SYMBOL)


@law
@given(st.sampled_from((0, 1)), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.data())
def test_all_symbols_come_back(which: int, size: tuple[int, int], draw: st.DataObject) -> None:
    """decode(encode(s)) == s for dense and wide priors, every shape, symbol, escapes among them, and steps."""
    prior = payloads.priors()[which]
    drawn = draw.draw(arrays.arrays(np.int32, (*size, prior.channels), elements=symbols, fill=st.just(0)))
    indices = draw.draw(arrays.arrays(np.int64, size, elements=st.integers(0, 1023)))
    coded = with_extents(drawn, prior)
    assert np.array_equal(payload.decode(payload.encode(coded, prior, indices), prior, indices), coded)


step_maps = arrays.arrays(
    np.int8,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=30),
    elements=st.integers(-MAX_OFFSET, MAX_OFFSET),
).filter(np.any)


@law
@given(step_maps)
def test_every_step_map_comes_back(offsets: NDArray[np.int8]) -> None:
    """decode(encode(m)) == m."""
    rows, columns = offsets.shape
    assert np.array_equal(decode_step_map(encode_step_map(offsets), (rows, columns)), offsets)


@law
@given(
    arrays.arrays(
        st.sampled_from(("<u2", "<i4", "<f4", "|i1", "|u1")), arrays.array_shapes(min_dims=0, max_dims=2, min_side=0)
    )
)
def test_the_npz_reader_agrees_with_numpy(array: NDArray[np.generic]) -> None:
    """What numpy saves, packed or not, is read as numpy reads it, but for what is laid out by columns."""
    for save in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        save(stream, a=np.ascontiguousarray(array).reshape(array.shape))
        (read,) = npz.read_arrays(stream.getvalue(), max_bytes=MAX_BYTES, dtypes=DTYPES, max_dimensions=2).values()
        assert read.dtype == array.dtype and read.shape == array.shape and read.tobytes() == array.tobytes()


@law
@given(st.binary(max_size=400) | st.binary(max_size=90).map(lambda tail: priors.seeds()[0][:-90] + tail))
def test_any_bytes_are_arrays_or_a_model_error(data: bytes) -> None:
    """The readers of a pack's parts know no other exception."""
    for read in (lambda: load_prior(data, "x"), Graph(Path("x"), data).check_alone):
        try:
            read()
        except ModelError as error:
            assert "\n" not in str(error)


@law
@given(st.tuples(st.integers(1, 900), st.integers(1, 900)), st.integers(1, 10**5), st.data())
def test_tiles_cover_every_window_once(size: tuple[int, int], max_cells: int, draw: st.DataObject) -> None:
    """Along both axes: the window is covered, spans follow each other, frames lie inside and are of one length."""
    (rows, columns), halo, fade = size, draw.draw(st.integers(0, 20)), draw.draw(st.integers(0, 9))
    top, left = draw.draw(st.integers(0, rows - 1)), draw.draw(st.integers(0, columns - 1))
    bottom, right = draw.draw(st.integers(top + 1, rows)), draw.draw(st.integers(left + 1, columns))
    plan = tile.plan(rows, columns, max_cells, halo=halo, fade=fade, window=(top, left, bottom, right))
    for spans, start, stop, length in ((plan.rows, top, bottom, rows), (plan.columns, left, right, columns)):
        assert spans[0].start <= start and stop <= spans[-1].stop
        assert all(after.start == before.stop - after.fade for before, after in pairwise(spans))
        assert all(0 <= span.frame_start <= span.start < span.stop <= span.frame_stop <= length for span in spans)
        assert len({span.frame_stop - span.frame_start for span in spans}) == 1


@law
@given(
    st.lists(st.integers(1, 10**6), min_size=1024, max_size=1024),
    st.integers(0, 10**6),
    st.integers(0, 1023),
    st.booleans(),
)
def test_a_budget_is_kept_whatever_the_sizes(sizes: list[int], budget: int, guess: int, falling: bool) -> None:
    """On any curve, however wild: a file within the budget, or the smallest size that was seen; and it ends."""
    curve = sorted(sizes, reverse=True) if falling else sizes
    seen: list[int] = []

    def code(index: int, bit_weight: float) -> bytes:
        seen.append(max(1, int(curve[index] / bit_weight**0.1)))  # no file is empty
        return bytes(seen[-1])

    try:
        assert len(rate.finest_within(code, budget, guess=guess, finest=0)) <= budget
    except UnsupportedError as error:
        assert min(seen) > budget and str(error).endswith(f"has {min(seen)} bytes")
    assert len(seen) < 64


spaces = st.builds(
    LatentSpace,
    id=st.text("ab1", min_size=1, max_size=2),
    channels=st.integers(1, 3),
    downscale=st.integers(1, 3),
    scale=st.sampled_from((1.0, 0.5, 1)),
    shift=st.sampled_from((0.0, 0, 0.25)),
)


@law
@given(spaces, spaces)
def test_spaces_are_equal_where_their_identities_are(one: LatentSpace, other: LatentSpace) -> None:
    """Identities tell apart what differs, and nothing else."""
    assert (one == other) == (one.identity == other.identity)


@law
@given(st.text(max_size=9) | st.from_regex(r"[0-9.]{1,6}[kKmM]?[iI]?[bB]?", fullmatch=True))
def test_any_words_are_a_value_or_a_usage_error(text: str) -> None:
    """Sizes, crops and numbers of the command line: a value in range, or the error that argparse expects."""
    for parse, good in (
        (convert_arguments.parse_size, lambda size: 1 <= size < 2**40),
        (convert_arguments.parse_crop, lambda crop: len(crop) == 4),
        (convert_arguments.parse_quality, lambda quality: 0 <= quality <= 100),
        (convert_arguments.parse_bpp, lambda bits: 0 < bits < 1000),
        (convert_arguments.parse_threads, lambda count: 1 <= count <= 1024),
        (convert_arguments.parse_side, lambda side: 1 <= side <= 2**21),
        (convert_arguments.parse_max_pixels, lambda pixels: pixels is None or pixels >= 1),
    ):
        try:
            assert good(parse(text))
        except argparse.ArgumentTypeError as error:
            assert "\n" not in str(error)
