"""The same bytes from runs repeated, killed at random moments, or stopped by signals; reported failures."""

import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import yaml

from hlrs.artifacts.tensors import read_facts, read_tensors
from hlrs.config.params import load
from hlrs.pipeline.plan import discard_states, freeze, plan
from hlrs.provenance.audit import Audit
from tests.conftest import TINY, edit, hlrs, outputs, record, start
from tests.messages import says

RUN = {"search": "digits/hlrs/0", "retrain": "digits/darts/0"}  # two branches; auxiliary head and drop path


@pytest.fixture(scope="session")
def upstream(tmp_path_factory):
    """A folder with everything upstream of a retraining."""
    folder = tmp_path_factory.mktemp("upstream")
    (folder / "params.yaml").write_text(yaml.safe_dump(TINY))
    for stage, run in (("split", "digits"), ("search", "digits/darts/0"), ("extract", "digits/darts/0")):
        assert hlrs(folder, stage, run)[0] == 0
    return folder


@pytest.fixture
def prepared(upstream, workspace):
    """A copy of the folder `upstream`."""
    shutil.copytree(upstream, workspace, dirs_exist_ok=True)
    return workspace


def undisturbed(folder, stage, **changes):
    """Return the outputs of an uninterrupted run, after removing them."""
    assert hlrs(folder, stage, RUN[stage])[0] == 0
    expected = outputs(folder, stage)
    for path in (folder / "results" / stage / RUN[stage]).iterdir():
        shutil.rmtree(path)
    return expected


@pytest.mark.parametrize("stage", ["search", "retrain"])
def test_two_runs_give_the_same_bytes(prepared, stage):
    expected = undisturbed(prepared, stage)
    assert hlrs(prepared, stage, RUN[stage])[0] == 0
    assert outputs(prepared, stage) == expected
    assert record(prepared, stage, RUN[stage])["resumes"] == 0


RECIPES = {  # of trainings whose state is more than SGD's
    "search": {"search.halves": "redrawn", "search.entropy": {"weight": 1.0}},
    "retrain": {},
    "approximate": {
        "methods.darts.arithmetic": {
            "multiplier": {"kind": "truncated", "columns": 4},
            "where": "convolutions",
            "in_search": False,
        }
    },
    "bfloat16, glmc, adamw, sharpness, lookahead": {
        "retrain.precision": "bfloat16",
        "retrain.objective": {"kind": "glmc"},
        "retrain.auxiliary_weight": 0.0,
        "retrain.weights": {"kind": "adamw"},
        "retrain.sharpness": 0.05,
        "retrain.lookahead": 0.9,
    },
    "proco, muon, accumulated, swa": {  # with what it saw of each class
        "retrain.objective": {"kind": "proco", "dimensions": 8},
        "retrain.auxiliary_weight": 0.0,
        "retrain.weights": {"kind": "muon"},
        "retrain.accumulate": 2,
        "retrain.batch_size": 8,
        "retrain.swa": 0.3,
    },
}


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=[] if name in RUN else pytest.mark.slow) for name in RECIPES]
)
def test_a_run_killed_at_random_moments_gives_the_same_bytes(prepared, recipe):
    stage = "search" if recipe == "search" else "retrain"
    edit(prepared / "params.yaml", **RECIPES[recipe])
    expected = undisturbed(prepared, stage)
    draw = random.Random(os.environ.get("HLRS_TEST_SEED", "kill"))
    checkpoints = prepared / ".hlrs/checkpoints"
    kills = 0
    while True:
        # with a checkpoint after nearly every step, some kills hit its writing
        process = start(prepared, stage, RUN[stage], checkpoint_seconds=0.0)
        while kills == 0 and process.exitcode is None and not list(checkpoints.glob("*.safetensors")):
            process.join(0.01)  # the first kill comes after a checkpoint, the others at any time
        process.join(draw.uniform(0.0, 0.7) if kills < 4 else None)
        if process.exitcode is not None:
            assert process.exitcode == 0, (prepared / "log").read_text()
            break
        process.kill()
        process.join()
        kills += 1
    assert kills >= 2
    assert outputs(prepared, stage) == expected
    assert not list(checkpoints.iterdir())  # removed on success, with no half-written one left
    assert record(prepared, stage, RUN[stage])["resumes"] >= 1
    audited = Audit(plan(load(Path("params.yaml"))))  # no record disagrees with the files beside it
    assert not [finding for finding in audited.findings() if finding.broken]


