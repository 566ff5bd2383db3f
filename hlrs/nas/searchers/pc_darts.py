"""PC-DARTS (Xu et al. 2020)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hlrs.nas.searchers.darts import DartsSearcher


class PcDartsSearcher(DartsSearcher):
    """Weigh operations as DARTS does, on a part of the channels (§3.2), and edges by betas (§3.3)."""

    def edge_weights(self, betas: Tensor | None, incoming: Sequence[int]) -> Tensor | None:
        """Softmax of the betas over the edges that lead to the same node."""
        if betas is None:
            return None
        return torch.cat([own.softmax(0) for own in betas.split(list(incoming))])
