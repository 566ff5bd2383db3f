"""The claim under test: re-sampling and re-weighting hurt DARTS in the search; HLRS brings it back.

Tang 2024 (arXiv 2406.07028). The params say which role each method plays; how a verdict follows from the
numbers is our own reading. Balanced accuracy decides, or a table's where nothing is retrained; where there
are both, each has its verdict. Differences of up to `report.margin` are negligible.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hlrs.config.methods import BlankPt, CrossEntropy, Darts, DartsPt, LinearHead, Method, Plain
from hlrs.config.params import Params
from hlrs.report.comparisons import COMPARED, Difference, corrected, deciding, difference
from hlrs.report.exports import comma_separated
from hlrs.report.runs import Results
from hlrs.report.statistics import MOST_SEEDS, NO_SPREAD, seeds_needed
from hlrs.report.wording import counted, points

ROLES = {
    "re-sampling": "DARTS with a sampler other than uniform",
    "re-weighting": "DARTS with a loss for rare classes or hard images, such as class_balanced or focal",
    "BBN": "DARTS with objective bilateral and a constant arch_lr",
    "HLRS": "DARTS with objective bilateral and another arch_lr, or with objective dual_head",
}
SUPPORTED, CONTRADICTED, PARTLY = "supported", "contradicted", "partly supported"
OPEN, MISSING = "not enough seeds", "not tested"


@dataclass(frozen=True)
class Part:
    """A part of the claim on a data set: its verdict, and the reasons."""

    statement: str
    verdict: str
    reasons: str


@dataclass(frozen=True)
class Claim:
    """The verdict on a data set and on each part, by a metric."""

    dataset: str
    metric: str
    verdict: str
    parts: list[Part]


# --- roles ---------------------------------------------------------------------------------------------


def roles(params: Params) -> dict[str, list[str]] | None:
    """Return the methods in each of ROLES; None unless the reference is plain DARTS, retrained from scratch.

    A method counts if it has the reference's searcher, search recipe, arithmetic and, where genotypes are
    retrained, retraining recipe; otherwise a difference might come from these.
    """
    reference = params.report.reference
    if reference is None or _role(params.methods[reference]) != "DARTS":
        return None
    if params.matrix.retrain_seeds and params.retrain_of(reference).start != "scratch":
        return None
    found: dict[str, list[str]] = {role: [] for role in ROLES}
    for name in params.matrix.methods:
        role, same = (
            _role(params.methods[name]),
            params.methods[name].searcher == params.methods[reference].searcher,
        )
        if same and role in found and _alike(params, name, reference):
            found[role].append(name)
    return found


def _alike(params: Params, name: str, other: str) -> bool:
    """Whether two methods share labels, arithmetic and recipes, the retraining's if anything is retrained."""
    retrained = bool(params.matrix.retrain_seeds)
    return (
        params.methods[name].labels == params.methods[other].labels
        and params.methods[name].arithmetic == params.methods[other].arithmetic
        and params.search_of(name) == params.search_of(other)
        and (not retrained or params.retrain_of(name) == params.retrain_of(other))
    )


def _role(method: Method) -> str | None:
    """Return the role of a method, retraining aside; None if the claim does not mention it."""
    if not isinstance(method.searcher, Darts) or method.labels != "given":
        return None
    objective = method.objective or Plain(kind="plain")
    if objective.head != LinearHead():
        return None
    constant = method.arch_lr is None or method.arch_lr.kind == "constant"
    unweighted = objective.loss == CrossEntropy(kind="cross_entropy")
    uniform = all(sampler.kind == "uniform" for sampler in objective.samplers)
    match objective.claimed:
        case "BBN" if unweighted:
            return "BBN" if constant else "HLRS"
        case "HLRS" if unweighted and uniform:
            return "HLRS"
        case "DARTS" if constant and unweighted:
            return "DARTS" if uniform else "re-sampling"
        case "DARTS" if constant and uniform and objective.loss.reweights:
            return "re-weighting"
    return None


