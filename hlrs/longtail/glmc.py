"""Global and local mixture consistency (Du et al. 2023): the heads of a training on two mixed views."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DIMENSIONS = 128  # of projection and prediction; the authors' model/ResNet_cifar.py


class GlmcHead(nn.Module):
    """What reads features [n, width] in training alone, all linear as in the authors' code.

    `conventional` is the classifier of the conventional loss [n, classes], `projection` and `prediction` the
    maps whose cosine is the consistency [n, DIMENSIONS].
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conventional = nn.Linear(width, classes)
        self.projection = nn.Linear(width, DIMENSIONS)
        self.prediction = nn.Linear(DIMENSIONS, DIMENSIONS)

    def inconsistency(self, features: Tensor) -> Tensor:
        """Return −cos(h(z₁), z₂) − cos(h(z₂), z₁), z constant to the gradient: means over pairs, a scalar.

        Features [2n, width]: of one view, then of the other. Du et al. 2023, §3.2, authors' code; twice
        eq. 4 of Chen & He 2021 (SimSiam).
        """
        z = self.projection(features)
        first, second = z.detach().chunk(2)
        return -2 * F.cosine_similarity(self.prediction(z), torch.cat([second, first])).mean()


def inverse_frequency_weights(counts: Tensor, gamma: float) -> Tensor:
    """w_c ∝ n_c^−γ, which sum to C: float64 [classes]; a class without images counts as one with one.

    Du et al. 2023, §3.3, authors' code.
    """
    counts = counts.double().clamp(min=1)
    weights = (counts / counts.min()) ** -gamma
    return weights * len(counts) / weights.sum()
