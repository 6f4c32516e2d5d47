"""Bad arguments and hostile messages for torch_smoothquant/reference; needs no compiled code. And the document's worked example."""

from __future__ import annotations

import math
import re
import struct

import pytest
import torch
from uncompiled import ROOT, gaussian, quantized, reference

# ---------------------------------------------------------------- bad arguments, hostile messages


@pytest.mark.parametrize("arguments, name", [
    ({"bits": 0}, "bits"), ({"bits": 9}, "bits"), ({"block": 16}, "block"), ({"block": 96}, "block"),
    ({"block": 8192}, "block"), ({"levels": "both"}, "levels"), ({"rounding": "up"}, "rounding"),
    ({"levels": "fit", "rounding": "stochastic"}, "rounding"), ({"shrink": 0.0}, "shrink"),
    ({"levels": "fit", "shrink": 0.5}, "shrink"), ({"offset": -1}, "offset")])
def test_bad_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}: expected .*, found "):
        quantized(torch.ones(10), **arguments)


def test_bad_sender_is_named():
    for arguments, name in (({"rank": 2**32}, "rank"), ({"rank": -1}, "rank"), ({"step": 2**64}, "step")):
        with pytest.raises(ValueError, match=f"^{name}: "):
            reference.quantizer.encode_message(torch.ones(3), **arguments)
    with pytest.raises(ValueError, match="^dtype: "):
        reference.quantizer.encode_message(torch.ones(3, dtype=torch.int32))
    with pytest.raises(ValueError, match="^message: "):
        reference.decode(torch.zeros(100))


def small_messages() -> list[bytes]:
    quantizer = [reference.quantizer.encode_message(gaussian(40, seed=bits), bits, 32, levels) for bits, levels in
                 ((1, "unbiased"), (3, "unbiased"), (1, "fit"), (2, "fit"), (8, "fit"))]
    raw = reference.encode(gaussian(5), "Identity")
    sections = [s for message in (raw, *quantizer[:2]) for s in reference.parse_message(message).sections]
    several = reference.build_message(sections, torch.float32, kind=1)
    return [bytes(m.tolist()) for m in (*quantizer, raw, several, reference.build_message([], torch.float64))]


@pytest.mark.parametrize("index", range(8))
def test_truncated_or_extended(index):
    message = small_messages()[index]
    reference.decode(message)
    for size in range(len(message)):
        cut = message[:size]
        with pytest.raises(ValueError):
            reference.decode(cut)
        if size >= 32:  # with a header that agrees
            with pytest.raises(ValueError):
                reference.decode(cut[:24] + struct.pack("<Q", size) + cut[32:])
    for more in (b"\0", bytes(24)):
        with pytest.raises(ValueError):
            reference.decode(message + more)
        with pytest.raises(ValueError):
            reference.decode(message[:24] + struct.pack("<Q", len(message) + len(more)) + message[32:] + more)


@pytest.mark.parametrize("index", range(8))
def test_flipped_bytes(index):
    message = small_messages()[index]
    numel = reference.decode(message).numel()
    for at in range(len(message)):
        for mask in (0x01, 0x80, 0xFF):
            changed = bytearray(message)
            changed[at] ^= mask
            try:
                decoded = reference.decode(bytes(changed))
            except ValueError as error:
                assert re.search("expected .*, found ", str(error))
            else:  # what is left unnoticed keeps the number of elements
                assert decoded.numel() == numel or at in range(32, 32 + 24 * message[8])


FIELDS = [(0, "4s", b"TSQN", "magic"), (4, "H", 2, "version"), (6, "B", 4, "dtype"), (7, "B", 2, "kind"),
          (8, "I", 4, "sections"), (8, "I", 2**32 - 1, "sections"), (8, "I", 0, "length"), (24, "Q", 2**63, "length"),
          (32, "B", 99, "codec"), (33, "B", 4, "flags"), (34, "B", 0, "width"), (34, "B", 9, "bits"),
          (34, "B", 5, "bytes"), (35, "B", 4, "variant"), (35, "B", 2, "bytes"), (36, "I", 48, "block"), (36, "I", 0, "block"),
          (36, "I", 2**31, "block"), (40, "Q", 65, "bytes"), (40, "Q", 2**64 - 1, "bytes"),
          (48, "Q", 2**64 - 1, "bytes"), (48, "Q", 0, "bytes")]


@pytest.mark.parametrize("offset, kind, value, name", FIELDS)
def test_bad_field_is_named(offset, kind, value, name):
    message = bytearray(reference.quantizer.encode_message(gaussian(40), 4, 32).tolist())
    struct.pack_into("<" + kind, message, offset, value)
    with pytest.raises(ValueError, match=rf"{name}: expected .*, found "):
        reference.decode(bytes(message))


