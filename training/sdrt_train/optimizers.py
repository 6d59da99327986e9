"""The optimizers that a recipe may name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_LEAST_SIDE = 8  # of a matrix that is worth making orthogonal


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal: each direction of a layer's input and output moves alike.

    Kernels count as matrices (out, in x height x width). An update has the root mean square that Adam's have, so that
    both take the same learning rates. Jordan et al., "Muon" (2024); the scale is that of Liu et al., "Muon is scalable
    for LLM training" (arXiv 2502.16982).
    """

    def __init__(self, parameters: Iterable[Any], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; ``closure`` is not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                ahead = torch.lerp(parameter.grad, state["momentum"], group["momentum"])
                matrix = ahead.flatten(1)
                scale = 0.2 * max(matrix.shape) ** 0.5
                parameter.add_(orthogonal(matrix).view_as(parameter), alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix, about: five Newton-Schulz steps that bring singular values into 0.7 to 1.2."""
    x = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Together(torch.optim.Optimizer):
    """Several optimizers, of different parameters, that step as one."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([{"params": [nn.Parameter(torch.zeros(()))]}], {})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of each; ``closure`` is not used."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Of each."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Of each, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def build_optimizer(
    name: str, networks: Iterable[nn.Parameter], others: Mapping[float, Iterable[nn.Parameter]], learning_rate: float
) -> torch.optim.Optimizer:
    """Adam for all, or Muon for the networks' matrices and kernels and Adam for the rest.

    Args:
        name: "adam" or "muon".
        networks: parameters of the networks.
        others: parameters, by learning rate, that Adam learns in any case.
        learning_rate: of the networks.
    """
    for_adam: dict[float, list[nn.Parameter]] = {learning_rate: []}
    for rate, some in others.items():
        for_adam.setdefault(rate, []).extend(some)
    matrices: list[nn.Parameter] = []
    for parameter in networks:
        wide = parameter.ndim >= 2 and min(parameter.flatten(1).shape) >= _LEAST_SIDE
        (matrices if name == "muon" and wide else for_adam[learning_rate]).append(parameter)
    groups = [{"params": some, "lr": rate} for rate, some in for_adam.items() if some]
    adam = torch.optim.Adam(groups, betas=(0.9, 0.99), fused=True)
    return Together([adam, Muon(matrices, lr=learning_rate)]) if matrices else adam
