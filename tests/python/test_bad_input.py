"""Bad input to encode, decode, Sender, Receiver: the documented error, which names the argument; nothing is changed."""

from __future__ import annotations

import random
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch

import torch_smoothquant as tsq
from torch_smoothquant import reference

EF4 = "ErrorFeedback(Quantizer(bits=4))"
X = torch.randn(600, generator=torch.Generator().manual_seed(0))

BAD_TENSORS = [
    pytest.param(X[::2], ValueError, "contiguous", id="strided"),
    pytest.param(X.view(20, 30).t(), ValueError, "contiguous", id="transposed"),
    pytest.param(torch.ones(600, dtype=torch.int64), ValueError, "expected dtype", id="integer"),
    pytest.param(torch.ones(600, dtype=torch.uint8), ValueError, "expected dtype", id="bytes"),
    pytest.param(torch.ones(600, dtype=torch.bool), ValueError, "expected dtype", id="bool"),
    pytest.param(torch.ones(600, dtype=torch.complex64), ValueError, "expected dtype", id="complex"),
    pytest.param(X.to("meta"), ValueError, "cpu", id="meta"),
    pytest.param(X.to_sparse(), ValueError, "dense", id="sparse"),
    pytest.param(X.tolist(), TypeError, "torch.Tensor", id="list"),
    pytest.param(X.numpy(), TypeError, "torch.Tensor", id="array"),
    pytest.param(None, TypeError, "torch.Tensor", id="None"),
]


@pytest.mark.parametrize(("value", "error", "says"), BAD_TENSORS)
def test_tensors(value, error, says):
    with pytest.raises(error, match=rf"^x: .*{says}"):
        tsq.encode("Quantizer(4)", value)
    sender = tsq.Sender(EF4, 600)
    sender.send(X)
    before = sender.state_dict()
    with pytest.raises(error, match=rf"^gradient: .*{says}"):
        sender.send(value)
    assert sender.step == 1 and torch.equal(sender.state["residual"], before["state"]["residual"])


@pytest.mark.parametrize(("grad", "found"), [(X[:599], "599"), (X.double(), "float64"), (X.half(), "float16"), (torch.empty(0), "0 ")])
def test_gradient_of_another_length_or_dtype(grad, found):
    sender = tsq.Sender(EF4, 600)
    sender.send(X)
    before = sender.state["residual"]
    with pytest.raises(ValueError, match=f"^gradient: expected 600 elements of float32, got .*{found}"):
        sender.send(grad)
    assert sender.step == 1 and torch.equal(sender.state["residual"], before)


@pytest.mark.parametrize(("arguments", "error"), [
    ({"seed": -1}, ValueError), ({"seed": 2**64}, ValueError), ({"seed": 1.0}, TypeError), ({"seed": "1"}, TypeError),
    ({"seed": True}, TypeError), ({"step": -1}, ValueError), ({"step": 2**64}, ValueError), ({"step": None}, TypeError),
    ({"rank": -1}, ValueError), ({"rank": 2**32}, ValueError), ({"rank": 0.5}, TypeError), ({"rank": 2**64}, ValueError),
    ({"compressor": 4}, TypeError),
], ids=repr)
def test_encode_arguments(arguments, error):
    with pytest.raises(error, match=f"^{next(iter(arguments))}: expected"):
        tsq.encode(**{"compressor": "Quantizer(4)", "x": X, **arguments})


def test_encode_takes_no_mechanism():
    for spec in (EF4, tsq.Direct(tsq.Identity())):
        with pytest.raises(ValueError, match="compressor"):
            tsq.encode(spec, X)


SHARED = [
    ({"numel": -1}, ValueError), ({"numel": 2**64}, ValueError), ({"numel": 1.0}, TypeError), ({"numel": None}, TypeError),
    ({"world_size": 0}, ValueError), ({"world_size": -3}, ValueError), ({"world_size": 2**32}, ValueError),
    ({"world_size": "2"}, TypeError),
    ({"dtype": torch.int32}, ValueError), ({"dtype": torch.complex64}, ValueError), ({"dtype": "float32"}, TypeError),
    ({"dtype": None}, TypeError), ({"seed": -1}, ValueError), ({"seed": 2**64}, ValueError), ({"seed": 0.0}, TypeError),
    ({"spec": 4}, TypeError), ({"spec": None}, TypeError),
]


@pytest.mark.parametrize(("arguments", "error"), [
    *SHARED, ({"rank": -1}, ValueError), ({"rank": 4}, ValueError), ({"rank": 2**64}, ValueError), ({"rank": "0"}, TypeError)], ids=repr)
