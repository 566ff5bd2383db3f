"""Live curves: the figures of each epoch, as a training shows them, for TensorBoard or MLflow.

Nothing depends on them: a tracker that fails is left alone after one warning, and the training continues.
"""

import fcntl
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter

from hlrs.artifacts.jobs import Job
from hlrs.config.base import Kinds
from hlrs.config.tracking import Mlflow, TensorBoard, Tracking
from hlrs.errors import UserError

EPOCHS = logging.getLogger("hlrs.training.progress")
TURN = Path(".hlrs/tracking.lock")
TURN_SECONDS = 30.0  # a job waits for those before it
MLFLOW = {  # unless the environment says otherwise
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a server that is gone costs seconds
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def check_installed(jobs: Iterable[Job]) -> None:
    """Raise UserError, before a job is queued, if the package that is to follow trainings is missing."""
    for kind in {job.tracking["kind"] for job in jobs if job.tracking}:
        if find_spec(kind) is None:
            raise UserError(
                f"tracking.kind: {kind} is not installed; `pip install 'hlrs[{kind}]'`, or leave tracking out"
            )


class Tracker(Protocol):
    """The curves of one job; one that resumes continues those of the process before."""

    def log(self, epoch: int, figures: dict[str, float]) -> None:
        """Add the figures of a finished epoch, counted from 1."""

    def end(self, finished: bool) -> None:
        """Leave the curves; not `finished`: the job may resume."""


class EventFiles:
    """A file of TensorBoard; of a job that resumes, one that hides later epochs of earlier files."""

    def __init__(self, spec: TensorBoard, job: Job, epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(spec.folder, job.run, job.stage, job.key)
        self.writer = SummaryWriter(folder, purge_step=epoch + 1)

    def log(self, epoch: int, figures: dict[str, float]) -> None:
        """Write an epoch's figures to the disk."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def end(self, finished: bool) -> None:
        """Close the file."""
        self.writer.close()


class MlflowRun:
    """A run of MLflow, found again by the job's key; epochs that it has are not added again."""

    def __init__(self, spec: Mlflow, job: Job, epoch: int) -> None:
        for variable, value in MLFLOW.items():
            os.environ.setdefault(variable, value)
        from mlflow import MlflowClient

        with _in_turn():  # it makes the store and the experiment without a lock
            self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or spec.uri)
            found = self.client.get_experiment_by_name(spec.experiment)
            experiment = found.experiment_id if found else self.client.create_experiment(spec.experiment)
        runs = self.client.search_runs([experiment], f"tags.`hlrs.key` = '{job.key}'")
        run = runs[0] if runs else self._create(experiment, job)
        self.id = run.info.run_id
        self.client.update_run(self.id, "RUNNING")
        histories = (self.client.get_metric_history(self.id, name) for name in run.data.metrics)
        self.logged = {point.step for history in histories for point in history}

    def _create(self, experiment: str, job: Job) -> Any:
        parts = dict(zip(("dataset", "method", "seed"), job.run.split("/"), strict=True))
        tags = {"hlrs.key": job.key, "stage": job.stage, **parts}
        return self.client.create_run(experiment, tags=tags, run_name=f"{job.run}/{job.stage}")

    def log(self, epoch: int, figures: dict[str, float]) -> None:
        """Send an epoch's figures, at once."""
        from mlflow.entities import Metric

        if epoch not in self.logged:
            now = round(1000 * time.time())
            points = [Metric(name, value, now, epoch) for name, value in figures.items()]
            self.client.log_batch(self.id, points)

    def end(self, finished: bool) -> None:
        """Set the run's status."""
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


TRACKERS: Kinds[Callable[..., Tracker]] = {TensorBoard: EventFiles, Mlflow: MlflowRun}


@contextmanager
def _in_turn() -> Iterator[None]:
    """Keep other jobs of this folder out of the block; TimeoutError if a suspended one stays in it."""
    TURN.parent.mkdir(exist_ok=True)
    deadline = time.monotonic() + TURN_SECONDS
    with TURN.open("w") as turn:
        while True:
            try:
                fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another job has held {TURN} for {TURN_SECONDS:.0f} s") from None
                time.sleep(0.1)
        yield


class Follower(logging.Handler):
    """Passes on what a job's training logs of its epochs, until the tracker fails."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job, self.failed = job, False
        self.tracker: Tracker | None = None  # until the training begins

    def emit(self, record: logging.LogRecord) -> None:
        """Open the curves when the training begins; add each epoch."""
        match vars(record):
            case {"begins_after": int(epoch)}:
                self._attempt(lambda: self._open(epoch))
            case {"row": dict(row)}:
                self._attempt(lambda: self._log(row))

    def end(self, finished: bool) -> None:
        """Leave the curves."""
        if self.tracker is not None:
            self._attempt(lambda: self._end(finished))

    def _open(self, epoch: int) -> None:
        spec: Tracking = TypeAdapter(Tracking).validate_python(self.job.tracking)
        self.tracker = TRACKERS[type(spec)](spec, self.job, epoch)

    def _log(self, row: dict[str, Any]) -> None:
        assert self.tracker is not None
        figures = {name: float(value) for name, value in row.items() if isinstance(value, int | float)}
        self.tracker.log(int(figures.pop("epoch")) + 1, figures)

    def _end(self, finished: bool) -> None:
        assert self.tracker is not None
        self.tracker.end(finished)

    def _attempt(self, act: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            act()
        except Exception as error:
            self.failed = True
            why = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"{self.job.run}  no curves from now on; the training continues: {why}", file=sys.stderr)


@contextmanager
def tracked(job: Job) -> Iterator[None]:
    """Follow the training that the block runs, where the job's tracking says how."""
    if job.tracking is None:
        yield
        return
    follower, level, finished = Follower(job), EPOCHS.level, False
    EPOCHS.addHandler(follower)
    EPOCHS.setLevel(logging.INFO)
    EPOCHS.propagate = False  # the lines of progress say it; a tracker's package may log to the terminal
    try:
        yield
        finished = True
    finally:
        EPOCHS.propagate = True
        EPOCHS.setLevel(level)
        EPOCHS.removeHandler(follower)
        follower.end(finished)
