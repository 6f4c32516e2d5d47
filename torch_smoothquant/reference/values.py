"""How the kept values of sparse vectors travel (the document's "Value coding"), and sums in a fixed order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from . import quantizer as q
from .philox import dither_bits
from .wire import Key, Section, check

NATIVE, FP32, FP16, BF16, QUANTIZED = range(5)  # variant, bits 0 to 2; a quantizer: QUANTIZED + its own variant
MASK = 7
_NAMES = {None: NATIVE, "fp32": FP32, "fp16": FP16, "bf16": BF16}
_TYPES = {FP32: torch.float32, FP16: torch.float16, BF16: torch.bfloat16}

ValueDType = str | Mapping[str, object] | None  # a quantizer: its arguments as in spec.py


@dataclass(frozen=True)
class Coding:
    """variant, bits and block as in a section; rounding: of a quantizer."""
    variant: int = NATIVE
    bits: int = 0
    block: int = 0
    rounding: str | None = None

    def dtype(self, header: torch.dtype) -> torch.dtype:
        return header if self.variant == NATIVE else _TYPES.get(self.variant, torch.float32)


def coding_of(value_dtype: ValueDType) -> Coding:
    """The coding that a spec's value_dtype names, with open choices made as for Direct."""
    if not isinstance(value_dtype, Mapping):
        check(value_dtype in _NAMES, "value_dtype", f"one of {list(_NAMES)} or a quantizer", value_dtype)
        return Coding(_NAMES[value_dtype])
    given = {"bits": 4, "block": 256, "levels": None, "rounding": None, "scale_dtype": None, **value_dtype}
    bits, block, levels, rounding = given["bits"], given["block"], given["levels"] or "unbiased", given["rounding"]
    scale_dtype = given["scale_dtype"]
    assert isinstance(bits, int) and isinstance(block, int) and isinstance(levels, str)
    assert isinstance(rounding, str | None) and isinstance(scale_dtype, str | None)
    return Coding(QUANTIZED + q.variant_of(levels, scale_dtype), bits, block, rounding)


def section_coding(section: Section) -> Coding:
    return Coding(section.variant & MASK, section.bits, section.block)


def check_format(section: Section, at: str, others: int = 0) -> None:
    """Codec.check_format of a codec with coded values; `others`: the variant's bits that the codec itself defines."""
    check(section.variant & ~(MASK | others) == 0, at + "variant", f"no bits but those of {MASK | others}", section.variant)
    if section.variant & MASK >= QUANTIZED:
        q.check_quantizer(section.bits, section.block, "fit", at)
    else:
        check((section.bits, section.block) == (0, 0), at + "bits, block", "0, 0", (section.bits, section.block))


def saturated(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded to dtype, by way of float32; what would overflow becomes the largest finite number of its sign."""
    for step in (torch.float32, dtype) if dtype != torch.float64 else (dtype,):
        values = values.to(step)
        values = torch.where(values.isinf(), torch.copysign(torch.full_like(values, torch.finfo(step).max), values), values)
    return values


def value_bytes(count: int, coding: Coding, header: torch.dtype) -> int:
    if coding.variant >= QUANTIZED:
        return q.payload_bytes(count, coding.bits, coding.block, bool(coding.variant - QUANTIZED & q.SHORT))
    return count * coding.dtype(header).itemsize


def encode_values(values: Tensor, coding: Coding, header: torch.dtype, key: Key) -> Tensor:
    """The bytes of finite values (1-D) in a message of dtype `header`."""
    if coding.variant < QUANTIZED:
        return saturated(values, coding.dtype(header)).contiguous().view(torch.uint8)
    levels, scale_dtype = q.choices_of(coding.variant - QUANTIZED)
    return q.quantize(saturated(values, torch.float32), coding.bits, coding.block, levels, coding.rounding, key.seed, key.step, key.rank,
                      scale_dtype=scale_dtype)


def decode_values(payload: Tensor, count: int, coding: Coding, header: torch.dtype) -> Tensor:
    """`count` values, in the header's dtype: rounded and saturated. ValueError if the bytes are not legal."""
    expected = value_bytes(count, coding, header)
    check(payload.numel() == expected, "bytes", f"{expected} of values", payload.numel())
    if coding.variant >= QUANTIZED:
        values = q.dequantize(payload, count, coding.bits, coding.block, *q.choices_of(coding.variant - QUANTIZED))
    else:
        values = payload.clone().view(coding.dtype(header))
    check(bool(values.isfinite().all()), "payload", "finite values", "others")
    return saturated(values, header)


def lane_sum(terms: Tensor) -> float:
    """The sum of float64 terms (1-D) in the document's order."""
    lanes = torch.zeros(32, dtype=torch.float64)
    for row in torch.cat((terms, terms.new_zeros(-terms.numel() % 32))).view(-1, 32):
        lanes = lanes + row
    for width in (16, 8, 4, 2, 1):
        lanes = lanes[:width] + lanes[width : 2 * width]
    return float(lanes[0])


def uniform(numel: int, key: tuple[int, int]) -> Tensor:
    """R_i of the elements: int64 [numel], below 2^32."""
    return dither_bits(numel, 0, key, 1) << 16 | dither_bits(numel, 0, key, 2)


def entry_bound(mean: float, numel: int) -> int:
    """Hard maximum of a random number of entries with this mean."""
    return min(numel, math.ceil(mean + 15.0 + math.sqrt(220.0 + 89.0 * mean)))
