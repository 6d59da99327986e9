"""Parts of autoencoders rewritten so that they trace into single nodes: no arithmetic on shapes, nothing frozen.

Each computes what the part that it replaces computes. Besides this, a tensor's shape is used in one way only: a Reshape
to the shape of another tensor. What a submodule called ``in_float32`` computes stays in float32 in every precision
(``sdrt_export.precision.WIDE_SCOPE``).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from sdrt.errors import ModelError


def prepare(module: nn.Module) -> nn.Module:
    """A float32 copy in evaluation mode that computes the same with parts that trace into single nodes.

    Raises:
        ModelError: diffusers' attention in a form that has no rewriting here.
    """
    prepared = copy.deepcopy(module).eval().float()
    replaced = _replacement(prepared)
    if replaced is not None:
        return replaced
    for parent in list(prepared.modules()):
        for name, child in list(parent.named_children()):
            replaced = _replacement(child)
            if replaced is not None:
                setattr(parent, name, replaced)
    return prepared


def _replacement(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.PixelUnshuffle):
        return Unshuffle(module.downscale_factor)
    # By name: diffusers is imported where checkpoints are read, and only there.
    if type(module).__module__.startswith("diffusers.") and type(module).__name__ == "Attention":
        return _from_diffusers(module)
    return None


class Unshuffle(nn.Module):
    """PixelUnshuffle as one convolution with a single 1 in each kernel: exact, and no Reshape of six dimensions.

    The first run learns the number of channels; a traced kernel must be constant.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.channels = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.channels == 0:
            self.channels = x.shape[1]
            picks = torch.eye(self.factor**2).reshape(-1, 1, self.factor, self.factor)
            self.register_buffer("picks", picks.repeat(self.channels, 1, 1, 1))
        return nn.functional.conv2d(x, self.picks, stride=self.factor, groups=self.channels)  # type: ignore[arg-type]


class _Reshape(torch.autograd.Function):
    """One Reshape with a constant shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        return x.reshape(x.shape[0], *(x.shape[1] if side == 0 else side for side in shape))

    @staticmethod
    def symbolic(g: Any, x: Any, shape: tuple[int, ...]) -> Any:
        return g.op("Reshape", x, g.op("Constant", value_t=torch.tensor([0, *shape])))


def flatten(x: Tensor, rows: tuple[int, ...] = (0,)) -> Tensor:
    """(N, C, H, W) -> (N, C, HW), or (N, heads, C / heads, HW) with ``rows`` (heads, C / heads)."""
    flat: Tensor = _Reshape.apply(x, (*rows, -1))  # type: ignore[no-untyped-call]
    return flat


class _ReshapeAs(torch.autograd.Function):
    """Any tensor of as many numbers -> (N, C, H, W) of another tensor as one Reshape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, like: Tensor) -> Tensor:
        return x.reshape(like.shape)

    @staticmethod
    def symbolic(g: Any, x: Any, like: Any) -> Any:
        return g.op("Reshape", x, g.op("Shape", like))


def reshape_as(x: Tensor, like: Tensor) -> Tensor:
    """``x`` in the shape of ``like``, which has as many numbers."""
    shaped: Tensor = _ReshapeAs.apply(x, like)  # type: ignore[no-untyped-call]
    return shaped


class _Split(torch.autograd.Function):
    """(N, C, H, W) -> parts of constant numbers of channels as one Split."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
        return tuple(part.clone() for part in torch.split(x, list(sizes), 1))

    @staticmethod
    def symbolic(g: Any, x: Any, sizes: tuple[int, ...]) -> Any:
        return g.op("Split", x, g.op("Constant", value_t=torch.tensor(sizes)), axis_i=1, outputs=len(sizes))


def split(x: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """(N, C, H, W) -> consecutive parts with these numbers of channels."""
    parts: tuple[Tensor, ...] = _Split.apply(x, sizes)  # type: ignore[no-untyped-call]
    return parts


class _SpaceToDepth(torch.autograd.Function):
    """One SpaceToDepth."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, side: int) -> Tensor:
        batch, channels, height, width = x.shape
        blocks = x.reshape(batch, channels, height // side, side, width // side, side)
        return blocks.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)

    @staticmethod
    def symbolic(g: Any, x: Any, side: int) -> Any:
        return g.op("SpaceToDepth", x, blocksize_i=side)


def space_to_depth(x: Tensor, side: int) -> Tensor:
    """(N, C, H, W) -> (N, side * side * C, H / side, W / side) as one SpaceToDepth.

    The new channels are in the order row, column, channel; ``nn.PixelUnshuffle`` has channel, row, column.
    """
    folded: Tensor = _SpaceToDepth.apply(x, side)  # type: ignore[no-untyped-call]
    return folded


class _DepthToSpace(torch.autograd.Function):
    """One DepthToSpace of mode DCR."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, side: int) -> Tensor:
        batch, _, height, width = x.shape
        blocks = x.reshape(batch, side, side, -1, height, width)
        return blocks.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)

    @staticmethod
    def symbolic(g: Any, x: Any, side: int) -> Any:
        return g.op("DepthToSpace", x, blocksize_i=side, mode_s="DCR")


def depth_to_space(x: Tensor, side: int) -> Tensor:
    """(N, side * side * C, h, w) -> (N, C, side * h, side * w) as one DepthToSpace: undoes ``space_to_depth``."""
    spread: Tensor = _DepthToSpace.apply(x, side)  # type: ignore[no-untyped-call]
    return spread


class RmsNorm(nn.Module):
    """x over its root mean square across channels, times a weight and plus a bias for each channel."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, added: float = 0.0, minimum: float = 0.0) -> None:
        """``added``: to the mean square (an epsilon). ``minimum``: of the root, which is clamped to it."""
        super().__init__()
        self.weight = nn.Parameter(weight.detach().float().flatten()[:, None, None].clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().float().flatten()[:, None, None].clone())
        self.in_float32 = _InverseRms(added, minimum)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = x * self.in_float32(x) * self.weight
        return normed if self.bias is None else normed + self.bias


