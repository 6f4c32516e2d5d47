"""UniformStep: the bytes of the plain-torch reference, rates, error feedback, specs and bad input."""

from __future__ import annotations

import itertools

import pytest
import torch
from flipped import accepted

import torch_smoothquant as tsq
from torch_smoothquant import _C, reference

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SPECS = (tsq.UniformStep(bits=1), tsq.UniformStep(2.5, rounding="nearest"), tsq.UniformStep(step=0.05, rounding="nearest"),
         tsq.UniformStep(step=0.5))
TARGETS = (None, *_C.simd_targets())


@pytest.fixture(autouse=True)
def any_simd_target():
    yield
    _C.force_simd_target(None)


def laplace(numel: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * numel + seed)
    x = torch.empty(numel, dtype=torch.float64).exponential_(generator=generator)
    x *= torch.randint(0, 2, (numel,), generator=generator) * 2 - 1
    return (x * 2.0 ** torch.arange(numel).div(1024, rounding_mode="floor").remainder(5).neg()).to(dtype)


def by_reference(spec: tsq.UniformStep, x: torch.Tensor, **key: int) -> torch.Tensor:
    return reference.encode(x, "UniformStep", **key, bits=spec.bits, step_=spec.step, rounding=spec.rounding)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bytes_and_values_are_those_of_the_reference(dtype):
    for numel, spec in itertools.product((0, 1, 2, 3, 63, 255, 1025, 8191, 8193), SPECS):
        x = laplace(numel, dtype=dtype)
        x[::5] = 0
        expected = by_reference(spec, x, seed=3, step=4, rank=5)
        values = reference.decode(expected)
        for target in TARGETS:
            _C.force_simd_target(target)
            message = tsq.encode(spec, x, seed=3, step=4, rank=5)
            assert torch.equal(message, expected), (numel, spec, target)
            assert torch.equal(tsq.decode(message), values)


def test_bytes_of_several_segments():
    for spec in (tsq.UniformStep(bits=0.3), tsq.UniformStep(1.0, rounding="nearest")):
        x = laplace(140_001)
        assert torch.equal(tsq.encode(spec, x, seed=1), by_reference(spec, x, seed=1))


@pytest.mark.parametrize("bits", [0.2, 0.5, 1.0, 2.0])
def test_takes_the_bits_that_were_asked_for(bits):
    for numel, mechanism in itertools.product((16_384, 200_000), (tsq.Direct, tsq.ErrorFeedback)):
        sender = tsq.Sender(mechanism(tsq.UniformStep(bits)), numel, 0, 1)
        for step in range(4):
            payload = sender.send(laplace(numel, step))[56:]
            assert payload.numel() * 8 / numel == pytest.approx(bits, rel=0.1)


def test_less_error_than_fixed_width_codes_at_half_the_bits():
    x = laplace(200_000)
    half = tsq.decode(tsq.encode(tsq.UniformStep(2.0, rounding="nearest"), x))
    fixed = tsq.decode(tsq.encode(tsq.Quantizer(3, levels="fit"), x))
    assert (half - x).norm() < (fixed - x).norm()


def test_non_finite_is_marked():
    for spec, value in itertools.product(SPECS, (float("inf"), float("nan"))):
        x = laplace(20_000)
        x[17] = value
        message = tsq.encode(spec, x)
        assert torch.equal(message, by_reference(spec, x)) and message.numel() == 64
        assert tsq.decode(message).isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error_feedback_is_the_references(dtype):
    numel, spec = 5000, tsq.UniformStep(1.0)
    sender = tsq.Sender(tsq.ErrorFeedback(spec), numel, rank=0, world_size=1, dtype=dtype)
    receiver = tsq.Receiver(tsq.ErrorFeedback(spec), numel, world_size=1, dtype=dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    residual = torch.zeros(numel, dtype=wide)
    for step in range(5):
        x = laplace(numel, step, dtype)
        owed = residual + x.to(wide)
        z = owed.to(torch.float32)
        payload = reference.uniform_step.encode(z, reference.uniform_step.choose_step(z, 1.0, False, (0, 0)))
        sender.rates = [1.0]  # without its controller
        message = sender.send(x)
        assert torch.equal(message[56:], payload)
        sent = reference.uniform_step.decode(payload, numel)
        assert torch.equal(receiver.receive([message]), sent.to(dtype))
        residual = owed - sent.to(wide)
        assert torch.equal(sender.state["residual"], residual)


def test_specs_and_classes():
    for spec in (*SPECS, tsq.UniformStep(step=1e-5), tsq.ErrorFeedback(tsq.UniformStep(0.2))):
        assert tsq.parse(repr(spec)) == spec and _C.canonical(repr(spec)) == repr(spec)
    assert repr(tsq.UniformStep(1)) == "UniformStep(bits=1.0)" and tsq.parse("UniformStep(1)") == tsq.UniformStep(1.0)
    assert tsq.UniformStep(1).alpha(1) == 28 / 64 and tsq.UniformStep(1).omega(4) == 23
    assert tsq.UniformStep(1, rounding="nearest").omega(4) is None and tsq.UniformStep(1, rounding="stochastic").alpha(4) is None
    assert tsq.UniformStep(step=1).alpha(4) is None and tsq.UniformStep(step=1).omega(4) is None
    for text in ("UniformStep()", "UniformStep(1, 1)", "UniformStep(0)", "UniformStep(13)", "UniformStep(step=0)",
                 "UniformStep(step=1e-39)", "UniformStep(step=1e39)", "UniformStep(bits='x')", "UniformStep(1, rounding='fit')"):
        with pytest.raises(tsq.SpecError, match="UniformStep: "):
            tsq.parse(text)


def test_the_documents_example():
    x = torch.tensor([1.0, 0.0, 0.0, 0.0, -2.0, 20.0])
    payload = reference.uniform_step.encode(x, 1.0)
    assert payload.tolist() == list(bytes.fromhex(
        "0000803F 16000000 0A000380 0068555505 82539E983518BB0A010000 1400"))
    assert tsq.encode(tsq.UniformStep(step=1, rounding="nearest"), x)[56:].tolist() == payload.tolist()
    assert reference.uniform_step.decode(payload, 6).tolist() == x.tolist()


@pytest.mark.parametrize("numel", [40, 8200])
def test_flipped_bytes_agree_with_the_reference(numel):
    x = laplace(numel)
    message = tsq.encode(tsq.UniformStep(1.5 if numel < 100 else 0.03, rounding="nearest"), x)
    flip = None
    for flip, expected, got in accepted(message, range(56, message.numel(), 1 if numel < 100 else 7), (1, 8, 0x80)):
        assert torch.equal(got, expected), flip
    assert flip
