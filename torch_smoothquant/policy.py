"""Policies: what a sparse compressor sends less than it may. docs/cat.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from . import _C


class _Made:
    """A dataclass around a compiled object: copied and pickled (to other processes) by the arguments that it was made of."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, f.name) for f in fields(self) if f.init)  # type: ignore[arg-type]


class Cost(_Made):
    """What a message costs. Each model names its unit; terms are not negative and not all zero (else ValueError)."""

    _core: _C.CostModel

    @property
    def unit(self) -> str:
        """``"bits"``, ``"bytes"`` or ``"seconds"``."""
        return self._core.unit

    def _set_core(self, core: _C.CostModel) -> None:
        object.__setattr__(self, "_core", core)


@dataclass(frozen=True)
class BitCost(Cost):
    """Bits of the entries: C(T) = T (index + value). Without a fixed cost :class:`TopK`'s best is always one entry."""

    def __post_init__(self) -> None:
        self._set_core(_C.BitCost())


@dataclass(frozen=True)
class PacketCost(Cost):
    """Bytes in packets: C(T) = message + packet * ceil(bytes(T) / payload). The defaults are TCP over Ethernet.

    Args:
        payload: bytes of a packet that are ours.
        packet: what a packet costs, in bytes: its payload and its headers.
        message: what a message costs besides, in bytes.
        straddle: an entry may begin in one packet and end in the next, and our own headers count; else neither.
    """

    payload: float = 1460
    packet: float = 1538
    message: float = 0
    straddle: bool = True

    def __post_init__(self) -> None:
        for name in ("payload", "packet", "message"):
            _number(getattr(self, name), f"PacketCost: {name}")
        if not isinstance(self.straddle, bool):
            raise TypeError(f"PacketCost: straddle: expected a bool, got {type(self.straddle).__name__}")
        self._set_core(_C.PacketCost(self.payload, self.packet, self.message, self.straddle))


@dataclass(frozen=True)
class AffineCost(Cost):
    """C(T) = c0 + c1 T for T entries.

    Args:
        c0: of a message: latency, compute, headers.
        c1: of one entry.
        unit: ``"bits"``, ``"bytes"`` or ``"seconds"``.
    """

    c0: float
    c1: float
    unit: str = "seconds"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        _number(self.c0, "AffineCost: c0")
        _number(self.c1, "AffineCost: c1")
        if not isinstance(self.unit, str):
            raise TypeError(f"AffineCost: unit: expected a string, got {type(self.unit).__name__}")
        self._set_core(_C.AffineCost(self.c0, self.c1, self.unit))


@dataclass(frozen=True, eq=False)
class MeasuredCost(Cost):
    """seconds = c0 + c1 * bytes, fitted to what messages were seen to take: least squares with c0, c1 >= 0.

    In a hook every bucket is a sample. In a loop of one's own: :meth:`observe`. Thread-safe.

    Args:
        c0, c1: seconds per message and per byte until there are samples. The default is 0.1 ms and 1 Gbit/s. Samples of one size alone
            do not tell the two apart: their proportions are then those of these.
        keep: weight of a sample when the next one comes, in (0, 1]; 0.98 is a memory of about 50 samples.
    """

    c0: float = 1e-4
    c1: float = 8e-9
    keep: float = 0.98
    _core: _C.MeasuredCost = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("c0", "c1", "keep"):
            _number(getattr(self, name), f"MeasuredCost: {name}")
        self._set_core(_C.MeasuredCost(self.c0, self.c1, self.keep))

    def __reduce__(self) -> tuple[Any, ...]:
        return *super().__reduce__(), self._core.state

    def __setstate__(self, state: tuple[float, ...]) -> None:  # what was learnt goes along
        self._core.state = state

    def observe(self, bytes: float, seconds: float) -> None:
        """A message of so many bytes took so many seconds. Both finite and not negative, else ValueError."""
        self._core.observe(_number(bytes, "bytes"), _number(seconds, "seconds"))

    def fit(self) -> tuple[float, float]:
        """(c0, c1) now."""
        return self._core.fit()

    def seconds(self, bytes: float) -> float:
        """c0 + c1 * bytes, by the fit now."""
        return self._core.seconds(_number(bytes, "bytes"))

    @property
    def samples(self) -> int:
        """How many were observed."""
        return self._core.samples


@dataclass(frozen=True)
class Fixed:
    """Every compressor sends what its spec says: no policy."""


