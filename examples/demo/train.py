"""What one rank does for one method: train, count, evaluate. No process is started here."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .counters import interface_bytes
from .data import Corpus, read_corpus, training_batch, validation_windows
from .methods import attach, byte_counter, wrap
from .model import CharGPT
from .results import CurvePoint, MethodResult
from .settings import Method, OptimizerSettings, Settings

Progress = Callable[[int, float, float], None]  # step, training loss, bytes that a rank has sent


class ByteMeter:
    """Adds up the bytes of the training steps: as counted by the interface, per rank, and as arithmetic expects.

    Only what lies between `start` and `stop` counts: evaluation and checks stay out. All ranks call both together.
    """

    def __init__(self, counted: Callable[[int], float], world_size: int) -> None:
        self._counted, self._world_size = counted, world_size
        self._interface_before: int | None = None
        self._finished = 0.0
        self.measured = interface_bytes() is not None

    def start(self) -> None:
        dist.barrier()
        self._interface_before = interface_bytes()

    def so_far(self, steps: int) -> float:
        """Bytes per rank up to now; call it between `start` and `stop`."""
        now = interface_bytes()
        if now is None or self._interface_before is None:
            return self._counted(steps)
        return self._finished + (now - self._interface_before) / self._world_size

    def stop(self, steps: int) -> float:
        dist.barrier()
        self._finished = self.so_far(steps)
        return self._finished


def make_optimizer(module: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    if settings.name == "adam":
        return torch.optim.Adam(module.parameters(), lr=settings.learning_rate, betas=settings.betas)
    if settings.name == "sgd":
        return torch.optim.SGD(module.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
    raise ValueError(f"unknown optimizer {settings.name!r}: expected 'adam' or 'sgd'")


def learning_rate_factor(step: int, steps: int, warmup_fraction: float) -> float:
    """Linear warm-up to 1, then half a cosine down to 0.1."""
    warmup = max(1, round(steps * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


def evaluation_steps(steps: int, count: int) -> set[int]:
    """About `count` steps, evenly spread on a logarithmic scale (as the picture is), the last one included."""
    first = max(1, steps // 40)
    return {round(first * (steps / first) ** (i / max(1, count - 1))) for i in range(count)} | {steps}


@torch.no_grad()
def validation_loss(module: nn.Module, windows: tuple[Tensor, Tensor], rank: int, world_size: int) -> float:
    """Mean cross-entropy over all windows; every rank evaluates its share and all return the same figure."""
    inputs, targets = (part[rank::world_size] for part in windows)
    total = torch.zeros(2, dtype=torch.float64)
    for some_inputs, some_targets in zip(inputs.split(64), targets.split(64), strict=True):
        total += torch.tensor([module(some_inputs, some_targets).item() * len(some_inputs), len(some_inputs)])
    dist.all_reduce(total)
    return float(total[0] / total[1])


def check_replicas(module: nn.Module) -> None:
    """Raise if the ranks no longer hold bit-identical weights."""
    digest = hashlib.sha256()
    for parameter in module.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    mine = torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    if any(not torch.equal(mine, other) for other in everyone):
        raise RuntimeError("the ranks' weights differ after training: the hook did not return the same mean everywhere")


def training_step(
    ddp: DistributedDataParallel, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], max_norm: float
) -> float:
    """Forward, backward (DDP averages the gradients here), clip, update. Returns this rank's training loss."""
    loss = ddp(*batch)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(ddp.parameters(), max_norm)
    optimizer.step()
    return loss.item()


def run_steps(
    ddp: DistributedDataParallel, corpus: Corpus, settings: Settings, meter: ByteMeter, result: MethodResult,
    progress: Progress,
) -> None:
    """The training loop: fills the bytes, step times and the curve of `result`."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    optimizer = make_optimizer(ddp.module, settings.optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, settings.steps, settings.optimizer.warmup_fraction)
    )
    stops = evaluation_steps(settings.steps, settings.evaluations)
    windows = validation_windows(corpus, settings.context, settings.curve_windows)
    meter.start()
    for step in range(1, settings.steps + 1):
        begin = time.perf_counter()
        batch = training_batch(corpus, settings.batch, settings.context, settings.seed, step, rank, world_size)
        result.training_loss = training_step(ddp, optimizer, batch, settings.optimizer.max_gradient_norm)
        schedule.step()
        result.step_seconds.append(time.perf_counter() - begin)
        progress(step, result.training_loss, meter.so_far(step))
        if step in stops:
            result.bytes_sent = meter.stop(step)
            loss = validation_loss(ddp.module, windows, rank, world_size)
            result.curve.append(CurvePoint(step, result.bytes_sent, loss))
            meter.start()


def train_method(settings: Settings, method: Method, progress: Progress) -> MethodResult:
    """Train one model with one method on this rank. Needs an initialized process group; same on every rank."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    corpus = read_corpus(settings.text)
    torch.manual_seed(settings.seed)
    module = CharGPT(corpus.vocabulary, settings.context, settings.width, settings.layers, settings.heads)
    ddp = wrap(module, method)
    hook = attach(ddp, method, settings.powersgd_rank, settings.seed)
    counted = byte_counter(module, method, hook, settings.powersgd_rank, world_size)
    meter = ByteMeter(counted, world_size)
    result = MethodResult(
        name=method.name, label=method.label, spec=None if hook is None else str(hook.stats()["spec"]),
        steps=settings.steps, world_size=world_size, parameters=sum(p.numel() for p in module.parameters()),
        bytes_measured=meter.measured,
    )
    run_steps(ddp, corpus, settings, meter, result, progress)
    result.bytes_counted = counted(settings.steps)
    check_replicas(module)
    windows = validation_windows(corpus, settings.context, settings.final_windows)
    result.validation_loss = validation_loss(module, windows, rank, world_size)
    if hook is not None:
        hook.close()
    return result
