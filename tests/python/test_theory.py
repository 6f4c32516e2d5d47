"""Step sizes from theory beyond the plain three point ones: along real runs every Lyapunov function falls by what it must; of random
mechanisms in exact conditional expectation. docs/algorithms.md, "Step sizes"."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from runs import ROUNDS, Logistic, Run, squared

import torch_smoothquant as tsq
from torch_smoothquant import reference


class Quadratics:
    """f_i(x) = <x, Q_i x> / 2 - <b_i, x> of n workers that differ; the mean is strongly convex though the parts need not be."""

    def __init__(self, n: int = 6, d: int = 12, seed: int = 3) -> None:
        random = np.random.default_rng(seed)
        self.n, self.d = n, d
        basis, _ = np.linalg.qr(random.normal(size=(d, d)))
        common = basis @ np.diag(np.geomspace(0.05, 1, d)) @ basis.T
        noise = random.normal(size=(n, d, d)) * 0.1
        noise = (noise + noise.transpose(0, 2, 1)) / 2
        self.Q = common + noise - noise.mean(0)
        self.b = random.normal(size=(n, d))
        values = np.linalg.eigvalsh(common)
        self.mu, self.L_minus = float(values[0]), float(values[-1])
        self.L_plus = float(np.sqrt(np.linalg.eigvalsh(np.mean(self.Q @ self.Q, axis=0))[-1]))  # the smallest there is
        self.lowest = -0.5 * float(self.b.mean(0) @ np.linalg.solve(common, self.b.mean(0)))

    def value(self, x: np.ndarray) -> float:
        return float(0.5 * x @ self.Q.mean(0) @ x - self.b.mean(0) @ x)

    def gradients(self, x: np.ndarray) -> np.ndarray:
        return self.Q @ x - self.b


MECHANISMS = [
    tsq.EF21(tsq.TopK(ratio=0.25)), tsq.LAG(3.0), tsq.CLAG(tsq.TopK(ratio=0.25), 9.0),
    tsq.AdaCGD([tsq.TopK(k=1), tsq.TopK(ratio=0.5)]), tsq.ThreePC(tsq.TopK(ratio=0.2), 4, tsq.Quantizer(2, block=32)),
    tsq.Ada3PC([tsq.LAG(9.0), tsq.EF21(tsq.TopK(k=2))], [tsq.Near(9.0)]),
]


@pytest.mark.parametrize("spec", MECHANISMS, ids=repr)
def test_under_the_pl_condition_the_lyapunov_function_shrinks(spec: tsq.Mechanism):
    """Phi = f - inf f + (gamma / A) mean|g_i - grad f_i|^2: Phi+ <= (1 - gamma mu) Phi."""
    problem = Quadratics()
    A, B = spec.constants(problem.d, problem.n)
    gamma = spec.safe_step(problem.L_minus, problem.L_plus, problem.d, problem.n, mu=problem.mu)
    assert gamma == pytest.approx(min(1 / (problem.L_minus + problem.L_plus * np.sqrt(2 * B / A)), A / (2 * problem.mu)))
    run, before, first = Run(problem, spec, gamma), np.inf, None
    for _ in range(ROUNDS):
        run.estimate()
        errors = np.sum((run.sender_states("shift") - run.gradients) ** 2, axis=1)
        phi = problem.value(run.x) - problem.lowest + gamma / A * errors.mean()
        first = phi if first is None else first
        assert phi <= (1 - gamma * problem.mu) * before + 1e-13 * first
        before = phi
        run.move()
    assert phi < 0.5 * first


def test_steps_that_need_no_mu_refuse_one():
    for spec in (tsq.ErrorFeedback(tsq.Sign()), tsq.EF21(tsq.Sign(), momentum=0.5), tsq.Bidirectional(tsq.LAG(1.0), tsq.LAG(1.0))):
        with pytest.raises(ValueError, match=r"safe_step: mu: expected 0 for .*, got 0.5"):
            spec.safe_step(1.0, 1.0, 10, mu=0.5)
    with pytest.raises(ValueError, match="mu: expected a number of at least 0, got -1"):
        tsq.LAG(1.0).safe_step(1.0, 1.0, 10, mu=-1.0)
    for spec in (tsq.Direct(tsq.Natural()), tsq.DIANA(tsq.Natural()), tsq.EF21(tsq.UniformStep(step=1.0), momentum=0.5)):
        with pytest.raises(ValueError, match="no constants are known for"):
            spec.safe_step(1.0, 1.0, 10)


@pytest.mark.parametrize("up, down", [
    (tsq.TopK(ratio=0.5), tsq.TopK(ratio=0.5)), (tsq.TopK(ratio=0.2), tsq.Quantizer(4, block=32)),
    (tsq.Quantizer(4, block=32), tsq.Sign(32)),
], ids=repr)
def test_lyapunov_function_of_error_feedback_both_ways(problem: Logistic, up: tsq.Compressor, down: tsq.Compressor):
    """Psi = f(x~) - f* + c1 mean|e_i|^2 + c2 |e_M|^2, x~ = x - mean e_i - e_M, falls by (gamma/4)|grad f|^2 up to gamma^3 L^2 K spread."""
    spec = tsq.Bidirectional(tsq.ErrorFeedback(up), tsq.ErrorFeedback(down))
    run, L = Run(problem, spec), problem.L_minus
    a, m = up.alpha(problem.d), down.alpha(problem.d)
    K = 4 * (1 - a) / a**2 * (1 + 24 * (1 - m) / m**2) + 12 * (1 - m) * (2 - a) / (m**2 * a)
    gamma = run.step_size
    assert gamma == pytest.approx(min(1 / (4 * L), 1 / (L * np.sqrt(8 * K))))
    c1, c2 = 2 * gamma * L**2 / a * (1 + 24 * (1 - m) / m**2), 2 * gamma * L**2 / m
    before, drop, largest = np.inf, 0.0, 0.0
    for _ in range(ROUNDS):
        e = gamma * run.sender_states("residual")  # ours are in gradient units
        server = gamma * run.receiver.state["down.residual"].numpy()
        psi = problem.value(run.x - e.mean(0) - server) + c1 * np.mean(np.sum(e**2, axis=1)) + c2 * squared(server)
        largest = max(largest, abs(psi))
        assert psi <= before - drop + 1e-12 * largest
        run.estimate()
        mean = run.gradients.mean(0)
        spread = np.mean(np.sum((run.gradients - mean) ** 2, axis=1))
        before, drop = psi, gamma / 4 * squared(mean) - gamma**3 * L**2 * K * spread
        run.move()


@pytest.mark.parametrize("eta", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("compressor", [tsq.TopK(ratio=0.2), tsq.Quantizer(2, block=32)], ids=repr)
def test_lyapunov_function_of_momentum(problem: Logistic, compressor: tsq.Compressor, eta: float):
    """Phi = f + (gamma/A) mean|g_i - v_i|^2 + (2 gamma B eta / A) mean|v_i - grad f_i|^2 + (gamma/eta)|v - grad f|^2 falls by
    (gamma/2)|grad f|^2 with full gradients."""
    spec = tsq.EF21(compressor, momentum=eta)
    A, B = tsq.EF21(compressor).constants(problem.d, problem.n)
    run = Run(problem, spec)
    gamma = run.step_size
    assert gamma == pytest.approx(1 / (problem.L_minus + np.sqrt(2 * (4 * B / A * problem.L_plus**2 + problem.L_minus**2 / eta**2))))
    before, drop, largest = np.inf, 0.0, 0.0
    for _ in range(ROUNDS):
        run.estimate()
        g, v, grad = run.sender_states("shift"), run.sender_states("momentum"), run.gradients
        phi = (problem.value(run.x) + gamma / A * np.mean(np.sum((g - v) ** 2, axis=1))
               + 2 * gamma * B * eta / A * np.mean(np.sum((v - grad) ** 2, axis=1)) + gamma / eta * squared(v.mean(0) - grad.mean(0)))
        largest = max(largest, phi)
        assert phi <= before - drop + 1e-12 * largest
        before, drop = phi, gamma / 2 * squared(grad.mean(0))
        run.move()


@pytest.mark.parametrize("compressor", [tsq.TopK(ratio=0.2), tsq.Sign(32), tsq.Quantizer(2, block=32)], ids=repr)
def test_iterates_may_travel_too(problem: Logistic, compressor: tsq.Compressor):
    """EF21-P: the model itself is sent by EF21, w <- w + C(x+ - w), gradients are taken at w. With gamma = 1 / (L (1 + sqrt(1-a)/S)):
    f(x) + (gamma L^2 / 2S)|w - x|^2 falls by (gamma/2)|grad f(x)|^2."""
    L, alpha, d = problem.L_minus, compressor.alpha(problem.d), problem.d
    S = 1 - np.sqrt(1 - alpha)
    gamma = 1 / (L * (1 + np.sqrt(1 - alpha) / S))
    spec = tsq.EF21(compressor, init="zero")
    sender, receiver = tsq.Sender(spec, d, dtype=torch.float64), tsq.Receiver(spec, d, dtype=torch.float64)
    x, w = np.zeros(d), np.zeros(d)
    before, drop, largest = np.inf, 0.0, 0.0
    for _ in range(ROUNDS):
        phi = problem.value(x) + gamma * L**2 / (2 * S) * squared(w - x)
        largest = max(largest, phi)
        assert phi <= before - drop + 1e-12 * largest
        before, drop = phi, gamma / 2 * squared(problem.gradients(x).mean(0))
        x = x - gamma * problem.gradients(w).mean(0)
        w = receiver.receive([sender.send(torch.from_numpy(x))]).numpy()
        assert np.array_equal(w, sender.state["shift"].numpy())


# ---- random mechanisms: exact expectation of the next step


def drawn(message: torch.Tensor, d: int) -> int:
    """The coordinate that the message's RandK(k=1) keeps; -1 without one."""
    for section in reference.parse_message(message).sections:
        if section.codec == 7:
            return reference.subset.draw_subset(int.from_bytes(bytes(section.payload[:8].tolist()), "little"), d, 1)[0]
    return -1


