"""The claim's verdict: the methods' roles, and words no stronger than the numbers."""

import csv
import io
from dataclasses import replace
from typing import ClassVar, get_args

import pytest

from hlrs.config.base import Spec
from hlrs.config.methods import ConstantLR, CosineLR, CrossEntropy, Focal, LinearHead, Loss, UniformSampler
from hlrs.config.params import Params
from hlrs.report.claim import claims, headline, higher, judge, lower, roles, table, whole
from hlrs.report.comparisons import Difference, compare
from hlrs.stages.report import gather
from tests.report.test_report import PLAIN, make_job

pytestmark = pytest.mark.usefixtures("workspace")  # a report's inputs lie below the current folder


def plain(**objective) -> dict:
    return PLAIN | {"objective": {"kind": "plain"} | objective}


def bilateral(arch_lr: str, mixing: str = "symmetric") -> dict:
    objective = {"kind": "bilateral", "mixing": {"kind": mixing}}
    return PLAIN | {"objective": objective, "arch_lr": {"kind": arch_lr}}


INHERITED = {"start": "supernet", "channels": 16, "cells": 8, "auxiliary_weight": 0, "drop_path": 0}
SPECS = {
    "balanced": plain(sampler={"kind": "class_balanced"}),
    "focal": plain(loss={"kind": "focal"}),
    "fixed_frame": plain(sampler={"kind": "class_balanced"}, head={"kind": "etf"}),
    "bbn": bilateral("constant"),
    "bbn_parabolic": bilateral("constant", "parabolic_decay"),
    "hlrs": bilateral("coupled"),
    "hlrs_cosine": bilateral("cosine", "parabolic_decay"),
    "dual": PLAIN | {"objective": {"kind": "dual_head"}},
    "dual_balanced": PLAIN | {"objective": {"kind": "dual_head", "sampler": {"kind": "class_balanced"}}},
    "both": PLAIN
    | {"objective": {"kind": "plain", "sampler": {"kind": "square_root"}, "loss": {"kind": "focal"}}},
    "smooth": plain(loss={"kind": "cross_entropy", "smoothing": 0.1}),
    "slow": PLAIN | {"arch_lr": {"kind": "cosine"}},
    "pc": {"searcher": {"kind": "pc_darts"}, "objective": {"kind": "plain", "loss": {"kind": "focal"}}},
    "plain_pt": {"searcher": {"kind": "darts_pt"}},
    "pt": {"searcher": {"kind": "darts_pt"}, "objective": {"kind": "plain", "loss": {"kind": "focal"}}},
    "blank": {"searcher": {"kind": "blank_pt"}, "objective": {"kind": "bilateral"}},
    "second_order": {"searcher": {"kind": "darts", "order": 2}, "objective": {"kind": "bilateral"}},
    "single_stage": plain(loss={"kind": "seesaw"}) | {"retrain": INHERITED},
    "longer": plain(loss={"kind": "seesaw"}) | {"retrain": {"epochs": 7}},
    "random_labels": plain(loss={"kind": "seesaw"}) | {"labels": "random"},
    "relabelled_darts": PLAIN | {"labels": "random"},
    "inherited_darts": PLAIN | {"retrain": INHERITED},
    "searched_longer": plain(loss={"kind": "seesaw"}) | {"search": {"epochs": 7}},
    "approximate": plain(loss={"kind": "seesaw"})
    | {"arithmetic": {"multiplier": {"kind": "truncated", "columns": 4}, "where": "convolutions"}},
    "restated": plain(loss={"kind": "seesaw"}) | {"retrain": {"epochs": 600}},  # the recipe's own value
}


def results_of(scores: dict[str, list[float]], **options):
    return gather(make_job(scores, specs=SPECS, **options))


def judged(scores: dict[str, list[float]], **options):
    results = results_of(scores, **options)
    return claims(results, compare(results))


def params_of(*methods: str, reference: str | None = "darts") -> Params:
    results = results_of({name: [0.5] for name in methods}, reference=reference)
    return Params.model_validate({**results.params, "report": results.report})


# --- roles --------------------------------------------------------------------------------------------


def test_roles_are_read_from_the_params():
    assert roles(params_of("darts", "random", *SPECS)) == {
        "re-sampling": ["balanced"],
        "re-weighting": ["focal", "restated"],
        "BBN": ["bbn", "bbn_parabolic"],
        "HLRS": ["hlrs", "hlrs_cosine", "dual"],
    }


