"""SWAP (Peng et al. 2024): score an untrained network by its sample-wise activation patterns."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hlrs.config.methods import Swap

RELU = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)


def count_patterns(spec: Swap, network: nn.Module, images: Tensor) -> int:
    """Return SWAP's score: how many different patterns the values after the ReLUs have over the images.

    |{(1[p_v(x_1) > 0], …, 1[p_v(x_S) > 0]) : v = 1, …, V}|, with p_v(x) the v-th of the V values that all
    ReLUs together return for image x (Peng et al. 2024, §3; as in the authors' code, layers share one set).
    `images`: at most 64, float [S, channels, height, width]. The network is left in training mode, so that
    batch norms use the statistics of these images.
    """
    network.train()
    with torch.no_grad(), Rectified(len(images)) as rectified:
        network(images)
    return len(torch.cat(rectified.patterns).unique())


class Rectified(TorchDispatchMode):
    """Collects the patterns of all ReLUs that are computed within this context, however they are called."""

    def __init__(self, images: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.images, self.patterns = images, list[Tensor]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in RELU:
            # also splits maps with several images per pixel (nas/ops/packed.py) into images
            self.patterns.append(patterns(result.reshape(self.images, -1)))
        return result


def patterns(values: Tensor) -> Tensor:
    """Encode which of the images each value is above 0 for, in one bit per image: int64 [values].

    `values`: float [images, values], at most 64 images.
    """
    bits = torch.arange(len(values), device=values.device)
    return ((values > 0).long() << bits[:, None]).sum(0)
