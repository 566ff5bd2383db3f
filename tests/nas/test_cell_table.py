"""Tables of cells: what they say of a cell, worked out by hand, and the one line for every broken one."""

from pathlib import Path

import pytest

from hlrs.errors import UserError
from hlrs.nas.cell_table import check_column, operations, read_table_of_cells, size

REAL = Path(__file__).parents[2].parent / "shared/data/nasbench201.csv"


def cell(*of: str) -> str:
    return "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*of)


SKIPS = cell(*["skip_connect"] * 6)
NONES = cell(*["none"] * 6)
POOLS = cell(*["avg_pool_3x3"] * 5, "none")
POINTS = cell(*["nor_conv_1x1"] * 6)  # plain count 6
ONE = cell("nor_conv_3x3", *["none"] * 4, "nor_conv_1x1")  # 9 + 1
ALL = cell(*["nor_conv_3x3"] * 6)  # 54
ROWS = {  # cell -> accuracies in the columns a and b
    SKIPS: (50.0, 30.0),
    POINTS: (80.0, 30.0),
    ALL: (90.0, 20.0),
    ONE: (94.0, 10.0),
    NONES: (10.0, 1.0),
}


def lines(rows=ROWS, header="cell,a,b") -> str:
    return "\n".join([header, *(f"{name},{a},{b}" for name, (a, b) in rows.items())]) + "\n"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text(lines())
    return path


# --- numbers ------------------------------------------------------------------------------------------


def test_operations_are_read_in_the_order_of_the_edges():
    text = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"
    assert operations(text) == [
        "nor_conv_3x3",
        "none",
        "skip_connect",
        "avg_pool_3x3",
        "nor_conv_1x1",
        "none",
    ]
    assert [size(each) for each in (text, SKIPS, ONE, ALL)] == [10, 0, 10, 54]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "|none~0|",
        ALL[:-1],
        ALL.replace("~2", "~1"),
        ALL.replace("~2", "~3"),
        ALL.replace("3x3", "5x5", 1),
        f"{ALL}+{ALL}",
        f" {ALL}",
    ],
)
def test_what_is_not_a_cell_is_refused(text):
    with pytest.raises(ValueError, match=r"not a cell|node \d|nodes besides"):
        operations(text)


def test_a_cell_is_judged_by_every_column(table):
    """Column a: 94, 90, 80, 50, 10, mean 324/5; column b: 30, 30, 20, 10, 1, mean 91/5.

    Plain counts, in the order of the file: 0, 6, 54, 10, 0; ranks 1.5, 3, 5, 4, 1.5, deviations from their
    mean −1.5, 0, 2, 1, −1.5. Ranks of a: 2, 3, 4, 5, 1, deviations −1, 0, 1, 2, −2: ρ = (1.5 + 2 + 2 + 3) /
    √(9.5 · 10). Ranks of b: 4.5, 4.5, 3, 2, 1, deviations 1.5, 1.5, 0, −1, −2: ρ = (−2.25 − 1 + 3) /
    √(9.5 · 9.5).
    """
    found = read_table_of_cells(table).judge(POINTS)
    assert {name: found[name] for name in ("cell", "cells", "collapsed")} == {
        "cell": POINTS,
        "cells": 5,
        "collapsed": False,
    }
    assert found["columns"]["a"] == {
        "accuracy": 80.0,
        "best": 94.0,
        "regret": 14.0,
        "rank": 3,
        "percentile": 60.0,  # 50, 10 and itself, of 5
        "mean": pytest.approx(64.8),
        "count_correlation": pytest.approx(8.5 / 95**0.5),
        "count_accuracy": 90.0,
    }
    b = found["columns"]["b"]
    assert (b["rank"], b["percentile"], b["regret"], b["mean"]) == (1, 100.0, 0.0, pytest.approx(18.2))
    assert b["count_correlation"] == pytest.approx(-0.25 / 9.5)
    assert b["count_accuracy"] == 20.0


def test_equal_accuracies_share_the_better_rank(table):
    judged = read_table_of_cells(table).judge
    ranks = [judged(name)["columns"]["b"]["rank"] for name in ROWS]
    assert ranks == [1, 1, 3, 4, 5]
    assert [judged(name)["columns"]["b"]["percentile"] for name in ROWS] == [100, 100, 60, 40, 20]


def test_a_cell_without_a_convolution_is_collapsed(table):
    rows = ROWS | {POOLS: (1.0, 1.0)}
    table.write_text(lines(rows))
    judged = read_table_of_cells(table).judge
    assert {name for name in rows if judged(name)["collapsed"]} == {SKIPS, NONES, POOLS}


