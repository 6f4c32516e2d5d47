"""Numeric optimisers (SciPy) of the problems whose closed forms are in torch_smoothquant.smoothness: what those are compared with."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize


def varying(cost: np.ndarray, beta: float) -> float:
    """min sum_j cost_j h_j^2 subject to |1/h|_2 = beta; h by a softmax of free numbers."""
    def value(theta: np.ndarray) -> float:
        shares = np.exp(theta - theta.max())
        return math.log(np.sum(cost * shares.sum() / (beta**2 * shares)))

    return math.exp(optimize.minimize(value, np.zeros(len(cost)), method="BFGS", options={"gtol": 1e-10}).fun)


def blocks(costs: np.ndarray, sizes: np.ndarray, beta: float, paper: bool) -> float:
    """min max_l costs_l / s_l subject to sum_l s_l sqrt(d_l) + 1 (paper: and s_l^2) <= beta. The least s that reaches a value is costs
    divided by it, and what is used grows with s: the value at which that is the budget."""
    def used(log_value: float) -> float:
        s = costs / math.exp(log_value)
        return float(np.sum(s * np.sqrt(sizes) + 1 + (s**2 if paper else 0)))

    return math.exp(optimize.brentq(lambda v: used(v) - beta, -50, 50, xtol=1e-14, rtol=1e-14))


def bernoulli(A: np.ndarray, tau: float) -> float:
    """min max_j (1/p_j - 1) A_j subject to sum p_j <= tau: the rho at which p_j = A_j / (A_j + rho) add up to tau."""
    return optimize.brentq(lambda rho: np.sum(A / (A + rho)) - tau, 0, A.sum() / tau, xtol=1e-300, rtol=1e-14)
