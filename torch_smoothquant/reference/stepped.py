"""Codec 13 (stepped levels), without a smoothness and for budgets in non-zeros: VaryingDithering, BlockDithering."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from . import levels as coding
from .dithering import DITHERING, cap, levels_of
from .philox import dither, philox_key
from .wire import CODECS, Codec, Encoding, Key, Section, check

STEPPED = 13
BF16_STEPS = 1
FAINT = 2.0**-96
TOP = 32767
_F32 = torch.float32


def bounds(numel: int, blocks: int) -> list[int]:
    """Where blocks begin, and the end of the last: floor(l n / B) for B = min(blocks, n)."""
    count = min(blocks, numel)
    return [numel * i // count for i in range(count + 1)] if count else [0]


def sums(x: Tensor) -> tuple[float, float]:
    """Sums of magnitudes and of squares: per tile of 256 elements in 32 lanes and a tree, in float64."""
    totals = [0.0, 0.0]
    for tile in x.double().split(256):
        for which, terms in enumerate((tile.abs(), tile * tile)):
            lanes = torch.zeros(32, dtype=torch.float64)
            for row in terms.split(32):
                lanes[: row.numel()] += row
            for width in (16, 8, 4, 2, 1):
                lanes = lanes[:width] + lanes[width : 2 * width]
            totals[which] += lanes.item()
    return totals[0], totals[1]


def above(scale: Tensor) -> Tensor:
    """The smallest bfloat16 number not below a positive float32."""
    bits = scale.view(torch.int32)
    return torch.where(bits & 0xFFFF != 0, bits + 0x10000, bits).bitwise_and(~0xFFFF).view(_F32)


def below(scale: Tensor) -> Tensor:
    return scale.view(torch.int32).bitwise_and(~0xFFFF).view(_F32)


def _fp32(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64).to(_F32)


def pack(x: Tensor, steps: list[float], key: tuple[int, int], bf16: bool, shrink: float = 1.0) -> Tensor:
    """Payload of x (fp32, finite) with one step (double) for each block."""
    at, scales, largest = bounds(x.numel(), len(steps)), [], []
    for i, step in enumerate(steps):
        largest.append(x[at[i] : at[i + 1]].abs().amax().item())
        step = max(step, largest[-1] / TOP)
        scale = torch.zeros(1) if step < FAINT else _fp32(min(step, 2.0**127))
        scales.append(above(scale) if bf16 and step >= FAINT else scale)
    inverses = [torch.zeros(1) if s.item() == 0 else torch.ones(1) / s for s in scales]
    top = max((min(math.ceil((_fp32(m) * i).item()), TOP) for m, i in zip(largest, inverses, strict=True)), default=0)
    width = coding.width_of(top) if top else 0
    sent, t = [], torch.zeros(x.numel())
    for i, scale in enumerate(scales):
        if width and scale.item() > 0:
            most = below(_fp32(cap(DITHERING, width))) if bf16 else _fp32(cap(DITHERING, width))
            scale = torch.minimum(scale, most)
            t[at[i] : at[i + 1]] = x[at[i] : at[i + 1]] * (torch.ones(1) / scale)
            scale = scale * _fp32(shrink)
            if bf16 and shrink != 1:
                scale = torch.minimum(above(scale), most)
        else:
            scale = torch.zeros(1)
        sent.append((scale.view(torch.int32) >> 16).to(torch.int16) if bf16 else scale)
    head = torch.cat([s.view(torch.uint8) for s in sent] + [torch.tensor([width], dtype=torch.uint8)])
    if width == 0:
        return torch.cat((head, torch.zeros(4 * -(-x.numel() // coding.SEGMENT), dtype=torch.uint8)))
    codes = levels_of(DITHERING, t, dither(x.numel(), 0, key), 2 ** (width - 1) - 1)
    return torch.cat((head, coding.encode(codes, width)))


def values(section: Section) -> Tensor:
    """Values of a payload: float32 [numel]. ValueError if it is one that a reader rejects."""
    numel = section.numel
    at, size = bounds(numel, section.block), 2 if section.variant & BF16_STEPS else 4
    count = len(at) - 1
    if numel == 0:
        check(section.bytes == 0, "bytes", 0, section.bytes)
        return torch.empty(0)
    check(section.bytes > size * count, "bytes", f"more than {size * count}", section.bytes)
    raw = section.payload[: size * count].clone()
    scales = raw.view(_F32) if size == 4 else (raw.view(torch.int16).to(torch.int32) << 16).view(_F32)
    width = int(section.payload[size * count])
    check(width == 0 or 2 <= width <= 16, "width", "0 or 2 to 16", width)
    most = cap(DITHERING, width) if width else 0.0
    check(bool((~scales.signbit() & (scales <= most)).all()), "scale", f"0 to {most}", "another")
    coded = section.payload[size * count + 1 :]
    if width == 0:
        expected = size * count + 1 + 4 * -(-numel // coding.SEGMENT)
        check(section.bytes == expected, "bytes", expected, section.bytes)
        check(not bool(coded.any()), "heads with width 0", "0", "others")
        return torch.zeros(numel)
    codes = coding.decode(coded, numel, width)
    unit = scales.repeat_interleave(torch.tensor(at).diff())
    check(not bool(codes[unit == 0].any()), "levels of a block with scale 0", "0", "others")
    return codes.to(_F32) * unit


def omega(u: float) -> float:
    """Of dithering relative to the 2-norm, u = step * sqrt(d)."""
    return u - 1 if u >= 2 else 0.25 * u * u


def _granted(numel: int, budget: float | None, ratio: float | None, norms: int) -> float:
    if ratio is not None:
        check(budget is None and 0 < ratio <= 1, "budget, ratio", "one of them, ratio above 0, at most 1", (budget, ratio))
        return ratio * numel
    if budget is None:
        raise ValueError("budget, ratio: expected one of them, found none")
    check(numel == 0 or norms < budget <= numel + norms, "budget", f"above {norms}, at most {numel + norms}", budget)
    return budget - norms


def _encoding(x: Tensor, steps: list[float] | None, key: Key, bf16: bool, blocks: int, omegas: list[float], contractive: bool) -> Encoding:
    count = len(bounds(x.numel(), blocks)) - 1
    worst = max(omegas, default=0.0)
    shrink = 1 / (1 + worst) if contractive and worst >= 1 else 1.0
    if x.numel() == 0 or steps is None:
        zeros = (2 if bf16 else 4) * count + 1 + 4 * -(-x.numel() // coding.SEGMENT) if x.numel() else 0
        return Encoding(torch.zeros(zeros, dtype=torch.uint8), x.numel() == 0, 0, int(bf16), blocks)
    payload = pack(x, steps, philox_key(key.seed, key.step, key.rank), bf16, shrink)
    return Encoding(payload, True, 0, int(bf16), blocks)


def _varying(x: Tensor, key: Key, budget: float | None = None, norm: int | None = None, ratio: float | None = None,
             contractive: bool = False) -> Encoding:
    check(norm in (None, 1, 2), "norm", "None, 1 or 2", norm)
    x, steps, omegas = x.to(_F32), None, []
    beta = _granted(x.numel(), budget, ratio, 0)
    if bool(x.isfinite().all()) and x.numel():
        magnitudes, squares = sums(x)
        steps = [magnitudes / beta if norm != 2 else math.sqrt(squares) * math.sqrt(x.numel()) / beta]
        omegas = [omega(x.numel() / beta)]
    return _encoding(x, steps, key, False, 1, omegas, contractive)


def _blocks(x: Tensor, key: Key, blocks: int, budget: float | None = None, steps: str | None = None, ratio: float | None = None,
            scale_dtype: str | None = None, contractive: bool = False) -> Encoding:
    check(1 <= blocks <= 65536, "blocks", "1 to 65536", blocks)
    check(steps in (None, "optimal", "uniform"), "steps", "None, 'optimal' or 'uniform'", steps)
    x, found, omegas = x.to(_F32), None, []
    at = bounds(x.numel(), blocks)
    count = len(at) - 1
    left = (_granted(x.numel(), budget, ratio, count) + count) - count
    if bool(x.isfinite().all()) and x.numel():
        roots = [math.sqrt(b - a) for a, b in pairwise(at)]
        if steps == "uniform":
            each = left / count
            h = [max((r + math.sqrt(r * r + 4 * each)) / (2 * each) for r in roots)] * count
        else:
            delta = sum(r * r for r in roots) / left
            h = [delta / r for r in roots]
        found = [math.sqrt(sums(x[a:b])[1]) * step for (a, b), step in zip(pairwise(at), h, strict=True)]
        omegas = [omega(step * r) for step, r in zip(h, roots, strict=True)]
    return _encoding(x, found, key, scale_dtype == "bf16", blocks, omegas, contractive)


def _check_format(section: Section, at: str) -> None:
    check(section.bits == 0, at + "bits", 0, section.bits)
    check(section.variant <= BF16_STEPS, at + "variant", "0 or 1", section.variant)
    check(1 <= section.block <= 65536, at + "block", "1 to 65536", section.block)


CODECS[STEPPED] = Codec(_check_format, lambda section, dtype: None, lambda section, dtype: values(section),
                        {"VaryingDithering": _varying, "BlockDithering": _blocks})
