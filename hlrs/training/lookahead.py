"""Lookahead: slow weights, to which the fast ones return every few steps (Zhang et al. 2019)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

EVERY = 5  # steps


class Lookahead:
    """Slow weights φ of a network; all its floating-point tensors count, running statistics too.

    After each EVERY steps, φ ← d·φ + (1 − d)·w and w ← φ, with d = decay · t³ at progress t of so many
    `steps`; after the last one w ← φ. Jordan 2024, airbench94.py, where decay is 0.95⁵ and EVERY 5; Zhang et
    al. 2019, algorithm 1, keep d constant. Tensors keep their memory, as captured steps read them.
    """

    def __init__(self, decay: float, network: nn.Module, steps: int) -> None:
        self.decay, self.steps = decay, steps
        self.fast = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
        self.slow = [tensor.clone() for tensor in self.fast]

    def follow(self, done: int) -> None:
        """Let both follow each other after so many steps."""
        if done % EVERY == 0:
            self._meet(self.decay * (done / self.steps) ** 3)
        if done == self.steps:
            self._meet(1.0)

    def _meet(self, decay: float) -> None:
        with torch.no_grad():
            torch._foreach_lerp_(self.slow, self.fast, 1 - decay)
            torch._foreach_copy_(self.fast, self.slow)

    def state(self) -> dict[str, Tensor]:
        """Return the slow weights, for a checkpoint."""
        return {str(i): tensor for i, tensor in enumerate(self.slow)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore the slow weights, in place."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
