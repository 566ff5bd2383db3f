"""Learning rates of a classifier's rows, one per class."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def row_rates(counts: Tensor, gamma: float) -> Tensor:
    """r_c = (n_max/n_c)^γ / Z, Z such that the mean over the images, Σ_c n_c r_c / n, is 1.

    Our own reading. counts: training images per class, int64 [classes]; a class without images has the rate
    of one with a single image. Rates: float64 [classes].
    """
    images = counts.double()
    rates = (images.max() / images.clamp(min=1)) ** gamma
    return rates * images.sum() / (images * rates).sum()


def learn_rows_at(
    rates: Tensor, parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Make the optimizer update row c of the parameters [classes, ...] at rates[c] times its learning rate.

    Before each of its steps the gradient g becomes r·g + (r − 1)·λw, to which SGD adds its weight decay λw:
    r·(g + λw), as with a separate learning rate per row, since momentum is linear. Clip the gradient's norm
    before.
    """
    decays = {weight: group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    rows = [
        (parameter, rates.to(parameter).view(-1, *[1] * (parameter.ndim - 1)), decays[parameter])
        for parameter in parameters
    ]

    def rescale(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for parameter, r, decay in rows:
            if parameter.grad is not None:
                parameter.grad = r * parameter.grad + (r - 1) * decay * parameter.detach()

    optimizer.register_step_pre_hook(rescale)
