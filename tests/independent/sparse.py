"""Codecs of a few elements: 6 (sparse vector), 7 (subset), 8 (sparse sign)."""

from __future__ import annotations

import struct

import numpy as np

from .dense import quantizer_bytes, quantizer_values
from .elements import DTYPES, DType, Reader, Section, ceil, floats, philox, read_elements, require, saturate_to, zeros

SEGMENT = 16384


# ---- index coding ---------------------------------------------------------------------------------------------------


def bit(data: bytes, i: int) -> int:
    return data[i // 8] >> i % 8 & 1


def bitmap(reader: Reader, u: int, count: int) -> list[int]:
    body = reader.take(ceil(u, 8))
    positions = [p for p in range(8 * len(body)) if bit(body, p)]
    require(len(positions) == count and all(p < u for p in positions), "a bitmap of other positions than its head says")
    return positions


def elias_fano(reader: Reader, u: int, count: int) -> list[int]:
    low = (u // count).bit_length() - 1
    end = count * low + count + ((u - 1) >> low)
    body = reader.take(ceil(end, 8))
    require(not any(bit(body, i) for i in range(end, 8 * len(body))), "padding")
    ones = [i - count * low for i in range(count * low, end) if bit(body, i)]
    require(len(ones) == count, "another number of positions than the head says")
    positions = []
    for j, one in enumerate(ones):
        lower = sum(bit(body, j * low + i) << i for i in range(low))
        positions.append((one - j << low) + lower)
    require(all(a < b for a, b in zip([-1, *positions], positions)), "positions that do not ascend")
    require(positions[-1] < u, "a position beyond the segment")
    return positions


def index_coding(reader: Reader, n: int) -> list[int]:
    data = reader.take(2 * ceil(n, SEGMENT))
    heads = struct.unpack(f"<{len(data) // 2}H", data)
    indices: list[int] = []
    for s, head in enumerate(heads):
        u, count = min(SEGMENT, n - s * SEGMENT), head & 0x7FFF
        require(count <= u and head != 0x8000, "an illegal head")
        if count:
            indices += [s * SEGMENT + p for p in (bitmap if head >> 15 else elias_fano)(reader, u, count)]
    return indices


# ---- value coding ---------------------------------------------------------------------------------------------------

QUANTIZED = 4  # codings from here on are payloads of codec 1


def value_type(section: Section, dtype: DType) -> DType:
    return (dtype, DTYPES[0], DTYPES[2], DTYPES[3])[section.variant & 7]


def value_bytes(m: int, section: Section, dtype: DType) -> int:
    if section.variant & 7 < QUANTIZED:
        return m * value_type(section, dtype).size
    return quantizer_bytes(m, section.bits, section.block, (section.variant & 7) - QUANTIZED)


def value_coding(data: bytes, m: int, section: Section, dtype: DType) -> np.ndarray:
    require(len(data) == value_bytes(m, section, dtype), "another length than that of as many values as coordinates")
    coding = section.variant & 7
    if coding < QUANTIZED:
        values = read_elements(data, value_type(section, dtype))
    else:
        with np.errstate(over="ignore"):
            values = quantizer_values(data, m, section.bits, section.block, coding - QUANTIZED)
    require(bool(np.isfinite(values).all()), "a value that is not finite")
    return saturate_to(values, dtype) if coding else values


# ---- codec 6: sparse vector -----------------------------------------------------------------------------------------


def sparse_vector(payload: bytes, section: Section, dtype: DType) -> np.ndarray:
    reader = Reader(payload)
    indices = index_coding(reader, section.numel)
    entries = value_coding(reader.rest(), len(indices), section, dtype)
    values = zeros(section.numel)
    values[indices] = entries
    return values


# ---- codec 7: subset ------------------------------------------------------------------------------------------------


def drawn(key: int, n: int, k: int) -> list[int]:
    d_all = k if k <= n // 2 else n - k
    words, chosen = philox(key, 2 * d_all).tolist(), set()
    for d in range(d_all):
        j = n - d_all + d
        t = (words[2 * d] + (words[2 * d + 1] << 32)) * (j + 1) >> 64
        chosen.add(j if t in chosen else t)
    return sorted(chosen) if d_all == k else sorted(set(range(n)) - chosen)


def permuted(key: int, n: int, rank: int, world: int) -> list[int]:
    words = philox(key, ceil(n, world)).tolist()
    elements = [g * world + (rank + (word * world >> 32)) % world for g, word in enumerate(words)]
    return [i for i in elements if i < n]


def subset(payload: bytes, section: Section, dtype: DType) -> np.ndarray:
    n = section.numel
    require(n < 1 << 32, "too many elements")
    reader = Reader(payload)
    key, word = struct.unpack("<QQ", reader.take(16))
    data = reader.rest()
    if word == 0:
        require(not any(payload) and len(data) <= value_bytes(n, section, dtype), "word = 0 with more than zeros")
        return zeros(n)
    if section.variant & 8:
        rank, world = word & 0xFFFFFFFF, word >> 32
        require(rank < world, "rank")
        fits = value_bytes(n // world, section, dtype) <= len(data) <= value_bytes(ceil(n, world), section, dtype)
        require(fits, "length")  # before anything is drawn
        values, coordinates = zeros(n), permuted(key, n, rank, world)
    else:
        require(word <= n and len(data) == value_bytes(word, section, dtype), "more coordinates than elements, or length")
        values, coordinates = zeros(n), drawn(key, n, word)
    values[coordinates] = value_coding(data, len(coordinates), section, dtype)
    return values


# ---- codec 8: sparse sign -------------------------------------------------------------------------------------------


def sparse_sign(payload: bytes, section: Section, dtype: DType) -> np.ndarray:
    reader = Reader(payload)
    scale = floats(struct.unpack("<I", reader.take(4)))
    require(bool(np.isfinite(scale[0])) and not np.signbit(scale[0]), "the scale")
    indices = index_coding(reader, section.numel)
    require((scale[0] > 0) == bool(indices), "a scale of 0 with entries or another without")
    signs = reader.take(ceil(len(indices), 8))
    reader.end()
    require(not any(bit(signs, i) for i in range(len(indices), 8 * len(signs))), "bits behind the last sign")
    values, magnitude = zeros(section.numel), saturate_to(scale, dtype)[0]
    values[indices] = [-magnitude if bit(signs, j) else magnitude for j in range(len(indices))]
    return values
