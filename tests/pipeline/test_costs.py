"""What a plan's jobs cost, checked against handmade records and a simulated clock."""

import copy
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from hlrs.artifacts.cache import Cache
from hlrs.artifacts.tensors import write_tensors
from hlrs.config.base import Spec
from hlrs.config.jobs import SearchJob
from hlrs.config.methods import CoupledLR, Darts, LinearDecay, Mixing, Sampler, UniformSampler
from hlrs.config.params import load
from hlrs.config.recipes import Search
from hlrs.config.spaces import DartsSpace
from hlrs.errors import Failure, UserError
from hlrs.nas.genotype import PUBLISHED
from hlrs.pipeline import cost_probe, plan
from hlrs.pipeline.cost_probe import MEMORY, Calibration, Entry, Measurement
from hlrs.pipeline.costs import Forecast
from hlrs.pipeline.plan_view import Outlook, duration
from hlrs.pipeline.reasons import checkpoint
from hlrs.provenance.differences import Past
from hlrs.stages.networks import read_genotype
from hlrs.training.throughput import Throughput, measure
from tests.conftest import TINY, edit
from tests.pipeline.test_reasons import finish

A100 = {"name": "NVIDIA A100"}
# TINY's split: 40·10^(−c/9) images of class c, rounded down; half of each, rounded up, trains the weights
COUNTS = [40, 30, 23, 18, 14, 11, 8, 6, 5, 4]
WEIGHTS = [20, 15, 12, 9, 7, 6, 4, 3, 3, 2]


def jobs():
    """The jobs of params.yaml by stage/run."""
    return {f"{job.stage}/{job.run}": job for job in plan.plan(load(Path("params.yaml")))}


def trained(job, epochs, images=320, **fields):
    """Write the record of a training: each epoch's seconds, all of `images` images, and 4 s around them."""
    throughput = [
        {"epoch": epoch, "seconds": float(seconds), "images_per_second": images / seconds}
        for epoch, seconds in enumerate(epochs)
    ]
    inside = float(sum(epochs))
    facts = {
        "throughput": throughput,
        "training_seconds": inside,
        "seconds": inside + 4,
        "resumes": 0,
        "gpu": A100,
        "cpu": "AMD EPYC",
    }
    finish([job], **facts | fields)


class Unmeasured(Calibration):
    """Counts images but refuses to measure."""

    def __init__(self, jobs):
        super().__init__(list(jobs.values()), lambda text: None)

    def throughput(self, job):
        raise UserError("it would be measured")


def estimate(name, **changes):
    """The estimate for a job after an edit, without measurements."""
    edit(Path("params.yaml"), **changes)
    known = jobs()
    return Forecast(Past(), Unmeasured(known)).of(known[name])


# --- from records -------------------------------------------------------------------------------------


def test_seeds_of_the_same_parameters_are_averaged(workspace):
    edit(workspace / "params.yaml", **{"matrix.seeds": [0, 1]})
    trained(jobs()["search/digits/hlrs/0"], [10, 10, 10])
    trained(jobs()["search/digits/hlrs/1"], [20, 20, 20])
    trained(jobs()["search/digits/darts/0"], [90, 90, 90])
    found = estimate("search/digits/hlrs/2", **{"matrix.seeds": [2]})
    assert (found.how, found.device, found.gpu, len(found.sources)) == ("records", "NVIDIA A100", True, 2)
    assert found.seconds == pytest.approx((34 + 64) / 2)
    assert found.hours == pytest.approx(49 / 3600)


def test_a_record_of_the_same_code_is_preferred_and_none_has_less_than_no_time_around_its_training(workspace):
    edit(workspace / "params.yaml", **{"matrix.seeds": [0, 1]})
    trained(jobs()["search/digits/hlrs/0"], [10, 10, 10], seconds=29.0)
    trained(jobs()["search/digits/hlrs/1"], [20, 20, 20], code="another")
    assert estimate("search/digits/hlrs/2", **{"matrix.seeds": [2]}).seconds == pytest.approx(30)


def test_draws_of_the_same_images_share_an_estimate(workspace):
    edit(workspace / "params.yaml", **{"matrix.split_seeds": [0, 5]})
    trained(jobs()["search/digits/hlrs/0"], [10, 10, 10])
    found = estimate("search/digits-5/hlrs/0")
    assert (found.how, found.seconds) == ("records", pytest.approx(34))
    other = {"datasets.digits.max_per_class": 20}
    assert estimate("search/digits-5/hlrs/0", **other).why == "it would be measured"


def test_cpu_hours_count_every_thread(workspace):
    edit(workspace / "params.yaml", **{"search.threads": 4})
    trained(jobs()["search/digits/hlrs/0"], [10, 10, 10], gpu=None)
    found = estimate("search/digits/hlrs/1", **{"matrix.seeds": [1]})
    assert (found.device, found.gpu) == ("CPU, AMD EPYC", False)
    assert found.hours == pytest.approx(4 * 34 / 3600)
    assert estimate("search/digits/hlrs/1", **{"search.threads": 2}).why == "it would be measured"


