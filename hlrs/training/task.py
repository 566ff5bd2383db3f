"""The interface of whatever the loop trains, and the position of a run."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor


class Task(Protocol):
    """Whatever `fit` trains.

    Randomness must come from (seed, purpose, epoch, step) alone, so that the state is all that a resumed
    run needs.
    """

    epochs: int
    steps: int  # of the current epoch
    images_per_step: int  # 0 in an epoch on other data
    sums: int  # number of step metrics

    def steps_before(self, epoch: int) -> int:
        """Count the steps of all epochs before one."""
        return epoch * self.steps

    def begin(self, epoch: int) -> None:
        """Set the epoch's learning rates and draw the order of its images."""

    def step(self, step: int) -> Tensor:
        """Train one step; return its step metrics, float [sums] on the device, which the loop sums."""

    def end(self, means: list[float]) -> dict[str, Any]:
        """Return the epoch's history row, given the means of the step metrics."""

    def state(self) -> dict[str, Tensor]:
        """Return everything that training changes, by name."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Load a state, in place."""


@dataclass
class Position:
    """The next epoch and step of a run, with its history rows and times so far."""

    epoch: int = 0
    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    throughput: list[dict[str, float]] = field(default_factory=list)
    resumes: int = 0
    timing: dict[str, Any] = field(default_factory=dict)  # of the last process; empty in checkpoints

    @property
    def facts(self) -> dict[str, Any]:
        """Return the training's part of the job's record."""
        return {"resumes": self.resumes, "throughput": self.throughput, **self.timing}


def step_metrics(*values: Tensor | float) -> Tensor:
    """Stack scalars into one float64 tensor on the first one's device, without waiting for it."""
    device = values[0].device if isinstance(values[0], Tensor) else None
    return torch.stack(
        [
            v.detach().double()
            if isinstance(v, Tensor)
            else torch.full((), v, dtype=torch.float64, device=device)
            for v in values
        ]
    )
