"""torch.ops.torch_smoothquant: the bytes of tsq.encode in memory of fixed capacity, opcheck, torch.compile without graph breaks, mutation
that is seen, errors that name the argument. For every compressor of tests/specs.txt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch._dynamo.testing

import torch_smoothquant as tsq
from torch_smoothquant import _C

ops = torch.ops.torch_smoothquant
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SPECS = (Path(__file__).resolve().parents[1] / "specs.txt").read_text().split("\n")[:-1]
SIZES = (0, 1, 257, 4097)
FORMS = {"encode_residual": ops.encode_residual, "encode_shifted": ops.encode_shifted}
each_spec = pytest.mark.parametrize("spec", SPECS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_form = pytest.mark.parametrize("form", FORMS)


def gaussian(numel: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(numel + seed), dtype=torch.float64).to(dtype)


def state_for(x: torch.Tensor) -> torch.Tensor:
    return gaussian(x.numel(), torch.float64, 7).to(torch.float64 if x.dtype == torch.float64 else torch.float32).view(x.shape)


def test_the_list_has_every_compressor():
    assert {type(tsq.parse(spec)) for spec in SPECS} == {
        c for c in vars(tsq).values() if isinstance(c, type) and issubclass(c, tsq.Compressor) and c is not tsq.Compressor}
    assert all(repr(tsq.parse(spec)) == spec for spec in SPECS)


@each_dtype
@each_spec
def test_same_as_encode_and_decode(spec, dtype):
    for numel in SIZES:
        x = gaussian(numel, dtype)
        buffer, exact = ops.encode(x, spec, 9, 3, 1), tsq.encode(spec, x, seed=9, step=3, rank=1)
        assert torch.equal(tsq.trim(buffer), exact) and not buffer[exact.numel():].any()
        for message in (buffer, exact):
            assert torch.equal(ops.decode(message, numel, dtype), tsq.decode(exact))
    assert torch.equal(tsq.trim(ops.encode(gaussian(600).view(20, 30), spec)), tsq.encode(spec, gaussian(600)))


@each_spec
def test_non_finite_is_marked_and_leaves_the_state(spec):
    x = gaussian(600)
    x[1] = float("nan")
    assert torch.equal(tsq.trim(ops.encode(x, spec)), tsq.encode(spec, x))
    for form in FORMS.values():
        state = state_for(x)
        message = form(x, state, spec)
        assert torch.equal(state, state_for(x)) and ops.decode(message, 600, torch.float32).isnan().all()
        acc = torch.zeros(600)
        ops.decode_add(acc, message)
        assert acc.isnan().all()


@each_dtype
@each_spec
def test_residual_is_error_feedbacks(spec, dtype):
    numel = 777
    sender, state = tsq.Sender(f"ErrorFeedback({spec})", numel, rank=1, world_size=3, dtype=dtype, seed=5), None
    for step in range(3):
        x = gaussian(numel, dtype, step)
        state = torch.zeros_like(state_for(x)) if state is None else state
        message = ops.encode_residual(x, state, spec, 5, step, 1, 3)
        sender.rates = [1.0]  # an op has no controller
        assert torch.equal(tsq.trim(message), sender.send(x))
        assert torch.equal(state, sender.state["residual"])


@each_dtype
@each_spec
def test_shift_follows_what_was_sent(spec, dtype):
    x = gaussian(777, dtype)
    shift = state_for(x)
    expected, message = shift.clone(), ops.encode_shifted(x, shift, spec, 5, 0, 1)
    ops.decode_add(expected, message)
    assert torch.equal(shift, expected)


@each_dtype
def test_decode_add_adds_what_decode_gives(dtype):
    for spec in SPECS:
        message = ops.encode(gaussian(600, dtype), spec)
        for acc_dtype in (torch.float32, torch.float64):
            acc = gaussian(600, acc_dtype, 3).view(20, 30)
            expected = acc + 0.5 * tsq.decode(tsq.trim(message)).to(torch.float64).view(20, 30)
            ops.decode_add(acc, message, 0.5)
            rounded = 2.0**-8 if dtype.itemsize == 2 else 1e-6  # decode rounds to the message's dtype, decode_add does not
            torch.testing.assert_close(acc.double(), expected.double(), rtol=1e-6, atol=rounded * float(expected.abs().max()))


def test_seed_and_step_cover_64_bits():
    x = gaussian(600)
    message = ops.encode(x, "Quantizer(4)", -1, -2, 2**32 - 1)
    assert torch.equal(tsq.trim(message), tsq.encode("Quantizer(4)", x, 2**64 - 1, 2**64 - 2, 2**32 - 1))


@each_dtype
@each_spec
def test_opcheck(spec, dtype):
    for numel in (0, 257):
        x = gaussian(numel, dtype)
        message = tsq.encode(spec, x)
        torch.library.opcheck(ops.encode.default, (x, spec), {"seed": 1, "step": 2, "rank": 3})
        for form in FORMS.values():
            torch.library.opcheck(form.default, (x, state_for(x), spec), {"step": 2, "rank": 3, "world_size": 4})
        torch.library.opcheck(ops.decode.default, (message, numel, dtype))
        torch.library.opcheck(ops.decode_add.default, (state_for(x), message), {"scale": 0.5})


@each_spec
def test_meta_sizes_are_the_real_ones(spec):
    for dtype in (torch.float32, torch.float16):
        for numel in (0, 1, 31, 255, 256, 257, 4095, 4096, 4097, 9999, 20000):
            x = gaussian(numel, dtype)
            meta = ops.encode(torch.empty(numel, dtype=dtype, device="meta"), spec)
            assert meta.dtype == torch.uint8 and meta.shape == ops.encode(x, spec).shape
            state = state_for(x)
            assert ops.encode_residual(x.to("meta"), state.to("meta"), spec).shape == meta.shape


def step_of_training(spec: str, x: torch.Tensor, residual: torch.Tensor, shift: torch.Tensor, step: int) -> torch.Tensor:
    """All five ops; three tensors are changed in place, one of them made inside."""
    acc = torch.ones(x.shape)
    ops.decode_add(acc, ops.encode_residual(x * 2, residual, spec, 5, step, 1, 2), 0.5)
    sent = ops.encode_shifted(x + residual, shift, spec, 5, step, 0, 2)
    acc += ops.decode(sent, x.numel(), x.dtype).view(x.shape) * shift
    return acc + ops.decode(ops.encode(x, spec, 6, step), x.numel(), x.dtype).view(x.shape) + sent.numel()


def check_compiled(compiled, spec, rows, columns):
    x = gaussian(rows * columns).view(rows, columns)
    for step in (0, 7):
        states = [(state_for(x), -state_for(x)) for _ in range(2)]
        assert torch.equal(compiled(spec, x, *states[0], step), step_of_training(spec, x, *states[1], step))
        assert torch.equal(states[0][0], states[1][0]) and torch.equal(states[0][1], states[1][1])
        assert not torch.equal(states[0][0], state_for(x))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("spec", ["Quantizer(bits=4)", "TopK(ratio=0.01)", "TopK(k=300)"])
def test_compile(spec, backend, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(step_of_training, fullgraph=True, dynamic=dynamic, backend=backend)
    for rows, columns in ((20, 30), (21, 30), (64, 64)) if dynamic else ((20, 30), (64, 64)):
        check_compiled(compiled, spec, rows, columns)
    torch._dynamo.reset()


@each_spec
def test_dynamic_means_one_graph_for_all_sizes(spec):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step_of_training, fullgraph=True, dynamic=True, backend=counter)
    for rows in (15, 17, 33, 700):
        check_compiled(compiled, spec, rows, 20)
    assert counter.frame_count == 1
    torch._dynamo.reset()


X = gaussian(600)
S = gaussian(600, seed=1)
MESSAGE = tsq.encode("Quantizer(4)", X)
Q = "Quantizer(4)"


@pytest.mark.parametrize(("arguments", "says"), [
    ((X[::2], Q), "encode: x: expected a contiguous"),
    ((X.int(), Q), "encode: x: expected dtype"),
    ((X, "Quantizer(bits=9)"), "encode: compressor: .*bits: expected"),
    ((X, "Quantizer(bits=4"), "column 17"),
    ((X, "ErrorFeedback(Quantizer(bits=4))"), "compressor"),
    ((X, Q, 0, 0, -1), "encode: rank: expected"),
    ((X, Q, 0, 0, 2**32), "encode: rank: expected"),
    ((X, Q, 0, 0, 3, 3), "encode: rank: expected 0 to 2"),
    ((X, Q, 0, 0, 0, 0), "encode: world_size: expected"),
])
def test_encode_errors(arguments, says):
    with pytest.raises((ValueError, RuntimeError), match=says):
        ops.encode(*arguments)


@each_form
@pytest.mark.parametrize(("arguments", "says"), [
    ((X.int(), S, Q), "x: expected dtype"),
    ((X, S.double(), Q), "STATE: expected dtype"),
    ((X.half(), S.half(), Q), "STATE: expected dtype"),
    ((X, S[:599], Q), "STATE: expected as many elements as x, 600, got 599"),
    ((X, torch.cat([S, S])[::2], Q), "STATE: expected a contiguous"),
    ((X, X, Q), "STATE: expected memory of its own"),
    ((X, X.view(20, 30), Q), "STATE: expected memory of its own"),
    ((X[:599], X[1:], Q), "STATE: expected memory of its own"),
    ((X, S, "Nope()"), "compressor: unknown"),
    ((X, S, Q, 0, 0, 5, 5), "rank: expected 0 to 4"),
])
def test_errors_with_a_state(form, arguments, says):
    name = {"encode_residual": "residual", "encode_shifted": "shift"}[form]
    before = S.clone(), X.clone()
    with pytest.raises((ValueError, RuntimeError), match=f"{form}: {says.replace('STATE', name)}"):
        FORMS[form](*arguments)
    assert torch.equal(before[0], S) and torch.equal(before[1], X)


def test_neighbours_in_one_buffer_are_no_overlap():
    flat = torch.cat([X, S])
    message = ops.encode_residual(flat[:600], flat[600:], Q)
    state = S.clone()
    assert torch.equal(message, ops.encode_residual(X, state, Q)) and torch.equal(flat[600:], state) and torch.equal(flat[:600], X)


BAD_MESSAGES = [
    (X, "message: expected"),
    (MESSAGE.view(1, -1), "message: expected"),
    (MESSAGE.repeat_interleave(2)[::2], "message: expected"),
    (MESSAGE[:-1], "length: expected"),
    (MESSAGE[:31], "length: expected"),
    (torch.zeros(100, dtype=torch.uint8), "magic: expected"),
    (torch.cat([MESSAGE[:24], torch.zeros(8, dtype=torch.uint8), MESSAGE[32:]]), "length: expected 32 to"),
    (torch.cat([MESSAGE[:24], torch.full((8,), 255, dtype=torch.uint8), MESSAGE[32:]]), "length: expected 32 to"),
    (torch.cat([MESSAGE[:24], MESSAGE[24:25] - 1, MESSAGE[25:]]), "bad message"),
    (tsq.encode(Q, X[1:]), "numel: expected 600, found 599"),
]


@pytest.mark.parametrize(("message", "says"), BAD_MESSAGES)
def test_bad_messages(message, says):
    with pytest.raises((ValueError, RuntimeError), match=f"decode: .*{says}"):
        ops.decode(message, 600, torch.float32)
    acc = S.clone()
    with pytest.raises((ValueError, RuntimeError), match=f"decode_add: .*{says}"):
        ops.decode_add(acc, message)
    assert torch.equal(acc, S)


@pytest.mark.parametrize(("arguments", "says"), [
    ((MESSAGE, 599, torch.float32), "numel: expected"),
    ((MESSAGE, -1, torch.float32), "numel: expected"),
    ((MESSAGE, 600, torch.float64), "dtype: expected"),
    ((MESSAGE, 600, torch.int32), "dtype: expected"),
])
def test_decode_errors(arguments, says):
    with pytest.raises((ValueError, RuntimeError), match=says):
        ops.decode(*arguments)


@pytest.mark.parametrize(("acc", "says"), [
    (X.half(), "acc: expected dtype"), (X[:599], "numel: expected"), (torch.cat([X, X])[::2], "acc: expected a contiguous"),
])
def test_decode_add_errors(acc, says):
    with pytest.raises((ValueError, RuntimeError), match=f"decode_add: .*{says}"):
        ops.decode_add(acc, MESSAGE)


def test_decode_add_refuses_the_messages_own_memory():
    memory = torch.zeros(4 * 600, dtype=torch.uint8)
    memory[: MESSAGE.numel()] = MESSAGE
    with pytest.raises((ValueError, RuntimeError), match="acc: expected memory of its own"):
        ops.decode_add(memory.view(torch.float32), memory)


def test_trim_and_the_strict_decoder():
    buffer = ops.encode(X, "TopK(k=30)")
    assert buffer.numel() > tsq.trim(buffer).numel() and torch.equal(tsq.trim(tsq.trim(buffer)), tsq.trim(buffer))
    assert torch.equal(tsq.decode(tsq.trim(buffer)), ops.decode(buffer, 600, torch.float32))
    with pytest.raises(tsq.WireError, match="length"):
        tsq.decode(buffer)
    for bad, says in BAD_MESSAGES[4:8]:
        with pytest.raises(tsq.WireError, match=says):
            tsq.trim(bad)
    with pytest.raises(TypeError, match="message: expected a torch.Tensor"):
        tsq.trim([1])
    assert _C.stated_length(buffer) == tsq.trim(buffer).numel()


def test_meta_refuses_what_the_kernel_refuses():
    for arguments in ((X.int(), Q), (X, "Quantizer(bits=9)"), (X, Q, 0, 0, -1)):
        with pytest.raises((ValueError, RuntimeError), match="expected"):
            ops.encode(arguments[0].to("meta"), *arguments[1:])
    for state in (S.double(), S[1:]):
        with pytest.raises((ValueError, RuntimeError), match="residual: expected"):
            ops.encode_residual(X.to("meta"), state.to("meta"), Q)
    with pytest.raises((ValueError, RuntimeError), match="acc: expected"):
        ops.decode_add(X.half().to("meta"), MESSAGE.to("meta"))


def test_not_differentiable():
    assert not ops.encode(X.clone().requires_grad_(), Q).requires_grad
