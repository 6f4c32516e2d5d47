"""DDP's own features under the hook: rebuilt buckets, no_sync, unused parameters, Join, tiny buckets, dtypes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from models import (
    FOUR,
    TINY,
    Oracle,
    flat,
    grads,
    inner,
    local_grads,
    loss_of,
    make_model,
    no_sync_unless,
    owner_residuals,
    sgd,
    train,
    worker_residuals,
)
from ranks import run_ranks
from torch import nn
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel as DDP

import torch_smoothquant as tsq

EF2 = "ErrorFeedback(Quantizer(bits=2))"
EXCHANGES = ("all_gather", "sharded")
each_exchange = pytest.mark.parametrize("exchange", EXCHANGES)
each_world = pytest.mark.parametrize("world", (2, 3))


def alike(results: list[torch.Tensor]) -> bool:
    return all(torch.equal(results[0], other) for other in results[1:])


# ------------------------------------------------------------------ buckets


def weights_by_bucket_size(rank: int, world: int, exchange: str, sizes: list[float],
                           options: dict[str, Any]) -> tuple[list[torch.Tensor], list[int]]:
    out, calls = [], []
    for size in sizes:
        ddp = DDP(make_model(), bucket_cap_mb=size, **options)
        hook = tsq.attach(ddp, EF2, exchange=exchange)
        optimizer = sgd(ddp)
        train(ddp, optimizer, rank, [0])
        calls.append(hook.stats()["calls"])
        before = worker_residuals(hook.state_dict())
        assert all(r.any() for r in before.values()) and len(before) == 2
        train(ddp, optimizer, rank, range(1, 10))
        calls.append(hook.stats()["calls"] - calls[-1])
        out.append(flat(ddp))
    return out, calls


@each_exchange
@each_world
@pytest.mark.parametrize("options", [{}, {"gradient_as_bucket_view": True}, {"static_graph": True}, {"find_unused_parameters": True}],
                         ids=",".join)
def test_rebuilding_buckets_loses_nothing(world, exchange, options):
    """25 MB never changes its one bucket; the others are rebuilt into many after the first iteration. Same bits."""
    for weights, calls in run_ranks(weights_by_bucket_size, world, exchange, [25, 0.01, TINY], options):
        assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])
        assert calls[0::2] == [1, 1, 1] or options  # the first iteration
        if "find_unused_parameters" not in options:  # with it the layout never changes
            assert calls[1::2] == ([9, 17, 49] if "static_graph" in options else [9, 18, 54])  # static_graph: an iteration later


def many_buckets(rank: int, world: int, exchange: str) -> tuple[torch.Tensor, int]:
    torch.manual_seed(0)
    model = nn.Sequential(*[layer for _ in range(30) for layer in (nn.Linear(48, 48), nn.Tanh())])
    ddp = DDP(model, bucket_cap_mb=1e-6)
    hook = tsq.attach(ddp, EF2, exchange=exchange)
    optimizer = sgd(ddp)
    for step in range(12):
        ddp.zero_grad()
        x = torch.randn(4, 48, generator=torch.Generator().manual_seed(100 * step + rank))
        ddp(x).square().mean().backward()
        optimizer.step()
    assert hook.stats()["error"] == ""
    return flat(ddp), hook.stats()["calls"]


@each_exchange
def test_many_small_buckets(exchange):
    results = run_ranks(many_buckets, 3, exchange)
    assert alike([w for w, _ in results]) and results[0][0].isfinite().all()
    assert all(calls >= 60 * 11 for _, calls in results)


# ------------------------------------------------------------------ no_sync


def accumulate(rank: int, world: int, exchange: str, as_view: bool) -> torch.Tensor:
    ddp = DDP(make_model(), bucket_cap_mb=TINY, gradient_as_bucket_view=as_view)
    tsq.attach(ddp, FOUR, exchange=exchange)
    oracle, optimizer = Oracle(ddp, world, exchange), sgd(ddp)
    for step in range(4):
        total = [local_grads(ddp, r, 10 * step) for r in range(world)]
        for micro in (1, 2):
            for r in range(world):
                more = local_grads(ddp, r, 10 * step + micro)
                total[r] = {n: total[r][n] + more[n] for n in more}
        want = oracle.average(total)
        ddp.zero_grad()
        for micro in range(3):
            with no_sync_unless(ddp, micro == 2):
                loss_of(ddp, rank, 10 * step + micro).backward()
        for name, value in grads(ddp).items():
            assert torch.equal(value, want[name]), (name, step)
        optimizer.step()
    return flat(ddp)


@each_exchange
@pytest.mark.parametrize("as_view", [False, True])
def test_no_sync_sends_the_accumulated_gradient_once(exchange, as_view):
    assert alike(run_ranks(accumulate, 2, exchange, as_view))


def accumulate_estimates(rank: int, world: int, spec: str, as_view: bool) -> torch.Tensor:
    """Mechanisms with an estimate see one gradient per synchronised step: those of a Sender and a Receiver fed with the sums."""
    ddp = DDP(make_model(), bucket_cap_mb=TINY, gradient_as_bucket_view=as_view)
    tsq.attach(ddp, spec, exchange="all_gather", exempt=None)
    sizes = {n: p.numel() for n, p in ddp.module.named_parameters()}
    senders = {n: [tsq.Sender(spec, size, r, world) for r in range(world)] for n, size in sizes.items()}
    receivers = {n: tsq.Receiver(spec, size, world) for n, size in sizes.items()}
    optimizer = sgd(ddp)
    for step in range(6):
        total = [local_grads(ddp, r, 10 * step) for r in range(world)]
        for r in range(world):
            more = local_grads(ddp, r, 10 * step + 1)
            total[r] = {n: total[r][n] + more[n] for n in more}
        want = {n: receivers[n].receive([senders[n][r].send(total[r][n].flatten()) for r in range(world)]) for n in sizes}
        ddp.zero_grad()
        for micro in range(2):
            with no_sync_unless(ddp, micro == 1):
                loss_of(ddp, rank, 10 * step + micro).backward()
        for name, value in grads(ddp).items():
            assert torch.equal(value.flatten(), want[name]), (name, step)
        optimizer.step()
    return flat(ddp)


@pytest.mark.parametrize("as_view", [False, True])
@pytest.mark.parametrize("spec", ["EF21(TopK(ratio=0.2), momentum=0.5)", "CLAG(TopK(ratio=0.2), zeta=1.0)",
                                  "AdaCGD([TopK(ratio=0.1), TopK(ratio=0.5)], zeta=1.0)", "LAG(zeta=0.5)"])
def test_no_sync_is_one_step_of_an_estimate(spec, as_view):
    assert alike(run_ranks(accumulate_estimates, 2, spec, as_view))


# ------------------------------------------------------------------ unused parameters


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.always, self.left, self.right = nn.Linear(40, 64), nn.Linear(64, 64), nn.Linear(64, 64)
        self.use: tuple[str, ...] = ()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.always(x)
        for name in self.use:
            y = torch.tanh(getattr(self, name)(y))
        return y[:, :8]


def used(rank: int, step: int) -> tuple[str, ...]:
    """Steps 0, 1: everybody uses both. 2, 3: nobody uses right. 4, 5: rank 0 alone uses left."""
    if step in (2, 3):
        return ("left",)
    if step in (4, 5):
        return ("left", "right") if rank == 0 else ("right",)
    return ("left", "right")


def unused(rank: int, world: int, exchange: str, as_view: bool) -> torch.Tensor:
    options = {"find_unused_parameters": True, "bucket_cap_mb": TINY, "gradient_as_bucket_view": as_view}
    ddp, plain = DDP(Branches(), **options), DDP(Branches(), **options)
    hook = tsq.attach(ddp, EF2, exchange=exchange)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    given = {n: torch.zeros_like(p) for n, p in ddp.module.named_parameters() if p.ndim > 1}
    got, missing = copy.deepcopy(given), {}
    for step in range(8):
        for r in range(world):
            ddp.module.use = used(r, step)
            for name, grad in local_grads(ddp, r, step).items():
                if name in given:
                    given[name] += grad / world
        for module in (plain, ddp):
            inner(module).use = used(rank, step)
        plain.module.load_state_dict(ddp.module.state_dict())
        before = worker_residuals(hook.state_dict())
        train(plain, None, rank, [step])
        train(ddp, None, rank, [step])
        after = worker_residuals(hook.state_dict())
        for name, value in grads(ddp).items():
            assert (value is None) == (grads(plain)[name] is None), f"{name}: None, unlike in plain DDP, or the reverse, in step {step}"
            if name in got and value is not None:
                got[name] += value
        for name in given:
            if name.split(".")[0] not in ("always", *used(rank, step)):
                assert torch.equal(before[name], after[name]) and before[name].any(), f"residual of unused {name} in step {step}"
            elif step:
                assert not torch.equal(before[name], after[name])
        missing[step] = [n for n, v in grads(ddp).items() if v is None]
        optimizer.step()
    assert missing[2] == missing[3] == ["right.weight", "right.bias"] and not missing[4]
    return {"weights": flat(ddp), "given": given, "got": got, "state": hook.state_dict()}


@each_exchange
@each_world
def test_unused_parameters_keep_their_residual(exchange, world):
    results = run_ranks(unused, world, exchange, False)
    assert alike([r["weights"] for r in results])
    states = [r["state"] for r in results]
    owners = owner_residuals(states) if exchange == "sharded" else {}
    for name, given in results[0]["given"].items():
        owed = sum(worker_residuals(s)[name] for s in states) / world + owners.get(name, 0)
        torch.testing.assert_close(results[0]["got"][name].flatten() + owed, given.flatten(), rtol=0, atol=2e-6)


def test_unused_parameters_with_bucket_views():
    run_ranks(unused, 2, "all_gather", True)


# ------------------------------------------------------------------ Join


def join(rank: int, world: int, exchange: str) -> dict[str, Any]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, EF2, exchange=exchange)
    optimizer = sgd(ddp)
    with Join([ddp]):
        train(ddp, optimizer, rank, range(4 + 3 * rank))
    return {"weights": flat(ddp), "residual": worker_residuals(hook.state_dict()), "stats": hook.stats()}


@each_exchange
@each_world
def test_join_with_uneven_inputs(exchange, world):
    results = run_ranks(join, world, exchange)
    assert alike([r["weights"] for r in results])
    assert len({r["stats"]["calls"] for r in results}) == 1 and not any(r["stats"]["error"] for r in results)
    first, last = (sum(v.square().sum() for v in r["residual"].values()) for r in (results[0], results[-1]))
    assert first < 0.5 * last  # who shadows with zeros pays its debts


def join_estimates(rank: int, world: int, exchange: str, spec: str) -> dict[str, Any]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, spec, exchange=exchange)
    optimizer = sgd(ddp)
    with Join([ddp]):
        train(ddp, optimizer, rank, range(3 + 12 * rank))
    parameters = hook.state_dict()["parameters"]
    shifts = {n: e["worker.shift"]["values"] for n, e in parameters.items() if "worker.shift" in e}
    estimates = {n: e["received.estimate"]["values"] for n, e in parameters.items() if "received.estimate" in e}
    return {"weights": flat(ddp), "shifts": shifts, "estimates": estimates, "error": hook.stats()["error"], "steps": [
        e["steps"] for e in parameters.values()]}


@each_exchange
@pytest.mark.parametrize("spec", ["EF21(TopK(ratio=0.5))", "EF21(Quantizer(bits=4), momentum=0.7, init='zero')", "CLAG(TopK(ratio=0.5), zeta=0.5)",
                                  "AdaCGD([TopK(ratio=0.1), TopK(ratio=0.5)], zeta=0.5)", "DIANA(Quantizer(bits=8))",
                                  "MARINA(Quantizer(bits=4), p=0.3)"])
def test_join_with_estimates(exchange, spec):
    """Who has no more data sends the gradient zero: its shift goes there, and the estimate stays the mean of all shifts."""
    results = run_ranks(join_estimates, 2, exchange, spec)
    assert alike([r["weights"] for r in results]) and not any(r["error"] for r in results)
    assert results[0]["weights"].isfinite().all() and results[0]["steps"] == results[1]["steps"]
    for name, shift in results[0]["shifts"].items():
        assert shift.norm() < 0.05 * results[1]["shifts"][name].norm(), name
        if name in results[0]["estimates"] and exchange == "all_gather":
            mean = (shift + results[1]["shifts"][name]) / 2
            torch.testing.assert_close(results[0]["estimates"][name], mean, rtol=0, atol=1e-5 * float(mean.abs().max()))


# ------------------------------------------------------------------ dtypes


def other_dtype(rank: int, world: int, exchange: str, spec: str, dtype: torch.dtype) -> dict[str, Any]:
    ddp = DDP(make_model(dtype=dtype), bucket_cap_mb=0.01)
    hook = tsq.attach(ddp, spec, exchange=exchange)
    given = {n: torch.zeros(p.shape, dtype=torch.float64) for n, p in ddp.module.named_parameters()}
    got = copy.deepcopy(given)
    for step in range(6):
        for r in range(world):
            for name, grad in local_grads(ddp, r, step).items():
                given[name] += grad.double() / world
        train(ddp, None, rank, [step])
        for name, grad in grads(ddp).items():
            assert grad.dtype == dtype
            got[name] += grad.double()
        with torch.no_grad():
            for p in ddp.module.parameters():
                p -= 0.05 * p.grad
    return {"weights": flat(ddp), "given": given, "got": got, "residual": worker_residuals(hook.state_dict()), "stats": hook.stats()}


@each_exchange
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)], ids=str)
def test_model_of_another_dtype(exchange, dtype, tolerance):
    results = run_ranks(other_dtype, 3, exchange, EF2, dtype)
    assert alike([r["weights"] for r in results])
    for name, residual in results[0]["residual"].items():
        assert residual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        if exchange == "all_gather":
            owed = sum(r["residual"][name].double() for r in results) / 3
            scale = results[0]["given"][name].abs().max().item()
            got, given = (results[0][key][name].flatten() for key in ("got", "given"))
            torch.testing.assert_close(got + owed, given, rtol=0, atol=tolerance * max(1, scale))


def mixed_dtypes(rank: int, world: int, exchange: str) -> torch.Tensor:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two, self.three = nn.Linear(40, 64), nn.Linear(64, 64).double(), nn.Linear(64, 64).bfloat16()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.three(self.two(self.one(x).double()).bfloat16()).float()[:, :8]

    ddp = DDP(Mixed(), bucket_cap_mb=0.01)
    hook = tsq.attach(ddp, EF2, exchange=exchange)
    train(ddp, sgd(ddp), rank, range(6))
    residuals = worker_residuals(hook.state_dict())
    dtypes = {n: r.dtype for n, r in residuals.items()}
    assert dtypes == {"one.weight": torch.float32, "two.weight": torch.float64, "three.weight": torch.float32}
    assert all(r.any() and r.isfinite().all() for r in residuals.values())
    return flat(ddp)


@each_exchange
def test_mixed_dtypes(exchange):
    assert alike(run_ranks(mixed_dtypes, 2, exchange))


def shapes(rank: int, world: int, exchange: str) -> torch.Tensor:
    """Parameters of all shapes: one element, empty, not a multiple of a block, channels-last; nothing exempt."""
    class Shapes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 40, 5).to(memory_format=torch.channels_last)
            self.scalar = nn.Parameter(torch.tensor(0.5))
            self.empty = nn.Parameter(torch.empty(0))
            self.odd = nn.Parameter(torch.randn(31, 67))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).mean((2, 3)).sum(1) * self.scalar + self.odd.square().mean() + self.empty.sum()

    ddp = DDP(Shapes(), bucket_cap_mb=0.01)
    hook = tsq.attach(ddp, EF2, exchange=exchange, exempt=None)
    optimizer = sgd(ddp)
    for step in range(5):
        ddp.zero_grad()
        x = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(10 * step + rank))
        ddp(x).square().mean().backward()
        assert ddp.module.conv.weight.grad.shape == (40, 3, 5, 5)
        optimizer.step()
    assert hook.stats()["exempt_parameters"] == 0
    return flat(ddp)


@each_exchange
def test_odd_shapes(exchange):
    results = run_ranks(shapes, 3, exchange)
    assert alike(results) and results[0].isfinite().all()
