"""Mechanisms in DDP: every one trains and agrees over the ranks; checkpoints for other world sizes; specs changed in mid-run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import TINY, flat, grads, local_grads, make_model, sgd, train
from ranks import run_ranks
from torch.nn.parallel import DistributedDataParallel as DDP

import torch_smoothquant as tsq

MECHANISMS = [
    "EF21(TopK(ratio=0.1))", "EF21(Quantizer(bits=4), init='zero')", "EF21(TopK(ratio=0.1), momentum=0.3)", "LAG(1.0)",
    "CLAG(TopK(ratio=0.2), 1.0)", "AdaCGD([TopK(ratio=0.02), TopK(ratio=0.1), TopK(ratio=0.3)])",
    "Ada3PC([LAG(0.5), EF21(TopK(ratio=0.05)), ThreePC(Quantizer(bits=4), variant=4, second=TopK(ratio=0.1))], [Near(0.5), Accurate(1.0)])",
    "ThreePC(TopK(ratio=0.1), variant=1)", "ThreePC(TopK(ratio=0.1), variant=2, second=Quantizer(bits=4))",
    "ThreePC(TopK(ratio=0.1), variant=3, second=LAG(1.0))", "ThreePC(TopK(ratio=0.1), variant=4, second=Quantizer(bits=2))",
    "ThreePC(TopK(ratio=0.1), variant=5, p=0.3)", "MARINA(Quantizer(bits=4), p=0.3)", "DIANA(Quantizer(bits=4))",
    "Bidirectional(EF21(TopK(ratio=0.2)), EF21(Quantizer(bits=4)))",
    "Bidirectional(ErrorFeedback(Quantizer(bits=3)), CLAG(Quantizer(bits=4), 0.5))",
]


def trains(rank: int, world: int, spec: str, exchange: str) -> tuple[torch.Tensor, list[float], dict[str, Any], str]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, spec, exchange=exchange)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.05)
    losses = []
    for step in range(30):
        train(ddp, optimizer, rank, [step % 4])
        losses.append(float((ddp.module(torch.ones(1, 40)) ** 2).mean()))
    return flat(ddp), losses, hook.stats(), hook.log_line()


@pytest.mark.parametrize("exchange", ("all_gather", "sharded"))
@pytest.mark.parametrize("spec", MECHANISMS)
def test_every_mechanism_agrees_over_the_ranks(spec, exchange):
    if spec.startswith("Bidirectional"):
        exchange = "sharded"
    results = run_ranks(trains, 3, spec, exchange)
    assert all(torch.equal(results[0][0], weights) for weights, *_ in results)
    assert results[0][0].isfinite().all()
    stats, line = results[0][2:]
    assert stats["wire_bytes"] > 0 and stats["error"] == ""
    assert tsq.parse(spec) == tsq.parse(spec) and "torch_smoothquant" in line and "\n" not in line


def tracks(rank: int, world: int, spec: str, exchange: str) -> list[float]:
    """Distance of the estimate to the true mean while the model stands still: must vanish for what tracks gradients."""
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    tsq.attach(ddp, spec, exchange=exchange, exempt=None)
    names = [n for n, _ in ddp.module.named_parameters()]
    target = {n: sum(local_grads(ddp, r, 0)[n] for r in range(world)) / world for n in names}
    out = []
    for _ in range(60):
        train(ddp, None, rank, [0])
        got = grads(ddp)
        out.append(float(sum((got[n] - target[n]).square().sum() for n in names).sqrt()))
    return out


@pytest.mark.parametrize(("spec", "exchange"), [
    ("EF21(TopK(ratio=0.2))", "all_gather"), ("EF21(TopK(ratio=0.2), init='zero')", "sharded"), ("EF21(Quantizer(bits=2))", "sharded"),
    ("CLAG(TopK(ratio=0.2), 1.0)", "all_gather"), ("AdaCGD([TopK(ratio=0.1), TopK(ratio=0.5)], zeta=0.1)", "sharded"),
    ("DIANA(Quantizer(bits=4))", "all_gather"), ("Bidirectional(EF21(TopK(ratio=0.3)), EF21(TopK(ratio=0.3)))", "sharded"),
])
def test_estimates_converge_to_the_mean_gradient(spec, exchange):
    for distances in run_ranks(tracks, 2, spec, exchange):
        assert distances[-1] < 1e-5 < max(distances[1:6] + [1e-4])


def lazy(rank: int, world: int, exchange: str) -> tuple[dict[str, Any], dict[str, Any]]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, "CLAG(TopK(ratio=0.1), 1.0, init='zero')", exchange=exchange, exempt=None)
    train(ddp, None, rank, [0, 0])
    before = hook.stats()
    train(ddp, None, rank, [0] * 40)  # the same gradient again and again: once it is known nothing is sent
    return before, hook.stats()


@pytest.mark.parametrize("exchange", ("all_gather", "sharded"))
def test_skipped_steps_take_no_payload(exchange):
    for before, after in run_ranks(lazy, 2, exchange):
        assert after["skipped"] > before["skipped"]
        assert set(after["levels"]) == {0, 1}


# ------------------------------------------------------------------ another world size


def saved(rank: int, world: int, arguments: dict[str, Any], folder: Path, start: str | None, steps: int) -> dict[str, Any]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook, optimizer = tsq.attach(ddp, **arguments), sgd(ddp)
    if start:
        state = torch.load(folder / start, weights_only=True)
        ddp.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        hook.load_state_dict(state["hook"])
        again, own = hook.state_dict(mode="mean"), hook.state_dict()
    train(ddp, optimizer, rank, range(steps, steps + 6))
    state = {"hook": hook.state_dict(mode="mean"), "model": ddp.module.state_dict(), "optimizer": optimizer.state_dict()}
    mine = hook.state_dict()
    if rank == 0:
        torch.save(state, folder / f"after_{world}.pt")
    return {"mean": state["hook"], "rank": mine, "weights": flat(ddp), "loaded": again if start else None, "own": own if start else None}


def vectors(state: dict[str, Any], side: str, name: str) -> dict[str, torch.Tensor]:
    return {p: e[f"{side}.{name}"]["values"] for p, e in state["parameters"].items() if f"{side}.{name}" in e}


@pytest.mark.parametrize("arguments", [
    {"up": "ErrorFeedback(Quantizer(bits=2))", "exchange": "all_gather"}, {"up": "ErrorFeedback(Quantizer(bits=2))", "exchange": "sharded"},
    {"up": "EF21(TopK(ratio=0.1), momentum=0.2)", "exchange": "all_gather"}, {"up": "EF21(TopK(ratio=0.1))", "exchange": "sharded"},
    {"up": "AdaCGD([TopK(ratio=0.05), TopK(ratio=0.2)], zeta=2.0)", "exchange": "sharded"},
    {"up": "CLAG(Quantizer(bits=4), zeta=1.0, init='zero')", "exchange": "all_gather"},
    {"up": "DIANA(Quantizer(bits=4))", "exchange": "sharded"}, {"up": "MARINA(Quantizer(bits=4), p=0.3)", "exchange": "all_gather"},
    {"up": "ThreePC(TopK(ratio=0.1), variant=2, second=Ternary())", "exchange": "sharded"},
    {"up": "ErrorFeedback(UniformStep(bits=1.0))", "exchange": "sharded"},
], ids=lambda a: f"{a['up']}-{a['exchange']}")
def test_mean_checkpoints_fit_other_world_sizes(arguments, tmp_path):
    start, steps = None, 0
    for world in (4, 2, 3):
        results = run_ranks(saved, world, arguments, tmp_path, start, steps)
        before = torch.load(tmp_path / start, weights_only=True)["hook"] if start else None
        for result in results:
            assert torch.equal(result["weights"], results[0]["weights"])
            for side, name in (("worker", "residual"), ("worker", "shift"), ("owner", "residual"), ("received", "estimate")):
                mean, first = vectors(result["mean"], side, name), vectors(results[0]["mean"], side, name)
                assert mean.keys() == first.keys() and all(torch.equal(mean[k], first[k]) for k in mean)
                if before:  # what was loaded is carried exactly, whatever the world was
                    loaded, was = vectors(result["loaded"], side, name), vectors(before, side, name)
                    assert all(torch.allclose(loaded[k], was[k], rtol=1e-6, atol=1e-9) for k in was)
                    if side == "worker":  # and every rank's own is the saved mean, to the bit
                        mine = vectors(result["own"], side, name)
                        assert all(torch.equal(mine[k], was[k]) for k in was) and mine.keys() == was.keys()
        for name in ("residual", "shift"):  # the mean of the ranks' own
            mean = vectors(results[0]["mean"], "worker", name)
            own = [vectors(r["rank"], "worker", name) for r in results]
            assert all(torch.allclose(mean[k], sum(o[k] for o in own) / world, rtol=1e-5, atol=1e-8) for k in mean)
        shift, estimate = (vectors(results[0]["mean"], *key) for key in (("worker", "shift"), ("received", "estimate")))
        assert all(torch.equal(shift[k], estimate[k]) for k in shift)
        start, steps = f"after_{world}.pt", steps + 6


def moved(rank: int, world: int, exchange: str, folder: Path) -> dict[str, Any]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, "ErrorFeedback(Quantizer(bits=2))", exchange=exchange)
    if (folder / "state.pt").exists():
        hook.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
        return hook.state_dict(mode="mean")
    train(ddp, None, rank, range(4))
    state = hook.state_dict(mode="mean")
    torch.distributed.barrier()
    if rank == 0:
        torch.save(state, folder / "state.pt")
    return state


def test_what_owners_owe_survives_an_exchange_without_owners(tmp_path):
    sharded = run_ranks(moved, 3, "sharded", tmp_path)[0]
    gathered = run_ranks(moved, 2, "all_gather", tmp_path)[0]
    workers, owners = vectors(sharded, "worker", "residual"), vectors(sharded, "owner", "residual")
    assert owners and all(owners[k].abs().max() > 0 for k in owners)
    for name, residual in vectors(gathered, "worker", "residual").items():
        assert torch.allclose(residual, workers[name] + owners[name], rtol=1e-6, atol=1e-9)


# ------------------------------------------------------------------ set_spec


def switching(rank: int, world: int, specs: list[str], exchange: str) -> tuple[dict[str, torch.Tensor], torch.Tensor, list[str]]:
    """Sums of what was given and delivered under error feedback of changing specs: at the end, under Identity, nothing is owed."""
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, specs[0], exchange=exchange)
    given: dict[str, torch.Tensor] = {}
    delivered: dict[str, torch.Tensor] = {}
    shown = []
    for spec in specs:
        hook.set_spec(spec)
        shown.append(hook.stats()["spec"])
        for step in range(3):
            train(ddp, None, rank, [step])
            for name, grad in grads(ddp).items():
                true = sum(local_grads(ddp, r, step)[name] for r in range(world)) / world
                given[name] = given.get(name, 0) + true.double()
                delivered[name] = delivered.get(name, 0) + grad.double()
    return {n: delivered[n] - given[n] for n in given}, flat(ddp), shown


@pytest.mark.parametrize("exchange", ("all_gather", "sharded"))
def test_set_spec_drops_nothing(exchange):
    specs = ["ErrorFeedback(Quantizer(bits=2))", "ErrorFeedback(TopK(ratio=0.1))", "ErrorFeedback(Sign())", "Identity()"]
    for missing, _, shown in run_ranks(switching, 2, specs, exchange):
        assert shown == specs
        assert max(float(v.abs().max()) for v in missing.values()) < 1e-5


@pytest.mark.parametrize("exchange", ("all_gather", "sharded"))
def test_set_spec_between_families(exchange):
    specs = ["ErrorFeedback(Quantizer(bits=3))", "EF21(TopK(ratio=0.1))", "CLAG(TopK(ratio=0.2), 1.0)", "DIANA(Quantizer(bits=4))",
             "MARINA(Quantizer(bits=4), p=0.5)", "EF21(Quantizer(bits=2), momentum=0.5)", "Quantizer(bits=8)"]
    results = run_ranks(switching, 3, specs, exchange)
    assert all(torch.equal(results[0][1], weights) for _, weights, _ in results)


def owing(rank: int, world: int, spec: str, mode: str, exchange: str, folder: str) -> list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], set[str]]]:
    """Error feedback, then a spec without residuals; saved before the next step. What is delivered after, as it went on and as resumed."""
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, "ErrorFeedback(Quantizer(bits=2))", exchange=exchange, seed=1)
    train(ddp, None, rank, range(3))
    hook.set_spec(spec)
    state = hook.state_dict(mode)
    torch.save(state, f"{folder}/{rank}.pt")
    name, entry = next((n, e) for n, e in state["parameters"].items() if "worker.owed" in e)
    short = {**entry, "worker.owed": {"begin": 0, "values": entry["worker.owed"]["values"][1:]}}
    with pytest.raises(ValueError, match=f"state_dict: {name}.worker.owed: expected [0-9]+ elements of float32"):
        hook.load_state_dict({**state, "parameters": {**state["parameters"], name: short}})
    results = []
    for resumed in (False, True):
        if resumed:
            ddp = DDP(make_model(), bucket_cap_mb=TINY)
            hook = tsq.attach(ddp, spec, exchange=exchange, seed=1)
            hook.load_state_dict(torch.load(f"{folder}/{rank}.pt", weights_only=True))
        train(ddp, None, rank, [3])
        true = {n: sum(local_grads(ddp, r, 3)[n] for r in range(world)) / world for n in grads(ddp)}
        owed = {n: entry["worker.owed"]["values"] for n, entry in state["parameters"].items() if "worker.owed" in entry}
        after = {key for entry in hook.state_dict()["parameters"].values() for key in entry if "owed" in key}
        results.append(({n: (g - true[n]).flatten() for n, g in grads(ddp).items()}, owed, after))
    return results


@pytest.mark.parametrize("exchange", ("all_gather", "sharded"))
@pytest.mark.parametrize("spec, mode", [("Identity()", "rank"), ("Identity()", "mean"), ("Quantizer(bits=8)", "rank")])
def test_what_set_spec_left_owed_is_saved(spec, mode, exchange, tmp_path):
    results = run_ranks(owing, 2, spec, mode, exchange, str(tmp_path))
    (went_on, owed, after), (resumed, *_) = results[0]
    assert owed and not after
    for name in owed:
        mean = sum(r[0][1][name] for r in results) / 2
        assert mean.abs().max() > 1e-3
        if spec == "Identity()":  # exact: the error of what is delivered is what was owed
            torch.testing.assert_close(went_on[name], mean.flatten(), rtol=0, atol=2e-6)
        torch.testing.assert_close(resumed[name], went_on[name], rtol=0, atol=0 if mode == "rank" else 2e-6)


def owing_through_a_skipped_step(rank: int, world: int, compressed: bool) -> tuple[torch.Tensor, torch.Tensor, bool]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, "ErrorFeedback(Quantizer(bits=2))")
    train(ddp, None, rank, range(3))
    hook.set_spec("Identity()" if not compressed else "Quantizer(bits=8)")
    before = hook.state_dict()["parameters"]["0.weight"]["worker.owed"]["values"]
    hook.set_loss_scale(1.0)
    hook.set_loss_scale(4.0)
    scaled = hook.state_dict()["parameters"]["0.weight"]["worker.owed"]["values"]
    assert torch.equal(scaled, 4 * before)
    x = torch.full((8, 40), float("inf") if rank == 0 else 1.0)
    ddp.zero_grad()
    ddp(x).sum().backward()
    skipped = not grads(ddp)["0.weight"].isfinite().all()
    return scaled, hook.state_dict()["parameters"]["0.weight"]["worker.owed"]["values"], bool(skipped)


@pytest.mark.parametrize("compressed", (False, True))
def test_what_is_owed_outlives_a_skipped_step(compressed):
    for before, after, skipped in run_ranks(owing_through_a_skipped_step, 2, compressed):
        assert skipped and before.abs().max() > 0
        assert torch.equal(before, after)


def disagreeing(rank: int, world: int) -> str:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, "ErrorFeedback(Quantizer(bits=4))")
    train(ddp, None, rank, range(2))
    with pytest.raises(ValueError, match="set_spec") as caught:
        hook.set_spec(f"ErrorFeedback(Quantizer(bits={rank + 2}))")
    assert hook.stats()["spec"] == "ErrorFeedback(Quantizer(bits=4))"
    train(ddp, None, rank, range(2))  # goes on as before
    with pytest.raises(ValueError, match="down: expected None"):
        hook.set_spec("Quantizer(bits=4)", "Quantizer(bits=8)")
    with pytest.raises(tsq.SpecError):
        hook.set_spec("Quantizer(bits=9)")
    return str(caught.value)


def test_set_spec_must_agree():
    for text in run_ranks(disagreeing, 2):
        assert "bits=2" in text and "bits=3" in text


# ------------------------------------------------------------------ watching


class Writer:
    def __init__(self) -> None:
        self.seen: dict[str, float] = {}

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        assert step == 7 and isinstance(value, float)
        self.seen[tag] = value


def watching(rank: int, world: int) -> tuple[dict[str, Any], dict[str, float], str]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, "ErrorFeedback(TopK(ratio=0.25))")
    train(ddp, None, rank, [0])
    writer = Writer()
    hook.write_scalars(writer, 7, per_parameter=True)
    entry = hook.stats_by_parameter()["2.weight"]
    residual = hook.state_dict()["parameters"]["2.weight"]["worker.residual"]["values"]
    gradient = local_grads(ddp, rank, 0)["2.weight"]
    assert entry["residual_norm"] == pytest.approx(float(residual.norm()), rel=1e-5)
    assert entry["gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-5)
    assert entry["contraction"] == pytest.approx(1 - float(residual.norm() / gradient.norm()) ** 2, rel=1e-4)
    return entry, writer.seen, hook.log_line()


def test_numbers_to_watch():
    for entry, scalars, line in run_ranks(watching, 2):
        assert 0.25 <= entry["contraction"] <= 1 and entry["trigger_rate"] == 1 and entry["sent"] == 1
        assert scalars["torch_smoothquant/2.weight/contraction"] == entry["contraction"]
        assert scalars["torch_smoothquant/total/wire_bytes"] > 0
        assert "contraction" in line and "ErrorFeedback(TopK(ratio=0.25))" in line
