"""Which parameter travels by which spec: ``overrides`` and ``exempt`` of :func:`torch_smoothquant.attach`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch.nn.parallel import DistributedDataParallel

from .parser import to_text
from .spec import Spec

Exempt = str | None | Callable[[str, torch.nn.Parameter], bool] | Sequence[str]


def default_exempt(name: str, parameter: torch.nn.Parameter) -> bool:
    """Vectors and parameters of fewer than 2048 elements: under 1 % of the bytes and most of the harm."""
    return parameter.ndim <= 1 or parameter.numel() < 2048


def assign(ddp: DistributedDataParallel, up: str, down: str, overrides: Mapping[str, Spec | str],
           exempt: Exempt) -> tuple[list[tuple[str, torch.Tensor, str, str]], list[tuple[str, str] | None], int]:
    """(name, parameter, up, down) of every parameter that DDP reduces, in the model's order; (up, down) of those that do not have the
    common ones; and how many are exempt."""
    if not isinstance(overrides, Mapping) or not all(isinstance(pattern, str) for pattern in overrides):
        raise TypeError(f"overrides: expected a mapping from glob patterns to specs, got {overrides!r}")
    special = {pattern: to_text(spec, f"overrides[{pattern!r}]") for pattern, spec in overrides.items()}
    rule, patterns = _exempt_rule(exempt)
    ignored = set(getattr(ddp, "parameters_to_ignore", ()))
    out: list[tuple[str, torch.Tensor, str, str]] = []
    own: list[tuple[str, str] | None] = []
    exempted = 0
    used: set[str] = set()
    for name, parameter in ddp.module.named_parameters():
        if not parameter.requires_grad or name in ignored:
            continue
        pattern = next((p for p in special if fnmatchcase(name, p)), None)
        if pattern is not None:
            used.add(pattern)
            out.append((name, parameter, special[pattern], special[pattern]))
        elif rule(name, parameter):
            exempted += 1
            out.append((name, parameter, "Direct(Identity())", "Direct(Identity())"))
        else:
            out.append((name, parameter, up, down))
            own.append(None)
            continue
        own.append(out[-1][2:])
    if unused := sorted(set(special) - used):
        raise ValueError(f"overrides: expected patterns that match a parameter, got {unused}")
    names = [name for name, _ in ddp.module.named_parameters()]  # frozen ones too
    if unused := sorted(p for p in patterns if not any(fnmatchcase(name, p) for name in names)):
        raise ValueError(f"exempt: expected patterns that match a parameter, got {unused}")
    for name, parameter, *_ in out:
        if parameter.device.type != "cpu":
            raise RuntimeError(f"attach: parameter {name} is on {parameter.device}: only CPU models are supported "
                               "until there are kernels for other devices")
    return out, own, exempted


Strides = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


def strides_of(parameters: Sequence[tuple[str, torch.Tensor, str, str]]) -> Strides:
    """(shape, strides) of the parameters that do not lie in memory as they are indexed (``channels_last``). DDP lays their gradients out
    as they are laid out, and so all state is."""
    return {name: (tuple(p.shape), p.stride()) for name, p, *_ in parameters
            if not p.is_contiguous() and torch.empty_like(p, memory_format=torch.preserve_format).stride() == p.stride()}


def in_memory_order(name: str, values: torch.Tensor, strides: Strides) -> torch.Tensor:
    """1-D ``values`` of the elements of a parameter, reordered as these lie in memory; one number for all is left as it is."""
    if name not in strides or values.numel() <= 1:
        return values
    shape, stride = strides[name]
    out = torch.empty_strided(shape, stride, dtype=values.dtype)
    if values.numel() != out.numel():
        return values  # is refused where lengths are
    out.copy_(values.reshape(shape))
    return out.as_strided((out.numel(),), (1,)).clone()


def _exempt_rule(exempt: Exempt) -> tuple[Callable[[str, torch.nn.Parameter], bool], set[str]]:
    """The rule, and patterns that have to match something: a name that is spelt wrong would be compressed without a word."""
    if exempt is None:
        return lambda name, parameter: False, set()
    if callable(exempt):
        return exempt, set()
    if exempt == "default":
        return default_exempt, set()
    if isinstance(exempt, str) or not isinstance(exempt, Sequence) or not all(isinstance(pattern, str) for pattern in exempt):
        raise ValueError(f"exempt: expected 'default', None, a callable or a sequence of glob patterns, got {exempt!r}")
    patterns = tuple(exempt)
    return lambda name, parameter: default_exempt(name, parameter) or any(fnmatchcase(name, p) for p in patterns), set(patterns)