def test_raw_section_has_no_quantizer_fields():
    for at in (34, 35, 36):
        message = reference.encode(gaussian(5), "Identity")
        message[at] = 1
        with pytest.raises(ValueError, match="bits, variant, block: "):
            reference.decode(message)


def payload_of(scale: float, word: int, bits: int) -> torch.Tensor:
    """33 elements, block 64: one scale, two rows; lane 0 holds elements 0 and 32; all other codes are `legal` zeros."""
    width = -(-2 * bits // 8)
    data = struct.pack("<f", scale) + word.to_bytes(width, "little") + bytes(31 * width)
    return torch.tensor(list(data), dtype=torch.uint8)


@pytest.mark.parametrize("scale, word, bits, levels, name", [
    (math.nan, 0, 3, "fit", "scale"), (math.inf, 0, 3, "fit", "scale"), (-math.inf, 0, 3, "fit", "scale"),
    (-1.0, 0, 3, "unbiased", "scale"), (-0.0, 0, 3, "unbiased", "scale"), (1.0, 0, 1, "fit", "scale"),
    (1.0, 7, 3, "unbiased", "code"), (1.0, 7 << 3, 3, "fit", "code"), (0.0, 1, 3, "fit", "code"),
    (0.0, 1, 1, "unbiased", "code"), (0.0, 1, 1, "fit", "code"), (1.0, 1 << 6, 3, "unbiased", "bits that belong"),
    (1.0, 1 << 7, 3, "unbiased", "bits that belong")])
def test_reader_rejects(scale, word, bits, levels, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        reference.quantizer.dequantize(payload_of(scale, word, bits), 33, bits, 64, levels)


def test_reader_rejects_a_code_of_an_absent_element():
    payload = payload_of(1.0, 0, 4)
    payload[4 + 1] = 0x10  # lane 1, row 1: element 33 of 33
    with pytest.raises(ValueError, match="^bits that belong"):
        reference.quantizer.dequantize(payload, 33, 4, 64, "unbiased")


@pytest.mark.parametrize("scale, word, bits, levels, first, last", [
    (0.5, 0 | 6 << 3, 3, "unbiased", -1.5, 1.5), (0.5, 0 | 6 << 3, 3, "fit", -1.5, 1.5),
    (-0.5, 0 | 7 << 3, 3, "fit", -3.5, 3.5), (0.5, 0 | 1 << 1, 1, "unbiased", -0.5, 0.5),
    (-0.5, 0 | 1 << 1, 1, "fit", -0.5, 0.5), (0.0, 0, 1, "fit", 0.0, 0.0), (0.0, 0, 8, "unbiased", 0.0, 0.0),
    (-0.0, 0 | 7 << 3, 3, "fit", 0.0, 0.0), (2.0**-149, 0 | 6 << 3, 3, "fit", -3 * 2.0**-149, 3 * 2.0**-149)])
def test_reader_accepts(scale, word, bits, levels, first, last):
    values = reference.quantizer.dequantize(payload_of(scale, word, bits), 33, bits, 64, levels)
    assert (values[0].item(), values[32].item()) == (first, last)


# ---------------------------------------------------------------- the document's worked example


def test_worked_example_of_the_document():
    text = (ROOT / "docs" / "wire_format.md").read_text().partition("## A worked example")[2]
    message, at = b"", re.findall(r"^\| (\d+) \| ((?:`[0-9A-F ]+`)) \|", text, re.M)
    for offset, digits in at:
        assert int(offset) == len(message)
        message += bytes.fromhex(digits.strip("`"))
    assert len(at) == 21 and len(message) == 96

    codes, values = [], []
    for first, last, code, value in re.findall(r"^\| (\d+) to (\d+) \| (\d+) \| (\S+) \|$", text, re.M):
        assert int(first) == len(values)
        count = int(last) + 1 - int(first)
        codes += [int(code)] * count
        values += [float.fromhex(value)] * count
    assert len(values) == 40
    assert reference.decode(message).tolist() == values
    (section,) = reference.parse_message(message).sections
    assert reference.quantizer.unpack(section.payload, 40, 2, 32)[0][:40].tolist() == codes

    x = torch.tensor([(i - 16) / 16 if i < 32 else {35: 4.0, 39: -4.0}.get(i, 0.0) for i in range(40)])
    assert bytes(reference.quantizer.encode_message(x, 2, 32, "fit", rank=1, step=5).tolist()) == message
