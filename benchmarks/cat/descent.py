"""l2-regularised logistic regression, and gradient descent on messages with the steps of docs/cat.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

import torch_smoothquant as tsq


class Ridge:
    """f(x) = mean_l log(1 + exp(-b_l <a_l, x>)) + (lam / 2) |x|^2 on all rows; d, L (largest eigenvalue) and optimum included."""

    def __init__(self, rows: np.ndarray, labels: np.ndarray, lam: float) -> None:
        self.d, self.lam = rows.shape[1], lam
        dense = torch.from_numpy(rows * labels[:, None])
        self.L = float(torch.linalg.eigvalsh(dense.T @ dense / (4 * len(rows)))[-1]) + lam
        self.rows, self.columns = dense.to_sparse_csr(), dense.T.contiguous().to_sparse_csr()
        self.best = self._optimum(dense)

    def value(self, x: torch.Tensor) -> float:
        return float(torch.nn.functional.softplus(-(self.rows @ x)).mean() + self.lam / 2 * x.square().sum())

    def value_and_gradient(self, x: torch.Tensor) -> tuple[float, torch.Tensor]:
        margins = self.rows @ x
        weights = -torch.sigmoid(-margins) / len(margins)
        value = torch.nn.functional.softplus(-margins).mean() + self.lam / 2 * x.square().sum()
        return float(value), self.columns @ weights + self.lam * x

    def _optimum(self, dense: torch.Tensor) -> float:
        x = torch.zeros(self.d, dtype=torch.float64)
        for _ in range(100):
            value, gradient = self.value_and_gradient(x)
            p = torch.sigmoid(self.rows @ x)
            hessian = dense.T @ (dense * (p * (1 - p))[:, None]) / len(dense) + self.lam * torch.eye(self.d, dtype=torch.float64)
            step = torch.linalg.solve(hessian, gradient)
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
    x = torch.zeros(problem.d, dtype=torch.float64)
    while True:
        value, gradient = problem.value_and_gradient(x)
        g = gradient.float()
        message = sender.send(g)
        q = tsq.decode(message)
        entries = int((q != 0).sum())
        efficiency = fixed_efficiency(scheme, g, q) if sender.efficiency is None else sender.efficiency
        yield value - problem.best, Sent(len(message), entries)
        x = x - step_of(scheme, efficiency, entries, problem.L) * q.double()
