"""Codec 6 (sparse vector), codec 8 (sparse sign) and the index coding. Plain loops over bits."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from .philox import philox_key
from .values import (
    Coding,
    ValueDType,
    check_format,
    coding_of,
    decode_values,
    encode_values,
    entry_bound,
    lane_sum,
    saturated,
    section_coding,
    uniform,
)
from .wire import CODECS, Codec, Encoding, Key, Section, check, no_parameters

TOPK, SPARSE_SIGN = 6, 8
SEGMENT = 16384
_BITMAP = 0x8000


def target(numel: int, ratio: float | None = None, k: int | None = None) -> int:
    """K: how many entries a section of `numel` elements may have. Exactly one of `ratio` and `k` is given."""
    if (ratio is None) == (k is None):
        raise ValueError("ratio, k: expected one of them, found " + ("none" if k is None else "both"))
    if k is not None:
        return min(k, numel)
    assert ratio is not None
    return min(numel, max(1, math.ceil(ratio * numel)))


def topk(x: Tensor, ratio: float | None = None, k: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Payload for one section: 1-D uint8 tensor; that of zeros if an element is Inf or NaN (the section is marked then).

    Args:
        x: floating-point tensor of any shape.
        ratio, k: exactly one of them.
        dtype: the message's dtype, if it is not x's.
    """
    x = x.detach().cpu().flatten()
    dtype = dtype or x.dtype
    if not bool(x.isfinite().all()):
        x = torch.zeros_like(x)
    kept = largest(x, target(x.numel(), ratio, k))
    return torch.cat([encode_indices(kept.tolist(), x.numel()), encode_values(x[kept], Coding(), dtype, Key())])


def largest(x: Tensor, count: int) -> Tensor:
    """Indices, ascending, of the min(count, non-zeros) largest magnitudes; ties to the lowest index."""
    order = torch.sort(x.abs(), descending=True, stable=True).indices[:count]
    return torch.sort(order[x[order] != 0]).values


def topk_decode(payload: Tensor, numel: int, dtype: torch.dtype, coding: Coding | None = None) -> Tensor:
    """Values of one section of a message of `dtype`: 1-D. ValueError if the payload is not a legal one."""
    indices, used = decode_indices(payload, numel)
    out = torch.zeros(numel, dtype=dtype)
    out[torch.tensor(indices, dtype=torch.long)] = decode_values(payload[used:], len(indices), coding or Coding(), dtype)
    return out


