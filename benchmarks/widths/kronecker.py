"""python -m benchmarks.widths.kronecker [--optimizers adam] [--seeds 0 1 2] [--interval 10]

What the Kronecker eigenbasis is worth: loss against bytes of UniformStep in original coordinates, in the eigenbasis, and of whole
widths; four Gloo processes, error feedback. One line a run; then, for each point in the basis, its bytes over those that the others need
for the same mean gap (log of the gap is linear in bits between their points, or beyond the last two).
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics

import torch_smoothquant as tsq

from .launch import measure
from .worker import Case

UNIFORM = tuple(f"ErrorFeedback(UniformStep(bits={bits}))" for bits in (2.0, 1.0, 0.5))
WHOLE = tuple(f"ErrorFeedback(Quantizer(bits={bits}))" for bits in (4, 3, 2))

Point = tuple[float, float]  # bits, gap


def bits_for(gap: float, points: list[Point]) -> float:
    """Bits at which a curve through `points` (falling in bits) has this gap."""
    points = sorted((bits, max(g, 1e-4)) for bits, g in points)
    pairs = list(itertools.pairwise(points))
    pair = next((p for p in pairs if p[1][1] <= gap), pairs[-1])
    (low, more), (high, less) = pair
    slope = (math.log(less) - math.log(more)) / (high - low)
    return low + (math.log(max(gap, 1e-4)) - math.log(more)) / slope


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.widths.kronecker", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--optimizers", nargs="+", choices=("sgd", "adam"), default=["adam"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--interval", type=int, default=10)
    args = parser.parse_args()
    turned = tsq.Running("kronecker", interval=args.interval)
    kinds = [(None, None), *((s, None) for s in UNIFORM + WHOLE), *((s, turned) for s in UNIFORM)]
    cases = [Case(optimizer, seed, *kind) for optimizer in args.optimizers for seed in args.seeds for kind in kinds]
    outcomes = dict(zip(cases, measure(cases), strict=True))
    for optimizer in args.optimizers:
        points: dict[tuple[str, bool], Point] = {}
        for spec, smoothness in kinds[1:]:
            some = [(outcomes[Case(optimizer, seed, spec, smoothness)], outcomes[Case(optimizer, seed, None)]) for seed in args.seeds]
            gaps = [outcome.loss - dense.loss for outcome, dense in some]
            bits = statistics.mean(o.payload_bits for o, _ in some)
            points[str(spec), smoothness is not None] = bits, statistics.mean(gaps)
            seconds = statistics.median(o.seconds for o, _ in some)
            print(f"{optimizer:5} {spec:40} {'eigenbasis' if smoothness else '':10} {bits:5.2f} bits: "
                  f"{' / '.join(f'{gap:+.4f}' for gap in gaps)}, mean {statistics.mean(gaps):+.4f}; {seconds:.0f} s")
        for spec in UNIFORM:
            bits, gap = points[spec, True]
            uniform = bits_for(gap, [points[s, False] for s in UNIFORM])
            whole = bits_for(gap, [points[s, False] for s in WHOLE])
            print(f"{optimizer:5} {spec} in the eigenbasis, gap {gap:+.4f}: {bits:.2f} bits, {bits / uniform:.2f} of UniformStep's "
                  f"{uniform:.2f}, {bits / whole:.2f} of whole widths' {whole:.2f}")


if __name__ == "__main__":
    main()
