"""Distortion of a painted picture: squared error, 1 - MS-SSIM, LPIPS with AlexNet, and in a window LPIPS, texture and
DISTS with VGG16.

Nothing here waits for the device: an update on a GPU is recorded once and replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdrt_metrics.fidelity import CONTRAST_FLOOR, LUMINANCE_FLOOR, SCALE_WEIGHTS, WINDOW
from sdrt_metrics.perceptual import TEXTURE_DEPTH, Dists, Lpips, pixels_of, texture_difference
from sdrt_train.model import DOWNSCALE, LEVELS

_WINDOW_CELLS = 6
_STRIDES = (2, 2, 1, 1, 1)  # windows of the finer scales overlap by 9 of 11 pixels then, in half the time
_MIN_SIMILARITY = 1e-3  # the gradient of a power near zero has no bound


@dataclass(frozen=True)
class LossConfig:
    """Weights of the distortion, and how much of a batch VGG16 sees: it costs more than the model itself.

    Attributes:
        mse: weight of the squared error in 8-bit levels, summed over the three channels.
        repeated: weight of the squared error that is the same in neighboring cells, beside ``mse``.
        structure: weight of 1 - MS-SSIM; this and the next four are in 8-bit levels of a step.
        alex: weight of LPIPS with AlexNet.
        vgg: weight of LPIPS with VGG16.
        texture: weight of the texture term in VGG16's window.
        dists: weight of DISTS in the same window.
        vgg_pictures: how many pictures of a batch VGG16 sees, of all workers together.
        vgg_crop_px: side of its window.
    """

    mse: float = 1.0
    repeated: float = 0.0
    structure: float = 0.0
    alex: float = 0.0
    vgg: float = 0.0
    texture: float = 0.0
    dists: float = 0.0
    vgg_pictures: int = 4
    vgg_crop_px: int = 112

    @property
    def sees_vgg(self) -> bool:
        """Whether any term needs VGG16."""
        return self.vgg > 0 or self.texture > 0 or self.dists > 0


class Distortion(nn.Module):
    """Weighted distortion of each picture, in bits a pixel, and its parts for the log."""

    def __init__(self, config: LossConfig, vgg_pictures: int) -> None:
        super().__init__()
        self.config, self.vgg_pictures = config, vgg_pictures
        self.alex = Lpips("alexnet") if config.alex > 0 else None
        self.vgg = Lpips("vgg16") if config.vgg > 0 or config.texture > 0 else None
        self.dists = Dists() if config.dists > 0 else None

    def measure(self, picture: Tensor, photo: Tensor, price: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Distortion of pictures.

        Args:
            picture: (N, 3, H, W), nominally in [-1, 1].
            photo: (N, 3, H, W) in [-1, 1].
            price: (N, 1, H, W), bits that a squared 8-bit level costs at each pixel.

        Returns:
            Bits a pixel (N,), and the means of the parts.
        """
        config, n = self.config, len(photo)
        squared = (picture - photo).square().sum(1, keepdim=True) * LEVELS**2
        total = config.mse * (squared * price).mean((1, 2, 3))
        parts = {"mse": squared.mean() / 3, "squared": total.mean()}
        # A perceptual distance falls more slowly with the step than a squared error: its price goes with the root.
        root = price.sqrt().mean((1, 2, 3))
        if config.repeated > 0:
            repeated = 3 * LEVELS**2 * repeated_error(picture, photo)
            total = total + config.repeated * repeated * price.mean((1, 2, 3))
            parts["repeated"] = repeated.mean() / 3
        if config.structure > 0:
            structure = 1 - ms_ssim(picture, photo, _STRIDES)
            total = total + config.structure * root * structure
            parts["structure"] = structure.mean()
        if self.alex is not None:
            # AlexNet strides by 4 and the decoder shuffles by 4: seen at one offset only, a grid goes unpunished.
            place = _Window(photo, photo.shape[2] - DOWNSCALE, photo.shape[3] - DOWNSCALE)
            alex = self.alex(place.of(picture), place.of(photo))
            total = total + config.alex * root * alex
            parts["alex"] = alex.mean()
        if config.sees_vgg:
            height, width = photo.shape[2:]
            size = min(config.vgg_crop_px, height, width)
            place = _Window(photo, size, size)
            ours, theirs = place.of(picture[: self.vgg_pictures]), place.of(photo[: self.vgg_pictures])
            if self.vgg is not None:
                with torch.no_grad():
                    real = self.vgg.features_of(theirs)
                painted = self.vgg.features_of(ours)
                vgg, texture = self.vgg.distance(painted, real), texture_distance(painted, real)
                total = total + root * spread(config.vgg * vgg + config.texture * texture, n)
                parts["vgg"], parts["texture"] = vgg.mean(), texture.mean()
            if self.dists is not None:
                dists = self.dists((ours + 1) / 2, (theirs + 1) / 2)
                total = total + root * spread(config.dists * dists, n)
                parts["dists"] = dists.mean()
        return total, {name: part.detach() for name, part in parts.items()}


