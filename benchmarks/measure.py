"""Measuring side by side: alternating pairs in one process, operators dispatched, peak memory, host facts."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hlrs.training.device import cpu_model

RESULTS = Path(__file__).parent / "results"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}  # of processes started here
Step = Callable[[], Any]
# first touches of memory on a CPU, on a GPU compilation in the first step and capture in the second
WARM_UP = 3


def alternate(steps: Sequence[Step], pairs: int, device: torch.device) -> list[list[float]]:
    """Measure each step's seconds in each round, in which each runs once; the first rounds warm up."""
    seconds: list[list[float]] = [[] for _ in steps]
    for round_ in range(WARM_UP + pairs):
        for own, step in zip(seconds, steps, strict=True):
            if device.type == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_ >= WARM_UP:
                own.append(time.perf_counter() - started)
    return seconds


class Worker:
    """Another process of this script, with other arguments, that takes a step on request (see `work`)."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, sys.argv[0], *arguments],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def step(self) -> float:
        """Take a step; return its seconds."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self) -> None:
        """Wait for the process to end."""
        self.process.communicate()


def work(step: Step) -> None:
    """Take a step for each line of standard input, and print its seconds."""
    for _ in sys.stdin:
        started = time.perf_counter()
        step()
        print(time.perf_counter() - started, flush=True)


def take_turns(workers: Sequence[Worker], pairs: int) -> list[list[float]]:
    """As `alternate`, for steps in separate processes."""
    rounds = [[worker.step() for worker in workers] for _ in range(WARM_UP + pairs)]
    for worker in workers:
        worker.end()
    return [list(seconds) for seconds in zip(*rounds[WARM_UP:], strict=True)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the smallest and the largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Spread of ours/theirs, pair by pair."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


class Operators(TorchDispatchMode):
    """Counts the operators dispatched inside the block, views among them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def operators(step: Step) -> int:
    """Count the operators that a step dispatches."""
    with Operators() as counted:
        step()
    return counted.count


def own_process(*arguments: str) -> Any:
    """Run this script with other arguments in a new process; return the JSON that it prints."""
    command = [sys.executable, sys.argv[0], *arguments]
    return json.loads(subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True).stdout)


def peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes (Linux)."""
    # not getrusage's, which a process inherits from the one that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def bandwidth(device: torch.device) -> float:
    """Measure a large copy on a GPU: bytes per second, read and written."""
    x = torch.ones(2**29, device=device)
    y = torch.empty_like(x)
    [seconds] = alternate([lambda: y.copy_(x)], 5, device)
    return 2 * x.numel() * x.element_size() / statistics.median(seconds)


def host(device: torch.device, threads: int) -> dict[str, Any]:
    """Describe the machine, the versions and the date."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "gpu": torch.cuda.get_device_name() if device.type == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def record(name: str, results: dict[str, Any]) -> None:
    """Write results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as a Markdown table, the first one its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
