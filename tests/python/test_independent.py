"""tests/independent/decoder.py, written from docs/wire_format.md alone, reads what the library writes and refuses what it refuses."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import torch_smoothquant as tsq

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
from independent import decoder  # noqa: E402

GOLDEN = sorted((TESTS / "golden").glob("*.bin"))
SPECS = (TESTS / "specs.txt").read_text().split("\n")[:-1]


def as_tensor(message: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(message), dtype=torch.uint8)


def codecs_of(message: bytes) -> set[int]:
    return {message[32 + 24 * i] for i in range(int.from_bytes(message[8:12], "little"))}


def assert_same(message: bytes) -> None:
    """Both decoders: the same values to the bit, but for zeros' signs and NaNs' payloads; or both refuse."""
    try:
        values = decoder.decode(message)
    except decoder.TooLarge:
        return  # gigabytes that a flipped bit claims: nothing to compare
    except decoder.Illegal:
        with pytest.raises(tsq.WireError):
            tsq.decode(as_tensor(message))
        return
    expected = tsq.decode(as_tensor(message))
    assert str(expected.dtype) == f"torch.{decoder.dtype_of(message)}"
    assert np.array_equal(values, expected.double().numpy(), equal_nan=True)


def test_every_codec_is_known():
    messages = [file.read_bytes() for file in GOLDEN] + [bytes(tsq.encode(spec, torch.ones(3)).tolist()) for spec in SPECS]
    assert set().union(*map(codecs_of, messages)) <= set(decoder.CODECS)


@pytest.mark.parametrize("file", GOLDEN, ids=lambda f: f.stem)
def test_reads_the_golden_messages(file):
    assert_same(file.read_bytes())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_reads_what_encode_writes(spec, dtype):
    for numel in (0, 1, 33, 257, 5000):
        x = torch.randn(numel, generator=torch.Generator().manual_seed(numel), dtype=torch.float64).to(dtype)
        x[::7] = 0
        for form in (torch.ops.torch_smoothquant.encode_residual, torch.ops.torch_smoothquant.encode_shifted):
            state = torch.ones(numel, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
            message = bytes(tsq.trim(form(x, state, spec)).tolist())
            assert_same(message)


@pytest.mark.parametrize("file", GOLDEN, ids=lambda f: f.stem)
def test_refuses_what_the_library_refuses(file):
    message = file.read_bytes()
    chance = random.Random(file.stem)
    places = [*range(min(len(message), 96)), *(chance.randrange(len(message)) for _ in range(60))]
    for at in places:
        bad = bytearray(message)
        bad[at] ^= chance.choice((1, 2, 0x10, 0x80, 0xFF))
        assert_same(bytes(bad))
    for cut in (message[:-1], message + b"\0", message[:31], message[:1]):
        assert_same(cut)
