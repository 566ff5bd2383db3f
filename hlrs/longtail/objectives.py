"""Objectives: the loss of one batch from each sampler.

OBJECTIVES computes the loss; DEMANDS says what an objective needs of batches and network, which evaluation
asks for without a loss.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlrs.config.base import Kinds
from hlrs.config.methods import Bilateral as BilateralSpec
from hlrs.config.methods import CosineHead, Sampler
from hlrs.config.methods import DualHead as DualHeadSpec
from hlrs.config.methods import Glmc as GlmcSpec
from hlrs.config.methods import Objective as ObjectiveSpec
from hlrs.config.methods import Plain as PlainSpec
from hlrs.config.methods import ProCo as ProCoSpec
from hlrs.config.recipes import Cutmix, Mixup, SimAugment
from hlrs.longtail.glmc import GlmcHead, inverse_frequency_weights
from hlrs.longtail.losses import Loss, make_loss
from hlrs.longtail.proco import ProCoHead
from hlrs.longtail.row_rates import learn_rows_at, row_rates


class Batch(Protocol):
    """Images float [n, channels, height, width] and labels int64 [n].

    For mixed images: `partners` int64 [n], the labels of those mixed in, `share` float [n], that of `labels`.
    """

    @property
    def images(self) -> Tensor: ...

    @property
    def labels(self) -> Tensor: ...

    @property
    def partners(self) -> Tensor | None: ...

    @property
    def share(self) -> Tensor | None: ...


class Network(Protocol):
    """The interface that an objective needs of a network; see nas/network.py."""

    def features(self, images: Tensor, branch: int) -> Tensor:
        """Return the pooled features of one branch."""

    def classify(self, features: Tensor) -> Tensor:
        """Return the logits of the branches' features, concatenated."""

    def finalize(self, features: Tensor) -> Tensor:
        """Return the logits for inference: from the class-specific weights, where there are any."""

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits, and those of the auxiliary head; None without one."""

    @property
    def class_specific(self) -> nn.Module | None:
        """Return the class-specific weights of a dual head; None without one."""

    @property
    def training_head(self) -> nn.Module | None:
        """Return the head that `Objective.head` made for the training; None without one."""


Mixing = Tensor | float | None  # a tensor in a captured step (training/cuda_graphs.py)


class Outcome(NamedTuple):
    """The loss to minimise and the accuracy on the same batches, both scalars."""

    loss: Tensor
    accuracy: Tensor


class Objective(ABC):
    """A loss over one batch from each sampler, at progress t; `mixing` is m(t), None without branches.

    t may act through `loss` alone: a step is captured again only when `loss.weighs(t)` changes.
    """

    loss: Loss

    @classmethod
    @abstractmethod
    def of(cls, spec: Any, counts: Tensor, auxiliary_weight: float, for_alphas: bool) -> "Objective":
        """Build the objective of a spec, for weights or alphas; counts: images per class, int64 [classes]."""

    @abstractmethod
    def __call__(self, network: Network, batches: Sequence[Batch], t: float, mixing: Mixing) -> Outcome:
        """Compute loss and accuracy of a network."""

    def attach(  # noqa: B027 - optional
        self, network: Network, optimizer: torch.optim.Optimizer
    ) -> None:
        """Register how the objective changes gradients before each optimizer step; here, not at all."""

    def head(self, width: int) -> nn.Module | None:
        """Make the head that reads features [n, width] in training alone; None without one."""
        return None

    def end_epoch(self, network: Network) -> None:  # noqa: B027 - optional
        """Change what the head of a network has seen."""


class Plain(Objective):
    """L(f(x), y), plus the auxiliary head's loss times its weight, where there is one (DARTS, §A.2)."""

    def __init__(self, loss: Loss, auxiliary_weight: float = 0.0) -> None:
        self.loss, self.auxiliary_weight = loss, auxiliary_weight

    @classmethod
    def of(cls, spec: PlainSpec, counts: Tensor, auxiliary_weight: float, for_alphas: bool) -> "Plain":
        """Build the same objective for weights and alphas."""
        return cls(make_loss(spec.loss, counts), auxiliary_weight)

    def __call__(self, network: Network, batches: Sequence[Batch], t: float, mixing: Mixing) -> Outcome:
        [batch] = batches
        logits, auxiliary = network.heads(batch.images)
        loss = loss_of(self.loss, logits, batch, t)
        if auxiliary is not None:
            loss = loss + self.auxiliary_weight * loss_of(self.loss, auxiliary, batch, t)
        return Outcome(loss, accuracy(logits, batch))


