"""What is known of each worker's loss: its smoothness, given beside the spec to ``Sender`` and ``Receiver`` (docs/smoothness.md).

A loss f is L-smooth, L a positive semidefinite matrix, if f(x) <= f(y) + <grad f(y), x - y> + |x - y|_L^2 / 2 for all x, y. All numbers
are float64 and computed in a fixed order: every rank finds the same bits from the same L.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import torch

from . import _C


class Smoothness:
    """Base of :class:`Scalar`, :class:`Diagonal`, :class:`BlockDiagonal`, :class:`Matrix`. Immutable."""

    def __init__(self, handle: _C.Smoothness) -> None:
        self._handle = handle

    def _arguments(self) -> tuple[Any, ...]:
        """Those of the function of _C that makes it, but ``mu``."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:  # for other processes
        return _again, (type(self), (*self._arguments(), self.mu))

    def __deepcopy__(self, memo: object) -> Smoothness:
        return self

    @property
    def numel(self) -> int | None:
        """Length of the vectors it is for; None: of every length."""
        return self._handle.numel or None

    @property
    def kind(self) -> str:
        """``"scalar"``, ``"diagonal"``, ``"block"`` or ``"matrix"``."""
        return self._handle.kind

    @property
    def mu(self) -> float:
        """Strong convexity of the mean of all workers' losses, 0 if none is known."""
        return self._handle.mu

    @property
    def lambda_max(self) -> float:
        """The largest eigenvalue: the smoothness constant."""
        return self._handle.lambda_max

    def diagonal(self, numel: int | None = None) -> torch.Tensor:
        """L_jj: float64 [numel]. ``numel`` must be given for a :class:`Scalar`."""
        return self._handle.diagonal(self._length(numel))

    def trace(self, numel: int | None = None) -> float:
        """The sum of the diagonal."""
        return float(self.diagonal(numel).sum())

    def dense(self, numel: int | None = None) -> torch.Tensor:
        """L itself: float64 [numel, numel]."""
        n = self._length(numel)
        return self._handle.dense(n).view(n, n)

    def root(self, x: torch.Tensor) -> torch.Tensor:
        """L^(1/2) x for a 1-D tensor; float64. O(numel), for a matrix O(numel^2)."""
        return self._handle.root(_doubles(x, "x", 1))

    def inverse_root(self, x: torch.Tensor) -> torch.Tensor:
        """The root of the pseudo-inverse times x: 0 in the kernel of L."""
        return self._handle.inverse_root(_doubles(x, "x", 1))

    def setup_bytes(self, dtype: torch.dtype = torch.float32) -> int:
        """Bytes that tell L to a server once: 1 number, the diagonal, or the lower triangles of the blocks. Steps and probabilities
        follow from L on both ends and do not travel. Both ends must build the object from what was sent, in that dtype."""
        return self._handle.numbers * torch.empty((), dtype=dtype).element_size()

    def majoriser(self) -> Diagonal:
        """The D >= L of least trace among sum_l |L_jl|, d L_jj and lambda_max; L itself if it is diagonal. O(numel^2)."""
        if self.kind == "scalar":
            raise ValueError("majoriser: expected a smoothness of fixed length, got a scalar, which is one for every length")
        if isinstance(self, Diagonal):
            return self
        diagonal = self.diagonal()
        rows = self.dense().abs().sum(1)
        candidates = [rows, diagonal * len(diagonal), torch.full_like(diagonal, self.lambda_max)]
        return Diagonal(min(candidates, key=lambda d: float(d.sum())), self.mu)

    def _length(self, numel: int | None) -> int:
        if numel is None and self.numel is None:
            raise ValueError("numel: expected the length of the vectors, got None with a Scalar, which is for every length")
        return _size(self.numel if numel is None else numel)

    def __repr__(self) -> str:
        size = "" if self.numel is None else f"numel={self.numel}, "
        return f"<{type(self).__name__} smoothness: {size}lambda_max={self.lambda_max:.6g}, mu={self.mu:.6g}>"


class Scalar(Smoothness):
    """L = value times the identity, for vectors of every length.

    Args:
        value: finite, at least 0.
        mu: strong convexity of the mean of all workers' losses, 0 if unknown; DIANA+'s steps weigh by it. The same for all workers.
    """

    def __init__(self, value: float, mu: float = 0.0) -> None:
        super().__init__(_C.scalar_smoothness(_number(value, "value"), _number(mu, "mu")))

    def _arguments(self) -> tuple[Any, ...]:
        return (self.lambda_max,)


