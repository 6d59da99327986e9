"""The optimizers that a recipe may name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn


def build_optimizer(name: str, parameters: Mapping[float, Sequence[nn.Parameter]]) -> torch.optim.Optimizer:
    """Adam, SOAP or Muon, for parameters by learning rate; Muon treats vectors as Adam does."""
    groups: list[dict[str, Any]] = [{"params": list(some), "lr": rate} for rate, some in parameters.items() if some]
    if name == "adam":
        return torch.optim.Adam(groups, betas=(0.9, 0.99))
    import pytorch_optimizer  # trials only

    if name == "soap":
        return pytorch_optimizer.SOAP(
            groups, betas=(0.9, 0.95), weight_decay=0.0, precondition_frequency=10, max_precondition_dim=600, merge_dims=True
        )
    split = []
    for group in groups:
        wide, narrow = [p for p in group["params"] if p.ndim >= 2], [p for p in group["params"] if p.ndim < 2]
        split += [
            {"params": wide, "use_muon": True, "lr": group["lr"] * 10, "weight_decay": 0.0},
            {"params": narrow, "use_muon": False, "lr": group["lr"], "weight_decay": 0.0},
        ]
    return pytorch_optimizer.Muon([group for group in split if group["params"]])
