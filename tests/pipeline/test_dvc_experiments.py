"""`dvc exp`: what an experiment runs, what it takes from its checkout, and what a failed one leaves."""

import json
import os
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from hlrs.artifacts.files import write_text
from hlrs.artifacts.jobs import ASIDE, PROVENANCE, Job
from hlrs.pipeline import dvc_experiments
from tests.messages import says
from tests.pipeline.test_workflow import (  # noqa: F401 - fixtures
    CLEAN,
    EVERYTHING,
    IDLE,
    REPORT,
    _records,
    duplicate,
    dvc_status,
    edited,
    first,
    jobs_of,
    once,
    recorded,
    replace,
    repository,
    results,
    run,
    runs_of,
    tree,
)


def test_each_attempt_of_an_experiment_begins_where_the_last_one_stopped(tmp_path, monkeypatch):
    """Whose folder DVC deletes after each: three epochs of which each attempt trains one."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    job = Job("search", "digits/hlrs/0", {}, "", {}, "0" * 12)
    for attempt in range(3):
        folder = tmp_path / dvc_experiments.EXPERIMENTS / str(attempt)
        folder.mkdir(parents=True)
        monkeypatch.chdir(folder)
        dvc_experiments.fetch([job])
        epochs = int(job.checkpoint.read_text()) if job.checkpoint.exists() else 0
        assert epochs == attempt
        write_text(job.checkpoint, str(epochs + 1))
        os.utime(job.checkpoint, (attempt, attempt))  # seconds apart, on any file system
        dvc_experiments.shelve([job], 0.0)


@pytest.mark.slow
def test_a_queued_experiment_runs_what_its_values_affect_and_leaves_nothing_to_run(edited, tmp_path):
    folder = duplicate(edited[0], tmp_path / "folder")
    before = _records(folder)
    overrides = (
        "matrix.methods=[hlrs]",
        "report.reference=hlrs",
        "+evaluate.calibration_bins=7",
        # the schedule before the last commit, whose results are only in the checkout, set aside
        "methods.hlrs.arch_lr.kind=coupled",
        "~methods.hlrs.arch_lr.final",
    )
    values = [argument for override in overrides for argument in ("--set-param", override)]
    run(folder, "dvc", "exp", "run", "--queue", "--name", "bins", *values)
    replace(
        folder / "hlrs/nas/supernet.py", "scale: float = 1e-3", "scale: float = 2e-3"
    )  # queued without it
    run(folder, "dvc", "exp", "run", "--run-all")
    run(folder, "git", "checkout", "--quiet", "hlrs")
    run(folder, "dvc", "exp", "apply", "bins")
    assert jobs_of(_records(folder) - before) == Counter(["evaluate/digits/hlrs/0", "report/all"])
    assert results(folder) == EVERYTHING - runs_of("darts") + REPORT  # nothing stale is versioned
    assert dvc_status(folder) == CLEAN
    assert IDLE in run(folder, "snakemake", "-n").stdout
    [made] = (folder / "results/report/all").iterdir()
    assert tree(folder / "report") == tree(made)
    changed = json.loads(run(folder, "dvc", "params", "diff", "--json").stdout)["params.yaml"]
    assert changed["evaluate.calibration_bins"]["new"] == 7
    assert changed["methods.hlrs.arch_lr.kind"] == {"old": "cosine", "new": "coupled"}
    metrics = json.loads(run(folder, "dvc", "metrics", "diff", "--json").stdout)["report/metrics.json"]
    assert metrics["digits.darts.balanced_accuracy"]["new"] is None


# --- what experiments and their checkout copy from each other -----------------------------------------


JOBS = [Job("extract", f"d/m/{seed}", {}, "", {}, f"{seed:012x}") for seed in range(4)]


def make(root, job, text="made"):
    for path in job.outputs:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def test_new_results_that_dvc_would_delete_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    made, _, partial, _ = JOBS
    make(tmp_path, made)
    make(tmp_path, partial)
    partial.output(PROVENANCE).unlink()
    assert dvc_experiments.unrecorded(JOBS, 0) == ""  # nothing was ever recorded
    Path("dvc.lock").write_text("schema: '2.0'\n")
    warning = dvc_experiments.unrecorded(JOBS, 0)
    says(warning, "1 results", "dvc repro", "dvc exp apply")
    assert dvc_experiments.unrecorded(JOBS, time.time() + 60) == ""  # all older
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert dvc_experiments.unrecorded(JOBS, 0) == ""


@pytest.fixture
def checkout(tmp_path):
    return tmp_path / "checkout"


@pytest.fixture
def queued(checkout, monkeypatch):
    """The folder of a queued experiment, and the current one."""
    folder = checkout / ".dvc/tmp/exps/tmp1"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(checkout))
    return folder


def test_a_queued_experiment_copies_complete_results_and_checkpoints_from_its_checkout(checkout, queued):
    made, aside, partial, stopped = JOBS
    make(checkout, made)
    make(checkout / ASIDE, aside)
    make(checkout, partial)
    (checkout / partial.output(PROVENANCE)).unlink()  # its record comes last
    (checkout / stopped.checkpoint).parent.mkdir(parents=True)
    (checkout / stopped.checkpoint).write_text("state")
    dvc_experiments.fetch(JOBS)
    assert [job.complete for job in JOBS] == [True, True, False, False]
    assert tree(queued) == {
        **dict.fromkeys([*made.outputs, *aside.outputs], b"made"),
        str(stopped.checkpoint): b"state",
    }
    make(queued, made, "other")
    dvc_experiments.fetch(JOBS)
    assert set(tree(queued / made.directory).values()) == {b"other"}  # existing results stay


def test_results_of_a_failed_phase_are_kept_in_the_checkout(checkout, queued):
    older, made, stopped, _ = JOBS
    make(queued, older)
    for path in older.outputs:
        os.utime(path, (1, 1))
    since = time.time() - 60
    make(queued, made)
    stopped.checkpoint.parent.mkdir(parents=True)
    stopped.checkpoint.write_text("state")
    dvc_experiments.shelve(JOBS, since)
    shutil.rmtree(checkout / ".dvc")
    assert tree(checkout) == {
        **{str(ASIDE / path): b"made" for path in made.outputs},
        str(stopped.checkpoint): b"state",
    }


def test_without_dvc_nothing_is_shelved(checkout, queued, monkeypatch):
    monkeypatch.delenv("DVC_ROOT")
    make(queued, JOBS[0])
    make(checkout, JOBS[1])
    dvc_experiments.shelve(JOBS, 0.0)
    dvc_experiments.fetch(JOBS)
    assert not (checkout / ".hlrs").exists()
    assert not JOBS[1].complete


def test_a_failed_copy_leaves_nothing(checkout, queued, monkeypatch):
    make(checkout, JOBS[0])

    def fails(self, target):
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "rename", fails)
    dvc_experiments._copy(checkout / JOBS[0].outputs[0], Path("file"))
    dvc_experiments.fetch(JOBS)
    assert tree(queued) == {}
