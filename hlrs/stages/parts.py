"""What several stages wire alike: a split's images, the objective, SGD, the derived network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hlrs import config
from hlrs.artifacts import Job, read_json, read_table
from hlrs.data.batches import ImageSet, channel_statistics
from hlrs.data.sources import open_source
from hlrs.longtail.losses import make_loss
from hlrs.longtail.mixing import coefficient
from hlrs.longtail.objective import Bilateral, DualHead, Objective, Plain
from hlrs.longtail.rates import learn_rows_at, row_rates
from hlrs.nas import arch_lr
from hlrs.nas.derived import DerivedNetwork
from hlrs.nas.genotype import Genotype, from_json
from hlrs.nas.network import BranchedNetwork

Statistics = tuple[list[float], list[float]]  # mean and standard deviation of each channel


class SplitImages:
    """The images of some subsets of a split, on the device; `positions(subset)` finds a subset among them.

    Channels are normalised by the given statistics, or else by those of the images themselves.
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
        pixels = open_source(images.source.model_dump()).read(self.index, images.image_size)
        self.statistics = statistics or channel_statistics(pixels[self.subset != "holdout"])
        self.channels, self.size, self.stem = pixels.shape[1], pixels.shape[2], images.stem
        mean, std = (torch.tensor(values, dtype=torch.float32, device=device) for values in self.statistics)
        labels = torch.from_numpy(self.labels.astype(np.int64))
        self.set = ImageSet(torch.from_numpy(pixels).to(device), labels.to(device), mean, std)

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


def make_sgd(parameters: list[torch.nn.Parameter], sgd: config.Sgd) -> torch.optim.SGD:
    """SGD as its spec says; the loop sets the learning rate each epoch, by `sgd_lr`."""
    return torch.optim.SGD(parameters, sgd.lr, sgd.momentum, weight_decay=sgd.weight_decay, fused=True)


def set_row_rates(
    optimizer: torch.optim.SGD, network: BranchedNetwork, objective: config.Objective, counts: torch.Tensor
) -> None:
    """Let a dual head's class-specific weights learn at their classes' rates; counts as for the objective."""
    if isinstance(objective, config.DualHead) and network.class_specific is not None:
        rates = row_rates(counts, objective.gamma)
        learn_rows_at(rates, network.class_specific.parameters(), optimizer)


def sgd_lr(sgd: config.Sgd, t: float) -> float:
    """Half a cosine from `lr` to `lr_min`, at progress t (DARTS, §3.1)."""
    return sgd.lr * arch_lr.cosine(t, sgd.lr_min / sgd.lr)


def read_genotype(path: Path) -> Genotype:
    """A genotype JSON; UserError where it is not one."""
    return from_json(read_json(path), str(path))


def derived_network(
    genotype: Genotype, recipe: config.Retrain, stem: str, in_channels: int, classes: int
) -> DerivedNetwork:
    """The network that a retraining recipe makes of a genotype, with PyTorch's initialisation."""
    return DerivedNetwork(
        genotype,
        auxiliary=recipe.auxiliary_weight > 0,
        in_channels=in_channels,
        classes=classes,
        channels=recipe.channels,
        cells=recipe.cells,
        stem=stem,
        **layout_of(recipe.objective),
    )


def predict(
    network: torch.nn.Module, images: ImageSet, positions: torch.Tensor, batch_size: int
) -> npt.NDArray[np.float32]:
    """Softmax probabilities [positions, classes] of some images; leaves the network in evaluation mode."""
    network.eval()
    with torch.inference_mode():
        parts = positions.to(images.images.device).split(batch_size)
        batches = [network(images.normalize(images.images[part])).softmax(1).cpu() for part in parts]
    return torch.cat(batches).numpy()
