"""A table of accuracies of NAS-Bench-201's cells (Dong & Yang 2020), and how it judges one cell."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hlrs.config.spaces import NasBench201Space
from hlrs.errors import UserError

Floats = npt.NDArray[np.float64]

CONVOLUTIONS = {"nor_conv_3x3": 9, "nor_conv_1x1": 1}  # weights per pair of channels
KEY = "cell"  # the column of the cells
NODES = 3  # of a cell, its input aside


def operations(cell: str) -> list[str]:
    """Return the operations of a cell's six edges, in order; ValueError if the text is not such a cell."""
    nodes = NasBench201Space.parse_cell(cell)
    if len(nodes) != NODES:
        raise ValueError(
            f"{cell[:100]!r} has {len(nodes)} nodes besides its input; the benchmark's have {NODES}"
        )
    return [operation for node in nodes for operation, _ in node]


def size(cell: str) -> int:
    """Return 9 · (number of 3×3 convolutions) + (number of 1×1 convolutions), our own plain predictor."""
    return sum(CONVOLUTIONS.get(operation, 0) for operation in operations(cell))


@dataclass(frozen=True)
class CellTable:
    """Cells in the order of the file, each once.

    `sizes`: their plain counts, int64 [cells]; `accuracies`: by column, float64 [cells], per cent.
    """

    path: Path
    cells: list[str]
    sizes: npt.NDArray[np.int64]
    accuracies: dict[str, Floats]

    def judge(self, cell: str) -> dict[str, Any]:
        """Return what the table says of a cell, as JSON values.

        `cell`; `cells`: their number; `collapsed`: whether the cell has no convolution; `columns`: by column
        `accuracy`, `best` (of the table), `regret` (best − accuracy) and `mean`, the expected accuracy of a
        cell drawn uniformly, all in per cent; `rank`: 1 + the number of better cells; `percentile`: the share
        of cells that are not better, this one included, in per cent, so that the best cells have 100; and
        the two rules of `plain_count`. UserError for a cell that the table lacks.
        """
        if cell not in self.cells:
            raise UserError(f"{self.path}: lacks the cell {cell}; add its row, or name another table")
        row = self.cells.index(cell)
        columns = {}
        for name, values in self.accuracies.items():
            accuracy, best, better = values[row], values.max(), int((values > values[row]).sum())
            columns[name] = {
                "accuracy": float(accuracy),
                "best": float(best),
                "regret": float(best - accuracy),
                "rank": 1 + better,
                "percentile": 100 * (len(values) - better) / len(values),
                "mean": float(values.mean()),
                **plain_count(self.sizes, values),
            }
        return {
            "cell": cell,
            "cells": len(self.cells),
            "collapsed": not CONVOLUTIONS.keys() & operations(cell),
            "columns": columns,
        }


def plain_count(sizes: npt.NDArray[np.int64], accuracies: Floats) -> dict[str, float | None]:
    """Return how well the plain count predicts, the floor of every ranking of cells.

    `count_correlation`: Spearman's rank correlation of `sizes` and `accuracies`, both [cells], None where
    either is constant; `count_accuracy`: the accuracy of the largest cell, the first of equals, in per cent.
    """
    varies = np.ptp(sizes) > 0 and np.ptp(accuracies) > 0
    rho = np.corrcoef(_ranks(sizes), _ranks(accuracies))[0, 1] if varies else None
    return {
        "count_correlation": None if rho is None else float(rho),
        "count_accuracy": float(accuracies[sizes.argmax()]),
    }


def _ranks(values: npt.NDArray[Any]) -> Floats:
    """Return the ranks of values [n], from 1 for the smallest; equal values share the mean of theirs."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[group]
    return ranks


def read_table_of_cells(path: Path) -> CellTable:
    """Read a CSV with a column `cell` and columns of accuracies in per cent.

    UserError, with the line, for what is not a cell, a cell that comes twice, and an accuracy that is
    missing, no number or not from 0 to 100; with the column, for accuracies that are fractions.
    """
    header, rows = _rows(path)
    if KEY not in header or len(header) < 2 or len(set(header)) < len(header) or "" in header:
        raise UserError(
            f"{path}: the first line must name a column {KEY} and, each once, columns of accuracies, not "
            f"{','.join(header)[:100]!r}"
        )
    place = header.index(KEY)
    cells: dict[str, int] = {}
    sizes, values = [], []
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(f"{path}:{line}: has {len(row)} columns, not {len(header)}; complete the row")
        try:
            sizes.append(size(row[place]))
        except ValueError as error:
            raise UserError(f"{path}:{line}: {error}") from None
        if row[place] in cells:
            raise UserError(f"{path}:{line}: {row[place]} is already in line {cells[row[place]]}; keep one")
        cells[row[place]] = line
        values.append(
            [_accuracy(v, f"{path}:{line}: {n}") for n, v in zip(header, row, strict=True) if n != KEY]
        )
    if not cells:
        raise UserError(f"{path}: has no rows below its first line; name a table with cells")
    tasks = [name for name in header if name != KEY]
    accuracies = dict(zip(tasks, np.array(values).T, strict=True))
    for name, column in accuracies.items():
        if column.max() <= 1 and (column % 1).any():
            raise UserError(
                f"{path}: {name}: no accuracy is above {column.max():g}, so these are fractions; write per "
                "cent, 100 times as much"
            )
    return CellTable(path, [*cells], np.array(sizes), accuracies)


def _rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the first line of a CSV, and its other lines with their numbers, blank ones left out."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, [field.strip() for field in row]) for row in reader if row]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; evaluate.table must name a CSV file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({error}); hlrs reads no other format") from None
    return (lines[0][1], lines[1:]) if lines else ([], [])


def _accuracy(text: str, place: str) -> float:
    """Convert an accuracy; UserError if it is none."""
    try:
        value = np.nan if "_" in text else float(text)  # Python reads 9_0 as 90
    except ValueError:
        value = np.nan
    if not 0 <= value <= 100:
        raise UserError(
            f"{place}: {text[:100]!r} is not an accuracy in per cent; write a number from 0 to 100"
        )
    return value


def check_column(table: CellTable, field: str, column: str | None) -> None:
    """Raise UserError, which lists the columns, if `column`, the value of `field`, is not one of them."""
    if column not in table.accuracies:
        said = "is missing" if column is None else f"{column!r} is not a column of {table.path}"
        raise UserError(f"{field}: {said}; write one of: {', '.join(table.accuracies)}")
