"""The level coding of codecs 9 and 10: per segment packed codes or Elias's omega code. Plain loops over bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .wire import check

SEGMENT = 65536
PACKED = 0x80000000


def width_of(levels: int) -> int:
    """Bits of a packed level from -levels to levels."""
    return 1 + levels.bit_length()


def packed_bytes(numel: int, width: int) -> int:
    """Length of the packed form of `numel` levels."""
    rows = -(-(numel % 256) // 16)
    return 32 * (width * (numel // 256) + -(-width * rows // 16))


def omega(k: int) -> str:
    """Elias's omega code of k >= 1 as text of 0 and 1."""
    code = "0"
    while k > 1:
        code = f"{k:b}{code}"
        k = k.bit_length() - 1
    return code


def elias(levels: Tensor) -> str:
    """The code of a vector of integers, as one stream."""
    code, last = [], -1
    for i in levels.nonzero().flatten().tolist():
        level = int(levels[i])
        code += [omega(i - last), "1" if level < 0 else "0", omega(abs(level))]
        last = i
    return "".join(code)


def encode(levels: Tensor, width: int) -> Tensor:
    """Heads and bodies of `levels` (int64 [n]): 1-D uint8 tensor."""
    heads, bodies = b"", b""
    for begin in range(0, levels.numel(), SEGMENT):
        part = levels[begin : begin + SEGMENT]
        code = elias(part)
        if -(-len(code) // 8) < packed_bytes(part.numel(), width):
            heads += len(code).to_bytes(4, "little")
            bodies += _to_bytes(code)
        else:
            heads += PACKED.to_bytes(4, "little")
            bodies += bytes(_pack(part, width).tolist())
    return torch.tensor(list(heads + bodies), dtype=torch.uint8)


def decode(data: Tensor, numel: int, width: int) -> Tensor:
    """The inverse of `encode`: int64 [numel]. ValueError if `data` is not a legal coding."""
    at, count = 4 * -(-numel // SEGMENT), -(-numel // SEGMENT)
    check(at <= data.numel(), "bytes", f"at least {at}", data.numel())
    raw, parts = bytes(data.tolist()), [torch.empty(0, dtype=torch.int64)]
    for s in range(count):
        length = min(SEGMENT, numel - s * SEGMENT)
        head, most = int.from_bytes(raw[4 * s : 4 * s + 4], "little"), packed_bytes(length, width)
        check(head == PACKED or head <= 8 * most, "head", f"{PACKED} or at most {8 * most}", head)
        size = most if head == PACKED else -(-head // 8)
        check(at + size <= len(raw), "bytes", f"at least {at + size}", len(raw))
        if head == PACKED:
            parts.append(_unpack(data[at : at + size], length, width))
        else:
            parts.append(_decode_elias(raw[at : at + size], head, length, width))
        at += size
    check(at == len(raw), "bytes", at, len(raw))
    levels = torch.cat(parts)
    check(bool((levels.abs() < 2 ** (width - 1)).all()), "level", f"less than {2 ** (width - 1)}", "a larger one")
    return levels


def entropy_bits(levels: Tensor) -> float:
    """n times the entropy of the levels' empirical distribution."""
    counts = levels.unique(return_counts=True)[1].tolist()
    return sum(c * math.log2(levels.numel() / c) for c in counts)


def _to_bytes(code: str) -> bytes:
    code += "0" * (-len(code) % 8)
    return int(code or "0", 2).to_bytes(len(code) // 8, "big")


def _read_omega(code: str, at: int) -> tuple[int, int]:
    """An integer at bit `at`, and the bit behind it."""
    k = 1
    while code[at : at + 1] == "1":
        check(k <= 16, "payload", "integers of at most 17 bits", "a longer one")
        k, at = int(code[at : at + k + 1], 2), at + k + 1
    return k, at + 1


def _decode_elias(raw: bytes, bits: int, length: int, width: int) -> Tensor:
    code = f"{int.from_bytes(raw, 'big'):0{8 * len(raw)}b}" if raw else ""
    check("1" not in code[bits:], "padding", "0", "a set bit")
    code, at, position, levels = code[:bits], 0, -1, torch.zeros(length, dtype=torch.int64)
    while at < bits:
        gap, at = _read_omega(code, at)
        negative, at = code[at : at + 1] == "1", at + 1
        level, at = _read_omega(code, at)
        position += gap
        check(at <= bits and position < length, "payload", "whole codes of positions in the segment", "others")
        check(level < 2 ** (width - 1), "level", f"less than {2 ** (width - 1)}", level)
        levels[position] = -level if negative else level
    return levels


def _pack(levels: Tensor, width: int) -> Tensor:
    tiles = torch.cat((levels, levels.new_zeros(-levels.numel() % 256))).view(-1, 16, 16)  # [tile, row, lane]
    bits = tiles.transpose(1, 2).unsqueeze(-1) >> torch.arange(width) & 1  # [tile, lane, row, bit]
    words = (bits.reshape(-1, 16, width, 16) << torch.arange(16)).sum(-1).transpose(1, 2)  # [tile, word, lane]
    octets = torch.stack((words & 255, words >> 8), -1).flatten()
    return octets[: packed_bytes(levels.numel(), width)].to(torch.uint8)


def _unpack(data: Tensor, numel: int, width: int) -> Tensor:
    octets = torch.cat((data.to(torch.int64), torch.zeros(-data.numel() % (32 * width), dtype=torch.int64))).view(-1, width, 16, 2)
    words = (octets[..., 0] | octets[..., 1] << 8).transpose(1, 2)  # [tile, lane, word]
    bits = (words.unsqueeze(-1) >> torch.arange(16) & 1).reshape(-1, 16, 16, width)  # [tile, lane, row, bit]
    codes = (bits << torch.arange(width)).sum(-1).transpose(1, 2).flatten()
    levels = torch.where(codes >= 2 ** (width - 1), codes - 2**width, codes)
    check(not bool(levels[numel:].any()), "bits that belong to no element", "0", "a set bit")
    return levels[:numel]
