"""One rank of one run: the demo's model and loop over Gloo, with the hook as a user attaches it."""

from __future__ import annotations

import dataclasses
import datetime
import gc
import time
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import torch_smoothquant as tsq
from examples.demo.data import read_corpus, training_batch, validation_windows
from examples.demo.model import CharGPT
from examples.demo.settings import OPTIMIZERS, Settings
from examples.demo.train import check_replicas, learning_rate_factor, make_optimizer, training_step, validation_loss
from torch_smoothquant.assignment import default_exempt

WORLD_SIZE = 4
SETTINGS = Settings(steps=200, batch=4, context=64, width=64, layers=2)


class Case(NamedTuple):
    optimizer: str
    seed: int
    spec: str | None  # None: plain DDP
    smoothness: tsq.Running | None = None


class Outcome(NamedTuple):
    loss: float
    bits: float  # sent by a rank per element and step, headers and uncompressed parameters included
    payload_bits: float  # of compressed parameters alone, per element of theirs and step, without headers
    widths: dict[str, float]  # the last plan
    seconds: float


def run(case: Case, rank: int) -> Outcome:
    begin = time.perf_counter()
    settings, chosen = dataclasses.replace(SETTINGS, seed=case.seed), OPTIMIZERS[case.optimizer]
    corpus = read_corpus(settings.text)
    torch.manual_seed(settings.seed)
    ddp = DistributedDataParallel(CharGPT(corpus.vocabulary, settings.context, settings.width, settings.layers, settings.heads))
    hook = None if case.spec is None else tsq.attach(ddp, case.spec, smoothness=case.smoothness)
    optimizer = make_optimizer(ddp.module, chosen)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, settings.steps, chosen.warmup_fraction))
    for step in range(1, settings.steps + 1):
        batch = training_batch(corpus, settings.batch, settings.context, settings.seed, step, rank, WORLD_SIZE)
        training_step(ddp, optimizer, batch, chosen.max_gradient_norm)
        schedule.step()
    check_replicas(ddp.module)
    windows = validation_windows(corpus, settings.context, settings.final_windows)
    loss = validation_loss(ddp.module, windows, rank, WORLD_SIZE)
    bits, payload_bits, widths = 32.0, 32.0, {}
    if hook is not None:
        elements = settings.steps * sum(p.numel() for p in ddp.parameters())
        bits = 8 * hook.stats()["wire_bytes"] / (WORLD_SIZE - 1) / elements
        compressed = {name: p.numel() for name, p in ddp.module.named_parameters() if not default_exempt(name, p)}
        watched = hook.stats_by_parameter()
        payload_bits = 8 * sum(watched[name]["up_bytes"] for name in compressed) / settings.steps / sum(compressed.values())
        widths = {name: entry["bits"] for name, entry in watched.items() if entry["bits"]}
        hook.close()
    return Outcome(loss, bits, payload_bits, widths, time.perf_counter() - begin)


def rank_main(rank: int, store: str, cases: list[Case], results: object) -> None:
    """Body of a process; rank 0 puts an Outcome for every case into `results`, a queue."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, WORLD_SIZE), rank=rank, world_size=WORLD_SIZE,
                            timeout=datetime.timedelta(seconds=600))
    for case in cases:
        outcome = run(case, rank)
        gc.collect()  # DDP sits in reference cycles
        if rank == 0:
            results.put(outcome)  # type: ignore[attr-defined]
    dist.barrier()
    dist.destroy_process_group()
