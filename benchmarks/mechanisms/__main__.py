"""Command line: `python -m benchmarks.mechanisms [phishing.libsvm]`, from the root of the repository.

Gradient descent on the estimates of each mechanism, in fp64, with the step that theory allows, until |grad f|^2 is small. One line a
method: rounds, floats and bytes that each worker sent up (floats: values only, as papers count; bytes: whole messages), and the ratio of
its floats to those of the cheapest EF21 with Top-K, K < d (K = d is gradient descent). Without a file: a synthetic problem.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import torch_smoothquant as tsq

from .problem import Logistic, read_libsvm, synthetic


class Result(NamedTuple):
    rounds: int
    floats: float  # per worker
    bytes: float
    reached: bool


def floats_of(spec: tsq.Mechanism, level: int | None, first: bool, d: int) -> int:
    """Values in one message."""
    if first:
        return d
    if isinstance(spec, tsq.AdaCGD):
        return spec.ladder[level - 1].k if level else 0
    if level == 0:
        return 0
    return d if isinstance(spec, tsq.LAG) else spec.compressor.k


def run(problem: Logistic, spec: tsq.Mechanism, target: float, most_rounds: int) -> Result:
    n, d = problem.n, problem.d
    step = spec.safe_step(problem.L_minus, problem.L_plus, d, n)
    senders = [tsq.Sender(spec, d, rank, n, dtype=torch.float64) for rank in range(n)]
    receiver = tsq.Receiver(spec, d, n, dtype=torch.float64)
    x, floats, sent = np.zeros(d), 0, 0
    for k in range(most_rounds):
        gradients = problem.gradients(x)
        if np.sum(gradients.mean(0) ** 2) < target:
            return Result(k, floats / n, sent / n, True)
        messages = []
        for sender, gradient in zip(senders, gradients, strict=True):
            messages.append(sender.send(torch.from_numpy(gradient)))
            floats += floats_of(spec, sender.level, k == 0, d)
            sent += len(messages[-1])
        x = x - step * receiver.receive(messages).numpy()
    return Result(most_rounds, floats / n, sent / n, False)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mechanisms", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("file", nargs="?", type=Path, help="phishing in LIBSVM's format")
    parser.add_argument("--features", type=int, default=68, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--target", type=float, default=1e-8, help="of |grad f|^2 (default: %(default)s)")
    parser.add_argument("--zeta", type=float, nargs="+", default=[16.0], help="of LAG, CLAG, AdaCGD (default: 16)")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 5, 10, 20, 68], help="of Top-K; also AdaCGD's ladder")
    parser.add_argument("--most-rounds", type=int, default=20000, help="default: %(default)s")
    options = parser.parse_args()
    d, n = options.features, options.workers
    problem = Logistic(*(read_libsvm(options.file, d) if options.file else synthetic(n, d)), n)
    name = options.file.name if options.file else "synthetic"
    print(f"{name}, {n} workers, d = {d}, L- = {problem.L_minus:.4f}, L+ = {problem.L_plus:.4f}, |grad|^2 < {options.target:g}")
    ladder = [tsq.TopK(k=k) for k in sorted(options.k)]
    specs: list[tsq.Mechanism] = [tsq.EF21(c) for c in ladder]
    for zeta in options.zeta:
        specs += [tsq.LAG(zeta), *(tsq.CLAG(c, zeta) for c in ladder), tsq.AdaCGD(ladder, zeta)]
    results = {spec: run(problem, spec, options.target, options.most_rounds) for spec in specs}
    base = min(r.floats for s, r in results.items() if isinstance(s, tsq.EF21) and r.reached and s.compressor.k < d)
    for spec, r in results.items():
        note = "" if r.reached else "  (not reached)"
        print(f"{spec!r:<88} {r.rounds:6d} rounds {r.floats:9.0f} floats {r.bytes:10.0f} bytes up  {r.floats / base:6.3f} of EF21{note}")


if __name__ == "__main__":
    main()