# --- what the numbers say -----------------------------------------------------------------------------


def lower(d: Difference, margin: float) -> bool | None:
    """Whether a method is below by more than the margin; None if undecided.

    True: significantly lower, and the interval excludes a loss of the margin or less. False: it excludes one
    of the margin or more (non-inferiority; lack of significance is not enough).
    """
    if d.low is None or d.high is None:
        return None
    if d.low > -margin:
        return False
    return True if d.high < -margin and d.verdict == "lower" else None


def higher(d: Difference, margin: float) -> bool | None:
    """Whether a method is above by more than the margin; None if undecided."""
    if d.low is None or d.high is None:
        return None
    if d.high < margin:
        return False
    return True if d.low > margin and d.verdict == "higher" else None


def judge(answers: Sequence[bool | None], wanted: bool) -> str:
    """Combine the answers per method into one verdict."""
    if not answers:
        return MISSING
    if all(answer is wanted for answer in answers):
        return SUPPORTED
    if all(answer is (not wanted) for answer in answers):
        return CONTRADICTED
    return PARTLY if wanted in answers else OPEN


def whole(parts: Sequence[str]) -> str:
    """Combine the verdicts of the parts: open while one is open, unless another is contradicted."""
    if MISSING in parts:
        return MISSING
    if all(verdict == SUPPORTED for verdict in parts):
        return SUPPORTED
    if CONTRADICTED not in parts and OPEN in parts:
        return OPEN
    return PARTLY if SUPPORTED in parts or PARTLY in parts else CONTRADICTED


def claims(results: Results, differences: list[Difference]) -> list[Claim] | None:
    """Judge the claim on every data set, by the deciding metric first; None if the reference is not DARTS."""
    params = _params(results)
    by_role = roles(params)
    if by_role is None:
        return None
    bbn = _bases(params, dict.fromkeys(by_role["HLRS"], by_role["BBN"]))
    return [
        _claim(results, differences, by_role, bbn, dataset, metric)
        for metric in deciding(results)
        for dataset in results.classes
    ]


def _params(results: Results) -> Params:
    return Params.model_validate({**results.params, "report": results.report})


def _claim(
    results: Results,
    differences: list[Difference],
    by_role: dict[str, list[str]],
    bbn: dict[str, str],
    dataset: str,
    metric: str,
) -> Claim:
    reference, margin = results.report["reference"], results.report["margin"]
    to_darts = {d.method: d for d in differences if d.dataset == dataset and d.metric == metric}

    def against(role: str) -> list[Difference]:
        return [to_darts[name] for name in by_role[role] if name in to_darts]

    def lacking(*asked: str) -> str:
        """What a part without a comparison lacks: methods, or seeds that both sides have."""
        missing = next((role for role in asked if not by_role[role]), None)
        if missing:
            return f"add {missing} to matrix.methods: {ROLES[missing]}"
        names = [name for role in asked for name in by_role[role]]
        return f"no seed of {', '.join(names)} has a {COMPARED[metric]} to compare"

    parts = [
        _part(f"{role} is below {reference}", lacking(role), against(role), margin, lower, wanted=True)
        for role in ("re-sampling", "re-weighting")
    ]
    as_good = f"HLRS is not below {reference}"
    parts.append(_part(as_good, lacking("HLRS"), against("HLRS"), margin, lower, wanted=False))
    to_bbn = _against(results, bbn, dataset, metric)
    parts.append(_part("HLRS is above BBN", lacking("BBN", "HLRS"), to_bbn, margin, higher, wanted=True))
    return Claim(dataset, metric, whole([part.verdict for part in parts]), parts)


def _bases(params: Params, candidates: dict[str, list[str]]) -> dict[str, str]:
    """Return each method's base: the first candidate with its objective, else the first; none without any."""

    def differs(name: str, base: str) -> bool:
        return params.methods[base].objective != params.methods[name].objective

    return {
        name: min(bases, key=lambda base: differs(name, base)) for name, bases in candidates.items() if bases
    }


