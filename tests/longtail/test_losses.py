"""Losses compared with numbers worked out by hand, loops over images, finite differences and each other."""

import math
from typing import get_args

import pytest
import torch
from torch.nn import functional as F

from hlrs.config.methods import (
    Bilateral,
    ClassBalanced,
    CosineHead,
    DualHead,
    EtfHead,
    LinearHead,
    Loss,
    Plain,
)
from hlrs.longtail.losses import LOSSES, effective_number_weights, make_loss
from hlrs.longtail.objectives import layout_of
from hlrs.nas.derived import DerivedNetwork
from hlrs.nas.genotype import PUBLISHED
from hlrs.nas.network import CosineClassifier, initialize
from tests.specs import specs

COUNTS = [1000, 16, 81]
LOGITS = [[2.0, -1.0, 0.5], [0.3, 0.2, 1.9], [-0.4, 0.6, 0.1], [1.2, 1.1, -2.0], [4.0, -3.0, -2.5]]
LABELS = [0, 1, 2, 0, 1]  # the last one's probability is below seesaw's floor
KINDS = specs(Loss)
# options far from the defaults, at which each must change the loss of COUNTS, LOGITS and LABELS
OTHER = {
    "cross_entropy": {"smoothing": 0.3},
    "class_balanced": {"beta": 0.5, "at": 0.7},
    "focal": {"gamma": 0.5},
    "ldam": {"max_margin": 0.1, "scale": 3.0, "beta": 0.5, "at": None},
    "balanced_softmax": {},
    "logit_adjustment": {"tau": 0.5},
    "seesaw": {"p": 0.2, "q": 0.5},
    "vector_scaling": {"gamma": 0.1, "tau": 0.5},
    "class_dependent_temperatures": {"gamma": 0.1},
}


def float64(values, requires_grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=requires_grad)


def loss_of(kind, counts=COUNTS, **options):
    return make_loss(KINDS[kind](**options), torch.tensor(counts))


def value(kind, t=0.5, logits=LOGITS, labels=LABELS, counts=COUNTS, share=None, **options):
    loss = loss_of(kind, counts, **options)
    return loss(float64(logits), torch.tensor(labels), t, share).item()


# --- one image at a time, in plain Python -------------------------------------------------------------


def softmax(row):
    exponentials = [math.exp(z) for z in row]
    return [e / sum(exponentials) for e in exponentials]


def effective_number(n, beta):
    """1 + β + β² + ... of n terms, the sum that the effective number is."""
    return sum(beta**k for k in range(n))


def naive_image(kind, row, label, reference, **o):
    """The loss of one image; seesaw's compensation is computed from the logits `reference`."""
    if kind == "cross_entropy":
        target = [(1 - o["smoothing"]) * (c == label) + o["smoothing"] / len(row) for c in range(len(row))]
        return -sum(y * math.log(p) for y, p in zip(target, softmax(row), strict=True))
    if kind == "focal":
        p = softmax(row)[label]
        return -((1 - p) ** o["gamma"]) * math.log(p)
    if kind == "ldam":
        margins = [o["max_margin"] * (min(COUNTS) / n) ** 0.25 for n in COUNTS]
        cosines = [z / o["scale"] for z in row]
        cosines[label] -= margins[label]
        row = [o["scale"] * c for c in cosines]
    elif kind == "balanced_softmax":
        terms = [n * math.exp(z) for n, z in zip(COUNTS, row, strict=True)]
        return -math.log(terms[label] / sum(terms))
    elif kind == "logit_adjustment":
        row = [z + o["tau"] * math.log(n / sum(COUNTS)) for n, z in zip(COUNTS, row, strict=True)]
    elif kind == "vector_scaling":
        scaled = [z * (n / max(COUNTS)) ** o["gamma"] for n, z in zip(COUNTS, row, strict=True)]
        row = [z + o["tau"] * math.log(n / sum(COUNTS)) for n, z in zip(COUNTS, scaled, strict=True)]
    elif kind == "class_dependent_temperatures":
        row = [z * (n / max(COUNTS)) ** o["gamma"] for n, z in zip(COUNTS, row, strict=True)]
    elif kind == "seesaw":
        sigma = softmax(reference)
        terms = []
        for c, z in enumerate(row):
            mitigation = (COUNTS[c] / COUNTS[label]) ** o["p"] if COUNTS[c] < COUNTS[label] else 1.0
            ratio = sigma[c] / max(sigma[label], 0.01)
            compensation = ratio ** o["q"] if ratio > 1 else 1.0
            terms.append((1.0 if c == label else mitigation * compensation) * math.exp(z))
        return -math.log(terms[label] / sum(terms))
    return -math.log(softmax(row)[label])


