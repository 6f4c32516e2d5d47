"""Codec 11 (cast)."""

from __future__ import annotations

import torch
from torch import Tensor

from .wire import CODECS, Codec, Encoding, Key, Section, check

CAST = 11
DTYPES = ("fp16", "bf16", "fp8", "fp8_e5m2")  # the section's variant is an index into this
_BLOCK = 256
FAINT = 2.0**-96
_MAX = float.fromhex("0x1.FFFFFp127")


def _numbers(mantissa: int, largest: int) -> Tensor:
    """The non-negative numbers of an 8-bit format by code, float64 [largest + 1]."""
    codes, bias = torch.arange(largest + 1), 2 ** (6 - mantissa) - 1
    exponents, fractions = codes >> mantissa, (codes & 2**mantissa - 1) / 2.0**mantissa
    return torch.where(exponents == 0, fractions * 2.0 ** (1 - bias), (1 + fractions) * 2.0 ** (exponents - bias))


_EIGHT = {2: _numbers(3, 0x7E), 3: _numbers(2, 0x7B)}  # by variant


def payload_bytes(numel: int, variant: int) -> int:
    return 2 * numel if variant < 2 else numel + 4 * -(-numel // _BLOCK)


def _nearest(y: Tensor, numbers: Tensor) -> Tensor:
    """Codes of the numbers nearest to y >= 0 (fp32), to an even code where there are two: int64."""
    y = y.double()
    above = torch.searchsorted(numbers, y).clamp(1, numbers.numel() - 1)
    middle = (numbers[above - 1] + numbers[above]) / 2  # exact
    up = (y > middle) | ((y == middle) & (above % 2 == 0))
    return torch.where(up, above, above - 1)


def _cast(x: Tensor, key: Key, dtype: str) -> Encoding:
    check(dtype in DTYPES, "dtype", f"one of {DTYPES}", dtype)
    variant, x = DTYPES.index(dtype), x.to(torch.float32)
    if not bool(x.isfinite().all()):
        return Encoding(torch.zeros(payload_bytes(x.numel(), variant), dtype=torch.uint8), False, variant=variant)
    if variant < 2:
        to = (torch.float16, torch.bfloat16)[variant]
        return Encoding(x.to(to).clamp(torch.finfo(to).min, torch.finfo(to).max).view(torch.uint8), variant=variant)
    parts, top = [torch.empty(0, dtype=torch.uint8)], _EIGHT[variant][-1].to(torch.float32)
    for block in x.split(_BLOCK) if x.numel() else ():
        largest = block.abs().amax()
        if largest < FAINT:
            parts.append(torch.zeros(4 + block.numel(), dtype=torch.uint8))
            continue
        inverse, limit = top / largest, torch.tensor(_MAX) / top
        codes = _nearest((block * inverse).abs(), _EIGHT[variant]) | block.signbit().to(torch.int64) << 7
        parts += [torch.minimum(largest / top, limit).view(1).view(torch.uint8), codes.to(torch.uint8)]
    return Encoding(torch.cat(parts), variant=variant)


def _values(section: Section, _: torch.dtype) -> Tensor:
    if section.variant < 2:
        values = section.payload.clone().view((torch.float16, torch.bfloat16)[section.variant])
        check(bool(values.isfinite().all()), "payload", "finite values", "others")
        return values.to(torch.float32)
    numbers, parts = _EIGHT[section.variant].to(torch.float32), [torch.empty(0)]
    for block in section.payload.split(4 + _BLOCK) if section.numel else ():
        scale, codes = block[:4].clone().view(torch.float32), block[4:].to(torch.int64)
        limit = torch.tensor(_MAX) / numbers[-1]
        check(not bool(scale.signbit()) and bool(scale <= limit), "scale", f"0 to {limit.item()}", scale.item())
        check(bool((codes & 127 < numbers.numel()).all()), "payload", "finite values", "others")
        check(bool(scale != 0) or not bool(codes.any()), "codes in a block with scale 0", "0", "others")
        parts.append(numbers[codes & 127] * (1 - 2 * (codes >> 7)) * scale)
    return torch.cat(parts)


def _check_format(section: Section, at: str) -> None:
    check((section.bits, section.block) == (0, 0), at + "bits, block", "0, 0", (section.bits, section.block))
    check(section.variant < len(DTYPES), at + "variant", "0 to 3", section.variant)


CODECS[CAST] = Codec(_check_format, lambda section, dtype: payload_bytes(section.numel, section.variant), _values, {"Cast": _cast})
