"""Files, written whole or not at all; JSON."""

import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from hlrs.errors import Failure, UserError


def printable(text: str) -> str:
    """Escape a text with a line break, or a byte of a name that is not UTF-8, for output line by line."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; on success it is synced and renamed to `path`, else it is removed.

    The folder is synced as well, so that what is written later (a record) outlasts a power cut only if this
    file does.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        with suppress(OSError):  # some file systems refuse it for folders
            _sync(path.parent)
    except OSError as error:
        raise Failure(f"{path}: could not be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # its folder may not be there, nor one
            temporary.unlink()


def check_new(folder: Path) -> None:
    """Raise UserError for a folder that holds something, or that another cannot replace."""
    whole = folder.absolute()
    kinds = {
        "a link": whole.is_symlink(),
        "the current folder": whole == Path.cwd(),
        "a mount point": whole.is_mount(),
    }
    if kind := next((kind for kind, holds in kinds.items() if holds), ""):
        raise UserError(f"{folder}: {kind}, so it cannot be replaced as a whole; name a new folder in it")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists and is not an empty folder; name another one")


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield a folder beside the target that replaces it once the body has succeeded."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise Failure(f"{target}: could not be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys; a NaN is refused with ValueError."""
    write_text(path, json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """A JSON file; UserError if it is missing, Failure if it is not whole."""
    try:
        if path.exists() and not path.is_file():  # reading a FIFO would wait for ever
            raise UserError(f"{path}: is not a regular file")
        return parse_json(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def parse_json(content: bytes, path: str) -> Any:
    """JSON, as found at `path`; Failure if it is not whole, has a NaN, or nests too deeply to be ours."""
    try:
        return from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise Failure(f"{path}: truncated or not JSON ({error})") from None


UNREADABLE = ".unreadable"  # ends the names of what was set aside


def set_aside(path: Path, then: str) -> None:
    """Rename what is not what its name promises, and print what happens then; OSError if that is refused."""
    aside = aside_of(path)
    path.rename(aside)
    say_aside(path, aside, then)


def aside_of(path: Path) -> Path:
    """A free name beside `path` for what is not what `path` promises."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{UNREADABLE}")


def say_aside(path: Path, aside: Path, then: str) -> None:
    """Print where a file was set aside, and what happens then."""
    print(f"hlrs: {path}: unreadable, set aside as {aside.name}; {then}", file=sys.stderr, flush=True)
