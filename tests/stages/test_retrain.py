"""Retraining: every option acts, a retrained classifier, the moving average, ResNets, resumed runs."""

import contextlib
import copy
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from hlrs.artifacts.files import read_json
from hlrs.artifacts.tables import read_table
from hlrs.artifacts.tensors import read_tensors, write_tensors
from hlrs.config.jobs import RetrainJob
from hlrs.config.params import Params
from hlrs.config.recipes import Retrain, Sgd
from hlrs.data.images import generator
from hlrs.errors import Failure, UserError
from hlrs.nas.network import initialize
from hlrs.nas.resnet import ResNet
from hlrs.pipeline.cost_probe import batches_of
from hlrs.pipeline.plan import plan
from hlrs.stages import evaluate, extract, retrain, search, split
from hlrs.stages.images import predict
from hlrs.stages.phases import average
from tests.conftest import TINY, edit, hlrs, outputs, record, start
from tests.tasks import inputs, retrain_task, same, weights

CPU = torch.device("cpu")
RANDOM, RESNET = {"kind": "random"}, {"kind": "resnet", "depth": 20}
RECIPE = TINY["retrain"] | {"epochs": 2, "auxiliary_weight": 0.0}
CRT = {"kind": "retrained", "epochs": 2, "lr": 0.2}
BILATERAL = {"kind": "bilateral", "branch_cells": 1}


def prepared(searcher=RANDOM, dataset=None, **recipe):
    """The jobs of one method by stage, those before the retraining done; the current folder is empty."""
    params = copy.deepcopy(TINY)
    params["matrix"]["methods"], params["report"] = ["m"], {}
    params["methods"] = {"m": {"searcher": searcher}}
    params["datasets"]["digits"] |= dataset or {}
    params["retrain"] = RECIPE | recipe
    by_stage = {job.stage: job for job in plan(Params.model_validate(params))}
    split.run(by_stage["split"])
    if searcher == RANDOM:
        search.run(by_stage["search"])
        extract.run(by_stage["extract"])
    return by_stage


def retrained(*choice, **recipe):
    """Weights and history, as columns, of a retraining; and the jobs."""
    by_stage = prepared(*choice, **recipe)
    retrain.run(by_stage["retrain"])
    history = read_table(by_stage["retrain"].output("history.parquet"), "retrain_history").to_pydict()
    return weights(by_stage["retrain"]), history, by_stage


def task_of(*choice, **recipe):
    """A retraining's task on the CPU."""
    return retrain_task(prepared(*choice, **recipe)["retrain"])


@pytest.fixture(scope="module")
def plainly(tmp_path_factory):
    """Weights and history of the recipe without any option."""
    with contextlib.chdir(tmp_path_factory.mktemp("plainly")):
        return retrained()[:2]


@pytest.mark.parametrize(
    "option",
    [
        {"policy": {"kind": "autoaugment"}},
        {"policy": {"kind": "randaugment"}},
        {"mix": {"kind": "mixup"}},
        {"mix": {"kind": "cutmix"}},
        {"sharpness": 0.1},
        {"ema": 0.9},
        {"classifier": {"kind": "tau_normalized"}},
        {"classifier": {"kind": "retrained", "epochs": 1}},
        {"weights": {"schedule": {"kind": "multistep", "at": [0.5]}}},
        {"weights": {"schedule": {"kind": "triangular"}}},
        {"weights": {"schedule": {"kind": "triangular", "start": 0.5}}},
        {"weights": {"schedule": {"kind": "triangular", "peak": 0.5}}},
        {"weights": {"clip": 0.01}},
        {"drop_path": 0.5},
        {"cutout": 4},
    ],
    ids=str,
)
def test_every_option_acts(workspace, plainly, option):
    weights = retrained(**option)[0]
    assert not same(weights, plainly[0])
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


def test_a_warm_up_acts(workspace):
    assert not same(retrained(epochs=3, weights={"warm_up": 2})[0], retrained(epochs=3)[0])


def test_no_clip_equals_a_clip_that_no_gradient_reaches(workspace):
    assert same(retrained(weights={"clip": None})[0], retrained(weights={"clip": 1e6})[0])


def test_the_history_follows_the_schedule(workspace):
    sgd = {"lr": 0.1, "warm_up": 2, "schedule": {"kind": "multistep", "at": [0.5, 0.75], "factor": 0.1}}
    history = retrained(epochs=4, weights=sgd)[1]
    assert history["weights_lr"] == pytest.approx([0.05, 0.1, 0.01, 0.001])  # t = 0, 1/4, 1/2, 3/4
    assert history["phase"] == ["network"] * 4


