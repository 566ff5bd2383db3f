"""The training loop of search and retraining: epochs, history, checkpoint and resume, signals, progress."""

import ctypes
import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hlrs.artifacts import Job, read_tensors, write_tensors
from hlrs.devices import choose
from hlrs.errors import Failure, Interrupted
from hlrs.nas import kernels
from hlrs.startup import ready

CHECKPOINT_SECONDS = 300.0  # within an epoch; at the end of an epoch there always is one


class Task(Protocol):
    """What is trained.

    Randomness must come from (seed, purpose, epoch, step) alone: then the state is all that a resumed run
    needs.
    """

    epochs: int
    steps: int  # an epoch
    images_per_step: int
    sums: int  # how many figures a step returns

    def begin(self, epoch: int) -> None:
        """Set the epoch's learning rates and draw its order."""

    def step(self, step: int) -> Tensor:
        """One training step; figures to be summed over the epoch, float [sums], on the device."""

    def end(self, means: list[float]) -> dict[str, Any]:
        """The epoch's history row from the figures' means."""

    def state(self) -> dict[str, Tensor]:
        """Everything that training changes."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over a state, in place."""


@dataclass
class Position:
    """Where a run stands, and what it has to show so far."""

    epoch: int = 0
    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    throughput: list[dict[str, float]] = field(default_factory=list)
    resumes: int = 0
    timing: dict[str, Any] = field(default_factory=dict)  # of the process that ends the run: never saved

    @property
    def facts(self) -> dict[str, Any]:
        """What the record tells of the training."""
        return {"resumes": self.resumes, "throughput": self.throughput, **self.timing}


def fit(task: Task, job: Job, device: torch.device) -> Position:
    """Train from the start or the job's checkpoint to the last epoch; returns history rows and throughput.

    Raises Interrupted after a signal, with the state saved; Failure when a loss is not a number, with the
    checkpoint of the last sound epoch kept.
    """
    path = job.checkpoint
    position, sums = _resume(task, path, device)
    progress = Progress(job.run, task, position)
    with stop_signals() as stop:
        while position.epoch < task.epochs:
            started, first = time.monotonic(), position.step
            task.begin(position.epoch)
            saved = time.monotonic()
            for step in range(position.step, task.steps):
                began = time.monotonic()
                sums += task.step(step)
                if not progress.seconds:
                    sums.tolist()  # waits for the device; later steps wait in its queue
                position.step = step + 1
                progress.step(time.monotonic() - began)
                due = stop.requested or time.monotonic() - saved > CHECKPOINT_SECONDS
                if due and position.step < task.steps:  # the epoch's end saves by itself
                    _save(task, path, position, sums)
                    saved = time.monotonic()
                    stop.obey(job, path)
            row = _finish_epoch(task, position, sums, job)
            seconds = time.monotonic() - started
            rate = (task.steps - first) * task.images_per_step / seconds
            position.throughput.append({"epoch": row["epoch"], "seconds": seconds, "images_per_second": rate})
            sums.zero_()
            _save(task, path, position, sums)
            progress.epoch(row, rate)
            if position.epoch < task.epochs:  # else nothing is left but to write the results
                stop.obey(job, path)
    position.timing = progress.close()
    return position


def _finish_epoch(task: Task, position: Position, sums: Tensor, job: Job) -> dict[str, Any]:
    """Read the epoch's figures back, once, and append its row."""
    means = (sums / task.steps).tolist()
    row = task.end(means)
    broken = [
        name
        for name, value in row.items()
        if name.endswith("loss") and value is not None and not math.isfinite(value)
    ]
    if broken:
        raise Failure(
            f"{job.run}: {broken[0]} is {row[broken[0]]} in epoch {position.epoch + 1} of the {job.stage}; "
            f"lower {job.stage}.weights.lr (the state before it is kept in {job.checkpoint})"
        )
    position.rows.append(row)
    position.epoch, position.step = position.epoch + 1, 0
    return row


def descend(
    loss: Tensor, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, clip: float | None
) -> None:
    """One step of the optimizer along the loss's gradient, whose norm is at most `clip`."""
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        # a fused optimizer walks memory, whatever the strides: gradients must lie as the parameters do
        parameter.grad = gradient.contiguous()
    if clip is not None:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()


def figures(*values: Tensor | float) -> Tensor:
    """A step's figures as one float64 tensor on the first one's device, without waiting for it."""
    device = values[0].device if isinstance(values[0], Tensor) else None
    return torch.stack(
        [
            v.detach().double()
            if isinstance(v, Tensor)
            else torch.full((), v, dtype=torch.float64, device=device)
            for v in values
        ]
    )


# --- checkpoints --------------------------------------------------------------------------------------


def _save(task: Task, path: Path, position: Position, sums: Tensor) -> None:
    write_tensors(path, {**task.state(), "sums": sums}, vars(position))


