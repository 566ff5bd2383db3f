"""Compile Triton kernels ahead: the variants that come up in a computation on the CPU; none is launched."""

from typing import Any

from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction


class _AbsentGpu:
    """Triton's view of the driver of a GPU that need not be there."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> Any:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_capability(self, device: int = 0) -> tuple[int, int]:
        return divmod(self.capability, 10)


def compile_in_place_of_launching(share: int, shares: int, capability: int) -> dict[Any, bool]:
    """Have this process compile every `shares`-th variant for GPUs of a capability, such as 90; launch none.

    From now on kernels leave their results uninitialised. Return the variants that come up, and whether each
    was compiled; it grows as they do.
    """
    driver.set_active(_AbsentGpu(capability))
    run, compile_ = JITFunction.run, JITFunction._do_compile
    seen: dict[Any, bool] = {}

    def without_launch(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        return run(self, *args, grid=grid, warmup=True, **kwargs)

    def own(self: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
        if (id(self), key) in seen:
            return None
        seen[id(self), key] = len(seen) % shares == share
        return compile_(self, key, *args, **kwargs) if seen[id(self), key] else None

    JITFunction.run, JITFunction._do_compile = without_launch, own
    return seen
