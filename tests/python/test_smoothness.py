"""Smoothness: roots, closed forms from data, majorisers, budgets; constants of the compressors in its metric."""

from __future__ import annotations

import copy
import math
import pickle
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import torch_smoothquant as tsq
from torch_smoothquant import smoothness as sm

REL = 1e-6


def random_matrix(d: int, rank: int, seed: int, spread: float = 3.0) -> torch.Tensor:
    """Symmetric, of that rank, with eigenvalues over `spread` decades; float64."""
    g = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))
    values = torch.zeros(d, dtype=torch.float64)
    values[:rank] = 10 ** (-spread * torch.rand(rank, generator=g, dtype=torch.float64))
    matrix = (q * values) @ q.T
    return 0.5 * (matrix + matrix.T)


def as_matrix(apply, d: int) -> torch.Tensor:
    return torch.stack([apply(e) for e in torch.eye(d, dtype=torch.float64)])


# ---- roots ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "rank"), [(1, 1), (2, 1), (7, 7), (20, 3), (33, 32), (60, 60)])
def test_roots_of_a_matrix(d, rank):
    matrix = random_matrix(d, rank, seed=d)
    L = tsq.Matrix(matrix)
    root, inverse = as_matrix(L.root, d), as_matrix(L.inverse_root, d)
    torch.testing.assert_close(root @ root, matrix, rtol=0, atol=1e-13)
    pseudo = torch.linalg.pinv(matrix, hermitian=True, rtol=1e-10)
    torch.testing.assert_close(inverse @ inverse, pseudo, rtol=1e-9, atol=1e-9 * float(pseudo.abs().max()))
    torch.testing.assert_close(root @ inverse @ matrix, matrix, rtol=0, atol=1e-12)  # the identity on the range
    assert L.lambda_max == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-13)


def test_roots_with_equal_eigenvalues_zeros_and_extreme_sizes():
    for matrix in (torch.eye(6), torch.zeros(3, 3), torch.diag(torch.tensor([2.0, 0, 2, 0])), torch.ones(5, 5)):
        for size in (1e-150, 1.0, 1e150):
            L = tsq.Matrix(matrix.double() * size)
            root = as_matrix(L.root, len(matrix))
            torch.testing.assert_close(root @ root / size, matrix.double(), rtol=0, atol=1e-14)
            assert bool(as_matrix(L.inverse_root, len(matrix)).isfinite().all())


