"""Training in bfloat16: near float32, with weights, statistics and logits in float32, and repeatable."""

import os
import platform

import pytest
import torch
from torch.nn import functional as F

from hlrs.config.methods import CosineHead, Darts
from hlrs.config.spaces import DartsSpace, NasBench201Space
from hlrs.errors import UserError
from hlrs.nas.derived import DerivedNetwork
from hlrs.nas.genotype import PUBLISHED
from hlrs.nas.mixed_edges import Mix
from hlrs.nas.nasbench201 import NasBench201Supernet
from hlrs.nas.network import initialize
from hlrs.nas.ops import packed, separable
from hlrs.nas.resnet import ResNet
from hlrs.nas.searchers.darts import DartsSearcher
from hlrs.nas.supernet import DartsSupernet
from hlrs.training import device
from tests.tasks import retrain_task, search_task
from tests.training.test_cuda_graphs import CLASSIFIER, assert_same, by_stage, trained

LAYOUT = {"in_channels": 3, "classes": 10}
CELLS = LAYOUT | {"channels": 8, "cells": 3}
BFLOAT16 = {"precision": "bfloat16"}
HALF_ULP = 2**-9  # relative, of bfloat16's 8 bits
NETWORKS = {
    "derived": lambda: DerivedNetwork(PUBLISHED["DARTS_V2"], auxiliary=True, **CELLS),
    "ldam": lambda: ResNet(20, head=CosineHead(), **LAYOUT),
    "two branches": lambda: ResNet(20, branches=2, branch_cells=1, **LAYOUT),
    "supernet": lambda: DartsSupernet(DartsSpace(), DartsSearcher(Darts()), nodes=2, **CELLS),
    "recomputed": lambda: DartsSupernet(
        DartsSpace(), DartsSearcher(Darts()), nodes=2, recompute=True, **CELLS
    ),
    "nasbench201": lambda: NasBench201Supernet(NasBench201Space(), DartsSearcher(Darts()), nodes=4, **CELLS),
}


def of(name, precision):
    """Loss, gradients and logits of a network in training mode; the network."""
    network = NETWORKS[name]()
    initialize(network, torch.Generator().manual_seed(0))
    network.precision = precision
    images = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(64) % 10
    logits = [z for z in network.heads(images) if z is not None]
    loss = torch.stack([F.cross_entropy(z, labels) for z in logits]).sum()
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return loss, [g for g in gradients if g is not None], logits, network


@pytest.mark.parametrize("name", NETWORKS)
def test_loss_and_gradients_are_near_those_in_float32(name):
    """Roundings of relative size 2⁻⁹ in the ten to forty layers on a path add up as a random walk."""
    found, expected = of(name, "bfloat16"), of(name, "float32")
    assert found[0].item() != expected[0].item()
    assert found[0].item() == pytest.approx(expected[0].item(), rel=40**0.5 * HALF_ULP)
    a, b = (torch.cat([g.flatten() for g in gradients]) for _, gradients, *_ in (found, expected))
    assert F.cosine_similarity(a, b, 0) > 0.97
    assert {t.dtype for t in (*found[1], *found[2], *found[3].state_dict().values())} <= {
        torch.float32,
        torch.int64,
    }


@pytest.mark.parametrize("name", ["derived", "ldam"])
def test_evaluation_is_in_float32(name):
    network = of(name, "bfloat16")[3].eval()
    images = torch.randn(4, 3, 16, 16)
    logits = network(images)
    network.precision = "float32"
    assert torch.equal(logits, network(images))


@pytest.mark.parametrize("count", [1, 4])
def test_statistics_of_batch_norms_are_in_float32(count):
    draw = torch.Generator().manual_seed(0)
    x = (torch.randn(8, 3, 8, 8, generator=draw) + 100).bfloat16()  # spacing 1/2
    norm = packed.BatchNorm(3)
    norm(packed.pack(x, count))
    expected = x.double().mean((0, 2, 3))
    assert norm.running_mean == pytest.approx(0.1 * expected.numpy(), rel=1e-6)
    variance = 0.9 + 0.1 * x.double().var((0, 2, 3))
    assert norm.running_var == pytest.approx(variance.numpy(), rel=1e-4)
    _, kept = separable._normalize(x, None)
    assert kept.mean == pytest.approx(expected.numpy(), rel=1e-6)


