"""Signals that stop a training once its current step is done and its state is saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hlrs.artifacts.jobs import Job
from hlrs.errors import Interrupted

CHANGES_NO_RESULT = True  # so no code digest covers it (artifacts/code_digest.py)


@dataclass
class Stop:
    """The name of the signal that asked the run to stop; empty without one."""

    requested: str = ""

    def obey(self, job: Job, path: Path) -> None:
        """Raise Interrupted if a signal was received; the state must already be saved in `path`."""
        if self.requested:
            message = f"{job.run}: interrupted by {self.requested}; state saved in {path}, rerun to resume"
            raise Interrupted(message, self.requested)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Note SIGTERM, SIGUSR1 (SLURM's warning) and SIGINT in a `Stop` instead of ending the process."""
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
