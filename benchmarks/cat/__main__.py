"""Command line: `python -m benchmarks.cat [folder of LIBSVM files]`, from the root of the repository.

One worker, gradient descent with the guaranteed step, from 0 until f - f* is below the target; S = TopK, S+Q = SparseSign, SS =
StochasticSparsifier. Every fixed T is run for every cost, CAT once with each horizon, with nothing tuned. One line a case: what CAT cost,
what the best fixed T cost and which one it was, their ratio, and what T = 1 and d cost. Without a folder: a synthetic problem.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

import torch_smoothquant as tsq
from benchmarks.mechanisms.problem import read_libsvm, synthetic

from .descent import Ridge, Sent, descend

SETS = {"a1a": 123, "mushrooms": 112, "w8a": 300}
SCHEMES = {"S": "TopK", "S+Q": "SparseSign", "SS": "StochasticSparsifier"}
HORIZONS = {"S": ("step", "run"), "S+Q": ("step", "run"), "SS": ("step",)}
LINK = (1e-3, 8e-6)  # seconds: 1 ms and 1 Mbit/s

PACKETS = tsq.PacketCost(512, 576, 64)  # the numbers of the paper
AFFINE = tsq.AffineCost(64.0, 5.0, "bytes")


def charge(kind: str, sent: Sent) -> float:
    """What a message really cost: by its length, where the cost is one of bytes."""
    if kind == "packet":
        return PACKETS.message + PACKETS.packet * math.ceil(sent.bytes / PACKETS.payload)
    if kind == "affine":
        return AFFINE.c0 + AFFINE.c1 * sent.entries
    return LINK[0] + LINK[1] * sent.bytes


def totals(problem: Ridge, scheme: str, target: float, most: int, policy: tsq.CAT | None = None, limit: int | None = None,
           bars: dict[str, float] | None = None) -> tuple[dict[str, float], float, int]:
    """Costs until the target by kind (inf: not reached, or all beyond ``bars``), mean entries and steps."""
    spent, entries = dict.fromkeys(("packet", "affine", "measured"), 0.0), 0
    for k, (gap, sent) in enumerate(descend(problem, scheme, policy, limit)):
        if gap <= target:
            return spent, entries / max(k, 1), k
        if k == most or (bars and all(spent[kind] > bar for kind, bar in bars.items())):
            return dict.fromkeys(spent, math.inf), entries / max(k, 1), k
        for kind in spent:
            spent[kind] += charge(kind, sent)
        entries += sent.entries
        if policy is not None and isinstance(policy.cost, tsq.MeasuredCost):
            policy.cost.observe(sent.bytes, charge("measured", sent))
    raise AssertionError


def grid(d: int, every: bool) -> list[int]:
    """Fixed T, likely good ones first: the others then stop early."""
    some = sorted({min(d, round(1.3**k)) for k in range(40)}, key=lambda t: abs(t - d / 6))
    return some + [t for t in range(1, min(d, 300) + 1) if t not in some] if every else some


def tuned(problem: Ridge, scheme: str, options: argparse.Namespace, kind: str, horizon: str) -> tuple[float, float, int]:
    """What CAT costs, the mean number of entries and of steps."""
    cost = {"packet": PACKETS, "affine": AFFINE, "measured": tsq.MeasuredCost()}[kind]
    costs, mean, steps = totals(problem, scheme, options.target, options.most_steps, tsq.CAT(cost, horizon=horizon))
    return costs[kind], mean, steps


def compare(name: str, problem: Ridge, label: str, options: argparse.Namespace) -> None:
    scheme, kinds = SCHEMES[label], ("packet", "affine", "measured")
    cat = {kind: [tuned(problem, scheme, options, kind, horizon) for horizon in HORIZONS[label]] for kind in kinds}
    best = dict.fromkeys(kinds, (math.inf, 0))
    shown: dict[int, dict[str, float]] = {}
    for t in grid(problem.d, options.every):
        show = t in (1, problem.d)
        bars = None if show else {kind: min(best[kind][0], *(2 * cost for cost, _, _ in cat[kind])) for kind in kinds}
        shown[t] = totals(problem, scheme, options.target, options.most_steps, limit=t, bars=bars)[0]
        best = {kind: min(best[kind], (shown[t][kind], t)) for kind in kinds}
    for kind in kinds:
        least, at = best[kind]
        ends = ", ".join(f"T = {t} {shown[t][kind] / least:.2f}" for t in (1, problem.d))
        for horizon, (cost, mean, steps) in zip(HORIZONS[label], cat[kind], strict=True):
            print(f"{name:<10} {label:<4} {kind:<9} CAT, {horizon:<4} {cost:11.5g} (mean T {mean:5.1f}, {steps:5d} steps)  best fixed "
                  f"{least:11.5g} at T = {at:<3d}  CAT / best {cost / least:5.2f}  ({ends} of the best)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cat", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("folder", nargs="?", type=Path, help=f"with some of {', '.join(SETS)}, in LIBSVM's format")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--schemes", nargs="+", default=list(SCHEMES), choices=list(SCHEMES))
    parser.add_argument("--lam", type=float, default=1e-2, help="l2 regulariser (default: %(default)s)")
    parser.add_argument("--target", type=float, default=1e-4, help="of f - f* (default: %(default)s)")
    parser.add_argument("--every", action="store_true", help="all T up to 300; else 1, 2, 3, 4, 5, 6, 8, 11, ...")
    parser.add_argument("--most-steps", type=int, default=100_000, help="default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.folder is None:
        problems = [("synthetic", *synthetic(20, 60))]
    else:
        problems = []
        for name in options.sets:
            if (found := next(iter(sorted(options.folder.glob(f"{name}*"))), None)) is None:
                parser.error(f"{options.folder}: no file {name}*")
            problems.append((name, *read_libsvm(found, SETS[name])))
    for name, rows, labels in problems:
        problem = Ridge(rows, labels, options.lam)
        print(f"{name}: {len(rows)} rows, d = {problem.d}, L = {problem.L:.4f}, lam = {options.lam:g}, f - f* <= {options.target:g}")
        for label in options.schemes:
            compare(name, problem, label, options)


if __name__ == "__main__":
    main()
