"""attach(smoothness=Running(...)): plans of widths, the same on all ranks, carried through everything a hook goes through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import TINY, flat, local_grads, loss_of, make_model, no_sync_unless, sgd, train
from ranks import run_ranks
from torch.nn.parallel import DistributedDataParallel as DDP

import torch_smoothquant as tsq

SPEC = "ErrorFeedback(Quantizer(bits=2.5))"
OFTEN = {"warmup": 2, "interval": 3, "decay": 0.5}
PLANNED = ("0.weight", "2.weight")


def plan(hook: tsq.Hook) -> dict[str, tuple[float, float]]:
    return {name: (e["bits"], e["weight"]) for name, e in hook.stats_by_parameter().items() if e["bits"] is not None}


def unlike(model: torch.nn.Sequential) -> torch.nn.Sequential:
    """Two layers whose gradients differ in size."""
    with torch.no_grad():
        model[2].weight *= 8
    return model


def planned(rank: int, world: int, kind: str, exchange: str) -> tuple[torch.Tensor, list[Any], Any]:
    ddp = DDP(unlike(make_model()), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, SPEC, exchange=exchange, smoothness=tsq.Running(kind, **OFTEN))
    plans = train(ddp, sgd(ddp), rank, range(9), lambda step: plan(hook))
    return flat(ddp), plans, hook.state_dict("mean")["running"]


@pytest.mark.parametrize("world", (2, 3))
@pytest.mark.parametrize(("kind", "exchange"), [("second_moment", "all_gather"), ("second_moment", "sharded"), ("secant", "all_gather")])
def test_widths_and_weights_are_the_same_on_all_ranks(world, kind, exchange):
    outcomes = run_ranks(planned, world, kind, exchange)
    weights, plans, running = outcomes[0]
    for other, other_plans, other_running in outcomes[1:]:
        assert torch.equal(weights, other) and plans == other_plans
        assert running["steps"] == other_running["steps"] == 8
        assert all(torch.equal(v, other_running["parameters"][n]) for n, v in running["parameters"].items())
    assert all(p == {name: (2.5, 1.0) for name in PLANNED} for p in plans[:2])  # the warm-up
    bits = plans[-1]
    assert set(bits) == set(PLANNED) and bits["0.weight"][0] > bits["2.weight"][0]
    assert all(1 <= b <= 8 for b, _ in bits.values())
    runs = {"0.weight": 2, "2.weight": 4}  # whole ones of 1024
    assert sum(int(bits[n][0] * r) for n, r in runs.items()) == int(2.5 * 6)


def straight(rank: int, world: int, exchange: str, kind: str, folder: Path) -> torch.Tensor:
    ddp = DDP(unlike(make_model()), bucket_cap_mb=TINY)
    hook, optimizer = tsq.attach(ddp, SPEC, exchange=exchange, smoothness=tsq.Running(kind, **OFTEN)), sgd(ddp)
    train(ddp, optimizer, rank, range(7))
    torch.save({"hook": hook.state_dict(), "model": ddp.module.state_dict(), "optimizer": optimizer.state_dict()}, folder / f"{rank}.pt")
    torch.save({"hook": hook.state_dict("mean"), "plan": plan(hook)}, folder / "mean.pt")
    train(ddp, optimizer, rank, range(7, 14))
    return flat(ddp)


def resumed(rank: int, world: int, exchange: str, kind: str, folder: Path) -> torch.Tensor:
    state = torch.load(folder / f"{rank}.pt", weights_only=True)
    ddp = DDP(make_model(seed=9), bucket_cap_mb=0.01)  # other buckets than before
    hook, optimizer = tsq.attach(ddp, SPEC, exchange=exchange, smoothness=tsq.Running(kind, **OFTEN)), sgd(ddp)
    ddp.module.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if folder.name != "forget":
        hook.load_state_dict(state["hook"])
    else:
        hook.load_state_dict({**state["hook"], "running": hook.state_dict()["running"]})
    train(ddp, optimizer, rank, range(7, 14))
    return flat(ddp)


def elsewhere(rank: int, world: int, folder: Path) -> tuple[Any, Any, torch.Tensor]:
    state = torch.load(folder / "mean.pt", weights_only=True)
    ddp = DDP(unlike(make_model()))
    hook = tsq.attach(ddp, SPEC, smoothness=tsq.Running("second_moment", **OFTEN))
    hook.load_state_dict(state["hook"])
    found = plan(hook)
    train(ddp, sgd(ddp), rank, range(4))
    return found, state["plan"], flat(ddp)


@pytest.mark.parametrize(("exchange", "kind"), [("all_gather", "second_moment"), ("sharded", "second_moment"), ("all_gather", "secant"),
                                                ("all_gather", "kronecker")])
def test_resumed_is_straight_bit_for_bit(exchange, kind, tmp_path):
    expected = run_ranks(straight, 3, exchange, kind, tmp_path)
    found = run_ranks(resumed, 3, exchange, kind, tmp_path)
    assert all(torch.equal(expected[0], weights) for weights in expected + found)


def test_mean_state_carries_the_plan_to_another_world_and_forgetting_it_is_noticed(tmp_path):
    folder = tmp_path / "forget"
    folder.mkdir()
    expected = run_ranks(straight, 3, "all_gather", "second_moment", folder)
    assert not torch.equal(expected[0], run_ranks(resumed, 3, "all_gather", "second_moment", folder)[0])
    outcomes = run_ranks(elsewhere, 2, folder)
    assert outcomes[0][0] == outcomes[0][1] == outcomes[1][0]
    assert outcomes[0][0]["0.weight"][0] != 2.5
    assert torch.equal(outcomes[0][2], outcomes[1][2])


def turned(rank: int, world: int, spec: str) -> tuple[torch.Tensor, dict[str, Any], float, bool]:
    """In the eigenbasis: what was delivered and is still owed is what was given, through changes of basis and a NaN."""
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, spec, smoothness=tsq.Running("kronecker", **OFTEN))
    name, given, delivered = "2.weight", torch.zeros(64, 64, dtype=torch.float64), torch.zeros(64, 64, dtype=torch.float64)
    nan_everywhere = False
    for step in range(10):
        true = torch.stack([local_grads(ddp, r, step)[name] for r in range(world)]).double().mean(0)
        ddp.zero_grad()
        (loss_of(ddp, rank, step) * (float("nan") if (step, rank) == (6, 0) else 1.0)).backward()
        found = ddp.module[2].weight.grad.double()
        if step == 6:
            nan_everywhere = bool(found.isnan().all())
            continue
        given, delivered = given + true, delivered + found
    state = hook.state_dict("mean")
    owed = state["parameters"][name]["worker.residual"]["values"].view(64, 64).double()
    left = state["running"]["parameters"][name]  # sizes, average, basis of the rows, then of the columns
    side = 64 * 64
    u, v = left[2 + side : 2 + 2 * side].view(64, 64), left[4 + 3 * side :].view(64, 64)
    assert torch.allclose(u.t() @ u, torch.eye(64, dtype=torch.float64), atol=1e-10)
    error = (delivered + u @ owed @ v.t() - given).abs().max() / given.abs().max()
    return found, state["running"]["parameters"], float(error), nan_everywhere


@pytest.mark.parametrize("world", (2, 3))
@pytest.mark.parametrize("spec", ("ErrorFeedback(UniformStep(bits=1.0))", "ErrorFeedback(Quantizer(bits=2))"))
def test_in_the_eigenbasis_ranks_agree_and_nothing_owed_is_lost(spec, world):
    outcomes = run_ranks(turned, world, spec)
    for found, running, error, nan_everywhere in outcomes:
        assert torch.equal(found, outcomes[0][0]) and all(torch.equal(v, outcomes[0][1][n]) for n, v in running.items())
        assert set(running) == set(PLANNED) and error < 1e-4 and nan_everywhere


def hardships(rank: int, world: int) -> tuple[list[Any], torch.Tensor, list[Any]]:
    """A NaN on one rank, a change of loss scale, accumulation without sync, another spec, off and on."""
    ddp = DDP(unlike(make_model()))
    hook, optimizer = tsq.attach(ddp, SPEC, smoothness=tsq.Running(**OFTEN)), sgd(ddp)
    train(ddp, optimizer, rank, range(4))
    before = hook.state_dict()["running"]["parameters"]
    ddp.zero_grad()
    loss = loss_of(ddp, rank, 4)
    (loss * (float("nan") if rank == world - 1 else 1.0)).backward()
    assert all(p.grad.isnan().all() for n, p in ddp.module.named_parameters() if n in PLANNED)  # the optimizer skips it
    after = hook.state_dict()["running"]["parameters"]
    untouched = [n for n in before if torch.equal(before[n], after[n])]
    train(ddp, optimizer, rank, range(5, 8))
    plans = [plan(hook)]
    ddp.zero_grad()
    for part in range(2):
        with no_sync_unless(ddp, part == 1):
            loss_of(ddp, rank, 8 + part).backward()
    optimizer.step()
    hook.set_enabled(False)
    train(ddp, optimizer, rank, range(10, 12))
    hook.set_enabled(True)
    hook.set_spec("EF21(Quantizer(bits=3), momentum=0.5)")
    plans.append(plan(hook))
    train(ddp, optimizer, rank, range(12, 18))
    plans.append(plan(hook))
    return plans, flat(ddp), untouched


def test_nan_no_sync_switches_and_other_specs():
    outcomes = run_ranks(hardships, 2)
    (plans, weights, untouched), (other_plans, other_weights, _) = outcomes
    assert plans == other_plans and torch.equal(weights, other_weights) and weights.isfinite().all()
    assert set(untouched) == set(PLANNED)
    assert all(1 <= bits <= 8 and weight > 0 for p in plans for bits, weight in p.values())
    assert plans[0]["0.weight"][0] > plans[0]["2.weight"][0]
    assert plans[1]["0.weight"][0] > plans[1]["2.weight"][0]  # known before the first step of the new spec
    assert sum(int(plans[1][n][0] * r) for n, r in (("0.weight", 2), ("2.weight", 4))) == 18


def scaled(rank: int, world: int, change: bool) -> list[Any]:
    ddp = DDP(unlike(make_model()))
    hook = tsq.attach(ddp, SPEC, smoothness=tsq.Running(metric="adam", **OFTEN))
    plans = []
    for step in range(12):
        scale = 2.0 ** (10 if change and step < 6 else 3)
        hook.set_loss_scale(scale)
        ddp.zero_grad()
        (loss_of(ddp, rank, step) * scale).backward()
        plans.append(plan(hook))
    return plans


def test_a_change_of_loss_scale_does_not_move_the_plan():
    steady, changing = (run_ranks(scaled, 2, change)[0] for change in (False, True))
    for one, two in zip(steady, changing, strict=True):
        for name in one:
            assert one[name][0] == two[name][0] and one[name][1] == pytest.approx(two[name][1], rel=1e-9)


def told(rank: int, world: int) -> tuple[Any, str, str]:
    ddp = DDP(make_model())
    hook = tsq.attach(ddp, SPEC, smoothness=tsq.Running("hutchinson", **OFTEN))
    hook.update_smoothness({"0.weight": 1.0, "2.weight": torch.full((64, 64), -1e6)})
    train(ddp, sgd(ddp), rank, range(4))
    errors = []
    for diagonals in ({"0.weight": float(rank)}, {"nobody": 1.0}):
        try:
            hook.update_smoothness(diagonals)
        except ValueError as error:
            errors.append(str(error))
    for diagonals in (None, {"0.weight": "1"}, {"0.weight": True}):
        with pytest.raises(TypeError, match="^diagonals: .*expected a"):
            hook.update_smoothness(diagonals)
    return plan(hook), *errors


def test_what_the_user_tells_counts_and_must_be_the_same_everywhere():
    for bits, differs, unknown in run_ranks(told, 2):
        assert bits["2.weight"][0] > bits["0.weight"][0] + 1
        assert "update_smoothness" in differs and "0.weight" in differs
        assert "nobody" in unknown


def refused(rank: int, world: int) -> list[str]:
    ddp = DDP(make_model())
    errors = []
    for spec, smoothness in ((SPEC, [1.0]), ("ErrorFeedback(TopK(ratio=0.1))", tsq.Running()), (SPEC, tsq.Running(interval=5 + rank)), ("sharded", tsq.Running("kronecker"))):
        try:
            if spec == "sharded":
                tsq.attach(ddp, SPEC, exchange=spec, smoothness=smoothness)
            else:
                tsq.attach(ddp, spec, smoothness=smoothness)
        except (TypeError, ValueError) as error:
            errors.append(str(error))
    tsq.attach(ddp, SPEC)  # nothing was changed
    train(ddp, None, rank, range(1))
    return errors


def test_what_cannot_be_is_refused_on_all_ranks():
    for errors in run_ranks(refused, 2):
        assert "Sender" in errors[0] and "Receiver" in errors[0] and "list" in errors[0]
        assert "Quantizer" in errors[1]
        assert "interval=5" in errors[2] or "interval=6" in errors[2]
        assert "all_gather" in errors[3] and "'sharded'" in errors[3]
