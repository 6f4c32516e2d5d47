"""Checks of numbers and state that more than one class takes."""

from __future__ import annotations

import math
from typing import Any

import torch


def is_finite(value: Any) -> bool:
    """A finite int or float; a bool is no number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def checked_rates(value: Any, name: str) -> list[float]:
    """Factors on target rates. One that is not positive would have nothing sent from then on."""
    if isinstance(value, (list, tuple)) and all(is_finite(rate) and rate > 0 for rate in value):
        return [float(rate) for rate in value]
    raise ValueError(f"{name}: expected a list of finite numbers above 0, got {value!r}")


def checked_price(value: Any, name: str) -> float:
    """What a unit of cost is charged."""
    if not (is_finite(value) and value >= 0):
        raise ValueError(f"{name}: expected a finite number of at least 0, got {value!r}")
    return float(value)


def check_finite(vector: torch.Tensor, name: str) -> None:
    """State holds finite numbers always: others would never leave it."""
    if not bool(vector.isfinite().all()):
        raise ValueError(f"{name}: expected finite numbers, found Inf or NaN")
