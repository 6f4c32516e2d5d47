"""A NaN or Inf on one rank: everybody sees it in that parameter and nowhere else; residuals stay finite and whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import FOUR, TINY, flat, grads, inner, local_grads, loss_of, make_model, owner_residuals, sgd, train, worker_residuals
from ranks import run_ranks
from torch.nn.parallel import DistributedDataParallel as DDP

import torch_smoothquant as tsq

EF2 = "ErrorFeedback(Quantizer(bits=2))"
SPOILT = "2.weight"


def spoil(rank: int, world: int, bad: float, up: str, down: str | None, exchange: str, as_view: bool) -> dict[str, Any]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY, gradient_as_bucket_view=as_view)
    hook = tsq.attach(ddp, up, down, exchange=exchange)
    optimizer = sgd(ddp)
    train(ddp, optimizer, rank, range(3))
    before = hook.state_dict()

    def poison(grad: torch.Tensor) -> torch.Tensor:
        grad = grad.clone()
        grad[63, 5] = bad  # in one owner's part only
        return grad

    handle = inner(ddp).get_parameter(SPOILT).register_hook(poison) if rank == world - 1 else None
    train(ddp, None, rank, [3])
    seen = grads(ddp)
    if handle:
        handle.remove()
    after, count = hook.state_dict(), hook.stats()["non_finite"]
    losses = []
    for step in range(4, 30):  # the spoilt step is skipped, as a GradScaler would
        losses.append(loss_of(ddp.module, 0, 0).item())
        train(ddp, optimizer, rank, [step])
        assert all(g.isfinite().all() for g in grads(ddp).values())
    return {"before": before, "after": after, "seen": seen, "count": count, "losses": losses, "weights": flat(ddp)}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(("up", "down", "exchange"), [
    (EF2, None, "all_gather"), (EF2, None, "sharded"), (EF2, "Direct(Quantizer(bits=8))", "sharded"), (EF2, "Identity()", "sharded"),
    ("Quantizer(bits=4)", None, "all_gather"), ("Quantizer(bits=4)", EF2, "sharded"),
])
def test_non_finite_on_one_rank(bad, up, down, exchange):
    results = run_ranks(spoil, 3, bad, up, down, exchange, False)
    for rank, r in enumerate(results):
        for name, grad in r["seen"].items():
            assert grad.isfinite().all() == (name != SPOILT), (rank, name)
            assert torch.equal(grad.isfinite(), results[0]["seen"][name].isfinite())
        lost = ~r["seen"][SPOILT].flatten().isfinite()
        assert lost.all() or "ErrorFeedback" not in up
        assert r["count"] == 1 or exchange == "sharded"
        for state in (r["before"], r["after"]):
            assert all(v["values"].isfinite().all() for e in state["parameters"].values() for k, v in e.items() if isinstance(v, dict))
        for side in ("worker.residual", "owner.residual"):
            if side in r["before"]["parameters"][SPOILT]:  # what was lost everywhere, nobody's residual may count as sent
                old, new = (r[when]["parameters"][SPOILT][side] for when in ("before", "after"))
                here = lost[old["begin"] : old["begin"] + old["values"].numel()]
                exact = side == "worker.residual" and rank == 2
                torch.testing.assert_close(new["values"][here], old["values"][here], rtol=0, atol=0 if exact else 1e-6)
        assert r["losses"][-1] < r["losses"][0]
        assert torch.equal(r["weights"], results[0]["weights"])


def test_non_finite_with_bucket_views():
    for r in run_ranks(spoil, 2, float("nan"), EF2, None, "all_gather", True):
        assert r["seen"][SPOILT].isnan().all() and r["weights"].isfinite().all()


def exempt_nan(rank: int, world: int, exchange: str) -> dict[str, torch.Tensor | None]:
    ddp = DDP(make_model())
    tsq.attach(ddp, FOUR, exchange=exchange)
    if rank == 0:
        inner(ddp).get_parameter("0.bias").register_hook(lambda g: g * float("inf"))
    train(ddp, None, rank, [0])
    return grads(ddp)


@pytest.mark.parametrize("exchange", ["all_gather", "sharded", "dense"])
def test_non_finite_in_an_exempt_parameter(exchange):
    for seen in run_ranks(exempt_nan, 2, exchange):
        assert [n for n, g in seen.items() if not g.isfinite().all()] == ["0.bias"]


def overflow(rank: int, world: int, exchange: str) -> dict[str, Any]:
    """Finite gradients whose sum with the residual is not: only by accident; the residual must survive it."""
    ddp = DDP(make_model())
    hook = tsq.attach(ddp, FOUR, exchange=exchange)
    train(ddp, None, rank, range(2))
    state = hook.state_dict()
    if rank == 0:
        state["parameters"][SPOILT]["worker.residual"]["values"][4000] = 3e38
    hook.load_state_dict(state)
    before = worker_residuals(hook.state_dict())[SPOILT]

    def large(grad: torch.Tensor) -> torch.Tensor:
        grad = grad.clone()
        grad.view(-1)[4000] = 3e38
        return grad

    inner(ddp).get_parameter(SPOILT).register_hook(large)
    train(ddp, None, rank, [2])
    return {"seen": grads(ddp)[SPOILT], "before": before, "after": worker_residuals(hook.state_dict())[SPOILT]}


@pytest.mark.parametrize("exchange", ["all_gather", "sharded"])
def test_residual_plus_gradient_overflows(exchange):
    results = run_ranks(overflow, 2, exchange)
    for r in results:
        assert not r["seen"].isfinite().all() and r["after"].isfinite().all()
    if exchange == "all_gather":  # the message is one piece: all of it was lost
        kept = torch.arange(4096) != 4000
        for r in results:
            torch.testing.assert_close(r["after"][kept], r["before"][kept], rtol=0, atol=1e-6)


def scaler_skips(rank: int, world: int, policy: tsq.NeverSlower | None, spec: str | None) -> tuple[list[float], torch.Tensor]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, spec, policy=policy)
    optimizer, scaler = sgd(ddp), torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=4)
    scales = []
    for step in range(12):
        optimizer.zero_grad()
        loss = loss_of(ddp, rank, step)
        if rank == 1 and step == 5:
            loss = loss * float("inf")
        hook.set_loss_scale(scaler.get_scale())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales, flat(ddp)


@pytest.mark.parametrize(("policy", "spec"), [
    (None, EF2), (None, "EF21(TopK(ratio=0.2))"), (None, "EF21(Quantizer(bits=4), momentum=0.5, init='zero')"),
    (None, "CLAG(Quantizer(bits=4), zeta=1.0)"), (None, "MARINA(Quantizer(bits=4), p=0.5)"), (None, "DIANA(Quantizer(bits=4))"),
    (tsq.NeverSlower(min_gain=0.0), None),
], ids=["EF2", "EF21", "momentum", "CLAG", "MARINA", "DIANA", "never_slower"])
def test_grad_scaler_skips_the_same_step_on_every_rank(policy, spec):
    results = run_ranks(scaler_skips, 2, policy, spec)
    assert results[0][0] == results[1][0] and results[0][0][5] < results[0][0][4] and results[0][0][3] > 1024
    assert torch.equal(results[0][1], results[1][1]) and results[0][1].isfinite().all()


def conserved_over_a_nan(rank: int, world: int) -> dict[str, Any]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, EF2, exchange="sharded")
    given = torch.zeros(4096)
    got = torch.zeros(4096)
    for step in range(8):
        bad = step in (2, 5)
        handle = inner(ddp).get_parameter(SPOILT).register_hook(lambda g: g * float("nan")) if bad and rank == step % world else None
        train(ddp, None, rank, [step])
        if handle:
            handle.remove()
        if not bad:
            given += sum(local_grads(ddp, r, step)[SPOILT].flatten() for r in range(world)) / world
            got += grads(ddp)[SPOILT].flatten()
    return {"given": given, "got": got, "state": hook.state_dict()}


def test_conservation_over_skipped_steps():
    results = run_ranks(conserved_over_a_nan, 3)
    states = [r["state"] for r in results]
    owed = sum(worker_residuals(s)[SPOILT] for s in states) / 3 + owner_residuals(states)[SPOILT]
    assert owed.abs().max() > 1e-4
    torch.testing.assert_close(results[0]["got"] + owed, results[0]["given"], rtol=0, atol=3e-6)
