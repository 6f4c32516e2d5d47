"""What torch itself, and libraries where installed, do for the same purpose; with the same three questions: encode x, the same with error
feedback, add one decoded message to a sum. They write into fresh memory where torch has no other way."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from torch_smoothquant import _C

from .measure import Clock, Result, gaussian, heavy_tailed, relative_error

ROW = 256


@dataclass
class Peer:
    """``encode`` makes tensors of x; ``decode`` the values of them; ``add`` adds them to acc (None: through decode)."""

    name: str
    encode: Callable[[torch.Tensor], Any]
    decode: Callable[[Any, int], torch.Tensor]
    bits: Callable[[Any, int], float]
    add: Callable[[torch.Tensor, Any], object] | None = None


def _top_k(ratio: float) -> Peer:
    def encode(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.topk(x.abs(), int(ratio * x.numel()), sorted=False).indices
        return index, x.gather(0, index)

    def decode(sent: Any, numel: int) -> torch.Tensor:
        return torch.zeros(numel).scatter_(0, *sent)

    return Peer(f"torch.topk + gather, {ratio:.1%}", encode, decode, lambda sent, n: 64.0 * sent[0].numel() / n,  # 32-bit indices
                lambda acc, sent: acc.index_add_(0, *sent))


def _per_tensor() -> Peer:
    def encode(x: torch.Tensor) -> torch.Tensor:
        return torch.quantize_per_tensor(x, float(x.abs().max()) / 127, 0, torch.qint8)

    return Peer("torch.quantize_per_tensor, qint8", encode, lambda sent, n: sent.dequantize(), lambda sent, n: 8.0)


def _per_channel() -> Peer:
    def encode(x: torch.Tensor) -> torch.Tensor:
        rows = x.view(-1, ROW)
        scales = rows.abs().amax(1).double() / 127
        return torch.quantize_per_channel(rows, scales.clamp_min(1e-30), torch.zeros(len(rows), dtype=torch.long), 0, torch.qint8)

    return Peer(f"torch.quantize_per_channel, qint8, {ROW}", encode, lambda sent, n: sent.dequantize().flatten(),
                lambda sent, n: 8 + 32 / ROW)


def _cast(dtype: torch.dtype, name: str) -> Peer:
    return Peer(name, lambda x: x.to(dtype), lambda sent, n: sent.float(), lambda sent, n: 16.0, lambda acc, sent: acc.add_(sent))


def _rowwise(name: str) -> Peer:
    """FBGEMM's codecs as torch ships them: a scale and an offset for every row."""
    ops = torch.ops.quantized
    pack, unpack = getattr(ops, f"embedding_bag_{name}_prepack"), getattr(ops, f"embedding_bag_{name}_unpack")
    return Peer(f"FBGEMM row-wise {name}, {ROW}", lambda x: pack(x.view(-1, ROW)), lambda sent, n: unpack(sent).flatten(),
                lambda sent, n: 8.0 * sent.numel() / n)


def _fbgemm_gpu(bits: int) -> Peer:
    """The same codecs as the library's own package has them."""
    ops = torch.ops.fbgemm
    if bits == 8:
        pack, unpack = ops.FloatToFused8BitRowwiseQuantized, ops.Fused8BitRowwiseQuantizedToFloat
    else:
        def pack(rows: torch.Tensor) -> torch.Tensor:
            return ops.FloatToFusedNBitRowwiseQuantizedSBHalf(rows, bits)

        def unpack(sent: torch.Tensor) -> torch.Tensor:
            return ops.FusedNBitRowwiseQuantizedSBHalfToFloat(sent, bits)

    return Peer(f"fbgemm_gpu, {bits} bits row-wise, {ROW}", lambda x: pack(x.view(-1, ROW)), lambda sent, n: unpack(sent).flatten(),
                lambda sent, n: 8.0 * sent.numel() / n)


def _hivemind(kind: str) -> Peer:
    """hivemind's codecs: protobuf messages."""
    compression = importlib.import_module("hivemind.compression")
    number = importlib.import_module("hivemind.proto.runtime_pb2").CompressionType.Value(kind)
    return Peer(f"hivemind {kind}", lambda x: compression.serialize_torch_tensor(x, number),
                lambda sent, n: compression.deserialize_torch_tensor(sent), lambda sent, n: 8.0 * sent.ByteSize() / n)


def installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def of_libraries() -> tuple[list[Peer], list[str]]:
    """Those of the libraries that are here and run, and a line for everything that is not or does not."""
    found, missing = [], []
    if installed("fbgemm_gpu"):
        importlib.import_module("fbgemm_gpu")  # registers its operators
        found += [_fbgemm_gpu(bits) for bits in (8, 4, 2)]
    if installed("hivemind"):
        found += [_hivemind(kind) for kind in ("FLOAT16", "MEANSTD_16BIT", "UNIFORM_8BIT", "QUANTILE_8BIT")]  # blockwise needs bitsandbytes
    missing += [f"skipped: {name} is not installed" for name in ("fbgemm_gpu", "hivemind") if not installed(name)]
    running = []
    for peer in found:
        try:
            peer.decode(peer.encode(gaussian(ROW)), ROW)
            running.append(peer)
        except Exception as error:  # a library beside a numpy or torch that it does not know
            missing.append(f"skipped: {peer.name}: {type(error).__name__}: {error}")
    return running, missing


def peers() -> list[Peer]:
    return [_cast(torch.float16, "x.half()"), _cast(torch.bfloat16, "x.bfloat16()"), _per_tensor(), _per_channel(), _rowwise("byte"),
            _rowwise("4bit"), _rowwise("2bit"), _top_k(0.1), _top_k(0.01), _top_k(0.001), *of_libraries()[0]]


def skipped() -> list[str]:
    return of_libraries()[1]


def sections(peer: Peer, clock: Clock) -> Iterator[Result]:
    numel, x, acc, residual = clock.numel, clock.x, clock.copy, clock.state
    acc.zero_()
    residual.zero_()
    sent = peer.encode(x)
    out = [relative_error(v, peer.decode(peer.encode(v), v.numel())) for v in (gaussian(1 << 18), heavy_tailed(1 << 18))]

    def with_feedback() -> None:
        residual.add_(x)
        residual.sub_(peer.decode(peer.encode(residual), numel))

    def with_sparse_feedback() -> None:
        residual.add_(x)
        residual.index_fill_(0, peer.encode(residual)[0], 0.0)

    add = peer.add or (lambda acc, sent: acc.add_(peer.decode(sent, numel)))
    sparse = isinstance(sent, tuple)
    for what, run in (("encode", lambda: peer.encode(x)), ("encode_residual", with_sparse_feedback if sparse else with_feedback),
                      ("decode_add 1", lambda: add(acc, sent))):
        result = clock.measure(peer.name, what, run)
        if what != "decode_add 1":
            result.bits, result.error, result.error_heavy = peer.bits(sent, numel), *out
        yield result


NEAREST = {8: "byte", 4: "4bit", 2: "2bit"}  # bits, and FBGEMM's row-wise codec of as many


def nearest(clock: Clock) -> Iterator[Result]:
    """The quantizer without dither and without a state beside FBGEMM's codec of the same number of bits, in turns: encode and decode.
    Ours writes into memory that is there, FBGEMM's into fresh memory of torch's allocator."""
    numel, x, out, to = clock.numel, clock.x, clock.out, clock.copy
    for bits, name in NEAREST.items():
        peer, spec = _rowwise(name), f"Quantizer(bits={bits}, levels='unbiased', rounding='nearest')"
        codec, sent = _C.Codec(spec, False), peer.encode(x)
        payload = out[:codec.encode(x, 0, out)[0]].clone()
        for theirs, ours in ((clock.measure(peer.name, "encode, nearest", lambda peer=peer: peer.encode(x)),
                              clock.measure(spec, "encode, nearest", lambda codec=codec: codec.encode(x, 0, out))),
                             (clock.measure(peer.name, "decode, nearest", lambda peer=peer, sent=sent: peer.decode(sent, numel)),
                              clock.measure(spec, "decode, nearest", lambda codec=codec, p=payload: codec.decode_mean([p], to)))):
            yield theirs
            yield ours


def quiet() -> None:
    """torch says that it will drop its quantized tensors."""
    warnings.filterwarnings("ignore", message=".*quantize", category=UserWarning)
