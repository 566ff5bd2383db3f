"""Batches of augmented, normalised images: samplers, and images that lie on the device.

Every random draw is a function of (seed, purpose, epoch, step): a run that is resumed needs no state of a
generator to go on as if nothing had happened.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hlrs.data.augment import Augmentation, Batch, cutout, distort, send


def generator(*purpose: object) -> torch.Generator:
    """A CPU generator seeded by what it is for, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


# --- samplers -----------------------------------------------------------------------------------------


def uniform(labels: Tensor, count: int, draw: torch.Generator, t: float) -> Tensor:
    """`count` positions: whole permutations, one after the other, so that every image comes equally often."""
    rounds = -(-count // len(labels))
    return torch.cat([torch.randperm(len(labels), generator=draw) for _ in range(rounds)])[:count]


def class_balanced(labels: Tensor, count: int, draw: torch.Generator, t: float) -> Tensor:
    """`count` positions with replacement: P_c = 1/C  (Kang et al. 2020, §3)."""
    return _by_class(labels, count, draw, torch.ones_like)


def reversed_sampler(labels: Tensor, count: int, draw: torch.Generator, t: float) -> Tensor:
    """`count` positions with replacement: P_c = w_c/Σw, w_c = n_max/n_c  (Zhou et al. 2020 (BBN), §4.2)."""
    return _by_class(labels, count, draw, torch.reciprocal)


def square_root(labels: Tensor, count: int, draw: torch.Generator, t: float) -> Tensor:
    """`count` positions with replacement: P_c ∝ √n_c  (Kang et al. 2020, §3)."""
    return _by_class(labels, count, draw, torch.sqrt)


def progressive(labels: Tensor, count: int, draw: torch.Generator, t: float) -> Tensor:
    """`count` positions with replacement: P_c = (1 − t) n_c/n + t/C  (Kang et al. 2020, §3)."""
    return _by_class(labels, count, draw, lambda n: (1 - t) * n / n.sum() + t / len(n))


def deferred(labels: Tensor, count: int, draw: torch.Generator, t: float, at: float) -> Tensor:
    """`uniform` before progress `at`, `class_balanced` from there on (Cao et al. 2019, DRS in their code)."""
    return (uniform if t < at else class_balanced)(labels, count, draw, t)


def _by_class(labels: Tensor, count: int, draw: torch.Generator, weigh: Callable[[Tensor], Tensor]) -> Tensor:
    """`count` positions with replacement: a class with P_c ∝ weigh(n)_c, then any of its images.

    n, float64, counts the images of the classes that are there: another cannot be drawn, and C leaves it out.
    """
    _, own, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    per_image = (weigh(counts.double()) / counts)[own]  # the class's share, spread over its images
    return torch.multinomial(per_image, count, replacement=True, generator=draw)


# labels int64 [n], how many positions, generator, progress t in [0, 1], and the spec's options
SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "uniform": uniform,
    "class_balanced": class_balanced,
    "reversed": reversed_sampler,
    "square_root": square_root,
    "progressive": progressive,
    "deferred": deferred,
}


# --- images -------------------------------------------------------------------------------------------


class Request(NamedTuple):
    """Positions int64 [n] on the CPU, and what is done to their images; `purpose` makes the random draws."""

    positions: Tensor
    augmentation: Augmentation
    purpose: tuple[object, ...]


class LabelledImages(ABC):
    """Images somewhere; labels int64 [n], mean and std [channels] on the device of the batches."""

    labels: Tensor
    mean: Tensor
    std: Tensor

    def expect(self, name: str, steps: Sequence[Sequence[Request]]) -> None:  # noqa: B027 - nothing to do
        """What `name` is going to ask for in its next steps, for a set that can read ahead."""

    @abstractmethod
    def pixels(self, request: Request) -> Tensor:
        """Cropped, flipped, recoloured images of a request: uint8 [n, channels, height, width]."""

    def batch(self, request: Request) -> Batch:
        """Augmented, normalised images and their labels."""
        images = self.normalize(self.pixels(request))
        if request.augmentation.cutout:
            draw = generator(*request.purpose, "cutout")
            images = cutout(images, request.augmentation.cutout, draw)
        return Batch(images, self.labels[send(request.positions, self.labels.device)])

    def normalize(self, images: Tensor) -> Tensor:
        """(x/255 − mean)/std by channel: float32."""
        scale = (255 * self.std).view(-1, 1, 1)
        return (images.float() - (255 * self.mean).view(-1, 1, 1)) / scale


