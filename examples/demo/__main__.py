"""Command line of the demo: `python -m examples.demo`, from the root of the repository."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from .counters import isolate_loopback
from .launch import MethodFailed, run_method
from .report import draw, footnotes, table, write_json
from .results import MethodResult
from .settings import BUILT_IN_METHODS, OPTIMIZERS, Method, Settings, quick


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=(
        "Train a small GPT on tiny shakespeare with 2 Gloo processes, once per way of averaging gradients, and compare "
        "bytes on the wire, validation loss and step time."))
    parser.add_argument("--methods", nargs="*", choices=list(BUILT_IN_METHODS), default=list(BUILT_IN_METHODS),
                        help="which built-in methods to run (default: all)")
    parser.add_argument("--spec", action="append", default=[], metavar="SPEC",
                        help="one more method of torch_smoothquant, for instance 'ErrorFeedback(Quantizer(bits=2))'; "
                             "repeatable")
    parser.add_argument("--override", action="append", default=[], nargs=2, metavar=("PATTERN", "SPEC"),
                        help="for every --spec: parameters whose name matches PATTERN go by SPEC instead; repeatable")
    parser.add_argument("--optimizer", choices=list(OPTIMIZERS), default="adam")
    parser.add_argument("--learning-rate", type=float, help="peak learning rate (default: depends on the optimizer)")
    parser.add_argument("--betas", type=float, nargs=2, metavar="BETA",
                        help="of Adam; '0 0.999' where the mechanism has the momentum: EF21(..., momentum=0.1)")
    parser.add_argument("--max-gradient-norm", type=float, help="clipping of the averaged gradient (default: depends on the optimizer)")
    parser.add_argument("--steps", type=int, help=f"training steps per method (default: {defaults.steps})")
    parser.add_argument("--powersgd-rank", type=int, default=defaults.powersgd_rank, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="weights and data order (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a smoke test of seconds with a tiny model and few steps")
    parser.add_argument("--output", type=Path, default=Path("demo.png"), help="picture (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured to FILE")
    parsed = parser.parse_args(arguments)
    if parsed.powersgd_rank < 1:
        parser.error(f"--powersgd-rank: expected at least 1, found {parsed.powersgd_rank}")
    if parsed.steps is not None and parsed.steps < 1:
        parser.error(f"--steps: expected at least 1, found {parsed.steps}")
    if parsed.betas is not None and (parsed.optimizer != "adam" or not all(0 <= beta < 1 for beta in parsed.betas)):
        parser.error(f"--betas: expected two numbers from 0 to below 1, with --optimizer adam, found {parsed.betas}")
    if not parsed.methods and not parsed.spec:
        parser.error("nothing to run: --methods is empty and there is no --spec")
    return parsed


def make_settings(parsed: argparse.Namespace) -> Settings:
    optimizer = OPTIMIZERS[parsed.optimizer]
    if parsed.learning_rate is not None:
        optimizer = dataclasses.replace(optimizer, learning_rate=parsed.learning_rate)
    if parsed.max_gradient_norm is not None:
        optimizer = dataclasses.replace(optimizer, max_gradient_norm=parsed.max_gradient_norm)
    if parsed.betas is not None:
        optimizer = dataclasses.replace(optimizer, betas=tuple(parsed.betas))
    chosen: dict[str, object] = {
        "seed": parsed.seed, "optimizer": optimizer, "powersgd_rank": parsed.powersgd_rank,
    }
    if parsed.steps is not None:
        chosen["steps"] = parsed.steps
    return Settings(**(quick(chosen) if parsed.quick else chosen))  # type: ignore[arg-type]


def run(settings: Settings, method: Method) -> MethodResult:
    """Run one method behind a progress bar that shows loss and bytes so far."""
    with tqdm(total=settings.steps, desc=method.label, unit="step", dynamic_ncols=True, mininterval=0.5) as bar:

        def progress(step: int, loss: float, bytes_sent: float) -> None:
            bar.set_postfix_str(f"loss {loss:.3f}, {bytes_sent / 1e6:,.1f} MB sent per rank", refresh=False)
            bar.update(step - bar.n)

        return run_method(settings, method, progress)


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = parse_arguments(arguments)
    settings = make_settings(parsed)
    methods = [BUILT_IN_METHODS[name] for name in dict.fromkeys(parsed.methods)]
    methods = [dataclasses.replace(m, label=f"{m.label} rank {settings.powersgd_rank}") if m.kind == "powersgd" else m
               for m in methods]
    methods += [Method(spec, spec, "ours", spec, tuple(map(tuple, parsed.override))) for spec in dict.fromkeys(parsed.spec)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave through `finally`: no process stays behind
    isolated = isolate_loopback()
    begin = time.monotonic()
    results: list[MethodResult] = []
    for method in methods:
        try:
            results.append(run(settings, method))
        except MethodFailed as failure:
            print(f"\nerror: {method.label}: {failure}", file=sys.stderr)
            return 1
    print(f"\n{table(results)}\n\n{footnotes(results, settings, isolated)}")
    draw(parsed.output, results, settings)
    print(f"picture: {parsed.output}; {time.monotonic() - begin:.0f} s in total")
    if parsed.json is not None:
        write_json(parsed.json, results, settings, isolated)
    return 0


if __name__ == "__main__":
    sys.exit(main())
