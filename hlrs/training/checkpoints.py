"""Checkpoints: the state of a task as named tensors."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hlrs.artifacts.tensors import read_tensors, write_tensors
from hlrs.training.task import Position, Task


def save(task: Task, path: Path, position: Position, sums: Tensor) -> None:
    write_tensors(path, {**task.state(), "sums": sums}, vars(position))


def resume(task: Task, path: Path, device: torch.device) -> tuple[Position, Tensor]:
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


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as named tensors; learning rates are functions of the epoch and need no saving."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{slot}": t for i, slots in state.items() for slot, t in slots.items() if t is not None}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `pack`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, slot = name.split(".")
        state.setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
