"""The hook's state as plain dictionaries, and back. Formats, checks and messages; what state means is decided in csrc/hook."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from . import _C
from .checks import check_finite, checked_price, checked_rates, is_finite

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
    """See Hook.load_state_dict. Everything is checked before anything is changed."""
    if missing := {"version", "mode", "parameters", "loss_scale"} - set(state_dict):
        raise ValueError(f"state_dict: expected more keys: {', '.join(sorted(missing))} not there")
    mode = state_dict["mode"]
    if mode not in MODES:
        raise ValueError(f"state_dict: mode: expected one of {', '.join(map(repr, MODES))}, got {mode!r}")
    expected = {"version": VERSION, **_kept(identity, mode)}
    if missing := set(expected) - set(state_dict):
        raise ValueError(f"state_dict: expected more keys: {', '.join(sorted(missing))} not there")
    if "strides" not in expected and "strides" in state_dict:  # vectors are in the order of memory
        raise ValueError(f"state_dict: strides: expected contiguous parameters, got {state_dict['strides']!r}")
    for key, value in expected.items():
        if state_dict[key] != value:
            hint = ""
            if mode == "rank" and key in ("rank", "world_size", "exchange"):
                hint = "; a state_dict(mode='mean') fits any"
            raise ValueError(f"state_dict: {key}: expected {value!r}, got {state_dict[key]!r}{hint}")
    _check_numbers(state_dict)
    given = state_dict["parameters"]
    if not isinstance(given, Mapping):
        raise ValueError(f"state_dict: parameters: expected a mapping, got {type(given).__name__}")
    if difference := set(given) ^ set(core.parameter_names()):
        raise ValueError(f"state_dict: parameters: expected this model's, differs in {sorted(difference, key=str)[:5]}")
    vectors, progress = {}, {}
    for name, entry in given.items():
        progress[name] = _progress(name, entry)
        for key in set(entry) - set(PROGRESS):
            vectors[(name, *_side_and_name(name, key))] = _vector(f"{name}.{key}", entry[key])
    before = core.running_state()
    _load_running(core, state_dict.get("running"), identity)
    try:
        (core.load_state if mode == "rank" else core.load_whole_state)(vectors, progress)
    except BaseException:
        if before is not None:
            core.load_running_state(before)
        raise


def _check_numbers(state_dict: Mapping[str, Any]) -> None:
    scale = state_dict["loss_scale"]
    if scale is not None and not (is_finite(scale) and scale > 0):
        raise ValueError(f"state_dict: loss_scale: expected None or a finite number above 0, got {scale!r}")
    checked_price(state_dict.get("price", 0.0), "state_dict: price")


def _progress(name: str, entry: Any) -> tuple[int, bool, list[float], list[float]]:
    if not isinstance(entry, Mapping):
        raise ValueError(f"state_dict: {name}: expected a mapping, got {type(entry).__name__}")
    if missing := set(PROGRESS) - set(entry):
        raise ValueError(f"state_dict: {name}: expected more keys: {', '.join(sorted(missing))} not there")
    steps, fresh, *rates = (entry[key] for key in PROGRESS)
    if not _is_count(steps):
        raise ValueError(f"state_dict: {name}: steps: expected 0 to 2**64 - 1, got {steps!r}")
    if not isinstance(fresh, bool):
        raise ValueError(f"state_dict: {name}: fresh: expected a bool, got {fresh!r}")
    up, down = (checked_rates(value, f"state_dict: {name}: {key}") for key, value in zip(PROGRESS[2:], rates, strict=True))
    return steps, fresh, up, down


def _side_and_name(name: str, key: Any) -> tuple[str, str]:
    side, dot, vector = str(key).partition(".")
    if not dot:
        raise ValueError(f"state_dict: {name}: expected {', '.join(PROGRESS)} and vectors such as 'worker.residual', got {key!r}")
    return side, vector


def _vector(name: str, value: Any) -> tuple[int, torch.Tensor]:
    if not isinstance(value, Mapping) or set(value) != {"begin", "values"}:
        raise ValueError(f"state_dict: {name}: expected a mapping of begin and values, got {type(value).__name__}")
    begin, values = value["begin"], value["values"]
    if not _is_count(begin):
        raise ValueError(f"state_dict: {name}: begin: expected 0 to 2**64 - 1, got {begin!r}")
    return begin, _finite(name, values)


def _load_running(core: _C.Hook, running: Any, identity: Mapping[str, Any]) -> None:
    if (running is not None) != ("smoothness" in identity):
        raise ValueError(f"state_dict: running: expected {'none' if running is not None else 'estimates'} where smoothness is "
                         f"{identity.get('smoothness')}, got {'some' if running is not None else 'none'}")
    if running is None:
        return
    if not isinstance(running, Mapping) or set(running) != {"steps", "parameters"} or not isinstance(running["parameters"], Mapping):
        raise ValueError(f"state_dict: running: expected a mapping of steps and parameters, got {running!r}")
    if not _is_count(running["steps"]):
        raise ValueError(f"state_dict: running: steps: expected 0 to 2**64 - 1, got {running['steps']!r}")
    core.load_running_state((running["steps"], {str(n): _finite(f"running: {n}", v) for n, v in running["parameters"].items()}))


def _finite(name: str, values: Any) -> torch.Tensor:
    if not isinstance(values, torch.Tensor):
        raise ValueError(f"state_dict: {name}: expected a torch.Tensor, got {type(values).__name__}")
    check_finite(values, f"state_dict: {name}")
    return values


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64


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
        if not is_finite(value) or value < least:
            raise ValueError(f"state_dict: measured: {key}: expected a finite number{range_}, got {value!r}")
    samples, weight = given["samples"], given["weight"]
    if (samples > 0) != (weight > 0):
        raise ValueError(f"state_dict: measured: weight: expected {'one above 0' if samples else '0'} of {samples} samples, got {weight}")
    return [float(given[key]) for key in MEASURED]


def _kept(identity: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """What a state of this mode depends on."""
    return {k: v for k, v in identity.items() if mode == "rank" or k not in ("rank", "world_size", "exchange")}