def test_gpu_hours_do_not_count_threads_and_cpu_hours_of_any_stage_do(workspace):
    edit(workspace / "params.yaml", **{"search.threads": 4, "search.epochs": 4, "evaluate.threads": 3})
    trained(jobs()["search/digits/hlrs/0"], [10, 10, 10, 10])
    finish([jobs()["evaluate/digits/hlrs/0"]], seconds=6.0, gpu=None)
    edit(workspace / "params.yaml", **{"matrix.seeds": [1]})
    write_tensors(jobs()["search/digits/hlrs/1"].checkpoint, {}, {"epoch": 3, "step": 0})
    search, evaluate = estimate("search/digits/hlrs/1"), estimate("evaluate/digits/hlrs/1")
    assert (search.hours, search.saved) == (pytest.approx(14 / 3600), pytest.approx(30 / 3600))
    assert evaluate.hours == pytest.approx(3 * 6 / 3600)


def test_records_of_different_devices_are_not_averaged(workspace):
    edit(workspace / "params.yaml", **{"matrix.seeds": [0, 1]})
    trained(jobs()["search/digits/hlrs/0"], [10, 10, 10], gpu=None, ended="2026-01-01")
    trained(jobs()["search/digits/hlrs/1"], [2, 2, 2], ended="2026-01-02")
    found = estimate("search/digits/hlrs/2", **{"matrix.seeds": [2]})
    assert (found.device, found.seconds) == ("NVIDIA A100", pytest.approx(10))


def test_records_and_measurements_of_a_cpu_do_not_count_beside_a_gpu(hurried, monkeypatch):
    edit(hurried / "params.yaml", **{"matrix.methods": ["darts"], "report": {}})
    trained(jobs()["search/digits/darts/0"], [10, 10, 10], gpu=None)
    forecast, known = measured([])
    retrain = known["retrain/digits/darts/0"]
    assert forecast.of(retrain).how == "measured"
    assert forecast.calibration.remembered(retrain) is not None
    for module in ("costs", "cost_probe"):
        monkeypatch.setattr(f"hlrs.pipeline.{module}.gpu_here", lambda: True)
    assert forecast.calibration.remembered(retrain) is None
    assert estimate("search/digits/darts/0").why == "it would be measured"
    trained(jobs()["search/digits/darts/0"], [10, 10, 10])
    assert estimate("search/digits/darts/0").device == "NVIDIA A100"


def test_a_record_without_a_pace_is_not_used(workspace):
    stopped = {"epoch": 0, "seconds": 10.0, "images_per_second": 0.0}
    trained(jobs()["search/digits/darts/0"], [10], throughput=[stopped])
    assert estimate("search/digits/darts/0").why == "it would be measured"


def test_a_resumed_training_counts_every_process(workspace):
    """Its last process started halfway through the second epoch: 5 + 10 s of training and 3 s around it."""
    record = {
        "throughput": [
            {"epoch": 0, "seconds": 10.0, "images_per_second": 32.0},
            {"epoch": 1, "seconds": 5.0, "images_per_second": 32.0},
            {"epoch": 2, "seconds": 10.0, "images_per_second": 32.0},
        ],
        "training_seconds": 15.0,
        "seconds": 18.0,
        "resumes": 1,
    }
    trained(jobs()["search/digits/hlrs/0"], [1, 1, 1], **record)
    assert estimate("search/digits/hlrs/1", **{"matrix.seeds": [1]}).seconds == pytest.approx(33)


def test_a_checkpoint_saves_its_epochs(workspace):
    edit(workspace / "params.yaml", **{"search.epochs": 4})
    trained(jobs()["search/digits/hlrs/0"], [10, 10, 10, 10])
    edit(workspace / "params.yaml", **{"matrix.seeds": [1]})
    write_tensors(jobs()["search/digits/hlrs/1"].checkpoint, {}, {"epoch": 3, "step": 1})
    found = estimate("search/digits/hlrs/1")
    assert found.seconds == pytest.approx(14)
    assert found.saved == pytest.approx(30 / 3600)


def test_a_checkpoint_of_frozen_alphas_saves_the_expensive_epochs(workspace):
    """The first two of four epochs step the alphas, so they take two thirds of the batches."""
    freeze = {"methods.darts.arch_lr": {"kind": "freeze", "at": 0.5}, "search.epochs": 4}
    edit(workspace / "params.yaml", **freeze)
    write_tensors(jobs()["search/digits/darts/0"].checkpoint, {}, {"epoch": 2, "step": 0})
    trained(jobs()["search/digits/darts/0"], [8, 8, 4, 4], images=160)
    assert estimate("search/digits/darts/0").done == pytest.approx(2 / 3)


