"""Messages: header, section table, payloads; and the table of the codecs, which the other modules fill."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # the header's dtype is an index into this
NON_FINITE, WHOLE = 1, 2  # flags: bits 0 and 1

_MAGIC, _VERSION = b"TSQM", 1
_HEADER = struct.Struct("<4sHBBIIQQ")  # magic, version, dtype, kind, sections, rank, step, length
_ENTRY = struct.Struct("<BBBBIQQ")  # codec, flags, bits, variant, block, numel, bytes
_U32, _U64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True)
class Section:
    """One entry of the section table, and its payload (1-D uint8 tensor)."""
    codec: int
    flags: int
    bits: int
    variant: int
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


@dataclass(frozen=True)
class Encoding:
    """What an encoder makes of one section; `finite` false: the section is to be marked, the payload is all zero."""
    payload: Tensor
    finite: bool = True
    bits: int = 0
    variant: int = 0
    block: int = 0


@dataclass(frozen=True)
class Key:
    """Who encodes: what the random numbers of a section of parameter 0 depend on."""
    seed: int = 0
    step: int = 0
    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True)
class Codec:
    """One codec as its module enters it.

    check_format: raises ValueError, `at` in front, if bits, variant or block of the section are illegal. bytes: the payload's length,
    None if it depends on the payload. decode: the section's values, 1-D, the message's dtype or float32; ValueError if illegal.
    encoders: by name of the class in spec.py; called with x (1-D, the message's dtype), a Key and the spec's arguments.
    """
    check_format: Callable[[Section, str], None]
    bytes: Callable[[Section, torch.dtype], int | None]
    decode: Callable[[Section, torch.dtype], Tensor]
    encoders: dict[str, Callable[..., Encoding]] = field(default_factory=dict)


CODECS: dict[int, Codec] = {}


def no_parameters(section: Section, at: str) -> None:
    """Codec.check_format of a codec whose format has no parameters."""
    given = (section.bits, section.variant, section.block)
    check(given == (0, 0, 0), at + "bits, variant, block", "0, 0, 0", given)


def parse_message(message: Tensor | bytes) -> Message:
    """Reads header and section table and cuts the payloads; every field and length is checked, no payload is decoded.

    Args:
        message: 1-D uint8 tensor, or bytes.
    Raises:
        ValueError: a field is illegal; the text names the field, what was expected and what was found.
    """
    data = message.detach().cpu() if isinstance(message, Tensor) else torch.tensor(list(message), dtype=torch.uint8)
    check(data.dtype == torch.uint8 and data.dim() == 1, "message", "1-D uint8", f"{data.dim()}-D {data.dtype}")
    total = data.numel()
    check(total >= _HEADER.size, "message", f"at least {_HEADER.size} bytes", total)
    magic, version, dtype, kind, count, rank, step, length = _HEADER.unpack(bytes(data[: _HEADER.size].tolist()))
    check(magic == _MAGIC, "magic", _MAGIC.hex(), magic.hex())
    check(version == _VERSION, "version", _VERSION, version)
    check(dtype < len(DTYPES), "dtype", "0 to 3", dtype)
    check(kind <= 1, "kind", "0 or 1", kind)
    check(length == total, "length", f"{total} (the bytes given)", length)
    begin = _HEADER.size + _ENTRY.size * count
    check(begin <= total, "sections", f"at most {(total - _HEADER.size) // _ENTRY.size}", count)
    sections = []
    table = bytes(data[_HEADER.size : begin].tolist())
    for i, (number, flags, bits, variant, block, numel, size) in enumerate(_ENTRY.iter_unpack(table)):
        at = f"section {i}: "
        check(number in CODECS, at + "codec", f"one of {sorted(CODECS)}", number)
        check(flags & ~(NON_FINITE | WHOLE) == 0, at + "flags", "0 to 3", flags)
        check(size <= total - begin, at + "bytes", f"at most {total - begin} (left in the message)", size)
        section = Section(number, flags, bits, variant, block, numel, size, data[begin : begin + size])
        codec = CODECS[number]
        codec.check_format(section, at)
        expected = codec.bytes(section, DTYPES[dtype])
        check(expected in (None, size), at + "bytes", expected, size)
        sections.append(section)
        begin += size
    check(begin == total, "length", f"{begin} (header, table and payloads)", total)
    return Message(DTYPES[dtype], kind, rank, step, length, tuple(sections))


def build_message(sections: list[Section], dtype: torch.dtype, kind: int = 0, rank: int = 0, step: int = 0) -> Tensor:
    """Joins header, section table and payloads: 1-D uint8 tensor. The inverse of `parse_message`."""
    check(dtype in DTYPES, "dtype", f"one of {DTYPES}", dtype)
    for name, value, last in (("kind", kind, 1), ("rank", rank, _U32), ("step", step, _U64)):
        check(0 <= value <= last, name, f"0 to {last}", value)
    length = _HEADER.size + sum(_ENTRY.size + s.bytes for s in sections)
    head = _HEADER.pack(_MAGIC, _VERSION, DTYPES.index(dtype), kind, len(sections), rank, step, length)
    for s in sections:
        head += _ENTRY.pack(s.codec, s.flags, s.bits, s.variant, s.block, s.numel, s.bytes)
    return torch.cat([torch.tensor(list(head), dtype=torch.uint8), *(s.payload for s in sections)])


def decode(message: Tensor | bytes) -> Tensor:
    """Values of all sections, concatenated: 1-D, the header's dtype. ValueError if not a legal message of version 1."""
    parsed = parse_message(message)
    parts = [decode_section(s, parsed.dtype).to(parsed.dtype) for s in parsed.sections]
    return torch.cat([torch.empty(0, dtype=parsed.dtype), *parts])


def decode_section(section: Section, dtype: torch.dtype) -> Tensor:
    """Values of one section of a message of `dtype`: 1-D, `dtype` or float32; NaN if flagged non-finite."""
    if section.flags & NON_FINITE:
        check(not bool(section.payload.any()), "payload of a non-finite section", "all zero", "a non-zero byte")
        return torch.full((section.numel,), float("nan"))
    return CODECS[section.codec].decode(section, dtype)


def encode(x: Tensor, name: str, seed: int = 0, step: int = 0, rank: int = 0, world_size: int = 1, **arguments: object) -> Tensor:
    """A worker's whole message with one section, parameter id 0: 1-D uint8 tensor.

    Args:
        x: any shape, one of `DTYPES`, taken in row-major order.
        name, arguments: the compressor as in spec.py; an argument may be given with an underscore behind its name (step_). Some take
            contractive=True: the map as error feedback uses it.
        seed, step, rank, world_size: see Key.
    Raises:
        ValueError: an argument is illegal.
    """
    for number, codec in CODECS.items():
        if name in codec.encoders:
            given = {argument.rstrip("_"): value for argument, value in arguments.items()}
            made = codec.encoders[name](x.detach().cpu().flatten(), Key(seed, step, rank, world_size), **given)
            flags = 0 if made.finite else NON_FINITE
            section = Section(number, flags, made.bits, made.variant, made.block, x.numel(), made.payload.numel(), made.payload)
            return build_message([section], x.dtype, rank=rank, step=step)
    raise ValueError(f"name: expected a compressor, found {name!r}")


def check(ok: bool, name: str, expected: object, found: object) -> None:
    if not ok:
        raise ValueError(f"{name}: expected {expected}, found {found}")
