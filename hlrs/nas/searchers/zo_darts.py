"""ZO-DARTS+ (Xie et al. 2024): windows of weight steps, at whose ends the architecture takes one."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from hlrs.config.methods import ZoDarts
from hlrs.nas import bilevel


class Window:
    """`steps` steps of the weights up to one of the architecture, and what they would be at other alphas.

    A copy of the weights per direction u starts each window at the weights, momentum included, and takes the
    same steps of the same optimizer, but at α + μu, μ = `perturbation` · ‖α‖₂. Windows follow each other over
    the whole run. Tensors keep their memory, as captured steps read them.
    """

    def __init__(self, spec: ZoDarts, alphas: list[nn.Parameter], optimizer: torch.optim.SGD) -> None:
        [group] = optimizer.param_groups
        self.steps, self.perturbation = spec.steps, spec.perturbation
        self.alphas, self.weights, self.optimizer = alphas, list[nn.Parameter](group["params"]), optimizer
        if group["momentum"]:  # from the start, so that copies have it, too; a buffer of 0 changes nothing
            for weight in self.weights:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        self.copies = [[t.detach().clone() for t in self._copied()] for _ in range(spec.directions)]
        count = sum(parameter.numel() for parameter in alphas)
        self.directions = alphas[0].new_zeros(spec.directions, count)
        self.position = torch.zeros((), dtype=torch.int64)  # steps of the open window before this epoch

    def _copied(self) -> list[Tensor]:
        """Return what a copy has of its own: weights and, if there is any, their momentum."""
        momentum = (self.optimizer.state[weight].get("momentum_buffer") for weight in self.weights)
        return [*self.weights, *(buffer for buffer in momentum if buffer is not None)]

    def starts(self, step: int) -> bool:
        """Whether a window starts before a step of this epoch."""
        return (int(self.position) + step) % self.steps == 0

    def ends(self, steps: int) -> range:
        """Return the steps, of so many in this epoch, after which a window ends."""
        return range((-1 - int(self.position)) % self.steps, steps, self.steps)

    def end_epoch(self, steps: int) -> None:
        """Begin another epoch, after so many steps of windows in this one; none leave no window open."""
        self.position.fill_((int(self.position) + steps) % self.steps if steps else 0)

    def start(self, draw: torch.Generator) -> None:
        """Let all copies be the weights, and draw directions uniformly from the unit sphere."""
        drawn = torch.randn(self.directions.shape, generator=draw)
        self.directions.copy_(drawn / drawn.norm(dim=1, keepdim=True))
        with torch.no_grad():
            for copy in self.copies:
                torch._foreach_copy_(copy, self._copied())

    def distance(self) -> Tensor:
        """μ."""
        norm: Tensor = torch.cat([alphas.detach().flatten() for alphas in self.alphas]).norm()
        return self.perturbation * norm

    def follow(self, step: Callable[[], object]) -> None:
        """Take a step of the weights in each copy, which `step` finds in place of weights and alphas."""
        sizes = [alphas.numel() for alphas in self.alphas]
        for copy, direction in zip(self.copies, self.directions, strict=True):
            parts = zip(self.alphas, direction.split(sizes), strict=True)
            along = [part.view_as(alphas) for alphas, part in parts]
            with bilevel.moved(self.alphas, along, self.distance()), bilevel.replaced(self._copied(), copy):
                step()

    def estimate(self, validation: bilevel.Loss) -> tuple[list[Tensor], Tensor, Tensor]:
        """Estimate the alphas' gradient at the end of a window; see `bilevel.zeroth_order`."""
        copies = [copy[: len(self.weights)] for copy in self.copies]
        return bilevel.zeroth_order(
            self.alphas, self.weights, validation, self.directions, copies, self.distance()
        )

    def state(self) -> dict[str, Tensor]:
        """Return position, directions and copies, for a checkpoint."""
        copies = {f"{k}.{i}": tensor for k, copy in enumerate(self.copies) for i, tensor in enumerate(copy)}
        return {"position": self.position, "directions": self.directions, **copies}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state, in place."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
