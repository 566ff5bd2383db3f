"""Tensors in safetensors files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrs.artifacts.files import replacing
from hlrs.errors import Failure, UserError

if TYPE_CHECKING:
    import torch


def write_tensors(path: Path, tensors: "dict[str, torch.Tensor]", facts: dict[str, Any]) -> None:
    """Write safetensors; `facts`, JSON, goes into the header under the key `facts`."""
    from safetensors.torch import save

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    body = save(whole, metadata={"facts": json.dumps(facts, sort_keys=True)})
    with replacing(path) as temporary:
        temporary.write_bytes(body)


def read_tensors(path: Path) -> "tuple[dict[str, torch.Tensor], dict[str, Any]]":
    """Tensors and facts of a safetensors file, on the CPU; UserError if missing, Failure if truncated."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return tensors, json.loads((file.metadata() or {})["facts"])
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise Failure(f"{path}: truncated or not a safetensors file of hlrs ({error})") from None


def read_shapes(path: Path) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """The shapes of a safetensors file's tensors, and the facts in its header, none if hlrs did not write it.

    UserError if it is missing or not such a file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            return shapes, dict(json.loads((file.metadata() or {}).get("facts", "{}")))
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: not a safetensors file ({error}); name a run's or an exported one"
        ) from None


def read_facts(path: Path) -> dict[str, Any]:
    """The facts in the header of a safetensors file, without its tensors; Failure if it is not whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return dict(json.loads((file.metadata() or {})["facts"]))
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise Failure(f"{path}: truncated or not a safetensors file of hlrs ({error})") from None
