"""encode, decode, Sender, Receiver: the bytes of the reference, the promises of the mechanisms, bad input."""

from __future__ import annotations

import copy
import itertools
import struct

import pytest
import torch

import torch_smoothquant as tsq
from torch_smoothquant import _C, reference

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIZES = (0, 1, 255, 256, 257, 4097)
TARGETS = (None, *_C.simd_targets())
BOTH_LEVELS = ("unbiased", "fit")
EF4, DIRECT4 = "ErrorFeedback(Quantizer(bits=4))", "Direct(Quantizer(bits=4))"


@pytest.fixture(autouse=True)
def any_simd_target():
    yield
    _C.force_simd_target(None)


def gaussian(numel: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


# ------------------------------------------------------------------ bytes


@pytest.mark.parametrize("levels", BOTH_LEVELS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_bytes_and_values_are_those_of_the_reference(bits, levels):
    assert len(TARGETS) >= 2
    for dtype, block, numel in itertools.product(DTYPES, (32, 256, 4096), SIZES):
        x = gaussian(numel, seed=numel + bits, dtype=dtype)
        expected = reference.quantizer.encode_message(x, bits, block, levels, seed=7, step=3, rank=2)
        values = reference.decode(expected)
        for target in TARGETS:
            _C.force_simd_target(target)
            message = tsq.encode(tsq.Quantizer(bits, block, levels), x, seed=7, step=3, rank=2)
            assert torch.equal(message, expected), (dtype, block, numel, target)
            assert torch.equal(tsq.decode(message), values), (dtype, block, numel, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nearest_and_identity_are_those_of_the_reference(dtype, target):
    _C.force_simd_target(target)
    for numel in SIZES:
        x = gaussian(numel, dtype=dtype)
        nearest = tsq.encode("Quantizer(bits=3, rounding='nearest')", x, rank=1)
        assert torch.equal(nearest, reference.quantizer.encode_message(x, 3, 256, "unbiased", "nearest", rank=1))
        assert torch.equal(tsq.encode("Identity()", x, step=5), reference.encode(x, "Identity", step=5))
        assert same_bits(tsq.decode(tsq.encode(tsq.Identity(), x)), x)


def test_shape_does_not_travel_and_seed_is_64_bits():
    x = gaussian(600)
    assert torch.equal(tsq.encode("Quantizer(4)", x.view(20, 30)), tsq.encode("Quantizer(4)", x))
    assert torch.equal(tsq.encode("Quantizer(4)", x.clone().requires_grad_()), tsq.encode("Quantizer(4)", x))
    big = dict(seed=2**64 - 1, step=2**64 - 2, rank=2**32 - 1)
    assert torch.equal(tsq.encode("Quantizer(4)", x, **big), reference.quantizer.encode_message(x, 4, **big))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("levels", BOTH_LEVELS)
def test_non_finite_input_marks_the_message(levels, bad):
    for target in TARGETS:
        _C.force_simd_target(target)
        x = gaussian(700)
        x[311] = bad
        message = tsq.encode(tsq.Quantizer(4, levels=levels), x)
        assert torch.equal(message, reference.quantizer.encode_message(x, 4, levels=levels))
        assert tsq.decode(message).isnan().all()
    assert same_bits(tsq.decode(tsq.encode("Identity()", x)), x)  # raw values travel as they are


def test_error_of_the_mean_falls_with_the_number_of_ranks():
    """64 messages of one vector: their errors are independent, so the mean's is 64 times smaller."""
    x, world = gaussian(1 << 17), 64
    for bits in (1, 3):
        messages = [tsq.encode(tsq.Quantizer(bits, levels="unbiased"), x, seed=11, step=4, rank=r) for r in range(world)]
        errors = torch.stack([tsq.decode(m) for m in messages]).double() - x.double()
        one = errors.square().sum(1).mean()
        assert errors.mean(0).square().sum() * world / one == pytest.approx(1, abs=0.03)
        omega = tsq.Quantizer(bits, levels="unbiased").omega(x.numel())
        assert 0 < one <= omega * x.double().square().sum()
    steps = torch.stack([tsq.decode(tsq.encode("Quantizer(bits=3)", x, step=s)) for s in range(world)]).double() - x.double()
    assert steps.mean(0).square().sum() * world / steps.square().sum(1).mean() == pytest.approx(1, abs=0.03)


# ------------------------------------------------------------------ Sender and Receiver


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spec", [EF4, "ErrorFeedback(Quantizer(bits=1))", "ErrorFeedback(Quantizer(bits=2, levels='unbiased'))",
                                  "ErrorFeedback(Quantizer(bits=1, levels='unbiased'))", "ErrorFeedback(Identity())"])
def test_conservation(spec, dtype):
    """What was received plus what is still owed is what was given."""
    world, numel, steps = 3, 1000, 12
    senders = [tsq.Sender(spec, numel, r, world, dtype, seed=5) for r in range(world)]
    single = [tsq.Receiver(spec, numel, 1, dtype, seed=5) for _ in senders]
    given = torch.zeros(world, numel, dtype=torch.float64)
    got = torch.zeros(world, numel, dtype=torch.float64)
    for step in range(steps):
        for r, sender in enumerate(senders):
            grad = gaussian(numel, seed=100 * step + r, dtype=dtype)
            given[r] += grad.double()
            message = sender.send(grad)
            message[12:16] = 0  # as rank 0 of a world of one, to read it alone
            parsed = reference.parse_message(message).sections[0]  # fp32 values: half types round the delivered mean, not the message
            got[r] += single[r].receive([message]).double() if parsed.codec == reference.quantizer.RAW else reference.decode_section(
                parsed, dtype).double()
            assert sender.state["residual"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for r, sender in enumerate(senders):
        assert sender.step == steps
        owed = sender.state["residual"].double()
        assert owed.abs().max() > 0 or "Identity" in spec
        torch.testing.assert_close(got[r] + owed, given[r], rtol=0, atol=steps * 3e-6)


def test_receiver_averages_in_rank_order_whatever_the_order_of_messages():
    world, numel = 5, 777
    for spec, dtype in itertools.product((DIRECT4, EF4, "Identity()"), DTYPES):
        senders = [tsq.Sender(spec, numel, r, world, dtype) for r in range(world)]
        messages = [s.send(gaussian(numel, seed=r, dtype=dtype)) for r, s in enumerate(senders)]
        receiver = tsq.Receiver(spec, numel, world, dtype)
        mean = receiver.receive(messages)
        parsed = [reference.parse_message(m).sections[0] for m in messages]
        values = [reference.decode_section(s, dtype).to(torch.float64 if dtype == torch.float64 else torch.float32) for s in parsed]
        total = torch.zeros_like(values[0])
        for value in values:
            total = total + value
        assert torch.equal(mean, (total.double() / world).to(total.dtype).to(dtype))
        assert mean.dtype == dtype and mean.shape == (numel,)
        for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
            assert same_bits(receiver.receive([messages[i] for i in order]), mean)


def test_sender_is_deterministic_and_steps_and_ranks_differ():
    def run(rank: int = 0, seed: int = 0) -> list[torch.Tensor]:
        sender = tsq.Sender("Quantizer(bits=3)", 600, rank, 4, seed=seed)
        return [sender.send(gaussian(600)) for _ in range(3)]

    assert all(map(torch.equal, run(), run()))
    payloads = [m[56:] for m in (*run(), *run(rank=1), *run(seed=1))]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(payloads, 2))
    assert all(torch.equal(m, tsq.encode("Quantizer(bits=3)", gaussian(600), step=i)) for i, m in enumerate(run()))


@pytest.mark.parametrize("spec", [
    EF4, "Direct(Quantizer(bits=2))", "ErrorFeedback(Quantizer(bits=2, levels='unbiased'))", "ErrorFeedback(UniformStep(bits=0.5))",
    "EF21(TopK(ratio=0.1), momentum=0.3)", "LAG(zeta=0.5)", "CLAG(Quantizer(bits=3), zeta=1.0)",
    "AdaCGD([TopK(k=9), TopK(k=90)], zeta=0.5)", "Ada3PC([LAG(zeta=0.1), EF21(Ternary())], [Near(zeta=0.1)])",
    "ThreePC(TopK(k=9), variant=2, second=RandK(k=9))",
    "ThreePC(TopK(k=9), variant=5, p=0.5)", "MARINA(Natural(), p=0.5)", "DIANA(Quantizer(bits=2))",
    "Bidirectional(EF21(TopK(k=9)), ErrorFeedback(Sign()))",
])
def test_state_dict_continues_bit_for_bit(spec, tmp_path):
    straight, received = tsq.Sender(spec, 900, 0, 1, seed=3), tsq.Receiver(spec, 900, 1, seed=3)
    for i in range(4):
        received.receive([straight.send(gaussian(900, seed=i))])
    torch.save([straight.state_dict(), received.state_dict()], tmp_path / "state.pt")
    resumed, receiver = tsq.Sender(spec, 900, 0, 1, seed=3), tsq.Receiver(spec, 900, 1, seed=3)
    for end, state in zip((resumed, receiver), torch.load(tmp_path / "state.pt")):
        end.load_state_dict(state)
    assert resumed.step == 4
    for i in range(4, 8):
        message = straight.send(gaussian(900, seed=i))
        assert torch.equal(message, resumed.send(gaussian(900, seed=i)))
        assert torch.equal(received.receive([message]), receiver.receive([message]))


def test_state_is_a_copy():
    sender = tsq.Sender(EF4, 300)
    sender.send(gaussian(300))
    before = sender.state["residual"].clone()
    sender.state["residual"].zero_()
    saved = sender.state_dict()
    sender.send(gaussian(300, seed=1))
    assert torch.equal(saved["state"]["residual"], before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("spec", [EF4, DIRECT4, "ErrorFeedback(Identity())"])
def test_non_finite_gradient(spec, bad):
    world, numel = 2, 600
    senders = [tsq.Sender(spec, numel, r, world) for r in range(world)]
    receiver = tsq.Receiver(spec, numel, world)
    for sender in senders:
        sender.send(gaussian(numel))
    before = copy.deepcopy(senders[0].state_dict()["state"])
    grad = gaussian(numel, seed=1)
    grad[400] = bad
    mean = receiver.receive([senders[0].send(grad), senders[1].send(gaussian(numel, seed=2))])
    assert mean.isnan().all()
    assert senders[0].step == 2
    assert all(torch.equal(senders[0].state[name], value) for name, value in before.items())
    assert receiver.receive([s.send(gaussian(numel, seed=3)) for s in senders]).isfinite().all()


def test_fp64_beyond_fp32_counts_as_infinite():
    sender = tsq.Sender(EF4, 300, dtype=torch.float64)
    grad = gaussian(300, dtype=torch.float64)
    grad[7] = 1e39
    assert tsq.decode(sender.send(grad)).isnan().all()
    assert not sender.state["residual"].any()


@pytest.mark.parametrize("target", TARGETS)
def test_a_sum_that_overflows_leaves_the_whole_state(target):
    """Residual + gradient overflows in one block: the message is lost, so no block's residual may count as sent."""
    _C.force_simd_target(target)
    sender = tsq.Sender(EF4, 600)
    residual = gaussian(600)
    residual[100] = 3e38
    sender.load_state_dict({**sender.state_dict(), "state": {"residual": residual}})
    grad = gaussian(600, seed=1)
    grad[100] = 3e38
    assert tsq.decode(sender.send(grad)).isnan().all()
    torch.testing.assert_close(sender.state["residual"], residual, rtol=0, atol=1e-5)


def test_header_says_who_and_when():
    sender = tsq.Sender(EF4, 300, rank=2, world_size=3)
    sender.send(gaussian(300))
    message = reference.parse_message(sender.send(gaussian(300)))
    assert (message.rank, message.step, message.kind, message.dtype) == (2, 1, 0, torch.float32)
    assert struct.calcsize("<4sHBBIIQQ") + 24 + reference.quantizer.payload_bytes(300, 4, 256) == message.length


@pytest.mark.parametrize("cheap, accurate", [("TopK(ratio=0.01)", "TopK(ratio=0.05)"), ("TopK(k=3)", "TopK(k=90)"),
                                             ("UniformStep(bits=0.25)", "UniformStep(bits=1.0)"),
                                             ("Quantizer(bits=2)", "Quantizer(bits=4)")])
def test_levels_of_a_ladder_may_share_a_codec(cheap, accurate):
    spec = f"AdaCGD([{cheap}, {accurate}], zeta=0.0)"  # no error is small enough but the last level's
    sender, receiver = tsq.Sender(spec, 12288), tsq.Receiver(spec, 12288)
    generator = torch.Generator().manual_seed(0)
    base, levels = torch.randn(12288, generator=generator), set()
    for step in range(6):
        gradient = base * (1 + step) + 0.01 * torch.randn(12288, generator=generator)
        estimate = receiver.receive([sender.send(gradient)])
        levels.add(sender.level)
        torch.testing.assert_close(estimate, sender.state["shift"])
    assert 2 in levels
