"""Retrain: the genotype's network, from scratch, on the whole long-tailed training set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hlrs import config
from hlrs.artifacts import SCHEMAS, Job, write_table, write_tensors
from hlrs.data.batches import Augmentation, Batches, generator, steps_per_epoch
from hlrs.nas.derived import DropPath
from hlrs.nas.network import initialize
from hlrs.pace import Pace, measure
from hlrs.stages.parts import (
    SplitImages,
    derived_network,
    make_objective,
    make_sgd,
    mixing_at,
    predict,
    read_genotype,
    samplers_of,
    set_row_rates,
    sgd_lr,
)
from hlrs.training import descend, figures, fit, pack, prefixed, prepare, unpack, unprefixed


def run(job: Job) -> dict[str, Any]:
    """Write weights.safetensors (of the last epoch: nothing is selected) and history.parquet."""
    params = config.RetrainJob.model_validate(job.params)
    device = prepare(params.retrain.threads)
    images = SplitImages(job, params.images, ("weights", "alphas", "holdout"), device)
    task = RetrainTask(params, images, Path(job.inputs["genotype"]), device)
    position = fit(task, job, device)
    facts = {"mean": images.statistics[0], "std": images.statistics[1], "channels": images.channels}
    write_tensors(job.output("weights.safetensors"), task.network.state_dict(), facts)
    history = {name: [row[name] for row in position.rows] for name in SCHEMAS["retrain_history"]}
    write_table(job.output("history.parquet"), "retrain_history", history)
    return {"device": device.type, **position.facts}


def probe(job: Job, epochs: Sequence[int], seconds: float) -> list[Pace]:
    """The pace of a retraining in each of some epochs, measured over so many seconds each."""
    params = config.RetrainJob.model_validate(job.params)
    device = prepare(params.retrain.threads)
    images = SplitImages(job, params.images, ("weights", "alphas", "holdout"), device)
    task = RetrainTask(params, images, Path(job.inputs["genotype"]), device)
    return [measure(task, epoch, seconds) for epoch in epochs]


class RetrainTask:
    """Plain descent on the training set (DARTS, §A.2.1), under any objective."""

    sums = 3  # loss, accuracy, mixing coefficient

    def __init__(
        self, params: config.RetrainJob, images: SplitImages, genotype: Path, device: torch.device
    ) -> None:
        self.recipe, self.epochs = params.retrain, params.retrain.epochs
        self.purpose = f"{params.seed}/retrain/{params.retrain_seed}"
        counts = images.counts("weights", "alphas")
        self.objective = make_objective(self.recipe.objective, counts, self.recipe.auxiliary_weight)
        self.samplers = samplers_of(self.recipe.objective)
        self.network = derived_network(
            read_genotype(genotype), self.recipe, images.stem, images.channels, len(images.classes)
        )
        initialize(self.network, generator(self.purpose, "weights"))
        self.network.to(device)
        self.weights = list(self.network.parameters())
        self.optimizer = make_sgd(self.weights, self.recipe.weights)
        set_row_rates(self.optimizer, self.network, self.recipe.objective, counts)
        self._feed(images, params.images.augment)
        self.holdout = images.positions("holdout")

    def _feed(self, images: SplitImages, augment: config.Augment) -> None:
        positions = images.positions("weights", "alphas")
        self.images = images.set
        self.steps = steps_per_epoch(len(positions), self.recipe.batch_size)
        self.batches = Batches(
            images.set,
            positions,
            self.samplers,
            self.recipe.batch_size,
            self.steps,
            Augmentation(augment.crop_padding, augment.flip, self.recipe.cutout),
            self.purpose,
        )
        self.images_per_step = self.batches.batch_size * len(self.samplers)

    def begin(self, epoch: int) -> None:
        """Learning rate at t = epoch/epochs; drop path's probability, growing as in DARTS's cnn/train.py."""
        self.epoch, self.t = epoch, epoch / self.epochs
        self.lr = sgd_lr(self.recipe.weights, self.t)
        self.optimizer.param_groups[0]["lr"] = self.lr
        self.drop_path = self.recipe.drop_path * self.t
        self.batches.begin(epoch, self.t)
        self.network.train()

    def step(self, step: int) -> Tensor:
        """One step of SGD."""
        mixing = mixing_at(self.recipe.objective, self.t, f"{self.purpose}/mixing/{self.epoch}/{step}")
        draw = generator(self.purpose, "drop path", self.epoch, step)
        self.network.drop_path = DropPath(self.drop_path, draw) if self.drop_path > 0 else None
        outcome = self.objective(self.network, self.batches(step), self.t, mixing)
        descend(outcome.loss, self.weights, self.optimizer, self.recipe.weights.clip)
        return figures(*outcome, mixing or 0.0)

    def end(self, means: list[float]) -> dict[str, Any]:
        """The epoch's row of history.parquet."""
        bilateral = isinstance(self.recipe.objective, config.Bilateral)
        return {
            "epoch": self.epoch,
            "progress": self.t,
            "loss": means[0],
            "accuracy": means[1],
            "weights_lr": self.lr,
            "mixing": means[2] if bilateral else None,
            "drop_path": self.drop_path,
            "holdout_accuracy": self._holdout_accuracy(),
        }

    def _holdout_accuracy(self) -> float | None:
        if not len(self.holdout):
            return None
        predicted = predict(self.network, self.images, self.holdout, self.recipe.batch_size).argmax(1)
        return float((predicted == self.images.labels.cpu().numpy()[self.holdout]).mean())

    def state(self) -> dict[str, Tensor]:
        """Weights, running statistics and momentum."""
        return {**prefixed("net", self.network.state_dict()), **prefixed("sgd", pack(self.optimizer))}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over a state."""
        self.network.load_state_dict(unprefixed("net", state))
        unpack(self.optimizer, unprefixed("sgd", state))
