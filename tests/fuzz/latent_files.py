"""Target ``latents``: latents in the files of other programs. A case is a byte that names the reader, and a file."""

from __future__ import annotations

import io
from random import Random

import numpy as np
from tests.fuzz import priors
from tests.fuzz.mutations import mutated
from tests.fuzz.target import Target

from sdrt.latents.kohya import read_npz, write_npz
from sdrt.latents.safetensors import read_safetensors, write_safetensors
from sdrt.latents.sample import LatentSample
from sdrt.latents.webdataset import TarWriter, read_tar

NPZ, SAFETENSORS, TAR = range(3)


def mutate(data: bytes, rng: Random) -> bytes:
    """The file changed: an archive of arrays as priors are, any other by its bytes."""
    if data[:1] == bytes([NPZ]):
        return data[:1] + priors.mutate(data[1:], rng)
    return data[:1] + mutated(data[1:], rng)


def run(data: bytes) -> None:
    """What is read is finite in size, float32, and of three dimensions; tars have keys in order."""
    kind, file = data[:1], data[1:]
    if kind == bytes([TAR]):
        assert all(
            isinstance(member, bytes) for _, members in read_tar(io.BytesIO(file), "x") for member in members.values()
        )
        return
    for sample in (read_npz if kind == bytes([NPZ]) else read_safetensors)(file, "x"):
        assert sample.latents.dtype == np.float32 and sample.latents.ndim == 3 and sample.latents.size


def seeds() -> list[bytes]:
    """One of each kind, with all that it may hold."""
    latents = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    alpha = np.arange(16 * 24, dtype=np.uint8).reshape(16, 24)
    sample = LatentSample("a", latents, -latents, alpha, (30, 20), (-1, 0, 29, 20))
    tar = io.BytesIO()
    writer = TarWriter(tar)
    writer.write("a", {"npz": b"1", "txt": b"two"})
    writer.write("folder/b", {"sdl": bytes(600)})
    writer.close()
    return [
        bytes([NPZ]) + write_npz(sample, (24, 16)),
        bytes([NPZ]) + write_npz(sample, (24, 16), with_grid=True),
        bytes([SAFETENSORS]) + write_safetensors(sample),
        bytes([SAFETENSORS]) + write_safetensors(sample, half=True),
        bytes([TAR]) + tar.getvalue(),
    ]


TARGET = Target("latents", seeds, mutate, run)
