"""What ``policy=`` may be, and what the compiled part takes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch

from . import _C
from .assignment import in_memory_order, strides_of
from .never_slower import NeverSlower
from .parser import parse
from .policy import CAT, Fixed, diagonal_of, weights_of
from .spec import Spec

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
        inner = policy.senders
        return Resolved(resolve(inner, specs).core, repr(policy if inner is None else replace(policy, inner=_without_numbers(inner))))
    if not isinstance(policy, CAT):
        kinds = "None, Fixed() or CAT(...)" if numel is not None else "None, Fixed(), CAT(...) or NeverSlower(...)"
        raise TypeError(f"policy: expected {kinds}, got {type(policy).__name__}")
    if not any(_C.takes_chooser(spec) for spec in specs):
        raise ValueError(f"policy: CAT chooses the number of entries of TopK, SparseSign or StochasticSparsifier; there is none in "
                         f"{' or '.join(dict.fromkeys(specs))}")
    if policy.smoothness is None:
        return Resolved(policy._core, repr(policy))
    if any(_contains(parse(spec), "SparseSign") for spec in specs):
        raise ValueError("policy: CAT(smoothness=): expected no SparseSign: its receiver would need the smoothness too")
    if numel is None:
        if not isinstance(policy.smoothness, Mapping):
            raise ValueError("policy: CAT(smoothness=): expected a mapping from names of parameters in a hook, got "
                             f"{type(policy.smoothness).__name__}")
        return Resolved(policy._core, repr(_without_numbers(policy)))
    if isinstance(policy.smoothness, Mapping):
        raise ValueError("policy: CAT(smoothness=): expected one tensor: a Sender has no parameters")
    if (length := len(diagonal_of(policy.smoothness, "CAT: smoothness"))) != numel:
        raise ValueError(f"policy: CAT(smoothness=): expected {numel} elements, as many as the gradient, got {length}")
    return Resolved(policy._core, repr(policy))


def _without_numbers(policy: CAT | Fixed) -> CAT | Fixed:
    """As ranks must agree on it: they may differ in the numbers of a smoothness by parameter."""
    if not isinstance(policy, CAT) or not isinstance(policy.smoothness, Mapping):
        return policy
    return replace(policy, smoothness=dict.fromkeys(policy.smoothness, 1))


def weights_by_parameter(policy: Policy | None, parameters: Sequence[tuple[str, torch.Tensor, str, str]]) -> dict[str, torch.Tensor]:
    """What a hook's CAT ranks by: |w_j g_j|, w_j = sqrt(least D / D_j), by parameter name. The least D is that of the parameter; with a
    budget, which compares entries of all parameters, of all of them.

    Args:
        parameters: (name, parameter, up, down).
    Raises:
        ValueError: naming what is of another size, matches nothing or is missing.
    """
    if isinstance(policy, NeverSlower):
        policy = policy.senders
    if not isinstance(policy, CAT) or not isinstance(policy.smoothness, Mapping):
        return {}
    diagonals: dict[str, torch.Tensor] = {}
    strides = strides_of(parameters)
    unused, missing = set(policy.smoothness), []
    for name, parameter, up, down in parameters:
        pattern = next((p for p in policy.smoothness if fnmatchcase(name, p)), None)
        chosen = _C.takes_chooser(up) or _C.takes_chooser(down)
        if pattern is None:
            missing += [name] if chosen else []
            continue
        unused.discard(pattern)
        value = diagonal_of(policy.smoothness[pattern], f"CAT: smoothness[{pattern!r}]", number=True)
        if value.ndim and len(value) != parameter.numel():
            raise ValueError(f"CAT: smoothness[{pattern!r}]: expected {parameter.numel()} elements, those of {name}, got {len(value)}")
        if chosen and (value.ndim or policy.budget is not None):
            diagonals[name] = in_memory_order(name, value.expand(parameter.numel()), strides)
    if unused:
        raise ValueError(f"CAT: smoothness: expected patterns that match a parameter, got {sorted(unused)}")
    if policy.budget is not None and missing:
        raise ValueError("CAT: smoothness: expected all parameters that are chosen in, as there is a budget for all; "
                         f"not there: {missing[:5]}")
    least = {name: float(d.min()) for name, d in diagonals.items() if len(d)}
    common = min(least.values(), default=1.0)
    return {name: weights_of(d, common if policy.budget is not None else least.get(name, 1.0)) for name, d in diagonals.items()}


def _contains(spec: Any, name: str) -> bool:
    if isinstance(spec, (list, tuple)):
        return any(_contains(item, name) for item in spec)
    return isinstance(spec, Spec) and (type(spec).__name__ == name or any(_contains(v, name) for v in vars(spec).values()))