class Diagonal(Smoothness):
    """A diagonal L. The diagonal of a matrix L is **not** a smoothness of the same loss: take a majoriser (:meth:`Smoothness.majoriser`).

    Args:
        values: 1-D, finite, at least 0. A coordinate with 0 has the gradient 0 always and is never sent.
        mu: as for :class:`Scalar`.
    """

    def __init__(self, values: Any, mu: float = 0.0) -> None:
        super().__init__(_C.diagonal_smoothness(_doubles(values, "values", 1), _number(mu, "mu")))

    def _arguments(self) -> tuple[Any, ...]:
        return (self.diagonal(),)


class BlockDiagonal(Smoothness):
    """Square blocks along the diagonal, in the order of the coordinates.

    Args:
        blocks: symmetric positive semidefinite matrices, to the rounding of their dtype. mu: as for :class:`Scalar`.
    """

    def __init__(self, blocks: Iterable[Any], mu: float = 0.0) -> None:
        given = list(blocks)
        doubles = [_doubles(b, "blocks", 2) for b in given]
        self._sizes = [len(b) for b in given]
        self._rounding = max((_rounding(b) for b in given), default=0.0)
        super().__init__(_C.block_smoothness(doubles, self._rounding, _number(mu, "mu")))

    def _arguments(self) -> tuple[Any, ...]:
        dense, ends = self.dense(), list(accumulate(self._sizes))
        blocks = [dense[e - d : e, e - d : e].contiguous() for d, e in zip(self._sizes, ends, strict=True)]
        return blocks, self._rounding


class Matrix(Smoothness):
    """Any L; the roots take O(numel^3) once and numel^2 numbers each.

    Args:
        matrix: symmetric and positive semidefinite to the rounding of its dtype; may be singular. mu: as for :class:`Scalar`.
    """

    def __init__(self, matrix: Any, mu: float = 0.0) -> None:
        self._rounding = _rounding(matrix)
        super().__init__(_C.matrix_smoothness(_doubles(matrix, "matrix", 2), self._rounding, _number(mu, "mu")))

    def _arguments(self) -> tuple[Any, ...]:
        return self.dense(), self._rounding


_MAKERS = {Scalar: _C.scalar_smoothness, Diagonal: _C.diagonal_smoothness, BlockDiagonal: _C.block_smoothness, Matrix: _C.matrix_smoothness}


def _again(kind: type[Smoothness], arguments: tuple[Any, ...]) -> Smoothness:
    """One that was pickled: the same numbers, with the rounding that they were given with, and so the same roots to the bit."""
    out = kind.__new__(kind)
    Smoothness.__init__(out, _MAKERS[kind](*arguments))  # type: ignore[operator]
    if kind in (BlockDiagonal, Matrix):
        out._rounding = arguments[1]  # type: ignore[attr-defined]
    if isinstance(out, BlockDiagonal):
        out._sizes = [len(block) for block in arguments[0]]
    return out


KINDS = ("matrix", "diagonal", "scalar")
RULES = ("gershgorin", "row_sums", "row_counts", "dimension", "lambda_max")


def from_logistic(A: Any, labels: Any, l2: float = 0.0, kind: str = "matrix") -> Any:
    """Of f(x) = mean_l log(1 + exp(-b_l <a_l, x>)) + (l2/2) |x|^2: L = A^T A / (4 m) + l2 I, mu = l2.

    Args:
        A: m x d, a dense or sparse (COO, CSR) tensor, an array, or a SciPy sparse matrix; or a list of these, one per worker.
        labels: m numbers of at most two values; L does not depend on them. A list where A is one.
        kind: ``"matrix"``; ``"diagonal"``: the best of :func:`majorisers`, which never forms A^T A for d > 4096; ``"scalar"``: lambda_max
            or, for d > 1024, a bound of it from above.
    Returns:
        a :class:`Smoothness`, or a list of them. O(non-zeros) and, for a matrix, O(d^3).
    """
    if isinstance(A, (list, tuple)) and not _is_rows(A):
        if not isinstance(labels, (list, tuple)) or len(labels) != len(A):
            raise ValueError(f"labels: expected a list of {len(A)}, one for each of A, got {type(labels).__name__}")
        return [from_logistic(a, b, l2, kind) for a, b in zip(A, labels, strict=True)]
    values = torch.as_tensor(labels).flatten()
    rows = _Rows(A, 0.25, l2)
    if len(values) != rows.count:
        raise ValueError(f"labels: expected {rows.count}, one for each row of A, got {len(values)}")
    if not bool(values.to(torch.float64).isfinite().all()) or len(values.unique()) > 2:
        raise ValueError(f"labels: expected at most two finite values, got {values.unique().tolist()[:5]}")
    return rows.smoothness(kind)


