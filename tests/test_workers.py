"""Laws of training in several processes: together they take the step that one process takes on the whole batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the training stage needs torch")

WORKER = """
import sys
import torch
from sdrt_train.workers import Workers

workers = Workers.join()
torch.manual_seed(0)
layer, batch = torch.nn.Linear(3, 2), torch.randn(4, 3)
share = workers.share_of(len(batch))
mine = batch[workers.rank * share : (workers.rank + 1) * share]
layer(mine).square().sum(1).mean().backward()
workers.average_gradients(list(layer.parameters()))
told = {
    "pictures": len(mine),
    "gradients": [p.grad for p in layer.parameters()],
    "any": [workers.any(workers.rank == 1), workers.any(False)],
    "of first": workers.of_first(10.0 + workers.rank),
}
torch.save(told, f"{sys.argv[1]}/{workers.count}-{workers.rank}.pt")
workers.leave()
"""


def told_by(count: int, folder: Path) -> list[dict[str, object]]:
    """What each of ``count`` processes has to tell, started as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    command = [sys.executable, "-c", WORKER, str(folder)]
    processes = [subprocess.Popen(command, env={**common, "RANK": str(rank)}) for rank in range(count)]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0] * count
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{count}-{rank}.pt", weights_only=True) for rank in range(count)]


def test_two_workers_have_the_gradients_of_one(tmp_path: Path) -> None:
    """Each of two sees half of the batch and ends with the gradients of all of it; a flag in one is known to both, and
    the first one's value holds."""
    (alone,), both = told_by(1, tmp_path), told_by(2, tmp_path)
    assert alone["pictures"] == 4 and [one["pictures"] for one in both] == [2, 2]
    for one in both:
        for gradient, whole in zip(one["gradients"], alone["gradients"], strict=True):
            assert torch.allclose(gradient, whole, atol=1e-6)
        assert one["any"] == [True, False] and one["of first"] == 10.0
    assert alone["any"] == [False, False]
