"""Numbers that a person can watch, from the counters of csrc/hook: per parameter, in one line, in TensorBoard."""

from __future__ import annotations

import math
from typing import Any

from . import _C
from .never_slower import phrase


def by_parameter(core: _C.Hook) -> dict[str, dict[str, Any]]:
    """Per parameter: counters and, of the last step that was looked at, norms.

    ``sent``, ``skipped`` gradients of this rank (slices of them in the sharded exchange); ``up_bytes``, ``down_bytes`` of payload that this
    rank made; ``levels`` {level: how often}; ``trigger_rate`` share of gradients that took any bytes; ``gradient_norm``;
    ``residual_norm`` what compression left over; ``contraction`` 1 - left over / compressed, of squared norms, in [0, 1] for a
    contractive map; ``bits`` the average width that a plan gives it and ``weight`` what an error costs there, relative to the mean of all
    planned parameters; None where there is nothing to measure.
    """
    return {name: _readable(raw) for name, raw in core.watched().items()}


def totals(core: _C.Hook) -> dict[str, Any]:
    """The same over all parameters."""
    whole: dict[str, Any] = {"sent": 0, "skipped": 0, "up_bytes": 0, "down_bytes": 0, "levels": {},
                             "gradient_sq": 0.0, "wanted_sq": 0.0, "left_sq": 0.0}
    planned = ("bits", "weight")
    for raw in core.watched().values():
        for key, value in raw.items():
            if key in planned:
                continue
            if key == "levels":
                for level, count in value.items():
                    whole["levels"][level] = whole["levels"].get(level, 0) + count
            else:
                whole[key] += value
    return _readable(whole)


def line(stats: dict[str, Any], watched: dict[str, Any]) -> str:
    """One line for a log."""
    parts = [f"{stats['calls']} buckets", f"{stats['wire_bytes'] / 1e6:.1f} MB sent",
             f"{stats['ratio']:.1f}x less than dense" if stats["ratio"] > 0 else "nothing sent"]
    if watched["contraction"] is not None:
        parts.append(f"contraction {watched['contraction']:.3f}")
    if watched["residual_norm"] is not None and watched["gradient_norm"]:
        parts.append(f"residual/gradient {watched['residual_norm'] / watched['gradient_norm']:.3f}")
    if watched["levels"]:
        parts.append("levels " + " ".join(f"{level}:{count}" for level, count in sorted(watched["levels"].items())))
    if stats["non_finite"]:
        parts.append(f"{stats['non_finite']} non-finite")
    if "buckets" in stats["policy"]:
        parts.append(phrase(stats["policy"]))
    seconds = stats["seconds"]
    parts.append("s " + " ".join(f"{name} {value:.2f}" for name, value in seconds.items()))
    return f"torch_smoothquant {stats['spec']}: " + ", ".join(parts)


def scalars(stats: dict[str, Any], watched: dict[str, Any], parameters: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Tags and values for a TensorBoard writer."""
    out = {f"total/{key}": float(stats[key]) for key in ("wire_bytes", "dense_bytes", "ratio", "non_finite", "state_bytes")}
    for name, entry in {"total": watched, **parameters}.items():
        for key in ("trigger_rate", "gradient_norm", "residual_norm", "contraction", "up_bytes", "down_bytes"):
            if entry[key] is not None:
                out[f"{name}/{key}"] = float(entry[key])
        for level, count in entry["levels"].items():
            out[f"{name}/level_{level}"] = float(count)
    return {tag: value for tag, value in out.items() if math.isfinite(value)}


def _readable(raw: dict[str, Any]) -> dict[str, Any]:
    measured = raw["wanted_sq"] > 0
    return {
        **{key: raw[key] for key in ("sent", "skipped", "up_bytes", "down_bytes", "levels")},
        "trigger_rate": 1 - raw["skipped"] / raw["sent"] if raw["sent"] else None,
        "gradient_norm": math.sqrt(raw["gradient_sq"]) if raw["gradient_sq"] > 0 else None,
        "residual_norm": math.sqrt(raw["left_sq"]) if measured else None,
        "contraction": 1 - raw["left_sq"] / raw["wanted_sq"] if measured else None,
        "bits": raw.get("bits") or None,
        "weight": raw["weight"] if raw.get("bits") else None,
    }