def test_a_checkpoint_of_epochs_that_read_no_images_saves_their_share(workspace):
    classifier = {"kind": "continued", "epochs": 4}
    later = {
        "searcher": {"kind": "trained", "method": "base"},
        "retrain": {"epochs": 0, "classifier": classifier},
    }
    methods = {"methods.base": {"searcher": {"kind": "resnet", "depth": 20}}, "methods.later": later}
    edit(workspace / "params.yaml", **methods, **{"matrix.methods": ["base", "later"], "report": {}})
    job = jobs()["retrain/digits/later/0"]
    assert cost_probe.batches(job) == [0] * 4
    trained(job, [8, 8, 8, 8])
    assert estimate("retrain/digits/later/0").seconds == pytest.approx(36)
    write_tensors(job.checkpoint, {}, {"epoch": 3, "step": 0})
    assert estimate("retrain/digits/later/0").seconds == pytest.approx(4 + 8)


def test_stages_without_epochs_are_estimated_from_their_seconds(workspace):
    edit(workspace / "params.yaml", **{"matrix.seeds": [0, 1]})
    finish([jobs()["evaluate/digits/darts/0"]], seconds=6.0, gpu=A100)
    finish([jobs()["evaluate/digits/darts/1"]], seconds=8.0, gpu=A100)
    finish([jobs()["split/digits"]], seconds=1.5, gpu=None, cpu="AMD EPYC")
    assert estimate("evaluate/digits/hlrs/0").seconds == pytest.approx(7)
    assert estimate("evaluate/digits/darts/1").seconds == pytest.approx(8)  # its own record
    assert (estimate("split/digits").seconds, estimate("split/digits").gpu) == (1.5, False)
    assert estimate("extract/digits/hlrs/0").how == "unknown"
    assert estimate("evaluate/digits/hlrs/0", **{"retrain.channels": 8}).how == "unknown"
    other = {"kind": "torchvision", "name": "mnist", "root": "data", "download": True}
    elsewhere = {"datasets.digits.source": other, "retrain.channels": 2}
    assert estimate("evaluate/digits/hlrs/0", **elsewhere).how == "unknown"
    assert estimate("split/digits").how == "unknown"
    assert "record" in estimate("extract/digits/hlrs/0").why


def test_a_random_search_is_not_estimated_from_a_training(workspace):
    edit(
        workspace / "params.yaml",
        **{"methods.random": {"searcher": {"kind": "random"}}, "matrix.methods": ["darts", "random"]},
    )
    trained(jobs()["search/digits/darts/0"], [10, 10, 10])
    assert "record" in estimate("search/digits/random/0").why
    finish([jobs()["search/digits/random/0"]], seconds=2.0, throughput=[], resumes=0)
    assert estimate("search/digits/random/1", **{"matrix.seeds": [1]}).seconds == 2.0


# --- only the same parameters -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"search.epochs": 9},
        {"search.batch_size": 8},
        {"search.channels": 8},
        {"search.recompute": True},
        {"datasets.digits.max_per_class": 80},
        {"methods.darts.searcher": {"kind": "darts", "order": 2}},
    ],
)
def test_a_record_of_other_parameters_is_ignored_and_the_training_measured(workspace, changes):
    trained(jobs()["search/digits/darts/0"], [10, 10, 10])
    assert estimate("search/digits/darts/0").how == "records"
    assert estimate("search/digits/darts/0", **changes).why == "it would be measured"


# --- methods without a search, several retrainings ----------------------------------------------------

RESNET = {"methods.darts": {"searcher": {"kind": "resnet", "depth": 20}}}
FIXED = {"methods.darts": {"searcher": {"kind": "fixed", "genotype": "PC_DARTS"}}}
RETRAINED = sum(COUNTS) // 16 * 16  # images of an epoch of a retraining


def test_a_resnets_record_is_not_used_for_networks_of_cells(workspace):
    edit(workspace / "params.yaml", **RESNET)
    trained(jobs()["retrain/digits/darts/0"], [10, 10, 10], RETRAINED)
    assert estimate("retrain/digits/hlrs/0").why == "it would be measured"


def test_further_retrainings_take_as_long_as_the_first(workspace):
    edit(workspace / "params.yaml", **{"retrain.epochs": 3})
    trained(jobs()["retrain/digits/darts/0"], [10, 10, 10], RETRAINED)
    found = estimate("retrain/digits/darts/0-3", **{"matrix.retrain_seeds": [0, 3]})
    assert (found.how, found.seconds) == ("records", pytest.approx(34))


def test_a_classifiers_own_epochs_take_one_batch_per_step(workspace):
    bilateral = {"objective": {"kind": "bilateral"}, "auxiliary_weight": 0.0}
    own = bilateral | {"classifier": {"kind": "retrained", "epochs": 2}}
    edit(workspace / "params.yaml", **{"methods.darts.retrain": own})
    assert cost_probe.batches(jobs()["retrain/digits/darts/0"]) == [2, 2, 2, 1, 1]


