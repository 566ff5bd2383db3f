"""Classifiers that train on fixed features: of the images, of class Gaussians, of a diffusion."""

import contextlib
import copy

import pytest
import torch
from torch.nn import functional as F

from hlrs.artifacts.tables import read_table
from hlrs.config.params import Params
from hlrs.errors import UserError
from hlrs.pipeline.costs import Forecast
from hlrs.pipeline.plan import discard_states, plan
from hlrs.pipeline.preflight import check_counts
from tests.conftest import TINY
from tests.tasks import retrain_task, run_all, weights

BASE = {"searcher": {"kind": "resnet", "depth": 20, "width": 4}}
SMALL = {"steps": 100, "epochs": 2, "timesteps": 20, "sampling_steps": 5, "width": 16, "least": 4}
KINDS = {
    "continued": {"kind": "continued", "epochs": 2},
    "gaussian": {"kind": "gaussian", "fill": "ratio", "least": 4, "epochs": 2},
    "diffused": {"kind": "diffused", **SMALL},
}
COUNTS = [40, 30, 23, 18, 14, 11, 8, 6, 5, 4]


def params_of(kinds, **matrix):
    methods = {
        name: {
            "searcher": {"kind": "trained", "method": "base"},
            "retrain": {"epochs": 0, "classifier": classifier},
        }
        for name, classifier in kinds.items()
    }
    changes = {
        "matrix": {"datasets": ["digits"], "methods": ["base", *methods], "seeds": [0], **matrix},
        "methods": {"base": BASE, **methods},
        "retrain": TINY["retrain"] | {"epochs": 2},
        "report": {},
    }
    return Params.model_validate(copy.deepcopy(TINY) | changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with every result of the three classifiers' matrix, and its jobs."""
    folder = tmp_path_factory.mktemp("classifiers")
    with contextlib.chdir(folder):
        yield folder, run_all(params_of(KINDS))


@pytest.fixture
def jobs(trained, monkeypatch):
    monkeypatch.chdir(trained[0])
    return trained[1]


def rows(job):
    return read_table(job.output("features.parquet"), "features").to_pylist()


def test_the_classifier_alone_changes_from_the_weights_that_it_has(jobs):
    base = weights(jobs["retrain/digits/base/0"])
    for name in KINDS:
        job = jobs[f"retrain/digits/{name}/0"]
        changed = [key for key, value in weights(job).items() if not torch.equal(value, base[key])]
        assert sorted(changed) == ["classifier.bias", "classifier.weight"]
        assert torch.equal(retrain_task(job).result.classifier.weight, base["classifier.weight"])


def test_a_classifier_on_the_images_features_by_hand(jobs):
    task = retrain_task(jobs["retrain/digits/continued/0"])
    task.begin(0)
    phase, batch = task.phase, task.images.images[task.positions]
    with torch.no_grad():
        expected = task.result.eval().pooled(task.images.normalize(batch))
    assert torch.allclose(phase.features.values, expected, atol=1e-6)
    assert (phase.batch_size, phase.steps) == (16, sum(COUNTS) // 16)
    assert sorted(set(phase.order.flatten().tolist())) == sorted(phase.order.flatten().tolist())
    _, features, labels = phase.inputs(0)
    before = task.result.classifier
    logits = features @ before.weight.T + before.bias
    metrics = task.step(0)
    assert metrics[0].item() == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-6)
    assert metrics[1].item() == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_phases_epochs_and_what_the_history_says_of_them(jobs):
    phases = {"base": ["network"] * 2, "continued": ["classifier"] * 2, "gaussian": ["classifier"] * 2}
    phases["diffused"] = ["diffusion", "classifier", "classifier"]
    for name, expected in phases.items():
        table = read_table(jobs[f"retrain/digits/{name}/0"].output("history.parquet"), "retrain_history")
        history = table.to_pydict()
        assert history["phase"] == expected
        assert [value is None for value in history["accuracy"]] == [one == "diffusion" for one in expected]
        assert None not in history["loss"]


def test_the_features_of_each_class_are_counted_and_compared(jobs):
    assert rows(jobs["retrain/digits/base/0"]) == rows(jobs["retrain/digits/continued/0"]) == []
    for name, generated in {
        "gaussian": [8, 6, 5, 4, 4, 4, 4, 4, 4, 4],
        "diffused": [40 - count for count in COUNTS],
    }.items():
        found = rows(jobs[f"retrain/digits/{name}/0"])
        assert [row["count"] for row in found if row["origin"] == "images"] == COUNTS
        own = [row for row in found if row["origin"] == "generated"]
        assert [row["count"] for row in own] == generated
        assert [row["frechet"] is None for row in own] == [count < 2 for count in generated]
        assert all(len(row["x"]) == len(row["y"]) == min(50, row["count"]) for row in found)
        centred = [sum(row["x"]) for row in found if row["origin"] == "images"]
        assert sum(centred) == pytest.approx(0, abs=1e-3)  # standardised, and all are shown


def test_the_average_that_generates_has_the_learned_weights_alone(jobs):
    task = retrain_task(jobs["retrain/digits/diffused/0"])
    phase = task.phases[1]
    for _ in range(phase.steps):  # the weights stay, so their mean is they
        phase.average()
    seen = []
    phase.schedule = phase.schedule[:1]
    phase.sampling_steps = 1
    phase.averaged.register_forward_hook(lambda module, *_: seen.append([*module.parameters()]))
    phase.generate(phase.encoder.features, torch.tensor([0]))
    for own, learned in zip(seen[0], phase.denoiser.parameters(), strict=True):
        assert torch.allclose(own, learned, atol=1e-5)


@pytest.mark.parametrize("stop", [30, 100, 104])  # in the diffusion, between the phases, in the classifier's
def test_a_run_resumed_in_any_phase_gives_the_same_bytes(jobs, stop):
    job, done = jobs["retrain/digits/diffused/0"], 0
    task = retrain_task(job)
    for epoch in range(task.epochs):
        task.begin(epoch)
        for step in range(task.steps):
            if done == stop:
                state = {name: tensor.clone() for name, tensor in task.state().items()}
                task = retrain_task(job)
                task.load(state)
                task.begin(epoch)
            task.step(step)
            done += 1
        task.end([0.0, 0.0, 0.0])
    task.result.training_head = None
    expected = weights(job)
    assert all(torch.equal(value, expected[name]) for name, value in task.result.state_dict().items())
    assert task.phases[-1].described()["x"] == [row["x"] for row in rows(job)]


def test_the_steps_of_all_phases_are_counted(jobs):
    task = retrain_task(jobs["retrain/digits/diffused/0"])
    passes = 400 // 16  # all classes filled to 40
    assert [task.steps_before(epoch) for epoch in range(4)] == [0, 100, 100 + passes, 100 + 2 * passes]


def test_a_plan_knows_the_cost_of_what_reads_no_images_from_records_alone(jobs):
    from hlrs.pipeline.cost_probe import Calibration
    from hlrs.provenance.differences import Past

    names = ["retrain/digits/base/0", "retrain/digits/diffused/0"]
    chosen = [jobs[name] for name in names]
    discard_states(chosen)
    forecast = Forecast(Past(), Calibration(chosen, print))
    for job in chosen:
        estimate = forecast.of(job)
        assert estimate.how == "records"
        assert 0 < estimate.training < estimate.seconds


REJECTED = {
    "sampling_steps 30 are more than the 20 timesteps": {"diffused": {"sampling_steps": 30}},
    "ratio 0.3 acts with fill ratio alone": {"diffused": {"ratio": 0.3}},
    "steps": {"diffused": {"steps": 150}},
}


@pytest.mark.parametrize("message", REJECTED)
def test_what_cannot_act_is_refused(message):
    kinds = {name: KINDS[name] | change for name, change in REJECTED[message].items()}
    with pytest.raises(ValueError, match=message):
        params_of(kinds)


def test_a_class_too_small_to_model_is_refused_before_any_job(workspace):
    jobs = plan(params_of({"diffused": KINDS["diffused"] | {"least": 5}}))
    with pytest.raises(
        UserError, match=r"methods.diffused: retrain.*classifier.least: 5 .* 9 \(4\) have fewer"
    ):
        check_counts(jobs)


def test_predictions_are_adjusted_where_the_classes_shares_stay(workspace):
    adjusted = {"evaluate": {"adjust": 1.0}}
    params = params_of(KINDS)
    for name, error in {"continued": None, "gaussian": None, "diffused": "classifier diffused"}.items():
        raw = params.model_dump()
        raw["methods"][name] |= adjusted
        with pytest.raises(ValueError, match=error) if error else contextlib.nullcontext():
            Params.model_validate(raw)
