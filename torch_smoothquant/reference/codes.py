"""Codecs 2 (sign), 3 (ternary), 4 (natural) and 12 (nothing)."""

from __future__ import annotations

import torch
from torch import Tensor

from . import quantizer as q
from .philox import dither, philox_key
from .wire import CODECS, Codec, Encoding, Key, check, no_parameters

SIGN, TERNARY, NATURAL, NOTHING = 2, 3, 4, 12


def _sign(x: Tensor, key: Key, block: int = 256, scale_dtype: str | None = None) -> Encoding:
    q.check_quantizer(1, block, "unbiased")
    x, short, variant = x.to(torch.float32), q.is_short(scale_dtype), q.variant_of("unbiased", scale_dtype)
    if not bool(x.isfinite().all()):
        return Encoding(torch.zeros(q.payload_bytes(x.numel(), 1, block, short), dtype=torch.uint8), False, 1, variant, block)
    numel, own, x = x.numel(), q.to_blocks(torch.ones_like(x), block), q.to_blocks(x, block)  # own: 0 where padding
    norm = x.abs().amax(1, keepdim=True)
    empty = norm.view(torch.int32) < q.tiny_bits(short)
    factor = torch.where(norm >= 2.0**96, 2.0**-16, 1.0).to(torch.float32)
    mean = q.lane_sum(x.abs() * factor) / own.sum(1, keepdim=True).clamp(min=1)
    scales = q.final_scale(mean * (1 / factor), 1, short).masked_fill(empty, 0)  # 1 / factor: a power of two, exact
    codes = (x >= 0).to(torch.int64).masked_fill(empty | (own == 0), 0)
    return Encoding(q.pack(codes.flatten(), scales.flatten(), numel, 1, block, short), True, 1, variant, block)


def _ternary(x: Tensor, key: Key, block: int = 256, scale_dtype: str | None = None) -> Encoding:
    x = x.to(torch.float32)
    payload = q.quantize(x, 2, block, "unbiased", None, key.seed, key.step, key.rank, scale_dtype=scale_dtype)
    return Encoding(payload, bool(x.isfinite().all()), 2, q.variant_of("unbiased", scale_dtype), block)


def _natural(x: Tensor, key: Key) -> Encoding:
    x = x.to(torch.float32)
    numel, tiles = x.numel(), -(-x.numel() // 256)
    magnitude = x.view(torch.int32).to(torch.int64) & q.ABS_BITS
    if bool((magnitude >= 0x7F000000).any()):
        return Encoding(torch.zeros(numel + 32 * tiles, dtype=torch.uint8), False)
    added = ((dither(numel, 0, philox_key(key.seed, key.step, key.rank)) + 0.5) * 2**23).to(torch.int64)  # exact
    codes = ((magnitude + added) >> 23).masked_fill(magnitude < 0x00800000, 0)
    signs = torch.cat(((x.signbit() & (codes > 0)).to(torch.int64), torch.zeros(-numel % 256, dtype=torch.int64)))
    words = (signs.view(-1, 8, 32) << torch.arange(8).view(8, 1)).sum(1)
    parts = [torch.empty(0, dtype=torch.int64)]
    for code, word in zip(codes.split(256) if numel else (), words, strict=True):
        parts += [code, word]
    return Encoding(torch.cat(parts).to(torch.uint8))


def natural_values(payload: Tensor, numel: int) -> Tensor:
    """Values of a payload of codec 4: float32 [numel]. ValueError if the payload is one that a reader rejects."""
    parts = torch.split(payload.to(torch.int64), 288) if numel else ()  # one a tile: exponents, then a byte of signs per lane
    exponents = torch.cat([torch.empty(0, dtype=torch.int64), *(p[:-32] for p in parts)])
    words = torch.cat([torch.empty(0, dtype=torch.int64), *(p[-32:] for p in parts)]).view(-1, 1, 32)
    signs = (words >> torch.arange(8).view(8, 1) & 1).flatten()
    check(not bool(signs[numel:].any()), "bits that belong to no element", "0", "a set bit")
    signs = signs[:numel]
    check(bool((exponents < 255).all()), "exponent", "at most 254", 255)
    check(not bool(signs[exponents == 0].any()), "sign of a zero", "0", 1)
    return (exponents << 23).to(torch.int32).view(torch.float32) * (1 - 2 * signs)


CODECS[SIGN] = Codec(lambda section, at: q.check_block_format(section, at, bits=1), q.block_bytes, q.decode_block, {"Sign": _sign})
CODECS[TERNARY] = Codec(lambda section, at: q.check_block_format(section, at, bits=2), q.block_bytes, q.decode_block,
                        {"Ternary": _ternary})
CODECS[NATURAL] = Codec(no_parameters, lambda section, dtype: section.numel + 32 * -(-section.numel // 256),
                        lambda section, dtype: natural_values(section.payload, section.numel), {"Natural": _natural})
CODECS[NOTHING] = Codec(no_parameters, lambda section, dtype: 0, lambda section, dtype: torch.zeros(section.numel, dtype=dtype))
