"""Batches from images that lie on the device: samplers and augmentation.

Every random draw is a function of (seed, purpose, epoch, step): a run that is resumed needs no state of a
generator to go on as if nothing had happened.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Integers = npt.NDArray[np.integer[Any]]


def generator(*purpose: object) -> torch.Generator:
    """A CPU generator seeded by what it is for, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


# --- samplers -----------------------------------------------------------------------------------------


def uniform(labels: Tensor, count: int, draw: torch.Generator, t: float) -> Tensor:
    """`count` positions: whole permutations, one after the other, so that every image comes equally often."""
    rounds = -(-count // len(labels))
    return torch.cat([torch.randperm(len(labels), generator=draw) for _ in range(rounds)])[:count]


def reversed_sampler(labels: Tensor, count: int, draw: torch.Generator, t: float) -> Tensor:
    """`count` positions with replacement: class c with P_c = w_c/Σw, w_c = n_max/n_c, then any of its images.

    Zhou et al. 2020 (BBN), §4.2.
    """
    counts = torch.bincount(labels).double()
    weights = torch.where(counts > 0, 1 / counts, 0.0)  # a class that is not there cannot be drawn
    per_image = (weights / counts)[labels]  # the class's share, spread over its images
    return torch.multinomial(per_image, count, replacement=True, generator=draw)


# labels int64 [n], how many positions, generator, progress t in [0, 1], and the spec's options
SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "uniform": uniform,
    "reversed": reversed_sampler,
}


# --- images -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Augmentation:
    """Random crop after zero-padding, flip, cutout (DeVries & Taylor 2017); sizes in pixels."""

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0


class Batch(NamedTuple):
    """Images float32 [n, channels, height, width] and labels int64 [n].

    Where images are mixed: the labels of those mixed in, int64 [n], and the share of the former, float32 [n].
    """

    images: Tensor
    labels: Tensor
    partners: Tensor | None = None
    share: Tensor | None = None


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 [n, channels, height, width], labels int64 [n], mean and std [channels], on one device."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    def batch(self, positions: Tensor, augmentation: Augmentation, draw: torch.Generator) -> Batch:
        """Augmented, normalised images and labels at `positions` (on the CPU)."""
        shifts = _shifts(len(positions), augmentation, draw)
        positions = positions.to(self.images.device)
        images = _crop_and_flip(self.images[positions], augmentation, *shifts)
        images = self.normalize(images)
        if augmentation.cutout:
            images = _cutout(images, augmentation.cutout, draw)
        return Batch(images, self.labels[positions])

    def normalize(self, images: Tensor) -> Tensor:
        """(x/255 − mean)/std by channel: float32."""
        scale = (255 * self.std).view(-1, 1, 1)
        return (images.float() - (255 * self.mean).view(-1, 1, 1)) / scale


def channel_statistics(images: npt.NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of images [n, channels, height, width], in units of 255."""
    n, channels = images.shape[:2]
    values = images.reshape(n, channels, -1)
    counts = np.stack([np.bincount(values[:, c].ravel(), minlength=256) for c in range(channels)])
    shares = counts / counts.sum(1, keepdims=True)
    levels = np.arange(256) / 255
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(1)
    # a constant channel has no spread to divide by
    return mean.tolist(), np.maximum(np.sqrt(variance), 1 / 255).tolist()


def _shifts(n: int, augmentation: Augmentation, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Row and column offsets [n] in 0..2·padding, and which images are flipped [n]."""
    rows, columns = torch.randint(0, 2 * augmentation.crop_padding + 1, (2, n), generator=draw)
    flipped = torch.rand(n, generator=draw) < (0.5 if augmentation.flip else 0.0)
    return rows, columns, flipped


def _crop_and_flip(
    images: Tensor, augmentation: Augmentation, rows: Tensor, columns: Tensor, flipped: Tensor
) -> Tensor:
    """A window of the images' own size out of the padded ones, at the given offsets, mirrored where asked."""
    if not augmentation.crop_padding and not augmentation.flip:
        return images
    n, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (augmentation.crop_padding,) * 4)
    across = torch.arange(width).expand(n, -1)
    across = torch.where(flipped[:, None], width - 1 - across, across) + columns[:, None]
    down = torch.arange(height) + rows[:, None]
    index = [
        t.to(images.device) for t in (torch.arange(n)[:, None, None], down[:, :, None], across[:, None, :])
    ]
    return padded.movedim(1, -1)[index[0], index[1], index[2]].movedim(-1, 1)


def _cutout(images: Tensor, length: int, draw: torch.Generator) -> Tensor:
    """Zero a square of `length` pixels around a random centre, clipped at the border."""
    n, _, height, width = images.shape
    inside = []
    for size in (height, width):
        centre = torch.randint(0, size, (n, 1), generator=draw)
        position = torch.arange(size)
        inside.append((position >= centre - length // 2) & (position < centre + length // 2))
    hole = (inside[0][:, :, None] & inside[1][:, None, :]).unsqueeze(1).to(images.device)
    return images.masked_fill(hole, 0.0)


# --- batches ------------------------------------------------------------------------------------------


class Batches:
    """Batches of some images, one from each sampler a step, `steps` steps an epoch.

    `samplers` are specs (`config.Sampler`, dumped); `purpose` names the stream of random draws. An epoch of
    the uniform sampler passes over the images once when `steps` is
    `steps_per_epoch(len(positions), batch_size)`.
    """

    def __init__(
        self,
        images: ImageSet,
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
        self.orders: list[Tensor] = []
        self.epoch = -1

    def begin(self, epoch: int, t: float) -> None:
        """Draw the epoch's order for each sampler; t is the progress."""
        self.epoch = epoch
        self.orders = [
            SAMPLERS[sampler["kind"]](
                self.labels,
                self.steps * self.batch_size,
                generator(self.purpose, place, "order", epoch),
                t,
                **{name: value for name, value in sampler.items() if name != "kind"},
            ).view(self.steps, self.batch_size)
            for place, sampler in enumerate(self.samplers)
        ]

    def __call__(self, step: int) -> list[Batch]:
        """One batch from each sampler, for a step of the epoch that was begun."""
        return [
            self.images.batch(
                self.positions[order[step]],
                self.augmentation,
                generator(self.purpose, place, "augment", self.epoch, step),
            )
            for place, order in enumerate(self.orders)
        ]


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Whole batches in one pass; the rest of the permutation is left out, at least one step."""
    return max(1, images // batch_size)
