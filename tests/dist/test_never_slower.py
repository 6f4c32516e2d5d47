"""``NeverSlower`` over real Gloo: whatever it chooses, averages are right, the ranks agree, nothing is lost. No timing asserts: what it
chooses over which link is tested with a simulated clock (tests/cpp/hook/steering_test.cpp)."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch
from models import FOUR, TINY, flat, grads, local_grads, loss_of, make_model, no_sync_unless, sgd, train
from ranks import run_ranks
from torch.nn.parallel import DistributedDataParallel as DDP

import torch_smoothquant as tsq

STEPS = 40
EAGER = tsq.NeverSlower(min_gain=0.0)  # switches at the slightest reason


def owes(hook: tsq.Hook) -> dict[str, torch.Tensor]:
    """The mean over ranks of what is owed, by parameter."""
    out: dict[str, torch.Tensor] = {}
    for name, entry in hook.state_dict(mode="mean")["parameters"].items():
        vectors = [entry[k]["values"] for k in ("worker.residual", "worker.owed", "owner.residual") if k in entry]
        out[name] = sum((v.double() for v in vectors), torch.zeros(()).double())
    return out


def choosing(rank: int, world: int, exchange: str, cap: float) -> dict[str, Any]:
    ddp = DDP(make_model(), bucket_cap_mb=cap)
    hook = tsq.attach(ddp, policy=EAGER, exchange=exchange)
    given = {n: torch.zeros(p.numel()).double() for n, p in ddp.module.named_parameters()}
    got = {n: g.clone() for n, g in given.items()}
    plans, optimizer = [], sgd(ddp)
    for step in range(STEPS):
        for r in range(world):
            for name, g in local_grads(ddp, r, step).items():
                given[name] += g.double().flatten() / world
        train(ddp, None, rank, [step])
        for name, g in grads(ddp).items():
            got[name] += g.double().flatten()
        plans.append(hook.stats()["policy"]["buckets"])
        optimizer.step()
    debts = owes(hook)
    for name in given:  # conservation: delivered + owed = the sum of the mean gradients
        error = (given[name] - got[name] - debts[name].flatten()).abs().max().item()
        assert error < 1e-4 * (1 + given[name].abs().max().item()), (name, error)
    return {"weights": flat(ddp), "plans": plans, "stats": hook.stats(), "line": hook.log_line()}


@pytest.mark.parametrize(("world", "exchange", "cap"), [(2, "auto", 25), (2, "sharded", TINY), (3, "auto", TINY), (4, "all_gather", 25)])
def test_ranks_agree_and_nothing_is_lost(world, exchange, cap):
    results = run_ranks(choosing, world, exchange, cap)
    first = results[0]
    for r in results[1:]:
        assert torch.equal(r["weights"], first["weights"])
        assert r["plans"] == first["plans"]
        for key in ("calls", "dense_calls", "collectives"):
            assert r["stats"][key] == first["stats"][key], key
    policy = first["stats"]["policy"]
    assert policy["name"] == "NeverSlower" and policy["reason"] and policy["step_seconds"] > 0
    assert policy["alternatives"][0]["buckets"] == ["dense"] * len(policy["buckets"])
    assert all(a["seconds"] >= 0 for a in policy["alternatives"])
    assert policy["costs"] and "NeverSlower: " in first["line"]
    assert len(policy["buckets"]) == (1 if cap == 25 else 6)


def under(rank: int, world: int, kinds: list[str]) -> dict[str, Any]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp)
    before = hook.stats()["policy"]
    make = {"sgd": sgd, "adam": lambda ddp: torch.optim.AdamW(ddp.parameters())}[kinds[rank]]
    train(ddp, make(ddp), rank, range(STEPS))
    return {"before": before, "after": hook.stats()["policy"], "metric": hook.stats()["policy"]["metric"]}


@pytest.mark.parametrize(("kinds", "usable"), [(["sgd", "sgd"], 5), (["adam", "adam"], 3), (["sgd", "adam"], 3)])
def test_the_ladder_follows_the_optimizer(kinds, usable):
    for kind, result in zip(kinds, run_ranks(under, 2, kinds), strict=True):
        assert len(result["after"]["ladder"]) == 5 and result["before"]["usable"] == 3 and result["before"]["metric"] is None
        assert result["after"]["usable"] == usable
        assert result["metric"] == ("sgd" if kind == "sgd" else None)


def beside(rank: int, world: int, kind: str) -> dict[str, Any]:
    ddp, spec = DDP(make_model(), bucket_cap_mb=TINY), "ErrorFeedback(TopK(ratio=0.1))"
    if kind == "cat":
        own = torch.Generator().manual_seed(rank)
        diagonals = {name: torch.rand(p.numel(), generator=own) + 0.5 for name, p in ddp.module.named_parameters()}
        cat = tsq.CAT(tsq.AffineCost(1e-3, 1e-5), smoothness=diagonals)
        hook = tsq.attach(ddp, spec, policy=tsq.NeverSlower(cat, min_gain=0.0))
    else:
        hook = tsq.attach(ddp, "ErrorFeedback(Quantizer(bits=2))", policy=EAGER, smoothness=tsq.Running(kind, warmup=3, interval=5))
    train(ddp, sgd(ddp), rank, range(STEPS))
    return {"weights": flat(ddp), "stats": hook.stats(), "parameters": hook.stats_by_parameter()}


@pytest.mark.parametrize("kind", ["cat", "second_moment", "secant"])
def test_beside_what_chooses_how_much(kind):
    first, *others = run_ranks(beside, 3, kind)
    for other in others:
        assert torch.equal(other["weights"], first["weights"])
        assert other["stats"]["policy"]["buckets"] == first["stats"]["policy"]["buckets"]
        if kind != "cat":  # the same plan, though buckets were dense in some steps
            assert [p.get("bits") for p in other["parameters"].values()] == [p.get("bits") for p in first["parameters"].values()]
    if kind != "cat":
        bits = [p["bits"] for p in first["parameters"].values() if p.get("bits") is not None]
        assert len(bits) > 1 and len(set(bits)) > 1


def refused(rank: int, world: int) -> None:
    ddp = DDP(make_model())
    for policy, smoothness in ((tsq.NeverSlower(), tsq.Running()), (EAGER, tsq.Running("kronecker"))):
        with pytest.raises(ValueError, match="NeverSlower beside smoothness"):
            tsq.attach(ddp, policy=policy, smoothness=smoothness)
    with pytest.raises(ValueError, match="CAT chooses the number of entries"):
        tsq.attach(ddp, policy=tsq.NeverSlower(tsq.CAT(tsq.BitCost())))
    tsq.attach(ddp)


def test_refused_beside_smoothness():
    run_ranks(refused, 2)


def steered(rank: int, world: int) -> torch.Tensor:
    """set_spec, set_enabled, a new layout, no_sync, checkpoints: in one run."""
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook, optimizer = tsq.attach(ddp, FOUR, policy=tsq.NeverSlower(min_gain=0.0)), sgd(ddp)
    assert hook.stats()["policy"]["ladder"] == [FOUR]
    train(ddp, optimizer, rank, range(12))
    hook.set_enabled(False)
    before = hook.stats()
    train(ddp, optimizer, rank, range(12, 15))
    after = hook.stats()
    assert after["dense_calls"] - before["dense_calls"] == after["calls"] - before["calls"]
    hook.set_enabled(True)
    hook.set_spec("ErrorFeedback(Quantizer(bits=2))")
    assert hook.stats()["policy"]["ladder"] == ["ErrorFeedback(Quantizer(bits=2))"]
    train(ddp, optimizer, rank, range(15, 30))
    for micro in range(3):
        with no_sync_unless(ddp, micro == 2):
            loss_of(ddp, rank, 100 + micro).backward()
    optimizer.step()
    with pytest.raises(ValueError, match="without momentum"):
        hook.set_spec("EF21(Quantizer(bits=4), momentum=0.1)")
    for mode in ("rank", "mean"):
        saved = hook.state_dict(mode)
        hook.load_state_dict(saved)
        train(ddp, optimizer, rank, range(30, 34))
    return flat(ddp)


def test_steering_by_hand():
    first, other = run_ranks(steered, 2)
    assert torch.equal(first, other) and bool(first.isfinite().all())


def uneven(rank: int, world: int) -> torch.Tensor:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    tsq.attach(ddp, policy=EAGER)
    optimizer = sgd(ddp)
    with torch.distributed.algorithms.join.Join([ddp]):
        train(ddp, optimizer, rank, range(15 + 6 * rank))
    train(ddp, sgd(ddp), rank, range(50, 60))  # who joined early has other momenta in the old optimizer
    return flat(ddp)


def test_join():
    first, *others = run_ranks(uneven, 3)
    assert all(torch.equal(first, other) for other in others)


def unused(rank: int, world: int) -> torch.Tensor:
    ddp = DDP(make_model(), bucket_cap_mb=TINY, find_unused_parameters=True)
    tsq.attach(ddp, policy=EAGER)
    optimizer = sgd(ddp)
    for step in range(20):
        ddp.zero_grad()
        out = ddp(torch.randn(4, 40, generator=torch.Generator().manual_seed(step * 2 + rank)))
        (out.square().mean() if step % 3 else 0 * out.sum()).backward()
        optimizer.step()
    return flat(ddp)


def test_find_unused_parameters():
    first, other = run_ranks(unused, 2)
    assert torch.equal(first, other)


def killed(rank: int, world: int, steps: int) -> str:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, policy=EAGER, timeout=3)
    train(ddp, None, rank, range(steps))
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(RuntimeError, match="torch_smoothquant") as caught:
        train(ddp, None, rank, range(steps, steps + 8))
    if steps:  # DDP's own collectives after its first step would find the dead rank before the hook does
        with pytest.raises(RuntimeError, match="failed earlier"):
            train(ddp, None, rank, [99])
    assert hook.stats()["error"]
    hook.close()
    return str(caught.value)


@pytest.mark.parametrize("steps", [0, 3, 6])  # before the glance at the link, before the first decision, and after it
def test_a_peer_that_dies_raises(steps):
    survivor, dead = run_ranks(killed, 2, steps, may_die=[1])
    assert dead is None and "averaging a bucket failed" in survivor


def alone(rank: int, world: int) -> dict[str, Any]:
    ddp = DDP(make_model())
    hook = tsq.attach(ddp)
    train(ddp, None, rank, range(3))
    assert "one rank" in hook.log_line()
    return hook.stats()


def test_one_rank():
    (stats,) = run_ranks(alone, 1)
    assert stats["policy"]["buckets"] == [] and stats["wire_bytes"] == 0


def levels_that_are_gone(rank: int, world: int) -> None:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp)
    train(ddp, None, rank, range(12))
    hook.set_spec(FOUR)
    for step in range(12, 22):
        seen = hook.stats()["policy"]  # raised IndexError where it spoke of coarser levels
        assert seen["ladder"] == [FOUR] and all(b == "dense" or b.endswith(FOUR) for a in seen["alternatives"] for b in a["buckets"])
        hook.log_line()
        train(ddp, None, rank, [step])


def test_after_set_spec_statistics_know_the_one_level_that_is_left():
    run_ranks(levels_that_are_gone, 2)