def naive(kind, logits, reference, t=0.5, **options):
    weights = [1.0] * len(COUNTS)
    if "beta" in options and options["at"] is not None and t >= options["at"]:
        weights = [1 / effective_number(n, options["beta"]) for n in COUNTS]
    losses = [
        weights[label] * naive_image(kind, row, label, at, **options)
        for row, at, label in zip(logits, reference, LABELS, strict=True)
    ]
    return sum(losses) / sum(weights[label] for label in LABELS)


CASES = [(kind, {}) for kind in KINDS] + [(kind, options) for kind, options in OTHER.items() if options]
CASES += [("ldam", {"at": 0.2, "beta": 0.9}), ("class_balanced", {"beta": 0.0})]


@pytest.mark.parametrize("t", [0.0, 0.5, 0.75, 0.9])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_loss_equals_a_loop_over_the_images(kind, options, t):
    full = KINDS[kind](kind=kind, **options).model_dump(exclude={"kind"})
    assert value(kind, t, **options) == pytest.approx(naive(kind, LOGITS, LOGITS, t, **full), rel=1e-9)


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_gradient_equals_finite_differences_of_the_loop(kind, options):
    full = KINDS[kind](kind=kind, **options).model_dump(exclude={"kind"})
    logits, step = float64(LOGITS, requires_grad=True), 1e-6
    loss_of(kind, **options)(logits, torch.tensor(LABELS), 0.9).backward()
    for i, row in enumerate(LOGITS):
        for j in range(len(row)):
            moved = [
                [
                    [z + sign * step * ((k, m) == (i, j)) for m, z in enumerate(r)]
                    for k, r in enumerate(LOGITS)
                ]
                for sign in (1, -1)
            ]
            above, below = (naive(kind, values, LOGITS, 0.9, **full) for values in moved)
            assert float(logits.grad[i, j]) == pytest.approx((above - below) / (2 * step), abs=1e-8)


# --- by hand ------------------------------------------------------------------------------------------


def test_balanced_softmax_by_hand():
    # equal logits: p_c = n_c/n, so that −log p_y = log(4/1) and log(4/3)
    expected = (math.log(4) + math.log(4 / 3)) / 2
    found = value("balanced_softmax", logits=[[0.0, 0.0]] * 2, labels=[0, 1], counts=[1, 3])
    assert found == pytest.approx(expected, rel=1e-12)


def test_logit_adjustment_by_hand():
    # equal logits, tau 2: p ∝ (1/4)², (3/4)², so 1/10 and 9/10
    options = {"logits": [[5.0, 5.0]], "counts": [1, 3], "tau": 2.0}
    assert value("logit_adjustment", labels=[0], **options) == pytest.approx(math.log(10), rel=1e-12)
    assert value("logit_adjustment", labels=[1], **options) == pytest.approx(math.log(10 / 9), rel=1e-12)


def test_vector_scaling_by_hand():
    # factors (1/16)^½ = 1/4 and 1, π = 1/17 and 16/17, tau 2: p ∝ e^(4/4)/17² and e^0 · 16²/17², e : 256
    options = {"logits": [[4.0, 0.0]], "counts": [1, 16], "gamma": 0.5, "tau": 2.0}
    assert value("vector_scaling", labels=[0], **options) == pytest.approx(
        math.log1p(256 / math.e), rel=1e-12
    )
    assert value("vector_scaling", labels=[1], **options) == pytest.approx(
        math.log1p(math.e / 256), rel=1e-12
    )


