"""What the supernet and the derived network have in common: stem, a chain of cells, branches, classifier."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlrs.nas.operations import FactorizedReduce, Norm, conv_bn

STEM_MULTIPLIER = 3
States = tuple[Tensor, Tensor]  # outputs of the two cells before, the first of them rectified


class Cell(nn.Module):
    """A cell's two inputs, brought to its size: the outputs of the two cells before it (DARTS, §2.1).

    Both are read rectified only, and by two cells each, so `chain` rectifies them once.
    """

    def __init__(self, before: int, previous: int, channels: int, after_reduction: bool, norm: Norm) -> None:
        super().__init__()
        halve = FactorizedReduce if after_reduction else conv_bn
        self.input0 = halve(before, channels, norm)
        self.input1 = conv_bn(previous, channels, norm)


# (channels of the cell before the previous one, of the previous one, own, reduction, previous is a reduction)
MakeCell = Callable[[int, int, int, bool, bool], Cell]


class BranchedNetwork(nn.Module, ABC):
    """A backbone that all branches share, a tail for each, and a linear classifier of their pooled features.

    With a `cosine` scale, classifiers give cosines times it (Cao et al. 2019). A `dual` network has
    class-specific weights beside the shared classifier, which give its final logits. Images: float [batch,
    in_channels, height, width].
    """

    def __init__(self, width: int, classes: int, branches: int, cosine: float | None, dual: bool) -> None:
        super().__init__()
        self.branch_count, self.width = branches, width
        self.classifier = make_classifier(branches * width, classes, cosine)
        self.class_specific = make_classifier(branches * width, classes, cosine) if dual else None

    @abstractmethod
    def backbone(self, images: Tensor) -> Any:
        """What the branches have in common."""

    @abstractmethod
    def tail(self, shared: Any, branch: int) -> Tensor:
        """Pooled features of one branch: [batch, width]."""

    def features(self, images: Tensor, branch: int) -> Tensor:
        """Pooled features of one branch: [batch, width]."""
        return self.tail(self.backbone(images), branch)

    def classify(self, features: Tensor) -> Tensor:
        """Logits [batch, classes] of the shared classifier for the features of all branches, side by side."""
        return self.classifier(features)  # type: ignore[no-any-return]

    def finalize(self, features: Tensor) -> Tensor:
        """Logits [batch, classes] for inference: of the class-specific weights, where there are some."""
        return self.classify(features) if self.class_specific is None else self.class_specific(features)

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits, and those of an auxiliary head where there is one (while training)."""
        return self(images), None

    def pooled(self, images: Tensor) -> Tensor:
        """Features of all branches for inference, side by side.

        They count half each, so BBN's factor 2·m is 1 (BBN, §4.4).
        """
        shared = self.backbone(images)
        return torch.cat([self.tail(shared, branch) for branch in range(self.branch_count)], 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits for inference."""
        return self.finalize(self.pooled(images))


class CosineClassifier(nn.Module):
    """z_c = scale · cos(features, weights of class c): [batch, features] -> [batch, classes].

    Cao et al. 2019, authors' code (NormedLinear); the scale, which is the loss's there, is the classifier's
    here, so that the softmax of its logits is what was trained.
    """

    def __init__(self, in_features: int, classes: int, scale: float) -> None:
        super().__init__()
        self.in_features, self.scale = in_features, scale
        self.weight = nn.Parameter(torch.empty(classes, in_features))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(features), F.normalize(self.weight))


def make_classifier(in_features: int, classes: int, cosine: float | None) -> nn.Linear | CosineClassifier:
    """A linear classifier, or one of cosines times the given scale."""
    return (
        nn.Linear(in_features, classes) if cosine is None else CosineClassifier(in_features, classes, cosine)
    )


class CellNetwork(BranchedNetwork):
    """Stem, `cells` cells with reductions at one and two thirds, global average pooling, classifier.

    With two `branches`, the last `branch_cells` cells exist once a branch (BBN, §4.2).
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
        stem: str = "cifar",
        branches: int = 1,
        branch_cells: int = 0,
        cosine: float | None = None,
        dual: bool = False,
    ) -> None:
        large = stem == "imagenet"
        stem_channels = channels if large else STEM_MULTIPLIER * channels
        plan = _cell_plan(stem_channels, channels, cells, outputs, after_reduction=large)
        super().__init__(plan[-1][2] * outputs, classes, branches, cosine, dual)
        self.stem = (ImageNetStem if large else CifarStem)(in_channels, stem_channels, norm)
        own = branch_cells if branches > 1 else 0
        self.shared = nn.ModuleList(make_cell(*entry) for entry in plan[: cells - own])
        self.branches = nn.ModuleList(
            nn.ModuleList(make_cell(*entry) for entry in plan[cells - own :]) for _ in range(branches)
        )

    def context(self) -> Any:
        """What every cell is given besides its two inputs."""
        return None

    def backbone(self, images: Tensor) -> tuple[States, Any]:
        """The outputs of the last two shared cells, and the cells' context."""
        context = self.context()
        return chain(self.shared.children(), self.states(images), context), context

    def states(self, images: Tensor) -> States:
        """What the first cell reads, channels-last."""
        return self.stem(images.contiguous(memory_format=torch.channels_last))  # type: ignore[no-any-return]

    def tail(self, shared: tuple[States, Any], branch: int) -> Tensor:
        """Pooled features of one branch: [batch, features]."""
        return self.pool(chain(self.branches[branch].children(), *shared)[1])

    def pool(self, x: Tensor) -> Tensor:
        """Global average pooling of the last cell's output: [batch, features]."""
        return x.mean((2, 3)).reshape(-1, self.width)


