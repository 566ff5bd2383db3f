"""A search that scores untrained networks, from the plan to its outputs."""

import copy
import subprocess
import sys

import pytest
import torch

from hlrs.artifacts.tables import read_table
from hlrs.config.jobs import ScoreJob
from hlrs.config.params import Params
from hlrs.data.augment import Augmentation
from hlrs.data.images import Request, generator
from hlrs.errors import UserError
from hlrs.nas.genotype import nasbench201_from_string
from hlrs.nas.nasbench201 import NasBench201Network
from hlrs.nas.network import initialize
from hlrs.pipeline import memory
from hlrs.pipeline.cost_probe import Calibration
from hlrs.pipeline.costs import Forecast
from hlrs.pipeline.plan import plan
from hlrs.pipeline.preflight import check_trainings
from hlrs.pipeline.reasons import Reason
from hlrs.stages import extract, search, split
from hlrs.stages.images import SplitImages
from hlrs.stages.scoring import ScoreTask
from tests.conftest import REPOSITORY, TINY
from tests.nas.searchers.test_swap import counted_as_tuples

CPU = torch.device("cpu")
SPACES = {
    "darts": {"space": {"kind": "darts"}, "nodes": 2},
    "nasbench201": {"space": {"kind": "nasbench201"}, "nodes": 4},
}
OPERATIONS = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]


def scoring(space="nasbench201", seed=0, max_per_class=40, **options):
    """The jobs of one scored search, by stage, after its split."""
    raw = copy.deepcopy(TINY)
    raw["matrix"] |= {"methods": ["m"], "seeds": [seed]}
    raw["datasets"]["digits"]["max_per_class"] = max_per_class
    raw["methods"] = {"m": {"searcher": {"kind": "swap", "candidates": 5, "batch_size": 10} | options}}
    raw["search"] |= SPACES[space] | {"channels": 4}
    raw["retrain"] |= {"auxiliary_weight": 0.0, "drop_path": 0.0}
    raw["report"] = {}
    by_stage = {job.stage: job for job in plan(Params.model_validate(raw))}
    split.run(by_stage["split"])
    return by_stage


def task_of(job):
    params = ScoreJob.model_validate(job.params)
    return ScoreTask(params, SplitImages(job, params.images, ["weights"], CPU), CPU)


def spelled(alphas):
    """The cell with each edge's largest alpha; edges 0, 1 to 2, 3 to 5 lead into the three nodes."""
    names = [OPERATIONS[column] for column in alphas.argmax(1)]
    nodes = [
        [f"{name}~{state}" for state, name in enumerate(names[i:j])] for i, j in ((0, 1), (1, 3), (3, 6))
    ]
    return "+".join(f"|{'|'.join(node)}|" for node in nodes)


def test_the_kept_cell_has_the_highest_of_scores_counted_apart(workspace, monkeypatch):
    by_stage = scoring()
    facts = search.run(by_stage["search"])
    task = task_of(by_stage["search"])
    cells = [spelled(torch.randn(6, 5, generator=generator(0, "search", "candidate", i))) for i in range(5)]
    scores = []
    for cell in cells:
        network = NasBench201Network(
            nasbench201_from_string(cell), in_channels=1, classes=10, channels=4, cells=3
        )
        initialize(network, generator(0, "search", "weights"))
        scores.append(counted_as_tuples(network, task.images, monkeypatch))
    assert len(set(scores)) == 5
    assert (facts["candidates"], facts["best"], facts["score"]) == (5, scores.index(max(scores)), max(scores))
    extract.run(by_stage["extract"])
    assert f'"{cells[facts["best"]]}"' in by_stage["extract"].output("genotype.json").read_text()


@pytest.mark.parametrize("space", SPACES)
def test_a_scored_search_writes_one_architecture_and_no_history(workspace, space):
    by_stage = scoring(space)
    job = by_stage["search"]
    facts = search.run(job)
    assert job.params["search"] == {**job.params["search"], "channels": 4, "cells": 3, "threads": 1}
    assert "epochs" not in job.params["search"]
    assert (facts["resumes"], facts["candidates"]) == (0, 5)
    assert facts["throughput"][0]["images_per_second"] > 0
    assert facts["score"] > 10
    table = read_table(job.output("alphas.parquet"), "trajectory").to_pydict()
    assert set(table["epoch"]) == {0}
    assert read_table(job.output("history.parquet"), "search_history").num_rows == 0
    extract.run(by_stage["extract"])


