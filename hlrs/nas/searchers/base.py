"""The interface of a searcher: what differs between differentiable searches that share one supernet."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hlrs.config.methods import SupernetSearcher
from hlrs.config.spaces import Space


class Searcher(ABC):
    """What a search decides within the alternating descent of weights and architecture.

    The rules of its spec (hlrs/config/methods.py) are its attributes.
    """

    def __init__(self, spec: SupernetSearcher) -> None:
        self.order, self.portion = spec.order, spec.portion
        self.edge_normalization, self.warm_up = spec.edge_normalization, spec.warm_up
        self.relaxation = spec.relaxation

    def rests(self, t: float) -> bool:
        """Whether the architecture takes no steps at progress t."""
        return t < self.warm_up

    @abstractmethod
    def draw(
        self, shape: Sequence[int], generator: torch.Generator, epoch: int, epochs: int
    ) -> Tensor | None:
        """Draw what a step's forward passes and its penalty share, on the CPU; None where there is nothing.

        shape: [kinds of cell, edges, operations], that of the alphas. The result's first dimension is the
        kinds of cell. It must hold everything that varies from step to step or from epoch to epoch, since a
        captured step reads its inputs alone (training/cuda_graphs.py).
        """

    @abstractmethod
    def operation_weights(self, alphas: Tensor, drawn: Tensor | None) -> Tensor:
        """Weights of the operations, float [edges, operations], of one kind of cell.

        From its alphas, of that shape, and its part of the draw.
        """

    @abstractmethod
    def edge_weights(self, betas: Tensor | None, incoming: Sequence[int]) -> Tensor | None:
        """Weights of the edges, float [edges], of one kind of cell; None: all are 1.

        From its betas, float [edges], None without edge normalization; `incoming` counts each node's edges.
        """

    @abstractmethod
    def penalty(self, architecture: Mapping[str, Tensor], drawn: Tensor | None) -> Tensor | None:
        """The term, a scalar, that is added to the loss on the architecture's images; None: nothing is.

        From the alphas and betas by name (`Supernet.architecture`), and the draw for these images.
        """

    # of searchers that decide on the supernet: those with a `tune` (nas/selection.py)

    def decide(  # noqa: B027 - optional
        self,
        number: int,
        space: Space,
        nodes: int,
        generator: torch.Generator,
        accuracy: Callable[[Tensor], float],
    ) -> None:
        """Decide what round `number`, counted from 0, is about, once `draw` was called.

        nodes: of a cell. generator: at the same state in every round. accuracy: that of the supernet on the
        architecture's images, given what is drawn.
        """

    def settle(self, space: Space, architecture: Mapping[str, Tensor]) -> None:  # noqa: B027 - optional
        """Overwrite what is decided in the architecture, so that the genotype derived from it holds it."""

    def state(self) -> dict[str, Tensor]:
        """Everything that decisions change, for a checkpoint."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - optional
        """Restore a state."""
