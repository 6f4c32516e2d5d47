"""Mechanisms through Sender and Receiver on logistic regression, against plain numpy loops and their Lyapunov functions.
Step sizes of other kinds, and expectations: test_theory.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from runs import ROUNDS, Logistic, Run, squared

import torch_smoothquant as tsq


# ---- the same methods, written down a second time
def top(r: np.ndarray, k: int) -> np.ndarray:
    kept = np.argsort(-np.abs(r), kind="stable")[:k]
    out = np.zeros_like(r)
    out[kept] = r[kept]
    return out


def ef21(k: int) -> Callable:
    return lambda x, h, y: top(x - h, k)


def clag(k: int, zeta: float) -> Callable:
    return lambda x, h, y: top(x - h, k) if squared(x - h) > zeta * squared(x - y) else np.zeros_like(x)


def adacgd(ladder: list[int], zeta: float) -> Callable:
    def increment(x: np.ndarray, h: np.ndarray, y: np.ndarray) -> np.ndarray:
        allowed = zeta * squared(x - y)
        for k in [0, *ladder[:-1]]:
            if squared(x - h - top(x - h, k)) <= allowed:
                return top(x - h, k)
        return top(x - h, ladder[-1])
    return increment


def numpy_run(problem: Logistic, step: float, increment: Callable) -> np.ndarray:
    x, path = np.zeros(problem.d), []
    y = problem.gradients(x)
    h = y.copy()
    for k in range(ROUNDS):
        g = problem.gradients(x)
        if k > 0:
            h = np.array([hi + increment(gi, hi, yi) for gi, hi, yi in zip(g, h, y)])
        x = x - step * h.mean(0)
        y = g
        path.append(x)
    return np.array(path)


@pytest.mark.parametrize("name", ["EF21", "LAG", "CLAG", "AdaCGD", "AdaCGD, zeta by theory", "Ada3PC"])
def test_runs_are_those_of_a_plain_loop(problem: Logistic, name: str):
    d = problem.d
    few, more = max(1, d // 10), d // 3
    alpha = more / d
    by_theory = (1 - alpha) / (1 - np.sqrt(1 - alpha))
    spec, increment = {
        "EF21": (tsq.EF21(tsq.TopK(k=few)), ef21(few)),
        # No square of an integer: equal steps along a line would sit on the trigger's edge.
        "LAG": (tsq.LAG(5.0), clag(d, 5.0)),
        "CLAG": (tsq.CLAG(tsq.TopK(k=few), 8.0), clag(few, 8.0)),
        "AdaCGD": (tsq.AdaCGD([tsq.TopK(k=1), tsq.TopK(k=few + 1), tsq.TopK(k=d)], 15.0), adacgd([1, few + 1, d], 15.0)),
        "Ada3PC": (tsq.Ada3PC([tsq.LAG(15.0), tsq.EF21(tsq.TopK(k=1)), tsq.EF21(tsq.TopK(k=few + 1))],
                              [tsq.Near(15.0), tsq.Accurate(15.0)]), adacgd([1, few + 1], 15.0)),
        "AdaCGD, zeta by theory": (tsq.AdaCGD([tsq.TopK(k=1), tsq.TopK(k=more)]), adacgd([1, more], by_theory)),
    }[name]
    run = Run(problem, spec)
    expected = numpy_run(problem, run.step_size, increment)
    skipped = 0
    for k in range(ROUNDS):
        run.estimate()
        run.move()
        skipped += sum(sender.level == 0 for sender in run.senders)
        np.testing.assert_allclose(run.x, expected[k], rtol=0, atol=1e-10 * np.abs(expected).max(), err_msg=f"round {k}")
    assert (skipped > 0) == (name != "EF21")


@pytest.mark.parametrize("spec", [
    tsq.EF21(tsq.TopK(ratio=0.1)), tsq.EF21(tsq.Quantizer(2, block=32)), tsq.EF21(tsq.TopK(ratio=0.1), init="zero"), tsq.LAG(4.0),
    tsq.CLAG(tsq.TopK(ratio=0.2), 10.0), tsq.AdaCGD([tsq.TopK(k=1), tsq.TopK(ratio=0.3), tsq.Identity()], 9.0),
    tsq.AdaCGD([tsq.TopK(k=1), tsq.TopK(ratio=0.5)]), tsq.ThreePC(tsq.TopK(ratio=0.1), 4, tsq.Quantizer(2, block=32)),
    tsq.Ada3PC([tsq.LAG(9.0), tsq.EF21(tsq.TopK(k=1)), tsq.ThreePC(tsq.TopK(ratio=0.2), 4, tsq.TopK(k=2))],
               [tsq.Near(9.0), tsq.Accurate(9.0)]),
    tsq.Ada3PC([tsq.EF21(tsq.TopK(ratio=0.5)), tsq.CLAG(tsq.TopK(k=3), 4.0)], [tsq.Settled(0.01)]),
    tsq.ThreePC(tsq.TopK(ratio=0.2), 1), tsq.ThreePC(tsq.TopK(ratio=0.2), 3, tsq.LAG(3.0)),
], ids=repr)
def test_lyapunov_function_falls_in_every_step(problem: Logistic, spec: tsq.Mechanism):
    """Phi = f + (gamma / 2A) mean|g_i - grad f_i|^2: Phi+ <= Phi - (gamma/2)|grad f|^2."""
    run, constants = Run(problem, spec), spec.constants(problem.d, problem.n)
    assert constants is not None
    before, drop, largest = np.inf, 0.0, 0.0
    for _ in range(ROUNDS):
        run.estimate()
        # 3PCv1 keeps no shift: its error is at most that of one rank's messages, seen through the mean
        errors = run.sender_states("shift") - run.gradients if "shift" in run.senders[0].state else run.g - run.gradients.mean(0)[None]
        phi = problem.value(run.x) + run.step_size / (2 * constants[0]) * np.mean(np.sum(errors**2, axis=1))
        largest = max(largest, phi)
        if "shift" in run.senders[0].state:
            assert phi <= before - drop + 1e-12 * largest
        else:
            assert phi <= before + 1e-12 * largest
        before, drop = phi, run.step_size / 2 * squared(run.gradients.mean(0))
        run.move()


@pytest.mark.parametrize("up, down", [
    (tsq.EF21(tsq.TopK(ratio=0.2)), tsq.EF21(tsq.TopK(ratio=0.3))), (tsq.EF21(tsq.TopK(ratio=0.3)), tsq.LAG(2.0)),
    (tsq.CLAG(tsq.TopK(ratio=0.3), 3.0), tsq.CLAG(tsq.TopK(ratio=0.5), 1.0)), (tsq.LAG(1.0), tsq.EF21(tsq.Quantizer(4, block=32))),
], ids=repr)
def test_lyapunov_function_of_both_directions_falls(problem: Logistic, up: tsq.Mechanism, down: tsq.Mechanism):
    run = Run(problem, tsq.Bidirectional(up, down))
    (aw, bw), (am, bm) = up.constants(problem.d, problem.n), down.constants(problem.d)
    k = bw / aw * (1 + 3 * bm * (2 - aw) / am) + 3 * bm * (1 + bw) / am
    gamma = run.step_size
    assert gamma == pytest.approx(1 / (problem.L_minus + problem.L_plus * np.sqrt(2 * k)))
    weight = (gamma + 3 * gamma * bm * (2 - aw) / am) / aw
    before, drop, largest = np.inf, 0.0, 0.0
    for _ in range(ROUNDS):
        run.estimate()
        shifts = run.sender_states("shift")
        server = squared(run.g - shifts.mean(0))
        phi = problem.value(run.x) + gamma / am * server + weight * np.mean(np.sum((shifts - run.gradients) ** 2, axis=1))
        largest = max(largest, phi)
        assert phi <= before - drop + 1e-12 * largest
        before, drop = phi, gamma / 2 * squared(run.gradients.mean(0))
        run.move()


@pytest.mark.parametrize("compressor", [tsq.TopK(ratio=0.2), tsq.Quantizer(2, block=32), tsq.Sign(32)], ids=repr)
def test_error_feedbacks_lyapunov_function_falls_up_to_heterogeneity(problem: Logistic, compressor: tsq.Compressor):
    """Psi = f(x~) + gamma^3 (L^2 / alpha) mean|e_i|^2, x~ = x - gamma mean e_i; residuals are in gradient units."""
    spec = tsq.ErrorFeedback(compressor)
    run, alpha, L = Run(problem, spec), compressor.alpha(problem.d), problem.L_minus
    gamma, before, drop, largest = run.step_size, np.inf, 0.0, 0.0
    assert gamma == pytest.approx(alpha / (4 * L))
    for _ in range(ROUNDS):
        e = run.sender_states("residual")
        psi = problem.value(run.x - gamma * e.mean(0)) + gamma**3 * L**2 / alpha * np.mean(np.sum(e**2, axis=1))
        largest = max(largest, psi)
        assert psi <= before - drop + 1e-12 * largest
        run.estimate()
        mean = run.gradients.mean(0)
        spread = np.mean(np.sum((run.gradients - mean) ** 2, axis=1))
        before, drop = psi, gamma / 4 * squared(mean) - 2 * (1 - alpha) * gamma**3 * L**2 / alpha**2 * spread
        run.move()


def test_a_ladder_needs_a_third_of_the_floats(problem: Logistic):
    """At theory's step, until |grad|^2 < 1e-8: AdaCGD's ladder against the cheapest EF21 with Top-K, K < d."""
    if problem.d != 68:
        pytest.skip("a claim about phishing")
    from benchmarks.mechanisms.__main__ import run as cost

    ladder = [tsq.TopK(k=k) for k in (1, 5, 10, 20, 68)]
    ef21_floats = min(cost(problem, tsq.EF21(c), 1e-8, 5000).floats for c in ladder[:-1])
    assert cost(problem, tsq.AdaCGD(ladder, 16.0), 1e-8, 5000).floats <= ef21_floats / 3
