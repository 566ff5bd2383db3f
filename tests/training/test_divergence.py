"""A loss that is not finite: the message names what can have caused it, by the fields of this job."""

import math
from pathlib import Path

import pytest
import yaml

from hlrs.artifacts.jobs import Job
from hlrs.config.params import Params
from hlrs.errors import Failure
from hlrs.pipeline.plan import plan
from hlrs.training.divergence import check_finite
from tests.conftest import TINY


def job(stage: str, run: str, text: str = "") -> Job:
    """A job of the tiny params with some sections laid over."""
    raw = yaml.safe_load(yaml.safe_dump(TINY))
    for section, entries in (yaml.safe_load(text) or {}).items():
        raw[section] |= entries
    return next(job for job in plan(Params.model_validate(raw)) if (job.stage, job.run) == (stage, run))


def searched(**losses: float) -> dict:
    """A search's row of its third epoch."""
    return {"epoch": 2, "alphas_lr": 0.01, "weights_loss": 1.0, "alphas_loss": 1.0, **losses}


def message(job: Job, row: dict) -> str:
    with pytest.raises(Failure) as caught:
        check_finite(job, row)
    return str(caught.value)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_sound_losses_pass_and_one_that_was_not_computed():
    check_finite(job("search", "digits/darts/0"), searched(alphas_loss=None))


@pytest.mark.parametrize(
    ("recipe", "first"),
    [
        ("search: {weights: {lr: 500}}", "search.weights.lr (500)"),
        ("search: {alphas: {lr: 900}}", "search.alphas.lr (900)"),
        ("search: {alphas: {weight_decay: 400}}", "search.alphas.weight_decay (400)"),
        (
            "methods: {darts: {searcher: {kind: darts}, objective: {kind: plain, "
            "loss: {kind: focal, gamma: 90}}}}",
            "methods.darts.objective.loss.gamma (90)",
        ),
        (
            "methods: {darts: {searcher: {kind: darts}, objective: {kind: dual_head, gamma: 80}}}",
            "methods.darts.objective.gamma (80)",
        ),
    ],
)
def test_what_lies_furthest_above_its_default_is_named_first(recipe, first):
    line = message(job("search", "digits/darts/0", recipe), searched(weights_loss=math.nan))
    assert line.startswith("digits/darts/0: weights_loss is nan in epoch 3 of the search; lower ")
    assert line.partition("; lower ")[2].startswith(first)


def test_the_weights_are_not_blamed_for_the_alphas_loss_alone():
    line = message(
        job("search", "digits/darts/0", "search: {weights: {lr: 500}}"), searched(alphas_loss=math.inf)
    )
    assert "alphas_loss is inf" in line
    assert "search.weights" not in line


def test_alphas_that_rest_are_not_blamed():
    row = searched(weights_loss=math.nan, alphas_lr=0.0)
    assert "alphas" not in message(job("search", "digits/darts/0"), row).partition("; lower ")[2]


def test_the_classifiers_phase_names_the_classifiers_learning_rate():
    text = "retrain: {classifier: {kind: retrained, lr: 800}, weights: {lr: 900}}"
    row = {"epoch": 4, "phase": "classifier", "loss": math.nan}
    line = message(job("retrain", "digits/darts/0", text), row)
    assert "lower retrain.classifier.lr (800)" in line
    assert "retrain.weights.lr" not in line
    assert "retrain.weights.lr (900)" in message(
        job("retrain", "digits/darts/0", text), row | {"phase": "network"}
    )


def test_a_gradient_that_is_not_clipped_is_named():
    text = "search: {weights: {clip: null}}"
    line = message(job("search", "digits/darts/0", text), searched(weights_loss=math.nan))
    assert ", or set search.weights.clip" in line


def test_a_checkpoint_is_named_only_where_there_is_one():
    broken, row = job("search", "digits/darts/0"), searched(weights_loss=math.nan)
    assert "checkpoint" not in message(broken, row)
    broken.checkpoint.parent.mkdir(parents=True)
    broken.checkpoint.touch()
    assert message(broken, row).endswith(f"(an earlier state is kept in {broken.checkpoint})")
    assert not Path(broken.checkpoint).is_absolute()