def test_every_loss_but_cross_entropy_is_a_re_weighting():
    """A loss that corrects class frequencies says so itself, so that the claim cannot overlook it."""
    kinds = [spec.model_fields["kind"].annotation.__args__[0] for spec in get_args(get_args(Loss)[0])]
    specs = {f"by_{kind}": plain(loss={"kind": kind}) for kind in kinds}
    results = gather(make_job({name: [0.5] for name in ("darts", *specs)}, specs=specs))
    params = Params.model_validate({**results.params, "report": results.report})
    assert roles(params)["re-weighting"] == [f"by_{kind}" for kind in kinds if kind != "cross_entropy"]
    assert len(kinds) > 6


def role_of(name: str, objective: Spec, arch_lr: Spec) -> list[str]:
    """Return the roles of a method with an objective that is no kind of params.yaml."""
    params = params_of("darts", name)
    method = params.methods[name].model_copy(update={"objective": objective, "arch_lr": arch_lr})
    found = roles(params.model_copy(update={"methods": params.methods | {name: method}}))
    return [role for role, names in found.items() if name in names]


@pytest.mark.parametrize(
    ("claimed", "loss", "arch_lr", "role"),
    [
        (None, CrossEntropy(), ConstantLR(), []),
        (None, Focal(), ConstantLR(), []),
        ("DARTS", Focal(), ConstantLR(), ["re-weighting"]),
        ("DARTS", Focal(), CosineLR(), []),
        ("BBN", CrossEntropy(), ConstantLR(), ["BBN"]),
        ("BBN", CrossEntropy(), CosineLR(), ["HLRS"]),
        ("BBN", Focal(), CosineLR(), []),
        ("HLRS", CrossEntropy(), ConstantLR(), ["HLRS"]),
    ],
)
def test_an_added_objective_has_the_role_that_it_states(claimed, loss, arch_lr, role):
    """One that names its samplers in a way of its own."""

    class Added(Spec):
        mixing: ClassVar[None] = None
        branch_cells: ClassVar[int] = 0
        samplers: ClassVar[list[Spec]] = [UniformSampler(), UniformSampler()]
        head: ClassVar[LinearHead] = LinearHead()
        loss: Loss

    Added.claimed = claimed
    assert role_of("focal", Added(loss=loss), arch_lr) == role


def test_the_reference_must_be_plain_darts():
    assert roles(params_of("darts", "bbn", reference="bbn")) is None
    assert roles(params_of("darts", "bbn", reference=None)) is None
    assert roles(params_of("relabelled_darts", "bbn", reference="relabelled_darts")) is None
    assert roles(params_of("inherited_darts", "bbn", reference="inherited_darts")) is None
    assert roles(params_of("random", "bbn", reference="random")) is None
    assert roles(params_of("plain_pt", "bbn", reference="plain_pt")) is None


# --- what the numbers say -----------------------------------------------------------------------------


def of(low: float | None, high: float | None, p: float | None) -> Difference:
    mean = 0.0 if low is None or high is None else (low + high) / 2
    return Difference(
        "d", "m", "darts", "balanced_accuracy", mean, 0.01, low, high, low, high, 0.95, p, p, 1, 5, 1, 0
    )


@pytest.mark.parametrize(
    ("low", "high", "p", "below", "above"),
    [
        (-0.05, -0.02, 0.01, True, False),
        (0.02, 0.05, 0.01, False, True),
        (-0.005, 0.005, 0.9, False, False),  # the same: within the margin of 0.01
        (-0.008, -0.002, 0.01, False, False),  # lower, by less than the margin
        (-0.05, 0.03, 0.5, None, None),  # not shown to differ is not the same
        (-0.05, -0.001, 0.01, None, False),  # lower, perhaps by less than the margin
        (-0.05, -0.02, 0.07, None, False),  # the interval leaves out 0, the corrected p does not
        (-0.005, 0.05, 0.1, False, None),
        (None, None, None, None, None),
    ],
)
def test_three_answers(low, high, p, below, above):
    found = of(low, high, p)
    assert (lower(found, 0.01), higher(found, 0.01)) == (below, above)


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ([], "not tested"),
        ([True, True], "supported"),
        ([False, False], "contradicted"),
        ([True, None], "partly supported"),
        ([True, False], "partly supported"),
        ([False, None], "not enough seeds"),
        ([None], "not enough seeds"),
    ],
)
def test_verdict_of_a_part(answers, verdict):
    assert judge(answers, wanted=True) == verdict
    mirrored = [None if answer is None else not answer for answer in answers]
    assert judge(mirrored, wanted=False) == verdict


