"""Summaries over seeds, and paired differences to the reference method."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace

from hlrs.report.runs import Results, Run, by_seed, seed_means
from hlrs.report.statistics import bootstrap, holm, interval, p_value, spread, within

METRICS = {
    "top1": "Top-1",
    "balanced_accuracy": "Balanced",
    "many": "Many-shot",
    "medium": "Medium-shot",
    "few": "Few-shot",
    "ece": "Calibration error",
}
COMPARED = {"balanced_accuracy": "balanced accuracy", "top1": "top-1 accuracy"}


@dataclass(frozen=True)
class Summary:
    """A metric over the seeds, each the mean of its retrainings.

    `std`, a sample's (n − 1), and the bootstrap interval are None with one seed; `retrain_std` is that of the
    retrainings of one genotype, pooled, None with one retraining.
    """

    dataset: str
    method: str
    metric: str
    mean: float
    std: float | None
    seeds: int
    bootstrap_low: float | None
    bootstrap_high: float | None
    confidence: float
    retrain_std: float | None


@dataclass(frozen=True)
class Difference:
    """Mean of method − reference over common seeds; no interval and no p with one seed or without a spread.

    `low`, `high`: Student's interval, `p`: of the same t-test, both of this comparison by itself;
    `corrected`: p corrected by Holm for the `compared` methods of the data set that have one. `left_out`:
    seeds that only one side has.
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
    left_out: int

    @property
    def verdict(self) -> str:
        """What can be said: the corrected p decides, so the interval alone may leave out 0 without it."""
        if self.corrected is None:
            if self.seeds < 2:
                return "needs 2 seeds"
            return "same in every seed, so nothing to estimate chance from"
        if self.corrected >= 1 - self.confidence:
            return "no difference is shown"
        return "higher" if self.mean > 0 else "lower"


def summarize(results: Results) -> list[Summary]:
    """Every metric of every data set × method that at least one seed has."""
    confidence, resamples = results.report["confidence"], results.report["resamples"]
    found = []
    for dataset in results.classes:
        for method, runs in results.methods(dataset).items():
            for metric in METRICS:
                groups = by_seed(runs, metric)
                values = [statistics.fmean(group) for group in groups.values()]
                if values:
                    low, high = bootstrap(values, confidence, resamples) or (None, None)
                    found.append(
                        Summary(
                            dataset,
                            method,
                            metric,
                            statistics.fmean(values),
                            spread(values),
                            len(values),
                            low,
                            high,
                            confidence,
                            within(groups),
                        )
                    )
    return found


def compare(results: Results) -> list[Difference]:
    """Paired differences of every other method to the reference; none without a reference."""
    reference = results.report["reference"]
    found = []
    for dataset in results.classes:
        methods = results.methods(dataset)
        others = [(name, runs) for name, runs in methods.items() if name != reference]
        for metric in COMPARED if reference in methods else ():
            pairs = [difference(results, runs, methods[reference], metric) for _, runs in others]
            found += corrected(pair for pair in pairs if pair is not None)
    order = {(dataset, method): i for i, (dataset, method) in enumerate(_rows(results))}
    return sorted(found, key=lambda d: order[d.dataset, d.method])


def _rows(results: Results) -> list[tuple[str, str]]:
    return [(dataset, method) for dataset in results.classes for method in results.methods(dataset)]


def difference(results: Results, runs: list[Run], others: list[Run], metric: str) -> Difference | None:
    """A method against another, seed by seed, not corrected yet; None without a common seed."""
    mine, base = seed_means(runs, metric), seed_means(others, metric)
    values = [mine[seed] - base[seed] for seed in mine if seed in base]
    if not values:
        return None
    confidence = results.report["confidence"]
    no: tuple[None, None] = (None, None)
    low, high = interval(values, confidence) or no
    bootstrap_low, bootstrap_high = bootstrap(values, confidence, results.report["resamples"]) or no
    return Difference(
        runs[0].dataset,
        runs[0].method,
        others[0].method,
        metric,
        statistics.fmean(values),
        spread(values),
        low,
        high,
        bootstrap_low,
        bootstrap_high,
        confidence,
        p_value(values),
        None,
        0,
        len(values),
        len({run.seed for run in (*runs, *others)}) - len(values),
    )


def corrected(family: Iterable[Difference]) -> list[Difference]:
    """The differences of a family of comparisons, their p-values corrected for those of the others."""
    family = [*family]
    ps = [d.p for d in family if d.p is not None]
    found = iter(holm(ps))
    return [replace(d, compared=len(ps), corrected=None if d.p is None else next(found)) for d in family]
