"""A small GPT on tiny shakespeare, data-parallel, with compressed gradients. Two processes on this machine (CPU, Gloo):

    torchrun --standalone --nproc-per-node=2 examples/charlm_ddp.py
    torchrun --standalone --nproc-per-node=2 examples/charlm_ddp.py --plain
    torchrun --standalone --nproc-per-node=2 examples/charlm_ddp.py --spec "EF21(UniformStep(bits=2.0), momentum=0.1)"
    torchrun --standalone --nproc-per-node=2 examples/charlm_ddp.py --optimizer sgd \
        --spec "ErrorFeedback(UniformStep(bits=1.0))" --down "ErrorFeedback(UniformStep(bits=1.0))" --checkpoint charlm.pt
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from demo.data import Corpus, read_corpus, training_batch, validation_windows
from demo.model import CharGPT
from demo.train import learning_rate_factor
from torch import nn
from training import Run, arguments, finish, start

TEXT = Path(__file__).resolve().parents[1] / "data" / "tinyshakespeare.txt"
BATCH, CONTEXT = 16, 64  # sequences per rank, characters per sequence
LEARNING_RATE = {"sgd": 1.0, "adam": 4e-3}  # at the peak of the schedule
LARGEST_NORM = {"sgd": 0.3, "adam": 1.0}  # of the averaged gradient; compressed ones are longer: docs/tuning.md


@torch.no_grad()
def held_out_loss(run: Run, corpus: Corpus) -> float:
    """Nats per character over 192 windows of text that was not trained on. Every rank has the same weights: no communication."""
    inputs, targets = validation_windows(corpus, CONTEXT, limit=192)
    return float(run.ddp.module(inputs, targets))


def main() -> None:
    args = arguments(__doc__ or "", steps=400)
    torch.set_num_threads(1)  # one core per process
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    corpus = read_corpus(TEXT)
    torch.manual_seed(args.seed)
    module = CharGPT(corpus.vocabulary, CONTEXT, width=96, layers=3, heads=4)
    run = start(module, args, LEARNING_RATE[args.optimizer])

    for step in range(run.done, args.steps):
        for group in run.optimizer.param_groups:  # a function of the step alone: nothing of it goes into the checkpoint
            group["lr"] = LEARNING_RATE[args.optimizer] * learning_rate_factor(step, args.steps, warmup_fraction=0.1)
        batch = training_batch(corpus, BATCH, CONTEXT, args.seed, step, rank, world_size)
        loss = run.ddp(*batch)
        run.optimizer.zero_grad()
        loss.backward()  # the gradients are averaged here, compressed
        nn.utils.clip_grad_norm_(run.ddp.parameters(), LARGEST_NORM[args.optimizer])
        run.optimizer.step()
        run.done = step + 1
        if run.done % 100 == 0 and rank == 0:
            print(f"step {run.done}: training loss {loss.item():.4f}, held-out loss {held_out_loss(run, corpus):.4f}")

    if rank == 0:
        print(f"held-out loss {held_out_loss(run, corpus):.4f} after {run.done} steps")
    finish(run, args)


if __name__ == "__main__":
    main()