class Draws:
    """Steps of one rank's sender in which RandK(k=1) keeps each coordinate, and in which a coin falls on heads."""

    def __init__(self, spec: tsq.Mechanism, d: int, rank: int, world: int) -> None:
        self.sender = tsq.Sender(spec, d, rank, world, dtype=torch.float64)
        self.steps: dict[int, int] = {}
        for step in range(1, 5000):
            self._at(step, {name: torch.zeros(d, dtype=torch.float64) for name in self.sender.state})
            self.steps.setdefault(drawn(self.sender.send(torch.arange(1.0, d + 1, dtype=torch.float64)), d), step)

    def _at(self, step: int, state: dict[str, torch.Tensor]) -> None:
        self.sender.load_state_dict({**self.sender.state_dict(), "step": step, "state": state})

    def outcomes(self, state: dict[str, torch.Tensor], x: np.ndarray) -> Iterator[tuple[int, torch.Tensor, dict[str, torch.Tensor]]]:
        """(coordinate or -1, message, state afterwards) of every outcome."""
        for which, step in sorted(self.steps.items()):
            self._at(step, state)
            message = self.sender.send(torch.from_numpy(x))
            yield which, message, self.sender.state


@pytest.mark.parametrize("spec, p", [
    (tsq.ThreePC(tsq.TopK(k=3), 2, tsq.RandK(k=1)), 0.0), (tsq.EF21(tsq.RandK(k=1)), 0.0),
    (tsq.ThreePC(tsq.RandK(k=1), 4, tsq.TopK(k=2)), 0.0), (tsq.ThreePC(tsq.RandK(k=1), 5, p=0.3), 0.3),
], ids=repr)
def test_expected_lyapunov_function_of_random_mechanisms(spec: tsq.Mechanism, p: float):
    """E Phi+ <= Phi - (gamma/2)|grad f|^2, over all outcomes of every worker's draw: Phi sums over workers, so each on its own."""
    problem = Quadratics(n=3, d=8)
    run = Run(problem, spec)
    A, _ = spec.constants(problem.d, problem.n)
    draws = [Draws(spec, problem.d, rank, problem.n) for rank in range(problem.n)]
    assert all(sorted(w for w in draw.steps if w >= 0) == list(range(problem.d)) for draw in draws)
    assert all((-1 in draw.steps) == (p > 0) for draw in draws)

    def phi(x: np.ndarray, mean_error: float) -> float:
        return problem.value(x) - problem.lowest + run.step_size / (2 * A) * mean_error

    run.estimate()
    worst = 0.0
    for _ in range(25):
        now = phi(run.x, np.mean(np.sum((run.sender_states("shift") - run.gradients) ** 2, axis=1)))
        drop = run.step_size / 2 * squared(run.gradients.mean(0))
        run.move()
        after = problem.gradients(run.x)
        expected = 0.0
        for sender, draw, x in zip(run.senders, draws, after):
            state = sender.state
            for which, _, then in draw.outcomes(state, x):
                chance = p if which < 0 else (1 - p) / problem.d
                expected += chance * squared(then["shift"].numpy() - x) / problem.n
        assert phi(run.x, expected) <= (now - drop) * (1 + 1e-12)
        worst = max(worst, phi(run.x, expected) / (now - drop))
        run.estimate()
    assert worst > 0.5


