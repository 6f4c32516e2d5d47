"""TopK: the bytes of the plain-torch reference, exactness against torch.topk, error feedback, specs and bad input."""

from __future__ import annotations

import itertools

import pytest
import torch
from flipped import accepted

import torch_smoothquant as tsq
from torch_smoothquant import _C, reference

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIZES = (0, 1, 2, 255, 4097, 16384, 16385, 40000)
TARGETS = (None, *_C.simd_targets())


@pytest.fixture(autouse=True)
def any_simd_target():
    yield
    _C.force_simd_target(None)


def gaussian(numel: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(numel + seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bytes_and_values_are_those_of_the_reference(dtype):
    for numel, spec in itertools.product(SIZES, (tsq.TopK(ratio=0.01), tsq.TopK(0.1), tsq.TopK(k=7), tsq.TopK(1.0))):
        x = gaussian(numel, dtype)
        expected = reference.encode(x, "TopK", step=3, rank=2, ratio=spec.ratio, k=spec.k)
        for target in TARGETS:
            _C.force_simd_target(target)
            message = tsq.encode(spec, x, step=3, rank=2)
            assert torch.equal(message, expected), (numel, spec, target)
            assert torch.equal(tsq.decode(message), reference.decode(expected))


def test_exactly_the_largest():
    x = gaussian(100_000)
    kept = tsq.decode(tsq.encode(tsq.TopK(ratio=0.01), x))
    indices = torch.topk(x.abs(), 1000).indices
    expected = torch.zeros_like(x)
    expected[indices] = x[indices]
    assert torch.equal(kept, expected)


def test_one_percent_costs_at_most_41_bits_per_entry():
    message = tsq.encode("TopK(ratio=0.01)", gaussian(1_000_000))
    assert message.numel() * 8 / 10_000 < 32 + 8.8


def test_non_finite_is_marked():
    x = gaussian(20_000)
    x[100] = float("nan")
    message = tsq.encode("TopK(k=5)", x)
    assert torch.equal(message, reference.encode(x, "TopK", k=5))
    assert message.numel() == 56 + 4 and tsq.decode(message).isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error_feedback_is_the_references(dtype):
    numel, spec = 5000, "ErrorFeedback(TopK(ratio=0.02))"
    sender = tsq.Sender(spec, numel, rank=0, world_size=1, dtype=dtype)
    receiver = tsq.Receiver(spec, numel, world_size=1, dtype=dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    residual = torch.zeros(numel, dtype=wide)
    for step in range(10):
        x = gaussian(numel, dtype, seed=step)
        acc = residual + x.to(wide)
        payload = reference.sparse.topk(acc, ratio=0.02, dtype=dtype)
        message = sender.send(x)
        assert torch.equal(message[56:], payload)
        sent = reference.sparse.topk_decode(payload, numel, dtype)
        assert torch.equal(receiver.receive([message]), sent)
        residual = acc - sent.to(wide)
        assert torch.equal(sender.state["residual"], residual)


def test_index_coding_round_trip():
    for numel, density in itertools.product((1, 9, 16384, 20000), (0.001, 0.01, 0.3, 1.0)):
        generator = torch.Generator().manual_seed(numel)
        indices = torch.nonzero(torch.rand(numel, generator=generator) < density).flatten().tolist()
        data = reference.sparse.encode_indices(indices, numel)
        assert reference.sparse.decode_indices(data, numel) == (indices, data.numel())


def test_the_documents_example():
    payload = reference.sparse.topk(torch.tensor([0.0, 3.0, 0.0, -4.0, 1.0]), k=2)
    assert bytes(payload.tolist()).hex() == "020017" + "00004040" + "000080c0"


def test_specs():
    for spec in (tsq.TopK(ratio=0.01), tsq.TopK(k=100), tsq.TopK(ratio=1e-5), tsq.ErrorFeedback(tsq.TopK(0.5))):
        assert tsq.parse(repr(spec)) == spec and _C.canonical(repr(spec)) == repr(spec)
    assert repr(tsq.TopK(0.01)) == "TopK(ratio=0.01)" and repr(tsq.TopK(k=3)) == "TopK(k=3)"
    assert tsq.TopK(k=10).alpha(1000) == 0.01 and tsq.TopK(k=10).omega(1000) is None
    for text in ("TopK()", "TopK(0.1, 5)", "TopK(0)", "TopK(1.5)", "TopK(k=0)", "TopK(k=1.5)", "TopK(ratio='x')"):
        with pytest.raises(tsq.SpecError, match="TopK: "):
            tsq.parse(text)


def test_flipped_bytes_agree_with_the_reference():
    x = gaussian(700)
    message = tsq.encode("TopK(k=40)", x)
    for flip, expected, got in accepted(message, range(56, message.numel()), (1, 8, 0x80)):
        assert torch.equal(got, expected), flip
