"""CAT in the hook, in real processes: the same gradients on all ranks, fewer bytes where they cost more, checkpoints, agreement."""

from __future__ import annotations

import pytest
import torch
from models import TINY, flat, make_model, sgd, train
from ranks import run_ranks
from torch.nn.parallel import DistributedDataParallel as DDP

import torch_smoothquant as tsq

SPECS = ["ErrorFeedback(TopK(ratio=0.5))", "EF21(SparseSign(ratio=0.5))", "Direct(StochasticSparsifier(budget=0.5))"]


def runs(rank: int, world: int, spec: str, exchange: str, prices: list[float]) -> tuple[list[torch.Tensor], list[int]]:
    finals, sent = [], []
    for c1 in prices:
        ddp = DDP(make_model(), bucket_cap_mb=TINY)
        hook = tsq.attach(ddp, spec, exchange=exchange, exempt=None, policy=tsq.CAT(tsq.AffineCost(100.0, c1)))
        train(ddp, sgd(ddp), rank, range(5))
        finals.append(flat(ddp))
        sent.append(hook.stats()["wire_bytes"])
        assert hook.stats()["policy"]["spec"].startswith("CAT(cost=AffineCost(c0=100.0")
        hook.close()
    return finals, sent


@pytest.mark.parametrize(("spec", "exchange", "world"), [(SPECS[0], "all_gather", 2), (SPECS[1], "sharded", 3), (SPECS[2], "sharded", 2)])
def test_ranks_agree_and_bytes_fall_as_they_get_dearer(spec, exchange, world):
    results = run_ranks(runs, world, spec, exchange, [0.01, 1.0, 100.0])
    for finals, _ in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(finals, results[0][0], strict=True))
    sent = results[0][1]
    assert sent[0] > sent[1] > sent[2]


def measured(rank: int, world: int, exchange: str) -> tuple[torch.Tensor, int, tuple[float, float]]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    cost = tsq.MeasuredCost()
    hook = tsq.attach(ddp, SPECS[0], exchange=exchange, policy=tsq.CAT(cost))
    train(ddp, sgd(ddp), rank, range(6))
    hook.close()
    return flat(ddp), cost.samples, cost.fit()


@pytest.mark.parametrize("exchange", ["all_gather", "sharded"])
def test_the_hook_measures_its_own_messages(exchange):
    results = run_ranks(measured, 2, exchange)
    assert torch.equal(results[0][0], results[1][0])  # though each rank chose by its own clock
    for _, samples, (c0, c1) in results:
        assert samples >= 6 and 0 < c0 + 1e3 * c1 < 10


def budgeted(rank: int, world: int, exchange: str) -> tuple[torch.Tensor, list[float], float]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    policy = tsq.CAT(tsq.BitCost(), budget=8 * 6000.0)
    hook = tsq.attach(ddp, "EF21(TopK(ratio=1.0))", exchange=exchange, exempt=None, policy=policy)
    optimizer = sgd(ddp)
    prices, total = [], 0.0
    for k in range(30):
        if k == 20:
            total = hook.stats()["wire_bytes"]
        train(ddp, optimizer, rank, [k])
        prices.append(hook.state_dict()["price"])
    return flat(ddp), prices, (hook.stats()["wire_bytes"] - total) / 10


@pytest.mark.parametrize("exchange", ["all_gather", "sharded"])
def test_one_price_on_all_ranks(exchange):
    results = run_ranks(budgeted, 2, exchange)
    for final, prices, _ in results:
        assert torch.equal(final, results[0][0]) and prices == results[0][1] and prices[-1] > 0
    if exchange == "all_gather":  # what left the two ranks: messages padded to the longer one, and their lengths
        assert sum(r[2] for r in results) == pytest.approx(6000, rel=0.35)


def resumed(rank: int, world: int) -> None:
    def hooked() -> tuple[DDP, tsq.Hook]:
        ddp = DDP(make_model(), bucket_cap_mb=TINY)
        return ddp, tsq.attach(ddp, "EF21(TopK(ratio=1.0))", exempt=None, policy=tsq.CAT(tsq.BitCost(), budget=8 * 6000.0))

    one, hook = hooked()
    train(one, sgd(one), rank, range(4))
    other, restored = hooked()
    other.module.load_state_dict(one.module.state_dict())
    restored.load_state_dict(hook.state_dict())
    for ddp in (one, other):
        train(ddp, torch.optim.SGD(ddp.parameters(), lr=0.1), rank, range(4, 8))
    assert torch.equal(flat(one), flat(other))
    hook.set_spec("EF21(TopK(ratio=0.1))")
    train(one, None, rank, [8])
    with pytest.raises(ValueError, match="policy: CAT chooses"):
        hook.set_spec("EF21(Quantizer(bits=4))")


def test_checkpoint_and_set_spec():
    run_ranks(resumed, 2)


