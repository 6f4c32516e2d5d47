"""python -m benchmarks.codecs [--filter TEXT] [--what TEXT] [--sizes N ...] [--repetitions R] [--json FILE] [--write]

One line a result. First what must hold is checked: the reference's values, conservation, the same bytes on every SIMD target.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch

import torch_smoothquant as tsq

from . import measure, peers, table
from .specs import THREADED, cases, name_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compressors.md"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codecs", description=__doc__.split("\n\n")[1])
    parser.add_argument("--filter", default="", help="only compressors and peers whose names contain this")
    parser.add_argument("--what", default="", help="only lines of compressors such as 'encode' or 'decode_add 8'")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(measure.SIZES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="more than one: codecs that use them, at the largest size")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}; needs the bucket's size and no filter")
    args = parser.parse_args()
    if args.write and (args.filter or args.what or measure.BUCKET not in args.sizes):
        parser.error(f"--write: expected no --filter and no --what, and {measure.BUCKET} among --sizes")
    return args


def run(args: argparse.Namespace) -> Iterator[measure.Result]:
    chosen = [spec for spec, _ in cases() if args.filter in spec]
    for spec in chosen:
        measure.check(spec)
    print(f"{len(chosen)} compressors checked; {table.machine()}", flush=True)
    for numel in args.sizes:
        clock = measure.Clock(numel, args.repetitions)
        for threads in args.threads if numel == max(args.sizes) else args.threads[:1]:
            tsq.set_num_threads(threads)
            for spec in chosen:
                if threads == 1 or name_of(spec) in THREADED:
                    yield from measure.sections(spec, clock, args.what)
        tsq.set_num_threads(1)
        for peer in peers.peers():
            if args.filter in peer.name and not args.what:
                yield from peers.sections(peer, clock)
        if not args.filter and not args.what:
            yield from peers.nearest(clock)


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    peers.quiet()
    results, why_not = [], table.busy()
    if why_not:
        print(f"wall times on several threads will say little: {why_not}")
    for result in run(args):
        results.append(result)
        print(result.line(), flush=True)
    for line in peers.skipped():
        print(line)
    if args.json:
        args.json.write_text(json.dumps({"machine": table.machine(), "results": [r.as_dict() for r in results]}, indent=1) + "\n")
    if args.write:
        PAGE.write_text(table.page(results, why_not))
        print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
