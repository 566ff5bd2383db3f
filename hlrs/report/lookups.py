"""What a table of accuracies says of the genotypes, beside the floor: what needs no search."""

import statistics
from dataclasses import dataclass
from typing import Any

from hlrs.report.runs import Results, Run, by_draw, once, search_means
from hlrs.report.statistics import interval, spread, units, within
from hlrs.report.tables import Cell, Column, Group, Table, deviations, seeds_of
from hlrs.report.wording import NOTHING, grouped, percent

RANDOM, COUNT = "random cell", "largest cell"  # the floor's rows


@dataclass(frozen=True)
class Floor:
    """What needs no search: a random cell's expected accuracy, and the plain count 9 · conv3×3 + conv1×1.

    `column`: of the table; `best`: its largest accuracy; `count`: the accuracy of the cell with the largest
    count; `correlation`: Spearman's, of the counts and the accuracies of all `cells`. Accuracies are
    fractions.
    """

    column: str
    cells: int
    best: float
    random: float
    count: float
    correlation: float | None

    @property
    def rows(self) -> dict[str, float]:
        """The accuracies by what has them."""
        return {RANDOM: self.random, COUNT: self.count}

    @property
    def words(self) -> str:
        """The floor in a sentence."""
        return (
            f"Floor, without a search: a {RANDOM} of the table has {percent(self.random)} % on average, the "
            f"{COUNT} {percent(self.count)} %; the count 9·conv3×3 + conv1×1 alone ranks all "
            f"{grouped(self.cells)} cells by {self.column} with a rank correlation of {self.rho}."
        )

    @property
    def rho(self) -> str:
        """The rank correlation, two digits."""
        return NOTHING if self.correlation is None else f"{self.correlation:.2f}".replace("-", "−")


def floor_of(results: Results, dataset: str) -> Floor | None:
    """Return the floor of a data set's rankings; None without a look-up."""
    found = next((run.lookup for run in results.runs if run.dataset == dataset and run.lookup), None)
    if found is None:
        return None
    name = results.params["datasets"][dataset]["table_column"]
    column = found["columns"][name]
    best, mean, count = (column[fact] / 100 for fact in ("best", "mean", "count_accuracy"))
    return Floor(name, found["cells"], best, mean, count, column["count_correlation"])


def lookups_table(results: Results, dataset: str) -> Table | None:
    """Build one row per method whose genotypes the table has, then the floor's; None without a look-up."""
    floor = floor_of(results, dataset)
    if floor is None:
        return None
    labels = ("Searches", "Accuracy", "Regret", "Rank", "Percentile", "No convolution", "Best", "Worst")
    columns = [Column("Method", text=True), *map(Column, labels)]
    rows = [
        [Cell(method, seeds_of(dataset, method)), *_judged(results, found)]
        for method, runs in results.methods(dataset).items()
        if (found := [run for run in once(runs) if run.lookup])
    ]
    without = [
        [
            Cell(name, detail=f"rank correlation {floor.rho}" if name == COUNT else ""),
            Cell(NOTHING),
            Cell(percent(accuracy)),
            Cell(percent(floor.best - accuracy)),
            *[Cell(NOTHING)] * 5,
        ]
        for name, accuracy in floor.rows.items()
    ]
    return Table(f"Table accuracies on {dataset}", columns, [Group(rows), Group(without, "Without a search")])


def _judged(results: Results, runs: list[Run]) -> list[Cell]:
    """The cells of a method's row; `runs`: one per search."""
    accuracies = [run.metrics["table_accuracy"] for run in runs]
    draws = by_draw(search_means(runs, "table_accuracy"))
    means = units(draws)
    span = interval(means, results.report["confidence"])
    ranks = sorted(run.metrics["table_rank"] for run in runs)
    around = deviations(spread(means), within(draws) if len(draws) > 1 else None)
    lookups: list[dict[str, Any]] = [run.lookup for run in runs if run.lookup]
    return [
        Cell(str(len(runs))),
        Cell(
            " ".join([percent(statistics.fmean(means)), *around]),
            detail=f"{percent(span[0])} to {percent(span[1])}" if span else "",
        ),
        Cell(percent(statistics.fmean(run.metrics["table_regret"] for run in runs))),
        Cell(
            _middle(ranks),
            detail=f"{grouped(ranks[0])} to {grouped(ranks[-1])}" if len(runs) > 1 else "",
        ),
        Cell(percent(statistics.fmean(run.metrics["table_percentile"] for run in runs))),
        Cell(f"{sum(found['collapsed'] for found in lookups)} of {len(lookups)}"),
        Cell(percent(max(accuracies))),
        Cell(percent(min(accuracies))),
    ]


def _middle(ranks: list[int]) -> str:
    """Write the median, a whole number or halfway between two."""
    whole, half = divmod(statistics.median(ranks), 1)
    return grouped(whole) + (".5" if half else "")
