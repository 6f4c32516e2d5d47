"""A decoder of torch_smoothquant's messages, written from docs/wire_format.md alone, in Python, struct and numpy.

It shares no line with the library or with its reference, and is as strict as the page says a reader is: what it accepts, with which values,
is a test of the page. ``decode(bytes)`` gives the values as float64, each representable in the dtype of the header. A new codec is one
function, here or in a file beside, and one entry of CODECS.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from .dense import cast, dithering, natural, nothing, quantizer, raw, stepped
from .elements import DTYPES, DType, Illegal, Section, TooLarge, require
from .sparse import sparse_sign, sparse_vector, subset
from .uniform import uniform

__all__ = ["CODECS", "Illegal", "TooLarge", "decode", "dtype_of"]


class Codec(NamedTuple):
    """What a table entry may say, and the payload's reader."""

    read: Callable[[bytes, Section, DType], np.ndarray]
    bits: range = range(1)
    variants: Sequence[int] = range(1)
    blocks: range = range(0)  # its exponents, if the block is not 0
    zero_block: bool = True


BLOCKS, DITHERING_BLOCKS = range(5, 13), range(5, 17)
CODECS = {
    0: Codec(raw),
    1: Codec(quantizer, range(9), range(4), BLOCKS, zero_block=False),
    2: Codec(quantizer, range(1, 2), (0, 2), BLOCKS, zero_block=False),
    3: Codec(quantizer, range(2, 3), (0, 2), BLOCKS, zero_block=False),
    4: Codec(natural),
    5: Codec(uniform),
    6: Codec(sparse_vector, range(9), range(8), BLOCKS),
    7: Codec(subset, range(9), range(16), BLOCKS),
    8: Codec(sparse_sign),
    9: Codec(dithering, range(2, 17), range(1), DITHERING_BLOCKS),
    10: Codec(dithering, range(2, 7), range(1), DITHERING_BLOCKS),
    11: Codec(cast, variants=range(4)),
    12: Codec(nothing),
    13: Codec(stepped, variants=range(2)),
}


def check_entry(section: Section) -> Codec:
    require(section.codec in CODECS, f"codec {section.codec}")
    codec, block = CODECS[section.codec], section.block
    require(section.flags <= 3, "flags")
    require(section.bits in codec.bits and section.variant in codec.variants, "bits or variant")
    if section.codec == 13:
        require(1 <= block <= 65536, "block")
    else:
        require(codec.zero_block if block == 0 else block in [1 << k for k in codec.blocks], "block")
    if section.codec in (6, 7):
        coding = section.variant & 7
        require((section.bits > 0) == (block > 0) == (coding >= 4), "bits or block of the value coding")
    return codec


def read_section(payload: bytes, section: Section, dtype: DType) -> np.ndarray:
    codec = check_entry(section)
    values = codec.read(payload, section, dtype)
    if section.flags & 1:
        require(not any(payload), "a payload in a section that is not finite")
        return np.full(section.numel, np.nan)
    return values


def dtype_of(message: bytes) -> str:
    return DTYPES[message[6]].name


def decode(message: bytes) -> np.ndarray:
    """All sections' values, in order. Raises Illegal."""
    require(len(message) >= 32, "no header")
    magic, version, dtype, kind, sections, _rank, _step, length = struct.unpack_from("<4sHBBIIQQ", message)
    require(magic == b"TSQM" and version == 1, "magic or version")
    require(dtype < len(DTYPES) and kind < 2, "dtype or kind")
    require(length == len(message), "length")
    at = 32 + 24 * sections
    require(at <= len(message), "the section table does not fit")
    out = [np.zeros(0)]
    table = [Section(*struct.unpack_from("<4BIQQ", message, 32 + 24 * i)) for i in range(sections)]
    for section in table:
        require(section.bytes <= len(message) - at, "a payload does not fit")
        out.append(read_section(message[at:at + section.bytes], section, DTYPES[dtype]))
        at += section.bytes
    require(at == len(message), "bytes behind the last payload")
    return np.concatenate(out)
