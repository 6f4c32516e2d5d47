"""python -m benchmarks.frontier [--optimizers sgd adam] [--seeds 0 ...] [--limit N] [--filter TEXT] [--json FILE] [--write]

Runs what is not in FILE yet, the most telling first; every finished run is in FILE at once. One core, about 10 s of it per run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path

import torch

from . import report, simulate
from .cases import Case, cases


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frontier", description=__doc__.split("\n\n")[1])
    parser.add_argument("--optimizers", nargs="+", choices=("sgd", "adam"), default=["sgd", "adam"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--filter", default="", help="only specs that contain this")
    parser.add_argument("--limit", type=int, help="at most this many runs now; 0: only report")
    parser.add_argument("--json", type=Path, default=Path("frontier.json"), help="results, read and written (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="put tables and pictures into docs/")
    return parser.parse_args()


def load(path: Path) -> dict[str, dict]:
    """Results so far by the key of their case; raises if they are of other settings."""
    if not path.exists():
        return {}
    document = json.loads(path.read_text())
    if document["settings"] != _settings():
        raise SystemExit(f"{path} holds runs of other settings; choose another --json")
    return document["results"]


def save(path: Path, results: dict[str, dict]) -> None:
    """Whole or not at all: a run may be cut off at any time."""
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps({"settings": _settings(), "results": results}, indent=1) + "\n")
    draft.replace(path)


def _settings() -> dict[str, int]:
    chosen = simulate.SETTINGS
    return {name: getattr(chosen, name) for name in ("steps", "batch", "context", "width", "layers")} | {"workers": simulate.WORLD_SIZE}


def measure(wanted: list[Case], results: dict[str, dict], path: Path, limit: int | None) -> None:
    missing = [case for case in wanted if case.key not in results]
    for number, case in enumerate(missing[:limit], 1):
        outcome = simulate.run(case.optimizer, case.spec, case.seed)
        results[case.key] = dataclasses.asdict(outcome)
        save(path, results)
        shown = outcome.error or f"loss {outcome.loss:.4f}, {outcome.bits_up:.2f} bits up, {outcome.seconds:.0f} s"
        print(f"[{number}/{len(missing)}] {case.key}: {shown}", flush=True)
        assert outcome.error or math.isfinite(outcome.bits_up)


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    wanted = [case for case in cases(args.optimizers, args.seeds) if args.filter in case.spec]
    results = load(args.json)
    measure(wanted, results, args.json, args.limit)
    for optimizer in args.optimizers:
        print(f"\n{optimizer}\n\n{report.table(optimizer, args.seeds, results)}")
    print(report.notes(results))
    if args.write:
        report.write(args.optimizers, args.seeds, results)


if __name__ == "__main__":
    main()