def test_the_first_of_the_largest_cells_counts(table):
    """ONE and its mirror image have a plain count of 10 each, the largest here."""
    mirror = cell("nor_conv_1x1", *["none"] * 4, "nor_conv_3x3")
    for rows, expected in (({ONE: (7, 7), mirror: (8, 8)}, 7), ({mirror: (8, 8), ONE: (7, 7)}, 8)):
        table.write_text(lines({SKIPS: (9, 9)} | rows))
        assert read_table_of_cells(table).judge(SKIPS)["columns"]["a"]["count_accuracy"] == expected


def test_equal_accuracies_have_no_rank_correlation(table):
    table.write_text(lines({SKIPS: (5, 1), ALL: (5, 2)}))
    columns = read_table_of_cells(table).judge(ALL)["columns"]
    assert [columns[name]["count_correlation"] for name in "ab"] == [None, pytest.approx(1)]


def test_the_published_table():
    if not REAL.is_file():
        pytest.skip(f"{REAL} is not here")
    table = read_table_of_cells(REAL)
    skips = table.judge(SKIPS)
    assert (skips["cells"], skips["collapsed"]) == (15_625, True)
    columns = skips["columns"]
    assert {n: (c["best"], c["accuracy"]) for n, c in columns.items()} == {
        "cifar10": (94.37, 54.30),
        "cifar100": (73.51, 15.61),
        "imagenet16_120": (47.31, 16.32),
    }
    assert round(columns["cifar10"]["count_correlation"], 2) == 0.75


# --- bad input ----------------------------------------------------------------------------------------

BROKEN = {
    "empty": ("", "must name a column cell"),
    "no column cell": (lines(header="arch,a,b"), "must name a column cell", "arch,a,b"),
    "no column of accuracies": (f"cell\n{ALL}\n", "must name a column cell"),
    "a column twice": (lines(header="cell,a,a"), "each once"),
    "no rows": ("cell,a\n", "has no rows"),
    "not a cell": (lines().replace("skip_connect~2", "skip~2"), ":2: ", "node 3", "'skip'"),
    "a cell twice": (lines() + f"{ONE},1,1\n", f":7: {ONE} is already in line 5"),
    "a field too few": (f"cell,a,b\n{ALL},1\n", ":2: has 2 columns, not 3"),
    "no accuracy": (f"cell,a,b\n{ALL},1,\n", ":2: b: '' is not an accuracy"),
    "no number": (f"cell,a,b\n{ALL},1,good\n", ":2: b: 'good' is not an accuracy"),
    "an underscore": (f"cell,a,b\n{ALL},1,9_0\n", ":2: b: '9_0' is not an accuracy"),
    "fractions": (f"cell,a,b\n{ALL},90,0.93\n{ONE},94,0.1\n", "b: no accuracy is above 0.93", "per cent"),
    "fractions up to 1": (f"cell,a\n{ALL},1\n{ONE},0.1\n", "a: no accuracy is above 1,"),
    "an unnamed column": (lines(header="cell,,b"), "must name a column cell", "'cell,,b'"),
    "NaN": (f"cell,a,b\n{ALL},nan,1\n", ":2: a: 'nan' is not an accuracy"),
    "above 100": (f"cell,a,b\n{ALL},100.5,1\n", ":2: a: '100.5' is not", "from 0 to 100"),
    "below 0": (f"cell,a,b\n{ALL},-1,1\n", ":2: a: '-1' is not"),
    "pickle": (b"\x80\x04\x95\xff", "not a CSV file in UTF-8"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_table_is_one_line_with_its_place(table, case):
    content, *said = BROKEN[case]
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_table_of_cells(table)
    line = str(error.value)
    assert line.startswith(str(table))
    assert [text for text in said if text not in line] == []
    assert "\n" not in line


def test_what_a_spreadsheet_adds_does_not_matter(table):
    """A byte order mark, carriage returns, quotes, blanks, empty lines."""
    plain = read_table_of_cells(table)
    text = lines().replace(ALL, f'"{ALL}" ').replace("\n", "\r\n\r\n")
    table.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_table_of_cells(table).judge(ALL) == plain.judge(ALL)


def test_a_missing_cell_is_one_line_that_names_it_and_the_file(table):
    with pytest.raises(UserError) as error:
        read_table_of_cells(table).judge(POOLS)
    assert str(error.value) == f"{table}: lacks the cell {POOLS}; add its row, or name another table"


@pytest.mark.parametrize(
    ("column", "said"), [(None, "d: is missing; write one of: a, b"), ("c", "d: 'c' is not a column of ")]
)
def test_a_column_that_the_table_lacks_is_one_line_with_those_it_has(table, column, said):
    check_column(read_table_of_cells(table), "d", "a")
    with pytest.raises(UserError) as error:
        check_column(read_table_of_cells(table), "d", column)
    assert str(error.value).startswith(said)
    assert str(error.value).endswith("write one of: a, b")