class Bilateral(Objective):
    """m·L(p, y_c) + (1 − m)·L(p, y_r) with p = W · 2[m·f_c, (1 − m)·f_r]  (BBN, §4.1).

    f_c are the conventional branch's features of a uniformly sampled batch, f_r the re-balancing branch's of
    a batch from the reversed sampler; the factor 2 keeps the features' scale at inference, where m = 1/2
    (authors' code, lib/core/combiner.py). Accuracy is mixed likewise.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    @classmethod
    def of(
        cls, spec: BilateralSpec, counts: Tensor, auxiliary_weight: float, for_alphas: bool
    ) -> "Bilateral":
        """Build the same objective for weights and alphas."""
        return cls(make_loss(spec.loss, counts))

    def __call__(self, network: Network, batches: Sequence[Batch], t: float, mixing: Mixing) -> Outcome:
        conventional, rebalancing = batches
        assert mixing is not None
        m = mixing
        features = [
            2 * m * network.features(conventional.images, 0),
            2 * (1 - m) * network.features(rebalancing.images, 1),
        ]
        logits = network.classify(torch.cat(features, 1))
        loss_c, loss_r = (loss_of(self.loss, logits, batch, t) for batch in batches)
        accuracy_c, accuracy_r = (accuracy(logits, batch) for batch in batches)
        return Outcome(m * loss_c + (1 - m) * loss_r, m * accuracy_c + (1 - m) * accuracy_r)


class DualHead(Objective):
    """L(z_shared, y) + L(z_final, y), both through the backbone; for the alphas, L(z_shared, y) alone.

    z_shared are the shared classifier's logits, z_final those of the class-specific weights, which inference
    uses. Accuracy is that of z_final, for the alphas that of z_shared. HLRS after the summary (our own
    reading).
    """

    def __init__(self, loss: Loss, rates: Tensor, for_alphas: bool) -> None:
        self.loss, self.rates, self.for_alphas = loss, rates, for_alphas

    @classmethod
    def of(cls, spec: DualHeadSpec, counts: Tensor, auxiliary_weight: float, for_alphas: bool) -> "DualHead":
        """Use both classifiers' losses for the weights, the shared one's for the alphas."""
        return cls(make_loss(spec.loss, counts), row_rates(counts, spec.gamma), for_alphas)

    def attach(self, network: Network, optimizer: torch.optim.Optimizer) -> None:
        """Let the class-specific weights learn at their classes' rates."""
        assert network.class_specific is not None  # by `Demands.dual`
        learn_rows_at(self.rates, network.class_specific.parameters(), optimizer)

    def __call__(self, network: Network, batches: Sequence[Batch], t: float, mixing: Mixing) -> Outcome:
        [batch] = batches
        features = network.features(batch.images, 0)
        shared = network.classify(features)
        loss = loss_of(self.loss, shared, batch, t)
        if self.for_alphas:
            return Outcome(loss, accuracy(shared, batch))
        final = network.finalize(features)
        return Outcome(loss + loss_of(self.loss, final, batch, t), accuracy(final, batch))


class ProCo(Objective):
    """L(f(x₁), y) + w/2 · Σ_v −log softmax(ℓ(x_v) + log n)_y over the views v = 2, 3  (Du et al. 2024, §3).

    ℓ are the logits of `longtail/proco.py`, n the classes' training counts. The head's batch norm sees all
    three views, as in the authors' code. The classes' distributions have seen both views before either is
    contrasted with them; that code contrasts the first one before.
    """

    def __init__(self, spec: ProCoSpec, counts: Tensor) -> None:
        self.spec, self.loss = spec, make_loss(spec.loss, counts)
        self.log_counts = counts.double().clamp(min=1).log()

    @classmethod
    def of(cls, spec: ProCoSpec, counts: Tensor, auxiliary_weight: float, for_alphas: bool) -> "ProCo":
        """Build the objective for weights."""
        return cls(spec, counts)

    def head(self, width: int) -> ProCoHead:
        """Make the projection head."""
        return ProCoHead(width, len(self.log_counts), self.spec.dimensions)

    def end_epoch(self, network: Network) -> None:
        """Forget what was seen before this epoch."""
        assert isinstance(network.training_head, ProCoHead)
        network.training_head.end_epoch()

    def __call__(self, network: Network, batches: Sequence[Batch], t: float, mixing: Mixing) -> Outcome:
        first, *others = batches
        head, count = network.training_head, len(first.labels)
        assert isinstance(head, ProCoHead)
        features = network.features(torch.cat([batch.images for batch in batches]), 0)
        logits = network.finalize(features[:count])
        z, labels = head(features)[count:], torch.cat([batch.labels for batch in others])
        head.see(z, labels)
        contrast = head.logits(z, self.spec.temperature) + self.log_counts
        loss = loss_of(self.loss, logits, first, t)
        return Outcome(
            loss + self.spec.weight * F.cross_entropy(contrast, labels).to(loss), accuracy(logits, first)
        )


