"""The watch on DARTS's collapse: the sharpness of the validation loss in the architecture, and when to stop.

Zela et al. 2020 (RobustDARTS): where the dominant eigenvalue of ∇²_α L_val grows, what is found generalises
badly. Its estimate changes nothing of the training.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hlrs.nas.bilevel import frozen


class Watch:
    """Estimates the sharpness each epoch, and decides when the alphas are to rest (`config.Collapse`).

    `start`, float [number of the architecture's parameters], is where the first power iteration begins; the
    others go on from the epoch before.
    """

    def __init__(
        self, start: Tensor, power_iterations: int, stop: str, skips: int, window: int, ratio: float
    ) -> None:
        self.vector, self.power_iterations = start, power_iterations
        self.stop, self.skips, self.window, self.ratio = stop, skips, window, ratio
        self.eigenvalues: list[float] = []  # of the epochs in which the alphas moved
        self.stopped = False

    def estimate(self, look: Callable[[Tensor], Tensor]) -> float | None:
        """The dominant eigenvalue; None if it is not asked for or not finite.

        look: from a vector to what `sharpness` found from it.
        """
        if not self.power_iterations:
            return None
        found = look(self.vector)
        eigenvalue, self.vector = float(found[0]), found[1:].clone()  # a recorded look writes there again
        return eigenvalue if math.isfinite(eigenvalue) else None

    def sharpness(
        self, loss: Tensor, alphas: Sequence[nn.Parameter], weights: Sequence[nn.Parameter], start: Tensor
    ) -> Tensor:
        """The dominant eigenvalue of ∇² loss by the alphas, then its eigenvector, not waited for."""
        with frozen(weights):  # no gradients by them, but second derivatives need what they would need
            return dominant_eigenvalue(loss, alphas, start, self.power_iterations)

    def judge(self, eigenvalue: float | None, skips: int) -> int:
        """Take note of an epoch with steps of the alphas: eigenvalue, and the normal cell's skip connections.

        Sets `stopped`; returns how many epochs before this one the architecture is that is to be kept.
        """
        if eigenvalue is not None:
            self.eigenvalues.append(eigenvalue)
        if self.stop == "skips":
            self.stopped = skips >= self.skips
        elif self.stop == "eigenvalue" and has_sharpened(self.eigenvalues, self.window, self.ratio):
            self.stopped = True
            return epochs_back(self.window)
        return 0

    def state(self) -> dict[str, Tensor]:
        """All that changes."""
        return {
            "vector": self.vector,
            "eigenvalues": torch.tensor(self.eigenvalues, dtype=torch.float64),
            "stopped": torch.tensor(self.stopped),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over a state."""
        self.vector.copy_(state["vector"])
        self.eigenvalues = state["eigenvalues"].tolist()
        self.stopped = bool(state["stopped"])


def dominant_eigenvalue(
    loss: Tensor, parameters: Sequence[nn.Parameter], start: Tensor, iterations: int
) -> Tensor:
    """Estimate of the eigenvalue λ of ∇² loss of the largest |λ|, and of its eigenvector, by power iteration.

    λ and then v as one tensor [1 + number of parameters]:
    v ← Hv/‖Hv‖, `iterations` (1 or more) times, from `start` [number of parameters] of any length but 0;
    λ = vᵀHv at the last v but one, so that each iteration takes one product Hv, which is exact (Pearlmutter
    1994). The weights must want gradients when the loss is computed, for the supernet to keep what a second
    derivative needs.
    """
    gradient = _flat(torch.autograd.grad(loss, parameters, create_graph=True))
    vector, eigenvalue = start / start.norm(), start.new_zeros(())
    for _ in range(iterations):
        product = _flat(torch.autograd.grad(gradient, parameters, vector, retain_graph=True))
        eigenvalue = vector @ product
        length = product.norm()
        usable = (length > 0) & length.isfinite()  # a flat loss has no direction to turn to
        vector = torch.where(usable, product / length, vector)
    return torch.cat([eigenvalue[None], vector])


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def has_sharpened(eigenvalues: Sequence[float], window: int, ratio: float) -> bool:
    """Whether |λ| has grown by more than 1/ratio within `window` epochs, both times as a mean over `window`.

    Zela et al. 2020, §4.3: stop if λ̄(i − k)/λ̄(i) < 0.75, λ̄ smoothed over k = 5 epochs around i. Their λ is
    the largest, ours that of the largest magnitude, of which we take the magnitude.
    """
    if len(eigenvalues) < 2 * window:
        return False
    sizes = [abs(value) for value in eigenvalues[-2 * window :]]
    return sum(sizes[:window]) < ratio * sum(sizes[window:])


def epochs_back(window: int) -> int:
    """How many epochs before the last one the architecture is taken from that counts after such a stop.

    Zela et al. 2020, §4.3, return that of i − k, and i is in the middle of the last k epochs.
    """
    return window + window // 2
