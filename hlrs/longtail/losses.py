"""Losses of logits [batch, classes] float against labels [batch] int64: mean over the batch, a scalar."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor, float], Tensor]  # of logits, labels and progress t in [0, 1]


def cross_entropy(counts: Tensor, smoothing: float) -> Loss:
    """−log p_y, the target smoothed to (1 − s) y + s/C  (label smoothing; Szegedy et al. 2016, §7)."""
    return lambda logits, labels, t: F.cross_entropy(logits, labels, label_smoothing=smoothing)


LOSSES: dict[str, Callable[..., Loss]] = {"cross_entropy": cross_entropy}


def make_loss(counts: Tensor, kind: str, **options: Any) -> Loss:
    """The loss of a spec (`config.Loss`, dumped); counts: training images of each class, int64 [classes]."""
    return LOSSES[kind](counts, **options)
