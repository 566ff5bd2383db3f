"""Retrain: train the network, or what its search trained, on the whole long-tailed training set."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hlrs.artifacts.jobs import Job
from hlrs.artifacts.tables import SCHEMAS, write_table
from hlrs.artifacts.tensors import write_tensors
from hlrs.config.jobs import RetrainJob
from hlrs.config.networks import TrainedNetwork
from hlrs.data.batches import steps_per_epoch
from hlrs.data.images import generator
from hlrs.longtail.metrics import nll
from hlrs.longtail.objectives import make_objective
from hlrs.nas.arithmetic import LOADS
from hlrs.nas.network import initialize
from hlrs.nas.resnet import initialize_resnet
from hlrs.nas.trained import build
from hlrs.stages.classifiers import SECOND_PHASES
from hlrs.stages.images import SplitImages, predict
from hlrs.stages.networks import fit_start, load_start, load_supernet, load_trained, network_of
from hlrs.stages.phases import NetworkPhase, Phase, Training
from hlrs.training.checkpoints import prefixed, unprefixed
from hlrs.training.cuda_graphs import GraphCache
from hlrs.training.device import prepare
from hlrs.training.loop import fit
from hlrs.training.optim import set_lr
from hlrs.training.task import Task
from hlrs.training.throughput import Throughput, measure


def run(job: Job) -> dict[str, Any]:
    """Write weights.safetensors (after the last epoch: nothing is selected) and history.parquet.

    And features.parquet, which has rows where features were generated.
    """
    params = RetrainJob.model_validate(job.params)
    device = prepare(params.retrain.threads, params.retrain.precision)
    images = SplitImages(job, params.images, ("weights", "alphas", "holdout"), device)
    task = RetrainTask(params, images, job.inputs, device)
    if params.inherited is not None:
        task.first.calibrate()
    position = fit(task, job, device)
    task.result.training_head = None  # inference does without
    facts = TrainedNetwork(network=task.spec, preprocessing=images.preprocessing, classes=images.classes)
    write_tensors(job.output("weights.safetensors"), task.result.state_dict(), facts.model_dump(mode="json"))
    history = {name: [row[name] for row in position.rows] for name in SCHEMAS["retrain_history"]}
    write_table(job.output("history.parquet"), "retrain_history", history)
    write_table(job.output("features.parquet"), "features", task.phases[-1].described())
    return {"device": device.type, **task.started, **position.facts}


def check_start(params: RetrainJob, inputs: Mapping[str, str], channels: int, classes: Sequence[str]) -> None:
    """Raise UserError if the file that a retraining starts with does not fit its network on such images."""
    with torch.device("meta"):
        spec = network_of(params, inputs, params.images.stem, channels, len(classes))
        network = build(spec)
    fit_start(network, params.retrain, classes)


def probe(job: Job, epochs: Sequence[int], seconds: float) -> list[Throughput]:
    """Measure a retraining's throughput for so many seconds in each of the epochs; writes nothing."""
    params = RetrainJob.model_validate(job.params)
    device = prepare(params.retrain.threads, params.retrain.precision)
    images = SplitImages(job, params.images, ("weights", "alphas", "holdout"), device)
    task = RetrainTask(params, images, job.inputs, device)
    return [measure(task, epoch, seconds) for epoch in epochs]


