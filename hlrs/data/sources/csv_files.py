"""Image files listed in CSV files."""

import csv
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from hlrs.config.data import Csv
from hlrs.data.sources.base import PARTS, Named, regular, single
from hlrs.data.sources.folders import FilesSource
from hlrs.errors import UserError

DELIMITERS = ",;\t"


class Row(NamedTuple):
    """An image, below the root, with its label and where it is listed."""

    name: str
    label: str
    file: str
    line: int

    @property
    def where(self) -> str:
        """The file and line."""
        return f"{self.file}:{self.line}"


class CsvSource(FilesSource):
    """Images below a folder, listed with their labels in columns of CSV files.

    The classes are the sorted labels of the training images; in the order of their values if all are numbers.
    """

    def __init__(self, spec: Csv) -> None:
        train, test = ([*_rows(path, spec)] if (path := getattr(spec, part)) else [] for part in PARTS)
        _check_listed_once([*train, *test])
        labels = {row.label for row in train}
        classes = sorted(labels, key=_value if all(map(_is_number, labels)) else str)
        number = {label: c for c, label in enumerate(classes)}
        for row in test:
            if row.label not in number:
                found = f"{row.where}: label {row.label!r} is none of the {len(classes)} of {spec.train}"
                raise UserError(f"{found}, {', '.join(classes)[:80]}; correct the label")
        self.names = [row.name for row in (*train, *test)]
        self.files = [f"{spec.root}/{name}" for name in self.names]
        numbered = (np.array([number[row.label] for row in rows], dtype=np.int64) for rows in (train, test))
        super().__init__(classes, 3, *numbered)


def csv_files(spec: Csv) -> list[Named]:
    """List the CSV files, and the root with the images that they name. UserError as for `open_source`."""
    files = [single(part, str(Path(path))) for part in PARTS if (path := getattr(spec, part))]
    root = str(Path(spec.root))
    return [
        *files,
        Named("root", root, lambda: [(f"root/{n}", f"{root}/{n}") for n in CsvSource(spec).names]),
    ]


def _rows(path: str, spec: Csv) -> Iterator[Row]:
    """Yield the rows of a CSV file, paths normalised; UserError for one that names no image or label."""
    for image, label, line in _cells(path, spec):
        for column, cell in ((spec.image, image), (spec.label, label)):
            if not cell:
                raise UserError(f"{path}:{line}: {column} is empty; fill it, or leave the line out")
        name = f"{image}{spec.suffix}"
        if name.startswith("/") or "/../" in f"/{name}/":
            raise UserError(f"{path}:{line}: {name} is not below source.root; give paths relative to it")
        if "\0" in name:
            raise UserError(f"{path}:{line}: {name!r} holds a NUL character; correct the path")
        yield Row(posixpath.normpath(name), label, path, line)  # an image has one spelling


def _cells(path: str, spec: Csv) -> list[tuple[str, str, int]]:
    """Read the image and label of each line that is not blank, and its number; "" for cells that lack."""
    try:
        regular(path)
        with Path(path).open(encoding="utf-8-sig", newline="") as file:  # with or without a byte order mark
            reader = csv.reader(file, delimiter=_delimiter(file, spec), skipinitialspace=True, strict=True)
            rows = (row for row in reader if any(map(str.strip, row)))  # spreadsheets write blank lines as ,,
            columns = [name.strip() for name in next(rows, [])]
            image, label = (
                _place(path, columns, field, getattr(spec, field)) for field in ("image", "label")
            )
            short = [""] * len(columns)
            lines = ((row + short[len(row) :], reader.line_num) for row in rows)
            cells = [(row[image].strip(), row[label].strip(), line) for row, line in lines]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; it is named in the params as a CSV file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not text in UTF-8; save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not CSV ({error}); correct the line") from None
    if not cells:
        raise UserError(f"{path}: lists no images; add a line per image below the names of the columns")
    return cells


def _delimiter(file: TextIO, spec: Csv) -> str:
    """Find what separates the names of columns; spreadsheets write semicolons and tabs, too.

    It is what makes most of the columns asked for appear, then most columns: a name may hold any of them.
    """
    header = next(filter(str.strip, file), "")
    file.seek(0)

    def columns(delimiter: str) -> tuple[int, int]:
        names = [name.strip('" \r\n') for name in header.split(delimiter)]
        return sum(name in names for name in (spec.image, spec.label)), len(names)

    return max(DELIMITERS, key=columns)


def _place(path: str, columns: list[str], field: str, name: str) -> int:
    """Find the place of the column that a field names; UserError unless it is there once."""
    if name not in columns:
        there = ", ".join(map(repr, columns[:20]))
        raise UserError(f"{path}: no column {name!r} in its first line; source.{field} may be {there}")
    if columns.count(name) > 1:
        raise UserError(f"{path}: {columns.count(name)} columns are named {name!r}; rename one of them")
    return columns.index(name)


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdecimal() and len(label) < 10


def _value(label: str) -> tuple[int, str]:
    return int(label), label  # 1 and 01 are two classes


def _check_listed_once(rows: list[Row]) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        if (other := first.setdefault(row.name, row)) is not row:
            raise UserError(
                f"{row.where}: {row.name} is listed in {other.where} already; list each image once, and "
                "no training image as a test image"
            )
