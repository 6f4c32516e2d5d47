"""Which optimizer steps a module's parameters: how coarse gradients may be depends on it, and nobody should have to say it twice."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook


class OptimizerWatch:
    """Sees every optimizer that steps a parameter of ``module``, from its first step on, for as long as this object lives.

    ``metric`` is ``"sgd"`` once all that were seen are ``torch.optim.SGD`` or derived from it, with or without momentum; None while there
    was none, and for all others: what an error in the gradient costs them is not known to be less than it costs Adam.

    Args:
        module: held weakly.
        told: called with the metric whenever it changes, in the thread that steps.
    """

    def __init__(self, module: torch.nn.Module, told: Callable[[str | None], None]) -> None:
        self.metric: str | None = None
        self._module = weakref.ref(module)
        self._told = told
        self._seen: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._others = False
        _watches.add(self)
        _install()

    def stop(self) -> None:
        _watches.discard(self)

    def _look(self, optimizer: torch.optim.Optimizer) -> None:
        module = self._module()
        if module is None or optimizer in self._seen:
            return
        self._seen.add(optimizer)
        own = {id(p) for p in module.parameters()}
        if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            return
        self._others = self._others or not isinstance(_innermost(optimizer), torch.optim.SGD)
        metric = None if self._others else "sgd"
        if metric != self.metric:
            self.metric = metric
            self._told(metric)


def _innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """What does the steps inside a wrapper such as ZeroRedundancyOptimizer."""
    while isinstance(inner := getattr(optimizer, "optim", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer


_watches: weakref.WeakSet[OptimizerWatch] = weakref.WeakSet()
_installed = False


def _install() -> None:
    """One hook for the process, never removed: torch walks through its table while hooks run."""
    global _installed
    if not _installed:
        register_optimizer_step_pre_hook(_before_step)
        _installed = True


@torch.compiler.disable  # nothing to compile here, and no reason to break what is
def _before_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for watch in list(_watches):
        watch._look(optimizer)
