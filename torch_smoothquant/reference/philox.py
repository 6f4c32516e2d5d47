"""The random numbers: Philox4x32-10, its keys, and the dither of an element."""

from __future__ import annotations

import torch
from torch import Tensor

_U32, _U64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def philox_key(seed: int, step: int, rank: int, averaged: bool = False, parameter: int = 0,
               shared: bool = False) -> tuple[int, int]:
    """Philox key (low, high 32 bits) of one parameter in one sender's step, or in every rank's (shared: rank is ignored).

    The arguments count modulo 2^64.
    """
    h = 0
    for v in (seed, step, (1 << 33 if shared else rank) + (int(averaged) << 32), parameter):
        h = mixed(h, v & _U64)
    return h & _U32, h >> 32


def mixed(h: int, v: int) -> int:
    """mix((h xor v) + 0x9E3779B97F4A7C15) of the document; h, v: 64 bits."""
    z = ((h ^ v) + 0x9E3779B97F4A7C15) & _U64
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _U64
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _U64
    return z ^ z >> 31


def philox4x32(counters: Tensor, key: tuple[int, int]) -> Tensor:
    """Philox4x32-10. counters: int64 [..., 4] of 32-bit words; key: two such words. Returns int64 of the same shape."""
    (c0, c1, c2, c3), (k0, k1) = counters.unbind(-1), key
    for _ in range(10):
        (hi0, lo0), (hi1, lo1) = _multiply(0xD2511F53, c0), _multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + 0x9E3779B9) & _U32, (k1 + 0xBB67AE85) & _U32
    return torch.stack((c0, c1, c2, c3), -1)


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a * b, both 32-bit; by halves of b, since the product does not fit a signed int64."""
    low, high = a * (b & 0xFFFF), a * (b >> 16)
    return (high + (low >> 16)) >> 16, (low + ((high & 0xFFFF) << 16)) & _U32


def dither_bits(numel: int, offset: int, key: tuple[int, int], domain: int = 0) -> Tensor:
    """r_i of elements offset .. offset + numel of the parameter: int64 [numel], 16 bits. domain: the counter's third word."""
    first, last = offset // 256, -(-(offset + numel) // 256)
    c = torch.arange(32 * first, 32 * last)
    words = philox4x32(torch.stack((c & _U32, c >> 32, torch.full_like(c, domain), torch.zeros_like(c)), -1), key)
    halves = torch.stack((words & 0xFFFF, words >> 16), -1).view(-1, 32, 8)  # [tile, lane, row]
    return halves.transpose(1, 2).flatten()[offset - 256 * first :][:numel]


def dither(numel: int, offset: int, key: tuple[int, int]) -> Tensor:
    """u_i of elements offset .. offset + numel of the parameter: float32 [numel], inside (-1/2, 1/2)."""
    r = dither_bits(numel, offset, key)
    return (0x3F800040 | r << 7).to(torch.int32).view(torch.float32) - 1.5
