"""Large buckets travel in parcels (csrc/hook/parcel_stream.h): over Gloo averages are those of whole vectors, and nothing hangs."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch
from models import flat
from ranks import run_ranks
from torch.nn.parallel import DistributedDataParallel as DDP

import torch_smoothquant as tsq

SHAPE = (1024, 1537)  # 1.6 M elements, no multiple of a block


class Product(torch.nn.Module):
    """The gradient of `weight` is the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(SHAPE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weight * x).sum()


def gradient(rank: int, step: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(100 * step + rank))


def backward(ddp: DDP, rank: int, step: int) -> torch.Tensor:
    ddp.zero_grad()
    ddp(gradient(rank, step)).backward()
    return ddp.module.weight.grad.flatten()


def against_endpoints(rank: int, world: int, spec: str) -> dict[str, Any]:
    ddp = DDP(Product())
    hook, n = tsq.attach(ddp, spec), SHAPE[0] * SHAPE[1]
    senders = [tsq.Sender(spec, n, rank=r, world_size=world) for r in range(world)]
    receiver = tsq.Receiver(spec, n, world_size=world)
    for step in range(3):
        expected = receiver.receive([s.send(gradient(r, step).flatten()) for r, s in enumerate(senders)])
        assert torch.equal(backward(ddp, rank, step), expected), f"step {step}"
    return hook.stats()


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("spec", ["ErrorFeedback(Quantizer(bits=4))", "ErrorFeedback(UniformStep(step=1.5))"])
def test_as_one_vector(world, spec):
    for stats in run_ranks(against_endpoints, world, spec):
        assert stats["collectives"] >= 3 * 5, "was not cut"


def rate(rank: int, world: int) -> float:
    ddp = DDP(Product())
    hook = tsq.attach(ddp, "ErrorFeedback(UniformStep(bits=1.0))")
    for step in range(6):
        backward(ddp, rank, step)
    return hook.stats()["wire_bytes"] * 8 / (6 * SHAPE[0] * SHAPE[1])


def test_the_rate_is_met():
    assert run_ranks(rate, 2) == pytest.approx([1.0, 1.0], rel=0.03)


def dies_between(rank: int, world: int) -> str:
    ddp = DDP(Product())
    hook = tsq.attach(ddp, "ErrorFeedback(UniformStep(bits=1.0))", timeout=5)
    for step in range(3):  # DDP's own collectives, with which it rebuilds its buckets, are behind
        backward(ddp, rank, step)
    before = hook.state_dict()["parameters"]["weight"]["worker.residual"]["values"].clone()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(RuntimeError, match="torch_smoothquant") as caught:
        for step in range(3, 7):
            backward(ddp, rank, step)
    after = hook.state_dict()["parameters"]["weight"]["worker.residual"]["values"]
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)  # the step that failed was taken back
    hook.close()
    return str(caught.value)


def test_a_peer_that_dies_raises():
    survivor, dead = run_ranks(dies_between, 2, may_die=[1])
    assert dead is None and "averaging a bucket failed" in survivor


def not_a_number(rank: int, world: int) -> None:
    ddp = DDP(Product())
    tsq.attach(ddp, "ErrorFeedback(UniformStep(bits=1.0))")
    backward(ddp, rank, 0)
    x = gradient(rank, 1)
    if rank == 1:
        x[700, 3] = float("nan")
    ddp.zero_grad()
    ddp(x).backward()
    assert bool(ddp.module.weight.grad.isnan().all())
    assert bool(backward(ddp, rank, 2).isfinite().all())


def test_a_nan_marks_the_whole_parameter():
    run_ranks(not_a_number, 2)


def default(rank: int, world: int) -> torch.Tensor:
    ddp = DDP(Product())
    tsq.attach(ddp)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    for step in range(16):
        backward(ddp, rank, step)
        optimizer.step()
    return flat(ddp)


def test_the_default_keeps_replicas_equal():
    first, other = run_ranks(default, 2)
    assert torch.equal(first, other)
