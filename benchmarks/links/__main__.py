"""Command line of the link benchmark: `python -m benchmarks.links`, from the root of the repository, as root."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from .namespaces import INTERFACE, UNSHAPED, Pair, check_rate, veth_pair
from .report import draw, legend, link_table, write_json
from .settings import LABELS, RESULT_FILE, LinkResult, Settings

REPOSITORY = Path(__file__).resolve().parents[2]
BUSY_LOAD = 1.0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    defaults = Settings([])
    parser = argparse.ArgumentParser(prog="python -m benchmarks.links", description=(
        "Step time of a 6.3 M-parameter MLP on 2 ranks over a shaped link, methods taking turns. Needs root."))
    parser.add_argument("--links", nargs="+", default=["100mbit", "1gbit", UNSHAPED], metavar="RATE",
                        help="rates in tc's notation, or 'unshaped' (default: 100mbit 1gbit unshaped)")
    parser.add_argument("--methods", nargs="*", choices=list(LABELS), default=list(LABELS), help="default: all")
    parser.add_argument("--spec", action="append", default=[], help="one more spec of torch_smoothquant; repeatable")
    parser.add_argument("--rounds", type=int, default=defaults.rounds, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="per method and round (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=defaults.batch, help="per rank (default: %(default)s)")
    parser.add_argument("--bucket-cap-mb", type=float, help="of DDP (default: DDP's own)")
    parser.add_argument("--timeout", type=float, default=900, help="seconds per link (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured to FILE")
    parser.add_argument("--output", type=Path, metavar="PNG", help="also draw a picture, for instance links.png")
    parsed = parser.parse_args(arguments)
    for name in ("rounds", "steps", "batch"):
        if getattr(parsed, name) < 1:
            parser.error(f"--{name}: expected at least 1, found {getattr(parsed, name)}")
    if not parsed.methods and not parsed.spec:
        parser.error("nothing to run: --methods is empty and there is no --spec")
    try:
        parsed.links = [check_rate(link) for link in dict.fromkeys(parsed.links)]
    except ValueError as error:
        parser.error(f"--links: {error}")
    return parsed


def start_worker(pair: Pair, rank: int, settings: Settings, folder: Path) -> subprocess.Popen[bytes]:
    """Start one rank in its namespace, on its core if there are two. Its standard input is its lifeline."""
    cores = sorted(os.sched_getaffinity(0))
    pin = ["taskset", "-c", str(cores[rank % len(cores)])] if len(cores) > 1 else []
    environment = os.environ | {
        "RANK": str(rank), "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": INTERFACE, "OMP_NUM_THREADS": "1",
    }
    python = [sys.executable, "-m", "benchmarks.links.worker", settings.to_json(), str(folder)]
    return subprocess.Popen(pair.command(rank, *pin, *python), cwd=REPOSITORY, env=environment, stdin=subprocess.PIPE)


def run_link(pair: Pair, link: str, settings: Settings, timeout: float) -> LinkResult:
    """Shape the link, run both ranks to their end, read rank 0's result. No worker outlives the call."""
    pair.shape(link)
    with tempfile.TemporaryDirectory(prefix="tsq-links-") as folder:
        workers: list[subprocess.Popen[bytes]] = []
        try:
            workers += [start_worker(pair, rank, settings, Path(folder)) for rank in (0, 1)]
            _wait(workers, time.monotonic() + timeout)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        return LinkResult.from_dict(link, json.loads((Path(folder) / RESULT_FILE).read_text()))


def _wait(workers: Sequence[subprocess.Popen[bytes]], deadline: float) -> None:
    """Return when all have left with code 0; raise as soon as one fails or the deadline passes."""
    while True:
        codes = [worker.poll() for worker in workers]
        failed = [f"rank {rank} (exit code {code})" for rank, code in enumerate(codes) if code not in (None, 0)]
        if failed:
            raise RuntimeError(f"{', '.join(failed)} failed; what it said stands above")
        if all(code == 0 for code in codes):
            return
        if time.monotonic() > deadline:
            raise RuntimeError("timed out; the ranks were ended")
        time.sleep(0.1)


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = parse_arguments(arguments)
    if os.geteuid() != 0:
        print("error: network namespaces need root", file=sys.stderr)
        return 2
    missing = [tool for tool in ("ip", "tc", "taskset") if shutil.which(tool) is None]
    if missing:
        print(f"error: needs {', '.join(missing)} (packages iproute2 and util-linux)", file=sys.stderr)
        return 2
    settings = Settings(
        methods=[*dict.fromkeys([*parsed.methods, *parsed.spec])], rounds=parsed.rounds, steps=parsed.steps,
        batch=parsed.batch, bucket_cap_mb=parsed.bucket_cap_mb,
    )
    if os.getloadavg()[0] > BUSY_LOAD:
        print(f"warning: load average {os.getloadavg()[0]:.1f}: others use these cores, so steps come out too long and "
              "ratios too near to 1", file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave through `finally`: the namespaces go
    results: list[LinkResult] = []
    try:
        with veth_pair() as pair:
            for link in parsed.links:
                results.append(run_link(pair, link, settings, parsed.timeout))
                print(link_table(results[-1]), end="\n\n", flush=True)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(legend(settings, results))
    if parsed.json is not None:
        write_json(parsed.json, settings, results)
    if parsed.output is not None:
        draw(parsed.output, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
