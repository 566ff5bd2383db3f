"""The training loop, on a task of one number: signals in any step, and resumed runs."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from hlrs.artifacts.jobs import Job
from hlrs.errors import Interrupted
from hlrs.training import loop
from hlrs.training.loop import fit
from hlrs.training.optim import optimizer_step
from hlrs.training.task import Task, step_metrics

JOB = Job("search", "d/m/0", {}, "", {}, "0123456789ab")


class Clock:
    """A time.monotonic() that advances only when a test moves it."""

    def __init__(self, monkeypatch, start=100.0):
        self.now = start
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


class Count(Task):
    """Adds 1 to `total` per step, and signals its own process in one of them."""

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


def page_faults(before):
    """Count page faults while a separate process, after the line `before`, takes and frees 40 MiB 5 times."""
    lines = [
        "import resource, torch",
        before,
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt",
        "take = lambda times: [None for _ in range(times) if torch.ones(10 * 2**20) is None]",
        "take(20)",  # glibc may take the first 7 of a size from new memory, while its caches fill
        "started = faults()",
        "take(5)",
        "print(faults() - started)",
    ]
    return int(subprocess.check_output([sys.executable, "-c", "\n".join(lines)]))


def test_freed_memory_is_kept_for_the_next_step():
    pages = 5 * 40 * 2**20 // os.sysconf("SC_PAGE_SIZE")
    prepared = page_faults("from hlrs.training.device import prepare; prepare(1)")
    assert prepared < pages / 100
    assert prepared < page_faults("") / 4


EXPECTED = [{"epoch": 0, "loss": 1.5}, {"epoch": 1, "loss": 3.5}, {"epoch": 2, "loss": 5.5}]


@pytest.mark.parametrize("moment", [(epoch, step) for epoch in range(3) for step in range(2)])
def test_a_signal_in_any_step_loses_and_repeats_nothing(tmp_path, monkeypatch, moment):
    monkeypatch.chdir(tmp_path)
    device = torch.device("cpu")
    if moment == (2, 1):  # after the last step, only the results are left to write
        assert fit(Count(moment), JOB, device).rows == EXPECTED
        return
    with pytest.raises(Interrupted, match=r"^d/m/0\b.*\bSIGTERM\b.*\.hlrs/checkpoints/.*\brerun\b"):
        fit(Count(moment), JOB, device)
    task = Count()
    position = fit(task, JOB, device)
    assert position.rows == EXPECTED
    assert (position.resumes, task.total.item()) == (1, 6)
    assert [row["epoch"] for row in position.throughput] == [0, 1, 2]


class Timed(Count):
    """Counts, with steps of some seconds each; may crash in one of them."""

    def __init__(self, clock, seconds, epochs, crash_at=None):
        super().__init__()
        self.clock, self.seconds, self.epochs, self.crash_at = clock, seconds, epochs, crash_at

    def step(self, step):
        self.clock.now += self.seconds
        if (self.epoch, step) == self.crash_at:
            raise KeyboardInterrupt
        return super().step(step)


@pytest.fixture
def saves(tmp_path, monkeypatch):
    """Makes every save take some seconds; returns a clock, and (epoch, step) of the saves to come."""
    monkeypatch.chdir(tmp_path)
    seen, save = [], loop.save

    def take(seconds):
        clock = Clock(monkeypatch)

        def slow(task, job, position, sums):
            save(task, job, position, sums)
            seen.append((position.epoch, position.step))
            clock.now += seconds

        monkeypatch.setattr(loop, "save", slow)
        return clock, seen

    return take


@pytest.mark.parametrize(
    ("step", "save", "epochs", "expected"),
    [  # seconds; an epoch has two steps
        (1.0, 0.3, 9, [1, 4, 7, 9]),  # after 20 · 0.3 s = 6 s or more, and the last
        (1.0, 0.05, 4, [1, 2, 3, 4]),  # 5 % of an epoch is 0.1 s
        (40.0, 30.0, 9, [1, 5, 9]),  # 20 · 30 s is above 300 s
    ],
)
def test_checkpoints_take_a_twentieth_of_the_time(saves, step, save, epochs, expected):
    clock, seen = saves(save)
    fit(Timed(clock, step, epochs), JOB, torch.device("cpu"))
    assert seen == [(epoch, 0) for epoch in expected]


def test_within_an_epoch_checkpoints_are_five_minutes_apart(saves):
    clock, seen = saves(1.0)
    fit(Timed(clock, 200.0, 3), JOB, torch.device("cpu"))  # of 400 s each
    assert seen == [(1, 0), (2, 0), (3, 0)]
    seen.clear()
    JOB.checkpoint.unlink()
    fit(Timed(clock, 300.0, 2), JOB, torch.device("cpu"))
    assert seen == [(0, 1), (1, 0), (1, 1), (2, 0)]


def test_a_crash_repeats_the_epochs_since_the_last_checkpoint(saves):
    clock, seen = saves(0.3)
    with pytest.raises(KeyboardInterrupt):
        fit(Timed(clock, 1.0, 3, crash_at=(2, 1)), JOB, torch.device("cpu"))
    assert seen == [(1, 0)]
    task = Timed(clock, 1.0, 3)
    position = fit(task, JOB, torch.device("cpu"))
    assert position.rows == EXPECTED
    assert (position.resumes, task.total.item()) == (1, 6)
    assert [row["epoch"] for row in position.throughput] == [0, 1, 2]


def test_an_optimizer_step_handles_channels_last_gradients():
    """Gradients of channels-last maps differ from their weights in memory layout."""
    convolution = torch.nn.Conv2d(3, 4, 3, bias=False)
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)).contiguous(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.SGD(convolution.parameters(), 0.5, 0.9, weight_decay=0.1, fused=True)
    weight, momentum = convolution.weight.detach().clone(), None
    for _ in range(2):
        patches = torch.nn.functional.unfold(x, 3).transpose(1, 2)  # [image, place, 27]
        maps = patches @ weight.view(4, 27).T
        gradient = (2 * maps.transpose(1, 2) @ patches).sum(0).view(4, 3, 3, 3) / maps.numel()
        gradient = gradient + 0.1 * weight
        momentum = gradient if momentum is None else 0.9 * momentum + gradient
        weight = weight - 0.5 * momentum
        optimizer_step(convolution(x).square().mean(), list(convolution.parameters()), optimizer, None)
        assert torch.allclose(convolution.weight, weight, atol=1e-5)


def test_step_metrics_keep_double_precision():
    found = step_metrics(torch.tensor(0.5, requires_grad=True), 0.7, torch.tensor(3))
    assert found.tolist() == [0.5, 0.7, 3.0]
    assert not found.requires_grad
