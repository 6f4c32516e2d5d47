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

from .namespaces import INTERFACE, UNSHAPED, Network, check_rate, network
from .picture import draw
from .report import legend, show, write_json
from .settings import LABELS, MODELS, RESULT_FILE, SHAPE_FILE, SHAPED_FILE, USUAL, LinkResult, Settings, split

REPOSITORY = Path(__file__).resolve().parents[2]
BUSY_LOAD = 1.0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    defaults = Settings([])
    parser = argparse.ArgumentParser(prog="python -m benchmarks.links", description=(
        "Step time over shaped links, methods taking turns; or time to a loss; or what happens when the link changes. Needs root."))
    parser.add_argument("--ranks", type=int, default=defaults.world, help="2: a veth pair; more: a bridge (default: %(default)s)")
    parser.add_argument("--model", choices=list(MODELS), default=defaults.model, help="default: %(default)s")
    parser.add_argument("--links", nargs="+", default=["100mbit", "1gbit", UNSHAPED], metavar="RATE",
                        help="rates in tc's notation, or 'unshaped' (default: 100mbit 1gbit unshaped)")
    parser.add_argument("--methods", nargs="*", default=list(USUAL), metavar="METHOD",
                        help=f"of {', '.join(LABELS)}; METHOD@MB: in buckets of so many MB (default: {' '.join(USUAL)})")
    parser.add_argument("--all", action="store_true", help="all methods")
    parser.add_argument("--spec", action="append", default=[], help="one more spec of torch_smoothquant; repeatable")
    parser.add_argument("--rounds", type=int, default=defaults.rounds, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="per method and round (default: %(default)s)")
    parser.add_argument("--warm-up", type=int, default=defaults.warm_up, help="untimed steps before (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=0, help="per rank (default: the model's)")
    parser.add_argument("--powersgd-start", type=int, default=defaults.powersgd_start, help="of PowerSGD (default: %(default)s)")
    parser.add_argument("--until-loss", type=int, default=0, metavar="STEPS",
                        help="instead of step times: time to the held-out loss that the first method reaches in STEPS")
    parser.add_argument("--change", nargs="+", default=[], metavar="RATE", help="instead: step by step through these links, in one run")
    parser.add_argument("--change-steps", type=int, default=defaults.change_steps, help="over each of them (default: %(default)s)")
    parser.add_argument("--bucket-cap-mb", type=float, help="of DDP (default: DDP's own)")
    parser.add_argument("--timeout", type=float, default=900, help="seconds per link (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured to FILE")
    parser.add_argument("--output", type=Path, metavar="PNG", help="also draw a picture, for instance links.png")
    parsed = parser.parse_args(arguments)
    if parsed.all:
        parsed.methods = list(LABELS)
    for method in [*parsed.methods, *parsed.spec]:
        try:
            split(method)
        except ValueError as error:
            parser.error(f"--methods: {error}")
    if parsed.change and parsed.until_loss:
        parser.error("--change: expected no --until-loss beside it")
    if not 2 <= parsed.ranks <= 32:
        parser.error(f"--ranks: expected 2 to 32, found {parsed.ranks}")
    for name in ("rounds", "steps", "warm_up", "change_steps"):
        if getattr(parsed, name) < 1:
            parser.error(f"--{name}: expected at least 1, found {getattr(parsed, name)}")
    if not parsed.methods and not parsed.spec:
        parser.error("nothing to run: --methods is empty and there is no --spec")
    try:
        parsed.links = [check_rate(link) for link in (parsed.change[:1] or dict.fromkeys(parsed.links))]
        parsed.change = [check_rate(link) for link in parsed.change]
    except ValueError as error:
        parser.error(f"--links: {error}")
    return parsed


def start_worker(net: Network, rank: int, settings: Settings, folder: Path) -> subprocess.Popen[bytes]:
    """Start one rank in its namespace, on its core if there are two. Its standard input is its lifeline."""
    cores = sorted(os.sched_getaffinity(0))
    pin = ["taskset", "-c", str(cores[rank % len(cores)])] if len(cores) > 1 else []
    environment = os.environ | {
        "RANK": str(rank), "WORLD_SIZE": str(settings.world), "GLOO_SOCKET_IFNAME": INTERFACE, "OMP_NUM_THREADS": "1",
    }
    python = [sys.executable, "-m", "benchmarks.links.worker", settings.to_json(), str(folder)]
    return subprocess.Popen(net.command(rank, *pin, *python), cwd=REPOSITORY, env=environment, stdin=subprocess.PIPE)


def run_link(net: Network, link: str, settings: Settings, timeout: float) -> LinkResult:
    """Shape the links, run all ranks to their end, read rank 0's result. No worker outlives the call."""
    net.shape(link)
    with tempfile.TemporaryDirectory(prefix="tsq-links-") as folder:
        workers: list[subprocess.Popen[bytes]] = []
        try:
            workers += [start_worker(net, rank, settings, Path(folder)) for rank in range(settings.world)]
            _wait(workers, time.monotonic() + timeout, net, Path(folder))
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        return LinkResult.from_dict(link, json.loads((Path(folder) / RESULT_FILE).read_text()))


def _wait(workers: Sequence[subprocess.Popen[bytes]], deadline: float, net: Network, folder: Path) -> None:
    """Return when all have left with code 0; raise as soon as one fails or the deadline passes. Meanwhile, shape as they ask."""
    while True:
        if (folder / SHAPE_FILE).exists():
            net.shape((folder / SHAPE_FILE).read_text())
            (folder / SHAPE_FILE).unlink()
            (folder / SHAPED_FILE).touch()
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
        methods=[*dict.fromkeys([*parsed.methods, *parsed.spec])], world=parsed.ranks, model=parsed.model, rounds=parsed.rounds,
        steps=parsed.steps, warm_up=parsed.warm_up, batch=parsed.batch, bucket_cap_mb=parsed.bucket_cap_mb,
        powersgd_start=parsed.powersgd_start, changes=tuple(parsed.change), change_steps=parsed.change_steps, until_loss=parsed.until_loss,
    )
    if os.getloadavg()[0] > BUSY_LOAD:
        print(f"warning: load average {os.getloadavg()[0]:.1f}: others use these cores, so steps come out too long and "
              "ratios too near to 1", file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave through `finally`: the namespaces go
    results: list[LinkResult] = []
    try:
        with network(settings.world) as net:
            for link in parsed.links:
                results.append(run_link(net, link, settings, parsed.timeout))
                print(show(results[-1], settings), end="\n\n", flush=True)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(legend(settings, results))
    if parsed.json is not None:
        write_json(parsed.json, settings, results)
    if parsed.output is not None:
        draw(parsed.output, settings, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
