"""The ResNet for CIFAR (He et al. 2016, §4.2), the network of published results on long-tailed images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlrs.config.methods import Head
from hlrs.nas.network import LINEAR, BranchedNetwork, initialize
from hlrs.nas.ops.convolution import Conv

STAGES = 3


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut without weights (option A).

    The shortcut takes every `stride`-th pixel and pads the missing channels with zeros, half of them in
    front. He et al. specify only the zeros; the halves follow LDAM-DRW's resnet_cifar.py.
    """

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride, self.filled = stride, (channels - before) // 2
        self.residual = nn.Sequential(
            Conv(before, channels, 3, stride, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            Conv(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))

    def shortcut(self, x: Tensor) -> Tensor:
        """Bring the block's input to the size of its output."""
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.filled:  # padding by nothing would copy the map
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.filled, self.filled))
        return shortcut


class ResNet(BranchedNetwork):
    """`depth` = 6n + 2 layers: a convolution, three stages of n residual blocks, a classifier.

    The stages have `width`, 2 · width and 4 · width channels; He et al. have a width of 16.
    With two `branches`, each has its own last `branch_cells` blocks, as BBN's ResNet-32 has its last one.
    Images, `head` and `dual` as in `BranchedNetwork`.
    """

    def __init__(
        self,
        depth: int,
        width: int = 16,
        *,
        in_channels: int,
        classes: int,
        branches: int = 1,
        branch_cells: int = 0,
        head: Head = LINEAR,
        dual: bool = False,
    ) -> None:
        super().__init__(2 ** (STAGES - 1) * width, classes, branches, head, dual)
        self.stem = nn.Sequential(
            Conv(in_channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        plan = _block_plan((depth - 2) // 6, width)
        own = branch_cells if branches > 1 else 0
        self.shared = nn.Sequential(*(ResidualBlock(*entry) for entry in plan[: len(plan) - own]))
        self.branches = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(*entry) for entry in plan[len(plan) - own :]))
            for _ in range(branches)
        )

    def backbone(self, images: Tensor) -> Tensor:
        """Compute the map after the last shared block: [batch, channels, height, width]."""
        return self.shared(self.stem(images.contiguous(memory_format=torch.channels_last)))  # type: ignore[no-any-return]

    def tail(self, shared: Tensor, branch: int) -> Tensor:
        """Compute the pooled features of one branch: [batch, 4 · width]."""
        return self.branches[branch](shared).mean((2, 3))  # type: ignore[no-any-return]


def _block_plan(blocks: int, width: int) -> list[tuple[int, int, int]]:
    """List the arguments of `ResidualBlock` for every block; stages two and three begin with stride 2."""
    before, plan = width, []
    for stage in range(STAGES):
        channels = 2**stage * width
        for _ in range(blocks):
            plan.append((before, channels, 2 if before < channels else 1))
            before = channels
    return plan


def initialize_resnet(network: nn.Module, generator: torch.Generator) -> None:
    """Draw convolution and linear weights from N(0, 2/fan_in), with a given generator.

    He et al. 2015, §2.2, as used by He et al. 2016 and LDAM-DRW's resnet_cifar.py. Biases and cosine
    classifiers are drawn as in `initialize`.
    """
    initialize(network, generator)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                draw = torch.randn(module.weight.shape, generator=generator, dtype=module.weight.dtype)
                module.weight.copy_(draw * (2 / module.weight[0].numel()) ** 0.5)
