"""One rank of the benchmark: every method in the same process, taking turns, so that drift hits all of them alike.

Started by `__main__` inside a namespace, with RANK, WORLD_SIZE and GLOO_SOCKET_IFNAME in the environment. The ranks
meet in a FileStore (namespaces share the file system), so that nothing but Gloo uses the link.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import threading
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from .contenders import Contender, check_loss, check_replicas, in_this_build, make_contender
from .models import make_task
from .namespaces import INTERFACE
from .settings import RESULT_FILE, SHAPE_FILE, SHAPED_FILE, STORE_FILE, Settings


def sent_bytes() -> int:
    """Bytes that have left this namespace through the veth."""
    return int(Path(f"/sys/class/net/{INTERFACE}/statistics/tx_bytes").read_text())


def timed_steps(contender: Contender, steps: int) -> list[float]:
    times = []
    for _ in range(steps):
        begin = time.perf_counter()
        contender.measurement.last_loss = contender.take_step()
        times.append(time.perf_counter() - begin)
    return times


def run_round(contender: Contender, steps: int) -> None:
    """`steps` timed steps and the bytes that they sent."""
    dist.barrier()
    bytes_before = sent_bytes()
    times = timed_steps(contender, steps)
    dist.barrier()
    contender.bytes_sent += sent_bytes() - bytes_before
    contender.measurement.round_seconds.append(times)


def raw_rate(rank: int) -> float:
    """Payload bits per second from rank 0 to rank 1 through one Gloo connection, timed over about a second."""
    size, seconds = 1 << 18, 0.0
    acknowledgement = torch.zeros(1, dtype=torch.uint8)
    while True:
        payload = torch.zeros(size, dtype=torch.uint8)
        dist.barrier()
        begin = time.perf_counter()
        if rank == 0:
            dist.send(payload, 1)
            dist.recv(acknowledgement, 1)
        elif rank == 1:
            dist.recv(payload, 0)
            dist.send(acknowledgement, 0)
        elapsed = torch.tensor([time.perf_counter() - begin], dtype=torch.float64)
        dist.broadcast(elapsed, 0)
        seconds = float(elapsed)
        if seconds > 0.4 or size >= 1 << 28:
            return 8 * size / seconds
        size = min(1 << 28, max(2 * size, round(size * 0.8 / seconds)))


def compute_time(contender: Contender) -> float:
    """Seconds of forward and backward without communication; leaves weights alone."""
    times = []
    with contender.ddp.no_sync():
        for step in range(5):
            begin = time.perf_counter()
            contender.task.loss(contender.ddp, step).backward()
            times.append(time.perf_counter() - begin)
    contender.optimizer.zero_grad()
    return sorted(times)[len(times) // 2]


def gather_bytes(contender: Contender, timed_steps: int, counted: float | None) -> None:
    """Put the mean over ranks of the bytes per step into the measurement."""
    total = torch.tensor([float(contender.bytes_sent), 0.0 if counted is None else counted], dtype=torch.float64)
    dist.all_reduce(total)
    per_step = total / (dist.get_world_size() * timed_steps)
    contender.measurement.bytes_per_step = float(per_step[0])
    contender.measurement.counted_per_step = None if counted is None else float(per_step[1])


def warm_up(contender: Contender, settings: Settings) -> None:
    contender.measurement.first_loss = contender.take_step()
    for _ in range(settings.warm_up - 1):
        contender.take_step()
    check_replicas(contender)


def take_turns(contenders: list[Contender], settings: Settings) -> None:
    """Time per step: the order rotates from round to round."""
    counted_before: list[float | None] = []
    for contender in contenders:
        warm_up(contender, settings)
        counted_before.append(None if contender.hook is None else contender.hook.stats()["wire_bytes"])
    for number in range(settings.rounds):
        shift = number % len(contenders)
        for contender in contenders[shift:] + contenders[:shift]:
            run_round(contender, settings.steps)
    for contender, before in zip(contenders, counted_before, strict=True):
        counted = None if before is None else contender.hook.stats()["wire_bytes"] - before
        gather_bytes(contender, settings.rounds * settings.steps, counted)


def follow_changes(contenders: list[Contender], settings: Settings, rank: int, folder: Path) -> None:
    """Method by method: `change_steps` steps over each of the links."""
    for contender in contenders:
        contender.measurement.first_loss = contender.take_step()
        for link in settings.changes:
            ask_for_link(link, rank, folder)
            seconds = timed_steps(contender, settings.change_steps)
            phase: dict[str, Any] = {"link": link, "seconds": seconds}
            if contender.adapts:
                policy = contender.hook.stats()["policy"]
                phase |= {"buckets": policy["buckets"], "reason": policy["reason"], "regimes": policy["regimes"]}
            contender.measurement.phases.append(phase)


def ask_for_link(link: str, rank: int, folder: Path) -> None:
    """Have the launcher shape the link anew, between two steps."""
    dist.barrier()
    if rank == 0:
        (folder / SHAPED_FILE).unlink(missing_ok=True)
        (folder / "draft").write_text(link)
        (folder / "draft").rename(folder / SHAPE_FILE)
        while not (folder / SHAPED_FILE).exists():
            time.sleep(0.02)
    dist.barrier()


@torch.no_grad()
def held_out(contender: Contender) -> float:
    return contender.task.held_out(contender.ddp.module)


def train_until(contender: Contender, settings: Settings, target: float | None) -> float:
    """Train until the held-out loss is at most `target` (None: for `until_loss` steps), looking 30 times in as many steps; at most twice as
    long. Only steps are timed. Returns the last held-out loss, the same on every rank."""
    m, every = contender.measurement, max(1, settings.until_loss // 30)
    m.first_loss = held_out(contender)
    seconds, loss = 0.0, m.first_loss
    while contender.steps_taken < settings.until_loss * (1 if target is None else 2):
        seconds += sum(timed_steps(contender, every))
        loss = held_out(contender)
        m.curve.append((contender.steps_taken, seconds, loss))
        if target is not None and loss <= target:
            break
    if target is None or loss <= target:
        m.reached = (contender.steps_taken, seconds)
    m.last_loss = loss
    return loss


def measure(settings: Settings, rank: int, folder: Path) -> dict[str, Any]:
    """Make every method, then measure what the settings ask for."""
    task = make_task(settings, rank)
    contenders = [make_contender(method, settings, task) for method in settings.methods if in_this_build(method)]
    rate, compute = raw_rate(rank), compute_time(contenders[0])
    target = None
    if settings.changes:
        follow_changes(contenders, settings, rank, folder)
    elif settings.until_loss:
        target = train_until(contenders[0], settings, None)
        for contender in contenders[1:]:
            train_until(contender, settings, target)
    else:
        take_turns(contenders, settings)
    for contender in contenders:
        check_replicas(contender)
        check_loss(contender)
        if contender.hook is not None:
            contender.measurement.hook_stats = contender.hook.stats()
            contender.hook.close()
    return {
        "raw_bits_per_second": rate,
        "compute_seconds": compute,
        "parameters": sum(parameter.numel() for parameter in contenders[0].ddp.parameters()),
        "measurements": [asdict(contender.measurement) for contender in contenders],
        "target_loss": target,
    }


def _leave_with_parent() -> None:
    """End this process when the launcher's end of our standard input closes, that is, when the launcher dies."""

    def watch() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.links.worker", description=__doc__)
    parser.add_argument("settings", help="Settings as JSON")
    parser.add_argument("folder", type=Path, help="shared by the ranks; rank 0 leaves its result here")
    parsed = parser.parse_args()
    settings = Settings.from_json(parsed.settings)
    _leave_with_parent()
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(parsed.folder / STORE_FILE), world_size), rank=rank, world_size=world_size,
        timeout=timedelta(seconds=settings.collective_timeout_s),
    )
    result = measure(settings, rank, parsed.folder)
    if rank == 0:
        (parsed.folder / RESULT_FILE).write_text(json.dumps(result, default=str))
    gc.collect()  # DDP sits in reference cycles: free it, and the threads of its group, while Python still runs
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
