"""Caches: what saves time on the next start, and may be deleted at any time."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from hlrs.artifacts.files import set_aside, write_text
from hlrs.errors import Failure

T = TypeVar("T")


class Cache(Generic[T]):
    """A JSON file of named entries of one type.

    A file with anything else in it (torn, edited, of another version, no file at all) is set aside and made
    again. One that cannot be read or written costs time, never a start.
    """

    def __init__(self, path: Path, entry: Any) -> None:
        self.path = path
        self.entries: TypeAdapter[dict[str, T]] = TypeAdapter(dict[str, entry])

    def read(self) -> dict[str, T]:
        """What was written last; empty if there is nothing, or nothing of use."""
        with suppress(OSError):
            try:
                if self.path.is_file():  # a pipe would never end
                    return self.entries.validate_json(self.path.read_bytes(), strict=True)
            except ValidationError:
                set_aside(self.path)
            else:
                if self.path.exists():
                    set_aside(self.path)
        return {}

    def write(self, known: dict[str, T]) -> None:
        """Keep entries for the next start."""
        with suppress(Failure, ValueError):  # a full disk; a name that is not UTF-8
            write_text(self.path, self.entries.dump_json(known, indent=1).decode() + "\n")
