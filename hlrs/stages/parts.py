"""What several stages wire alike: a split's images, the objective, SGD, the derived network."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hlrs import config
from hlrs.artifacts import Job, read_json, read_table
from hlrs.data.augment import Augmentation
from hlrs.data.batches import ImageSet, LabelledImages, Request, channel_statistics, generator
from hlrs.data.sources import open_source
from hlrs.data.stream import Loader, Reader, StreamedSet
from hlrs.longtail.losses import make_loss
from hlrs.longtail.mixing import coefficient
from hlrs.longtail.objective import Bilateral, DualHead, Objective, Plain
from hlrs.longtail.rates import learn_rows_at, row_rates
from hlrs.nas import arch_lr
from hlrs.nas.derived import DerivedNetwork
from hlrs.nas.genotype import Genotype, from_json
from hlrs.nas.network import BranchedNetwork
from hlrs.nas.resnet import ResNet

Statistics = tuple[list[float], list[float]]  # mean and standard deviation of each channel
SAMPLE = 4096  # images of a streamed set that its channels' statistics are of


class SplitImages:
    """The images of some subsets of a split; `positions(subset)` finds a subset among them.

    They lie on the device, or are streamed if that takes more than `stream.above_mb`, or if `resized_crop`
    asks for the files' images. Channels are normalised by the given statistics, or else by the images' own:
    of a streamed set by those of at most SAMPLE images, the same on every machine.
    """

    def __init__(
        self,
        job: Job,
        images: config.Images,
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
        source = open_source(images.source.model_dump())
        shape = source.read(self.index[:1], images.image_size).shape[1:]
        self.channels, self.size, self.stem = shape[0], shape[1], images.stem
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

    def _tensors(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = (torch.tensor(values, dtype=torch.float32, device=device) for values in self.statistics)
        return mean, std

    def _sample(self, loader: Loader) -> Iterator[npt.NDArray[np.uint8]]:
        """At most SAMPLE of the images that are trained on, in parts."""
        trained = torch.from_numpy(np.flatnonzero(self.subset != "holdout"))
        sample = trained[torch.randperm(len(trained), generator=generator("channel statistics"))[:SAMPLE]]
        requests = as_they_are(sample.sort().values, 64)
        loader.expect("channel statistics", [[request] for request in requests])
        return (loader.pixels(request).numpy() for request in requests)

    def positions(self, *subsets: str) -> torch.Tensor:
        """Positions of the subsets' images within the set: int64, on the CPU."""
        return torch.from_numpy(np.flatnonzero(np.isin(self.subset, subsets)))

    def counts(self, *subsets: str) -> torch.Tensor:
        """Images of each class in the subsets: int64 [classes], on the device."""
        positions = self.positions(*subsets).to(self.set.labels.device)
        return torch.bincount(self.set.labels[positions], minlength=len(self.classes))


def make_objective(
    objective: config.Objective,
    counts: torch.Tensor,
    auxiliary_weight: float = 0.0,
    for_alphas: bool = False,
) -> Objective:
    """The callable of an objective's spec, of the weights or for the alphas; counts: images of each class."""
    loss = make_loss(counts, **objective.loss.model_dump())
    if isinstance(objective, config.Bilateral):
        return Bilateral(loss)
    if isinstance(objective, config.DualHead):
        return DualHead(loss, for_alphas)
    return Plain(loss, auxiliary_weight)


def samplers_of(objective: config.Objective) -> list[dict[str, Any]]:
    """The samplers that feed an objective, a batch each."""
    if isinstance(objective, config.Bilateral):
        return [objective.conventional.model_dump(), objective.rebalancing.model_dump()]
    return [objective.sampler.model_dump()]


def layout_of(objective: config.Objective) -> dict[str, Any]:
    """What an objective asks of a network: branches, cells of their own, and kinds of classifiers."""
    loss = objective.loss
    layout: dict[str, Any] = {
        "cosine": loss.scale if isinstance(loss, config.Ldam) else None,
        "dual": isinstance(objective, config.DualHead),
    }
    if isinstance(objective, config.Bilateral):
        layout |= {"branches": 2, "branch_cells": objective.branch_cells}
    return layout


def mixing_at(objective: config.Objective, t: float, draw: str) -> float | None:
    """The mixing coefficient m(t), None without branches; `draw` names the draw of a random one."""
    if not isinstance(objective, config.Bilateral):
        return None
    mixing = objective.mixing
    return coefficient(mixing.kind, t, mixing.a if isinstance(mixing, config.Beta) else 0.0, draw)


