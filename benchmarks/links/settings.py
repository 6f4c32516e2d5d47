"""What is measured: methods, sizes, and the result of one (link, method). Imports nothing of torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

STORE_FILE, RESULT_FILE = "store", "result.json"  # in the folder that launcher and ranks share
SHAPE_FILE, SHAPED_FILE = "shape", "shaped"  # a rank asks for another link; the launcher says that it is there
FOUR = "ErrorFeedback(Quantizer(bits=4))"
SPECS = {
    "identity": "Identity()",
    "int8": "ErrorFeedback(Quantizer(bits=8))",
    "int4": FOUR,
    "one_bit": "ErrorFeedback(UniformStep(bits=1.0))",
    "ef21": "EF21(UniformStep(bits=1.0))",
    "adacgd": "AdaCGD([TopK(ratio=0.01), TopK(ratio=0.05), TopK(ratio=0.25)], zeta=1.0)",
}
CAT_SPEC = "ErrorFeedback(TopK(ratio=0.05))"  # of "cat"; "kronecker" is that of "one_bit" in another basis
POWERSGD = {"powersgd1": 1, "powersgd2": 2, "powersgd4": 4}  # ranks
METRICS = {"ours": None, "ours_adam": "adam"}  # of NeverSlower: the default, which sees the optimizer; told another
LABELS = {
    "plain": "plain DDP",
    "fp16": "torch fp16 hook",
    "powersgd1": "torch PowerSGD rank 1",
    "powersgd2": "torch PowerSGD rank 2",
    "powersgd4": "torch PowerSGD rank 4",
    "ours": "ours, default",
    "ours_adam": "ours, NeverSlower(metric='adam')",
    "identity": "ours, Identity(), dense",
    "int8": "ours, 8 bits",
    "int4": "ours, 4 bits",
    "one_bit": "ours, 1 bit",
    "ef21": "ours, EF21, 1 bit",
    "adacgd": "ours, AdaCGD of Top-K",
    "cat": "ours, CAT of Top-K",
    "kronecker": "ours, 1 bit in the Kronecker eigenbasis",
}
def split(method: str) -> tuple[str, float | None]:
    """Name, and bucket size in MB if it has its own: "ours@4" is "ours" in buckets of 4 MB. Raises ValueError for other names."""
    name, _, size = method.partition("@")
    try:
        cap = float(size) if size else None
    except ValueError:
        cap = 0.0
    if (name not in LABELS and "(" not in name) or (cap is not None and not 0 < cap < 1e6):
        raise ValueError(f"expected one of {', '.join(LABELS)}, a spec, or one of these and @MB, found {method!r}")
    return name, cap


USUAL = ("plain", "fp16", "powersgd1", "ours", "int4")
MODELS = {"mlp": "MLP 784-2048-2048-256", "gpt": "GPT of 8 blocks, width 256, context 64", "conv": "conv net of 6 layers"}
BATCHES = {"mlp": 512, "gpt": 8, "conv": 64}  # per rank


@dataclass(frozen=True)
class Settings:
    """Passed to the workers as JSON. `methods`: what split() takes."""

    methods: list[str]
    world: int = 2
    model: str = "mlp"
    rounds: int = 6
    steps: int = 3  # per method and round
    warm_up: int = 24  # steps per method, untimed: buckets are rebuilt, PowerSGD starts, NeverSlower makes its trials
    batch: int = 0  # per rank; 0: BATCHES
    bucket_cap_mb: float | None = None  # None: DDP's default
    powersgd_start: int = 2  # the first step at which PowerSGD compresses
    changes: tuple[str, ...] = ()  # links to change to, one after the other, `change_steps` each
    change_steps: int = 40
    until_loss: int = 0  # steps of plain DDP that give the loss to reach; 0: time per step is measured
    seed: int = 0
    collective_timeout_s: float = 120.0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Settings:
        return Settings(**json.loads(text))

    @property
    def batch_size(self) -> int:
        return self.batch or BATCHES[self.model]


@dataclass
class Measurement:
    """One method over one link. Bytes are those that left a rank through its veth, mean over ranks."""

    method: str
    round_seconds: list[list[float]] = field(default_factory=list)  # per round, per step
    bytes_per_step: float = 0.0
    counted_per_step: float | None = None  # ours: by the hook's stats()
    first_loss: float = float("nan")
    last_loss: float = float("nan")
    spec: str | None = None
    hook_stats: dict[str, Any] | None = None  # ours: rank 0's stats() at the end, warm-up included
    phases: list[dict[str, Any]] = field(default_factory=list)  # with --change: link, seconds of each step, buckets, reason
    curve: list[tuple[int, float, float]] = field(default_factory=list)  # with --until-loss: step, seconds so far, held-out loss
    reached: tuple[int, float] | None = None  # ... step and seconds at which the loss was reached

    @property
    def label(self) -> str:
        name, cap = split(self.method)
        return LABELS.get(name, name) + (f", buckets of {cap:g} MB" if cap else "")

    @property
    def step_seconds(self) -> float:
        return median(seconds for times in self.round_seconds for seconds in times)

    def ratio_to(self, plain: Measurement) -> float:
        """Median over rounds of this method's median step by plain DDP's in the same round: drift cancels."""
        return median(
            median(mine) / median(theirs)
            for mine, theirs in zip(self.round_seconds, plain.round_seconds, strict=True)
        )


@dataclass
class LinkResult:
    """All methods over one link."""

    link: str
    raw_bits_per_second: float
    compute_seconds: float  # a step without communication
    parameters: int
    measurements: list[Measurement]
    target_loss: float | None = None

    @property
    def plain(self) -> Measurement | None:
        return next((m for m in self.measurements if m.method == "plain"), None)

    @staticmethod
    def from_dict(link: str, values: dict[str, Any]) -> LinkResult:
        measurements = [Measurement(**m) for m in values.pop("measurements")]
        return LinkResult(link=link, measurements=measurements, **values)
