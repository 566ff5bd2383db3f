"""HLRS as summarized: losses of weights and alphas, inference, and learning rates of the rows."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hlrs.artifacts.files import read_json
from hlrs.artifacts.tables import read_table
from hlrs.artifacts.tensors import read_tensors
from hlrs.config.methods import Darts, DualHead, Plain
from hlrs.config.params import Params
from hlrs.config.recipes import Sgd
from hlrs.config.spaces import DartsSpace
from hlrs.data.augment import Batch
from hlrs.longtail.objectives import layout_of, make_objective
from hlrs.longtail.row_rates import learn_rows_at, row_rates
from hlrs.nas import bilevel
from hlrs.nas.derived import DerivedNetwork
from hlrs.nas.genotype import PUBLISHED
from hlrs.nas.network import initialize
from hlrs.nas.searchers.darts import DartsSearcher
from hlrs.nas.supernet import DartsSupernet, initialize_alphas
from hlrs.pipeline.plan import plan
from hlrs.stages import evaluate, extract, retrain, search, split
from hlrs.training.optim import make_sgd, optimizer_step
from tests.conftest import TINY
from tests.tasks import retrain_task, search_task

COUNTS = torch.tensor([50, 8, 2])
SPEC = DualHead(kind="dual_head", gamma=0.5)
LAYOUT = {"in_channels": 1, "classes": 3, "channels": 2, "cells": 3}


@pytest.fixture
def supernet():
    draw = torch.Generator().manual_seed(5)
    network = DartsSupernet(
        DartsSpace(), DartsSearcher(Darts()), nodes=1, **LAYOUT, **layout_of(SPEC)
    ).double()
    initialize(network, draw)
    initialize_alphas(network, draw, scale=0.5)
    return network


def batch(seed=1):
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 1, 6, 6, generator=draw, dtype=torch.float64)
    return Batch(images, torch.tensor([0, 0, 1, 0, 2, 1]))


def logits_of(network, images):
    """Shared and final logits, from the classifiers' weights."""
    features = network.features(images, 0)
    return [F.linear(features, c.weight, c.bias) for c in (network.classifier, network.class_specific)]


def hits(logits, labels):
    return (logits.argmax(1) == labels).double().mean().item()


# --- objective ----------------------------------------------------------------------------------------


def test_weights_minimize_both_losses_and_alphas_the_shared_one(supernet):
    seen = batch()
    shared, final = logits_of(supernet, seen.images)
    losses = [F.cross_entropy(logits, seen.labels).item() for logits in (shared, final)]
    found = [make_objective(SPEC, COUNTS, for_alphas=a)(supernet, [seen], 0.0, None) for a in (False, True)]
    assert found[0].loss.item() == pytest.approx(sum(losses), rel=1e-12)
    assert found[1].loss.item() == pytest.approx(losses[0], rel=1e-12)


def test_accuracy_is_that_of_final_logits_for_weights_and_shared_ones_for_alphas(supernet):
    with torch.no_grad():  # shared logits predict class 0, final logits class 2
        supernet.classifier.bias.copy_(torch.tensor([50.0, 0.0, 0.0]))
        supernet.class_specific.bias.copy_(torch.tensor([0.0, 0.0, 50.0]))
    found = [
        float(make_objective(SPEC, COUNTS, for_alphas=a)(supernet, [batch()], 0.0, None).accuracy)
        for a in (False, True)
    ]
    assert found == pytest.approx([1 / 6, 3 / 6])


def test_inference_reads_the_class_specific_weights(supernet):
    seen = batch()
    shared, final = logits_of(supernet, seen.images)
    assert torch.allclose(supernet(seen.images), final, rtol=1e-12)
    assert not torch.allclose(shared, final, rtol=1e-2)


@pytest.mark.parametrize("order", [1, 2])
def test_class_specific_weights_do_not_affect_the_alphas_gradient(supernet, order):
    alphas, weights = list(supernet.alphas.values()), supernet.weights()
    training, validation = (make_objective(SPEC, COUNTS, for_alphas=a) for a in (False, True))

    def on_validation():
        return validation(supernet, [batch(2)], 0.0, None).loss

    def gradient(step):
        if order == 1:
            return bilevel.first_order(alphas, weights, on_validation)
        return bilevel.second_order(
            alphas, weights, lambda: training(supernet, [batch()], 0.0, None).loss, on_validation, step, 0.1
        )

    own = {id(p) for p in supernet.class_specific.parameters()}
    still = [torch.zeros_like(w) for w in weights]
    before = gradient(still)
    # nor does their trial step: the gradient does not depend on the rates of the rows
    after = gradient([torch.ones_like(w) if id(w) in own else torch.zeros_like(w) for w in weights])
    if order == 1:
        with torch.no_grad():
            supernet.class_specific.weight.mul_(-3.0)
        after = gradient(still)
    assert all(torch.equal(b, a) for b, a in zip(before, after, strict=True))
    assert all(float(b.abs().max()) > 0 for b in before)


