"""The images of a split, on the device or streamed."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from hlrs.artifacts.files import read_json
from hlrs.artifacts.jobs import Job
from hlrs.artifacts.tables import read_table
from hlrs.config.data import Augment
from hlrs.config.jobs import Images
from hlrs.config.networks import Preprocessing
from hlrs.config.recipes import AutoAugment, RandAugment
from hlrs.data.augment import Augmentation
from hlrs.data.images import ImageSet, LabelledImages, Request, channel_statistics, generator
from hlrs.data.loader import Loader, Reader, StreamedSet
from hlrs.data.sources.base import ImageSource
from hlrs.data.sources.open import open_source
from hlrs.errors import UserError

Statistics = tuple[list[float], list[float]]  # mean and standard deviation of each channel

SAMPLE = 4096  # images from which the channel statistics of a streamed set are computed


class SplitImages:
    """The images of some subsets of a split; `positions(subset)` finds a subset among them.

    They are held on the device, or streamed if they take more than `stream.above_mb`, or if `resized_crop`
    needs the files' images. Channels are normalised by the given statistics, else by those of the images that
    are not held out; of a streamed set, by at most SAMPLE of these, the same on every machine.
    """

    def __init__(
        self,
        job: Job,
        images: Images,
        subsets: Sequence[str],
        device: torch.device,
        statistics: Statistics | None = None,
    ) -> None:
        table = read_table(Path(job.inputs["split"]), "split")
        self.subset = table["subset"].to_numpy()
        chosen = np.isin(self.subset, subsets)
        self.subset = self.subset[chosen]
        self.index, self.labels = (table[name].to_numpy()[chosen] for name in ("index", "label"))
        self.classes: list[str] = read_json(Path(job.inputs["classes"]))["names"]
        source = open_source(images.source)
        self._check(source)
        shape = source.read(self.index[:1], images.image_size).shape[1:]
        self.shape, self.channels, self.size, self.stem = shape, shape[0], shape[1], images.stem
        self.image_size = images.image_size
        megabytes = len(self.index) * math.prod(shape) / 1e6
        labels = torch.from_numpy(self.labels.astype(np.int64)).to(device)
        self.set: LabelledImages
        if megabytes > images.stream.above_mb or images.augment.resized_crop is not None:
            reader = Reader(source, images.image_size, shape)
            loader = Loader(reader, self.index, images.stream.workers, device.type == "cuda")
            self.statistics = statistics or channel_statistics(self._sample(loader))
            self.set = StreamedSet(loader, labels, *self._tensors(device))
        else:
            pixels = source.read(self.index, images.image_size)
            self.statistics = statistics or channel_statistics([pixels[self.subset != "holdout"]])
            self.set = ImageSet(torch.from_numpy(pixels).to(device), labels, *self._tensors(device))

    @property
    def preprocessing(self) -> Preprocessing:
        """What was done to the images."""
        mean, std = self.statistics
        return Preprocessing(shape=list(self.shape), image_size=self.image_size, mean=mean, std=std)

    def _check(self, source: ImageSource) -> None:
        """Compare classes and labels with the split's; UserError names the first image that differs."""
        remedy = "restore the data (`hlrs audit --data` names what changed), or draw the split again"
        if source.classes != self.classes:
            raise UserError(f"the classes of the images differ from those of the split: {remedy}")
        labels = np.concatenate([source.train_labels, source.test_labels])
        beyond = self.index[self.index >= len(labels)]
        if len(beyond):
            raise UserError(f"image {beyond[0]} of the split is not among the {len(labels)} of now: {remedy}")
        wrong = np.flatnonzero(labels[self.index] != self.labels)
        if len(wrong):
            index, label = int(self.index[wrong[0]]), self.labels[wrong[0]]
            found = f"{source._where(index)}: label {labels[index]}, but {label} when the split was drawn"
            raise UserError(f"{found}; {remedy}")

    def _tensors(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = (torch.tensor(values, dtype=torch.float32, device=device) for values in self.statistics)
        return mean, std

    def _sample(self, loader: Loader) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield at most SAMPLE of the images that are not held out, in parts."""
        trained = torch.from_numpy(np.flatnonzero(self.subset != "holdout"))
        sample = trained[torch.randperm(len(trained), generator=generator("channel statistics"))[:SAMPLE]]
        requests = as_they_are(sample.sort().values, 64)
        loader.expect("channel statistics", [[request] for request in requests])
        return (loader.pixels(request).numpy() for request in requests)

    def relabel(self, draw: torch.Generator) -> None:
        """Replace the labels in the set by independent ones, drawn uniformly over the classes."""
        drawn = torch.randint(len(self.classes), self.set.labels.shape, generator=draw)
        self.set.labels.copy_(drawn)

    def positions(self, *subsets: str) -> torch.Tensor:
        """Return the positions of the subsets' images within the set: int64, on the CPU."""
        return torch.from_numpy(np.flatnonzero(np.isin(self.subset, subsets)))

    def counts(self, *subsets: str) -> torch.Tensor:
        """Count the images per class in the subsets: int64 [classes], on the device."""
        positions = self.positions(*subsets).to(self.set.labels.device)
        return torch.bincount(self.set.labels[positions], minlength=len(self.classes))


def augmentation_of(
    augment: Augment, cutout: int, policy: AutoAugment | RandAugment | None = None
) -> Augmentation:
    """Combine a data set's augmentation with a recipe's cutout and policy."""
    return Augmentation(**dict(augment), cutout=cutout, policy=policy)


def as_they_are(positions: torch.Tensor, batch_size: int) -> list[Request]:
    """Request images without augmentation, in order."""
    parts = positions.split(batch_size)
    return [Request(part, Augmentation(), ("as they are", number)) for number, part in enumerate(parts)]


def predict(
    network: torch.nn.Module, images: LabelledImages, positions: torch.Tensor, batch_size: int
) -> npt.NDArray[np.float32]:
    """Compute softmax probabilities [positions, classes]; leaves the network in evaluation mode."""

    def probabilities(batch: torch.Tensor) -> torch.Tensor:
        return network(batch).softmax(1).cpu()  # type: ignore[no-any-return]

    return outputs(network, probabilities, images, positions, batch_size).numpy()


def outputs(
    network: torch.nn.Module,
    function: Callable[[torch.Tensor], torch.Tensor],
    images: LabelledImages,
    positions: torch.Tensor,
    batch_size: int,
) -> torch.Tensor:
    """Compute what a network's function makes of images as they are; leaves it in evaluation mode."""
    network.eval()
    requests = as_they_are(positions, batch_size)
    images.expect("predict", [[request] for request in requests])
    with torch.inference_mode():
        parts = [function(images.batch(request).images) for request in requests]
    return torch.cat(parts)