def from_least_squares(A: Any, l2: float = 0.0, kind: str = "matrix") -> Any:
    """Of f(x) = mean_l (<a_l, x> - b_l)^2 / 2 + (l2/2) |x|^2: L = A^T A / m + l2 I, the Hessian; mu = l2. As :func:`from_logistic`."""
    if isinstance(A, (list, tuple)) and not _is_rows(A):
        return [from_least_squares(a, l2, kind) for a in A]
    return _Rows(A, 1.0, l2).smoothness(kind)


def majorisers(A: Any, c: float, l2: float = 0.0, rules: Sequence[str] = RULES) -> dict[str, Diagonal]:
    """Diagonals D >= L = (c/m) A^T A + l2 I by rule; each costs O(non-zeros), but ``"gershgorin"`` forms L.

    gershgorin: sum_l |L_jl|. row_sums: (c/m) sum_l |a_lj| |a_l|_1 + l2. row_counts: (c/m) sum_l |a_l|_0 a_lj^2 + l2. dimension: d L_jj.
    lambda_max: a bound of lambda_max(L) from above, everywhere. Convex combinations are majorisers too, entry-wise minima are not.
    """
    rows = _Rows(A, c, l2)
    return {rule: Diagonal(rows.handle.majoriser(rule), rows.l2) for rule in rules}


def lambda_max(A: Any, c: float, l2: float = 0.0, iterations: int = 200) -> tuple[float, float]:
    """Bounds from below and above of lambda_max((c/m) A^T A + l2 I) by power iteration, never forming A^T A.

    The one from above is Collatz's and Wielandt's for |A|^T |A|: always safe, and close where the entries of A have one sign.
    """
    return _Rows(A, c, l2).handle.lambda_max(_size(iterations))


def varying_steps(diagonal: Any, budget: float, n_mu: float = 0.0) -> torch.Tensor:
    """Steps h relative to |x|_2 with |1/h|_2 = budget: h_j = sqrt(sum A / A_j) / budget; float64 [d], infinite where A_j = 0.

    A = diagonal minimises |diagonal * h|_2; with ``n_mu`` (workers times strong convexity) A_j = sqrt(1 + (L_jj / n_mu)^2) minimises
    sqrt(|h|^2 + |diagonal * h / n_mu|^2).
    """
    return _C.varying_steps(_doubles(diagonal, "diagonal", 1), _positive(budget, "budget"), _number(n_mu, "n_mu"))


def block_steps(diagonal: Any, blocks: int, budget: float, n_mu: float = 0.0, rule: str = "optimal") -> torch.Tensor:
    """Steps of blocks, relative to their 2-norms, that minimise max_l h_l A_l; float64 [blocks].

    Args:
        budget: counts 1 for each norm: sum_l sqrt(d_l) / h_l + blocks = budget for ``rule="optimal"``, sum_l 1 / h_l^2 + sqrt(d_l) / h_l +
            blocks for ``"paper"`` and ``"uniform"`` (one step for all).
        n_mu: 0: A_l = |diagonal_l|_2; else sqrt(d_l) + |diagonal_l|_2 / n_mu.
    """
    entries = _doubles(diagonal, "diagonal", 1)
    if not 1 <= _size(blocks) <= len(entries):
        raise ValueError(f"blocks: expected 1 to {len(entries)}, got {blocks}")
    if not budget > blocks:
        raise ValueError(f"budget: expected more than 1 for each of {blocks} norms, got {budget}")
    return _C.block_steps(entries, blocks, float(budget), _number(n_mu, "n_mu"), rule)


def bernoulli_probabilities(diagonal: Any, budget: float, n_mu: float = 0.0) -> torch.Tensor:
    """p_j = A_j / (A_j + rho) with sum ``budget``, which minimise max_j (1 / p_j - 1) A_j; A_j = L_jj, or 1 + L_jj / n_mu."""
    return _C.bernoulli_probabilities(_doubles(diagonal, "diagonal", 1), _positive(budget, "budget"), _number(n_mu, "n_mu"))


