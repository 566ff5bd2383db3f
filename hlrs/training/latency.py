"""Measure how long a network takes to predict, and how much memory, on the device at hand."""

import ctypes
import gc
import os
import re
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from time import perf_counter
from typing import Any

import torch
from torch import nn

from hlrs.training.device import choose, cpu_model

BATCHES = (1, 64)  # images
WARM_UP = 3  # passes before the first that counts: kernels are chosen, memory is taken
LEAST, MOST = 10, 100  # passes that count
SECONDS = 5.0  # of a batch's passes, after which no more are added to the least


def measure(network: nn.Module, in_channels: int, size: int, threads: int) -> dict[str, Any]:
    """Measure a network in evaluation mode on random float32 images of `size`×`size` pixels.

    For each of BATCHES: the median and the quartiles of a pass in seconds, the number of passes, and the peak
    memory in bytes: on a GPU what PyTorch allocated, weights included; on a CPU what the process's resident
    memory grew by since before the first pass, without the weights (None where the system does not say).
    """
    torch.set_num_threads(threads)
    device = torch.device(choose(os.environ))
    gpu = device.type == "cuda"
    network = network.to(device).eval()
    peak = torch.cuda.max_memory_allocated if gpu else _growth()
    rows = []
    for batch in BATCHES:
        images = torch.rand(batch, in_channels, size, size, device=device)
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        times = _passes(network, images)
        low, middle, high = quantiles(times, n=4, method="inclusive")
        facts = {"median_seconds": middle, "quartiles_seconds": [low, high], "passes": len(times)}
        rows.append({"batch": batch, **facts, "peak_memory_bytes": peak()})
    name = torch.cuda.get_device_name() if gpu else f"CPU, {cpu_model() or 'unknown'}"
    return {"device": name, "threads": threads, "batches": rows}


def _passes(network: nn.Module, images: torch.Tensor) -> list[float]:
    """Return the seconds of each pass that counts."""
    settle: Callable[[], Any] = torch.cuda.synchronize if images.is_cuda else lambda: None
    times: list[float] = []
    with torch.inference_mode():
        for _ in range(WARM_UP):
            network(images)
        while len(times) < LEAST or (len(times) < MOST and sum(times) < SECONDS):
            settle()
            began = perf_counter()
            network(images)
            settle()
            times.append(perf_counter() - began)
    return times


def _growth() -> Callable[[], int | None]:
    """Return what computes by how many bytes the peak of resident memory exceeds the present one (Linux)."""
    gc.collect()  # what is freed during the passes would hide as much of their growth
    try:
        ctypes.CDLL(None).malloc_trim(0)  # and so would what the process has freed and kept (device.prepare)
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak
        before = _resident("VmRSS")
    except (OSError, AttributeError):
        return lambda: None
    return lambda: max(0, _resident("VmHWM") - before)


def _resident(name: str) -> int:
    """Read an entry of /proc/self/status, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024  # type: ignore[index]  # the kernel writes it


def lines(measured: dict[str, Any]) -> list[str]:
    """Say what was measured, one line per batch."""
    said = [f"{'device':18} {measured['device']}", f"{'threads':18} {measured['threads']}"]
    for row in measured["batches"]:
        low, high = (1000 * value for value in row["quartiles_seconds"])
        spread = f"quartiles {low:.2f} to {high:.2f}, {row['passes']} passes"
        time = f"{1000 * row['median_seconds']:.2f} ms ({spread})"
        memory = row["peak_memory_bytes"]
        used = "" if memory is None else f", peak memory {memory / 1e6:,.1f} MB"
        said.append(f"{'batch of ' + str(row['batch']):18} {time}{used}")
    return said
