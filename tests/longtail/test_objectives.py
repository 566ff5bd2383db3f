"""Objectives: losses compared with formulas in plain Python, gradients with finite differences."""

import math

import pytest
import torch

from hlrs.config.methods import Bilateral as BilateralSpec
from hlrs.config.methods import CrossEntropy, ReversedSampler, UniformSampler
from hlrs.config.methods import Glmc as GlmcSpec
from hlrs.config.methods import Objective as ObjectiveSpec
from hlrs.config.methods import Plain as PlainSpec
from hlrs.config.methods import ProCo as ProCoSpec
from hlrs.config.recipes import Cutmix, Mixup, SimAugment
from hlrs.data.augment import Batch
from hlrs.longtail.losses import make_loss
from hlrs.longtail.objectives import Bilateral, Plain, accuracy, demands_of, make_objective
from hlrs.nas.derived import DerivedNetwork
from hlrs.nas.genotype import PUBLISHED
from hlrs.nas.network import initialize
from tests.specs import spec, specs

# Three images a batch, two features a branch, three classes. All numbers are arbitrary.
CONVENTIONAL = [[0.4, -1.2], [1.5, 0.3], [-0.7, 0.9]]
REBALANCING = [[-0.2, 0.8], [0.6, -0.5], [1.1, 1.4]]
WEIGHT = [[0.9, -0.3, 0.5, 0.2], [-0.6, 0.7, -0.1, 1.3], [0.1, 0.4, -0.8, -0.9]]
BIAS = [0.05, -0.15, 0.25]
LABELS_C, LABELS_R = [0, 0, 1], [2, 1, 2]
AUXILIARY = [[0.3, 0.1, -0.2], [0.0, 0.5, 0.5], [-0.4, 0.2, 0.9]]
COUNTS = torch.tensor([5, 3, 2])
LOSS = make_loss(CrossEntropy(), COUNTS)


class Fixed:
    """A network whose features are fixed matrices for any images."""

    def __init__(self, auxiliary: bool = False) -> None:
        self.tables = [tensor(CONVENTIONAL), tensor(REBALANCING)]
        self.weight, self.bias = tensor(WEIGHT), tensor(BIAS)
        self.auxiliary = tensor(AUXILIARY) if auxiliary else None
        self.seen = {}

    def features(self, images, branch):
        self.seen[branch] = images
        return self.tables[branch]

    def classify(self, features):
        return features @ self.weight.T + self.bias

    def heads(self, images):
        return self.classify(torch.cat(self.tables, 1)), self.auxiliary

    def parameters(self):
        return [*self.tables, self.weight, self.bias]


