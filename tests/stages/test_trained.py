"""Retrainings of what another method trained: on, or its classifier alone."""

import contextlib
import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pandas import read_csv
from torch.nn import functional as F

from hlrs.artifacts.files import read_json
from hlrs.artifacts.jobs import PROVENANCE
from hlrs.artifacts.records import Record
from hlrs.artifacts.tables import read_table
from hlrs.artifacts.tensors import read_tensors, write_tensors
from hlrs.config.params import Params
from hlrs.errors import Failure
from hlrs.pipeline.execute import execute
from hlrs.pipeline.plan import due, plan
from hlrs.provenance.lineage import trace
from hlrs.provenance.lineage_view import tree
from hlrs.stages import retrain
from tests.conftest import TINY
from tests.tasks import retrain_task, run_all, same, weights

RESNET = {"searcher": {"kind": "resnet", "depth": 20, "width": 4}}
CELLS = {"searcher": {"kind": "random"}}
MATRIX = {"datasets": ["digits"], "seeds": [0], "retrain_seeds": [0, 3]}
RECIPE = TINY["retrain"] | {"epochs": 1}


def continuing(**recipe):
    """A method that trains `base`'s network by a recipe of its own."""
    return {"searcher": {"kind": "trained", "method": "base"}, "retrain": recipe}


def params_of(base, **others):
    changes = {"methods": {"base": base, **others}, "matrix": MATRIX | {"methods": ["base", *others]}}
    return Params.model_validate(copy.deepcopy(TINY) | changes | {"retrain": RECIPE, "report": {}})


def made(base, **others):
    """Run every job but the report; return all by stage and run."""
    return run_all(params_of(base, **others), but=["report"])


CLASSIFIERS = {
    "normal": continuing(epochs=0, classifier={"kind": "tau_normalized"}),
    "crt": continuing(epochs=0, classifier={"kind": "retrained", "epochs": 1}),
    "longer": continuing(),
}


@pytest.fixture(scope="module")
def resnets(tmp_path_factory):
    """A folder with every result of a ResNet's matrix, and its jobs."""
    folder = tmp_path_factory.mktemp("resnets")
    with contextlib.chdir(folder):
        yield folder, made(RESNET, **CLASSIFIERS)


@pytest.fixture
def jobs(resnets, monkeypatch):
    monkeypatch.chdir(resnets[0])
    return resnets[1]


@pytest.mark.parametrize("seeds", ["0", "0-3"])
def test_what_another_method_trained_is_trained_on_with_the_same_seeds(jobs, seeds):
    theirs = jobs[f"retrain/digits/base/{seeds}"]
    base = weights(theirs)
    for name in CLASSIFIERS:
        job = jobs[f"retrain/digits/{name}/{seeds}"]
        assert job.inputs == theirs.inputs | {"trained": str(theirs.output("weights.safetensors"))}
        found = weights(job)
        assert same(found, base, ["classifier."]) == (name != "longer")
        assert not torch.equal(found["classifier.weight"], base["classifier.weight"])
    normal = weights(jobs[f"retrain/digits/normal/{seeds}"])["classifier.weight"]
    assert torch.allclose(normal, F.normalize(base["classifier.weight"]), atol=1e-6)  # w / |w|


def test_a_history_has_the_epochs_that_follow_the_others(jobs):
    for name, phases in {"normal": [], "crt": ["classifier"], "longer": ["network"]}.items():
        history = jobs[f"retrain/digits/{name}/0"].output("history.parquet")
        assert read_table(history, "retrain_history")["phase"].to_pylist() == phases


def test_a_network_of_cells_has_the_others_genotype(workspace):
    jobs = made(CELLS, crt=CLASSIFIERS["crt"])
    assert not [name for name in jobs if name.startswith(("search/", "extract/")) and "/base/" not in name]
    found, base = (weights(jobs[f"retrain/digits/{name}/0"]) for name in ("crt", "base"))
    assert same(found, base, ["classifier."])
    assert read_json(jobs["evaluate/digits/crt/0"].output("metrics.json"))["test_images"] == 50


