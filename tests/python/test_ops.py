"""torch.ops.torch_smoothquant: the bytes of tsq.encode, opcheck, torch.compile without graph breaks, errors that name the argument."""

from __future__ import annotations

import pytest
import torch

import torch_smoothquant as tsq

ops = torch.ops.torch_smoothquant
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SPECS = ("Quantizer(bits=4)", "Quantizer(bits=1, block=32)", "Quantizer(bits=3, block=4096, levels='fit')",
         "Quantizer(bits=8, rounding='nearest')", "Identity()")
SIZES = (0, 1, 257, 4097)


def gaussian(numel: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(numel), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_same_as_encode_and_decode(spec, dtype):
    for numel in SIZES:
        x = gaussian(numel, dtype)
        message = ops.encode(x, spec, 9, 3, 1)
        assert torch.equal(message, tsq.encode(spec, x, seed=9, step=3, rank=1))
        assert torch.equal(ops.decode(message, numel, dtype), tsq.decode(message))
    assert torch.equal(ops.encode(gaussian(600).view(20, 30), spec), tsq.encode(spec, gaussian(600)))
    x = gaussian(600)
    x[1] = float("nan")
    assert torch.equal(ops.encode(x, spec), tsq.encode(spec, x))


def test_seed_and_step_cover_64_bits():
    x = gaussian(600)
    assert torch.equal(ops.encode(x, "Quantizer(4)", -1, -2, 2**32 - 1), tsq.encode("Quantizer(4)", x, 2**64 - 1, 2**64 - 2, 2**32 - 1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_opcheck(spec, dtype):
    for numel in (0, 257, 4097):
        x = gaussian(numel, dtype)
        message = tsq.encode(spec, x)
        torch.library.opcheck(ops.encode.default, (x, spec), {"seed": 1, "step": 2, "rank": 3})
        torch.library.opcheck(ops.decode.default, (message, numel, dtype))


@pytest.mark.parametrize("spec", [f"Quantizer(bits={b}, block={k})" for b in range(1, 9) for k in (32, 256, 4096)] + ["Identity()"])
def test_meta_sizes_are_the_real_ones(spec):
    for dtype in (torch.float32, torch.float16):
        for numel in (0, 1, 31, 32, 33, 255, 256, 257, 4095, 4096, 4097, 9999):
            meta = ops.encode(torch.empty(numel, dtype=dtype, device="meta"), spec)
            assert meta.dtype == torch.uint8 and meta.shape == tsq.encode(spec, gaussian(numel, dtype)).shape


def round_trip(x: torch.Tensor, step: int) -> torch.Tensor:
    message = torch.ops.torch_smoothquant.encode(x * 2, "Quantizer(bits=4)", 5, step, 1)
    return torch.ops.torch_smoothquant.decode(message, x.numel(), x.dtype).view(x.shape) + message.numel()


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile(backend, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(round_trip, fullgraph=True, dynamic=dynamic, backend=backend)
    sizes = ((20, 30), (21, 30), (257, 1), (64, 64)) if dynamic else ((20, 30), (64, 64))
    for rows, columns in sizes:
        x = gaussian(rows * columns).view(rows, columns)
        for step in (0, 7):
            assert torch.equal(compiled(x, step), round_trip(x, step))
    torch._dynamo.reset()


def test_dynamic_means_one_graph_for_all_sizes():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x: round_trip(x, 3), fullgraph=True, dynamic=True, backend=counter)
    for numel in (300, 511, 777, 4097):
        compiled(gaussian(numel))
    assert counter.frame_count == 1
    torch._dynamo.reset()


X = gaussian(600)
MESSAGE = tsq.encode("Quantizer(4)", X)


@pytest.mark.parametrize(("arguments", "says"), [
    ((X[::2], "Quantizer(4)"), "encode: x: expected a contiguous"),
    ((X.int(), "Quantizer(4)"), "encode: x: expected dtype"),
    ((X, "Quantizer(bits=9)"), "bits: expected"),
    ((X, "Quantizer(bits=4"), "column 17"),
    ((X, "ErrorFeedback(Quantizer(bits=4))"), "compressor"),
    ((X, "Quantizer(4)", 0, 0, -1), "encode: rank: expected"),
    ((X, "Quantizer(4)", 0, 0, 2**32), "encode: rank: expected"),
])
def test_encode_errors(arguments, says):
    with pytest.raises((ValueError, RuntimeError), match=says):
        ops.encode(*arguments)


@pytest.mark.parametrize(("arguments", "says"), [
    ((X, 600, torch.float32), "decode: message: expected"),
    ((MESSAGE.view(1, -1), 600, torch.float32), "decode: message: expected"),
    ((MESSAGE.repeat_interleave(2)[::2], 600, torch.float32), "decode: message: expected"),
    ((MESSAGE[:-1], 600, torch.float32), "length: expected"),
    ((MESSAGE, 599, torch.float32), "numel: expected"),
    ((MESSAGE, -1, torch.float32), "numel: expected"),
    ((MESSAGE, 600, torch.float64), "dtype: expected"),
    ((MESSAGE, 600, torch.int32), "dtype: expected"),
])
def test_decode_errors(arguments, says):
    with pytest.raises((ValueError, RuntimeError), match=says):
        ops.decode(*arguments)


def test_meta_refuses_what_the_kernel_refuses():
    for arguments in ((X.int(), "Quantizer(4)"), (X, "Quantizer(bits=9)"), (X, "Quantizer(4)", 0, 0, -1)):
        with pytest.raises((ValueError, RuntimeError), match="expected"):
            ops.encode(arguments[0].to("meta"), *arguments[1:])


def test_not_differentiable():
    out = ops.encode(X.clone().requires_grad_(), "Quantizer(4)")
    assert not out.requires_grad
