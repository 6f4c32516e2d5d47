"""Running as a value: defaults, repr, refusals. What it does: tests/cpp/{smoothness,policy,hook}, tests/dist/test_running.py."""

from __future__ import annotations

import pytest
import torch

import torch_smoothquant as tsq


def test_repr_gives_it_back():
    for running in (tsq.Running(), tsq.Running("secant", metric="adam", decay=0.5, floor=0.1, warmup=0, interval=1)):
        assert eval(repr(running), {"Running": tsq.Running}) == running
    assert repr(tsq.Running()) == "Running('second_moment')"
    with pytest.raises(AttributeError):
        tsq.Running().kind = "secant"


@pytest.mark.parametrize(("arguments", "says"), [
    ({"kind": "fisher"}, "kind: expected one of 'second_moment', 'secant', 'hutchinson', 'kronecker', got 'fisher'"),
    ({"metric": "lion"}, "metric: expected one of 'sgd', 'adam', got 'lion'"),
    ({"decay": 1.0}, "decay"), ({"decay": float("nan")}, "decay"), ({"decay": True}, "decay"), ({"floor": 0}, "floor"),
    ({"warmup": -1}, "warmup"), ({"warmup": 1.5}, "warmup"), ({"interval": 0}, "interval"), ({"interval": True}, "interval"),
    ({"largest_side": 1}, "largest_side"),
])
def test_numbers_out_of_range_are_refused(arguments, says):
    with pytest.raises(ValueError, match="Running: ") as caught:
        tsq.Running(**arguments)
    assert says in str(caught.value)


def test_an_average_width_is_a_float_and_a_whole_one_an_int():
    assert repr(tsq.Quantizer(bits=2.0)) == "Quantizer(bits=2.0)" and tsq.parse("Quantizer(bits=2.5)") == tsq.Quantizer(bits=2.5)
    x = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    even, average = tsq.encode(tsq.Quantizer(bits=3, levels="fit"), x), tsq.encode(tsq.Quantizer(bits=3.0, levels="fit"), x)
    assert even.numel() < average.numel() <= even.numel() + 3  # half a byte for a run
    assert tsq.decode(average).shape == x.shape


def test_an_average_width_spends_its_bits_where_the_energy_is():
    x = torch.randn(16 * 1024, generator=torch.Generator().manual_seed(2))
    x[: 4 * 1024] *= 30
    even, average = ((tsq.decode(tsq.encode(tsq.Quantizer(bits=bits, levels="fit"), x)) - x).square().sum() for bits in (3, 3.0))
    assert average < 0.2 * even


def test_both_ends_agree_and_error_feedback_keeps_what_is_owed():
    spec, world = "ErrorFeedback(Quantizer(bits=2.5))", 2
    senders = [tsq.Sender(spec, 5000, rank=rank, world_size=world) for rank in range(world)]
    receivers = [tsq.Receiver(spec, 5000, world_size=world) for _ in range(2)]
    given, delivered = torch.zeros(5000), torch.zeros(5000)
    for step in range(10):
        gradients = [torch.randn(5000, generator=torch.Generator().manual_seed(10 * step + rank)) for rank in range(world)]
        messages = [sender.send(gradient) for sender, gradient in zip(senders, gradients, strict=True)]
        assert len({message.numel() for message in messages}) == 1
        one, two = (receiver.receive(messages) for receiver in receivers)
        assert torch.equal(one, two)
        given += sum(gradients) / world
        delivered += one
    owed = sum(sender.state["residual"] for sender in senders) / world
    torch.testing.assert_close(delivered + owed, given, rtol=0, atol=1e-4)
