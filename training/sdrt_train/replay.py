"""A function that is recorded once as a CUDA graph and replayed: an update launches thousands of small kernels, and to
launch them one by one takes longer than to run them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UPS = 3  # calls before the recording, in which cuDNN chooses its kernels and optimizers make their state


class Replayed:
    """``function``, of one tensor of a fixed shape, without its Python.

    Args:
        function: waits for the device nowhere, and returns the same names each time.
        example: what it is called with while it warms up and is recorded; only the former calls take effect.
    """

    def __init__(self, function: Callable[[Tensor], dict[str, Tensor]], example: Tensor) -> None:
        self._given = example.clone()
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UPS):
                function(self._given)
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._results = function(self._given)

    def __call__(self, batch: Tensor) -> dict[str, Tensor]:
        """The results hold until the next call."""
        self._given.copy_(batch)
        self._graph.replay()
        return self._results
