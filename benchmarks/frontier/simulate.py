"""One run: four workers in one process, each with a Sender per parameter, as the hook has them."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import torch_smoothquant as tsq
from examples.demo.data import Corpus, read_corpus, training_batch, validation_windows
from examples.demo.model import CharGPT
from examples.demo.settings import OPTIMIZERS, OptimizerSettings, Settings
from examples.demo.train import learning_rate_factor, make_optimizer
from torch_smoothquant.assignment import default_exempt

WORLD_SIZE = 4
SETTINGS = Settings(steps=200, batch=4, context=64, width=64, layers=2)


@dataclass
class Outcome:
    """Of one run. Bits are per element of the parameters that are compressed and per step; up: of one worker."""

    loss: float = float("nan")
    bits_up: float = 0.0
    bits_down: float | None = None
    seconds: float = 0.0
    error: str | None = None


class Wire:
    """Both ends of one parameter: W senders and what averages; if `down` is given, the average is sent on by it."""

    def __init__(self, up: tsq.Spec, down: tsq.Spec | None, numel: int, seed: int) -> None:
        self.senders = [tsq.Sender(up, numel, rank=rank, world_size=WORLD_SIZE, seed=seed) for rank in range(WORLD_SIZE)]
        self.receiver = tsq.Receiver(up, numel, world_size=WORLD_SIZE, seed=seed)
        self.down = None if down is None else (tsq.Sender(down, numel, seed=seed + 1), tsq.Receiver(down, numel, seed=seed + 1))
        self.bytes_up = self.bytes_down = 0

    def average(self, gradients: list[Tensor]) -> Tensor:
        messages = [sender.send(gradient.flatten()) for sender, gradient in zip(self.senders, gradients, strict=True)]
        self.bytes_up += sum(message.numel() for message in messages)
        mean = self.receiver.receive(messages)
        if self.down is not None:
            message = self.down[0].send(mean)
            self.bytes_down += message.numel()
            mean = self.down[1].receive([message])
        return mean.view_as(gradients[0])


def optimizer_settings(name: str, spec: str) -> OptimizerSettings:
    """The demo's; without a momentum of its own where the mechanism has it (twice costs 0.95 nats here, uncompressed)."""
    settings = OPTIMIZERS[name]
    if "momentum=" not in spec:
        return settings
    if name == "adam":
        return dataclasses.replace(settings, betas=(0.0, 0.999))
    # 3: about as good as 10 with a tenth of the clipping; 10 with the demo's diverges
    return dataclasses.replace(settings, momentum=0.0, learning_rate=3 * settings.learning_rate)


def wires(module: nn.Module, spec: str, seed: int) -> list[Wire | None]:
    """One per parameter; None where the hook would leave it uncompressed."""
    parsed = tsq.parse(spec)
    up, down = (parsed.up, parsed.down) if isinstance(parsed, tsq.Bidirectional) else (parsed, None)
    return [None if default_exempt(name, p) else Wire(up, down, p.numel(), 1000 * seed + 2 * i)
            for i, (name, p) in enumerate(module.named_parameters())]


@torch.no_grad()
def validation_loss(module: nn.Module, windows: tuple[Tensor, Tensor]) -> float:
    """Mean cross-entropy over the windows, in nats per character."""
    total = sum(module(x, y).item() * len(x) for x, y in zip(windows[0].split(128), windows[1].split(128), strict=True))
    return total / len(windows[0])


def train(module: nn.Module, corpus: Corpus, links: list[Wire | None], chosen: OptimizerSettings, settings: Settings) -> None:
    """The demo's loop, schedule and clipping; what DDP averages is averaged by `links`."""
    parameters = list(module.parameters())
    optimizer = make_optimizer(module, chosen)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, settings.steps, chosen.warmup_fraction))
    for step in range(1, settings.steps + 1):
        batches = (training_batch(corpus, settings.batch, settings.context, settings.seed, step, rank, WORLD_SIZE)
                   for rank in range(WORLD_SIZE))
        workers = [torch.autograd.grad(module(*batch), parameters) for batch in batches]
        for parameter, link, gradients in zip(parameters, links, zip(*workers, strict=True), strict=True):
            parameter.grad = torch.stack(gradients).mean(0) if link is None else link.average(list(gradients))
        norm = nn.utils.clip_grad_norm_(parameters, chosen.max_gradient_norm)
        if not torch.isfinite(norm):
            return  # diverged: the loss will say so
        optimizer.step()
        schedule.step()


def run(optimizer: str, spec: str, seed: int, settings: Settings = SETTINGS) -> Outcome:
    """Train and evaluate. An illegal spec comes back with its error as the outcome."""
    begin = time.perf_counter()
    settings = dataclasses.replace(settings, seed=seed)
    corpus = read_corpus(settings.text)
    torch.manual_seed(seed)
    module = CharGPT(corpus.vocabulary, settings.context, settings.width, settings.layers, settings.heads)
    try:
        links = wires(module, spec, seed)
    except tsq.SpecError as error:
        return Outcome(error=str(error).splitlines()[0])
    train(module, corpus, links, optimizer_settings(optimizer, spec), settings)
    used = [link for link in links if link is not None]
    elements = settings.steps * sum(link.receiver.numel for link in used)
    return Outcome(
        loss=validation_loss(module, validation_windows(corpus, settings.context, settings.final_windows)),
        bits_up=8 * sum(link.bytes_up for link in used) / WORLD_SIZE / elements,
        bits_down=8 * sum(link.bytes_down for link in used) / elements if used[0].down is not None else None,
        seconds=time.perf_counter() - begin)