class RetrainTask(Task):
    """Train on the training set, in phases: the network, then its classifier, where the recipe says so.

    The result's weights are the network's, or their average.
    """

    sums = 3  # loss, accuracy, mixing coefficient

    def __init__(
        self, params: RetrainJob, images: SplitImages, inputs: Mapping[str, str], device: torch.device
    ) -> None:
        self.recipe, self.captured = params.retrain, GraphCache(device)
        purpose = f"{params.seed}/retrain/{params.retrain_seed}"
        counts = images.counts("weights", "alphas")
        objective = make_objective(self.recipe.objective, counts, self.recipe.auxiliary_weight)
        self.spec = network_of(params, inputs, images.stem, images.channels, len(images.classes))
        self.network = build(self.spec)
        if params.arithmetic is not None:
            LOADS[type(params.arithmetic)](self.network, params.arithmetic)
        self.network.training_head = objective.head(self.network.classifier.in_features)
        weights = generator(purpose, "weights")
        if params.resnet is not None:
            initialize_resnet(self.network, weights)
        elif "supernet" in inputs:
            load_supernet(self.network, inputs["supernet"])
        else:
            initialize(self.network, weights)
        if "trained" in inputs:
            load_trained(self.network, inputs["trained"])
        self.started = self._start(params.content, images.classes)
        self.network.to(device)
        self.network.precision = self.recipe.precision
        self.images, self.holdout = images.set, images.positions("holdout")
        self.positions = images.positions("weights", "alphas")
        self.steps = steps_per_epoch(len(self.positions), self.recipe.batch_size * self.recipe.accumulate)
        self.recipe.check_images(len(self.positions))
        averaged = self.recipe.ema is not None or self.recipe.swa is not None
        self.result = copy.deepcopy(self.network) if averaged else self.network
        shared = Training(
            recipe=self.recipe,
            network=self.network,
            result=self.result,
            objective=objective,
            images=self.images,
            positions=self.positions,
            classes=images.classes,
            counts=counts.tolist(),
            augment=params.images.augment,
            steps=self.steps,
            purpose=purpose,
            device=device,
        )
        self.first = NetworkPhase(shared)
        self.phases = [self.first, *self._second_phases(shared)]
        objective.attach(self.network, self.first.optimizer)
        self.epochs = sum(phase.epochs for phase in self.phases)
        if not self.recipe.epochs:
            self.first.close()
            self._open_next(self.first)

    def _start(self, content: str | None, classes: Sequence[str]) -> dict[str, Any]:
        """Load the file that the network starts with, and return what the record says of it."""
        if self.recipe.file is None:
            return {}
        path = Path(self.recipe.file)
        kept = load_start(self.network, self.recipe, classes)
        file = {"name": path.name, "bytes": path.stat().st_size, "sha256": content}
        return {"start": file | {"classifier": "kept" if kept else "initialised"}}

    def _second_phases(self, shared: Training) -> list[Phase]:
        classifier = self.recipe.classifier
        if classifier is None or type(classifier) not in SECOND_PHASES:
            return []
        return SECOND_PHASES[type(classifier)](shared, classifier)

    def steps_before(self, epoch: int) -> int:
        """Count the steps of all epochs before one."""
        steps = 0
        for phase in self.phases:
            steps, epoch = steps + min(epoch, phase.epochs) * phase.steps, max(0, epoch - phase.epochs)
        return steps

    def begin(self, epoch: int) -> None:
        """Begin an epoch of the phase that it is in, at the phase's progress."""
        self.epoch, own = epoch, epoch
        phases = iter(self.phases)
        self.phase = next(phases)
        while own >= self.phase.epochs:
            own, self.phase = own - self.phase.epochs, next(phases)
        self.ends = own + 1 == self.phase.epochs
        self.t = own / self.phase.epochs
        self.lr = self.phase.learning_rate(own)
        set_lr(self.phase.optimizer, self.lr)
        self.steps, self.images_per_step = self.phase.steps, self.phase.images_per_step
        self.phase.begin(epoch, self.t)
        self.compute = self.captured(self._compute, (self.phase.name, *self.phase.constants()))

    def step(self, step: int) -> Tensor:
        """Take one step of the phase's optimizer, and of the averages."""
        metrics = self.compute(*self.phase.inputs(step))
        self.phase.follow(step)
        return metrics

    def _compute(self, *inputs: Any) -> Tensor:
        return self.phase.take_step(*inputs)

    def end(self, means: list[float]) -> dict[str, Any]:
        """Return the epoch's row of history.parquet; a phase's last epoch leads to the next phase."""
        phase = self.phase
        phase.end(read=self.ends or len(self.holdout) > 0)
        if self.ends:
            phase.close()
        mixes = phase is self.first and self.recipe.objective.mixing is not None
        row = {
            "epoch": self.epoch,
            "phase": phase.name,
            "progress": self.t,
            "loss": means[0],
            "accuracy": means[1] if phase.classifies else None,
            "weights_lr": self.lr,
            "mixing": means[2] if mixes else None,
            "drop_path": phase.drop_path,
            "holdout_accuracy": None,
            "holdout_nll": None,
        }
        if len(self.holdout):
            row |= self._on_holdout()
        if self.ends:
            self._open_next(phase)  # here, not when it begins: a run resumed in it already has its weights
        return row

    def _open_next(self, phase: Phase) -> None:
        for following in self.phases[self.phases.index(phase) + 1 :][:1]:
            following.open()

    def _on_holdout(self) -> dict[str, float]:
        probabilities = predict(self.result, self.images, self.holdout, self.recipe.batch_size)
        labels = self.images.labels.cpu().numpy()[self.holdout]
        accuracy = float((probabilities.argmax(1) == labels).mean())
        return {"holdout_accuracy": accuracy, "holdout_nll": nll(probabilities, labels)}

    def state(self) -> dict[str, Tensor]:
        """Return weights, running statistics, their averages where there are any, and the phases' states."""
        state = prefixed("net", self.network.state_dict())
        if self.result is not self.network:
            state |= prefixed("average", self.result.state_dict())
        for phase in self.phases:
            state |= prefixed(phase.name, phase.state())
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore a state."""
        self.captured.forget()  # the optimizers' states move to other memory
        self.network.load_state_dict(unprefixed("net", state))
        if self.result is not self.network:
            self.result.load_state_dict(unprefixed("average", state))
        for phase in self.phases:
            phase.load(unprefixed(phase.name, state))
