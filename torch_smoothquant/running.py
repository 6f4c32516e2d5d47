"""``Running``: smoothness of a network, estimated while it trains. The estimates and what is done with them are C++
(csrc/smoothness/running, csrc/hook/planner; kronecker: csrc/smoothness/kronecker, csrc/hook/rotation)."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import is_finite

KINDS = ("second_moment", "secant", "hutchinson", "kronecker")
METRICS = ("sgd", "adam")


@dataclass(frozen=True)
class Running:
    """Smoothness of a network, estimated from averaged gradients while it trains: for ``attach(..., smoothness=Running(...))``.

    With ``"kronecker"`` gradients of matrices are compressed in the eigenbasis of their rows' and columns' covariances, by whatever the
    spec says. With the other kinds every parameter, and every run of 1024 of its elements, gets the bit width that the estimates call
    for, under the budget that the spec's ``Quantizer`` states; docs/running_smoothness.md. Estimates are made of what every rank has
    anyway, so nothing more travels, and they are for allocation only: none of them bounds the Hessian.

    Args:
        kind: where curvature is read from. ``"second_moment"``: the mean square of the averaged gradient (an empirical Fisher diagonal;
            Adam's metric). ``"secant"``: |<dx, dg>| / |dx|^2 between successive steps; keeps a float64 copy of planned parameters and
            gradients. ``"hutchinson"``: what :meth:`Hook.update_smoothness` is told. ``"kronecker"``: bases from averages of G G^T and
            G^T G; exchange ``"all_gather"``; 6 products of a gradient with a matrix of a side's size per step.
        metric: not for ``"kronecker"``: what an error in the gradient costs, by the optimizer. ``"sgd"`` (with or without momentum):
            curvature. ``"adam"``: 1 / sqrt of the mean square, the step being g / sqrt(v).
        decay: of the exponential averages, in [0, 1).
        floor: not for ``"kronecker"``: estimates below this share of their mean count as it, in (0, 1].
        warmup: steps before the first plan (bases); until then every parameter has the budget's average (original coordinates).
        interval: steps between plans (changes of basis).
        largest_side: ``"kronecker"``: a longer side of a matrix is left as it is.

    Raises:
        ValueError: an argument is out of range.
    """

    kind: str = "second_moment"
    metric: str = "sgd"
    decay: float = 0.95
    floor: float = 1e-3
    warmup: int = 5
    interval: int = 20
    largest_side: int = 512

    def __post_init__(self) -> None:
        for name, choices in (("kind", KINDS), ("metric", METRICS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"Running: {name}: expected one of {', '.join(map(repr, choices))}, got {getattr(self, name)!r}")
        if not (is_finite(self.decay) and 0 <= self.decay < 1):
            raise ValueError(f"Running: decay: expected a number in [0, 1), got {self.decay!r}")
        if not (is_finite(self.floor) and 0 < self.floor <= 1):
            raise ValueError(f"Running: floor: expected a number in (0, 1], got {self.floor!r}")
        for name, least in (("warmup", 0), ("interval", 1), ("largest_side", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"Running: {name}: expected an int of at least {least}, got {value!r}")

    def __repr__(self) -> str:
        shown = [repr(self.kind)]
        shown += [f"{name}={getattr(self, name)!r}" for name in ("metric", "decay", "floor", "warmup", "interval", "largest_side")
                  if getattr(self, name) != getattr(type(self), name)]
        return f"Running({', '.join(shown)})"

    def numbers(self) -> tuple[str, str, float, float, int, int, int]:
        """As the extension takes them."""
        return self.kind, self.metric, float(self.decay), float(self.floor), self.warmup, self.interval, self.largest_side


def check_running(smoothness: object) -> Running | None:
    """``smoothness`` of attach; raises TypeError for what belongs elsewhere."""
    if smoothness is None or isinstance(smoothness, Running):
        return smoothness
    raise TypeError(f"smoothness: expected Running(...), an estimate of a network in training, got {type(smoothness).__name__}; smoothness "
                    "that is known beforehand goes to Sender(..., smoothness=...) and Receiver(..., smoothness=[...])")
