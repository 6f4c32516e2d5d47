"""Codec 0 (raw) and codec 1 (the block quantizer), whose payload codecs 2 and 3 share."""

from __future__ import annotations

import torch
from torch import Tensor

from .philox import dither, philox_key
from .wire import CODECS, Codec, Encoding, Key, Section, check, encode, no_parameters

RAW, QUANTIZER = 0, 1
LEVELS = ("unbiased", "fit")  # bit 0 of the section's variant is an index into this
SHORT = 2  # bit 1: 16-bit scales

_M = 12582912.0  # adding and subtracting it rounds to an integer, half to even
TINY_BITS, TINY_SHORT_BITS, HUGE_BITS, ABS_BITS, MAX = 0x04800000, 0x0C800000, 0x7B800000, 0x7FFFFFFF, float.fromhex("0x1.FFFFFp127")
_STEP = (1.596, 0.9957, 0.586, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308)  # c_1 .. c_8


def payload_bytes(numel: int, bits: int, block: int, short: bool = False) -> int:
    """Length of a block quantizer's payload: bytes(n) of the document."""
    tail_rows = -(-(numel % 256) // 32)
    return (2 if short else 4) * -(-numel // block) + 32 * (bits * (numel // 256) + -(-bits * tail_rows // 8))


def quantize(x: Tensor, bits: int, block: int, levels: str, rounding: str | None, seed: int, step: int, rank: int,
             parameter: int = 0, averaged: bool = False, shrink: float = 1.0, offset: int = 0,
             scale_dtype: str | None = None) -> Tensor:
    """Payload of the block quantizer for one slice of one parameter.

    Args:
        x: floating-point tensor of any shape; rounded to fp32 once.
        bits, block, levels: 1 to 8; a power of two from 32 to 4096; "unbiased" or "fit".
        rounding: "stochastic" (unbiased only), "nearest", or None: stochastic for unbiased, nearest for fit.
        seed, step, rank, parameter, averaged: the key of the dither; `averaged` is the header's kind.
        shrink: factor on the scales (unbiased only), rounded to fp32.
        offset: index in the parameter of the slice's first element.
        scale_dtype: None (fp32) or "bf16".
    Returns:
        uint8 tensor [payload_bytes(x.numel(), bits, block, scale_dtype == "bf16")]; all zero if an element is not finite in fp32: then the
        caller must set the section's non-finite flag.
    Raises:
        ValueError: an argument is out of range.
    """
    check_quantizer(bits, block, levels)
    rounding = rounding or ("stochastic" if levels == "unbiased" else "nearest")
    check(rounding == "nearest" or (rounding == "stochastic" and levels == "unbiased"), "rounding",
           "'nearest', or 'stochastic' with levels 'unbiased'", repr(rounding))
    check(0 < shrink <= 1 and (shrink == 1 or levels == "unbiased"), "shrink", "in (0, 1]; 1 with 'fit'", shrink)
    check(offset >= 0, "offset", "at least 0", offset)
    short = is_short(scale_dtype)
    x = x.detach().cpu().flatten().to(torch.float32)
    numel = x.numel()
    if not bool(x.isfinite().all()):
        return torch.zeros(payload_bytes(numel, bits, block, short), dtype=torch.uint8)
    key = philox_key(seed, step, rank, averaged, parameter)
    u = dither(numel, offset, key) if rounding == "stochastic" else torch.zeros_like(x)
    own = to_blocks(torch.ones_like(x), block)  # 1: an element, 0: padding
    x, u = to_blocks(x, block), to_blocks(u, block)
    norm_bits = (x.view(torch.int32) & ABS_BITS).amax(1, keepdim=True)
    empty = norm_bits < tiny_bits(short)
    norm = norm_bits.view(torch.float32).masked_fill(empty, 1)  # any harmless value
    codes, scales = _fit(x, norm, own, bits, short) if levels == "fit" else _unbiased(x, norm, u, bits, shrink, short)
    codes, scales = codes.masked_fill(empty | (own == 0), 0), scales.masked_fill(empty, 0)
    return pack(codes.flatten().to(torch.int64), scales.flatten(), numel, bits, block, short)


def _unbiased(x: Tensor, norm: Tensor, u: Tensor, bits: int, shrink: float, short: bool) -> tuple[Tensor, Tensor]:
    """Steps 3 to 5. x, u: [blocks, block]; norm: [blocks, 1]. Returns codes (fp32 integers) and scales [blocks, 1]."""
    s, top = 2 ** (bits - 1) - 1, _top(bits)
    inv, unit = torch.full_like(norm, top if bits >= 2 else 0.5) / norm, norm / torch.full_like(norm, top)
    cap = torch.tensor(MAX / top)
    if short:
        unit = _bf16_up(unit).clamp(max=float(_bf16_down(cap)))
        inv = torch.full_like(norm, 1 if bits >= 2 else 0.5) / unit
    scale = unit.clamp(max=float(cap)) * shrink
    scale = _bf16_nearest(scale) if short else scale
    if bits == 1:
        return (x * inv + u >= 0).to(torch.float32), scale
    return ((x * inv + u) + _M).clamp(_M - s, _M + s) - (_M - s), scale


def _fit(x: Tensor, norm: Tensor, own: Tensor, bits: int, short: bool) -> tuple[Tensor, Tensor]:
    """Step 6. x, own: [blocks, block]; norm: [blocks, 1]. Returns codes (fp32 integers), signed scales [blocks, 1]."""
    half, p = 2 ** (bits - 1), _top(bits)
    inv, unit = torch.full_like(norm, p) / norm, norm / torch.full_like(norm, p)
    y = x * inv  # padding has y = 0, which adds nothing to any sum but B1
    rms = (lane_sum(y * y) / own.sum(1, keepdim=True)).double().sqrt().float()  # own's sum is a count: exact
    inv1 = torch.ones_like(norm) / (torch.full_like(norm, _STEP[bits - 1]) * rms)
    k = (((y * inv1 - 0.5) + _M) - _M).clamp(-half, half - 1)
    o = (2 * k + 1) * own
    a1, b1 = lane_sum(y * o), lane_sum(o * o)
    mid_scale = -final_scale(a1 / b1 * unit, 2**bits - 1, short)  # the sign bit says mid-rise
    if bits == 1:
        return k + half, mid_scale
    q = ((y + _M) - _M).clamp(-p, p)
    a0, b0 = lane_sum(y * q), lane_sum(q * q)
    small = norm.view(torch.int32) < HUGE_BITS
    mid = small & ((a1 * a1) * b0 > (a0 * a0) * b1)
    centred_scale = final_scale(torch.where(small, a0 / b0 * unit, unit), p, short)
    return torch.where(mid, k + half, q + p), torch.where(mid, mid_scale, centred_scale)


# Positive finite floats to bfloat16 numbers, as float32: the next one that is not below, not above, the nearest (ties to even).
def _bf16_up(x: Tensor) -> Tensor:
    return (x.view(torch.int32) + 0xFFFF & -0x10000).view(torch.float32)


def _bf16_down(x: Tensor) -> Tensor:
    return (x.view(torch.int32) & -0x10000).view(torch.float32)


def _bf16_nearest(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).to(torch.float32)


def final_scale(scale: Tensor, top: int, short: bool) -> Tensor:
    """What is sent for a scale that levels up to `top` are multiplied by."""
    cap = torch.tensor(MAX / top)
    if short:
        scale, cap = _bf16_nearest(scale), _bf16_down(cap)
    return scale.clamp(max=float(cap))


def tiny_bits(short: bool) -> int:
    return TINY_SHORT_BITS if short else TINY_BITS


def is_short(scale_dtype: str | None) -> bool:
    check(scale_dtype in (None, "bf16"), "scale_dtype", "None or 'bf16'", repr(scale_dtype))
    return scale_dtype is not None


def dequantize(payload: Tensor, numel: int, bits: int, block: int, levels: str, scale_dtype: str | None = None) -> Tensor:
    """Values of a block quantizer's payload.

    Args:
        payload: 1-D uint8 tensor of `payload_bytes(numel, bits, block, scale_dtype == "bf16")` bytes.
        numel, bits, block, levels, scale_dtype: as in the section table; levels is "unbiased" or "fit", scale_dtype None or "bf16".
    Returns:
        float32 tensor [numel].
    Raises:
        ValueError: an argument is out of range, or the payload is one that a reader rejects.
    """
    check_quantizer(bits, block, levels)
    short = is_short(scale_dtype)
    expected = payload_bytes(numel, bits, block, short)
    check(payload.numel() == expected, "payload", f"{expected} bytes", payload.numel())
    codes, scales = unpack(payload, numel, bits, block, short)
    sign, empty = scales.signbit(), scales.view(torch.int32) == 0
    cap = torch.where(sign, MAX / (2**bits - 1), MAX / _top(bits)).to(torch.float32)
    check(bool((scales.abs() <= cap).all()), "scale", "at most cap", "NaN, infinity or a larger one")
    check(levels == "fit" or not bool(sign.any()), "scale", "a clear sign bit (unbiased)", "a set one")
    if levels == "fit" and bits == 1:
        check(bool((sign | empty).all()), "scale", "a set sign bit or +0 (fit, 1 bit)", "a clear one")
    check(not bool(codes[numel:].any()), "bits that belong to no element", "0", "a set bit")
    codes = codes[:numel]
    sign, empty, factor = (t.repeat_interleave(block)[:numel] for t in (sign, empty, scales.abs()))
    last = torch.where(sign, 2**bits - 1, 2 * _top(bits) if bits > 1 else 1).masked_fill(empty, 0)
    check(bool((codes <= last).all()), "code", "at most 2s off the mid-rise grid, 0 in an empty block", "a larger one")
    centred = codes - _top(bits) if bits > 1 else 2 * codes - 1
    steps = torch.where(sign, 2 * codes + 1 - 2**bits, centred)
    return (steps.to(torch.float32) * factor).masked_fill(empty, 0)


# Note [Full groups]: a short group is a full one with bytes left out: the scales of absent blocks, absent tiles, and
# the high bytes of a short tile's words. Codes and scales are kept for full groups; a mask says which bytes travel.
def _travels(numel: int, bits: int, block: int, width: int = 4) -> Tensor:
    """Which bytes of full groups are in the payload: bool [groups, width * scales + 32 * bits * tiles of a group]."""
    group = max(block, 256)
    groups = -(-numel // group)
    scales = (torch.arange(0, groups * group, block) < numel).repeat_interleave(width).view(groups, width * group // block)
    rows = ((numel - torch.arange(0, groups * group, 256) + 31) // 32).clamp(0, 8)  # of each tile
    word_bytes = (bits * rows + 7) // 8  # of each tile's words
    words = torch.arange(bits) < word_bytes.view(-1, 1, 1).expand(-1, 32, 1)  # [tile, lane, byte]
    return torch.cat((scales, words.reshape(groups, group // 8 * bits)), 1)


def pack(codes: Tensor, scales: Tensor, numel: int, bits: int, block: int, short: bool = False) -> Tensor:
    """Payload of codes (int64) and scales (fp32), both 1-D and zero-padded to full groups."""
    travels, tiles = _travels(numel, bits, block, 2 if short else 4), max(block, 256) // 256
    rows = codes.view(-1, tiles, 8, 32) << torch.arange(0, 8 * bits, bits).view(8, 1)
    words = rows.sum(2).unsqueeze(-1) >> torch.arange(0, 8 * bits, 8) & 255  # [group, tile, lane, byte]
    scale_bytes = scales.view(torch.uint8).view(-1, 4)[:, 2 if short else 0 :].reshape(-1, (512 if short else 1024) * tiles // block)
    return torch.cat((scale_bytes, words.to(torch.uint8).view(-1, tiles * 32 * bits)), 1)[travels]


def unpack(payload: Tensor, numel: int, bits: int, block: int, short: bool = False) -> tuple[Tensor, Tensor]:
    """The inverse of `pack`: codes and scales, 1-D and zero-padded to full groups."""
    travels, tiles = _travels(numel, bits, block, 2 if short else 4), max(block, 256) // 256
    data = torch.zeros(travels.shape, dtype=torch.uint8)
    data[travels] = payload
    width = 2 if short else 4
    scale_bytes, word_bytes = torch.split(data, [256 * width * tiles // block, tiles * 32 * bits], 1)
    scales = torch.nn.functional.pad(scale_bytes.reshape(-1, width), (4 - width, 0))  # the upper half of fp32's bytes
    parts = word_bytes.reshape(-1, tiles, 1, 32, bits).to(torch.int64)
    words = (parts << torch.arange(0, 8 * bits, 8)).sum(-1)  # [group, tile, 1, lane]
    codes = words >> torch.arange(0, 8 * bits, bits).view(8, 1) & 2**bits - 1
    return codes.flatten(), scales.flatten().view(torch.float32)


def to_blocks(x: Tensor, block: int) -> Tensor:
    """x (1-D) zero-padded to full groups, as [blocks, block]."""
    return torch.cat((x, x.new_zeros(-x.numel() % max(block, 256)))).view(-1, block)


def lane_sum(terms: Tensor) -> Tensor:
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


def check_quantizer(bits: int, block: int, levels: str, at: str = "") -> None:
    check(1 <= bits <= 8, at + "bits", "1 to 8", bits)
    check(32 <= block <= 4096 and block & (block - 1) == 0, at + "block", "a power of two from 32 to 4096", block)
    check(levels in LEVELS, at + "levels", f"one of {LEVELS}", repr(levels))


def encode_message(x: Tensor, bits: int = 4, block: int = 256, levels: str = "unbiased", rounding: str | None = None,
                   seed: int = 0, step: int = 0, rank: int = 0) -> Tensor:
    """`wire.encode` of the block quantizer."""
    return encode(x, "Quantizer", seed, step, rank, bits=bits, block=block, levels=levels, rounding=rounding)


def check_block_format(section: Section, at: str, bits: int | None = None, variants: int = SHORT) -> None:
    """Codec.check_format of a codec with the block quantizer's payload: `bits` if they are fixed, and what may be set in its variant."""
    check(section.variant & ~variants == 0, at + "variant", f"no bits but those of {variants}", section.variant)
    check(bits in (None, section.bits), at + "bits", bits, section.bits)
    check_quantizer(section.bits, section.block, LEVELS[section.variant & 1], at)


def variant_of(levels: str, scale_dtype: str | None) -> int:
    return LEVELS.index(levels) + (SHORT if is_short(scale_dtype) else 0)


def choices_of(variant: int) -> tuple[str, str | None]:
    """levels and scale_dtype: the inverse of `variant_of`."""
    return LEVELS[variant & 1], "bf16" if variant & SHORT else None


def block_bytes(section: Section, _: torch.dtype) -> int:
    return payload_bytes(section.numel, section.bits, section.block, bool(section.variant & SHORT))


def decode_block(section: Section, _: torch.dtype) -> Tensor:
    return dequantize(section.payload, section.numel, section.bits, section.block, *choices_of(section.variant))


def _encode(x: Tensor, key: Key, bits: int = 4, block: int = 256, levels: str = "unbiased", rounding: str | None = None,
            scale_dtype: str | None = None) -> Encoding:
    payload = quantize(x, bits, block, levels, rounding, key.seed, key.step, key.rank, scale_dtype=scale_dtype)
    # a finite fp64 may be infinite in fp32
    return Encoding(payload, bool(x.to(torch.float32).isfinite().all()), bits, variant_of(levels, scale_dtype), block)


CODECS[RAW] = Codec(no_parameters, lambda section, dtype: section.numel * dtype.itemsize,
                    lambda section, dtype: section.payload.clone().view(dtype),  # a copy: nothing in a message is aligned
                    {"Identity": lambda x, key: Encoding(x.view(torch.uint8))})
CODECS[QUANTIZER] = Codec(lambda section, at: check_block_format(section, at, variants=1 | SHORT), block_bytes, decode_block,
                          {"Quantizer": _encode})
