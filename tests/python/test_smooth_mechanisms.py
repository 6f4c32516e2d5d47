"""DCGD+ and DIANA+: the theorems by exact conditional expectation, equivalences, state, what is refused."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import torch_smoothquant as tsq
from torch_smoothquant import smoothness as sm

D, N = 12, 3


class Quadratics:
    """f_i(x) = (x - b_i)^T Q_i (x - b_i) / 2 of singular Q_i; their mean is mu-convex."""

    def __init__(self, seed: int = 0, d: int = D, n: int = N) -> None:
        g = torch.Generator().manual_seed(seed)
        self.Q = []
        for _ in range(n):
            v = torch.randn(d, d // 2, generator=g, dtype=torch.float64) * torch.logspace(0, -1.5, d, dtype=torch.float64)[:, None]
            self.Q.append(v @ v.T / d)
        self.b = list(3 * torch.randn(n, d, generator=g, dtype=torch.float64))
        mean = torch.stack(self.Q).mean(0)
        self.mu, self.L = (float(torch.linalg.eigvalsh(mean)[i]) for i in (0, -1))
        self.solution = torch.linalg.solve(mean, torch.stack([q @ b for q, b in zip(self.Q, self.b, strict=True)]).mean(0))
        self.smoothness = [tsq.Matrix(q, self.mu) for q in self.Q]

    def gradients(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [q @ (x - b) for q, b in zip(self.Q, self.b, strict=True)]


def variances(spec: tsq.Compressor, y: torch.Tensor, diagonal: torch.Tensor, n_mu: float) -> torch.Tensor:
    """Exact Var of each coordinate of C(y), from the definitions of docs/smoothness.md."""
    d = len(y)
    if isinstance(spec, tsq.SmoothBernoulli):
        p = sm.bernoulli_probabilities(diagonal, spec.budget, n_mu)
        return torch.where(p > 0, (1 / p - 1) * y**2, 0.0)
    if isinstance(spec, tsq.BlockDithering):
        h, edges = sm.block_steps(diagonal, spec.blocks, spec.budget, n_mu), [d * i // spec.blocks for i in range(spec.blocks + 1)]
        steps = torch.cat([torch.full((b - a,), float(h[i] * y[a:b].norm())) for i, (a, b) in enumerate(pairwise(edges))])
    elif spec.norm != 1:
        steps = y.norm() * sm.varying_steps(diagonal, spec.budget, n_mu)
    else:
        A = diagonal if n_mu == 0 else 1 + diagonal / n_mu
        steps = (A.sqrt() * y.abs()).sum() / (spec.budget * A.sqrt())
    t = (y.abs() / steps).frac()
    return t * (1 - t) * steps**2


COMPRESSORS = [tsq.VaryingDithering(4.0), tsq.VaryingDithering(4.0, norm=1), tsq.BlockDithering(3, 7.0), tsq.SmoothBernoulli(4.0)]


@pytest.mark.parametrize("c", COMPRESSORS, ids=repr)
def test_one_step_of_dcgd_plus(c):
    """E|x+ - x*|^2 <= (1 - gamma mu)|x - x*|^2 + 2 gamma^2 sigma* / n, exactly, at the library's own constants."""
    worst = 0.0
    for seed in range(20):
        p = Quadratics(seed)
        g = torch.Generator().manual_seed(100 + seed)
        spec = tsq.Direct(c)
        step, noise = spec.convex_step(p.smoothness), spec.noise(p.smoothness)
        sigma = np.mean([n[1] * float(S.inverse_root(v) @ S.inverse_root(v))
                         for n, S, v in zip(noise, p.smoothness, p.gradients(p.solution), strict=True)])
        for size in (1e-2, 1.0, 30.0):
            x = p.solution + size * torch.randn(D, generator=g, dtype=torch.float64)
            after = float((x - step * torch.stack(p.gradients(x)).mean(0) - p.solution).square().sum())
            for S, v in zip(p.smoothness, p.gradients(x), strict=True):
                var = variances(c, S.inverse_root(v), S.diagonal(), 0.0)
                after += step**2 / N**2 * float((S.diagonal() * var).sum())
            before = float((x - p.solution).square().sum())
            worst = max(worst, after / ((1 - step * p.mu) * before + 2 * step**2 * sigma / N))
    assert 0.5 < worst <= 1 + 1e-9


