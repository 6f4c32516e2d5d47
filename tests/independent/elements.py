"""What every codec of the independent decoder uses: a section's entry, dtypes, lanes and bits, and the refusal."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Illegal(ValueError):
    """The bytes are not a message."""


class TooLarge(Exception):
    """A section with no byte of fault yet, of more elements than this decoder wants to hold."""


MOST = 1 << 24


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


def zeros(n: int) -> np.ndarray:
    """n values; few bytes may claim very many."""
    if n > MOST:
        raise TooLarge(n)
    return np.zeros(n)


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

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def end(self) -> None:
        require(self.at == len(self.data), "the payload is too long")


def saturate_to(values: np.ndarray, dtype: DType) -> np.ndarray:
    """As round_to, but what would overflow becomes the largest finite number of its sign."""
    largest = {"float16": 65504.0, "bfloat16": float.fromhex("0x1.FEp127")}.get(dtype.name, np.inf)
    return np.clip(round_to(values, dtype), -largest, largest)


def floats(patterns: list[int] | tuple[int, ...] | np.ndarray) -> np.ndarray:
    return np.array(patterns, np.uint32).view(np.float32)


# ---- random words ---------------------------------------------------------------------------------------------------


def philox(key: int, count: int) -> np.ndarray:
    """The first `count` output words of Philox4x32-10 with the counters 0, 1, ..., as uint64."""
    counters = np.arange(ceil(count, 4), dtype=np.uint64)
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    c = [counters & low, counters >> shift, np.zeros_like(counters), np.zeros_like(counters)]
    k = [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [p1 >> shift ^ c[1] ^ np.uint64(k[0]), p1 & low, p0 >> shift ^ c[3] ^ np.uint64(k[1]), p0 & low]
        k = [k[0] + 0x9E3779B9 & 0xFFFFFFFF, k[1] + 0xBB67AE85 & 0xFFFFFFFF]
    return np.stack(c, 1).reshape(-1)[:count]
