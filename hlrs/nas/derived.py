"""The derived network: the genotype's cells, trained from scratch (DARTS, §3.1 and cnn/model.py)."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlrs.nas.genotype import Genotype, Node
from hlrs.nas.network import Cell, CellNetwork, States, chain, make_classifier
from hlrs.nas.operations import make_operation, reads_rectified
from hlrs.nas.ops.layouts import join
from hlrs.nas.ops.packed import BatchNorm, fitting, pack


class DropPath:
    """Zeroes an edge's map of an image with probability p, else scales by 1/(1 − p) (Larsson et al. 2017).

    `factors` float [maps, batch]: of each map, in the order in which they come in a step.
    """

    def __init__(self, factors: Tensor) -> None:
        self.factors = iter(factors.unbind())

    def __call__(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """The map with its factors, onto what is in its node before it."""
        factors = next(self.factors).to(x.dtype)
        if len(factors) > len(x):  # several images to a pixel
            factors = factors.repeat_interleave(x.shape[1] * len(x) // len(factors))
        factors = factors.view(len(x), -1, 1, 1)
        return x * factors if before is None else torch.addcmul(before, x, factors)


def draw_factors(maps: int, batch: int, probability: float, generator: torch.Generator) -> Tensor:
    """Drop path's factors of a step: float32 [maps, batch], on the CPU: the same for every device."""
    keep = 1 - probability
    return (torch.rand(maps, batch, generator=generator) < keep).float() / keep


class DerivedCell(Cell):
    """A cell of a genotype: node = sum of its one or two edges."""

    def __init__(
        self,
        genotype: Genotype,
        before: int,
        previous: int,
        channels: int,
        reduction: bool,
        after_reduction: bool,
    ) -> None:
        super().__init__(before, previous, channels, after_reduction, BatchNorm)
        self.channels = channels
        nodes: list[Node] = genotype.reduce if reduction else genotype.normal
        self.concat = genotype.reduce_concat if reduction else genotype.normal_concat
        self.nodes = nn.ModuleList()
        self.dropped_maps = 0
        self.reads: list[list[tuple[int, bool]]] = []  # of a node's edges: state, rectified or not
        for node in nodes:
            edges = [(name, state, 2 if reduction and state < 2 else 1) for name, state in node]
            primitives = [make_operation(name, channels, stride, BatchNorm) for name, _, stride in edges]
            self.nodes.append(nn.ModuleList(primitives))
            self.reads.append([(state, reads_rectified(name, stride)) for name, state, stride in edges])
            self.dropped_maps += sum(not isinstance(primitive, nn.Identity) for primitive in primitives)

    def forward(self, before: Tensor, previous: Tensor, drop_path: DropPath | None) -> Tensor:
        maps: list[Tensor] = [self.input0(before), self.input1(previous)]
        rectified: dict[int, Tensor] = {}
        for node, reads in zip(self.nodes, self.reads, strict=True):
            total: Any = None  # until there is an edge
            for primitive, (state, rectifies) in zip(node, reads, strict=True):  # type: ignore[call-overload]
                if rectifies and state not in rectified:
                    rectified[state] = F.relu(maps[state])
                x = primitive(rectified[state] if rectifies else maps[state])
                if drop_path is not None and not isinstance(primitive, nn.Identity):
                    total = drop_path(x, total)
                else:
                    total = x if total is None else total + x
            maps.append(total)
        return join(maps[0].shape[1] // self.channels, *(maps[state] for state in self.concat))


class AuxiliaryHead(nn.Module):
    """Classifier on the map after two thirds of the cells (DARTS, cnn/model.py), of the network's kind.

    Windows of 5 pixels, 3 apart, make 2×2 of CIFAR's 8×8 map, and 2 apart of ImageNet's 7×7 map, as there.
    Larger maps are covered by larger windows, smaller ones are pooled adaptively (our own reading).
    """

    def __init__(self, channels: int, classes: int, cosine: float | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
        )
        self.classifier = make_classifier(768, classes, cosine)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-1]
        x = F.relu(x)
        window = max(5, size - 3)
        x = F.avg_pool2d(x, window, size - window) if size >= 7 else F.adaptive_avg_pool2d(x, 2)
        x = x.reshape(-1, self.channels, *x.shape[2:])
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]


class DerivedNetwork(CellNetwork):
    """The network of a genotype; `drop_path` is set by the training loop and acts in training mode only."""

    def __init__(self, genotype: Genotype, *, auxiliary: bool, **layout: Any) -> None:
        outputs = len(genotype.normal_concat)
        super().__init__(partial(DerivedCell, genotype), BatchNorm, outputs, **layout)
        self.channels = layout["channels"]
        self.drop_path: DropPath | None = None
        self.tap = 2 * layout["cells"] // 3  # the auxiliary head reads this cell's output
        if auxiliary:
            # two reductions lie before or at the tap, so its channels are those of the classifier
            self.auxiliary = AuxiliaryHead(
                self.classifier.in_features, layout["classes"], layout.get("cosine")
            )

    @property
    def dropped_maps(self) -> int:
        """How many maps drop path acts on in a step: what the branches share, once for each of them."""
        branches = [module for own in self.branches.children() for module in own.children()]
        passes = [*self.branch_count * list(self.shared), *branches]
        return sum(cell.dropped_maps for cell in passes if isinstance(cell, DerivedCell))

    def context(self) -> DropPath | None:
        """Drop path, while training."""
        return self.drop_path if self.training else None

    def states(self, images: Tensor) -> States:
        """What the first cell reads: several images to a pixel where that is faster."""
        before, previous = super().states(images)
        count = fitting(images, self.channels)
        return pack(before, count), pack(previous, count)

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits and, with an auxiliary head, its logits; [batch, classes] both."""
        if not hasattr(self, "auxiliary"):
            return self(images), None
        context = self.context()
        cells = list(self.shared)
        tapped = chain(cells[: self.tap + 1], self.states(images), context)
        last = chain(cells[self.tap + 1 :], tapped, context)
        return self.classify(self.pool(last[1])), self.auxiliary(tapped[1])
