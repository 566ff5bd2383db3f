"""Diffusion of features: the schedule, DDIM against an exact denoiser, and what a denoiser learns."""

import math

import numpy as np
import pytest
import torch

from hlrs.longtail.diffusion import Denoiser, cosine_schedule, ddim, embedding, loss
from hlrs.training.optim import set_lr, step_along

MEAN, DEVIATION = 3.0, 0.5  # of a Gaussian whose denoiser is known


def test_the_cosine_schedule_has_the_known_values():
    schedule = cosine_schedule(1000)
    assert schedule.dtype == torch.float64
    assert schedule[[0, 499]].tolist() == pytest.approx([0.9999587, 0.4938436], abs=5e-8)
    assert schedule[999].item() == pytest.approx(2.43e-9, rel=1e-3)


def exact(schedule):
    """E[x_0 | x_t] of N(m, S²): m + √ᾱ S²/(ᾱ S² + 1 − ᾱ) (x_t − √ᾱ m)."""

    def denoise(x, t, labels):
        kept = schedule[t][:, None]
        gain = kept.sqrt() * DEVIATION**2 / (kept * DEVIATION**2 + 1 - kept)
        return MEAN + gain * (x - kept.sqrt() * MEAN)

    return denoise


@pytest.mark.parametrize(("steps", "deviation"), [(10, 0.421054), (50, 0.484538), (1000, 0.499189)])
def test_ddim_turns_noise_into_the_gaussian_of_an_exact_denoiser(steps, deviation):
    schedule, labels = cosine_schedule(1000), torch.zeros(2, dtype=torch.int64)
    noise = torch.tensor([[0.0], [1.0]], dtype=torch.float64)  # DDIM is affine: its mean, and that plus one σ
    mean, above = ddim(exact(schedule), schedule, noise, labels, steps)[:, 0].tolist()
    assert mean == pytest.approx(2.9999, abs=5e-5)
    assert above - mean == pytest.approx(deviation, abs=5e-7)


def test_ddim_visits_evenly_spaced_times_from_the_last_to_the_first():
    seen = []

    def denoise(x, t, labels):
        seen.append(t.tolist())
        return x

    ddim(denoise, cosine_schedule(10), torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), 4)
    assert seen == [[9, 9], [6, 6], [3, 3], [0, 0]]


def test_a_single_step_returns_the_prediction():
    def denoise(x, t, labels):
        return x + 5 + labels[:, None]

    found = ddim(denoise, cosine_schedule(10), torch.zeros(2, 1), torch.tensor([0, 2]), 1)
    assert found.tolist() == [[5.0], [7.0]]


def test_the_loss_by_hand():
    schedule = torch.tensor([0.9, 0.2], dtype=torch.float64)  # signal to noise 9, clamped to 5, and 1/4
    x, noise = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [2.0, -1.0]])
    seen = []

    def denoise(noisy, t, labels):
        seen.append(noisy)
        return torch.tensor([[2.0, 2.0], [0.0, 4.0]])  # off by (1, 0) and (0, 3): mean squares 1/2 and 9/2

    found = loss(denoise, schedule, x, torch.tensor([0, 1]), torch.tensor([0, 1]), noise)
    assert found.item() == pytest.approx((5 * 0.5 + 0.25 * 4.5) / 2)
    kept, lost = np.sqrt([[0.9], [0.2]]), np.sqrt([[0.1], [0.8]])
    assert np.allclose(seen[0], kept * x.numpy() + lost * noise.numpy())


def test_a_time_is_embedded_as_cosines_and_sines():
    assert embedding(torch.tensor([0, 3]), 4).tolist() == [
        [1.0, 1.0, 0.0, 0.0],
        pytest.approx([math.cos(3), math.cos(0.03), math.sin(3), math.sin(0.03)]),
    ]


def test_two_classes_far_apart_are_generated_where_they_are():
    draw = torch.Generator().manual_seed(0)
    labels, means = torch.arange(2).repeat_interleave(100), torch.tensor([[-1.0, 0.5], [1.0, -0.5]])
    x = means[labels] + 0.5 * torch.randn(200, 2, generator=draw)
    schedule, denoiser = cosine_schedule(100), Denoiser(2, 2, 64)
    denoiser.draw(draw)
    weights, steps = list(denoiser.parameters()), 400
    optimizer = torch.optim.AdamW(weights)
    for step in range(steps):
        set_lr(optimizer, 3e-3 * (1 - step / steps))
        rows, t = (torch.randint(n, (256,), generator=draw) for n in (200, 100))
        noise = torch.randn(256, 2, generator=draw)
        value = loss(denoiser, schedule, x[rows], labels[rows], t, noise)
        step_along(torch.autograd.grad(value, weights), weights, optimizer, None)
    with torch.no_grad():
        drawn = ddim(denoiser, schedule, torch.randn(200, 2, generator=draw), labels, 20)
    standard_error = 0.5 * math.sqrt(2 / 100)  # of the difference of two means
    for label in (0, 1):
        own, real = drawn[labels == label], x[labels == label]
        assert (own.mean(0) - real.mean(0)).abs().max() < 3 * standard_error
        assert own.std(0).tolist() == pytest.approx([0.5, 0.5], abs=0.15)
