"""The picture of the link benchmark: what each mode has measured, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from .settings import LinkResult, Settings


def draw(path: Path, settings: Settings, results: Sequence[LinkResult]) -> None:
    """Bars of step times by link; or losses over seconds; or step times through changes of the link."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(2.2 + 2.4 * max(2, len(results)), 4.5), dpi=130)
    (_changes if settings.changes else _losses if settings.until_loss else _bars)(axes, results)
    axes.set_title(f"{results[0].parameters / 1e6:.1f} M-parameter {settings.model}, {settings.world} ranks over a shaped link",
                   fontsize=11)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _bars(axes: Any, results: Sequence[LinkResult]) -> None:
    labels = [m.label for m in results[0].measurements]
    width = 0.84 / len(labels)
    for index, label in enumerate(labels):
        ratios = [r.measurements[index].ratio_to(r.plain or r.measurements[0]) for r in results]
        places = [group + (index - (len(labels) - 1) / 2) * width for group in range(len(results))]
        bars = axes.bar(places, ratios, width * 0.92, label=label)
        axes.bar_label(bars, fmt="%.2f", fontsize=6, padding=1, rotation=90 if len(labels) > 5 else 0)
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(results)), [r.link for r in results])
    axes.set_ylabel(f"step time / {'plain DDP' if results[0].plain is not None else labels[0]}")


def _losses(axes: Any, results: Sequence[LinkResult]) -> None:
    for m in results[0].measurements:
        axes.plot([0, *(seconds for _, seconds, _ in m.curve)], [m.first_loss, *(loss for _, _, loss in m.curve)], label=m.label)
    axes.axhline(results[0].target_loss, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlabel(f"seconds of training over {results[0].link}")
    axes.set_ylabel("held-out loss")


def _changes(axes: Any, results: Sequence[LinkResult]) -> None:
    for m in results[0].measurements:
        axes.plot([1000 * s for phase in m.phases for s in phase["seconds"]], label=m.label, linewidth=1)
    ends = list(accumulate(len(phase["seconds"]) for phase in results[0].measurements[0].phases))
    for end, begin, phase in zip(ends, [0, *ends], results[0].measurements[0].phases, strict=False):
        axes.axvline(end, color="black", linewidth=0.6, linestyle=":")
        axes.text((begin + end) / 2, 1.02, phase["link"], transform=axes.get_xaxis_transform(), ha="center", fontsize=8)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("ms per step")