def test_expected_lyapunov_function_of_marina():
    """Phi = f + (gamma / 2p)|g - grad f|^2; the error of the mean is the mean's, plus independent variances over n^2."""
    problem, p = Quadratics(n=3, d=8), 0.3
    spec = tsq.MARINA(tsq.RandK(k=1), p)
    run = Run(problem, spec)
    draws = [Draws(spec, problem.d, rank, problem.n) for rank in range(problem.n)]
    run.estimate()
    for _ in range(25):
        error = squared(run.g - run.gradients.mean(0))
        now = problem.value(run.x) - problem.lowest + run.step_size / (2 * p) * error
        drop = run.step_size / 2 * squared(run.gradients.mean(0))
        before = run.gradients
        run.move()
        after = problem.gradients(run.x)
        variance = 0.0
        for sender, draw, x, y in zip(run.senders, draws, after, before):
            sent = [tsq.decode(m).numpy() for which, m, _ in draw.outcomes(sender.state, x) if which >= 0]
            np.testing.assert_allclose(np.mean(sent, axis=0), x - y, rtol=1e-12, atol=1e-14)  # unbiased, exactly
            variance += np.mean([squared(m - (x - y)) for m in sent]) / problem.n**2
        expected = (1 - p) * (error + variance)  # heads: no error at all
        assert expected == pytest.approx((1 - p) * (error + (problem.d - 1) / problem.n * np.mean(np.sum((after - before) ** 2, axis=1))))
        assert problem.value(run.x) - problem.lowest + run.step_size / (2 * p) * expected <= (now - drop) * (1 + 1e-12)
        run.estimate()