def test_views_of_an_image_count_as_batches(workspace):
    for objective, batches in (("proco", [3] * 3), ("glmc", [2] * 3)):
        own = {"objective": {"kind": objective}, "auxiliary_weight": 0.0}
        edit(workspace / "params.yaml", **{"methods.darts.retrain": own})
        assert cost_probe.batches(jobs()["retrain/digits/darts/0"]) == batches


def test_epochs_before_the_alphas_start_take_one_batch_per_step(workspace):
    """PC-DARTS's alphas rest in two of four epochs, at progress 0 and 0.25, and in four of eight."""
    pc_darts = {"methods.darts.searcher": {"kind": "pc_darts", "portion": 2, "warm_up": 0.4}}
    edit(workspace / "params.yaml", **pc_darts, **{"search.epochs": 4})
    assert cost_probe.batches(jobs()["search/digits/darts/0"]) == [1, 1, 2, 2]
    edit(workspace / "params.yaml", **{"search.epochs": 8})
    assert cost_probe.batches(jobs()["search/digits/darts/0"]) == [1] * 4 + [2] * 4


def test_the_batches_of_an_objective_are_counted_by_what_its_spec_says():
    """Of an objective that users might add; coupled to 1 − t, the alphas step in all four epochs."""

    class Triple(Spec):
        mixing: Mixing = LinearDecay()
        samplers: list[Sampler] = [UniformSampler()] * 3

    search = SearchJob.model_construct(
        searcher=Darts(), objective=Triple(), arch_lr=CoupledLR(), search=Search(epochs=4)
    )
    assert cost_probe.batches_of(search) == [6, 6, 6, 6]


@pytest.mark.parametrize(
    ("objective", "batches"), [({"kind": "dual_head"}, [2] * 3), ({"kind": "bilateral"}, [4] * 3)]
)
def test_two_samplers_double_the_batches_and_a_dual_head_does_not(workspace, objective, batches):
    edit(workspace / "params.yaml", **{"methods.darts.objective": objective})
    assert cost_probe.batches(jobs()["search/digits/darts/0"]) == batches


def test_a_published_genotype_is_measured_itself(workspace, tmp_path):
    edit(workspace / "params.yaml", **FIXED)
    known = jobs()
    held = Calibration(list(known.values()), lambda text: None)
    sample = held._on_sample(known["retrain/digits/darts/0"], tmp_path)
    assert read_genotype(Path(sample.inputs["genotype"]), DartsSpace()) == PUBLISHED["PC_DARTS"]
    assert not held.guesses(known["retrain/digits/darts/0"])
    assert held.guesses(known["retrain/digits/hlrs/0"])


@pytest.mark.parametrize(("start", "guessed"), [("supernet", False), ("decoded", True)])
def test_what_starts_as_a_supernet_is_measured_before_its_search(hurried, start, guessed):
    recipe = {"start": start, "auxiliary_weight": 0.0, "drop_path": 0.0}
    edit(hurried / "params.yaml", **{"methods.darts.retrain": recipe, "matrix.methods": ["darts"]})
    forecast, known = measured([])
    found = forecast.of(known["retrain/digits/darts/0"])
    assert (found.how, found.guessed) == ("measured", guessed)


def test_a_step_of_more_batches_than_a_sample_usually_has_is_measured(hurried, tmp_path):
    """40 batches of 2 images are fewer than the 159 that there are."""
    edit(hurried / "params.yaml", **{"retrain.batch_size": 2, "retrain.accumulate": 40, **RESNET})
    edit(hurried / "params.yaml", **{"matrix.methods": ["darts"], "report": {}})
    forecast, known = measured([])
    found = forecast.of(known["retrain/digits/darts/0"])
    assert (found.how, found.why) == ("measured", "")


def test_a_training_too_large_for_the_memory_fails_alone():
    what, device = "search of a/b/0", "CPU, x"
    fails = pytest.raises(Failure, match=r"^search of a/b/0 does not fit the memory of CPU, x$")
    with fails, cost_probe.within_memory(what, device):
        torch.empty(1 << 60, dtype=torch.uint8)  # PyTorch's error of a CPU has no class of its own
    with pytest.raises(RuntimeError, match="size"), cost_probe.within_memory(what, device):
        torch.ones(2) + torch.ones(3)


def test_a_resnet_is_measured_without_a_genotype(hurried):
    edit(hurried / "params.yaml", **RESNET, **{"matrix.methods": ["darts"]})
    found, text = measured([]), "\n".join(shown().lines())
    assert found[0].of(found[1]["retrain/digits/darts/0"]).how == "measured"
    assert "random genotype" not in text
    edit(hurried / "params.yaml", **{"matrix.methods": ["hlrs"], "report": {}})
    assert "random genotype" in "\n".join(shown().lines())


# --- measured -----------------------------------------------------------------------------------------


