"""Codec 5 (uniform steps): the grid, the choice of its step, and the interleaved rANS coder. Plain loops over symbols."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from .philox import dither, philox_key
from .wire import CODECS, Codec, Encoding, Key, check, no_parameters

UNIFORM = 5
SEGMENT, LARGEST, ESCAPE = 65536, 32767, 16
MIN_STEP, MAX_STEP = 2.0**-126, 2.0**112
_M = 12582912.0
_LOW, _TOTAL = 1 << 16, 4096


def lanes(numel: int) -> int:
    """Number of rANS states of a segment of `numel` elements."""
    return 32 if numel >= 8192 else 4


def integers(z: Tensor, step: float, u: Tensor | None = None) -> Tensor:
    """q of each element of z (float32): int64. u: the dither, None to round to nearest."""
    t = z * torch.tensor(1 / step, dtype=torch.float32)
    if u is not None:
        t = t + u
    return ((t + _M).clamp(_M - LARGEST, _M + LARGEST) - _M).to(torch.int64)


def streams(q: Tensor) -> tuple[list[int], list[int], list[int], list[int]]:
    """Flags of groups of four, and of the non-zeros: symbols, signs, escapes."""
    padded = torch.cat((q, q.new_zeros(-q.numel() % 4))).view(-1, 4)
    flags = ((padded != 0).to(torch.int64) * torch.tensor([1, 2, 4, 8])).sum(1)
    sent = q[q != 0]
    size = sent.abs()
    return flags.tolist(), (size.clamp(max=ESCAPE) - 1).tolist(), (sent < 0).to(torch.int64).tolist(), size[size >= ESCAPE].tolist()


# ------------------------------------------------------------------ the step


def _log_table() -> list[int]:
    table = []
    for i in range(256):
        y, value = 256 + i << 22, 0
        for _ in range(16):
            y = y * y >> 30
            value = value << 1 | y >> 31
            y >>= y >> 31
        table.append(value)
    return [*table, 1 << 16]


_LOG = _log_table()


def _log2(n: int) -> int:
    """log2 in units of 2^-16."""
    mantissa = n << 32 - n.bit_length()
    low, high = _LOG[mantissa >> 23 & 255], _LOG[(mantissa >> 23 & 255) + 1]
    return (n.bit_length() - 1) * 65536 + low + ((high - low) * (mantissa >> 7 & 0xFFFF) >> 16)


def _entropy(counts: list[int]) -> int:
    total = sum(counts)
    return (total * _log2(total) if total else 0) - sum(c * _log2(c) for c in counts if c)


def _segment_bits(q: Tensor, of: int) -> int:
    """Predicted length, in units of 2^-16 bits, of a segment of `of` elements whose sample has these integers."""
    flags, symbols, _, escapes = streams(q)
    if not symbols:
        return 32 << 16
    counts = [torch.bincount(torch.tensor(s), minlength=16).tolist() for s in (flags, symbols)]
    used = sum(c > 0 for row in counts for c in row) - 2
    coded = _entropy(counts[0]) + _entropy(counts[1]) + (16 * len(escapes) << 16)
    more_signs = max(len(symbols) * of // q.numel() - 16 * lanes(of), 0)
    fixed = 64 + 12 * used + 20 * lanes(of)
    bias = (used * 47 * (of - q.numel()) << 10) // q.numel()
    return coded * of // q.numel() + bias + (more_signs + fixed << 16)


def _sample(z: Tensor) -> list[tuple[Tensor, int]]:
    """Of each segment: the sampled elements, and how many elements it has."""
    numel = z.numel()
    chunks = -(-numel // 64)
    taken = min(chunks, 512 + -(-chunks // 32))
    parts: dict[int, list[Tensor]] = {}
    for j in range(taken):
        low, high = j * chunks // taken, (j + 1) * chunks // taken
        chunk = low + ((j * 0x9E3779B1 & 0xFFFFFFFF) >> 16) % (high - low)
        parts.setdefault(chunk // 1024, []).append(z[64 * chunk : 64 * chunk + 64])
    return [(torch.cat(p), min(SEGMENT, numel - s * SEGMENT)) for s, p in parts.items()]


def _bits_of(value: float) -> int:
    return int.from_bytes(struct.pack("<f", value), "little")


def choose_step(z: Tensor, bits: float, stochastic: bool, key: tuple[int, int]) -> float:
    """The step for `bits` bits per element of z (float32, finite); 0 if z is below 2^-126."""
    sample = _sample(z)
    largest = max((float(part.abs().max()) for part, _ in sample), default=0.0)
    if z.numel() and (stochastic or largest < MIN_STEP):
        largest = float(z.abs().max())
    if largest < MIN_STEP:
        return 0.0
    payload = bits * float(sum(of for _, of in sample))
    wanted = 65536.0 * max(payload, 256.0 + 0.5 * payload)
    scaled = float(torch.tensor(largest, dtype=torch.float32) * (16.0 if stochastic else 1.75))
    top = _bits_of(min(scaled, MAX_STEP))
    bottom = max(_bits_of(largest), _bits_of(MIN_STEP) + (14 << 23)) - (14 << 23)
    count = (top - min(bottom, top) >> 19) + 1

    def step(below: int) -> float:
        return float(struct.unpack("<f", struct.pack("<I", top - below))[0])

    def predicted(candidate: int, rough: int = 1) -> int:
        length = 32 << 16
        for part, of in sample:
            some = part[: (part.numel() // (64 * rough) + 1) * 64]
            u = dither(some.numel(), 0, key) if stochastic else None
            length += _segment_bits(integers(some, step(candidate << 19), u), of)
        return length

    def narrow(fits: int, above: int, rough: int = 1) -> tuple[int, int]:
        while above - fits > 1:
            middle = (fits + above) // 2
            fits, above = (middle, above) if predicted(middle, rough) <= wanted else (fits, middle)
        return fits, above

    guess, stride = narrow(0, count, 8)[0], 1
    if guess == 0 or predicted(guess) <= wanted:
        fits, above = guess, guess + 1
        while above < count and predicted(above) <= wanted:
            fits, above, stride = above, min(count, above + 2 * stride), 2 * stride
    else:
        fits, above = guess - 1, guess
        while fits > 0 and predicted(fits) > wanted:
            fits, above, stride = max(0, fits - 2 * stride), fits, 2 * stride
    fits, above = narrow(fits, above)
    part = 0
    if above < count and predicted(fits) <= wanted:
        low, high = float(predicted(fits)), float(predicted(above))
        part = min(15, int((wanted - low) * 16 / (high - low)))
    return step((fits << 19) + (part << 15))


# ------------------------------------------------------------------ one segment


def frequencies(symbols: list[int]) -> list[int]:
    """Of the 16 symbols, in units of 1/4096."""
    counts = torch.bincount(torch.tensor(symbols), minlength=16).tolist()
    f = [max((c * _TOTAL + len(symbols) // 2) // len(symbols), 1) if c else 0 for c in counts]
    f[counts.index(max(counts))] += _TOTAL - sum(f)
    return f


def _pack(tables: tuple[list[int], list[int]]) -> bytes:
    used = [[s for s in range(16) if f[s]] for f in tables]
    values = [f[s] for f, u in zip(tables, used, strict=True) for s in u[:-1]]
    packed = sum(v << 12 * i for i, v in enumerate(values)).to_bytes(-(-12 * len(values) // 8), "little")
    return struct.pack("<HH", *(sum(1 << s for s in u) for u in used)) + packed


def _pack_states(states: list[int]) -> bytes:
    string = bits = 0
    for x in states:
        e = x.bit_length() - 17
        string |= (e | (x - (_LOW << e)) << 4) << bits
        bits += 20 + e
    return string.to_bytes(-(-bits // 8), "little")


def encode_segment(q: Tensor) -> bytes:
    """The bytes of one segment, empty if all integers are 0."""
    flags, symbols, signs, escapes = streams(q)
    if not symbols:
        return b""
    count = lanes(q.numel())
    tables = frequencies(flags), frequencies(symbols)
    all_signs = sum(sign << i for i, sign in enumerate(signs))
    states = [_LOW | all_signs >> 16 * lane & 0xFFFF for lane in range(count)]
    words = []
    for f, stream in ((tables[1], symbols), (tables[0], flags)):
        start = [sum(f[:s]) for s in range(16)]
        for i in reversed(range(len(stream))):
            s, x = stream[i], states[i % count]
            if x >= f[s] << 20:
                words.append(x & 0xFFFF)
                x >>= 16
            states[i % count] = (x // f[s] << 12) + x % f[s] + start[s]
    more = max(len(symbols) - 16 * count, 0)
    return (_pack(tables) + _pack_states(states) + struct.pack(f"<{len(words)}H", *reversed(words))
            + (all_signs >> 16 * count).to_bytes(-(-more // 8), "little") + struct.pack(f"<{len(escapes)}H", *escapes))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int, what: str) -> bytes:
        check(self.at + size <= len(self.data), "payload", f"{size} bytes of {what}", len(self.data) - self.at)
        self.at += size
        return self.data[self.at - size : self.at]

    def integer(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")


def _unpack(reader: _Reader) -> list[list[int]]:
    masks = struct.unpack("<HH", reader.take(4, "masks"))
    check(min(masks) > 0, "payload", "masks above 0", masks)
    used = [[s for s in range(16) if mask >> s & 1] for mask in masks]
    packed = reader.integer(-(-12 * (len(used[0]) + len(used[1]) - 2) // 8), "tables")
    tables = []
    for symbols in used:
        f = [0] * 16
        for s in symbols[:-1]:
            f[s], packed = packed & 4095, packed >> 12
            check(f[s] > 0, "payload", "frequencies above 0", 0)
        check(sum(f) < _TOTAL, "payload", "frequencies below 4096 in sum", sum(f))
        f[symbols[-1]] = _TOTAL - sum(f)
        tables.append(f)
    check(packed == 0, "payload", "padding of 0", packed)
    return tables


def _unpack_states(reader: _Reader, count: int) -> list[int]:
    string = bits = 0
    states = []

    def take(width: int) -> int:
        nonlocal string, bits
        while bits < width:
            string, bits = string | reader.integer(1, "states") << bits, bits + 8
        value, string, bits = string & (1 << width) - 1, string >> width, bits - width
        return value

    for _ in range(count):
        e = take(4)
        states.append(_LOW << e | take(16 + e))
    check(string == 0, "payload", "padding of 0", string)
    return states


def decode_segment(data: bytes, numel: int) -> Tensor:
    """The integers of one segment: int64 [numel]. ValueError if illegal."""
    if not data:
        return torch.zeros(numel, dtype=torch.int64)
    reader, count = _Reader(data), lanes(numel)
    tables = _unpack(reader)
    states = _unpack_states(reader, count)

    def decoded(f: list[int], length: int) -> list[int]:
        slots = [s for s in range(16) for _ in range(f[s])]
        start, out = [sum(f[:s]) for s in range(16)], []
        for i in range(length):
            x = states[i % count]
            s = slots[x & 4095]
            x = f[s] * (x >> 12) + (x & 4095) - start[s]
            states[i % count] = x << 16 | reader.integer(2, "words") if x < _LOW else x
            out.append(s)
        return out

    flags = torch.tensor(decoded(tables[0], -(-numel // 4)), dtype=torch.int64)
    set_ = (flags.view(-1, 1) >> torch.arange(4) & 1).flatten()
    check(not bool(set_[numel:].any()), "payload", "no flag without an element", 1)
    positions = set_.nonzero().flatten()
    symbols = decoded(tables[1], positions.numel())
    check(all(x >> 16 == 1 for x in states), "payload", "states that end at their start", states)
    signs = sum((x & 0xFFFF) << 16 * lane for lane, x in enumerate(states))
    signs |= reader.integer(-(-max(len(symbols) - 16 * count, 0) // 8), "signs") << 16 * count
    check(signs >> len(symbols) == 0, "payload", "no sign without an element", 1)
    values = [s + 1 if s < 15 else reader.integer(2, "escapes") for s in symbols]
    legal = all(s < 15 or ESCAPE <= v <= LARGEST for s, v in zip(symbols, values, strict=True))
    check(legal, "payload", "escapes from 16 to 32767", values)
    check(reader.at == len(data), "bytes", reader.at, len(data))
    q = torch.zeros(numel, dtype=torch.int64)
    q[positions] = torch.tensor([-v if signs >> i & 1 else v for i, v in enumerate(values)], dtype=torch.int64)
    return q


# ------------------------------------------------------------------ the payload


def empty(numel: int) -> Tensor:
    """The payload of zeros."""
    return torch.zeros(4 + 4 * -(-numel // SEGMENT), dtype=torch.uint8)


def encode(z: Tensor, step: float, u: Tensor | None = None) -> Tensor:
    """Payload of z (float32, finite) at a step, a float32; 0: an empty section. u: the dither, None to round to nearest."""
    q = integers(z, step, u) if step else torch.zeros(z.numel(), dtype=torch.int64)
    if not bool(q.any()):
        return empty(z.numel())
    segments = [encode_segment(part) for part in q.split(SEGMENT)]
    data = struct.pack("<f", step) + struct.pack(f"<{len(segments)}I", *map(len, segments)) + b"".join(segments)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def decode(payload: Tensor, numel: int) -> Tensor:
    """Values: float32 [numel]. ValueError if the payload is one that a reader rejects."""
    reader = _Reader(bytes(payload.tolist()))
    bits = reader.integer(4, "the step")
    step = torch.tensor([bits], dtype=torch.int64).to(torch.int32).view(torch.float32)
    check(bits == 0 or MIN_STEP <= float(step) <= MAX_STEP, "payload", "a step of 0 or from 2^-126 to 2^112", float(step))
    count = -(-numel // SEGMENT)
    check(payload.numel() >= 4 + 4 * count, "bytes", f"at least {4 + 4 * count}", payload.numel())
    lengths = struct.unpack(f"<{count}I", reader.take(4 * count, "lengths"))
    check(4 + 4 * count + sum(lengths) == payload.numel(), "bytes", 4 + 4 * count + sum(lengths), payload.numel())
    check(bits != 0 or not any(lengths), "payload", "lengths of 0 in an empty section", "others")
    parts = [decode_segment(reader.take(length, "a segment"), min(SEGMENT, numel - s * SEGMENT)) for s, length in enumerate(lengths)]
    return torch.cat([torch.empty(0), *(q.to(torch.float32) * step for q in parts)])


def _encode(x: Tensor, key: Key, bits: float | None = None, step: float | None = None, rounding: str | None = None) -> Encoding:
    if (bits is None) == (step is None):
        raise ValueError("bits, step: expected one of them, found " + ("none" if bits is None else "both"))
    z = x.to(torch.float32)
    if not bool(z.isfinite().all()):
        return Encoding(empty(x.numel()), False)
    stochastic, stream = rounding != "nearest", philox_key(key.seed, key.step, key.rank)
    if bits is not None:
        step = choose_step(z, bits, stochastic, stream)
    assert step is not None
    rounded = float(torch.tensor(step, dtype=torch.float32))
    return Encoding(encode(z, rounded, dither(z.numel(), 0, stream) if stochastic else None))


CODECS[UNIFORM] = Codec(no_parameters, lambda section, dtype: None, lambda section, dtype: decode(section.payload, section.numel),
                        {"UniformStep": _encode})
