"""The training loop: epochs, history rows, checkpoints, signals."""

import time
from typing import Any

import torch
from torch import Tensor

from hlrs.artifacts.jobs import Job
from hlrs.training.checkpoints import resume, save
from hlrs.training.divergence import check_finite
from hlrs.training.progress import Progress
from hlrs.training.signals import stop_signals
from hlrs.training.task import Position, Task

CHECKPOINT_SECONDS = 300.0  # between two, at most
CHECKPOINT_SHARE = 0.05  # of a training's time, at most, for those at the ends of epochs


class Checkpoints:
    """Saves a task's state, and decides when: as often as costs little, in relation to what a save takes."""

    def __init__(self, task: Task, job: Job) -> None:
        self.task, self.job = task, job
        self.saved, self.seconds = time.monotonic(), 0.0  # when the last save ended, and what it took

    def due(self, epoch_ended: bool) -> bool:
        """Whether enough time has passed since the last save, more of it within an epoch."""
        affordable = self.seconds / CHECKPOINT_SHARE if epoch_ended else CHECKPOINT_SECONDS
        return time.monotonic() - self.saved >= min(affordable, CHECKPOINT_SECONDS)

    def save(self, position: Position, sums: Tensor) -> None:
        """Save the position and the sums of the current epoch, float64 [task.sums], with the task's state."""
        sums = sums.cpu()  # waits for the device: the steps it has queued are not the save's
        began = time.monotonic()
        save(self.task, self.job, position, sums)
        self.saved = time.monotonic()
        self.seconds = self.saved - began


def fit(task: Task, job: Job, device: torch.device) -> Position:
    """Train from the job's checkpoint, or from the start, to the last epoch; return rows and throughput.

    Interrupted after a signal, once the state is saved. Failure if a loss is not finite; the last checkpoint
    is kept.
    """
    position, sums = resume(task, job, device)
    progress, checkpoints = Progress(job.run, task, position), Checkpoints(task, job)
    with stop_signals() as stop:
        while position.epoch < task.epochs:
            started, first = time.monotonic(), position.step
            task.begin(position.epoch)
            progress.begin()
            for step in range(position.step, task.steps):
                sums += task.step(step)
                position.step = step + 1
                progress.step()
                if not progress.seconds:  # the first step, which warms up, counts by itself
                    progress.measure(sums)
                if position.step < task.steps and (stop.requested or checkpoints.due(epoch_ended=False)):
                    checkpoints.save(position, sums)
                    stop.obey(job, job.checkpoint)
            progress.measure(sums)
            row = _finish_epoch(task, position, sums, job)
            seconds = time.monotonic() - started
            rate = (task.steps - first) * task.images_per_step / seconds
            position.throughput.append({"epoch": row["epoch"], "seconds": seconds, "images_per_second": rate})
            sums.zero_()
            ended = position.epoch == task.epochs  # then only the results are left to write
            saves = bool(ended or stop.requested) or checkpoints.due(epoch_ended=True)
            if saves:
                checkpoints.save(position, sums)
            progress.epoch(row, rate)
            if saves and not ended:
                stop.obey(job, job.checkpoint)
    position.timing = progress.close()
    return position


def _finish_epoch(task: Task, position: Position, sums: Tensor, job: Job) -> dict[str, Any]:
    """Read the epoch's step metrics from the device, once, and append its history row."""
    means = (sums / task.steps).tolist()
    row = task.end(means)
    check_finite(job, row)
    position.rows.append(row)
    position.epoch, position.step = position.epoch + 1, 0
    return row
