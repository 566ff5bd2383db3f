"""Digests of data: what a result depends on besides its parameters and its code."""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from hlrs.config import Digits, ImageFolder, Parquet, Source, Torchvision
from hlrs.data.sources import IMAGE_SUFFIXES, digits_file, torchvision_files
from hlrs.errors import UserError

MEMORY = Path(".hlrs/digests.json")


def content_digest(source: Source) -> str:
    """Digest of a source's content: its name where torchvision verifies what it downloads, else of the files.

    A file that DVC tracks answers with the hash in its `.dvc` pointer. Raises UserError for a missing file.
    """
    if isinstance(source, Torchvision):
        return f"torchvision:{source.name}"
    memory = _Memory()
    lines = [f"{name} {memory.digest(path)}" for name, path in source_files(source)]
    memory.save()
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def file_digests(paths: Iterable[Path]) -> list[str]:
    """SHA-256 of files, remembered from one start to the next. Raises UserError if one is missing."""
    memory = _Memory()
    with ThreadPoolExecutor() as pool:  # hashing leaves other threads their turn
        digests = list(pool.map(memory.sha256, paths))
    memory.save()
    return digests


def source_files(source: Digits | Parquet | ImageFolder) -> list[tuple[str, Path]]:
    """(name within the source, path) of every file that a source reads, in a fixed order.

    Names, not paths, enter the digest, so that a data set may lie elsewhere on another machine. Raises
    UserError for an empty or missing folder.
    """
    if isinstance(source, Digits):
        return [("digits", digits_file())]
    if isinstance(source, Parquet):
        return [
            (f"{part}/{i}", Path(p))
            for part in ("train", "test")
            for i, p in enumerate(getattr(source, part))
        ]
    trees = {"train": source.train} | ({"test": source.test} if source.test else {})
    tracked = {part for part, root in trees.items() if _pointer(Path(root)).is_file()}
    return [
        entry
        for part, root in trees.items()
        for entry in ([(part, Path(root))] if part in tracked else _tree(part, Path(root)))
    ]


def data_files(source: Source) -> list[tuple[str, Path]]:
    """Likewise every single file, also below a folder that DVC tracks and of torchvision's data sets."""
    if isinstance(source, Torchvision):
        return torchvision_files(source.name, Path(source.root))
    if isinstance(source, ImageFolder):
        trees = {"train": source.train} | ({"test": source.test} if source.test else {})
        return [entry for part, root in trees.items() for entry in _tree(part, Path(root))]
    return source_files(source)


def _tree(part: str, root: Path) -> list[tuple[str, Path]]:
    """The images of a folder tree."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; image_folder needs a folder a class below it")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"{root}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [(f"{part}/{path.relative_to(root)}", path) for path in files]


def _pointer(path: Path) -> Path:
    return path.with_name(path.name + ".dvc")


class _Memory:
    """SHA-256 of files, remembered by path, size and time of change: a start does not read 100 GB again."""

    def __init__(self) -> None:
        try:
            self.known: dict[str, list[Any]] = json.loads(MEMORY.read_text())
        except (OSError, ValueError):
            self.known = {}
        self.changed = False

    def digest(self, path: Path) -> str:
        pointer = _pointer(path)
        if pointer.is_file():
            return str(yaml.safe_load(pointer.read_text())["outs"][0]["md5"])
        return self.sha256(path)

    def sha256(self, path: Path) -> str:
        try:
            status = path.stat()
            entry = self.known.get(str(path.resolve()))
            if entry is None or entry[:2] != [status.st_size, status.st_mtime_ns]:
                entry = [status.st_size, status.st_mtime_ns, sha256(path)]
                self.known[str(path.resolve())] = entry
                self.changed = True
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; it is named as a data file in the params") from None
        return str(entry[2])

    def save(self) -> None:
        if self.changed:
            from hlrs.artifacts import write_json

            write_json(MEMORY, self.known)


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
