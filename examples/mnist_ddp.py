"""Digits: a two-layer net on 8,000 images, data-parallel, with compressed gradients. Two processes on this machine (CPU, Gloo):

    torchrun --standalone --nproc-per-node=2 examples/mnist_ddp.py
    torchrun --standalone --nproc-per-node=2 examples/mnist_ddp.py --plain
    torchrun --standalone --nproc-per-node=2 examples/mnist_ddp.py --optimizer sgd --spec "ErrorFeedback(UniformStep(bits=0.5))"
    torchrun --standalone --nproc-per-node=2 examples/mnist_ddp.py --checkpoint mnist.pt        (again with more --steps: goes on)
"""

from __future__ import annotations

import gzip
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from training import Run, arguments, finish, start

FOLDER = Path(__file__).resolve().parents[1] / "data" / "mnist"
TRAINING = 8000  # of 10,000; the others are held out
BATCH = 64  # per rank
LEARNING_RATE = {"sgd": 0.05, "adam": 1e-3}


def read_digits() -> tuple[Tensor, Tensor]:
    """Images [10000, 784] in [0, 1] and labels [10000], shuffled alike everywhere: the file's second half is harder than its first."""
    with gzip.open(FOLDER / "t10k-images-idx3-ubyte.gz") as file:
        images = torch.frombuffer(bytearray(file.read()[16:]), dtype=torch.uint8).view(-1, 784)  # behind the header of IDX
    with gzip.open(FOLDER / "t10k-labels-idx1-ubyte.gz") as file:
        labels = torch.frombuffer(bytearray(file.read()[8:]), dtype=torch.uint8)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return images[order].float() / 255, labels[order].long()


@torch.no_grad()
def held_out(run: Run, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and accuracy on what was not trained on."""
    logits = run.ddp.module(images[TRAINING:])
    right = (logits.argmax(1) == labels[TRAINING:]).float().mean()
    return float(F.cross_entropy(logits, labels[TRAINING:])), float(right)


def main() -> None:
    args = arguments(__doc__ or "", steps=500)
    torch.set_num_threads(1)  # one core per process
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    images, labels = read_digits()
    torch.manual_seed(args.seed)
    run = start(nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)), args, LEARNING_RATE[args.optimizer])

    for step in range(run.done, args.steps):
        generator = torch.Generator().manual_seed((args.seed * 1_000_003 + step) * world_size + rank)  # every rank its own images
        chosen = torch.randint(TRAINING, (BATCH,), generator=generator)
        loss = F.cross_entropy(run.ddp(images[chosen]), labels[chosen])
        run.optimizer.zero_grad()
        loss.backward()  # the gradients are averaged here, compressed
        run.optimizer.step()
        run.done = step + 1
        if run.done % 100 == 0 and rank == 0:
            print(f"step {run.done}: training loss {loss.item():.4f}, held-out loss {held_out(run, images, labels)[0]:.4f}")

    if rank == 0:
        loss_there, accuracy = held_out(run, images, labels)
        print(f"held-out loss {loss_there:.4f}, accuracy {accuracy:.4f} after {run.done} steps")
    finish(run, args)


if __name__ == "__main__":
    main()