def test_sender_arguments(arguments, error):
    with pytest.raises(error, match=f"^{next(iter(arguments))}: expected"):
        tsq.Sender(**{"spec": EF4, "numel": 10, "world_size": 4, **arguments})


@pytest.mark.parametrize(("arguments", "error"), SHARED, ids=repr)
def test_receiver_arguments(arguments, error):
    with pytest.raises(error, match=f"^{next(iter(arguments))}: expected"):
        tsq.Receiver(**{"spec": EF4, "numel": 10, "world_size": 4, **arguments})


def test_a_size_beyond_memory_is_refused_without_a_crash():
    with pytest.raises((MemoryError, ValueError)):
        tsq.Sender(EF4, 2**61)


@pytest.mark.parametrize("spec", ["Quantizer(bits=9)", "Nothing()", ""])
def test_bad_specs(spec):
    for make in (tsq.Sender, tsq.Receiver):
        with pytest.raises(tsq.SpecError, match="column"):
            make(spec, 10)


@pytest.mark.parametrize("change", [
    {"spec": "ErrorFeedback(Quantizer(bits=3))"}, {"spec": None}, {"state": {}}, {"state": {"residual": X[:599]}},
    {"state": {"residual": X.double()}}, {"state": {"residual": torch.ones(600, dtype=torch.int32)}},
], ids=["spec", "no spec", "no vector", "length", "dtype", "integers"])
def test_load_state_dict(change):
    sender = tsq.Sender(EF4, 600)
    sender.send(X)
    before = sender.state_dict()
    with pytest.raises(ValueError, match="expected"):
        sender.load_state_dict({**before, **change, "step": 77})
    assert sender.step == 1 and torch.equal(sender.state["residual"], before["state"]["residual"])


@pytest.mark.parametrize(("change", "error", "says"), [
    ({"step": -1}, ValueError, "state_dict: step: expected 0 to"), ({"step": "1"}, TypeError, "state_dict: step: expected an int"),
    ({"step": 1.0}, TypeError, "state_dict: step: expected an int"), ({"state": None}, TypeError, "state_dict: state: expected a mapping"),
    ({"state": {"residual": [0.0] * 600}}, TypeError, "state_dict: state: residual: expected a torch.Tensor"),
    ({"state": {"residual": X / 0}}, ValueError, "state_dict: state: residual: expected finite"),
    ({"rates": [float("nan")]}, ValueError, "state_dict: rates: expected"), ({"rates": [0.0]}, ValueError, "state_dict: rates: expected"),
    ({"rates": "1"}, ValueError, "state_dict: rates: expected"), ({"price": -1.0}, ValueError, "state_dict: price: expected"),
    ({"price": "1"}, ValueError, "state_dict: price: expected"),
], ids=repr)
def test_load_state_dict_of_what_is_no_state(change, error, says):
    sender = tsq.Sender(EF4, 600)
    sender.send(X)
    before = sender.state_dict()
    other = tsq.Sender(EF4, 600)
    other.send(-X)
    with pytest.raises(error, match=f"^{says}"):
        sender.load_state_dict({**other.state_dict(), **change})
    assert sender.step == 1 and torch.equal(sender.state["residual"], before["state"]["residual"])
    assert (sender.rates, sender.price) == (before["rates"], before["price"])
    for nothing in (None, [1]):
        for end in (sender, tsq.Receiver(EF4, 600)):
            with pytest.raises(TypeError, match="^state_dict: expected a mapping"):
                end.load_state_dict(nothing)
    for rates in ([float("inf")], [-1.0], 1.0):
        with pytest.raises(ValueError, match="^rates: expected"):
            sender.rates = rates


def test_a_lazy_minus_sign_is_seen():
    negated = torch._neg_view(X)
    assert negated.is_neg() and torch.equal(tsq.decode(tsq.encode("Identity()", negated)), -X)
    assert torch.equal(tsq.Sender(EF4, 600).send(negated), tsq.Sender(EF4, 600).send(-X))


def test_numbers_of_numpy_are_numbers():
    sender = tsq.Sender(EF4, np.int64(600), rank=np.int32(1), world_size=np.int16(2), seed=np.uint64(2**64 - 1))
    assert torch.equal(sender.send(X), tsq.Sender(EF4, 600, 1, 2, seed=2**64 - 1).send(X))


@pytest.mark.parametrize("missing", ["spec", "step", "state"])
def test_load_state_dict_with_a_key_missing(missing):
    sender = tsq.Sender(EF4, 600)
    sender.send(X)
    state = sender.state_dict()
    del state[missing]
    with pytest.raises(ValueError, match=f"state_dict: .*{missing}|state_dict: expected one of .* got one of None"):
        sender.load_state_dict(state)
    assert sender.step == 1


# ------------------------------------------------------------------ messages