class Steps:
    """A task whose first step takes ten seconds and every other one second."""

    steps = 3

    def __init__(self):
        self.now, self.pause, self.taken = 0.0, 10.0, []

    def begin(self, epoch):
        self.taken.append(("begin", epoch))

    def step(self, step):
        self.now += self.pause
        self.pause = 1.0
        self.taken.append(step)
        return torch.zeros(1)


def test_the_first_step_warms_up_and_the_others_are_measured():
    task = Steps()
    assert measure(task, 4, 10.5, lambda: task.now) == Throughput(15, 1.0)  # blocks of 1, 2, 4 and 8 steps
    assert task.taken == [("begin", 4), 0, *(step % 3 for step in range(15))]


def test_a_step_that_takes_the_whole_time_is_measured_alone():
    task = Steps()
    assert measure(task, 0, 10.0, lambda: task.now) == Throughput(1, 10.0)


def test_seconds_are_pace_times_steps_and_epochs():
    measured = Measurement("CPU, x", False, 6, {2: Throughput(9, 0.5), 1: Throughput(9, 0.25)}, "2026-01-01")
    assert measured.seconds([2, 2, 1]) == pytest.approx(6 * (0.5 + 0.5 + 0.25))
    # a batch that is only evaluated takes a third of the 0.25 s of one that is trained on
    assert measured.seconds([2], evaluated=12) == pytest.approx(6 * (0.5 + 1.0))


@pytest.mark.parametrize(("searcher", "batches"), [("darts_pt", 2), ("blank_pt", 1)])
def test_decisions_on_the_supernet_lengthen_a_search(workspace, searcher, batches):
    """TINY's cells have 2 edges, so 3 + 4 epochs, and 2 · 2 · 7 candidates of 2 kinds of cell.

    In the end the supernet and the genotype decoded in it are evaluated, on two branches for hlrs.
    """
    method = {"searcher": {"kind": searcher, "tune": 4}}
    edit(workspace / "params.yaml", **{"methods.darts": method})
    search = jobs()["search/digits/darts/0"]
    assert cost_probe.batches(search) == [batches] * 7
    assert cost_probe.evaluated(search, 0) == 28 + 2
    assert cost_probe.evaluated(jobs()["search/digits/hlrs/0"], 0) == 2 * 2
    write_tensors(search.checkpoint, {}, {"epoch": 5, "step": 2})
    assert checkpoint(search) == (5, 7)


@pytest.mark.parametrize(
    ("method", "held", "batches"),
    [
        ({}, 0, 0),
        ({}, 0.25, 8 * 0.25),
        ({"accumulate": 2}, 0.25, 8 * 2 * 0.25),
        ({"classifier": {"kind": "retrained", "epochs": 4}}, 0.25, (8 + 4) * 0.25),
        ({"swa": 0.5}, 0, 1),  # once, at the end
        ({"swa": 0.5}, 0.25, 3 + 8 * 0.25),  # after epochs 5, 6 and 7: the first of 4, 4 to 7, is no mean yet
        ({"swa": 0.5, "accumulate": 2}, 0.25, 2 * (3 + 8 * 0.25)),
    ],
)
def test_a_holdout_and_averages_lengthen_a_retraining(workspace, method, held, batches):
    edit(workspace / "params.yaml", **{"methods.darts.retrain": {"epochs": 8, **method}})
    assert cost_probe.evaluated(jobs()["retrain/digits/darts/0"], held) == batches


def test_steps_and_the_holdouts_share_follow_from_the_counts_of_images(workspace):
    """A tenth of each class is held out; of the others half, rounded up, train the weights of a search."""
    edit(workspace / "params.yaml", **{"retrain.batch_size": 8, "retrain.accumulate": 3})
    known = jobs()
    held = Calibration(list(known.values()), print)
    assert held.steps(known["retrain/digits/darts/0"]) == sum(COUNTS) // 24 == 6
    edit(workspace / "params.yaml", **{"datasets.digits.holdout_fraction": 0.1})
    known = jobs()
    held = Calibration(list(known.values()), print)
    counts = held.counts(known["retrain/digits/darts/0"])
    assert counts["alphas"] > 0
    assert counts["weights"] + counts["alphas"] + counts["holdout"] == sum(COUNTS)
    trained = sum(COUNTS) - counts["holdout"]
    assert held.held(known["retrain/digits/darts/0"]) == pytest.approx(counts["holdout"] / trained)


CALIBRATION = Cache[dict[str, Entry]](MEMORY, dict[str, Entry])


@pytest.fixture
def hurried(workspace, monkeypatch):
    """Measure as few steps as possible."""
    monkeypatch.setattr(cost_probe, "SECONDS", 1e-6)
    return workspace


def measured(notices):
    known = jobs()
    return Forecast(Past(), Calibration(list(known.values()), notices.append)), known


