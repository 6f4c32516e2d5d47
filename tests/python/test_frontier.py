"""benchmarks.frontier: what it simulates is what the hook would do, and its tables say honestly what was not measured."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks.frontier import report, simulate
from benchmarks.frontier.cases import DENSE, MECHANISMS, Case, cases

TINY = dataclasses.replace(simulate.SETTINGS, steps=3, batch=2, context=32, width=64, layers=1, final_windows=8)


def test_dense_through_the_wires_is_plain_averaging():
    outcome = simulate.run("sgd", DENSE, 0, TINY)
    assert 32 < outcome.bits_up < 32.2 and outcome.bits_down is None  # headers, and nothing else beside the values
    wire = simulate.Wire(simulate.tsq.parse(DENSE), None, 3000, 0)
    gradients = [torch.randn(50, 60) for _ in range(simulate.WORLD_SIZE)]
    torch.testing.assert_close(wire.average(gradients), torch.stack(gradients).mean(0))


def test_both_directions_are_counted_and_compressed():
    one = simulate.run("sgd", "ErrorFeedback(Quantizer(bits=2))", 0, TINY)
    both = simulate.run("sgd", "Bidirectional(ErrorFeedback(Quantizer(bits=2)), ErrorFeedback(Quantizer(bits=4)))", 0, TINY)
    assert one.bits_down is None and 2.1 < both.bits_up < 2.3 and 4.1 < both.bits_down < 4.3
    assert one.bits_up == both.bits_up and one.loss != both.loss


def test_every_cell_is_run_once_and_an_illegal_one_says_why():
    keys = [case.key for case in cases(["sgd", "adam"], [0, 1])]
    assert len(keys) == len(set(keys)) == 2 * 2 * (7 * len(MECHANISMS) + 3)
    outcome = simulate.run("sgd", MECHANISMS["DIANA"]("TopK(ratio=0.05)"), 0, TINY)
    assert outcome.error is not None and "unbiased" in outcome.error


def results_of(losses: dict[tuple[str, str], float | str]) -> report.Results:
    out = {Case("sgd", "", "", DENSE, 0).key: dataclasses.asdict(simulate.Outcome(loss=2.0, bits_up=32))}
    for (mechanism, compressor), value in losses.items():
        outcome = simulate.Outcome(error=value) if isinstance(value, str) else simulate.Outcome(loss=value, bits_up=1.04)
        out[Case("sgd", mechanism, compressor, MECHANISMS[mechanism](compressor), 0).key] = dataclasses.asdict(outcome)
    return out


def test_the_table_tells_measured_illegal_diverged_and_not_run_apart(tmp_path, monkeypatch):
    results = results_of({("EF21", "UniformStep(bits=1.0)"): 2.0125, ("EF21", "TopK(ratio=0.05)"): float("nan"),
                          ("DIANA", "TopK(ratio=0.05)"): "DIANA: no (column 1)"})
    rows = {line.split("|")[1].strip(): line for line in report.table("sgd", [0], results).splitlines()}
    assert "1.04: +0.013" in rows["EF21"] or "1.04: +0.012" in rows["EF21"]
    assert "diverged" in rows["EF21"] and "illegal" in rows["DIANA"] and rows["Direct"].count("not run") == 7
    assert report.notes(results) == "* illegal: DIANA: no"
    page = tmp_path / "tuning.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr(report, "draw", lambda *_: None)
    report.write(["sgd"], [0], results)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text and "+0.01" in text
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="expected the lines"):
        report.write(["sgd"], [0], results)
