"""A decoder of torch_smoothquant's messages, written from docs/wire_format.md alone, in Python, struct and numpy.

It shares no line with the library or with its reference, and is as strict as the page says a reader is: what it accepts, with which values,
is a test of the page. ``decode(bytes)`` gives the values as float64, each representable in the dtype of the header. A new codec is one
function and one entry of CODECS.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Illegal(ValueError):
    """The bytes are not a message."""


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Illegal(what)


class Section(NamedTuple):
    codec: int
    flags: int
    bits: int
    variant: int
    block: int
    numel: int
    bytes: int


class DType(NamedTuple):
    name: str
    size: int


DTYPES = (DType("float32", 4), DType("float64", 8), DType("float16", 2), DType("bfloat16", 2))


def ceil(a: int, b: int) -> int:
    return -(-a // b)


# ---- element types --------------------------------------------------------------------------------------------------


def read_elements(data: bytes, dtype: DType) -> np.ndarray:
    """Little-endian elements as float64."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        if dtype.name == "bfloat16":
            return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return np.frombuffer(data, {"float32": "<f4", "float64": "<f8", "float16": "<f2"}[dtype.name]).astype(np.float64)


def round_to(values: np.ndarray, dtype: DType) -> np.ndarray:
    """float32 values rounded once to the header's type, to nearest even, as float64."""
    with np.errstate(over="ignore"):
        if dtype.name == "float16":
            return values.astype(np.float32).astype(np.float16).astype(np.float64)
        if dtype.name != "bfloat16":
            return values.astype(np.float64)
        bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
        rounded = bits + 0x7FFF + (bits >> 16 & 1)
        return ((rounded >> 16 << 16).astype(np.uint32)).view(np.float32).astype(np.float64)


# ---- lanes, rows, words ---------------------------------------------------------------------------------------------


def tile_codes(data: bytes, elements: int, bits: int) -> list[int]:
    """The codes of a tile of up to 256 elements, "interleaved-32": 32 words, one per lane, rows in ascending bits."""
    rows = ceil(elements, 32)
    width = ceil(bits * rows, 8)
    require(len(data) == 32 * width, "a tile of another length")
    words = [int.from_bytes(data[lane * width:(lane + 1) * width], "little") for lane in range(32)]
    codes = []
    for i in range(elements):
        lane, row = i % 32, i // 32
        codes.append(words[lane] >> row * bits & (1 << bits) - 1)
        words[lane] &= ~((1 << bits) - 1 << row * bits)
    require(not any(words), "bits that belong to no element")
    return codes


