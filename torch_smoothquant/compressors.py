"""The compressors; each one's mathematics and bytes: docs/compressors.md."""

from __future__ import annotations

from dataclasses import dataclass

from .spec import Compressor, always


@dataclass(frozen=True, repr=False, eq=False)
class Cast(Compressor):
    """Each element to the nearest number of a shorter format. Biased, contractive; deterministic.

    Args:
        dtype: ``"fp16"`` (what is below 2^-25 vanishes, what is too large saturates), ``"bf16"``, ``"fp8"`` (e4m3, with an fp32 scale
            per block of 256 elements) or ``"fp8_e5m2"`` (likewise); or the ``torch.dtype`` of that name.
    """

    dtype: str


@dataclass(frozen=True, repr=False, eq=False)
class BlockDithering(Compressor):
    """Random dithering with a norm and a step for each of several blocks of equal size; the steps are best for the budget, and with a
    smoothness for it. Unbiased.

    Args:
        blocks: 1 to 65536; sections with fewer elements have a block for each.
        budget: the expected number of non-zeros at most, plus 1 for each norm; more than ``blocks``.
        steps: ``"uniform"``: one step relative to the norms for all blocks. None: ``"optimal"``.
        ratio: in place of budget: the expected non-zeros, without norms, as a share of the elements, in (0, 1].
        bits: in place of budget: expected bits per element at most, all included, in (0, 12].
        scale_dtype: None: steps of 4 bytes; ``"bf16"``: of 2, rounded up.
    """

    blocks: int
    budget: float | None = None
    steps: str | None = None
    ratio: float | None = None
    bits: float | None = None
    scale_dtype: str | None = None


class _Dithered(Compressor):
    norm: int | str

    def __post_init__(self) -> None:
        if self.norm == float("inf"):
            object.__setattr__(self, "norm", "inf")
        super().__post_init__()


@dataclass(frozen=True, repr=False, eq=False)
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


@dataclass(frozen=True, repr=False, eq=False)
class Identity(Compressor):
    """The vector itself, in its own dtype."""


@dataclass(frozen=True, repr=False, eq=False)
class Natural(Compressor):
    """Each element to one of the two powers of two around it, unbiased; 9 bits per element, no scale."""


@dataclass(frozen=True, repr=False, eq=False)
class NaturalDithering(_Dithered):
    """Each |element| / N to one of {0, 2^(1 - levels), ..., 1/2, 1} around it, at random, N a norm; unbiased. Coded as :class:`Dithering`.

    Args:
        levels: 1 to 30.
        norm, block: as for :class:`Dithering`.
    """

    levels: int
    norm: int | str = 2
    block: int | None = None


@dataclass(frozen=True, repr=False, eq=False)
class Quantizer(Compressor):
    """Fixed-width codes with one scale per block; ``bits + 32 / block`` bits per element.

    Args:
        bits: an integer from 1 to 8: the width of every code. A float in the same range: the average of widths from 1 to 8, one for
            each run of 1024 elements (a block's, if that is longer), chosen in every message where they remove most of the error; the
            message's length does not depend on the data.
        block: elements that share a scale, a power of two from 32 to 4096.
        levels: ``"unbiased"``: symmetric grid up to the block's maximum, stochastic rounding. ``"fit"``: nearest on the better of two
            grids per block, with the least-squares scale; contractive for every input. None: chosen by the mechanism, ``"unbiased"``
            under :class:`Direct`, ``"fit"`` under :class:`ErrorFeedback`.
        rounding: ``"stochastic"`` or ``"nearest"`` (``"fit"`` is always nearest). None: stochastic for ``"unbiased"``.
        scale_dtype: None: fp32 scales. ``"bf16"``: scales of 2 bytes, ``bits + 16 / block`` bits per element, for small blocks.
    """

    bits: int | float = always(4)
    block: int = 256
    levels: str | None = None
    rounding: str | None = None
    scale_dtype: str | None = None