@dataclass(frozen=True)
class ImageSet(LabelledImages):
    """Images uint8 [n, channels, height, width], labels int64 [n], mean and std [channels], on one device."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    def pixels(self, request: Request) -> Tensor:
        """Cropped, flipped, recoloured images of a request: uint8 [n, channels, height, width]."""
        if request.augmentation.resized_crop is not None:
            raise ValueError("resized_crop cuts a part out of the file's image: only a streamed set has it")
        images = self.images[send(request.positions, self.images.device)]
        return distort(images, request.augmentation, generator(*request.purpose, "distort"))


def channel_statistics(parts: Iterable[npt.NDArray[np.uint8]]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in units of 255.

    Of images that come in parts uint8 [n, channels, height, width]; exact, and so the same however parted.
    """
    counts = sum(_levels(part) for part in parts)
    shares = counts / np.sum(counts, axis=1, keepdims=True)
    levels = np.arange(256) / 255
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(1)
    # a constant channel has no spread to divide by
    return mean.tolist(), np.maximum(np.sqrt(variance), 1 / 255).tolist()


def _levels(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """How often each channel has each value: int64 [channels, 256]."""
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in images.swapaxes(0, 1)])


# --- batches ------------------------------------------------------------------------------------------


class Batches:
    """Batches of some images, one from each sampler a step, `steps` steps an epoch.

    `samplers` are specs (`config.Sampler`, dumped); `purpose` names the stream of random draws. An epoch of
    the uniform sampler passes over the images once when `steps` is
    `steps_per_epoch(len(positions), batch_size)`.
    """

    def __init__(
        self,
        images: LabelledImages,
        positions: Tensor,
        samplers: Sequence[Mapping[str, Any]],
        batch_size: int,
        steps: int,
        augmentation: Augmentation,
        purpose: str,
    ) -> None:
        self.images, self.positions, self.samplers = images, positions, samplers
        self.batch_size, self.steps = min(batch_size, len(positions)), steps
        self.augmentation, self.purpose = augmentation, purpose
        self.labels = images.labels.cpu()[positions]
        self.requests: list[list[Request]] = []

    def begin(self, epoch: int, t: float) -> None:
        """Draw the epoch's order for each sampler; t is the progress."""
        orders = [self._order(place, epoch, t) for place in range(len(self.samplers))]
        self.requests = [
            [
                Request(
                    self.positions[order[step]],
                    self.augmentation,
                    (self.purpose, place, "augment", epoch, step),
                )
                for place, order in enumerate(orders)
            ]
            for step in range(self.steps)
        ]
        self.images.expect(self.purpose, self.requests)

    def _order(self, place: int, epoch: int, t: float) -> Tensor:
        """Places among `positions`, int64 [steps, batch_size]."""
        options = dict(self.samplers[place])
        sample = SAMPLERS[options.pop("kind")]
        draw = generator(self.purpose, place, "order", epoch)
        drawn = sample(self.labels, self.steps * self.batch_size, draw, t, **options)
        return drawn.view(self.steps, self.batch_size)

    def __call__(self, step: int) -> list[Batch]:
        """One batch from each sampler, for a step of the epoch that was begun."""
        return [self.images.batch(request) for request in self.requests[step]]


def batches_of(fields: Sequence[Any]) -> list[Batch]:
    """Batches, one after the other, of their fields."""
    width = len(Batch._fields)
    return [Batch(*fields[i : i + width]) for i in range(0, len(fields), width)]


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Whole batches in one pass; the rest of the permutation is left out, at least one step."""
    return max(1, images // batch_size)