class Reader:
    """Bytes from the front; whoever takes too many is told so."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        require(count <= len(self.data) - self.at, "the payload is too short")
        self.at += count
        return self.data[self.at - count:self.at]

    def end(self) -> None:
        require(self.at == len(self.data), "the payload is too long")


# ---- codec 0: raw ---------------------------------------------------------------------------------------------------


def raw(payload: bytes, section: Section, dtype: DType) -> np.ndarray:
    require(len(payload) == section.numel * dtype.size, "length")
    return read_elements(payload, dtype)


# ---- codecs 1 to 3: the block quantizer and its relatives -----------------------------------------------------------

UNBIASED, FIT = 0, 1


def block_values(codes: list[int], pattern: int, bits: int, levels: int) -> list[np.float32]:
    """The values of one block from its codes and its scale's bit pattern."""
    negative, magnitude = pattern >> 31, np.uint32(pattern & 0x7FFFFFFF).view(np.float32)
    top = (1 << bits) - 1
    zero_centred = 2 * ((1 << bits - 1) - 1)  # 2 s, the largest code
    cap = np.float32(float.fromhex("0x1.FFFFFp127")) / np.float32(top if negative else max(zero_centred // 2, 1))
    require(bool(magnitude <= cap), "a scale above cap")
    if pattern == 0:
        require(not any(codes), "a code in an empty block")
        return [np.float32(0)] * len(codes)
    if levels == UNBIASED:
        require(not negative, "a sign bit under unbiased")
        if bits == 1:
            return [np.float32(2 * q - 1) * magnitude for q in codes]
    elif negative:
        return [np.float32(2 * q + 1 - (top + 1)) * magnitude for q in codes]
    else:
        require(bits > 1, "fit with one bit is mid-rise")
    require(all(q <= zero_centred for q in codes), "an illegal code")
    return [np.float32(q - zero_centred // 2) * magnitude for q in codes]


def quantizer(payload: bytes, section: Section, dtype: DType) -> np.ndarray:
    n, bits, block = section.numel, section.bits, section.block
    width, levels = (2 if section.variant & 2 else 4), section.variant & 1
    length = width * ceil(n, block) + 32 * (bits * (n // 256) + ceil(bits * ceil(n % 256, 32), 8))
    require(len(payload) == length, "length")
    reader, group, values = Reader(payload), max(block, 256), []
    for begin in range(0, n, group):
        m = min(group, n - begin)
        count = ceil(m, block)
        scales = struct.unpack(f"<{count}{'H' if width == 2 else 'I'}", reader.take(width * count))
        codes: list[int] = []
        for tile in range(0, m, 256):
            t = min(256, m - tile)
            codes += tile_codes(reader.take(32 * ceil(bits * ceil(t, 32), 8)), t, bits)
        for i, scale in enumerate(scales):
            pattern = scale << 16 if width == 2 else scale
            values += block_values(codes[i * block:(i + 1) * block], pattern, bits, levels)
    reader.end()
    return round_to(np.array(values, np.float32), dtype)


# ---- codec 4: natural -----------------------------------------------------------------------------------------------


def natural(payload: bytes, section: Section, dtype: DType) -> np.ndarray:
    n = section.numel
    require(len(payload) == n + 32 * ceil(n, 256), "length")
    reader, patterns = Reader(payload), []
    for tile in range(0, n, 256):
        t = min(256, n - tile)
        exponents, signs = reader.take(t), reader.take(32)
        for i, exponent in enumerate(exponents):
            sign = signs[i % 32] >> i // 32 & 1
            require(exponent != 255, "an exponent of 255")
            require(exponent > 0 or not sign, "the sign of a zero")
            patterns.append(sign << 31 | exponent << 23)
        for i in range(t, 256):
            require(not signs[i % 32] >> i // 32 & 1, "a sign that belongs to no element")
    return round_to(np.array(patterns, np.uint32).view(np.float32), dtype)


# ---- codec 6: top-k -------------------------------------------------------------------------------------------------

SEGMENT = 16384


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
    heads = struct.unpack(f"<{ceil(n, SEGMENT)}H", reader.take(2 * ceil(n, SEGMENT)))
    indices: list[int] = []
    for s, head in enumerate(heads):
        u, count = min(SEGMENT, n - s * SEGMENT), head & 0x7FFF
        require(count <= u and head != 0x8000, "an illegal head")
        if count:
            indices += [s * SEGMENT + p for p in (bitmap if head >> 15 else elias_fano)(reader, u, count)]
    return indices


def top_k(payload: bytes, section: Section, dtype: DType) -> np.ndarray:
    require(section.numel <= SEGMENT * len(payload), "length")  # two bytes of head for every segment, so that n is credible
    reader = Reader(payload)
    indices = index_coding(reader, section.numel)
    entries = read_elements(reader.take(len(indices) * dtype.size), dtype)
    reader.end()
    require(bool(np.isfinite(entries).all()), "a value that is not finite")
    values = np.zeros(section.numel)
    values[indices] = entries
    return values


# ---- messages -------------------------------------------------------------------------------------------------------


class Codec(NamedTuple):
    """What a table entry may say, and the payload's reader."""

    read: Callable[[bytes, Section, DType], np.ndarray]
    bits: range = range(1)
    variants: Sequence[int] = range(1)
    has_block: bool = False


CODECS = {
    0: Codec(raw),
    1: Codec(quantizer, range(1, 9), range(4), True),
    2: Codec(quantizer, range(1, 2), (0, 2), True),
    3: Codec(quantizer, range(2, 3), (0, 2), True),
    4: Codec(natural),
    6: Codec(top_k),
}


def read_section(payload: bytes, section: Section, dtype: DType) -> np.ndarray:
    require(section.codec in CODECS, f"codec {section.codec}")
    codec = CODECS[section.codec]
    require(section.flags in (0, 1), "flags")
    require(section.bits in codec.bits and section.variant in codec.variants, "bits or variant")
    blocks = [1 << k for k in range(5, 13)] if codec.has_block else [0]
    require(section.block in blocks, "block")
    values = codec.read(payload, section, dtype)
    if section.flags & 1:
        require(not any(payload), "a payload in a section that is not finite")
        return np.full(section.numel, np.nan)
    return values


def dtype_of(message: bytes) -> str:
    return DTYPES[message[6]].name


def decode(message: bytes) -> np.ndarray:
    """All sections' values, in order. Raises Illegal."""
    require(len(message) >= 32, "no header")
    magic, version, dtype, kind, sections, _rank, _step, length = struct.unpack_from("<4sHBBIIQQ", message)
    require(magic == b"TSQM" and version == 1, "magic or version")
    require(dtype < len(DTYPES) and kind < 2, "dtype or kind")
    require(length == len(message), "length")
    at = 32 + 24 * sections
    require(at <= len(message), "the section table does not fit")
    out = [np.zeros(0)]
    table = [Section(*struct.unpack_from("<4BIQQ", message, 32 + 24 * i)) for i in range(sections)]
    for section in table:
        require(section.bytes <= len(message) - at, "a payload does not fit")
        out.append(read_section(message[at:at + section.bytes], section, DTYPES[dtype]))
        at += section.bytes
    require(at == len(message), "bytes behind the last payload")
    return np.concatenate(out)