# --- accumulated gradients ----------------------------------------------------------------------------

UNCHANGED = {"augment": {"crop_padding": 0, "flip": False}}  # images: those of a batch are drawn together


def test_accumulated_batches_equal_a_larger_one(workspace):
    """In evaluation mode, so that the batch norms are affine, as in a network without any."""
    one = task_of(RESNET, UNCHANGED, cutout=0, batch_size=48)
    four = task_of(RESNET, UNCHANGED, cutout=0, batch_size=12, accumulate=4)
    assert one.steps == four.steps == 3  # 159 // 48
    for epoch in range(2):
        for task in (one, four):
            task.begin(epoch)
            task.network.eval()
        for step in range(3):
            assert torch.allclose(one.step(step), four.step(step), atol=1e-5)
    pairs = zip(one.network.parameters(), four.network.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)
    assert one.images_per_step == four.images_per_step == 48
    assert not torch.equal(one.network.classifier.weight, task_of(RESNET).network.classifier.weight)


@pytest.mark.parametrize(
    ("recipe", "width", "places"),  # inputs of a pass, and which of them are drawn, besides drop path's
    [
        ({"mix": {"kind": "mixup"}}, 6, [2, 5]),  # images, shares
        ({"objective": BILATERAL | {"mixing": {"kind": "beta"}}}, 10, [0, 2, 6]),  # m, images of both batches
    ],
    ids=["mix", "bilateral"],
)
def test_each_accumulated_pass_of_each_epoch_has_its_own_draws(workspace, recipe, width, places):
    task = task_of(accumulate=2, drop_path=0.5, epochs=3, **recipe)
    passes = [given[start : start + width] for given in inputs(task, (1, 2)) for start in (0, width)]
    factors = [own for _, own, *_ in passes]
    assert len({str(own.tolist()) for own in factors}) == 8
    for before, after in zip(factors[:4], factors[4:], strict=True):  # the rate is higher in epoch 2
        assert bool(((after > 0) & (before == 0)).any())  # with the same draws, none of these would be kept
    for place in places:
        assert len({str(torch.as_tensor(values[place]).tolist()) for values in passes}) == 8


@pytest.mark.parametrize(
    ("kind", "rounds", "images"),  # a branch's passes per step, one after the other, and images in each
    [("plain", 1, 16), ("bilateral", 1, 16), ("glmc", 2, 16), ("proco", 1, 48)],
)
def test_drop_path_draws_for_each_image_of_each_pass(workspace, kind, rounds, images):
    task = task_of(drop_path=0.5, objective={"kind": kind})
    task.begin(1)
    maps = task.network.dropped_maps
    assert maps > 0
    assert task.phase.inputs(0)[1].shape == (rounds * maps, images)
    task.step(0)
    assert not list(task.network.drop_path.factors)  # the step used them all


# --- sharpness ----------------------------------------------------------------------------------------


def test_a_step_of_sam_by_hand(workspace):
    """In float64: in float32, a map near a ReLU's kink may fall to either side."""
    plain_sgd = {"lr": 0.5, "momentum": 0.0, "weight_decay": 0.0, "clip": None}
    task = task_of(RESNET, sharpness=0.2, weights=plain_sgd)
    task.network.double()
    task.begin(0)
    [(images, labels, *_)] = task.phase.batches(0)
    task.phase.inputs_of = lambda number: [None, None, images.double(), labels, None, None]
    network = copy.deepcopy(task.network)

    def gradient():
        loss = F.cross_entropy(network(images.double()), labels)
        return loss, torch.autograd.grad(loss, list(network.parameters()))

    start = [p.detach().clone() for p in network.parameters()]
    loss, first = gradient()
    statistics = {name: buffer.clone() for name, buffer in network.named_buffers()}
    norm = sum(float((g**2).sum()) for g in first) ** 0.5
    with torch.no_grad():
        for p, g in zip(network.parameters(), first, strict=True):
            p.add_(0.2 * g / norm)
    second = gradient()[1]
    assert task.step(0)[0].item() == pytest.approx(loss.item())
    for p, before, g in zip(task.network.parameters(), start, second, strict=True):
        assert torch.allclose(p, before - 0.5 * g)
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in task.network.named_buffers())


