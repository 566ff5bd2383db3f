"""The report in words: numbers as readers see them, and the answer.

The answer claims no more than its tests: paired differences from the reference (same data set, draw
and seed), Student's t for the unknown spread, corrected for the methods compared.
"""

import math
import statistics

from hlrs.artifacts.records import UNKNOWN
from hlrs.report.comparisons import COMPARED, Difference, deciding
from hlrs.report.runs import Results, by_draw, search_means
from hlrs.report.statistics import interval, units

NOTHING = "–"
MOST_NAMED = 6  # methods of a data set with their accuracy; of more, the highest and the reference
MOST_SENTENCES = 12  # of the answer; more comparisons are summarized, one sentence per data set


# --- numbers ------------------------------------------------------------------------------------------


def percent(value: float | None) -> str:
    """Format a fraction in per cent, one decimal."""
    if value is None:
        return NOTHING
    return f"{round(100 * value, 6):z.1f}".replace("-", "−")  # rounded, so that equal means print alike


def points(value: float) -> str:
    """Format a difference in signed percentage points: one decimal, more where it would round to 0."""
    scaled = round(100 * value, 6)  # so that equal means print alike
    if abs(scaled) < 1e-9:
        return "0.0"
    return f"{scaled:+.{max(1, math.ceil(-math.log10(abs(scaled))))}f}".replace("-", "−")


def counted(number: float, noun: str) -> str:
    """Format a number with its noun: '1 seed', '3 seeds', '0.5 points'."""
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def chance(p: float, level: float) -> str:
    """Format a p-value with two digits, or as many as it takes to show on which side of the level it is."""
    if p < 0.0001:
        return "< 0.0001"
    level = round(level, 12)  # 1 − 0.95 is not 0.05
    shown = (f"{p:.{digits}g}" for digits in range(2, 18))
    return next((text for text in shown if float(text) != level), f"{p:.2g}")


def grouped(number: float) -> str:
    """Format a whole number, its thousands set apart."""
    return f"{number:,.0f}".replace(",", "\u202f")


def millions(number: float | None) -> str:
    """Format a number in millions, three digits."""
    if number is None:
        return NOTHING
    scaled = number / 1e6
    return grouped(scaled) if scaled >= 999.5 else f"{scaled:#.3g}".rstrip(".")


def hours(number: float) -> str:
    """Format hours with two digits, or whole hours from 10 on."""
    if number >= 10:
        return grouped(number)
    return "< 0.001" if number < 0.001 else f"{number:.1f}" if number >= 1 else f"{number:.2g}"


def duration(seconds: float | None) -> str:
    """Format seconds, minutes or hours, as a reader would say it."""
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{seconds / 60:.1f} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def memory(size: float | None) -> str:
    """Format bytes in MiB or GiB."""
    if size is None:
        return UNKNOWN
    if size < 10 * 2**20:
        return f"{size / 2**20:.2g} MiB"
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


# --- the answer ---------------------------------------------------------------------------------------


def answer(results: Results, differences: list[Difference]) -> list[str]:
    """Say whether it helped, by how much, and how certain that is: a headline, then one sentence each."""
    reference = results.report["reference"]
    if reference is None:
        return ["No reference method is set (report.reference), so methods are shown without a comparison."]
    main = [d for d in differences if d.metric == deciding(results)[0]]
    if not main:
        return [f"Only {reference} was run, so there is nothing to compare it with."]
    few = len(main) <= MOST_SENTENCES
    sentences = [_sentence(d) for d in main] if few else _sentences(results, main)
    if max(d.seeds for d in main) < 2:
        return ["One seed per method: too few to tell differences from chance.", *sentences]
    if len(main) == 1:
        return sentences
    return [_headline(reference, main), *sentences]


def accuracies(results: Results) -> list[str]:
    """Name the accuracy that decides of each method, highest first, in one sentence per data set."""
    metric = COMPARED[deciding(results)[0]].capitalize()
    methods = len(results.params["matrix"]["methods"])
    order = f", highest of {methods}" if methods > MOST_NAMED else ", best first" if methods > 1 else ""
    return [f"{metric} on {dataset}{order}: {_accuracies(results, dataset)}." for dataset in results.classes]


