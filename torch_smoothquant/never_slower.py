"""``NeverSlower``: the policy of ``attach(ddp)``. It measures on the run and decides in C++ (csrc/policy/never_slower.h); this file says
between what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import _C
from .checks import is_finite
from .mechanisms import Bidirectional
from .parser import parse, to_text
from .policy import CAT, Fixed
from .running import METRICS
from .spec import Spec

LADDER = ("ErrorFeedback(Quantizer(bits=4))", "ErrorFeedback(UniformStep(bits=3.0))", "ErrorFeedback(UniformStep(bits=2.0))")
"""Levels of ``NeverSlower()`` under any optimizer, finest first: within 1 % of dense's final loss under SGD and Adam, docs/tuning.md."""

SGD_LADDER = (*LADDER, "ErrorFeedback(UniformStep(bits=1.25))", "ErrorFeedback(UniformStep(bits=1.0))")
"""Levels of ``NeverSlower()`` where the optimizer is SGD: with or without momentum, it stays within 1 % of dense further down."""

LONG_LADDER = (*SGD_LADDER, "ErrorFeedback(UniformStep(bits=0.67))")
"""Levels of ``NeverSlower(max_error=...)``, of which the bound takes away what is too coarse."""


@dataclass(frozen=True)
class NeverSlower:
    """Chooses for each bucket whether it travels dense (DDP's all-reduce) or compressed, by which exchange and at which level of a
    ladder, from what the run itself was measured to take; dense where compression saves nothing.

    Looks at the link before the first bucket (a few messages of at most 1 MB) and begins at the ladder's finest level where that would
    take less than half the time of a dense exchange, else dense. Tries what a cost model of the link (seconds = c0 + c1 * bytes, fitted
    to the run's own exchanges) calls promising for 3 to 6 steps, keeps it if the measured time from the step's first bucket to its last
    was shorter, and looks again when exchanges take another time than before. Decisions fall between steps, the same on all ranks, which
    share their measurements every few steps. What error feedback owes when a bucket goes dense is delivered with that step. Checkpoints
    hold no decisions: they are learnt again.

    Args:
        inner: a spec to choose besides dense, or a policy for the senders where compressed: ``NeverSlower(CAT(cost))`` beside a spec is
            dense, or that spec as CAT fills it. None: the ladder.
        ladder: specs from fine to coarse that share their state (``ErrorFeedback`` around other compressors); the coarsest should still
            train well enough, because speed alone decides between them. None: ``torch_smoothquant.never_slower.LADDER``, or what
            ``metric`` or ``max_error`` says. Averages (sharded exchange) travel at the first level.
        metric: of the optimizer, as of :class:`Running`. ``"sgd"``: the ladder goes on to 1 bit (``SGD_LADDER``). ``"adam"``: it ends at
            2 bits. None: seen from the optimizers that step the parameters: as ``"sgd"`` once all that have are ``torch.optim.SGD`` or
            derived from it, on every rank; as ``"adam"`` until then and for any other.
        max_error: the ladder is the ``LONG_LADDER``, down to 0.67 bits, if there is no other; levels whose measured relative compression
            error, |left over|^2 / |to be sent|^2, is above are not used: with error feedback 0.02 at 4 and 3 bits, 0.09 at 2, 0.32 at
            1.25, 0.48 at 1, 0.83 at 0.67 bits. None: no bound.
        min_gain: share of a step that compression has to save, so that noise does not decide; each coarser level has to save another 0.01.

    Raises:
        TypeError, ValueError, SpecError: bad arguments.
    """

    inner: Spec | str | CAT | Fixed | None = None
    ladder: Sequence[Spec | str] | None = None
    max_error: float | None = None
    min_gain: float = 0.04
    metric: str | None = None

    def __post_init__(self) -> None:
        if self.inner is not None and self.ladder is not None:
            raise ValueError("NeverSlower: ladder: expected None beside inner")
        if isinstance(self.inner, NeverSlower):
            raise TypeError("NeverSlower: inner: expected a spec, CAT(...) or Fixed(), got a NeverSlower")
        if self.ladder is not None and (isinstance(self.ladder, (str, Spec)) or not isinstance(self.ladder, Sequence) or not self.ladder):
            raise TypeError(f"NeverSlower: ladder: expected a sequence of specs or None, got {self.ladder!r}")
        if self.ladder is not None:
            object.__setattr__(self, "ladder", tuple(self.ladder))
        if self.max_error is not None and not (is_finite(self.max_error) and self.max_error > 0):
            raise ValueError(f"NeverSlower: max_error: expected a positive number or None, got {self.max_error!r}")
        if self.metric not in (None, *METRICS):
            raise ValueError(f"NeverSlower: metric: expected None, {' or '.join(map(repr, METRICS))}, got {self.metric!r}")
        if self.metric is not None and (self.ladder is not None or self._spec is not None):
            raise ValueError("NeverSlower: metric: expected None beside a ladder or a spec, between which it does not choose")
        if not (is_finite(self.min_gain) and 0 <= self.min_gain < 1):
            raise ValueError(f"NeverSlower: min_gain: expected a number in [0, 1), got {self.min_gain!r}")
        if self.senders is None:
            self.levels(None)

    @property
    def senders(self) -> CAT | Fixed | None:
        """``inner``, if it is a policy."""
        return self.inner if isinstance(self.inner, (CAT, Fixed)) else None

    @property
    def _spec(self) -> Spec | str | None:
        """``inner``, if it is a spec."""
        return None if isinstance(self.inner, (CAT, Fixed)) else self.inner

    def levels(self, up: Spec | str | None) -> list[str]:
        """The specs to choose from besides dense, as text, finest first; ``up``: what was given beside the policy."""
        spec = self._spec
        if up is not None:
            if spec is not None or self.ladder is not None:
                raise ValueError("policy: expected a NeverSlower without a spec of its own and without ladder beside a spec")
            given: Sequence[Spec | str] = [up]
        elif spec is not None:
            given = [spec]
        elif self.ladder is not None:
            given = self.ladder
        else:
            given = LONG_LADDER if self.max_error is not None else LADDER if self.metric == "adam" else SGD_LADDER
        texts = [to_text(one, "inner" if spec is not None else f"ladder[{i}]") for i, one in enumerate(given)]
        for text in texts if len(texts) > 1 else []:
            if isinstance(parse(text), Bidirectional):
                raise ValueError(f"NeverSlower: ladder: expected mechanisms of one direction, got {text}")
        return texts

    def follows_optimizer(self, up: Spec | str | None) -> bool:
        """True if the end of the ladder is usable under SGD only, and the optimizer is not told; ``up`` as for :meth:`levels`."""
        return up is None and self._spec is None and self.ladder is None and self.max_error is None and self.metric is None

    def limits(self) -> tuple[float, float]:
        """(max_error, min_gain) for the compiled part."""
        return (math.inf if self.max_error is None else float(self.max_error)), float(self.min_gain)


