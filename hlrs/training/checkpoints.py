"""Checkpoints: the state of a task and its position, in one safetensors file with a digest of both."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hlrs.artifacts.files import set_aside
from hlrs.artifacts.jobs import Job
from hlrs.artifacts.tensors import read_tensors, write_tensors
from hlrs.errors import HlrsError
from hlrs.training.task import Position, Task


def save(task: Task, job: Job, position: Position, sums: Tensor) -> None:
    """Write the task's state, the sums of the current epoch (float64 [task.sums]) and the position."""
    tensors = {name: tensor.detach().cpu() for name, tensor in {**task.state(), "sums": sums}.items()}
    facts = {**vars(position), "key": job.key, "code": job.code}
    write_tensors(job.checkpoint, tensors, {**facts, "digest": _digest(tensors, facts)})


def resume(task: Task, job: Job, device: torch.device) -> tuple[Position, Tensor]:
    """Load the checkpoint into the task, in place; return its position and sums, float64 [task.sums].

    Without a checkpoint, or with a damaged one, the position is the start and the sums are 0.
    """
    sums = torch.zeros(task.sums, dtype=torch.float64, device=device)
    loaded = _load(job, task)
    if loaded is None:
        return Position(), sums
    state, position = loaded
    sums.copy_(state.pop("sums"))
    task.load(state)
    position.resumes += 1
    return position, sums


def _load(job: Job, task: Task) -> tuple[dict[str, Tensor], Position] | None:
    """Read the job's checkpoint; None without one. One that is damaged, or another job's, is set aside."""
    path = job.checkpoint
    if not path.exists():
        return None
    try:
        state, facts = read_tensors(path)
        digest = facts.pop("digest", None)
        if digest == _digest(state, facts) and (facts.pop("key"), facts.pop("code")) == (job.key, job.code):
            position = Position(**facts)
            if len(position.rows) == position.epoch <= task.epochs:
                return state, position
    except HlrsError:
        pass
    set_aside(path, f"{job.run} starts from scratch")
    return None


def _digest(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """SHA-256 over the names, types, shapes and bytes of tensors on the CPU, and over the facts as JSON."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