class CifarStem(nn.Module):
    """One 3×3 convolution; both inputs of the first cell are its map (DARTS, cnn/model.py)."""

    def __init__(self, in_channels: int, channels: int, norm: Norm) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), norm(channels)
        )

    def forward(self, images: Tensor) -> States:
        stem = self.layers(images)
        return F.relu(stem), stem


class ImageNetStem(nn.Module):
    """Three 3×3 convolutions of stride 2: 224×224 images become maps of 56×56 and 28×28.

    DARTS, §A.3 and cnn/model.py: the first cell reads both, the larger one by a factorized reduction.
    """

    def __init__(self, in_channels: int, channels: int, norm: Norm) -> None:
        super().__init__()

        def halve(before: int, after: int) -> list[nn.Module]:
            return [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), norm(after)]

        half = channels // 2
        self.first = nn.Sequential(*halve(in_channels, half), nn.ReLU(), *halve(half, channels))
        self.second = nn.Sequential(*halve(channels, channels))

    def forward(self, images: Tensor) -> States:
        before = F.relu(self.first(images))
        return before, self.second(before)


def _cell_plan(
    stem: int, channels: int, cells: int, outputs: int, after_reduction: bool
) -> list[tuple[int, int, int, bool, bool]]:
    """MakeCell's arguments of every cell; channels double where the map is halved (DARTS, §3.1.1)."""
    plan = []
    before = previous = stem
    for index in range(cells):
        reduction = index in (cells // 3, 2 * cells // 3)
        channels *= 2 if reduction else 1
        plan.append((before, previous, channels, reduction, after_reduction))
        before, previous, after_reduction = previous, outputs * channels, reduction
    return plan


def chain(cells: Iterable[nn.Module], states: States, context: Any) -> States:
    """The states behind some cells, one after the other."""
    before, previous = states
    for cell in cells:
        rectified = F.relu(previous)
        before, previous = rectified, cell(before, rectified, context)
    return before, previous


def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all convolution and linear weights anew from PyTorch's default distributions.

    U(−b, b) with b = 1/√fan_in (He et al. 2015 with a = √5, as `torch.nn` has it), explicitly seeded; rows of
    a cosine classifier then get norm 1, as in LDAM-DRW's code.
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | CosineClassifier):
                bound = module.weight[0].numel() ** -0.5
                for parameter in module.parameters():
                    draw = torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype)
                    parameter.copy_((2 * draw - 1) * bound)
            if isinstance(module, CosineClassifier):
                module.weight.copy_(F.normalize(module.weight))


def normalize_classifier(classifier: nn.Linear, tau: float) -> None:
    """w_c/‖w_c‖^tau for every class c, and no bias, in place.

    Kang et al. 2020, §4.3; the bias as in their tau_norm.py.
    """
    with torch.no_grad():
        classifier.weight.div_(classifier.weight.norm(dim=1, keepdim=True) ** tau)
        classifier.bias.zero_()


def count_weights(network: nn.Module) -> int:
    """Number of trainable weights without alphas, betas and auxiliary head, as the literature counts."""
    return sum(
        p.numel()
        for name, p in network.named_parameters()
        if not name.startswith(("alphas", "betas", "auxiliary"))
    )


def count_multiply_adds(network: nn.Module, in_channels: int, size: int) -> int:
    """Multiply-adds of convolutions and matrix products for one `size`×`size` image, no auxiliary head."""
    from torch.utils.flop_counter import FlopCounterMode

    images = torch.zeros(1, in_channels, size, size, device=next(network.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    return int(counter.get_total_flops()) // 2
