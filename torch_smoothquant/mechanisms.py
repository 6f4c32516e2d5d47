"""The mechanisms; each one's source and what is known of it: docs/algorithms.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .spec import Compressor, Mechanism, Spec, always


def _check_kind(smoothness: object) -> None:
    if smoothness is not None and not isinstance(smoothness, str):
        raise TypeError(f"smoothness: expected its kind or None, got {type(smoothness).__name__}; the object itself goes to Sender and "
                        "Receiver, beside the spec")


@dataclass(frozen=True, repr=False, eq=False)
class Direct(Mechanism):
    """Sends C(gradient) in every step; no state (DCGD). With a smoothness beside the spec: C(L^(+1/2) gradient), DCGD+.

    Args:
        smoothness: ``"scalar"``, ``"diagonal"``, ``"block"``, ``"matrix"``: one of that kind has to be given to ``Sender`` and
            ``Receiver``. None: none has to, any may.
    """

    compressor: Compressor
    smoothness: str | None = None

    def __post_init__(self) -> None:
        _check_kind(self.smoothness)
        super().__post_init__()


@dataclass(frozen=True, repr=False, eq=False)
class ErrorFeedback(Mechanism):
    """Sends C(e + gradient) and keeps e = e + gradient - C(e + gradient) for the next step (EF14).

    An unbiased compressor with omega >= 1 has no guarantee here and is scaled by 1 / (1 + omega).
    """

    compressor: Compressor


@dataclass(frozen=True, repr=False, eq=False)
class DIANA(Mechanism):
    """Sends C(gradient - h) and moves h by alpha times that; unbiased, with the noise vanishing where gradients settle.

    With a smoothness beside the spec: C(L^(+1/2) (gradient - h)), DIANA+.

    Args:
        compressor: an unbiased one.
        alpha: step of the shifts, in (0, 1]. None: 1 / (1 + omega), with a smoothness each rank's own omega.
        smoothness: as for :class:`Direct`.
    """

    compressor: Compressor
    alpha: float | None = None
    smoothness: str | None = None

    def __post_init__(self) -> None:
        _check_kind(self.smoothness)
        super().__post_init__()


@dataclass(frozen=True, repr=False, eq=False)
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


@dataclass(frozen=True, repr=False, eq=False)
class LAG(Mechanism):
    """Lazy aggregation: sends the gradient only if |x - h|^2 > zeta |x - y|^2, y the previous gradient; else nothing.

    Args:
        zeta: at least 0.
        init: as for :class:`EF21`.
    """

    zeta: float
    init: str | None = None


@dataclass(frozen=True, repr=False, eq=False)
class CLAG(Mechanism):
    """:class:`EF21` that sends only when :class:`LAG`'s trigger fires."""

    compressor: Compressor
    zeta: float
    init: str | None = None


@dataclass(frozen=True, repr=False, eq=False)
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


@dataclass(frozen=True, repr=False, eq=False)
class Ada3PC(Mechanism):
    """In every step the first of several three point compressors whose condition holds, or else the last (generic Ada3PC).

    ``AdaCGD([c1, c2], zeta=z)`` is ``Ada3PC([LAG(z), EF21(c1), EF21(c2)], [Near(z), Accurate(z)])``.

    Args:
        mechanisms: any of EF21 (no momentum), LAG, CLAG, AdaCGD, ThreePC (variant 2 to 5), Ada3PC.
        conditions: one for each but the last: Always, Near, Far, Settled, Accurate.
        init: as for :class:`EF21`; ``"zero"`` needs it in all of ``mechanisms``.
    """

    mechanisms: Sequence[Mechanism]
    conditions: Sequence[Condition]
    init: str | None = None


class Condition(Spec):
    """When a level of :class:`Ada3PC` is taken. x is the gradient, y the previous one, h the estimate before, X = |x - y|^2."""


@dataclass(frozen=True, repr=False, eq=False)
class Always(Condition):
    """True."""


@dataclass(frozen=True, repr=False, eq=False)
class Near(Condition):
    """|x - h|^2 <= zeta X: the receiver knows enough. :class:`LAG` under it sends nothing."""

    zeta: float


@dataclass(frozen=True, repr=False, eq=False)
class Far(Condition):
    """|x - h|^2 > zeta X."""

    zeta: float


@dataclass(frozen=True, repr=False, eq=False)
class Settled(Condition):
    """X <= zeta |x|^2: the gradient has hardly moved."""

    zeta: float


@dataclass(frozen=True, repr=False, eq=False)
class Accurate(Condition):
    """|x - C(x)|^2 <= zeta X, where C(x) is what the level would make the estimate: it is tried, and taken back if not."""

    zeta: float


@dataclass(frozen=True, repr=False, eq=False)
class ThreePC(Mechanism):
    """The three point compressors v1 to v5; x is the gradient, y the previous one, h the estimate before.

    Args:
        compressor: C, contractive.
        variant: 1: y + C(x - y), y travels too (idealised). 2: b = h + Q(x - y), then b + C(x - b). 3: b from another mechanism,
            then b + C(x - b). 4: b = h + C2(x - h), then b + C(x - b). 5: x with probability p (a coin shared by all), else h + C(x - y).
        second: variant 2: Q, unbiased; variant 4: C2; variant 3: EF21, LAG, CLAG, AdaCGD, ThreePC or Ada3PC.
        p: variant 5, in (0, 1].
        init: as for :class:`EF21`.
    """

    compressor: Compressor
    variant: int = always(2)
    second: Spec | None = None
    p: float | None = None
    init: str | None = None


@dataclass(frozen=True, repr=False, eq=False)
class MARINA(Mechanism):
    """With probability p (a coin shared by all) the gradient itself, else C(gradient - previous gradient), added to the estimate.

    Args:
        compressor: an unbiased one.
        p: in (0, 1].
    """

    compressor: Compressor
    p: float


@dataclass(frozen=True, repr=False, eq=False)
class Bidirectional(Mechanism):
    """Workers send by ``up``, whoever averages sends the average by ``down``. ``attach`` takes it for its up and down."""

    up: Spec
    down: Spec