def tensor(values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def naive_logits(features_c, features_r, weight, bias, scale_c, scale_r):
    rows = []
    for c, r in zip(features_c, features_r, strict=True):
        joined = [scale_c * x for x in c] + [scale_r * x for x in r]
        rows.append(
            [
                sum(w * x for w, x in zip(ws, joined, strict=True)) + b
                for ws, b in zip(weight, bias, strict=True)
            ]
        )
    return rows


def naive_cross_entropy(logits, labels):
    losses = [
        math.log(sum(map(math.exp, row))) - row[label] for row, label in zip(logits, labels, strict=True)
    ]
    return sum(losses) / len(losses)


def naive_bilateral(features_c, features_r, weight, bias, m):
    logits = naive_logits(features_c, features_r, weight, bias, 2 * m, 2 * (1 - m))
    return m * naive_cross_entropy(logits, LABELS_C) + (1 - m) * naive_cross_entropy(logits, LABELS_R)


def batches():
    images = torch.zeros(3, 1, 2, 2), torch.ones(3, 1, 2, 2)
    return [Batch(images[0], torch.tensor(LABELS_C)), Batch(images[1], torch.tensor(LABELS_R))]


# --- plain --------------------------------------------------------------------------------------------


def test_plain_is_cross_entropy():
    loss, _ = Plain(LOSS)(Fixed(), batches()[:1], 0.0, None)
    logits = naive_logits(CONVENTIONAL, REBALANCING, WEIGHT, BIAS, 1, 1)
    assert loss.item() == pytest.approx(naive_cross_entropy(logits, LABELS_C), rel=1e-12)


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_plain_adds_the_auxiliary_loss_times_its_weight(share):
    loss, _ = Plain(LOSS, share)(Fixed(auxiliary=True), batches()[:1], 0.0, None)
    logits = naive_logits(CONVENTIONAL, REBALANCING, WEIGHT, BIAS, 1, 1)
    expected = naive_cross_entropy(logits, LABELS_C) + share * naive_cross_entropy(AUXILIARY, LABELS_C)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_plain_accuracy_is_that_of_the_main_head():
    network = Fixed(auxiliary=True)
    logits = naive_logits(CONVENTIONAL, REBALANCING, WEIGHT, BIAS, 1, 1)
    hits = [row.index(max(row)) == label for row, label in zip(logits, LABELS_C, strict=True)]
    assert float(Plain(LOSS, 0.4)(network, batches()[:1], 0.0, None).accuracy) == pytest.approx(sum(hits) / 3)


def test_accuracy_by_hand():
    logits = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    assert float(accuracy(logits, Batch(logits, torch.tensor([1, 0, 0, 1])))) == 0.5


# --- mixed images -------------------------------------------------------------------------------------

PARTNERS, SHARE = [1, 0, 2], [0.75, 0.5, 1.0]


def mixed():
    share = torch.tensor(SHARE, dtype=torch.float64)
    return Batch(torch.zeros(3, 1, 2, 2), torch.tensor(LABELS_C), torch.tensor(PARTNERS), share)


def test_the_loss_of_mixed_images_weights_both_labels_by_their_shares():
    loss, _ = Plain(LOSS, 0.4)(Fixed(auxiliary=True), [mixed()], 0.0, None)
    main = naive_logits(CONVENTIONAL, REBALANCING, WEIGHT, BIAS, 1, 1)
    expected = 0.0
    for weight, logits in ((1, main), (0.4, AUXILIARY)):
        for row, label, partner, share in zip(logits, LABELS_C, PARTNERS, SHARE, strict=True):
            of_label, of_partner = (naive_cross_entropy([row], [c]) for c in (label, partner))
            expected += weight * (share * of_label + (1 - share) * of_partner) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_accuracy_of_mixed_images_counts_by_shares():
    share = {  # of the three images, by hand, if this class has the largest logit
        0: [0.75, 1.0, 0.0],  # the label; both labels; neither
        1: [0.25, 0.0, 1.0],
        2: [0.0, 0.0, 0.0],
    }
    for best, hits in share.items():
        logits = torch.eye(3)[[best] * 3]
        assert float(accuracy(logits, mixed())) == pytest.approx(sum(hits) / 3)


# --- bilateral ----------------------------------------------------------------------------------------


def test_branches_use_the_uniform_and_the_reversed_sampler_in_this_order():
    assert demands_of(PlainSpec(kind="plain")).samplers == [UniformSampler()]
    bilateral = BilateralSpec(kind="bilateral")
    assert demands_of(bilateral).samplers == [UniformSampler(), ReversedSampler()]
    network = Fixed()
    make_objective(bilateral, COUNTS)(network, batches(), 0.0, 0.5)
    assert float(network.seen[0].sum()) == 0  # the first batch goes to branch 0
    assert float(network.seen[1].sum()) == 12


@pytest.mark.parametrize("kind", specs(ObjectiveSpec))
def test_the_samplers_that_the_plan_counts_are_those_that_training_reads(kind):
    objective = spec(ObjectiveSpec, kind)
    assert demands_of(objective).samplers == objective.samplers


def test_what_batches_proco_and_glmc_ask_for():
    """ProCo contrasts two views (§3). GLMC mixes one by mixup, the global one, the other by CutMix (§3.1)."""
    proco, glmc = demands_of(ProCoSpec()), demands_of(GlmcSpec(alpha=0.3))
    assert (proco.views, proco.mixes) == ((SimAugment(), SimAugment()), ())
    assert (glmc.views, glmc.mixes) == ((None,), (Mixup(alpha=0.3), Cutmix(alpha=0.3)))


@pytest.mark.parametrize("m", [1.0, 0.0, 0.3, 0.5])
def test_bilateral_loss_matches_the_formula_of_the_paper(m):
    loss, _ = Bilateral(LOSS)(Fixed(), batches(), 0.0, m)
    expected = naive_bilateral(CONVENTIONAL, REBALANCING, WEIGHT, BIAS, m)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("m", "branch"), [(1.0, 0), (0.0, 1)])