def weighted(rank: int, world: int, exchange: str) -> tuple[torch.Tensor, dict[str, float]]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    rough = {}  # every third element is a million times rougher
    for name, p in ddp.module.named_parameters():
        d = torch.ones(p.numel())
        d[::3] = 1e12
        rough[name] = d
    hook = tsq.attach(ddp, "Direct(TopK(ratio=0.5))", exchange=exchange, exempt=None,
                      policy=tsq.CAT(tsq.AffineCost(100.0, 1.0), smoothness=rough))
    before = {name: p.detach().clone() for name, p in ddp.module.named_parameters()}
    train(ddp, torch.optim.SGD(ddp.parameters(), lr=0.1), rank, range(2))
    with pytest.raises(ValueError, match="expected no SparseSign"):
        hook.set_spec(SPECS[1])
    moved = {name: ((p.detach() - before[name]).flatten()[::3] != 0).double().mean().item() for name, p in ddp.module.named_parameters()
             if p.numel() > 50}
    return flat(ddp), moved


@pytest.mark.parametrize(("exchange", "world"), [("all_gather", 2), ("sharded", 3)])
def test_rough_directions_are_ranked_last(exchange, world):
    results = run_ranks(weighted, world, exchange)
    for final, moved in results:
        assert torch.equal(final, results[0][0])
        assert moved and not any(moved.values())


def remembered(rank: int, world: int) -> tuple[dict, dict]:
    def hooked() -> tuple[DDP, tsq.Hook, tsq.MeasuredCost]:
        ddp, cost = DDP(make_model(), bucket_cap_mb=TINY), tsq.MeasuredCost()
        return ddp, tsq.attach(ddp, SPECS[0], policy=tsq.CAT(cost)), cost

    ddp, hook, cost = hooked()
    train(ddp, sgd(ddp), rank, range(3))
    saved, mean = hook.state_dict(), hook.state_dict("mean")
    assert saved["measured"]["samples"] == cost.samples
    _, other, restored = hooked()
    other.load_state_dict(saved)
    assert restored.fit() == cost.fit() and restored.samples == cost.samples
    other.load_state_dict(mean)
    assert other.state_dict()["measured"] == mean["measured"]
    fit = restored.fit()
    for change, text in (({"weight": -1.0}, "measured: weight: expected a finite number of at least 0, got -1.0"),
                         ({"covariance": float("nan")}, "measured: covariance: expected a finite number, got nan"),
                         ({"weight": 0.0}, "measured: weight: expected one above 0"),
                         ({"mean_seconds": "long"}, "measured: mean_seconds"),
                         ({"more": 1.0}, "measured: expected None or a mapping of samples")):
        with pytest.raises(ValueError, match=text):
            other.load_state_dict({**saved, "measured": {**saved["measured"], **change}})
        assert restored.fit() == fit  # nothing was loaded
    older = {k: v for k, v in saved.items() if k != "measured"}
    other.load_state_dict(older)
    assert restored.fit() == fit
    plain = tsq.attach(DDP(make_model(), bucket_cap_mb=TINY), SPECS[0])
    plain.load_state_dict(saved)  # another policy: what was measured is of no use
    assert plain.state_dict()["measured"] is None
    return saved["measured"], mean["measured"]


def test_what_was_measured_is_in_the_checkpoint():
    (one, mean), (two, same) = run_ranks(remembered, 2)
    assert mean == same
    assert mean["weight"] == pytest.approx((one["weight"] + two["weight"]) / 2)
    total = (one["weight"] * one["mean_seconds"] + two["weight"] * two["mean_seconds"]) / (one["weight"] + two["weight"])
    assert mean["mean_seconds"] == pytest.approx(total)


def disagreeing(rank: int, world: int) -> str:
    with pytest.raises(ValueError) as caught:
        tsq.attach(DDP(make_model()), SPECS[0], policy=tsq.CAT(tsq.AffineCost(1.0 + rank, 1.0)))
    return str(caught.value)


def test_ranks_compare_their_policies():
    for text in run_ranks(disagreeing, 2):
        assert "the ranks differ" in text and "AffineCost(c0=1.0" in text and "AffineCost(c0=2.0" in text


def refused(rank: int, world: int) -> None:
    ddp = DDP(make_model())
    for policy, text in ((tsq.CAT(tsq.AffineCost(1.0, 1.0)), "there is none in .*Quantizer"),):
        with pytest.raises(ValueError, match=text):
            tsq.attach(ddp, policy=policy)
    with pytest.raises(ValueError, match="budget: expected BitCost or PacketCost in a hook"):
        tsq.attach(ddp, SPECS[0], policy=tsq.CAT(tsq.AffineCost(1.0, 1.0), budget=5.0))
    cost = tsq.AffineCost(1.0, 1.0)
    for smoothness, spec, text in ((torch.ones(3), SPECS[0], "expected a mapping from names of parameters in a hook"),
                                   ({"nothing": 1.0}, SPECS[0], r"expected patterns that match a parameter, got \['nothing'\]"),
                                   ({"*": torch.ones(3)}, SPECS[0], "expected .* elements, those of .*, got 3"),
                                   ({"*": 1.0}, SPECS[1], "expected no SparseSign")):
        with pytest.raises(ValueError, match=text):
            tsq.attach(ddp, spec, policy=tsq.CAT(cost, smoothness=smoothness))
    tsq.attach(ddp, policy=tsq.Fixed())
    train(ddp, None, rank, [0])


def test_what_a_hook_refuses():
    run_ranks(refused, 2)
