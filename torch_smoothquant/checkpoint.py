"""The hook's state as plain dictionaries, and back. Formats, checks and messages; what state means is decided in csrc/hook."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from . import _C

VERSION = 2
MODES = ("rank", "mean")
MEASURED = ("samples", "weight", "mean_bytes", "mean_seconds", "variance", "covariance")
PROGRESS = ("steps", "fresh", "up_rates", "down_rates")  # of a parameter, beside its state vectors


def save(core: _C.Hook, mode: str, identity: Mapping[str, Any]) -> dict[str, Any]:
    """See Hook.state_dict."""
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(map(repr, MODES))}, got {mode!r}")
    vectors, progress = core.state() if mode == "rank" else core.whole_state()
    parameters: dict[str, Any] = {name: dict(zip(PROGRESS, values, strict=True)) for name, values in progress.items()}
    for (name, side, vector), (begin, tensor) in vectors.items():
        parameters[name][f"{side}.{vector}"] = {"begin": begin, "values": tensor}
    running = core.running_state()
    return {"version": VERSION, "mode": mode, **_kept(identity, mode), "parameters": parameters,
            **({} if running is None else {"running": {"steps": running[0], "parameters": running[1]}})}


def load(core: _C.Hook, state_dict: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """See Hook.load_state_dict."""
    if missing := {"version", "mode", "parameters", "loss_scale"} - set(state_dict):
        raise ValueError(f"state_dict: expected more keys: {', '.join(sorted(missing))} not there")
    mode = state_dict["mode"]
    if mode not in MODES:
        raise ValueError(f"state_dict: mode: expected one of {', '.join(map(repr, MODES))}, got {mode!r}")
    expected = {"version": VERSION, **_kept(identity, mode)}
    if missing := set(expected) - set(state_dict):
        raise ValueError(f"state_dict: expected more keys: {', '.join(sorted(missing))} not there")
    for key, value in expected.items():
        if state_dict[key] != value:
            hint = ""
            if mode == "rank" and key in ("rank", "world_size", "exchange"):
                hint = "; a state_dict(mode='mean') fits any"
            raise ValueError(f"state_dict: {key}: expected {value!r}, got {state_dict[key]!r}{hint}")
    given = state_dict["parameters"]
    if difference := set(given) ^ set(core.parameter_names()):
        raise ValueError(f"state_dict: parameters: expected this model's, differs in {sorted(difference)[:5]}")
    vectors, progress = {}, {}
    for name, entry in given.items():
        if missing := set(PROGRESS) - set(entry):
            raise ValueError(f"state_dict: {name}: expected more keys: {', '.join(sorted(missing))} not there")
        progress[name] = (entry["steps"], entry["fresh"], entry["up_rates"], entry["down_rates"])
        for key, value in entry.items():
            if key in PROGRESS:
                continue
            side, dot, vector = key.partition(".")
            if not dot or not isinstance(value, Mapping) or set(value) != {"begin", "values"}:
                raise ValueError(f"state_dict: {name}: expected {', '.join(PROGRESS)} and vectors such as 'worker.residual', got {key!r}")
            vectors[name, side, vector] = (value["begin"], value["values"])
    running = state_dict.get("running")
    if (running is not None) != ("smoothness" in identity):
        raise ValueError(f"state_dict: running: expected {'none' if running else 'estimates'} where smoothness is "
                         f"{identity.get('smoothness')}, got {'some' if running else 'none'}")
    (core.load_state if mode == "rank" else core.load_whole_state)(vectors, progress)
    if running is not None:
        core.load_running_state((running["steps"], running["parameters"]))


def measured(core: _C.Hook, mode: str) -> dict[str, float] | None:
    """What the policy's ``MeasuredCost`` has learnt: of this rank, or (mode ``"mean"``, collective) of all; None without one."""
    numbers = core.measured(mode == "mean")
    return None if numbers is None else dict(zip(MEASURED, numbers, strict=True))


def checked_measured(given: Any) -> list[float] | None:
    """The same, as the compiled part takes it. Raises ValueError; None for a state that has none."""
    if given is None:
        return None
    if not isinstance(given, Mapping) or set(given) != set(MEASURED):
        raise ValueError(f"state_dict: measured: expected None or a mapping of {', '.join(MEASURED)}, got {given!r}")
    for key, value in given.items():
        least, range_ = (-math.inf, "") if key == "covariance" else (0.0, " of at least 0")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < least:
            raise ValueError(f"state_dict: measured: {key}: expected a finite number{range_}, got {value!r}")
    samples, weight = given["samples"], given["weight"]
    if (samples > 0) != (weight > 0):
        raise ValueError(f"state_dict: measured: weight: expected {'one above 0' if samples else '0'} of {samples} samples, got {weight}")
    return [float(given[key]) for key in MEASURED]


def _kept(identity: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """What a state of this mode depends on."""
    return {k: v for k, v in identity.items() if mode == "rank" or k not in ("rank", "world_size", "exchange")}
