"""What compressors and mechanisms are: frozen values. ``repr`` of one is its spec, and ``parse`` gives the object back.

The classes carry names and defaults only; what they mean, and whether their arguments are possible, is decided by the one parser in
C++ (see docs/spec.md).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import torch

from . import _C
from .smoothness import Smoothness, handles_of

SpecError = _C.SpecError


@dataclass(frozen=True, repr=False, eq=False)
class Spec:
    """Base of everything a spec can name. Equal where the text is: ``Quantizer(2)`` and ``Quantizer(2.0)`` mean different things."""

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, _plain(getattr(self, f.name), f"{type(self).__name__}: {f.name}", str(f.type)))
        _C.parse(repr(self))  # raises SpecError

    def __eq__(self, other: object) -> bool:
        return repr(self) == repr(other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(repr(self))

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


    def script_L(self, smoothness: Smoothness, numel: int | None = None, world_size: int = 1) -> float | None:
        """script-L: E|C(x)-x|_L^2 <= script-L |x|^2 on ``numel`` elements, of the map as ``Direct`` with this smoothness uses it (steps
        and probabilities fitted); None if it is not unbiased. ``numel`` must be given for a :class:`~torch_smoothquant.Scalar`."""
        length = smoothness._length(numel)
        if self.omega(length, world_size) is None:
            return None
        return _C.noise_of(f"Direct({self!r})", handles_of(smoothness), length, world_size, True)[0][1]


class Mechanism(Spec):
    """The stateful rule between gradient and compressor."""

    def constants(self, numel: int, world_size: int = 1) -> tuple[float, float] | None:
        """(A, B) of the three point inequality E|C(x)-x|^2 <= (1-A) |h-y|^2 + B |x-y|^2 on ``numel`` elements; None if unknown."""
        return _C.three_point(repr(self), numel, world_size)

    def safe_step(self, L_minus: float, L_plus: float, numel: int, world_size: int = 1, mu: float = 0.0) -> float:
        """The step size up to which theory promises descent on every smooth function: docs/algorithms.md.

        Args:
            L_minus: smoothness of f. L_plus: the smallest number with mean |grad f_i(x) - grad f_i(y)|^2 <= L_plus^2 |x - y|^2.
            mu: above 0, of a function with |grad f|^2 >= 2 mu (f - inf f): the step for which a three point compressor's error falls
                by a factor 1 - step * mu in every step.
        Raises:
            ValueError: the mechanism's constants are not known for this compressor, or not with a mu.
        """
        return _C.safe_step(repr(self), L_minus, L_plus, numel, world_size, mu)

    def scaled(self, numel: int, world_size: int = 1) -> list[str]:
        """Of the unbiased compressors that this mechanism needs contractive, those that it therefore scales by 1 / (1 + omega)."""
        return [repr(c) for c in _contractive_parts(self) if _C.scaled_to_contract(repr(c), numel, world_size)]

    def noise(self, smoothness: Smoothness | Sequence[Smoothness], numel: int | None = None, world_size: int | None = None,
              plus: bool = True) -> list[tuple[float, float]]:
        """(omega, script-L) of :class:`Direct` or :class:`DIANA` for each smoothness. plus: with the smoothness given to senders and
        receivers (DCGD+, DIANA+); else of the plain method, script-L = omega lambda_max."""
        return _C.noise_of(repr(self), *_given(smoothness, numel, world_size), plus)

    def convex_step(self, smoothness: Smoothness | Sequence[Smoothness], numel: int | None = None, world_size: int | None = None,
                    plus: bool = True) -> float:
        """The step size that convex theory allows: 1 / (L + 2 max script-L / n) for :class:`Direct`, 1 / (L + 6 max script-L / n) for
        :class:`DIANA`, L = lambda_max of the mean smoothness; half of it if a smoothness has mu = 0 (docs/smoothness.md).

        Args:
            smoothness: one of each worker, or a common one. numel: for scalars. world_size: n; None: as many as there are.
            plus: as for :meth:`noise`.
        """
        return _C.convex_step(repr(self), *_given(smoothness, numel, world_size), plus)

    def state_numel(self) -> tuple[int, int]:
        """State vectors per element: of each sender, of each receiver."""
        return _C.state_counts(repr(self))

    def expected_bits(self, numel: int, dtype: torch.dtype = torch.float32) -> float:
        """Expected bits of one message of ``numel`` elements of ``dtype``, without header, where every message is sent."""
        return _C.expected_bits(repr(self), numel, dtype)


_DTYPE_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float8_e4m3fn: "fp8",
                torch.float8_e5m2: "fp8_e5m2"}


def _plain(value: Any, name: str, annotation: str) -> Any:
    """``value`` as the grammar has it: NumPy's numbers become Python's, and ints floats where only a float is meant, so that one
    meaning has one text. Raises for what has no text at all; what else is possible, the parser knows."""
    if value is None or isinstance(value, (bool, Spec)):
        return value
    if annotation.startswith("Sequence"):
        if isinstance(value, (str, Spec)) or not isinstance(value, Iterable):
            raise TypeError(f"{name}: expected a list, got {value!r}")
        return tuple(_plain(item, name, "") for item in value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, torch.dtype):
        return _DTYPE_NAMES.get(value, str(value))
    if isinstance(value, numbers.Integral):
        value = int(value)
        return float(value) if "float" in annotation and "int" not in annotation and abs(value) < 2**53 else value
    if isinstance(value, numbers.Real):
        if not math.isfinite(value):
            raise SpecError(f"{name}: expected a finite number, got {value}")
        return float(value)
    if isinstance(value, (list, tuple)):  # where none belongs: the parser shows the column
        return tuple(_plain(item, name, "") for item in value)
    raise TypeError(f"{name}: expected a number, a string, None or a spec, got {type(value).__name__}")


def _contractive_parts(spec: Spec) -> list[Compressor]:
    """The compressors in ``spec`` that a mechanism uses as contractive ones: all but those of the unbiased methods."""
    name = type(spec).__name__
    if name in ("Direct", "DIANA", "MARINA"):
        return []
    found: list[Compressor] = []
    for f in fields(spec):
        value = getattr(spec, f.name)
        unbiased = name == "ThreePC" and f.name == "second" and getattr(spec, "variant", 0) == 2  # Q
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Compressor) and not unbiased and name != "Bidirectional":
                found.append(item)
            elif isinstance(item, Mechanism):
                found += _contractive_parts(item)
    return found


def described(spec: Spec, numel: int = 1 << 20, world_size: int = 1) -> str:
    """The spec, and which compressors are scaled in it: for the ``repr`` of what works by it."""
    scaled = spec.scaled(numel, world_size) if isinstance(spec, Mechanism) else []
    return repr(spec) + "".join(f", {text} scaled by 1/(1 + omega)" for text in dict.fromkeys(scaled))


def _given(smoothness: Smoothness | Sequence[Smoothness], numel: int | None, world_size: int | None) -> tuple[list, int, int]:
    handles = handles_of(smoothness)
    first = smoothness if isinstance(smoothness, Smoothness) else smoothness[0]
    return handles, first._length(numel), len(handles) if world_size is None else world_size


def always(default: Any) -> Any:
    """A field that ``repr`` shows even where it has its default."""
    return field(default=default, metadata={"always": True})
