"""Parameters frozen and unfrozen in mid-run: what is owed waits, estimates go on, nothing is dropped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import TINY, Oracle, flat, grads, local_grads, make_model, sgd, train, worker_residuals
from ranks import run_ranks
from torch.nn.parallel import DistributedDataParallel as DDP

import torch_smoothquant as tsq

FROZEN = "2.weight"
FREEZE, THAW, END = 3, 6, 10


def freezing(rank: int, world: int, exchange: str) -> dict[str, Any]:
    """Against the documented averaging, which has no step for a parameter without a gradient."""
    ddp = DDP(make_model(), bucket_cap_mb=TINY, find_unused_parameters=True)
    hook = tsq.attach(ddp, "ErrorFeedback(Quantizer(bits=4))", exchange=exchange)
    oracle, optimizer = Oracle(ddp, world, exchange), sgd(ddp)
    parameter = ddp.module.get_parameter(FROZEN)
    kept = None
    for step in range(END):
        if step in (FREEZE, THAW):
            parameter.requires_grad_(step == THAW)
        by_rank = [trainable(ddp, r, step) for r in range(world)]
        steps_before = hook.state_dict()["parameters"][FROZEN]["steps"]
        want = oracle.average(by_rank)
        train(ddp, None, rank, [step])
        seen = grads(ddp)
        assert (seen[FROZEN] is None) == (FREEZE <= step < THAW)
        for name in want:  # dithers count the parameter's own steps: fitted levels have none
            assert torch.equal(seen[name], want[name]), (name, step)
        state = hook.state_dict()
        if FREEZE <= step < THAW:
            kept = worker_residuals(state)[FROZEN] if kept is None else kept
            assert torch.equal(worker_residuals(state)[FROZEN], kept) and kept.any()
            assert state["parameters"][FROZEN]["steps"] <= steps_before + 1
        optimizer.step()
    return {"weights": flat(ddp)}


def trainable(ddp: DDP, rank: int, step: int) -> dict[str, torch.Tensor]:
    parameters = {n: p for n, p in ddp.module.named_parameters() if p.requires_grad}
    frozen = [p for p in ddp.module.parameters() if not p.requires_grad]
    for p in frozen:  # local_grads asks for all
        p.requires_grad_(True)
    out = {n: g for n, g in local_grads(ddp, rank, step).items() if n in parameters}
    for p in frozen:
        p.requires_grad_(False)
    return out


@pytest.mark.parametrize("exchange", ("all_gather", "sharded"))
def test_a_frozen_parameter_keeps_what_it_is_owed(exchange):
    results = run_ranks(freezing, 2, exchange)
    assert torch.equal(results[0]["weights"], results[1]["weights"])


def estimating(rank: int, world: int, spec: str, exchange: str) -> dict[str, Any]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY, find_unused_parameters=True)
    hook = tsq.attach(ddp, spec, exchange=exchange, exempt=None)
    parameter = ddp.module.get_parameter(FROZEN)
    errors = []
    for phase in range(3):
        parameter.requires_grad_(phase != 1)
        for _ in range(4 if phase == 1 else 40):
            train(ddp, None, rank, [0])  # the gradient of the start again and again
        if phase == 1:
            assert grads(ddp)[FROZEN] is None
            continue
        true = sum(local_grads(ddp, r, 0)[FROZEN] for r in range(world)) / world
        errors.append(float((grads(ddp)[FROZEN] - true).norm() / true.norm()))
    return {"errors": errors, "grads": grads(ddp), "error": hook.stats()["error"]}


@pytest.mark.parametrize(("spec", "exchange"), [
    ("EF21(TopK(ratio=0.2))", "all_gather"), ("EF21(Quantizer(bits=3), init='zero')", "sharded"), ("CLAG(TopK(ratio=0.2), zeta=1.0)", "sharded"),
    ("AdaCGD([TopK(ratio=0.1), TopK(ratio=0.5)], zeta=0.5)", "all_gather"), ("DIANA(Quantizer(bits=4))", "sharded"),
])
def test_estimates_go_on_after_unfreezing(spec, exchange):
    results = run_ranks(estimating, 3, spec, exchange)
    for r in results:
        assert r["error"] == "" and max(r["errors"]) < 1e-3, r["errors"]
        assert all(torch.equal(r["grads"][n], g) for n, g in results[0]["grads"].items())


def rebuilt(rank: int, world: int, exchange: str) -> None:
    """Another DDP over fewer, then over all parameters: docs/tuning.md, "Freezing". Nothing of what both have is lost."""
    model = make_model()
    ddp = DDP(model, bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, "ErrorFeedback(Quantizer(bits=2))", exchange=exchange)
    train(ddp, None, rank, range(3))
    whole = hook.state_dict(mode="mean")
    hook.close()
    model.get_parameter(FROZEN).requires_grad_(False)
    fewer = DDP(model, bucket_cap_mb=TINY)
    hook = tsq.attach(fewer, "ErrorFeedback(Quantizer(bits=2))", exchange=exchange)
    with pytest.raises(ValueError, match=f"parameters: expected this model's, differs in .*{FROZEN}"):
        hook.load_state_dict(whole)
    hook.load_state_dict(merged(hook.state_dict(mode="mean"), whole))
    assert torch.equal(worker_residuals(hook.state_dict())["0.weight"], worker_residuals(whole)["0.weight"])
    train(fewer, None, rank, range(3, 5))
    some = hook.state_dict(mode="mean")
    hook.close()
    model.get_parameter(FROZEN).requires_grad_(True)
    again = DDP(model, bucket_cap_mb=TINY)
    hook = tsq.attach(again, "ErrorFeedback(Quantizer(bits=2))", exchange=exchange)
    hook.load_state_dict(merged(whole, some))
    residuals = worker_residuals(hook.state_dict())
    assert torch.equal(residuals[FROZEN], worker_residuals(whole)[FROZEN]) and residuals[FROZEN].any()
    assert torch.equal(residuals["0.weight"], worker_residuals(some)["0.weight"])
    train(again, None, rank, [5])
    assert "ErrorFeedback(Quantizer(bits=2))" in repr(hook) and f"rank {rank} of {world}" in repr(hook)


def merged(onto: dict[str, Any], newer: dict[str, Any]) -> dict[str, Any]:
    """``onto`` with what ``newer`` knows of its parameters."""
    return {**onto, "parameters": {n: newer["parameters"].get(n, entry) for n, entry in onto["parameters"].items()}}


@pytest.mark.parametrize("exchange", ("all_gather", "sharded"))
def test_a_module_over_other_parameters_takes_what_both_have(exchange):
    run_ranks(rebuilt, 2, exchange)
