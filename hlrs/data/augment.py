"""Augmentation of training images: crop, flip, policy, colours, cutout, and mixing of two images.

The order is AutoAugment's for CIFAR (Cubuk et al. 2019, §4.1): crop and flip, policy, colours, normalisation,
cutout. The global random generator is left unchanged.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hlrs.config.base import Kinds
from hlrs.config.data import Flip
from hlrs.config.recipes import AutoAugment, Cutmix, Mixup, RandAugment, SimAugment

if TYPE_CHECKING:
    from PIL.Image import Image

SEEDS = 2**63 - 1


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of one batch; `crop_padding` and `cutout` in pixels, other fields as in the config.

    `cutout` is the side of the hole (DeVries & Taylor 2017).
    """

    crop_padding: int = 0
    flip: Flip = False
    cutout: int = 0
    resized_crop: float | None = None
    color_jitter: float = 0.0
    policy: AutoAugment | RandAugment | SimAugment | None = None


class Batch(NamedTuple):
    """Images float32 [n, channels, height, width] and labels int64 [n].

    For mixed images, `partners` int64 [n] are the labels of the images mixed in, and `share` float32 [n] is
    the share of the first image.
    """

    images: Tensor
    labels: Tensor
    partners: Tensor | None = None
    share: Tensor | None = None


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU to a device; pinned memory lets a GPU compute during the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


# --- on bytes -----------------------------------------------------------------------------------------


def resized_crop(image: "Image", share: float, size: int, seed: int) -> "Image":
    """Crop at least `share` of an image, aspect ratio 3:4 to 4:3, and resize the crop to `size`×`size`.

    This is torchvision's RandomResizedCrop (Szegedy et al. 2015; bilinear, antialiased), drawn from `seed`.
    """
    from torchvision.transforms import RandomResizedCrop

    return _seeded(RandomResizedCrop(size, scale=(share, 1.0)), [(seed, image)])[0]


def distort(
    images: Tensor,
    augmentation: Augmentation,
    draw: torch.Generator,
    flipped: npt.NDArray[np.bool_] | None = None,
) -> Tensor:
    """Apply crop, flip, policy and colours to uint8 [n, channels, height, width], on any device.

    `flipped` bool [n] says which images to mirror; without it they are drawn, if any are mirrored at all.
    Policy and colours are computed by Pillow, image by image on the CPU, on every device: this is the
    arithmetic that the policies were searched with, and is independent of the number of threads.
    """
    images = _crop_and_flip(images, augmentation, *_shifts(len(images), augmentation, draw, flipped))
    change = _colours(augmentation)
    if change is None:
        return images
    from PIL import Image

    seeds = torch.randint(SEEDS, (len(images),), generator=draw).tolist()
    pixels = images.cpu().movedim(1, -1).numpy()
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    pillows = [Image.fromarray(np.ascontiguousarray(image)) for image in pixels]
    changed = np.stack(
        [np.asarray(image) for image in _seeded(change, list(zip(seeds, pillows, strict=True)))]
    )
    return torch.from_numpy(changed).view(len(images), *images.shape[2:], -1).movedim(-1, 1).to(images.device)


def _colours(augmentation: Augmentation) -> Callable[["Image"], "Image"] | None:
    """Return torchvision's policy followed by its colour jitter; None without either."""
    if augmentation.policy is None and not augmentation.color_jitter:
        return None
    from torchvision import transforms

    steps: list[Any] = []
    if augmentation.policy is not None:
        steps.append(POLICIES[type(augmentation.policy)](augmentation.policy))
    if augmentation.color_jitter:
        jitter = augmentation.color_jitter
        steps.append(transforms.ColorJitter(jitter, jitter, jitter, jitter / 2))
    chain: Callable[[Image], Image] = transforms.Compose(steps)
    return chain


def auto_augment(spec: AutoAugment) -> Any:
    """Return AutoAugment's policy (Cubuk et al. 2019), torchvision's."""
    from torchvision import transforms

    return transforms.AutoAugment(transforms.AutoAugmentPolicy(spec.policy), fill=spec.fill)


def rand_augment(spec: RandAugment) -> Any:
    """Return RandAugment (Cubuk et al. 2020), torchvision's."""
    from torchvision import transforms

    return transforms.RandAugment(spec.operations, spec.magnitude, fill=spec.fill)


def sim_augment(spec: SimAugment) -> Any:
    """Return a crop of 8 to 100 %, resized, mirrored by chance, colours changed in 4 of 5, grey in 1 of 5.

    Chen et al. 2020 (SimCLR), §3 and appendix A, without blur, with the strengths of ProCo's code for CIFAR.
    """
    from torchvision import transforms

    def crop(image: "Image") -> "Image":
        return transforms.RandomResizedCrop(image.size[::-1])(image)  # type: ignore[no-any-return]

    colours = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8)
    return transforms.Compose(
        [crop, transforms.RandomHorizontalFlip(), colours, transforms.RandomGrayscale(0.2)]
    )


POLICIES: Kinds[Callable[..., Any]] = {
    AutoAugment: auto_augment,
    RandAugment: rand_augment,
    SimAugment: sim_augment,
}