def _resume(task: Task, path: Path, device: torch.device) -> tuple[Position, Tensor]:
    sums = torch.zeros(task.sums, dtype=torch.float64, device=device)
    if not path.exists():
        return Position(), sums
    state, facts = read_tensors(path)
    sums.copy_(state.pop("sums"))
    task.load(state)
    position = Position(**facts)
    position.resumes += 1
    return position, sums


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under `prefix.name`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors whose names begin with `prefix.`, without it."""
    return {
        name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")
    }


def pack(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as named tensors; learning rates are functions of the epoch and need no saving."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{slot}": t for i, slots in state.items() for slot, t in slots.items() if t is not None}


def unpack(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `pack`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, slot = name.split(".")
        state.setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


# --- signals ------------------------------------------------------------------------------------------


@dataclass
class Stop:
    """The name of the signal that asked the run to stop, or nothing."""

    requested: str = ""

    def obey(self, job: Job, path: Path) -> None:
        """Raise Interrupted if a signal came; the state must be saved in `path`."""
        if self.requested:
            message = f"{job.run}: {self.requested} came; saved {path}, run again to go on"
            raise Interrupted(message, self.requested)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Let SIGTERM, SIGUSR1 (SLURM's warning) and SIGINT end the run after the current step."""
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        stop.requested = signal.Signals(number).name

    before = {
        number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- device and progress ------------------------------------------------------------------------------


def prepare(threads: int) -> torch.device:
    """The device to train on, set to compute the same bytes every time; sums depend on a CPU's `threads`.

    Raises UserError where SLURM gave GPUs that cannot be used.
    """
    torch.set_num_threads(threads)
    _keep_memory()
    if choose(os.environ) == "cpu":
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # its default so far: Triton 3.9 warns of another
    if kernels.missing():
        reason = f"{kernels.missing()} (hlrs doctor)"
        print(f"hlrs: a search on this GPU goes without its own kernels, slower: {reason}", file=sys.stderr)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # with NaN: a debugging aid that costs a pass over every map
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    return torch.device("cuda")


def _keep_memory() -> None:
    """Let glibc keep what a step frees for the next one.

    It gives large maps back to the kernel, which clears their pages anew when the next step asks for them:
    a seventh of a retraining step on a CPU (docs/benchmarks.md). Other C libraries are left as they are.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: no map of its own for a large block
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: never


class Progress:
    """A bar on a terminal, a plain line an epoch in a log; both with an estimate of what is left."""

    def __init__(self, label: str, task: Task, position: Position) -> None:
        self.label, self.task = label, task
        self.done = position.epoch * task.steps + position.step
        self.total = task.epochs * task.steps
        self.startup, self.started = ready(), time.monotonic()
        self.seconds: list[float] = []  # of each step
        interactive = sys.stderr.isatty()
        self.bar = tqdm(total=self.total, initial=self.done, desc=label, unit="step", disable=not interactive)
        imports, setup = self.startup["imports_seconds"], self.startup["setup_seconds"]
        parts = f"imports {imports:.1f} s, data and model {setup:.1f} s"
        self._say(f"started in {imports + setup:.1f} s ({parts})")
        if position.resumes:
            self._say(f"resumed at epoch {position.epoch}, step {position.step}")

    def step(self, seconds: float) -> None:
        """One step is done."""
        self.done += 1
        self.seconds.append(seconds)
        self.bar.update()

    def epoch(self, row: dict[str, Any], rate: float) -> None:
        """An epoch is done."""
        text = "  ".join(
            f"{name} {value if isinstance(value, str) else format(value, '.4g')}"
            for name, value in row.items()
            if value is not None and name != "epoch"
        )
        self.bar.set_postfix_str(f"{rate:.0f} images/s")
        if self.bar.disable:
            epoch = f"epoch {row['epoch'] + 1}/{self.task.epochs}"
            self._say(f"{epoch}  {text}  {rate:.0f} images/s  {_duration(self._left())} left")

    def close(self) -> dict[str, Any]:
        """The run is over; what this process's time went into."""
        self.bar.close()
        first, others = self.seconds[:1], self.seconds[1:]
        steps = {
            "first_step_seconds": round(first[0], 6) if first else None,
            "median_step_seconds": round(statistics.median(others), 6) if others else None,
        }
        seconds = round(time.monotonic() - self.started, 3)
        return {"startup": self.startup | steps, "training_seconds": seconds}

    def _left(self) -> float:
        """Seconds at the pace so far, but for the first step, which warms up or compiles."""
        steps, elapsed = len(self.seconds), time.monotonic() - self.started
        if steps > 1:
            steps, elapsed = steps - 1, elapsed - self.seconds[0]
        return elapsed / steps * (self.total - self.done)

    def _say(self, text: str) -> None:
        tqdm.write(f"{self.label}  {text}", file=sys.stderr)
        sys.stderr.flush()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    )