def test_at_the_ends_only_one_branch_gets_gradients(m, branch):
    network = Fixed()
    Bilateral(LOSS)(network, batches(), 0.0, m).loss.backward()
    assert float(network.tables[branch].grad.abs().sum()) > 0
    assert float(network.tables[1 - branch].grad.abs().sum()) == 0


def test_bilateral_accuracy_is_mixed_like_the_loss():
    logits = naive_logits(CONVENTIONAL, REBALANCING, WEIGHT, BIAS, 0.6, 1.4)
    best = [row.index(max(row)) for row in logits]
    hits_c, hits_r = (
        sum(b == label for b, label in zip(best, labels, strict=True)) / 3 for labels in (LABELS_C, LABELS_R)
    )
    assert hits_c != hits_r
    found = float(Bilateral(LOSS)(Fixed(), batches(), 0.0, 0.3).accuracy)
    assert found == pytest.approx(0.3 * hits_c + 0.7 * hits_r)


@pytest.mark.parametrize("m", [1.0, 0.0, 0.3])
def test_bilateral_gradient_by_finite_differences_of_the_formula(m):
    network = Fixed()
    Bilateral(LOSS)(network, batches(), 0.0, m).loss.backward()
    values = [[list(row) for row in table] for table in (CONVENTIONAL, REBALANCING, WEIGHT)]
    step = 1e-6
    for table, parameter in zip(values, network.parameters(), strict=False):
        for i, row in enumerate(table):
            for j, value in enumerate(row):
                row[j] = value + step
                above = naive_bilateral(*values, BIAS, m)
                row[j] = value - step
                below = naive_bilateral(*values, BIAS, m)
                row[j] = value
                slope = (above - below) / (2 * step)
                assert float(parameter.grad[i, j]) == pytest.approx(slope, abs=1e-8)


# --- inference ----------------------------------------------------------------------------------------


@pytest.fixture
def bilateral_network():
    network = DerivedNetwork(
        PUBLISHED["DARTS_V1"],
        auxiliary=False,
        in_channels=1,
        classes=3,
        channels=2,
        cells=3,
        branches=2,
        branch_cells=1,
    )
    initialize(network, torch.Generator().manual_seed(1))
    return network.double().eval()


def test_inference_is_mixing_by_one_half(bilateral_network):
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        f_c, f_r = (bilateral_network.features(images, branch) for branch in (0, 1))
        mixed = bilateral_network.classify(2 * torch.cat([0.5 * f_c, 0.5 * f_r], 1))
        assert not torch.allclose(f_c, f_r)
        assert torch.allclose(bilateral_network(images), mixed, rtol=1e-12, atol=1e-12)


def test_loss_of_equal_batches_at_one_half_is_the_cross_entropy_of_inference(bilateral_network):
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels = [2, 0, 1]
    batch = Batch(images, torch.tensor(labels))
    with torch.no_grad():
        loss, _ = Bilateral(LOSS)(bilateral_network, [batch, batch], 0.0, 0.5)
        logits = bilateral_network(images).tolist()
    assert loss.item() == pytest.approx(naive_cross_entropy(logits, labels), rel=1e-12)
