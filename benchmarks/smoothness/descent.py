"""Gradient descent on what a mechanism's receiver estimates, with the bits of its messages in the papers' accounting and in ours."""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch

import torch_smoothquant as tsq

from .problem import Workers
from .separable import Separable

PACKED = 0x80000000


@dataclass
class Run:
    """Sums over workers and rounds until |x - x*|^2 / |x0 - x*|^2 was at most the target, or until the end."""
    rounds: int
    code_bits: int  # the paper's: 32 for each norm and Elias's code, or 32 + ceil(log2 d) for each entry of a sparse vector
    bytes: int  # whole messages: header, table, payload
    payload_bytes: int
    error: float  # |x - x*|^2 / |x0 - x*|^2 at the end
    reached: bool


def code_bits(message: torch.Tensor) -> int:
    """The paper's count of one message of one section."""
    raw = message.numpy().tobytes()
    codec, _, _, variant, block, numel, length = struct.unpack_from("<4BIQQ", raw, 32)
    payload = raw[56:]
    if codec == 9:
        at = 4 * (-(-numel // block) if block else 1)
        norms = at // 4
    elif codec == 13:
        norms = min(block, numel)
        size = (2 if variant else 4) * norms
        if payload[size] == 0:
            return 32 * norms
        at = size + 1
    elif codec == 6:
        return int(tsq.decode(message).count_nonzero()) * (32 + max(1, (numel - 1).bit_length()))
    else:
        return 8 * length
    head = struct.unpack_from("<I", payload, at)[0]
    return 32 * norms + (8 * (length - at - 4) if head & PACKED else head)


def descend(problem: Workers | Separable, spec: tsq.Mechanism, smoothness: list[tsq.Smoothness] | None, step: float, target: float,
            most_rounds: int, most_bits: float = float("inf"), seed: int = 0, tail: int = 1) -> Run:
    """x = x - step * estimate from 0, in float64; stops at the target, or beyond most_rounds or most_bits (the paper's). The error that
    is returned is the mean of the last `tail` rounds."""
    n, d = problem.n, problem.d
    senders = [tsq.Sender(spec, d, rank, n, torch.float64, seed, smoothness[rank] if smoothness else None) for rank in range(n)]
    receiver = tsq.Receiver(spec, d, n, torch.float64, seed, smoothness)
    x, rounds, bits, sent, payload = np.zeros(d), 0, 0, 0, 0
    first, errors = float(np.sum(problem.solution**2)), deque(maxlen=tail)
    for _ in range(most_rounds):
        rounds += 1
        messages = [s.send(torch.from_numpy(g)) for s, g in zip(senders, problem.gradients(x), strict=True)]
        bits += sum(map(code_bits, messages))
        sent += sum(len(m) for m in messages)
        payload += sum(len(m) - 56 for m in messages)
        x = x - step * receiver.receive(messages).numpy()
        errors.append(float(np.sum((x - problem.solution) ** 2)) / first)
        if errors[-1] <= target or bits > most_bits or not np.isfinite(errors[-1]):
            break
    return Run(rounds, bits, sent, payload, float(np.mean(errors)), errors[-1] <= target)