@pytest.mark.parametrize("c", COMPRESSORS, ids=repr)
def test_lyapunov_function_of_diana_plus(c):
    """E V+ <= max(1 - gamma mu, 1 - alpha/2) V with each rank's own alpha_i and M_i = 4 script-L_max / (n alpha_i)."""
    worst = 0.0
    for seed in range(20):
        p = Quadratics(seed)
        g = torch.Generator().manual_seed(200 + seed)
        spec = tsq.DIANA(c)
        step, noise = spec.convex_step(p.smoothness), spec.noise(p.smoothness)
        alphas = [1 / (1 + omega) for omega, _ in noise]
        script = max(s for _, s in noise)
        weights = [4 * script / (N * a) * step**2 / N for a in alphas]
        rate = max(1 - step * p.mu, 1 - min(alphas) / 2)
        optimal = p.gradients(p.solution)
        for size, shift in ((1e-2, 1.0), (1.0, 1.0), (1.0, 1e-3), (30.0, 1.0)):
            x = p.solution + size * torch.randn(D, generator=g, dtype=torch.float64)
            V = float((x - p.solution).square().sum())
            after = float((x - step * torch.stack(p.gradients(x)).mean(0) - p.solution).square().sum())
            for S, now, best, a, w in zip(p.smoothness, p.gradients(x), optimal, alphas, weights, strict=True):
                h = best + shift * S.dense() @ torch.randn(D, generator=g, dtype=torch.float64)  # in the range of L
                y = S.inverse_root(now - h)
                var = variances(c, y, S.diagonal(), N * p.mu)
                after += step**2 / N**2 * float((S.diagonal() * var).sum())
                after += w * (float(S.inverse_root(h + a * (now - h) - best).square().sum()) + a**2 * float(var.sum()))
                V += w * float(S.inverse_root(h - best).square().sum())
            worst = max(worst, after / (rate * V))
    assert 0.5 < worst <= 1 + 1e-9


@pytest.mark.parametrize("c", COMPRESSORS[:3], ids=repr)
def test_expected_non_zeros_and_noise(c):
    """E nnz <= budget; the l1 form has noise N_w^2 / beta <= (tr / beta) |y|^2, never more than the paper's bound."""
    g = torch.Generator().manual_seed(4)
    for seed in range(10):
        S = Quadratics(seed).smoothness[0]
        for n_mu in (0.0, 0.1):
            y = torch.randn(D, generator=g, dtype=torch.float64) * 10 ** (-2 * torch.rand(D, generator=g, dtype=torch.float64))
            if isinstance(c, tsq.VaryingDithering) and c.norm == 1:
                A = S.diagonal() if n_mu == 0 else 1 + S.diagonal() / n_mu
                total = float((A.sqrt() * y.abs()).sum())
                noise = float((A * variances(c, y, S.diagonal(), n_mu)).sum())
                assert noise <= total**2 / c.budget * (1 + 1e-12) <= float(A.sum()) / c.budget * float(y @ y) * (1 + 1e-12)
    S = Quadratics(1).smoothness[0]
    sender = tsq.Sender(c, D, dtype=torch.float64, smoothness=S)
    y = torch.randn(D, generator=g, dtype=torch.float64)
    gradient = S.root(S.root(S.inverse_root(y)))  # in the range
    counts = [int(tsq.decode(sender.send(gradient)).count_nonzero()) for _ in range(400)]
    norms = c.blocks if isinstance(c, tsq.BlockDithering) else 0
    assert np.mean(counts) <= c.budget - norms + 5 * np.std(counts) / 20


