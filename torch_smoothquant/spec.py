"""Compressors and mechanisms as frozen values. ``repr`` of one is its spec, and :func:`parse` gives the object back.

The classes carry names and defaults only; what they mean, and whether their arguments are possible, is decided by the one parser in
C++ (see docs/spec.md).
"""

from __future__ import annotations

from collections.abc import Sequence
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
            if isinstance(value, Spec) and field.default is MISSING:
                shown.append(repr(value))  # what a spec is about stands first, without its name
            elif isinstance(value, tuple):
                shown.append(repr(list(value)))
            elif field.metadata.get("always") or field.default is MISSING or value != field.default:
                shown.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class Compressor(Spec):
    """A stateless map R^n -> bytes -> R^n."""

    def omega(self, numel: int, world_size: int = 1) -> float | None:
        """Variance constant on ``numel`` elements, E|C(x)-x|^2 <= omega |x|^2, if the map is unbiased; else None."""
        return _C.class_of(f"Direct({self!r})", numel, world_size)[0]

    def alpha(self, numel: int, world_size: int = 1) -> float | None:
        """Contraction constant, E|C(x)-x|^2 <= (1-alpha) |x|^2, of the map as error feedback uses it; None if there is none."""
        return _C.class_of(f"ErrorFeedback({self!r})", numel, world_size)[1]


class Mechanism(Spec):
    """The stateful rule between gradient and compressor."""

    def constants(self, numel: int, world_size: int = 1) -> tuple[float, float] | None:
        """(A, B) of the three point inequality E|C(x)-x|^2 <= (1-A) |h-y|^2 + B |x-y|^2 on ``numel`` elements; None if unknown."""
        return _C.three_point(repr(self), numel, world_size)

    def safe_step(self, L_minus: float, L_plus: float, numel: int, world_size: int = 1) -> float:
        """The step size up to which theory promises descent on every smooth function: docs/algorithms.md.

        Args:
            L_minus: smoothness of f. L_plus: the smallest number with mean |grad f_i(x) - grad f_i(y)|^2 <= L_plus^2 |x - y|^2.
        Raises:
            ValueError: the mechanism's constants are not known for this compressor.
        """
        return _C.safe_step(repr(self), L_minus, L_plus, numel, world_size)

    def state_numel(self) -> tuple[int, int]:
        """State vectors per element: of each sender, of each receiver."""
        return _C.state_counts(repr(self))

    def expected_bits(self, numel: int) -> float:
        """Expected bits of one float32 message of ``numel`` elements, without header, where every message is sent."""
        return _C.expected_bits(repr(self), numel)


def _always(default: Any) -> Any:
    from dataclasses import field

    return field(default=default, metadata={"always": True})


@dataclass(frozen=True, repr=False)
class Cast(Compressor):
    """Each element to the nearest number of a shorter format. Biased, contractive; deterministic.

    Args:
        dtype: ``"fp16"`` (what is below 2^-25 vanishes, what is too large saturates), ``"bf16"``, ``"fp8"`` (e4m3, with an fp32 scale
            per block of 256 elements) or ``"fp8_e5m2"`` (likewise).
    """

    dtype: str


class _Dithered(Compressor):
    norm: int | str

    def __post_init__(self) -> None:
        if self.norm == float("inf"):
            object.__setattr__(self, "norm", "inf")
        super().__post_init__()


@dataclass(frozen=True, repr=False)
class Dithering(_Dithered):
    """Each element to one of the multiples of N / levels around it, at random, N a norm; unbiased (QSGD, random dithering).

    The levels are sent packed or by Elias's code of the non-zero ones, whichever is shorter.

    Args:
        levels: s, 1 to 32767. Variance constant with d elements per norm: sqrt(d) / s - 1 for norm 2 and s <= sqrt(d) / 2.
        norm: 2 or ``"inf"`` (the largest magnitude; ``float("inf")`` is taken too).
        block: elements that share a norm, a power of two from 32 to 65536; None: all of a section.
    """

    levels: int
    norm: int | str = 2
    block: int | None = None


@dataclass(frozen=True, repr=False)
class Identity(Compressor):
    """The vector itself, in its own dtype."""


@dataclass(frozen=True, repr=False)
class Natural(Compressor):
    """Each element to one of the two powers of two around it, unbiased; 9 bits per element, no scale."""


