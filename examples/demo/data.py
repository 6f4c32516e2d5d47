"""The text as token ids: 90 % for training, 10 % for validation, and batches that depend only on (seed, step, rank)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class Corpus:
    """1-D int64 token ids of both splits."""

    train: Tensor
    validation: Tensor
    vocabulary: int


def read_corpus(path: Path) -> Corpus:
    """Read a text file; every distinct byte becomes a token."""
    raw = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    alphabet, tokens = raw.unique(return_inverse=True)
    split = tokens.numel() * 9 // 10
    return Corpus(tokens[:split], tokens[split:], alphabet.numel())


def training_batch(
    corpus: Corpus, batch: int, context: int, seed: int, step: int, rank: int, world_size: int
) -> tuple[Tensor, Tensor]:
    """Inputs and targets [batch, context] at random places; the same for the same seed, step and rank."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) * world_size + rank)
    starts = torch.randint(corpus.train.numel() - context - 1, (batch, 1), generator=generator)
    places = starts + torch.arange(context)
    return corpus.train[places], corpus.train[places + 1]


def validation_windows(corpus: Corpus, context: int, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Inputs and targets [windows, context]: the validation split cut end to end, or `limit` windows spread over it."""
    count = (corpus.validation.numel() - 1) // context
    inputs = corpus.validation[: count * context].view(count, context)
    targets = corpus.validation[1 : count * context + 1].view(count, context)
    if limit is None or limit >= count:
        return inputs, targets
    chosen = torch.linspace(0, count - 1, limit).long()
    return inputs[chosen], targets[chosen]
