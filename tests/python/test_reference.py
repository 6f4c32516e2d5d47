"""The quantizer of torch_smoothquant/reference against a second, scalar reading of the document. Needs no compiled code."""

from __future__ import annotations

import math
import struct

import pytest
import torch
from uncompiled import gaussian, quantized, reference

NUMELS = (0, 1, 31, 33, 255, 256, 257, 4095, 4097)
BLOCKS = (32, 64, 256, 1024, 4096)
BITS = range(1, 9)
LEVELS = ("unbiased", "fit")


# ---------------------------------------------------------------- a second, scalar reading of the document
#
# Python floats are fp64; one operation in fp64, rounded to fp32, is the fp32 operation (unless the result is denormal).


def f32(v: float) -> float:
    return struct.unpack("<f", struct.pack("<f", v))[0]


def scalar_lane_sum(terms: list[float]) -> float:
    lanes = [0.0] * 32
    for j, term in enumerate(terms):
        lanes[j % 32] = f32(lanes[j % 32] + term)
    for w in (16, 8, 4, 2, 1):
        for lane in range(w):
            lanes[lane] = f32(lanes[lane] + lanes[lane + w])
    return lanes[0]


def scalar_philox(counter: int, key: tuple[int, int]) -> list[int]:
    c, (k0, k1) = [counter & 0xFFFFFFFF, counter >> 32, 0, 0], key
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [p1 >> 32 ^ c[1] ^ k0, p1 & 0xFFFFFFFF, p0 >> 32 ^ c[3] ^ k1, p0 & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c


def scalar_dither(i: int, key: tuple[int, int]) -> float:
    lane, row = i % 256 % 32, i % 256 // 32
    word = scalar_philox(32 * (i // 256) + lane, key)[row // 2]
    return ((word >> 16 * (row % 2) & 0xFFFF) + 0.5) / 65536 - 0.5


def scalar_round(v: float) -> float:
    return f32(f32(v + 12582912.0) - 12582912.0)


def scalar_block(x: list[float], bits: int, levels: str, dither: list[float]) -> tuple[list[int], float]:
    """Codes and signed scale of one block whose maximum is an ordinary number."""
    s, half, n = 2 ** (bits - 1) - 1, 2 ** (bits - 1), max(abs(v) for v in x)
    if levels == "unbiased":
        top = s if bits > 1 else 1
        inv = f32((s if bits > 1 else 0.5) / n)
        v = [f32(f32(a * inv) + u) for a, u in zip(x, dither)]
        if bits == 1:
            return [int(a >= 0) for a in v], n
        return [int(min(max(scalar_round(a), -s), s)) + s for a in v], f32(n / top)
    p = s if bits > 1 else 1
    inv, unit = f32(p / n), f32(n / p)
    y = [f32(a * inv) for a in x]
    rms = f32(math.sqrt(f32(scalar_lane_sum([f32(a * a) for a in y]) / len(y))))
    step = f32((1.596, 0.9957, 0.586, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308)[bits - 1])
    inv1 = f32(1 / f32(step * rms))
    k = [min(max(scalar_round(f32(f32(a * inv1) - 0.5)), -half), half - 1) for a in y]
    q = [min(max(scalar_round(a), -s), s) for a in y]
    a1 = scalar_lane_sum([f32(a * (2 * b + 1)) for a, b in zip(y, k)])
    b1 = scalar_lane_sum([(2 * b + 1) ** 2 for b in k])
    a0 = scalar_lane_sum([f32(a * b) for a, b in zip(y, q)])
    b0 = scalar_lane_sum([b * b for b in q])
    if bits == 1 or f32(f32(a1 * a1) * b0) > f32(f32(a0 * a0) * b1):
        return [int(v) + half for v in k], -f32(f32(a1 / b1) * unit)
    return [int(v) + s for v in q], f32(f32(a0 / b0) * unit)


def scalar_payload(x: list[float], bits: int, block: int, levels: str, key: tuple[int, int]) -> bytes:
    out, group = b"", max(block, 256)
    for g in range(0, len(x), group):
        m = min(group, len(x) - g)
        codes: list[int] = []
        for b in range(g, g + m, block):
            part = x[b : min(b + block, g + m)]
            dither = [scalar_dither(b + j, key) for j in range(len(part))] if levels == "unbiased" else []
            block_codes, scale = scalar_block(part, bits, levels, dither)
            codes += block_codes
            out += struct.pack("<f", scale)
        for t in range(0, m, 256):
            tile = codes[t : t + 256]
            rows = -(-len(tile) // 32)
            for lane in range(32):
                word = sum(code << k * bits for k, code in enumerate(tile[lane::32]))
                out += word.to_bytes(-(-bits * rows // 8), "little")
    return out


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("numel, block", [(300, 32), (513, 256), (1100, 1024)])
def test_same_bytes_as_scalar_reading(bits, levels, numel, block):
    x = gaussian(numel, seed=bits)
    x[::7] *= 1e-3
    payload = quantized(x, bits, block, levels, seed=7, step=11, rank=2, parameter=3)
    key = reference.philox_key(7, 11, 2, False, 3)
    assert bytes(payload.tolist()) == scalar_payload(x.tolist(), bits, block, levels, key)


# ---------------------------------------------------------------- Philox


@pytest.mark.parametrize("counter, key, expected", [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
])
def test_philox_known_answers(counter, key, expected):
    words = [[int(w, 16) for w in text.split()] for text in (counter, key, expected)]
    out = reference.philox4x32(torch.tensor([words[0]] * 3), tuple(words[1]))
    assert out.tolist() == [words[2]] * 3


def test_philox_key_separates_its_arguments():
    keys = {reference.philox_key(*v) for v in [(0, 0, 0, False, 0), (1, 0, 0, False, 0), (0, 1, 0, False, 0),
                                               (0, 0, 1, False, 0), (0, 0, 0, True, 0), (0, 0, 0, False, 1)]}
    assert len(keys) == 6
    assert reference.philox_key(2**64 + 5, 0, 0, False, 0) == reference.philox_key(5, 0, 0, False, 0)


@pytest.mark.parametrize("offset", [0, 256, 77, 2**37 + 3])
def test_dither_belongs_to_the_element(offset):
    u = reference.dither(600, offset, (123, 456))
    assert u.tolist() == [scalar_dither(offset + i, (123, 456)) for i in range(600)]
    assert u.abs().max() < 0.5


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("bits", BITS)
def test_round_trip(bits, levels, dtype):
    for numel in NUMELS:
        for block in BLOCKS:
            x = gaussian(numel, seed=numel + block, dtype=dtype)
            message = reference.quantizer.encode_message(x, bits, block, levels, seed=1, step=2, rank=3)
            parsed = reference.parse_message(message)
            (section,) = parsed.sections
            rows = -(-(numel % 256) // 32)
            size = 4 * math.ceil(numel / block) + 32 * (bits * (numel // 256) + math.ceil(bits * rows / 8))
            assert message.dtype == torch.uint8 and message.dim() == 1
            assert parsed.length == message.numel() == 56 + size
            assert (parsed.dtype, parsed.kind, parsed.rank, parsed.step) == (dtype, 0, 3, 2)
            assert (section.codec, section.flags, section.bits, section.block) == (1, 0, bits, block)
            assert (section.variant, section.numel, section.bytes) == (LEVELS.index(levels), numel, size)
            assert torch.equal(reference.build_message(list(parsed.sections), dtype, 0, 3, 2), message)

            decoded = reference.decode(message)
            assert decoded.dtype == dtype and decoded.shape == (numel,)
            values = reference.decode_section(section, dtype)
            assert torch.equal(decoded, values.to(dtype))
            if numel:
                check_error(x.to(torch.float32), values, bits, block, levels)


def check_error(x: torch.Tensor, values: torch.Tensor, bits: int, block: int, levels: str) -> None:
    for part, decoded in zip(x.double().split(block), values.double().split(block)):
        norm = part.abs().max()
        if levels == "unbiased":  # within one step of the element
            step = norm / (2 ** (bits - 1) - 1) if bits > 1 else 2 * norm
            assert (part - decoded).abs().max() <= step * (1 + 1e-5)
        else:  # the least-squares scale: |x - v|^2 = |x|^2 - |v|^2, a contraction
            error, total = (part - decoded).square().sum(), part.square().sum()
            assert error < total
            assert torch.isclose(error, total - decoded.square().sum(), rtol=1e-5, atol=float(total) * 1e-5)


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("numel", NUMELS)
def test_raw_round_trip(numel, dtype):
    x = gaussian(numel, dtype=dtype)
    x[: numel // 2 : 5] = float("inf")
    x[1 : numel // 2 : 5] = float("nan")
    message = reference.encode(x, "Identity", step=4, rank=5)
    assert message.numel() == 56 + numel * dtype.itemsize
    decoded = reference.decode(bytes(message.tolist()))
    assert decoded.dtype == dtype and torch.equal(decoded.view(torch.uint8), x.view(torch.uint8))


@pytest.mark.parametrize("bits", BITS)
def test_every_byte_of_the_layout_counts(bits):
    for numel in (*NUMELS, 224, 225, 512):
        for block in BLOCKS:
            travels = reference.quantizer._travels(numel, bits, block)
            assert int(travels.sum()) == reference.quantizer.payload_bytes(numel, bits, block)


@pytest.mark.parametrize("bits", BITS)
def test_unbiased_in_the_mean(bits):
    x = gaussian(256, seed=3)
    draws = [reference.quantizer.dequantize(quantized(x, bits, step=step), 256, bits, 256, "unbiased") for step in range(400)]
    step = float(x.abs().max()) / max(2 ** (bits - 1) - 1, 0.5)
    assert (torch.stack(draws).double().mean(0) - x).abs().max() < 5 * step / 2 / 20  # 5 sigma of 400 draws


@pytest.mark.parametrize("bits, expected", [(1, 0.363), (2, 0.118), (3, 0.037), (4, 0.0115)])
def test_fit_error_on_gaussian(bits, expected):
    x = gaussian(200 * 256)
    error = (reference.decode(reference.quantizer.encode_message(x, bits, levels="fit")) - x).square().sum() / x.square().sum()
    assert float(error) == pytest.approx(expected, rel=0.03)


def test_fit_uses_both_grids():
    sparse = torch.zeros(256)
    sparse[::16] = gaussian(16)
    payload = quantized(torch.cat((sparse, gaussian(256))), 2, 256, "fit")
    scales = reference.quantizer.unpack(payload, 512, 2, 256)[1]
    assert scales.signbit().tolist() == [False, True]


@pytest.mark.parametrize("block", BLOCKS)
def test_slices_give_the_codes_of_the_whole(block):
    x = gaussian(3 * 4096 + 100)
    for levels in LEVELS:
        whole = quantized(x, 3, block, levels, parameter=9)
        parts = [quantized(x[a:b], 3, block, levels, parameter=9, offset=a)
                 for a, b in ((0, 4096), (4096, 12288), (12288, x.numel()))]
        assert torch.equal(torch.cat(parts), whole)


def test_key_changes_the_dither_and_only_it():
    x = gaussian(512)
    base = quantized(x)
    for change in ({"seed": 1}, {"step": 1}, {"rank": 1}, {"parameter": 1}, {"averaged": True}, {"offset": 256}):
        other = quantized(x, **change)
        assert not torch.equal(other, base)
        assert torch.equal(reference.quantizer.unpack(other, 512, 4, 256)[1], reference.quantizer.unpack(base, 512, 4, 256)[1])
    assert torch.equal(quantized(x, levels="fit"), quantized(x, levels="fit", seed=1, step=2, rank=3))


def test_nearest_and_shrink():
    x = gaussian(700)
    nearest = reference.quantizer.dequantize(quantized(x, 5, rounding="nearest"), 700, 5, 256, "unbiased")
    for part, decoded in zip(x.split(256), nearest.split(256)):
        assert (part - decoded).abs().max() <= part.abs().max() / 15 / 2 * 1.0001
    whole, shrunk = quantized(x, 5), quantized(x, 5, shrink=0.3)
    (codes, scales), (codes1, scales1) = (reference.quantizer.unpack(p, 700, 5, 256) for p in (whole, shrunk))
    assert torch.equal(codes, codes1) and torch.equal(scales * torch.tensor(0.3), scales1)


def test_fp64_is_rounded_once():
    x = gaussian(300, dtype=torch.float64)
    assert torch.equal(quantized(x), quantized(x.to(torch.float32)))
    assert reference.decode(reference.quantizer.encode_message(torch.tensor([1e300, 1.0], dtype=torch.float64))).isnan().all()


# ---------------------------------------------------------------- zero, denormal, huge, not finite

TINY = 2.0**-118
MAX = torch.finfo(torch.float32).max


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, -1e-40, TINY * (1 - 2**-24)])
def test_small_blocks_are_empty(value, bits, levels):
    payload = quantized(torch.full((100,), value), bits, 32, levels)
    assert not payload.any()
    decoded = reference.quantizer.dequantize(payload, 100, bits, 32, levels)
    assert torch.equal(decoded, torch.zeros(100)) and not decoded.signbit().any()


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("value", [TINY, 2.0**120 * (1 - 2**-24), 2.0**120, MAX])
def test_extreme_blocks_decode_finite(value, bits, levels):
    x = torch.full((64,), value)
    x[1::2] *= -0.75
    x[2::8] = 1e-40  # a denormal beside a normal maximum
    decoded = reference.decode(reference.quantizer.encode_message(x, bits, 32, levels))
    assert decoded.isfinite().all()
    assert float(decoded.abs().max()) <= MAX
    check_error(x, decoded, bits, 32, levels) if value < 2.0**120 else None
    if bits > 1:  # the maximum itself is on the grid or next to it
        assert torch.allclose(decoded[0::8], x[0::8], rtol=1.0 / (2 ** (bits - 1) - 1) * 1.001)


@pytest.mark.parametrize("bits", BITS)
def test_cap_keeps_the_largest_value_finite(bits):
    for top in (reference.quantizer._top(bits), 2**bits - 1):
        cap = torch.tensor([float.fromhex("0x1.FFFFFp127")]) / torch.tensor([float(top)])
        assert torch.equal(torch.tensor([MAX]).clamp(max=reference.quantizer.MAX / top), cap)  # a clamp's bound is fp32
        assert (cap * top).isfinite().all()


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
def test_non_finite_section(dtype, value, levels):
    x = gaussian(300, dtype=dtype)
    x[299] = value
    message = reference.quantizer.encode_message(x, 3, 32, levels)
    (section,) = reference.parse_message(message).sections
    assert section.flags == 1 and section.bytes == reference.quantizer.payload_bytes(300, 3, 32) and not section.payload.any()
    decoded = reference.decode(message)
    assert decoded.dtype == dtype and decoded.shape == (300,) and decoded.isnan().all()
    message[-1] = 1
    with pytest.raises(ValueError, match="non-finite"):
        reference.decode(message)