def test_class_dependent_temperatures_by_hand():
    # 4/4 against 2: the smaller class's logit counts for a quarter
    options = {"logits": [[4.0, 2.0]], "counts": [1, 16], "gamma": 0.5}
    found = [value("class_dependent_temperatures", labels=[label], **options) for label in (0, 1)]
    assert found == pytest.approx([math.log1p(math.e), math.log1p(1 / math.e)], rel=1e-12)


def test_focal_by_hand():
    # two equal logits: p = 1/2, (1/2)² log 2
    assert value("focal", logits=[[1.0, 1.0]], labels=[0], counts=[1, 1]) == pytest.approx(math.log(2) / 4)


def test_ldam_by_hand():
    # margins of 1 and 16 images: 1/2 and 1/4; logits 10·cos = 4 and 3; 4 − 5 against 3, and 3 − 2.5 against 4
    options = {"logits": [[4.0, 3.0]], "counts": [1, 16], "scale": 10.0, "t": 0.0}
    assert value("ldam", labels=[0], **options) == pytest.approx(math.log1p(math.exp(4)), rel=1e-12)
    assert value("ldam", labels=[1], **options) == pytest.approx(math.log1p(math.exp(3.5)), rel=1e-12)


def test_seesaw_by_hand():
    # y = 0 of 16 images against one of 1 with e² times its probability: M = (1/16)^½ = 1/4, C = e²
    options = {"logits": [[0.0, 2.0]], "counts": [16, 1], "p": 0.5, "q": 1.0}
    assert value("seesaw", labels=[0], **options) == pytest.approx(math.log1p(math.exp(4) / 4), rel=1e-12)
    # the other way round, both factors are 1
    assert value("seesaw", labels=[1], **options) == pytest.approx(math.log1p(math.exp(-2)), rel=1e-12)


def test_effective_numbers_by_hand():
    # β = 1/2: effective numbers 1, 3/2, 7/4; inverses 1, 2/3, 4/7, their sum 47/21
    weights = effective_number_weights(torch.tensor([1, 2, 3]), 0.5)
    assert weights.tolist() == pytest.approx([63 / 47, 42 / 47, 36 / 47], rel=1e-12)


def test_class_weights_give_pytorchs_weighted_mean_as_in_ldam_drw():
    # LDAM-DRW: nn.CrossEntropyLoss(weight=...), β 0.9999, weights of mean 1
    counts = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    weights = [1e-4 / (1 - 0.9999**n) for n in counts]
    weights = float64([w * 10 / sum(weights) for w in weights])
    draw = torch.Generator().manual_seed(4)
    logits = torch.randn(64, 10, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, 10, (64,), generator=draw)
    found = make_loss(ClassBalanced(beta=0.9999, at=0.0), torch.tensor(counts))(logits, labels, 0.0)
    assert found.item() == pytest.approx(F.cross_entropy(logits, labels, weights).item(), rel=1e-9)
    assert effective_number_weights(torch.tensor(counts), 0.9999).tolist() == pytest.approx(weights.tolist())


# --- limits -------------------------------------------------------------------------------------------

ENTROPY = F.cross_entropy(float64(LOGITS), torch.tensor(LABELS)).item()


def test_label_smoothing_matches_pytorch():
    expected = F.cross_entropy(float64(LOGITS), torch.tensor(LABELS), label_smoothing=0.3).item()
    assert value("cross_entropy", smoothing=0.3) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("cross_entropy", {}, 1e-12),
        ("class_balanced", {"beta": 0.0}, 1e-12),
        ("focal", {"gamma": 0.0}, 1e-12),
        ("ldam", {"max_margin": 1e-9, "at": None}, 1e-6),
        ("logit_adjustment", {"tau": 1e-9}, 1e-6),
        ("seesaw", {"p": 0.0, "q": 0.0}, 1e-12),
        ("vector_scaling", {"gamma": 1e-9, "tau": 1e-9}, 1e-6),
        ("class_dependent_temperatures", {"gamma": 1e-9}, 1e-6),
    ],
)
def test_without_its_correction_a_loss_is_cross_entropy(kind, options, tolerance):
    assert value(kind, **options) == pytest.approx(ENTROPY, rel=tolerance)
    assert value(kind, 0.9) != pytest.approx(ENTROPY, rel=1e-3) or kind == "cross_entropy"