def handles_of(smoothness: object, argument: str = "smoothness") -> list[_C.Smoothness]:
    """What the compiled part is given: of None nothing, of one smoothness it, of a list all of them."""
    if smoothness is None:
        return []
    handles = []
    for s in smoothness if isinstance(smoothness, (list, tuple)) else [smoothness]:
        if not isinstance(s, Smoothness):
            raise TypeError(f"{argument}: expected a Smoothness or a list of them, got {type(s).__name__}")
        handles.append(s._handle)
    if not handles:
        raise ValueError(f"{argument}: expected at least one, got an empty list")
    return handles


class _Rows:
    """The rows of a data matrix, whatever it came as."""

    def __init__(self, A: Any, c: float, l2: float) -> None:
        starts, places, values, shape = _csr(A)
        self.count, self.columns, self.l2 = shape[0], shape[1], _number(l2, "l2")
        self.handle = _C.Rows(starts, places, values, self.columns, _number(c, "c"), self.l2)

    def smoothness(self, kind: str) -> Smoothness:
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(map(repr, KINDS))}, got {kind!r}")
        if kind == "diagonal":
            rules = RULES if self.columns <= 4096 else RULES[1:]
            best = min((self.handle.majoriser(rule) for rule in rules), key=lambda d: float(d.sum()))
            return Diagonal(best, self.l2)
        if kind == "scalar" and self.columns > 1024:
            return Scalar(self.handle.lambda_max(200)[1], self.l2)
        matrix = Matrix(self.handle.hessian().view(self.columns, self.columns), self.l2)
        return Scalar(matrix.lambda_max, self.l2) if kind == "scalar" else matrix


def _is_rows(A: Sequence[Any]) -> bool:
    """Whether a list is one matrix written out, not one matrix per worker."""
    return bool(A) and isinstance(A[0], (list, tuple)) and bool(A[0]) and isinstance(A[0][0], (int, float))


def _csr(A: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[int, int]]:
    if hasattr(A, "tocsr"):  # SciPy's, without importing it
        csr = A.tocsr(copy=True)
        csr.sum_duplicates()
        csr.sort_indices()
        parts = [torch.as_tensor(part) for part in (csr.indptr, csr.indices, csr.data)]
        return parts[0].long().contiguous(), parts[1].long().contiguous(), parts[2].double().contiguous(), tuple(csr.shape)
    tensor = A if isinstance(A, torch.Tensor) else torch.as_tensor(A)
    if tensor.is_complex():
        raise TypeError(f"A: expected real numbers, got {tensor.dtype}")
    if tensor.dim() != 2:
        raise ValueError(f"A: expected 2 dimensions (rows, columns), got {tensor.dim()}")
    tensor = tensor.detach().cpu().double()
    coo = (tensor if tensor.layout == torch.sparse_coo else tensor.to_sparse_coo()).coalesce()
    shape = (tensor.shape[0], tensor.shape[1])
    rows, columns = coo.indices()
    starts = torch.zeros(shape[0] + 1, dtype=torch.int64)
    starts[1:] = torch.bincount(rows, minlength=shape[0]).cumsum(0)
    return starts, columns.contiguous(), coo.values().contiguous(), shape


def _doubles(value: Any, argument: str, dims: int) -> torch.Tensor:
    tensor = torch.as_tensor(value)
    if tensor.is_complex():
        raise TypeError(f"{argument}: expected real numbers, got {tensor.dtype}")
    if tensor.dim() != dims:
        raise ValueError(f"{argument}: expected {dims} dimension{'s' if dims > 1 else ''}, got {tensor.dim()}")
    return tensor.detach().to(device="cpu", dtype=torch.float64).contiguous()


def _rounding(value: Any) -> float:
    dtype = torch.as_tensor(value).dtype
    return torch.finfo(dtype if dtype.is_floating_point else torch.float64).eps


def _number(value: object, argument: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{argument}: expected a number, got {type(value).__name__}")
    return float(value)


def _positive(value: object, argument: str) -> float:
    number = _number(value, argument)
    if not 0 < number < float("inf"):
        raise ValueError(f"{argument}: expected a positive number, got {number}")
    return number


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"numel: expected an int, got {type(value).__name__}")
    if not 0 <= value < 2**32:
        raise ValueError(f"numel: expected 0 to 2**32 - 1, got {value}")
    return value


__all__ = [
    "BlockDiagonal", "Diagonal", "Matrix", "Scalar", "Smoothness", "bernoulli_probabilities", "block_steps", "from_least_squares",
    "from_logistic", "lambda_max", "majorisers", "varying_steps",
]
