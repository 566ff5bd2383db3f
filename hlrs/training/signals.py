"""Signals that stop a training after its current step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hlrs.artifacts.jobs import Job
from hlrs.errors import Interrupted


@dataclass
class Stop:
    """The name of the signal that asked the run to stop, or nothing."""

    requested: str = ""

    def obey(self, job: Job, path: Path) -> None:
        """Raise Interrupted if a signal came; the state must be saved in `path`."""
        if self.requested:
            message = f"{job.run}: {self.requested} came; saved {path}, run again to go on"
            raise Interrupted(message, self.requested)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Let SIGTERM, SIGUSR1 (SLURM's warning) and SIGINT end the run after the current step."""
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        stop.requested = signal.Signals(number).name

    before = {
        number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
