"""Image files listed in text files."""

import posixpath
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlrs.config.data import ListFile
from hlrs.data.sources.base import Named, regular, single
from hlrs.data.sources.folders import FilesSource
from hlrs.errors import UserError


class ListSource(FilesSource):
    """Images below a folder, listed with their labels in text files of "path label" lines."""

    def __init__(self, spec: ListFile) -> None:
        names, train = _read_list(Path(spec.train))
        classes = _known_classes(spec, train)
        test = np.empty(0, dtype=np.int64)
        if spec.test:
            others, test = _read_list(Path(spec.test))
            beyond = np.flatnonzero(test >= len(classes))
            if len(beyond):
                where = _line(Path(spec.test), int(beyond[0]))
                found = f"{where}: label {test[beyond[0]]} is none of 0 to {len(classes) - 1}"
                raise UserError(f"{found}, those of {spec.train}; use lists of one data set")
            both = set(names).intersection(others)
            if both:
                found = f"{len(both)} of {len(others)} images are also in {spec.train}"
                first = next(name for name in others if name in both)
                raise UserError(
                    f"{spec.test}: {found}, the first is {first}; training images cannot be test "
                    "images: remove them from one of the lists"
                )
            names += others
        self.names = names
        self.files = [f"{spec.root}/{name}" for name in names]
        super().__init__(classes, 3, train, test)


def list_files(spec: ListFile) -> list[Named]:
    """List the text files, and the root with the images that they name. UserError as for `open_source`."""
    fields = {field: getattr(spec, field) for field in ("train", "test", "classes")}
    files = [single(field, str(Path(path))) for field, path in fields.items() if path is not None]
    root = str(Path(spec.root))
    return [
        *files,
        Named("root", root, lambda: [(f"root/{n}", f"{root}/{n}") for n in ListSource(spec).names]),
    ]


def _known_classes(spec: ListFile, labels: NDArray[np.int64]) -> list[str]:
    """Return class names from their file, or numbers; UserError for a class without training images."""
    found = np.unique(labels)
    count = int(found[-1]) + 1
    names: list[str] | None = None
    if spec.classes:
        names = read_class_names(Path(spec.classes))
        if count > len(names):
            where = _line(Path(spec.train), int(labels.argmax()))
            raise UserError(
                f"{where}: label {count - 1}, but {spec.classes} names {len(names)} classes, "
                f"0 to {len(names) - 1}; correct one of the two"
            )
        count = len(names)
    if len(found) < count:
        first = next(c for c, label in enumerate([*found, count]) if c != label)
        gaps = f"no image of {count - len(found):,} of the labels 0 to {count - 1:,}, the first is {first}"
        raise UserError(f"{spec.train}: {gaps}; number the classes that have images from 0 on")
    return names or [str(label) for label in range(count)]


def read_class_names(path: Path) -> list[str]:
    """Read class names from a text file, one per line; UserError if it cannot be read."""
    lines = _text(path, "a file of class names").split("\n")
    return [line.strip() for line in lines if line.strip()]


def _read_list(path: Path) -> tuple[list[str], NDArray[np.int64]]:
    """Read the paths, normalised, and labels of "path label" lines.

    A path may contain spaces, a line may be blank or end in blanks.
    """
    names, labels = [], []
    for number, line in enumerate(_text(path, "a list of images").split("\n"), 1):
        parts = line.rsplit(None, 1)
        if not parts:
            continue
        name, label = parts if len(parts) == 2 else (line, "")
        if not (label.isascii() and label.isdecimal() and len(label) < 10):
            raise UserError(
                f'{path}:{number}: {line.strip()[:80]!r} is not a "path label" line; '
                "a label is a whole number from 0 on"
            )
        if name.startswith("/") or "/../" in f"/{name}/":
            raise UserError(f"{path}:{number}: {name} is not below source.root; give paths relative to it")
        if "\0" in name:
            raise UserError(f"{path}:{number}: {name!r} holds a NUL character; correct the path")
        names.append(posixpath.normpath(name))  # an image has one spelling
        labels.append(int(label))
    if not names:
        raise UserError(f'{path}: lists no images; write "path label" lines into it')
    repeated = len(names) - len(set(names))
    if repeated:
        first = {name: i for i, name in reversed([*enumerate(names)])}
        entry = next(i for i, name in enumerate(names) if first[name] != i)
        found = f"{names[entry]} is listed twice; {repeated:,} of {len(names):,} lines repeat an image"
        raise UserError(f"{_line(path, entry)}: {found}: list each once")
    return names, np.array(labels, dtype=np.int64)


def _line(path: Path, entry: int) -> str:
    """Name the file and line of an entry of a list."""
    lines = _text(path, "a list of images").split("\n")
    return f"{path}:{[number for number, line in enumerate(lines, 1) if line.strip()][entry]}"


def _text(path: Path, what: str) -> str:
    try:
        regular(path)
        return path.read_text(encoding="utf-8-sig")  # with or without a byte order mark
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; it is named in the params as {what}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not text in UTF-8; it is named in the params as {what}") from None