def _against(results: Results, bases: dict[str, str], dataset: str, metric: str) -> list[Difference]:
    """Return each method − its base, corrected for one another."""
    methods = results.methods(dataset)
    found = (difference(results, methods[name], methods[base], metric) for name, base in bases.items())
    return corrected(d for d in found if d is not None)


def _part(
    statement: str,
    lacking: str,
    found: list[Difference],
    margin: float,
    question: Callable[[Difference, float], bool | None],
    *,
    wanted: bool,
) -> Part:
    answers = [question(d, margin) for d in found]
    verdict = judge(answers, wanted)
    if verdict == MISSING:
        return Part(statement, verdict, lacking)
    side, verb = ("below", "lower") if question is lower else ("above", "higher")
    words = {True: side, False: f"not {side} by {_size(margin)} or more", None: "undecided"}
    groups: dict[str, list[str]] = {word: [] for word in words.values()}
    for d, answer in zip(found, answers, strict=True):
        certain = answer is None and d.verdict == verb
        word = f"{verb}, perhaps by less than {_size(margin)}" if certain else words[answer]
        groups.setdefault(word, []).append(f"{d.method} {points(d.mean)}")
    said = [f"{word}: {', '.join(named)}" for word, named in groups.items() if named]
    left = [d for d, answer in zip(found, answers, strict=True) if answer is None]
    return Part(statement, verdict, "; ".join([*said, *_more_seeds(left, margin)]))


def _more_seeds(left: list[Difference], margin: float) -> list[str]:
    """Estimate how many seeds, or draws, would show a tie, given the largest spread among the undecided."""
    known = [d for d in left if d.std is not None and d.std >= NO_SPREAD]
    if not known:
        return [_no_spread(left[0])] if left else []
    widest = max(known, key=lambda d: d.std or 0.0)
    alpha = (1 - widest.confidence) / max(widest.compared, 1)
    needed = seeds_needed(widest.std or 0.0, margin, alpha)
    here = widest.draws if widest.draws > 1 else widest.seeds
    if needed is not None and needed <= here:
        enough = (
            f"{counted(here, widest.unit)} exclude {_size(margin)} with power 0.8 if there is no difference"
        )
        return [f"{enough}, so that of {widest.method} may be near {_size(margin)}, which takes many more"]
    size = (
        f"more than {MOST_SEEDS} {widest.unit}s"
        if needed is None
        else f"about {counted(needed, widest.unit)}"
    )
    exclude = f"to exclude {_size(margin)} with power 0.8 if there is no difference"
    return [f"{size} needed {exclude}, given the spread of {widest.method}"]


def _no_spread(d: Difference) -> str:
    """Say why a difference has no spread: one seed, or the same number in each."""
    if d.std is None:
        return f"at least 2 {d.unit}s needed to estimate the spread"
    return f"{d.verdict}, so no spread to judge by: add {d.unit}s"


# --- the control --------------------------------------------------------------------------------------

TIES, DIFFERS, UNDECIDED, LEFT_OUT = "ties", "differs", "undecided", "left out"


def controls(results: Results) -> list[tuple[str, str]]:
    """Compare HLRS with blank-PT, whose alphas are never trained: (answer, the reasons and what follows).

    They tie if the interval of HLRS − blank-PT lies within ± the margin, and differ if HLRS is above or below
    by more than it. A blank-PT with other labels, arithmetic or recipes is no control. Empty unless both are
    in the matrix.
    """
    params = _params(results)
    blanks = [name for name in params.matrix.methods if isinstance(params.methods[name].searcher, BlankPt)]
    every = [name for name in params.matrix.methods if blanks and _role(params.methods[name]) == "HLRS"]
    to_blank = _bases(params, {name: [b for b in blanks if _alike(params, name, b)] for name in every})
    found = [
        _control(results, params, d)
        for metric in deciding(results)
        for dataset in results.classes
        for d in _against(results, to_blank, dataset, metric)
    ]
    why = (
        "its recipes, labels and arithmetic are those of no blank-PT in the matrix, so a difference might "
        "come from these"
    )
    return found + [(LEFT_OUT, f"{name}, because {why}") for name in every if name not in to_blank]


