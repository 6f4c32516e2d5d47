"""The encoders of the codecs from 2 on, as reference.py: plain torch, from docs/wire_format.md alone.

Their messages are read by `reference.decode`. A payload is a uint8 tensor, all zero if the section is to be marked non-finite.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import reference as r


def encode(x: Tensor, codec: str, block: int = 256, seed: int = 0, step: int = 0, rank: int = 0) -> Tensor:
    """A worker's whole message with one section, parameter id 0: 1-D uint8 tensor.

    Args:
        x: any shape, one of `reference.DTYPES`, taken in row-major order.
        codec: one of ENCODERS, the name of a class in spec.py.
        block: a power of two from 32 to 4096, where the codec has blocks; else not looked at.
        seed, step, rank: the key of the dither, where the codec has one.
    Raises:
        ValueError: the block is illegal.
    """
    number, bits, encoder = ENCODERS[codec]
    payload, finite = encoder(x.detach().cpu().flatten().to(torch.float32), block, seed, step, rank)
    flags = 0 if finite else r.NON_FINITE
    section = r.Section(number, flags, bits, 0, block if bits else 0, x.numel(), payload.numel(), payload)
    return r.build_message([section], x.dtype, rank=rank, step=step)


def _sign(x: Tensor, block: int, *_: int) -> tuple[Tensor, bool]:
    """Payload of codec 2 for x, fp32 and 1-D; and whether all is finite."""
    r._check_quantizer(1, block, "unbiased")
    if not bool(x.isfinite().all()):
        return torch.zeros(r.payload_bytes(x.numel(), 1, block), dtype=torch.uint8), False
    numel, own, x = x.numel(), r._to_blocks(torch.ones_like(x), block), r._to_blocks(x, block)  # own: 0 where padding
    norm = x.abs().amax(1, keepdim=True)
    empty = norm.view(torch.int32) < r._TINY_BITS
    factor = torch.where(norm >= 2.0**96, 2.0**-16, 1.0).to(torch.float32)
    mean = r._lane_sum(x.abs() * factor) / own.sum(1, keepdim=True).clamp(min=1)
    scales = (mean * (1 / factor)).clamp(max=r._MAX).masked_fill(empty, 0)  # 1 / factor: a power of two, exact
    codes = (x >= 0).to(torch.int64).masked_fill(empty | (own == 0), 0)
    return r._pack(codes.flatten(), scales.flatten(), numel, 1, block), True


def _ternary(x: Tensor, block: int, seed: int, step: int, rank: int) -> tuple[Tensor, bool]:
    """Payload of codec 3, which is that of the unbiased two-bit quantizer; and whether all is finite."""
    return r.quantize(x, 2, block, "unbiased", None, seed, step, rank), bool(x.isfinite().all())


def _natural(x: Tensor, _: int, seed: int, step: int, rank: int) -> tuple[Tensor, bool]:
    """Payload of codec 4; and whether all magnitudes are below 2^127."""
    numel, tiles = x.numel(), -(-x.numel() // 256)
    magnitude = x.view(torch.int32).to(torch.int64) & r._ABS_BITS
    if bool((magnitude >= 0x7F000000).any()):
        return torch.zeros(numel + 32 * tiles, dtype=torch.uint8), False
    dither = ((r._dither(numel, 0, r.philox_key(seed, step, rank, False, 0)) + 0.5) * 2**23).to(torch.int64)  # exact
    codes = ((magnitude + dither) >> 23).masked_fill(magnitude < 0x00800000, 0)
    signs = torch.cat(((x.signbit() & (codes > 0)).to(torch.int64), torch.zeros(-numel % 256, dtype=torch.int64)))
    words = (signs.view(-1, 8, 32) << torch.arange(8).view(8, 1)).sum(1)
    parts = [torch.empty(0, dtype=torch.int64)]
    for code, word in zip(codes.split(256) if numel else (), words, strict=True):
        parts += [code, word]
    return torch.cat(parts).to(torch.uint8), True


# the class's name in spec.py: the section's codec and bits, the encoder
ENCODERS: dict[str, tuple[int, int, Callable[..., tuple[Tensor, bool]]]] = {
    "Sign": (r.SIGN, 1, _sign),
    "Ternary": (r.TERNARY, 2, _ternary),
    "Natural": (r.NATURAL, 0, _natural),
}
