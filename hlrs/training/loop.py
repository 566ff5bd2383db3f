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

CHECKPOINT_SECONDS = 300.0  # between two within an epoch; the end of an epoch always writes one


def fit(task: Task, job: Job, device: torch.device) -> Position:
    """Train from the job's checkpoint, or from the start, to the last epoch; return rows and throughput.

    Interrupted after a signal, once the state is saved. Failure if a loss is not finite; the checkpoint of
    the last sound epoch is kept.
    """
    position, sums = resume(task, job, device)
    progress = Progress(job.run, task, position)
    with stop_signals() as stop:
        while position.epoch < task.epochs:
            started, first = time.monotonic(), position.step
            task.begin(position.epoch)
            saved = time.monotonic()
            for step in range(position.step, task.steps):
                began = time.monotonic()
                sums += task.step(step)
                if not progress.seconds:
                    sums.tolist()  # waits for the device; later steps are only queued
                position.step = step + 1
                progress.step(time.monotonic() - began)
                due = stop.requested or time.monotonic() - saved > CHECKPOINT_SECONDS
                if due and position.step < task.steps:  # the end of the epoch saves anyway
                    save(task, job, position, sums)
                    saved = time.monotonic()
                    stop.obey(job, job.checkpoint)
            row = _finish_epoch(task, position, sums, job)
            seconds = time.monotonic() - started
            rate = (task.steps - first) * task.images_per_step / seconds
            position.throughput.append({"epoch": row["epoch"], "seconds": seconds, "images_per_second": rate})
            sums.zero_()
            save(task, job, position, sums)
            progress.epoch(row, rate)
            if position.epoch < task.epochs:  # after the last epoch only the results are left to write
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