def _seeded(change: Callable[["Image"], "Image"], images: list[tuple[int, "Image"]]) -> list["Image"]:
    """Change each image with its own seed of the global generator, which is then restored."""
    changed = []
    with torch.random.fork_rng(devices=[]):
        for seed, image in images:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs too
            changed.append(change(image))
    return changed


def _shifts(
    n: int,
    augmentation: Augmentation,
    draw: torch.Generator,
    flipped: npt.NDArray[np.bool_] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw row and column offsets int64 [n] in 0..2·padding and, unless given, which to flip, bool [n]."""
    rows, columns = torch.randint(0, 2 * augmentation.crop_padding + 1, (2, n), generator=draw)
    drawn = torch.rand(n, generator=draw) < (0.5 if augmentation.flip else 0.0)
    return rows, columns, drawn if flipped is None else torch.from_numpy(flipped)


def _crop_and_flip(
    images: Tensor, augmentation: Augmentation, rows: Tensor, columns: Tensor, flipped: Tensor
) -> Tensor:
    """Pad the images, cut out windows of their own size at the given offsets, and mirror the flipped ones."""
    if not augmentation.crop_padding and not augmentation.flip:
        return images
    n, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (augmentation.crop_padding,) * 4)
    across = torch.arange(width).expand(n, -1)
    across = torch.where(flipped[:, None], width - 1 - across, across) + columns[:, None]
    down = torch.arange(height) + rows[:, None]
    index = [
        send(t, images.device) for t in (torch.arange(n)[:, None, None], down[:, :, None], across[:, None, :])
    ]
    return padded.movedim(1, -1)[index[0], index[1], index[2]].movedim(-1, 1)


# --- on normalised images -----------------------------------------------------------------------------


def cutout(images: Tensor, length: int, draw: torch.Generator) -> Tensor:
    """Zero a square of side `length` pixels around a random centre of each image, clipped at the border.

    Images float [n, channels, height, width]; DeVries & Taylor 2017.
    """
    n, _, height, width = images.shape
    inside = []
    for size in (height, width):
        centre = torch.randint(0, size, (n, 1), generator=draw)
        position = torch.arange(size)
        inside.append((position >= centre - length // 2) & (position < centre + length // 2))
    hole = (inside[0][:, :, None] & inside[1][:, None, :]).unsqueeze(1)
    return images.masked_fill(send(hole, images.device), 0.0)


def mix(batch: Batch, draw: torch.Generator, spec: Mixup | Cutmix) -> Batch:
    """Mix a batch with a permutation of itself by one λ ~ Beta(alpha, alpha), as in the authors' code."""
    share = _draw_share(spec.alpha, draw)
    order = send(torch.randperm(len(batch.labels), generator=draw), batch.labels.device)
    images, share = MIXES[type(spec)](batch.images, batch.images[order], share, draw)
    return _mixed(images, batch.labels, batch.labels[order], share)


def mix_views(
    batches: Sequence[Batch], draw: torch.Generator, specs: Sequence[Mixup | Cutmix]
) -> list[Batch]:
    """Mix views of one batch with the same views of another, each as its spec says, by one λ for all.

    The views of the first batch come before those of the second; λ has the first spec's distribution. It is
    the share of the first labels in every view, whatever a box covers  (Du et al. 2023, authors' code).
    """
    share, mixed = _draw_share(specs[0].alpha, draw), []
    for first, second, spec in zip(batches[: len(specs)], batches[len(specs) :], specs, strict=True):
        images, _ = MIXES[type(spec)](first.images, second.images, share, draw)
        mixed.append(_mixed(images, first.labels, second.labels, share))
    return mixed


def _draw_share(alpha: float, draw: torch.Generator) -> float:
    """Draw λ ~ Beta(alpha, alpha)."""
    seed = int(torch.randint(SEEDS, (), generator=draw))
    return random.Random(seed).betavariate(alpha, alpha)  # noqa: S311 - a seeded draw, no secret


def _mixed(images: Tensor, labels: Tensor, partners: Tensor, share: float) -> Batch:
    """Make a batch of mixed images whose first labels all have the same share."""
    shares = torch.full(labels.shape, share, dtype=torch.float32, device=labels.device)
    return Batch(images, labels, partners, shares)


def mixup(images: Tensor, others: Tensor, share: float, draw: torch.Generator) -> tuple[Tensor, float]:
    """Return λx_i + (1 − λ)x_j and λ  (Zhang et al. 2018)."""
    return share * images + (1 - share) * others, share


def cutmix(images: Tensor, others: Tensor, share: float, draw: torch.Generator) -> tuple[Tensor, float]:
    """Return x_i with a box taken from x_j, and the share left of x_i  (Yun et al. 2019).

    The box has sides √(1 − λ) of the image's, around a random centre, and is clipped at the border.
    """
    height, width = images.shape[2:]
    top, bottom = _side(height, share, draw)
    left, right = _side(width, share, draw)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


MIXES: Kinds[Callable[..., tuple[Tensor, float]]] = {Mixup: mixup, Cutmix: cutmix}


def _side(size: int, share: float, draw: torch.Generator) -> tuple[int, int]:
    """Draw the first and last pixel (exclusive) of a cutmix box along one axis."""
    half = int(size * math.sqrt(1 - share)) // 2
    centre = int(torch.randint(0, size, (), generator=draw))
    return max(centre - half, 0), min(centre + half, size)
