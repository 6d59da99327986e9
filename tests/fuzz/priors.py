"""Target ``prior``: ``prior.npz`` files. Arrays, their headers and the archive's directory are mutated on their own."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from random import Random

import numpy as np
from numpy.typing import NDArray
from tests.fuzz.mutations import EDGES, LARGE, mutated, number
from tests.fuzz.target import Target

from sdrt.coding import payload
from sdrt.coding.prior import load_prior, write_prior

_MAGIC = b"\x93NUMPY\x01\x00"
_TYPES = (b"|u1", b"|i1", b"<u2", b"<i2", b"<i4", b"<f4", b"<f8", b"<i8", b"|b1", b"|O", b">i2", b"<U3")


def mutate(data: bytes, rng: Random) -> bytes:
    """One array of a sound archive changed and packed again, or the bytes of any other."""
    if rng.random() < 0.05:
        return mutated(data, rng)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # zipfile's errors are of a dozen kinds, and all that matters is that there is no archive
        return mutated(data, rng)
    if not members:
        return data
    at = rng.randrange(len(members))
    name, member = members[at]
    match rng.choice(("values", "values", "values", "length", "header", "member", "members")):
        case "values":
            member = _with_values(member, rng)
        case "length":
            member = _with_length(member, rng)
        case "header":
            member = _with_header(member, rng)
        case "member":
            member = mutated(member, rng)
        case _:
            other = rng.choice(members)
            change = rng.choice(([], [(name, other[1])], [(name, member)] * 2, [(f"{name[:-4]}x.npy", member)]))
            return _packed([*members[:at], *change, *members[at + 1 :]], rng)
    members[at] = (name, member)
    return _packed(members, rng)


def _packed(members: list[tuple[str, bytes]], rng: Random) -> bytes:
    """A zip archive with right checksums; now and then its directory says something else."""
    body, directory = b"", b""
    liar = rng.randrange(len(members)) if members and rng.random() < 0.1 else -1
    for index, (name, content) in enumerate(members):
        method = zipfile.ZIP_STORED if rng.random() < 0.3 else zipfile.ZIP_DEFLATED
        compressor = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        packed = content if method == zipfile.ZIP_STORED else compressor.compress(content) + compressor.flush()
        sizes = [len(packed), len(content)]
        if index == liar and rng.random() < 0.8:
            sizes[rng.randrange(2)] = number(sizes[1], rng, 2**32 - 1)
        elif index == liar:
            method = rng.randrange(100)
        checksum, encoded = zlib.crc32(content), name.encode("utf-8", "replace")[:60]
        common = struct.pack("<HHHHHLLLHH", 20, 0, method, 0, 33, checksum, *sizes, len(encoded), 0)
        directory += b"PK\1\2\x14\0" + common + struct.pack("<HHHLL", 0, 0, 0, 0, len(body)) + encoded
        body += b"PK\3\4" + common + encoded + packed
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(members), len(members), len(directory), len(body), 0)
    if rng.random() < 0.01:
        end = mutated(end, rng)
    return body + directory + end


def _split(member: bytes) -> tuple[bytes, bytes]:
    """The text of the header and the values behind it."""
    start = len(_MAGIC) + 2
    end = start + int.from_bytes(member[len(_MAGIC) : start], "little")
    return member[start:end], member[end:]


def _joined(header: bytes, values: bytes) -> bytes:
    return _MAGIC + (len(header) & 0xFFFF).to_bytes(2, "little") + header + values


def _with_values(member: bytes, rng: Random) -> bytes:
    header, values = _split(member)
    size = 4 if b"4'" in header else 2 if b"2'" in header else 1
    if len(values) < size:
        return member
    changed = bytearray(values)
    for _ in range(rng.choice((1, 1, 2, 9))):
        at = rng.randrange(len(values) // size) * size
        wanted = rng.choice(
            (*EDGES, *LARGE, rng.getrandbits(32), int.from_bytes(changed[at : at + size], "little") ^ 1)
        )
        changed[at : at + size] = (wanted % (1 << 8 * size)).to_bytes(size, "little")
    return _joined(header, bytes(changed))


def _with_length(member: bytes, rng: Random) -> bytes:
    """The array cut or continued, and its header says so."""
    header, values = _split(member)
    size = 4 if b"4'" in header else 2 if b"2'" in header else 1
    count = number(len(values) // size, rng, 5000)
    shape = rng.choice((b"(%d,)" % count, b"()", b"(%d, 1)" % count, b"(1, %d)" % count))
    head = header.split(b"'shape': ")[0] + b"'shape': " + shape + b", }\n"
    return _joined(head, (values * (1 + count * size // max(1, len(values))))[: count * size])


def _with_header(member: bytes, rng: Random) -> bytes:
    header, values = _split(member)
    before, _, after = header.partition(b"'descr': '")
    if rng.random() < 0.5 and after:
        header = before + b"'descr': '" + rng.choice(_TYPES) + b"'" + after.partition(b"'")[2]
    else:
        header = mutated(header, rng)
    return _joined(header, values)


def run(data: bytes) -> None:
    """Under a prior that loads, symbols come back that were coded with it."""
    prior = load_prior(data)
    for spread, step_index in ((0.7, 512), (900, 40)):
        drawn = np.random.default_rng(len(data)).laplace(0, spread, (prior.channels, 5, 6))
        symbols = np.rint(drawn).astype(np.int32)
        coded = payload.encode(symbols, prior, step_index)
        assert np.array_equal(payload.decode(coded, symbols.shape, prior, step_index), symbols)


def seeds() -> list[bytes]:
    """The smallest priors that have all parts: two channels, two classes, one with low bits, a network of two units."""
    return [write_prior(_arrays(passes)) for passes in ([[0, 2, 1]], [[0, 1, 1], [1, 2, 1]], [[0, 2, 4]])]


def _arrays(passes: list[list[int]]) -> dict[str, NDArray[np.generic]]:
    """``passes``: rows of start, stop and number of grids."""
    rng = np.random.default_rng(5)
    hidden, rows, grids, taps = 2, [], [], []
    parts: dict[str, list[NDArray[np.int64]]] = {key: [] for key in ("weights", "global_weights", "out_weights")}
    for start, stop, count in passes:
        size = stop - start
        columns = hidden + 2 * size
        rows.append([start, stop, count, 1, int(count == 4), hidden])
        taps += [(0, 0), *([(-1, 0)] if count == 4 else [])]
        grids += [(0, 0, 1)] if count == 1 else [(y, x, 2) for y in (0, 1) for x in (0, 1)]
        inputs = start + size * (count == 4) + stop + stop
        parts["weights"].append(rng.integers(-9, 10, inputs * columns))
        parts["global_weights"].append(rng.integers(-50, 900, 2 * columns))
        parts["out_weights"].append(rng.integers(-9, 10, hidden * 2 * size))
    radius = np.array([1, 2], np.uint8)
    tables = [np.full((5, 2 * int(r) + 2), 65536 // (2 * int(r) + 2)) for r in radius]
    for table in tables:
        table[:, 0] += 65536 - table.sum(1)
    frequencies = np.concatenate([table.ravel() for table in tables])
    return {
        "format": np.uint16(1),
        "steps": np.ones(2, "<f4"),
        "sensitivity": np.ones(2, "<f4"),
        "decisions": np.float32(0.5),
        "order": np.array([1, 0], np.uint8),
        "passes": np.array(rows, "<i2"),
        "grids": np.array(grids, np.int8),
        "taps": np.array(taps, np.int8),
        "weights": np.concatenate(parts["weights"]).astype(np.int8),
        "global_weights": np.concatenate(parts["global_weights"]).astype("<i4"),
        "shift": np.full(hidden * len(rows), 3, np.uint8),
        "out_weights": np.concatenate(parts["out_weights"]).astype(np.int8),
        "out_shift": np.full(4, 5, np.uint8),
        "thresholds": np.array([300], "<u2"),
        "radius": radius,
        "low_bits": np.array([0, 3], np.uint8),
        "frequencies": frequencies.astype("<u2"),
        "centres": np.zeros(len(frequencies), np.int8),
    }


TARGET = Target("prior", seeds, mutate, run)
