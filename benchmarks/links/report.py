"""The table, the JSON file and the picture of the link benchmark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from .namespaces import CONGESTION_CONTROL
from .settings import LinkResult, Settings


def link_table(result: LinkResult) -> str:
    """A Markdown table of one link, with what was known of the link above it."""
    header = ["link", "method", "step ms", "x plain", "bytes/step/rank", "counted", "loss"]
    rows = [header]
    for m in result.measurements:
        rows.append([
            result.link, m.label, f"{1000 * m.step_seconds:.1f}",
            "-" if result.plain is None else f"{m.ratio_to(result.plain):.3f}",
            f"{m.bytes_per_step:,.0f}", "-" if m.counted_per_step is None else f"{m.counted_per_step:,.0f}",
            f"{m.first_loss:.3f} -> {m.last_loss:.3f}",
        ])
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    rule = "|" + "|".join("-" * (w + 2) if i < 2 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    head = (f"{result.link}: raw rate {result.raw_bits_per_second / 1e6:,.0f} Mbit/s of payload (one Gloo transfer); "
            f"forward + backward without communication {1000 * result.compute_seconds:.0f} ms; weights of both ranks "
            f"identical with every method.")
    return "\n".join([head, lines[0], rule, *lines[1:]])


def legend(settings: Settings, results: Sequence[LinkResult]) -> str:
    """What the columns mean."""
    lines = [
        f"MLP {'-'.join(map(str, settings.layers))}, {results[0].parameters:,} parameters, batch {settings.batch} per "
        + f"rank, 2 ranks, one core each; {settings.rounds} rounds of {settings.steps} steps, methods take turns;",
        f"links shaped by tbf (burst 256k, latency 20ms) on each end, TCP {CONGESTION_CONTROL}.",
        "step ms: median over all timed steps. x plain: median over rounds of the ratio to plain DDP in that round.",
        "bytes: counters of the veth, with headers, mean of both ranks. counted: the hook's stats(), payload alone.",
    ]
    specs = {m.label: m.spec for result in results for m in result.measurements if m.spec not in (None, m.method)}
    return "\n".join([*lines, *[f"{label} = {spec}" for label, spec in specs.items()]])


def write_json(path: Path, settings: Settings, results: Sequence[LinkResult]) -> None:
    """Every step time, with the derived figures, for other programs."""
    links = []
    for result in results:
        entry = asdict(result)
        for values, m in zip(entry["measurements"], result.measurements, strict=True):
            values["step_seconds"] = m.step_seconds
            values["ratio"] = None if result.plain is None else m.ratio_to(result.plain)
        links.append(entry)
    path.write_text(json.dumps({"settings": asdict(settings), "links": links}, indent=1) + "\n")


def draw(path: Path, results: Sequence[LinkResult]) -> None:
    """Bars: step time by plain DDP's, grouped by link."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(2.2 + 2.4 * len(results), 4.5), dpi=130)
    labels = [m.label for m in results[0].measurements]
    width = 0.84 / len(labels)
    for index, label in enumerate(labels):
        ratios = [r.measurements[index].ratio_to(r.plain or r.measurements[0]) for r in results]
        places = [group + (index - (len(labels) - 1) / 2) * width for group in range(len(results))]
        bars = axes.bar(places, ratios, width * 0.92, label=label)
        axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=1)
    reference = "plain DDP" if results[0].plain is not None else labels[0]
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(results)), [r.link for r in results])
    axes.set_ylabel(f"step time / {reference}")
    axes.set_title(f"{results[0].parameters / 1e6:.1f} M-parameter MLP, 2 ranks over a shaped link", fontsize=11)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
