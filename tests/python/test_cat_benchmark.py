"""benchmarks/cat: what it measures is what it says."""

from __future__ import annotations

import itertools

import pytest

import torch_smoothquant as tsq


@pytest.mark.parametrize("scheme", ["TopK", "SparseSign"])
def test_every_step_of_the_benchmark_keeps_its_promise(scheme):
    pytest.importorskip("scipy")
    from benchmarks.cat.descent import Ridge, descend
    from benchmarks.mechanisms.problem import synthetic

    problem = Ridge(*synthetic(10, 30), lam=1e-2)
    gaps = []
    for gap, sent in descend(problem, scheme, tsq.CAT(tsq.AffineCost(10.0, 1.0)), None):
        gaps.append(gap)
        assert 1 <= sent.entries <= 30
        if len(gaps) == 60:
            break
    assert all(b < a for a, b in itertools.pairwise(gaps)) and 0 < gaps[-1] < 0.5 * gaps[0]


def test_the_benchmark_charges_what_was_sent():
    pytest.importorskip("scipy")
    from benchmarks.cat.__main__ import charge
    from benchmarks.cat.descent import Sent

    assert charge("packet", Sent(513, 9)) == 64 + 2 * 576
    assert charge("affine", Sent(513, 9)) == 64 + 45
    assert charge("measured", Sent(1000, 9)) == pytest.approx(1e-3 + 8e-3)
