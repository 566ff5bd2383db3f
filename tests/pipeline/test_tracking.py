"""Live curves, read by their own readers, of trainings that are killed and resumed; trackers that fail."""

import os
import shutil
import signal

import pytest
import torch
from click.testing import CliRunner

from hlrs.artifacts.jobs import Job, load_spec
from hlrs.artifacts.tables import read_table
from hlrs.cli import main
from hlrs.config.params import load
from hlrs.pipeline import tracking
from hlrs.pipeline.plan import freeze, plan
from hlrs.pipeline.tracking import tracked
from hlrs.training.loop import fit
from tests.conftest import FORK, _command, edit, hlrs, outputs, record
from tests.messages import says
from tests.training.test_loop import EXPECTED, Count

TENSORBOARD, MLFLOW = {"kind": "tensorboard"}, {"kind": "mlflow"}
RUN = "digits/darts/0"


def killed_in_the_third_epoch(folder: str, stage: str) -> None:
    """Run a stage that saves after its first epoch, and kill it after the second."""
    from hlrs.stages.retrain import RetrainTask
    from hlrs.stages.search import SearchTask
    from hlrs.training.loop import Checkpoints

    task = {"search": SearchTask, "retrain": RetrainTask}[stage]
    begin, epochs = task.begin, []

    def until_the_third(self, epoch):
        epochs.append(epoch)
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        begin(self, epoch)

    task.begin = until_the_third
    Checkpoints.due = lambda self, epoch_ended: epoch_ended and epochs == [0]
    _command(folder, [stage, RUN], "log", 300.0)


@pytest.fixture
def few(workspace):
    """A split of few images."""
    few = {"datasets.digits.max_per_class": 8, "datasets.digits.imbalance": {"kind": "natural"}}
    edit(workspace / "params.yaml", **few)
    assert hlrs(workspace, "split", "digits")[0] == 0
    return workspace


def resumed(folder, stage, tracking):
    """Run a stage that is killed in between; return its record and the rows of its history."""
    edit(folder / "params.yaml", tracking=tracking)
    process = FORK.Process(target=killed_in_the_third_epoch, args=(str(folder), stage))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL, (folder / "log").read_text()
    status, said = hlrs(folder, stage, RUN)
    assert (status, "no curves" in said) == (0, False), said
    found = record(folder, stage, RUN)
    assert found["resumes"] == 1
    history = folder / "results" / stage / RUN / found["key"] / "history.parquet"
    return found, read_table(history, f"{stage}_history").to_pylist()


def test_tensorboard_shows_each_epoch_of_a_killed_search_once(few):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert hlrs(few, "search", RUN)[0] == 0
    expected, untracked = outputs(few, "search"), record(few, "search", RUN)
    shutil.rmtree(few / "results" / "search")
    found, rows = resumed(few, "search", TENSORBOARD)
    assert outputs(few, "search") == expected
    assert found.keys() == untracked.keys()
    assert found["key"] == untracked["key"]
    curves = EventAccumulator(str(few / "tracking" / "tensorboard" / RUN / "search" / found["key"])).Reload()
    assert {"weights_loss", "alphas_accuracy", "weights_lr", "alphas_lr"} <= {*curves.Tags()["scalars"]}
    for name in curves.Tags()["scalars"]:
        points = curves.Scalars(name)
        expected = {row["epoch"] + 1: row[name] for row in rows if row[name] is not None}
        assert [point.step for point in points] == [*expected]
        assert [point.value for point in points] == pytest.approx([*expected.values()], rel=1e-6)  # float32


