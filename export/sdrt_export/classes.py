"""diffusers' classes of autoencoders that are exported, and what is known of each without torch.

``autoencoders`` says how each becomes two graphs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class AutoencoderClass:
    """Facts about one of diffusers' classes."""

    name: str
    prefix: str
    """Of the id of a space that is named by its encoder's weights. Classes that share encoders share it."""
    channels: str = "latent_channels"
    """The configuration's field for the number of latent channels."""
    latent_distribution: bool = False
    """Its encoder gives mean and log-variance."""
    translates: bool = False
    """Its latents are a larger autoencoder's after scale and shift: graphs of a named space translate them."""
    unscaled: bool = False
    """Its configuration may have no scaling factor, because its latents need none."""
    rgba: bool = False
    """Its pictures have four channels: it is exported for opaque ones, without the fourth."""
    marks: tuple[str, ...] = ()
    """Parts of tensor names by which a single file of it is recognized. None: AutoencoderKL, which is what is left."""
    single_file: bool = False
    """The tensors of a single file say its configuration. Else the file is refused by the class's name."""


_VIDEO_MARKS = ("decoder.middle.0.residual.0.gamma", "decoder.mid_block.resnets.0.norm1.gamma")

CLASSES = {
    entry.name: entry
    for entry in (
        AutoencoderClass("AutoencoderKL", "kl", latent_distribution=True, single_file=True),
        AutoencoderClass(
            "AutoencoderKLFlux2",
            "kl",
            latent_distribution=True,
            unscaled=True,
            marks=("bn.running_mean",),
            single_file=True,
        ),
        AutoencoderClass(
            "AutoencoderTiny",
            "tiny",
            translates=True,
            unscaled=True,
            marks=("encoder.layers.0.weight",),
            single_file=True,
        ),
        AutoencoderClass(
            "AutoencoderDC",
            "dc",
            marks=(
                "decoder.up_blocks.0.0.",
                "encoder.project_in.main.conv.weight",
                "encoder.stages.0.op_list.0.main.conv1.conv.weight",
            ),
        ),
        AutoencoderClass(
            "AutoencoderKLHunyuanImage",
            "hunyuan",
            latent_distribution=True,
            marks=("encoder.down_blocks.0.conv1.weight",),
        ),
        AutoencoderClass(
            "AutoencoderKLKVAE",
            "kvae",
            channels="z_channels",
            latent_distribution=True,
            unscaled=True,
            marks=(".downsample.spatial_conv.weight",),
        ),
        AutoencoderClass("AutoencoderKLQwenImage", "wan", channels="z_dim", marks=_VIDEO_MARKS),
        AutoencoderClass("AutoencoderKLWan", "wan", channels="z_dim", marks=_VIDEO_MARKS),
        AutoencoderClass("AutoencoderKLQwenImage21", "qwen21", channels="z_dim", rgba=True, marks=_VIDEO_MARKS),
    )
}
"""By name."""


def marked(names: Iterable[str]) -> list[AutoencoderClass]:
    """The classes that the tensor names of a single file have a mark of; none for AutoencoderKL's."""
    listed = list(names)
    return [each for each in CLASSES.values() if any(mark in name for mark in each.marks for name in listed)]


def in_one_file(classes: Iterable[AutoencoderClass]) -> str:
    """Why a file is refused that is of one of these classes, which a single file does not describe."""
    return f"{' or '.join(each.name for each in classes)} in one file: give the folder with its config.json"