@dataclass(frozen=True, eq=False)
class CAT(_Made):
    """Communication-aware tuning: in every step the number of entries with the most guaranteed descent per unit of cost.

    For specs with :class:`TopK`, :class:`SparseSign` or :class:`StochasticSparsifier`, whose own count is then the most that is sent. Under
    :class:`AdaCGD` it also chooses among the levels that are accurate enough. Receivers need not know.

    Args:
        cost: what a message costs.
        budget: instead of the best ratio: entries are sent as far as they take off more than their price, and the price follows what all
            ranks' messages cost together, so that a step comes to ``budget`` units of cost.
        speed: how fast the price follows, in (0, 1].
        smoothness: D with D >= L (the smoothness matrix): entries are ranked and chosen by g_j^2 / D_j. For :class:`Sender` a 1-D tensor of
            numel positive numbers, or what has a ``diagonal()`` that is one: a :class:`Diagonal`, of a :class:`Matrix` its ``majoriser()``
            (its own diagonal is no bound). For ``attach`` a mapping from parameter names or glob patterns, first match counts, to such
            a D or one number for all of the parameter; parameters that are not named are ranked as ever, and with a budget each that is
            chosen in has to be named. Ranks may differ in the numbers. Not with :class:`SparseSign`.
        horizon: ``"step"``: the best ratio of the step itself, as published. ``"run"``: entries are sent as far as they gain more per cost
            than sending everything would, since what is not sent now is sent later: more entries, fewer steps. Not for
            :class:`StochasticSparsifier`, which owes nothing on average, nor where there is a budget. docs/cat.md compares the two.
    """

    cost: Cost
    budget: float | None = None
    speed: float = 0.5
    smoothness: Any = None
    horizon: str = "step"
    _core: _C.Cat = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.cost, Cost):
            raise TypeError(f"CAT: cost: expected BitCost, PacketCost, AffineCost or MeasuredCost, got {type(self.cost).__name__}")
        if self.budget is not None:
            _number(self.budget, "CAT: budget")
        _number(self.speed, "CAT: speed")
        if not isinstance(self.horizon, str):
            raise TypeError(f"CAT: horizon: expected 'step' or 'run', got {type(self.horizon).__name__}")
        weights = None
        if isinstance(self.smoothness, Mapping):
            for pattern, value in self.smoothness.items():
                if not isinstance(pattern, str):
                    raise TypeError(f"CAT: smoothness: expected names of parameters or glob patterns, got {pattern!r}")
                diagonal_of(value, f"CAT: smoothness[{pattern!r}]", number=True)
        elif self.smoothness is not None:
            diagonal = diagonal_of(self.smoothness, "CAT: smoothness")
            weights = weights_of(diagonal, float(diagonal.min()) if len(diagonal) else 1.0)
        object.__setattr__(self, "_core", _C.Cat(self.cost._core, self.budget, self.speed, weights, self.horizon))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CAT):
            return NotImplemented
        return self._terms() == other._terms() and self.smoothness is other.smoothness  # of tensors, == is no bool

    def __hash__(self) -> int:
        return hash(self._terms())

    def _terms(self) -> tuple[Any, ...]:
        return self.cost, self.budget, self.speed, self.horizon

    def next_price(self, price: float, spent: float, energy: float, share: float = 1.0) -> float:
        """The price of the next step, for loops of one's own: set it as :attr:`Sender.price` of every sender.

        Args:
            price: of this step; 0 at first.
            spent: units of cost that all messages took together.
            energy: a squared norm of the estimate, where the first price begins.
            share: the part of a step that was sent.
        """
        return self._core.next_price(price, spent, energy, share)


def diagonal_of(smoothness: Any, name: str, *, number: bool = False) -> torch.Tensor:
    """D as float64: 1-D, or of no dimension if it is a ``number``, where one may be given."""
    if number and isinstance(smoothness, (int, float)) and not isinstance(smoothness, bool):
        smoothness = torch.tensor(float(smoothness), dtype=torch.float64)
    elif not isinstance(smoothness, torch.Tensor) and callable(getattr(smoothness, "diagonal", None)):
        smoothness = smoothness.diagonal()
    if not isinstance(smoothness, torch.Tensor) or smoothness.ndim > 1 or (smoothness.ndim == 0 and not number):
        what = "a 1-D tensor or what has a diagonal() that is one" + (", or a number" if number else "")
        got = f"a tensor of {smoothness.ndim} dimensions" if isinstance(smoothness, torch.Tensor) else type(smoothness).__name__
        raise TypeError(f"{name}: expected {what}, got {got}")
    d = smoothness.detach().to(device="cpu", dtype=torch.float64)
    if not bool(torch.all(torch.isfinite(d) & (d > 0))):
        raise ValueError(f"{name}: expected finite numbers above 0")
    return d


def weights_of(diagonal: torch.Tensor, least: float) -> torch.Tensor:
    """sqrt(least / D)."""
    return (least / diagonal).sqrt().contiguous()


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    if math.isnan(value):
        raise ValueError(f"{name}: expected a number, got {value}")
    return float(value)


__all__ = ["CAT", "AffineCost", "BitCost", "Cost", "Fixed", "MeasuredCost", "PacketCost", "diagonal_of", "weights_of"]
