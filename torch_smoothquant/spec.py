"""Compressors and mechanisms as frozen values. ``repr`` of one is its spec, and :func:`parse` gives the object back.

The classes carry names and defaults only; what they mean, and whether their arguments are possible, is decided by the one parser in
C++ (see docs/spec.md).
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any

from . import _C

SpecError = _C.SpecError


@dataclass(frozen=True, repr=False)
class Spec:
    """Base of everything a spec can name."""

    def __post_init__(self) -> None:
        _C.parse(repr(self))  # raises SpecError

    def __repr__(self) -> str:
        shown = []
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Spec):
                shown.append(repr(value))
            elif field.metadata.get("always") or field.default is MISSING or value != field.default:
                shown.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class Compressor(Spec):
    """A stateless map R^n -> bytes -> R^n."""

    def omega(self, numel: int) -> float | None:
        """Variance constant on ``numel`` elements, E|C(x)-x|^2 <= omega |x|^2, if the map is unbiased; else None."""
        return _C.class_of(f"Direct({self!r})", numel)[0]

    def alpha(self, numel: int) -> float | None:
        """Contraction constant, E|C(x)-x|^2 <= (1-alpha) |x|^2, of the map as error feedback uses it; None if there is none."""
        return _C.class_of(f"ErrorFeedback({self!r})", numel)[1]


class Mechanism(Spec):
    """The stateful rule between gradient and compressor."""


def _always(default: Any) -> Any:
    from dataclasses import field

    return field(default=default, metadata={"always": True})


@dataclass(frozen=True, repr=False)
class Identity(Compressor):
    """The vector itself, in its own dtype."""


@dataclass(frozen=True, repr=False)
class Natural(Compressor):
    """Each element to one of the two powers of two around it, unbiased; 9 bits per element, no scale."""


@dataclass(frozen=True, repr=False)
class Quantizer(Compressor):
    """Fixed-width codes with one fp32 scale per block; ``bits + 32 / block`` bits per element.

    Args:
        bits: 1 to 8.
        block: elements that share a scale, a power of two from 32 to 4096.
        levels: ``"unbiased"``: symmetric grid up to the block's maximum, stochastic rounding. ``"fit"``: nearest on the better of two
            grids per block, with the least-squares scale; contractive for every input. None: chosen by the mechanism, ``"unbiased"``
            under :class:`Direct`, ``"fit"`` under :class:`ErrorFeedback`.
        rounding: ``"stochastic"`` or ``"nearest"`` (``"fit"`` is always nearest). None: stochastic for ``"unbiased"``.
    """

    bits: int = _always(4)
    block: int = 256
    levels: str | None = None
    rounding: str | None = None


@dataclass(frozen=True, repr=False)
class Sign(Compressor):
    """Each element's sign times the mean magnitude of its block; ``1 + 32 / block`` bits per element. Biased: for :class:`ErrorFeedback`.

    Args:
        block: elements that share a scale, a power of two from 32 to 4096.
    """

    block: int = 256


@dataclass(frozen=True, repr=False)
class Ternary(Compressor):
    """Minus, zero or plus the block's largest magnitude N: +-N with probability |x| / N; ``2 + 32 / block`` bits per element. Unbiased.

    Args:
        block: elements that share a scale, a power of two from 32 to 4096.
    """

    block: int = 256


@dataclass(frozen=True, repr=False)
class TopK(Compressor):
    """The entries of largest magnitude, exactly: ties to the lowest index, zeros never. Contractive with alpha = K / n.

    Args:
        ratio: K = ceil(ratio * n), at least 1, for a section of n elements; in (0, 1].
        k: K itself, per section. Exactly one of the two must be given.
    """

    ratio: float | None = None
    k: int | None = None


@dataclass(frozen=True, repr=False)
class UniformStep(Compressor):
    """Integers rint(x / step) with one step for the whole section, entropy-coded: the smallest error for its bits, from 0.1 to 5 of them.

    Args:
        bits: bits per element, all included; above 0, at most 12. The step follows from the data. Short sections may take more.
        step: the step itself, from 2^-126 to 2^112. Exactly one of the two must be given.
        rounding: ``"nearest"`` (contractive) or ``"stochastic"`` (unbiased). None: chosen by the mechanism, ``"stochastic"`` under
            :class:`Direct`, ``"nearest"`` under :class:`ErrorFeedback`.
    """

    bits: float | None = None
    step: float | None = None
    rounding: str | None = None

    def __post_init__(self) -> None:
        for name in ("bits", "step"):
            if type(getattr(self, name)) is int:
                object.__setattr__(self, name, float(getattr(self, name)))
        super().__post_init__()


@dataclass(frozen=True, repr=False)
class Direct(Mechanism):
    """Sends C(gradient) in every step; no state (DCGD)."""

    compressor: Compressor


@dataclass(frozen=True, repr=False)
class ErrorFeedback(Mechanism):
    """Sends C(e + gradient) and keeps e = e + gradient - C(e + gradient) for the next step (EF14).

    An unbiased compressor with omega >= 1 has no guarantee here and is scaled by 1 / (1 + omega).
    """

    compressor: Compressor


_CLASSES: dict[str, type[Spec]] = {
    c.__name__: c for c in (Identity, Natural, Quantizer, Sign, Ternary, TopK, UniformStep, Direct, ErrorFeedback)
}


def _build(value: Any) -> Any:
    if isinstance(value, list):
        return [_build(item) for item in value]
    if isinstance(value, tuple):
        name, arguments = value
        positional = [_build(v) for key, v in arguments if not key]
        return _CLASSES[name](*positional, **{key: _build(v) for key, v in arguments if key})
    return value


def parse(text: str) -> Spec:
    """The object that a spec stands for: ``parse(repr(x)) == x``.

    Raises:
        SpecError: (a ValueError) showing the column, if the text does not parse or names impossible values.
        TypeError: if ``text`` is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"spec: expected a string, got {type(text).__name__}")
    return _build(_C.parse(text))


def to_text(spec: Spec | str, argument: str) -> str:
    """The text of a spec given as text or object; validated. ``argument`` names it in errors."""
    if isinstance(spec, Spec):
        return repr(spec)
    if isinstance(spec, str):
        return repr(parse(spec))
    raise TypeError(f"{argument}: expected a spec (a string or one of {', '.join(sorted(_CLASSES))}), got {type(spec).__name__}")
