"""Print what a GPU run is measured on: versions, compiler, copy bandwidth, dispatch of an operator."""

import os
import time
from importlib.metadata import PackageNotFoundError, version

import measure
import torch

from hlrs.nas.ops import triton_available

PACKAGES = ("torch", "triton", "torchvision", "numpy", "pyarrow", "pillow", "pydantic")
DISPATCHES = 2000


def versions() -> dict[str, str]:
    """Return the installed versions by package."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def dispatch_seconds(device: torch.device) -> float:
    """Return the seconds that the host takes to dispatch one small operator."""
    small = torch.ones(1, device=device)
    began = time.perf_counter()
    for _ in range(DISPATCHES):
        small.add_(1)
    return (time.perf_counter() - began) / DISPATCHES


def main() -> None:
    """Measure and print."""
    print(", ".join(f"{name} {number}" for name, number in versions().items()))
    print(f"{os.cpu_count()} cores; Triton kernels: {triton_available.missing() or 'can be compiled'}")
    if torch.cuda.is_available():
        device = torch.device("cuda")
        print(f"{torch.cuda.get_device_name()}: copies {measure.bandwidth(device) / 1e9:.0f} GB/s")
        print(f"{1e6 * dispatch_seconds(device):.1f} µs per operator dispatched")


if __name__ == "__main__":
    main()
