"""Codec 5: uniform steps, with its three streams coded by rANS."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from .elements import DType, Reader, Section, ceil, floats, require, round_to

SEGMENT = 65536
ONE = 1 << 16  # the least state


class Table(NamedTuple):
    """For each r = x mod 4096: the symbol, its frequency, and r - start."""

    symbol: list[int]
    frequency: list[int]
    offset: list[int]


def table(used: list[int], sent: list[int]) -> Table:
    require(all(f > 0 for f in sent) and sum(sent) < 4096, "frequencies")
    out = Table([], [], [])
    for symbol, f in zip(used, [*sent, 4096 - sum(sent)]):
        out.symbol.extend([symbol] * f)
        out.frequency.extend([f] * f)
        out.offset.extend(range(f))
    return out


def read_tables(reader: Reader) -> tuple[Table, Table]:
    masks = struct.unpack("<2H", reader.take(4))
    require(all(masks), "a mask of 0")
    flags, magnitudes = ([s for s in range(16) if mask >> s & 1] for mask in masks)
    count = len(flags) + len(magnitudes) - 2
    packed = int.from_bytes(reader.take(ceil(12 * count, 8)), "little")
    require(packed >> 12 * count == 0, "bits behind the frequencies")
    sent = [packed >> 12 * i & 4095 for i in range(count)]
    return table(flags, sent[:len(flags) - 1]), table(magnitudes, sent[len(flags) - 1:])


def read_states(reader: Reader, lanes: int) -> list[int]:
    """A state's exponent says how many bits follow: the string is taken byte by byte."""
    string, have, states = 0, 0, []
    for _ in range(lanes):
        for need in (4, None):
            width = need or 16 + states[-1]
            while have < width:
                string |= reader.take(1)[0] << have
                have += 8
            field, string, have = string % (1 << width), string >> width, have - width
            if need:
                states.append(field)
            else:
                states[-1] = (1 << width) + field
    require(string == 0, "bits behind the states")
    return states


def symbols(reader: Reader, states: list[int], count: int, t: Table) -> list[int]:
    out, lanes = [], len(states)
    for i in range(count):
        x = states[i % lanes]
        r = x & 4095
        out.append(t.symbol[r])
        x = t.frequency[r] * (x >> 12) + t.offset[r]
        states[i % lanes] = x if x >= ONE else x << 16 | int.from_bytes(reader.take(2), "little")
    return out


def read_signs(reader: Reader, states: list[int], count: int) -> list[int]:
    require(all(ONE <= x < 2 * ONE for x in states), "an end state")
    bits = [x >> k & 1 for x in states for k in range(16)]
    if count > len(bits):
        bits += [byte >> k & 1 for byte in reader.take(ceil(count - len(bits), 8)) for k in range(8)]
    require(not any(bits[count:]), "a sign that belongs to no element")
    return bits[:count]


def segment(data: bytes, m: int) -> list[int]:
    """The integers of m elements."""
    if not data:
        return [0] * m
    reader = Reader(data)
    flags, magnitudes = read_tables(reader)
    lanes = 32 if m >= 8192 else 4
    states = read_states(reader, lanes)
    used = [symbol >> k & 1 for symbol in symbols(reader, states, ceil(m, 4), flags) for k in range(4)]
    require(not any(used[m:]), "a flag that belongs to no element")
    places = [i for i, flag in enumerate(used) if flag]
    found = symbols(reader, states, len(places), magnitudes)
    signs = read_signs(reader, states, len(places))
    q = [0] * m
    for place, magnitude, negative in zip(places, found, signs):
        value = magnitude + 1
        if magnitude == 15:
            value = int.from_bytes(reader.take(2), "little")
            require(16 <= value <= 32767, "an escape")
        q[place] = -value if negative else value
    reader.end()
    return q


def uniform(payload: bytes, section: Section, dtype: DType) -> np.ndarray:
    n, reader = section.numel, Reader(payload)
    pattern, = struct.unpack("<I", reader.take(4))
    step = floats([pattern])
    require(pattern == 0 or (pattern >> 31 == 0 and bool(2.0**-126 <= step[0] <= 2.0**112)), "the step")
    data = reader.take(4 * ceil(n, SEGMENT))
    lengths = struct.unpack(f"<{len(data) // 4}I", data)
    require(sum(lengths) == len(payload) - reader.at, "lengths that do not add up")
    require(pattern != 0 or not any(lengths), "a step of 0 with more than zeros")
    q: list[int] = []
    for s, length in enumerate(lengths):
        q += segment(reader.take(length), min(SEGMENT, n - s * SEGMENT))
    return round_to(np.array(q, np.int64).astype(np.float32) * step, dtype)
