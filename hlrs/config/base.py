"""Define the base of all specs, and the type of a table of kinds."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"  # a folder's name and a Snakemake wildcard


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

Name = Annotated[str, Field(pattern=NAME)]


def overlay(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """Lay `override` over `base`, key by key; a mapping with a `kind` replaces the whole one in `base`."""
    merged = dict(base)
    for key, value in override.items():
        nested = isinstance(value, dict) and "kind" not in value and isinstance(base.get(key), dict)
        merged[key] = overlay(base[key], value) if nested else value
    return merged
