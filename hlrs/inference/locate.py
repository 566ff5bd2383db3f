"""From what a user names, a run or exported files, to the weights and what is known of them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hlrs.artifacts.data_digest import sha256
from hlrs.artifacts.files import read_json
from hlrs.artifacts.jobs import PROVENANCE, Job, typed
from hlrs.artifacts.records import Record, trusted
from hlrs.config.jobs import EvaluateJob
from hlrs.config.networks import TrainedNetwork
from hlrs.config.recipes import Evaluation
from hlrs.data.images import generator
from hlrs.data.sources.base import first_line
from hlrs.errors import Failure, UserError
from hlrs.inference.classifier import ImageClassifier, read
from hlrs.stages.images import SplitImages, as_they_are
from hlrs.training.device import prepare

EXPORTED = "model.safetensors"
TRAINED = "weights.safetensors"
CONFIG = "config.json"
NOISE = 64  # images


class Located(NamedTuple):
    """A file of weights, and the evaluation of the run that it belongs to; None of an exported one."""

    weights: Path
    evaluation: Job | None

    @property
    def evaluated(self) -> Evaluation:
        """How the network is evaluated; of an exported one, the defaults."""
        if self.evaluation is None:
            return Evaluation()
        return EvaluateJob.model_validate(self.evaluation.params).evaluate

    def images(self, shape: list[int]) -> Iterator[Tensor]:
        """Yield the run's test images, uint8 [n, channels, height, width]; of an exported network, noise."""
        if self.evaluation is None:
            yield torch.randint(256, (NOISE, *shape), generator=generator("noise"), dtype=torch.uint8)
            return
        params = EvaluateJob.model_validate(self.evaluation.params)
        images = SplitImages(self.evaluation, params.images, ("test",), torch.device("cpu"), ([0.0], [1.0]))
        requests = as_they_are(images.positions("test"), params.evaluate.batch_size)
        images.set.expect("test images", [[request] for request in requests])
        for request in requests:
            yield images.set.pixels(request)

    def load(self, device: str | None) -> ImageClassifier:
        """Load the network onto a device, by default that of a job; UserError if there is no such device."""
        chosen = prepare(self.evaluated.threads)
        classifier = read(self.weights)
        self._check(classifier.facts)
        try:
            classifier = classifier.to(chosen if device is None else device)
            classifier.mean.cpu()  # some devices hold no values
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"--device {device}: {first_line(error)}; use cpu, or a GPU that is here"
            ) from None
        return classifier

    def _check(self, facts: TrainedNetwork) -> None:
        """Raise an error if the weights are not those that the record or config.json beside them names."""
        if self.evaluation is not None:
            trusted(self.weights)
            return
        record, config = (self.weights.with_name(name) for name in (PROVENANCE, CONFIG))
        if record.is_file():
            known, source = {"sha256": Record.read(record).outputs.get(self.weights.name)}, record
        elif config.is_file():
            known, source = read_json(config), config
        else:
            return
        actual = {"sha256": sha256(self.weights)} | facts.model_dump(mode="json")
        if not isinstance(known, dict) or known != {name: actual.get(name) for name in known}:
            raise Failure(f"{self.weights}: differs from what {source} says; restore both, or export again")


def locate(name: str, jobs: Callable[[], list[Job]]) -> Located:
    """Find a run, data set/method/seed, among the jobs of the matrix, or exported weights by file or folder.

    UserError if there is no such run, or if it is not trained yet.
    """
    path = Path(name)
    for file in (path, path / EXPORTED, path / TRAINED):
        if os.path.isfile(file):  # noqa: PTH113 - Path.is_file raises for a name that is too long
            return Located(file, None)
    evaluations = [job for job in jobs() if job.stage == "evaluate"]
    found = next((job for job in evaluations if job.run == typed(name)), None)
    if found is None and os.path.isdir(path):  # noqa: PTH112
        raise UserError(f"{name}: holds neither {EXPORTED} nor {TRAINED}; name a folder that hlrs exported")
    if found is None:
        known = ", ".join(job.run for job in evaluations) or "none, because nothing is retrained"
        raise UserError(f"{name}: no run, and no folder that hlrs exported; choose from: {known}")
    weights = Path(found.inputs["weights"])
    if not weights.is_file():
        raise UserError(f"{name}: not trained yet; `snakemake --cores all retrain_all` trains it")
    return Located(weights, found)
