"""The table, its footnotes, the JSON file and the picture."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from .results import WARM_UP_STEPS, MethodResult
from .settings import Settings

LINKS = {"100 Mbit/s": 100e6, "1 Gbit/s": 1e9, "10 Gbit/s": 10e9}


def baseline(results: Sequence[MethodResult]) -> MethodResult | None:
    """Plain DDP's result, if it was run."""
    return next((result for result in results if result.name == "plain"), None)


def _row(result: MethodResult, plain: MethodResult | None) -> list[str]:
    ratio = difference = "-"
    if plain is not None:
        ratio = f"{plain.bytes_per_step / result.bytes_per_step:.2f}x"
        difference = f"{100 * (result.validation_loss / plain.validation_loss - 1):+.2f} %"
    return [
        result.label, f"{result.bytes_per_step:,.0f}", ratio, f"{result.validation_loss:.4f}", difference,
        f"{1000 * result.step_time:.0f}",
        *[f"{1000 * result.expected_step_time(rate):.0f}" for rate in LINKS.values()],
    ]


def table(results: Sequence[MethodResult]) -> str:
    """One row per method, in Markdown, so that it can be pasted as it is."""
    header = ["method", "bytes/step/rank", "less by", "val. loss", "vs plain", "step ms", *[f"{x} *" for x in LINKS]]
    rows = [header, *[_row(result, baseline(results)) for result in results]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = []
    for row in rows:
        cells = [c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def footnotes(results: Sequence[MethodResult], settings: Settings, isolated: bool) -> str:
    """How each column came about."""
    first = results[0]
    if first.bytes_measured:
        where = "in a network namespace of its own" if isolated else "shared with whatever else uses it"
        source = f"MEASURED: /proc/net/dev of lo ({where}), packet headers included, over all training steps"
    else:
        source = "COUNTED, not measured (no /proc/net/dev here), without packet headers"
    counted = "; ".join(f"{r.counted_per_step:,.0f}" for r in results)
    optimizer = settings.optimizer
    lines = [
        f"{first.parameters:,} parameters; {first.steps} steps; {first.world_size} ranks, {settings.batch} sequences "
        + f"of {settings.context} characters each; {optimizer.name}, peak learning rate {optimizer.learning_rate:g};",
        f"seed {settings.seed}; same initial weights and data for every method.",
        f"bytes: {source},",
        "       divided by steps and ranks.",
        "       Payload as counted by the hook (ours) or from tensor sizes (others), in the order of the table:",
        f"       {counted}.",
        "val. loss: nats per character over "
        + ("the whole validation split." if settings.final_windows is None else f"{settings.final_windows} windows."),
        f"step ms: median over loopback on this machine, without the first {WARM_UP_STEPS} steps, evaluation excluded.",
        "* a MODEL, not a measurement: (step ms) + 8 * (bytes/step/rank) / (link rate): nothing overlaps, no latency.",
        "  `python -m benchmarks.links` measures steps over shaped links.",
    ]
    specs = {r.name: r.spec for r in results if r.spec is not None}
    lines += [f"{name} = {spec}" for name, spec in specs.items() if name != spec]
    return "\n".join(lines)


def write_json(path: Path, results: Sequence[MethodResult], settings: Settings, isolated: bool) -> None:
    """Everything that was measured, with the settings, for other programs."""
    plain = baseline(results)
    document = {
        "settings": {**dataclasses.asdict(settings), "text": settings.text.name},
        "isolated_loopback": isolated,
        "methods": [
            {
                **dataclasses.asdict(result),
                "bytes_per_step": result.bytes_per_step,
                "counted_per_step": result.counted_per_step,
                "step_time": result.step_time,
                "ratio": None if plain is None else plain.bytes_per_step / result.bytes_per_step,
                "loss_vs_plain": None if plain is None else result.validation_loss / plain.validation_loss - 1,
                "expected_step_time": {name: result.expected_step_time(rate) for name, rate in LINKS.items()},
            }
            for result in results
        ],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def draw(path: Path, results: Sequence[MethodResult], settings: Settings) -> None:
    """Validation loss against the bytes that a rank has sent, logarithmic, one line per method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    figure, axes = pyplot.subplots(figsize=(8, 5), dpi=130)
    for result, marker in zip(results, "osD^vPX*<>" * len(results), strict=False):
        bytes_sent = [point.bytes_sent for point in result.curve]
        losses = [point.loss for point in result.curve]
        label = f"{result.label}: {result.bytes_per_step / 1e3:,.0f} kB per step"
        axes.plot(bytes_sent, losses, marker=marker, markersize=4.5, linewidth=1.8, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _bytes_text(value)))
    axes.set_xlabel("bytes sent by each rank so far (log scale)")
    axes.set_ylabel(f"validation loss, nats per character ({settings.curve_windows} windows)")
    first = results[0]
    sizes = f"{first.parameters / 1e6:.2f} M parameters, {first.world_size} ranks, {first.steps} steps"
    axes.set_title(f"Char GPT, {sizes} of {settings.optimizer.name}", fontsize=11)
    axes.grid(True, which="major", alpha=0.35)
    axes.grid(True, which="minor", axis="x", alpha=0.12)
    axes.legend(frameon=False, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _bytes_text(value: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:g} {unit}"
    return f"{value:g} B"
