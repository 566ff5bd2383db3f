"""The loop itself, on a task of one number: where a signal may come, and what a resumed run then does."""

import os
import signal

import pytest
import torch

from hlrs.artifacts import Job
from hlrs.errors import Interrupted
from hlrs.training import fit

JOB = Job("search", "d/m/0", {}, "", {}, "0123456789ab")


class Count:
    """Adds 1 to `total` each step, and sends its own process a signal in one of them."""

    epochs, steps, images_per_step, sums = 3, 2, 1, 1

    def __init__(self, signal_at=None):
        self.total, self.signal_at = torch.zeros(1), signal_at

    def begin(self, epoch):
        self.epoch = epoch

    def step(self, step):
        self.total += 1
        if (self.epoch, step) == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.total.double()

    def end(self, means):
        return {"epoch": self.epoch, "loss": means[0]}

    def state(self):
        return {"total": self.total}

    def load(self, state):
        self.total.copy_(state["total"])


EXPECTED = [{"epoch": 0, "loss": 1.5}, {"epoch": 1, "loss": 3.5}, {"epoch": 2, "loss": 5.5}]


@pytest.mark.parametrize("moment", [(epoch, step) for epoch in range(3) for step in range(2)])
def test_a_signal_in_any_step_loses_nothing_and_repeats_nothing(tmp_path, monkeypatch, moment):
    monkeypatch.chdir(tmp_path)
    device = torch.device("cpu")
    if moment == (2, 1):  # the last step of all: what is left is to write the results
        assert fit(Count(moment), JOB, device).rows == EXPECTED
        return
    with pytest.raises(Interrupted, match="SIGTERM came; saved"):
        fit(Count(moment), JOB, device)
    task = Count()
    position = fit(task, JOB, device)
    assert position.rows == EXPECTED
    assert (position.resumes, task.total.item()) == (1, 6)
    assert [row["epoch"] for row in position.throughput] == [0, 1, 2]
