"""The methods: each with a model, an optimizer and a hook of its own."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from .models import Task
from .settings import CAT_SPEC, METRICS, POWERSGD, SPECS, Measurement, Settings, split


@dataclass
class Contender:
    """`hook`: ours only. A step is `take_step`."""

    ddp: DistributedDataParallel
    optimizer: torch.optim.Optimizer
    hook: Any
    measurement: Measurement
    task: Task
    steps_taken: int = 0
    bytes_sent: int = 0

    @property
    def adapts(self) -> bool:
        return self.hook is not None and "buckets" in self.hook.stats()["policy"]

    def take_step(self) -> float:
        """One training step; returns the loss."""
        loss = self.task.loss(self.ddp, self.steps_taken)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps_taken += 1
        return loss.item()


def make_contender(method: str, settings: Settings, task: Task) -> Contender:
    """The same initial weights for every method. PowerSGD gets one bucket: see examples/demo/methods.py."""
    written, (method, cap) = method, split(method)
    ddp = DistributedDataParallel(task.make(), bucket_cap_mb=1024 if method in POWERSGD else cap or settings.bucket_cap_mb)
    hook = None
    if method == "fp16":
        ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif method in POWERSGD:
        state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=POWERSGD[method], start_powerSGD_iter=settings.powersgd_start)
        ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    elif method != "plain":
        hook = attach(ddp, method, settings.seed)
    measurement = Measurement(written, spec=None if hook is None else described(hook.stats()))
    return Contender(ddp, task.optimizer(ddp), hook, measurement, task)


def described(stats: dict[str, Any]) -> str:
    return str(stats["spec"] if stats["policy"]["name"] == "Fixed" else stats["policy"]["spec"])


def attach(ddp: DistributedDataParallel, method: str, seed: int) -> Any:
    import torch_smoothquant as tsq  # late: the other methods run without it

    if method == "cat":
        return tsq.attach(ddp, CAT_SPEC, policy=tsq.CAT(tsq.MeasuredCost()), seed=seed)
    if method == "kronecker":
        return tsq.attach(ddp, SPECS["one_bit"], smoothness=tsq.Running("kronecker"), seed=seed)
    if method not in METRICS:
        return tsq.attach(ddp, SPECS.get(method, method), seed=seed)
    if (metric := METRICS[method]) is None:
        return tsq.attach(ddp, seed=seed)
    return tsq.attach(ddp, policy=tsq.NeverSlower(metric=metric), seed=seed)


def in_this_build(method: str) -> bool:
    """False for methods whose names the installed torch_smoothquant lacks."""
    needs = {"cat": "CAT", "kronecker": "Running"}.get(split(method)[0])
    if needs is None:
        return True
    import torch_smoothquant as tsq

    return hasattr(tsq, needs)


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
