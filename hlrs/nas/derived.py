"""The derived network: a genotype's cells, trained from scratch (DARTS, §3.1 and cnn/model.py)."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlrs.config.methods import Head
from hlrs.nas.genotype import DartsGenotype, ImplantGenotype, Node
from hlrs.nas.network import LINEAR, Cell, CellNetwork, States, chain, make_classifier
from hlrs.nas.operations import make_operation, reads_rectified
from hlrs.nas.ops.layouts import join
from hlrs.nas.ops.packed import BatchNorm, fitting, pack

AUXILIARY_FEATURES = 768


class DropPath:
    """Scales each image's map of an edge by 0 with probability p, else by 1/(1 − p) (Larsson et al. 2017).

    `factors` float [maps, batch], from `draw_factors`, in the order in which a step computes the maps.
    """

    def __init__(self, factors: Tensor) -> None:
        self.factors = iter(factors.unbind())

    def __call__(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """Scale the next map [n, channels, height, width], and add it to `before`, the node's sum so far."""
        factors = next(self.factors).to(x.dtype)
        if len(factors) > len(x):  # several images per pixel (ops/packed.py)
            factors = factors.repeat_interleave(x.shape[1] * len(x) // len(factors))
        factors = factors.view(len(x), -1, 1, 1)
        return x * factors if before is None else torch.addcmul(before, x, factors)


def draw_factors(maps: int, batch: int, probability: float, generator: torch.Generator) -> Tensor:
    """Draw the factors of `DropPath` for one step: float32 [maps, batch], on the CPU for every device."""
    keep = 1 - probability
    return (torch.rand(maps, batch, generator=generator) < keep).float() / keep


class DerivedCell(Cell):
    """A genotype's cell: a node sums its one or two edges, and the output joins the nodes of `concat`.

    Arguments as in `network.MakeCell`.
    """

    def __init__(
        self,
        genotype: DartsGenotype | ImplantGenotype,
        before: int,
        previous: int,
        channels: int,
        reduction: bool,
        after_reduction: bool,
    ) -> None:
        super().__init__(before, previous, channels, after_reduction, BatchNorm)
        self.channels = channels
        kind = "reduce" if reduction else "normal"
        nodes: list[Node] = genotype.cells[kind]
        self.concat = genotype.outputs(kind)
        self.nodes = nn.ModuleList()
        self.dropped_maps = 0
        self.reads: list[list[tuple[int, bool]]] = []  # per node, per edge: state, read rectified or not
        for node in nodes:
            edges = [(name, state, 2 if reduction and state < 2 else 1) for name, state in node]
            operations = [make_operation(name, channels, stride, BatchNorm) for name, _, stride in edges]
            self.nodes.append(nn.ModuleList(operations))
            self.reads.append([(state, reads_rectified(name, stride)) for name, state, stride in edges])
            self.dropped_maps += sum(not isinstance(operation, nn.Identity) for operation in operations)

    def forward(self, before: Tensor, previous: Tensor, drop_path: DropPath | None) -> Tensor:
        maps: list[Tensor] = [self.input0(before), self.input1(previous)]
        rectified: dict[int, Tensor] = {}
        for node, reads in zip(self.nodes, self.reads, strict=True):
            total: Any = None  # before the first edge
            for operation, (state, rectifies) in zip(node, reads, strict=True):  # type: ignore[call-overload]
                if rectifies and state not in rectified:
                    rectified[state] = F.relu(maps[state])
                x = operation(rectified[state] if rectifies else maps[state])
                if drop_path is not None and not isinstance(operation, nn.Identity):
                    total = drop_path(x, total)
                else:
                    total = x if total is None else total + x
            maps.append(total)
        return join(maps[0].shape[1] // self.channels, *(maps[state] for state in self.concat))


def pool_to_two(x: Tensor) -> Tensor:
    """Average [n, channels, size, size] over four windows: [n, channels, 2, 2].

    As in DARTS's cnn/model.py, windows have 5×5 pixels: with stride 3 on CIFAR's 8×8 map, with stride 2 on
    ImageNet's 7×7. Larger maps get larger windows, smaller ones are halved, with a shared middle where the
    size is odd (our own reading), as by `F.adaptive_avg_pool2d`, whose gradients on a GPU are not
    deterministic.
    """
    size = x.shape[-1]
    if size == 1:
        return x.expand(-1, -1, 2, 2)
    window = max(5, size - 3) if size >= 7 else (size + 1) // 2
    return F.avg_pool2d(x, window, size - window)


class AuxiliaryHead(nn.Module):
    """An auxiliary classifier on the map after two thirds of the cells (DARTS, cnn/model.py).

    `pool_to_two` pools the map, `head` is as in `make_classifier`.
    """

    def __init__(self, channels: int, classes: int, head: Head = LINEAR) -> None:
        super().__init__()
        self.channels = channels
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, AUXILIARY_FEATURES, 2, bias=False),
            nn.BatchNorm2d(AUXILIARY_FEATURES),
            nn.ReLU(),
        )
        self.classifier = make_classifier(AUXILIARY_FEATURES, classes, head)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [batch, classes] of a map float [n, channels, height, width]."""
        x = pool_to_two(F.relu(x))
        x = x.reshape(-1, self.channels, *x.shape[2:])
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]


class DerivedNetwork(CellNetwork):
    """The network of a genotype, with keyword arguments as in `CellNetwork`.

    The retraining sets `drop_path` before each step; it acts in training mode only.
    """

    def __init__(self, genotype: DartsGenotype, *, auxiliary: bool = False, **layout: Any) -> None:
        outputs = len(genotype.normal_concat)
        super().__init__(partial(DerivedCell, genotype), BatchNorm, outputs, **layout)
        self.channels = layout["channels"]
        self.drop_path: DropPath | None = None
        self.tap = 2 * layout["cells"] // 3  # index of the cell that the auxiliary head reads
        if auxiliary:
            # both reductions lie before or at the tap, so the map there is as wide as the last one
            self.auxiliary = AuxiliaryHead(
                self.classifier.in_features, layout["classes"], layout.get("head", LINEAR)
            )

    @property
    def dropped_maps(self) -> int:
        """Number of maps that drop path scales in a step; those of shared cells count once per branch."""
        branches = [module for own in self.branches.children() for module in own.children()]
        passes = [*self.branch_count * list(self.shared), *branches]
        return sum(cell.dropped_maps for cell in passes if isinstance(cell, DerivedCell))

    def context(self) -> DropPath | None:
        """Return drop path in training mode, else None."""
        return self.drop_path if self.training else None

    def states(self, images: Tensor) -> States:
        """Return the inputs of the first cell, with several images per pixel where that is faster."""
        before, previous = super().states(images)
        count = fitting(images, self.channels)
        return pack(before, count), pack(previous, count)

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return logits and, with an auxiliary head, its logits; both [batch, classes]."""
        if not hasattr(self, "auxiliary"):
            return self(images), None
        context = self.context()
        cells = list(self.shared)
        with self.casting(images):
            tapped = chain(cells[: self.tap + 1], self.states(images), context)
            last = chain(cells[self.tap + 1 :], tapped, context)
            features = self.pool(last[1])
        return self.classify(features.to(images.dtype)), self.auxiliary(tapped[1].to(images.dtype))
