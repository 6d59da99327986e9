"""What an exported graph is compared with: diffusers' own class, read where possible by diffusers' own reader.

A mistake in reading a source cannot be seen by the same reader. So nothing here uses the modules that were exported:
the picture goes through ``encode`` and ``decode`` as a pipeline would call them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sdrt.errors import ModelError, first_line
from sdrt.packs.manifest import LatentSpace
from sdrt_export.autoencoders import Adapter, import_diffusers
from sdrt_export.spaces import translation
from sdrt_export.weights_files import CONFIG, variant_of


@dataclass(frozen=True)
class Reference:
    """An autoencoder in torch with a pack's latents."""

    encode: Callable[[Tensor], Tensor]
    """A sample (N, 3, H, W) in [-1, 1] -> raw latents of the pack's space (N, C, h, w)."""
    decode: Callable[[Tensor], Tensor]
    """The way back; a sample, nominally in [-1, 1]."""
    reader: str
    """Whose class and whose reader, in words."""


def of_modules(encoder: nn.Module, decoder: nn.Module, channels: int, reader: str) -> Reference:
    """Two modules unchanged; of the encoder's output the first ``channels`` (the mean)."""
    return Reference(lambda sample: encoder(sample)[:, :channels], decoder, reader)


def of_diffusers(adapter: Adapter, vae: Any, found: LatentSpace, space: LatentSpace, reader: str) -> Reference:
    """diffusers' ``encode`` and ``decode``, whose latents are those of ``found``, for a pack of ``space``."""
    vae = vae.eval().float()
    factor, offset = translation(found, space)
    return Reference(
        lambda sample: adapter.encode(vae, sample) * factor + offset,
        lambda latents: adapter.decode(vae, (latents - offset) / factor),
        f"diffusers' {adapter.facts.name}, weights read by {reader}",
    )


def read_folder(adapter: Adapter, home: Path, weights: Path) -> Any:
    """``from_pretrained`` on a folder. Raises ModelError where diffusers refuses what the export took."""
    kind = getattr(import_diffusers(), adapter.facts.name)
    options = {"variant": variant_of(weights), "use_safetensors": ".safetensors" in weights.name}
    try:
        return kind.from_pretrained(str(home), local_files_only=True, low_cpu_mem_usage=False, **options)
    except Exception as error:  # OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError
        raise ModelError(f"diffusers cannot read {home} for comparison: {first_line(error)}") from None


def read_single_file(adapter: Adapter, path: Path, config: Mapping[str, Any]) -> Any:
    """``from_single_file`` with a configuration that would otherwise be fetched. Raises ModelError likewise."""
    kind = getattr(import_diffusers(), adapter.facts.name)
    with tempfile.TemporaryDirectory() as folder:
        described = {**config, "_class_name": adapter.facts.name}
        (Path(folder) / CONFIG).write_text(json.dumps(described), encoding="utf-8")
        try:
            return kind.from_single_file(str(path), config=folder, local_files_only=True)
        except Exception as error:  # as above
            raise ModelError(f"diffusers cannot read {path} for comparison: {first_line(error)}") from None
