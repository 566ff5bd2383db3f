"""The phases that follow the network's, in which its classifier alone learns."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from hlrs.config.base import Kinds
from hlrs.config.methods import ClassBalancedSampler
from hlrs.config.recipes import RetrainedClassifier
from hlrs.data.batches import batches_of
from hlrs.data.images import generator
from hlrs.longtail.objectives import Mixing, Outcome, accuracy
from hlrs.nas.network import initialize
from hlrs.stages.phases import OnImages, Phase, Training


class RetrainedPhase(OnImages):
    """Train the classifier, initialised again, on class-balanced batches (Kang et al. 2020, §4.2)."""

    name = "classifier"

    def __init__(self, shared: Training, classifier: RetrainedClassifier) -> None:
        spec = shared.recipe.weights.of_classifier(classifier.lr)
        purpose = f"{shared.purpose}/classifier"
        batches = shared.make_batches([ClassBalancedSampler()], shared.augment, purpose)
        super().__init__(shared, classifier.epochs, shared.result.classifier, spec, batches)

    def open(self) -> None:
        """Initialise the classifier."""
        draw = generator(self.shared.purpose, "classifier", "weights")
        initialize(self.shared.result.classifier, draw)

    def begin(self, epoch: int, t: float) -> None:
        """Draw the epoch's batches."""
        super().begin(epoch, t)
        self.shared.result.eval()  # the running statistics stay unchanged too

    def outcome(self, mixing: Mixing, factors: None, *fields: Any) -> Outcome:
        """Compute the cross-entropy of the classifier on fixed features."""
        [batch] = batches_of(fields)
        with torch.no_grad():
            features = self.shared.result.pooled(batch.images)
        logits = self.shared.result.classify(features)
        return Outcome(F.cross_entropy(logits, batch.labels), accuracy(logits, batch))


def retrained(shared: Training, classifier: RetrainedClassifier) -> list[Phase]:
    """Retrain the classifier."""
    return [RetrainedPhase(shared, classifier)]


SECOND_PHASES: Kinds[Callable[..., list[Phase]]] = {RetrainedClassifier: retrained}
