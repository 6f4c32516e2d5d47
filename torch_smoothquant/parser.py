"""From a spec's text to its object. What a text means is decided by the one parser in C++ (see docs/spec.md)."""

from __future__ import annotations

from typing import Any

from . import _C
from .compressors import (
    Bernoulli,
    BlockDithering,
    Cast,
    Dithering,
    Identity,
    Natural,
    NaturalDithering,
    PermK,
    Quantizer,
    RandK,
    Sign,
    SmoothBernoulli,
    SparseSign,
    StochasticSparsifier,
    Ternary,
    TopK,
    UniformStep,
    VaryingDithering,
)
from .mechanisms import (
    CLAG,
    DIANA,
    EF21,
    LAG,
    MARINA,
    Accurate,
    Ada3PC,
    AdaCGD,
    Always,
    Bidirectional,
    Direct,
    ErrorFeedback,
    Far,
    Near,
    Settled,
    ThreePC,
)
from .spec import Spec

_CLASSES: dict[str, type[Spec]] = {
    c.__name__: c for c in (
        Bernoulli, BlockDithering, Cast, Dithering, Identity, Natural, NaturalDithering, PermK, Quantizer, RandK, Sign, SmoothBernoulli,
        SparseSign, StochasticSparsifier, Ternary, TopK, UniformStep, VaryingDithering,
        Accurate, Ada3PC, AdaCGD, Always, Bidirectional, CLAG, DIANA, Direct, EF21, ErrorFeedback, Far, LAG, MARINA, Near, Settled, ThreePC)
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