class Glmc(Objective):
    """m·Σ_v E(f(x_v), y_v) + (1 − m)·Σ_v E_w(g(x_v), y_v) + c·inconsistency, over two mixed views v.

    E is the cross-entropy, f the head's conventional classifier; g is the network's, and E_w the mean over
    images of w_y times the cross-entropy. Du et al. 2023, §3, authors' code. Accuracy is g's.
    """

    def __init__(self, spec: GlmcSpec, counts: Tensor) -> None:
        self.spec, self.loss, self.classes = spec, make_loss(spec.loss, counts), len(counts)
        weights = inverse_frequency_weights(counts, spec.gamma)
        self.weighted = Loss(lambda z, y: weights.to(z)[y] * self.loss.of_images(z, y))

    @classmethod
    def of(cls, spec: GlmcSpec, counts: Tensor, auxiliary_weight: float, for_alphas: bool) -> "Glmc":
        """Build the objective for weights."""
        return cls(spec, counts)

    def head(self, width: int) -> GlmcHead:
        """Make the conventional classifier, the projection and the prediction."""
        return GlmcHead(width, self.classes)

    def __call__(self, network: Network, batches: Sequence[Batch], t: float, mixing: Mixing) -> Outcome:
        head = network.training_head
        assert isinstance(head, GlmcHead)
        assert mixing is not None
        # one after the other: batch norms see each view by itself, as in the authors' code
        features = torch.cat([network.features(batch.images, 0) for batch in batches])
        conventional, balanced = head.conventional(features).chunk(2), network.finalize(features).chunk(2)
        loss = self.spec.consistency * head.inconsistency(features)
        for batch, of_all, of_tail in zip(batches, conventional, balanced, strict=True):
            loss = loss + mixing * loss_of(self.loss, of_all, batch, t)
            loss = loss + (1 - mixing) * loss_of(self.weighted, of_tail, batch, t)
        hits = [accuracy(logits, batch) for logits, batch in zip(balanced, batches, strict=True)]
        return Outcome(loss, torch.stack(hits).mean())


OBJECTIVES: Kinds[type[Objective]] = {
    PlainSpec: Plain,
    BilateralSpec: Bilateral,
    DualHeadSpec: DualHead,
    ProCoSpec: ProCo,
    GlmcSpec: Glmc,
}


def make_objective(
    spec: ObjectiveSpec, counts: Tensor, auxiliary_weight: float = 0.0, for_alphas: bool = False
) -> Objective:
    """Build the objective of a spec, for weights or alphas; counts: images per class, int64 [classes]."""
    return OBJECTIVES[type(spec)].of(spec, counts, auxiliary_weight, for_alphas)


def loss_of(loss: Loss, logits: Tensor, batch: Batch, t: float) -> Tensor:
    """L(z, y); for mixed images, λL(z, y) + (1 − λ)L(z, y′), y′ the partners' labels, λ each image's share.

    Zhang et al. 2018 (mixup), authors' code; a loss with class weights takes its weighted mean over each of
    the two sets of labels.
    """
    if batch.partners is None or batch.share is None:
        return loss(logits, batch.labels, t)
    return loss(logits, batch.labels, t, batch.share) + loss(logits, batch.partners, t, 1 - batch.share)


def accuracy(logits: Tensor, batch: Batch) -> Tensor:
    """Compute the share of images classified correctly, mixed ones by their shares: scalar, float32."""
    best = logits.detach().argmax(1)
    hits = (best == batch.labels).float()
    if batch.partners is not None and batch.share is not None:
        hits = batch.share * hits + (1 - batch.share) * (best == batch.partners).float()
    return hits.mean()


# --- what an objective needs ------------------------------------------------------------------------------


class Demands(NamedTuple):
    """What an objective needs of batches and network: samplers, classifiers, views."""

    samplers: list[Sampler]  # one batch of each per step
    dual: bool  # class-specific weights beside the shared classifier
    views: Sequence[SimAugment | None] = ()  # of each batch, besides the first; None: as the recipe augments
    mixes: Sequence[Mixup | Cutmix] = ()  # how each view of the first sampler is mixed with the second one's


def plain(spec: PlainSpec) -> Demands:
    """One sampler, one branch, one classifier."""
    return Demands([spec.sampler], dual=False)


def bilateral(spec: BilateralSpec) -> Demands:
    """Two samplers, and a branch for each, whose features are mixed."""
    return Demands([spec.conventional, spec.rebalancing], dual=False)


def dual_head(spec: DualHeadSpec) -> Demands:
    """One sampler, one branch, two classifiers."""
    return Demands([spec.sampler], dual=True)


def proco(spec: ProCoSpec) -> Demands:
    """One sampler, one branch, one classifier, and two views for contrast."""
    return Demands(spec.samplers, dual=False, views=(SimAugment(), SimAugment()))


def glmc(spec: GlmcSpec) -> Demands:
    """Two samplers whose batches are mixed, in two views."""
    mixes = Mixup(alpha=spec.alpha), Cutmix(alpha=spec.alpha)
    return Demands(spec.samplers, dual=False, views=(None,), mixes=mixes)


DEMANDS: Kinds[Callable[..., Demands]] = {
    PlainSpec: plain,
    BilateralSpec: bilateral,
    DualHeadSpec: dual_head,
    ProCoSpec: proco,
    GlmcSpec: glmc,
}


def demands_of(spec: ObjectiveSpec) -> Demands:
    """Return what an objective needs."""
    return DEMANDS[type(spec)](spec)


def layout_of(spec: ObjectiveSpec) -> dict[str, Any]:
    """Return what an objective asks of a network, as arguments of its constructor."""
    demands, scale = demands_of(spec), spec.loss.scale
    return {
        "branches": spec.branches,
        "branch_cells": spec.branch_cells,
        "head": spec.head if scale is None else CosineHead(scale=scale),
        "dual": demands.dual,
    }
