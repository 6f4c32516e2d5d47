"""Small models, their data, their true gradients, and the documented averaging in plain torch. Helpers; no tests here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist  # noqa: F401  # for the programs of run_scripts
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP

from torch_smoothquant import reference

FOUR = "ErrorFeedback(Quantizer(bits=4))"  # the first level of the default policy, here without one
TINY = 1e-6  # bucket_cap_mb that gives every parameter a bucket of its own, once DDP has rebuilt them


def make_model(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Two weights that are compressed (2560 and 4096 elements), one that is exempt by size (512), three biases."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).to(dtype)


def batch(rank: int, step: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randn(12, 40, generator=generator).to(dtype), torch.randn(12, 8, generator=generator).to(dtype)


def loss_of(model: nn.Module, rank: int, step: int) -> Tensor:
    x, y = batch(rank, step, next(model.parameters()).dtype)
    return (model(x) - y).square().mean()


def train(ddp: nn.Module, optimizer: torch.optim.Optimizer | None, rank: int, steps: Iterable[int],
          each: Callable[[int], Any] | None = None, set_to_none: bool = True) -> list[Any]:
    """One backward per step; returns what `each(step)`, called before the optimizer, returned."""
    seen = []
    for step in steps:
        ddp.zero_grad(set_to_none=set_to_none)
        loss_of(ddp, rank, step).backward()
        seen.append(each(step) if each else None)
        if optimizer:
            optimizer.step()
    return seen


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().double() for p in model.parameters()])


def grads(model: nn.Module) -> dict[str, Tensor | None]:
    return {n: None if p.grad is None else p.grad.clone() for n, p in inner(model).named_parameters()}


def inner(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DDP) else model


def local_grads(model: nn.Module, rank: int, step: int, loss: Callable[..., Tensor] = loss_of) -> dict[str, Tensor]:
    """Rank `rank`'s own gradients at the model's weights, without touching DDP or .grad. Zeros for what was not used."""
    names, parameters = zip(*inner(model).named_parameters(), strict=True)
    values = torch.autograd.grad(loss(inner(model), rank, step), parameters, allow_unused=True)
    return {n: torch.zeros_like(p) if v is None else v.detach() for n, p, v in zip(names, parameters, values, strict=True)}


def no_sync_unless(ddp: DDP, last: bool) -> Any:
    return nullcontext() if last else ddp.no_sync()


def worker_residuals(state_dict: dict[str, Any]) -> dict[str, Tensor]:
    return {n: e["worker.residual"]["values"] for n, e in state_dict["parameters"].items() if "worker.residual" in e}


def owner_residuals(state_dicts: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Put together from the parts that the ranks own; checks that the parts tile the parameter."""
    out: dict[str, Tensor] = {}
    for name, residual in worker_residuals(state_dicts[0]).items():
        parts = [s["parameters"][name]["owner.residual"] for s in state_dicts if "owner.residual" in s["parameters"][name]]
        whole, count = torch.zeros_like(residual), torch.zeros_like(residual)
        for part in parts:
            begin, values = part["begin"], part["values"]
            whole[begin : begin + values.numel()] = values
            count[begin : begin + values.numel()] += 1
        assert bool((count == 1).all()), name
        out[name] = whole
    return out


class Oracle:
    """What every rank must get, from all ranks' gradients: error feedback around Quantizer(bits, 256, levels), fp32, both ways if
    sharded; written from docs/ and reference."""

    def __init__(self, model: nn.Module, world: int, exchange: str, bits: int = 4, levels: str = "fit", feedback: bool = True,
                 seed: int = 0) -> None:
        self.world, self.sharded, self.seed = world, exchange == "sharded", seed
        self.bits, self.levels, self.feedback = bits, levels, feedback
        self.step = 0
        shapes = [(n, p.ndim > 1 and p.numel() >= 2048, p.numel()) for n, p in inner(model).named_parameters()]
        self.compressed = {n: i for i, (n, big, _) in enumerate(shapes) if big}
        self.worker = {n: [torch.zeros(size) for _ in range(world)] for n, big, size in shapes if big}
        self.owner = {n: torch.zeros(size) for n, big, size in shapes if big}

    def average(self, by_rank: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        out = {}
        for name, like in by_rank[0].items():
            given = [g[name].flatten() for g in by_rank]
            if name in self.compressed:
                sent = [self._send(name, self.worker[name][r], x, r, False) for r, x in enumerate(given)]
                mean = self._mean(sent)
                if self.sharded:
                    mean = self._average_shards(name, mean)
            else:
                mean = self._mean(given)
            out[name] = mean.view(like.shape)
        self.step += 1
        return out

    def _mean(self, values: list[Tensor]) -> Tensor:
        total = torch.zeros_like(values[0])
        for value in values:
            total = total + value
        return (total.double() / self.world).float()  # one rounding

    def _send(self, name: str, residual: Tensor, x: Tensor, rank: int, averaged: bool, offset: int = 0) -> Tensor:
        p = residual + x if self.feedback else x
        payload = reference.quantizer.quantize(p, self.bits, 256, self.levels, None, self.seed, self.step, rank, self.compressed[name], averaged,
                                     offset=offset)
        sent = reference.quantizer.dequantize(payload, p.numel(), self.bits, 256, self.levels)
        if self.feedback:
            residual.copy_(p - sent)
        return sent

    def _average_shards(self, name: str, mean: Tensor) -> Tensor:
        out, number, granules = torch.empty_like(mean), self.compressed[name], -(-mean.numel() // 256)
        for rank in range(self.world):  # csrc/hook/sharding.h
            turn = (rank - number) % self.world
            begin, end = (min(mean.numel(), granules * i // self.world * 256) for i in (turn, turn + 1))
            if begin < end:
                out[begin:end] = self._send(name, self.owner[name][begin:end], mean[begin:end], rank, True, begin)
        return out
