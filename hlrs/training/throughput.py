"""The pace of a training: seconds a step, measured over a few steps."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Throughput(NamedTuple):
    """How many steps were measured, and what one took."""

    steps: int
    seconds: float


def measure(task: Any, epoch: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> Throughput:
    """The pace of a task (`training.Task`) in an epoch, over steps for at least so many seconds.

    A first step warms up and does not count, unless it takes all of the time by itself.
    """
    task.begin(epoch)
    began = clock()
    task.step(0).tolist()  # waits for the device
    warming = clock() - began
    if warming >= seconds:
        return Throughput(1, warming)
    done, block, began = 0, 1, clock()
    while (elapsed := clock() - began) < seconds:
        for step in range(done, done + block):
            figures = task.step(step % task.steps)
        figures.tolist()  # once a block, so that steps wait in the device's queue as they do in a training
        done, block = done + block, 2 * block
    return Throughput(done, elapsed / done)
