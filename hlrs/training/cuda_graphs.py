"""CUDA graphs: a training step is captured once and replayed.

Launching its thousands of kernels one by one would take longer than they run.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Input = Tensor | float | None
Compute = Callable[..., Tensor]


class CapturedStep:
    """A computation that is captured on a GPU and replayed with other inputs of the same shapes.

    The first call runs eagerly and creates whatever cannot be created during capture: compiled kernels, an
    optimizer's buffers. The second call captures, in the memory pool that `pool` returns, and every call
    from then on replays. Whatever else the computation reads must stay in place; a Python number is captured
    as a constant (`GraphCache` captures again when one changes). An input that is None at the first call
    must stay None (AssertionError). The output is overwritten by the next replay in the same pool.
    """

    def __init__(
        self, compute: Compute, device: torch.device, pool: Callable[[], Any] = lambda: None
    ) -> None:
        self.compute, self.device, self.pool = compute, device, pool
        self.inputs: list[Any] | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Input) -> Tensor:
        if self.inputs is None:
            self.inputs = [self._buffer(value) for value in inputs]
            return self.compute(*self.inputs)
        for buffer, value in zip(self.inputs, inputs, strict=True):
            if isinstance(value, Tensor):
                buffer.copy_(value)
            elif value is not None:
                buffer.fill_(value)
            else:
                assert buffer is None  # otherwise the graph would replay with a stale value
        if self.graph is None:
            self.graph = self._capture()
        self.graph.replay()
        return self.output

    def _capture(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # thread_local: threads that read images ahead may pin memory during the capture
        with torch.cuda.graph(graph, pool=self.pool(), capture_error_mode="thread_local"):
            self.output = self.compute(*self.inputs or ())
        return graph

    def _buffer(self, value: Input) -> Tensor | None:
        """Allocate the memory that later values of an input are copied to; a number becomes a scalar."""
        if isinstance(value, float):
            return torch.full((), value, device=self.device)
        return None if value is None else value.clone()


class GraphCache:
    """The captured steps of a task, each valid for as long as its captured constants stay the same.

    They share one memory pool, since they run one after the other. On a CPU nothing is captured. A
    computation that is not the same in every step of an epoch is captured once for each of its `part`s.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.enabled = device, device.type == "cuda"
        self.steps: dict[tuple[Compute, str], tuple[Any, CapturedStep]] = {}

    def __call__(self, compute: Compute, constants: Any = None, part: str = "") -> Compute:
        """Return the captured step of a computation; a new one replaces it when `constants` changed."""
        if not self.enabled:
            return compute
        key = compute, part
        if key not in self.steps or self.steps[key][0] != constants:
            self.steps[key] = constants, CapturedStep(compute, self.device, self._pool)
        return self.steps[key][1]

    def forget(self) -> None:
        """Drop all captured steps: a tensor that they read has moved."""
        self.steps.clear()

    def _pool(self) -> Any:
        """Return the memory pool of a live graph; None, which asks for a new pool, if there is none.

        No handle is kept: once the last graph of a pool is gone, PyTorch refuses to capture into it.
        """
        graphs = (step.graph for _, step in self.steps.values())
        return next((graph.pool() for graph in graphs if graph is not None), None)
