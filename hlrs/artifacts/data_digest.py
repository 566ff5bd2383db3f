"""Digests of data: what a result depends on besides its parameters and its code."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hlrs.artifacts.cache import Cache
from hlrs.artifacts.dvc_pointers import tracked_hash
from hlrs.config.data import Source, Torchvision
from hlrs.data.sources.arrays import are_published, torchvision_folder
from hlrs.data.sources.base import ImageSource, Named, regular, remedy_for
from hlrs.data.sources.folders import files_below
from hlrs.data.sources.open import files_of
from hlrs.errors import UserError

MEMORY = Path(".hlrs/digests.json")  # file -> size, time of change, SHA-256
CONTENTS = Path(".hlrs/contents.json")  # digest of the names, sizes and times of files -> what was found
CHUNK = 1000  # files that a thread looks at in a row: a shared file system answers many at a time

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Look = tuple[int, int]  # a file's size in bytes and time of change in ns


def content_digest(source: Source) -> str:
    """Digest the content of a source: the names and bytes of its files.

    The identity of torchvision's published files stands for them, so that a data set has its key before its
    download, and DVC's hash for what DVC tracks. Both are checked against the files that are here; a file is
    read only if its size or time changed. Names, not paths, enter the digest, so that a data set may lie
    elsewhere on another machine. UserError for missing files, and for data that differ from DVC's pointer.
    """
    if source.identity is not None and _published(source):
        return source.identity
    named = files_of(source)
    pointers = {of.path: hashed for of in named if (hashed := _tracked(of))}
    files = [entry for of in named for entry in ([of[:2]] if of.path in pointers else of.files())]
    direct = {of.path for of in named}
    looks = _look_at([path for _, path in files if path in direct and path not in pointers])
    looks |= _look_at([path for _, path in files if path not in direct])
    seen = _digest(f"{name}\0{path}\0{pointers.get(path) or looks[path]}" for name, path in files)

    def digest() -> str:
        digests = pointers | _sha256s(looks)
        return _digest(f"{name} {digests[path]}" for name, path in files)

    return _once(seen, digest)


def _published(source: Torchvision) -> bool:
    """Return whether torchvision's files are the published ones, or still to be fetched."""
    folder = torchvision_folder(source)
    if not folder.is_dir():
        return True
    seen = _digest(f"{path}\0{look}" for path, look in _look_at(_tree(str(folder))).items())
    return bool(_once(seen, lambda: "published" if are_published(source) else ""))


def _tracked(of: Named) -> str | None:
    """Return the hash of a file or folder that DVC tracks, checked against its files; None if it does not."""
    path, pointer = of.path, f"{of.path}.dvc"
    if not Path(pointer).is_file():
        return None
    looks = _look_at(_tree(path))
    seen = _digest([sha256(Path(pointer)), *(f"{path}\0{look}" for path, look in looks.items())])
    return _once(seen, lambda: tracked_hash(path, _read_below(of)) or "") or None


def _read_below(of: Named) -> list[str]:
    """List the files that a source reads below a folder; none of a single file, or of a folder not here."""
    return [path for _, path in of.files() if path != of.path] if Path(of.path).is_dir() else []


def _tree(path: str) -> list[str]:
    """List a file, or every file below a folder; none if it is not here."""
    if Path(path).is_dir():
        return [*files_below(path, hidden=True)]
    return [path] if Path(path).exists() else []


def _once(seen: str, result: Callable[[], str]) -> str:
    """Return what was found when files looked like this, remembered from one start to the next."""
    contents = Cache[str](CONTENTS, str)
    known = contents.read()
    if seen not in known:
        known[seen] = result()
        contents.write(known)
    return known[seen]


def file_digests(paths: Iterable[Path | str]) -> list[str]:
    """SHA-256 of files, remembered from one start to the next. UserError if some are missing."""
    names = [str(path) for path in paths]
    digests = _sha256s(_look_at(names))
    return [digests[name] for name in names]


def leaks(source: ImageSource) -> list[str]:
    """Return a remark that counts test images with the bytes of a training image; UserError if all have.

    Only images in files of their own are compared.
    """
    count = len(source.train_labels)
    test = source.files[count:]
    if not test:
        return []
    digests = file_digests(source.files)
    trained = dict(zip(digests[:count], source.files[:count], strict=True))
    same = [(path, trained[d]) for path, d in zip(test, digests[count:], strict=True) if d in trained]
    if not same:
        return []
    found = f"{len(same):,} of {len(test):,} test images are training images, such as {same[0][0]}"
    if len(same) == len(test):
        raise UserError(f"{found}; name other images under source.test than under source.train")
    return [f"{found}, which is {same[0][1]}; accuracies on them say little"]


def data_files(source: Source) -> list[tuple[str, Path]]:
    """(name within the source, path) of every single file, also below a folder that DVC tracks."""
    return [(name, Path(path)) for named in files_of(source) for name, path in named.files()]


# --- what is remembered -------------------------------------------------------------------------------


def _look_at(paths: Sequence[str]) -> dict[str, Look]:
    """Size and time of change of every file. UserError that counts those out of reach and names the first."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor(16) as pool:
        found = dict(zip(paths, chain.from_iterable(pool.map(_looks, chunks)), strict=True))
    errors = {path: look for path, look in found.items() if isinstance(look, OSError)}
    for path, error in errors.items():
        count = f"{len(errors):,} of {len(paths):,} data files cannot be reached"
        remedy = remedy_for(path, "put them there or correct the params")
        raise UserError(f"{path}: {error.strerror}; {count}: {remedy}")
    return {path: look for path, look in found.items() if not isinstance(look, OSError)}


def _looks(paths: Sequence[str]) -> list[Look | OSError]:
    found: list[Look | OSError] = []
    for path in paths:
        try:
            status = regular(path)
            found.append((status.st_size, status.st_mtime_ns))
        except OSError as error:
            found.append(error)
    return found


def _sha256s(looks: Mapping[str, Look]) -> dict[str, str]:
    """SHA-256 of files, read where size or time are not those remembered; kept also if it is cut short."""
    cache = Cache[tuple[int, int, str]](MEMORY, tuple[int, int, Sha256])
    memory = cache.read()
    here = Path.cwd()
    keys = {path: path if path.startswith("/") else f"{here}/{path}" for path in looks}
    due = [path for path, look in looks.items() if memory.get(keys[path], ())[:2] != look]
    try:
        with ThreadPoolExecutor() as pool:  # hashing leaves other threads their turn
            for path, digest in zip(due, pool.map(_read, due), strict=True):
                memory[keys[path]] = (*looks[path], digest)
    finally:
        if due:
            cache.write(memory)
    return {path: memory[keys[path]][2] for path in looks}


def _read(path: str) -> str:
    try:
        return sha256(Path(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; it is named as a data file in the params") from None


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