def test_without_records_the_stages_own_steps_are_measured_once(hurried):
    edit(
        hurried / "params.yaml",
        **{"methods.darts.arch_lr": {"kind": "freeze", "at": 0.5}, "matrix.seeds": [0, 1]},
    )
    notices = []
    forecast, known = measured(notices)
    found = [forecast.of(known[f"{s}/digits/darts/{seed}"]) for s in ("search", "retrain") for seed in (0, 1)]
    assert [e.how for e in found] == ["measured"] * 4
    assert found[0].training == found[1].training
    assert len(notices) == 2  # a search and a retraining
    entries = {len(entry.paces): entry for held in CALIBRATION.read().values() for entry in held.values()}
    assert entries[2].steps == sum(WEIGHTS) // 16 == 5
    assert entries[1].steps == sum(COUNTS) // 16 == 9
    paces = {number: seconds for number, (_, seconds) in entries[2].paces.items()}
    evaluated = cost_probe.FORWARD * min(paces[2] / 2, paces[1]) * 2
    assert found[0].training == pytest.approx(5 * (2 * paces[2] + paces[1] + evaluated))
    [(_, seconds)] = entries[1].paces.values()
    assert found[2].training == pytest.approx(9 * 3 * seconds)
    assert not Path("results").exists()
    again, known = measured(notices)
    assert again.of(known["search/digits/darts/1"]).how == "remembered"
    assert again.of(known["search/digits/darts/1"]).training == found[0].training
    assert len(notices) == 2


BESIDE = """
import os
os.sched_setaffinity(0, {core})
print("busy", flush=True)
while True: pass
"""


