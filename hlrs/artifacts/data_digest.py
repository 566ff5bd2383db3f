"""Digests of data: what a result depends on besides its parameters and its code."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from hlrs.config.data import Source
from hlrs.data.sources.base import Named
from hlrs.data.sources.open import files_of
from hlrs.errors import UserError

MEMORY = Path(".hlrs/digests.json")  # file -> size, time of change, SHA-256
CONTENTS = Path(".hlrs/contents.json")  # digest of the names, sizes and times of files -> content digest
CHUNK = 1000  # files that a thread looks at in a row: a shared file system answers many at a time

Look = tuple[int, int]  # a file's size in bytes and time of change in ns


def content_digest(source: Source) -> str:
    """Digest a source's content: its identity where a library verifies its downloads, otherwise its files.

    The hash in a `.dvc` pointer stands for what DVC tracks. A file is read only if its size or time changed.
    Names, not paths, enter the digest, so that a data set may lie elsewhere on another machine. UserError for
    missing files.
    """
    if source.identity is not None:
        return source.identity
    named = files_of(source)
    pointers = _pointers(named)
    files = [entry for of in named for entry in ([of[:2]] if of.path in pointers else of.files())]
    direct = {of.path for of in named}
    looks = _look_at([path for _, path in files if path in direct and path not in pointers])
    looks |= _look_at([path for _, path in files if path not in direct])
    known = _remembered(CONTENTS)
    seen = _digest(f"{name}\0{path}\0{pointers.get(path) or looks[path]}" for name, path in files)
    if seen not in known:
        digests = pointers | _sha256s(looks)
        known[seen] = _digest(f"{name} {digests[path]}" for name, path in files)
        _remember(CONTENTS, known)
    return str(known[seen])


def file_digests(paths: Iterable[Path]) -> list[str]:
    """SHA-256 of files, remembered from one start to the next. UserError if some are missing."""
    names = [str(path) for path in paths]
    digests = _sha256s(_look_at(names))
    return [digests[name] for name in names]


def data_files(source: Source) -> list[tuple[str, Path]]:
    """(name within the source, path) of every single file, also below a folder that DVC tracks."""
    return [(name, Path(path)) for named in files_of(source) for name, path in named.files()]


def _pointers(named: Iterable[Named]) -> dict[str, str]:
    """The hashes that DVC has of files and folders, by their paths."""
    pointers = {of.path: Path(f"{of.path}.dvc") for of in named}
    return {
        path: str(YAML(typ="safe", pure=True).load(pointer)["outs"][0]["md5"])
        for path, pointer in pointers.items()
        if pointer.is_file()
    }


# --- what is remembered -------------------------------------------------------------------------------


def _look_at(paths: Sequence[str]) -> dict[str, Look]:
    """Size and time of change of every file. UserError that counts those out of reach and names the first."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor(16) as pool:
        found = dict(zip(paths, chain.from_iterable(pool.map(_looks, chunks)), strict=True))
    errors = {path: look for path, look in found.items() if isinstance(look, OSError)}
    for path, error in errors.items():
        count = f"{len(errors):,} of {len(paths):,} data files cannot be reached"
        raise UserError(f"{path}: {error.strerror}; {count}: put them there or correct the params")
    return {path: look for path, look in found.items() if not isinstance(look, OSError)}


def _looks(paths: Sequence[str]) -> list[Look | OSError]:
    found: list[Look | OSError] = []
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - see `Named`
            found.append((status.st_size, status.st_mtime_ns))
        except OSError as error:
            found.append(error)
    return found


def _sha256s(looks: Mapping[str, Look]) -> dict[str, str]:
    """SHA-256 of files, read where size or time are not those remembered; kept also if it is cut short."""
    memory = _remembered(MEMORY)
    here = Path.cwd()
    keys = {path: path if path.startswith("/") else f"{here}/{path}" for path in looks}
    due = [path for path, look in looks.items() if memory.get(keys[path], [])[:2] != list(look)]
    try:
        with ThreadPoolExecutor() as pool:  # hashing leaves other threads their turn
            for path, digest in zip(due, pool.map(_read, due), strict=True):
                memory[keys[path]] = [*looks[path], digest]
    finally:
        if due:
            _remember(MEMORY, memory)
    return {path: str(memory[keys[path]][2]) for path in looks}


def _read(path: str) -> str:
    try:
        return sha256(Path(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; it is named as a data file in the params") from None


def _remembered(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(path: Path, known: dict[str, Any]) -> None:
    from hlrs.artifacts.files import write_json

    write_json(path, known)


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
