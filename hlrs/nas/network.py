"""The structure that supernet and derived network share: stem, a chain of cells, branches, classifier."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlrs.config.base import Kinds, Precision
from hlrs.config.methods import CosineHead, EtfHead, Head, LinearHead
from hlrs.nas.operations import FactorizedReduce, Norm, conv_bn
from hlrs.nas.ops.convolution import Conv, exact

STEM_MULTIPLIER = 3
LINEAR = LinearHead()
States = tuple[Tensor, Tensor]  # outputs of the two previous cells, the older one rectified


class Cell(nn.Module):
    """Base of a cell: brings the outputs of the two previous cells to its own size (DARTS, §2.1).

    Every output is read by two cells, and only after a ReLU, so `chain` rectifies it once.
    """

    def __init__(self, before: int, previous: int, channels: int, after_reduction: bool, norm: Norm) -> None:
        super().__init__()
        halve = FactorizedReduce if after_reduction else conv_bn
        self.input0 = halve(before, channels, norm)
        self.input1 = conv_bn(previous, channels, norm)


# (channels of the cell before the previous one, of the previous one, own, reduction, previous is a reduction)
MakeCell = Callable[[int, int, int, bool, bool], Cell]


class BranchedNetwork(nn.Module, ABC):
    """A backbone shared by all branches, one tail per branch, and a classifier of their pooled features.

    `head` says what the classifier is (HEADS). A `dual` network has a second, class-specific one, which gives
    the final logits. A training may give it a `training_head`, which inference lacks. `added` are the
    prefixes of the weights that it does not take from another training. Images are float [batch,
    in_channels, height, width].

    A training may set the `precision` of the maps; it acts in training mode only. With bfloat16, all maps are
    bfloat16, and convolutions multiply in it, as `torch.autocast` has them. Weights, statistics of batch
    norms, classifiers, auxiliary heads and logits are float32.
    """

    precision: Precision = "float32"
    added: tuple[str, ...] = ("training_head.",)

    def __init__(self, width: int, classes: int, branches: int, head: Head, dual: bool) -> None:
        super().__init__()
        self.branch_count, self.width = branches, width
        self.classifier = make_classifier(branches * width, classes, head)
        self.class_specific = make_classifier(branches * width, classes, head) if dual else None
        self.training_head: nn.Module | None = None
        self.multiplier: nn.Module | None = None  # of all approximate products (nas/arithmetic.py)

    @property
    def learner(self) -> nn.Module:
        """The part whose weights a training changes: all, unless some rest."""
        return self

    @abstractmethod
    def backbone(self, images: Tensor) -> Any:
        """Compute whatever the branches share."""

    @abstractmethod
    def tail(self, shared: Any, branch: int) -> Tensor:
        """Compute the pooled features of one branch, [batch, width], from the backbone's output."""

    def features(self, images: Tensor, branch: int) -> Tensor:
        """Compute the pooled features of one branch: [batch, width]."""
        with self.casting(images):
            features = self.tail(self.backbone(images), branch)
        return features.to(images.dtype)

    def casting(self, images: Tensor) -> AbstractContextManager[Any]:
        """Compute maps of images inside the block in the precision of the training."""
        if self.precision == "float32" or not self.training:
            return nullcontext()
        return torch.autocast(images.device.type, torch.bfloat16)

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Compute maps inside the block in float32."""
        precision, self.precision = self.precision, "float32"
        try:
            yield
        finally:
            self.precision = precision

    def classify(self, features: Tensor) -> Tensor:
        """Return the shared classifier's logits [batch, classes] for the concatenated branch features."""
        return self.classifier(features)  # type: ignore[no-any-return]

    def finalize(self, features: Tensor) -> Tensor:
        """Return logits [batch, classes] for inference, class-specific ones if the network is dual."""
        return self.classify(features) if self.class_specific is None else self.class_specific(features)

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return logits [batch, classes] and, in training with an auxiliary head, its logits; else None."""
        return self(images), None

    def pooled(self, images: Tensor) -> Tensor:
        """Concatenate the features of all branches for inference: [batch, branches · width].

        Both branches have the weight 1/2, so BBN's factor 2·m is 1 (BBN, §4.4).
        """
        with self.casting(images):
            shared = self.backbone(images)
            features = [self.tail(shared, branch) for branch in range(self.branch_count)]
        return torch.cat(features, 1).to(images.dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [batch, classes] for inference."""
        return self.finalize(self.pooled(images))