def test_a_measurement_beside_a_busy_program_says_so(hurried, monkeypatch):
    """On one core for both, the kernel gives either half of the time."""
    monkeypatch.setattr(cost_probe, "SECONDS", 0.5)
    edit(hurried / "params.yaml", **{"matrix.methods": ["darts"], "report": {}})
    cores = os.sched_getaffinity(0)
    core = {min(cores)}
    command = [sys.executable, "-c", BESIDE.replace("{core}", str(core))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as beside:
        try:
            beside.stdout.readline()
            os.sched_setaffinity(0, core)
            text = " ".join(" ".join(shown().lines()).split())
        finally:
            os.sched_setaffinity(0, cores)
            beside.kill()
    [share] = re.findall(r"waited up to (\d+)% of its time", text)
    assert 20 < int(share) < 100
    assert ".hlrs/calibration.json" in text
    again = shown().facts()["due"]  # a saved measurement is no better
    assert max(job["estimate"]["waited"] or 0 for job in again) == pytest.approx(int(share) / 100, abs=0.005)


@pytest.mark.parametrize(("waited", "said"), [(0.08, False), (0.12, True)])
def test_waiting_for_a_core_is_worth_a_remark_above_a_tenth(hurried, waited, said):
    edit(hurried / "params.yaml", **RESNET, **{"matrix.methods": ["darts"], "report": {}})
    measured([])[0].of(jobs()["retrain/digits/darts/0"])
    memory = CALIBRATION.read()
    [held] = memory.values()
    [device] = held
    held[device] = held[device].model_copy(update={"waited": waited})
    CALIBRATION.write(memory)
    assert (f"{waited:.0%} of its time" in " ".join("\n".join(shown().lines()).split())) == said


def test_the_share_that_threads_waited_is_of_the_time_in_which_they_could_run():
    assert cost_probe.waited((5, 7), (8, 8)) == 1 / 4
    assert cost_probe.waited((0, 0), (0, 0)) == 0  # the system does not say
    assert cost_probe.waited((9, 9), (8, 8)) == 0  # a thread has ended


def test_a_measurement_holds_for_its_code_its_genotype_and_all_kinds_of_its_epochs(hurried):
    edit(hurried / "params.yaml", **{"matrix.methods": ["darts"], "report": {}})
    known = jobs()
    held = Calibration(list(known.values()), lambda text: None)
    search, retrain = known["search/digits/darts/0"], known["retrain/digits/darts/0"]
    held.throughput(search)
    held.throughput(retrain)
    assert held.remembered(search) is not None
    assert held.remembered(replace(search, code="another")) is None
    assert held.remembered(retrain) is not None
    genotype = Path(retrain.inputs["genotype"])
    genotype.parent.mkdir(parents=True)
    genotype.touch()
    assert held.remembered(retrain) is None  # what was measured was a random one
    for entries in held.known.values():
        entries.update(
            {device: entry.model_copy(update={"paces": {9: (1, 1.0)}}) for device, entry in entries.items()}
        )
    assert held.remembered(search) is None


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_memory_is_measured_again(hurried, text):
    MEMORY.parent.mkdir(exist_ok=True)
    MEMORY.write_text(text)
    forecast, known = measured([])
    assert forecast.of(known["search/digits/darts/0"]).how == "measured"
    assert len(CALIBRATION.read()) == 1


def test_a_measurement_on_a_gpu_is_preferred(hurried):
    notices = []
    forecast, known = measured(notices)
    job = known["search/digits/darts/0"]
    assert not forecast.of(job).gpu
    memory = CALIBRATION.read()
    [held] = memory.values()
    held["NVIDIA A100"] = Entry(gpu=True, steps=5, paces={2: (100, 0.01)}, date="2020-01-01", waited=0.0)
    CALIBRATION.write(memory)
    forecast, _ = measured(notices)
    assert forecast.of(job).device == "NVIDIA A100"
    assert forecast.of(job).hours == pytest.approx(5 * (3 * 0.01 + cost_probe.FORWARD * 0.01) / 3600)


def test_missing_data_are_not_downloaded(hurried):
    params = copy.deepcopy(TINY)
    params["datasets"]["digits"]["source"] = {
        "kind": "torchvision",
        "name": "mnist",
        "root": "data/none",
        "download": True,
    }
    (hurried / "params.yaml").write_text(yaml.safe_dump(params))
    forecast, known = measured([])
    found = forecast.of(known["search/digits/darts/0"])
    assert found.how == "unknown"
    assert found.why.startswith("digits: ")
    assert "`hlrs split digits`" in found.why
    assert not Path("data").exists()


def test_without_torch_only_records_give_estimates(hurried, monkeypatch):
    trained(jobs()["search/digits/hlrs/0"], [10, 10, 10])
    monkeypatch.setitem(sys.modules, "torch", None)
    forecast, known = measured([])
    assert forecast.of(known["search/digits/hlrs/0"]).seconds == pytest.approx(34)
    assert "torch" in forecast.of(known["retrain/digits/hlrs/0"]).why


# --- what is shown ------------------------------------------------------------------------------------


def shown():
    params = load(Path("params.yaml"))
    return Outlook(plan.plan(params), params, lambda text: None)


def test_a_complete_plan_is_one_line(workspace):
    finish(plan.plan(load(Path("params.yaml"))), seconds=1.0)
    [line] = shown().lines()
    assert "None of 10 jobs" in line


@pytest.mark.parametrize("width", [80, 120])
def test_a_hundred_runs_stay_readable(hurried, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    edit(hurried / "params.yaml", **{"matrix.seeds": list(range(50))})
    trained(jobs()["search/digits/hlrs/7"], [36, 36, 36], gpu=None)
    edit(hurried / "params.yaml", **{"search.weights": {"lr": 0.1}})
    lines = list(shown().lines())
    assert "402 of 402 jobs" in lines[0]
    assert len(lines) < 40
    assert max(map(len, lines)) <= width
    assert any(" 99  digits/darts/{0..49}, digits/hlrs/{0..6,8..49}: no result yet" in line for line in lines)


def test_the_json_holds_what_the_text_says(hurried):
    """For a second seed, a search of 3 · 36 + 4 s and everything after it are due."""
    edit(hurried / "params.yaml", **{"matrix.methods": ["darts"]})
    for name, job in jobs().items():
        if name.startswith(("search", "retrain")):
            trained(job, [36, 36, 36])
        else:
            finish([job], seconds=3.6, gpu=None)
    edit(hurried / "params.yaml", **{"matrix.seeds": [1]})
    facts = json.loads(json.dumps(shown().facts()))
    assert [job["stage"] for job in facts["due"]] == ["search", "extract", "retrain", "evaluate", "report"]
    search = facts["due"][0]
    assert (search["run"], search["estimate"]["basis"]) == ("digits/darts/1", "records")
    assert search["estimate"]["hours"] == pytest.approx(112 / 3600)
    assert facts["gpu_hours"] == pytest.approx(2 * 112 / 3600)  # search and retraining
    assert facts["cpu_hours"] == pytest.approx(0.003)  # extract, evaluate, report


def test_the_json_says_what_checkpoints_save_and_what_is_not_known(workspace):
    edit(workspace / "params.yaml", **{"matrix.methods": ["darts"], "matrix.seeds": [0, 1]})
    finish([job for name, job in jobs().items() if name.endswith(("digits", "darts/0"))])
    trained(jobs()["search/digits/darts/0"], [36, 36, 36])
    trained(jobs()["retrain/digits/darts/0"], [72, 72, 72], RETRAINED, gpu=None)
    for stage, epoch in (("search", 2), ("retrain", 1)):
        write_tensors(jobs()[f"{stage}/digits/darts/1"].checkpoint, {}, {"epoch": epoch, "step": 0})
    facts = shown().facts()
    assert facts["saved_gpu_hours"] == pytest.approx(2 * 36 / 3600)
    assert facts["saved_cpu_hours"] == pytest.approx(72 / 3600)
    assert facts["not_estimated"] == 3  # extract, evaluate, report
    search, extract, retrain, *_ = (job["estimate"] for job in facts["due"])
    assert (search["unit"], search["saved"]) == ("GPU-hours", pytest.approx(72 / 3600))
    assert (retrain["unit"], retrain["seconds"]) == ("CPU-hours", pytest.approx(2 * 72 + 4))
    assert [extract[name] for name in ("unit", "hours", "saved", "seconds")] == [None] * 4
    assert "record" in extract["reason"]


def test_long_lists_are_cut_and_stages_named_once(workspace):
    edit(workspace / "params.yaml", **{"matrix.methods": ["darts"]})
    for name, job in jobs().items():
        if name.startswith(("search", "retrain")):
            trained(job, [36, 36, 36], RETRAINED)
    finish([jobs()["split/digits"]])
    edit(workspace / "params.yaml", **{"matrix.seeds": [0, 1, 2]})
    text = " ".join(" ".join(shown().lines()).split())
    assert " 7 not estimated: extract, evaluate, report (no comparable record yet) " in text
    recipe = {"epochs": 4, "batch_size": 8, "channels": 4, "cells": 4, "nodes": 2, "cutout": 4, "threads": 2}
    edit(workspace / "params.yaml", **{"matrix.seeds": [0], "search": recipe | {"precision": "bfloat16"}})
    text = " ".join(" ".join(shown().lines()).split())
    [search] = re.findall(r"search 1 digits/darts/0: (.*?) \(see --json\)", text)
    assert search.count("->") == 6
    assert search.endswith("; 3 more")  # seven of these, alphas.lr and precision are nine


def test_steps_that_seeds_share_are_counted_once(hurried):
    edit(hurried / "params.yaml", **{"matrix.methods": ["darts"], "matrix.seeds": [0, 1, 2], "report": {}})
    text = list(shown().lines())
    entries = [entry for held in CALIBRATION.read().values() for entry in held.values()]
    steps = sorted(sum(count for count, _ in entry.paces.values()) for entry in entries)
    said = [int(number) for line in text for number in re.findall(r"measured now: (\d+) step", line)]
    assert sorted(said) == steps


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (9.94, "9.9 s"),
        (10, "10 s"),
        (59.6, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (90_061, "25 h 1 min"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (0.0004, "< 0.001 GPU-hours"),
        (0.001, "0.001 GPU-hours"),
        (0.0234, "0.023 GPU-hours"),
        (1.26, "1.3 GPU-hours"),
        (12.6, "13 GPU-hours"),
        (1234.5, "1,234 GPU-hours"),
    ],
)
def test_hours_have_two_digits_or_no_fraction(workspace, hours, text):
    edit(workspace / "params.yaml", **{"search.epochs": 1})
    seconds = 3600 * hours
    trained(jobs()["search/digits/darts/0"], [seconds], seconds=seconds)
    edit(workspace / "params.yaml", **{"matrix.methods": ["darts"], "matrix.seeds": [1], "report": {}})
    found = Outlook(list(jobs().values()), load(Path("params.yaml")), print)
    found.reasons = [reason for reason in found.reasons if reason.job.stage == "search"]
    lines = [" ".join(line.split()) for line in found.lines()]
    assert f"total 1 {text}" in lines
    assert "CPU-hours" not in " ".join(lines)  # nor a remark on them


def test_the_json_names_the_parameters_that_differ(hurried):
    edit(hurried / "params.yaml", **{"matrix.methods": ["darts"]})
    finish(jobs().values())
    edit(hurried / "params.yaml", **{"search.epochs": 6})
    search, extract, *_ = json.loads(json.dumps(shown().facts()))["due"]
    assert search["differs"]["changes"] == [{"field": "search.epochs", "old": 3, "new": 6}]
    assert extract["differs"]["inputs"] == ["alphas"]


def test_the_text_shows_units_sources_and_what_checkpoints_save(hurried, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    edit(hurried / "params.yaml", **{"matrix.methods": ["darts"], "matrix.seeds": [0, 1]})
    finish([job for name, job in jobs().items() if name.endswith(("digits", "darts/0"))])
    trained(jobs()["search/digits/darts/0"], [3600, 3600, 3600], gpu=A100)
    trained(jobs()["retrain/digits/darts/0"], [360, 360, 360], gpu=None)
    write_tensors(jobs()["search/digits/darts/1"].checkpoint, {}, {"epoch": 2, "step": 0})
    assert [" ".join(line.split()) for line in shown().lines()] == [
        "5 of 10 jobs would run. Reasons, compared with the nearest existing result:",
        "",
        "search 1 digits/darts/1: no result yet; interrupted: will resume after epoch 2/3",
        "extract 1 digits/darts/1: no result yet",
        "retrain 1 digits/darts/1: no result yet",
        "evaluate 1 digits/darts/1: no result yet",
        "report 1 all: no result yet",
        "",
        "Estimate: per job, in total, and its source",
        "",
        "search 1 1 h 0 min 1.0 GPU-hours from 1 record on NVIDIA A100",
        "retrain 1 18 min 4 s 0.3 CPU-hours from 1 record on CPU, AMD EPYC",
        "3 not estimated: extract, evaluate, report (no comparable record yet)",
        "total 1 1.0 GPU-hours excluding jobs not estimated",
        "total 1 0.3 CPU-hours excluding jobs not estimated",
        "saved 1 2.0 GPU-hours by existing checkpoints",
    ]