@pytest.mark.parametrize("make", [tsq.Direct, tsq.DIANA], ids=lambda m: m.__name__)
@pytest.mark.parametrize("c", COMPRESSORS, ids=repr)
def test_constants_are_bounds_and_near(c, make):
    """omega and script-L against the exact variance on random and adverse inputs: never less, and not far away."""
    g, worst = torch.Generator().manual_seed(9), [0.0, 0.0]
    for seed in range(6):
        p = Quadratics(seed)
        S, n_mu = p.smoothness[0], N * p.mu if make is tsq.DIANA else 0.0
        omega, script = make(c).noise(p.smoothness)[0]
        L = S.diagonal()
        inputs = [torch.ones(D), L.sqrt(), 1 / L.sqrt(), 1 / L, L, *torch.eye(D)]
        inputs += [torch.randn(D, generator=g) * 10 ** (-spread * torch.rand(D, generator=g)) for spread in (0, 1, 2) for _ in range(200)]
        for y in inputs:
            y = y.double()
            var, square = variances(c, y, L, n_mu), float(y @ y)
            worst[0] = max(worst[0], float(var.sum()) / (omega * square))
            worst[1] = max(worst[1], float((L * var).sum()) / (script * square))
    assert 0.2 < worst[0] <= 1 + 1e-6 and 0.2 < worst[1] <= 1 + 1e-6, worst  # probabilities are multiples of 2^-32


def run(problem: Quadratics, spec: tsq.Mechanism, rounds: int, smoothness=None, step: float | None = None, seed: int = 0):
    senders = [tsq.Sender(spec, D, i, N, torch.float64, seed, smoothness[i] if smoothness else None) for i in range(N)]
    receiver = tsq.Receiver(spec, D, N, torch.float64, seed, smoothness)
    x, errors = torch.zeros(D, dtype=torch.float64), []
    step = step or spec.convex_step(smoothness)
    for _ in range(rounds):
        x = x - step * receiver.receive([s.send(g) for s, g in zip(senders, problem.gradients(x), strict=True)])
        errors.append(float((x - problem.solution).square().sum()))
    return errors


def test_diana_plus_converges_where_dcgd_plus_stalls():
    p = Quadratics(3)
    p.mu = 0.05  # a well-conditioned problem, so that few rounds suffice
    p.Q = [q + 0.05 * torch.eye(D, dtype=torch.float64) for q in p.Q]
    mean = torch.stack(p.Q).mean(0)
    p.solution = torch.linalg.solve(mean, torch.stack([q @ b for q, b in zip(p.Q, p.b, strict=True)]).mean(0))
    p.smoothness = [tsq.Matrix(q, 0.05) for q in p.Q]
    first = float(p.solution.square().sum())
    c = tsq.VaryingDithering(6.0)
    assert run(p, tsq.DIANA(c), 2500, p.smoothness)[-1] < 1e-15 * first
    spec = tsq.Direct(c)
    step, noise = spec.convex_step(p.smoothness), spec.noise(p.smoothness)
    sigma = np.mean([n[1] * float(S.inverse_root(v).square().sum())
                     for n, S, v in zip(noise, p.smoothness, p.gradients(p.solution), strict=True)])
    late = np.mean(run(p, spec, 1500, p.smoothness)[500:])
    neighbourhood = 2 * step * sigma / (p.mu * N)
    assert 1e-3 * neighbourhood < late <= neighbourhood


@pytest.mark.parametrize("make", [tsq.Direct, tsq.DIANA], ids=lambda m: m.__name__)
@pytest.mark.parametrize("c", [*COMPRESSORS[:3], tsq.Dithering(2), tsq.Quantizer(3)], ids=repr)
def test_a_scalar_smoothness_is_none(make, c):
    """DCGD+ with L_i = c I is DCGD, DIANA+ is DIANA; to the bit where c is a power of 4."""
    p, spec = Quadratics(2), make(c)
    plain = run(p, spec, 30, step=0.1)
    for value, exact in ((4.0, True), (1.0, True), (3.0, False)):
        scaled = run(p, spec, 30, [tsq.Scalar(value)] * N, step=0.1)
        assert scaled == plain if exact else scaled == pytest.approx(plain, rel=0.5)
    assert run(p, spec, 30, [tsq.Diagonal(torch.full((D,), 4.0))] * N, step=0.1) == plain