def test_a_result_that_is_deleted_before_it_is_accepted_is_not_trained_again(prepared):
    """As Snakemake does if its own process is terminated then, or SLURM starts the job once more."""
    edit(prepared / "params.yaml", **{"search.epochs": 2})
    expected = undisturbed(prepared, "search")
    [job] = [j for j in plan(load(Path("params.yaml"))) if (j.stage, j.run) == ("search", RUN["search"])]
    freeze([job])
    assert hlrs(prepared, "search", str(job.spec))[0] == 0
    for path in job.outputs:
        Path(path).unlink()
    discard_states([job])  # only of results that are there
    status, said = hlrs(prepared, "search", str(job.spec))
    assert (status, outputs(prepared, "search")) == (0, expected)
    assert record(prepared, "search", RUN["search"])["resumes"] == 1
    assert "epoch 1/2" not in said.rpartition("begins on")[2]
    aside = job.checkpoint.with_name(f"{job.checkpoint.name}.0.unreadable")
    aside.touch()
    discard_states([job])
    assert [*job.checkpoint.parent.iterdir()] == [aside]


def killed(folder, epochs):
    """Kill a search once its checkpoint has so many epochs; return the checkpoint."""
    process = start(folder, "search", RUN["search"], checkpoint_seconds=0.0)
    jobs = plan(load(Path("params.yaml")))
    [checkpoint] = [job.checkpoint for job in jobs if (job.stage, job.run) == ("search", RUN["search"])]
    while not (checkpoint.exists() and read_facts(checkpoint)["epoch"] >= epochs):
        process.join(0.005)
        assert process.exitcode is None, (folder / "log").read_text()
    process.kill()
    process.join()
    return checkpoint


@pytest.mark.slow
def test_a_search_killed_between_two_decisions_gives_the_same_bytes(prepared):
    method = {"searcher": {"kind": "darts_pt", "tune": 4}, "objective": {"kind": "bilateral"}}
    edit(prepared / "params.yaml", **{"methods.hlrs": method})
    expected = undisturbed(prepared, "search")
    checkpoint = killed(prepared, epochs=3)  # the training's
    assert 3 <= read_facts(checkpoint)["epoch"] < 3 + 4
    assert read_tensors(checkpoint)[0]["searcher.masks"][:, 0].any(-1).sum() == 2  # of 4 edges
    assert hlrs(prepared, "search", RUN["search"])[0] == 0
    assert outputs(prepared, "search") == expected
    assert record(prepared, "search", RUN["search"])["resumes"] == 1


def test_a_search_killed_within_a_window_gives_the_same_bytes(prepared):
    searcher = {"kind": "zo_darts", "steps": 7, "directions": 2}
    method = {"searcher": searcher, "objective": {"kind": "bilateral"}}
    edit(prepared / "params.yaml", **{"methods.hlrs": method})
    expected = undisturbed(prepared, "search")
    state, facts = read_tensors(killed(prepared, epochs=1))
    assert (5 * facts["epoch"] + facts["step"]) % 7  # of five steps per epoch
    assert state["window.position"] == 5 * facts["epoch"] % 7
    assert hlrs(prepared, "search", RUN["search"])[0] == 0
    assert outputs(prepared, "search") == expected
    assert record(prepared, "search", RUN["search"])["resumes"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_the_state_and_exits_with_75(prepared, number):
    edit(prepared / "params.yaml", **{"search.epochs": 40})
    process = start(prepared, "search", RUN["search"], checkpoint_seconds=0.0)
    checkpoints = prepared / ".hlrs/checkpoints"
    while not list(checkpoints.glob("*.safetensors")):
        process.join(0.01)
        assert process.exitcode is None, (prepared / "log").read_text()
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 75
    [line] = [text for text in (prepared / "log").read_text().splitlines() if text.startswith("hlrs:")]
    says(line, number.name, ".hlrs/checkpoints", "rerun")
    assert len(list(checkpoints.glob("*.safetensors"))) == 1
    assert not (prepared / "results/search/digits/hlrs").exists()


def test_a_non_finite_loss_is_reported_in_one_line_and_leaves_no_result(prepared):
    edit(prepared / "params.yaml", **{"search.weights": {"lr": 1000.0, "weight_decay": 1000.0, "clip": None}})
    status, output = hlrs(prepared, "search", "digits/darts/0")
    assert status == 1
    [line] = [text for text in output.splitlines() if text.startswith("hlrs:")]
    says(line, "weights_loss", "search.weights.weight_decay", "search.weights.lr")
    assert "Traceback" not in output
    assert len(list((prepared / "results/search/digits/darts/0").iterdir())) == 1  # the earlier one