def test_gradients_by_packed_bfloat16_maps_are_near_those_in_float32():
    draw = torch.Generator().manual_seed(0)
    x = packed.pack(torch.randn(8, 3, 8, 8, generator=draw).bfloat16(), 4)
    weights = torch.randn(x.shape, generator=draw)
    found = []
    for read in (x.clone(), x.float()):
        read.requires_grad_()
        (packed.BatchNorm(3)(read).float() * weights).sum().backward()
        assert read.grad.dtype == read.dtype
        found.append(read.grad.float())
    assert (found[0] - found[1]).norm() < 4 * HALF_ULP * found[1].norm()


def test_operation_weights_get_gradients_in_float32_where_onednn_would_divide_by_zero():
    maps = [torch.ones(64, 1, 64, 64, dtype=torch.bfloat16) for _ in range(2)]  # 6 · 2 sums of 2¹⁸ terms
    weights = torch.zeros(6, 2, requires_grad=True)
    Mix.apply(weights, *maps).sum(dtype=torch.float32).backward()
    assert weights.grad.tolist() == [[2.0**18] * 2] * 6


@pytest.mark.parametrize("recipe", [{"ema": 0.9}, {"drop_path": 0.2, "auxiliary_weight": 0.4}, CLASSIFIER])
def test_a_retraining_repeats_and_resumes_bit_for_bit(workspace, recipe):
    job = by_stage({"searcher": {"kind": "random"}}, **BFLOAT16, **recipe)["retrain"]
    once, again = retrain_task(job), retrain_task(job)
    assert_same(trained(once, epochs=(0,)), trained(again, epochs=(0,)))
    assert all(p.dtype == torch.float32 for p in once.network.parameters())
    resumed = retrain_task(job)
    resumed.load(again.state())
    rest = range(1, once.epochs)
    assert_same(trained(once, epochs=rest), trained(resumed, epochs=rest))


@pytest.fixture
def in_bfloat16():
    """Makes a search's job one in bfloat16."""

    def change(job):
        job.params["search"] |= BFLOAT16
        return job

    return change


def test_a_search_repeats_and_resumes_bit_for_bit(workspace, in_bfloat16):
    job = in_bfloat16(by_stage({})["search"])
    once, again = search_task(job), search_task(job)
    assert_same(trained(once, epochs=(0,)), trained(again, epochs=(0,)))
    resumed = search_task(job)
    resumed.load(again.state())
    assert_same(trained(once, epochs=(1, 2)), trained(resumed, epochs=(1, 2)))


def test_the_sharpness_is_estimated_in_float32(workspace, in_bfloat16):
    job = by_stage({})["search"]
    plain = search_task(job)
    coarse = search_task(in_bfloat16(job))
    vectors = []
    for task in (plain, coarse):
        task.begin(0)
        vectors.append(task._estimate(task.early_stopping.vector))
    assert torch.equal(*vectors)
    assert coarse.supernet.precision == "bfloat16"  # again
    assert not torch.equal(plain.step(0), coarse.step(0))


def test_precisions_have_different_keys(workspace):
    random = {"searcher": {"kind": "random"}}
    plain, coarse = by_stage(random), by_stage(random, **BFLOAT16)
    for stage in ("retrain", "evaluate"):
        assert plain[stage].key != coarse[stage].key
    explicit = by_stage(random, precision="float32")
    assert {stage: job.key for stage, job in plain.items()} == {s: j.key for s, j in explicit.items()}


@pytest.mark.parametrize(("capability", "refused"), [((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_a_gpu_without_bfloat16_is_refused_in_one_line(monkeypatch, capability, refused):
    monkeypatch.setattr(device, "choose", lambda environment: "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(platform, "node", lambda: "n7")
    for name in ("use_deterministic_algorithms", "set_num_threads"):
        monkeypatch.setattr(torch, name, lambda *_, **__: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert device.prepare(1).type == "cuda"
    if refused:
        with pytest.raises(
            UserError, match=r"^precision: Tesla T4 on n7 .*\b8\.0\b.*set precision to float32"
        ):
            device.prepare(1, "bfloat16")
    else:
        assert device.prepare(1, "bfloat16").type == "cuda"
