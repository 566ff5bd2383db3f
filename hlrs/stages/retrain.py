"""Retrain: train the network, or what its search trained, on the whole long-tailed training set."""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hlrs.artifacts.jobs import Job
from hlrs.artifacts.tables import SCHEMAS, write_table
from hlrs.artifacts.tensors import read_tensors, write_tensors
from hlrs.config.base import Kinds
from hlrs.config.data import Augment
from hlrs.config.jobs import RetrainJob
from hlrs.config.methods import ClassBalancedSampler, Sampler
from hlrs.config.recipes import NormalizedClassifier, Optimizer, RetrainedClassifier, SimAugment
from hlrs.data.augment import Augmentation, Batch, mix, mix_views, send
from hlrs.data.batches import Batches, batches_of, steps_per_epoch
from hlrs.data.images import generator
from hlrs.longtail.mixing import mixing_at
from hlrs.longtail.objectives import Mixing, Outcome, accuracy, demands_of, make_objective
from hlrs.nas.bilevel import moved
from hlrs.nas.derived import DerivedNetwork, DropPath, draw_factors
from hlrs.nas.network import BranchedNetwork, initialize, normalize_classifier
from hlrs.nas.resnet import ResNet, initialize_resnet
from hlrs.stages.images import SplitImages, augmentation_of, predict
from hlrs.stages.networks import build_network, load_weights
from hlrs.training.checkpoints import pack_optimizer, prefixed, unpack_optimizer, unprefixed
from hlrs.training.cuda_graphs import GraphCache
from hlrs.training.device import prepare
from hlrs.training.lookahead import Lookahead
from hlrs.training.loop import fit
from hlrs.training.optim import ascent, learning_rate, make_optimizer, mean_gradients, set_lr, step_along
from hlrs.training.task import step_metrics
from hlrs.training.throughput import Throughput, measure


def run(job: Job) -> dict[str, Any]:
    """Write weights.safetensors (after the last epoch: nothing is selected) and history.parquet."""
    params = RetrainJob.model_validate(job.params)
    device = prepare(params.retrain.threads, params.retrain.precision)
    images = SplitImages(job, params.images, ("weights", "alphas", "holdout"), device)
    task = RetrainTask(params, images, job.inputs, device)
    if params.inherited is not None:
        task.calibrate()
    position = fit(task, job, device)
    task.result.training_head = None  # inference does without
    facts = {"mean": images.statistics[0], "std": images.statistics[1], "channels": images.channels}
    write_tensors(job.output("weights.safetensors"), task.result.state_dict(), facts)
    history = {name: [row[name] for row in position.rows] for name in SCHEMAS["retrain_history"]}
    write_table(job.output("history.parquet"), "retrain_history", history)
    return {"device": device.type, **position.facts}


def probe(job: Job, epochs: Sequence[int], seconds: float) -> list[Throughput]:
    """Measure a retraining's throughput for so many seconds in each of the epochs; writes nothing."""
    params = RetrainJob.model_validate(job.params)
    device = prepare(params.retrain.threads, params.retrain.precision)
    images = SplitImages(job, params.images, ("weights", "alphas", "holdout"), device)
    task = RetrainTask(params, images, job.inputs, device)
    return [measure(task, epoch, seconds) for epoch in epochs]


@dataclass(frozen=True)
class Phase:
    """A phase of the training: its epochs, the weights that learn, their optimizer and batches."""

    name: str
    first: int  # epoch
    epochs: int
    weights: list[nn.Parameter]
    spec: Optimizer
    optimizer: torch.optim.Optimizer
    batches: Batches


