"""The codecs from 2 on: the compiled encoder writes the reference's bytes, both decoders read the same values, specs and classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from flipped import accepted

import torch_smoothquant as tsq
from torch_smoothquant import reference

EVERY = (Path(__file__).resolve().parents[1] / "specs.txt").read_text().split("\n")[:-1]
NUMELS = (0, 1, 31, 32, 33, 255, 256, 257, 4097)
CASTS = [tsq.Cast("fp16"), tsq.Cast("bf16"), tsq.Cast("fp8"), tsq.Cast("fp8_e5m2")]
DITHERED = [tsq.Dithering(1), tsq.Dithering(4), tsq.Dithering(100, "inf", 32), tsq.Dithering(7, block=512), tsq.Dithering(32767, "inf"),
            tsq.NaturalDithering(1), tsq.NaturalDithering(8), tsq.NaturalDithering(5, "inf", 64), tsq.NaturalDithering(30, block=256)]
SHORT_SCALES = [tsq.Sign(32, "bf16"), tsq.Ternary(64, "bf16"), *(tsq.Quantizer(bits, 32, levels, scale_dtype="bf16")
                for bits in (1, 4) for levels in ("unbiased", "fit"))]
SPECS = [tsq.Sign(), tsq.Sign(32), tsq.Sign(1024), tsq.Ternary(), tsq.Ternary(32), tsq.Ternary(1024), tsq.Natural(), *SHORT_SCALES, *CASTS,
         *DITHERED]


def gaussian(numel: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    x = torch.randn(numel, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x * 2.0 ** torch.arange(numel).div(64, rounding_mode="floor").remainder(9).neg()).to(dtype)


def by_reference(spec: tsq.Spec, x: torch.Tensor, **key: int) -> torch.Tensor:
    return reference.encode(x, type(spec).__name__, **key, **dataclasses.asdict(spec))


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_bytes_and_values_are_the_references(spec, dtype):
    for numel in NUMELS:
        x = gaussian(numel, numel, dtype)
        x[::5] = 0
        message = tsq.encode(spec, x, seed=3, step=4, rank=5)
        assert torch.equal(message, by_reference(spec, x, seed=3, step=4, rank=5)), numel
        assert torch.equal(tsq.decode(message), reference.decode(message))
        assert message.numel() <= torch.ops.torch_smoothquant.encode(x.to("meta"), repr(spec), 3, 4, 5).numel()


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_non_finite_is_marked(spec, value):
    x = gaussian(300, 1, torch.float32)
    x[17] = value
    message = tsq.encode(spec, x)
    assert torch.equal(message, by_reference(spec, x)) and not message[56:].any()
    assert tsq.decode(message).isnan().all() and reference.decode(message).isnan().all()


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_one_flipped_byte_is_rejected_by_both_or_read_alike(spec):
    message = tsq.encode(spec, gaussian(70, 2, torch.float32))
    for flip, expected, got in accepted(message, range(32, message.numel()), (1, 0x80, 0xFF)):
        assert torch.equal(expected.nan_to_num(7), got.nan_to_num(7)), flip


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_what_is_sent_and_what_is_owed_is_what_was_given(spec):
    numel = 1000
    sender = tsq.Sender(tsq.ErrorFeedback(spec), numel, 0, 1)
    receiver = tsq.Receiver(tsq.ErrorFeedback(spec), numel, 1)
    given, got = torch.zeros(numel, dtype=torch.float64), torch.zeros(numel, dtype=torch.float64)
    for step in range(12):
        x = gaussian(numel, step, torch.float32)
        given += x.double()
        got += receiver.receive([sender.send(x)]).double()
    torch.testing.assert_close(got + sender.state["residual"].double(), given, rtol=0, atol=1e-4)


def test_sign_sends_the_mean_magnitude_and_has_its_class():
    x = torch.tensor([1.0, -2.0, 0.0, -0.0, 3.0])
    assert tsq.decode(tsq.encode(tsq.Sign(), x)).tolist() == pytest.approx([1.2, -1.2, 1.2, 1.2, 1.2])
    assert tsq.Sign(64).omega(1000) is None and tsq.Sign(64).alpha(1000) == 1 / 64 and tsq.Sign().alpha(3) == 1 / 3


def test_ternary_sends_zero_or_the_maximum_and_has_its_class():
    x = torch.tensor([1.0, -4.0, 0.0, 2.0])
    sent = torch.stack([tsq.decode(tsq.encode(tsq.Ternary(), x, step=s)) for s in range(4000)])
    assert set(sent.flatten().tolist()) == {0.0, 4.0, -4.0}
    torch.testing.assert_close(sent.mean(0), x, rtol=0, atol=0.15)
    assert tsq.Ternary().omega(1000) == 7.5 and tsq.Ternary().alpha(1000) == pytest.approx(1 / 8.5)


def test_natural_sends_the_powers_of_two_around_and_has_its_class():
    x = torch.tensor([1.0, -3.0, 0.0, 2.0**-127, 5.0, -(2.0**-126)])
    sent = torch.stack([tsq.decode(tsq.encode(tsq.Natural(), x, step=s)) for s in range(2000)])
    assert [set(column.tolist()) for column in sent.T] == [{1.0}, {-2.0, -4.0}, {0.0}, {0.0}, {4.0, 8.0}, {-(2.0**-126)}]
    torch.testing.assert_close(sent.mean(0), x, rtol=0.03, atol=1e-30)
    assert tsq.Natural().omega(1000) == 1 / 8 and tsq.Natural().alpha(1000) == 7 / 8


def test_natural_marks_what_reaches_2_to_the_127():
    for value, marked in ((2.0**127, True), (-(2.0**127), True), (2.0**127 * (1 - 2.0**-24), False)):
        assert bool(tsq.decode(tsq.encode(tsq.Natural(), torch.tensor([1.0, value]))).isnan().any()) == marked


@pytest.mark.parametrize("mechanism", [tsq.Direct, tsq.ErrorFeedback])
@pytest.mark.parametrize("spec", DITHERED + CASTS, ids=repr)
def test_all_ranks_read_the_mean_of_what_was_sent(spec, mechanism):
    numel, ranks = 70_000, 3  # more than a segment of levels
    senders = [tsq.Sender(mechanism(spec), numel, rank, ranks, seed=4) for rank in range(ranks)]
    messages = [sender.send(gaussian(numel, sender.rank, torch.float32)) for sender in senders]
    got = tsq.Receiver(mechanism(spec), numel, ranks, seed=4).receive(messages)
    values = [reference.decode(message) for message in messages]
    assert torch.equal(got, (values[0] + values[1] + values[2]) / torch.full((numel,), 3.0))
    assert not torch.equal(*messages[:2])


@pytest.mark.parametrize("spec", DITHERED, ids=repr)
def test_dithering_inside_error_feedback_is_the_shrunk_reference(spec):
    x = gaussian(3000, 1, torch.float32)
    message = tsq.Sender(tsq.ErrorFeedback(spec), 3000, 0, 1, seed=9).send(x)
    codec = reference.dithering.DITHERING if isinstance(spec, tsq.Dithering) else reference.dithering.NATURAL_DITHERING
    payload = reference.dithering.quantize(codec, x, reference.philox_key(9, 0, 0), spec.levels, spec.norm, spec.block, contractive=True)
    assert torch.equal(message[56:], payload)


def test_dithering_sends_multiples_of_the_norm_and_has_its_class():
    x = torch.tensor([3.0, 0.0, -4.0])
    sent = torch.stack([tsq.decode(tsq.encode(tsq.Dithering(2), x, step=s)) for s in range(4000)])
    assert [set(column.tolist()) for column in sent.T] == [{2.5, 5.0}, {0.0}, {-2.5, -5.0}]
    torch.testing.assert_close(sent.mean(0), x, rtol=0, atol=0.1)
    assert tsq.Dithering(4).omega(65536) == 63 and tsq.Dithering(4).alpha(65536) == 1 / 64
    assert tsq.Dithering(1, "inf", 256).omega(1000) == 7.5 and tsq.Dithering(1, float("inf")) == tsq.Dithering(1, "inf")


def test_natural_dithering_sends_powers_of_two_of_the_norm_and_has_its_class():
    x = torch.tensor([4.0, 0.1, -0.75, 0.0])
    sent = torch.stack([tsq.decode(tsq.encode(tsq.NaturalDithering(3, "inf"), x, step=s)) for s in range(4000)])
    assert [set(column.tolist()) for column in sent.T] == [{4.0}, {0.0, 1.0}, {-1.0, 0.0}, {0.0}]
    torch.testing.assert_close(sent.mean(0), x, rtol=0, atol=0.05)
    assert tsq.NaturalDithering(9).omega(65536) == 1.125 and tsq.NaturalDithering(9).alpha(65536) == pytest.approx(1 / 2.125)


def test_dithering_takes_the_shorter_form():
    x = torch.randn(4096, generator=torch.Generator().manual_seed(3))
    for levels in (1, 10, 100, 1000, 30000):
        message = tsq.encode(tsq.Dithering(levels), x)
        codes = reference.levels.decode(message[60:], 4096, reference.levels.width_of(levels))
        elias, packed = -(-len(reference.levels.elias(codes)) // 8), reference.levels.packed_bytes(4096, reference.levels.width_of(levels))
        assert message.numel() == 64 + min(elias, packed)
        assert 8 * min(elias, packed) >= reference.levels.entropy_bits(codes)


def test_casts_are_the_nearest_numbers_and_have_their_class():
    x = gaussian(5000, 4, torch.float32)
    assert torch.equal(tsq.decode(tsq.encode(tsq.Cast("fp16"), x)), x.half().float())
    assert torch.equal(tsq.decode(tsq.encode(tsq.Cast("bf16"), x)), x.bfloat16().float())
    for dtype, eight, lost in (("fp8", torch.float8_e4m3fn, 2.0**-8), ("fp8_e5m2", torch.float8_e5m2, 2.0**-6)):
        scales = torch.cat([part.abs().amax().repeat(part.numel()) for part in x.split(256)]) / torch.finfo(eight).max
        sent = tsq.decode(tsq.encode(tsq.Cast(dtype), x))
        torch.testing.assert_close(sent, (x / scales).to(eight).float() * scales, rtol=2 * lost**0.5, atol=0)
        assert ((sent == (x / scales).to(eight).float() * scales).float().mean()) > 0.5  # scales to rounding
        assert (sent - x).square().sum() <= lost * x.square().sum()
        assert tsq.Cast(dtype).omega(10) is None and 1 - tsq.Cast(dtype).alpha(10) == pytest.approx(lost, rel=1e-2)


def test_half_saturates():
    x = torch.tensor([1e5, -1e38, 2.0**-26, 3 * 2.0**-26])
    assert tsq.decode(tsq.encode(tsq.Cast("fp16"), x)).tolist() == [65504.0, -65504.0, 0.0, 2.0**-24]


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("text", EVERY)
def test_sizes_hold(text, dtype):
    """Payloads (messages without their 56 bytes of header and table) against what is promised of them."""
    spec = tsq.parse(f"ErrorFeedback({text})").compressor
    for numel in (0, 1, 256, 5000):
        expected, most = spec.expected_bits(numel, dtype), spec.max_bytes(numel, dtype)
        # PermK alone divides by the world; where the length depends on the data the expectation is of data that fit
        payloads = [tsq.encode(spec, gaussian(numel, seed, dtype), seed=seed).numel() - 56 for seed in range(3)]
        assert max(payloads) <= most and 0 <= expected <= 8 * most + 64
        assert tsq.ErrorFeedback(spec).expected_bits(numel, dtype) == pytest.approx(expected)
    if text.startswith(("Quantizer", "Sign", "Ternary", "Natural()", "Cast", "Identity", "RandK")):
        assert payloads == [most] * 3 and expected <= 8 * most <= expected + 8 * 33  # whole words, whole blocks


def test_sizes_refuse_other_dtypes():
    with pytest.raises(ValueError, match="dtype: expected float32, float64, float16 or bfloat16, got"):
        tsq.Natural().max_bytes(3, torch.int8)
