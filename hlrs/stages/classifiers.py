"""The phases that follow the network's, in which its classifier alone learns, on images or fixed features."""

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hlrs.config.base import Kinds
from hlrs.config.methods import ClassBalancedSampler, Sampler, UniformSampler
from hlrs.config.recipes import (
    AdamW,
    ContinuedClassifier,
    DiffusedClassifier,
    Filled,
    GaussianClassifier,
    OnFeatures,
    RetrainedClassifier,
)
from hlrs.data.augment import Batch, send
from hlrs.data.batches import batches_of, steps_per_epoch
from hlrs.data.images import generator
from hlrs.data.samplers import sample
from hlrs.longtail import diffusion
from hlrs.longtail.features import (
    Features,
    Scale,
    draw_gaussian,
    frechet_distance,
    principal_axes,
    shared_covariance,
)
from hlrs.longtail.objectives import Mixing, Outcome, accuracy
from hlrs.nas.network import initialize
from hlrs.stages.images import outputs
from hlrs.stages.phases import OnImages, Phase, Training
from hlrs.training.checkpoints import prefixed, unprefixed

DIFFUSION_BATCH = 256
DIFFUSION_RATE = 2e-3
DIFFUSION_DECAY = 0.999  # per step, of the denoiser's moving average
DRAWN_AT_ONCE = 4096  # features
SHOWN = 50  # features of each class and origin, at most, in the report's picture

Generate = Callable[[Features, Tensor], Tensor]  # (features of the images, labels) -> features


class RetrainedPhase(OnImages):
    """Train the classifier, initialised again, on class-balanced batches (Kang et al. 2020, §4)."""

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


# --- on fixed features --------------------------------------------------------------------------------


class Encoder:
    """The features of the training images under the trained network, computed when first asked for.

    Phases share them. What they depend on no longer changes, so a resumed run computes the same.
    """

    def __init__(self, shared: Training) -> None:
        self.shared = shared
        self.labels = shared.images.labels[send(shared.positions, shared.device)]

    @cached_property
    def features(self) -> Features:
        """Compute the features of all training images, in evaluation mode and without augmentation."""
        shared = self.shared
        values = outputs(
            shared.result, shared.result.pooled, shared.images, shared.positions, shared.recipe.batch_size
        )
        return Features(values, self.labels)

    @cached_property
    def scale(self) -> Scale:
        """Measure the scale of the features."""
        return Scale.of(self.features.values)

    @cached_property
    def standardized(self) -> Tensor:
        """Standardise the features: [n, width]."""
        return self.scale.standardize(self.features.values)