def _accuracies(results: Results, dataset: str) -> str:
    """List methods with their means, the highest with its interval; of many, that and the reference alone."""
    searches = {m: search_means(runs, deciding(results)[0]) for m, runs in results.methods(dataset).items()}
    values = {method: units(by_draw(means)) for method, means in searches.items() if means}
    order = sorted(values, key=lambda method: -statistics.fmean(values[method]))
    reference = results.report["reference"]
    many = len(results.params["matrix"]["methods"]) > MOST_NAMED
    if many:
        order = [method for method in order if method in (order[0], reference)]
    named = [f"{method} {percent(statistics.fmean(values[method]))} %" for method in order]
    if many and len(named) > 1:
        named[1] = f"reference {named[1]}"
    confidence = results.report["confidence"]
    if span := interval(values[order[0]], confidence):
        low, high = max(0.0, span[0]), min(1.0, span[1])  # Student's interval knows no bounds
        named[0] += f" ({100 * confidence:g} % interval {percent(low)} to {percent(high)} %)"
    return ", ".join(named)


def _headline(reference: str, differences: list[Difference]) -> str:
    """Summarize how many comparisons differ significantly, and by how much."""
    metric = COMPARED[differences[0].metric]
    shown = {
        verdict: [d.mean for d in differences if d.verdict == verdict] for verdict in ("higher", "lower")
    }
    tested = [d for d in differences if d.corrected is not None]
    left, untested = len(tested) - sum(map(len, shown.values())), len(differences) - len(tested)
    parts = [f"{verdict} in {len(means)} ({_range(means)})" for verdict, means in shown.items() if means]
    rest = f"; chance cannot be judged in {untested}" if untested and tested else ""
    if not tested:
        return f"In none of {len(differences)} comparisons with {reference} can chance be judged."
    if not parts:
        return f"No method differs significantly from {reference} in {metric}{rest}."
    if left:
        rest = f"; {'one is' if left == 1 else f'{left} are'} not significant{rest}"
    found = f"{' and '.join(parts)} of {len(differences)} comparisons{rest}"
    return f"Compared with {reference}, {metric} is {found}."


def _sentences(results: Results, differences: list[Difference]) -> list[str]:
    """Summarize many comparisons, one sentence per data set: the methods that differ, and how many do not."""
    found = []
    for dataset in results.classes:
        own: dict[str, list[Difference]] = {"higher": [], "lower": []}
        for d in differences:
            if d.dataset == dataset:
                own.setdefault(d.verdict, []).append(d)
        parts = [
            f"{verdict}: {', '.join(f'{d.method} {points(d.mean)}' for d in named)}"
            if verdict in ("higher", "lower")
            else f"{verdict}: {counted(len(named), 'method')}"
            for verdict, named in own.items()
            if named
        ]
        found += [f"{dataset}: {'; '.join(parts)}."] if parts else []
    return found


def _range(means: list[float]) -> str:
    """Write the smallest and the largest change."""
    first, last = (points(abs(end(means, key=abs))).lstrip("+") for end in (min, max))
    return f"by {first} points" if first == last else f"by {first} to {last} points"


def sample(d: Difference) -> str:
    """Write the size of a comparison's sample: '2 seeds', '6 seeds on 3 draws'."""
    return counted(d.seeds, "seed") + (f" on {d.draws} draws" if d.draws > 1 else "")


def _sentence(d: Difference) -> str:
    change = f"{points(d.mean)} percentage points compared with {d.reference}"
    start = f"{d.method} on {d.dataset}: {COMPARED[d.metric]} {change}"
    if d.low is None or d.high is None or d.corrected is None:
        same = "" if d.seeds < 2 else f"{d.verdict}, so "
        return f"{start} ({sample(d)}; {same}chance cannot be judged)."
    span = f"{points(d.low)} to {points(d.high)}"
    family = f", corrected for {d.compared} methods" if d.compared > 1 else ""
    p = chance(d.corrected, 1 - d.confidence)
    said = f"{100 * d.confidence:g} % interval {span}, p {p}{family}"
    return f"{start} ({said}, {sample(d)}): {d.verdict}."
