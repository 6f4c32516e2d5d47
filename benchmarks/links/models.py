"""Models, batches and losses of the link benchmark. The data make the loss fall, so that a broken mean shows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.demo.data import read_corpus, training_batch, validation_windows
from examples.demo.model import CharGPT

from .settings import Settings

TEXT = Path(__file__).resolve().parents[2] / "data" / "tinyshakespeare.txt"
DISTINCT_BATCHES = 8  # of the models with random data
LAYERS = (784, 2048, 2048, 256)  # of the MLP: 6.3 M parameters
CONTEXT, WIDTH, BLOCKS, HEADS = 64, 256, 8, 4  # of the GPT: 6.3 M parameters
CHANNELS, PIXELS, CLASSES = (3, 32, 64, 64, 128, 128, 256), 16, 10  # of the conv net: 0.6 M parameters


@dataclass(frozen=True)
class Task:
    """`make()` gives a fresh model, the same on every rank and call; `loss(model, step)` of this rank's batch of that step;
    `held_out(model)` of data that no rank trains on; `optimizer(model)`."""

    make: Callable[[], nn.Module]
    loss: Callable[[nn.Module, int], Tensor]
    held_out: Callable[[nn.Module], float]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]


def make_task(settings: Settings, rank: int) -> Task:
    return {"mlp": _mlp, "gpt": _gpt, "conv": _conv}[settings.model](settings, rank)


def _seeded(settings: Settings, build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        torch.manual_seed(settings.seed)
        return build()

    return make


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def _from_teacher(settings: Settings, rank: int, build: Callable[[], nn.Module], shape: tuple[int, ...], classes: int) -> Task:
    """Random inputs, labelled by a random linear teacher."""
    inputs = torch.Size(shape).numel()
    teacher = torch.randn(inputs, classes, generator=torch.Generator().manual_seed(settings.seed))

    def batches(number: int, seed: int) -> list[tuple[Tensor, Tensor]]:
        own = torch.Generator().manual_seed(seed)
        drawn = [torch.randn(settings.batch_size, inputs, generator=own) for _ in range(number)]
        return [(x.view(-1, *shape), (x @ teacher).argmax(dim=1)) for x in drawn]

    training, (held,) = batches(DISTINCT_BATCHES, settings.seed + 1 + rank), batches(1, settings.seed + 1000)

    def loss(model: nn.Module, step: int) -> Tensor:
        x, y = training[step % DISTINCT_BATCHES]
        return F.cross_entropy(model(x), y)

    return Task(_seeded(settings, build), loss, lambda model: float(F.cross_entropy(model(held[0]), held[1])), _sgd)


def _mlp(settings: Settings, rank: int) -> Task:
    def build() -> nn.Module:
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(LAYERS):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    return _from_teacher(settings, rank, build, (LAYERS[0],), LAYERS[-1])


def _conv(settings: Settings, rank: int) -> Task:
    def build() -> nn.Module:
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(itertools.pairwise(CHANNELS)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=1 + i % 2, padding=1), nn.GroupNorm(8, outputs), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS[-1], CLASSES))

    return _from_teacher(settings, rank, build, (CHANNELS[0], PIXELS, PIXELS), CLASSES)


def _gpt(settings: Settings, rank: int) -> Task:
    corpus = read_corpus(TEXT)
    held = validation_windows(corpus, CONTEXT, limit=64)

    def loss(model: nn.Module, step: int) -> Tensor:
        return model(*training_batch(corpus, settings.batch_size, CONTEXT, settings.seed, step, rank, settings.world))

    def adam(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=1e-3)

    return Task(_seeded(settings, lambda: CharGPT(corpus.vocabulary, CONTEXT, WIDTH, BLOCKS, HEADS)), loss,
                lambda model: float(model(*held)), adam)
