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

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits and those of the auxiliary head."""


class Outcome(NamedTuple):
    """A loss to descend and the accuracy that went with it, both scalars."""

    loss: Tensor
    accuracy: Tensor


class Objective(Protocol):
    """A loss over one batch from each sampler, at progress t; `mixing` is m(t), None without branches."""

    def __call__(self, network: Network, batches: Sequence[Batch], t: float, mixing: float | None) -> Outcome:
        """Loss and accuracy of a network."""


class Plain:
    """L(f(x), y), plus the auxiliary head's loss times its weight where there is one (DARTS, §A.2)."""

    def __init__(self, loss: Loss, auxiliary_weight: float = 0.0) -> None:
        self.loss, self.auxiliary_weight = loss, auxiliary_weight

    def __call__(self, network: Network, batches: Sequence[Batch], t: float, mixing: float | None) -> Outcome:
        [batch] = batches
        logits, auxiliary = network.heads(batch.images)
        loss = self.loss(logits, batch.labels, t)
        if auxiliary is not None:
            loss = loss + self.auxiliary_weight * self.loss(auxiliary, batch.labels, t)
        return Outcome(loss, accuracy(logits, batch.labels))


class Bilateral:
    """m·L(p, y_c) + (1 − m)·L(p, y_r) with p = W · 2[m·f_c, (1 − m)·f_r]  (BBN, §4.1).

    f_c are the conventional branch's features of a uniformly sampled batch, f_r the re-balancing branch's of
    a batch from the reversed sampler; the factor 2 keeps the features' scale at inference, where m = 1/2
    (authors' code, lib/core/combiner.py). Accuracy is mixed likewise.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def __call__(self, network: Network, batches: Sequence[Batch], t: float, mixing: float | None) -> Outcome:
        conventional, rebalancing = batches
        assert mixing is not None
        m = mixing
        features = [
            2 * m * network.features(conventional.images, 0),
            2 * (1 - m) * network.features(rebalancing.images, 1),
        ]
        logits = network.classify(torch.cat(features, 1))
        labels_c, labels_r = conventional.labels, rebalancing.labels
        loss = m * self.loss(logits, labels_c, t) + (1 - m) * self.loss(logits, labels_r, t)
        return Outcome(loss, m * accuracy(logits, labels_c) + (1 - m) * accuracy(logits, labels_r))


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of images whose largest logit is their label's: scalar, float32."""
    return (logits.detach().argmax(1) == labels).float().mean()
