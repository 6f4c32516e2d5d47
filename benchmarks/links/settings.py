"""What is measured: methods, sizes, and the result of one (link, method). Imports nothing of torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

STORE_FILE, RESULT_FILE = "store", "result.json"  # in the folder that launcher and ranks share
IDENTITY_SPEC = "Identity()"
LABELS = {
    "plain": "plain DDP",
    "identity": "ours, Identity(), dense",
    "fp16": "torch fp16 hook",
    "powersgd": "torch PowerSGD rank 1",
    "ours": "ours, default",
}


@dataclass(frozen=True)
class Settings:
    """Passed to the workers as JSON. `methods` holds names of LABELS and specs of torch_smoothquant."""

    methods: list[str]
    rounds: int = 6
    steps: int = 3  # per method and round
    warm_up: int = 4  # steps per method, untimed: buckets are rebuilt, PowerSGD starts
    batch: int = 512
    layers: tuple[int, ...] = (784, 2048, 2048, 256)  # 6.3 M parameters
    bucket_cap_mb: float | None = None  # None: DDP's default
    seed: int = 0
    collective_timeout_s: float = 120.0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Settings:
        return Settings(**json.loads(text))


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

    @property
    def label(self) -> str:
        return LABELS.get(self.method, self.method)

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

    @property
    def plain(self) -> Measurement | None:
        return next((m for m in self.measurements if m.method == "plain"), None)

    @staticmethod
    def from_dict(link: str, values: dict[str, Any]) -> LinkResult:
        measurements = [Measurement(**m) for m in values.pop("measurements")]
        return LinkResult(link=link, measurements=measurements, **values)
