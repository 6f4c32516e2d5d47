"""Every codec of wire format version 1 in plain torch: the oracle that the C++ and CUDA code is tested against.

Written from docs/wire_format.md alone and meant to be read beside it. Works where the package's extension is not built.

Note [One rounding per operation]: the document fixes fp32 arithmetic, so nothing may be contracted or reordered. Three
habits of torch are avoided on purpose: `scalar / tensor` is a reciprocal and a product (two roundings), `torch.sum` has
its own order of adding, `torch.sqrt` may be a vector library's. A root or quotient in fp64, rounded to fp32, is exact.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import reference_sparse

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # the header's dtype is an index into this
LEVELS = ("unbiased", "fit")  # the section's levels is an index into this
RAW, QUANTIZER, SIGN, TERNARY, NATURAL, TOPK = 0, 1, 2, 3, 4, 6  # codecs
NON_FINITE = 1  # flags: bit 0

_MAGIC, _VERSION = b"TSQM", 1
_HEADER = struct.Struct("<4sHBBIIQQ")  # magic, version, dtype, kind, sections, rank, step, length
_ENTRY = struct.Struct("<BBBBIQQ")  # codec, flags, bits, levels, block, numel, bytes
_U32, _U64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_M = 12582912.0  # adding and subtracting it rounds to an integer, half to even
_TINY_BITS, _HUGE_BITS, _ABS_BITS, _MAX = 0x04800000, 0x7B800000, 0x7FFFFFFF, float.fromhex("0x1.FFFFFp127")
_BITS = {SIGN: 1, TERNARY: 2}  # codecs whose payload is that of an unbiased block quantizer of so many bits
_STEP = (1.596, 0.9957, 0.586, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308)  # c_1 .. c_8


@dataclass(frozen=True)
class Section:
    """One entry of the section table, and its payload (1-D uint8 tensor)."""
    codec: int
    flags: int
    bits: int
    levels: int
    block: int
    numel: int
    bytes: int
    payload: Tensor = field(repr=False, compare=False)


@dataclass(frozen=True)
class Message:
    """A parsed message: the header's fields (but magic and version) and the sections in table order."""
    dtype: torch.dtype
    kind: int
    rank: int
    step: int
    length: int
    sections: tuple[Section, ...]