def explain(core: _C.Hook, levels: Sequence[str]) -> dict[str, Any]:
    """What the policy has chosen and why.

    ``ladder``: the levels that there are; ``usable``: how many of them, from the finest on, may be used by now.
    ``buckets``: what each travels by now, ``"dense"`` or ``"<exchange> <spec>"``, in the order of a step; empty before the first step.
    ``reason``: a phrase. ``on_trial``: whether this is a trial. ``alternatives``: plans, dense first, with ``buckets``, ``seconds`` from
    a step's first bucket to its last (``measured``, else by the cost model) and ``barred`` (error above max_error). ``costs``: by kind
    of exchange that was measured, seconds ``c0`` and ``c1`` per byte. ``step_seconds``; ``trials`` and ``regimes`` (changes of the
    link) so far.
    """
    raw = core.policy()
    out: dict[str, Any] = {"ladder": list(levels)}
    if raw is None:  # one rank, or nothing to choose
        return {**out, "usable": len(levels), "buckets": [], "reason": "one rank: nothing to send", "on_trial": False, "alternatives": [],
                "costs": {}, "step_seconds": 0.0, "trials": 0, "regimes": 0}

    def shown(plan: list[tuple[str, int]]) -> list[str]:
        return [kind if kind == "dense" else f"{kind} {levels[level]}" for kind, level in plan]

    alternatives = [{"buckets": shown(a["plan"]), "seconds": a["span"], "measured": a["measured"], "barred": a["barred"]}
                    for a in raw["alternatives"]]
    return {**out, "buckets": shown(raw["plan"]), "alternatives": alternatives,
            **{key: raw[key] for key in ("usable", "reason", "on_trial", "costs", "step_seconds", "trials", "regimes")}}


def phrase(explained: dict[str, Any]) -> str:
    """The same in a few words, for a log."""
    buckets = explained["buckets"]
    compressed = [b for b in buckets if b != "dense"]
    what = "dense" if not compressed else f"{len(compressed)} of {len(buckets)} buckets {' and '.join(sorted(set(compressed)))}"
    return f"{explained['name']}: {what} ({explained['reason']})"