def test_verdict_of_the_whole():
    yes, no, half, unknown, missing = (
        "supported", "contradicted", "partly supported", "not enough seeds", "not tested",
    )  # fmt: skip
    assert whole([yes] * 4) == yes
    assert whole([no, no, unknown, no]) == no
    assert whole([unknown, yes, no, no]) == half
    assert whole([unknown, half, no, no]) == half
    assert whole([yes, half, yes, yes]) == half
    assert whole([unknown, yes, half, yes]) == unknown
    assert whole([unknown] * 4) == unknown
    assert whole([yes, missing, yes, yes]) == missing


# --- in words -----------------------------------------------------------------------------------------

BASE = [0.500, 0.510, 0.520]
FULL = {
    "darts": BASE,
    "balanced": [0.400, 0.411, 0.419],
    "focal": [0.430, 0.441, 0.449],
    "bbn": [0.450, 0.461, 0.469],
    "hlrs": [0.501, 0.510, 0.519],
}


def test_supported():
    [claim] = judged(FULL)
    assert [part.verdict for part in claim.parts] == ["supported"] * 4
    assert claim.verdict == "supported"
    assert headline([claim]) == "supported on d"
    assert claim.parts[0].reasons == "below: balanced −10.0"
    assert claim.parts[2].reasons.endswith(": hlrs 0.0")
    assert claim.parts[3].reasons == "above: hlrs +5.0"


def test_contradicted():
    [claim] = judged(
        {
            "darts": BASE,
            "balanced": [0.501, 0.510, 0.519],
            "focal": [0.6, 0.611, 0.619],
            "bbn": [0.5, 0.511, 0.519],
            "hlrs": [0.4, 0.409, 0.42],
        }
    )
    assert [part.verdict for part in claim.parts] == ["contradicted"] * 4
    assert claim.verdict == "contradicted"


def test_too_few_seeds_name_how_many_are_needed():
    """Differences of ±2 points in two seeds: s = 0.0283; at α = 0.05, power 0.8: 65 pairs for 0.01/0.0283."""
    [claim] = judged({"darts": [0.5, 0.5], "focal": [0.48, 0.52]})
    part = claim.parts[1]
    assert part.verdict == "not enough seeds"
    undecided, remedy = part.reasons.split("; ")
    assert undecided.endswith("focal 0.0")
    assert all(word in remedy for word in ("65 seeds", "1 point", "0.8", "focal"))
    [claim] = judged({"darts": [0.5], "focal": [0.4]})
    undecided, remedy = claim.parts[1].reasons.split("; ")
    assert undecided.endswith("focal −10.0")
    assert "2 seeds" in remedy


def test_seeds_enough_to_show_a_tie_are_not_asked_for_again():
    """−1.2, −0.2, −0.7, … points: 0.7 ± 0.28, so neither 0 nor 1 point below; for 0.4 points, 4 pairs do."""
    scores = [0.5 - points / 100 for points in (1.2, 0.2, 0.7, 1.2, 0.2, 0.7, 1.2, 0.2)]
    [claim] = judged({"darts": [0.5] * 8, "focal": scores})
    said, advice = claim.parts[1].reasons.split("; ")
    assert said == "lower, perhaps by less than 1 point: focal −0.7"
    assert "needed" not in advice
    assert "8 seeds exclude 1 point" in advice


def test_methods_without_a_common_seed_are_not_asked_for_again():
    """Only some genotypes are in the table, so that re-sampling has no table accuracy."""
    results = results_of(FULL)
    left = [run for run in results.runs if run.method != "balanced"]
    part = claims(replace(results, runs=left), compare(replace(results, runs=left)))[0].parts[0]
    assert part.verdict == "not tested"
    assert part.reasons == "no seed of balanced has a balanced accuracy to compare"


