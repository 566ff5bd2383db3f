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


def first_order(alphas: Parameters, weights: Parameters, validation: Loss) -> list[Tensor]:
    """∇_α L_val(w, α): the weights are taken as they are  (DARTS, ξ = 0)."""
    with frozen(weights):
        return list(torch.autograd.grad(validation(), alphas))


def second_order(
    alphas: Parameters,
    weights: Parameters,
    training: Loss,
    validation: Loss,
    step: Sequence[Tensor],
    lr: float,
) -> list[Tensor]:
    """∇_α L_val(w′, α) at the unrolled weights w′ = w − lr·(step + ∇_w L_train(w, α))  (DARTS, eq. 7).

    `step` is what the optimizer adds to the gradient, weight decay and momentum, [like weights]. By the chain
    rule, with v = ∇_w′ L_val(w′, α):

        ∇_α L_val(w′, α) − lr · ∇_α (∇_w L_train(w, α) · v)

    The second term is differentiated exactly. DARTS approximates it by a difference of gradients at w ± εv
    (eq. 8), with ε = 0.01/‖v‖; on the small supernet of tests/test_bilevel.py that was off by 200 %.
    """
    gradient = torch.autograd.grad(training(), weights, create_graph=True)
    direction = [s + g.detach() for s, g in zip(step, gradient, strict=True)]
    with moved(weights, direction, -lr):
        gradients = torch.autograd.grad(validation(), [*alphas, *weights], materialize_grads=True)
    outer, v = gradients[: len(alphas)], gradients[len(alphas) :]
    along_v = torch.stack([(g * d).sum() for g, d in zip(gradient, v, strict=True)]).sum()
    with frozen(weights):
        implicit = torch.autograd.grad(along_v, alphas)
    return [o - lr * i for o, i in zip(outer, implicit, strict=True)]


@contextmanager
def frozen(parameters: Parameters) -> Iterator[None]:
    """Inside the block, parameters want no gradients: what these would need is neither kept nor computed."""
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, wanted in zip(parameters, before, strict=True):
            parameter.requires_grad_(wanted)


@contextmanager
def moved(parameters: Parameters, direction: Sequence[Tensor], distance: float) -> Iterator[None]:
    """Parameters at p + distance · direction inside the block, exactly as before after it.

    They point to other memory meanwhile, so a graph that was built on them before can be used afterwards.
    """
    before = [parameter.data for parameter in parameters]
    try:
        for parameter, d in zip(parameters, direction, strict=True):
            parameter.data = parameter.data.add(d, alpha=distance)
        yield
    finally:
        for parameter, value in zip(parameters, before, strict=True):
            parameter.data = value
