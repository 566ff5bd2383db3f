"""A training step as one CUDA graph: launching its thousands of kernels would take longer than they do."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Input = Tensor | float | None


class Recorded:
    """A computation that is recorded on a GPU and replayed with other inputs of the same shapes.

    Everything else that it reads must stay as it is, or change in place: make a new one where a number
    changes, such as a learning rate. The first call computes as ever, and so makes what cannot be made
    while recording: compiled kernels, an optimizer's buffers. The second records. What comes back is
    overwritten by the next call.
    """

    def __init__(self, compute: Callable[..., Tensor], device: torch.device) -> None:
        self.compute, self.device = compute, device
        self.inputs: list[Any] | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Input) -> Tensor:
        if self.inputs is None:
            self.inputs = [self._own(value) for value in inputs]
            return self.compute(*self.inputs)
        for own, value in zip(self.inputs, inputs, strict=True):
            if isinstance(value, Tensor):
                own.copy_(value)
            elif value is not None:
                own.fill_(value)
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            # other threads may pin memory meanwhile: those that read images ahead
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.output = self.compute(*self.inputs)
        self.graph.replay()
        return self.output

    def _own(self, value: Input) -> Tensor | None:
        """Memory of the input's own, that its later values are copied to; numbers become scalars."""
        if isinstance(value, float):
            return torch.full((), value, device=self.device)
        return None if value is None else value.clone()


def recorded(compute: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """The computation, on a GPU recorded."""
    return Recorded(compute, device) if device.type == "cuda" else compute
