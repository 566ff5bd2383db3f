"""Reports on look-ups: numbers worked out by hand, the floor beside them, and no part without content."""

import copy
import re
from dataclasses import replace
from pathlib import Path

import pytest

from hlrs.artifacts.files import write_json
from hlrs.artifacts.jobs import Job
from hlrs.artifacts.tables import write_table
from hlrs.nas.cell_table import read_table_of_cells
from hlrs.pipeline.plan import REPORTED
from hlrs.report.claim import claims, controls, headline
from hlrs.report.comparisons import compare, deciding
from hlrs.report.figures import sections
from hlrs.report.lookups import floor_of, lookups_table
from hlrs.report.tables import operations_table
from hlrs.report.wording import answer, percent
from hlrs.stages.report import gather
from tests.nas.test_cell_table import ALL, NONES, ONE, POINTS, ROWS, SKIPS, lines
from tests.report.test_claim import SPECS
from tests.report.test_report import Page, alphas, html, make_job, record, rows, run, write_record

pytestmark = pytest.mark.usefixtures("workspace")  # a report's inputs lie below the current folder

# column a: 0.90, 0.80, 0.50 and 0.94, 0.90, 0.80; differences 0.04, 0.10, 0.30
FOUND = {"darts": [ALL, POINTS, SKIPS], "hlrs": [ONE, ALL, POINTS]}


def judged_job(found=FOUND, *, table=ROWS, scores=None, **options) -> Job:
    """A report's job of searches that found these cells, by seed; without `scores`, nothing is retrained."""
    made = make_job(scores or {name: [0.5] * len(own) for name, own in found.items()}, specs=SPECS, **options)
    given, inputs = copy.deepcopy(made.params), dict(made.inputs)
    given["params"]["evaluate"]["table"] = "cells.csv"
    for dataset in given["params"]["datasets"].values():
        dataset["table_column"] = "a"
    if scores is None:
        given["params"]["matrix"]["retrain_seeds"] = []
        inputs = {name: path for name, path in inputs.items() if not name.startswith(("retrain", "evaluate"))}
    Path("cells.csv").write_text(lines(table))
    judge = read_table_of_cells(Path("cells.csv")).judge
    for method, cells in found.items():
        for seed, cell in enumerate(cells):
            name = f"lookup/d/{method}/{seed}"
            for file, write, content in (
                ("lookup.json", write_json, judge(cell)),
                ("provenance.json", write_record, record("lookup", f"d/{method}/{seed}")),
            ):
                inputs[f"{name}/{file}"] = str(Path("in", name, file))
                write(Path("in", name, file), content)
            write_json(Path("in/extract/d", method, str(seed), "genotype.json"), {"cell": cell})
            place = Path("in/search/d", method, str(seed), "alphas.parquet")
            if place.exists():  # the space has one kind of cell
                every = alphas(method)
                normal = [i for i, kind in enumerate(every["cell"]) if kind == "normal"]
                own = {column: [values[i] for i in normal] for column, values in every.items()}
                write_table(place, "trajectory", own)
    return replace(made, params=given, inputs=inputs)


def texts(cells) -> list[str]:
    return [cell.text for cell in cells]


# --- numbers ------------------------------------------------------------------------------------------


def test_the_job_has_the_inputs_that_the_plan_provides():
    names = {name.split("/")[0] + "/" + name.split("/")[-1] for name in judged_job().inputs}
    stages = REPORTED.keys() - {"retrain", "evaluate"}
    assert names == {f"{stage}/{name}" for stage in stages for name in REPORTED[stage]}


