"""The phases of a retraining: what learns, on which batches, by which loss; and the network's own phase."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hlrs.artifacts.tables import SCHEMAS
from hlrs.config.data import Augment
from hlrs.config.methods import Sampler
from hlrs.config.recipes import NormalizedClassifier, Optimizer, Retrain, SimAugment
from hlrs.data.augment import Augmentation, Batch, mix, mix_views, send
from hlrs.data.batches import Batches, batches_of
from hlrs.data.images import LabelledImages, generator
from hlrs.longtail.mixing import mixing_at
from hlrs.longtail.objectives import Mixing, Objective, Outcome, demands_of
from hlrs.nas.bilevel import moved
from hlrs.nas.derived import DerivedNetwork, DropPath, draw_factors
from hlrs.nas.network import BranchedNetwork, normalize_classifier
from hlrs.stages.images import augmentation_of
from hlrs.training.checkpoints import pack_optimizer, prefixed, unpack_optimizer, unprefixed
from hlrs.training.lookahead import Lookahead
from hlrs.training.optim import ascent, learning_rate, make_optimizer, mean_gradients, step_along
from hlrs.training.task import step_metrics


@dataclass(frozen=True)
class Training:
    """What the phases of a retraining share. The weights of `result` are its outcome."""

    recipe: Retrain
    network: BranchedNetwork
    result: BranchedNetwork  # the network, or its average
    objective: Objective
    images: LabelledImages
    positions: Tensor  # of the training images
    classes: list[str]
    counts: list[int]  # training images per class
    augment: Augment
    steps: int  # per epoch of the network
    purpose: str
    device: torch.device

    def make_batches(
        self,
        samplers: Sequence[Sampler],
        augment: Augment | None,
        purpose: str,
        views: Sequence[SimAugment | None] = (),
    ) -> Batches:
        """Make batches of the training images, and of `views` of them; without an `augment`, as they are."""
        recipe = self.recipe
        own = augmentation_of(augment, recipe.cutout, recipe.policy) if augment else Augmentation()
        return Batches(
            self.images,
            self.positions,
            samplers,
            recipe.batch_size,
            self.steps * recipe.accumulate,
            own,
            purpose,
            [own if view is None else Augmentation(policy=view) for view in views],
        )


class Phase(ABC):
    """A phase of a retraining: the weights that learn in it, their optimizer, and their loss.

    A step takes the mean gradient of `accumulate` passes, each with inputs of its own, the first of which is
    the mixing coefficient or None. `steps`: per epoch.
    """

    name: ClassVar[str]
    classifies: ClassVar[bool] = True  # its passes have an accuracy
    drop_path = 0.0
    accumulate, sharpness = 1, 0.0
    images_per_step = 0  # none of a phase on features

    def __init__(
        self,
        shared: Training,
        epochs: int,
        steps: int,
        trained: nn.Module,
        spec: Optimizer,
    ) -> None:
        self.shared, self.epochs, self.steps, self.spec = shared, epochs, steps, spec
        self.weights, self.optimizer = list(trained.parameters()), make_optimizer(trained, spec)

    def open(self) -> None:  # noqa: B027 - optional
        """Prepare the weights; a run that is resumed in the phase already has them."""

    def learning_rate(self, own: int) -> float:
        """Return the learning rate of one of the phase's epochs, counted from 0."""
        return learning_rate(self.spec, own, self.epochs)

    @abstractmethod
    def begin(self, epoch: int, t: float) -> None:
        """Prepare an epoch, counted over all phases, at progress t of this one."""

    def constants(self) -> tuple[Any, ...]:
        """Return the epoch's constants that a captured step holds besides its inputs and device memory."""
        return ()

    def inputs(self, step: int) -> list[Any]:
        """Return the inputs of a step's passes, one after the other."""
        passes = range(step * self.accumulate, (step + 1) * self.accumulate)
        return [*itertools.chain(*map(self.inputs_of, passes))]

    @abstractmethod
    def inputs_of(self, number: int) -> list[Any]:
        """Return the inputs of one of the epoch's passes."""

    @abstractmethod
    def outcome(self, *inputs: Any) -> Outcome:
        """Compute loss and accuracy of a pass."""

    def take_step(self, *inputs: Any) -> Tensor:
        """Take a step on the inputs of its passes, one after the other; return mean metrics."""
        width, metrics = len(inputs) // self.accumulate, list[Tensor]()

        def losses() -> Iterator[Tensor]:
            for start in range(0, len(inputs), width):
                outcome = self.outcome(*inputs[start : start + width])
                mixing = inputs[start]
                metrics.append(step_metrics(*outcome, 0.0 if mixing is None else mixing))
                yield outcome.loss

        gradients = mean_gradients(losses(), self.weights)
        if self.sharpness:
            gradients = self._sharpened(gradients, *inputs)
        step_along(gradients, self.weights, self.optimizer, self.spec.clip)
        self.average()
        return torch.stack(metrics).mean(0)

    def _sharpened(self, gradients: list[Tensor], *inputs: Any) -> list[Tensor]:
        """Return the gradient at w + ρ∇L/‖∇L‖, where the loss is about the highest within ρ of w.

        Foret et al. 2021 (SAM), algorithm 1. Running statistics stay those of the pass at w.
        """
        network = self.shared.network
        kept = [buffer.clone() for buffer in network.buffers()]
        with moved(self.weights, ascent(gradients, self.sharpness), 1.0):
            sharpened = list(torch.autograd.grad(self.outcome(*inputs).loss, self.weights))
        for buffer, before in zip(network.buffers(), kept, strict=True):
            buffer.copy_(before)
        return sharpened

    def average(self) -> None:  # noqa: B027 - optional
        """Take the weights into their moving average, after each step and captured with it."""

    def follow(self, step: int) -> None:  # noqa: B027 - optional
        """Do what follows a step of the epoch, and is not captured."""

    def end(self, read: bool) -> None:  # noqa: B027 - optional
        """Do what follows an epoch; `read`: whether anyone reads the result before the next one ends."""

    def close(self) -> None:  # noqa: B027 - optional
        """Adapt the result after the phase, also after one without epochs."""

    def described(self) -> dict[str, list[Any]]:
        """Describe the features that it generated, as features.parquet has them; nothing, unless it did."""
        return {name: [] for name in SCHEMAS["features"]}

    def state(self) -> dict[str, Tensor]:
        """Return what the phase changes, but for the network and its average."""
        return prefixed("optimizer", pack_optimizer(self.optimizer))

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore a state."""
        unpack_optimizer(self.optimizer, unprefixed("optimizer", state))


class OnImages(Phase):
    """A phase that reads batches of images, as the recipe's steps do."""

    def __init__(
        self, shared: Training, epochs: int, trained: nn.Module, spec: Optimizer, batches: Batches
    ) -> None:
        super().__init__(shared, epochs, shared.steps, trained, spec)
        self.accumulate, self.sharpness = shared.recipe.accumulate, shared.recipe.sharpness
        self.batches = batches
        self.images_per_step = self.accumulate * batches.batch_size

    def begin(self, epoch: int, t: float) -> None:
        """Draw the epoch's batches."""
        self.batches.begin(epoch, t)

    def inputs_of(self, number: int) -> list[Any]:
        """Return mixing coefficient, drop path's factors and the batches' fields of a pass."""
        return [None, None, *itertools.chain(*self.batches(number))]


