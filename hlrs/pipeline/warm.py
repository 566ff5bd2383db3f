"""Compile the GPU kernels of searches before they run, in several processes: `hlrs warm`.

Each process computes what a search computes, on the CPU and on two tiny images, with kernel launches left
out, and compiles its share of the variants that come up; sizes of maps and batches make no other variants.
Compiled kernels lie in Triton's cache (TRITON_CACHE_DIR, ~/.triton/cache), where a search on a GPU of that
capability finds them.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from hlrs.config.jobs import SearchJob
from hlrs.errors import Failure, UserError
from hlrs.pipeline.slurm import ask
from hlrs.training.device import BFLOAT16

ENVIRONMENT = {
    "TRITON_INTERPRET": "0",
    "TRITON_DEFAULT_FP_FUSION": "1",  # part of the cache's keys; training.device.prepare sets it, too
    "OMP_NUM_THREADS": "1",
}
SIZE = 8  # pixels, of the tiny images


def compile_ahead(searches: Sequence[SearchJob], processes: int, capability: int) -> tuple[int, int]:
    """Compile the kernels of searches for GPUs of a compute capability, such as 90.

    Return how many variants come up, and how many of them this call compiled or found in the cache. Failure
    if a process fails, UserError for bfloat16 on GPUs that lack it.
    """
    coarse = any(search.search.precision == "bfloat16" for search in searches)
    if coarse and divmod(capability, 10) < BFLOAT16:
        raise UserError(
            f"search.precision: GPUs of capability {capability} have no bfloat16, 80 and later do; set it to "
            "float32"
        )
    distinct = {_relevant(search): search.model_dump_json() for search in searches}

    def work(share: int) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "hlrs.pipeline.warm", *map(str, (share, processes, capability))]
        given = "\n".join(distinct.values())
        return subprocess.run(
            command, input=given, stdout=subprocess.PIPE, text=True, env=os.environ | ENVIRONMENT
        )

    with ThreadPoolExecutor(processes) as threads:
        done = list(threads.map(work, range(processes)))
    if any(worker.returncode for worker in done):
        raise Failure("a process that compiles kernels failed, as it says above; `hlrs doctor` checks them")
    counts = [[int(number) for number in worker.stdout.split()] for worker in done]
    return max(seen for seen, _ in counts), sum(compiled for _, compiled in counts)


def _relevant(search: SearchJob) -> str:
    """Describe what decides which variants a search needs."""
    recipe = search.search
    sizes = recipe.channels, recipe.cells, recipe.nodes, recipe.collapse.power_iterations > 0
    return f"{search.searcher} {recipe.space} {sizes} {recipe.precision}"


def capability_of_first_gpu() -> int:
    """Return the first GPU's compute capability, such as 90; UserError without a GPU.

    The driver is asked, not PyTorch: that would hold a context on the GPU.
    """
    answer = ask("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader") or ""
    found = [line for line in answer.splitlines() if line.replace(".", "", 1).isdecimal()]  # no error's text
    if not found:
        raise UserError(
            "no GPU is visible here; name the compute capability of the jobs' GPUs: --capability 90 for an "
            "H100 or H200, 80 for an A100"
        )
    return int(found[0].replace(".", ""))


# --- in a process of its own ----------------------------------------------------------------------------


def compile_share(share: int, shares: int, capability: int) -> None:
    """Compile a share of the variants that the searches on standard input, one per line, need.

    Print how many come up, and how many of them this process compiled.
    """
    import torch

    from hlrs.nas.ops import triton_available
    from hlrs.nas.ops.triton_ahead import compile_in_place_of_launching

    torch.set_num_threads(1)
    seen = compile_in_place_of_launching(share, shares, capability)
    triton_available.KERNEL_DEVICE = "cpu"  # where the computation takes place
    for line in sys.stdin:
        _compute(SearchJob.model_validate_json(line))
    print(len(seen), sum(seen.values()))


def _compute(params: SearchJob) -> None:
    """Compute all that a search computes."""
    import torch
    from torch.nn import functional as F

    from hlrs.nas import bilevel
    from hlrs.nas.collapse import EarlyStopping
    from hlrs.nas.network import initialize
    from hlrs.nas.searchers.table import SEARCHERS
    from hlrs.nas.spaces import SUPERNETS
    from hlrs.nas.supernet import initialize_alphas

    recipe, draw = params.search, torch.Generator().manual_seed(0)
    searcher = SEARCHERS[type(params.searcher)](params.searcher)
    layout = {"in_channels": 3, "classes": 10, "channels": recipe.channels, "cells": recipe.cells}
    supernet = SUPERNETS[type(recipe.space)](recipe.space, searcher, nodes=recipe.nodes, **layout)
    supernet.precision = recipe.precision
    initialize(supernet, draw)
    initialize_alphas(supernet, draw)
    alphas, weights = list(supernet.architecture().values()), supernet.weights()
    images, labels = torch.randn(2, 3, SIZE, SIZE), torch.zeros(2, dtype=torch.long)
    supernet.drawn = searcher.draw(supernet.shape, draw, 0, recipe.epochs)

    def loss() -> torch.Tensor:
        return F.cross_entropy(supernet(images), labels)

    if searcher.order == 1:
        bilevel.first_order(alphas, weights, loss)
    elif searcher.order == 0:
        torch.autograd.grad(loss(), [*alphas, *weights])
    else:
        still = [torch.zeros_like(weight) for weight in weights]
        bilevel.second_order(alphas, weights, loss, loss, still, 0.025)
    with bilevel.frozen(alphas):
        torch.autograd.grad(loss(), weights)
    if recipe.collapse.power_iterations:
        start = torch.randn(sum(parameter.numel() for parameter in alphas))
        with supernet.in_float32():  # as a search does
            EarlyStopping(recipe.collapse, start).iterate(loss(), alphas, weights, start)


if __name__ == "__main__":
    compile_share(*map(int, sys.argv[1:]))
