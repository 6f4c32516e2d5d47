"""Codec 7 (subset): coordinates that follow from a key. Plain loops."""

from __future__ import annotations

import torch
from torch import Tensor

from .philox import mixed, philox4x32, philox_key
from .sparse import target
from .values import ValueDType, check_format, coding_of, decode_values, encode_values, saturated, section_coding, value_bytes
from .wire import CODECS, Codec, Encoding, Key, Section, check

SUBSET = 7
PERMUTED = 8  # variant, bit 3
_HEAD = 16
_U32 = 0xFFFFFFFF


def subset_key(stream: tuple[int, int], offset: int = 0) -> int:
    """The 64-bit key that draws for a slice at `offset`."""
    return mixed(stream[0] | stream[1] << 32, offset)


def _words(key: int, count: int) -> list[list[int]]:
    counters = torch.zeros(count, 4, dtype=torch.int64)
    counters[:, 0] = torch.arange(count)
    return philox4x32(counters, (key & _U32, key >> 32)).tolist()


def draw_subset(key: int, numel: int, count: int) -> list[int]:
    """`count` of `numel` elements, ascending."""
    complement = count > numel // 2
    draws = numel - count if complement else count
    drawn: set[int] = set()
    for d, (low, high) in enumerate(pair for w in _words(key, -(-draws // 2)) for pair in (w[:2], w[2:])):
        if d < draws:
            last = numel - draws + d
            wanted = (low | high << 32) * (last + 1) >> 64
            drawn.add(last if wanted in drawn else wanted)
    return [i for i in range(numel) if i not in drawn] if complement else sorted(drawn)


def draw_share(key: int, numel: int, rank: int, world_size: int) -> list[int]:
    """The elements of `rank` among `world_size`, ascending."""
    groups = -(-numel // world_size)
    draws = [word for words in _words(key, -(-groups // 4)) for word in words][:groups]
    places = [g * world_size + (rank + (draw * world_size >> 32)) % world_size for g, draw in enumerate(draws)]
    return [i for i in places if i < numel]


def _send(x: Tensor, scale: float, draw: int, word: int, indices: list[int], permuted: int, value_dtype: ValueDType, key: Key,
          zero_bytes: int) -> Encoding:
    coding = coding_of(value_dtype)
    variant = coding.variant | permuted
    if not bool(x.isfinite().all()) or x.numel() == 0:
        return Encoding(torch.zeros(zero_bytes, dtype=torch.uint8), x.numel() == 0, coding.bits, variant, coding.block)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    values = saturated(x[torch.tensor(indices, dtype=torch.long)].double() * scale, wide)
    head = torch.tensor(list(draw.to_bytes(8, "little") + word.to_bytes(8, "little")), dtype=torch.uint8)
    return Encoding(torch.cat((head, encode_values(values, coding, x.dtype, key))), True, coding.bits, variant, coding.block)


def _randk(x: Tensor, key: Key, ratio: float | None = None, k: int | None = None, shared: bool = False,
           value_dtype: ValueDType = None, contractive: bool = False) -> Encoding:
    numel, count = x.numel(), target(x.numel(), ratio, k)
    draw = subset_key(philox_key(key.seed, key.step, key.rank, shared=shared))
    zero_bytes = _HEAD + value_bytes(count, coding_of(value_dtype), x.dtype)
    scale = numel / count if count and not contractive else 1.0
    return _send(x, scale, draw, count, draw_subset(draw, numel, count), 0, value_dtype, key, zero_bytes)


def _permk(x: Tensor, key: Key, value_dtype: ValueDType = None, contractive: bool = False) -> Encoding:
    draw, rank, world_size = subset_key(philox_key(key.seed, key.step, 0, shared=True)), key.rank % key.world_size, key.world_size
    indices = draw_share(draw, x.numel(), rank, world_size)
    return _send(x, 1.0 if contractive else float(world_size), draw, rank | world_size << 32, indices, PERMUTED, value_dtype, key, _HEAD)


def _decode(section: Section, dtype: torch.dtype) -> Tensor:
    payload, numel, coding = section.payload, section.numel, section_coding(section)
    check(numel < 1 << 32, "numel", "less than 2^32", numel)
    check(payload.numel() >= _HEAD, "bytes", f"at least {_HEAD}", payload.numel())
    draw, word = (int.from_bytes(bytes(payload[i : i + 8].tolist()), "little") for i in (0, 8))
    out = torch.zeros(numel, dtype=dtype)
    if word == 0:
        check(not bool(payload.any()), "payload", "zeros without a coordinate", "others")
        check(payload.numel() <= _HEAD + value_bytes(numel, coding, dtype), "bytes", f"at most those of {numel} values", payload.numel())
        return out
    if section.variant & PERMUTED:
        rank, world_size = word & _U32, word >> 32
        check(rank < world_size, "payload", "a rank below the world size", rank)
        indices = draw_share(draw, numel, rank, world_size)
    else:
        check(word <= numel, "payload", f"at most {numel} coordinates", word)
        check(payload.numel() == _HEAD + value_bytes(word, coding, dtype), "bytes", f"those of {word} values", payload.numel())
        indices = draw_subset(draw, numel, word)
    out[torch.tensor(indices, dtype=torch.long)] = decode_values(payload[_HEAD:], len(indices), coding, dtype)
    return out


CODECS[SUBSET] = Codec(lambda section, at: check_format(section, at, PERMUTED), lambda section, dtype: None, _decode,
                       {"RandK": _randk, "PermK": _permk})
