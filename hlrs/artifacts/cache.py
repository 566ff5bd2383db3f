"""Caches: what saves time on the next start, and may be deleted at any time."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from hlrs.artifacts.files import set_aside, write_text
from hlrs.errors import Failure

T = TypeVar("T")


class Cache(Generic[T]):
    """A JSON file of named entries of one type, and their SHA-256.

    A file with anything else in it (torn, edited, of another version, no file at all) is set aside and made
    again. One that cannot be read or written costs time, never a start.
    """

    def __init__(self, path: Path, entry: Any) -> None:
        self.path = path
        self.entries: TypeAdapter[dict[str, T]] = TypeAdapter(dict[str, entry])
        self.file: TypeAdapter[tuple[str, dict[str, T]]] = TypeAdapter(tuple[str, dict[str, entry]])

    def read(self) -> dict[str, T]:
        """What was written last; empty if there is nothing, or nothing of use."""
        with suppress(OSError):
            if not self.path.exists():
                return {}
            with suppress(ValidationError):
                if self.path.is_file():  # a pipe would never end
                    digest, known = self.file.validate_json(self.path.read_bytes(), strict=True)
                    if digest == self._digest(known):
                        return known
            set_aside(self.path, "it is made again")
        return {}

    def write(self, known: dict[str, T]) -> None:
        """Keep entries for the next start."""
        with suppress(Failure, ValueError):  # a full disk; a name that is not UTF-8
            content = self.file.dump_json((self._digest(known), known), indent=1)
            write_text(self.path, content.decode() + "\n")

    def _digest(self, known: dict[str, T]) -> str:
        return hashlib.sha256(self.entries.dump_json(known)).hexdigest()