def parse_message(message: Tensor | bytes) -> Message:
    """Reads header and section table and cuts the payloads; every field and length is checked, no payload is decoded.

    Args:
        message: 1-D uint8 tensor, or bytes.
    Raises:
        ValueError: a field is illegal; the text names the field, what was expected and what was found.
    """
    data = message.detach().cpu() if isinstance(message, Tensor) else torch.tensor(list(message), dtype=torch.uint8)
    _check(data.dtype == torch.uint8 and data.dim() == 1, "message", "1-D uint8", f"{data.dim()}-D {data.dtype}")
    total = data.numel()
    _check(total >= _HEADER.size, "message", f"at least {_HEADER.size} bytes", total)
    magic, version, dtype, kind, count, rank, step, length = _HEADER.unpack(bytes(data[: _HEADER.size].tolist()))
    _check(magic == _MAGIC, "magic", _MAGIC.hex(), magic.hex())
    _check(version == _VERSION, "version", _VERSION, version)
    _check(dtype < len(DTYPES), "dtype", "0 to 3", dtype)
    _check(kind <= 1, "kind", "0 or 1", kind)
    _check(length == total, "length", f"{total} (the bytes given)", length)
    begin = _HEADER.size + _ENTRY.size * count
    _check(begin <= total, "sections", f"at most {(total - _HEADER.size) // _ENTRY.size}", count)
    sections = []
    table = bytes(data[_HEADER.size : begin].tolist())
    for i, (codec, flags, bits, levels, block, numel, size) in enumerate(_ENTRY.iter_unpack(table)):
        at = f"section {i}: "
        _check(codec in (RAW, QUANTIZER, SIGN, TERNARY, NATURAL, TOPK), at + "codec", "0 to 4 or 6", codec)
        _check(flags & ~NON_FINITE == 0, at + "flags", "0 or 1", flags)
        expected = size
        if codec in (RAW, NATURAL, TOPK):
            _check((bits, levels, block) == (0, 0, 0), at + "bits, levels, block", "0, 0, 0", (bits, levels, block))
        if codec == RAW:
            expected = numel * DTYPES[dtype].itemsize
        elif codec == NATURAL:
            expected = numel + 32 * -(-numel // 256)
        elif codec == TOPK:  # the rest of its length is in the payload
            _check(size >= 2 * -(-numel // reference_sparse.SEGMENT), at + "bytes", "an index head per segment", size)
        else:
            _check(levels < (1 if codec in _BITS else len(LEVELS)), at + "levels", "a legal one", levels)
            _check(bits == _BITS.get(codec, bits), at + "bits", _BITS.get(codec), bits)
            _check_quantizer(bits, block, LEVELS[levels], at)
            expected = payload_bytes(numel, bits, block)
        _check(size == expected, at + "bytes", expected, size)
        _check(begin + size <= total, at + "bytes", f"at most {total - begin} (left in the message)", size)
        sections.append(Section(codec, flags, bits, levels, block, numel, size, data[begin : begin + size]))
        begin += size
    _check(begin == total, "length", f"{begin} (header, table and payloads)", total)
    return Message(DTYPES[dtype], kind, rank, step, length, tuple(sections))


def build_message(sections: list[Section], dtype: torch.dtype, kind: int = 0, rank: int = 0, step: int = 0) -> Tensor:
    """Joins header, section table and payloads: 1-D uint8 tensor. The inverse of `parse_message`."""
    _check(dtype in DTYPES, "dtype", f"one of {DTYPES}", dtype)
    for name, value, last in (("kind", kind, 1), ("rank", rank, _U32), ("step", step, _U64)):
        _check(0 <= value <= last, name, f"0 to {last}", value)
    length = _HEADER.size + sum(_ENTRY.size + s.bytes for s in sections)
    head = _HEADER.pack(_MAGIC, _VERSION, DTYPES.index(dtype), kind, len(sections), rank, step, length)
    for s in sections:
        head += _ENTRY.pack(s.codec, s.flags, s.bits, s.levels, s.block, s.numel, s.bytes)
    return torch.cat([torch.tensor(list(head), dtype=torch.uint8), *(s.payload for s in sections)])


def decode(message: Tensor | bytes) -> Tensor:
    """Values of all sections, concatenated: 1-D, the header's dtype. ValueError if not a legal message of version 1."""
    parsed = parse_message(message)
    parts = [decode_section(s, parsed.dtype).to(parsed.dtype) for s in parsed.sections]
    return torch.cat([torch.empty(0, dtype=parsed.dtype), *parts])


def decode_section(section: Section, dtype: torch.dtype) -> Tensor:
    """Values of one section of a message of `dtype`: 1-D, `dtype` if raw or top-k, else float32; NaN if flagged non-finite."""
    if section.flags & NON_FINITE:
        _check(not bool(section.payload.any()), "payload of a non-finite section", "all zero", "a non-zero byte")
        return torch.full((section.numel,), float("nan"))
    if section.codec == RAW:
        return section.payload.clone().view(dtype)  # a copy: nothing in a message is aligned
    if section.codec == TOPK:
        return reference_sparse.topk_decode(section.payload, section.numel, dtype)
    if section.codec == NATURAL:
        return natural_values(section.payload, section.numel)
    return dequantize(section.payload, section.numel, section.bits, section.block, LEVELS[section.levels])


def encode(x: Tensor, bits: int = 4, block: int = 256, levels: str = "unbiased", rounding: str | None = None,
           seed: int = 0, step: int = 0, rank: int = 0) -> Tensor:
    """A worker's whole message with one quantized section, parameter id 0: 1-D uint8 tensor.

    x: any shape, one of `DTYPES`, taken in row-major order; for the other arguments and the errors see `quantize`.
    """
    payload = quantize(x, bits, block, levels, rounding, seed, step, rank)
    flags = 0 if bool(x.to(torch.float32).isfinite().all()) else NON_FINITE  # a finite fp64 may be infinite in fp32
    section = Section(QUANTIZER, flags, bits, LEVELS.index(levels), block, x.numel(), payload.numel(), payload)
    return build_message([section], x.dtype, rank=rank, step=step)


def encode_raw(x: Tensor, step: int = 0, rank: int = 0) -> Tensor:
    """A worker's whole message with one raw section (codec 0): 1-D uint8 tensor. x: any shape, one of `DTYPES`."""
    payload = x.detach().cpu().flatten().view(torch.uint8)
    section = Section(RAW, 0, 0, 0, 0, x.numel(), payload.numel(), payload)
    return build_message([section], x.dtype, rank=rank, step=step)


def encode_topk(x: Tensor, ratio: float | None = None, k: int | None = None, step: int = 0, rank: int = 0) -> Tensor:
    """A worker's whole message with one top-k section (codec 6): 1-D uint8 tensor. Arguments: `reference_sparse.topk`."""
    payload = reference_sparse.topk(x, ratio, k)
    flags = 0 if bool(x.isfinite().all()) else NON_FINITE
    section = Section(TOPK, flags, 0, 0, 0, x.numel(), payload.numel(), payload)
    return build_message([section], x.dtype, rank=rank, step=step)


def payload_bytes(numel: int, bits: int, block: int) -> int:
    """Length of a block quantizer's payload: bytes(n) of the document."""
    tail_rows = -(-(numel % 256) // 32)
    return 4 * -(-numel // block) + 32 * (bits * (numel // 256) + -(-bits * tail_rows // 8))


def quantize(x: Tensor, bits: int, block: int, levels: str, rounding: str | None, seed: int, step: int, rank: int,
             parameter: int = 0, averaged: bool = False, shrink: float = 1.0, offset: int = 0) -> Tensor:
    """Payload of the block quantizer for one slice of one parameter.

    Args:
        x: floating-point tensor of any shape; rounded to fp32 once.
        bits, block, levels: 1 to 8; a power of two from 32 to 4096; "unbiased" or "fit".
        rounding: "stochastic" (unbiased only), "nearest", or None: stochastic for unbiased, nearest for fit.
        seed, step, rank, parameter, averaged: the key of the dither; `averaged` is the header's kind.
        shrink: factor on the scales (unbiased only), rounded to fp32.
        offset: index in the parameter of the slice's first element.
    Returns:
        uint8 tensor [payload_bytes(x.numel(), bits, block)]; all zero if an element is not finite in fp32: then the
        caller must set the section's non-finite flag.
    Raises:
        ValueError: an argument is out of range.
    """
    _check_quantizer(bits, block, levels)
    rounding = rounding or ("stochastic" if levels == "unbiased" else "nearest")
    _check(rounding == "nearest" or (rounding == "stochastic" and levels == "unbiased"), "rounding",
           "'nearest', or 'stochastic' with levels 'unbiased'", repr(rounding))
    _check(0 < shrink <= 1 and (shrink == 1 or levels == "unbiased"), "shrink", "in (0, 1]; 1 with 'fit'", shrink)
    _check(offset >= 0, "offset", "at least 0", offset)
    x = x.detach().cpu().flatten().to(torch.float32)
    numel = x.numel()
    if not bool(x.isfinite().all()):
        return torch.zeros(payload_bytes(numel, bits, block), dtype=torch.uint8)
    key = philox_key(seed, step, rank, averaged, parameter)
    u = _dither(numel, offset, key) if rounding == "stochastic" else torch.zeros_like(x)
    own = _to_blocks(torch.ones_like(x), block)  # 1: an element, 0: padding
    x, u = _to_blocks(x, block), _to_blocks(u, block)
    norm_bits = (x.view(torch.int32) & _ABS_BITS).amax(1, keepdim=True)
    empty = norm_bits < _TINY_BITS
    norm = norm_bits.view(torch.float32).masked_fill(empty, 1)  # any harmless value
    codes, scales = _fit(x, norm, own, bits) if levels == "fit" else _unbiased(x, norm, u, bits, shrink)
    codes, scales = codes.masked_fill(empty | (own == 0), 0), scales.masked_fill(empty, 0)
    return _pack(codes.flatten().to(torch.int64), scales.flatten(), numel, bits, block)


def _unbiased(x: Tensor, norm: Tensor, u: Tensor, bits: int, shrink: float) -> tuple[Tensor, Tensor]:
    """Steps 3 to 5. x, u: [blocks, block]; norm: [blocks, 1]. Returns codes (fp32 integers) and scales [blocks, 1]."""
    s, top = 2 ** (bits - 1) - 1, _top(bits)
    inv, unit = torch.full_like(norm, top if bits >= 2 else 0.5) / norm, norm / torch.full_like(norm, top)
    scale = unit.clamp(max=_MAX / top) * shrink
    if bits == 1:
        return (x * inv + u >= 0).to(torch.float32), scale
    return ((x * inv + u) + _M).clamp(_M - s, _M + s) - (_M - s), scale


def _fit(x: Tensor, norm: Tensor, own: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Step 6. x, own: [blocks, block]; norm: [blocks, 1]. Returns codes (fp32 integers), signed scales [blocks, 1]."""
    half, p = 2 ** (bits - 1), _top(bits)
    inv, unit = torch.full_like(norm, p) / norm, norm / torch.full_like(norm, p)
    y = x * inv  # padding has y = 0, which adds nothing to any sum but B1
    rms = (_lane_sum(y * y) / own.sum(1, keepdim=True)).double().sqrt().float()  # own's sum is a count: exact
    inv1 = torch.ones_like(norm) / (torch.full_like(norm, _STEP[bits - 1]) * rms)
    k = (((y * inv1 - 0.5) + _M) - _M).clamp(-half, half - 1)
    o = (2 * k + 1) * own
    a1, b1 = _lane_sum(y * o), _lane_sum(o * o)
    mid_scale = -(a1 / b1 * unit).clamp(max=_MAX / (2**bits - 1))  # the sign bit says mid-rise
    if bits == 1:
        return k + half, mid_scale
    q = ((y + _M) - _M).clamp(-p, p)
    a0, b0 = _lane_sum(y * q), _lane_sum(q * q)
    small = norm.view(torch.int32) < _HUGE_BITS
    mid = small & ((a1 * a1) * b0 > (a0 * a0) * b1)
    centred_scale = torch.where(small, a0 / b0 * unit, unit).clamp(max=_MAX / p)
    return torch.where(mid, k + half, q + p), torch.where(mid, mid_scale, centred_scale)


def dequantize(payload: Tensor, numel: int, bits: int, block: int, levels: str) -> Tensor:
    """Values of a block quantizer's payload.

    Args:
        payload: 1-D uint8 tensor of `payload_bytes(numel, bits, block)` bytes.
        numel, bits, block, levels: as in the section table; levels is "unbiased" or "fit".
    Returns:
        float32 tensor [numel].
    Raises:
        ValueError: an argument is out of range, or the payload is one that a reader rejects.
    """
    _check_quantizer(bits, block, levels)
    expected = payload_bytes(numel, bits, block)
    _check(payload.numel() == expected, "payload", f"{expected} bytes", payload.numel())
    codes, scales = _unpack(payload, numel, bits, block)
    sign, empty = scales.signbit(), scales.view(torch.int32) == 0
    _check(bool(scales.isfinite().all()), "scale", "finite", "NaN or infinity")
    _check(levels == "fit" or not bool(sign.any()), "scale", "a clear sign bit (unbiased)", "a set one")
    if levels == "fit" and bits == 1:
        _check(bool((sign | empty).all()), "scale", "a set sign bit or +0 (fit, 1 bit)", "a clear one")
    _check(not bool(codes[numel:].any()), "bits that belong to no element", "0", "a set bit")
    codes = codes[:numel]
    sign, empty, factor = (t.repeat_interleave(block)[:numel] for t in (sign, empty, scales.abs()))
    last = torch.where(sign, 2**bits - 1, 2 * _top(bits) if bits > 1 else 1).masked_fill(empty, 0)
    _check(bool((codes <= last).all()), "code", "at most 2s off the mid-rise grid, 0 in an empty block", "a larger one")
    centred = codes - _top(bits) if bits > 1 else 2 * codes - 1
    steps = torch.where(sign, 2 * codes + 1 - 2**bits, centred)
    return (steps.to(torch.float32) * factor).masked_fill(empty, 0)


def natural_values(payload: Tensor, numel: int) -> Tensor:
    """Values of a payload of codec 4: float32 [numel]. ValueError if the payload is one that a reader rejects."""
    parts = torch.split(payload.to(torch.int64), 288) if numel else ()  # one a tile: exponents, then a byte of signs per lane
    exponents = torch.cat([torch.empty(0, dtype=torch.int64), *(p[:-32] for p in parts)])
    words = torch.cat([torch.empty(0, dtype=torch.int64), *(p[-32:] for p in parts)]).view(-1, 1, 32)
    signs = (words >> torch.arange(8).view(8, 1) & 1).flatten()
    _check(not bool(signs[numel:].any()), "bits that belong to no element", "0", "a set bit")
    signs = signs[:numel]
    _check(bool((exponents < 255).all()), "exponent", "at most 254", 255)
    _check(not bool(signs[exponents == 0].any()), "sign of a zero", "0", 1)
    return (exponents << 23).to(torch.int32).view(torch.float32) * (1 - 2 * signs)


# Note [Full groups]: a short group is a full one with bytes left out: the scales of absent blocks, absent tiles, and
# the high bytes of a short tile's words. Codes and scales are kept for full groups; a mask says which bytes travel.
def _travels(numel: int, bits: int, block: int) -> Tensor:
    """Which bytes of full groups are in the payload: bool [groups, 4 * scales + 32 * bits * tiles of a group]."""
    group = max(block, 256)
    groups = -(-numel // group)
    scales = (torch.arange(0, groups * group, block) < numel).repeat_interleave(4).view(groups, 4 * group // block)
    rows = ((numel - torch.arange(0, groups * group, 256) + 31) // 32).clamp(0, 8)  # of each tile
    width = (bits * rows + 7) // 8  # of each tile's words
    words = torch.arange(bits) < width.view(-1, 1, 1).expand(-1, 32, 1)  # [tile, lane, byte]
    return torch.cat((scales, words.reshape(groups, group // 8 * bits)), 1)


def _pack(codes: Tensor, scales: Tensor, numel: int, bits: int, block: int) -> Tensor:
    """Payload of codes (int64) and scales (fp32), both 1-D and zero-padded to full groups."""
    travels, tiles = _travels(numel, bits, block), max(block, 256) // 256
    rows = codes.view(-1, tiles, 8, 32) << torch.arange(0, 8 * bits, bits).view(8, 1)
    words = rows.sum(2).unsqueeze(-1) >> torch.arange(0, 8 * bits, 8) & 255  # [group, tile, lane, byte]
    scale_bytes = scales.view(torch.uint8).view(-1, 1024 * tiles // block)
    return torch.cat((scale_bytes, words.to(torch.uint8).view(-1, tiles * 32 * bits)), 1)[travels]


def _unpack(payload: Tensor, numel: int, bits: int, block: int) -> tuple[Tensor, Tensor]:
    """The inverse of `_pack`: codes and scales, 1-D and zero-padded to full groups."""
    travels, tiles = _travels(numel, bits, block), max(block, 256) // 256
    data = torch.zeros(travels.shape, dtype=torch.uint8)
    data[travels] = payload
    scale_bytes, word_bytes = torch.split(data, [1024 * tiles // block, tiles * 32 * bits], 1)
    parts = word_bytes.reshape(-1, tiles, 1, 32, bits).to(torch.int64)
    words = (parts << torch.arange(0, 8 * bits, 8)).sum(-1)  # [group, tile, 1, lane]
    codes = words >> torch.arange(0, 8 * bits, bits).view(8, 1) & 2**bits - 1
    return codes.flatten(), scale_bytes.flatten().view(torch.float32)


def philox_key(seed: int, step: int, rank: int, averaged: bool, parameter: int) -> tuple[int, int]:
    """Philox key (low, high 32 bits) of one parameter in one sender's step; the arguments count modulo 2^64."""
    h = 0
    for v in (seed, step, rank + (int(averaged) << 32), parameter):
        z = ((h ^ (v & _U64)) + 0x9E3779B97F4A7C15) & _U64
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _U64
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _U64
        h = z ^ z >> 31
    return h & _U32, h >> 32


def philox4x32(counters: Tensor, key: tuple[int, int]) -> Tensor:
    """Philox4x32-10. counters: int64 [..., 4] of 32-bit words; key: two such words. Returns int64 of the same shape."""
    (c0, c1, c2, c3), (k0, k1) = counters.unbind(-1), key
    for _ in range(10):
        (hi0, lo0), (hi1, lo1) = _multiply(0xD2511F53, c0), _multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + 0x9E3779B9) & _U32, (k1 + 0xBB67AE85) & _U32
    return torch.stack((c0, c1, c2, c3), -1)


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a * b, both 32-bit; by halves of b, since the product does not fit a signed int64."""
    low, high = a * (b & 0xFFFF), a * (b >> 16)
    return (high + (low >> 16)) >> 16, (low + ((high & 0xFFFF) << 16)) & _U32


def _dither(numel: int, offset: int, key: tuple[int, int]) -> Tensor:
    """u_i of elements offset .. offset + numel of the parameter: float32 [numel], inside (-1/2, 1/2)."""
    first, last = offset // 256, -(-(offset + numel) // 256)
    c = torch.arange(32 * first, 32 * last)
    words = philox4x32(torch.stack((c & _U32, c >> 32, torch.zeros_like(c), torch.zeros_like(c)), -1), key)
    halves = torch.stack((words & 0xFFFF, words >> 16), -1).view(-1, 32, 8)  # [tile, lane, row]
    r = halves.transpose(1, 2).flatten()[offset - 256 * first :][:numel]
    return (0x3F800040 | r << 7).to(torch.int32).view(torch.float32) - 1.5


def _to_blocks(x: Tensor, block: int) -> Tensor:
    """x (1-D) zero-padded to full groups, as [blocks, block]."""
    return torch.cat((x, x.new_zeros(-x.numel() % max(block, 256)))).view(-1, block)


def _lane_sum(terms: Tensor) -> Tensor:
    """Sums of [blocks, block] in the document's order: lanes in ascending order, then a tree. Returns [blocks, 1]."""
    lanes = torch.zeros(terms.shape[0], 32)
    for row in torch.split(terms, 32, 1):
        lanes = lanes + row
    for width in (16, 8, 4, 2, 1):
        lanes = lanes[:, :width] + lanes[:, width : 2 * width]
    return lanes


def _top(bits: int) -> int:
    """top(bits, zero-centred) of the document: the largest level; mid-rise has 2^bits - 1."""
    return 2 ** (bits - 1) - 1 if bits >= 2 else 1


def _check(ok: bool, name: str, expected: object, found: object) -> None:
    if not ok:
        raise ValueError(f"{name}: expected {expected}, found {found}")


def _check_quantizer(bits: int, block: int, levels: str, at: str = "") -> None:
    _check(1 <= bits <= 8, at + "bits", "1 to 8", bits)
    _check(32 <= block <= 4096 and block & (block - 1) == 0, at + "block", "a power of two from 32 to 4096", block)
    _check(levels in LEVELS, at + "levels", f"one of {LEVELS}", repr(levels))