def _control(results: Results, params: Params, d: Difference) -> tuple[str, str]:
    """Judge one difference from blank-PT."""
    margin = params.report.margin
    said = f"on {d.dataset}, {d.method} − {d.reference} in {COMPARED[d.metric]} {points(d.mean)}"
    if d.low is None or d.high is None:
        return UNDECIDED, f"{said}; {d.verdict}"
    said += f", {100 * d.confidence:g} % interval {points(d.low)} to {points(d.high)}"
    below, above = lower(d, margin), higher(d, margin)
    if below is False and above is False:
        return TIES, (
            f"{said}, within ±{_size(margin)}. The alphas of {d.reference} were never trained, so training "
            "them shows no effect here, unless the selection offsets it: by the largest alphas in "
            f"{d.method}, by perturbation in {d.reference}"
        )
    if not (below or above):
        return UNDECIDED, f"{said}, not within ±{_size(margin)}"
    said += f". {d.method} selects by the largest alphas, {d.reference} by perturbation"
    trained = [f"{pt.method} {points(pt.mean)}" for pt in _trained(results, params, d)]
    if not trained:
        return DIFFERS, f"{said}, so the difference may come from the selection alone"
    return DIFFERS, (
        f"{said}; DARTS-PT selects as {d.reference} does and differs from it as well ({', '.join(trained)}), "
        "so training the alphas matters here"
    )


def _trained(results: Results, params: Params, d: Difference) -> list[Difference]:
    """Return how DARTS-PT differs from a blank-PT that it equals in all but the training of the alphas."""
    margin, blank = params.report.margin, params.methods[d.reference]
    alike = [
        name
        for name in params.matrix.methods
        if isinstance(searcher := params.methods[name].searcher, DartsPt)
        and blank.searcher == BlankPt(tune=searcher.tune)
        and params.methods[name].objective == blank.objective
        and _alike(params, name, d.reference)
    ]
    found = _against(results, dict.fromkeys(alike, d.reference), d.dataset, d.metric)
    return [pt for pt in found if lower(pt, margin) or higher(pt, margin)]


def _size(margin: float) -> str:
    return counted(100 * margin, "point")


# --- words --------------------------------------------------------------------------------------------


def tested(found: list[Claim]) -> bool:
    """Whether the matrix has methods for any part of the claim."""
    return any(part.verdict != MISSING for claim in found for part in claim.parts)


def headline(found: list[Claim]) -> str:
    """State the verdicts on all data sets, by the deciding metric, in one sentence."""
    found = [claim for claim in found if claim.metric == found[0].metric]
    by_verdict: dict[str, list[str]] = {}
    for claim in found:
        by_verdict.setdefault(claim.verdict, []).append(claim.dataset)
    if len(by_verdict) == 1:
        verdict = next(iter(by_verdict))
        return f"{verdict} on {'every data set' if len(found) > 1 else found[0].dataset}"
    return "; ".join(f"{verdict} on {', '.join(names)}" for verdict, names in by_verdict.items())


def table(found: list[Claim] | None) -> str:
    """Write the verdicts as CSV, one row per data set × part, the whole last; only a header for None."""
    rows = [
        [claim.dataset, claim.metric, part.statement, part.verdict, part.reasons]
        for claim in found or []
        for part in (*claim.parts, Part("all parts", claim.verdict, ""))
    ]
    return comma_separated(["dataset", "metric", "part", "verdict", "reasons"], rows)