# ---- what is scaled


def test_repr_says_what_is_scaled():
    """Mechanisms that need contractive compressors scale unbiased ones; the repr of Sender, Receiver and Hook says so."""
    two = "Quantizer(bits=2, levels='unbiased')"
    cases = {
        f"EF21({two})": [two], "EF21(Quantizer(bits=2))": [], "EF21(Quantizer(bits=4, levels='unbiased'))": [],  # as it is: omega < 1
        "ErrorFeedback(RandK(ratio=0.01))": ["RandK(ratio=0.01)"], "ErrorFeedback(RandK(k=1000))": [],
        "CLAG(Ternary(), zeta=1.0)": ["Ternary()"],
        "AdaCGD([Sign(), Ternary()], zeta=1.0)": ["Ternary()"],
        "ThreePC(RandK(k=3), variant=2, second=Natural())": ["RandK(k=3)"],
        "ThreePC(TopK(k=3), variant=2, second=Ternary())": [], "ThreePC(TopK(k=3), variant=4, second=Ternary())": ["Ternary()"],
        "ThreePC(TopK(k=3), variant=3, second=EF21(Ternary()))": ["Ternary()"], "Bidirectional(Ternary(), EF21(Dithering(levels=1)))":
        ["Dithering(levels=1)"], "Direct(Ternary())": [], "DIANA(Ternary())": [], "MARINA(Ternary(), p=0.5)": [], "EF21(Natural())": [],
    }
    for text, expected in cases.items():
        spec = tsq.parse(text)
        assert isinstance(spec, tsq.Mechanism) and spec.scaled(1000) == expected, text
        for end in (tsq.Sender(spec, 1000, 1, 4), tsq.Receiver(spec, 1000, 4)):
            assert repr(spec) in repr(end)
            assert ("scaled by 1/(1 + omega)" in repr(end)) == bool(expected)
            assert all(f"{part} scaled by 1/(1 + omega)" in repr(end) for part in expected)
    # and it is: the same dithers, times 1 / (1 + omega)
    x = torch.randn(512, generator=torch.Generator().manual_seed(1))
    plain, scaled = (tsq.decode(tsq.Sender(f"{m}({two})", 512).send(x)) for m in ("Direct", "ErrorFeedback"))
    torch.testing.assert_close(scaled, plain / (1 + tsq.Quantizer(2, levels="unbiased").omega(512)))
    assert repr(tsq.Sender("Natural()", 10)).startswith("<Sender of Natural(): 10 elements of torch.float32")
