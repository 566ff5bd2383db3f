"""DARTS-PT (Wang et al. 2021): operations and edges are selected by what their absence costs the supernet."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hlrs.config.spaces import Space
from hlrs.nas.genotype import contested, first_choice
from hlrs.nas.searchers.darts import DartsSearcher

SURE = 1000.0  # an alpha that is higher by this has a softmax weight of exactly 1, in double precision, too


class PerturbationSearcher(DartsSearcher):
    """Weigh operations by s · softmax(α) + b, where decisions set s and b (algorithm 1).

    s = 1 and b = 0 before any; an operation is masked by s = 0, the others' weights stay (authors' code). A
    decided edge has s = 0 and a one-hot b, a removed one s = b = 0.
    """

    masks: Tensor | None = None  # s and b side by side: float [kinds of cell, 2, edges, operations]

    def draw(self, shape: Sequence[int], generator: torch.Generator, epoch: int, epochs: int) -> Tensor:
        """Draw nothing: what is decided, as `masks`."""
        if self.masks is None:
            self.masks = torch.stack([torch.ones(*shape), torch.zeros(*shape)], 1)
        return self.masks

    def operation_weights(self, alphas: Tensor, drawn: Tensor | None) -> Tensor:
        """s · softmax(α) + b."""
        assert drawn is not None
        scale, shift = drawn
        weights: Tensor = alphas.softmax(-1) * scale + shift
        return weights

    def decide(
        self,
        number: int,
        space: Space,
        nodes: int,
        generator: torch.Generator,
        accuracy: Callable[[Tensor], float],
    ) -> None:
        """Decide the operation of an edge of each kind of cell, and after all of these the edges into a node.

        Edges and nodes are taken in random order, kinds one after the other, as in the authors' code.
        """
        assert self.masks is not None
        into_nodes, edges = contested(space, nodes), len(space.edges(nodes))
        for kind in range(len(self.masks)):
            by_edge, by_node = (
                torch.randperm(count, generator=generator).tolist() for count in (edges, len(into_nodes))
            )
            if number < edges:
                self._decide_operation(kind, by_edge[number], first_choice(space), accuracy)
            else:
                self._decide_edges(kind, into_nodes[by_node[number - edges]], space.kept or 0, accuracy)

    def _decide_operation(
        self, kind: int, edge: int, first: int, accuracy: Callable[[Tensor], float]
    ) -> None:
        """Keep the operation without which the accuracy is lowest; on a tie, the earliest.

        Its column is `first` or a later one.
        """
        assert self.masks is not None
        operations = range(first, self.masks.shape[-1])
        best = min(operations, key=lambda operation: accuracy(self._without(kind, 0, edge, operation)))
        self.masks = self._without(kind, slice(None), edge)
        self.masks[kind, 1, edge, best] = 1.0

    def _decide_edges(
        self, kind: int, edges: Sequence[int], count: int, accuracy: Callable[[Tensor], float]
    ) -> None:
        """Keep `count` edges, those without which the accuracy is lowest; on a tie, the earlier ones."""
        kept = sorted(edges, key=lambda edge: accuracy(self._without(kind, slice(None), edge)))[:count]
        for edge in set(edges).difference(kept):
            self.masks = self._without(kind, slice(None), edge)

    def _without(self, *index: int | slice) -> Tensor:
        """Copy the masks with 0 at an index."""
        assert self.masks is not None
        masks = self.masks.clone()
        masks[index] = 0.0
        return masks

    def settle(self, space: Space, architecture: Mapping[str, Tensor]) -> None:
        """Set the alphas of a decided edge to 0 for its operation, to −SURE for others.

        Those of a removed edge likewise for `none`, or all to 0 without one: so the edges that stay win.
        """
        assert self.masks is not None
        with torch.no_grad():
            for alphas, masks in zip(architecture.values(), self.masks, strict=True):
                scale, shift = masks.to(alphas.device)
                undecided, chosen = scale.any(-1, keepdim=True), shift.clone()
                chosen[:, : first_choice(space)] = (~shift.any(-1, keepdim=True)).float()
                settled = SURE * (chosen - chosen.sum(-1, keepdim=True))
                alphas.copy_(torch.where(undecided, alphas, settled))

    def state(self) -> dict[str, Tensor]:
        """Return the masks; nothing before the first draw."""
        return {} if self.masks is None else {"masks": self.masks}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore the masks."""
        self.masks = state.get("masks")