class CosineClassifier(nn.Module):
    """z_c = scale · cos(features, w_c): float [batch, in_features] -> [batch, classes].

    Cao et al. 2019, authors' code (NormedLinear). There the scale belongs to the loss; here it belongs to the
    classifier, so that the softmax of its logits is what was trained.
    """

    def __init__(self, in_features: int, classes: int, scale: float) -> None:
        super().__init__()
        self.in_features, self.scale = in_features, scale
        self.weight = nn.Parameter(torch.empty(classes, in_features))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(features), F.normalize(self.weight))


class EtfClassifier(nn.Module):
    """z_c = scale · cos(features, w_c): float [batch, in_features] -> [batch, classes], `weight` fixed.

    Yang et al. 2022, definition 1: the w_c are the columns of √(C/(C − 1)) U (I − 11ᵀ/C), the columns of U
    orthonormal. All have norm 1, and all pairs the cosine −1/(C − 1). The authors' code has a batch norm
    before the features' normalisation; this has none.
    """

    weight: Tensor

    def __init__(self, in_features: int, classes: int, scale: float) -> None:
        super().__init__()
        self.in_features, self.scale = in_features, scale
        self.register_buffer("weight", torch.empty(classes, in_features))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(features), self.weight)

    def draw(self, generator: torch.Generator) -> None:
        """Draw U, and set the weight, in double precision until it is done."""
        classes = len(self.weight)
        rows = torch.empty(self.weight.shape, dtype=torch.float64)
        nn.init.orthogonal_(rows, generator=generator)  # fewer rows than columns: Uᵀ
        self.weight.copy_((classes / (classes - 1)) ** 0.5 * (rows - rows.mean(0)))


Classifier = nn.Linear | CosineClassifier | EtfClassifier


def linear(spec: LinearHead, in_features: int, classes: int) -> nn.Linear:
    """Make W h + b."""
    return nn.Linear(in_features, classes)


def cosine(spec: CosineHead, in_features: int, classes: int) -> CosineClassifier:
    """Make cosines that learn."""
    return CosineClassifier(in_features, classes, spec.scale)


def etf(spec: EtfHead, in_features: int, classes: int) -> EtfClassifier:
    """Make cosines with a fixed frame; UserError if there are more classes than features."""
    spec.check_classes(classes, in_features)
    return EtfClassifier(in_features, classes, spec.scale)


HEADS: Kinds[Callable[..., Classifier]] = {LinearHead: linear, CosineHead: cosine, EtfHead: etf}


def make_classifier(in_features: int, classes: int, head: Head) -> Classifier:
    """Make the classifier of a head."""
    return HEADS[type(head)](head, in_features, classes)


class CellNetwork(BranchedNetwork):
    """Stem, `cells` cells with reductions at one and two thirds, global average pooling, classifier.

    A cell's output has `outputs` times its channels. With two `branches`, each has its own last
    `branch_cells` cells (BBN, §4.2). `stem` is "cifar" or "imagenet"; `head` and `dual` as in
    `BranchedNetwork`.
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
        head: Head = LINEAR,
        dual: bool = False,
    ) -> None:
        large = stem == "imagenet"
        stem_channels = channels if large else STEM_MULTIPLIER * channels
        plan = _cell_plan(stem_channels, channels, cells, outputs, after_reduction=large)
        super().__init__(plan[-1][2] * outputs, classes, branches, head, dual)
        self.stem = (ImageNetStem if large else CifarStem)(in_channels, stem_channels, norm)
        own = branch_cells if branches > 1 else 0
        self.shared = nn.ModuleList(make_cell(*entry) for entry in plan[: cells - own])
        self.branches = nn.ModuleList(
            nn.ModuleList(make_cell(*entry) for entry in plan[cells - own :]) for _ in range(branches)
        )

    def context(self) -> Any:
        """Return what every cell receives besides its two inputs."""
        return None

    def backbone(self, images: Tensor) -> tuple[States, Any]:
        """Compute the outputs of the last two shared cells; return them with the cells' context."""
        context = self.context()
        return chain(self.shared.children(), self.states(images), context), context

    def states(self, images: Tensor) -> States:
        """Compute the inputs of the first cell, in channels-last layout."""
        return self.stem(images.contiguous(memory_format=torch.channels_last))  # type: ignore[no-any-return]

    def tail(self, shared: tuple[States, Any], branch: int) -> Tensor:
        """Compute the pooled features of one branch: [batch, width]."""
        return self.pool(chain(self.branches[branch].children(), *shared)[1])

    def pool(self, x: Tensor) -> Tensor:
        """Average the last cell's output over its pixels: [batch, width]."""
        return x.mean((2, 3)).reshape(-1, self.width)