def encode_indices(indices: list[int], numel: int) -> Tensor:
    """Ascending indices below numel as bytes: 1-D uint8 tensor."""
    heads, bodies = b"", b""
    for begin in range(0, numel, SEGMENT):
        length = min(SEGMENT, numel - begin)
        here = [i - begin for i in indices if begin <= i < begin + length]
        head = len(here)
        if head and -(-length // 8) < _body_bytes(head, length):
            head |= _BITMAP
        heads += head.to_bytes(2, "little")
        bodies += _encode_body(here, head, length)
    return torch.tensor(list(heads + bodies), dtype=torch.uint8)


def decode_indices(data: Tensor, numel: int) -> tuple[list[int], int]:
    """Indices at the front of `data` (1-D uint8), and the number of bytes they take. ValueError if illegal."""
    raw = bytes(data.tolist())
    at = 2 * -(-numel // SEGMENT)
    if at > len(raw):
        raise ValueError(f"bytes: expected at least {at}, found {len(raw)}")
    indices: list[int] = []
    for s, begin in enumerate(range(0, numel, SEGMENT)):
        length = min(SEGMENT, numel - begin)
        head = int.from_bytes(raw[2 * s : 2 * s + 2], "little")
        if head & ~_BITMAP > length or head == _BITMAP:
            raise ValueError(f"payload: expected an index head of at most {length}, found {head:#x}")
        size = _body_bytes(head, length)
        if at + size > len(raw):
            raise ValueError(f"bytes: expected at least {at + size}, found {len(raw)}")
        here = _decode_body(int.from_bytes(raw[at : at + size], "little"), head, length)
        if here != sorted(set(here)) or len(here) != head & ~_BITMAP or (here and here[-1] >= length):
            raise ValueError(f"payload: expected ascending indices in segment {s}, found others")
        indices += [begin + i for i in here]
        at += size
    return indices, at


def _low_bits(count: int, length: int) -> int:
    return (length // count).bit_length() - 1  # max{l : (length >> l) >= count}


def _body_bytes(head: int, length: int) -> int:
    if head & _BITMAP:
        return -(-length // 8)
    if head == 0:
        return 0
    low = _low_bits(head, length)
    return -(-(head * (low + 1) + (length - 1 >> low)) // 8)


def _encode_body(positions: list[int], head: int, length: int) -> bytes:
    bits = 0
    if head & _BITMAP:
        bits = sum(1 << p for p in positions)
    elif head:
        low = _low_bits(head, length)
        for j, p in enumerate(positions):
            bits |= (p & (1 << low) - 1) << j * low | 1 << head * low + (p >> low) + j
    return bits.to_bytes(_body_bytes(head, length), "little")


def _decode_body(bits: int, head: int, length: int) -> list[int]:
    if head & _BITMAP:
        return [p for p in range(bits.bit_length()) if bits >> p & 1]
    if head == 0:
        return []
    low = _low_bits(head, length)
    high = bits >> head * low
    ones = [p for p in range(high.bit_length()) if high >> p & 1]
    return [p - j << low | bits >> j * low & (1 << low) - 1 for j, p in enumerate(ones)]


def _send(x: Tensor, kept: Tensor, values: Tensor, value_dtype: ValueDType, key: Key, finite: bool = True) -> Encoding:
    """kept, values: ascending indices and what is sent there; without those if not finite."""
    coding, kept, values = coding_of(value_dtype), kept[: x.numel() * finite], values[: x.numel() * finite]
    payload = torch.cat([encode_indices(kept.tolist(), x.numel()), encode_values(values, coding, x.dtype, key)])
    return Encoding(payload, finite, coding.bits, coding.variant, coding.block)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _topk(x: Tensor, key: Key, ratio: float | None = None, k: int | None = None, value_dtype: ValueDType = None) -> Encoding:
    finite = bool(x.isfinite().all())
    kept = largest(x if finite else torch.zeros_like(x), target(x.numel(), ratio, k))
    return _send(x, kept, x[kept], value_dtype, key, finite)


def _bernoulli(x: Tensor, key: Key, p: float, value_dtype: ValueDType = None, contractive: bool = False) -> Encoding:
    bar = max(1, round(p * 2**32))
    chosen = (uniform(x.numel(), philox_key(key.seed, key.step, key.rank)) < bar) & (x != 0)
    kept = torch.nonzero(chosen).flatten()[: entry_bound(bar * 2.0**-32 * x.numel(), x.numel())]
    values = x[kept].double() / torch.full((kept.numel(),), 1.0 if contractive else bar * 2.0**-32, dtype=torch.float64)
    return _send(x, kept, saturated(values, _wide(x)), value_dtype, key, bool(x.isfinite().all()))


def _smooth_bernoulli(x: Tensor, key: Key, budget: float | None = None, ratio: float | None = None, value_dtype: ValueDType = None,
                      contractive: bool = False) -> Encoding:
    """Without a smoothness, for budgets in entries."""
    entries = (budget or 0.0) if ratio is None else ratio * x.numel()
    bar = max(1, round(min(entries / x.numel(), 1.0) * 2**32)) if x.numel() else 0
    chosen = (uniform(x.numel(), philox_key(key.seed, key.step, key.rank)) < bar) & (x != 0)
    kept = torch.nonzero(chosen).flatten()[: entry_bound(entries if x.numel() else 0.0, x.numel())]
    values = x[kept].double() / torch.full((kept.numel(),), 1.0 if contractive else bar * 2.0**-32, dtype=torch.float64)
    return _send(x, kept, saturated(values, _wide(x)), value_dtype, key, bool(x.isfinite().all()))


def solve_threshold(magnitudes: Tensor, budget: int) -> float:
    """tau of the document; 0: everything is sent. magnitudes: float64 [numel]."""
    if int((magnitudes > 0).sum()) <= budget:
        return 0.0
    tau, certain = math.inf, 0
    while True:
        rest = lane_sum(torch.where(magnitudes < tau, magnitudes, 0.0))
        tau = max(rest / (budget - certain), 5e-324)
        reached = int((magnitudes >= tau).sum())
        if reached <= certain or reached >= budget:
            return tau
        certain = reached


def _stochastic(x: Tensor, key: Key, budget: float, value_dtype: ValueDType = None, contractive: bool = False) -> Encoding:
    magnitudes = x.double().abs()
    finite = bool(x.isfinite().all()) and not bool((magnitudes >= 2.0**990).any())
    if not finite:
        magnitudes = torch.zeros_like(magnitudes)
    count = target(x.numel(), k=budget) if isinstance(budget, int) else target(x.numel(), ratio=budget)
    tau = solve_threshold(magnitudes, count)
    bars, shrink = torch.full_like(magnitudes, 2.0**32), 1.0
    if tau > 0:
        bars = torch.minimum(magnitudes * min(2.0**32 / tau, sys.float_info.max), bars).floor()
        y = magnitudes * (1.0 / tau)
        if contractive:
            shrink = min(1.0, lane_sum(y * y) / lane_sum(y * y.clamp(min=1.0)))
    chosen = (uniform(x.numel(), philox_key(key.seed, key.step, key.rank)) < bars) & (x != 0)
    kept = torch.nonzero(chosen).flatten()[: entry_bound(count, x.numel())]
    values = x[kept].double() / (bars[kept] * 2.0**-32) * shrink
    return _send(x, kept, saturated(values, _wide(x)), value_dtype, key, finite)


CODECS[TOPK] = Codec(check_format, lambda section, dtype: None,
                     lambda section, dtype: topk_decode(section.payload, section.numel, dtype, section_coding(section)),
                     {"TopK": _topk, "Bernoulli": _bernoulli, "SmoothBernoulli": _smooth_bernoulli, "StochasticSparsifier": _stochastic})


def _sparse_sign(x: Tensor, key: Key, ratio: float | None = None, k: int | None = None, contractive: bool = False) -> Encoding:
    finite = bool(x.isfinite().all())
    wide = (x if finite else torch.zeros_like(x)).double()
    kept = largest(wide, target(x.numel(), ratio, k))
    size = lane_sum(wide[kept].abs()) / max(1, kept.numel()) if contractive else math.sqrt(lane_sum(wide * wide))
    scale = saturated(torch.tensor([size], dtype=torch.float64), torch.float32)
    kept = kept[: x.numel() * bool(scale > 0)]
    signs = (x[kept] < 0).to(torch.int64)
    packed = (torch.cat((signs, signs.new_zeros(-signs.numel() % 8))).view(-1, 8) << torch.arange(8)).sum(1)
    return Encoding(torch.cat((scale.view(torch.uint8), encode_indices(kept.tolist(), x.numel()), packed.to(torch.uint8))), finite)


def _sparse_sign_decode(section: Section, dtype: torch.dtype) -> Tensor:
    payload = section.payload
    check(payload.numel() >= 4, "bytes", "a scale", payload.numel())
    scale = payload[:4].clone().view(torch.float32)
    indices, used = decode_indices(payload[4:], section.numel)
    count, packed = len(indices), payload[4 + used :].to(torch.int64)
    check(packed.numel() == -(-count // 8), "bytes", f"{count} sign bits", packed.numel())
    legal = bool(scale.isfinite()) and not bool(scale.signbit()) and bool(scale > 0) == (count > 0)
    check(legal, "payload", "a finite scale, above 0 if and only if there are entries", float(scale))
    signs = (packed.view(-1, 1) >> torch.arange(8) & 1).flatten()
    check(not bool(signs[count:].any()), "payload", "zeros behind the signs", "others")
    out = torch.zeros(section.numel, dtype=dtype)
    out[torch.tensor(indices, dtype=torch.long)] = saturated(scale * (1 - 2 * signs[:count]), dtype)
    return out


CODECS[SPARSE_SIGN] = Codec(no_parameters, lambda section, dtype: None, _sparse_sign_decode, {"SparseSign": _sparse_sign})
