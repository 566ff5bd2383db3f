"""Labelled images and random draws.

Every random draw is a function of (seed, purpose, epoch, step): a run that is resumed needs no state of a
generator.
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
    """A CPU generator seeded by what it is for, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


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