class NetworkPhase(OnImages):
    """Train the network on the training set (DARTS, §A.2.1), under any objective."""

    name = "network"

    def __init__(self, shared: Training) -> None:
        recipe = shared.recipe
        self.demands = demands_of(recipe.objective)
        batches = shared.make_batches(
            self.demands.samplers, shared.augment, shared.purpose, self.demands.views
        )
        super().__init__(shared, recipe.epochs, shared.network.learner, recipe.weights, batches)
        self.images_per_step *= recipe.objective.passes
        decay, steps = recipe.lookahead, recipe.epochs * shared.steps
        self.lookahead = None if decay is None else Lookahead(decay, shared.network, steps)

    def begin(self, epoch: int, t: float) -> None:
        """Draw the epoch's batches; drop path grows as in DARTS's cnn/train.py."""
        self.epoch, self.t = epoch, t
        self.drop_path = self.shared.recipe.drop_path * t
        super().begin(epoch, t)
        self.shared.network.train()

    def constants(self) -> tuple[Any, ...]:
        """Name drop path and the loss's weights, which may begin to act."""
        return self.drop_path > 0, self.shared.objective.loss.weighs(self.t)

    def inputs_of(self, number: int) -> list[Any]:
        """Return mixing coefficient, drop path's factors and the batches' fields of a pass."""
        recipe, purpose = self.shared.recipe, self.shared.purpose
        batches = self.batches(number)
        mixing = mixing_at(recipe.objective, self.t, f"{purpose}/mixing/{self.epoch}/{number}")
        draw = generator(purpose, "mix", self.epoch, number)
        if recipe.mix is not None:
            batches = [mix(batch, draw, recipe.mix) for batch in batches]
        if self.demands.mixes:
            batches = mix_views(batches, draw, self.demands.mixes)
        return [mixing, self._drop_path_factors(number), *itertools.chain(*batches)]

    def _drop_path_factors(self, number: int) -> Tensor | None:
        """Draw the factors by which drop path multiplies a pass's maps; None without it."""
        network, shared = self.shared.network, self.shared
        if self.drop_path == 0 or not isinstance(network, DerivedNetwork):
            return None
        draw = generator(shared.purpose, "drop path", self.epoch, number)
        objective = shared.recipe.objective
        rounds = objective.passes // (objective.joined * network.branch_count)  # of each branch
        maps, images = rounds * network.dropped_maps, objective.joined * self.batches.batch_size
        return send(draw_factors(maps, images, self.drop_path, draw), shared.device)

    def outcome(self, mixing: Mixing, factors: Tensor | None, *fields: Any) -> Outcome:
        """Compute the objective's loss and accuracy."""
        network = self.shared.network
        if isinstance(network, DerivedNetwork):
            network.drop_path = None if factors is None else DropPath(factors)
        return self.shared.objective(network, batches_of(fields), self.t, mixing)

    def average(self) -> None:
        """Take the weights into their moving average."""
        decay = self.shared.recipe.ema
        if decay is not None:
            average(self.shared.result, self.shared.network, decay)

    def follow(self, step: int) -> None:
        """Let the slow weights of lookahead follow."""
        if self.lookahead is not None:
            self.lookahead.follow(self.epoch * self.steps + step + 1)

    def end(self, read: bool) -> None:
        """End the objective's epoch, and take the weights into their mean over epochs."""
        self.shared.objective.end_epoch(self.shared.network)
        if self.shared.recipe.swa is not None:
            self._average_epochs(self.shared.recipe.swa, read)

    def close(self) -> None:
        """Normalise the classifier, where the recipe says so."""
        classifier, trained = self.shared.recipe.classifier, self.shared.result.classifier
        if isinstance(classifier, NormalizedClassifier):
            assert isinstance(trained, nn.Linear)  # config.recipes.Retrain rejects it for cosines
            normalize_classifier(trained, classifier.tau)

    def calibrate(self) -> None:
        """Measure the running statistics of inherited weights, in one pass over unaugmented images."""
        shared = self.shared
        objective, purpose = shared.recipe.objective, f"{shared.purpose}/calibration"
        batches = shared.make_batches(self.demands.samplers, None, purpose)
        batches.begin(0, 0.0)
        mixing = mixing_at(objective, 0.0, purpose)
        self._measure_statistics(shared.network, ((mixing, batches(step)) for step in range(batches.steps)))
        shared.result.load_state_dict(shared.network.state_dict())

    def _average_epochs(self, since: float, read: bool) -> None:
        """Take the weights into their mean over the epochs' ends from progress `since`; before, copy them.

        Izmailov et al. 2018 (SWA), algorithm 1. The running statistics are measured for whoever reads them.
        """
        before = sum(epoch / self.epochs >= since for epoch in range(self.epoch))
        average(self.shared.result, self.shared.network, before / (before + 1))
        if before and read:
            self._measure_statistics(self.shared.result, self._passes())

    def _passes(self) -> Iterator[tuple[Mixing, list[Batch]]]:
        """Yield the mixing coefficient and the batches of each pass of the epoch."""
        for number in range(self.batches.steps):
            mixing, _, *fields = self.inputs_of(number)
            yield mixing, batches_of(fields)

    def _measure_statistics(
        self, network: BranchedNetwork, passes: Iterable[tuple[Mixing, list[Batch]]]
    ) -> None:
        """Set a network's running statistics to their mean over some passes, without drop path."""
        network.train()
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        norms = [norm for norm in norms if norm.training]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean, also where branches share a norm
        with torch.no_grad():
            for mixing, batches in passes:
                self.shared.objective(network, batches, 0.0, mixing)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def state(self) -> dict[str, Tensor]:
        """Return the states of the optimizer and of lookahead."""
        slow = {} if self.lookahead is None else prefixed("lookahead", self.lookahead.state())
        return super().state() | slow

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore a state."""
        super().load(state)
        if self.lookahead is not None:
            self.lookahead.load(unprefixed("lookahead", state))


def average(averaged: BranchedNetwork, network: BranchedNetwork, decay: float) -> None:
    """w̄ ← decay·w̄ + (1 − decay)·w for all weights, in place; running statistics are the network's own."""
    update = get_ema_multi_avg_fn(decay)
    update(list(averaged.parameters()), list(network.parameters()), 0)
    with torch.no_grad():
        for kept, current in zip(averaged.buffers(), network.buffers(), strict=True):
            kept.copy_(current)
