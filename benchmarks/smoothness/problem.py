"""l2-regularised logistic regression over workers, as the paper has it: rows scaled by their largest magnitude, sorted by norm, split."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

import torch_smoothquant as tsq

WIDTHS = {"a1a": 123, "a9a": 123, "a8a": 123, "mushrooms": 112, "splice": 60, "german.numer_scale": 24, "w8a": 300, "phishing": 68}


class Workers:
    """f_i(x) = mean_l log(1 + exp(-b_l <a_l, x>)) + (l2/2) |x|^2 of worker i; f is their mean. float64.

    Attributes: n, d; A (CSR) and labels of each; smoothness: their matrices; solution x*; start x0 = 0.
    """

    def __init__(self, rows: Iterable[torch.Tensor], labels: Iterable[np.ndarray], l2: float = 1e-3) -> None:
        parts = list(rows)
        self.l2, self.n, self.d = l2, len(parts), parts[0].shape[1]
        self.labels = list(labels)
        self.A = [p.double().to_sparse_csr() for p in parts]
        self.AT = [p.double().t().contiguous().to_sparse_csr() for p in parts]
        self.solution = self._newton()

    def gradients(self, x: np.ndarray) -> list[np.ndarray]:
        out, at = [], torch.from_numpy(x)
        for A, AT, b in zip(self.A, self.AT, self.labels, strict=True):
            margins = b * (A @ at).numpy()
            weights = -b / (1 + np.exp(margins)) / len(b)
            out.append((AT @ torch.from_numpy(weights)).numpy() + self.l2 * x)
        return out

    def smoothness(self, kind: str = "matrix") -> list[tsq.Smoothness]:
        return tsq.from_logistic(self.A, self.labels, self.l2, kind)

    def hessian(self, x: np.ndarray) -> np.ndarray:
        """Of f, d x d."""
        out = self.l2 * np.eye(self.d)
        for rows, b in zip(self.A, self.labels, strict=True):
            A = rows.to_dense().numpy()
            p = 1 / (1 + np.exp(b * (A @ x)))
            out += (A.T * (p * (1 - p))) @ A / (len(b) * self.n)
        return out

    def _newton(self) -> np.ndarray:
        x = np.zeros(self.d)
        for _ in range(50):
            g = np.mean(self.gradients(x), axis=0)
            x = x - np.linalg.solve(self.hessian(x), g)
            if np.linalg.norm(g) < 1e-14:
                break
        return x


def split(rows: np.ndarray, labels: np.ndarray, n: int) -> tuple[list[torch.Tensor], list[np.ndarray]]:
    """Scaled, sorted by 2-norm ascending, N mod n rows dropped, contiguous parts."""
    largest = np.abs(rows).max(1, keepdims=True)
    rows = rows / np.where(largest > 0, largest, 1)
    order = np.argsort(np.linalg.norm(rows, axis=1), kind="stable")[: len(rows) // n * n]
    parts = np.split(order, n)
    return [torch.from_numpy(rows[p]) for p in parts], [labels[p] for p in parts]


def read(path: Path, n: int, l2: float = 1e-3) -> Workers:
    """A LIBSVM file of the names in WIDTHS, else as wide as its largest index; the larger label becomes +1."""
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    entries = [[e.split(":") for e in line[1:]] for line in lines]
    width = WIDTHS.get(path.name) or max(int(i) for row in entries for i, _ in row)
    rows = np.zeros((len(lines), width))
    for row, found in zip(rows, entries, strict=True):
        for index, value in found:
            row[int(index) - 1] = float(value)
    labels = np.array([float(line[0]) for line in lines])
    return Workers(*split(rows, np.where(labels == labels.max(), 1.0, -1.0), n), l2)


def synthetic(n: int, d: int, per_worker: int, decay: float = 2.0, seed: int = 1, l2: float = 1e-3) -> Workers:
    """Dense rows whose columns' sizes fall from 1 to 10^-decay, for where no data are at hand."""
    random = np.random.default_rng(seed)
    scales = np.logspace(0, -decay, d)
    rows = random.normal(size=(n * per_worker, d)) * scales
    labels = np.where(rows @ (random.normal(size=d) / np.sqrt(scales)) + 0.3 * random.normal(size=len(rows)) > 0, 1.0, -1.0)
    return Workers(*split(rows, labels, n), l2)
