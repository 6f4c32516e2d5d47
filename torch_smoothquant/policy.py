"""Policies: what a sparse compressor sends less than it may. docs/cat.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from . import _C
from .never_slower import NeverSlower
from .parser import parse
from .spec import Spec


class Cost:
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


@dataclass(frozen=True)
class CAT:
    """Communication-aware tuning: in every step the number of entries with the most guaranteed descent per unit of cost.

    For specs with :class:`TopK`, :class:`SparseSign` or :class:`StochasticSparsifier`, whose own count is then the most that is sent. Under
    :class:`AdaCGD` it also chooses among the levels that are accurate enough. Receivers need not know.

    Args:
        cost: what a message costs.
        budget: instead of the best ratio: entries are sent as far as they take off more than their price, and the price follows what all
            ranks' messages cost together, so that a step comes to ``budget`` units of cost.
        speed: how fast the price follows, in (0, 1].
        smoothness: D with D >= L (the smoothness matrix): entries are ranked and chosen by g_j^2 / D_j. A 1-D tensor of numel positive
            numbers, or what has a ``diagonal()`` that is one: a :class:`Diagonal`, of a :class:`Matrix` its ``majoriser()`` (its own
            diagonal is no bound). For :class:`Sender`; not with :class:`SparseSign`.
    """

    cost: Cost
    budget: float | None = None
    speed: float = 0.5
    smoothness: Any = None
    _core: _C.Cat = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.cost, Cost):
            raise TypeError(f"CAT: cost: expected BitCost, PacketCost, AffineCost or MeasuredCost, got {type(self.cost).__name__}")
        if self.budget is not None:
            _number(self.budget, "CAT: budget")
        _number(self.speed, "CAT: speed")
        weights = None if self.smoothness is None else _weights(self.smoothness)
        object.__setattr__(self, "_core", _C.Cat(self.cost._core, self.budget, self.speed, weights))

    def next_price(self, price: float, spent: float, energy: float, share: float = 1.0) -> float:
        """The price of the next step, for loops of one's own: set it as :attr:`Sender.price` of every sender.

        Args:
            price: of this step; 0 at first.
            spent: units of cost that all messages took together.
            energy: a squared norm of the estimate, where the first price begins.
            share: the part of a step that was sent.
        """
        return self._core.next_price(price, spent, energy, share)


Policy = Fixed | CAT | NeverSlower


class Resolved(NamedTuple):
    """A policy as the compiled part takes it."""

    core: _C.Cat | None
    text: str  # what all ranks must agree on


def resolve(policy: Policy | None, specs: Sequence[str], *, numel: int | None = None) -> Resolved:
    """Checks that ``policy`` has a say in one of ``specs``.

    Args:
        numel: length of the one vector, where there is one; None: a hook, whose parameters differ.
    Raises:
        TypeError: no policy. ValueError: naming the specs that leave nothing to choose.
    """
    if policy is None or isinstance(policy, Fixed):
        return Resolved(None, "Fixed()")
    if isinstance(policy, NeverSlower) and numel is None:  # how buckets travel; what senders make is the inner one's
        return Resolved(resolve(policy.senders, specs).core, repr(policy))
    if not isinstance(policy, CAT):
        kinds = "None, Fixed() or CAT(...)" if numel is not None else "None, Fixed(), CAT(...) or NeverSlower(...)"
        raise TypeError(f"policy: expected {kinds}, got {type(policy).__name__}")
    if not any(_C.takes_chooser(spec) for spec in specs):
        raise ValueError(f"policy: CAT chooses the number of entries of TopK, SparseSign or StochasticSparsifier; there is none in "
                         f"{' or '.join(dict.fromkeys(specs))}")
    if policy.smoothness is not None:
        if numel is None:
            raise ValueError("policy: CAT(smoothness=) is for a Sender: a hook's parameters would need one each")
        if any(_contains(parse(spec), "SparseSign") for spec in specs):
            raise ValueError("policy: CAT(smoothness=): expected no SparseSign: its receiver would need the smoothness too")
        if (length := len(_weights(policy.smoothness))) != numel:
            raise ValueError(f"policy: CAT(smoothness=): expected {numel} elements, as many as the gradient, got {length}")
    return Resolved(policy._core, repr(policy))


def _contains(spec: Any, name: str) -> bool:
    if isinstance(spec, (list, tuple)):
        return any(_contains(item, name) for item in spec)
    return isinstance(spec, Spec) and (type(spec).__name__ == name or any(_contains(v, name) for v in vars(spec).values()))


def _weights(smoothness: Any) -> torch.Tensor:
    """1 / sqrt(D), the largest of them 1: float64."""
    diagonal = smoothness if isinstance(smoothness, torch.Tensor) else None
    if diagonal is None and callable(getattr(smoothness, "diagonal", None)):
        diagonal = smoothness.diagonal()
    if not isinstance(diagonal, torch.Tensor) or diagonal.ndim != 1:
        raise TypeError(f"CAT: smoothness: expected a 1-D tensor or what has a diagonal() that is one, got {type(smoothness).__name__}")
    d = diagonal.detach().to(device="cpu", dtype=torch.float64)
    if not bool(torch.all(torch.isfinite(d) & (d > 0))):
        raise ValueError("CAT: smoothness: expected finite numbers above 0")
    return (d.min() / d).sqrt().contiguous() if len(d) else d.contiguous()


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    if math.isnan(value):
        raise ValueError(f"{name}: expected a number, got {value}")
    return float(value)


__all__ = ["CAT", "AffineCost", "BitCost", "Cost", "Fixed", "MeasuredCost", "PacketCost", "Policy", "Resolved", "resolve"]
