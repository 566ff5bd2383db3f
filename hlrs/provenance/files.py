"""Digests of every file below a folder, each read once, and of each that cannot be read the reason."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hlrs.artifacts.jobs import STATE
from hlrs.provenance.dvc_lock import LOCK

BLOCK = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class Digests:
    """A file's digests, or why it cannot be read; `md5`, DVC's, only if there is a dvc.lock."""

    size: int
    sha256: str
    md5: str
    error: str = ""


def read_all(root: Path) -> tuple[dict[str, Digests], dict[str, str]]:
    """Digest the files below a folder, links followed; (path -> digests, path of any other -> why).

    The state that lies beside the results is left out.
    """
    regular: list[Path] = []
    odd: dict[str, str] = {}

    def unlisted(error: OSError) -> None:
        if os.path.lexists(error.filename):
            odd[error.filename] = f"cannot be listed: {error.strerror}"

    for folder, folders, names in os.walk(root, onerror=unlisted, followlinks=True):
        loops = [name for name in folders if _leads_up(Path(folder, name))]
        odd |= {str(Path(folder, name)): "is a link to a folder that holds it" for name in loops}
        folders[:] = [name for name in folders if name not in loops and Path(folder, name) != STATE]
        for path in (Path(folder, name) for name in names):
            if os.path.isfile(path):  # noqa: PTH113 - Path.is_file may raise
                regular.append(path)
            elif os.path.lexists(path):  # a temporary file may be gone by now
                odd[str(path)] = "is a link to nowhere" if path.is_symlink() else "is not a regular file"
    found = digests(sorted(regular))
    odd |= {path: f"cannot be read: {entry.error}" for path, entry in found.items() if entry.error}
    return {path: entry for path, entry in found.items() if not entry.error}, odd


def _leads_up(path: Path) -> bool:
    """Whether a path is a link to a folder above it: following it would not end."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def digests(paths: list[Path]) -> dict[str, Digests]:
    """Digest files side by side, a file that has several names once; with progress on a terminal."""
    md5 = LOCK.is_file()
    files: dict[Path, tuple[int, int, int]] = {}
    for path in paths:
        with suppress(FileNotFoundError):  # a job may have finished meanwhile
            status = path.stat()
            files[path] = status.st_dev, status.st_ino, status.st_size
    once = {identity: path for path, identity in files.items()}
    largest_first = sorted(once, key=lambda identity: -identity[2])
    with (
        tqdm(total=sum(i[2] for i in once), unit="B", unit_scale=True, disable=None, leave=False) as bar,
        ThreadPoolExecutor(max_workers=os.cpu_count()) as pool,
    ):
        found = dict(
            zip(largest_first, pool.map(lambda i: _digests(once[i], md5, bar), largest_first), strict=True)
        )
    return {str(path): found[identity] for path, identity in files.items()}


def _digests(path: Path, with_md5: bool, bar: "tqdm[Any]") -> Digests:
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(BLOCK):
                sha256.update(block)
                if with_md5:
                    md5.update(block)
                size += len(block)
                bar.update(len(block))
    except OSError as error:
        return Digests(size, "", "", error.strerror or str(error))
    return Digests(size, sha256.hexdigest(), md5.hexdigest() if with_md5 else "")
