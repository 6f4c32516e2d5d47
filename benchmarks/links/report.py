"""The tables and the JSON file of the link benchmark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from .namespaces import CONGESTION_CONTROL
from .settings import MODELS, LinkResult, Measurement, Settings


def table(header: list[str], rows: list[list[str]], left: int) -> str:
    """Markdown; the first `left` columns to the left."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    rule = "|" + "|".join("-" * (w + 2) if i < left else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _head(result: LinkResult) -> str:
    return (f"{result.link}: raw rate {result.raw_bits_per_second / 1e6:,.0f} Mbit/s of payload (one Gloo transfer); "
            f"forward + backward without communication {1000 * result.compute_seconds:.0f} ms; weights of all ranks identical with "
            f"every method.")


def chosen(m: Measurement) -> str:
    """What a method that adapts has settled on."""
    policy = (m.hook_stats or {}).get("policy", {})
    return "-" if "buckets" not in policy else ", ".join(policy["buckets"]) + f" ({policy['reason']})"


def link_table(result: LinkResult) -> str:
    """Time per step over one link, with what was known of the link above it."""
    rows = [[
        result.link, m.label, f"{1000 * m.step_seconds:.1f}", "-" if result.plain is None else f"{m.ratio_to(result.plain):.3f}",
        f"{m.bytes_per_step:,.0f}", "-" if m.counted_per_step is None else f"{m.counted_per_step:,.0f}",
        f"{m.first_loss:.3f} -> {m.last_loss:.3f}",
    ] for m in result.measurements]
    lines = [_head(result), table(["link", "method", "step ms", "x plain", "bytes/step/rank", "counted", "loss"], rows, 2)]
    return "\n".join(lines + [f"{m.label}: {chosen(m)}" for m in result.measurements if chosen(m) != "-"])


def until_loss_table(result: LinkResult) -> str:
    """Time until the loss of the first method."""
    first = result.measurements[0]
    assert first.reached is not None
    rows = []
    for m in result.measurements:
        steps, seconds, loss = m.curve[-1]
        reached = m.reached is not None
        rows.append([result.link, m.label, f"{steps}" if reached else f"not in {steps}", f"{seconds:.1f}" if reached else "-",
                     f"{seconds / first.reached[1]:.3f}" if reached else "-", f"{1000 * seconds / steps:.0f}", f"{loss:.4f}"])
    header = ["link", "method", "steps", "seconds", f"x {first.label}", "ms per step", "held-out loss"]
    return "\n".join([_head(result), f"until the held-out loss is at most {result.target_loss:.4f}:", table(header, rows, 2)])


def settled_after(seconds: Sequence[float]) -> int:
    """Steps until three of four steps in a row took at most 1.25 times what the last ten take."""
    limit = 1.25 * median(seconds[-10:])
    for begin in range(len(seconds) - 3):
        if sum(s <= limit for s in seconds[begin : begin + 4]) >= 3:
            return begin
    return len(seconds)


def changes_table(result: LinkResult) -> str:
    """What each method did in each phase."""
    rows = []
    for m in result.measurements:
        for phase in m.phases:
            seconds = phase["seconds"]
            rows.append([m.label, phase["link"], ", ".join(phase.get("buckets", [])) or "-", f"{settled_after(seconds)}",
                         f"{1000 * median(seconds[-10:]):.0f}", f"{sum(seconds):.1f}"])
    header = ["method", "link", "buckets at the end", "settled after steps", "ms per step then", "seconds in all"]
    return "\n".join([_head(result), table(header, rows, 3)])


def show(result: LinkResult, settings: Settings) -> str:
    if settings.changes:
        return changes_table(result)
    return until_loss_table(result) if settings.until_loss else link_table(result)


def legend(settings: Settings, results: Sequence[LinkResult]) -> str:
    """What the columns mean."""
    lines = [f"{MODELS[settings.model]}, {results[0].parameters:,} parameters, batch {settings.batch_size} per rank, "
             + f"{settings.world} ranks; links shaped by tbf (burst 256k, latency 20ms) both ways, TCP {CONGESTION_CONTROL}."]
    if settings.changes:
        lines.append(f"{settings.change_steps} steps over each link; method by method; settled: within 1.25 of the median of the last 10.")
    elif settings.until_loss:
        lines.append("Method by method, from the same weights, steps timed alone; the loss is looked at 30 times in as many steps as the "
                     "first method takes.")
    else:
        lines += [f"{settings.rounds} rounds of {settings.steps} steps, methods take turns; {settings.warm_up} steps before, "
                  + "untimed.",
                  "step ms: median over all timed steps. x plain: median over rounds of the ratio to plain DDP in that round.",
                  "bytes: counters of the veth, with headers, mean over ranks. counted: the hook's stats(), payload alone."]
    specs = {m.label: m.spec for result in results for m in result.measurements if m.spec not in (None, m.method)}
    return "\n".join([*lines, *[f"{label} = {spec}" for label, spec in specs.items()]])


def write_json(path: Path, settings: Settings, results: Sequence[LinkResult]) -> None:
    """Every step time, with the derived figures, for other programs."""
    links = []
    for result in results:
        entry = asdict(result)
        for values, m in zip(entry["measurements"], result.measurements, strict=True):
            if m.round_seconds:
                values["step_seconds"] = m.step_seconds
                values["ratio"] = None if result.plain is None else m.ratio_to(result.plain)
        links.append(entry)
    path.write_text(json.dumps({"settings": asdict(settings), "links": links}, indent=1) + "\n")
