"""Parameters that do not lie in memory as they are indexed (channels_last): DDP's buckets, and so all state, are in the order of memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP

import torch_smoothquant as tsq

LAST = torch.channels_last


def conv(memory_format: torch.memory_format = LAST) -> DDP:
    torch.manual_seed(0)
    return DDP(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3)).to(memory_format=memory_format))


def train(ddp: DDP, rank: int, steps: range) -> None:
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    for step in steps:
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(10 * step + rank))
        optimizer.zero_grad()
        (ddp(x) - 1).square().mean().backward()
        optimizer.step()


def secant(rank: int, world: int) -> Any:
    ddp = conv()
    hook = tsq.attach(ddp, "ErrorFeedback(Quantizer(bits=2))", smoothness=tsq.Running("secant", warmup=1, interval=2))
    train(ddp, rank, range(6))
    return torch.cat([p.detach().flatten() for p in ddp.parameters()]), hook.stats_by_parameter()["1.weight"]["bits"]


def test_secants():
    (one, bits), (two, same) = run_ranks(secant, 2)
    assert torch.equal(one, two) and bits == same and bits is not None


def ranked(rank: int, world: int, exchange: str) -> float:
    ddp = conv()
    rough = torch.ones(32, 16, 3, 3)
    rough[:, ::2] = 1e12  # every second channel
    hook = tsq.attach(ddp, "Direct(TopK(ratio=0.5))", exchange=exchange,
                      policy=tsq.CAT(tsq.AffineCost(100.0, 1.0), smoothness={"1.weight": rough.flatten()}))
    before = ddp.module[1].weight.detach().clone()
    train(ddp, rank, range(2))
    hook.close()
    moved = ddp.module[1].weight.detach() != before
    assert moved[:, 1::2].any()
    return moved[:, ::2].double().mean().item()


@pytest.mark.parametrize(("exchange", "world"), [("all_gather", 2), ("sharded", 3)])
def test_elements_are_ranked_as_they_are_indexed(exchange, world):
    assert run_ranks(ranked, world, exchange) == [0.0] * world


def told(rank: int, world: int) -> torch.Tensor:
    ddp = DDP(nn.Conv2d(1024, 2, 3).to(memory_format=LAST))  # in memory a run of 1024 elements is one place of the filter
    hook = tsq.attach(ddp, "ErrorFeedback(Quantizer(bits=2))", smoothness=tsq.Running("hutchinson"))
    rough = torch.full((2, 1024, 3, 3), 1e-6)
    rough[:, :, 0, 0] = 1.0
    hook.update_smoothness({"weight": rough})
    return hook.state_dict()["running"]["parameters"]["weight"][-20:-2]  # means over the runs, and two counters


def test_curvature_is_told_as_elements_are_indexed():
    expected = torch.tensor(([1.0] + [1e-6] * 8) * 2, dtype=torch.float64)
    for found in run_ranks(told, 2):
        torch.testing.assert_close(found, expected)


def loads(rank: int, world: int) -> None:
    states, hooks = [], []
    for memory_format in (torch.contiguous_format, LAST):
        ddp = conv(memory_format)
        hooks.append(tsq.attach(ddp, "ErrorFeedback(Quantizer(bits=2))"))
        train(ddp, rank, range(2))
        states.append(hooks[-1].state_dict())
    for hook, state in zip(hooks, states[::-1], strict=True):
        with pytest.raises(ValueError, match="^state_dict: .*strides"):
            hook.load_state_dict(state)
    for hook, state in zip(hooks, states, strict=True):
        hook.load_state_dict(state)


def test_a_state_of_another_order_is_refused():
    run_ranks(loads, 2)