def augmentation_of(
    augment: config.Augment, cutout: int, policy: config.AutoAugment | config.RandAugment | None = None
) -> Augmentation:
    """What a data set's spec and a recipe do to training images together."""
    dumped = policy.model_dump() if policy else None
    return Augmentation(**augment.model_dump(), cutout=cutout, policy=dumped)


def make_sgd(parameters: list[torch.nn.Parameter], sgd: config.Sgd) -> torch.optim.SGD:
    """SGD as its spec says; the loop sets the learning rate each epoch: that of `sgd_lr`, by `set_lr`."""
    lr = settable(sgd.lr, parameters[0].device)
    return torch.optim.SGD(parameters, lr, sgd.momentum, weight_decay=sgd.weight_decay, fused=True)


def settable(lr: float, device: torch.device) -> torch.Tensor | float:
    """A learning rate for `set_lr`: on a GPU in its memory, where recorded steps (graphs.py) read it."""
    return torch.tensor(lr, dtype=torch.float32, device=device) if device.type == "cuda" else lr


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """From now on the optimizer, of one group, learns at this rate; so do its recorded steps."""
    [group] = optimizer.param_groups
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


def set_row_rates(
    optimizer: torch.optim.SGD, network: BranchedNetwork, objective: config.Objective, counts: torch.Tensor
) -> None:
    """Let a dual head's class-specific weights learn at their classes' rates; counts as for the objective."""
    if isinstance(objective, config.DualHead) and network.class_specific is not None:
        rates = row_rates(counts, objective.gamma)
        learn_rows_at(rates, network.class_specific.parameters(), optimizer)


def sgd_lr(sgd: config.Sgd, epoch: int, epochs: int) -> float:
    """The learning rate of an epoch, counted from 0: the schedule's at progress t = epoch/epochs, warmed up.

    Half a cosine from `lr` to `lr_min` (DARTS, §3.1), or `lr` times `factor` for each `at` ≤ t (LDAM-DRW's
    cifar_train.py); in the first `warm_up` epochs that times (epoch + 1)/warm_up (Goyal et al. 2017, §2.2).
    """
    t = epoch / epochs
    if isinstance(sgd.schedule, config.MultistepSchedule):
        scheduled = sgd.schedule.factor ** sum(at <= t for at in sgd.schedule.at)
    else:
        scheduled = arch_lr.cosine(t, sgd.lr_min / sgd.lr)
    warmed = min(1.0, (epoch + 1) / sgd.warm_up) if sgd.warm_up else 1.0
    return sgd.lr * scheduled * warmed


def read_genotype(path: Path) -> Genotype:
    """A genotype JSON; UserError where it is not one."""
    return from_json(read_json(path), str(path))


def derived_network(
    genotype: str | None,
    resnet: int | None,
    recipe: config.Retrain,
    stem: str,
    in_channels: int,
    classes: int,
) -> BranchedNetwork:
    """The network that is retrained: of the genotype in a file, or a ResNet of a depth.

    With PyTorch's initialisation.
    """
    layout = {"in_channels": in_channels, "classes": classes, **layout_of(recipe.objective)}
    if resnet is not None:
        return ResNet(resnet, **layout)
    assert genotype is not None  # hlrs.plan gives one or the other
    return DerivedNetwork(
        read_genotype(Path(genotype)),
        auxiliary=recipe.auxiliary_weight > 0,
        channels=recipe.channels,
        cells=recipe.cells,
        stem=stem,
        **layout,
    )


def as_they_are(positions: torch.Tensor, batch_size: int) -> list[Request]:
    """Requests for images without augmentation, in order."""
    parts = positions.split(batch_size)
    return [Request(part, Augmentation(), ("as they are", number)) for number, part in enumerate(parts)]


def predict(
    network: torch.nn.Module, images: LabelledImages, positions: torch.Tensor, batch_size: int
) -> npt.NDArray[np.float32]:
    """Softmax probabilities [positions, classes] of some images; leaves the network in evaluation mode."""
    network.eval()
    requests = as_they_are(positions, batch_size)
    images.expect("predict", [[request] for request in requests])
    with torch.inference_mode():
        batches = [network(images.batch(request).images).softmax(1).cpu() for request in requests]
    return torch.cat(batches).numpy()
