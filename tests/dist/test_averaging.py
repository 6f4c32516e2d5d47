"""What comes out of a backward: plain DDP's bits where nothing is compressed, else the documented average, the same on every rank."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from models import FOUR, TINY, Oracle, flat, grads, local_grads, make_model, owner_residuals, sgd, train, worker_residuals
from ranks import run_ranks
from torch.nn.parallel import DistributedDataParallel as DDP

import torch_smoothquant as tsq

WORLDS = (2, 3)
EXCHANGES = ("all_gather", "sharded")


# ------------------------------------------------------------------ Identity is plain DDP


def against_plain(rank: int, world: int, spec: str, exchange: str, options: dict[str, Any], set_to_none: bool) -> dict[str, Any]:
    model = make_model()
    plain, ours = DDP(copy.deepcopy(model), **options), DDP(copy.deepcopy(model), **options)
    hook = tsq.attach(ours, spec, exchange=exchange)
    one, two = sgd(plain), sgd(ours)
    for step in range(20):
        train(plain, one, rank, [step], set_to_none=set_to_none)
        train(ours, two, rank, [step], set_to_none=set_to_none)
        for (name, p), q in zip(plain.module.named_parameters(), ours.module.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad), f"gradient of {name} in step {step}"
        assert torch.equal(flat(plain), flat(ours)), f"weights after step {step}"
    return hook.stats()


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("options", "set_to_none"), [
    ({}, True), ({}, False), ({"bucket_cap_mb": TINY}, True), ({"bucket_cap_mb": 0.01}, True), ({"gradient_as_bucket_view": True}, True),
    ({"gradient_as_bucket_view": True, "bucket_cap_mb": TINY}, True),
    ({"static_graph": True, "bucket_cap_mb": TINY}, True), ({"find_unused_parameters": True, "bucket_cap_mb": TINY}, True),
], ids=lambda v: ",".join(v) if isinstance(v, dict) else ("none" if v else "zero"))
def test_identity_is_plain_ddp_bit_for_bit(world, options, set_to_none):
    for stats in run_ranks(against_plain, world, "Identity()", "auto", options, set_to_none):
        assert stats["dense_calls"] == stats["calls"] >= 20
        assert stats["state_bytes"] == 0 and stats["error"] == ""
        assert stats["calls"] >= 18 * {None: 1, 0.01: 2, TINY: 6}[options.get("bucket_cap_mb")]


def reused_views(rank: int, world: int) -> float:
    model, options = make_model(), {"gradient_as_bucket_view": True}
    plain, ours = DDP(copy.deepcopy(model), **options), DDP(copy.deepcopy(model), **options)
    tsq.attach(ours, "Identity()")
    train(plain, None, rank, range(5), set_to_none=False)
    train(ours, None, rank, range(5), set_to_none=False)
    pairs = zip(plain.module.parameters(), ours.module.parameters(), strict=True)
    return max((p.grad - q.grad).abs().max().item() for p, q in pairs)


def test_reused_bucket_views_differ_by_roundings_at_most():
    """Where a gradient already lies in its bucket, plain DDP divides by W; else it multiplies by 1/W, as we always do. A hook cannot see
    which, so that the bits agree for powers of two only."""
    assert run_ranks(reused_views, 2) == [0.0, 0.0]
    assert 0 < max(run_ranks(reused_views, 3)) < 1e-6


def test_dense_exchange_is_plain_ddp_for_every_spec():
    run_ranks(against_plain, 2, "ErrorFeedback(Quantizer(bits=1))", "dense", {"bucket_cap_mb": TINY}, True)


# ------------------------------------------------------------------ the documented average


def follow(rank: int, world: int, spec: str | None, exchange: str, oracle: dict[str, Any]) -> dict[str, Any]:
    """Trains; compares every delivered gradient with the oracle's; returns what the conservation law needs."""
    ddp = DDP(make_model(), bucket_cap_mb=0.01)
    hook = tsq.attach(ddp, spec, exchange=exchange, seed=17)
    expected = Oracle(ddp, world, exchange, seed=17, **oracle)
    optimizer, weights = sgd(ddp), []
    given = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in ddp.module.named_parameters()}
    got = copy.deepcopy(given)
    for step in range(8):
        by_rank = [local_grads(ddp, r, step) for r in range(world)]
        want = expected.average(by_rank)
        train(ddp, None, rank, [step])
        for name, delivered in grads(ddp).items():
            assert torch.equal(delivered, want[name]), f"{name} in step {step}"
            given[name] += sum(g[name].double() for g in by_rank) / world
            got[name] += delivered.double()
        optimizer.step()
        weights.append(flat(ddp))
    state = hook.state_dict()
    for name, residual in worker_residuals(state).items():
        assert torch.equal(residual, expected.worker[name][rank]), name
    return {"weights": torch.stack(weights), "given": given, "got": got, "state": state, "stats": hook.stats()}


