"""Gradients of the alphas in the bilevel problem min_α L_val(w*(α), α) (DARTS, §2.3).

The losses are callables, evaluated at the current weights and alphas; how they sample, mix and re-balance is
left to the caller.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Parameters = Sequence[nn.Parameter]
Loss = Callable[[], Tensor]  # a scalar


def first_order(alphas: Parameters, weights: Parameters, validation: Loss) -> list[Tensor]:
    """∇_α L_val(w, α) at the current weights  (DARTS, ξ = 0)."""
    with frozen(weights):
        return list(torch.autograd.grad(validation(), alphas))


def second_order(
    alphas: Parameters,
    weights: Parameters,
    training: Loss,
    validation: Loss,
    step: Sequence[Tensor],
    lr: Tensor | float,
) -> list[Tensor]:
    """∇_α L_val(w′, α) at the unrolled weights w′ = w − lr·(step + ∇_w L_train(w, α))  (DARTS, eq. 7).

    `step` is what the optimizer adds to the gradient, [like weights], and `lr` its rate (`sgd_terms`), in a
    captured step a scalar on the device. By the chain rule, with v = ∇_w′ L_val(w′, α):

        ∇_α L_val(w′, α) − lr · ∇_α (∇_w L_train(w, α) · v)

    The second term is differentiated exactly. DARTS approximates it by a difference of gradients at w ± εv
    (eq. 8), with ε = 0.01/‖v‖, which was off by 200 % on the small supernet of tests/nas/test_bilevel.py.
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


def zeroth_order(
    alphas: Parameters,
    weights: Parameters,
    validation: Loss,
    directions: Tensor,
    copies: Sequence[Sequence[Tensor]],
    distance: Tensor | float,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Estimate ∇_α L_val(w_T(α), α) at the weights after T steps  (ZO-DARTS, Xie et al. 2023; authors' code).

    directions: unit vectors u along all alphas, float [n, alphas]; copies: of each, the weights w̃ [like
    weights] that the same T steps reached at α + μu, with μ the `distance`. With both parts of the slope

        c = ⟨∇_α L_val(w, α), u⟩ + ⟨(w̃ − w)/μ, ∇_w L_val(w, α)⟩

    the estimate is the mean of c·u over the directions. Return it [like alphas], and the parts, [n] each.
    """
    gradients = torch.autograd.grad(validation(), [*alphas, *weights], materialize_grads=True)
    outer, v = gradients[: len(alphas)], gradients[len(alphas) :]
    direct = (directions * torch.cat([gradient.flatten() for gradient in outer])).sum(1)
    apart = [
        torch.stack([((c - w.detach()) * g).sum() for c, w, g in zip(copy, weights, v, strict=True)]).sum()
        for copy in copies
    ]
    implicit = torch.stack(apart) / distance
    estimate = ((direct + implicit)[:, None] * directions).mean(0)
    parts = estimate.split([parameter.numel() for parameter in alphas])
    return [part.view_as(p) for part, p in zip(parts, alphas, strict=True)], direct, implicit


def sgd_terms(weights: Parameters, sgd: torch.optim.SGD) -> tuple[list[Tensor], float]:
    """Return s, [like weights], and k of SGD's step w − k·lr·(s + g) along a gradient g.

    With weight decay λ, momentum μ and its buffer b (0 before the first step), SGD moves by
    lr·(g + λw + μb), so s = λw + μb and k = 1. Nesterov's momentum moves by lr·(d + μb′) with d = g + λw and
    b′ = μb + d, that is by lr·((1 + μ)(g + λw) + μ²b): s = λw + μ²b/(1 + μ) and k = 1 + μ.
    """
    [group] = sgd.param_groups
    decay, momentum, nesterov = group["weight_decay"], group["momentum"], group["nesterov"]
    of_buffer = momentum**2 / (1 + momentum) if nesterov else momentum
    added = []
    for weight in weights:
        buffer = sgd.state[weight].get("momentum_buffer")
        decayed = decay * weight.detach()
        added.append(decayed if buffer is None else decayed + of_buffer * buffer)
    return added, 1 + momentum if nesterov else 1.0


@contextmanager
def frozen(parameters: Parameters) -> Iterator[None]:
    """Inside the block, parameters require no gradients, and nothing is kept or computed for these."""
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, wanted in zip(parameters, before, strict=True):
            parameter.requires_grad_(wanted)


@contextmanager
def moved(parameters: Parameters, direction: Sequence[Tensor], distance: Tensor | float) -> Iterator[None]:
    """Move parameters to p + distance · direction inside the block, and restore them exactly after it.

    They point to other memory meanwhile, so a graph built on them before the block stays usable after it.
    """
    values = [parameter.data + distance * d for parameter, d in zip(parameters, direction, strict=True)]
    with replaced(parameters, values):
        yield


@contextmanager
def replaced(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """Let tensors be others [like them] inside the block; what changes them there changes those others."""
    before = [tensor.data for tensor in tensors]
    try:
        for tensor, value in zip(tensors, values, strict=True):
            tensor.data = value
        yield
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.data = value
