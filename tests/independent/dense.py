"""Codecs whose payload has something for every element: 0 to 4, 9 to 12."""

from __future__ import annotations

import struct

import numpy as np

from .elements import DType, Reader, Section, ceil, floats, read_elements, require, round_to, tile_codes, zeros

LARGEST = float.fromhex("0x1.FFFFFp127")

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
    cap = np.float32(LARGEST) / np.float32(top if negative else max(zero_centred // 2, 1))
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


def quantizer_bytes(n: int, bits: int, block: int, variant: int) -> int:
    return (2 if variant & 2 else 4) * ceil(n, block) + 32 * (bits * (n // 256) + ceil(bits * ceil(n % 256, 32), 8))


def quantizer_values(payload: bytes, n: int, bits: int, block: int, variant: int) -> np.ndarray:
    """float32 values of a codec 1 payload."""
    require(len(payload) == quantizer_bytes(n, bits, block, variant), "length")
    width = 2 if variant & 2 else 4
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
            values += block_values(codes[i * block:(i + 1) * block], pattern, bits, variant & 1)
    reader.end()
    return np.array(values, np.float32)


def mixed_values(payload: bytes, n: int, block: int, variant: int) -> np.ndarray:
    """float32 values where every run has a width of its own."""
    reader, run, values = Reader(payload), max(block, 1024), [np.zeros(0, np.float32)]
    table = reader.take(ceil(ceil(n, run), 2))
    codes = [half for byte in table for half in (byte % 16, byte // 16)]
    require(all(code < 8 for code in codes), "a width above 8")
    require(not any(codes[ceil(n, run):]), "a width of no run")
    for begin, code in zip(range(0, n, run), codes, strict=False):
        m = min(run, n - begin)
        values.append(quantizer_values(reader.take(quantizer_bytes(m, code + 1, block, variant)), m, code + 1, block, variant))
    require(not any(reader.take(len(payload) - reader.at)), "bytes behind the last run")
    return np.concatenate(values)


def quantizer(payload: bytes, section: Section, dtype: DType) -> np.ndarray:
    if section.bits == 0:
        return round_to(mixed_values(payload, section.numel, section.block, section.variant), dtype)
    return round_to(quantizer_values(payload, section.numel, section.bits, section.block, section.variant), dtype)


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
    return round_to(floats(patterns), dtype)


# ---- codecs 9 and 10: dithering, natural dithering ------------------------------------------------------------------

LEVELS_SEGMENT = 65536
PACKED = 0x80000000


def packed_bytes(u: int, w: int) -> int:
    return 32 * (w * (u // 256) + ceil(w * ceil(u % 256, 16), 16))


def packed_levels(reader: Reader, u: int, w: int) -> list[int]:
    levels: list[int] = []
    for tile in range(0, u, 256):
        t = min(256, u - tile)
        words = np.frombuffer(reader.take(packed_bytes(t, w)), "<u2").reshape(-1, 16)
        lanes = [int.from_bytes(words[:, lane].tobytes(), "little") for lane in range(16)]
        for i in range(t):
            code = lanes[i % 16] >> i // 16 * w & (1 << w) - 1
            lanes[i % 16] &= ~((1 << w) - 1 << i // 16 * w)
            require(code != 1 << w - 1, "the code -2^(w-1)")
            levels.append(code - (code >> w - 1 << w))
        require(not any(lanes), "bits that belong to no level")
    return levels


class Bits:
    """The bits of an Elias code, each byte's highest first."""

    def __init__(self, data: bytes, count: int) -> None:
        self.text = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}" if data else ""
        require("1" not in self.text[count:], "padding")
        self.text, self.at = self.text[:count], 0

    def take(self, count: int) -> int:
        require(count <= len(self.text) - self.at, "a code that goes on behind its last bit")
        self.at += count
        return int(self.text[self.at - count:self.at], 2)

    def omega(self) -> int:
        k = 1
        while self.take(1):
            require(k < 17, "an integer of more than 17 bits")
            k = (1 << k) + self.take(k)
        return k


def elias_levels(reader: Reader, u: int, w: int, count: int) -> list[int]:
    code, levels, position = Bits(reader.take(ceil(count, 8)), count), [0] * u, -1
    while code.at < count:
        position += code.omega()
        require(position < u, "a position behind the segment's end")
        negative, magnitude = code.take(1), code.omega()
        require(magnitude < 1 << w - 1, "a level beyond top")
        levels[position] = -magnitude if negative else magnitude
    return levels


def level_coding(reader: Reader, n: int, w: int) -> np.ndarray:
    segments = ceil(n, LEVELS_SEGMENT)
    heads = struct.unpack(f"<{segments}I", reader.take(4 * segments))
    levels: list[int] = []
    for s, head in enumerate(heads):
        u = min(LEVELS_SEGMENT, n - s * LEVELS_SEGMENT)
        require(head == PACKED or head <= 8 * packed_bytes(u, w), "an illegal head")
        levels += packed_levels(reader, u, w) if head == PACKED else elias_levels(reader, u, w, head)
    return np.array(levels, np.int64)


def dithering(payload: bytes, section: Section, dtype: DType) -> np.ndarray:
    n, block, w = section.numel, section.block or max(section.numel, 1), section.bits
    reader = Reader(payload)
    scales = floats(struct.unpack(f"<{ceil(n, block)}I", reader.take(4 * ceil(n, block))))
    top = (1 << w - 1) - 1
    natural_levels = section.codec == 10
    cap = np.float32(LARGEST / (2.0 ** (top - 1) if natural_levels else top))
    require(not np.signbit(scales).any() and bool((scales <= cap).all()), "a scale that is NaN, negative or above cap")
    q = level_coding(reader, n, w)
    reader.end()
    f = np.repeat(scales, block)[:n]
    require(not q[f == 0].any(), "a level in a block with scale 0")
    if natural_levels:
        return round_to(np.where(q == 0, 0, np.sign(q) * 2.0 ** (np.abs(q) - 1)).astype(np.float32) * f, dtype)
    return round_to(q.astype(np.float32) * f, dtype)


# ---- codec 11: cast -------------------------------------------------------------------------------------------------

CAST_LIMITS = (0x7BFF, 0x7F7F, 0x7E, 0x7B)  # the codes of the largest numbers


def fp8_numbers(mantissa_bits: int, bias: int) -> np.ndarray:
    """What the 256 codes stand for; those beyond the largest are never used."""
    code = np.arange(256)
    field, mantissa = code >> mantissa_bits & (1 << 7 - mantissa_bits) - 1, code & (1 << mantissa_bits) - 1
    fraction = mantissa / 2.0**mantissa_bits
    magnitude = np.where(field == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (field - bias))
    return np.where(code >> 7, -magnitude, magnitude).astype(np.float32)


def cast(payload: bytes, section: Section, dtype: DType) -> np.ndarray:
    n, limit = section.numel, CAST_LIMITS[section.variant]
    if section.variant < 2:
        require(len(payload) == 2 * n, "length")
        require(bool((np.frombuffer(payload, "<u2") & 0x7FFF <= limit).all()), "Inf or NaN")
        return round_to(read_elements(payload, DType(("float16", "bfloat16")[section.variant], 2)), dtype)
    require(len(payload) == n + 4 * ceil(n, 256), "length")
    numbers = fp8_numbers(3, 7) if section.variant == 2 else fp8_numbers(2, 15)
    reader, values = Reader(payload), [np.zeros(0, np.float32)]
    for begin in range(0, n, 256):
        scale = floats(struct.unpack("<I", reader.take(4)))
        codes = np.frombuffer(reader.take(min(256, n - begin)), np.uint8)
        in_range = bool(scale[0] <= np.float32(LARGEST / float(numbers[limit])))
        require(in_range and not np.signbit(scale[0]), "a scale that is NaN, negative or above its limit")
        require(bool((codes & 0x7F <= limit).all()), "Inf or NaN")
        require(scale[0] > 0 or not codes.any(), "a code in a block with scale 0")
        values.append(numbers[codes] * scale)
    return round_to(np.concatenate(values), dtype)


# ---- codec 12: nothing ----------------------------------------------------------------------------------------------


def nothing(payload: bytes, section: Section, dtype: DType) -> np.ndarray:
    require(len(payload) == 0, "length")
    return zeros(section.numel)


# ---- codec 13: stepped levels ---------------------------------------------------------------------------------------


def stepped(payload: bytes, section: Section, dtype: DType) -> np.ndarray:
    n, size = section.numel, 2 if section.variant else 4
    if n == 0:
        require(len(payload) == 0, "length")
        return zeros(0)
    blocks, reader = min(section.block, n), Reader(payload)
    patterns = struct.unpack(f"<{blocks}{'H' if size == 2 else 'I'}", reader.take(size * blocks))
    scales = floats([p << 16 if size == 2 else p for p in patterns])
    (w,) = reader.take(1)
    require(w == 0 or 2 <= w <= 16, "width")
    cap = np.float32(LARGEST / ((1 << w - 1) - 1)) if w else np.float32(0)
    require(not np.signbit(scales).any() and bool((scales <= cap).all()), "a scale that is NaN, negative or above cap")
    if w == 0:
        require(not any(reader.take(4 * ceil(n, LEVELS_SEGMENT))), "a head that is not 0 with width 0")
    q = level_coding(reader, n, w) if w else np.zeros(n, np.int64)
    reader.end()
    edges = [n * block // blocks for block in range(blocks + 1)]
    f = np.repeat(scales, np.diff(edges))
    require(not q[f == 0].any(), "a level in a block with scale 0")
    return round_to(q.astype(np.float32) * f, dtype)
