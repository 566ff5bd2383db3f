"""The report in words: numbers as readers see them, and the answer.

The answer claims no more than its tests: paired differences to the reference (same data set, same seed),
Student's t for the unknown spread, corrected for the methods compared.
"""

import math

from hlrs.report.comparisons import Difference
from hlrs.report.runs import Results

NOTHING = "–"
MOST_SENTENCES = 12  # of the answer; more comparisons are summarized, one sentence per data set


def percent(value: float | None) -> str:
    """A fraction in per cent, one decimal."""
    return NOTHING if value is None else f"{round(100 * value, 6):.1f}"  # equal means print alike


def points(value: float) -> str:
    """A difference of fractions in signed percentage points: one decimal, more where it would round to 0."""
    scaled = 100 * value
    if abs(scaled) < 1e-9:
        return "0.0"
    return f"{scaled:+.{max(1, math.ceil(-math.log10(abs(scaled))))}f}".replace("-", "−")


def counted(number: int, noun: str) -> str:
    """'1 seed', '3 seeds'."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def answer(results: Results, differences: list[Difference]) -> list[str]:
    """Did it help, by how much, how sure: the headline, then a sentence a comparison of balanced accuracy."""
    reference = results.report["reference"]
    if reference is None:
        return [
            "No reference method is set (report.reference), so the methods stand side by side, uncompared."
        ]
    main = [d for d in differences if d.metric == "balanced_accuracy"]
    if not main:
        return [f"Only {reference} was run: there is nothing to compare it with."]
    few = len(main) <= MOST_SENTENCES
    sentences = [_sentence(d) for d in main] if few else _sentences(results, main)
    if max(d.seeds for d in main) < 2:
        return ["One seed a method: no difference can be told from chance yet.", *sentences]
    if len(main) == 1:
        return sentences
    shown = {verdict: [d.mean for d in main if d.verdict == verdict] for verdict in ("higher", "lower")}
    left = len(main) - sum(map(len, shown.values()))
    if left == len(main):
        return [f"No difference to {reference} in balanced accuracy is shown in any comparison.", *sentences]
    parts = [f"{verdict} in {len(means)} ({_range(means)})" for verdict, means in shown.items() if means]
    rest = f"; the other {'one' if left == 1 else left} cannot be told from chance" if left else ""
    found = f"{' and '.join(parts)} of {len(main)} comparisons{rest}"
    return [f"Against {reference}, balanced accuracy is {found}.", *sentences]


def _sentences(results: Results, differences: list[Difference]) -> list[str]:
    """Many comparisons in words, a sentence a data set: the methods that differ, and how many do not."""
    found = []
    for dataset in results.classes:
        own: dict[str, list[Difference]] = {"higher": [], "lower": []}
        for d in differences:
            if d.dataset == dataset:
                own.setdefault(d.verdict, []).append(d)
        parts = [
            f"{verdict}: {', '.join(f'{d.method} {points(d.mean)}' for d in named)}"
            if verdict in ("higher", "lower")
            else f"{verdict} for {counted(len(named), 'method')}"
            for verdict, named in own.items()
            if named
        ]
        found += [f"{dataset}: {'; '.join(parts)}."] if parts else []
    return found


def _range(means: list[float]) -> str:
    """From the smallest change to the largest."""
    first, last = (points(abs(end(means, key=abs))).lstrip("+") for end in (min, max))
    return f"by {first} points" if first == last else f"by {first} to {last} points"


def _sentence(d: Difference) -> str:
    change = f"{points(d.mean)} percentage points"
    start = f"{d.method} on {d.dataset}: balanced accuracy {change} against {d.reference}"
    if d.low is None or d.high is None or d.corrected is None:
        why = "nothing can be said about chance" if d.seeds < 2 else d.verdict
        return f"{start} ({counted(d.seeds, 'seed')}; {why})."
    span = f"{points(d.low)} to {points(d.high)}"
    for_all = f", corrected for {d.compared} methods" if d.compared > 1 else ""
    said = f"{100 * d.confidence:g} % interval {span}, p {chance(d.corrected)}{for_all}"
    return f"{start} ({said}, {counted(d.seeds, 'seed')}): {d.verdict}."


def chance(p: float) -> str:
    """A p-value: two digits, and no more zeros than help."""
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"
