"""Adaptive cells on the skips of a trained network, which stays as it is.

After Implantable Adaptive Cells (Benedykciuk et al. 2024, arXiv 2405.03420), which are published for U-Nets.
This is a form for classification, and our own reading of the abstract: the network is a ResNet, whose skips
are the shortcuts of its residual blocks. One at each resolution has a cell, as each level of a U-Net has one
skip: that of a stage's last block, which is as wide as the stage, while half of the first block's is padding.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlrs.config.spaces import ImplantSpace
from hlrs.nas.derived import DerivedCell
from hlrs.nas.genotype import ImplantGenotype
from hlrs.nas.network import MakeCell
from hlrs.nas.resnet import STAGES, ResidualBlock, ResNet
from hlrs.nas.searchers.base import Searcher
from hlrs.nas.supernet import Supernet, search_cells


class Implant(nn.Module):
    """s + P(cell(s, s)) of a rectified skip s, float [batch, channels, height, width].

    P is a 1×1 convolution of the cell's output, which has `outputs` times the channels. It is 0 at first, so
    that the network begins as the trained one.
    """

    def __init__(self, make_cell: MakeCell, outputs: int, channels: int) -> None:
        super().__init__()
        self.cell = make_cell(channels, channels, channels, False, False)
        self.projection = nn.Parameter(torch.zeros(channels, outputs * channels, 1, 1))

    def forward(self, skip: Tensor, context: Any) -> Tensor:
        """Return the adapted skip; `context`: what every cell receives besides its inputs."""
        return skip + F.conv2d(self.cell(skip, skip, context), self.projection)


class ImplantedResNet(ResNet):
    """A ResNet of `cells` residual blocks and `channels` in its first stage, with an implant in each stage.

    Only the implants learn. The rest evaluates also in training, so that its running statistics rest.
    `make_cell` and `outputs` as in `Implant`, other keyword arguments as in `ResNet`.
    """

    added = ("implants.", "alphas.", "betas.")

    def __init__(
        self,
        make_cell: MakeCell,
        outputs: int,
        *,
        channels: int,
        cells: int,
        stem: str = "cifar",
        **layout: Any,
    ) -> None:
        assert stem == "cifar"  # config.params rejects other stems
        super().__init__(2 * cells + 2, channels, **layout)
        self.requires_grad_(False)
        self.implants = nn.ModuleList(
            Implant(make_cell, outputs, 2**stage * channels) for stage in range(STAGES)
        )
        self.train()

    @property
    def learner(self) -> nn.Module:
        """The implants."""
        return self.implants

    def train(self, mode: bool = True) -> "ImplantedResNet":
        """Set the mode of the implants; the rest evaluates."""
        super().train(False)
        self.training = mode
        self.implants.train(mode)
        return self

    def context(self) -> Any:
        """Return what every cell receives besides its two inputs."""
        return None

    def backbone(self, images: Tensor) -> Tensor:
        """Compute the map after the last block: [batch, channels, height, width]."""
        context = self.context()
        x: Tensor = self.stem(images.contiguous(memory_format=torch.channels_last))
        depth = len(self.shared) // STAGES
        for number, block in enumerate(self.shared, 1):
            assert isinstance(block, ResidualBlock)
            skip = block.shortcut(x)
            if number % depth == 0:
                skip = self.implants[number // depth - 1](skip, context)
            x = F.relu(block.residual(x) + skip)
        return x


class ImplantSupernet(Supernet, ImplantedResNet):
    """The supernet of implanted cells; keyword arguments as in `ImplantedResNet`.

    Channels must be divisible by the searcher's `portion`.
    """

    def __init__(
        self, space: ImplantSpace, searcher: Searcher, *, nodes: int, recompute: bool = False, **layout: Any
    ) -> None:
        primitives, make_cell = search_cells(space, searcher, nodes, recompute)
        super().__init__(primitives, space, nodes, searcher, make_cell, nodes, **layout)


class ImplantNetwork(ImplantedResNet):
    """The network of a genotype; keyword arguments as in `ImplantedResNet`."""

    def __init__(self, genotype: ImplantGenotype, **layout: Any) -> None:
        super().__init__(partial(DerivedCell, genotype), len(genotype.normal_concat), **layout)