def test_a_diagonal_smoothness_leaves_one_absolute_step():
    """The levels of varying steps on the whitened gradient are those of one step |g|_1 / beta on the gradient itself, and the message
    is the same but for the unit; the receiver needs the diagonal only to know it."""
    g = torch.Generator().manual_seed(8)
    equal = 0
    for seed in range(30):
        gradient = torch.randn(50, generator=g, dtype=torch.float64) * 10 ** (-3 * torch.rand(50, generator=g, dtype=torch.float64))
        D_ = tsq.Diagonal(10 ** (-2 * torch.rand(50, generator=g, dtype=torch.float64)))
        c = tsq.VaryingDithering(15.0, norm=1)
        plus = tsq.Sender(c, 50, dtype=torch.float64, seed=seed, smoothness=D_).send(gradient)
        plain = tsq.Sender(c, 50, dtype=torch.float64, seed=seed).send(gradient)
        equal += torch.equal(plus[60:], plain[60:])  # behind the header and the scale
        estimate = tsq.Receiver(c, 50, dtype=torch.float64, smoothness=D_).receive([plus])
        step = gradient.abs().sum() / 15
        torch.testing.assert_close(estimate / step, (estimate / step).round(), rtol=0, atol=2e-5)
        spec, weight = tsq.VaryingDithering(15.0), D_.diagonal()
        estimate = tsq.Receiver(spec, 50, dtype=torch.float64, smoothness=D_).receive(
            [tsq.Sender(spec, 50, dtype=torch.float64, seed=seed, smoothness=D_).send(gradient)])
        step = (weight.sum() * (gradient**2 / weight).sum()).sqrt() / 15
        torch.testing.assert_close(estimate / step, (estimate / step).round(), rtol=0, atol=2e-5)
    assert equal >= 29  # rounding may move one level in a million


def test_one_block_is_dithering():
    x = torch.randn(300, generator=torch.Generator().manual_seed(0))
    for levels in (1, 4, 16):
        ours = tsq.decode(tsq.encode(tsq.BlockDithering(1, 1 + levels * math.sqrt(300)), x, seed=levels))
        theirs = tsq.decode(tsq.encode(tsq.Dithering(levels), x, seed=levels))
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
        assert tsq.BlockDithering(1, 1 + levels * math.sqrt(300)).omega(300) == pytest.approx(tsq.Dithering(levels).omega(300))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [tsq.Direct, tsq.DIANA], ids=lambda m: m.__name__)
def test_common_and_per_worker_smoothness_agree(make, dtype):
    p, spec, common = Quadratics(5), make(tsq.VaryingDithering(5.0)), Quadratics(5).smoothness[0]
    x = torch.randn(D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = [common.root(common.inverse_root(g)).to(dtype) for g in p.gradients(x)]
    senders = [tsq.Sender(spec, D, i, N, dtype, smoothness=common) for i in range(N)]
    one, each = tsq.Receiver(spec, D, N, dtype, smoothness=common), tsq.Receiver(spec, D, N, dtype, smoothness=[common] * N)
    for _ in range(5):
        messages = [s.send(g) for s, g in zip(senders, gradients, strict=True)]
        first, second = one.receive(messages), each.receive(messages)
        tolerance = 1e-5 if dtype == torch.float32 else 1e-13
        torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)
        assert first.dtype == dtype
    if make is tsq.DIANA:
        shifts = torch.stack([s.state["shift"] for s in senders]).mean(0)
        torch.testing.assert_close(one.state["estimate"], shifts, rtol=1e-4, atol=1e-6)


def test_a_mean_over_many_steps_is_the_gradient():
    p = Quadratics(6)
    gradients = p.gradients(torch.ones(D, dtype=torch.float64))
    spec = tsq.Direct(tsq.VaryingDithering(5.0))
    senders = [tsq.Sender(spec, D, i, N, torch.float64, smoothness=p.smoothness[i]) for i in range(N)]
    receiver = tsq.Receiver(spec, D, N, torch.float64, smoothness=p.smoothness)
    draws = torch.stack([receiver.receive([s.send(g) for s, g in zip(senders, gradients, strict=True)]) for _ in range(500)])
    error, spread = draws.mean(0) - torch.stack(gradients).mean(0), draws.std(0) / math.sqrt(500)
    assert bool((error.abs() < 5 * spread + 1e-6).all())


