"""Command line: `python -m benchmarks.smoothness [FOLDER of LIBSVM files]`, from the root of the repository. One line a result.

Four parts: closed forms against a numeric optimiser; uplink bits of DIANA+ and of DIANA until |x - x*|^2 / |x0 - x*|^2 is small, in the
papers' accounting (32 bits a norm and Elias's code; set-up 32 n (d^2 + d)) and in bytes of real messages (set-up: n lower triangles in
fp32); n blocks against one norm at the same budget; DIANA+ against DCGD+ at the end. Without a folder: synthetic problems.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

import torch_smoothquant as tsq
from torch_smoothquant import smoothness as sm

from .descent import Run, descend
from .problem import Workers, read, synthetic
from .separable import Separable

CAP = 6.0  # the baselines are given up once they have spent this many times the bits of DIANA+: then a ratio is a lower bound


def check_closed_forms() -> float:
    """The largest relative deviation of a closed form's value from the optimiser's, on random diagonals."""
    from . import optimum
    random, worst = np.random.default_rng(0), 0.0
    for d, spread in ((6, 1.0), (16, 3.0), (40, 2.0)):
        L, beta, count = 10 ** (-spread * random.random(d)), d / 4, 4
        edges = [d * i // count for i in range(count + 1)]
        sizes = np.diff(edges)
        for n_mu in (0.0, 0.02):
            cost = L**2 if n_mu == 0 else 1 + (L / n_mu) ** 2
            h = sm.varying_steps(L, beta, n_mu).numpy()
            worst = max(worst, abs(float(np.sum(cost * h**2)) / optimum.varying(cost, beta) - 1))
            norms = np.array([np.linalg.norm(L[a:b]) for a, b in pairwise(edges)])
            costs = norms if n_mu == 0 else np.sqrt(sizes) + norms / n_mu
            for rule in ("optimal", "paper"):
                h = sm.block_steps(L, count, beta + count, n_mu, rule).numpy()
                worst = max(worst, abs(float(np.max(h * costs)) / optimum.blocks(costs, sizes, beta + count, rule == "paper") - 1))
            A = L if n_mu == 0 else 1 + L / n_mu
            p = sm.bernoulli_probabilities(L, beta, n_mu).numpy()
            worst = max(worst, abs(float(np.max((1 / p - 1) * A)) / optimum.bernoulli(A, beta) - 1))
    return worst


def methods(d: int, n: int) -> list[tuple[str, tsq.DIANA, bool]]:
    """Name, spec, with smoothness; the first is the reference of all ratios."""
    beta = d / n
    return [
        ("varying steps", tsq.DIANA(tsq.VaryingDithering(beta)), True),
        ("varying, l1 form", tsq.DIANA(tsq.VaryingDithering(beta, norm=1)), True),
        (f"{n} blocks", tsq.DIANA(tsq.BlockDithering(n, beta + n)), True),
        ("one norm", tsq.DIANA(tsq.BlockDithering(1, beta + 1)), True),
        ("sparsifier", tsq.DIANA(tsq.SmoothBernoulli(beta, value_dtype="fp32")), True),
        ("plain", tsq.DIANA(tsq.Dithering(max(1, math.floor(math.sqrt(d) / n)))), False),
    ]


def line(name: str, text: str, run: Run, seconds: float) -> str:
    end = "" if run.reached else f"  given up at {run.error:.1e}"
    return (f"{name:<12} {text:<34} {run.rounds:7d} rounds {run.code_bits / 1e6:8.2f} Mbit {run.payload_bytes / 1e6:7.3f} MB payload "
            f"{run.bytes / 1e6:7.3f} MB messages  {seconds:4.0f} s{end}")


def ratio(name: str, label: str, reference: Run, baseline: Run, setup_bits: float, setup_bytes: float) -> str:
    at_least = "" if baseline.reached else ">= "
    bits = baseline.code_bits / reference.code_bits
    payload, whole = baseline.payload_bytes / reference.payload_bytes, baseline.bytes / reference.bytes
    return (f"{name:<12} {label} over DIANA+, varying steps: code bits {at_least}{bits:.2f}, with set-up "
            f"{at_least}{baseline.code_bits / (reference.code_bits + setup_bits):.2f}; payload bytes {at_least}{payload:.2f}, with set-up "
            f"{at_least}{baseline.payload_bytes / (reference.payload_bytes + setup_bytes):.2f}; messages {at_least}{whole:.2f}")


def bits_to_target(name: str, problem: Workers, target: float, most_rounds: int) -> None:
    n, d = problem.n, problem.d
    S = problem.smoothness()
    diagonal = problem.smoothness("diagonal")
    room = np.mean([s.trace() / (d * float(s.diagonal().max())) for s in S])
    print(f"{name:<12} d = {d}, n = {n}, lambda_max {max(s.lambda_max for s in S):.3f}, trace / (d max L_jj) {room:.3f}, best diagonal "
          f"majoriser: trace times {np.mean([a.trace() / b.trace() for a, b in zip(diagonal, S, strict=True)]):.1f}")
    reference, cap = None, math.inf
    for text, spec, plus in methods(d, n):
        steps = {"": spec.convex_step(S, plus=plus)}
        if not plus:
            largest = max(s.lambda_max for s in S)
            steps = {"DIANA, step of theory": steps[""],
                     "DIANA, step of the experiments": 1 / (largest * (1 + 2 * spec.compressor.omega(d) / n))}
        for label, step in steps.items():
            begin = time.time()
            run = descend(problem, spec, S if plus else None, step, target, most_rounds, cap)
            print(line(name, label or f"DIANA+, {text}", run, time.time() - begin), flush=True)
            if reference is None:
                reference, cap = run, CAP * run.code_bits
            if not plus:
                print(ratio(name, label, reference, run, 32 * n * (d * d + d), sum(s.setup_bytes() for s in S)))
    begin = time.time()
    common = tsq.Diagonal(torch.stack([s.diagonal() for s in diagonal]).amax(0), problem.l2)
    spec = tsq.DIANA(tsq.VaryingDithering(d / n))
    run = descend(problem, spec, [common] * n, spec.convex_step([common] * n), target, most_rounds, cap)
    print(line(name, "DIANA+, a common diagonal", run, time.time() - begin), flush=True)


def blocks_against_one_norm(name: str, problem: Workers | Separable, S: list[tsq.Smoothness], target: float, most_rounds: int,
                            most_bits: float = math.inf) -> None:
    """The same budget of non-zeros and norms; the constants that decide, and what was measured."""
    n, d = problem.n, problem.d
    beta, found = d / n + n, {}
    for count in (1, n):
        spec = tsq.DIANA(tsq.BlockDithering(count, beta))
        noise = spec.noise(S)
        begin = time.time()
        run = descend(problem, spec, S, spec.convex_step(S), target, most_rounds, most_bits)
        found[count] = (1 / spec.convex_step(S), run)
        print(line(name, f"DIANA+, {count} norms: script-L {max(s for _, s in noise):.3g}", run, time.time() - begin), flush=True)
    expected, measured = found[1][0] / found[n][0], found[1][1].code_bits / found[n][1].code_bits
    print(f"{name:<12} one norm over {n} blocks: theory's rounds {expected:.2f}, code bits {measured:.2f}, payload bytes "
          f"{found[1][1].payload_bytes / found[n][1].payload_bytes:.2f} (a block's norm is 4 bytes)")


def to_the_end(name: str, problem: Workers, rounds: int) -> None:
    """DIANA+ to 1e-10; where DCGD+ stalls, against what linearisation at x* predicts."""
    n, d = problem.n, problem.d
    S, c = problem.smoothness(), tsq.VaryingDithering(problem.d / problem.n, norm=1)
    run = descend(problem, tsq.DIANA(c), S, tsq.DIANA(c).convex_step(S), 1e-10, rounds)
    print(f"{name:<12} DIANA+: {run.error:.1e} after {run.rounds} rounds")
    step = tsq.Direct(c).convex_step(S)
    first = float(np.sum(problem.solution**2))
    values, vectors = np.linalg.eigh(problem.hessian(problem.solution))
    noise = np.zeros((d, d))
    for s, g in zip(S, problem.gradients(problem.solution), strict=True):
        y, L = s.inverse_root(torch.from_numpy(g)), s.diagonal()
        steps = (L.sqrt() * y.abs()).sum() / (c.budget * L.sqrt())
        t = (y.abs() / steps).frac()
        root = torch.stack([s.root(e) for e in torch.eye(d, dtype=torch.float64)])
        noise += (root @ torch.diag(t * (1 - t) * steps**2) @ root).numpy() / n**2
    stationary = step**2 * np.diag(vectors.T @ noise @ vectors) / (1 - (1 - step * values) ** 2)
    bound = 2 * step / (problem.l2 * n) * np.mean([k[1] * float(s.inverse_root(torch.from_numpy(g)).square().sum()) for k, s, g in
                                                   zip(tsq.Direct(c).noise(S), S, problem.gradients(problem.solution), strict=True)])
    stalled = descend(problem, tsq.Direct(c), S, step, 0.0, rounds, tail=rounds // 2)
    print(f"{name:<12} DCGD+: stalls at {stalled.error:.2e}; predicted {stationary.sum() / first:.2e} (ratio "
          f"{stalled.error * first / stationary.sum():.2f}); theorem's bound {bound / first:.2e}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smoothness", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("folder", nargs="?", type=Path, help="with files in LIBSVM's format")
    parser.add_argument("--files", nargs="+", default=["a1a", "mushrooms", "splice", "a9a"])
    parser.add_argument("--workers", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--l2", type=float, default=1e-3, help="default: %(default)s")
    parser.add_argument("--target", type=float, default=1e-6, help="of |x - x*|^2 / |x0 - x*|^2 (default: %(default)s)")
    parser.add_argument("--most-rounds", type=int, default=200000, help="default: %(default)s")
    parser.add_argument("--parts", nargs="+", default=["forms", "bits", "blocks", "end"], choices=["forms", "bits", "blocks", "end"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Sparse CSR")
    n = options.workers
    if "forms" in options.parts:
        try:
            print(f"closed forms against SciPy's optimisers: largest relative deviation {check_closed_forms():.1e}")
        except ImportError:
            print("closed forms: skipped: needs scipy", file=sys.stderr)
    files = [options.folder / name for name in options.files] if options.folder else []
    problems = {file.name: read(file, n, options.l2) for file in files} or {"synthetic": synthetic(n, 40, 100, l2=options.l2)}
    for name, problem in problems.items():
        if "bits" in options.parts:
            bits_to_target(name, problem, options.target, options.most_rounds)
        if "blocks" in options.parts and "bits" not in options.parts:
            blocks_against_one_norm(name, problem, problem.smoothness(), options.target, options.most_rounds)
    if "blocks" in options.parts:
        for decay in (0.0, 2.0, 4.0):
            flat = Separable(n, 20000, decay)
            blocks_against_one_norm(f"decay {decay:g}", flat, flat.smoothness(), 1e-6, 4000)
    if "end" in options.parts:
        name, problem = next(iter(problems.items()))
        to_the_end(name, problem, 30000)


if __name__ == "__main__":
    main()