def test_methods_stand_beside_what_needs_no_search():
    """Darts: mean 2.2/3, regret 0.04, 0.14, 0.44, ranks 2, 3, 4 of 5, so 4/5, 3/5, 2/5 are not better.

    Deviations of hlrs from 0.88: 0.06, 0.02, −0.08; s = √(0.0104/2) = 0.0721, t = 4.3027: ± 0.1791.
    """
    table = lookups_table(gather(judged_job()), "d")
    found, floor = ([texts(row) for row in group.rows] for group in table.groups)
    assert found[0][:2] + found[0][3:] == ["darts", "3", "20.7", "3", "60.0", "1 of 3", "90.0", "50.0"]
    assert found[0][2].startswith("73.3 ± ")
    assert found[1] == ["hlrs", "3", "88.0 ± 7.2", "6.0", "2", "80.0", "0 of 3", "94.0", "80.0"]
    assert table.groups[0].rows[1][2].detail == "70.1 to 105.9"
    # mean of 94, 90, 80, 50, 10; the cell of six 3×3 convolutions has 90
    assert floor == [
        ["random cell", "–", "64.8", "29.2", "–", "–", "–", "–", "–"],
        ["largest cell", "–", "90.0", "4.0", "–", "–", "–", "–", "–"],
    ]
    assert table.groups[1].rows[1][0].detail == "rank correlation 0.87"  # as in test_cell_table.py
    assert table.groups[0].rows[0][4].detail == "2 to 4"


