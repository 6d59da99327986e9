"""Several processes that train one model: each takes its share of a batch, gradients are averaged.

``torchrun`` starts them and says who is who; without it there is one worker and nothing to do.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Workers:
    """One of ``count`` processes, the ``rank``-th; the first one measures, prints and saves."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> Workers:
        """This process among those that torchrun started; alone where it did not."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(dist.get_rank(), count)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def device(self) -> torch.device:
        """A GPU of this process' own, or the CPU."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device

    def share_of(self, pictures: int) -> int:
        """How many of a batch's pictures one worker takes. Raises ValueError where it is no whole number: with a
        larger batch it would be another recipe."""
        if pictures % self.count:
            raise ValueError(f"a batch of {pictures} cannot be shared evenly by {self.count} workers")
        return pictures // self.count

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Replaces every gradient by its mean over workers, in one exchange."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        together = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(together)
        parts = torch.split(together.div_(self.count), [g.numel() for g in gradients])
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set in any worker."""
        return bool(self._reduced(torch.tensor(float(flag)), dist.ReduceOp.MAX))

    def of_first(self, value: float) -> float:
        """The first worker's ``value``, in every worker."""
        mine = torch.tensor(value if self.first else 0.0, dtype=torch.float64)
        return float(self._reduced(mine, dist.ReduceOp.SUM))

    def _reduced(self, value: Tensor, operation: object) -> Tensor:
        if self.count > 1:
            value = value.to(self.device())
            dist.all_reduce(value, operation)
        return value

    def leave(self) -> None:
        if self.count > 1:
            dist.destroy_process_group()