@dataclass(frozen=True, repr=False)
class NaturalDithering(_Dithered):
    """Each |element| / N to one of {0, 2^(1 - levels), ..., 1/2, 1} around it, at random, N a norm; unbiased. Coded as :class:`Dithering`.

    Args:
        levels: 1 to 30.
        norm, block: as for :class:`Dithering`.
    """

    levels: int
    norm: int | str = 2
    block: int | None = None


@dataclass(frozen=True, repr=False)
class Quantizer(Compressor):
    """Fixed-width codes with one scale per block; ``bits + 32 / block`` bits per element.

    Args:
        bits: 1 to 8.
        block: elements that share a scale, a power of two from 32 to 4096.
        levels: ``"unbiased"``: symmetric grid up to the block's maximum, stochastic rounding. ``"fit"``: nearest on the better of two
            grids per block, with the least-squares scale; contractive for every input. None: chosen by the mechanism, ``"unbiased"``
            under :class:`Direct`, ``"fit"`` under :class:`ErrorFeedback`.
        rounding: ``"stochastic"`` or ``"nearest"`` (``"fit"`` is always nearest). None: stochastic for ``"unbiased"``.
        scale_dtype: None: fp32 scales. ``"bf16"``: scales of 2 bytes, ``bits + 16 / block`` bits per element, for small blocks.
    """

    bits: int = _always(4)
    block: int = 256
    levels: str | None = None
    rounding: str | None = None
    scale_dtype: str | None = None


@dataclass(frozen=True, repr=False)
class Sign(Compressor):
    """Each element's sign times the mean magnitude of its block; ``1 + 32 / block`` bits per element. Biased: for :class:`ErrorFeedback`.

    Args:
        block: elements that share a scale, a power of two from 32 to 4096.
        scale_dtype: None (fp32) or ``"bf16"``, as for :class:`Quantizer`.
    """

    block: int = 256
    scale_dtype: str | None = None


@dataclass(frozen=True, repr=False)
class Ternary(Compressor):
    """Minus, zero or plus the block's largest magnitude N: +-N with probability |x| / N; ``2 + 32 / block`` bits per element. Unbiased.

    Args:
        block: elements that share a scale, a power of two from 32 to 4096.
        scale_dtype: None (fp32) or ``"bf16"``, as for :class:`Quantizer`.
    """

    block: int = 256
    scale_dtype: str | None = None


@dataclass(frozen=True, repr=False)
class TopK(Compressor):
    """The entries of largest magnitude, exactly: ties to the lowest index, zeros never. Contractive with alpha = K / n.

    Args:
        ratio: K = ceil(ratio * n), at least 1, for a section of n elements; in (0, 1].
        k: K itself, per section. Exactly one of the two must be given.
        value_dtype: how the kept values travel. None: in the gradient's dtype; ``"fp32"``, ``"fp16"``, ``"bf16"``: rounded, and saturated;
            a :class:`Quantizer`: through it, over the vector of kept values.
    """

    ratio: float | None = None
    k: int | None = None
    value_dtype: str | Quantizer | None = None


@dataclass(frozen=True, repr=False)
class RandK(Compressor):
    """K coordinates at random; a key travels instead of their indices. Unbiased, values times n / K; in error feedback unscaled.

    Args:
        ratio, k, value_dtype: as for :class:`TopK`.
        shared: all ranks draw the same coordinates; else every rank its own, and the errors of n ranks average out.
    """

    ratio: float | None = None
    k: int | None = None
    shared: bool = False
    value_dtype: str | Quantizer | None = None


@dataclass(frozen=True, repr=False)
class PermK(Compressor):
    """Each rank its own share of the coordinates, dealt anew in each step; no indices. Unbiased, values times the world size.

    The mean of all ranks' messages is exact where their gradients are equal.

    Args:
        value_dtype: as for :class:`TopK`.
    """

    value_dtype: str | Quantizer | None = None


@dataclass(frozen=True, repr=False)
class Bernoulli(Compressor):
    """Every coordinate with probability p, independently, divided by p. Unbiased; in error feedback unscaled.

    Args:
        p: in (0, 1]; rounded to a multiple of 2^-32.
        value_dtype: as for :class:`TopK`.
    """

    p: float
    value_dtype: str | Quantizer | None = None


@dataclass(frozen=True, repr=False)
class StochasticSparsifier(Compressor):
    """Coordinates with probability min(1, |x| / tau), divided by it: unbiased, and of least variance for the expected number of entries.

    Args:
        budget: the expected number of entries. An int: itself, per section; a float in (0, 1]: ceil(budget * n), at least 1.
        value_dtype: as for :class:`TopK`; a quantizer must round stochastically.
    """

    budget: int | float
    value_dtype: str | Quantizer | None = None