def test_sam_reads_the_same_images_and_drops_the_same_paths_twice(workspace):
    task = task_of(sharpness=0.1, drop_path=0.5)
    task.begin(1)
    seen, outcome = [], task.phase.outcome
    task.phase.outcome = lambda *inputs: seen.append(inputs) or outcome(*inputs)
    task.step(0)
    first, second = seen
    assert first[1] is second[1]  # drop path's factors
    assert first[2] is second[2]


# --- the classifier -----------------------------------------------------------------------------------


def test_retraining_the_classifier_changes_nothing_else(workspace, plainly):
    weights, history, _ = retrained(classifier=CRT)
    assert same(weights, plainly[0], but=["classifier."])  # running statistics, too
    assert not torch.equal(weights["classifier.weight"], plainly[0]["classifier.weight"])
    assert history["phase"] == ["network"] * 2 + ["classifier"] * 2
    assert history["epoch"] == [0, 1, 2, 3]
    assert history["progress"] == [0.0, 0.5, 0.0, 0.5]
    assert history["weights_lr"] == pytest.approx([0.025, 0.0125, 0.2, 0.1])  # two cosines
    assert history["drop_path"] == [0.0, 0.1, 0.0, 0.0]
    assert history["loss"][:2] == plainly[1]["loss"]


def test_the_classifier_trains_alone_on_class_balanced_batches(workspace):
    task = task_of(classifier=CRT, batch_size=200)
    network, classifier = task.phases
    classifier.batches.begin(2, 0.0)
    drawn = torch.cat([classifier.batches(step)[0].labels for step in range(task.steps)])
    # 159 images, 40 of class 0: by images it would be 40 of them; by classes 15.9, at most 4.5 deviations off
    assert len(drawn) == 159
    assert abs(int((drawn == 0).sum()) - 15.9) < 4.5 * (159 * 0.1 * 0.9) ** 0.5
    assert classifier.weights == list(task.network.classifier.parameters())
    assert len(network.weights) == len(list(task.network.parameters()))


@pytest.mark.parametrize("objective", [{"kind": "plain"}, BILATERAL], ids=lambda o: o["kind"])
def test_a_step_of_the_classifier_by_hand(workspace, objective):
    sgd = {"weight_decay": 0.01, "momentum": 0.9, "clip": None}
    task = task_of(objective=objective, classifier=CRT, weights=sgd)
    task.begin(1)
    task.step(0)
    task.end([1.0, 1.0, 1.0])  # of the network's last epoch
    weight, bias = (p.detach().clone() for p in task.network.classifier.parameters())
    fresh = torch.nn.Linear(weight.shape[1], 10)
    initialize(fresh, generator("0/retrain/0", "classifier", "weights"))
    assert torch.equal(weight, fresh.weight)
    task.begin(2)
    [batch] = task.phase.batches(0)
    with torch.no_grad():
        branches = range(2 if objective == BILATERAL else 1)
        features = torch.cat([task.network.eval().features(batch.images, branch) for branch in branches], 1)
    # dL/dz = (softmax(z) − y)/n
    errors = (features @ weight.T + bias).softmax(1) - F.one_hot(batch.labels, 10)
    gradients = [errors.T @ features / len(errors), errors.mean(0)]
    loss, accuracy, mixing = task.step(0).tolist()
    assert loss == pytest.approx(float(F.cross_entropy(features @ weight.T + bias, batch.labels)), rel=1e-5)
    assert 0 <= accuracy <= 1
    assert mixing == 0
    for new, old, gradient in zip(
        task.network.classifier.parameters(), (weight, bias), gradients, strict=True
    ):
        assert torch.allclose(new, old - 0.2 * (gradient + 0.01 * old), atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"kind": "adamw", "lr_min": 1e-4, "weight_decay": 0.5, "clip": 1.0}, Sgd(lr=0.2, clip=1.0)),
        (
            {"kind": "muon", "warm_up": 2, "rest": {"momentum": 0.5}, "clip": 1.0},
            Sgd(lr=0.2, momentum=0.5, clip=1.0),
        ),
    ],
    ids=["adamw", "muon"],
)
def test_a_classifier_is_retrained_by_sgd(workspace, weights, expected):
    task = task_of(classifier=CRT, weights=weights, epochs=3)
    assert task.phases[1].spec == expected
    task.begin(4)
    assert task.lr == pytest.approx(0.1)  # half of the cosine from 0.2 to 0


