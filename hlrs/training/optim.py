"""Optimizer steps, SGD and its learning rate."""

import math

import torch
from torch import Tensor, nn

from hlrs.config.recipes import MultistepSchedule, Sgd


def optimizer_step(
    loss: Tensor, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, clip: float | None
) -> None:
    """One step of the optimizer along the loss's gradient, whose norm is at most `clip`."""
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        # a fused optimizer walks memory, whatever the strides: gradients must lie as the parameters do
        parameter.grad = gradient.contiguous()
    if clip is not None:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()


def make_sgd(parameters: list[torch.nn.Parameter], sgd: Sgd) -> torch.optim.SGD:
    """SGD as its spec says; the loop sets the learning rate each epoch: that of `sgd_lr`, by `set_lr`."""
    lr = settable(sgd.lr, parameters[0].device)
    return torch.optim.SGD(parameters, lr, sgd.momentum, weight_decay=sgd.weight_decay, fused=True)


def settable(lr: float, device: torch.device) -> torch.Tensor | float:
    """A learning rate for `set_lr`: on a GPU in its memory, where captured steps read it."""
    return torch.tensor(lr, dtype=torch.float32, device=device) if device.type == "cuda" else lr


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """From now on the optimizer, of one group, learns at this rate; so do its recorded steps."""
    [group] = optimizer.param_groups
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


def sgd_lr(sgd: Sgd, epoch: int, epochs: int) -> float:
    """The learning rate of an epoch, counted from 0: the schedule's at progress t = epoch/epochs, warmed up.

    Half a cosine from `lr` to `lr_min` (DARTS, §3.1), or `lr` times `factor` for each `at` ≤ t (LDAM-DRW's
    cifar_train.py); in the first `warm_up` epochs that times (epoch + 1)/warm_up (Goyal et al. 2017, §2.2).
    """
    t = epoch / epochs
    if isinstance(sgd.schedule, MultistepSchedule):
        scheduled = sgd.schedule.factor ** sum(at <= t for at in sgd.schedule.at)
    else:
        final = sgd.lr_min / sgd.lr
        scheduled = final + (1 - final) * (1 + math.cos(math.pi * t)) / 2
    warmed = min(1.0, (epoch + 1) / sgd.warm_up) if sgd.warm_up else 1.0
    return sgd.lr * scheduled * warmed