@pytest.mark.parametrize("make", [tsq.Direct, tsq.DIANA], ids=lambda m: m.__name__)
def test_state_goes_on_bit_for_bit(make):
    p, spec = Quadratics(7), make(tsq.BlockDithering(3, 8.0))

    def ends():
        return ([tsq.Sender(spec, D, i, N, smoothness=p.smoothness[i]) for i in range(N)],
                tsq.Receiver(spec, D, N, smoothness=p.smoothness))

    def step(ends, k):
        gradients = [g.float() for g in p.gradients(torch.full((D,), float(k), dtype=torch.float64))]
        return ends[1].receive([s.send(g) for s, g in zip(ends[0], gradients, strict=True)])

    first, second = ends(), ends()
    for k in range(4):
        step(first, k)
    for old, new in zip([*first[0], first[1]], [*second[0], second[1]], strict=True):
        new.load_state_dict(old.state_dict())
    for k in range(4, 8):
        assert torch.equal(step(first, k), step(second, k))


@pytest.mark.parametrize("make", [tsq.Direct, tsq.DIANA], ids=lambda m: m.__name__)
def test_a_gradient_that_is_not_finite(make):
    p, spec = Quadratics(8), make(tsq.VaryingDithering(5.0))
    senders = [tsq.Sender(spec, D, i, N, torch.float64, smoothness=p.smoothness[i]) for i in range(N)]
    receiver = tsq.Receiver(spec, D, N, torch.float64, smoothness=p.smoothness)
    good = p.gradients(torch.ones(D, dtype=torch.float64))
    for bad in (math.inf, -math.inf, math.nan):
        before = senders[0].state
        spoiled = good[0].clone()
        spoiled[3] = bad
        out = receiver.receive([senders[0].send(spoiled), *(s.send(g) for s, g in zip(senders[1:], good[1:], strict=True))])
        assert bool(out.isnan().all())
        assert all(torch.equal(before[k], senders[0].state[k]) for k in before)
    assert bool(receiver.receive([s.send(g) for s, g in zip(senders, good, strict=True)]).isfinite().all())