def test_a_step_reads_no_image_twice(workspace):
    images = len(task_of().positions)
    most = images // 16
    assert task_of(batch_size=16, accumulate=most).steps >= 1
    with pytest.raises(UserError, match=f"accumulate: {most + 1} batches of 16 .* at most {most}"):
        task_of(batch_size=16, accumulate=most + 1)


@pytest.mark.parametrize("ema", [None, 0.8])
def test_a_normalised_classifier_is_the_plain_one_divided_by_its_norms(workspace, ema):
    plain = retrained(ema=ema)[0]
    weights = retrained(ema=ema, classifier={"kind": "tau_normalized", "tau": 0.7})[0]
    assert same(weights, plain, but=["classifier."])
    rows = [row / sum(float(x) ** 2 for x in row) ** 0.35 for row in plain["classifier.weight"]]
    assert torch.allclose(weights["classifier.weight"], torch.stack(rows))
    assert not weights["classifier.bias"].any()


# --- the moving average -------------------------------------------------------------------------------


def test_the_moving_average_by_hand():
    network = torch.nn.BatchNorm1d(1)
    averaged = copy.deepcopy(network)  # weight 1, bias 0, no batches seen
    for weight in (2.0, 3.0):
        with torch.no_grad():
            network.weight.fill_(weight)
        network.num_batches_tracked += 5
        average(averaged, network, 0.9)
    assert averaged.weight.item() == pytest.approx(0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 3)  # 1.29
    assert averaged.bias.item() == 0
    assert averaged.num_batches_tracked.item() == 10
    assert network.weight.item() == 3


def test_the_moving_average_is_the_result_and_is_evaluated_on_the_holdout(workspace):
    task = task_of(ema=0.8, dataset={"holdout_fraction": 0.2})
    expected = {name: p.detach().double() for name, p in task.network.named_parameters()}
    for epoch in range(2):
        task.begin(epoch)
        for step in range(task.steps):
            task.step(step)
            for name, p in task.network.named_parameters():
                expected[name] = 0.8 * expected[name] + 0.2 * p.detach().double()
    row = task.end([1.0, 1.0, 0.0])
    for name, p in task.result.named_parameters():
        assert torch.allclose(p.double(), expected[name], atol=1e-6)
    probabilities, labels = (
        predict(task.result, task.images, task.holdout, 7),
        task.images.labels[task.holdout],
    )
    assert row["holdout_accuracy"] == (probabilities.argmax(1) == labels.numpy()).mean()
    own = [-math.log(p[label]) for p, label in zip(probabilities.tolist(), labels.tolist(), strict=True)]
    assert row["holdout_nll"] == pytest.approx(math.fsum(own) / len(own))


def test_a_classifier_is_retrained_on_the_averaged_network(workspace):
    averaged = retrained(ema=0.8)[0]
    assert same(retrained(ema=0.8, classifier=CRT)[0], averaged, but=["classifier."])


# --- the mean over epochs -----------------------------------------------------------------------------


def trained_through(task):
    """The network's parameters at the end of each epoch, and the rows of the history."""
    ends, rows = [], []
    for epoch in range(task.epochs):
        task.begin(epoch)
        for step in range(task.steps):
            task.step(step)
        rows.append(task.end([1.0, 1.0, 0.0]))
        ends.append({name: p.detach().clone() for name, p in task.network.named_parameters()})
    return ends, rows


@pytest.mark.parametrize("objective", [{"kind": "plain"}, BILATERAL], ids=lambda o: o["kind"])
def test_the_mean_over_epochs_and_its_running_statistics_by_hand(workspace, objective):
    task = task_of(RESNET, swa=0.5, epochs=5, batch_size=32, objective=objective, mix=None)
    ends, _ = trained_through(task)
    for name, p in task.result.named_parameters():  # epochs 3 and 4 are at progress 0.6 and 0.8
        assert torch.allclose(p, (ends[3][name] + ends[4][name]) / 2, atol=1e-6)
    maps = [  # of the stem, which both branches share
        task.result.stem[0](batch.images).detach().double().movedim(1, 0).flatten(1)
        for step in range(4)
        for batch in task.phase.batches(step)
    ]
    norm = task.result.stem[1]
    mean = torch.stack([values.mean(1) for values in maps]).mean(0)
    variance = torch.stack([values.var(1) for values in maps]).mean(0)
    assert torch.allclose(norm.running_mean.double(), mean, atol=1e-5)
    assert torch.allclose(norm.running_var.double(), variance, rtol=1e-4)
    assert norm.momentum == task.network.stem[1].momentum == 0.1
    assert not norm._forward_pre_hooks


