"""state_dict and load_state_dict: a resumed run is the straight run, bit for bit; what does not fit is refused, nothing changed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from models import FOUR, TINY, flat, make_model, sgd, train, worker_residuals
from ranks import run_ranks
from torch.nn.parallel import DistributedDataParallel as DDP

import torch_smoothquant as tsq


def straight(rank: int, world: int, arguments: dict[str, Any], folder: Path | None = None) -> torch.Tensor:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, **arguments)
    optimizer = sgd(ddp)
    train(ddp, optimizer, rank, range(10))
    if folder:
        state = {"hook": hook.state_dict(), "model": ddp.module.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, folder / f"{rank}.pt")
    train(ddp, optimizer, rank, range(10, 20))
    return flat(ddp)


def resumed(rank: int, world: int, arguments: dict[str, Any], folder: Path) -> torch.Tensor:
    state = torch.load(folder / f"{rank}.pt", weights_only=True)
    ddp = DDP(make_model(seed=9), bucket_cap_mb=0.01)  # other buckets than before
    hook, optimizer = tsq.attach(ddp, **arguments), sgd(ddp)
    ddp.module.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    hook.load_state_dict(state["hook"])
    train(ddp, optimizer, rank, range(10, 20))
    return flat(ddp)


@pytest.mark.parametrize("world", (2, 3))
@pytest.mark.parametrize("arguments", [
    {"up": "ErrorFeedback(Quantizer(bits=2))", "exchange": "all_gather"}, {"up": "ErrorFeedback(Quantizer(bits=2))", "exchange": "sharded"},
    {"up": "ErrorFeedback(Quantizer(bits=3, levels='unbiased'))", "exchange": "sharded", "seed": 5}, {"up": "Quantizer(bits=3)"}, {"up": FOUR},
], ids=["all_gather", "sharded", "dithered", "Direct", "auto"])
def test_resumed_is_straight_bit_for_bit(world, arguments, tmp_path):
    expected = run_ranks(straight, world, arguments, tmp_path)
    found = run_ranks(resumed, world, arguments, tmp_path)
    assert all(torch.equal(expected[0], weights) for weights in expected + found)


@pytest.mark.parametrize("arguments", [
    {"up": "ErrorFeedback(UniformStep(bits=1.0))", "exchange": "sharded"}, {"up": "EF21(TopK(ratio=0.1), momentum=0.3)"},
    {"up": "EF21(UniformStep(bits=2.0), init='zero')", "exchange": "sharded"}, {"up": "CLAG(TopK(ratio=0.2), zeta=1.0)"},
    {"up": "AdaCGD([UniformStep(bits=1.0), TopK(ratio=0.2)], zeta=0.5)", "exchange": "sharded"},
    {"up": "Ada3PC([LAG(zeta=0.5), EF21(TopK(ratio=0.05)), EF21(Ternary())], [Near(zeta=0.5), Accurate(zeta=1.0)])"},
    {"up": "ThreePC(TopK(ratio=0.1), variant=2, second=Quantizer(bits=4))"}, {"up": "ThreePC(TopK(ratio=0.1), variant=5, p=0.3)"},
    {"up": "MARINA(Quantizer(bits=4), p=0.3)"}, {"up": "DIANA(Quantizer(bits=3))", "exchange": "sharded"},
    {"up": "Bidirectional(EF21(TopK(ratio=0.2)), ErrorFeedback(Ternary()))"},
], ids=lambda a: a["up"])
def test_every_mechanism_resumes_bit_for_bit(arguments, tmp_path):
    expected = run_ranks(straight, 3, arguments, tmp_path)
    found = run_ranks(resumed, 3, arguments, tmp_path)
    assert all(torch.equal(expected[0], weights) for weights in expected + found)


def test_without_the_hook_s_state_it_is_another_run(tmp_path):
    """The test above would notice a load_state_dict that does nothing."""
    arguments = {"up": "ErrorFeedback(Quantizer(bits=2))"}
    expected = run_ranks(straight, 2, arguments, tmp_path)
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pt")
        for entry in state["hook"]["parameters"].values():
            if "worker.residual" in entry:
                entry["worker.residual"]["values"].zero_()
        torch.save(state, tmp_path / f"{rank}.pt")
    assert not torch.equal(expected[0], run_ranks(resumed, 2, arguments, tmp_path)[0])


# ------------------------------------------------------------------ what does not fit


def other(state: dict[str, Any], **change: Any) -> dict[str, Any]:
    return {**copy.deepcopy(state), **change}


def without(state: dict[str, Any], *path: str) -> dict[str, Any]:
    out = copy.deepcopy(state)
    here = out
    for key in path[:-1]:
        here = here[key]
    del here[path[-1]]
    return out


def with_values(state: dict[str, Any], values: Any, begin: Any = 0) -> dict[str, Any]:
    out = copy.deepcopy(state)
    out["parameters"]["2.weight"]["worker.residual"] = {"begin": begin, "values": values}
    return out


def with_entry(state: dict[str, Any], name: str, **entry: Any) -> dict[str, Any]:
    out = copy.deepcopy(state)
    out["parameters"].setdefault(name, {}).update(entry)
    return out


UNFIT = {
    "version": (lambda s: other(s, version=1), ["version", "2", "1"]),
    "rank": (lambda s: other(s, rank=s["rank"] + 1), ["rank"]),
    "world size": (lambda s: other(s, world_size=5), ["world_size", "2", "5"]),
    "spec": (lambda s: other(s, spec="Quantizer(bits=4)"), ["spec", "ErrorFeedback(Quantizer(bits=2))", "Quantizer(bits=4)"]),
    "down": (lambda s: other(s, down="Identity()"), ["down", "Identity()"]),
    "exchange": (lambda s: other(s, exchange="dense"), ["exchange", "sharded", "dense"]),
    "seed": (lambda s: other(s, seed=1), ["seed", "0", "1"]),
    "no version": (lambda s: without(s, "version"), ["version"]),
    "empty": (lambda s: {}, ["version"]),
    "no parameters": (lambda s: without(s, "parameters"), ["parameters"]),
    "no loss scale": (lambda s: without(s, "loss_scale"), ["loss_scale"]),
    "parameter missing": (lambda s: without(s, "parameters", "2.weight"), ["2.weight"]),
    "parameter too many": (lambda s: with_entry(s, "9.weight", steps=3), ["9.weight"]),
    "residual missing": (lambda s: without(s, "parameters", "2.weight", "worker.residual"), ["expected"]),
    "steps missing": (lambda s: without(s, "parameters", "2.weight", "steps"), ["steps", "2.weight"]),
    "vector too many": (lambda s: with_entry(s, "2.bias", **{"worker.residual": {"begin": 0, "values": torch.zeros(64)}}), ["expected"]),
    "vector of another name": (lambda s: with_entry(without(s, "parameters", "2.weight", "worker.residual"), "2.weight",
                                                    **{"worker.shift": {"begin": 0, "values": torch.zeros(4096)}}), ["2.weight"]),
    "key without a side": (lambda s: with_entry(s, "2.weight", shift=3), ["2.weight", "shift"]),
    "length": (lambda s: with_values(s, torch.zeros(4095)), ["2.weight", "4096", "4095"]),
    "dtype": (lambda s: with_values(s, torch.zeros(4096, dtype=torch.float64)), ["2.weight", "float32", "float64"]),
    "integers": (lambda s: with_values(s, torch.zeros(4096, dtype=torch.int32)), ["2.weight", "dtype"]),
    "begin": (lambda s: with_values(s, torch.zeros(4096), begin=256), ["2.weight", "256"]),
    "negative begin": (lambda s: with_values(s, torch.zeros(4096), begin=-1), ["2.weight", "begin", "-1"]),
    "list": (lambda s: with_values(s, [0.0] * 4096), ["2.weight", "torch.Tensor"]),
    "NaN": (lambda s: with_values(s, torch.full((4096,), float("nan"))), ["2.weight", "finite"]),
    "no vector": (lambda s: with_entry(s, "2.weight", **{"worker.residual": None}), ["2.weight.worker.residual"]),
    "no mapping": (lambda s: other(s, parameters={**s["parameters"], "2.weight": 3}), ["2.weight", "mapping"]),
    "parameters": (lambda s: other(s, parameters=None), ["parameters", "mapping"]),
    "negative steps": (lambda s: with_entry(s, "2.weight", steps=-1), ["2.weight", "steps", "-1"]),
    "steps": (lambda s: with_entry(s, "2.weight", steps="3"), ["2.weight", "steps", "'3'"]),
    "fresh": (lambda s: with_entry(s, "2.weight", fresh=3), ["2.weight", "fresh", "3"]),
    "rates": (lambda s: with_entry(s, "2.weight", up_rates=[float("nan")]), ["2.weight", "up_rates", "nan"]),
    "negative loss scale": (lambda s: other(s, loss_scale=-1.0), ["loss_scale", "-1.0"]),
    "loss scale": (lambda s: other(s, loss_scale="1"), ["loss_scale", "'1'"]),
    "price": (lambda s: other(s, price="1"), ["price", "'1'"]),
    "running": (lambda s: other(s, running={}), ["running", "none"]),
    "strided": (lambda s: with_values(s, torch.zeros(8192)[::2]), ["2.weight", "contiguous"]),
}


def unfit(rank: int, world: int) -> list[str]:
    ddp = DDP(make_model())
    hook = tsq.attach(ddp, "ErrorFeedback(Quantizer(bits=2))", exchange="sharded")
    hook.set_loss_scale(2.0)
    train(ddp, sgd(ddp), rank, range(3))
    saved, wrong = hook.state_dict(), []
    train(ddp, None, rank, range(3, 6))
    before = hook.state_dict()
    for name, (change, says) in UNFIT.items():
        try:
            hook.load_state_dict(change(saved))
            wrong.append(f"{name}: not refused")
        except ValueError as error:
            if not all(word in str(error) for word in ["expected", *says]):
                wrong.append(f"{name}: says {error}")
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}".split("\n")[0])
        if not same(hook.state_dict(), before):
            wrong.append(f"{name}: changed the state")
            hook.load_state_dict(before)
    with pytest.raises(TypeError, match="state_dict: expected a mapping, got NoneType"):
        hook.load_state_dict(None)
    hook.load_state_dict(saved)
    assert same(hook.state_dict(), saved)
    return wrong


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_what_does_not_fit_is_refused():
    for wrong in run_ranks(unfit, 2):
        assert wrong == [], "\n" + "\n".join(wrong)


def saves(rank: int, world: int, folder: Path) -> None:
    ddp = DDP(make_model())
    hook = tsq.attach(ddp, FOUR, exchange="all_gather")
    train(ddp, sgd(ddp), rank, range(2))
    torch.save(hook.state_dict(), folder / f"{rank}.pt")


def loads(rank: int, world: int, folder: Path) -> str:
    ddp = DDP(make_model())
    hook = tsq.attach(ddp, FOUR, exchange="all_gather")
    with pytest.raises(ValueError) as caught:
        hook.load_state_dict(torch.load(folder / f"{rank}.pt"))
    assert not any(r.any() for r in worker_residuals(hook.state_dict()).values())
    train(ddp, sgd(ddp), rank, range(2))
    return str(caught.value)


def test_another_world_size(tmp_path):
    run_ranks(saves, 3, tmp_path)
    for text in run_ranks(loads, 2, tmp_path):
        assert "world_size: expected 2, got 3" in text


def contents(rank: int, world: int) -> dict[str, Any]:
    ddp = DDP(make_model())
    hook = tsq.attach(ddp, FOUR, exchange="sharded")
    train(ddp, None, rank, range(2))
    state = hook.state_dict()
    kept = copy.deepcopy(state)
    train(ddp, None, rank, [2])
    assert same(state, kept), "state_dict must hold copies"
    return state


def test_state_dict_holds_tensors_and_plain_values_of_this_rank():
    results = run_ranks(contents, 2)

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(k, str) and plain(v) for k, v in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or isinstance(value, (int, float, str, torch.Tensor))

    for rank, state in enumerate(results):
        assert plain(state) and state["rank"] == rank and state["world_size"] == 2
        assert set(state["parameters"]) == {f"{i}.{p}" for i in (0, 2, 4) for p in ("weight", "bias")}
        assert all(entry["steps"] == 2 for entry in state["parameters"].values())
    residuals = [worker_residuals(state)["2.weight"] for state in results]
    assert not torch.equal(*residuals)
