"""Logistic regression with a nonconvex regulariser, spread over workers in file order; smoothness constants included."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class Logistic:
    """f_i(x) = mean_l log(1 + exp(-b_l <a_l, x>)) + lam sum_j x_j^2 / (1 + x_j^2) of worker i; f is their mean.

    Attributes: n workers, d coordinates; L_minus, L_plus as in docs/algorithms.md, "Step sizes".
    """

    def __init__(self, rows: np.ndarray, labels: np.ndarray, n: int, lam: float = 0.1) -> None:
        per_worker = len(rows) // n
        self.n, self.d, self.lam = n, rows.shape[1], lam
        self.rows = rows[: n * per_worker].reshape(n, per_worker, self.d)
        self.labels = labels[: n * per_worker].reshape(n, per_worker)
        hessians = np.einsum("nmd,nme->nde", self.rows, self.rows) / (4 * per_worker)  # the loss's second derivative is at most 1/4
        curvature = 2 * lam  # the regulariser's is at most this
        self.L_minus = float(np.linalg.eigvalsh(hessians.mean(0))[-1]) + curvature
        self.L_plus = float(np.sqrt(np.mean((np.linalg.eigvalsh(hessians)[:, -1] + curvature) ** 2)))

    def value(self, x: np.ndarray) -> float:
        margins = self.labels * (self.rows @ x)
        return float(np.logaddexp(0, -margins).mean() + self.lam * np.sum(x**2 / (1 + x**2)))

    def gradients(self, x: np.ndarray) -> np.ndarray:
        """Of every worker: (n, d)."""
        margins = self.labels * (self.rows @ x)
        weights = -self.labels / (1 + np.exp(margins)) / self.rows.shape[1]
        return np.einsum("nm,nmd->nd", weights, self.rows) + 2 * self.lam * x / (1 + x**2) ** 2


def read_libsvm(path: Path, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels of a file of "label index:value ..." lines; the smaller label becomes -1, the larger +1."""
    rows, labels = [], []
    for line in path.read_text().splitlines():
        if not line.strip():
            continue
        label, *entries = line.split()
        row = np.zeros(d)
        for entry in entries:
            index, value = entry.split(":")
            row[int(index) - 1] = float(value)
        rows.append(row)
        labels.append(float(label))
    return np.array(rows), np.where(np.array(labels) == max(labels), 1.0, -1.0)


def synthetic(n: int, d: int, per_worker: int = 30, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Sparse rows and labels of n workers that differ, for where the data sets are not at hand."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(n * per_worker, d)) * (random.random((n * per_worker, d)) < 0.4)
    rows *= np.repeat(random.uniform(0.5, 1.5, n), per_worker)[:, None] * 10 ** random.uniform(-1, 0, d)
    return rows, np.where(rows @ random.normal(size=d) + 0.3 * random.normal(size=n * per_worker) > 0, 1.0, -1.0)