def test_the_mean_begins_with_the_epoch_at_its_very_progress(workspace):
    """Of epochs at progress 0, 1/4, 1/2 and 3/4, the last two."""
    task = task_of(RESNET, swa=0.5, epochs=4, batch_size=64, mix=None)
    ends, _ = trained_through(task)
    for name, p in task.result.named_parameters():
        assert torch.allclose(p, (ends[2][name] + ends[3][name]) / 2, atol=1e-6)


def test_until_the_mean_begins_the_result_is_the_network(workspace):
    task = task_of(swa=0.5, epochs=5, dataset={"holdout_fraction": 0.2})
    plain = task_of(epochs=5, dataset={"holdout_fraction": 0.2})
    found, expected = ([row["holdout_accuracy"] for row in trained_through(t)[1]] for t in (task, plain))
    assert found[:4] == expected[:4]  # the first epoch of the mean included
    assert same(plain.network.state_dict(), task.network.state_dict())
    predicted = predict(task.result, task.images, task.holdout, 7).argmax(1)
    assert found[4] == (predicted == task.images.labels[task.holdout].numpy()).mean()


def test_the_holdout_changes_no_mean(workspace):
    """Statistics are measured after each epoch for its accuracy, else after the last one only."""
    task = task_of(swa=0.3, epochs=4)
    again = task_of(swa=0.3, epochs=4)
    again.holdout = again.positions[:20]
    for one in (task, again):
        trained_through(one)
    trained = [one.result.state_dict() for one in (task, again)]
    assert all(torch.equal(a, trained[1][name]) for name, a in trained[0].items() if "tracked" not in name)


def test_a_classifier_is_retrained_on_the_mean_over_epochs(workspace):
    averaged = retrained(swa=0.3, epochs=3)[0]
    assert not same(averaged, retrained(epochs=3)[0])
    assert same(retrained(swa=0.3, epochs=3, classifier=CRT)[0], averaged, but=["classifier."])


# --- lookahead ----------------------------------------------------------------------------------------


def test_lookahead_counts_the_steps_of_all_epochs(workspace):
    """Fast and slow weights meet after every fifth step of the training, and after its last one."""
    task = task_of(RESNET, lookahead=0.8, batch_size=36)
    met = []
    for epoch in range(2):
        task.begin(epoch)
        for step in range(task.steps):
            task.step(step)
            met.append(all(map(torch.equal, task.phase.lookahead.slow, task.phase.lookahead.fast)))
    assert len(met) == 8
    assert [number for number, meet in enumerate(met, 1) if meet] == [5, 8]


# --- what an objective estimates ----------------------------------------------------------------------


def test_proco_forgets_at_each_epochs_end_what_it_saw_before_it(workspace):
    """Of four steps of 36 images it sees two views; the estimates follow from the last epoch and this one."""
    task = task_of(RESNET, objective={"kind": "proco", "dimensions": 8}, batch_size=36, epochs=3)
    seen = task.network.training_head.counts
    for epoch in range(2):
        task.begin(epoch)
        for step in range(task.steps):
            task.step(step)
        assert seen.sum(1).tolist() == [epoch * 4 * 36 * 2, 4 * 36 * 2]
        task.end([1.0, 1.0, 0.0])
        assert seen.sum(1).tolist() == [4 * 36 * 2, 0]


# --- networks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [{"kind": "plain"}, BILATERAL], ids=lambda o: o["kind"])
def test_a_resnet_is_retrained_and_evaluated_without_a_genotype(workspace, objective):
    recipe = {"objective": objective, "auxiliary_weight": 0.0 if objective == BILATERAL else 0.4}
    weights, history, by_stage = retrained(RESNET, **recipe, batch_size=64)
    assert "genotype" not in by_stage["retrain"].inputs
    branches = {"branches": 2, "branch_cells": 1} if objective == BILATERAL else {}
    assert weights.keys() == ResNet(20, in_channels=1, classes=10, **branches).state_dict().keys()
    assert history["drop_path"] == [0.0, 0.0]  # of the common recipe's 0.2
    evaluate.run(by_stage["evaluate"])
    metrics = read_json(by_stage["evaluate"].output("metrics.json"))
    assert metrics["test_images"] == 50
    # 3×3 convolutions 1·16, 6 of 16·16; 16·32, 5 of 32·32; 32·64, 5 of 64·64; their norms; 64·10 + 10; maps
    # of 64, 16 and 4 pixels. The second branch has two more of 64·64, and the classifier 640 more weights
    more = (2 * (9 * 4096 + 128) + 640, 2 * 9 * 4096 * 4 + 640) if branches else (0, 0)
    assert metrics["weights"] == 9 * 29_712 + 2 * (16 + 6 * 16 + 6 * 32 + 6 * 64) + 650 + more[0]
    assert metrics["multiply_adds"] == 9 * (1552 * 64 + 5632 * 16 + 22_528 * 4) + 640 + more[1]


