"""CAT and its costs from Python: guarantees of section "CAT" in docs/cat.md, exactness, loops of several workers, errors."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch

import torch_smoothquant as tsq

AFFINE = tsq.AffineCost(20.0, 1.0)


def send(spec: str, g: torch.Tensor, policy: tsq.CAT, **kwargs) -> tuple[tsq.Sender, torch.Tensor]:
    sender = tsq.Sender(spec, g.numel(), dtype=g.dtype, policy=policy, **kwargs)
    return sender, tsq.decode(sender.send(g))


def gradient(seed: int, n: int = 300) -> torch.Tensor:
    g = torch.from_numpy(np.random.default_rng(seed).normal(size=n) ** 3)
    g[::7] = 0
    return g


# ---- guarantees: f(x - step Q) <= f(x) - factor |g|^2 / (2 L), equality on f = (L / 2) |x|^2, g = L x


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spec", ["TopK(ratio=1.0)", "SparseSign(ratio=1.0)"])
def test_guarantees_hold_with_equality_on_the_quadratic(spec, seed):
    L, g = 3.0, gradient(seed)
    sender, q = send(f"Direct({spec})", g, tsq.CAT(AFFINE))
    assert 1 <= sender.entries < 300 and 0 < sender.efficiency < 1
    step = 1 / L if spec.startswith("TopK") else math.sqrt(sender.efficiency / sender.entries) / L
    x = g / L
    descent = float(L / 2 * (x.square().sum() - (x - step * q).square().sum()))
    promised = float(sender.efficiency * g.square().sum() / (2 * L))
    assert descent == pytest.approx(promised, rel=1e-6 if "Sign" in spec else 1e-12)  # one scale in fp32


def test_guarantee_of_the_sparsifier_holds_in_expectation():
    L, g = 3.0, gradient(1, 60)
    sender = tsq.Sender("Direct(StochasticSparsifier(budget=1.0))", 60, dtype=torch.float64, policy=tsq.CAT(AFFINE))
    descents = []
    for _ in range(4000):
        q = tsq.decode(sender.send(g))
        x = g / L
        descents.append(float(L / 2 * (x.square().sum() - (x - sender.efficiency / L * q).square().sum())))
    promised = float(sender.efficiency * g.square().sum() / (2 * L))
    assert np.mean(descents) == pytest.approx(promised, abs=4 * np.std(descents) / math.sqrt(len(descents)))
    assert np.std(descents) / math.sqrt(len(descents)) < 0.02 * promised  # else the line above says nothing


# ---- choices against exhaustive search in numpy


def best(gain: np.ndarray, cost: np.ndarray) -> int:
    return int(np.argmax(gain / cost)) + 1


@pytest.mark.parametrize("seed", range(4))
def test_choices_are_the_exhaustive_best(seed):
    g = gradient(seed)
    a = np.sort(np.abs(g.numpy()))[::-1]
    a = a[a > 0]
    t = np.arange(1, len(a) + 1)
    assert send("TopK(ratio=1.0)", g, tsq.CAT(AFFINE))[0].entries == best(np.cumsum(a**2), 20 + t)
    assert send("SparseSign(ratio=1.0)", g, tsq.CAT(AFFINE))[0].entries == best(np.cumsum(a) ** 2 / t, 20 + t)
    packets = tsq.PacketCost(payload=80, packet=100, message=30, straddle=False)
    entry = 64 + 8  # the index code: 8 bits for an index at this density, or 9
    found = send("TopK(ratio=1.0)", g, tsq.CAT(packets))[0].entries
    candidates = [best(np.cumsum(a**2), 30 + 100 * np.ceil(t / (640 // (entry + extra)))) for extra in (-2, -1, 0, 1)]
    assert found in candidates


def test_flat_tails_are_seen_by_the_full_scan():
    g = torch.full((1001,), 0.3)
    g[500] = 1.0
    assert send("SparseSign(ratio=1.0)", g, tsq.CAT(tsq.AffineCost(1, 1e-6)))[0].entries == 1001


def test_degenerate_cases():
    g = gradient(0)
    assert send("TopK(ratio=1.0)", g, tsq.CAT(tsq.BitCost()))[0].entries == 1  # coordinate descent
    everything = tsq.CAT(tsq.AffineCost(1.0, 0.0))
    assert send("TopK(ratio=1.0)", g, everything)[0].entries == int((g != 0).sum())
    assert send("TopK(k=10)", g, everything)[0].entries == 10
    for spec in ("TopK(ratio=1.0)", "SparseSign(ratio=1.0)", "StochasticSparsifier(budget=1.0)"):
        sender, q = send(spec, torch.zeros(50), tsq.CAT(AFFINE))
        assert sender.entries == 0 and not q.any()
        sender, q = send(spec, torch.tensor([1.0, math.inf]), tsq.CAT(AFFINE))
        assert sender.entries is None and q.isnan().all()
    # SS with a pure bit cost: every T up to |g|_1 / |g|_inf is as good, and the largest is taken
    counts = []
    sender = tsq.Sender("StochasticSparsifier(budget=1.0)", 300, dtype=torch.float64, policy=tsq.CAT(tsq.BitCost()))
    for _ in range(300):
        sender.send(g)
        counts.append(sender.entries)
    assert np.mean(counts) == pytest.approx(float(g.abs().sum() / g.abs().max()), rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("spec", ["TopK(ratio=0.5)", "TopK(ratio=1.0)", "SparseSign(ratio=0.5)", "SparseSign(ratio=1.0)",
                                  "StochasticSparsifier(budget=0.5)"])
@pytest.mark.parametrize("n", [0, 1, 255, 257])
def test_every_dtype_and_length(spec, dtype, n):
    g = torch.randn(n, generator=torch.Generator().manual_seed(n)).to(dtype)
    sender = tsq.Sender(f"ErrorFeedback({spec})", n, dtype=dtype, policy=tsq.CAT(AFFINE))
    total = torch.zeros(n, dtype=torch.float64)
    for _ in range(3):
        total += tsq.decode(sender.send(g)).double()
    assert torch.allclose(total + sender.state["residual"].double(), 3 * g.double(), atol=1e-2, rtol=1e-2)  # conservation
    assert (sender.entries or 0) <= max(1, n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("name", ["TopK", "SparseSign"])
@pytest.mark.parametrize("mechanism", ["Direct", "ErrorFeedback", "EF21"])
def test_where_all_may_be_sent_the_choice_gives_the_message_of_its_number(mechanism, name, dtype):
    g = (gradient(2, 3000) * 3).round().div(4).to(dtype)  # many ties: of equal ones the first are sent
    chosen, limited = (tsq.Sender(f"{mechanism}({name}({of}))", 3000, dtype=dtype, policy=tsq.CAT(tsq.AffineCost(c0, 1.0)))
                       for of, c0 in (("ratio=1.0", 50.0), ("k=2999", 50.0)))
    for k in range(3):
        one, other = chosen.send(g * (1 + k)), limited.send(g * (1 + k))
        assert torch.equal(one, other)
        assert 0 < (chosen.entries or 1) < 2999  # EF21 begins with everything
    before = {k: v.clone() for k, v in chosen.state.items()}
    bad = g.clone()
    bad[7] = math.inf
    assert tsq.decode(chosen.send(bad)).isnan().all()
    assert all(torch.equal(v, chosen.state[k]) for k, v in before.items())


def test_dearer_bytes_send_fewer_entries_and_receivers_need_not_know():
    g = gradient(3, 5000).float()
    sizes = []
    for per_byte in (1e-9, 1e-8, 1e-7, 1e-6):
        policy = tsq.CAT(tsq.MeasuredCost(c0=1e-4, c1=per_byte))
        sender = tsq.Sender("EF21(TopK(ratio=0.5))", 5000, policy=policy)
        receiver = tsq.Receiver("EF21(TopK(ratio=0.5))", 5000)
        for k in range(3):
            message = sender.send(g * (k + 1))
            estimate = receiver.receive([message])
        assert torch.equal(estimate, sender.state["shift"])
        sizes.append(len(message))
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 5 * sizes[-1]


def test_measured_cost_is_a_constrained_fit():
    cost = tsq.MeasuredCost()
    assert cost.fit() == (1e-4, 8e-9) and cost.samples == 0 and cost.unit == "seconds"
    for size in (1000, 20000, 500000):
        cost.observe(size, 3e-3 + 2e-8 * size)
    assert cost.fit() == pytest.approx((3e-3, 2e-8)) and cost.seconds(10**6) == pytest.approx(0.023)
    falling = tsq.MeasuredCost()
    for size, seconds in ((1, 3.0), (2, 2.0), (3, 1.0)):
        falling.observe(size, seconds)
    assert falling.fit()[1] == 0.0


# ---- several workers


def heterogeneous(n: int = 4, d: int = 40) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.uniform(0.5, 2.0, (n, d)), random.normal(size=(n, d)) * 10 ** random.uniform(-1, 1, (n, d))


@pytest.mark.parametrize("spec", ["EF21({})", "ErrorFeedback({})"])
def test_workers_that_differ_reach_the_optimum_only_with_error_feedback(spec):
    curvature, targets = heterogeneous()
    n, d = targets.shape
    best_x = (curvature * targets).sum(0) / curvature.sum(0)

    def distance(text: str, steps: int = 3000, step: float = 0.02) -> float:
        senders = [tsq.Sender(text, d, r, n, dtype=torch.float64, policy=tsq.CAT(tsq.AffineCost(2.0, 1.0))) for r in range(n)]
        receiver = tsq.Receiver(text, d, n, dtype=torch.float64)
        x = np.zeros(d)
        for _ in range(steps):
            gradients = curvature * (x - targets)
            x = x - step * receiver.receive([s.send(torch.from_numpy(g)) for s, g in zip(senders, gradients, strict=True)]).numpy()
        return float(np.linalg.norm(x - best_x))

    alone = distance("Direct(TopK(ratio=1.0))")
    assert alone > 1  # biased: it stops elsewhere
    assert distance(spec.format("TopK(ratio=1.0)")) < (1e-9 if spec.startswith("EF21") else 0.2 * alone)


def test_one_price_splits_a_budget():
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([20.0, 1.0, 1.0, 5.0])[:, None]  # whoever has more to say sends more
    policy = tsq.CAT(tsq.BitCost(), budget=20_000.0)
    senders = [tsq.Sender("EF21(TopK(ratio=1.0))", 400, r, 4, policy=policy) for r in range(4)]
    receiver = tsq.Receiver("EF21(TopK(ratio=1.0))", 400, 4)
    price, spent, shares = 0.0, [], np.zeros(4)
    for k in range(80):
        gradients = scale * torch.randn(4, 400, generator=generator)
        messages = [s.send(g) for s, g in zip(senders, gradients, strict=True)]
        sizes = np.array([8.0 * len(m) for m in messages])
        estimate = receiver.receive(messages)
        price = policy.next_price(price, sizes.sum(), float(estimate.square().sum()))
        for s in senders:
            s.price = price
        if k >= 30:
            spent.append(sizes.sum())
            shares += sizes
    assert np.mean(spent) == pytest.approx(20_000, rel=0.05)
    assert shares[0] > 1.5 * shares[3] > 2 * shares[1:3].max()


@pytest.mark.parametrize("cost", [tsq.AffineCost(50.0, 1.0), tsq.AffineCost(1.0, 1.0)])
def test_adacgd_chooses_among_feasible_levels(cost):
    ladder = [tsq.TopK(k=k) for k in (5, 20, 60, 200)]
    zeta = 4.0
    spec = tsq.AdaCGD(ladder, zeta=zeta, init="zero")
    sender = tsq.Sender(spec, 200, dtype=torch.float64, policy=tsq.CAT(cost))
    plain = tsq.Sender(spec, 200, dtype=torch.float64)
    random = np.random.default_rng(0)
    x, seen = random.normal(size=200) ** 3, set()
    previous = None
    for k in range(40):
        h = sender.state["shift"].numpy().copy()
        r = x - h
        sender.send(torch.from_numpy(x))
        plain.send(torch.from_numpy(x))
        seen.add(sender.level)
        left = np.sum((x - sender.state["shift"].numpy()) ** 2)
        if previous is not None:
            allowed = zeta * np.sum((x - previous) ** 2)
            assert left <= max(allowed, 0.0) + 1e-9 or sender.level == 4  # the any-selector lemma's condition
            if sender.level:
                a = np.sort(r**2)[::-1].cumsum()
                feasible = [j for j in (5, 20, 60, 200) if j == 200 or np.sum(r**2) - a[j - 1] <= allowed + 1e-12]
                ratio = {j: a[j - 1] / (cost.c0 + cost.c1 * j) for j in feasible}
                assert ratio[ladder[sender.level - 1].k] == pytest.approx(max(ratio.values()))
        previous = x
        x = x + 0.3 * random.normal(size=200) * (k % 5 == 0)
    assert len(seen - {0}) >= 1


# ---- smoothness


class HasDiagonal:
    def __init__(self, d: torch.Tensor) -> None:
        self.d = d

    def diagonal(self) -> torch.Tensor:
        return self.d


def test_smoothness_ranks_by_squared_gradient_over_curvature():
    g, d = gradient(5, 200), torch.from_numpy(10 ** np.random.default_rng(1).uniform(-2, 2, 200))
    sender, q = send("TopK(ratio=1.0)", g, tsq.CAT(AFFINE, smoothness=HasDiagonal(d)))
    score = (g.square() / d).numpy()
    order = np.argsort(-score, kind="stable")
    t = best(np.cumsum(score[order])[: int((g != 0).sum())], 20 + np.arange(1, int((g != 0).sum()) + 1))
    assert sender.entries == t
    assert set(np.flatnonzero(q.numpy())) == set(order[:t])
    assert sender.efficiency == pytest.approx(score[order][:t].sum() / score.sum())
    # f = 1/2 x^T D x, x = D^-1 g: the step D^-1 Q takes exactly the promised part off f
    x = g / d
    f = 0.5 * (d * x.square()).sum()
    assert 0.5 * (d * (x - q / d).square()).sum() == pytest.approx(float(f * (1 - sender.efficiency)))
    for other in (d, tsq.Diagonal(d)):
        assert torch.equal(send("TopK(ratio=1.0)", g, tsq.CAT(AFFINE, smoothness=other))[1], q)


def test_smoothness_keeps_the_sparsifier_unbiased():
    g, d = gradient(6, 40), torch.from_numpy(10 ** np.random.default_rng(2).uniform(-2, 2, 40))
    sender = tsq.Sender("StochasticSparsifier(budget=1.0)", 40, dtype=torch.float64, policy=tsq.CAT(AFFINE, smoothness=d))
    draws = torch.stack([tsq.decode(sender.send(g)) for _ in range(6000)])
    often = (draws != 0).sum(0) > 30  # the others' spread is not known
    assert often.sum() > 20 and int((draws.std(0)[often] > 0).sum()) > 10
    assert torch.all(((draws.mean(0) - g).abs() <= 5 * draws.std(0) / math.sqrt(6000) + 1e-12)[often])


# ---- a run


@pytest.mark.parametrize("seed", range(3))
def test_a_run_keeps_what_beats_sending_everything(seed):
    g = gradient(seed)
    a = np.sort(np.abs(g.numpy()))[::-1]
    a = a[a > 0]
    step, run = (send("TopK(ratio=1.0)", g, tsq.CAT(AFFINE, horizon=horizon))[0] for horizon in ("step", "run"))
    assert run.entries == int((a**2 > (a**2).sum() / (20 + len(a))).sum()) > step.entries
    # still at least what everything gains per cost, and by definition less than the step's best ratio
    ratios = [s.efficiency / (20 + s.entries) for s in (step, run)]
    assert ratios[0] >= ratios[1] >= 1 / (20 + len(a))


# ---- errors


def test_errors_name_what_was_expected():
    nothing = r"policy: CAT chooses .* TopK, SparseSign or StochasticSparsifier; there is none in .*Quantizer\(bits=4\)"
    with pytest.raises(ValueError, match=nothing):
        tsq.Sender("ErrorFeedback(Quantizer(bits=4))", 10, policy=tsq.CAT(AFFINE))
    with pytest.raises(TypeError, match=r"policy: expected None, Fixed\(\) or CAT\(...\), got str"):
        tsq.Sender("TopK(k=1)", 10, policy="fast")
    for make, text in (
        (lambda: tsq.AffineCost(-1, 1), "AffineCost: c0: expected a finite number of at least 0, got -1"),
        (lambda: tsq.AffineCost(0, 0), "AffineCost: expected c0 or c1 above 0, got zero for both"),
        (lambda: tsq.AffineCost(1, 1, "hours"), "AffineCost: unit: expected 'bits', 'bytes' or 'seconds', got 'hours'"),
        (lambda: tsq.PacketCost(payload=0), "PacketCost: payload: expected a finite number above 0, got 0"),
        (lambda: tsq.MeasuredCost(keep=0), r"MeasuredCost: keep: expected in \(0, 1\], got 0"),
        (lambda: tsq.MeasuredCost(0, 0), "MeasuredCost: expected c0 or c1 above 0"),
        (lambda: tsq.MeasuredCost().observe(-1, 1), "MeasuredCost: bytes: expected a finite number of at least 0, got -1"),
        (lambda: tsq.CAT(AFFINE, budget=0), "CAT: budget: expected a finite number above 0, got 0"),
        (lambda: tsq.CAT(AFFINE, speed=2), r"CAT: speed: expected in \(0, 1\], got 2"),
        (lambda: tsq.CAT(AFFINE, horizon="week"), "CAT: horizon: expected 'step' or 'run', got 'week'"),
        (lambda: tsq.CAT(AFFINE, smoothness=torch.tensor([1.0, -1.0])), "CAT: smoothness: expected finite numbers above 0"),
        (lambda: tsq.Sender("TopK(k=1)", 3, policy=tsq.CAT(AFFINE, smoothness=torch.ones(2))), "expected 3 elements.*got 2"),
        (lambda: tsq.Sender("SparseSign(k=1)", 3, policy=tsq.CAT(AFFINE, smoothness=torch.ones(3))), "expected no SparseSign"),
    ):
        with pytest.raises(ValueError, match=text):
            make()
    with pytest.raises(TypeError, match="CAT: cost: expected BitCost"):
        tsq.CAT(3)
    with pytest.raises(TypeError, match="CAT: smoothness: expected a 1-D tensor"):
        tsq.CAT(AFFINE, smoothness=3)
    sender = tsq.Sender("TopK(k=1)", 3)
    with pytest.raises(ValueError, match="price: expected a finite number of at least 0, got -1"):
        sender.price = -1


def test_fixed_changes_nothing_and_policies_are_values():
    g = gradient(0)
    plain, fixed = tsq.Sender("TopK(k=9)", 300, dtype=torch.float64), tsq.Sender("TopK(k=9)", 300, dtype=torch.float64, policy=tsq.Fixed())
    assert torch.equal(plain.send(g), fixed.send(g))
    assert plain.efficiency is None and plain.entries is None
    namespace = {name: getattr(tsq, name) for name in tsq.__all__}
    for policy in (tsq.Fixed(), tsq.CAT(AFFINE), tsq.CAT(tsq.PacketCost(512, 576, 64), budget=3.0), tsq.CAT(tsq.BitCost())):
        assert eval(repr(policy), namespace) == policy


def test_state_goes_on_bit_for_bit():
    policy = tsq.CAT(tsq.BitCost(), budget=3000.0)
    make = lambda: tsq.Sender("EF21(TopK(ratio=1.0))", 300, dtype=torch.float64, policy=policy)  # noqa: E731
    one = make()
    for k in range(3):
        one.send(gradient(k))
        one.price = 0.1 * k
    other = make()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.send(gradient(9)), other.send(gradient(9)))


@pytest.mark.parametrize("again", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_policies_go_to_other_processes(again):
    measured = tsq.MeasuredCost(keep=0.9)
    measured.observe(1000, 0.5)
    measured.observe(3000, 0.75)
    for cost in (tsq.BitCost(), tsq.PacketCost(512, 576), AFFINE):
        assert again(cost) == cost and again(tsq.NeverSlower(tsq.CAT(cost, budget=3.0))) == tsq.NeverSlower(tsq.CAT(cost, budget=3.0))
    assert again(tsq.CAT(measured)).cost.fit() == measured.fit() and again(measured).samples == 2
    D = torch.logspace(-2, 2, 300)
    policy = tsq.CAT(AFFINE, smoothness=D)
    assert torch.equal(again(policy).smoothness, D) and policy == policy and policy != tsq.CAT(AFFINE, smoothness=D.clone())
    for given in (policy, tsq.CAT(AFFINE, horizon="run"), None):
        sender = tsq.Sender("EF21(TopK(ratio=0.5))", 300, dtype=torch.float64, policy=given)
        sender.send(gradient(0))
        assert torch.equal(again(sender).send(gradient(1)), sender.send(gradient(1)))