def test_a_network_that_is_trained_on_starts_with_the_others_weights(jobs):
    job = jobs["retrain/digits/longer/0"]
    theirs = weights(jobs["retrain/digits/base/0"])
    task = retrain_task(job, ema=0.5)
    assert same(task.network.state_dict(), theirs)
    assert same(task.result.state_dict(), theirs)


def test_the_recipe_is_the_others_with_its_own_entries_over_it(workspace):
    base = RESNET | {"retrain": {"epochs": 7, "cutout": 0, "classifier": {"kind": "tau_normalized"}}}
    recipes = {
        name: params_of(base, longer=continuing(batch_size=8)).retrain_of(name) for name in ("base", "longer")
    }
    expected = recipes["base"].model_copy(update={"start": "trained", "classifier": None, "batch_size": 8})
    assert recipes["longer"] == expected
    assert (expected.epochs, expected.cutout, expected.channels) == (7, 0, 4)


def test_entries_that_act_while_a_network_trains_are_refused_where_it_rests():
    with pytest.raises(ValueError, match=r"methods.crt.retrain.ema: acts while the network trains"):
        params_of(RESNET, crt=continuing(epochs=0, classifier={"kind": "retrained"}, ema=0.9))
    with pytest.raises(ValueError, match=r"methods.real.retrain.cutout: acts while the network trains"):
        params_of(RESNET, real=continuing(epochs=0, classifier={"kind": "continued"}, cutout=4))
    crt = continuing(epochs=0, classifier={"kind": "retrained"}, cutout=4)
    params_of(RESNET, longer=continuing(ema=0.9), crt=crt)


def test_the_lineage_shows_the_parameters_of_both_trainings(jobs):
    target = str(jobs["evaluate/digits/crt/0"].output("metrics.json"))
    text = " ".join(tree(trace([target], lambda folder: Record.read(Path(folder, PROVENANCE))), 10_000))
    assert "epochs 0" in text
    assert "epochs 1" in text
    assert "classifier retrained" in text


def test_retraining_the_other_method_makes_what_builds_on_it_due(jobs):
    made_before = due(plan(params_of(RESNET, **CLASSIFIERS)))
    assert {job.stage for job in made_before} <= {"report"}  # which another test makes
    changed = RESNET | {"retrain": {"batch_size": 8}}
    found = [f"{job.stage}/{job.run}" for job in due(plan(params_of(changed, **CLASSIFIERS)))]
    runs = [f"digits/{name}/{seeds}" for name in ("base", *CLASSIFIERS) for seeds in ("0", "0-3")]
    assert found == [*(f"{stage}/{run}" for run in runs for stage in ("retrain", "evaluate")), "report/all"]


def test_the_report_shows_it_beside_the_other(jobs):
    execute(jobs["report/all"])
    runs = read_csv(jobs["report/all"].output("runs.csv"))
    assert runs["method"].value_counts().to_dict() == dict.fromkeys(("base", *CLASSIFIERS), 2)
    balanced = runs.set_index(["method", "retrain_seed"])["balanced_accuracy"]
    assert (
        balanced["crt", 3]
        == read_json(jobs["evaluate/digits/crt/0-3"].output("metrics.json"))["balanced_accuracy"]
    )


def test_it_is_planned_after_the_other_wherever_the_matrix_lists_it():
    params = params_of(RESNET, **CLASSIFIERS)
    names = params.matrix.model_copy(update={"methods": [*CLASSIFIERS, "base"]})
    seen = set()
    for job in plan(params.model_copy(update={"matrix": names})):
        assert seen.issuperset(job.inputs.values())
        seen.update(job.outputs)


def test_weights_that_do_not_fit_are_refused(jobs, tmp_path):
    found, facts = read_tensors(jobs["retrain/digits/base/0"].output("weights.safetensors"))
    del found["classifier.bias"]
    write_tensors(tmp_path / "weights.safetensors", found, facts)
    job = jobs["retrain/digits/crt/0"]
    other = replace(job, inputs=job.inputs | {"trained": str(tmp_path / "weights.safetensors")})
    with pytest.raises(Failure, match=r"weights\.safetensors: does not fit the network"):
        retrain.run(other)
