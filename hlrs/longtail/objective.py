"""Objectives: how sampled batches become a loss.

An objective names the samplers that feed it and takes one batch from each: (images [n, channels, height,
width], labels int64 [n]).
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

Batch = tuple[Tensor, Tensor]


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
    """A loss over batches; `mixing` is m(t), ignored where there are no branches."""

    samplers: tuple[str, ...]

    def __call__(self, network: Network, batches: Sequence[Batch], mixing: float | None) -> Outcome:
        """Loss and accuracy of a network on one batch from each sampler."""


class Plain:
    """E(f(x), y), plus the auxiliary head's loss times its weight where there is one (DARTS, §A.2)."""

    samplers: tuple[str, ...] = ("uniform",)

    def __init__(self, auxiliary_weight: float = 0.0) -> None:
        self.auxiliary_weight = auxiliary_weight

    def __call__(self, network: Network, batches: Sequence[Batch], mixing: float | None) -> Outcome:
        [(images, labels)] = batches
        logits, auxiliary = network.heads(images)
        loss = F.cross_entropy(logits, labels)
        if auxiliary is not None:
            loss = loss + self.auxiliary_weight * F.cross_entropy(auxiliary, labels)
        return Outcome(loss, accuracy(logits, labels))


class Bilateral:
    """m·E(p, y_c) + (1 − m)·E(p, y_r) with p = softmax(W · 2[m·f_c, (1 − m)·f_r])  (BBN, §4.1).

    f_c are the conventional branch's features of a uniformly sampled batch, f_r the re-balancing branch's of
    a batch from the reversed sampler; the factor 2 keeps the features' scale at inference, where m = 1/2
    (authors' code, lib/core/combiner.py). Accuracy is mixed likewise.
    """

    samplers: tuple[str, ...] = ("uniform", "reversed")

    def __call__(self, network: Network, batches: Sequence[Batch], mixing: float | None) -> Outcome:
        (images_c, labels_c), (images_r, labels_r) = batches
        assert mixing is not None
        m = mixing
        features = [2 * m * network.features(images_c, 0), 2 * (1 - m) * network.features(images_r, 1)]
        logits = network.classify(torch.cat(features, 1))
        loss = m * F.cross_entropy(logits, labels_c) + (1 - m) * F.cross_entropy(logits, labels_r)
        return Outcome(loss, m * accuracy(logits, labels_c) + (1 - m) * accuracy(logits, labels_r))


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of images whose largest logit is their label's: scalar, float32."""
    return (logits.detach().argmax(1) == labels).float().mean()