def test_vector_scaling_contains_logit_adjustment_and_temperatures():
    assert value("vector_scaling", gamma=1e-9, tau=0.7) == pytest.approx(
        value("logit_adjustment", tau=0.7), rel=1e-6
    )
    assert value("vector_scaling", gamma=0.7, tau=1e-9) == pytest.approx(
        value("class_dependent_temperatures", gamma=0.7), rel=1e-6
    )


def test_balanced_softmax_is_logit_adjustment_by_one():
    assert value("balanced_softmax") == pytest.approx(value("logit_adjustment", tau=1.0), rel=1e-12)


def test_class_balanced_weights_become_inverse_frequencies():
    expected = F.cross_entropy(float64(LOGITS), torch.tensor(LABELS), 1 / float64(COUNTS)).item()
    assert value("class_balanced", beta=1 - 1e-10) == pytest.approx(expected, rel=1e-5)


def test_weights_act_from_the_given_progress():
    for kind in ("class_balanced", "ldam"):
        before, after = (value(kind, t, at=0.8, beta=0.9999) for t in (159 / 200, 160 / 200))
        assert before == pytest.approx(value(kind, 0.0, at=0.1, beta=0.9999), rel=1e-12)
        assert after == pytest.approx(value(kind, 0.0, at=0.0, beta=0.9999), rel=1e-12)
        assert before != pytest.approx(after, rel=1e-2)
    assert value("ldam", 0.9, at=None) == value("ldam", 0.0, at=0.1)


# --- every kind ---------------------------------------------------------------------------------------


def test_every_loss_of_config_is_implemented_and_tested():
    assert set(LOSSES) == set(KINDS.values())
    assert set(KINDS) == set(OTHER)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_are_finite_at_extreme_logits(kind, dtype):
    for counts, labels in (([9, 3, 2], [0, 1, 2]), ([9, 0, 2], [0, 2, 2])):  # a class without images
        for scale in (1.0, 100.0, -100.0):  # certain and right, certain and wrong
            logits = (scale * torch.eye(3)[labels]).to(dtype).requires_grad_()
            for gamma in ({}, {"gamma": 0.5}) if kind == "focal" else ({},):
                loss = loss_of(kind, counts, **gamma)(logits, torch.tensor(labels), 0.9)
                assert loss.shape == ()
                assert loss.dtype == dtype
                [gradient] = torch.autograd.grad(loss, logits)
                assert torch.isfinite(loss)
                assert torch.isfinite(gradient).all()
                assert float(gradient.abs().sum()) > 0 or scale == 100.0


@pytest.mark.parametrize(("kind", "option"), [(k, o) for k, options in OTHER.items() for o in options])
def test_every_option_acts(kind, option):
    assert set(OTHER[kind]) == set(KINDS[kind].model_fields) - {"kind"}
    changed = any(
        value(kind, t, **{option: OTHER[kind][option]}) != pytest.approx(value(kind, t), rel=1e-3)
        for t in (0.5, 0.9)
    )
    assert changed


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_mixed_images_are_weighted_by_shares(kind):
    loss, logits = loss_of(kind), float64(LOGITS)
    partners, share = torch.tensor([2, 2, 1, 1, 0]), float64([0.3] * 5)
    both = loss(logits, torch.tensor(LABELS), 0.9, share) + loss(logits, partners, 0.9, 1 - share)
    apart = 0.3 * value(kind, 0.9) + 0.7 * value(kind, 0.9, labels=partners.tolist())
    assert both.item() == pytest.approx(apart, rel=1e-12)
    # shares are per image: one with share 0 does not count, though its label keeps its weight
    alone = value(kind, 0.9, share=float64([1.0, 0.0, 0.0, 0.0, 0.0]))
    rest = value(kind, 0.9, share=float64([0.0, 1.0, 1.0, 1.0, 1.0]))
    assert alone + rest == pytest.approx(value(kind, 0.9), rel=1e-12)
    assert alone > 0