@dataclass(frozen=True, repr=False)
class SparseSign(Compressor):
    """The signs of the K entries of largest magnitude, and one scale: |x|, or in error feedback their mean magnitude. Biased.

    Args:
        ratio, k: as for :class:`TopK`.
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


@dataclass(frozen=True, repr=False)
class DIANA(Mechanism):
    """Sends C(gradient - h) and moves h by alpha times that; unbiased, with the noise vanishing where gradients settle.

    Args:
        compressor: an unbiased one.
        alpha: step of the shifts, in (0, 1]. None: 1 / (1 + omega).
    """

    compressor: Compressor
    alpha: float | None = None


@dataclass(frozen=True, repr=False)
class EF21(Mechanism):
    """Sends C(gradient - h); h, known to the receiver, moves by what was sent. The estimate is the mean of all h.

    Args:
        compressor: any; an unbiased one is scaled by 1 / (1 + omega).
        momentum: eta in (0, 1]: what is compressed is v = (1 - eta) v + eta gradient in place of the gradient (EF21-SGDM).
        init: ``"dense"``: the first message is the whole gradient; ``"zero"``: h starts from zero. None: ``"dense"``.
    """

    compressor: Compressor
    momentum: float | None = None
    init: str | None = None


@dataclass(frozen=True, repr=False)
class LAG(Mechanism):
    """Lazy aggregation: sends the gradient only if |x - h|^2 > zeta |x - y|^2, y the previous gradient; else nothing.

    Args:
        zeta: at least 0.
        init: as for :class:`EF21`.
    """

    zeta: float
    init: str | None = None


@dataclass(frozen=True, repr=False)
class CLAG(Mechanism):
    """:class:`EF21` that sends only when :class:`LAG`'s trigger fires."""

    compressor: Compressor
    zeta: float
    init: str | None = None


@dataclass(frozen=True, repr=False)
class AdaCGD(Mechanism):
    """Nothing, or the first level of a ladder whose error is at most zeta |x - y|^2, or else the last level, around h as in EF21.

    Args:
        ladder: compressors from cheap to accurate.
        zeta: at least 0. None: (1 - alpha) / (1 - sqrt(1 - alpha)) of the last level, which costs nothing in step size.
        init: as for :class:`EF21`.
    """

    ladder: Sequence[Compressor]
    zeta: float | None = None
    init: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ladder", tuple(self.ladder))
        super().__post_init__()


@dataclass(frozen=True, repr=False)
class ThreePC(Mechanism):
    """The three point compressors v1 to v5; x is the gradient, y the previous one, h the estimate before.

    Args:
        compressor: C, contractive.
        variant: 1: y + C(x - y), y travels too (idealised). 2: b = h + Q(x - y), then b + C(x - b). 3: b from another mechanism,
            then b + C(x - b). 4: b = h + C2(x - h), then b + C(x - b). 5: x with probability p (a coin shared by all), else h + C(x - y).
        second: variant 2: Q, unbiased; variant 4: C2; variant 3: EF21, LAG, CLAG or ThreePC.
        p: variant 5, in (0, 1].
        init: as for :class:`EF21`.
    """

    compressor: Compressor
    variant: int = _always(2)
    second: Spec | None = None
    p: float | None = None
    init: str | None = None


@dataclass(frozen=True, repr=False)
class MARINA(Mechanism):
    """With probability p (a coin shared by all) the gradient itself, else C(gradient - previous gradient), added to the estimate.

    Args:
        compressor: an unbiased one.
        p: in (0, 1].
    """

    compressor: Compressor
    p: float


@dataclass(frozen=True, repr=False)
class Bidirectional(Mechanism):
    """Workers send by ``up``, whoever averages sends the average by ``down``. ``attach`` takes it for its up and down."""

    up: Spec
    down: Spec


_CLASSES: dict[str, type[Spec]] = {
    c.__name__: c for c in (
        Bernoulli, Cast, Dithering, Identity, Natural, NaturalDithering, PermK, Quantizer, RandK, Sign, SparseSign, StochasticSparsifier,
        Ternary, TopK, UniformStep, AdaCGD, Bidirectional, CLAG, DIANA, Direct, EF21, ErrorFeedback, LAG, MARINA, ThreePC)
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
