"""The encoders of the codecs from 2 on, as reference.py: plain torch, from docs/wire_format.md alone.

Their messages are read by `reference.decode`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference as r

# name of the class in spec.py: number and bits of its codec
ENCODERS = {"Sign": (r.SIGN, 1)}


def encode(x: Tensor, codec: str, block: int = 256, seed: int = 0, step: int = 0, rank: int = 0) -> Tensor:
    """A worker's whole message with one section of `codec` (one of ENCODERS), parameter id 0: 1-D uint8 tensor."""
    number, bits = ENCODERS[codec]
    payload = sign(x, block)
    return message(x, payload, number, bits, block, step, rank)


def message(x: Tensor, payload: Tensor, codec: int, bits: int, block: int, step: int = 0, rank: int = 0) -> Tensor:
    """A worker's whole message with one section, parameter id 0, of a payload that one of the encoders made of x."""
    flags = 0 if is_finite(x, codec) else r.NON_FINITE
    section = r.Section(codec, flags, bits, 0, block, x.numel(), payload.numel(), payload)
    return r.build_message([section], x.dtype, rank=rank, step=step)


def is_finite(x: Tensor, codec: int) -> bool:
    """Whether the section is not to be marked."""
    return bool(x.to(torch.float32).isfinite().all())


def sign(x: Tensor, block: int = 256) -> Tensor:
    """Payload of codec 2: uint8 tensor; all zero if an element is not finite in fp32. ValueError for an illegal block."""
    r._check_quantizer(1, block, "unbiased")
    x = x.detach().cpu().flatten().to(torch.float32)
    numel = x.numel()
    if not is_finite(x, r.SIGN):
        return torch.zeros(r.payload_bytes(numel, 1, block), dtype=torch.uint8)
    own = r._to_blocks(torch.ones_like(x), block)  # 1: an element, 0: padding
    x = r._to_blocks(x, block)
    norm = x.abs().amax(1, keepdim=True)
    empty = norm.view(torch.int32) < r._TINY_BITS
    factor = torch.where(norm >= 2.0**96, 2.0**-16, 1.0).to(torch.float32)
    mean = r._lane_sum(x.abs() * factor) / own.sum(1, keepdim=True).clamp(min=1)
    scales = (mean * (1 / factor)).clamp(max=r._MAX).masked_fill(empty, 0)  # 1 / factor: a power of two, exact
    codes = (x >= 0).to(torch.int64).masked_fill(empty | (own == 0), 0)
    return r._pack(codes.flatten(), scales.flatten(), numel, 1, block)
