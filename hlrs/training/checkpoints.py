"""Checkpoints: the state of a task and its position, in one safetensors file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hlrs.artifacts.tensors import read_tensors, write_tensors
from hlrs.training.task import Position, Task


def save(task: Task, path: Path, position: Position, sums: Tensor) -> None:
    """Write the task's state, the sums of the current epoch (float64 [task.sums]) and the position."""
    write_tensors(path, {**task.state(), "sums": sums}, vars(position))


def resume(task: Task, path: Path, device: torch.device) -> tuple[Position, Tensor]:
    """Load a checkpoint into the task, in place; return its position and sums, float64 [task.sums].

    Without a checkpoint, the position is the start and the sums are 0.
    """
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
    """Rename each tensor to `prefix.name`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the tensors named `prefix.name`, and rename each to `name`."""
    return {
        name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")
    }


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as tensors named `index.slot`.

    Learning rates are functions of the epoch and need no saving.
    """
    state = optimizer.state_dict()["state"]
    return {f"{i}.{slot}": t for i, slots in state.items() for slot, t in slots.items() if t is not None}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load into an optimizer what `pack_optimizer` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, slot = name.split(".")
        state.setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
