"""Objectives: how sampled batches become a loss, given one batch from each sampler."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from hlrs.longtail.losses import Loss


class Batch(Protocol):
    """Images float [n, channels, height, width] and labels int64 [n].

    Where images are mixed: the labels of those mixed in, int64 [n], and the share of the former, float [n].
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
    """What an objective asks of a network; see nas/network.py."""

    def features(self, images: Tensor, branch: int) -> Tensor:
        """Pooled features of one branch."""

    def classify(self, features: Tensor) -> Tensor:
        """Logits of the branches' features, side by side."""

    def finalize(self, features: Tensor) -> Tensor:
        """Logits for inference: of the class-specific weights, where there are some."""

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits and those of the auxiliary head."""


Mixing = Tensor | float | None  # a tensor where steps are recorded (graphs.py)


class Outcome(NamedTuple):
    """A loss to descend and the accuracy that went with it, both scalars."""

    loss: Tensor
    accuracy: Tensor


class Objective(Protocol):
    """A loss over one batch from each sampler, at progress t; `mixing` is m(t), None without branches.

    t must act through `loss` alone: what `loss.weighs(t)` says tells when a recorded step is out of date.
    """

    loss: Loss

    def __call__(self, network: Network, batches: Sequence[Batch], t: float, mixing: Mixing) -> Outcome:
        """Loss and accuracy of a network."""


class Plain:
    """L(f(x), y), plus the auxiliary head's loss times its weight where there is one (DARTS, §A.2)."""

    def __init__(self, loss: Loss, auxiliary_weight: float = 0.0) -> None:
        self.loss, self.auxiliary_weight = loss, auxiliary_weight

    def __call__(self, network: Network, batches: Sequence[Batch], t: float, mixing: Mixing) -> Outcome:
        [batch] = batches
        logits, auxiliary = network.heads(batch.images)
        loss = loss_of(self.loss, logits, batch, t)
        if auxiliary is not None:
            loss = loss + self.auxiliary_weight * loss_of(self.loss, auxiliary, batch, t)
        return Outcome(loss, accuracy(logits, batch))


class Bilateral:
    """m·L(p, y_c) + (1 − m)·L(p, y_r) with p = W · 2[m·f_c, (1 − m)·f_r]  (BBN, §4.1).

    f_c are the conventional branch's features of a uniformly sampled batch, f_r the re-balancing branch's of
    a batch from the reversed sampler; the factor 2 keeps the features' scale at inference, where m = 1/2
    (authors' code, lib/core/combiner.py). Accuracy is mixed likewise.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

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


class DualHead:
    """L(z_shared, y) + L(z_final, y), both through the backbone; for the alphas, L(z_shared, y) alone.

    z_shared are the shared classifier's logits, z_final those of the class-specific weights, which inference
    uses. Accuracy is that of z_final, for the alphas that of z_shared. HLRS after the summary (our own
    reading).
    """

    def __init__(self, loss: Loss, for_alphas: bool) -> None:
        self.loss, self.for_alphas = loss, for_alphas

    def __call__(self, network: Network, batches: Sequence[Batch], t: float, mixing: Mixing) -> Outcome:
        [batch] = batches
        features = network.features(batch.images, 0)
        shared = network.classify(features)
        loss = loss_of(self.loss, shared, batch, t)
        if self.for_alphas:
            return Outcome(loss, accuracy(shared, batch))
        final = network.finalize(features)
        return Outcome(loss + loss_of(self.loss, final, batch, t), accuracy(final, batch))


def loss_of(loss: Loss, logits: Tensor, batch: Batch, t: float) -> Tensor:
    """L(z, y); of mixed images, λL(z, y) + (1 − λ)L(z, y′), y′ the partners' labels, λ each image's share.

    Zhang et al. 2018 (mixup), authors' code; a loss with class weights takes its weighted mean over each of
    the two sets of labels.
    """
    if batch.partners is None or batch.share is None:
        return loss(logits, batch.labels, t)
    return loss(logits, batch.labels, t, batch.share) + loss(logits, batch.partners, t, 1 - batch.share)


def accuracy(logits: Tensor, batch: Batch) -> Tensor:
    """Share of images whose largest logit is their label's; mixed ones count by shares: scalar, float32."""
    best = logits.detach().argmax(1)
    hits = (best == batch.labels).float()
    if batch.partners is not None and batch.share is not None:
        hits = batch.share * hits + (1 - batch.share) * (best == batch.partners).float()
    return hits.mean()