@dataclass(frozen=True, repr=False, eq=False)
class Sign(Compressor):
    """Each element's sign times the mean magnitude of its block; ``1 + 32 / block`` bits per element. Biased: for :class:`ErrorFeedback`.

    Args:
        block: elements that share a scale, a power of two from 32 to 4096.
        scale_dtype: None (fp32) or ``"bf16"``, as for :class:`Quantizer`.
    """

    block: int = 256
    scale_dtype: str | None = None


@dataclass(frozen=True, repr=False, eq=False)
class Ternary(Compressor):
    """Minus, zero or plus the block's largest magnitude N: +-N with probability |x| / N; ``2 + 32 / block`` bits per element. Unbiased.

    Args:
        block: elements that share a scale, a power of two from 32 to 4096.
        scale_dtype: None (fp32) or ``"bf16"``, as for :class:`Quantizer`.
    """

    block: int = 256
    scale_dtype: str | None = None


@dataclass(frozen=True, repr=False, eq=False)
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


@dataclass(frozen=True, repr=False, eq=False)
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


@dataclass(frozen=True, repr=False, eq=False)
class PermK(Compressor):
    """Each rank its own share of the coordinates, dealt anew in each step; no indices. Unbiased, values times the world size.

    The mean of all ranks' messages is exact where their gradients are equal.

    Args:
        value_dtype: as for :class:`TopK`.
    """

    value_dtype: str | Quantizer | None = None


@dataclass(frozen=True, repr=False, eq=False)
class Bernoulli(Compressor):
    """Every coordinate with probability p, independently, divided by p. Unbiased; in error feedback unscaled.

    Args:
        p: in (0, 1]; rounded to a multiple of 2^-32.
        value_dtype: as for :class:`TopK`.
    """

    p: float
    value_dtype: str | Quantizer | None = None


@dataclass(frozen=True, repr=False, eq=False)
class StochasticSparsifier(Compressor):
    """Coordinates with probability min(1, |x| / tau), divided by it: unbiased, and of least variance for the expected number of entries.

    Args:
        budget: the expected number of entries. An int: itself, per section; a float in (0, 1]: ceil(budget * n), at least 1.
        value_dtype: as for :class:`TopK`; a quantizer must round stochastically.
    """

    budget: int | float
    value_dtype: str | Quantizer | None = None


@dataclass(frozen=True, repr=False, eq=False)
class SparseSign(Compressor):
    """The signs of the K entries of largest magnitude, and one scale: |x|, or in error feedback their mean magnitude. Biased.

    Args:
        k, ratio: as for :class:`TopK`.
    """

    k: int | None = None
    ratio: float | None = None


@dataclass(frozen=True, repr=False, eq=False)
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


@dataclass(frozen=True, repr=False, eq=False)
class SmoothBernoulli(Compressor):
    """Every coordinate with its own probability, independently, divided by it; unbiased. Without a smoothness all are equal.

    Args:
        budget: the sum of the probabilities: the expected number of entries. Exactly one of budget, ratio and bits must be given.
        ratio: the same as a share of the elements, in (0, 1]. bits: as expected bits per element, in (0, 12].
        value_dtype: as for :class:`TopK`.
    """

    budget: float | None = None
    ratio: float | None = None
    bits: float | None = None
    value_dtype: str | Quantizer | None = None


@dataclass(frozen=True, repr=False, eq=False)
class VaryingDithering(Compressor):
    """Random dithering whose steps follow from the expected number of non-zeros; with a smoothness, one per coordinate, the best for it.

    Unbiased. Levels go by Elias's code or packed, whichever is shorter.

    Args:
        budget: the expected number of non-zeros of a section, at most. Exactly one of budget, ratio and bits must be given.
        norm: 2: steps |x|_2 sqrt(sum A / A_j) / budget, A the smoothness's weights or 1, as in the paper. 1: sum_l sqrt(A_l)|x_l| /
            (budget sqrt(A_j)), never larger: the whole budget is spent. None: 1 where all A_j are equal, else 2.
        ratio: the budget as a share of the elements, in (0, 1].
        bits: expected bits per element at most, all included, in (0, 12].
    """

    budget: float | None = None
    norm: int | None = None
    ratio: float | None = None
    bits: float | None = None
