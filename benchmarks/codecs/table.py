"""docs/compressors.md from results."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch

import torch_smoothquant as tsq
from torch_smoothquant import _C

from .measure import BUCKET, Result
from .peers import NEAREST as NEAREST_BITS
from .peers import ROW
from .specs import cases

HEAD = """# Compressors

{machine}.
Written by `python -m benchmarks.codecs --write`, not by hand. One bucket of DDP, {numel:,} float32 elements ({bytes:.0f} MB), one thread
unless said; every time is processor time, the median of repetitions in turns with memcpy of the bucket ({copy:.3f} ns per element), after
the checks that values are those of the reference, that nothing is lost and that every SIMD target writes the same bytes.
"Residual" is the encoder with error feedback in the same sweep, "add" is `decode_add` of one message; *error* is |C(x) - x|^2 / |x|^2 of
what error feedback sends, for a Gaussian vector and for Student's t with 3 degrees of freedom. The constants are those of a vector of
2^20 elements ([algorithms.md](algorithms.md)): omega of the map under `Direct`, alpha of the one under `ErrorFeedback`.

| compressor | omega | alpha | bits per element | residual, ns | x memcpy | add, ns | error, Gaussian | heavy-tailed | when to use |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |
"""
PEERS = """
The same on the same machine in the same run, with torch's own means (one thread; "residual": the sum, the encoder, and the difference as
three calls; indices count as 32 bits):

| | bits per element | encode, ns | residual, ns | x memcpy | add, ns | error, Gaussian | heavy-tailed |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""
NEAREST = """
The quantizer to the nearest level without a state beside FBGEMM's row-wise codec of as many bits, ns per element:

| bits | encode | FBGEMM, encode | decode | FBGEMM, decode |
| ---: | ---: | ---: | ---: | ---: |
"""
THREADS = """
Two threads (`tsq.set_num_threads(2)`) where the codec uses them, ns per element of wall time, the best of all
repetitions:

| compressor | residual, 1 | residual, 2 | add, 1 | add, 2 | mean of 8, 1 | mean of 8, 2 |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine() -> str:
    return (f"{datetime.date.today():%Y-%m-%d}, {processor()}, {os.cpu_count()} cores, {_C.simd_targets()[0]}, torch {torch.__version__}")


def short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def busy() -> str | None:
    """Why wall times on several threads would say nothing, or None."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    return f"the load average was {load:.1f} on {cores} cores" if load > cores / 2 else None


def page(results: list[Result], why_not_threads: str | None = None) -> str:
    """The document; results of the bucket's size are shown. With a reason (``busy``) the table of threads is left out."""
    found = {(r.name, r.what, r.threads): r for r in results if r.numel == BUCKET}

    def row(*cells: str) -> str:
        return f"| {' | '.join(cells)} |\n"

    def ns(name: str, what: str) -> str:
        return f"{found[name, what, 1].ns:.3f}"

    def best(name: str, what: str, threads: int) -> str:
        return f"{found[name, what, threads].best:.3f}"

    plain = [r for r in found.values() if r.what == "encode" and r.threads == 1]
    memcpy = sorted(r.ns / r.ratio for r in found.values())[len(found) // 2]
    out = HEAD.format(machine=machine(), numel=BUCKET, bytes=BUCKET * 4 / 1e6, copy=memcpy)
    mine = [(spec, when) for spec, when in cases() if (spec, "encode", 1) in found]
    for spec, when in mine:
        residual, compressor = found[spec, "encode_residual", 1], tsq.parse(spec)
        assert isinstance(compressor, tsq.Compressor)
        out += row(f"`{spec}`", short(compressor.omega(1 << 20)), short(compressor.alpha(1 << 20)), f"{residual.bits:.2f}",
                   f"{residual.ns:.3f}", f"{residual.ratio:.2f}", ns(spec, "decode_add 1"), short(residual.error),
                   short(residual.error_heavy), when)
    names = {spec for spec, _ in mine}
    out += PEERS
    for r in plain:
        if r.name not in names:
            residual = found[r.name, "encode_residual", 1]
            out += row(r.name, f"{r.bits:.2f}", f"{r.ns:.3f}", f"{residual.ns:.3f}", f"{residual.ratio:.2f}", ns(r.name, "decode_add 1"),
                       short(r.error), short(r.error_heavy))
    out += nearest_table(found, row)
    if why_not_threads:
        return f"{out}\nTwo threads (`tsq.set_num_threads(2)`): no figures, since {why_not_threads} when this page was written.\n"
    out += threads_table([spec for spec, _ in mine if (spec, "encode_residual", 2) in found], row, best)
    return out


def nearest_table(found: dict[tuple[str, str, int], Result], row: Callable[..., str]) -> str:
    out = NEAREST
    for bits, name in NEAREST_BITS.items():
        ours, theirs = f"Quantizer(bits={bits}, levels='unbiased', rounding='nearest')", f"FBGEMM row-wise {name}, {ROW}"
        out += row(str(bits), *(f"{found[who, f'{what}, nearest', 1].ns:.3f}" for what in ("encode", "decode") for who in (ours, theirs)))
    return out


def threads_table(specs: list[str], row: Callable[..., str], best: Callable[..., str]) -> str:
    out = THREADS if specs else ""
    for spec in specs:
        out += row(f"`{spec}`", *(best(spec, what, t) for what in ("encode_residual", "decode_add 1", "decode_mean 8") for t in (1, 2)))
    return out
