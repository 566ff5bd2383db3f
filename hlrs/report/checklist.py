"""The best practices of Lindauer & Hutter (2020, JMLR 21/243), as far as records can answer them."""

import json
from dataclasses import dataclass

from hlrs.artifacts.records import UNKNOWN
from hlrs.report.job_records import facts
from hlrs.report.runs import STAGES, Results, draws, jobs
from hlrs.report.tables import cost, spent
from hlrs.report.wording import counted

YES, PARTLY, NO, AUTHOR = "yes", "partly", "no", "left to the author"
CONFOUNDERS = ("Device", "Versions", "Container image")  # facts that may differ between the jobs compared
OUTSIDE = "No record can tell."


@dataclass(frozen=True)
class Practice:
    """A practice, by its number in the paper: whether it was met, and what the records say of it."""

    number: int
    name: str
    answer: str
    evidence: str


def checklist(results: Results) -> list[Practice]:
    """Judge the 14 practices in their order; what no record answers is left to the author."""
    answers = {
        "Release the code of the training pipelines": (AUTHOR, _code(results)),
        "Release the code of the NAS method": (AUTHOR, "Both are one code, of the same commit."),
        "Do not wait until the code is cleaned up": (AUTHOR, OUTSIDE),
        "Use the same NAS benchmarks, not just the same data sets": _benchmark(results),
        "Run ablation studies": (AUTHOR, "No record can tell which methods ablate which."),
        "Use the same evaluation protocol for all methods": _common(results, "evaluate"),
        "Evaluate performance as a function of compute": (
            NO,
            "The genotypes of earlier epochs are not retrained; the curves show losses by epoch.",
        ),
        "Compare against random sampling and random search": _random(results),
        "Run several times with different seeds": _seeds(results),
        "Use tabular or surrogate benchmarks if possible": _tabular(results),
        "Control confounding factors": _confounders(results),
        "Report the use of hyperparameter optimization": (AUTHOR, OUTSIDE),
        "Report the time of the entire method, end to end": _time(results),
        "Report all details of the experimental set-up": (
            YES,
            "All parameters with their defaults, code, versions and machines, below.",
        ),
    }
    return [Practice(number, name, *found) for number, (name, found) in enumerate(answers.items(), start=1)]


def _code(results: Results) -> str:
    commits = _values(results, "Commit")
    if commits == [UNKNOWN]:
        return "The jobs ran outside of a checkout, so no commit is on record."
    return f"The jobs ran commit {', '.join(commits)}. No record can tell whether others can read it."


def _benchmark(results: Results) -> tuple[str, str]:
    """Images are common by construction; the space and the retraining, unless methods have their own."""
    space, retraining = _common(results, "search", "space"), _common(results, "retrain")
    answer = YES if space[0] == retraining[0] == YES else PARTLY
    return answer, f"All methods share the images of each data set. {space[1]} {retraining[1]}"


def _common(results: Results, section: str, entry: str | None = None) -> tuple[str, str]:
    """Whether all methods have the same section of the recipes, or the same entry of it."""
    own: dict[str, list[str]] = {}
    for name in results.params["matrix"]["methods"]:
        given = results.params["methods"][name].get(section, {})
        own.setdefault(json.dumps(given.get(entry) if entry else given, sort_keys=True), []).append(name)
    field = f"{section}.{entry}" if entry else section
    if len(own) == 1:
        return YES, f"Common to all: {field}."
    return PARTLY, f"Different in {field}: {' | '.join(', '.join(names) for names in own.values())}."


def _random(results: Results) -> tuple[str, str]:
    params = results.params
    methods = params["matrix"]["methods"]
    drawn = [name for name in methods if params["methods"][name]["searcher"]["kind"] == "random"]
    if not drawn:
        return NO, "No method draws genotypes at random (searcher: {kind: random})."
    return PARTLY, f"Random sampling: {', '.join(drawn)}. Random search, which evaluates its samples: none."


def _seeds(results: Results) -> tuple[str, str]:
    matrix = results.params["matrix"]
    evidence = f"Seeds of the searches: {', '.join(map(str, matrix['seeds']))}."
    if matrix["retrain_seeds"]:
        evidence += f" Seeds of the retrainings: {', '.join(map(str, matrix['retrain_seeds']))}."
    if draws(results) > 1:
        evidence += f" {counted(draws(results), 'draw')} of the images."
    return YES if len(matrix["seeds"]) > 1 else NO, evidence


def _tabular(results: Results) -> tuple[str, str]:
    table = results.params["evaluate"]["table"]
    if table is None:
        return NO, "No table of accuracies judges the genotypes (evaluate.table)."
    found = sum(run.lookup is not None for run in results.runs)
    return YES, f"{table}: {found} of {counted(len(results.runs), 'run')} looked up."


def _confounders(results: Results) -> tuple[str, str]:
    values = {label: _values(results, label) for label in CONFOUNDERS}
    unknown = [label.lower() for label, of in values.items() if UNKNOWN in of]
    different = [f"{label.lower()} ({len(of)})" for label, of in values.items() if len(of) > 1]
    if unknown or different:
        said = [f"Different between jobs: {', '.join(different)}."] if different else []
        said += [f"Not on record for all: {', '.join(unknown)}."] if unknown else []
        return PARTLY, " ".join(said)
    return YES, f"The same for all jobs: {', '.join(map(str.lower, CONFOUNDERS))}."


def _values(results: Results, label: str) -> list[str]:
    """Return the values of a fact over all jobs, most frequent first."""
    [fact] = [fact for fact in facts(results) if fact.label == label]
    return [value for value, _ in fact.values]


def _time(results: Results) -> tuple[str, str]:
    whole = cost(jobs(results.runs, *STAGES))
    sums = spent(whole)
    if not sums:
        return NO, "No times are on record."
    if whole.unknown:
        return PARTLY, f"At least {sums}; {counted(whole.unknown, 'job')} without a time on record."
    return YES, f"From search to evaluation, all methods and seeds: {sums}."