def test_with_several_draws_the_spread_is_between_draws_and_within_one():
    """Draws 90, 80 and 50, 94: means 85 and 72, s = 13/√2; within, variances 50 and 968: √509 = 22.6."""
    results = gather(judged_job({"darts": [ALL, POINTS, SKIPS, ONE]}))
    drawn = [replace(run, split_seed=run.seed // 2) for run in results.runs]
    [row] = lookups_table(replace(results, runs=drawn), "d").groups[0].rows
    assert texts(row)[2] == "78.5 ± 9.2 (± 22.6)"
    assert (row[4].text, row[4].detail) == ("2.5", "1 to 4")


def test_the_floor_says_how_well_counting_ranks():
    floor = floor_of(gather(judged_job()), "d")
    assert (floor.random, floor.count, floor.cells) == (pytest.approx(0.648), 0.9, 5)
    for fact in ("64.8 %", "90.0 %", "9·conv3×3 + conv1×1", "all 5 cells", "by a ", "correlation of 0.87"):
        assert fact in floor.words
    alone = floor_of(gather(judged_job({"darts": [ALL]}, table={ALL: (5, 5)})), "d")
    assert "correlation of –" in alone.words


def test_tables_for_other_programs_have_the_columns():
    job = judged_job()
    run(job)
    first = rows(job, "runs.csv")[0]
    assert first == {
        "dataset": "d", "method": "darts", "split_seed": "0", "seed": "0", "retrain_seed": "",
        "table_accuracy": "0.9", "table_regret": "0.04", "table_percentile": "0.8", "table_rank": "2",
        "supernet_accuracy": "0.75", "decoded_accuracy": "0.5", "discretization_gap": "0.25",
        "cell": ALL, "collapsed": "False",
    }  # fmt: skip
    found = {(row["method"], row["metric"]): row for row in rows(job, "summary.csv")}
    means = {"table_accuracy", "table_regret", "table_percentile", "table_rank", "collapses"}
    means |= {"supernet_accuracy", "decoded_accuracy", "discretization_gap"}
    assert {metric for method, metric in found if method == "darts"} == means
    # ranks 2, 3, 4, percentiles 4/5, 3/5, 2/5, one of three collapsed; the floor as above
    assert [float(found["darts", m]["mean"]) for m in ("table_rank", "table_percentile", "collapses")] == [
        3, pytest.approx(0.6), 1,
    ]  # fmt: skip
    assert {(name, m): float(row["mean"]) for (name, m), row in found.items() if name.endswith(" cell")} == {
        ("random cell", "table_accuracy"): pytest.approx(0.648),
        ("largest cell", "table_accuracy"): 0.9,
        ("largest cell", "rank_correlation"): pytest.approx(8.5 / 95**0.5),
    }
    assert float(found["hlrs", "table_accuracy"]["mean"]) == pytest.approx(0.88)
    assert float(found["darts", "table_regret"]["mean"]) == pytest.approx(0.62 / 3)
    [difference] = rows(job, "differences.csv")
    assert (difference["metric"], difference["seeds"]) == ("table_accuracy", "3")
    assert float(difference["mean"]) == pytest.approx(0.44 / 3)
    assert {row["metric"] for row in rows(job, "claim.csv")} == {"table_accuracy"}
    assert rows(job, "classes.csv") == rows(job, "plots/class_accuracy.csv") == []


def test_several_retrainings_do_not_multiply_a_look_up():
    job = judged_job(scores={"darts": [[0.5, 0.6]] * 3, "hlrs": [[0.5, 0.7]] * 3})
    run(job)
    found = {(r["method"], r["metric"]): r for r in rows(job, "summary.csv")}
    assert found["hlrs", "table_accuracy"]["retrain_std"] == ""
    assert found["hlrs", "balanced_accuracy"]["retrain_std"] != ""
    assert [row[1].text for row in lookups_table(gather(job), "d").groups[0].rows] == ["3", "3"]


def test_operations_of_cells_are_counted():
    counted = operations_table(gather(judged_job()), "d")
    assert [c.label for c in counted.columns[1:]] == ["none", "nor_conv_1x1", "nor_conv_3x3", "skip_connect"]
    assert texts(counted.groups[0].rows[0]) == ["darts", "0.0", "2.0", "2.0", "2.0"]


def test_negative_numbers_have_a_minus_sign():
    assert [percent(value) for value in (-0.123, -0.0001, 0.123, None)] == ["−12.3", "0.0", "12.3", "–"]
    # 94, 10 in one seed each: 52 ± 12.706 · 42, so −481.7 to 585.7
    table = lookups_table(gather(judged_job({"darts": [ONE, NONES]})), "d")
    assert table.groups[0].rows[0][2].detail == "−481.7 to 585.7"
    inverse = {SKIPS: (90.0, 1), ALL: (10.0, 1)}  # counts 0 and 54
    assert floor_of(gather(judged_job({"darts": [ALL]}, table=inverse)), "d").rho == "−1.00"


# --- what decides -------------------------------------------------------------------------------------

BEST = [*ROWS][4]
# a tenth of a point apart, so that differences have a spread
NEAR = dict(zip(ROWS, [(50.0, 1), (80.0, 1), (80.1, 1), (94.0, 1), (94.1, 1)], strict=True))
GOOD, BAD = [ONE, BEST, ONE], [POINTS, POINTS, ALL]
ROLES = {
    "darts": GOOD,
    "balanced": BAD,
    "focal": BAD,
    "bbn": BAD,
    "hlrs": GOOD[1:] + GOOD[:1],
}


def test_without_a_retraining_the_table_decides():
    results = gather(judged_job(ROLES, table=NEAR))
    differences = compare(results)
    assert deciding(results) == ["table_accuracy"]
    [claim] = claims(results, differences)
    # 80.0, 80.0, 80.1 − 94.0, 94.1, 94.0: each significant; hlrs − darts: 0.1, −0.1, 0, within a point
    assert (claim.metric, claim.verdict) == ("table_accuracy", "supported")
    assert answer(results, differences)[0].startswith(
        "Compared with darts, table accuracy is lower in 3 (by 14.0"
    )


def test_with_a_retraining_the_table_has_a_verdict_of_its_own():
    """The retrained networks say the opposite of the table."""
    high, low = [0.9, 0.91, 0.92], [0.8, 0.82, 0.81]
    scores = dict(zip(ROLES, (low, high, high, high, low), strict=True))
    results = gather(judged_job(ROLES, table=NEAR, scores=scores))
    found = claims(results, compare(results))
    assert [(c.metric, c.verdict) for c in found] == [
        ("balanced_accuracy", "contradicted"),
        ("table_accuracy", "supported"),
    ]
    assert headline(found) == "contradicted on d"  # the table's beside it is no second data set
    assert answer(results, compare(results))[0].startswith("Compared with darts, balanced accuracy is higher")


def test_a_retraining_recipe_sets_nobody_apart_where_nothing_is_retrained():
    reweighted = {"darts": GOOD, "longer": BAD}  # its recipe has other epochs

    def reasons(**options):
        results = gather(judged_job(reweighted, table=NEAR, **options))
        return [
            part.reasons
            for part in claims(results, compare(results))[0].parts
            if "weighting" in part.statement
        ]

    assert reasons()[0].startswith("below: longer −14.")
    assert reasons(scores={"darts": [0.5] * 3, "longer": [0.4] * 3})[0].startswith("add re-weighting")


# --- the control --------------------------------------------------------------------------------------


BLANK = {"searcher": {"kind": "blank_pt"}, "arch_lr": None}


def control(hlrs: list[str], blank: list[str], *, scores=None, **changed: dict) -> list[tuple[str, str]]:
    """The comparison of HLRS with a method whose alphas are never trained; `changed`: entries of specs.

    `trained` is as good as hlrs, `darts` as blank-PT; both are DARTS unless changed.
    """
    found = {"darts": blank, "hlrs": hlrs, "untrained": blank, "trained": hlrs}
    results = gather(judged_job(found, table=NEAR, scores=scores))
    specs = results.params["methods"]
    specs["untrained"].update(BLANK)
    for name, entries in changed.items():
        specs[name].update(entries)
    return controls(results)


def test_a_tie_with_blank_pt_shows_no_effect_of_the_training():
    """Differences 0, 0.1, −0.1 points: ± 4.30 · 0.1/√3 = 0.25, within a point."""
    [(answered, reasons)] = control([ONE, BEST, ONE], [ONE, ONE, BEST])
    assert answered == "ties"
    for fact in (
        "on d, hlrs − untrained",
        "table accuracy",
        "−0.2 to +0.2",
        "within ±1 point",
        "no effect",
        "unless the selection offsets it",
    ):
        assert fact in reasons


def test_a_difference_from_blank_pt_may_come_from_the_selection_alone():
    for mine, other, sign in ((GOOD, BAD, "+14"), (BAD, GOOD, "−14")):
        [(answered, reasons)] = control(mine, other)
        assert answered == "differs"
        assert sign in reasons
        assert reasons.endswith("may come from the selection alone")
        assert "matter" not in reasons


def test_only_a_darts_pt_that_differs_from_blank_pt_shows_that_training_the_alphas_matters():
    """GOOD − BAD as HLRS: 14.0, 14.1, 13.9 points; both select by perturbation."""
    pt = {"searcher": {"kind": "darts_pt"}}
    [(answered, reasons)] = control(GOOD, BAD, trained=pt)
    assert answered == "differs"
    assert reasons.endswith("differs from it as well (trained +14.0), so training the alphas matters here")
    for apart in (
        {"searcher": {"kind": "darts_pt", "tune": 3}},
        pt | {"objective": {"kind": "bilateral"}},
        pt | {"search": {"epochs": 7}},
        pt | {"labels": "random"},
    ):
        assert control(GOOD, BAD, trained=apart)[0][1].endswith("may come from the selection alone"), apart
    # this one equals blank-PT
    assert control(GOOD, BAD, darts=pt)[0][1].endswith("may come from the selection alone")


@pytest.mark.parametrize(
    "apart",
    [
        {"search": {"epochs": 7}},
        {"labels": "random"},
        {"retrain": {"epochs": 7}},
        {"arithmetic": {"multiplier": {"kind": "truncated", "columns": 4}, "where": "convolutions"}},
    ],
)
def test_a_blank_pt_with_another_recipe_or_labels_is_no_control(apart):
    scores = {name: [0.5, 0.6, 0.7] for name in ("darts", "hlrs", "untrained", "trained")}
    why = "hlrs, because its recipes, labels and arithmetic are those of no blank-PT"
    [(answered, reasons)] = control(GOOD, BAD, scores=scores, untrained=apart)
    assert answered == "left out"
    assert reasons.startswith(why)
    # one that is alike takes its place
    found = control(GOOD, BAD, scores=scores, untrained=apart, trained=BLANK)
    assert len(found) == 2  # by balanced accuracy and by table accuracy
    assert all("hlrs − trained" in reasons for _, reasons in found)


def test_a_retraining_recipe_does_not_matter_to_the_control_where_nothing_is_retrained():
    assert control(GOOD, BAD, untrained={"retrain": {"epochs": 7}})[0][0] == "differs"


def test_the_control_with_the_same_objective_comes_before_the_first():
    [(_, reasons)] = control(GOOD, BAD, trained=BLANK | {"objective": SPECS["hlrs"]["objective"]})
    assert "hlrs − trained" in reasons


def test_a_wide_interval_decides_nothing_about_blank_pt():
    [(answered, reasons)] = control([ONE, POINTS, ONE], [POINTS, ONE, ONE])
    assert answered == "undecided"
    assert reasons.endswith("not within ±1 point")  # the seeds that detect a difference would not show a tie
    [(answered, reasons)] = control([ONE], [ONE])
    assert (answered, reasons.rpartition("; ")[2]) == ("undecided", "needs 2 seeds")


def test_the_control_needs_both():
    results = gather(judged_job())
    assert controls(results) == []
    results.params["methods"]["hlrs"].update(BLANK)
    assert controls(results) == []


# --- the page -----------------------------------------------------------------------------------------


def test_a_page_without_retraining_has_no_part_without_content():
    job = judged_job()
    text = html(job)
    assert Page(text).open == []
    for absent in ("test images", "Test images", "Retraining</h", "Confusion", "alanced accuracy",
                   "Many-shot", "Each class", "retrain</th>", ">nan<", ">None<"):  # fmt: skip
        assert absent not in text.split("params.yaml with all defaults")[0], absent
    titles = [section.title for section in sections(gather(job), "d")]
    assert titles[:2] == ["Images per class", "Accuracy of the methods"]
    assert "Table accuracy, difference from darts" in text
    assert text.count("Floor, without a search") >= 3  # beside the answer, the methods, the ranking
    assert 'id="lookups/d"' in text
    assert "1 data set × 2 methods × 3 seeds = 6 runs" in text
    assert "Per cent of the column a (datasets.d.table_column)" in text
    # the name of a row is a th: what it says in small print is on a line of its own
    assert "td small, th small { display: block;" in text


def test_the_figure_of_the_methods_has_the_floor_in_its_last_rows():
    [figure] = next(
        s.figures for s in sections(gather(judged_job()), "d") if s.title.startswith("Accuracy of")
    )
    assert [*figure.parts] == ["table_accuracy"]
    assert [row[1:3] + row[5:6] for row in figure.data[1][-2:]] == [
        ["random cell", None, pytest.approx(0.648)],
        ["largest cell", None, 0.9],
    ]
    assert "Floor, without a search" in figure.note
    drawn = re.findall(r">(darts|hlrs|random cell|largest cell)<", figure.parts["table_accuracy"])
    assert drawn == ["darts", "hlrs", "random cell", "largest cell"]


def test_a_page_with_retraining_shows_both():
    text = html(judged_job(scores={"darts": [0.5, 0.6, 0.7], "hlrs": [0.5, 0.7, 0.6]}))
    for part in ("Balanced accuracy, difference", 'id="lookups/d"', "Confusion matrix", "by table accuracy"):
        assert part in text


def test_a_control_is_a_section_of_the_page(monkeypatch):
    monkeypatch.setattr("hlrs.report.page.controls", lambda results: [("ties", "so no schedule matters")])
    text = html(judged_job())
    assert "<strong>ties</strong>: so no schedule matters." in text
    assert 'href="#control"' in text
