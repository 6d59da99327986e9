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
from tests.prior_samples import heavy_arrays, laplace, plan

from sdrt.coding import payload
from sdrt.coding.prior import FRACTIONS, TOTAL, Grid
from sdrt.coding.prior_file import load_prior, write_prior
from sdrt_export.prior_plan import Plan, ScanPlan

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
        coded, indices = laplace((5, 6), prior, spread, len(data)), np.full((5, 6), step_index)
        assert np.array_equal(payload.decode(payload.encode(coded, prior, indices), prior, indices), coded)


def seeds() -> list[bytes]:
    """The smallest priors that have all parts: two classes, one with low bits; all at once, on a checkerboard, wide."""
    return [write_prior(_arrays(of)) for of in (_FLAT, _CHECKERED, _WIDE)]


_FLAT = Plan(2, 2, (), (ScanPlan(0, 1, (Grid(0, 0, 1),), (), 2), ScanPlan(1, 2, (Grid(0, 0, 1),), (), 2)))
_CHECKERED = plan(2, 2, (), (0, 2), hidden=2)
_WIDE = plan(4, 2, (1, 4), (0, 1, 2, 5), hidden=2)


def _arrays(of: Plan) -> dict[str, NDArray[np.generic]]:
    radius = np.array([1, 2], np.uint8)
    tables = [np.full((FRACTIONS, 2 * int(r) + 2), TOTAL // (2 * int(r) + 2)) for r in radius]
    for table in tables:
        table[:, 0] += TOTAL - table.sum(1)
    return {
        **heavy_arrays(of),
        "thresholds": np.array([300], "<u2"),
        "radius": radius,
        "low_bits": np.array([0, 3], np.uint8),
        "frequencies": np.concatenate([table.ravel() for table in tables]).astype("<u2"),
    }


TARGET = Target("prior", seeds, mutate, run)
