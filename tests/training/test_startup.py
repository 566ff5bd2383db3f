"""Startup times, kept apart from training times in a job's log and record."""

import subprocess
import sys
import time

import pytest
import torch

from hlrs.artifacts.tensors import read_tensors
from hlrs.errors import Interrupted
from hlrs.training import startup
from hlrs.training.loop import fit
from tests.conftest import hlrs, record
from tests.messages import says
from tests.training.test_loop import JOB, Clock, Count

CPU = torch.device("cpu")
TICK = 0.02  # resolution of the system's start time of a process


class Warming(Count):
    """Counts, with a first step of ten seconds and later steps of one second each."""

    def __init__(self, clock, signal_at=None):
        super().__init__(signal_at)
        self.clock, self.pause = clock, 10.0

    def step(self, step):
        self.clock.now += self.pause
        self.pause = 1.0
        return super().step(step)


@pytest.fixture
def clock(tmp_path, monkeypatch):
    """A clock at 1.3 s after a stage was called, which was 4.9 s after the start of the process."""
    monkeypatch.chdir(tmp_path)
    clock = Clock(monkeypatch)
    monkeypatch.setattr(startup, "process_start", lambda: 95.1)
    monkeypatch.setattr(startup, "_called", None)
    startup.called()
    clock.now += 1.3
    return clock


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux records when a process started")
def test_process_start_does_not_depend_on_the_time_of_the_import():
    script = "import time; line = time.monotonic(); from hlrs.training import startup as s"
    script += "; print(s.process_start(), line)"
    before = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    began, first_line = map(float, done.stdout.split())
    assert before - TICK <= began < first_line


def test_process_start_outside_linux_is_the_import_of_the_command_line(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert startup.process_start() == startup._loaded
    script = "import sys, hlrs.cli; print('hlrs.training.startup' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_training_records_startup_first_step_and_median_step(clock, capsys):
    facts = fit(Warming(clock), JOB, CPU).facts
    assert facts["startup"] == {
        "imports_seconds": 4.9,
        "setup_seconds": 1.3,
        "first_step_seconds": 10.0,
        "median_step_seconds": 1.0,
    }
    assert facts["training_seconds"] == 15.0
    lines = capsys.readouterr().err.splitlines()
    says(lines[0], "d/m/0", "started", "6.2 s", "imports 4.9 s", "1.3 s")
    assert [line.split("  ")[-1] for line in lines[1:]] == ["4 s left", "2 s left", "0 s left"]


def test_the_time_left_ignores_that_a_training_was_suspended(clock, capsys):
    class Suspended(Warming):
        def step(self, step):
            if (self.epoch, step) == (1, 0):
                self.pause = 3600.0
            return super().step(step)

    fit(Suspended(clock), JOB, CPU)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[-1] for line in lines[1:]] == ["4 s left", "3 s left", "2 s left", "0 s left"]


def test_the_median_step_is_the_devices_and_not_the_queues(clock, monkeypatch):
    """Steps are queued at once; the device's time passes when a result is read."""
    queue, tolist = [], torch.Tensor.tolist

    def read(tensor):
        clock.now += sum(queue)
        queue.clear()
        return tolist(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", read)

    class Queued(Count):
        seconds = iter([10.0, 4.0, 2.0, 3.0, 0.5, 0.25])  # of two steps in three epochs

        def step(self, step):
            queue.append(next(self.seconds))
            return super().step(step)

    startup = fit(Queued(), JOB, CPU).facts["startup"]
    # means of 4; 2 and 3; 0.5 and 0.25
    assert (startup["first_step_seconds"], startup["median_step_seconds"]) == (10.0, 2.5)


def test_a_resumed_training_records_the_times_of_its_own_process(clock, capsys):
    with pytest.raises(Interrupted):
        fit(Warming(clock, (0, 0)), JOB, CPU)
    assert read_tensors(JOB.checkpoint)[1]["timing"] == {}
    startup.called()
    clock.now += 2.0
    capsys.readouterr()
    facts = fit(Warming(clock), JOB, CPU).facts
    assert facts["startup"]["setup_seconds"] == 2.0
    assert facts["startup"]["first_step_seconds"] == 10.0
    assert (facts["resumes"], facts["training_seconds"]) == (1, 14.0)
    lines = capsys.readouterr().err.splitlines()
    says(lines[0], "started", "2.0 s")
    says(lines[1], "d/m/0", "resumed", "after epoch 0/3", "1 step")


def test_a_finished_training_has_no_first_step(clock):
    fit(Warming(clock), JOB, CPU)
    facts = fit(Warming(clock), JOB, CPU).facts
    assert facts["startup"]["first_step_seconds"] is None
    assert facts["startup"]["median_step_seconds"] is None
    assert facts["training_seconds"] == 0.0


def test_startup_times_are_in_records_and_logs(workspace):
    run, records = "digits/darts/0", {}
    status, output = hlrs(workspace, "split", "digits")
    assert status == 0, output
    for stage in ("search", "extract", "retrain", "evaluate"):
        before = time.monotonic()
        status, output = hlrs(workspace, stage, run)
        elapsed = time.monotonic() - before
        assert status == 0, output
        records[stage] = record(workspace, stage, run)
        times = records[stage].get("startup", {})
        assert all(seconds > 0 for seconds in times.values())
        parts = [times.get("imports_seconds", 0), times.get("setup_seconds", 0)]
        if sys.platform == "linux":  # elsewhere, forked processes count from the start of their server
            assert sum(parts) + records[stage].get("training_seconds", 0) <= elapsed + TICK
        assert ("started" in output) == (stage in ("search", "retrain"))
    steps = {"first_step_seconds", "median_step_seconds"}
    start = {"imports_seconds", "setup_seconds"}
    assert {stage: set(r.get("startup", {})) for stage, r in records.items()} == {
        "search": start | steps,
        "extract": set(),
        "retrain": start | steps,
        "evaluate": start,
    }
    assert [stage for stage, r in records.items() if r.get("training_seconds", 0) > 0] == [
        "search",
        "retrain",
    ]
