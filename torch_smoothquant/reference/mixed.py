"""Codec 1 with bits = 0: runs of blocks, each with a width of its own."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from . import quantizer as q
from .wire import CODECS, Codec, Encoding, Key, Section, check

_RUN = 1024
_NOISE = {"fit": (0.3621, 0.1178, 0.03696, 0.01132, 0.003218, 0.0008, 0.0001964, 0.00004837),
          "unbiased": (4.0, *(1 / (2 ** (b - 1) - 1) ** 2 for b in range(2, 9)))}


def encode(x: Tensor, key: Key, bits: float, block: int, levels: str, rounding: str | None, scale_dtype: str | None) -> Encoding:
    """As `wire.encode` wants it: widths of `bits` on average, chosen by the runs' sums of squares."""
    check(1 <= bits <= 8, "bits", "1 to 8", bits)
    run, variant, x = max(_RUN, block), q.variant_of(levels, scale_dtype), x.to(torch.float32)
    whole, finite = x.numel() // run, bool(x.isfinite().all())
    widths = choose(x[: whole * run].view(whole, run), math.floor(bits * whole), levels, 2 if levels == "unbiased" and bits >= 2 else 1)
    widths += [math.floor(bits)] * (x.numel() % run > 0)
    parts = [torch.zeros(-(-len(widths) // 2), dtype=torch.uint8)]
    for r, (width, part) in enumerate(zip(widths, torch.split(x, run) if x.numel() else (), strict=True)):
        parts[0][r // 2] |= width - 1 << 4 * (r % 2)
        parts.append(q.quantize(part, width, block, levels, rounding, key.seed, key.step, key.rank, offset=r * run,
                                scale_dtype=scale_dtype))
    payload = torch.cat(parts)
    return Encoding(payload if finite else torch.zeros_like(payload), finite, 0, variant, block)


def choose(runs: Tensor, total: int, levels: str, least: int) -> list[int]:
    """Widths of the rows of `runs` (float32 [whole, run]) with the sum `total`: the largest gains are taken first."""
    noise = _NOISE[levels]
    lanes = torch.zeros(len(runs), 32, dtype=torch.float64)
    for row in torch.split(runs.double() ** 2, 32, 1):
        lanes = lanes + row
    for width in (16, 8, 4, 2, 1):
        lanes = lanes[:, :width] + lanes[:, width : 2 * width]
    energies = lanes.flatten().nan_to_num(0, 0).tolist()
    gains = [(-e * (noise[b - 1] - noise[b]), r) for r, e in enumerate(energies) for b in range(least, 8)]
    widths = [least] * len(runs)
    for _, r in sorted(gains)[: total - least * len(runs)]:
        widths[r] += 1
    return widths


def values(payload: Tensor, numel: int, block: int, levels: str, scale_dtype: str | None) -> Tensor:
    """float32 [numel]. ValueError if the payload is one that a reader rejects."""
    run = max(_RUN, block)
    runs = -(-numel // run)
    at = -(-runs // 2)
    check(at <= payload.numel(), "payload", f"at least {at} bytes of widths", payload.numel())
    codes = [code for byte in payload[:at].tolist() for code in (byte & 15, byte >> 4)]
    check(all(code < 8 for code in codes), "width", "a code of 0 to 7", max(codes, default=0))
    check(not any(codes[runs:]), "width of no run", 0, codes[-1] if codes else 0)
    out = [torch.empty(0)]
    for r, code in enumerate(codes[:runs]):
        length = min(run, numel - r * run)
        size = q.payload_bytes(length, code + 1, block, q.is_short(scale_dtype))
        check(at + size <= payload.numel(), "payload", f"at least {at + size} bytes", payload.numel())
        out.append(q.dequantize(payload[at : at + size], length, code + 1, block, levels, scale_dtype))
        at += size
    check(not bool(payload[at:].any()), "bytes behind the last run", "0", "others")
    return torch.cat(out)


# Note [Widths of a section]: codec 1 is entered by quantizer.py; a section with bits = 0 is read and written here, others there.
_whole = CODECS[q.QUANTIZER]


def _check_format(section: Section, at: str) -> None:
    _whole.check_format(dataclasses.replace(section, bits=1) if section.bits == 0 else section, at)


def _decode(section: Section, dtype: torch.dtype) -> Tensor:
    if section.bits != 0:
        return _whole.decode(section, dtype)
    return values(section.payload, section.numel, section.block, *q.choices_of(section.variant))


def _encode(x: Tensor, key: Key, bits: float = 4, block: int = 256, levels: str = "unbiased", rounding: str | None = None,
            scale_dtype: str | None = None) -> Encoding:
    if isinstance(bits, float):
        return encode(x, key, bits, block, levels, rounding, scale_dtype)
    return _whole.encoders["Quantizer"](x, key, bits, block, levels, rounding, scale_dtype)


CODECS[q.QUANTIZER] = Codec(_check_format, lambda section, dtype: _whole.bytes(section, dtype) if section.bits else None, _decode,
                            {"Quantizer": _encode})