def test_the_other_kinds_are_the_matrix():
    blocks = [random_matrix(3, 2, 1), random_matrix(1, 1, 2), random_matrix(4, 4, 3)]
    diagonal = torch.tensor([0.0, 1e-3, 4.0])
    for L, dense in [(tsq.BlockDiagonal(blocks), torch.block_diag(*blocks)), (tsq.Diagonal(diagonal), torch.diag(diagonal.double())),
                     (tsq.Scalar(3.0), 3 * torch.eye(5, dtype=torch.float64))]:
        d = len(dense)
        same = tsq.Matrix(dense)
        torch.testing.assert_close(as_matrix(L.root, d), as_matrix(same.root, d), rtol=0, atol=1e-13)
        torch.testing.assert_close(as_matrix(L.inverse_root, d), as_matrix(same.inverse_root, d), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(L.dense(d), dense, rtol=0, atol=0)
        torch.testing.assert_close(L.diagonal(d), dense.diagonal(), rtol=0, atol=0)
        assert L.lambda_max == pytest.approx(same.lambda_max)
    assert [k.setup_bytes() for k in (tsq.Scalar(1.0), tsq.Diagonal(diagonal), tsq.BlockDiagonal(blocks))] == [4, 12, 4 * (6 + 1 + 10)]
    assert tsq.Matrix(torch.eye(10)).setup_bytes(torch.float64) == 8 * 55


@pytest.mark.parametrize("L", [tsq.Scalar(2.0, 0.5), tsq.Diagonal([1.0, 0, 3]), tsq.Matrix(random_matrix(12, 4, 5).float(), 0.1),
                               tsq.BlockDiagonal([random_matrix(3, 2, 1).float(), torch.eye(2)])], ids=lambda L: L.kind)
def test_copies_have_the_same_roots_to_the_bit(L):
    assert copy.deepcopy(L) is L  # immutable
    d = L.numel or 7
    for again in (pickle.loads(pickle.dumps(L)), pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(L))))):
        assert type(again) is type(L) and again.mu == L.mu and again.numel == L.numel
        for name in ("root", "inverse_root"):
            assert torch.equal(as_matrix(getattr(again, name), d), as_matrix(getattr(L, name), d))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: tsq.Matrix(torch.eye(2, dtype=torch.complex64)), "matrix: expected real numbers, got torch.complex64"),
    (lambda: tsq.from_least_squares(torch.eye(2, dtype=torch.complex64)), "A: expected real numbers"),
    (lambda: tsq.Scalar(-1.0), "at least 0, got -1"), (lambda: tsq.Scalar(float("inf")), "finite"), (lambda: tsq.Scalar("1"), "got str"),
    (lambda: tsq.Diagonal([1.0, -1e-9]), "diagonal entry 1"), (lambda: tsq.Diagonal([float("nan")]), "finite"),
    (lambda: tsq.Diagonal([]), "at least one entry"), (lambda: tsq.Diagonal(torch.eye(2)), "1 dimension, got 2"),
    (lambda: tsq.Matrix(torch.tensor([[1.0, 2], [0, 1]])), "symmetric"), (lambda: tsq.Matrix(torch.zeros(2, 3)), "square"),
    (lambda: tsq.Matrix(torch.tensor([[1.0, 2], [2, 1]])), "positive semidefinite matrix, got one with the eigenvalue -1"),
    (lambda: tsq.Matrix(torch.full((2, 2), float("inf"))), "finite"),
    (lambda: tsq.Scalar(1.0, mu=-1.0), "mu: expected"), (lambda: tsq.BlockDiagonal([]), "at least one entry"),
    (lambda: tsq.Scalar(1.0).diagonal(), "numel: expected the length"), (lambda: tsq.Diagonal([1.0]).diagonal(2), "one of 2 elements"),
])
def test_what_is_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_rounding_of_the_dtype_is_forgiven():
    low_rank = random_matrix(12, 4, 5).float()
    L = tsq.Matrix(low_rank)  # its eigenvalues are around -1e-8
    assert float(torch.linalg.eigvalsh(low_rank.double())[0]) < -1e-12
    assert float(as_matrix(L.inverse_root, 12).abs().max()) < 1e3
    with pytest.raises(ValueError, match="semidefinite"):
        tsq.Matrix(low_rank.double() - 1e-4 * torch.eye(12))


# ---- closed forms ---------------------------------------------------------------------------------------------------