class _Window:
    """A window of height x width pixels at a random place, the same in all pictures like (N, C, H, W) ``picture``."""

    def __init__(self, picture: Tensor, height: int, width: int) -> None:
        self._rows, self._columns = (
            torch.randint(whole - seen + 1, (1,), device=picture.device) + torch.arange(seen, device=picture.device)
            for whole, seen in zip(picture.shape[2:], (height, width), strict=True)
        )

    def of(self, picture: Tensor) -> Tensor:
        return picture.index_select(2, self._rows).index_select(3, self._columns)


def spread(values: Tensor, n: int) -> Tensor:
    """Values of the first few pictures as those of all n: zero for the others, the mean unchanged."""
    return n / len(values) * F.pad(values, (0, n - len(values)))


def repeated_error(picture: Tensor, photo: Tensor) -> Tensor:
    """The squared error that repeats from cell to cell of a latent's size.

    Features do not see where they lie, so a network that lacks bits for texture learns to print one pattern into every
    cell: LPIPS and DISTS take it for texture, eyes see a grid.

    Args:
        picture: (N, C, H, W), sides multiples of 16.
        photo: the same.

    Returns:
        (N,): the mean square of the error's mean cell, over windows of up to 6x6 cells, beyond what unrelated cells
        have; constant offsets of a cell do not count. 0 at least.
    """
    error = (picture - photo).float()
    n, channels, height, width = error.shape
    rows, columns = (min(_WINDOW_CELLS, side // DOWNSCALE) for side in (height, width))
    down, across = height // DOWNSCALE // rows, width // DOWNSCALE // columns
    error = error[..., : down * rows * DOWNSCALE, : across * columns * DOWNSCALE]
    cells = error.reshape(n, channels, down, rows, DOWNSCALE, across, columns, DOWNSCALE)
    cells = cells - cells.mean((4, 7), keepdim=True)
    repeated = cells.mean((3, 6)).square().flatten(1).mean(1)
    by_chance = cells.square().flatten(1).mean(1) / (rows * columns)
    return (repeated - by_chance).clamp_min(0)


def ms_ssim(picture: Tensor, photo: Tensor, strides: Sequence[int] = (1, 1, 1, 1, 1)) -> Tensor:
    """MS-SSIM as `sdrt_metrics.fidelity` defines it, differentiable.

    Args:
        picture: (N, C, H, W), nominally in [-1, 1], at least 161 pixels a side.
        photo: the same, in [-1, 1].
        strides: how far apart the windows lie at each scale, in its pixels. 1 is the definition.

    Returns:
        (N,), the mean over channels; 1 for equal pictures.
    """
    x, y = picture.float() * LEVELS, photo.float() * LEVELS
    # The window's moments are of pixels from 0 on; the middle of the range only shifts their means.
    middle = LEVELS
    product = torch.ones(x.shape[:2], device=x.device)
    with torch.autocast(x.device.type, enabled=False):
        for scale, (weight, stride) in enumerate(zip(SCALE_WEIGHTS, strides, strict=True)):
            if scale > 0:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
            rows, columns = (_windows(side, stride, x.device) for side in x.shape[2:])
            x_mean, y_mean, xx, yy, xy = (rows @ plane @ columns.T for plane in (x, y, x * x, y * y, x * y))
            variances = xx - x_mean.square() + yy - y_mean.square()
            similarity = (2 * (xy - x_mean * y_mean) + CONTRAST_FLOOR) / (variances + CONTRAST_FLOOR)
            if scale == len(SCALE_WEIGHTS) - 1:
                x_mean, y_mean = x_mean + middle, y_mean + middle
                luminance = 2 * x_mean * y_mean + LUMINANCE_FLOOR
                similarity = similarity * luminance / (x_mean.square() + y_mean.square() + LUMINANCE_FLOOR)
            product = product * similarity.mean((2, 3)).clamp_min(_MIN_SIMILARITY) ** weight
    return product.mean(1)


@lru_cache(maxsize=16)
def _windows(side_px: int, stride: int, device: torch.device) -> Tensor:
    """(windows, side): SSIM's Gaussian window at every ``stride``-th place of a row. A blur by two products of matrices
    is faster on a CPU than one by convolution."""
    taps = torch.from_numpy(WINDOW).float()
    starts = range(0, side_px - len(taps) + 1, stride)
    return torch.stack([F.pad(taps, (start, side_px - len(taps) - start)) for start in starts]).to(device)


def texture_distance(painted: list[Tensor], real: list[Tensor]) -> Tensor:
    """(N,) from feature maps: ``texture_difference`` over the window, weighted sum over maps."""
    total = torch.zeros(painted[0].shape[0], device=painted[0].device)
    for weight, a, b in zip(TEXTURE_DEPTH, painted, real, strict=True):
        total = total + weight * texture_difference(mean_and_deviation(a), mean_and_deviation(b))
    return total


def mean_and_deviation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel of (N, C, h, w), each (N, C), as torch.std_mean."""
    pixels = pixels_of(features)
    mean = pixels.mean(1)
    centered = pixels - mean[:, None]
    return mean, (centered.square().sum(1) / (pixels.shape[1] - 1)).sqrt()