def test_mlflow_shows_each_epoch_of_a_killed_retraining_once(few, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    edit(
        few / "params.yaml",
        **{"methods.darts": {"searcher": {"kind": "resnet", "depth": 20, "width": 4}}},
    )
    found, rows = resumed(few, "retrain", MLFLOW)
    client = mlflow.MlflowClient(str(few / "tracking" / "mlflow"))
    [run] = client.search_runs([client.get_experiment_by_name("hlrs").experiment_id])
    assert (run.info.run_name, run.info.status) == (f"{RUN}/retrain", "FINISHED")
    assert run.data.tags["hlrs.key"] == found["key"]
    assert {"loss", "accuracy", "weights_lr", "drop_path"} <= run.data.metrics.keys()
    for name in run.data.metrics:
        points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        assert points == [(row["epoch"] + 1, row[name]) for row in rows]


@pytest.fixture
def followed(tmp_path, monkeypatch, capfd):
    """Train the task of one number with a tracker; return its rows, and what stderr says beyond progress."""
    monkeypatch.chdir(tmp_path)

    def train(**tracking):
        job = Job("search", "d/m/0", {}, "", {}, "0123456789ab", tracking)
        with tracked(job):
            rows = fit(Count(), job, torch.device("cpu")).rows
        job.checkpoint.unlink()
        return rows, [line for line in capfd.readouterr().err.splitlines() if "no curves" in line]

    return train


def test_a_suspended_job_does_not_keep_others_from_training(tmp_path, monkeypatch):
    """As SLURM's PreemptMode=SUSPEND may stop one while it speaks to the server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "TURN_SECONDS", 0.1)
    with (
        tracking._in_turn(),
        pytest.raises(TimeoutError, match=r"\.hlrs/tracking\.lock"),
        tracking._in_turn(),
    ):
        pass
    with tracking._in_turn():
        pass


def test_a_tracker_that_fails_warns_once_and_the_training_continues(followed, tmp_path, monkeypatch):
    from torch.utils.tensorboard import SummaryWriter

    assert followed(**TENSORBOARD, folder="good") == (EXPECTED, [])
    (tmp_path / "file").touch()
    rows, [said] = followed(**TENSORBOARD, folder="file")  # cannot be opened
    assert rows == EXPECTED
    says(said, "d/m/0", "no curves", "file")

    def full(self, name, value, epoch):
        if epoch == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    rows, [said] = followed(**TENSORBOARD, folder="good")
    assert rows == EXPECTED
    says(said, "d/m/0", "No space left on device")


def test_a_server_that_is_gone_warns_once(followed, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # before `uri`
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    rows, [said] = followed(**MLFLOW, uri="unused", experiment="hlrs")
    assert rows == EXPECTED
    says(said, "127.0.0.1", "Connection refused")


def test_tracking_reaches_the_frozen_specs_of_trainings_and_no_key(workspace):
    plain = plan(load(workspace / "params.yaml"))
    freeze(plain)
    edit(workspace / "params.yaml", tracking=TENSORBOARD | {"folder": "curves"})
    jobs = plan(load(workspace / "params.yaml"))
    freeze(jobs)
    assert [job.key for job in jobs] == [job.key for job in plain]
    told = {job.stage: load_spec(job.spec).tracking for job in jobs}
    curves = {"kind": "tensorboard", "folder": "curves"}
    others = dict.fromkeys(("split", "extract", "evaluate", "report"))
    assert told == {"search": curves, "retrain": curves, **others}


def test_a_missing_package_or_a_slip_is_one_line_before_any_job(workspace, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    for given, *facts in (
        (TENSORBOARD, "tracking.kind", "tensorboard", "pip install 'hlrs[tensorboard]'"),
        (MLFLOW, "tracking.kind", "mlflow", "pip install 'hlrs[mlflow]'"),
        ({"kind": "wandb"}, "tracking.kind", "wandb", "'tensorboard', 'mlflow'"),
        ("mlflow", "tracking", "{kind: mlflow}"),
        (TENSORBOARD | {"uri": "x"}, "tracking.uri", "folder"),
        (MLFLOW | {"uri": ""}, "tracking.uri", "is empty"),
        (MLFLOW | {"uri": "results/x"}, "tracking.uri", "among the results"),
        (TENSORBOARD | {"folder": "./results"}, "tracking.folder", "among the results"),
    ):
        edit(workspace / "params.yaml", tracking=given)
        found = CliRunner().invoke(main, ["plan"])
        assert found.exit_code == 2
        says(found.stderr, *facts)
