"""Progress of a training: one line per epoch, and a bar on a terminal."""

import logging
import statistics
import sys
import time
from typing import Any

from torch import Tensor
from tqdm import tqdm

from hlrs.training.startup import ready
from hlrs.training.task import Position, Task

CHANGES_NO_RESULT = True  # so no code digest covers it (artifacts/code_digest.py)

EPOCHS = logging.getLogger(__name__)  # of begin and rows, for whoever follows (pipeline/tracking.py)
SILENT = 60.0  # seconds after which a log has a line within an epoch, too
RECENT = 5  # epochs that the time left follows from: a search slows down when its alphas begin to move
SHORT = ("phase", "loss", "accuracy")  # how the names end that a terminal shows beside its bar


class Progress:
    """Shows one line per epoch, and a bar on a terminal, both with the estimated time left."""

    def __init__(self, label: str, task: Task, position: Position) -> None:
        self.label, self.task, self.position = label, task, position
        self.done = task.steps_before(position.epoch) + position.step
        self.total = task.steps_before(task.epochs)
        self.startup, self.started = ready(), time.monotonic()
        self.seconds: list[float] = []  # of the first step, then of a step in each epoch
        self.paces: list[float] = []  # seconds per step of each epoch, with what ends it
        self.since, self.counted = self.started, self.done  # where the epoch, or its second step, began
        interactive = sys.stderr.isatty()
        self.bar = tqdm(total=self.total, initial=self.done, desc=label, unit="step", disable=not interactive)
        imports, setup = self.startup["imports_seconds"], self.startup["setup_seconds"]
        parts = f"imports {imports:.1f} s, data and model {setup:.1f} s"
        self._say(f"started in {imports + setup:.1f} s ({parts})")
        if position.resumes:
            steps = f"{position.step} step{'s' * (position.step != 1)}"
            self._say(f"resumed after epoch {position.epoch}/{task.epochs} and {steps}")
        EPOCHS.info("begins", extra={"begins_after": position.epoch})

    def begin(self) -> None:
        """Time the steps from here on."""
        self.began, self.steps = time.monotonic(), 0

    def step(self) -> None:
        """Count a step that the device has been given; in an epoch that takes long, show it now and then."""
        self.done += 1
        self.steps += 1
        self.bar.update()
        if self.bar.disable and time.monotonic() - self.said >= SILENT and self.seconds:
            epoch, step = self.position.epoch + 1, self.position.step
            place = f"epoch {epoch}/{self.task.epochs}, step {step}/{self.task.steps}"
            self._say(f"{place}  {duration(self._left())} left")

    def measure(self, sums: Tensor) -> None:
        """Note the mean seconds of the steps since `begin`, once the device has finished their `sums`."""
        if self.steps:
            sums.tolist()
            self.seconds.append((time.monotonic() - self.began) / self.steps)
            if len(self.seconds) == 1:  # which warms up or compiles
                self.since, self.counted = time.monotonic(), self.done
            self.begin()

    def epoch(self, row: dict[str, Any], rate: float) -> None:
        """Show the history row of a finished epoch, and its rate in images per second."""
        if self.done > self.counted:
            self.paces.append(self._pace())
            self.since, self.counted = time.monotonic(), self.done
        text = [
            f"{name} {value if isinstance(value, str) else format(value, '.4g')}"
            for name, value in row.items()
            if value is not None and name != "epoch" and (self.bar.disable or name.endswith(SHORT))
        ]
        speed = f"{rate:.0f} images/s" if rate else ""
        self.bar.set_postfix_str(speed)
        epoch = f"epoch {row['epoch'] + 1}/{self.task.epochs}"
        self._say("  ".join(filter(None, (epoch, *text, speed, f"{duration(self._left())} left"))))
        EPOCHS.info(epoch, extra={"row": row})

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
        """Estimate the seconds left by the median pace of the last epochs: one may have been suspended."""
        pace = statistics.median_low(self.paces[-RECENT:]) if self.paces else self._pace()
        return pace * (self.total - self.done)

    def _pace(self) -> float:
        """Return the seconds per step since the last epoch ended; in the first one, since its first step."""
        steps = self.done - self.counted
        return (time.monotonic() - self.since) / steps if steps else self.seconds[0]

    def _say(self, text: str) -> None:
        self.said = time.monotonic()
        tqdm.write(f"{self.label}  {text}", file=sys.stderr)
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """Format seconds as hours and minutes, minutes and seconds, or seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    )