def test_the_images_are_distinct_ones_of_the_weights_half_as_they_are(workspace):
    job = scoring()["search"]
    params = ScoreJob.model_validate(job.params)
    images = SplitImages(job, params.images, ["weights", "alphas"], CPU)
    halves = {
        half: {
            tuple(row)
            for row in images.set.batch(Request(images.positions(half), Augmentation(), ()))[0]
            .flatten(1)
            .tolist()
        }
        for half in ("weights", "alphas")
    }
    drawn = {tuple(row) for row in ScoreTask(params, images, CPU).images.flatten(1).tolist()}
    assert len(drawn) == 10
    assert drawn <= halves["weights"]
    assert not drawn & halves["alphas"]


def test_seeds_differ_in_candidates_weights_and_images(workspace):
    first, second = (task_of(scoring(seed=seed)["search"]) for seed in (0, 1))
    assert not torch.equal(first.images, second.images)
    assert (first.candidate(0)["alphas.normal"] != second.candidate(0)["alphas.normal"]).all()
    assert not torch.equal(first.network(0).stem[0].weight, second.network(0).stem[0].weight)
    assert torch.equal(first.network(0).stem[0].weight, first.network(1).stem[0].weight)  # one draw for all


def test_of_equal_scores_the_first_is_kept(workspace):
    task = task_of(scoring()["search"])
    task.scores.copy_(torch.tensor([3, 7, 2, 7, 7]))
    assert task.best == 1
    assert task.end([5.2]) == {"epoch": 0, "score": 7, "mean_score": 5.2}


def test_a_resumed_scoring_keeps_what_was_scored(workspace):
    job = scoring()["search"]
    whole, begun, resumed = task_of(job), task_of(job), task_of(job)
    for step in range(5):
        assert whole.step(step).tolist() == [whole.scores[step]]
    for step in range(3):
        begun.step(step)
    resumed.load(begun.state())
    for step in range(3, 5):
        resumed.step(step)
    assert whole.scores.tolist() == resumed.scores.tolist()
    assert min(whole.scores) > 0


def test_more_images_than_the_half_has_are_refused_in_one_line(workspace):
    by_stage = scoring(max_per_class=20, batch_size=64)
    with pytest.raises(
        UserError,
        match=r"^searcher\.batch_size: 64 is more than the \d\d images of the weights' half; lower it$",
    ):
        search.run(by_stage["search"])


# --- before it runs -----------------------------------------------------------------------------------


def test_its_cost_is_known_from_records_alone(workspace):
    job = scoring()["search"]

    class Past:
        records = ()

    estimate = Forecast(Past(), Calibration([job], print)).of(job)
    assert (estimate.how, estimate.why) == ("unknown", "no comparable record yet")


def test_an_interrupted_scoring_has_no_epochs_to_resume_at(workspace):
    job = scoring()["search"]
    reason = Reason(job, [], [], None, None, checkpoint=(0, 0), due=frozenset(), running=False)
    assert reason.words() == ["no result yet", "interrupted: will resume"]


MEASURE = r"""
import re, torch
from hlrs.config.methods import Swap
from hlrs.nas.derived import DerivedNetwork
from hlrs.nas.genotype import PUBLISHED
from hlrs.nas.searchers.swap import count_patterns
from hlrs.training.device import prepare

def peak():  # of this program; getrusage also counts the process that started it
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])

prepare(1)
network = DerivedNetwork(PUBLISHED["DARTS_V2"], in_channels=3, classes=10, channels=16, cells=8)
count_patterns(Swap(), torch.nn.ReLU(), torch.randn(2, 3, 4, 4))  # loads what torch imports at first use
before = peak()
count_patterns(Swap(), network, torch.randn(32, 3, 32, 32))
print(peak() - before)
"""


def test_the_estimated_memory_is_within_its_factor_of_a_measured_peak(workspace):
    params = ScoreJob.model_validate(scoring("darts", batch_size=32)["search"].params)
    large = params.search.model_copy(update={"nodes": 4, "channels": 16, "cells": 8})
    estimate = memory.of_scoring(params.model_copy(update={"search": large}), memory.Pictures(32))
    peak = int(subprocess.check_output([sys.executable, "-c", MEASURE], cwd=REPOSITORY))
    assert 1 / memory.UNSURE < estimate / peak < memory.UNSURE


def test_a_scoring_that_cannot_fit_is_refused_before_it_is_queued(workspace):
    by_stage = scoring(batch_size=64)
    room = memory.Room(1e3, "this machine")
    with pytest.raises(
        UserError, match=r"^search of digits/m/0: needs about .* lower searcher\.batch_size \(64\), ch"
    ):
        check_trainings(list(by_stage.values()), {}, lambda job: room)
    check_trainings(
        [by_stage["search"], by_stage["report"]], {}, lambda job: memory.Room(1e9, "this machine")
    )
