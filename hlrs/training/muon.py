"""Muon: SGD along the orthogonalised momentum of dense filters (Jordan et al. 2024)."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from hlrs.config.recipes import Muon

COEFFICIENTS = 3.4445, -4.7750, 2.0315  # a, b, c
EPSILON = 1e-7  # keeps momentum of zeros at zeros


def dense_filters(network: nn.Module) -> list[Tensor]:
    """Return the weights of the convolutions that mix all channels."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    return [convolution.weight for convolution in convolutions if convolution.groups == 1]


def orthogonalize(matrices: Tensor, steps: int) -> Tensor:
    """Bring all singular values of matrices M, float32 [n, rows, columns], close to 1.

    X ← aX + (bA + cA²)X with A = XXᵀ, from X = M/‖M‖  (Newton and Schulz; Jordan et al. 2024). The authors
    compute in bfloat16, whose products differ between processors.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + EPSILON)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def orthogonalize_momentum(filters: list[Tensor], muon: Muon, optimizer: torch.optim.SGD) -> None:
    """Make the optimizer, which has no momentum for these filters, step along their orthogonalised momentum.

    Before each of its steps B ← μB + G, and the gradient G of a filter [rows, ...] becomes
    √max(1, rows/columns) · orthogonalize(B), with Nesterov's momentum of G + μB; columns are all other
    dimensions at once (Jordan et al. 2024, muon.py). The weight decay that SGD then adds is decoupled.
    """
    by_shape = defaultdict[torch.Size, list[Tensor]](list)
    for weight in filters:
        optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        by_shape[weight.shape].append(weight)

    def replace(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for alike in by_shape.values():  # all at once: one by one, they would need too many kernels
            gradients = torch.stack([weight.grad.flatten(1) for weight in alike])  # type: ignore[union-attr]
            buffers = [optimizer.state[weight]["momentum_buffer"] for weight in alike]
            momenta = muon.momentum * torch.stack([buffer.flatten(1) for buffer in buffers]) + gradients
            for buffer, momentum in zip(buffers, momenta, strict=True):
                buffer.copy_(momentum.view_as(buffer))
            ahead = gradients + muon.momentum * momenta if muon.nesterov else momenta
            scale = max(1.0, ahead.shape[1] / ahead.shape[2]) ** 0.5
            for weight, update in zip(alike, scale * orthogonalize(ahead, muon.steps), strict=True):
                weight.grad = update.contiguous().view_as(weight)

    optimizer.register_step_pre_hook(replace)