def sparse_rows(m: int = 40, d: int = 9, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(m, d, generator=g, dtype=torch.float64) * (torch.rand(m, d, generator=g) < 0.4) * torch.logspace(0, -2, d)
    rows[3], rows[:, 4] = 0, 0  # a row and a column without entries
    return rows


def test_closed_forms_from_every_kind_of_data():
    rows, labels = sparse_rows(), torch.arange(40) % 2
    dense = rows.T @ rows / (4 * 40) + 0.1 * torch.eye(9)
    given = [rows, rows.numpy(), rows.to_sparse_coo(), rows.to_sparse_csr(), rows.float()]
    for A in given:
        L = tsq.from_logistic(A, labels, 0.1)
        torch.testing.assert_close(L.dense(), dense, rtol=1e-6, atol=1e-8)
        assert L.mu == 0.1 and L.kind == "matrix"
    torch.testing.assert_close(tsq.from_least_squares(rows, 0.0).dense(), rows.T @ rows / 40, rtol=1e-14, atol=1e-14)
    both = tsq.from_logistic([rows, 2 * rows], [labels, labels], 0.1)
    torch.testing.assert_close(both[1].dense(), tsq.from_logistic(2 * rows, labels, 0.1).dense(), rtol=0, atol=0)
    assert [type(tsq.from_least_squares(rows, kind=k)) for k in sm.KINDS] == [tsq.Matrix, tsq.Diagonal, tsq.Scalar]


def test_closed_forms_from_scipy():
    sparse = pytest.importorskip("scipy.sparse")
    rows = sparse_rows()
    for form in (sparse.csr_matrix, sparse.coo_matrix, sparse.csc_array):
        torch.testing.assert_close(tsq.from_least_squares(form(rows.numpy())).dense(), tsq.from_least_squares(rows).dense())
    doubled = sparse.coo_matrix((np.ones(2), ([0, 0], [1, 1])), shape=(1, 3))  # one entry in two parts
    assert tsq.from_least_squares(doubled).diagonal().tolist() == [0, 4, 0]


@pytest.mark.parametrize(("make", "message"), [
    (lambda r: tsq.from_logistic(r, torch.arange(40)), "two finite values"), (lambda r: tsq.from_logistic(r, [1.0] * 39), "expected 40"),
    (lambda r: tsq.from_logistic([r], r[:, 0]), "a list of 1"), (lambda r: tsq.from_logistic(r, [1] * 40, -1.0), "l2"),
    (lambda r: tsq.from_least_squares(r[0]), "2 dimensions"), (lambda r: tsq.from_least_squares(r * float("nan")), "finite"),
    (lambda r: tsq.from_least_squares(r[:0]), "at least one row"), (lambda r: tsq.from_least_squares(r, kind="block"), "kind"),
    (lambda r: sm.majorisers(r, 0.0), "c: expected a positive"), (lambda r: sm.majorisers(r, 1.0, rules=["best"]), "rule"),
])
def test_bad_data_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(sparse_rows())


def test_losses_stay_below_their_models():
    rows, g = sparse_rows(seed=2), torch.Generator().manual_seed(3)
    b = torch.where(torch.rand(40, generator=g) < 0.5, -1.0, 1.0).double()
    losses = {
        "logistic": (tsq.from_logistic(rows, b, 0.01), lambda x: torch.nn.functional.softplus(-b * (rows @ x)).mean() + 0.005 * x @ x),
        "squares": (tsq.from_least_squares(rows, 0.01), lambda x: ((rows @ x - b) ** 2).mean() / 2 + 0.005 * x @ x),
    }
    for L, f in losses.values():
        tightest = 0.0
        for _ in range(100):
            y, v = torch.randn(2, 9, generator=g, dtype=torch.float64) * 10 ** torch.randint(-1, 2, (2, 1), generator=g)
            y = y.requires_grad_()
            (slope,) = torch.autograd.grad(f(y), y)
            gap = f(y.detach() + v) - f(y.detach()) - slope @ v
            model = 0.5 * v @ L.dense() @ v
            assert gap <= model * (1 + 1e-9) + 1e-13
            tightest = max(tightest, float(gap / model))
        assert tightest > 0.8  # else L is far too large


# ---- majorisers -----------------------------------------------------------------------------------------------------


def test_majorisers():
    for seed in range(6):
        rows = sparse_rows(seed=seed) if seed % 2 else sparse_rows(seed=seed).abs()
        L = tsq.from_logistic(rows, [1] * 40, 1e-3)
        found = sm.majorisers(rows, 0.25, 1e-3)
        assert list(found) == list(sm.RULES)
        for D in found.values():
            assert float(torch.linalg.eigvalsh(torch.diag(D.diagonal()) - L.dense())[0]) >= -1e-10
        assert bool((found["gershgorin"].diagonal() <= found["row_sums"].diagonal() + 1e-15).all())
        best = tsq.from_logistic(rows, [1] * 40, 1e-3, kind="diagonal")
        assert best.trace() == min(D.trace() for D in found.values()) and best.mu == 1e-3
        own = L.majoriser()
        assert float(torch.linalg.eigvalsh(torch.diag(own.diagonal()) - L.dense())[0]) >= -1e-10
    ones = torch.ones(4, 3, dtype=torch.float64)  # the plain diagonal is not one
    L = tsq.from_least_squares(ones)
    assert float(torch.linalg.eigvalsh(torch.diag(L.diagonal()) - L.dense())[0]) < -1


def test_bounds_of_lambda_max():
    for seed in range(8):
        rows = sparse_rows(seed=seed)
        exact = tsq.from_least_squares(rows, 0.5).lambda_max
        low, high = sm.lambda_max(rows, 1.0, 0.5)
        assert exact * (1 - 1e-6) <= low <= exact * (1 + 1e-12) and high >= exact
        low, high = sm.lambda_max(rows.abs(), 1.0, 0.5)
        assert low <= high <= low * 1.001
    assert sm.lambda_max(torch.zeros(2, 3), 1.0) == (0.0, 0.0)


# ---- budgets --------------------------------------------------------------------------------------------------------


def diagonals() -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [10 ** (-spread * torch.rand(d, generator=g, dtype=torch.float64)) for d, spread in ((5, 1.0), (12, 3.0), (40, 2.0))]


def optimisers():
    pytest.importorskip("scipy")
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from benchmarks.smoothness import optimum
    return optimum


@pytest.mark.parametrize("n_mu", [0.0, 0.02])
def test_varying_steps_are_optimal(n_mu):
    optimum = optimisers()
    for diagonal in diagonals():
        L, beta = diagonal.numpy(), len(diagonal) / 4
        h = sm.varying_steps(diagonal, beta, n_mu).numpy()
        cost = L**2 if n_mu == 0 else 1 + (L / n_mu) ** 2  # of h_j^2
        assert np.sum(1 / h**2) == pytest.approx(beta**2, rel=1e-12)
        assert np.sum(cost * h**2) == pytest.approx(optimum.varying(cost, beta), rel=REL)
        total = L.sum() if n_mu == 0 else np.sqrt(cost).sum()
        assert math.sqrt(np.sum(cost * h**2)) == pytest.approx(total / beta, rel=1e-12)
        if n_mu == 0:
            np.testing.assert_allclose(sm.varying_steps(1000 * diagonal, beta), h, rtol=1e-12)
    assert sm.varying_steps([4.0, 0.0, 1.0], 1.0).tolist() == [math.sqrt(5 / 4), math.inf, math.sqrt(5)]


@pytest.mark.parametrize("n_mu", [0.0, 0.02])
def test_block_steps_are_optimal(n_mu):
    optimum, random = optimisers(), np.random.default_rng(0)
    for diagonal in diagonals():
        d, blocks = len(diagonal), 4
        edges = [d * i // blocks for i in range(blocks + 1)]
        sizes = np.diff(edges)
        costs = np.array([float(diagonal[a:b].norm()) for a, b in pairwise(edges)])
        costs = costs if n_mu == 0 else np.sqrt(sizes) + costs / n_mu
        beta, value = d / 3 + blocks, {}
        for rule, squares in {"optimal": 0, "paper": 1}.items():
            h = sm.block_steps(diagonal, blocks, beta, n_mu, rule).numpy()

            def used(s, squares=squares, sizes=sizes):
                return float(np.sum(squares * s**2 + s * np.sqrt(sizes) + 1))

            assert used(1 / h) == pytest.approx(beta, rel=1e-10)
            np.testing.assert_allclose(h * costs, (h * costs)[0], rtol=1e-12)
            value[rule] = float(np.max(h * costs))
            assert value[rule] == pytest.approx(optimum.blocks(costs, sizes, beta, squares == 1), rel=REL)
            for _ in range(200):  # no other feasible steps are better
                other = np.exp(0.2 * random.normal(size=blocks)) / h
                while used(other) > beta:
                    other *= 0.999
                assert np.max(costs / other) >= value[rule] * (1 - 1e-12)
        loose = value["optimal"] + math.sqrt(float(np.sum(costs**2)) / (beta - blocks))
        assert value["optimal"] <= value["paper"] <= loose
    uniform = sm.block_steps(diagonals()[2], 4, 12.0, 0.0, "uniform")
    assert len(set(uniform.tolist())) == 1 and float((1 / uniform**2 + math.sqrt(10) / uniform + 1).sum()) == pytest.approx(12)


@pytest.mark.parametrize("n_mu", [0.0, 0.02])
def test_bernoulli_probabilities_are_optimal(n_mu):
    optimum, random = optimisers(), np.random.default_rng(0)
    for diagonal in diagonals():
        A = diagonal.numpy() if n_mu == 0 else 1 + diagonal.numpy() / n_mu
        tau = len(A) / 4
        p = sm.bernoulli_probabilities(diagonal, tau, n_mu).numpy()
        worst = (1 / p - 1) * A
        assert p.sum() == pytest.approx(tau, rel=1e-12) and worst.max() <= A.sum() / tau
        np.testing.assert_allclose(worst, worst[0], rtol=1e-9)
        assert worst[0] == pytest.approx(optimum.bernoulli(A, tau), rel=REL)
        for _ in range(200):  # no other feasible p is better
            other = np.clip(p * np.exp(0.1 * random.normal(size=len(p))), 1e-9, 1)
            other *= min(1, tau / other.sum())
            assert ((1 / other - 1) * A).max() >= worst[0] * (1 - 1e-12)
    assert sm.bernoulli_probabilities([1.0, 0.0, 2.0], 2.0).tolist() == [1, 0, 1]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: sm.block_steps([1.0, 2.0], 3, 9.0), "blocks: expected 1 to 2"), (lambda: sm.block_steps([1.0, 2.0], 2, 2.0), "budget"),
    (lambda: sm.block_steps([1.0, 2.0], 1, 2.0, rule="best"), "rule"), (lambda: sm.varying_steps([1.0], 0.0), "budget"),
    (lambda: sm.bernoulli_probabilities([1.0], -1.0), "budget"),
])
def test_impossible_budgets(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- script-L -------------------------------------------------------------------------------------------------------

UNBIASED = ["Identity()", "Natural()", "Quantizer(bits=2, block=32, levels='unbiased')", "Quantizer(bits=4)", "Ternary(block=32)",
            "Dithering(levels=2)", "Dithering(levels=3, norm='inf', block=32)", "NaturalDithering(levels=3)", "RandK(k=12)",
            "Bernoulli(0.3)",
            "StochasticSparsifier(12)", "VaryingDithering(12)", "VaryingDithering(12, norm=1)", "BlockDithering(4, 16)",
            "BlockDithering(4, 16, 'uniform', scale_dtype='bf16')", "SmoothBernoulli(12)", "Quantizer(bits=1, block=32, levels='unbiased')"]


@pytest.mark.parametrize("text", UNBIASED)
def test_script_L_bounds_the_weighted_variance(text):
    """Monte Carlo of Direct with and without the smoothness; fitted steps are those of the smoothness."""
    d, draws, spec = 40, 250, tsq.parse(text)
    g = torch.Generator().manual_seed(1)
    L = tsq.Matrix(random_matrix(d, d, 7, spread=2.0))
    bound = spec.script_L(L)
    root = as_matrix(L.root, d)
    for x in (torch.randn(d, generator=g, dtype=torch.float64), torch.ones(d, dtype=torch.float64),
              torch.randn(d, generator=g, dtype=torch.float64) * 10 ** (-3 * torch.rand(d, generator=g, dtype=torch.float64))):
        sender = tsq.Sender(spec, d, dtype=torch.float64, smoothness=L)
        receiver = tsq.Receiver(spec, d, dtype=torch.float64, smoothness=L)
        gradient = root @ x  # so that x is what is compressed
        errors = torch.stack([receiver.receive([sender.send(gradient)]) - gradient for _ in range(draws)])
        squares = (errors**2).sum(1)  # of L^(1/2) (C(x) - x)
        assert float(squares.mean()) <= bound * float(x @ x) * (1 + 1e-6) + 5 * float(squares.std()) / math.sqrt(draws) + 1e-25
        spread = errors.std(0) / math.sqrt(draws)
        assert bool((errors.mean(0).abs() <= 5 * spread + 1e-4 * float(gradient.norm())).all())  # unbiased


def test_script_L_is_not_given_where_there_is_none():
    L = tsq.Diagonal(torch.ones(40))
    for spec in (tsq.TopK(k=3), tsq.Sign(), tsq.Cast("bf16"), tsq.SparseSign(k=2)):
        assert spec.script_L(L) is None
    assert tsq.Bernoulli(0.25).script_L(tsq.Scalar(2.0), 8) == 6.0
    assert tsq.VaryingDithering(2.0).script_L(tsq.Diagonal([4.0, 1, 1, 2] * 4)) == pytest.approx(32 / 2)
    with pytest.raises(ValueError, match="one of 41 elements"):
        tsq.Bernoulli(0.5).script_L(L, 41)
