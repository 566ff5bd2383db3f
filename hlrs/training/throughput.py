"""Throughput of a training: seconds per step, measured over a few steps."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Throughput(NamedTuple):
    """Number of measured steps, and mean seconds per step."""

    steps: int
    seconds: float


def measure(task: Any, epoch: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> Throughput:
    """Measure the throughput of a `training.task.Task` in an epoch, for at least `seconds`.

    The first step warms up; it counts only if it takes all of that time by itself.
    """
    task.begin(epoch)
    began = clock()
    task.step(0).tolist()  # waits for the device
    first = clock() - began
    if first >= seconds:
        return Throughput(1, first)
    done, block, began = 0, 1, clock()
    while (elapsed := clock() - began) < seconds:
        for step in range(done, done + block):
            metrics = task.step(step % task.steps)
        metrics.tolist()  # once per block: as in a training, steps queue on the device
        done, block = done + block, 2 * block
    return Throughput(done, elapsed / done)
