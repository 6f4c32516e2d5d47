"""Codecs 9 (dithering) and 10 (natural dithering)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import levels as coding
from .philox import dither, philox_key
from .wire import CODECS, Codec, Encoding, Key, Section, check

DITHERING, NATURAL_DITHERING = 9, 10
FAINT = 2.0**-96
_M = 12582912.0
_MAX = float.fromhex("0x1.FFFFFp127")
_MOST = {DITHERING: 32767, NATURAL_DITHERING: 30}


def units_of(codec: int, level: int) -> float:
    """What a level stands for, in units."""
    return float(level) if codec == DITHERING else 2.0 ** (level - 1)


def cap(codec: int, width: int) -> float:
    """The largest legal scale, a float32."""
    return torch.tensor(_MAX / units_of(codec, 2 ** (width - 1) - 1), dtype=torch.float64).to(torch.float32).item()


def norms(x: Tensor, norm: int | str, block: int) -> Tensor:
    """Of the blocks of x (fp32): float64 [blocks]."""
    out = []
    for part in x.split(block) if x.numel() else ():
        if norm == "inf":
            out.append(part.abs().amax().double())
            continue
        total = torch.zeros((), dtype=torch.float64)
        for tile in part.split(256):
            lanes = torch.zeros(32, dtype=torch.float64)
            for row in tile.double().split(32):
                lanes[: row.numel()] += row * row
            for width in (16, 8, 4, 2, 1):
                lanes = lanes[:width] + lanes[width : 2 * width]
            total = total + lanes[0]
        out.append(total.sqrt())
    return torch.stack(out) if out else torch.empty(0, dtype=torch.float64)


def levels_of(codec: int, t: Tensor, u: Tensor, levels: int) -> Tensor:
    """Levels of t units (fp32); u: the dither, inside (-1/2, 1/2). int64."""
    if codec == DITHERING:
        return (((t + u) + _M) - _M).clamp(-levels, levels).to(torch.int64)
    magnitude = t.abs()
    below = (magnitude + (u + 0.5) >= 1).to(torch.int64)
    added = ((u + 0.5) * 2**23).to(torch.int64)  # exact: r << 7 | 64
    c = (magnitude.view(torch.int32).to(torch.int64) + added >> 23) - 126
    c = torch.where(magnitude < 1, below, c).clamp(max=levels)
    return torch.where(t.signbit(), -c, c)


def shrink_of(codec: int, d: int, levels: int, norm: int | str) -> float:
    """The factor that makes the map contractive: 1 where omega < 1, else 1 / (1 + omega)."""
    if codec == NATURAL_DITHERING:
        g = math.sqrt(d) * 2.0 ** (1 - levels)
        omega = 0.125 + g * min(1.0, g) if d > 1 else 0.0
    elif norm == "inf":
        omega = 0.5 * (math.sqrt(1 + (d - 1) / (levels * levels)) - 1)
    else:
        root = math.sqrt(d)
        omega = 0.0 if d <= 1 else root / levels - 1 if levels <= root / 2 else d / (4.0 * levels * levels)
    return 1 / (1 + omega) if omega >= 1 else 1.0


def quantize(codec: int, x: Tensor, key: tuple[int, int], levels: int, norm: int | str = 2, block: int | None = None,
             offset: int = 0, contractive: bool = False) -> Tensor | None:
    """Payload of one slice; None if an element is not finite in fp32.

    Args:
        codec: DITHERING or NATURAL_DITHERING.
        x: 1-D; rounded to fp32 once.
        key: the Philox key. offset: index in the parameter of the slice's first element.
        levels, norm, block: as in spec.py. contractive: as inside error feedback.
    """
    check(1 <= levels <= _MOST[codec], "levels", f"1 to {_MOST[codec]}", levels)
    check(norm in (2, "inf"), "norm", "2 or 'inf'", norm)
    check(block is None or (32 <= block <= 65536 and block & (block - 1) == 0), "block", "None or a power of two from 32 to 65536", block)
    x = x.to(torch.float32)
    if not bool(x.isfinite().all()):
        return None
    numel, width, length = x.numel(), coding.width_of(levels), block or max(x.numel(), 1)
    top = torch.tensor(units_of(codec, levels), dtype=torch.float64)
    by_block = norms(x, norm, length)
    faint = by_block < FAINT
    harmless = by_block.masked_fill(faint, 1)
    inverse = (top / harmless).to(torch.float32).masked_fill(faint, 0)
    factor = shrink_of(codec, max(min(length, numel), 1), levels, norm) if contractive else 1.0
    unit = (harmless / top).clamp(max=cap(codec, width)).to(torch.float32) * torch.tensor(factor, dtype=torch.float32)
    t = x * inverse.repeat_interleave(length)[:numel]
    codes = levels_of(codec, t, dither(numel, offset, key), levels)
    return torch.cat((unit.masked_fill(faint, 0).view(torch.uint8), coding.encode(codes, width)))


def values(section: Section) -> Tensor:
    """Values of a payload: float32 [numel]. ValueError if it is one that a reader rejects."""
    numel, length = section.numel, section.block or max(section.numel, 1)
    blocks = -(-numel // length)
    check(4 * blocks <= section.bytes, "bytes", f"at least {4 * blocks}", section.bytes)
    unit = section.payload[: 4 * blocks].clone().view(torch.float32)
    legal = ~unit.signbit() & (unit <= cap(section.codec, section.bits))
    check(bool(legal.all()), "scale", f"0 to {cap(section.codec, section.bits)}", "another")
    codes = coding.decode(section.payload[4 * blocks :], numel, section.bits)
    unit = unit.repeat_interleave(length)[:numel]
    check(not bool(codes[unit == 0].any()), "levels of a block with scale 0", "0", "others")
    units = codes.to(torch.float32)
    if section.codec == NATURAL_DITHERING:
        exponents = (codes.abs() + 126 << 23).to(torch.int32)
        units = torch.where(codes == 0, 0.0, exponents.view(torch.float32) * codes.sign())
    return units * unit


def _check_format(section: Section, at: str) -> None:
    widest = coding.width_of(_MOST[section.codec])
    check(2 <= section.bits <= widest, at + "bits", f"2 to {widest}", section.bits)
    check(section.variant == 0, at + "variant", 0, section.variant)
    block = section.block
    check(block == 0 or (32 <= block <= 65536 and block & (block - 1) == 0), at + "block", "0 or a power of two from 32 to 65536", block)


def _encoder(codec: int, x: Tensor, key: Key, levels: int, norm: int | str = 2, block: int | None = None) -> Encoding:
    payload = quantize(codec, x, philox_key(key.seed, key.step, key.rank), levels, norm, block)
    numel, length = x.numel(), block or max(x.numel(), 1)
    if payload is None:
        zeros = 4 * (-(-numel // length) + -(-numel // coding.SEGMENT))
        return Encoding(torch.zeros(zeros, dtype=torch.uint8), False, coding.width_of(levels), 0, block or 0)
    return Encoding(payload, True, coding.width_of(levels), 0, block or 0)


def _dithering(x: Tensor, key: Key, levels: int, norm: int | str = 2, block: int | None = None) -> Encoding:
    return _encoder(DITHERING, x, key, levels, norm, block)


def _natural_dithering(x: Tensor, key: Key, levels: int, norm: int | str = 2, block: int | None = None) -> Encoding:
    return _encoder(NATURAL_DITHERING, x, key, levels, norm, block)


CODECS[DITHERING] = Codec(_check_format, lambda section, dtype: None, lambda section, dtype: values(section), {"Dithering": _dithering})
CODECS[NATURAL_DITHERING] = Codec(_check_format, lambda section, dtype: None, lambda section, dtype: values(section),
                                  {"NaturalDithering": _natural_dithering})
