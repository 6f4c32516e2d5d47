"""tsq.set_num_threads changes no byte; benchmarks/codecs knows every compressor and its checks hold."""

from __future__ import annotations

import pytest
import torch

import torch_smoothquant as tsq
from benchmarks.codecs import measure, peers, specs, table

ALL = [spec for spec, _ in specs.cases()]


@pytest.fixture(autouse=True)
def one_thread_afterwards():
    yield
    tsq.set_num_threads(1)


@pytest.mark.parametrize("spec", ALL)
def test_threads_change_no_byte(spec):
    numel = 300_000
    x = torch.randn(numel, generator=torch.Generator().manual_seed(1))
    seen = []
    for threads in (1, 2, 3):
        tsq.set_num_threads(threads)
        assert tsq.num_threads() == threads
        sender, receiver = tsq.Sender(f"ErrorFeedback({spec})", numel, 0, 1), tsq.Receiver(f"ErrorFeedback({spec})", numel, 1)
        messages = [sender.send(x * step) for step in (1, 2)]
        seen.append([*messages, receiver.receive(messages[:1]), sender.state["residual"]])
    for others in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], others))


@pytest.mark.parametrize(("count", "error"), [
    (0, ValueError), (-1, ValueError), (257, ValueError), (2**40, ValueError), (2**70, ValueError), (1.5, TypeError),
    (True, TypeError), ("2", TypeError),
])
def test_bad_numbers(count, error):
    with pytest.raises(error, match="num_threads: expected"):
        tsq.set_num_threads(count)
    assert tsq.num_threads() == 1


@pytest.mark.parametrize("spec", ALL)
def test_benchmark_checks_and_lines(spec):
    measure.check(spec, 5000)
    lines = list(measure.sections(spec, measure.Clock(4096, 1)))
    assert [r.what for r in lines][:3] == ["encode", "encode_residual", "encode_shifted"] and len(lines) == 10
    assert all(r.ns > 0 and r.line() for r in lines) and lines[0].bits > 0


def test_peers_of_libraries_are_measured_or_say_why_not():
    running, missing = peers.of_libraries()
    assert {line.split()[1] for line in missing} | {peer.name.split()[0].rstrip(",") for peer in running} >= {"fbgemm_gpu", "hivemind"}
    everyone = peers.peers()
    assert [p.name for p in everyone[-len(running):]] == [p.name for p in running] or not running
    for peer in everyone:
        lines = list(peers.sections(peer, measure.Clock(4096, 1)))
        assert [r.what for r in lines] == ["encode", "encode_residual", "decode_add 1"] and lines[0].bits > 0 and lines[0].error < 1
    for theirs in peers.nearest(measure.Clock(4096, 1)):
        assert theirs.ns > 0


def test_page_has_a_row_for_every_compressor():
    def result(name, what, threads):
        return measure.Result(name, what, measure.BUCKET, threads, 1.0, 4.0, 2.0, 1.0, 8.0, 0.1, 0.2)

    results = [result(name, what, threads) for name in [*ALL, "a peer"] for threads in (1, 2)
               for what in ("encode", "encode_residual", "decode_add 1", "decode_mean 8")]
    for bits, name in table.NEAREST_BITS.items():
        results += [result(who, f"{what}, nearest", 1) for what in ("encode", "decode")
                    for who in (f"Quantizer(bits={bits}, levels='unbiased', rounding='nearest')", f"FBGEMM row-wise {name}, {table.ROW}")]
    page = table.page(results)
    assert all(page.count(f"| `{spec}` |") == 2 for spec in ALL) and page.count("| a peer |") == 1
    assert all(table.page(results, "it was loud").count(f"| `{spec}` |") == 1 for spec in ALL)
