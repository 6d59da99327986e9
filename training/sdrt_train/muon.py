"""Muon: momentum whose matrices are made orthogonal, so that all directions of a layer move alike.

Jordan et al., "Muon" (2024); scaled as in Liu et al., "Muon is scalable for LLM training" (arXiv 2502.16982), so that
it takes Adam's learning rates. torch.optim.Muon refuses kernels, which here count as matrices of
(out, in x height x width).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

# Amsel et al., "The Polar Express" (arXiv 2505.16932): the best odd polynomials of degree 5, one after another, with
# 2 % of room for bfloat16's rounding.
_ROOM = 1.02
_POLYNOMIALS = (
    (8.1566, -22.4833, 15.8788),
    (4.0429, -2.8089, 0.5000),
    (3.8917, -2.7725, 0.5061),
    (3.2858, -2.3681, 0.4645),
    (2.3465, -1.7098, 0.4232),
)


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices to some of any shape, roughly: all but the smallest singular values come near 1.

    Args:
        matrices: (N, rows, columns).
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / (_ROOM * x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for a, b, c in _POLYNOMIALS:
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """An optimizer of matrices and kernels.

    Args:
        parameters: of two or more dimensions.
        lr: the root mean square of an update is a fifth of it, as Adam's are in practice. May be a tensor.
        momentum: decay of the gradients' running sum; Nesterov's variant.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float | Tensor, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; ``closure`` is not used."""
        for group in self.param_groups:
            # Matrices of one shape are multiplied together: a GPU spends longer on launching a product than on one.
            alike: dict[tuple[int, ...], list[tuple[nn.Parameter, Tensor]]] = {}
            for parameter in group["params"]:
                sums = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                sums.mul_(group["momentum"]).add_(parameter.grad)
                ahead = parameter.grad.add(sums, alpha=group["momentum"]).flatten(1)
                alike.setdefault(tuple(ahead.shape), []).append((parameter, ahead))
            for shape, pairs in alike.items():
                together = torch.stack([ahead for _, ahead in pairs])
                distance = group["lr"] * 0.2 * max(shape) ** 0.5
                for (parameter, _), update in zip(pairs, orthogonal(together) * distance, strict=True):
                    parameter.sub_(update.view_as(parameter))
