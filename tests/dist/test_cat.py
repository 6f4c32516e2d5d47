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
    with pytest.raises(ValueError, match="smoothness.*is for a Sender"):
        tsq.attach(ddp, SPECS[0], policy=tsq.CAT(tsq.AffineCost(1.0, 1.0), smoothness=torch.ones(3)))
    tsq.attach(ddp, policy=tsq.Fixed())
    train(ddp, None, rank, [0])


def test_what_a_hook_refuses():
    run_ranks(refused, 2)
