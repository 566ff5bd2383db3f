"""Compile the Triton kernels of a search before it begins, in several processes.

    python benchmarks/gpu/warm.py [--processes N] [--sets search,unrolled]

Each process runs the project's own supernet on the CPU, on two tiny images, with kernel launches left out,
and compiles its share of the variants that come up; sizes of maps and batches make no other variants. They
land in Triton's cache (TRITON_CACHE_DIR, ~/.triton/cache), where a search on a GPU of that capability finds
them.
"""

import argparse
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from typing import Any, NamedTuple

ENVIRONMENT = {
    "TRITON_INTERPRET": "0",
    "TRITON_DEFAULT_FP_FUSION": "1",  # part of the cache's key; hlrs.training.device.prepare sets it, too
    "OMP_NUM_THREADS": "1",
}


class Variants(NamedTuple):
    """A supernet, and what is computed with it: steps, sharpness, unrolled."""

    channels: int
    cells: int
    nodes: int
    computed: tuple[str, ...]
    bfloat16: bool = False


SETS = {
    "search": Variants(16, 8, 4, ("steps", "sharpness")),
    "unrolled": Variants(16, 8, 4, ("unrolled",)),
    "bfloat16": Variants(16, 8, 4, ("steps",), bfloat16=True),
    "doctor": Variants(4, 3, 2, ("steps",)),
    "tests": Variants(4, 3, 1, ("steps", "sharpness", "unrolled")),
}


def capability() -> int:
    """Return the first GPU's compute capability, such as 90; 90 without a GPU.

    The driver is asked, not PyTorch: that would hold a context on the GPU.
    """
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return 90
    return int(found[0].replace(".", "")) if found else 90


def start(rank: int, processes: int, sets: str, target: int) -> "subprocess.Popen[str]":
    """Start the process that compiles one share."""
    share = ["--sets", sets, "--processes", str(processes), "--rank", str(rank), "--capability", str(target)]
    command = [sys.executable, __file__, *share]
    return subprocess.Popen(command, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, text=True)


def main() -> None:
    """Compile in processes of their own and print how many variants there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--sets", default="search,unrolled", help=f"of {', '.join(SETS)}, comma-separated")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--capability", type=int, help="such as 90; by default, the first GPU's")
    arguments = parser.parse_args()
    if arguments.rank is not None:
        sets = [SETS[name] for name in arguments.sets.split(",")]
        print(*compile_share(arguments.rank, arguments.processes, sets, arguments.capability))
        return
    began, target = time.monotonic(), arguments.capability or capability()
    workers = [
        start(rank, arguments.processes, arguments.sets, target) for rank in range(arguments.processes)
    ]
    counts = [worker.communicate()[0].split() or ["0", "0"] for worker in workers]
    failed = sum(worker.returncode != 0 for worker in workers)
    compiled, seen = sum(int(own[0]) for own in counts), max(int(own[1]) for own in counts)
    print(
        f"warm: {compiled} of {seen} variants for sm_{target} in "
        f"{time.monotonic() - began:.1f} s, {arguments.processes} processes, {failed} failed"
    )
    sys.exit(failed > 0)


# --- in a process of its own ----------------------------------------------------------------------------


def compile_share(rank: int, processes: int, sets: list[Variants], target: int) -> tuple[int, int]:
    """Compile one in `processes` variants; return how many were compiled and how many came up."""
    import torch

    from hlrs.nas.ops import triton_available

    seen = _intercept_triton(rank, processes, target)
    torch.set_num_threads(1)
    triton_available.KERNEL_DEVICE = "cpu"
    for variants in sets:
        _compute(variants)
    return sum(seen.values()), len(seen)


def _intercept_triton(rank: int, processes: int, target: int) -> dict[Any, bool]:
    """Have Triton compile a share of the variants and launch none; return those seen, whether compiled."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Offline:
        """Triton's view of the driver of a GPU that is not there."""

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", target, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_device_capability(self, device: int = 0) -> tuple[int, int]:
            return divmod(target, 10)

    driver.set_active(Offline())
    run, compile_ = JITFunction.run, JITFunction._do_compile
    seen: dict[Any, bool] = {}

    def without_launch(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        return run(self, *args, grid=grid, warmup=True, **kwargs)

    def share(self: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
        if (id(self), key) in seen:
            return None
        seen[id(self), key] = len(seen) % processes == rank
        return compile_(self, key, *args, **kwargs) if seen[id(self), key] else None

    JITFunction.run, JITFunction._do_compile = without_launch, share
    return seen


def _compute(variants: Variants) -> None:
    """Compute all that a search computes with such a supernet, on two tiny images."""
    import torch
    from torch.nn import functional as F

    from hlrs.config.methods import Darts
    from hlrs.config.recipes import Collapse
    from hlrs.config.spaces import DartsSpace
    from hlrs.nas import bilevel
    from hlrs.nas.collapse import EarlyStopping
    from hlrs.nas.network import initialize
    from hlrs.nas.searchers.darts import DartsSearcher
    from hlrs.nas.supernet import DartsSupernet, initialize_alphas

    draw = torch.Generator().manual_seed(0)
    layout = {"in_channels": 3, "classes": 10, "channels": variants.channels, "cells": variants.cells}
    supernet = DartsSupernet(DartsSpace(), DartsSearcher(Darts()), nodes=variants.nodes, **layout)
    initialize(supernet, draw)
    initialize_alphas(supernet, draw)
    alphas, weights = list(supernet.architecture().values()), supernet.weights()
    images, labels = torch.randn(2, 3, 8, 8), torch.zeros(2, dtype=torch.long)

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16) if variants.bfloat16 else nullcontext():
            return F.cross_entropy(supernet(images), labels)

    if "steps" in variants.computed:
        bilevel.first_order(alphas, weights, loss)
        with bilevel.frozen(alphas):
            torch.autograd.grad(loss(), weights)
    if "sharpness" in variants.computed:
        start = torch.randn(sum(parameter.numel() for parameter in alphas))
        EarlyStopping(Collapse(power_iterations=1), start).iterate(loss(), alphas, weights, start)
    if "unrolled" in variants.computed:
        still = [torch.zeros_like(weight) for weight in weights]
        bilevel.second_order(alphas, weights, loss, loss, still, 0.025)


if __name__ == "__main__":
    main()