class CifarStem(nn.Module):
    """One 3×3 convolution, whose map is both inputs of the first cell (DARTS, cnn/model.py)."""

    def __init__(self, in_channels: int, channels: int, norm: Norm) -> None:
        super().__init__()
        self.layers = nn.Sequential(Conv(in_channels, channels, 3, padding=1), norm(channels))

    def forward(self, images: Tensor) -> States:
        stem = self.layers(images)
        return F.relu(stem), stem


class ImageNetStem(nn.Module):
    """Three 3×3 convolutions of stride 2: 224×224 images become maps of 56×56 and 28×28.

    The first cell reads both, the larger one through a factorized reduction (DARTS, App. A and cnn/model.py).
    """

    def __init__(self, in_channels: int, channels: int, norm: Norm) -> None:
        super().__init__()

        def halve(before: int, after: int) -> list[nn.Module]:
            return [Conv(before, after, 3, stride=2, padding=1), norm(after)]

        half = channels // 2
        self.first = nn.Sequential(*halve(in_channels, half), nn.ReLU(), *halve(half, channels))
        self.second = nn.Sequential(*halve(channels, channels))

    def forward(self, images: Tensor) -> States:
        before = F.relu(self.first(images))
        return before, self.second(before)


def _cell_plan(
    stem: int, channels: int, cells: int, outputs: int, after_reduction: bool
) -> list[tuple[int, int, int, bool, bool]]:
    """List the arguments of `MakeCell` for every cell; reductions double the channels (DARTS, §3.1.1)."""
    plan = []
    before = previous = stem
    for index in range(cells):
        reduction = index in (cells // 3, 2 * cells // 3)
        channels *= 2 if reduction else 1
        plan.append((before, previous, channels, reduction, after_reduction))
        before, previous, after_reduction = previous, outputs * channels, reduction
    return plan


def chain(cells: Iterable[nn.Module], states: States, context: Any) -> States:
    """Apply cells one after the other; return the outputs of the last two."""
    before, previous = states
    for cell in cells:
        rectified = F.relu(previous)
        before, previous = rectified, cell(before, rectified, context)
    return before, previous


def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all convolution and linear weights from PyTorch's default distribution, with a given generator.

    U(−b, b) with b = 1/√fan_in (He et al. 2015 with a = √5, as in `torch.nn`). Rows of a cosine classifier
    are then scaled to norm 1, as in LDAM-DRW's code. Frames of fixed classifiers are drawn, too.
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
            if isinstance(module, EtfClassifier):
                module.draw(generator)


def normalize_classifier(classifier: nn.Linear, tau: float) -> None:
    """Set w_c to w_c/‖w_c‖^tau for every class c, and the bias to 0, in place.

    Kang et al. 2020, §4; the bias as in their tau_norm.py.
    """
    with torch.no_grad():
        classifier.weight.div_(classifier.weight.norm(dim=1, keepdim=True) ** tau)
        classifier.bias.zero_()


def count_weights(network: nn.Module) -> int:
    """Count weights as the literature does: without alphas, betas and the auxiliary head."""
    return sum(
        p.numel()
        for name, p in network.named_parameters()
        if not name.startswith(("alphas", "betas", "auxiliary"))
    )


def count_multiply_adds(network: nn.Module, in_channels: int, size: int) -> int:
    """Count multiply-adds of convolutions and matrix products for one `size`×`size` image at inference."""
    from torch.utils.flop_counter import FlopCounterMode

    images = torch.zeros(1, in_channels, size, size, device=next(network.parameters()).device)
    with exact(network), FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    return int(counter.get_total_flops()) // 2
