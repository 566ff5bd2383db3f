"""Batches of augmented, normalised images."""

from collections.abc import Container, Sequence
from typing import Any

import torch
from torch import Tensor

from hlrs.config.methods import Sampler
from hlrs.data.augment import Augmentation, Batch
from hlrs.data.images import LabelledImages, Request, generator
from hlrs.data.samplers import sample


class Batches:
    """Batches of some images: one from each sampler per step, `steps` steps per epoch.

    Each is followed by further `views` of its images, one for each of these augmentations. `purpose` names
    the stream of random draws. An epoch of the uniform sampler passes over the images once when `steps` is
    `steps_per_epoch(len(positions), batch_size)`.
    """

    def __init__(
        self,
        images: LabelledImages,
        positions: Tensor,
        samplers: Sequence[Sampler],
        batch_size: int,
        steps: int,
        augmentation: Augmentation,
        purpose: str,
        views: Sequence[Augmentation] = (),
    ) -> None:
        self.images, self.samplers = images, samplers
        self.batch_size, self.steps = min(batch_size, len(positions)), steps
        self.augmentation, self.purpose, self.views = augmentation, purpose, views
        self.requests: list[list[Request]] = []
        self.choose(positions)

    def choose(self, positions: Tensor) -> None:
        """Read from now on the images at these positions, int64, as many as before."""
        self.positions, self.labels = positions, self.images.labels.cpu()[positions]

    def begin(self, epoch: int, t: float, only: Container[int] | None = None) -> None:
        """Draw each sampler's order for an epoch at progress t; `only`: the steps that will be read."""
        orders = [self._order(place, epoch, t) for place in range(len(self.samplers))]
        flipped = self._flipped(epoch) if self.augmentation.flip == "alternating" else None
        each = [("augment", self.augmentation), *((f"view {i}", own) for i, own in enumerate(self.views, 2))]
        self.requests = [
            [
                Request(
                    self.positions[order[step]],
                    augmentation,
                    (self.purpose, place, view, epoch, step),
                    None if flipped is None else flipped[order[step]].numpy(),
                )
                for place, order in enumerate(orders)
                for view, augmentation in each
                if only is None or step in only
            ]
            for step in range(self.steps)
        ]
        self.images.expect(self.purpose, self.requests)

    def _order(self, place: int, epoch: int, t: float) -> Tensor:
        """Draw places among `positions`, int64 [steps, batch_size]."""
        draw = generator(self.purpose, place, "order", epoch)
        drawn = sample(self.samplers[place], self.labels, self.steps * self.batch_size, draw, t)
        return drawn.view(self.steps, self.batch_size)

    def _flipped(self, epoch: int) -> Tensor:
        """Determine which images are mirrored in an epoch, bool [positions].

        By chance in the first, then alternately (Jordan 2024, airbench94.py).
        """
        every = torch.rand(len(self.images.labels), generator=generator(self.purpose, "flip"))
        first = every[self.positions] < 0.5
        return first if epoch % 2 == 0 else ~first

    def __call__(self, step: int) -> list[Batch]:
        """Return one batch from each sampler, and its further views, for a step of the current epoch."""
        return [self.images.batch(request) for request in self.requests[step]]


def batches_of(fields: Sequence[Any]) -> list[Batch]:
    """Rebuild batches from their concatenated fields."""
    width = len(Batch._fields)
    return [Batch(*fields[i : i + width]) for i in range(0, len(fields), width)]


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return the number of whole batches in one pass, at least 1; the rest of the permutation is dropped."""
    return max(1, images // batch_size)
