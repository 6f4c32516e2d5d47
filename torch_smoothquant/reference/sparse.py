"""Codec 6 (top-k) and the index coding. Plain loops over bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .wire import CODECS, Codec, Encoding, Key, no_parameters

TOPK = 6
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
    order = torch.sort(x.abs(), descending=True, stable=True).indices[: target(x.numel(), ratio, k)]
    kept = torch.sort(order[x[order] != 0]).values
    values = x[kept].to(dtype)
    if dtype.itemsize == 2:  # values saturate
        values = torch.where(values.isinf(), torch.sign(values) * torch.finfo(dtype).max, values)
    return torch.cat([encode_indices(kept.tolist(), x.numel()), values.contiguous().view(torch.uint8)])


def topk_decode(payload: Tensor, numel: int, dtype: torch.dtype) -> Tensor:
    """Values of one section of a message of `dtype`: 1-D. ValueError if the payload is not a legal one."""
    indices, used = decode_indices(payload, numel)
    if payload.numel() - used != len(indices) * dtype.itemsize:
        raise ValueError(f"bytes: expected {used + len(indices) * dtype.itemsize}, found {payload.numel()}")
    values = payload[used:].clone().view(dtype)
    if not bool(values.isfinite().all()):
        raise ValueError("payload: expected finite values, found others")
    out = torch.zeros(numel, dtype=dtype)
    out[torch.tensor(indices, dtype=torch.long)] = values
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


def _encode(x: Tensor, key: Key, ratio: float | None = None, k: int | None = None) -> Encoding:
    return Encoding(topk(x, ratio, k), bool(x.isfinite().all()))


CODECS[TOPK] = Codec(no_parameters, lambda section, dtype: None,
                     lambda section, dtype: topk_decode(section.payload, section.numel, dtype), {"TopK": _encode})