def conserved(results: list[dict[str, Any]]) -> float:
    """Largest |delivered + owed - given| over elements, with owed = mean of the workers' residuals + the owners'."""
    states = [r["state"] for r in results]
    workers = [worker_residuals(s) for s in states]
    owners = owner_residuals(states) if results[0]["stats"]["exchange"] == "sharded" else {}
    worst = 0.0
    for name, given in results[0]["given"].items():
        owed = torch.zeros_like(given).flatten()
        if name in workers[0]:
            owed += sum(w[name].double() for w in workers) / len(workers)
            owed += owners[name].double() if name in owners else 0
            assert owed.abs().max() > 1e-4
        worst = max(worst, (results[0]["got"][name].flatten() + owed - given.flatten()).abs().max().item())
    return worst


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize(("spec", "oracle"), [
    ("ErrorFeedback(Quantizer(bits=4))", {}),
    ("ErrorFeedback(Quantizer(bits=2))", {"bits": 2}),
    ("ErrorFeedback(Quantizer(bits=5, levels='unbiased'))", {"bits": 5, "levels": "unbiased"}),
    ("Direct(Quantizer(bits=3))", {"bits": 3, "levels": "unbiased", "feedback": False}),
], ids=["EF 4 bits", "EF 2 bits", "EF dithered", "Direct"])
def test_documented_average_on_every_rank(world, exchange, spec, oracle):
    results = run_ranks(follow, world, spec, exchange, oracle)
    for other in results[1:]:
        assert torch.equal(results[0]["weights"], other["weights"])
    if oracle.get("feedback", True):
        assert conserved(results) < 2e-6
    else:
        assert results[0]["stats"]["state_bytes"] == 0


def mixed_down(rank: int, world: int) -> tuple[torch.Tensor, dict[str, Any]]:
    ddp = DDP(make_model(), bucket_cap_mb=0.01)
    hook = tsq.attach(ddp, "ErrorFeedback(Quantizer(bits=2))", "Direct(Quantizer(bits=8))")
    train(ddp, sgd(ddp), rank, range(5))
    return flat(ddp), hook.stats()


def test_down_of_its_own_makes_auto_sharded():
    results = run_ranks(mixed_down, 3)
    assert all(torch.equal(results[0][0], weights) for weights, _ in results)
    assert results[0][1]["exchange"] == "sharded" and results[0][1]["down"] == "Direct(Quantizer(bits=8))"


def five_ranks(rank: int, world: int) -> tuple[torch.Tensor, str]:
    ddp = DDP(make_model())
    hook = tsq.attach(ddp, FOUR)
    train(ddp, sgd(ddp), rank, range(3))
    return flat(ddp), hook.stats()["exchange"]


def test_five_ranks_are_sharded_by_default():
    results = run_ranks(five_ranks, 5)
    assert all(torch.equal(results[0][0], weights) and exchange == "sharded" for weights, exchange in results)


def one_rank(rank: int, world: int) -> dict[str, Any]:
    ddp, alone = DDP(make_model()), make_model()
    hook = tsq.attach(ddp)
    train(ddp, sgd(ddp), rank, range(3))
    train(alone, sgd(alone), rank, range(3))
    assert torch.equal(flat(ddp), flat(alone))
    return hook.stats()


def test_a_world_of_one_is_left_alone():
    (stats,) = run_ranks(one_rank, 1)
    assert stats["wire_bytes"] == 0 and stats["calls"] == stats["dense_calls"] == 3


# ------------------------------------------------------------------ other compressors


def shrinks_the_loss(rank: int, world: int, spec: str, exchange: str) -> tuple[float, list[torch.Tensor]]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, spec, exchange=exchange)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.05)
    for step in range(8):
        train(ddp, optimizer, rank, [step])
    return hook.stats()["ratio"], [p.detach().clone() for p in ddp.parameters()]


@pytest.mark.parametrize("exchange", ["all_gather", "sharded"])
@pytest.mark.parametrize(("spec", "least"), [("ErrorFeedback(TopK(ratio=0.01))", 4), ("ErrorFeedback(Sign())", 4), ("Direct(Ternary())", 4), ("Direct(Natural())", 1.5)])
def test_other_compressors_travel_too(spec, least, exchange):
    """Ranks stay bit-identical, also where the length of a message depends on the data; the bytes fall."""
    (ratio, first), *others = run_ranks(shrinks_the_loss, 3, spec, exchange)
    assert all(torch.equal(a, b) for _, weights in others for a, b in zip(first, weights, strict=True))
    assert all(w.isfinite().all() for w in first)
    assert ratio > least  # a tiny model: exempt parameters and headers weigh
