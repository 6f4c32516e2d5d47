"""attach: what it refuses, that a refusal changes nothing, and that ranks that disagree are all told how."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from models import TINY, flat, grads, loss_of, make_model, sgd, train
from ranks import run_ranks
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel as DDP

import torch_smoothquant as tsq


def same_as_plain(ddp: DDP, rank: int) -> None:
    """One backward of `ddp` gives the bits of a plain DDP."""
    plain = DDP(copy.deepcopy(ddp.module))
    train(plain, None, rank, [0])
    train(ddp, None, rank, [0])
    assert all(torch.equal(a, b) for a, b in zip(grads(plain).values(), grads(ddp).values(), strict=True))


# ------------------------------------------------------------------ arguments


BAD_ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"up": 4}, TypeError, "up: expected"), ({"up": "Quantizer(bits=9)"}, tsq.SpecError, "column 16"),
    ({"up": "Nothing()"}, tsq.SpecError, "column"), ({"up": ""}, tsq.SpecError, "column 1"), ({"down": 4}, TypeError, "down: expected"),
    ({"down": "Quantizer(bits=4", "exchange": "sharded"}, tsq.SpecError, "column"),
    ({"down": "Quantizer(bits=4)", "exchange": "all_gather"}, ValueError, "down: expected None"),
    ({"down": "Quantizer(bits=4)", "exchange": "dense"}, ValueError, "down: expected None"),
    ({"exchange": "ring"}, ValueError, "exchange: expected one of"), ({"exchange": None}, ValueError, "exchange: expected"),
    ({"exchange": ["auto"]}, ValueError, "exchange: expected"),
    ({"policy": "fixed"}, TypeError, "policy: expected"), ({"policy": 4}, TypeError, "policy: expected"),
    ({"up": "Quantizer(bits=4)", "policy": tsq.NeverSlower("Quantizer(bits=8)")}, ValueError, "policy: expected a NeverSlower without a spec"),
    ({"policy": tsq.NeverSlower(ladder=["EF21(Quantizer(bits=4), momentum=0.5)"])}, ValueError, "without momentum"),
    ({"policy": tsq.NeverSlower(ladder=["Quantizer(bits=8)", "ErrorFeedback(Quantizer(bits=4))"])}, ValueError, "share their state"),
    ({"policy": tsq.NeverSlower(), "smoothness": tsq.Running("second_moment")}, ValueError, "policy: a NeverSlower beside smoothness expects one spec"),
    ({"timeout": 0}, ValueError, "timeout: expected"), ({"timeout": -1}, ValueError, "timeout: expected"),
    ({"timeout": float("nan")}, ValueError, "timeout: expected"), ({"timeout": float("inf")}, ValueError, "timeout: expected"),
    ({"timeout": "5"}, ValueError, "timeout: expected"), ({"timeout": None}, ValueError, "timeout: expected"),
    ({"timeout": True}, ValueError, "timeout: expected"), ({"timeout": datetime.timedelta(0)}, ValueError, "timeout: expected"),
    ({"timeout": 1e300}, ValueError, "timeout: expected"),
    ({"seed": -1}, ValueError, "seed: expected"), ({"seed": 2**64}, ValueError, "seed: expected"),
    ({"seed": 1.5}, TypeError, "seed: expected"),
    ({"seed": "1"}, TypeError, "seed: expected"), ({"seed": None}, TypeError, "seed: expected"),
    ({"overrides": {"nothing.*": "Identity()"}}, ValueError, "overrides: expected patterns that match"),
    ({"overrides": {"0.weight": 4}}, TypeError, "overrides"), ({"overrides": {"0.weight": "Quantizer("}}, tsq.SpecError, "column"),
    ({"overrides": "0.weight"}, TypeError, "overrides: expected"), ({"overrides": ["0.weight"]}, TypeError, "overrides: expected"),
    ({"overrides": {4: "Identity()"}}, TypeError, "overrides: expected"),
    ({"exempt": ["2.*", "nothing.*"]}, ValueError, "exempt: expected patterns that match a parameter, got ['nothing.*']"),
    ({"exempt": "all"}, ValueError, "exempt: expected"), ({"exempt": [4]}, ValueError, "exempt: expected"),
    ({"exempt": 4}, (TypeError, ValueError), "exempt: expected"),
]


def bad_arguments(rank: int, world: int) -> list[str]:
    wrong, hooks = [], []
    for arguments, error, says in BAD_ARGUMENTS:
        ddp = DDP(make_model())
        groups = len(dist.distributed_c10d._world.pg_map)
        try:
            tsq.attach(ddp, **arguments)
        except Exception as caught:
            if not isinstance(caught, error) or says not in str(caught):
                wrong.append(f"{arguments}: {type(caught).__name__}: {caught}".split("\n")[0])
        else:
            wrong.append(f"{arguments}: not refused")
            continue
        assert len(dist.distributed_c10d._world.pg_map) == groups, f"{arguments}: a process group was left behind"
        same_as_plain(ddp, rank)
        hooks.append(tsq.attach(ddp))
    return wrong


def test_bad_arguments():
    (wrong,) = run_ranks(bad_arguments, 1)
    assert wrong == [], "\n" + "\n".join(wrong)


# ------------------------------------------------------------------ modules


def refused(make: Callable[[], Any], error: type[Exception], says: str) -> Any:
    module = make()
    with pytest.raises(error, match=says):
        tsq.attach(module)
    return module


def python_reducer() -> DDP:
    before = torch._dynamo.config.optimize_ddp
    torch._dynamo.config.optimize_ddp = "python_reducer"
    try:
        return DDP(make_model())
    finally:
        torch._dynamo.config.optimize_ddp = before


def mixed_precision() -> DDP:
    from torch.nn.parallel.distributed import _MixedPrecision

    return DDP(make_model(), mixed_precision=_MixedPrecision(param_dtype=torch.bfloat16))


def with_python_hook() -> DDP:
    ddp = DDP(make_model())
    ddp.register_comm_hook(None, fp16_compress_hook)
    return ddp


def with_builtin_hook() -> DDP:
    ddp = DDP(make_model())
    ddp._register_builtin_comm_hook(dist.BuiltinCommHookType.ALLREDUCE)
    return ddp


def sparse() -> DDP:
    return DDP(nn.Sequential(nn.Embedding(100, 40, sparse=True), nn.Linear(40, 8)))


def delayed() -> DDP:
    model = make_model()
    return DDP(model, delay_all_reduce_named_params=[("0.weight", model[0].weight)], param_to_hook_all_reduce=model[0].weight)


def own_optimizers() -> DDP:
    from torch.distributed.optim import _apply_optimizer_in_backward

    model = make_model()
    _apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), {"lr": 0.1})
    return DDP(model)


def modules(rank: int, world: int) -> None:
    for thing in (make_model(), None, "ddp", nn.DataParallel(make_model())):
        refused(lambda: thing, TypeError, "ddp: expected a DistributedDataParallel, got")  # noqa: B023
    refused(python_reducer, RuntimeError, "python_reducer.*never called")
    refused(mixed_precision, RuntimeError, "mixed_precision.*autocast")
    ddp = refused(with_python_hook, RuntimeError, "already has a communication hook.*prepare")
    train(ddp, None, rank, range(2))
    refused(sparse, RuntimeError, "sparse gradients.*sparse=False")
    refused(delayed, RuntimeError, "delay_all_reduce_named_params")
    refused(own_optimizers, RuntimeError, "_apply_optimizer_in_backward")
    frozen_parameters = DDP(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False)))
    assert tsq.attach(frozen_parameters).stats()["parameters"] == 2
    same_as_plain(refused(with_builtin_hook, RuntimeError, "did not take the hook"), rank)


def test_modules():
    run_ranks(modules, 2)


def second(rank: int, world: int) -> None:
    ddp = DDP(make_model())
    hook = tsq.attach(ddp)
    groups = len(dist.distributed_c10d._world.pg_map)
    with pytest.raises(RuntimeError, match="already has a torch_smoothquant hook"):
        tsq.attach(ddp, "Identity()")
    assert len(dist.distributed_c10d._world.pg_map) == groups
    train(ddp, sgd(ddp), rank, range(3))
    assert hook.stats()["calls"] == 3
    other = DDP(make_model())
    tsq.attach(other, "Identity()")
    same_as_plain(other, rank)
    hook.close()
    with pytest.raises(RuntimeError, match="already has"):
        tsq.attach(ddp)


def again_after_close(rank: int, world: int) -> None:
    for _ in range(8):  # failed now and then only: a peer must not find the address of the group before
        ddp = DDP(make_model())
        hook = tsq.attach(ddp, timeout=5)
        train(ddp, None, rank, [0])
        hook.close()


def test_a_new_module_may_be_attached_after_close():
    """What errors advise: close, make a new DistributedDataParallel, attach."""
    run_ranks(again_after_close, 2, timeout=25)


def again_after_refusal(rank: int, world: int) -> None:
    ddp = DDP(make_model())
    for _ in range(8):
        with pytest.raises(ValueError, match="differ"):
            tsq.attach(ddp, seed=rank, timeout=5)
    hook = tsq.attach(ddp, timeout=5)
    train(ddp, None, rank, range(2))
    assert hook.stats()["calls"] == 2


def test_the_same_module_may_be_attached_after_a_refusal():
    run_ranks(again_after_refusal, 2, timeout=25)


def test_second_attach():
    run_ranks(second, 2)


def exemption(rank: int, world: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, arguments in {
        "default": {}, "none": {"exempt": None}, "glob": {"exempt": ["2.*"]}, "callable": {"exempt": lambda name, p: name == "0.weight"},
        "overrides": {"overrides": {"2.weight": "Identity()", "*.bias": tsq.ErrorFeedback(tsq.Quantizer(8))}},
    }.items():
        ddp = DDP(make_model(), bucket_cap_mb=TINY)
        hook = tsq.attach(ddp, **arguments)
        optimizer = sgd(ddp)
        start = loss_of(ddp.module, 0, 0).item()
        train(ddp, optimizer, rank, range(8))
        assert loss_of(ddp.module, 0, 0).item() < start
        with_residual = sorted(n for n, e in hook.state_dict()["parameters"].items() if "worker.residual" in e)
        out[name] = (with_residual, hook.stats()["exempt_parameters"])
    return out


def test_exempt_and_overrides():
    first, other = run_ranks(exemption, 2)
    assert first == other == {
        "default": (["0.weight", "2.weight"], 4),
        "none": (["0.bias", "0.weight", "2.bias", "2.weight", "4.bias", "4.weight"], 0),
        "glob": (["0.weight"], 5),
        "callable": (["0.bias", "2.bias", "2.weight", "4.bias", "4.weight"], 1),
        "overrides": (["0.bias", "0.weight", "2.bias", "4.bias"], 1),
    }


# ------------------------------------------------------------------ ranks that disagree


DISAGREE: list[tuple[str, Callable[[int], dict[str, Any]], list[str]]] = [
    ("spec", lambda r: {"up": f"Quantizer(bits={3 + r})"}, ["bits=3", "bits=4"]),
    ("down", lambda r: {"down": f"Quantizer(bits={3 + r})"}, ["bits=3", "bits=4"]),
    ("exchange", lambda r: {"exchange": ("all_gather", "sharded")[r > 0]}, ["all_gather", "sharded"]),
    ("seed", lambda r: {"seed": 40 + r}, ["seed = 40", "seed = 41"]),
    ("exempt", lambda r: {"exempt": None if r else "default"}, ["parameter 1", "0.bias", "Identity"]),
    ("overrides", lambda r: {"overrides": {"2.weight": "Identity()"} if r else {}}, ["2.weight", "Identity"]),
]


def disagree(rank: int, world: int, case: int) -> str:
    ddp = DDP(make_model())
    groups = len(dist.distributed_c10d._world.pg_map)
    with pytest.raises(ValueError) as caught:
        tsq.attach(ddp, **DISAGREE[case][1](rank))
    assert len(dist.distributed_c10d._world.pg_map) == groups
    same_as_plain(ddp, rank)
    return str(caught.value)


@pytest.mark.parametrize("world", (2, 3))
@pytest.mark.parametrize("case", range(len(DISAGREE)), ids=[name for name, *_ in DISAGREE])
def test_ranks_that_disagree(case, world):
    texts = run_ranks(disagree, world, case)
    assert all(text == texts[0] for text in texts)
    assert texts[0].startswith("attach: the ranks differ: rank 0 has")
    assert all(word in texts[0] for word in [*DISAGREE[case][2], "rank 1 has"]), texts[0]


class Named(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        setattr(self, name, nn.Linear(40, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return next(self.children())(x)


def other_model(rank: int, world: int, case: str) -> str:
    """DDP itself compares shapes; names, and what it does not reduce, are ours to compare."""
    ddp = DDP(Named(("left", "right")[rank]) if case == "names" else make_model())
    if case == "ignored" and rank:
        ddp.parameters_to_ignore = {"2.weight"}
    with pytest.raises(ValueError) as caught:
        tsq.attach(ddp)
    train(ddp, sgd(ddp), rank, range(2))
    return str(caught.value)


@pytest.mark.parametrize(("case", "says"), [("names", ["left", "right"]), ("ignored", ["parameters = 6", "parameters = 5"])])
def test_ranks_with_other_models(case, says):
    first, other = run_ranks(other_model, 2, case)
    assert first == other and all(word in first for word in says), first


def weights_after(rank: int, world: int, spec: Any) -> torch.Tensor:
    ddp = DDP(make_model())
    tsq.attach(ddp, spec)
    train(ddp, sgd(ddp), rank, range(4))
    return flat(ddp)


def test_text_and_object_are_the_same():
    specs = ("ErrorFeedback(Quantizer(bits=4))", tsq.ErrorFeedback(tsq.Quantizer(4)))
    (a, _), (b, _) = (run_ranks(weights_after, 2, spec) for spec in specs)
    assert torch.equal(a, b)


# ------------------------------------------------------------------ groups


def in_a_group(rank: int, world: int) -> list[torch.Tensor]:
    group = dist.new_group([0, 2])
    if rank == 1:
        return []
    for exchange in ("all_gather", "sharded"):  # twice: a second hook after close
        ddp = DDP(make_model(), process_group=group)
        hook = tsq.attach(ddp, exchange=exchange, timeout=20)
        train(ddp, None, rank, [0])
        assert hook.stats()["world_size"] == 2 and hook.stats()["wire_bytes"] > 0
        hook.close()
    return [g.clone() for g in grads(ddp).values()]


def test_a_model_on_some_of_the_ranks():
    first, outsider, second = run_ranks(in_a_group, 3)
    assert outsider == [] and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
