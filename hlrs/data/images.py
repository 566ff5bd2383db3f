"""Labelled images and random generators.

Every random draw is a function of (seed, purpose, epoch, step), so checkpoints need no generator state.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hlrs.data.augment import Augmentation, Batch, cutout, distort, send


def generator(*purpose: object) -> torch.Generator:
    """Make a CPU generator seeded by its purpose, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return (x/255 − mean)/std per channel, float32, of uint8 [n, channels, height, width]."""
    return (images.float() - (255 * mean).view(-1, 1, 1)) / (255 * std).view(-1, 1, 1)


class Request(NamedTuple):
    """Positions int64 [n] on the CPU, the augmentation of their images, and the seed of its random draws.

    `flipped` bool [n]: which images to mirror, where this is not drawn.
    """

    positions: Tensor
    augmentation: Augmentation
    purpose: tuple[object, ...]
    flipped: npt.NDArray[np.bool_] | None = None


class LabelledImages(ABC):
    """A set of images with labels int64 [n]; mean and std float [channels], all on the batches' device."""

    labels: Tensor
    mean: Tensor
    std: Tensor

    def expect(self, name: str, steps: Sequence[Sequence[Request]]) -> None:  # noqa: B027 - optional
        """Announce the requests that `name` will make in its next steps, to a set that can read ahead."""

    @abstractmethod
    def pixels(self, request: Request) -> Tensor:
        """Return a request's images, distorted: uint8 [n, channels, height, width]."""

    def batch(self, request: Request) -> Batch:
        """Return the augmented, normalised images of a request, and their labels."""
        images = self.normalize(self.pixels(request))
        if request.augmentation.cutout:
            draw = generator(*request.purpose, "cutout")
            images = cutout(images, request.augmentation.cutout, draw)
        return Batch(images, self.labels[send(request.positions, self.labels.device)])

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise uint8 [n, channels, height, width]."""
        return normalize(images, self.mean, self.std)


@dataclass(frozen=True)
class ImageSet(LabelledImages):
    """Resident images uint8 [n, channels, height, width], labels int64 [n], mean and std, on one device."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    def pixels(self, request: Request) -> Tensor:
        """Return a request's images, distorted: uint8 [n, channels, height, width]."""
        if request.augmentation.resized_crop is not None:
            raise ValueError("resized_crop crops the image of a file: only a streamed set supports it")
        images = self.images[send(request.positions, self.images.device)]
        draw = generator(*request.purpose, "distort")
        return distort(images, request.augmentation, draw, request.flipped)


def channel_statistics(parts: Iterable[npt.NDArray[np.uint8]]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel, in units of 255.

    The images come in parts uint8 [n, channels, height, width]. The split into parts does not matter:
    sums are of integers. The deviation is at least 1/255.
    """
    counts = sum(_levels(part) for part in parts)
    shares = counts / np.sum(counts, axis=1, keepdims=True)
    levels = np.arange(256) / 255
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(1)
    # images are divided by the deviation, which is 0 in a constant channel
    return mean.tolist(), np.maximum(np.sqrt(variance), 1 / 255).tolist()


def _levels(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Count each value of each channel: int64 [channels, 256]."""
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in images.swapaxes(0, 1)])
