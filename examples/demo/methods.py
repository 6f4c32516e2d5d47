"""How each method is put onto a DDP model, and what it should send according to arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from .settings import Method

POWERSGD_START = 2  # the first step at which torch's PowerSGD may compress: earlier the buckets are still rebuilt


class Hook(Protocol):
    """The part of torch_smoothquant's hook that the demo uses."""

    def stats(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


def wrap(module: nn.Module, method: Method) -> DistributedDataParallel:
    """Wrap for `method`. PowerSGD gets a single bucket.

    Its second and third all-reduce of a bucket start in callbacks on Gloo's threads; with two buckets in flight the
    ranks may start them in different orders, which Gloo does not forgive.
    """
    if method.kind == "powersgd":
        return DistributedDataParallel(module, bucket_cap_mb=1024)
    return DistributedDataParallel(module)


def attach(ddp: DistributedDataParallel, method: Method, powersgd_rank: int, seed: int) -> Hook | None:
    """Attach the method's communication hook; returns it if it is one of ours."""
    if method.kind == "plain":
        return None
    if method.kind == "fp16":
        ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)
        return None
    if method.kind == "powersgd":
        state = powerSGD_hook.PowerSGDState(
            None, matrix_approximation_rank=powersgd_rank, start_powerSGD_iter=POWERSGD_START, random_seed=seed
        )
        ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        return None
    if method.kind == "ours":
        import torch_smoothquant as tsq  # late: the other methods run without it

        return tsq.attach(ddp, method.spec, overrides=dict(method.overrides), seed=seed)
    raise ValueError(f"unknown kind of method: {method.kind!r}")


def byte_counter(
    module: nn.Module, method: Method, hook: Hook | None, powersgd_rank: int, world_size: int
) -> Callable[[int], float]:
    """A function from the number of steps taken to the bytes one rank should have sent, without packet headers."""
    if hook is not None:
        return lambda _steps: float(hook.stats()["wire_bytes"])
    ring = 2 * (world_size - 1) / world_size  # of a ring all-reduce, per byte reduced
    dense = ring * 4 * sum(parameter.numel() for parameter in module.parameters())
    if method.kind == "fp16":
        return lambda steps: steps * dense / 2
    if method.kind == "powersgd":
        low_rank = ring * 4 * sum(_powersgd_elements(parameter, powersgd_rank) for parameter in module.parameters())
        return lambda steps: min(steps, POWERSGD_START) * dense + max(steps - POWERSGD_START, 0) * low_rank
    return lambda steps: steps * dense


def _powersgd_elements(parameter: nn.Parameter, rank: int, min_compression_rate: int = 2) -> int:
    """Elements that PowerSGD reduces for one parameter: two thin factors if that halves it, else all of it."""
    rows = parameter.shape[0]
    columns = parameter.numel() // rows
    factors = (rows + columns) * min(rows, columns, rank)
    return factors if factors * min_compression_rate < rows * columns else parameter.numel()
