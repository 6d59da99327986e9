"""Target ``manifest``: ``manifest.json`` of a pack. Any value, key or branch of the tree is mutated, or the text."""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.mutations import EDGES, LARGE, mutated
from tests.fuzz.target import Target

from sdrt.command.ship import ship
from sdrt.packs.manifest import MANIFEST, read_pack
from sdrt.packs.search import read_verified

FILES = {
    name: name.encode() * 9
    for name in ("encoder.onnx", "decoder.onnx", "encoder.int8.onnx", "decoder.int8.onnx", "prior.npz")
}
_STRANGE: tuple[Any, ...] = (
    *(None, True, False, "", "a\nb", "\ud800", "\u202e", "x" * 300, "../x", "nul", [], {}, [[]], -0.0, 1e-320, 1e308),
    *(-1, *EDGES, *LARGE, 10**400, 0.1, -1e39, "0" * 64),
)


def mutate(data: bytes, rng: Random) -> bytes:
    """One node of the tree changed; now and then the text, or what JSON has and a tree has not."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return mutated(data, rng)
    if not isinstance(tree, dict) or not tree or rng.random() < 0.1:
        return mutated(data, rng)
    parent, key = _somewhere(tree, rng)
    match rng.randrange(6):
        case 0:
            del parent[key]
        case 1:
            parent[key] = [parent[key]] * (50 if not isinstance(parent[key], (dict, list)) else 1)
        case 2 if isinstance(parent, dict):
            parent[rng.choice((f"{key}2", "", "files", "\ud800", "x/y"))] = parent.pop(key)
        case _:
            parent[key] = rng.choice(_STRANGE)
    text = json.dumps(tree)
    match rng.randrange(20):
        case 0:
            text = text.replace(":", f": {'[' * rng.choice((50, 5000))}", 1)
        case 1:
            text = text.replace("512", rng.choice(("1e999", "NaN", "-Infinity", "9" * 5000)), 1)
        case 2:
            text = text.replace('"name"', '"name": "twice", "name"')
    return text.encode()


def _somewhere(tree: dict[str, Any], rng: Random) -> tuple[Any, Any]:
    """A container in the tree and a key or an index in it."""
    node: Any = tree
    while True:
        key = rng.choice([*node] if isinstance(node, dict) else range(len(node)))
        if not isinstance(node[key], (dict, list)) or not node[key] or rng.random() < 0.3:
            return node, key
        node = node[key]


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sdrt-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "pack").mkdir()
    for name, content in FILES.items():
        (folder / "pack" / name).write_bytes(content)
    return folder


def run(data: bytes) -> None:
    """A pack that is read keeps its identities when it is shipped."""
    pack_folder, out = _folder() / "pack", _folder() / "out"
    (pack_folder / MANIFEST).write_bytes(data)
    pack = read_pack(pack_folder)
    for name in pack.files:
        assert read_verified(pack, name) == FILES[name]
    try:
        ship(pack, out)
        shipped = read_pack(out)
        assert (shipped.space.identity, shipped.prior_identity) == (pack.space.identity, pack.prior_identity)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def seeds() -> list[bytes]:
    """A manifest with every field."""
    files = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in FILES.items()
    }
    manifest = {
        "format": 1,
        "name": "pack",
        "space": {"id": "sd1", "channels": 4, "downscale": 8, "scale": 0.18215, "shift": 0.0},
        "latent_distribution": True,
        "halo": {"encoder_px": 3, "decoder_latents": 2},
        "quality_range": [700, 300],
        "default_step": 512,
        "files": files,
        "license": "CC0-1.0",
        "prior": {"images": 3, "notes": ["a", {"b": None}]},
    }
    return [json.dumps(manifest).encode(), json.dumps({**manifest, "halo": None}).encode()]


TARGET = Target("manifest", seeds, mutate, run)