class RetrainTask:
    """Train on the training set (DARTS, §A.2.1), under any objective.

    The result's weights are the network's, or their average. A `retrained` classifier adds a second
    phase: initialised again, it learns alone on class-balanced batches (Kang et al. 2020, §4.2).
    """

    sums = 3  # loss, accuracy, mixing coefficient

    def __init__(
        self, params: RetrainJob, images: SplitImages, inputs: Mapping[str, str], device: torch.device
    ) -> None:
        self.recipe, self.device, self.captured = params.retrain, device, GraphCache(device)
        self.purpose = f"{params.seed}/retrain/{params.retrain_seed}"
        counts = images.counts("weights", "alphas")
        self.demands = demands_of(self.recipe.objective)
        self.objective = make_objective(self.recipe.objective, counts, self.recipe.auxiliary_weight)
        self.network = build_network(params, inputs, images.stem, images.channels, len(images.classes))
        self.network.training_head = self.objective.head(self.network.classifier.in_features)
        weights = generator(self.purpose, "weights")
        if isinstance(self.network, ResNet):
            initialize_resnet(self.network, weights)
        elif params.inherited is None:
            initialize(self.network, weights)
        if "trained" in inputs:
            load_weights(self.network, read_tensors(Path(inputs["trained"]))[0], inputs["trained"])
        self.network.to(device)
        self.network.precision = self.recipe.precision
        self.images, self.holdout = images.set, images.positions("holdout")
        self.positions = images.positions("weights", "alphas")
        self.steps = steps_per_epoch(len(self.positions), self.recipe.batch_size * self.recipe.accumulate)
        self.recipe.check_images(len(self.positions))
        decay, steps = self.recipe.lookahead, self.recipe.epochs * self.steps
        self.lookahead = None if decay is None else Lookahead(decay, self.network, steps)
        averaged = self.recipe.ema is not None or self.recipe.swa is not None
        self.result = copy.deepcopy(self.network) if averaged else self.network
        self.phases = self._phases(params.images.augment)
        self.objective.attach(self.network, self.phases[0].optimizer)
        self.epochs = sum(phase.epochs for phase in self.phases)
        if not self.recipe.epochs:
            self._adapt_classifier()

    def _phases(self, augment: Augment) -> list[Phase]:
        recipe, classifier = self.recipe, self.recipe.classifier
        weights, optimizer = list(self.network.parameters()), make_optimizer(self.network, recipe.weights)
        demands = self.demands
        batches = self.make_batches(demands.samplers, augment, self.purpose, demands.views)
        phases = [Phase("network", 0, recipe.epochs, weights, recipe.weights, optimizer, batches)]
        if classifier is not None and type(classifier) in SECOND_PHASES:
            phases.append(SECOND_PHASES[type(classifier)](self, classifier, augment))
        return phases

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
            self.recipe.batch_size,
            self.steps * self.recipe.accumulate,
            own,
            purpose,
            [own if view is None else Augmentation(policy=view) for view in views],
        )

    def begin(self, epoch: int) -> None:
        """Set the learning rate at the phase's progress; drop path grows as in DARTS's cnn/train.py."""
        self.epoch = epoch
        self.phase = next(phase for phase in reversed(self.phases) if phase.first <= epoch)
        own = epoch - self.phase.first
        self.t = own / self.phase.epochs
        self.lr = learning_rate(self.phase.spec, own, self.phase.epochs)
        set_lr(self.phase.optimizer, self.lr)
        self.drop_path = self.recipe.drop_path * self.t if self.phase.name == "network" else 0.0
        passes = self.recipe.objective.passes if self.phase.name == "network" else 1
        self.images_per_step = self.recipe.accumulate * self.phase.batches.batch_size * passes
        self.phase.batches.begin(epoch, self.t)
        if self.phase.name == "network":
            self.network.train()
        else:
            self.result.eval()  # the running statistics stay unchanged too
        self.compute = self.captured(self._compute, self.captured_constants())

    def captured_constants(self) -> tuple[Any, ...]:
        """Return the epoch's constants that a captured step holds besides its inputs and device memory."""
        if self.phase.name != "network":
            return (self.phase.name,)
        return self.phase.name, self.drop_path > 0, self.objective.loss.weighs(self.t)

    def step(self, step: int) -> Tensor:
        """Take one step of the optimizer, on `accumulate` batches of each sampler, and of the averages."""
        passes = range(step * self.recipe.accumulate, (step + 1) * self.recipe.accumulate)
        metrics = self.compute(*itertools.chain(*map(self._inputs, passes)))
        if self.lookahead is not None and self.phase.name == "network":
            self.lookahead.follow(self.epoch * self.steps + step + 1)
        return metrics

    def _inputs(self, number: int) -> list[Any]:
        """Return mixing coefficient, drop path's factors and the batches' fields of one of the passes."""
        batches, mixing, factors = self.phase.batches(number), None, None
        if self.phase.name == "network":
            mixing = mixing_at(self.recipe.objective, self.t, f"{self.purpose}/mixing/{self.epoch}/{number}")
            draw = generator(self.purpose, "mix", self.epoch, number)
            if self.recipe.mix is not None:
                batches = [mix(batch, draw, self.recipe.mix) for batch in batches]
            if self.demands.mixes:
                batches = mix_views(batches, draw, self.demands.mixes)
            factors = self._drop_path_factors(number)
        return [mixing, factors, *itertools.chain(*batches)]

    def _drop_path_factors(self, number: int) -> Tensor | None:
        """Draw the factors by which drop path multiplies a pass's maps; None without it."""
        if self.drop_path == 0 or not isinstance(self.network, DerivedNetwork):
            return None
        draw = generator(self.purpose, "drop path", self.epoch, number)
        batches = self.recipe.objective.passes // self.network.branch_count  # in one pass of a branch
        maps, images = self.network.dropped_maps, batches * self.phase.batches.batch_size
        return send(draw_factors(maps, images, self.drop_path, draw), self.device)

    def _compute(self, *inputs: Any) -> Tensor:
        """Take a step on the inputs of `accumulate` passes, one after the other; return mean metrics."""
        width, metrics = len(inputs) // self.recipe.accumulate, list[Tensor]()

        def losses() -> Iterator[Tensor]:
            for start in range(0, len(inputs), width):
                outcome = self._outcome(*inputs[start : start + width])
                mixing = inputs[start]
                metrics.append(step_metrics(*outcome, 0.0 if mixing is None else mixing))
                yield outcome.loss

        gradients = mean_gradients(losses(), self.phase.weights)
        if self.recipe.sharpness:
            gradients = self._sharpened(gradients, *inputs)
        step_along(gradients, self.phase.weights, self.phase.optimizer, self.phase.spec.clip)
        if self.phase.name == "network" and self.recipe.ema is not None:
            average(self.result, self.network, self.recipe.ema)
        return torch.stack(metrics).mean(0)

    def _sharpened(self, gradients: list[Tensor], *inputs: Any) -> list[Tensor]:
        """Return the gradient at w + ρ∇L/‖∇L‖, where the loss is about the highest within ρ of w.

        Foret et al. 2021 (SAM), algorithm 1. Running statistics stay those of the pass at w.
        """
        kept = [buffer.clone() for buffer in self.network.buffers()]
        with moved(self.phase.weights, ascent(gradients, self.recipe.sharpness), 1.0):
            sharpened = list(torch.autograd.grad(self._outcome(*inputs).loss, self.phase.weights))
        for buffer, before in zip(self.network.buffers(), kept, strict=True):
            buffer.copy_(before)
        return sharpened

    def _outcome(self, mixing: Mixing, factors: Tensor | None, *fields: Any) -> Outcome:
        """Compute loss and accuracy on the batches with these fields."""
        batches = batches_of(fields)
        if self.phase.name != "network":
            return self._of_classifier(*batches)
        if isinstance(self.network, DerivedNetwork):
            self.network.drop_path = None if factors is None else DropPath(factors)
        return self.objective(self.network, batches, self.t, mixing)

    def _of_classifier(self, batch: Batch) -> Outcome:
        """Compute the cross-entropy of the classifier on fixed features."""
        with torch.no_grad():
            features = self.result.pooled(batch.images)
        logits = self.result.classify(features)
        return Outcome(F.cross_entropy(logits, batch.labels), accuracy(logits, batch))

    def end(self, means: list[float]) -> dict[str, Any]:
        """Return the epoch's row of history.parquet; after the network's last epoch, adapt its classifier."""
        mixes = self.recipe.objective.mixing is not None
        trained = self.epoch + 1 == self.recipe.epochs
        if self.phase.name == "network":
            self.objective.end_epoch(self.network)
        if self.recipe.swa is not None and self.phase.name == "network":
            self._average_epochs(self.recipe.swa, last=trained)
        if trained and isinstance(self.recipe.classifier, NormalizedClassifier):
            self._adapt_classifier()  # before it is measured
        row = {
            "epoch": self.epoch,
            "phase": self.phase.name,
            "progress": self.t,
            "loss": means[0],
            "accuracy": means[1],
            "weights_lr": self.lr,
            "mixing": means[2] if mixes and self.phase.name == "network" else None,
            "drop_path": self.drop_path,
            "holdout_accuracy": self._holdout_accuracy(),
        }
        if trained and isinstance(self.recipe.classifier, RetrainedClassifier):
            # here, not when the phase begins: a run resumed in that phase already has its classifier
            self._adapt_classifier()
        return row

    def _adapt_classifier(self) -> None:
        """Normalise the trained network's classifier, or initialise it again, as the recipe says."""
        adapt, learned = self.recipe.classifier, self.result.classifier
        if isinstance(adapt, NormalizedClassifier):
            assert isinstance(learned, nn.Linear)  # config.recipes.Retrain rejects it for cosines
            normalize_classifier(learned, adapt.tau)
        elif isinstance(adapt, RetrainedClassifier):
            initialize(learned, generator(self.purpose, "classifier", "weights"))

    def calibrate(self) -> None:
        """Measure the running statistics of inherited weights, in one pass over unaugmented images."""
        objective, purpose = self.recipe.objective, f"{self.purpose}/calibration"
        batches = self.make_batches(demands_of(objective).samplers, None, purpose)
        batches.begin(0, 0.0)
        mixing = mixing_at(objective, 0.0, purpose)
        self._measure_statistics(self.network, ((mixing, batches(step)) for step in range(batches.steps)))
        self.result.load_state_dict(self.network.state_dict())

    def _average_epochs(self, since: float, last: bool) -> None:
        """Take the weights into their mean over the epochs' ends from progress `since`; before, copy them.

        Izmailov et al. 2018 (SWA), algorithm 1. The running statistics are measured for whoever reads them.
        """
        before = sum(epoch / self.recipe.epochs >= since for epoch in range(self.epoch))
        average(self.result, self.network, before / (before + 1))
        if before and (last or len(self.holdout)):
            self._measure_statistics(self.result, self._passes())

    def _passes(self) -> Iterator[tuple[Mixing, list[Batch]]]:
        """Yield the mixing coefficient and the batches of each pass of the epoch."""
        for number in range(self.phase.batches.steps):
            mixing, _, *fields = self._inputs(number)
            yield mixing, batches_of(fields)

    def _measure_statistics(
        self, network: BranchedNetwork, passes: Iterable[tuple[Mixing, list[Batch]]]
    ) -> None:
        """Set a network's running statistics to their mean over some passes, without drop path."""
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean, also where branches share a norm
        network.train()
        with torch.no_grad():
            for mixing, batches in passes:
                self.objective(network, batches, 0.0, mixing)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def _holdout_accuracy(self) -> float | None:
        if not len(self.holdout):
            return None
        predicted = predict(self.result, self.images, self.holdout, self.recipe.batch_size).argmax(1)
        return float((predicted == self.images.labels.cpu().numpy()[self.holdout]).mean())

    def state(self) -> dict[str, Tensor]:
        """Return weights, running statistics, their averages where there are any, and optimizers' states."""
        state = prefixed("net", self.network.state_dict())
        if self.result is not self.network:
            state |= prefixed("average", self.result.state_dict())
        if self.lookahead is not None:
            state |= prefixed("lookahead", self.lookahead.state())
        for phase in self.phases:
            state |= prefixed(f"optimizer.{phase.name}", pack_optimizer(phase.optimizer))
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore a state."""
        self.captured.forget()  # the optimizers' states move to other memory
        self.network.load_state_dict(unprefixed("net", state))
        if self.result is not self.network:
            self.result.load_state_dict(unprefixed("average", state))
        if self.lookahead is not None:
            self.lookahead.load(unprefixed("lookahead", state))
        for phase in self.phases:
            unpack_optimizer(phase.optimizer, unprefixed(f"optimizer.{phase.name}", state))


def classifier_phase(task: RetrainTask, classifier: RetrainedClassifier, augment: Augment) -> Phase:
    """Make the phase that retrains the classifier, on class-balanced batches at a rate of its own."""
    weights, spec = (
        list(task.result.classifier.parameters()),
        task.recipe.weights.of_classifier(classifier.lr),
    )
    batches = task.make_batches([ClassBalancedSampler()], augment, f"{task.purpose}/classifier")
    optimizer = make_optimizer(task.result.classifier, spec)
    return Phase("classifier", task.recipe.epochs, classifier.epochs, weights, spec, optimizer, batches)


SECOND_PHASES: Kinds[Callable[..., Phase]] = {RetrainedClassifier: classifier_phase}


def average(averaged: BranchedNetwork, network: BranchedNetwork, decay: float) -> None:
    """w̄ ← decay·w̄ + (1 − decay)·w for all weights, in place; running statistics are the network's own."""
    update = get_ema_multi_avg_fn(decay)
    update(list(averaged.parameters()), list(network.parameters()), 0)
    with torch.no_grad():
        for kept, current in zip(averaged.buffers(), network.buffers(), strict=True):
            kept.copy_(current)