def test_the_seeds_needed_are_those_of_the_widest_undecided_method_at_the_corrected_level():
    """s = 0.0283 as above and 0.0141; α = 0.05/2: ((2.241 + 0.842)/0.3536)² + 2.241²/2 = 78.5 pairs."""
    [claim] = judged({"darts": [0.5, 0.5], "restated": [0.49, 0.51], "focal": [0.48, 0.52]})
    remedy = claim.parts[1].reasons.rpartition("; ")[2]
    assert "79 seeds" in remedy
    assert remedy.endswith("focal")


def test_a_decided_method_asks_for_no_seeds():
    """focal is lower by 30, 31 and 38 points: its spread of 4.4 is wider than that of the undecided one."""
    base = [0.5, 0.5, 0.5]
    scores = {"darts": base, "focal": [0.2, 0.19, 0.12], "restated": [0.48, 0.52, 0.5]}
    [claim] = judged(scores)
    assert claim.parts[1].verdict == "partly supported"
    assert claim.parts[1].reasons.endswith("restated")
    [claim] = judged({"darts": base, "focal": scores["focal"]})
    assert claim.parts[1].reasons == "below: focal −33.0"


def test_a_difference_that_is_the_same_in_every_seed_does_not_ask_for_a_second_one():
    [claim] = judged({"darts": [0.5] * 3, "focal": [0.5] * 3})
    part = claim.parts[1]
    assert part.verdict == "not enough seeds"
    assert "2 seeds" not in part.reasons
    assert all(fact in part.reasons for fact in ("focal 0.0", "same in every seed", "add seeds"))


def test_hlrs_is_missing_beside_a_bbn():
    [claim] = judged({name: FULL[name] for name in ("darts", "bbn")})
    assert claim.parts[3].reasons.startswith("add HLRS to matrix.methods")


def test_what_is_missing_is_named():
    [claim] = judged({name: FULL[name] for name in ("darts", "balanced", "hlrs")})
    assert claim.verdict == "not tested"
    assert [part.verdict for part in claim.parts] == [
        "supported", "not tested", "supported", "not tested",
    ]  # fmt: skip
    for place, role, remedy in ((1, "re-weighting", "loss"), (3, "BBN", "objective bilateral")):
        assert role in claim.parts[place].reasons
        assert "matrix.methods" in claim.parts[place].reasons
        assert remedy in claim.parts[place].reasons


def test_hlrs_is_compared_with_the_bbn_of_its_mixing():
    """hlrs_cosine mixes like bbn_parabolic, is above it and below bbn; dual has no such BBN: the first."""
    scores = FULL | {
        "bbn_parabolic": [0.3, 0.311, 0.319],
        "hlrs_cosine": [0.4, 0.411, 0.42],
        "dual": [0.501, 0.510, 0.519],
    }
    [claim] = judged(scores)
    assert claim.parts[3].reasons == "above: hlrs +5.0, hlrs_cosine +10.0, dual +5.0"
    assert claim.parts[2].verdict == "partly supported"


def test_verdicts_of_several_data_sets_fit_a_sentence():
    assert headline(judged(FULL, datasets=("d", "e"))) == "supported on every data set"


def test_each_data_set_is_judged_by_its_own_numbers():
    """On e, all accuracies are mirrored at 0.51: what was below DARTS and HLRS is above."""
    results = results_of(FULL, datasets=("d", "e"))
    mirrored = [
        replace(run, metrics=run.metrics | {"balanced_accuracy": 1.02 - run.metrics["balanced_accuracy"]})
        if run.dataset == "e"
        else run
        for run in results.runs
    ]
    results = replace(results, runs=mirrored)
    on_d, on_e = claims(results, compare(results))
    assert [part.verdict for part in on_d.parts] == ["supported"] * 4
    yes, no = "supported", "contradicted"
    assert [part.verdict for part in on_e.parts] == [no, no, yes, no]
    assert headline([on_d, on_e]) == "supported on d; partly supported on e"


def test_the_table_has_a_row_per_part():
    found = list(csv.reader(io.StringIO(table(judged(FULL)))))
    assert found[0] == ["dataset", "metric", "part", "verdict", "reasons"]
    assert found[1] == [
        "d",
        "balanced_accuracy",
        "re-sampling is below darts",
        "supported",
        "below: balanced −10.0",
    ]
    assert [row[3] for row in found[1:]] == ["supported"] * 5
    assert (
        table(judged({"darts": BASE, "bbn": BASE}, reference="bbn"))
        == "dataset,metric,part,verdict,reasons\n"
    )
