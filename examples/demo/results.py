"""What a run of one method yields; imports nothing of torch, so that the report stays light."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

WARM_UP_STEPS = 3  # left out of the step time: allocations, the rebuild of DDP's buckets


@dataclass(frozen=True)
class CurvePoint:
    """Validation loss after `step` steps, and the bytes that one rank had sent by then."""

    step: int
    bytes_sent: float
    loss: float


@dataclass
class MethodResult:
    """Figures of one method. Bytes are per rank and cover the training steps alone."""

    name: str
    label: str
    spec: str | None
    steps: int
    world_size: int
    parameters: int
    bytes_sent: float = 0.0
    bytes_measured: bool = True  # False: no interface counters here, `bytes_sent` is the counted figure
    bytes_counted: float = 0.0  # handed to the collectives according to the hook's stats() or to arithmetic
    step_seconds: list[float] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    training_loss: float = float("nan")
    validation_loss: float = float("nan")

    @property
    def bytes_per_step(self) -> float:
        return self.bytes_sent / self.steps

    @property
    def counted_per_step(self) -> float:
        return self.bytes_counted / self.steps

    @property
    def step_time(self) -> float:
        """Median seconds per step."""
        return median(self.step_seconds[WARM_UP_STEPS:] or self.step_seconds)

    def expected_step_time(self, bits_per_second: float) -> float:
        """A model, not a measurement: the step on loopback, then the bytes at the link's rate, nothing overlapped."""
        return self.step_time + 8 * self.bytes_per_step / bits_per_second
