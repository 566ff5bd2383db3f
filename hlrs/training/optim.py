"""Optimizer steps, optimizers and their learning rate."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hlrs.config.base import Kinds
from hlrs.config.recipes import (
    AdamW,
    CosineSchedule,
    MultistepSchedule,
    Muon,
    Optimizer,
    Sgd,
    TriangularSchedule,
)
from hlrs.errors import Failure
from hlrs.training.muon import dense_filters, orthogonalize_momentum

TINY = 1e-12  # of a gradient's norm


def optimizer_step(
    loss: Tensor, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, clip: float | None
) -> None:
    """Take one optimizer step along the gradient of a scalar loss, its norm clipped to `clip`."""
    step_along(torch.autograd.grad(loss, parameters), parameters, optimizer, clip)


def mean_gradients(losses: Iterable[Tensor], parameters: list[nn.Parameter]) -> list[Tensor]:
    """Average the gradients of scalar losses, each of which may be computed when the one before is done."""
    total, count = list[Tensor](), 0
    for count, loss in enumerate(losses, 1):  # noqa: B007 - the last one is their number
        gradients = list(torch.autograd.grad(loss, parameters))
        total = [a + b for a, b in zip(total, gradients, strict=True)] if total else gradients
    return [gradient / count for gradient in total] if count > 1 else total


def ascent(gradients: list[Tensor], radius: float) -> list[Tensor]:
    """ρ · g/‖g‖ over all gradients, by which the loss rises most within radius ρ; 0 where g is.

    Foret et al. 2021 (SAM), eq. 2 with p = 2.
    """
    scale = radius / nn.utils.get_total_norm(gradients).clamp(min=TINY)
    return [scale * gradient for gradient in gradients]


def step_along(
    gradients: Sequence[Tensor],
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    clip: float | None,
) -> None:
    """Take one optimizer step along gradients [like parameters], their norm clipped to `clip`."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        # a fused optimizer walks memory and ignores strides: gradients need the parameters' layout
        parameter.grad = gradient.contiguous()
    if clip is not None:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()


def make_optimizer(network: nn.Module, spec: Optimizer) -> torch.optim.Optimizer:
    """Make the optimizer of a network's parameters; the task sets its learning rate per epoch (`set_lr`).

    Failure if Muon has nothing to orthogonalise.
    """
    return OPTIMIZERS[type(spec)](network, spec)


def sgd_of(network: nn.Module, sgd: Sgd) -> torch.optim.SGD:
    """SGD for all parameters."""
    return make_sgd(list(network.parameters()), sgd)


def adamw_of(network: nn.Module, adamw: AdamW) -> torch.optim.AdamW:
    """AdamW for all parameters."""
    parameters = list(network.parameters())
    device = parameters[0].device
    return torch.optim.AdamW(
        parameters,
        settable(adamw.lr, device),
        (adamw.betas[0], adamw.betas[1]),
        adamw.eps,
        adamw.weight_decay,
        fused=True,
        capturable=device.type == "cuda",
    )


def muon_of(network: nn.Module, muon: Muon) -> torch.optim.SGD:
    """Muon for dense filters; SGD for depthwise kernels, norms, biases and classifiers."""
    filters, rest = dense_filters(network), muon.rest
    if not filters:
        raise Failure("weights muon: this network has no dense filters to orthogonalise; set weights to sgd")
    device, taken = filters[0].device, set(filters)
    others: dict[str, Any] = {
        "params": [parameter for parameter in network.parameters() if parameter not in taken],
        "lr": settable(rest.lr, device),
        "ratio": rest.lr / muon.lr,
        "momentum": rest.momentum,
        "nesterov": rest.nesterov,
        "weight_decay": rest.weight_decay,
    }
    own = {"params": filters, "lr": settable(muon.lr, device), "weight_decay": muon.weight_decay}
    optimizer = torch.optim.SGD([others, own], fused=True)
    orthogonalize_momentum(filters, muon, optimizer)
    return optimizer


OPTIMIZERS: Kinds[Callable[..., torch.optim.Optimizer]] = {Sgd: sgd_of, AdamW: adamw_of, Muon: muon_of}


def make_sgd(parameters: list[nn.Parameter], sgd: Sgd) -> torch.optim.SGD:
    """Make an SGD optimizer from its spec; the task sets its learning rate per epoch (`set_lr`)."""
    lr = settable(sgd.lr, parameters[0].device)
    return torch.optim.SGD(
        parameters, lr, sgd.momentum, weight_decay=sgd.weight_decay, nesterov=sgd.nesterov, fused=True
    )


def settable(lr: float, device: torch.device) -> torch.Tensor | float:
    """Return a learning rate that `set_lr` can change: on a GPU, a tensor that captured steps read."""
    return torch.tensor(lr, dtype=torch.float32, device=device) if device.type == "cuda" else lr


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set an optimizer's learning rate, or a group's `ratio` times that; captured steps follow."""
    for group in optimizer.param_groups:
        own = lr * group.get("ratio", 1.0)
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def learning_rate(spec: Optimizer, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch, counted from 0: lr · schedule(t) at progress t = epoch/epochs.

    In the first `warm_up` epochs it is multiplied by (epoch + 1)/warm_up (Goyal et al. 2017, §2.2).
    """
    scheduled = LEARNING_RATES[type(spec.schedule)](spec.schedule, epoch / epochs, spec.lr_min / spec.lr)
    warmed = min(1.0, (epoch + 1) / spec.warm_up) if spec.warm_up else 1.0
    return spec.lr * scheduled * warmed


def cosine(spec: CosineSchedule, t: float, final: float) -> float:
    """f + (1 − f)(1 + cos πt)/2 with f = lr_min/lr  (DARTS, §3.1)."""
    return final + (1 - final) * (1 + math.cos(math.pi * t)) / 2


def multistep(spec: MultistepSchedule, t: float, final: float) -> float:
    """One `factor` per `at` ≤ t  (LDAM-DRW's cifar_train.py)."""
    return spec.factor ** sum(at <= t for at in spec.at)


def triangular(spec: TriangularSchedule, t: float, final: float) -> float:
    """start + (1 − start) t/peak up to the peak, then f + (1 − f)(1 − t)/(1 − peak), f = lr_min/lr.

    Jordan 2024, airbench94.py.
    """
    if t < spec.peak:
        return spec.start + (1 - spec.start) * t / spec.peak
    return final + (1 - final) * (1 - t) / (1 - spec.peak)


LEARNING_RATES: Kinds[Callable[..., float]] = {
    CosineSchedule: cosine,
    MultistepSchedule: multistep,
    TriangularSchedule: triangular,
}