def messages(world: int = 2, spec: str = EF4, numel: int = 600, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [tsq.Sender(spec, numel, r, world, dtype).send(X[:numel].to(dtype)) for r in range(world)]


def later(message: torch.Tensor, offset: int, layout: str, value: int) -> torch.Tensor:
    """The message with one header field changed."""
    out = message.clone()
    new = struct.pack(layout, value)
    out[offset : offset + len(new)] = torch.tensor(list(new), dtype=torch.uint8)
    return out


@pytest.mark.parametrize(("change", "error", "says"), [
    (lambda m: m[:1], ValueError, "messages: expected 2"),
    (lambda m: [*m, m[0]], ValueError, "messages: expected 2"),
    (lambda m: [], ValueError, "messages: expected 2"),
    (lambda m: [m[0], m[0]], tsq.WireError, "rank"),
    (lambda m: [m[0], later(m[1], 12, "<I", 2)], tsq.WireError, "rank"),
    (lambda m: [m[0], later(m[1], 16, "<Q", 1)], tsq.WireError, "step"),
    (lambda m: [m[0], later(m[1], 7, "B", 1)], tsq.WireError, "kind"),
    (lambda m: [m[0], messages(dtype=torch.float64)[1]], tsq.WireError, "dtype"),
    (lambda m: [m[0], messages(numel=599)[1]], tsq.WireError, "numel"),
    (lambda m: [m[0], messages(spec="ErrorFeedback(Quantizer(bits=3))")[1]], tsq.WireError, "section"),
    (lambda m: [m[0], messages(spec="Quantizer(bits=4)")[1]], tsq.WireError, "section"),
    (lambda m: [m[0], messages(spec="Identity()")[1]], tsq.WireError, "section"),
    (lambda m: [m[0], m[1][:-1]], tsq.WireError, "length"),
    (lambda m: [m[0], m[1].to(torch.int8)], ValueError, "messages: expected"),
    (lambda m: [m[0], m[1].view(1, -1)], ValueError, "messages: expected"),
    (lambda m: [m[0], m[1].repeat_interleave(2)[::2]], ValueError, "messages: expected"),
    (lambda m: [m[0], bytes(m[1].tolist())], TypeError, "messages: expected"),
    (lambda m: m[0], ValueError, "messages: expected"),
    (lambda m: None, TypeError, "messages: expected"),
])
def test_receive(change, error, says):
    receiver, good = tsq.Receiver(EF4, 600, 2), messages()
    mean = receiver.receive(good)
    with pytest.raises(error, match=says):
        receiver.receive(change(good))
    assert torch.equal(receiver.receive(good), mean)


@pytest.mark.parametrize(("value", "error"), [
    (X, ValueError), (torch.zeros(2, 40, dtype=torch.uint8), ValueError), (torch.zeros(100, dtype=torch.uint8)[::2], ValueError),
    (torch.zeros(100, dtype=torch.int8), ValueError), (b"TSQM", TypeError), (None, TypeError),
], ids=["float", "2-D", "strided", "int8", "bytes", "None"])
def test_decode_arguments(value, error):
    with pytest.raises(error, match=r"^message: expected"):
        tsq.decode(value)


@pytest.mark.parametrize(("offset", "layout", "value", "field"), [
    (0, "<I", 1, "magic"), (4, "<H", 2, "version"), (6, "B", 4, "dtype"), (7, "B", 2, "kind"), (8, "<I", 2**32 - 1, "sections"),
    (24, "<Q", 2**64 - 1, "length"), (32, "B", 99, "codec"), (33, "B", 4, "flags"), (34, "B", 9, "bits"), (34, "B", 0, "width"),
    (35, "B", 4, "variant"), (35, "B", 2, "bytes"),
    (36, "<I", 48, "block"), (40, "<Q", 2**63, "bytes"), (40, "<Q", 700, "bytes"), (48, "<Q", 2**64 - 1, "bytes"),
])
def test_decode_names_the_field(offset, layout, value, field):
    with pytest.raises(tsq.WireError, match=rf"{field}: expected .*, (found|got) "):
        tsq.decode(later(messages()[0], offset, layout, value))
    with pytest.raises(ValueError, match=field):
        reference.decode(later(messages()[0], offset, layout, value))


def test_decode_every_truncation():
    message = messages(numel=300)[0]
    for length in range(message.numel()):
        with pytest.raises(tsq.WireError):
            tsq.decode(message[:length].clone())
    with pytest.raises(tsq.WireError):
        tsq.decode(torch.cat([message, message[:1]]))


def test_a_marked_section_has_an_empty_payload():
    """docs/wire_format.md: the payload of a non-finite section is all zero. The reference rejects others."""
    grad = X.clone()
    grad[3] = float("nan")
    message = tsq.encode("Quantizer(4)", grad)
    assert tsq.decode(message).isnan().all()
    message[56:] = tsq.encode("Quantizer(4)", X)[56:]  # a legal payload, but of numbers
    with pytest.raises(ValueError):
        reference.decode(message)
    with pytest.raises(tsq.WireError):
        tsq.decode(message)


def claims(*sections: tuple[int, int, int], dtype: int = 0) -> torch.Tensor:
    """A message of all-zero payloads; sections: codec, claimed numel, bytes."""
    length = 32 + 24 * len(sections) + sum(size for _, _, size in sections)
    table = b"".join(struct.pack("<4BIQQ", codec, 0, 0, 0, 0, numel, size) for codec, numel, size in sections)
    header = struct.pack("<4sHBBIIQQ", b"TSQM", 1, dtype, 0, len(sections), 0, 0, length)
    return torch.tensor(list((header + table).ljust(length, b"\0")), dtype=torch.uint8)


@pytest.mark.parametrize(("sections", "claimed"), [
    ([(12, 2**32 + 1, 0)], "4294967297"),
    ([(12, 2**64 - 1, 0)], "18446744073709551615"),
    ([(12, 2**63, 0), (12, 2**63, 0)], "9223372036854775808"),  # a sum of 0 modulo 2^64
    ([(12, 5, 0), (12, 2**64 - 5, 0)], "5 and 18446744073709551611 more"),
    ([(7, 2**32 - 1, 16), (7, 2**32 - 1, 16)], "4294967295 and 4294967295 more"),
])
def test_decode_refuses_to_make_room_for_a_huge_claim(sections, claimed):
    with pytest.raises(tsq.WireError, match=rf"numel: expected at most 2\^32 = 4294967296 in all, found {claimed}$"):
        tsq.decode(claims(*sections))


def test_an_empty_uniform_section_has_a_length_for_each_segment():
    assert torch.equal(tsq.decode(claims((5, 65537, 12))), torch.zeros(65537))
    for decode in (tsq.decode, reference.decode):
        with pytest.raises(ValueError, match="bytes: expected"):
            decode(claims((5, 2**31, 4)))


def test_decode_names_numel_when_memory_cannot_be_had():
    """In a process of its own with a limit on its address space: 16 GiB of float64."""
    code = """if True:
        import resource, sys, torch, torch_smoothquant as tsq
        message = torch.tensor(list(bytes.fromhex(sys.argv[1])), dtype=torch.uint8)
        tsq.decode(tsq.encode("Identity()", torch.ones(3)))
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, resource.RLIM_INFINITY))
        try:
            tsq.decode(message)
        except tsq.WireError as error:
            print(error)
    """
    message = bytes(claims((12, 2**31, 0), dtype=1).tolist())
    done = subprocess.run([sys.executable, "-c", code, message.hex()], capture_output=True, text=True, timeout=120)
    assert done.stdout == "bad message: numel: expected elements that fit into memory, found 2147483648 of float64\n", done.stderr


def accepts(decode, message: torch.Tensor) -> torch.Tensor | None:
    try:
        return decode(message)
    except ValueError as error:
        assert decode is reference.decode or type(error) is tsq.WireError
        return None


def test_2000_random_messages():
    """Noise, and legal messages with a few bytes changed: accepted or refused as the reference does, never anything else."""
    rng = random.Random(0)
    specs = ["Quantizer(4)", "Quantizer(3, 32)", "Quantizer(1, levels='fit')", "Quantizer(8, levels='fit')", "Identity()"]
    originals = [tsq.encode(s, X[:n].to(t)) for s in specs for n in (0, 1, 40, 300) for t in (torch.float32, torch.float64, torch.bfloat16)]
    accepted = 0
    for i in range(2000):
        if i % 4 == 0:
            message = torch.tensor([rng.randrange(256) for _ in range(rng.randrange(200))], dtype=torch.uint8)
        else:
            message = rng.choice(originals).clone()
            for _ in range(rng.randrange(1, 4)):
                at = rng.randrange(56 if rng.random() < 0.6 else message.numel())
                message[at] = rng.randrange(256) if rng.random() < 0.5 else int(message[at]) ^ (1 << rng.randrange(8))
            if rng.random() < 0.2:
                message = message[: rng.randrange(message.numel())].clone()
        ours, theirs = accepts(tsq.decode, message), accepts(reference.decode, message)
        assert (ours is None) == (theirs is None), (i, bytes(message.tolist()).hex())
        if ours is not None:
            accepted += 1
            assert torch.equal(ours.nan_to_num(), theirs.nan_to_num()) and torch.equal(ours.isnan(), theirs.isnan())
    assert accepted > 100  # the test does see legal ones
