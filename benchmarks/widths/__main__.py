"""python -m benchmarks.widths [--optimizers sgd adam] [--seeds 0 1 2] [--bits 2] [--kinds second_moment secant] [--metrics sgd adam]

Validation loss minus that of plain DDP, of the same bytes spent evenly and by running smoothness; four Gloo processes, error feedback. One
line a run, then one a variant: its mean gap, and that gap over the one of even widths. About a minute a run on two cores.
"""

from __future__ import annotations

import argparse
import statistics

import torch_smoothquant as tsq

from .launch import measure
from .worker import Case


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.widths", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--optimizers", nargs="+", choices=("sgd", "adam"), default=["sgd", "adam"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", choices=("second_moment", "secant"), default=["second_moment"])
    parser.add_argument("--metrics", nargs="+", choices=("sgd", "adam"), help="default: the optimizer's")
    return parser.parse_args()


def variants(args: argparse.Namespace, optimizer: str) -> dict[str, tuple[str | None, tsq.Running | None]]:
    even, average = (f"ErrorFeedback(Quantizer(bits={bits}))" for bits in (args.bits, float(args.bits)))
    out: dict[str, tuple[str | None, tsq.Running | None]] = {"plain DDP": (None, None), "even widths": (even, None),
                                                             "by energy": (average, None)}
    for kind in args.kinds:
        for metric in args.metrics or [optimizer]:
            running = tsq.Running(kind, metric=metric)
            out[repr(running)] = (even, running)
    return out


def main() -> None:
    args = arguments()
    named = [(optimizer, seed, name, Case(optimizer, seed, *what)) for optimizer in args.optimizers for seed in args.seeds
             for name, what in variants(args, optimizer).items()]
    outcomes = measure([case for *_, case in named])
    loss = {(o, s, n): outcome.loss for (o, s, n, _), outcome in zip(named, outcomes, strict=True)}
    bits = {(o, n): outcome.bits for (o, _, n, _), outcome in zip(named, outcomes, strict=True)}
    for optimizer in args.optimizers:
        gaps = {name: [loss[optimizer, seed, name] - loss[optimizer, seed, "plain DDP"] for seed in args.seeds]
                for name in variants(args, optimizer)}
        even = statistics.mean(gaps["even widths"])
        for name, values in gaps.items():
            shown = " / ".join(f"{value:+.4f}" for value in values)
            print(f"{optimizer:5} {name:45} {bits[optimizer, name]:5.2f} bits: {shown}, mean {statistics.mean(values):+.4f}, "
                  f"{statistics.mean(values) / even:.2f} of even widths'")


if __name__ == "__main__":
    main()
