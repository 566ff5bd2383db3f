"""Progress of a training: a bar on a terminal, one line per epoch in a log."""

import statistics
import sys
import time
from typing import Any

from torch import Tensor
from tqdm import tqdm

from hlrs.training.startup import ready
from hlrs.training.task import Position, Task

CHANGES_NO_RESULT = True  # so no code digest covers it (artifacts/code_digest.py)


class Progress:
    """Shows a bar on a terminal, one plain line per epoch in a log, both with the estimated time left."""

    def __init__(self, label: str, task: Task, position: Position) -> None:
        self.label, self.task = label, task
        self.done = self.resumed_at = task.steps_before(position.epoch) + position.step
        self.total = task.steps_before(task.epochs)
        self.startup, self.started = ready(), time.monotonic()
        self.seconds: list[float] = []  # of the first step, then of a step in each epoch
        interactive = sys.stderr.isatty()
        self.bar = tqdm(total=self.total, initial=self.done, desc=label, unit="step", disable=not interactive)
        imports, setup = self.startup["imports_seconds"], self.startup["setup_seconds"]
        parts = f"imports {imports:.1f} s, data and model {setup:.1f} s"
        self._say(f"started in {imports + setup:.1f} s ({parts})")
        if position.resumes:
            self._say(f"resumed at epoch {position.epoch}, step {position.step}")

    def begin(self) -> None:
        """Time the steps from here on."""
        self.began, self.steps = time.monotonic(), 0

    def step(self) -> None:
        """Count a step that the device has been given."""
        self.done += 1
        self.steps += 1
        self.bar.update()

    def measure(self, sums: Tensor) -> None:
        """Note the mean seconds of the steps since `begin`, once the device has finished their `sums`."""
        if self.steps:
            sums.tolist()
            self.seconds.append((time.monotonic() - self.began) / self.steps)
            self.begin()

    def epoch(self, row: dict[str, Any], rate: float) -> None:
        """Show the history row of a finished epoch, and its rate in images per second."""
        text = "  ".join(
            f"{name} {value if isinstance(value, str) else format(value, '.4g')}"
            for name, value in row.items()
            if value is not None and name != "epoch"
        )
        speed = f"{rate:.0f} images/s" if rate else ""
        self.bar.set_postfix_str(speed)
        if self.bar.disable:
            epoch = f"epoch {row['epoch'] + 1}/{self.task.epochs}"
            parts = filter(None, (epoch, text, speed, f"{duration(self._left())} left"))
            self._say("  ".join(parts))

    def close(self) -> dict[str, Any]:
        """End the display; return the times of this process in seconds, as the record holds them.

        The median step's is over the epochs, each with the mean of its steps but for the process's first.
        """
        self.bar.close()
        first, others = self.seconds[:1], self.seconds[1:]
        steps = {
            "first_step_seconds": round(first[0], 6) if first else None,
            "median_step_seconds": round(statistics.median(others), 6) if others else None,
        }
        seconds = round(time.monotonic() - self.started, 3)
        return {"startup": self.startup | steps, "training_seconds": seconds}

    def _left(self) -> float:
        """Estimate the seconds left from all steps but the first, which warms up or compiles."""
        steps, elapsed = self.done - self.resumed_at, time.monotonic() - self.started
        if steps > 1:
            steps, elapsed = steps - 1, elapsed - self.seconds[0]
        return elapsed / steps * (self.total - self.done)

    def _say(self, text: str) -> None:
        tqdm.write(f"{self.label}  {text}", file=sys.stderr)
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """Format seconds as hours and minutes, minutes and seconds, or seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    )
