"""Times beside memcpy, in turns; the vectors; what is measured and checked of one compressor."""

from __future__ import annotations

import itertools
import mmap
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch

import torch_smoothquant as tsq
from torch_smoothquant import _C, reference

BUCKET = 6_553_600  # one 25 MiB bucket of DDP
SIZES = (65_536, 1_048_576, BUCKET)
MESSAGES = (1, 4, 8)


@dataclass
class Result:
    """One line. ``ns``, ``ratio``: per element, and to memcpy of the same input (all messages of a decoder together), medians; processor
    time on one thread, which other processes do not change much, wall time on more. ``best``: ns of wall time, the least. ``bits``: of one
    message, per element. ``error``: |C(x) - x|^2 / |x|^2 of what this form encodes, Gaussian and heavy-tailed."""

    name: str
    what: str
    numel: int
    threads: int
    ns: float
    gbps: float
    ratio: float
    best: float
    bits: float | None = None
    error: float | None = None
    error_heavy: float | None = None

    def line(self) -> str:
        error = "" if self.error is None else f"  error {self.error:.5f} {self.error_heavy:.5f}"
        bits = "" if self.bits is None else f"  {self.bits:7.3f} bits"
        return (f"{self.name:38} {self.what:17} {self.numel:8} x{self.threads}  {self.ns:8.3f} ns/element {self.gbps:7.2f} GB/s "
                f"{self.ratio:8.2f} x memcpy  (best {self.best:.3f}){bits}{error}")

    def as_dict(self) -> dict:
        return asdict(self)


