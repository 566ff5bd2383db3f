"""Stages on tiny data: every kind trains and is recorded in the history, subsets stay apart."""

import copy
import json
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from hlrs.artifacts.files import read_json
from hlrs.artifacts.records import Latency
from hlrs.artifacts.tables import read_table
from hlrs.artifacts.tensors import read_tensors, write_tensors
from hlrs.config.base import Spec
from hlrs.config.jobs import RetrainJob, SearchJob
from hlrs.config.methods import ArchLR, Head, Implant, Loss, Mixing, Objective, Sampler, Searcher, Trained
from hlrs.config.params import Params
from hlrs.config.recipes import AnyOptimizer, Optimizer, Rest, Retrain, Sgd
from hlrs.nas.resnet import ResNet, initialize_resnet
from hlrs.pipeline.plan import plan
from hlrs.stages import evaluate, extract, retrain, search, split
from hlrs.stages.images import SplitImages
from tests.conftest import TINY
from tests.nas.test_schedules import MIXINGS, PROGRESS, factor_halfway
from tests.specs import specs


def members(annotation) -> list[type[Spec]]:
    """The specs in an annotation: of a union, of an optional one, or itself."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    return [member for part in get_args(annotation) for member in members(part)]


def kind_of(model: type[Spec]) -> str:
    return get_args(model.model_fields["kind"].annotation)[0]


def kinds(union) -> list[str]:
    return list(map(kind_of, members(union)))


def jobs(**changes):
    """The jobs of TINY with changes, by stage; one method `m` by default."""
    params = copy.deepcopy(TINY)
    params["search"]["epochs"] = params["retrain"]["epochs"] = 2
    params["matrix"]["methods"] = ["m"]
    params["report"] = {}
    for section, values in changes.items():
        params[section] = params[section] | values
    return {job.stage: job for job in plan(Params.model_validate(params))}


def method(objective="plain", arch_lr="constant", mixing=None, order=1, **rest):
    spec = {
        "searcher": {"kind": "darts", "order": order},
        "objective": {"kind": objective},
        "arch_lr": {"kind": arch_lr},
    }
    if mixing:
        spec["objective"]["mixing"] = {"kind": mixing}
    return {"methods": {"m": spec | rest}}


def searched(**changes):
    """History of a search, as columns, and the job."""
    by_stage = jobs(**changes)
    split.run(by_stage["split"])
    search.run(by_stage["search"])
    return read_table(by_stage["search"].output("history.parquet"), "search_history").to_pydict(), by_stage


@pytest.mark.parametrize("kind", kinds(Mixing))
def test_every_mixing_trains_and_is_recorded(workspace, kind):
    history, _ = searched(**method("bilateral", mixing=kind))
    if specs(Mixing)[kind].drawn:  # a new draw each step, the mean of eight or so
        assert all(0.05 < m < 0.95 for m in history["mixing"])
        assert history["mixing"][0] != history["mixing"][1]
    else:
        assert kind in MIXINGS, f"tests/nas/test_schedules.py: add {kind} to MIXINGS"
        by_progress = dict(zip(PROGRESS, MIXINGS[kind], strict=True))
        assert history["mixing"] == pytest.approx([by_progress[0.0], by_progress[0.5]])
    assert np.isfinite(history["weights_loss"]).all()


@pytest.mark.parametrize("kind", kinds(ArchLR))
def test_every_schedule_of_the_alphas_trains_and_is_recorded(workspace, kind):
    objective = "bilateral" if kind == "coupled" else "plain"
    history, by_stage = searched(
        **method(objective, kind, mixing="linear_decay" if kind == "coupled" else None)
    )
    halfway = 0.5 if kind == "coupled" else factor_halfway(kind)
    assert history["alphas_lr"] == pytest.approx([0.01, 0.01 * halfway])
    assert history["weights_lr"] == pytest.approx([0.025, 0.013])  # half a cosine from 0.025 to 0.001
    table = read_table(by_stage["search"].output("alphas.parquet"), "trajectory").to_pandas()
    moved = [
        float(
            np.abs(
                table.alpha[table.epoch == e + 1].to_numpy() - table.alpha[table.epoch == e].to_numpy()
            ).max()
        )
        for e in range(2)
    ]
    assert moved[0] > 0.005
    assert (moved[1] == 0) == (halfway == 0)
    assert (history["alphas_loss"][1] is None) == (halfway == 0)


def test_the_second_order_step_trains_differently_from_the_first(workspace):
    alphas = {}
    for order in (1, 2):
        history, by_stage = searched(**method(order=order))
        assert np.isfinite(history["alphas_loss"]).all()
        alphas[order] = (
            read_table(by_stage["search"].output("alphas.parquet"), "trajectory").to_pandas().alpha
        )
    assert len(alphas[1]) == len(alphas[2]) == 3 * 2 * 2 * 8  # epochs 0 to 2, cells, edges, primitives
    assert not np.allclose(alphas[1], alphas[2])


def test_random_search_trains_nothing_and_differs_by_seed(workspace):
    genotypes = []
    for seed in range(4):
        by_stage = jobs(
            methods={"m": {"searcher": {"kind": "random"}}},
            matrix={**TINY["matrix"], "methods": ["m"], "seeds": [seed]},
        )
        assert "images" not in by_stage["search"].params
        search.run(by_stage["search"])
        assert read_table(by_stage["search"].output("history.parquet"), "search_history").num_rows == 0
        extract.run(by_stage["extract"])
        genotypes.append(json.dumps(read_json(by_stage["extract"].output("genotype.json"))))
    assert len(set(genotypes)) == 4


def test_the_search_reads_its_two_halves_and_nothing_else(workspace):
    by_stage = jobs(**method(), datasets={"digits": TINY["datasets"]["digits"] | {"holdout_fraction": 0.2}})
    split.run(by_stage["split"])
    job = by_stage["search"]
    params = SearchJob.model_validate(job.params)
    images = SplitImages(job, params.images, ("weights", "alphas"), torch.device("cpu"))
    task = search.SearchTask(params, images, torch.device("cpu"))
    rows = read_table(by_stage["split"].output("split.parquet"), "split").to_pandas()
    for batches, half in ((task.training, "weights"), (task.validation, "alphas")):
        assert set(images.index[batches.positions]) == set(rows["index"][rows.subset == half])
    assert task.steps == (rows.subset == "weights").sum() // 16
    assert not set(images.index) & set(rows["index"][rows.subset.isin(["holdout", "test"])])


def searching(labels: str, seed: int):
    """The task of a search whose loss depends on the class counts, in its first epoch."""
    own = {"labels": labels, "objective": {"kind": "plain", "loss": {"kind": "class_balanced", "beta": 0.5}}}
    matrix = TINY["matrix"] | {"methods": ["m"], "seeds": [seed]}
    by_stage = jobs(methods={"m": PLAIN | own}, matrix=matrix)
    split.run(by_stage["split"])
    assert "labels" not in by_stage["retrain"].params
    task = search._make_task(by_stage["search"], SearchJob.model_validate(by_stage["search"].params))
    task.begin(0)
    return task


def test_a_search_on_random_labels_sees_them_in_both_halves_and_in_its_counts(workspace):
    given, task, again, other = (
        searching(labels, seed)
        for labels, seed in (("given", 0), ("random", 0), ("random", 0), ("random", 1))
    )
    true, drawn = given.training.images.labels, task.training.images.labels
    assert torch.equal(drawn, again.training.images.labels)
    assert not torch.equal(drawn, other.training.images.labels)
    # 159 images, 10 classes: χ² of 9 degrees of freedom, and 16 ± 4 labels that are right by chance
    assert len(drawn) == 159
    for labels, uniform in ((true, False), (drawn, True)):
        chi_squared = float(((torch.bincount(labels, minlength=10) - 15.9) ** 2 / 15.9).sum())
        assert (chi_squared < 27.9) == uniform  # exceeded once in a thousand draws
    assert int((drawn == true).sum()) < 32
    for half, loss in ((task.training, task.on_weights.loss), (task.validation, task.on_alphas.loss)):
        assert torch.equal(half.labels, drawn[half.positions])
        [batch] = half(0)
        assert torch.equal(batch.labels, drawn[half.requests[0][0].positions])
        counts = torch.bincount(half.labels, minlength=10).clamp(min=1)
        expected = 1 / (1 - 0.5 ** counts.double())  # Cui et al. 2019, up to a factor
        assert torch.allclose(loss.weights / loss.weights.sum(), expected / expected.sum())


def test_a_genotype_found_on_random_labels_is_retrained_and_evaluated_on_the_given_ones(
    workspace, monkeypatch, plain
):
    made, metrics = trained(workspace, monkeypatch, PLAIN | {"labels": "random"})
    assert made["search"] != plain["darts"]["search"]
    assert metrics["test_images"] == 50


def pipeline(**changes):
    by_stage = jobs(**changes)
    for name, stage in (("split", split), ("search", search), ("extract", extract), ("retrain", retrain)):
        stage.run(by_stage[name])
    return by_stage


def test_retraining_trains_on_both_halves_and_only_evaluates_the_holdout(workspace):
    held = TINY["datasets"]["digits"] | {"holdout_fraction": 0.2}
    by_stage = pipeline(**method(), datasets={"digits": held})
    history = read_table(by_stage["retrain"].output("history.parquet"), "retrain_history").to_pydict()
    assert history["drop_path"] == [0.0, 0.1]  # 0.2 · epoch/epochs
    assert history["weights_lr"] == pytest.approx([0.025, 0.0125])
    assert all(0 <= a <= 1 for a in history["holdout_accuracy"])
    params = RetrainJob.model_validate(by_stage["retrain"].params)
    images = SplitImages(
        by_stage["retrain"], params.images, ("weights", "alphas", "holdout"), torch.device("cpu")
    )
    task = retrain.RetrainTask(params, images, by_stage["retrain"].inputs, torch.device("cpu"))
    rows = read_table(by_stage["split"].output("split.parquet"), "split").to_pandas()
    trained = rows["index"][rows.subset.isin(["weights", "alphas"])]
    assert set(images.index[task.phases[0].batches.positions]) == set(trained)
    assert set(images.index[task.holdout]) == set(rows["index"][rows.subset == "holdout"])


def test_bilateral_retraining_for_one_method_and_its_evaluation(workspace):
    own = {"objective": {"kind": "bilateral", "branch_cells": 2}, "auxiliary_weight": 0.0}
    by_stage = pipeline(**method(retrain=own))
    history = read_table(by_stage["retrain"].output("history.parquet"), "retrain_history").to_pydict()
    assert history["mixing"] == [1.0, 0.75]
    weights, facts = read_tensors(by_stage["retrain"].output("weights.safetensors"))
    assert {name.split(".")[1] for name in weights if name.startswith("branches")} == {"0", "1"}
    assert facts["network"]["in_channels"] == 1
    evaluate.run(by_stage["evaluate"])
    metrics = read_json(by_stage["evaluate"].output("metrics.json"))
    table = pq.read_table(by_stage["evaluate"].output("predictions.parquet")).to_pandas()
    assert metrics["test_images"] == len(table) == 50
    assert metrics["top1"] == pytest.approx((table.label == table.predicted).mean())
    assert np.allclose(np.stack(table.probabilities).sum(1), 1, atol=1e-5)
    assert metrics["train_counts"][0] == 40  # max_per_class


def test_an_adjusted_prediction_is_evaluated_beside_the_plain_one(workspace):
    resnet = {"searcher": {"kind": "resnet", "depth": 20}}
    by_stage = jobs(methods={"m": resnet}, evaluate={"adjust": 2.0, "latency": True})
    split.run(by_stage["split"])
    network = ResNet(20, in_channels=1, classes=10)
    initialize_resnet(network, torch.Generator().manual_seed(0))
    facts = {"preprocessing": {"mean": [0.3], "std": [0.4]}}
    write_tensors(Path(by_stage["evaluate"].inputs["weights"]), network.state_dict(), facts)
    measured = evaluate.run(by_stage["evaluate"])["latency"]
    assert [(row["batch"], row["passes"] >= 10) for row in measured["batches"]] == [(1, True), (64, True)]
    Latency.model_validate(measured, strict=True)
    metrics = read_json(by_stage["evaluate"].output("metrics.json"))
    table = pq.read_table(by_stage["evaluate"].output("predictions.parquet")).to_pandas()
    counts = np.array(metrics["train_counts"])
    assert counts.max() > 5 * counts.min()
    predicted = (np.stack(table.probabilities).astype(float) / (counts / counts.sum()) ** 2).argmax(1)
    assert (predicted != table.predicted).any()
    right = np.array([(predicted[table.label == label] == label).mean() for label in range(10)])
    assert metrics["top1"] == pytest.approx((table.label == table.predicted).mean())
    assert metrics["adjusted_top1"] == pytest.approx((predicted == table.label).mean())
    assert metrics["adjusted_balanced_accuracy"] == pytest.approx(right.mean())
    assert metrics["adjusted_few"] == pytest.approx(right[counts < 8].mean())


def test_retraining_learns_what_can_be_learned(workspace):
    easy = {
        "digits": TINY["datasets"]["digits"]
        | {"imbalance": {"kind": "natural"}, "max_per_class": 100, "test_per_class": 20}
    }
    recipe = TINY["retrain"] | {
        "epochs": 8,
        "channels": 8,
        "auxiliary_weight": 0.0,
        "drop_path": 0.0,
        "cutout": 0,
        "weights": {"lr": 0.05},
    }
    by_stage = pipeline(**method(), datasets=easy, retrain=recipe)
    evaluate.run(by_stage["evaluate"])
    assert read_json(by_stage["evaluate"].output("metrics.json"))["top1"] > 0.8


# --- the contract of all kinds ------------------------------------------------------------------------
#
# Kinds and options come from config's declarations, so a new one is tested as soon as it is declared. Each
# must train, be evaluated, and give other results than the default: every option acts.

SHORT = {
    "datasets": {"digits": TINY["datasets"]["digits"] | {"max_per_class": 20, "groups": {}}},
    "search": TINY["search"] | {"epochs": 2, "channels": 4},
    "retrain": TINY["retrain"] | {"epochs": 3, "auxiliary_weight": 0.0, "drop_path": 0.0, "cutout": 0},
}
PLAIN = {"searcher": {"kind": "darts"}}
PUBLISHED = {"searcher": {"kind": "fixed", "genotype": "DARTS_V2"}}  # nothing is searched


def spec_of(model):
    """The shortest spec of a kind, all options of which act in two epochs."""
    spec = {"kind": kind_of(model)}
    for name, field in model.model_fields.items():
        if name == "at":
            spec[name] = [0.5] if get_args(field.annotation) and "list" in str(field.annotation) else 0.5
        elif name == "steps":
            spec[name] = getattr(model, "steps_per_epoch", 2)
        elif name == "least":  # images of a class; the smallest here has one
            spec[name] = 1
        elif name != "kind" and field.is_required():
            spec[name] = "DARTS_V2" if name == "genotype" else get_args(field.annotation)[0]  # of a literal
    return spec


def trained(folder, monkeypatch, method, **changes):
    """Run all stages of a method; return the bytes of search and retraining, and the metrics."""
    with monkeypatch.context() as patched:
        patched.chdir(folder)
        stages = {"split": split, "search": search, "extract": extract, "retrain": retrain}
        by_stage = jobs(**SHORT | {"methods": {"m": method}} | changes)
        for name, job in by_stage.items():
            if name != "report":
                (stages | {"evaluate": evaluate})[name].run(job)
        made = {
            name: [by_stage[name].output(file).read_bytes() for file in files]
            for name, files in {"search": ["alphas.parquet"], "retrain": ["weights.safetensors"]}.items()
            if name in by_stage
        }
        for name in made:
            history = read_table(by_stage[name].output("history.parquet"), f"{name}_history")
            for column in (c for c in history.column_names if "loss" in c):  # null while alphas rest
                assert np.isfinite(history[column].drop_null().to_numpy()).all(), column
        return made, read_json(by_stage["evaluate"].output("metrics.json"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Results of DARTS with default options, and of a published genotype."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return {
            name: trained(tmp_path_factory.mktemp(name), monkeypatch, method)[0]
            for name, method in {"darts": PLAIN, "fixed": PUBLISHED}.items()
        }


def in_both(objective):
    return PLAIN | {"objective": objective, "retrain": {"objective": objective}}


def where_it_fits(objective):
    """Search and retrain with an objective; only retrain with one that no supernet can be trained by."""
    own = {"objective": spec_of(objective)}
    return in_both(own["objective"]) if objective.searches else PLAIN | {"retrain": own}


OF_ANOTHER = Trained, Implant  # these need another method: test_trained.py, test_implant.py
METHODS = {
    **{f"searcher {kind_of(m)}": {"searcher": spec_of(m)} for m in members(Searcher) if m not in OF_ANOTHER},
    **{f"sampler {kind_of(m)}": in_both({"kind": "plain", "sampler": spec_of(m)}) for m in members(Sampler)},
    **{f"loss {kind_of(m)}": in_both({"kind": "plain", "loss": spec_of(m)}) for m in members(Loss)},
    **{f"objective {kind_of(m)}": where_it_fits(m) for m in members(Objective)},
    **{f"head {kind}": in_both({"kind": "plain", "head": {"kind": kind}}) for kind in kinds(Head)[1:]},
}
METHODS["head etf"]["retrain"]["channels"] = 4  # as many features as classes, or more
DEFAULTS = ("searcher darts", "sampler uniform", "loss cross_entropy", "objective plain")


@pytest.mark.parametrize("name", METHODS)
def test_every_kind_of_a_method_goes_from_the_plan_to_its_metrics(workspace, monkeypatch, plain, name):
    made, metrics = trained(workspace, monkeypatch, METHODS[name])
    assert metrics["test_images"] == 50
    assert 0 <= metrics["top1"] <= 1
    searcher = specs(Searcher)[METHODS[name]["searcher"]["kind"]]
    assert ("search" in made) == (searcher.genotype_is in ("searched", "drawn", "scored"))
    if name.startswith("searcher") and "search" in made:
        del made["retrain"]  # two searchers may find the same genotype
    if "objective" not in METHODS[name] and name.startswith("objective"):
        assert made.pop("search") == plain["darts"]["search"]
    for stage, files in made.items():
        assert (files == plain["darts"][stage]) == (name in DEFAULTS), stage


OTHER = {  # for each option of a retraining but its unions, a value that SHORT does not have
    "epochs": 4,
    "batch_size": 8,
    "channels": 4,
    "cells": 4,
    "auxiliary_weight": 0.4,
    "drop_path": 0.5,
    "cutout": 4,
    "accumulate": 2,
    "sharpness": 0.1,
    "lookahead": 0.9,
    "ema": 0.9,
    "precision": "bfloat16",
}
OTHER_SGD = {
    "lr": 0.1,
    "lr_min": 0.01,
    "schedule": {"kind": "multistep", "at": [0.5]},
    "warm_up": 2,
    "momentum": 0.5,
    "nesterov": True,
    "weight_decay": 0.1,
    "clip": None,
}
OTHER_WEIGHTS = {  # of the other optimizers, by kind
    "adamw": {"lr": 0.01, "betas": [0.5, 0.9], "eps": 0.1, "weight_decay": 0.5},
    "muon": {
        "lr": 0.1,
        "momentum": 0.5,
        "nesterov": False,
        "weight_decay": 0.5,
        "steps": 2,
        "rest": {"lr": 0.1, "momentum": 0.5, "nesterov": True, "weight_decay": 0.5},
    },
}
# tuning without effect; tested above; OTHER_SGD and OTHER_WEIGHTS; needs more epochs: stages/test_retrain.py;
# needs a search or a file: stages/test_single_stage.py, stages/test_start.py
SAME = ("threads", "objective", "weights", "swa", "start")
UNIONS = {
    name: spec
    for name, field in Retrain.model_fields.items()
    if name not in SAME and (spec := members(field.annotation))
}
OPTIONS = {
    **{name: {name: value} for name, value in OTHER.items()},
    **{f"weights.{name}": {"weights": {name: value}} for name, value in OTHER_SGD.items()},
    **{f"{name} {kind_of(m)}": {name: spec_of(m)} for name, models in UNIONS.items() for m in models},
}


def test_every_option_of_a_retraining_is_tested():
    assert {*OTHER, *UNIONS, *SAME} == Retrain.model_fields.keys()
    assert OTHER_SGD.keys() == Sgd.model_fields.keys() - {"kind"}
    shared = {"kind", *Optimizer.model_fields} - {"lr"}
    for kind, spec in specs(AnyOptimizer).items():
        assert kind == "sgd" or OTHER_WEIGHTS[kind].keys() == spec.model_fields.keys() - shared
    assert OTHER_WEIGHTS["muon"]["rest"].keys() == Rest.model_fields.keys()


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_a_retraining_acts(workspace, monkeypatch, plain, name):
    made, metrics = trained(workspace, monkeypatch, PUBLISHED | {"retrain": OPTIONS[name]})
    assert metrics["test_images"] == 50
    assert made["retrain"] != plain["fixed"]["retrain"]


@pytest.fixture(scope="module")
def optimized(tmp_path_factory):
    """A retraining's files by each optimizer but SGD, with its default options."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return {
            kind: trained(tmp_path_factory.mktemp(kind), monkeypatch, by(kind))[0]["retrain"]
            for kind in OTHER_WEIGHTS
        }


def by(kind, **options):
    return PUBLISHED | {"retrain": {"weights": {"kind": kind, **options}}}


OF_OPTIMIZERS = [
    (kind, {name: {part: other} if part else value})
    for kind, options in OTHER_WEIGHTS.items()
    for name, value in options.items()
    for part, other in (value.items() if isinstance(value, dict) else [("", None)])
]


@pytest.mark.parametrize(("kind", "option"), OF_OPTIMIZERS, ids=str)
def test_every_option_of_an_optimizer_acts(workspace, monkeypatch, plain, optimized, kind, option):
    made, _ = trained(workspace, monkeypatch, by(kind, **option))
    assert made["retrain"] not in (optimized[kind], plain["fixed"]["retrain"])


def test_another_retrain_seed_changes_only_the_retraining(workspace, monkeypatch, plain):
    again = TINY["matrix"] | {"methods": ["m"], "retrain_seeds": [3]}
    made, _ = trained(workspace, monkeypatch, PLAIN, matrix=again)
    assert made["search"] == plain["darts"]["search"]
    assert made["retrain"] != plain["darts"]["retrain"]
