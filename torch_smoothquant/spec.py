"""What compressors and mechanisms are: frozen values. ``repr`` of one is its spec, and ``parse`` gives the object back.

The classes carry names and defaults only; what they mean, and whether their arguments are possible, is decided by the one parser in
C++ (see docs/spec.md).
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import torch

from . import _C

SpecError = _C.SpecError


@dataclass(frozen=True, repr=False)
class Spec:
    """Base of everything a spec can name."""

    def __post_init__(self) -> None:
        _C.parse(repr(self))  # raises SpecError

    def __repr__(self) -> str:
        shown = []
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Spec) and f.default is MISSING:
                shown.append(repr(value))  # what a spec is about stands first, without its name
            elif isinstance(value, tuple):
                shown.append(repr(list(value)))
            elif f.metadata.get("always") or f.default is MISSING or value != f.default:
                shown.append(f"{f.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class Compressor(Spec):
    """A stateless map R^n -> bytes -> R^n."""

    def omega(self, numel: int, world_size: int = 1) -> float | None:
        """Variance constant on ``numel`` elements, E|C(x)-x|^2 <= omega |x|^2, if the map is unbiased; else None."""
        return _C.class_of(f"Direct({self!r})", numel, world_size)[0]

    def alpha(self, numel: int, world_size: int = 1) -> float | None:
        """Contraction constant, E|C(x)-x|^2 <= (1-alpha) |x|^2, of the map as error feedback uses it; None if there is none."""
        return _C.class_of(f"ErrorFeedback({self!r})", numel, world_size)[1]

    def expected_bits(self, numel: int, dtype: torch.dtype = torch.float32) -> float:
        """Expected bits of the payload of ``numel`` elements of ``dtype``, scales and indices included, headers not."""
        return _C.expected_bits(repr(self), numel, dtype)

    def max_bytes(self, numel: int, dtype: torch.dtype = torch.float32) -> int:
        """Bytes that the payload of ``numel`` elements of ``dtype`` never exceeds."""
        return _C.max_bytes(repr(self), numel, dtype)


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

    def expected_bits(self, numel: int, dtype: torch.dtype = torch.float32) -> float:
        """Expected bits of one message of ``numel`` elements of ``dtype``, without header, where every message is sent."""
        return _C.expected_bits(repr(self), numel, dtype)


def always(default: Any) -> Any:
    """A field that ``repr`` shows even where it has its default."""
    return field(default=default, metadata={"always": True})
