"""What is trained, and where a run stands."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor


class Task(Protocol):
    """What is trained.

    Randomness must come from (seed, purpose, epoch, step) alone: then the state is all that a resumed run
    needs.
    """

    epochs: int
    steps: int  # an epoch
    images_per_step: int
    sums: int  # how many figures a step returns

    def begin(self, epoch: int) -> None:
        """Set the epoch's learning rates and draw its order."""

    def step(self, step: int) -> Tensor:
        """One training step; figures to be summed over the epoch, float [sums], on the device."""

    def end(self, means: list[float]) -> dict[str, Any]:
        """The epoch's history row from the figures' means."""

    def state(self) -> dict[str, Tensor]:
        """Everything that training changes."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over a state, in place."""


@dataclass
class Position:
    """Where a run stands, and what it has to show so far."""

    epoch: int = 0
    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    throughput: list[dict[str, float]] = field(default_factory=list)
    resumes: int = 0
    timing: dict[str, Any] = field(default_factory=dict)  # of the process that ends the run: never saved

    @property
    def facts(self) -> dict[str, Any]:
        """What the record tells of the training."""
        return {"resumes": self.resumes, "throughput": self.throughput, **self.timing}


def step_metrics(*values: Tensor | float) -> Tensor:
    """A step's figures as one float64 tensor on the first one's device, without waiting for it."""
    device = values[0].device if isinstance(values[0], Tensor) else None
    return torch.stack(
        [
            v.detach().double()
            if isinstance(v, Tensor)
            else torch.full((), v, dtype=torch.float64, device=device)
            for v in values
        ]
    )