def gaussian(numel: int) -> torch.Tensor:
    """Of standard deviation 1e-3; long vectors repeat, shifted, a short one."""
    short = torch.randn(min(numel, 1 << 20), generator=torch.Generator().manual_seed(1)) * 1e-3
    return short.repeat(-(-numel // short.numel()))[:numel].clone()


def heavy_tailed(numel: int) -> torch.Tensor:
    """Student's t with 3 degrees of freedom."""
    g = torch.Generator().manual_seed(2)
    return 1e-3 * torch.randn(numel, generator=g) / torch.randn(3, numel, generator=g).square().mean(0).sqrt()


def settled(source: torch.Tensor) -> torch.Tensor:
    """A copy in huge pages where the kernel has them: how a process happens to get its pages else decides a factor of two."""
    page = 1 << 21
    memory = mmap.mmap(-1, source.nbytes + page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    start = -whole.data_ptr() % page
    return whole[start:start + source.nbytes].view(source.dtype).copy_(source)


class Clock:
    """Medians over repetitions in which memcpy of the input and the case take turns, so that what else the machine does hits both.
    Buffers are written before and kept, so that no page fault is measured."""

    def __init__(self, numel: int, repetitions: int) -> None:
        self.x, self.copy, self.state = settled(gaussian(numel)), settled(torch.ones(numel)), settled(torch.ones(numel))
        self.other = settled(self.x.roll(numel // 3))
        self.out = settled(torch.ones(5 * numel + 4096, dtype=torch.uint8))
        self.numel, self.repetitions = numel, repetitions
        self.inner = max(1, (1 << 19) // numel)  # calls per repetition

    def seconds(self, run: Callable[[], object]) -> tuple[float, float]:
        """Processor time of this thread, and wall time."""
        start, wall = time.thread_time(), time.perf_counter()
        for _ in range(self.inner):
            run()
        return (time.thread_time() - start) / self.inner, (time.perf_counter() - wall) / self.inner

    def measure(self, name: str, what: str, run: Callable[[], object], bits: float | None = None) -> Result:
        run()
        times, ratios, walls = [], [], []
        alone = _C.num_threads() == 1
        for _ in range(self.repetitions):
            copy = self.seconds(lambda: _C.copy_bytes(self.copy, self.x))
            spent = self.seconds(run)
            walls.append(spent[1])
            times.append(spent[0] if alone else spent[1])
            ratios.append(times[-1] / (copy[0] if alone else copy[1]))
        median = statistics.median(times)
        return Result(name, what, self.numel, _C.num_threads(), median * 1e9 / self.numel, 4e-9 * self.numel / median,
                      statistics.median(ratios), min(walls) * 1e9 / self.numel, bits)


def relative_error(x: torch.Tensor, y: torch.Tensor) -> float:
    x = x.double()
    return float((y.double() - x).square().sum() / x.square().sum())


def room(numel: int, codecs: list[_C.Codec]) -> torch.Tensor:
    return torch.ones(max(c.max_bytes(torch.empty(numel)) for c in codecs), dtype=torch.uint8)


def decoded(codec: _C.Codec, payload: torch.Tensor, numel: int) -> torch.Tensor:
    codec.validate(payload, numel, torch.float32)
    out = torch.empty(numel)
    codec.decode_mean([payload], out)
    return out


def errors(codec: _C.Codec, numel: int = 1 << 18) -> tuple[float, float]:
    """On the Gaussian and on the heavy-tailed vector."""
    out = []
    for x in (gaussian(numel), heavy_tailed(numel)):
        payload = room(numel, [codec])
        length, _ = codec.encode(x, 0, payload)
        out.append(relative_error(x, decoded(codec, payload[:length], numel)))
    return out[0], out[1]


def check(spec: str, numel: int = 65_536 * 2 + 777) -> None:
    """What must hold before a time is worth anything. Raises AssertionError."""
    x, state = gaussian(numel), heavy_tailed(numel)
    for contractive in (False, True):
        codec = _C.Codec(spec, contractive)
        payload = room(numel, [codec])
        length, finite = codec.encode(x, 0, payload)
        values, plain = decoded(codec, payload[:length], numel), payload[:length].clone()
        acc = x.clone()
        codec.decode_add([plain], torch.float32, 1.0, acc)
        assert finite and torch.equal(acc, x + values), f"{spec}: decode_add is not decode_mean"
        residual = state.clone()
        length, _ = codec.encode_residual(x, residual, 0, payload)
        total = residual.double() + decoded(codec, payload[:length], numel).double()
        torch.testing.assert_close(total, state.double() + x.double(), rtol=1e-5, atol=1e-7, msg=f"{spec}: something got lost")
        shift = state.clone()
        length, _ = codec.encode_shifted(x, shift, 0, payload)
        assert torch.equal(shift, state + decoded(codec, payload[:length], numel)), f"{spec}: the shift is not what was sent"
        for target in [*_C.simd_targets(), None]:
            _C.force_simd_target(target)
            length, _ = codec.encode(x, 0, payload)
            assert torch.equal(payload[:length], plain), f"{spec}: {target} writes other bytes"
    message = tsq.encode(spec, x[:5000])
    assert torch.equal(reference.decode(message), tsq.decode(message)), f"{spec}: the reference reads other values"


def sections(spec: str, clock: Clock, what: str = "") -> Iterator[Result]:
    """All lines of one compressor at the clock's size whose names contain ``what``."""
    plain, contractive = _C.Codec(spec, False), _C.Codec(spec, True)
    numel, x, state, out = clock.numel, clock.x, clock.state, clock.out
    gradients = itertools.cycle((x, clock.other))  # a shift would learn a single one by heart

    def encoding(kind: str, codec: _C.Codec, run: Callable[[], tuple[int, bool]]) -> Iterator[Result]:
        if what not in kind:
            return
        state.zero_()
        for _ in range(3):  # a residual needs some steps to be what it is in training
            run()
        result = clock.measure(spec, kind, run)
        result.bits = 8.0 * run()[0] / numel
        result.error, result.error_heavy = errors(codec)
        yield result

    yield from encoding("encode", plain, lambda: plain.encode(x, 1, out))
    yield from encoding("encode_residual", contractive, lambda: contractive.encode_residual(next(gradients), state, 1, out))
    yield from encoding("encode_shifted", contractive, lambda: contractive.encode_shifted(next(gradients), state, 1, out))
    payloads = []
    for step in range(max(MESSAGES)):
        length, _ = contractive.encode(x, step, out)
        payloads.append(settled(out[:length]))
    for form, run in (("decode_add", lambda p: contractive.decode_add(p, torch.float32, 1.0, state)),
                      ("decode_mean", lambda p: contractive.decode_mean(p, state))):
        for count in MESSAGES:
            if what in f"{form} {count}":
                state.zero_()
                yield clock.measure(spec, f"{form} {count}", lambda run=run, count=count: run(payloads[:count]))
    if what in "validate":
        yield clock.measure(spec, "validate", lambda: contractive.validate(payloads[0], numel, torch.float32))