def test_specs_that_ask_for_a_smoothness():
    spec = tsq.DIANA(tsq.VaryingDithering(5.0), smoothness="matrix")
    assert tsq.parse(repr(spec)) == spec and repr(spec) == "DIANA(VaryingDithering(budget=5.0), smoothness='matrix')"
    S = Quadratics().smoothness[0]
    assert tsq.Sender(spec, D, smoothness=S).send(torch.ones(D)).numel() > 56
    for call, message in [
        (lambda: tsq.Sender(spec, D), "expected one of kind 'matrix' for DIANA.*got none"),
        (lambda: tsq.Sender(spec, D, smoothness=tsq.Scalar(1.0)), "kind 'matrix', got a scalar"),
        (lambda: tsq.Direct(tsq.Identity(), smoothness="best"), "smoothness: expected"),
        (lambda: tsq.Receiver(f"Bidirectional({spec!r}, Identity())", D), "got none"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="goes to Sender and Receiver"):
        tsq.Direct(tsq.Identity(), smoothness=S)


@pytest.mark.parametrize(("call", "message"), [
    (lambda S: tsq.Sender("Direct(Identity())", D + 1, smoothness=S), f"one of {D + 1} elements, got a matrix of {D}"),
    (lambda S: tsq.Receiver("DIANA(Natural())", D, 3, smoothness=[S, S]), "1 or world_size = 3 of them, got 2"),
    (lambda S: tsq.Sender("EF21(TopK(k=1))", D, smoothness=S), "smoothness: expected none for EF21"),
    (lambda S: tsq.Sender("ErrorFeedback(Natural())", D, smoothness=S), "expected none"),
    (lambda S: tsq.Sender("Direct(Natural())", D, smoothness="matrix"), "expected a Smoothness"),
    (lambda S: tsq.Receiver("Direct(Natural())", D, smoothness=[]), "at least one"),
    (lambda S: tsq.Sender("Direct(Natural())", D, dtype=torch.float16, smoothness=S), "float32 or float64"),
    (lambda S: tsq.Sender("VaryingDithering(0.0)", D), "budget: expected"),
    (lambda S: tsq.Sender("VaryingDithering(12.5)", D), "budget: expected at most 12 for 12 elements, got 12.5"),
    (lambda S: tsq.Sender("VaryingDithering(5, ratio=0.5)", D), "exactly one of budget, ratio and bits"),
    (lambda S: tsq.Sender("VaryingDithering()", D), "exactly one of"),
    (lambda S: tsq.Sender("VaryingDithering(5, norm=3)", D), "norm"),
    (lambda S: tsq.Sender("VaryingDithering(bits=3.0)", D), "bits: expected more than"),
    (lambda S: tsq.Sender("BlockDithering(4, 4.0)", D), "budget: expected more than 1 for each of 4 norms"),
    (lambda S: tsq.Sender("BlockDithering(4, 16.5)", D), "budget: expected at most 16"),
    (lambda S: tsq.Sender("BlockDithering(0, 4.0)", D), "blocks"), (lambda S: tsq.Sender("BlockDithering(budget=4.0)", D), "'blocks'"),
    (lambda S: tsq.Sender("BlockDithering(2, 6.0, steps='best')", D), "steps"),
    (lambda S: tsq.Sender("SmoothBernoulli(13)", D, smoothness=S), "budget: expected at most 12"),
    (lambda S: tsq.Sender("SmoothBernoulli(bits=0.5)", D), "enough for one entry"),
    (lambda S: tsq.encode("VaryingDithering(5)", torch.ones(4)), "at most 4 for 4 elements"),
    (lambda S: tsq.DIANA(tsq.TopK(k=3)).convex_step(S), "unbiased"), (lambda S: tsq.EF21(tsq.Natural()).convex_step(S), "Direct or DIANA"),
    (lambda S: tsq.Direct(tsq.Natural()).convex_step(tsq.Scalar(1.0)), "numel"),
    (lambda S: tsq.Direct(tsq.Natural()).convex_step(tsq.Diagonal([1.0, 1.0], mu=3.0)), "mu"),
])
def test_what_is_refused(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(Quadratics().smoothness[0])


def test_bits_are_bounds_of_what_is_sent():
    g = torch.Generator().manual_seed(0)
    for n in (300, 5000):
        for x in (torch.randn(n, generator=g), torch.randn(n, generator=g) ** 3):
            for spec in (tsq.VaryingDithering(bits=1.5), tsq.VaryingDithering(bits=5.0), tsq.BlockDithering(8, bits=3.0),
                         tsq.BlockDithering(8, bits=2.0, scale_dtype="bf16"), tsq.SmoothBernoulli(bits=2.0)):
                sizes = [8 * (tsq.encode(spec, x, step=k).numel() - 56) / n for k in range(20)]
                assert np.mean(sizes) <= spec.bits * 1.02, spec
                assert tsq.Direct(spec).expected_bits(n) <= spec.bits * n * (1 + 1e-9)
            wide = tsq.VaryingDithering(ratio=0.25)
            assert np.mean([8 * (tsq.encode(wide, x, step=k).numel() - 56) for k in range(20)]) <= tsq.Direct(wide).expected_bits(n)


def test_steps_that_theory_allows():
    p = Quadratics(1)
    for c, factor in ((tsq.Direct, 2), (tsq.DIANA, 6)):
        spec = c(tsq.VaryingDithering(4.0))
        script = max(s for _, s in spec.noise(p.smoothness))
        assert spec.convex_step(p.smoothness) == pytest.approx(1 / (p.L + factor * script / N), rel=1e-9)
        plain = c(tsq.Dithering(2))
        largest = max(S.lambda_max for S in p.smoothness)
        assert plain.convex_step(p.smoothness, plus=False) == pytest.approx(1 / (p.L + factor * plain.compressor.omega(D) * largest / N))
    flat = tsq.Direct(tsq.Natural()).convex_step(tsq.Scalar(2.0), 5, 4)
    assert flat == pytest.approx(0.5 / (2 + 2 * 0.25 / 4))  # no strong convexity: half of it
