"""Separable quadratics in many dimensions, whose smoothness is diagonal and exact."""

from __future__ import annotations

import numpy as np

import torch_smoothquant as tsq


class Separable:
    """f_i(x) = sum_j D_ij (x_j - b_ij)^2 / 2, D_ij >= mu falling over `decay` decades with j, every worker's in the same order."""

    def __init__(self, n: int, d: int, decay: float, mu: float = 0.02, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.n, self.d, self.l2 = n, d, mu
        self.D = mu + np.logspace(0, -decay, d) * random.uniform(0.5, 1.0, (n, d))
        self.b = random.normal(size=(n, d)) * np.sqrt(np.logspace(0, -decay, d))
        self.solution = (self.D * self.b).mean(0) / self.D.mean(0)

    def gradients(self, x: np.ndarray) -> list[np.ndarray]:
        return list(self.D * (x - self.b))

    def smoothness(self) -> list[tsq.Smoothness]:
        return [tsq.Diagonal(d, self.l2) for d in self.D]