class _InverseRms(nn.Module):
    def __init__(self, added: float, minimum: float) -> None:
        super().__init__()
        self.added, self.minimum = added, minimum

    def forward(self, x: Tensor) -> Tensor:
        square = x.square().mean(1, keepdim=True)
        root = torch.sqrt(square + self.added) if self.added else torch.sqrt(square)
        return 1 / (root.clamp_min(self.minimum) if self.minimum else root)


class SpatialAttention(nn.Module):
    """Attention with one head over all positions of a picture, as autoencoders use it: norm, three maps, out, residual.

    Queries and keys are each scaled by the fourth root, so that their product stays small in half precision too.
    """

    def __init__(
        self,
        norm: nn.Module,
        query: nn.Conv2d,
        key: nn.Conv2d,
        value: nn.Conv2d,
        out: nn.Conv2d,
        *,
        scaled: bool = True,
        residual: bool = True,
        divisor: float = 1.0,
    ) -> None:
        """``query`` and ``key`` become this module's own and are changed; ``scaled``: by 1/sqrt(channels) in all."""
        super().__init__()
        self.norm, self.query, self.key, self.value, self.out = norm, query, key, value, out
        root = query.out_channels**-0.25 if scaled else 1.0
        for layer in (self.query, self.key):
            for parameter in layer.parameters():
                parameter.data *= root
        self.residual, self.divisor = residual, divisor

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        normed = self.norm(x)
        query, key, value = (flatten(layer(normed)) for layer in (self.query, self.key, self.value))
        weights = torch.softmax(query.transpose(1, 2) @ key, dim=-1)
        mixed: Tensor = self.out(reshape_as(value @ weights.transpose(1, 2), x))
        mixed = mixed + x if self.residual else mixed
        return mixed if self.divisor == 1.0 else mixed / self.divisor


def _from_diffusers(attention: Any) -> SpatialAttention:
    plain = attention.heads == 1 and attention.spatial_norm is None and attention.norm_q is None
    if not plain or attention.to_k.in_features != attention.to_q.in_features:
        raise ModelError("this autoencoder's attention has several heads or a norm of its own: not supported")
    return SpatialAttention(
        attention.group_norm or nn.Identity(),
        pointwise(attention.to_q),
        pointwise(attention.to_k),
        pointwise(attention.to_v),
        pointwise(attention.to_out[0]),
        scaled=bool(attention.scale_qk),
        residual=bool(attention.residual_connection),
        divisor=float(attention.rescale_output_factor),
    )


def pointwise(linear: nn.Linear) -> nn.Conv2d:
    """A linear layer over channels as a 1x1 convolution with weights of its own."""
    return conv(linear.weight.data[:, :, None, None], None if linear.bias is None else linear.bias.data)


def conv(
    weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: tuple[int, int] = (0, 0), groups: int = 1
) -> nn.Conv2d:
    """A convolution with copies of these weights, (out, in / groups, height, width), in float32."""
    outputs, inputs, *kernel = weight.shape
    layer = nn.Conv2d(
        inputs * groups,
        outputs,
        (kernel[0], kernel[1]),
        stride=stride,
        padding=padding,
        groups=groups,
        bias=bias is not None,
    )
    layer.weight.data = weight.detach().float().clone()
    if layer.bias is not None and bias is not None:
        layer.bias.data = bias.detach().float().clone()
    return layer


def averages(inputs: int, outputs: int, *, side: int = 1, frames: int = 1) -> nn.Conv2d:
    """Means over consecutive channels of a picture whose blocks of ``side`` x ``side`` pixels were made channels.

    Args:
        inputs: channels before the blocks are made channels.
        outputs: channels of the result; each is a mean of ``inputs * frames * side**2 / outputs`` numbers.
        side: of a block, in pixels; its channels are in the order channel, frame, row, column.
        frames: of a block; the picture is the last one, those before it are zeros.

    Raises:
        ModelError: the numbers do not divide evenly.
    """
    block = frames * side**2
    each = inputs * block // outputs
    if each * outputs != inputs * block or max(each, block) % min(each, block):
        raise ModelError(f"{inputs} channels at {side} x {side} cannot be averaged to {outputs}")
    groups = outputs if each >= block else inputs
    # Row o of a group takes its ``each`` of the group's numbers, in the order channel, frame, row, column.
    rows = torch.eye(outputs // groups).repeat_interleave(each, 1) / each
    weight = rows.reshape(outputs // groups, inputs // groups, frames, side, side)[:, :, -1].repeat(groups, 1, 1, 1)
    return conv(weight, stride=side, groups=groups)


def copies(inputs: int, outputs: int) -> nn.Conv2d:
    """Each channel several times in a row.

    Raises:
        ModelError: the number of ``outputs`` is no multiple of that of ``inputs``.
    """
    if outputs % inputs:
        raise ModelError(f"{inputs} channels cannot be copied to {outputs}")
    return conv(torch.ones(outputs, 1, 1, 1), groups=inputs)
