"""What a run of the demo consists of: sizes, optimizer, methods. Plain values; imports nothing of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
WORLD_SIZE = 2


@dataclass(frozen=True)
class Method:
    """One way of averaging gradients: a name for the command line, a label for the table, and what to attach."""

    name: str
    label: str
    kind: str  # plain | fp16 | powersgd | ours
    spec: str | None = None  # ours only; None is the default of torch_smoothquant.attach
    overrides: tuple[tuple[str, str], ...] = ()  # ours only: pattern of parameters' names, spec


BUILT_IN_METHODS = {
    method.name: method
    for method in (
        Method("plain", "plain DDP (fp32)", "plain"),
        Method("fp16", "torch fp16 hook", "fp16"),
        Method("powersgd", "torch PowerSGD", "powersgd"),
        Method("ours", "torch_smoothquant", "ours", "ErrorFeedback(Quantizer(bits=4))"),  # attach alone would go dense here
    )
}


@dataclass(frozen=True)
class OptimizerSettings:
    """Optimizer and schedule: linear warm-up to `learning_rate`, then a cosine down to a tenth of it."""

    name: str
    learning_rate: float
    momentum: float = 0.9  # sgd
    betas: tuple[float, float] = (0.9, 0.99)  # adam
    warmup_fraction: float = 0.1
    max_gradient_norm: float = 1.0  # clipping, applied to the averaged gradient, after the hook


OPTIMIZERS = {
    "adam": OptimizerSettings("adam", learning_rate=4e-3),
    "sgd": OptimizerSettings("sgd", learning_rate=1.0, warmup_fraction=0.2, max_gradient_norm=0.3),
}


@dataclass(frozen=True)
class Settings:
    """Everything that the ranks need to know; picklable. Sequences are counted per rank."""

    steps: int = 400
    batch: int = 16
    context: int = 64
    width: int = 128
    layers: int = 4
    heads: int = 4
    seed: int = 0
    optimizer: OptimizerSettings = field(default_factory=lambda: OPTIMIZERS["adam"])
    powersgd_rank: int = 2
    evaluations: int = 12  # points of the curve
    curve_windows: int = 192  # validation windows behind each point of the curve
    final_windows: int | None = None  # None: the whole validation split
    text: Path = REPOSITORY / "data" / "tinyshakespeare.txt"
    collective_timeout_s: float = 60.0
    method_timeout_s: float = 900.0


def quick(settings: dict[str, object]) -> dict[str, object]:
    """Replace sizes by those of a smoke test; what the user gave explicitly stays."""
    small = {"steps": 12, "batch": 4, "context": 32, "width": 64, "layers": 2, "evaluations": 3,
             "curve_windows": 32, "final_windows": 64, "collective_timeout_s": 30.0, "method_timeout_s": 60.0}
    return {**small, **settings}
