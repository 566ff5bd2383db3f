"""Score drawn genotypes by their untrained networks, and keep the best."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hlrs.config.jobs import ScoreJob
from hlrs.config.methods import Random
from hlrs.data.images import generator
from hlrs.nas import trajectory
from hlrs.nas.arithmetic import OF_SUPERNETS
from hlrs.nas.network import initialize
from hlrs.nas.searchers.random import draw_architecture
from hlrs.nas.searchers.table import SCORES
from hlrs.nas.spaces import NETWORKS
from hlrs.nas.trajectory import Architecture
from hlrs.stages.images import SplitImages, as_they_are
from hlrs.stages.sizes import Excess, draw_fitting
from hlrs.training.task import Task


class ScoreTask(Task):
    """Score one candidate per step, all on the same images of the weights' half and the same draw of weights.

    It reads no label, so imbalance acts on it only through which images the half holds.
    """

    epochs = 1
    sums = 1  # the score

    def __init__(
        self,
        params: ScoreJob,
        images: SplitImages,
        device: torch.device,
        limit: Excess | None = None,
    ) -> None:
        self.params, self.device, self.limit = params, device, limit
        self.steps, self.images_per_step = params.searcher.candidates, params.searcher.batch_size
        self.layout: dict[str, Any] = {
            "in_channels": images.channels,
            "classes": len(images.classes),
            "channels": params.search.channels,
            "cells": params.search.cells,
            "stem": images.stem,
        }
        self.images = self._draw_images(images)
        self.scores = torch.zeros(self.steps, dtype=torch.int64)

    def _draw_images(self, images: SplitImages) -> Tensor:
        """Draw the images without replacement: float [batch_size, channels, height, width]."""
        positions, count = images.positions("weights"), self.params.searcher.batch_size
        self.params.searcher.check_images(len(positions))
        draw = generator(self.params.seed, "search", "scored images")
        drawn = positions[torch.randperm(len(positions), generator=draw)[:count]]
        [request] = as_they_are(drawn, count)
        images.set.expect("scored images", [[request]])
        return images.set.batch(request).images

    def candidate(self, step: int) -> Architecture:
        """Draw the alphas of a step's genotype, one that fits the budget."""
        search, draw = self.params.search, generator(self.params.seed, "search", "candidate", step)
        one = partial(draw_architecture, Random(), search.space, search.nodes, draw)
        return draw_fitting(one, search.space, self.limit)

    def network(self, step: int) -> nn.Module:
        """Build the network of a step's genotype, with the weights that every candidate starts from."""
        space = self.params.search.space
        network = NETWORKS[type(space)](trajectory.derive(space, self.candidate(step)), **self.layout)
        initialize(network, generator(self.params.seed, "search", "weights"))
        if self.params.arithmetic is not None:
            OF_SUPERNETS[type(self.params.arithmetic)](network, self.params.arithmetic)
        return network.to(self.device)

    def begin(self, epoch: int) -> None:
        """Begin the one epoch: nothing changes."""

    def step(self, step: int) -> Tensor:
        """Score a candidate."""
        searcher = self.params.searcher
        self.scores[step] = SCORES[type(searcher)](searcher, self.network(step), self.images)
        return self.scores[step : step + 1].double().to(self.device)

    @property
    def best(self) -> int:
        """The candidate with the highest score; of equal ones, the first drawn."""
        return int(self.scores.numpy().argmax())

    def end(self, means: list[float]) -> dict[str, Any]:
        """Return the best score and the mean."""
        return {"epoch": 0, "score": int(self.scores[self.best]), "mean_score": means[0]}

    def state(self) -> dict[str, Tensor]:
        """Return the scores so far."""
        return {"scores": self.scores}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore a state."""
        self.scores.copy_(state["scores"])