def test_a_resnets_key_does_not_depend_on_cells(workspace):
    keys = [prepared(RESNET, cells=cells, channels=4)["retrain"].key for cells in (3, 4)]
    assert keys[0] == keys[1]
    assert prepared(RESNET, batch_size=8)["retrain"].key != keys[0]


def test_weights_of_another_network_are_rejected(workspace):
    by_stage = retrained()[2]
    other = retrained(RESNET)[2]["retrain"].output("weights.safetensors")
    Path(by_stage["evaluate"].inputs["weights"]).write_bytes(other.read_bytes())
    with pytest.raises(Failure, match=r"weights\.safetensors\b.*\bnetwork\b"):
        evaluate.run(by_stage["evaluate"])


# --- resume and estimates -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objective",
    [{"kind": "plain"}, {"kind": "plain", "head": {"kind": "etf"}}, {"kind": "dual_head"}, BILATERAL],
    ids=lambda o: o.get("head", o)["kind"],
)
def test_a_resnet_resumes_from_its_state_bit_for_bit(workspace, objective):
    on, off = (task_of(RESNET, objective=objective, ema=0.9) for _ in range(2))
    for task in (on, off):
        task.begin(0)
        task.step(0)
    write_tensors(Path("state.safetensors"), off.state(), {})
    resumed = task_of(RESNET, objective=objective, ema=0.9)
    resumed.load(read_tensors(Path("state.safetensors"))[0])
    resumed.begin(0)
    for step in (1, 2):
        assert torch.equal(on.step(step), resumed.step(step))
    assert same(on.state(), resumed.state())


DIFFUSED = {"kind": "diffused", "steps": 300, "width": 16, "timesteps": 20, "sampling_steps": 5, "least": 4}


@pytest.mark.slow
@pytest.mark.parametrize("classifier", [{"kind": "retrained"}, DIFFUSED], ids=lambda spec: spec["kind"])
def test_a_run_killed_in_any_phase_gives_the_same_bytes(workspace, classifier):
    recipe = {"epochs": 3, "ema": 0.9, "classifier": classifier | {"epochs": 12}}
    methods, matrix = {"m": {"searcher": RANDOM}}, TINY["matrix"] | {"methods": ["m"]}
    edit(workspace / "params.yaml", matrix=matrix, methods=methods, retrain=RECIPE | recipe, report={})
    for stage, run in (("split", "digits"), *((s, "digits/m/0") for s in ("search", "extract", "retrain"))):
        assert hlrs(workspace, stage, run)[0] == 0
    expected = outputs(workspace, "retrain")
    assert len(expected) == 3
    for path in expected:
        (workspace / path).unlink()
    for epoch in (1, 4, 9):  # 3 of the network, 3 of a diffusion, 12 of the classifier
        process = start(workspace, "retrain", "digits/m/0", "--force", checkpoint_seconds=0.0)
        while _epoch(workspace) < epoch:
            process.join(0.005)
            assert process.exitcode is None, (workspace / "log").read_text()
        process.kill()
        process.join()
    assert hlrs(workspace, "retrain", "digits/m/0", "--force")[0] == 0
    assert outputs(workspace, "retrain") == expected
    assert record(workspace, "retrain", "digits/m/0")["resumes"] == 3


def _epoch(folder):
    """The epoch that the only checkpoint is in, or -1."""
    found = list((folder / ".hlrs/checkpoints").glob("[!.]*.safetensors"))
    return read_tensors(found[0])[1]["epoch"] if found else -1


def test_estimates_include_the_classifiers_epochs():
    def batches(recipe):
        return batches_of(RetrainJob.model_construct(retrain=recipe))

    recipe = Retrain.model_validate(RECIPE | {"objective": BILATERAL, "classifier": CRT})
    assert batches(recipe) == [2, 2, 1, 1]
    assert batches(Retrain(epochs=3)) == [1, 1, 1]
    assert batches(recipe.model_copy(update={"accumulate": 3})) == [6, 6, 3, 3]
