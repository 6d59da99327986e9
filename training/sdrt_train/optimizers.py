"""The optimizers that a recipe may name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn


class Together(torch.optim.Optimizer):
    """Two optimizers that step as one: the first for matrices and kernels, the second for vectors and scales."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([{"params": [nn.Parameter(torch.zeros(()))]}], {})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)


def build_optimizer(name: str, parameters: Mapping[float, Iterable[nn.Parameter]]) -> torch.optim.Optimizer:
    """Adam for all, or SOAP for matrices and kernels and Adam for the rest.

    Args:
        name: "adam" or "soap" (arXiv 2409.11321).
        parameters: by learning rate.
    """
    groups: list[dict[str, Any]] = [{"params": list(some), "lr": rate} for rate, some in parameters.items()]
    groups = [group for group in groups if group["params"]]
    if name == "adam":
        return torch.optim.Adam(groups, betas=(0.9, 0.99), fused=True)
    import pytorch_optimizer  # for trials only, so no dependency of the project

    wide = [{**group, "params": [p for p in group["params"] if p.ndim >= 2]} for group in groups]
    narrow = [{**group, "params": [p for p in group["params"] if p.ndim < 2]} for group in groups]
    soap = pytorch_optimizer.SOAP(
        [group for group in wide if group["params"]],
        betas=(0.9, 0.95),
        weight_decay=0.0,
        precondition_frequency=10,
        max_precondition_dim=600,
        precondition_1d=False,
    )
    adam = torch.optim.Adam([group for group in narrow if group["params"]], betas=(0.9, 0.99), fused=True)
    return Together([soap, adam])