def test_both_classifiers_and_the_backbone_learn_in_the_weights_step(supernet):
    loss = make_objective(SPEC, COUNTS)(supernet, [batch()], 0.0, None).loss
    weights = supernet.weights()
    assert all(float(g.abs().max()) > 0 for g in torch.autograd.grad(loss, weights))
    kinds = sum(isinstance(m, nn.Linear) for m in supernet.modules())
    assert kinds == 2
    network = DerivedNetwork(PUBLISHED["DARTS_V1"], auxiliary=False, **LAYOUT, **layout_of(SPEC))
    assert network.class_specific.weight.shape == network.classifier.weight.shape
    plain = DerivedNetwork(PUBLISHED["DARTS_V1"], auxiliary=False, **LAYOUT, **layout_of(Plain(kind="plain")))
    assert plain.class_specific is None


# --- rates --------------------------------------------------------------------------------------------


def test_rates_by_hand():
    # γ = 1/2 of 50, 8 and 2 images: 1, 5/2, 5, whose mean over the images is (50 + 20 + 10)/60 = 4/3
    assert row_rates(COUNTS, 0.5).tolist() == pytest.approx([3 / 4, 15 / 8, 15 / 4], rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("counts", [[50, 8, 2], [7], [3, 3, 3], [5000, 2997, 50, 0]])
def test_mean_rate_over_the_images_is_one_and_rarer_classes_learn_faster(counts, gamma):
    rates = row_rates(torch.tensor(counts), gamma).tolist()
    assert sum(n * r for n, r in zip(counts, rates, strict=True)) / sum(counts) == pytest.approx(1, rel=1e-12)
    for n, r in zip(counts, rates, strict=True):
        expected = (counts[0] / max(n, 1)) ** gamma  # an empty class counts as one with one image
        assert r / rates[0] == pytest.approx(expected, rel=1e-12)


def problem(steps=10):
    """A linear classifier and another parameter, and targets for both, drawn at each step."""
    draw = torch.Generator().manual_seed(3)
    classifier, other = nn.Linear(4, 3).double(), nn.Parameter(torch.ones(5, dtype=torch.float64))
    parameters = [classifier.weight, classifier.bias, other]
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
    targets = [
        [torch.randn(p.shape, generator=draw, dtype=torch.float64) for p in parameters] for _ in range(steps)
    ]
    return parameters, targets


def loss_of(parameters, targets):
    return sum(((p - t) ** 4).sum() for p, t in zip(parameters, targets, strict=True))


def with_a_group_for_each_row(rates, lr, sgd, clip):
    """Train with torch's own SGD, each row a separate parameter in a separate group."""
    [weight, bias, other], targets = problem()
    rows = [nn.Parameter(value.detach().clone()) for tensor in (weight, bias) for value in tensor]
    groups = [{"params": [row], "lr": lr(0) * r} for row, r in zip(rows, [*rates, *rates], strict=True)]
    optimizer = torch.optim.SGD([*groups, {"params": [other]}], lr(0), **sgd)
    for step, (of_weight, of_bias, of_other) in enumerate(targets):
        for group, r in zip(optimizer.param_groups, [*rates, *rates, 1.0], strict=True):
            group["lr"] = lr(step) * r
        optimizer.zero_grad()
        loss_of([*rows, other], [*of_weight, *of_bias, of_other]).backward()
        if clip:
            nn.utils.clip_grad_norm_([*rows, other], clip)
        optimizer.step()
    return [torch.stack([r.detach() for r in rows[:3]]), torch.stack([r.detach() for r in rows[3:]]), other]


def with_one_group(rates, lr, sgd, clip):
    parameters, targets = problem()
    optimizer = torch.optim.SGD(parameters, lr(0), fused=True, **sgd)
    if rates is not None:
        learn_rows_at(rates, parameters[:2], optimizer)
    for step, target in enumerate(targets):
        optimizer.param_groups[0]["lr"] = lr(step)
        optimizer_step(loss_of(parameters, target), parameters, optimizer, clip)
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize("clip", [None, 5.0])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_row_rates_equal_sgd_with_a_group_for_each_row(momentum, weight_decay, clip):
    rates = row_rates(COUNTS, 1.0)
    sgd = {"momentum": momentum, "weight_decay": weight_decay}

    def lr(step):
        return 0.002 * (1 - 0.05 * step)

    expected = with_a_group_for_each_row(rates.tolist(), lr, sgd, clip)
    found = with_one_group(rates, lr, sgd, clip)
    plain = with_one_group(None, lr, sgd, clip)
    for e, f in zip(expected, found, strict=True):
        assert torch.allclose(e, f, rtol=1e-12, atol=1e-12)
    assert all(float((f - p).abs().max()) > 1e-3 for f, p in zip(found[:2], plain[:2], strict=True))


def test_gamma_0_equals_plain_sgd_bit_for_bit():
    sgd = {"momentum": 0.9, "weight_decay": 0.1}
    found, plain = (
        with_one_group(rates, lambda _: 0.002, sgd, 5.0) for rates in (row_rates(COUNTS, 0.0), None)
    )
    assert all(torch.equal(f, p) for f, p in zip(found, plain, strict=True))


def test_only_class_specific_weights_learn_at_the_rates_of_their_classes(supernet):
    sgd = Sgd(lr=0.1, momentum=0.0, weight_decay=0.01, clip=None)

    def moved(objective):
        before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
        optimizer = make_sgd(supernet.weights(), sgd)
        make_objective(objective, COUNTS).attach(supernet, optimizer)
        loss = make_objective(SPEC, COUNTS)(supernet, [batch()], 0.0, None).loss
        optimizer_step(loss, supernet.weights(), optimizer, None)
        found = {name: p.detach() - before[name] for name, p in supernet.named_parameters()}
        supernet.load_state_dict(before)
        return found

    plain, dual = moved(Plain(kind="plain")), moved(SPEC)
    rates = torch.tensor([3 / 4, 15 / 8, 15 / 4], dtype=torch.float64)
    for name, by in plain.items():
        factor = rates.view(-1, *[1] * (by.ndim - 1)) if name.startswith("class_specific") else 1.0
        assert torch.allclose(dual[name], factor * by, rtol=1e-9, atol=1e-15), name
    assert sum(name.startswith("class_specific") for name in plain) == 2


# --- in the stages ------------------------------------------------------------------------------------


def jobs(**options):
    """The jobs of TINY, its search and retraining under a dual head, by stage."""
    params, objective = copy.deepcopy(TINY), {"kind": "dual_head", **options}
    params["methods"] = {"m": params["methods"]["darts"] | {"objective": objective}}
    params["matrix"]["methods"], params["report"] = ["m"], {}
    params["search"]["epochs"] = params["retrain"]["epochs"] = 2
    params["retrain"] |= {"objective": objective, "auxiliary_weight": 0.0}
    return {job.stage: job for job in plan(Params.model_validate(params))}


def first_step(stage, by_stage, inputs=None):
    """How a task's first step moves the parameters of its network."""
    if stage == "search":
        task = search_task(by_stage[stage])
        network = task.supernet
    else:
        task = retrain_task(replace(by_stage[stage], inputs=inputs))
        network = task.network
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    task.begin(0)
    task.step(0)
    return {name: p.detach() - before[name] for name, p in network.named_parameters()}


def test_row_rates_follow_the_class_counts_of_search_and_retraining(workspace):
    plain, dual = jobs(gamma=0.0), jobs(gamma=1.0)
    for stage in (split, search, extract):
        stage.run(plain[stage.__name__.rpartition(".")[2]])
    inputs = plain["retrain"].inputs  # the same for both
    moves = [
        [first_step(stage, by_stage, inputs) for stage in ("search", "retrain")] for by_stage in (plain, dual)
    ]
    counts = read_json(Path(plain["retrain"].inputs["classes"]))["counts"]
    trained = [counts["weights"], [w + a for w, a in zip(counts["weights"], counts["alphas"], strict=True)]]
    for plain, dual, n in zip(*moves, trained, strict=True):
        # γ = 1: r_c = (1/n_c) / (mean over the images of 1/n_c), which is classes/images
        rates = torch.tensor([sum(n) / (len(n) * of_class) for of_class in n])
        assert float(rates.max() / rates.min()) > 5
        by = plain["class_specific.weight"]
        assert float(by.abs().max()) > 1e-4
        assert torch.allclose(dual["class_specific.weight"], rates[:, None] * by, rtol=1e-3, atol=1e-6)
        assert torch.equal(dual["classifier.weight"], plain["classifier.weight"])


def test_a_dual_head_is_searched_retrained_and_evaluated(workspace):
    by_stage = jobs()
    for stage in (split, search, extract, retrain, evaluate):
        stage.run(by_stage[stage.__name__.rpartition(".")[2]])
    # at the start each classifier's loss is about log 10: weights see both, alphas one
    history = read_table(by_stage["search"].output("history.parquet"), "search_history").to_pydict()
    assert history["weights_loss"][0] == pytest.approx(2 * math.log(10), rel=0.2)
    assert history["alphas_loss"][0] == pytest.approx(math.log(10), rel=0.2)
    weights, _ = read_tensors(by_stage["retrain"].output("weights.safetensors"))
    assert weights["class_specific.weight"].shape == weights["classifier.weight"].shape
    assert 0 <= read_json(by_stage["evaluate"].output("metrics.json"))["top1"] <= 1


def test_the_unrolled_step_trains_a_dual_head_too(workspace):
    by_stage = jobs()
    by_stage["search"].params["searcher"]["order"] = 2
    split.run(by_stage["split"])
    assert float(first_step("search", by_stage)["alphas.normal"].abs().max()) > 0
