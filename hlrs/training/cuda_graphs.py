"""A training step as one CUDA graph: launching its thousands of kernels would take longer than they do."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Input = Tensor | float | None
Compute = Callable[..., Tensor]


class CapturedStep:
    """A computation that is recorded on a GPU and replayed with other inputs of the same shapes.

    Everything else that it reads must stay as it is, or change in place: make a new one where a number
    changes (`Recordings`). The first call computes as ever, and so makes what cannot be made while
    recording: compiled kernels, an optimizer's buffers. The second records, in the memory that `pool` names
    then. What comes back is overwritten by the next call of this one, or of another in the same memory.
    """

    def __init__(
        self, compute: Compute, device: torch.device, pool: Callable[[], Any] = lambda: None
    ) -> None:
        self.compute, self.device, self.pool = compute, device, pool
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
            else:
                assert own is None  # else what is recorded would go on with an old value
        if self.graph is None:
            self.graph = self._record()
        self.graph.replay()
        return self.output

    def _record(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # other threads may pin memory meanwhile: those that read images ahead
        with torch.cuda.graph(graph, pool=self.pool(), capture_error_mode="thread_local"):
            self.output = self.compute(*self.inputs or ())
        return graph

    def _own(self, value: Input) -> Tensor | None:
        """Memory of the input's own, that its later values are copied to; numbers become scalars."""
        if isinstance(value, float):
            return torch.full((), value, device=self.device)
        return None if value is None else value.clone()


class GraphCache:
    """A task's computations, each recorded for as long as the same numbers are baked into it.

    They share memory, since they run one after the other. On a CPU nothing is recorded.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.records = device, device.type == "cuda"
        self.made: dict[Compute, tuple[Any, CapturedStep]] = {}

    def __call__(self, compute: Compute, baked: Any = None) -> Compute:
        """The computation, or its recording: a new one in the old one's place when `baked` has changed."""
        if not self.records:
            return compute
        if compute not in self.made or self.made[compute][0] != baked:
            self.made[compute] = baked, CapturedStep(compute, self.device, self._pool)
        return self.made[compute][1]

    def forget(self) -> None:
        """Let go of all recordings: something that they read is no longer where it was."""
        self.made.clear()

    def _pool(self) -> Any:
        """The memory of a living graph, for one more; None, for memory of its own, where there is none.

        No handle is kept: once the last graph in a pool is gone, PyTorch refuses to record there again.
        """
        graphs = (recording.graph for _, recording in self.made.values())
        return next((graph.pool() for graph in graphs if graph is not None), None)
