"""What the supernet and the derived network have in common: stem, a chain of cells, branches, classifier."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hlrs.nas.primitives import FactorizedReduce, Norm, relu_conv_bn

STEM_MULTIPLIER = 3


class Cell(nn.Module):
    """A cell's two inputs, brought to its size: the outputs of the two cells before it (DARTS, §2.1)."""

    def __init__(self, before: int, previous: int, channels: int, after_reduction: bool, norm: Norm) -> None:
        super().__init__()
        halve = FactorizedReduce if after_reduction else relu_conv_bn
        self.input0 = halve(before, channels, norm)
        self.input1 = relu_conv_bn(previous, channels, norm)


# (channels of the cell before the previous one, of the previous one, own, reduction, previous is a reduction)
MakeCell = Callable[[int, int, int, bool, bool], Cell]


class CellNetwork(nn.Module):
    """Stem, `cells` cells with reductions at one and two thirds, global average pooling, linear classifier.

    With two `branches`, the last `branch_cells` cells exist once a branch and the classifier reads both
    branches' features side by side (BBN, §4.2). Images: float [batch, in_channels, height, width].
    """

    def __init__(
        self,
        make_cell: MakeCell,
        norm: Norm,
        outputs: int,
        *,
        in_channels: int,
        classes: int,
        channels: int,
        cells: int,
        branches: int = 1,
        branch_cells: int = 0,
    ) -> None:
        super().__init__()
        stem = STEM_MULTIPLIER * channels
        self.stem = nn.Sequential(nn.Conv2d(in_channels, stem, 3, padding=1, bias=False), norm(stem))
        own = branch_cells if branches > 1 else 0
        plan = _cell_plan(stem, channels, cells, outputs)
        self.shared = nn.ModuleList(make_cell(*entry) for entry in plan[: cells - own])
        self.branches = nn.ModuleList(
            nn.ModuleList(make_cell(*entry) for entry in plan[cells - own :]) for _ in range(branches)
        )
        self.classifier = nn.Linear(branches * plan[-1][2] * outputs, classes)

    def context(self) -> Any:
        """What every cell is given besides its two inputs."""
        return None

    def features(self, images: Tensor, branch: int) -> Tensor:
        """Pooled features of one branch: [batch, features]."""
        context = self.context()
        return _pool(_chain(self.branches[branch], self._backbone(images, context), context))

    def classify(self, features: Tensor) -> Tensor:
        """Logits [batch, classes] of the features of all branches, side by side."""
        return self.classifier(features)  # type: ignore[no-any-return]

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits, and those of an auxiliary head where there is one (while training)."""
        return self(images), None

    def forward(self, images: Tensor) -> Tensor:
        """Logits for inference; branches count half each, so BBN's factor 2·m is 1 (BBN, §4.4)."""
        context = self.context()
        states = self._backbone(images, context)
        branches = [_pool(_chain(branch, states, context)) for branch in self.branches]
        return self.classify(torch.cat(branches, 1))

    def _backbone(self, images: Tensor, context: Any) -> tuple[Tensor, Tensor]:
        stem = self.stem(images.contiguous(memory_format=torch.channels_last))
        return _chain(self.shared, (stem, stem), context)


def _cell_plan(stem: int, channels: int, cells: int, outputs: int) -> list[tuple[int, int, int, bool, bool]]:
    """MakeCell's arguments of every cell; channels double where the map is halved (DARTS, §3.1.1)."""
    plan = []
    before = previous = stem
    after_reduction = False
    for index in range(cells):
        reduction = index in (cells // 3, 2 * cells // 3)
        channels *= 2 if reduction else 1
        plan.append((before, previous, channels, reduction, after_reduction))
        before, previous, after_reduction = previous, outputs * channels, reduction
    return plan


def _chain(cells: nn.Module, states: tuple[Tensor, Tensor], context: Any) -> tuple[Tensor, Tensor]:
    for cell in cells.children():
        states = states[1], cell(*states, context)
    return states


def _pool(states: tuple[Tensor, Tensor]) -> Tensor:
    return states[1].mean((2, 3))


def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all convolution and linear weights anew from PyTorch's default distributions.

    U(−b, b) with b = 1/√fan_in (He et al. 2015 with a = √5, as `torch.nn` has it), explicitly seeded.
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                bound = module.weight[0].numel() ** -0.5
                for parameter in module.parameters():
                    draw = torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype)
                    parameter.copy_((2 * draw - 1) * bound)


def count_weights(network: nn.Module) -> int:
    """Number of trainable weights without alphas and auxiliary head, as the literature counts."""
    return sum(
        p.numel() for name, p in network.named_parameters() if not name.startswith(("alphas", "auxiliary"))
    )


def count_multiply_adds(network: nn.Module, in_channels: int, size: int) -> int:
    """Multiply-adds of convolutions and matrix products for one `size`×`size` image, no auxiliary head."""
    from torch.utils.flop_counter import FlopCounterMode

    images = torch.zeros(1, in_channels, size, size, device=next(network.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    return int(counter.get_total_flops()) // 2
