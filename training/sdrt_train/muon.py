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


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix to one of any shape, roughly: all but the smallest singular values come near 1."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / (_ROOM * x.norm() + 1e-7)
    for a, b, c in _POLYNOMIALS:
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """An optimizer of matrices and kernels.

    Args:
        parameters: of two or more dimensions.
        lr: the root mean square of an update is a fifth of it, as Adam's are in practice.
        momentum: decay of the gradients' running sum; Nesterov's variant.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; ``closure`` is not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                sums = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                sums.mul_(group["momentum"]).add_(parameter.grad)
                ahead = parameter.grad.add(sums, alpha=group["momentum"]).flatten(1)
                scale = 0.2 * max(ahead.shape) ** 0.5
                parameter.add_(orthogonal(ahead).view_as(parameter), alpha=-group["lr"] * scale)
