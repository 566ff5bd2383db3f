"""Class-conditional diffusion of features (LDMLR, Han et al. 2024, §3.2).

A feature x_0 becomes x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, ε ~ N(0, I). A denoiser learns to predict x_0 from x_t, t
and the class; DDIM walks back with it from noise to a feature.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

OFFSET = 0.008  # s of the cosine schedule
LARGEST_BETA = 0.999
LARGEST_SNR = 5.0
BLOCKS = 3
LONGEST = 10_000.0  # wavelength of a time's embedding, in steps, over 2π

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_t, t, class) -> x_0


def cosine_schedule(timesteps: int) -> Tensor:
    """Return ᾱ, float64 [timesteps]: β_t = min(1 − f(t + 1)/f(t), 0.999), f(t) = cos²(π/2 (t/T + s)/(1 + s)).

    Nichol & Dhariwal 2021, eq. 17, s = 0.008.
    """
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    f = torch.cos((t + OFFSET) / (1 + OFFSET) * math.pi / 2) ** 2
    return torch.cumprod(1 - (1 - f[1:] / f[:-1]).clamp(max=LARGEST_BETA), 0)


def loss(denoise: Denoise, schedule: Tensor, x: Tensor, labels: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Mean over features of min(ᾱ_t/(1 − ᾱ_t), 5) · ‖x̂_0 − x_0‖²/width.

    x and noise float [n, width], labels and t int64 [n]. Hang et al. 2023 (Min-SNR), §3.4, for a prediction
    of x_0; LDMLR's own weight has no bound, and its first steps then outweigh all others.
    """
    kept = schedule[t][:, None]
    noisy = (kept.sqrt() * x + (1 - kept).sqrt() * noise).to(x.dtype)
    errors = (denoise(noisy, t, labels) - x).square().mean(1)
    return ((kept / (1 - kept)).clamp(max=LARGEST_SNR)[:, 0].to(x.dtype) * errors).mean()


def ddim(denoise: Denoise, schedule: Tensor, noise: Tensor, labels: Tensor, steps: int) -> Tensor:
    """Walk from noise, float [n, width], to features of the classes `labels`, int64 [n], in `steps` steps.

    x_u = √ᾱ_u x̂_0 + √((1 − ᾱ_u)/(1 − ᾱ_t)) (x_t − √ᾱ_t x̂_0) from t to the next time u: DDIM (Song et al.
    2021, eq. 12) with η = 0. The times are evenly spaced from the last to the first, rounded; the last step
    returns x̂_0.
    """
    times = torch.linspace(len(schedule) - 1, 0, steps, dtype=torch.float64).round().long()
    kept = [1.0, *schedule[times].flip(0).tolist()]  # of the times backwards, 1 of a feature
    x = noise
    for index, time in enumerate(times.tolist()):
        now, following = kept[steps - index], kept[steps - index - 1]
        predicted = denoise(x, torch.full_like(labels, time), labels)
        ratio = math.sqrt((1 - following) / (1 - now))
        x = math.sqrt(following) * predicted + ratio * (x - math.sqrt(now) * predicted)
    return x


class Denoiser(nn.Module):
    """Predict x_0, float [n, features], from x_t [n, features], t int64 [n] and classes int64 [n].

    A perceptron of `width` units with residual blocks, to which time and class are added. LDMLR's code has a
    U-Net whose convolutions are 1 × 1 along the feature, which is a perceptron too.
    """

    def __init__(self, features: int, classes: int, width: int) -> None:
        super().__init__()
        self.input = nn.Linear(features, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(classes, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width)) for _ in range(BLOCKS)
        )
        self.output = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, features))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        condition = self.time(embedding(t, self.input.out_features)) + self.classes(labels)
        hidden = self.input(x)
        for block in self.blocks:
            hidden = hidden + block(hidden + condition)
        return self.output(hidden)  # type: ignore[no-any-return]

    def draw(self, generator: torch.Generator) -> None:
        """Initialise all weights: U(−1/√fan_in, 1/√fan_in), embeddings from N(0, 1), as PyTorch does."""
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    bound = module.in_features**-0.5
                    for parameter in (module.weight, module.bias):
                        parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)
                elif isinstance(module, nn.Embedding):
                    module.weight.copy_(torch.randn(module.weight.shape, generator=generator))


def embedding(t: Tensor, width: int) -> Tensor:
    """Embed times int64 [n] as cosines and sines of falling frequencies, float32 [n, width], width even.

    Vaswani et al. 2017, §3.5.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(LONGEST) * torch.arange(half, device=t.device) / half)
    angles = t[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)
