"""The images that a command line names: files, folders, patterns, Parquet files."""

import io
from collections.abc import Callable, Iterator, Sequence
from glob import glob
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from hlrs.data.sources.base import IMAGE_SUFFIXES
from hlrs.data.sources.parquet import count_rows, encoded_rows, has_images
from hlrs.errors import UserError

PARQUET = ".parquet"

# each image's name, and its bytes or file, or why the rest of a Parquet file cannot be read
Encoded = Iterator[tuple[str, io.BytesIO | Path | UserError]]


class Images(NamedTuple):
    """Encoded images: how many in total, and what yields them."""

    total: int
    encoded: Callable[[], Encoded]


def find(name: str) -> Images:
    """Find the images that a file, a folder, a pattern or a Parquet file has. UserError if there are none.

    A Parquet file that cannot be opened counts as one image, which cannot be read.
    """
    path = Path(name)
    if path.exists():
        return _at(path)
    if any(sign in name for sign in "*?["):
        matches = sorted(Path(match) for match in glob(name, recursive=True))  # noqa: PTH207 - also absolute
        if not matches:
            raise UserError(f"{name}: no file matches this pattern; correct it")
        return _joined([_at(match) for match in matches])
    raise UserError(f"{name}: no such file or folder; name images, folders, patterns or Parquet files")


def _at(path: Path) -> Images:
    return _below(path) if path.is_dir() else _single(path)


def _joined(parts: Sequence[Images]) -> Images:
    return Images(
        sum(part.total for part in parts), lambda: chain.from_iterable(part.encoded() for part in parts)
    )


def _below(folder: Path) -> Images:
    """Find the images of a folder: the image files, then those in Parquet files."""
    found = sorted(path for path in folder.rglob("*") if _holds_images(path))
    if not found:
        known = ", ".join(sorted(IMAGE_SUFFIXES | {PARQUET}))
        raise UserError(f"{folder}: no images in this folder; files ending in {known} are read")
    files, tables = ([p for p in found if (p.suffix.lower() == PARQUET) is table] for table in (False, True))
    return _joined([_files(files), *map(_single, tables)])


def _holds_images(path: Path) -> bool:
    """Whether a file in a folder has a name of an image, or is a table of images."""
    if path.suffix.lower() != PARQUET:
        return path.suffix.lower() in IMAGE_SUFFIXES
    return path.is_file() and has_images(path)  # a folder of that name has its parts below


def _single(path: Path) -> Images:
    if path.suffix.lower() != PARQUET:
        return _files([path])
    try:
        return Images(count_rows(path), lambda: _rows(path))
    except UserError:
        return Images(1, lambda: _rows(path))


def _rows(path: Path) -> Encoded:
    try:
        yield from encoded_rows(path)
    except UserError as error:
        yield str(path), error


def _files(paths: list[Path]) -> Images:
    return Images(len(paths), lambda: ((str(path), path) for path in paths))
