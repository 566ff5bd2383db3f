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

from hlrs.config.data import Digits, ImageFolder, ListFile, Npz, Parquet, Source, Torchvision
from hlrs.data.sources.arrays import digits_file, torchvision_files
from hlrs.data.sources.base import IMAGE_SUFFIXES
from hlrs.data.sources.lists import listed_images
from hlrs.data.sources.parquet import parquet_files
from hlrs.errors import UserError

MEMORY = Path(".hlrs/digests.json")  # file -> size, time of change, SHA-256
CONTENTS = Path(".hlrs/contents.json")  # digest of the names, sizes and times of files -> content digest
CHUNK = 1000  # files that a thread looks at in a row: a shared file system answers many at a time

FileSource = Digits | Parquet | ImageFolder | ListFile | Npz
Look = tuple[int, int]  # a file's size in bytes and time of change in ns


def content_digest(source: Source) -> str:
    """Digest of a source's content: its name where torchvision verifies what it downloads, else of the files.

    What DVC tracks answers with the hash in its `.dvc` pointer. No file is read that has the size and time
    that it had before. Raises UserError for missing files.
    """
    if isinstance(source, Torchvision):
        return f"torchvision:{source.name}"
    pointers = _pointers(source)
    files = source_files(source)
    named = {path for _, path in named_files(source)} - pointers.keys()
    looks = _look_at([path for _, path in files if path in named])
    looks |= _look_at([path for _, path in files if path not in named and path not in pointers])
    known = _remembered(CONTENTS)
    seen = _digest(f"{name}\0{path}\0{pointers.get(path) or looks[path]}" for name, path in files)
    if seen not in known:
        digests = pointers | _sha256s(looks)
        known[seen] = _digest(f"{name} {digests[path]}" for name, path in files)
        _remember(CONTENTS, known)
    return str(known[seen])


def file_digests(paths: Iterable[Path]) -> list[str]:
    """SHA-256 of files, remembered from one start to the next. Raises UserError if some are missing."""
    names = [str(path) for path in paths]
    digests = _sha256s(_look_at(names))
    return [digests[name] for name in names]


def source_files(source: FileSource) -> list[tuple[str, str]]:
    """(name within the source, path) of every file that a source reads, in a fixed order.

    Names, not paths, enter the digest, so that a data set may lie elsewhere on another machine. A folder that
    DVC tracks stands for its images. Raises UserError for an empty or missing folder and for bad lists.
    Paths are text here: of half a million, `Path` would take seconds at each start.
    """
    tracked = _pointers(source)
    return [
        entry
        for name, path in named_files(source)
        for entry in ([(name, path)] if path in tracked else _single(source, name, path))
    ]


def data_files(source: Source) -> list[tuple[str, Path]]:
    """Likewise every single file, also below a folder that DVC tracks and of torchvision's data sets."""
    if isinstance(source, Torchvision):
        return torchvision_files(source.name, Path(source.root))
    files = (entry for name, path in named_files(source) for entry in _single(source, name, path))
    return [(name, Path(path)) for name, path in files]


def named_files(source: FileSource) -> list[tuple[str, str]]:
    """(name within the source, path) of the files and folders that the params name."""
    if isinstance(source, Digits):
        return [("digits", str(digits_file()))]
    if isinstance(source, Npz):
        return [("npz", source.file)]
    if isinstance(source, Parquet):
        parts = parquet_files(source.train, source.test)
        return [(f"{part}/{i}", str(path)) for part, paths in parts.items() for i, path in enumerate(paths)]
    fields = ("train", "test") if isinstance(source, ImageFolder) else ("train", "test", "classes", "root")
    return [(field, str(Path(path))) for field in fields if (path := getattr(source, field)) is not None]


def _single(source: FileSource, name: str, path: str) -> list[tuple[str, str]]:
    """The images of a folder that the params name; a file itself."""
    if isinstance(source, ImageFolder):
        return _tree(name, Path(path))
    if isinstance(source, ListFile) and name == "root":
        return [(f"{name}/{image}", f"{path}/{image}") for image in listed_images(source)]
    return [(name, path)]


def _tree(part: str, root: Path) -> list[tuple[str, str]]:
    """The images of a folder tree."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; image_folder needs a folder a class below it")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"{root}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [(f"{part}/{path.relative_to(root)}", str(path)) for path in files]


def _pointers(source: FileSource) -> dict[str, str]:
    """The hashes that DVC has of the files and folders that the params name."""
    pointers = {path: Path(f"{path}.dvc") for _, path in named_files(source)}
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
            status = os.stat(path)  # noqa: PTH116 - see `source_files`
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