class DiffusionPhase(Phase):
    """Train a denoiser of the standardised features, by AdamW along a cosine; its moving average generates.

    The average starts at 0 and is corrected for it, as Adam's are (Kingma & Ba 2015, §3). Optimizer, batch
    and average are our own reading.
    """

    name = "diffusion"
    classifies = False

    def __init__(self, shared: Training, spec: DiffusedClassifier, encoder: Encoder) -> None:
        width = shared.result.classifier.in_features
        self.denoiser = diffusion.Denoiser(width, len(shared.counts), spec.width)
        self.denoiser.draw(generator(shared.purpose, "diffusion", "weights"))
        self.denoiser.to(shared.device)
        adam = AdamW(lr=DIFFUSION_RATE, clip=None)
        super().__init__(shared, spec.diffusion_epochs, spec.steps_per_epoch, self.denoiser, adam)
        self.encoder, self.sampling_steps = encoder, spec.sampling_steps
        self.averaged = copy.deepcopy(self.denoiser)
        for weight in self.averaged.parameters():
            weight.detach().zero_()  # `generate` corrects for it, so that nothing of the start remains
        self.schedule = diffusion.cosine_schedule(spec.timesteps).to(shared.device)

    def begin(self, epoch: int, t: float) -> None:
        """Draw the order of the features."""
        self.epoch, labels = epoch, self.encoder.labels.cpu()
        draw = generator(self.shared.purpose, "diffusion", "order", epoch)
        count = self.steps * DIFFUSION_BATCH
        self.order = sample(UniformSampler(), labels, count, draw, t).view(self.steps, -1)

    def inputs_of(self, number: int) -> list[Any]:
        """Return features, their labels, times and noise of a pass."""
        rows = send(self.order[number], self.shared.device)
        draw = generator(self.shared.purpose, "diffusion", "noise", self.epoch, number)
        t = torch.randint(len(self.schedule), rows.shape, generator=draw)
        x, labels = self.encoder.standardized[rows], self.encoder.labels[rows]
        noise = torch.randn(x.shape, generator=draw)
        return [None, x, labels, send(t, self.shared.device), send(noise, self.shared.device)]

    def outcome(self, mixing: None, x: Tensor, labels: Tensor, t: Tensor, noise: Tensor) -> Outcome:
        """Compute the denoiser's loss; it has no accuracy."""
        loss = diffusion.loss(self.denoiser, self.schedule, x, labels, t, noise)
        return Outcome(loss, torch.zeros_like(loss))

    def average(self) -> None:
        """Take the denoiser's weights into their moving average."""
        update = get_ema_multi_avg_fn(DIFFUSION_DECAY)
        update(list(self.averaged.parameters()), self.weights, 0)

    def generate(self, features: Features, labels: Tensor) -> Tensor:
        """Generate features of the classes `labels`, int64 [n], from noise."""
        width = features.values.shape[1]
        drawn, denoiser = [], copy.deepcopy(self.averaged)
        with torch.no_grad():
            for weight in denoiser.parameters():
                weight.div_(1 - DIFFUSION_DECAY ** (self.epochs * self.steps))
            for number, part in enumerate(labels.split(DRAWN_AT_ONCE)):
                draw = generator(self.shared.purpose, "diffusion", "sampling", number)
                noise = send(torch.randn(len(part), width, generator=draw), self.shared.device)
                drawn.append(diffusion.ddim(denoiser, self.schedule, noise, part, self.sampling_steps))
        return self.encoder.scale.restore(torch.cat(drawn))

    def state(self) -> dict[str, Tensor]:
        """Return the denoiser's weights, their moving average and the optimizer's state."""
        weights = prefixed("denoiser", self.denoiser.state_dict())
        return super().state() | weights | prefixed("averaged", self.averaged.state_dict())

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore a state."""
        super().load(state)
        self.denoiser.load_state_dict(unprefixed("denoiser", state))
        self.averaged.load_state_dict(unprefixed("averaged", state))


class FeaturesPhase(Phase):
    """Train the classifier, as it is, on the images' features and generated ones, by Adam along a cosine."""

    name = "classifier"

    def __init__(
        self,
        shared: Training,
        spec: OnFeatures,
        encoder: Encoder,
        sampler: Sampler,
        counts: list[int],
        generate: Generate | None,
    ) -> None:
        recipe, size = shared.recipe, sum(shared.counts) + sum(counts)
        self.batch_size = min(recipe.batch_size * recipe.accumulate, size)
        steps = steps_per_epoch(size, self.batch_size)
        adam = AdamW(lr=spec.lr, weight_decay=0.0, clip=None)
        super().__init__(shared, spec.epochs, steps, shared.result.classifier, adam)
        self.encoder, self.sampler, self.counts, self.generate = encoder, sampler, counts, generate

    @cached_property
    def generated(self) -> Features:
        """Generate the features, class by class; the same after a resume."""
        real = self.encoder.features
        counts = torch.tensor(self.counts, device=real.labels.device)
        labels = torch.arange(len(counts), device=real.labels.device).repeat_interleave(counts)
        if self.generate is None or not len(labels):
            return Features(real.values[:0], labels)
        return Features(self.generate(real, labels), labels)

    @cached_property
    def features(self) -> Features:
        """Join the images' features and the generated ones."""
        return self.encoder.features.and_also(self.generated)

    def begin(self, epoch: int, t: float) -> None:
        """Draw the order of the features."""
        draw = generator(self.shared.purpose, "classifier", "order", epoch)
        count = self.steps * self.batch_size
        self.order = sample(self.sampler, self.features.labels.cpu(), count, draw, t).view(self.steps, -1)

    def inputs_of(self, number: int) -> list[Any]:
        """Return features and labels of a pass."""
        rows = send(self.order[number], self.shared.device)
        return [None, self.features.values[rows], self.features.labels[rows]]

    def outcome(self, mixing: None, features: Tensor, labels: Tensor) -> Outcome:
        """Compute the cross-entropy."""
        logits = self.shared.result.classify(features)
        return Outcome(F.cross_entropy(logits, labels), accuracy(logits, Batch(features, labels)))

    def described(self) -> dict[str, list[Any]]:
        """Compare the images' features with generated ones, class by class, as features.parquet has it.

        All are standardised; x and y are along the two principal axes of the images' features.
        """
        columns, real, scale = super().described(), self.encoder.features, self.encoder.scale
        if not sum(self.counts):
            return columns
        axes = principal_axes(self.encoder.standardized)
        for label in range(len(self.counts)):
            own, drawn = (scale.standardize(of.of(label)) for of in (real, self.generated))
            for origin, values in {"images": own, "generated": drawn}.items():
                draw = generator(self.shared.purpose, "shown", label, origin)
                shown = values[torch.randperm(len(values), generator=draw)[:SHOWN].to(values.device)]
                x, y = (shown.double() @ axes).float().T.tolist()
                distance = frechet_distance(own, drawn) if origin == "generated" else None
                row = (label, origin, len(values), distance, x, y)
                for name, value in zip(columns, row, strict=True):
                    columns[name].append(value)
        return columns


