"""l2-regularised logistic regression, and gradient descent on messages with the steps of docs/cat.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse

import torch_smoothquant as tsq


class Ridge:
    """f(x) = mean_l log(1 + exp(-b_l <a_l, x>)) + (lam / 2) |x|^2 on all rows; d, L (largest eigenvalue) and optimum included.

    Equal rows are kept once, with the number of them as weight: w8a has 34780 different ones among 49749.
    """

    def __init__(self, rows: np.ndarray, labels: np.ndarray, lam: float) -> None:
        self.d, self.lam = rows.shape[1], lam
        bytes_of_rows = np.ascontiguousarray(rows * labels[:, None] + 0.0).view(np.dtype((np.void, 8 * self.d))).ravel()
        kept, counts = np.unique(bytes_of_rows, return_counts=True)
        self.dense, self.weights = kept.view(np.float64).reshape(-1, self.d), counts / len(rows)
        self.rows, self.columns = sparse.csr_matrix(self.dense), sparse.csr_matrix(self.dense.T)
        self.L = float(np.linalg.eigvalsh(self._curvature(self.weights / 4))[-1])
        self.best = self._optimum()

    def value(self, x: np.ndarray) -> float:
        return self.value_and_gradient(x)[0]

    def value_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        margins = torch.from_numpy(self.rows @ x)
        value = self.weights @ torch.nn.functional.softplus(-margins).numpy() + self.lam / 2 * (x @ x)
        return float(value), self.lam * x - self.columns @ (self.weights * torch.sigmoid(-margins).numpy())

    def _curvature(self, weights: np.ndarray) -> np.ndarray:
        return self.dense.T @ (self.dense * weights[:, None]) + self.lam * np.eye(self.d)

    def _optimum(self) -> float:
        x = np.zeros(self.d)
        for _ in range(100):
            value, gradient = self.value_and_gradient(x)
            p = torch.sigmoid(torch.from_numpy(self.rows @ x)).numpy()
            step = np.linalg.solve(self._curvature(self.weights * p * (1 - p)), gradient)
            if float(gradient @ step) < 1e-20:
                break
            while self.value(x - step) > value:
                step /= 2
            x = x - step
        return self.value(x)


class Sent(NamedTuple):
    bytes: int
    entries: int


Observe = Callable[[Sent], None]


def step_of(scheme: str, efficiency: float, entries: int, L: float) -> float:
    """The table of docs/cat.md."""
    return {"TopK": 1 / L, "SparseSign": math.sqrt(efficiency / max(entries, 1)) / L, "StochasticSparsifier": efficiency / L}[scheme]


def fixed_efficiency(scheme: str, g: torch.Tensor, q: torch.Tensor) -> float:
    """S^2 / (T |g|^2) of a message of T signs."""
    kept = g[q != 0].abs()
    return float(kept.sum() ** 2 / (len(kept) * g.square().sum()))


def descend(problem: Ridge, scheme: str, policy: tsq.CAT | None, limit: int | None, seed: int = 0) -> Iterator[tuple[float, Sent]]:
    """(f(x) - f* before the step, what the step sent): chosen by ``policy``, or always ``limit`` entries."""
    name = "budget" if scheme == "StochasticSparsifier" else "k"
    spec = f"Direct({scheme}({name}={limit or problem.d}))"
    if policy is None and scheme != "SparseSign":
        policy = tsq.CAT(tsq.AffineCost(1.0, 0.0))  # entries for nothing: all that the spec allows; reports the factor
    sender = tsq.Sender(spec, problem.d, dtype=torch.float32, seed=seed, policy=policy)
    x = np.zeros(problem.d)
    while True:
        value, gradient = problem.value_and_gradient(x)
        g = torch.from_numpy(gradient).float()
        message = sender.send(g)
        q = tsq.decode(message)
        entries = int((q != 0).sum())
        efficiency = fixed_efficiency(scheme, g, q) if sender.efficiency is None else sender.efficiency
        yield value - problem.best, Sent(len(message), entries)
        x = x - step_of(scheme, efficiency, entries, problem.L) * q.double().numpy()
