"""Runs of mechanisms through Sender and Receiver on logistic regression. Helpers; no tests here."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

import torch_smoothquant as tsq

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))  # after everything else: only for the benchmark's problem
from benchmarks.mechanisms.problem import Logistic, read_libsvm, synthetic  # noqa: E402

PHISHING = ROOT.parent / "shared" / "data" / "libsvm" / "phishing"
ROUNDS = 200


def problem_of(name: str) -> Logistic | None:
    """None: the data set is not at hand."""
    if name == "synthetic":
        return Logistic(*synthetic(7, 15), 7)
    return Logistic(*read_libsvm(PHISHING, 68), 20) if PHISHING.exists() else None


def squared(v: np.ndarray) -> float:
    return float(np.sum(v * v))


class Run:
    """The library's run: after every step the senders' gradients and shifts are at hand."""

    def __init__(self, problem: Logistic, spec: tsq.Mechanism, step: float | None = None) -> None:
        self.problem, n, d = problem, problem.n, problem.d
        self.step_size = step or spec.safe_step(problem.L_minus, problem.L_plus, d, n)
        self.senders = [tsq.Sender(spec, d, rank, n, dtype=torch.float64) for rank in range(n)]
        self.receiver = tsq.Receiver(spec, d, n, dtype=torch.float64)
        self.x = np.zeros(d)
        self.g = np.zeros(d)  # the last estimate

    def estimate(self) -> None:
        self.gradients = self.problem.gradients(self.x)
        self.g = self.receiver.receive([s.send(torch.from_numpy(v)) for s, v in zip(self.senders, self.gradients)]).numpy()

    def move(self) -> None:
        self.x = self.x - self.step_size * self.g

    def sender_states(self, name: str) -> np.ndarray:
        return np.array([s.state[name].numpy() for s in self.senders])