# --- kinds of classifiers -----------------------------------------------------------------------------


def retrained(shared: Training, classifier: RetrainedClassifier) -> list[Phase]:
    """Retrain the classifier."""
    return [RetrainedPhase(shared, classifier)]


def continued(shared: Training, classifier: ContinuedClassifier) -> list[Phase]:
    """Train the classifier on the images' features."""
    none = [0] * len(shared.counts)
    return [FeaturesPhase(shared, classifier, Encoder(shared), classifier.sampler, none, None)]


def gaussian(shared: Training, classifier: GaussianClassifier) -> list[Phase]:
    """Train the classifier on features of class Gaussians besides."""

    def generate(features: Features, labels: Tensor) -> Tensor:
        draw = generator(shared.purpose, "gaussian")
        noise = send(torch.randn(len(labels), features.values.shape[1], generator=draw), shared.device)
        return draw_gaussian(*shared_covariance(features, len(shared.counts)), labels, noise)

    return [_filled(shared, classifier, Encoder(shared), generate)]


def diffused(shared: Training, classifier: DiffusedClassifier) -> list[Phase]:
    """Train a denoiser, then the classifier on what it generates besides."""
    encoder = Encoder(shared)
    diffusion_phase = DiffusionPhase(shared, classifier, encoder)
    return [diffusion_phase, _filled(shared, classifier, encoder, diffusion_phase.generate)]


def _filled(shared: Training, classifier: Filled, encoder: Encoder, generate: Generate) -> FeaturesPhase:
    """Make the phase that trains the classifier on generated features besides."""
    classifier.check_classes(dict(zip(shared.classes, shared.counts, strict=True)))
    counts = classifier.generated(shared.counts)
    return FeaturesPhase(shared, classifier, encoder, UniformSampler(), counts, generate)


SECOND_PHASES: Kinds[Callable[..., list[Phase]]] = {
    RetrainedClassifier: retrained,
    ContinuedClassifier: continued,
    GaussianClassifier: gaussian,
    DiffusedClassifier: diffused,
}
