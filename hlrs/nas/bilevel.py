"""Gradients of the alphas in the bilevel problem min_α L_val(w*(α), α) (DARTS, §2.3).

The losses are callables, evaluated at the weights' and alphas' values of the moment; what they sample, mix
and re-balance is not this module's business.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Parameters = Sequence[nn.Parameter]
Loss = Callable[[], Tensor]  # a scalar


def first_order(alphas: Parameters, validation: Loss) -> list[Tensor]:
    """∇_α L_val(w, α): the weights are taken as they are  (DARTS, ξ = 0)."""
    return list(torch.autograd.grad(validation(), alphas))


def second_order(
    alphas: Parameters,
    weights: Parameters,
    training: Loss,
    validation: Loss,
    step: Sequence[Tensor],
    lr: float,
) -> list[Tensor]:
    """∇_α L_val(w′, α), at the unrolled weights w′ = w − lr·(step + ∇_w L_train(w, α)) (DARTS, eq. 7, 8).

    `step` is what the optimizer adds to the gradient, weight decay and momentum, [like weights]. The product
    with the mixed second derivative is a central difference, so that no second backward pass is needed:

        lr · ∇²_αw L_train(w, α) · v ≈ lr · (∇_α L_train(w + εv, α) − ∇_α L_train(w − εv, α)) / 2ε

    with v = ∇_w′ L_val(w′, α) and ε = 0.01/‖v‖. Weights come back bit for bit.
    """
    gradient = torch.autograd.grad(training(), weights)
    direction = [s + g for s, g in zip(step, gradient, strict=True)]
    with moved(weights, direction, -lr):
        gradients = torch.autograd.grad(validation(), [*alphas, *weights])
    outer, v = gradients[: len(alphas)], gradients[len(alphas) :]
    norm = float(torch.nn.utils.get_total_norm(v))
    if norm == 0:  # w' does not influence the validation loss
        return list(outer)
    epsilon = 0.01 / norm
    with moved(weights, v, epsilon):
        plus = torch.autograd.grad(training(), alphas)
    with moved(weights, v, -epsilon):
        minus = torch.autograd.grad(training(), alphas)
    return [o - lr * (p - m) / (2 * epsilon) for o, p, m in zip(outer, plus, minus, strict=True)]


@contextmanager
def moved(parameters: Parameters, direction: Sequence[Tensor], distance: float) -> Iterator[None]:
    """Parameters moved by distance · direction inside the block, exactly as before after it."""
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, d in zip(parameters, direction, strict=True):
                parameter.add_(d, alpha=distance)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
