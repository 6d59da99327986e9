"""Decoders of others, with random weights (which take as long as trained ones), at one picture size.

SD 1.5's VAE and TAESD come from diffusers. CompressAI's decoders are written out here to its layout at the quality that
0.15 bpp needs, because the package pulls numpy 1 and another torch: networks only, without their entropy coding.

GDN: Balle et al., "Density modeling of images using a generalized normalization transformation", ICLR 2016.
mbt2018-mean: Minnen et al., NeurIPS 2018. cheng2020-anchor: Cheng et al., CVPR 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SD_CHANNELS, SD_DOWNSCALE = 4, 8
SD15_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": SD_CHANNELS,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}


class _InverseGdn(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        norm: Tensor = self.gamma(x * x)
        return x * norm.abs().sqrt()


def _up(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(n_in, n_out * 4, 3, padding=1), nn.PixelShuffle(2))


class _Residual(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(n, n, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(n, n, 3, padding=1), nn.LeakyReLU()]
        self.body = nn.Sequential(*convs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


class _ResidualUp(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_up(n, n), nn.LeakyReLU(), nn.Conv2d(n, n, 3, padding=1), _InverseGdn(n))
        self.skip = _up(n, n)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x) + self.skip(x)
        return y


def mbt2018_mean(n: int = 128, m: int = 192) -> nn.Module:
    """(1, m, h, w) -> (1, 3, 16 h, 16 w); 192 and 320 from quality 5 on."""

    def deconv(n_in: int, n_out: int) -> nn.Module:
        return nn.ConvTranspose2d(n_in, n_out, 5, stride=2, padding=2, output_padding=1)

    layers: list[nn.Module] = [deconv(m, n), _InverseGdn(n), deconv(n, n), _InverseGdn(n)]
    return nn.Sequential(*layers, deconv(n, n), _InverseGdn(n), deconv(n, 3)).eval()


def cheng2020_anchor(n: int = 128) -> nn.Module:
    """(1, n, h, w) -> (1, 3, 16 h, 16 w); 192 from quality 4 on."""
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [_Residual(n), _ResidualUp(n)]
    return nn.Sequential(*layers, _Residual(n), _up(n, 3)).eval()


def _diffusers() -> Any:
    import diffusers
    from diffusers.utils import logging

    logging.set_verbosity_error()  # it warns about casts that change nothing here
    return diffusers


def sd15_vae() -> Any:
    """AutoencoderKL in SD 1.5's configuration (83.7 M parameters, 49.5 M of them in the decoder)."""
    torch.manual_seed(0)
    return _diffusers().AutoencoderKL(**SD15_VAE).eval()


def taesd() -> Any:
    """AutoencoderTiny in TAESD's configuration, which is its default (1.22 M parameters in the decoder)."""
    torch.manual_seed(0)
    return _diffusers().AutoencoderTiny().eval()


def export_decoder(make: Callable[[], Any], name: str, folder: Path) -> Path:
    """The decoder of diffusers' autoencoder as ``make export`` writes it (w16), kept in ``folder`` for the next run."""
    from sdrt_export.autoencoders import describe_space, halves
    from sdrt_export.graph import trace
    from sdrt_export.precision import convert

    path = folder / f"{name}.decoder.onnx"
    if not path.exists():
        vae = make()
        space = describe_space(vae, None, None)
        _, decoder = halves(vae, space, space)
        example = torch.zeros(2, space.channels, 3, 5)
        model = convert(trace(decoder, example, "latent_sample", "sample"), "w16")
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(model.SerializeToString())
        part.replace(path)
    return path


def torch_decode(decode: Callable[[Tensor], Any], latents: Tensor, dtype: str) -> Callable[[], object]:
    """A call of ``decode`` in float32, or under bfloat16 autocast."""

    def run() -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            return decode(latents)

    return run
