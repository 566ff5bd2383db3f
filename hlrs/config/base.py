"""Define the base of all specs, the bounds of their numbers and texts, and the type of a table of kinds.

Every number, list and text has an upper bound. No experiment meets one: what exceeds it is a slip, which
would otherwise show inside a job, as exhausted memory, an overflow or a file name that is too long.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"  # a folder's name and a Snakemake wildcard
FOLDER_BYTES = 255  # of a file's or folder's name, on every common file system


class Spec(BaseModel):
    """Base of all specs: immutable, no unknown keys, no silent conversion ("3" is not 3)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


T = TypeVar("T")

# A table of kinds: spec -> the definition that implements it. Write each as a module-level
#     TABLE: Kinds[...] = {SomeSpec: some_definition, ...}
# and the code digest of a job covers just the entries that its parameters name (artifacts/code_digest.py).
Kinds: TypeAlias = Mapping[type[Spec], T]

# Likewise a table of which an option or code names entries: TABLE: Choices[...] = {"name": value, ...}. The
# code digest covers just those whose names the job's parameters, or the code that they ask for, spell.
Choices: TypeAlias = Mapping[str, T]


def _without_nul(text: str) -> str:
    """Reject the character that no path and no page can hold."""
    if "\0" in text:
        raise ValueError("holds a NUL character; remove it")
    return text


def _possible_path(path: str) -> str:
    """Reject what no file system can hold."""
    if not path.strip():
        raise ValueError("is empty; name a file or folder")
    longest = max(len(part.encode()) for part in path.split("/"))
    if longest > FOLDER_BYTES:
        raise ValueError(
            f"a file or folder in it has a name of {longest} bytes; write at most {FOLDER_BYTES}"
        )
    return path


# SLURM's logs of a job lie in a folder called after its data set, method, two seeds and key
NAME_LENGTH = 100
Name = Annotated[str, Field(pattern=NAME, max_length=NAME_LENGTH)]
Text = Annotated[str, Field(max_length=200), AfterValidator(_without_nul)]
FilePath = Annotated[
    str, Field(max_length=4096), AfterValidator(_without_nul), AfterValidator(_possible_path)
]
Digest = Annotated[str, Field(max_length=128)]

LARGEST_SEED = 2**63 - 1
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]
BatchSize = Annotated[int, Field(ge=1, le=100_000)]
TrainingBatch = Annotated[BatchSize, Field(ge=2)]  # a batch norm needs two images
Channels = Annotated[int, Field(ge=2, le=10_000, multiple_of=2)]  # a factorized reduction halves them
Cells = Annotated[int, Field(ge=1, le=1000)]
Nodes = Annotated[int, Field(ge=1, le=20)]
Pixels = Annotated[int, Field(ge=0, le=10_000)]
ImageSize = Annotated[int, Field(ge=4, le=10_000)]
ImageCount = Annotated[int, Field(ge=1, le=1_000_000_000)]
Threads = Annotated[int, Field(ge=1, le=4096)]
Share = Annotated[float, Field(gt=0, lt=1)]
ShareOrNone = Annotated[float, Field(ge=0, lt=1)]
LearningRate = Annotated[float, Field(gt=0, le=1000)]
WeightDecay = Annotated[float, Field(ge=0, le=1000)]
Temperature = Annotated[float, Field(ge=0.001, le=1000)]
BetaShape = Annotated[float, Field(ge=0.001, le=1000)]  # of a Beta distribution, symmetric
Exponent = Annotated[float, Field(ge=0, le=100)]
Tuning = Annotated[int, Field(ge=0, le=10_000)]  # epochs between two decisions
Precision = Literal["float32", "bfloat16"]
CosineScale = Annotated[float, Field(gt=0, le=10_000)]  # s of logits s · cos θ
Factor = Annotated[float, Field(ge=1, le=1_000_000)]


def overlay(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """Lay `override` over `base`, key by key; a mapping with a `kind` replaces the whole one in `base`."""
    merged = dict(base)
    for key, value in override.items():
        nested = isinstance(value, dict) and "kind" not in value and isinstance(base.get(key), dict)
        merged[key] = overlay(base[key], value) if nested else value
    return merged
