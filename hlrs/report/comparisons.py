"""Summaries over seeds and draws, and paired differences from the reference method."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace

from hlrs.report.runs import ENERGY, GAP, Results, Run, by_draw, by_search, search_means
from hlrs.report.statistics import bootstrap, holm, interval, p_value, spread, units, within

METRICS = {
    "top1": "Top-1",
    "balanced_accuracy": "Balanced",
    "many": "Many-shot",
    "medium": "Medium-shot",
    "few": "Few-shot",
    "adjusted_top1": "Adjusted: top-1",
    "adjusted_balanced_accuracy": "Adjusted: balanced",
    "adjusted_many": "Adjusted: many-shot",
    "adjusted_medium": "Adjusted: medium-shot",
    "adjusted_few": "Adjusted: few-shot",
    "ece": "Calibration error",
    "table_accuracy": "Table accuracy",
    "table_regret": "Regret",
    GAP: "Discretisation gap",
}
COMPARED = {
    "balanced_accuracy": "balanced accuracy",
    "top1": "top-1 accuracy",
    "table_accuracy": "table accuracy",
}
# of the evaluated network; the energy in pJ, where some multiplications are approximate
SIZES = {"weights": "Weights", "multiply_adds": "Multiply-adds", ENERGY: "Energy, pJ"}
# of a look-up and of a search: summarized, but neither compared nor in the page's table
BESIDE = ("table_rank", "table_percentile", "supernet_accuracy", "decoded_accuracy")
NONE: tuple[None, None] = (None, None)


@dataclass(frozen=True)
class Summary:
    """A metric over the seeds, each the mean of its retrainings.

    With several draws of the images it is over these, each the mean of its seeds. `std` (of a sample, n − 1)
    and the bootstrap interval are None with one seed. `seeds`: of all draws. `seed_std`: the pooled standard
    deviation of the seeds of one draw, None with one draw. `retrain_std`: that of the retrainings of one
    genotype, None with one retraining.
    """

    dataset: str
    method: str
    metric: str
    mean: float
    std: float | None
    seeds: int
    draws: int
    bootstrap_low: float | None
    bootstrap_high: float | None
    confidence: float
    seed_std: float | None
    retrain_std: float | None


@dataclass(frozen=True)
class Difference:
    """Mean of method − reference over their common seeds; intervals and p-values are None without a spread.

    With several draws of the images, it is over these, each the mean of its seeds. `low`, `high`: Student's t
    interval, `p`: the p-value of the same t-test, both of this comparison alone; `corrected`: the p-value
    corrected (Holm) for the `compared` methods of the data set. `seeds`: of all draws; `left_out`: how many
    seeds only one side has.
    """

    dataset: str
    method: str
    reference: str
    metric: str
    mean: float
    std: float | None
    low: float | None
    high: float | None
    bootstrap_low: float | None
    bootstrap_high: float | None
    confidence: float
    p: float | None
    corrected: float | None
    compared: int
    seeds: int
    draws: int
    left_out: int

    @property
    def unit(self) -> str:
        """What is independent: a draw of the images if there are several, else a seed."""
        return "draw" if self.draws > 1 else "seed"

    @property
    def verdict(self) -> str:
        """The conclusion from the corrected p-value; the interval alone may exclude 0 without it."""
        if self.corrected is None:
            return "needs 2 seeds" if self.seeds < 2 else f"same in every {self.unit}"
        if self.corrected >= 1 - self.confidence:
            return "not significant"
        return "higher" if self.mean > 0 else "lower"


def known(results: Results) -> dict[str, str]:
    """Return the metrics, and their labels, that some run has."""
    return {name: label for name, label in METRICS.items() if any(name in r.metrics for r in results.runs)}


def known_sizes(results: Results) -> dict[str, str]:
    """Return the sizes of networks, and their labels, that some evaluation has."""
    return {name: label for name, label in SIZES.items() if any(name in r.metrics for r in results.runs)}


def deciding(results: Results) -> list[str]:
    """Return the metrics by which methods are judged, the one that decides first.

    A retrained network's balanced accuracy comes before the look-up of its genotype in a table.
    """
    return [metric for metric in ("balanced_accuracy", "table_accuracy") if metric in known(results)]


def summarize(results: Results) -> list[Summary]:
    """Summarize every metric of every data set × method that has it in at least one seed."""
    confidence, resamples = results.report["confidence"], results.report["resamples"]
    found = []
    for dataset in results.classes:
        for method, runs in results.methods(dataset).items():
            for metric in (*METRICS, *BESIDE, *SIZES):
                draws = by_draw(search_means(runs, metric))
                if not draws:
                    continue
                values = units(draws)
                low, high = bootstrap(values, confidence, resamples) or NONE
                found.append(
                    Summary(
                        dataset,
                        method,
                        metric,
                        mean=statistics.fmean(values),
                        std=spread(values),
                        seeds=sum(map(len, draws.values())),
                        draws=len(draws),
                        bootstrap_low=low,
                        bootstrap_high=high,
                        confidence=confidence,
                        seed_std=within(draws) if len(draws) > 1 else None,
                        retrain_std=within(by_search(runs, metric)),
                    )
                )
    return found


def compare(results: Results) -> list[Difference]:
    """Return the paired differences of every other method from the reference; empty without a reference."""
    reference = results.report["reference"]
    found: list[Difference] = []
    for dataset in results.classes:
        methods = results.methods(dataset)
        if reference not in methods:
            continue
        families = []
        for metric in COMPARED:
            pairs = [
                difference(results, runs, methods[reference], metric)
                for name, runs in methods.items()
                if name != reference
            ]
            families += corrected(pair for pair in pairs if pair is not None)
        found += sorted(families, key=lambda d: [*methods].index(d.method))
    return found


def difference(results: Results, runs: list[Run], others: list[Run], metric: str) -> Difference | None:
    """Compare a method against another, search by search, not yet corrected; None without a common one."""
    mine, base = search_means(runs, metric), search_means(others, metric)
    pairs = {search: mine[search] - base[search] for search in mine if search in base}
    if not pairs:
        return None
    draws = by_draw(pairs)
    values = units(draws)
    confidence = results.report["confidence"]
    low, high = interval(values, confidence) or NONE
    bootstrap_low, bootstrap_high = bootstrap(values, confidence, results.report["resamples"]) or NONE
    return Difference(
        runs[0].dataset,
        runs[0].method,
        others[0].method,
        metric,
        mean=statistics.fmean(values),
        std=spread(values),
        low=low,
        high=high,
        bootstrap_low=bootstrap_low,
        bootstrap_high=bootstrap_high,
        confidence=confidence,
        p=p_value(values),
        corrected=None,
        compared=0,
        seeds=len(pairs),
        draws=len(draws),
        left_out=len({run.pairing for run in (*runs, *others)}) - len(pairs),
    )


def corrected(family: Iterable[Difference]) -> list[Difference]:
    """Return a family of comparisons with their p-values corrected for one another."""
    family = [*family]
    ps = [d.p for d in family if d.p is not None]
    found = iter(holm(ps))
    return [replace(d, compared=len(ps), corrected=None if d.p is None else next(found)) for d in family]
