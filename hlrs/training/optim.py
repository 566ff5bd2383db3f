"""Optimizer steps, SGD and its learning rate."""

import math

import torch
from torch import Tensor, nn

from hlrs.config.recipes import MultistepSchedule, Sgd


def optimizer_step(
    loss: Tensor, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, clip: float | None
) -> None:
    """Take one optimizer step along the gradient of a scalar loss, its norm clipped to `clip`."""
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        # a fused optimizer walks memory and ignores strides: gradients need the parameters' layout
        parameter.grad = gradient.contiguous()
    if clip is not None:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()


def make_sgd(parameters: list[torch.nn.Parameter], sgd: Sgd) -> torch.optim.SGD:
    """Make an SGD optimizer from its spec; the task sets its learning rate per epoch (`sgd_lr`, `set_lr`)."""
    lr = settable(sgd.lr, parameters[0].device)
    return torch.optim.SGD(
        parameters, lr, sgd.momentum, weight_decay=sgd.weight_decay, nesterov=sgd.nesterov, fused=True
    )


def settable(lr: float, device: torch.device) -> torch.Tensor | float:
    """Return a learning rate that `set_lr` can change: on a GPU, a tensor that captured steps read."""
    return torch.tensor(lr, dtype=torch.float32, device=device) if device.type == "cuda" else lr


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of an optimizer with one parameter group, and of its captured steps."""
    [group] = optimizer.param_groups
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


def sgd_lr(sgd: Sgd, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch, counted from 0, at progress t = epoch/epochs.

    cosine: lr · (f + (1 − f)(1 + cos πt)/2) with f = lr_min/lr (DARTS, §3.1). multistep: lr · factor per
    `at` ≤ t (LDAM-DRW's cifar_train.py). Either is multiplied by (epoch + 1)/warm_up in the first `warm_up`
    epochs (Goyal et al. 2017, §2.2).
    """
    t = epoch / epochs
    if isinstance(sgd.schedule, MultistepSchedule):
        scheduled = sgd.schedule.factor ** sum(at <= t for at in sgd.schedule.at)
    else:
        final = sgd.lr_min / sgd.lr
        scheduled = final + (1 - final) * (1 + math.cos(math.pi * t)) / 2
    warmed = min(1.0, (epoch + 1) / sgd.warm_up) if sgd.warm_up else 1.0
    return sgd.lr * scheduled * warmed
