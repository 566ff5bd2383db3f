"""The images that a command line names: files, folders, patterns, Parquet files."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from glob import glob
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from hlrs.data.sources.base import IMAGE_SUFFIXES
from hlrs.data.sources.folders import HIDDEN, is_image, unread
from hlrs.data.sources.parquet import count_rows, encoded_rows, has_images
from hlrs.errors import UserError

PARQUET = ".parquet"
READ = IMAGE_SUFFIXES | {PARQUET}

# each image's name, and its bytes or file, or why the rest of a Parquet file cannot be read
Encoded = Iterator[tuple[str, io.BytesIO | Path | UserError]]


class Images(NamedTuple):
    """Encoded images: how many in total, what yields them, and what a user should know of them."""

    total: int
    encoded: Callable[[], Encoded]
    remarks: tuple[str, ...] = ()


def find(name: str) -> Images:
    """Find the images that a file, a folder, a pattern or a Parquet file has. UserError if there are none.

    A Parquet file that cannot be opened counts as one image, which cannot be read.
    """
    if os.path.exists(name):  # noqa: PTH110 - Path.exists may raise
        found = _at(Path(name))
    elif any(sign in name for sign in "*?["):
        found = _joined([_at(match) for match in _matches(name)])
    else:
        raise UserError(f"{name}: no such file or folder; name images, folders, patterns or Parquet files")
    if not found.total:
        known = ", ".join(sorted(READ))
        raise UserError(f"{name}: no images in it; of a folder, files ending in {known} are read")
    return found


def _matches(pattern: str) -> list[Path]:
    """Find what a pattern matches, but nothing that lies in a folder that it matches as well."""
    matches = sorted(Path(match) for match in glob(pattern, recursive=True))  # noqa: PTH207 - also absolute
    if not matches:
        raise UserError(f"{pattern}: no file matches this pattern; correct it")
    folders = {match for match in matches if match.is_dir()}
    return [match for match in matches if folders.isdisjoint(match.parents)]


def _at(path: Path) -> Images:
    return _below(path) if path.is_dir() else _single(path)


def _joined(parts: Sequence[Images]) -> Images:
    return Images(
        sum(part.total for part in parts),
        lambda: chain.from_iterable(part.encoded() for part in parts),
        tuple(remark for part in parts for remark in part.remarks),
    )


def _below(folder: Path) -> Images:
    """Find the images of a folder: the image files, then those in Parquet files."""
    listed = sorted(_listed(folder))
    found = [path for path in listed if _holds_images(path)]
    files, tables = ([p for p in found if (p.suffix.lower() == PARQUET) is table] for table in (False, True))
    others = [str(path) for path in listed if path.suffix.lower() not in READ and is_image(str(path))]
    images = _joined([_files(files), *map(_single, tables)])
    return images._replace(remarks=tuple(unread(str(folder), others)))


def _listed(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield the files below a folder, through links, but none that a training leaves out as hidden."""
    real = os.path.realpath(folder)
    if real in above:  # by a link to a folder that it lies in
        return
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(HIDDEN)]
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; make it readable, or name its images") from None
    for entry in entries:
        if entry.is_dir():
            yield from _listed(entry, (*above, real))
        else:
            yield entry


def _holds_images(path: Path) -> bool:
    """Whether a file in a folder has a name of an image, or is a table of images."""
    if path.suffix.lower() != PARQUET:
        return path.suffix.lower() in IMAGE_SUFFIXES
    return path.is_file() and has_images(path)


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
    except UserError as error:  # which names an option of params.yaml, where there is none
        yield str(path), UserError(str(error).replace("set source.image_column", "call the column `image`"))


def _files(paths: list[Path]) -> Images:
    return Images(len(paths), lambda: ((str(path), path) for path in paths))