# --- LDAM's classifier --------------------------------------------------------------------------------


def ldam_network(auxiliary=True, scale=30.0):
    objective = Plain(kind="plain", loss={"kind": "ldam", "scale": scale})
    layout = {"in_channels": 1, "classes": 3, "channels": 2, "cells": 3, **layout_of(objective)}
    network = DerivedNetwork(PUBLISHED["DARTS_V1"], auxiliary=auxiliary, **layout)
    initialize(network, torch.Generator().manual_seed(1))
    return network.double()


def test_inference_uses_the_logits_of_training_without_the_margin():
    network = ldam_network(auxiliary=False).eval()
    images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    with torch.no_grad():
        features, logits = network.features(images, 0), network(images)
        weight = network.classifier.weight
        for image, found in zip(features, logits, strict=True):
            cosines = [float(image @ row / (image.norm() * row.norm())) for row in weight]
            assert found.tolist() == pytest.approx([30 * c for c in cosines], rel=1e-9)
            assert abs(max(cosines)) <= 1
        without = loss_of("ldam", max_margin=1e-12, at=None)(logits, labels, 0.0)
    negative_log_p = -logits.softmax(1).log()[range(6), labels].mean()
    assert without.item() == pytest.approx(negative_log_p.item(), rel=1e-9)


def test_every_classifier_of_an_ldam_network_gives_cosines():
    network = ldam_network(scale=7.0)
    assert isinstance(network.auxiliary.classifier, CosineClassifier)
    images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for logits in network.heads(images):
        assert float(logits.detach().abs().max()) <= 7.0
    for classifier in (network.classifier, network.auxiliary.classifier):
        norms = classifier.weight.detach().norm(dim=1)
        assert torch.allclose(norms, torch.ones(3, dtype=torch.float64), rtol=1e-6)


def test_other_losses_have_the_head_that_is_asked_for():
    for kind in set(KINDS) - {"ldam"}:
        for head in (LinearHead(), CosineHead(scale=7.0), EtfHead()):
            assert layout_of(Plain(loss={"kind": kind}, head=dict(head)))["head"] == head
    assert layout_of(Plain(loss={"kind": "ldam", "scale": 7.0}))["head"] == CosineHead(scale=7.0)


# --- corrected once -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_declares_a_correction_if_class_counts_change_it(kind):
    other = value(kind, 0.9, counts=[10, 500, 81])
    assert bool(KINDS[kind]().corrects) == (other != pytest.approx(value(kind, 0.9), rel=1e-6))


@pytest.mark.parametrize("kind", [kind for kind, spec in KINDS.items() if spec().corrects])
def test_a_correcting_loss_is_rejected_beside_a_rebalancing_sampler(kind):
    for sampler in ("class_balanced", "reversed", "square_root", "progressive", "deferred"):
        for spec in (Plain, DualHead):
            objective = get_args(spec.model_fields["kind"].annotation)[0]
            with pytest.raises(ValueError, match=rf"loss {kind}\b.*sampler {sampler}\b.*use one\b"):
                spec(kind=objective, sampler={"kind": sampler}, loss={"kind": kind})
    with pytest.raises(ValueError, match=rf"loss {kind}\b.*sampler reversed\b.*use one\b"):
        Bilateral(kind="bilateral", loss={"kind": kind})
    Plain(kind="plain", loss={"kind": kind})


def test_losses_that_do_not_correct_accept_any_sampler():
    for loss in ({"kind": "cross_entropy"}, {"kind": "focal"}, {"kind": "ldam", "at": None}):
        Plain(kind="plain", sampler={"kind": "class_balanced"}, loss=loss)
        Bilateral(kind="bilateral", loss=loss)
