"""Results as tables and pictures, and their place in docs/tuning.md."""

from __future__ import annotations

import datetime
import math
import os
from pathlib import Path

from .cases import COLUMNS, DENSE, LAZY, MECHANISMS, MOMENTUM_FIRST, Case, cases

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "tuning.md"
BEGIN = "<!-- written by python -m benchmarks.frontier --write -->"
END = "<!-- end of what it wrote -->"
DIVERGED = 1.5  # nats above dense: more than twice what the task holds is no use as a number

Results = dict[str, dict]


def _found(case: Case, results: Results) -> dict | None:
    return results.get(case.key)


def dense_loss(optimizer: str, seed: int, results: Results, spec: str = DENSE) -> float | None:
    found = results.get(Case(optimizer, "", "", spec, seed).key)
    return None if found is None else found["loss"]


def excess(case: Case, results: Results) -> float | None:
    """Validation loss minus that of dense with the same optimizer and seed; None if either was not run or the spec is illegal."""
    found, dense = _found(case, results), dense_loss(case.optimizer, case.seed, results)
    return None if found is None or found["error"] or dense is None else found["loss"] - dense


def _cell(optimizer: str, mechanism: str, compressor: str, seeds: list[int], results: Results) -> str:
    same = [Case(optimizer, mechanism, compressor, MECHANISMS[mechanism](compressor), seed) for seed in seeds]
    found = [outcome for case in same if (outcome := _found(case, results)) is not None]
    if not found:
        return "not run"
    if found[0]["error"]:
        return "illegal"
    differences = [value for case in same if (value := excess(case, results)) is not None]
    if not differences or not all(math.isfinite(value) and value < DIVERGED for value in differences):
        return f"{found[0]['bits_up']:.2f}: diverged"
    bits = f"{found[0]['bits_up']:.2f}"
    if found[0]["bits_down"] is not None:
        bits += f" + {found[0]['bits_down']:.2f}"
    return f"{bits}: " + " / ".join(f"{value:+.3f}" for value in differences)


def table(optimizer: str, seeds: list[int], results: Results) -> str:
    """Markdown: bits per element up (+ down), then the loss minus dense, one number per seed."""
    rows = [["", *(f"`{column}`" for column in COLUMNS)]]
    rows += [[m, *(_cell(optimizer, m, c, seeds, results) for c in COLUMNS)] for m in MECHANISMS]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "| --- " + "| ---: " * len(COLUMNS) + "|", *lines[1:]])


def notes(results: Results) -> str:
    """Why cells are illegal: each reason once."""
    reasons = {outcome["error"].partition(" (column")[0] for outcome in results.values() if outcome["error"]}
    return "\n".join(f"* illegal: {reason}" for reason in sorted(reasons))


def dense_line(optimizer: str, seeds: list[int], results: Results) -> str:
    dense, first = ([dense_loss(optimizer, seed, results, spec) for seed in seeds] for spec in (DENSE, MOMENTUM_FIRST))

    def shown(values: list[float | None]) -> str:
        return " / ".join("not run" if value is None else f"{value:.4f}" for value in values)

    lazy = results.get(Case(optimizer, "", "", LAZY, seeds[0]).key)
    bits = "" if lazy is None else f" ({lazy['bits_up']:.2f} bits)"
    return (f"{optimizer}: dense {shown(dense)}; uncompressed with the momentum in the mechanism, `{MOMENTUM_FIRST}`, {shown(first)}; "
            f"`{LAZY}`, which has no compressor, {shown([dense_loss(optimizer, seed, results, LAZY) for seed in seeds])}{bits}.")


def draw(optimizer: str, seeds: list[int], results: Results, path: Path) -> None:
    """Loss minus dense against bits up, one colour per mechanism, one marker per family of compressors."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 4.4), dpi=90)
    colours = dict(zip(MECHANISMS, pyplot.get_cmap("tab20").colors, strict=False))
    markers = {"UniformStep": "o", "Quantizer": "s", "TopK": "^"}
    for case in cases([optimizer], seeds):
        value = excess(case, results)
        if not case.mechanism or value is None or not math.isfinite(value):
            continue
        axes.plot(results[case.key]["bits_up"], min(max(value, 1e-3), DIVERGED), markers[case.compressor.partition("(")[0]],
                  color=colours[case.mechanism], markersize=7, markeredgecolor="black", markeredgewidth=0.4)
    handles = [axes.plot([], [], "o", color=colour, label=name)[0] for name, colour in colours.items()]
    handles += [axes.plot([], [], marker, color="white", markeredgecolor="black", label=name)[0] for name, marker in markers.items()]
    axes.legend(handles=handles, fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_xscale("log")
    ticks = [0.25, 0.5, 1, 2, 4, 8]
    axes.set_xticks(ticks, [f"{bits:g}" for bits in ticks])
    axes.minorticks_off()
    axes.set_yscale("log")
    axes.set_xlabel("bits per element up, headers included")
    axes.set_ylabel("validation loss minus dense (at least 0.001)")
    axes.set_title(f"{optimizer}: lower left is better", fontsize=10)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def section(optimizers: list[str], seeds: list[int], results: Results) -> str:
    machine = f"{datetime.date.today():%Y-%m-%d}, {os.cpu_count()} cores of an AMD EPYC (Zen 4), shared"
    parts = [f"({machine}; seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}.)"]
    for optimizer in optimizers:
        parts += [f"### {optimizer}", dense_line(optimizer, seeds, results), table(optimizer, seeds, results),
                  f"![{optimizer}: loss minus dense against bits](frontier_{optimizer}.png)"]
    return "\n\n".join([*parts, notes(results)])


def write(optimizers: list[str], seeds: list[int], results: Results) -> None:
    """Replaces what stands between the markers of docs/tuning.md, and the pictures beside it."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise SystemExit(f"{PAGE.name}: expected the lines {BEGIN!r} and {END!r}")
    for optimizer in optimizers:
        draw(optimizer, seeds, results, DOCS / f"frontier_{optimizer}.png")
    PAGE.write_text(f"{before}{BEGIN}\n{section(optimizers, seeds, results)}\n{END}{after}")
