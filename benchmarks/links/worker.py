"""One rank of the benchmark: every method in the same process, taking turns, so that drift hits all of them alike.

Started by `__main__` inside a namespace, with RANK, WORLD_SIZE and GLOO_SOCKET_IFNAME in the environment. The ranks
meet in a FileStore (namespaces share the file system), so that nothing but Gloo uses the link.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import math
import os
import threading
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from .namespaces import INTERFACE
from .settings import IDENTITY_SPEC, LABELS, RESULT_FILE, STORE_FILE, Measurement, Settings

_DISTINCT_BATCHES = 8


@dataclass
class Contender:
    """A method with a model, an optimizer and a hook of its own."""

    ddp: DistributedDataParallel
    optimizer: torch.optim.Optimizer
    hook: Any  # ours only: torch_smoothquant's hook
    measurement: Measurement
    steps_taken: int = 0
    bytes_sent: int = 0


def make_contender(method: str, settings: Settings) -> Contender:
    """The same initial weights for every method. PowerSGD gets one bucket: see examples/demo/methods.py."""
    torch.manual_seed(settings.seed)
    layers: list[nn.Module] = []
    for inputs, outputs in zip(settings.layers, settings.layers[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    module = nn.Sequential(*layers[:-1])
    ddp = DistributedDataParallel(module, bucket_cap_mb=1024 if method == "powersgd" else settings.bucket_cap_mb)
    hook = None
    if method == "fp16":
        ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif method == "powersgd":
        state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
        ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    elif method != "plain":
        import torch_smoothquant as tsq  # late: the other methods run without it

        spec = {"ours": None, "identity": IDENTITY_SPEC}.get(method, method)
        hook = tsq.attach(ddp, seed=settings.seed) if spec is None else tsq.attach(ddp, spec, seed=settings.seed)
    measurement = Measurement(method, spec=None if hook is None else str(hook.stats()["spec"]))
    return Contender(ddp, torch.optim.SGD(ddp.parameters(), lr=0.05, momentum=0.9), hook, measurement)


def make_batches(settings: Settings, rank: int) -> list[tuple[Tensor, Tensor]]:
    """Random inputs, labelled by a random linear teacher: the loss falls, so a broken mean shows."""
    shared = torch.Generator().manual_seed(settings.seed)
    teacher = torch.randn(settings.layers[0], settings.layers[-1], generator=shared)
    own = torch.Generator().manual_seed(settings.seed + 1 + rank)
    inputs = [torch.randn(settings.batch, settings.layers[0], generator=own) for _ in range(_DISTINCT_BATCHES)]
    return [(x, (x @ teacher).argmax(dim=1)) for x in inputs]


def sent_bytes() -> int:
    """Bytes that have left this namespace through the veth."""
    return int(Path(f"/sys/class/net/{INTERFACE}/statistics/tx_bytes").read_text())


def take_step(contender: Contender, batches: list[tuple[Tensor, Tensor]]) -> float:
    """One training step; returns the loss."""
    inputs, labels = batches[contender.steps_taken % len(batches)]
    loss = F.cross_entropy(contender.ddp(inputs), labels)
    contender.optimizer.zero_grad()
    loss.backward()
    contender.optimizer.step()
    contender.steps_taken += 1
    return loss.item()


def run_round(contender: Contender, batches: list[tuple[Tensor, Tensor]], steps: int) -> None:
    """`steps` timed steps and the bytes that they sent."""
    dist.barrier()
    bytes_before, times = sent_bytes(), []
    for _ in range(steps):
        begin = time.perf_counter()
        contender.measurement.last_loss = take_step(contender, batches)
        times.append(time.perf_counter() - begin)
    dist.barrier()
    contender.bytes_sent += sent_bytes() - bytes_before
    contender.measurement.round_seconds.append(times)


def check_replicas(contender: Contender) -> None:
    """Raise unless all ranks hold bit-identical, finite weights."""
    digest = hashlib.sha256()
    for parameter in contender.ddp.parameters():
        if not bool(parameter.isfinite().all()):
            raise RuntimeError(f"{contender.measurement.label}: weights are not finite")
        digest.update(parameter.detach().numpy().tobytes())
    mine = torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    if any(not torch.equal(mine, other) for other in everyone):
        raise RuntimeError(f"{contender.measurement.label}: the ranks' weights differ")


def check_loss(contender: Contender) -> None:
    """Raise unless training made progress."""
    first, last = contender.measurement.first_loss, contender.measurement.last_loss
    if not (math.isfinite(last) and last < first):
        raise RuntimeError(f"{contender.measurement.label}: loss went from {first:.3f} to {last:.3f}")


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
        else:
            dist.recv(payload, 0)
            dist.send(acknowledgement, 0)
        elapsed = torch.tensor([time.perf_counter() - begin], dtype=torch.float64)
        dist.broadcast(elapsed, 0)
        seconds = float(elapsed)
        if seconds > 0.4 or size >= 1 << 28:
            return 8 * size / seconds
        size = min(1 << 28, max(2 * size, round(size * 0.8 / seconds)))


def compute_time(contender: Contender, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Seconds of forward and backward without communication; leaves weights alone."""
    times = []
    with contender.ddp.no_sync():
        for inputs, labels in batches[:5]:
            begin = time.perf_counter()
            F.cross_entropy(contender.ddp(inputs), labels).backward()
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


def measure(settings: Settings, rank: int) -> dict[str, Any]:
    """Warm up and check every method, then let them take turns; the order rotates from round to round."""
    batches = make_batches(settings, rank)
    contenders = [make_contender(method, settings) for method in settings.methods]
    rate, compute = raw_rate(rank), compute_time(contenders[0], batches)
    counted_before: list[float | None] = []
    for contender in contenders:
        contender.measurement.first_loss = take_step(contender, batches)
        for _ in range(settings.warm_up - 1):
            take_step(contender, batches)
        check_replicas(contender)
        counted_before.append(None if contender.hook is None else contender.hook.stats()["wire_bytes"])
    for number in range(settings.rounds):
        shift = number % len(contenders)
        for contender in contenders[shift:] + contenders[:shift]:
            run_round(contender, batches, settings.steps)
    for contender, before in zip(contenders, counted_before, strict=True):
        counted = None if before is None else contender.hook.stats()["wire_bytes"] - before
        gather_bytes(contender, settings.rounds * settings.steps, counted)
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
    unknown = [m for m in settings.methods if m not in LABELS and "(" not in m]
    if unknown:
        raise ValueError(f"unknown methods {unknown}: expected one of {list(LABELS)} or a spec")
    _leave_with_parent()
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(parsed.folder / STORE_FILE), world_size), rank=rank, world_size=world_size,
        timeout=timedelta(seconds=settings.collective_timeout_s),
    )
    result = measure(settings, rank)
    if rank == 0:
        (parsed.folder / RESULT_FILE).write_text(json.dumps(result, default=str))
    gc.collect()  # DDP sits in reference cycles: free it, and the threads of its group, while Python still runs
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
