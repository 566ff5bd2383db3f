"""Early stopping against DARTS's collapse, by skip connections or by the sharpness of the validation loss.

Zela et al. 2020 (RobustDARTS): architectures found where the dominant eigenvalue of ∇²_α L_val grows
generalise badly. Estimating it does not affect the training.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hlrs.config.recipes import Collapse
from hlrs.nas.bilevel import frozen

FIRST = 10  # times `power_iterations` in the first epoch, or λ would seem to grow until they converge


class EarlyStopping:
    """Estimates the sharpness at the end of each epoch, and decides when the architecture stops.

    `start`, float [number of architecture parameters], is the vector from which the first power iteration
    starts; later ones continue from the epoch before, and the first takes `FIRST` times as many steps.
    """

    def __init__(self, spec: Collapse, start: Tensor) -> None:
        self.spec, self.vector = spec, start
        self.estimated = False
        self.eigenvalues: list[float] = []  # of the epochs with architecture steps; NaN if not finite
        self.stopped = False

    def estimate(self, iterate: Callable[[Tensor], Tensor]) -> float | None:
        """Estimate the dominant eigenvalue; None if that is switched off or the value is not finite.

        `iterate` calls the method of that name with the vector that it is given.
        """
        if not self.spec.power_iterations:
            return None
        for _ in range(1 if self.estimated else FIRST):
            found = iterate(self.vector)
            self.vector = found[1:].clone()  # a replayed graph overwrites `found`
        self.estimated = True
        eigenvalue = float(found[0])
        return eigenvalue if math.isfinite(eigenvalue) else None

    def iterate(
        self, loss: Tensor, alphas: Sequence[nn.Parameter], weights: Sequence[nn.Parameter], start: Tensor
    ) -> Tensor:
        """`dominant_eigenvalue` of ∇²_alphas loss, without waiting for the device."""
        with frozen(weights):  # their gradients are not needed, only what second derivatives keep of them
            return dominant_eigenvalue(loss, alphas, start, self.spec.power_iterations)

    def update(self, eigenvalue: float | None, skips: int) -> int:
        """Add an epoch with architecture steps: its eigenvalue, and the normal cell's skip connections.

        Sets `stopped`; returns how many epochs to roll the architecture back.
        """
        spec = self.spec
        self.eigenvalues.append(math.nan if eigenvalue is None else eigenvalue)
        if spec.stop == "skips":
            self.stopped = skips >= spec.skips
        elif spec.stop == "eigenvalue":
            known = [epoch for epoch, value in enumerate(self.eigenvalues) if math.isfinite(value)]
            if has_sharpened([self.eigenvalues[epoch] for epoch in known], spec.window, spec.ratio):
                self.stopped = True
                return len(self.eigenvalues) - 1 - known[-1 - epochs_back(spec.window)]
        return 0

    def state(self) -> dict[str, Tensor]:
        """Everything that changes from epoch to epoch."""
        return {
            "vector": self.vector,
            "estimated": torch.tensor(self.estimated),
            "eigenvalues": torch.tensor(self.eigenvalues, dtype=torch.float64),
            "stopped": torch.tensor(self.stopped),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore a state."""
        self.vector.copy_(state["vector"])
        self.estimated = bool(state["estimated"])
        self.eigenvalues = state["eigenvalues"].tolist()
        self.stopped = bool(state["stopped"])


def dominant_eigenvalue(
    loss: Tensor, parameters: Sequence[nn.Parameter], start: Tensor, iterations: int
) -> Tensor:
    """Estimate the eigenvalue λ of ∇² loss with the largest |λ|, and its eigenvector v, by power iteration.

    Returns λ, then v, in one tensor [1 + number of parameters]:
    v ← Hv/‖Hv‖, `iterations` (1 or more) times, from `start` [number of parameters] of any norm but 0;
    λ = vᵀHv at the last v but one, so that each iteration takes one product Hv, which is exact (Pearlmutter
    1994). The weights must require gradients while the loss is computed, for the supernet to keep what a
    second derivative needs.
    """
    gradient = _flat(torch.autograd.grad(loss, parameters, create_graph=True))
    vector, eigenvalue = start / start.norm(), start.new_zeros(())
    for _ in range(iterations):
        product = _flat(torch.autograd.grad(gradient, parameters, vector, retain_graph=True))
        eigenvalue = vector @ product
        length = product.norm()
        usable = (length > 0) & length.isfinite()  # a flat loss has no direction
        vector = torch.where(usable, product / length, vector)
    return torch.cat([eigenvalue[None], vector])


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def has_sharpened(eigenvalues: Sequence[float], window: int, ratio: float) -> bool:
    """Whether the mean of |λ| over `window` epochs has grown by more than 1/ratio within `window` epochs.

    Zela et al. 2020, §4.3: stop if λ̄(i − k)/λ̄(i) < 0.75, λ̄ smoothed over k = 5 epochs around i. Their λ is
    the largest eigenvalue, ours the magnitude of that of largest magnitude.
    """
    if len(eigenvalues) < 2 * window:
        return False
    sizes = [abs(value) for value in eigenvalues[-2 * window :]]
    return sum(sizes[:window]) < ratio * sum(sizes[window:])


def epochs_back(window: int) -> int:
    """How many epochs with an eigenvalue to roll the architecture back after such a stop.

    Zela et al. 2020, §4.3, return that of epoch i − k, where i is in the middle of the last k epochs.
    """
    return window + window // 2
