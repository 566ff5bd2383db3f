"""The report: numbers worked out by hand, words no stronger than the numbers, a self-contained page."""

import base64
import csv
import hashlib
import io
import json
import math
import re
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pytest

from hlrs.artifacts.files import write_json, write_text
from hlrs.artifacts.jobs import OUTPUTS, Job, repeat
from hlrs.artifacts.records import Record
from hlrs.artifacts.tables import SCHEMAS, write_table
from hlrs.config.jobs import ReportJob
from hlrs.config.params import Params
from hlrs.errors import UserError
from hlrs.nas.drawing import draw_cell
from hlrs.pipeline.plan import REPORTED
from hlrs.report import charts
from hlrs.report.checklist import checklist
from hlrs.report.comparisons import compare
from hlrs.report.job_records import facts, record_table
from hlrs.report.runs import JobRecord
from hlrs.report.tables import Cost, cost, hours_table, latency_table, operations_table, stages_table
from hlrs.report.wording import accuracies, answer, chance, duration, memory, points
from hlrs.stages.report import gather, run

HOSTILE = "<script>alert(1)</script>"
CELL = [[["sep_conv_3x3", 0], ["skip_connect", 1]], [["skip_connect", 2], ["max_pool_3x3", 0]]]
TWO_SEEDS = {"darts": [0.5, 0.6], "hlrs": [0.53, 0.61], "random": [0.4, 0.5]}
PLAIN = {"searcher": {"kind": "darts"}, "objective": {"kind": "plain"}, "arch_lr": {"kind": "constant"}}
SPECS = {  # of methods that are not plain DARTS
    "hlrs": PLAIN
    | {"objective": {"kind": "bilateral", "mixing": {"kind": "symmetric"}}, "arch_lr": {"kind": "coupled"}},
    "random": {"searcher": {"kind": "random"}},
    "published": {"searcher": {"kind": "fixed", "genotype": "DARTS_V2"}},
    "resnet32": {"searcher": {"kind": "resnet"}},
}
LACKS = {"published": ["search"], "resnet32": ["search", "extract"]}
DATASET = {"source": {"kind": "digits"}, "imbalance": {"kind": "natural"}, "test_per_class": 20}
FULL_BIN = {"low": 0.8, "high": 1.0, "images": 40, "accuracy": 0.7, "confidence": 0.9}
HISTORY = {  # three epochs; one without alpha steps, one that is not a number
    "search": {
        "weights_loss": [2.0, 1.5, 1.0],
        "alphas_loss": [2.2, None, float("nan")],
        "weights_lr": [0.025, 0.01, 0.001],
        "supernet_accuracy": [None, None, 0.75],
        "decoded_accuracy": [None, None, 0.5],
    },
    "retrain": {"loss": [2.0, 1.0, 0.5], "accuracy": [0.3, 0.5, 0.7], "holdout_accuracy": [None, None, None]},
}


def metrics(balanced: float) -> dict:
    """Of three classes, none of them medium-shot; class 2 has no test image."""
    return {
        "top1": balanced + 0.1,
        "balanced_accuracy": balanced,
        "many": 0.9,
        "medium": None,
        "few": balanced / 2,
        "ece": 0.125,
        "nll": 1.5,
        "test_images": 40,
        "weights": 464_154,
        "multiply_adds": 68_862_592,
        "calibration": [FULL_BIN],
        "per_class": [0.9, balanced, None],
        "confusion": [[18, 2, 0], [10, 10, 0], [0, 0, 0]],
        "train_counts": [150, 19, 2],
        "groups": ["many", "few", "few"],
    }


def history(stage: str, epochs: int) -> dict:
    given = HISTORY[stage] | {"epoch": [0, 1, 2], "progress": [0.0, 0.5, 1.0]}
    schema = SCHEMAS[f"{stage}_history"]
    return {
        column: given.get(column, [1 if kind == "int32" else None] * 3)[:epochs]
        for column, kind in schema.items()
    }


def alphas(method: str) -> dict:
    """Of two edges per cell and two primitives, after 0, 1, 2 epochs; a random search has only the last."""
    epochs = [0] if method == "random" else [0, 1, 2]
    rows = [
        (epoch, cell, 0, state, primitive, 0.1 * epoch * sign, 0.5 + 0.1 * epoch * sign, 1.0)
        for epoch in epochs
        for cell in ("normal", "reduce")
        for state in (0, 1)
        for primitive, sign in (("skip_connect", 1), ("sep_conv_3x3", -1))
    ]
    return dict(zip(SCHEMAS["trajectory"], zip(*rows, strict=True), strict=True))


BARE = {
    "key": "0123456789ab",
    "stage": "search",
    "run": "",
    "params": {},
    "code": "",
    "inputs": {},
    "outputs": {},
}


def record(stage: str, run: str) -> dict:
    """The fields of a record, without a seal."""
    throughput = [{"epoch": e, "seconds": 2.0, "images_per_second": 100.0 + e} for e in range(3)]
    times = {"started": "2026-11-22T10:00:00+00:00", "ended": "2026-11-22T10:01:30+00:00", "seconds": 90.0}
    device = {
        "host": "node07",
        "cpu": "A CPU",
        "device": "cuda",
        "gpu": {"name": "A GPU"},
        "slurm_job": "4711",
    }
    facts = {
        "key": "0123456789ab",
        "stage": stage,
        "run": run,
        "code": "c0de" * 16,
        "commit": None,
        "dirty": None,
    }
    return (
        BARE
        | facts
        | times
        | device
        | {"throughput": throughput, "resumes": 1, "versions": {"torch": "2.9.0"}}
    )


def bare(name: str) -> dict:
    """The fields that every record has, of the job behind a report's input."""
    stage, *run, _ = name.split("/")
    return BARE | {"stage": stage, "run": "/".join(run), "ended": ""}


def write_record(path: Path, facts: dict) -> None:
    Record.sealed(facts).write(path)


def make_job(
    scores: dict[str, list],
    *,
    reference: str | None = "darts",
    seeds=None,
    datasets=("d",),
    specs=None,
    drawn=None,
) -> Job:
    """A report's job with its inputs below the current folder.

    `scores`: balanced accuracies by seed, or lists of them by retraining, with retraining seeds 0, 3, 6, ...;
    `drawn`: likewise by split seed, on other draws of the images.
    """
    seeds = seeds or list(range(len(next(iter(scores.values())))))
    nested = {
        draw: {m: [s if isinstance(s, list) else [s] for s in own] for m, own in of.items()}
        for draw, of in ({0: scores} | (drawn or {})).items()
    }
    retrain_seeds = [3 * i for i in range(len(next(iter(nested[0].values()))[0]))]
    inputs: dict[str, str] = {}

    def put(name: str, write, *content) -> None:
        inputs[name] = str(Path("in", name))
        write(Path("in", name), *content)

    def put_search(name: str, method: str) -> None:
        lacking = LACKS.get(method, [])
        for stage in ("search", "extract"):
            if stage not in lacking:
                put(f"{stage}/{name}/provenance.json", write_record, record(stage, name))
        if "search" not in lacking:
            epochs = 0 if method == "random" else 3
            put(f"search/{name}/alphas.parquet", write_table, "trajectory", alphas(method))
            columns = history("search", epochs)
            put(f"search/{name}/history.parquet", write_table, "search_history", columns)
        if "extract" not in lacking:
            concat = {f"{cell}_concat": [2, 3] for cell in ("normal", "reduce")}
            put(f"extract/{name}/genotype.json", write_json, {"normal": CELL, "reduce": CELL} | concat)
            for cell in ("normal", "reduce"):
                put(f"extract/{name}/{cell}.svg", write_text, draw_cell(CELL, f"{name} {cell}", [2, 3]))

    for dataset, (draw, by_method) in product(datasets, nested.items()):
        dataset = f"{dataset}-{draw}" if draw else dataset
        counts = {"weights": [75, 10, 1], "alphas": [75, 9, 1], "holdout": [5, 1, 0], "test": [20, 20, 0]}
        put(
            f"split/{dataset}/classes.json", write_json, {"names": ["zero", HOSTILE, "two"], "counts": counts}
        )
        put(f"split/{dataset}/provenance.json", write_record, record("split", dataset))
        for method, of_seed in by_method.items():
            for seed, own in zip(seeds, of_seed, strict=True):
                put_search(f"{dataset}/{method}/{seed}", method)
                for retrain_seed, score in zip(retrain_seeds, own, strict=True):
                    name = repeat(f"{dataset}/{method}/{seed}", retrain_seed)
                    put(f"evaluate/{name}/metrics.json", write_json, metrics(score))
                    columns = history("retrain", 3)
                    put(f"retrain/{name}/history.parquet", write_table, "retrain_history", columns)
                    put(
                        f"retrain/{name}/features.parquet",
                        write_table,
                        "features",
                        {name: [] for name in SCHEMAS["features"]},
                    )
                    for stage in ("retrain", "evaluate"):
                        put(f"{stage}/{name}/provenance.json", write_record, record(stage, name))
    matrix = {"datasets": list(datasets), "methods": list(scores), "seeds": seeds}
    matrix |= {"split_seeds": [*nested]} if drawn else {}
    report = {"title": "A <title>", "reference": reference}
    params = Params.model_validate(
        {
            "matrix": matrix | {"retrain_seeds": retrain_seeds},
            "datasets": dict.fromkeys(datasets, DATASET),
            "methods": {name: (SPECS | (specs or {})).get(name, PLAIN) for name in scores},
            "search": {},
            "retrain": {"cutout": 2},
            "evaluate": {},
            "report": report,
        }
    )
    given = ReportJob(
        report=params.report, params=params.model_dump(exclude={"report", "tracking"})
    ).model_dump()
    return Job("report", "all", given, "0" * 64, inputs, "abcdefabcdef")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rows(job: Job, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(job.output(name).read_text())))


def html(job: Job) -> str:
    run(job)
    return job.output("index.html").read_text()


# --- numbers ------------------------------------------------------------------------------------------


def test_mean_and_sample_standard_deviation():
    job = make_job(TWO_SEEDS)
    run(job)
    found = {(r["method"], r["metric"]): r for r in rows(job, "summary.csv")}
    darts = found["darts", "balanced_accuracy"]
    assert (darts["mean"], darts["std"], darts["seeds"]) == ("0.55", "0.07071067812", "2")  # 0.1/√2
    assert found["darts", "top1"]["mean"] == "0.65"
    assert ("darts", "medium") not in found  # null in every seed
    assert found["hlrs", "many"]["std"] == "0"


def test_the_discretization_gap_is_a_metric_of_what_is_searched():
    job = make_job({"darts": [[0.5, 0.4], [0.6, 0.5]], "random": [[0.5, 0.4], [0.4, 0.3]]})
    run(job)
    found = {(r["method"], r["metric"]): r for r in rows(job, "summary.csv")}
    gap = found["darts", "discretization_gap"]
    assert (gap["mean"], gap["seeds"], gap["retrain_std"]) == ("0.25", "2", "")  # retrainings share it
    assert found["darts", "supernet_accuracy"]["mean"] == "0.75"
    assert ("random", "discretization_gap") not in found  # trains nothing in the search
    listed = {(r["method"], r["discretization_gap"], r["decoded_accuracy"]) for r in rows(job, "runs.csv")}
    assert listed == {("darts", "0.25", "0.5"), ("random", "", "")}
    compared = {row["metric"] for row in rows(job, "differences.csv")}
    assert compared == {"balanced_accuracy", "top1"}
    assert "mean over the seeds: darts +25.0." in job.output("index.html").read_text()


def test_adjusted_accuracies_have_columns_of_their_own():
    job = make_job(TWO_SEEDS)
    assert "Adjusted" not in html(job)
    for seed, balanced in ((0, 0.7), (1, 0.9)):
        path = Path(job.inputs[f"evaluate/d/hlrs/{seed}/metrics.json"])
        beside = {"top1": 0.75, "balanced_accuracy": balanced, "many": 0.6, "medium": None, "few": 0.65}
        adjusted = {f"adjusted_{name}": value for name, value in beside.items()} | {"adjust": 1.5}
        write_json(path, json.loads(path.read_text()) | adjusted)
    text = html(job)
    assert "(evaluate.adjust: τ = 1.5)" in text
    taus = {row["method"]: row["adjust"] for row in rows(job, "runs.csv")}
    assert taus == {"darts": "", "hlrs": "1.5", "random": ""}
    assert "of the plain one. Weights and multiply-adds" in re.sub(r"\s+", " ", text)
    for head in ("top-1", "balanced", "many-shot", "few-shot"):
        assert text.count(f">Adjusted: {head}</th>") == 2  # of the methods and of the runs
    assert "80.0<small>± 14.1</small>" in re.sub(r"\s*<small>", "<small>", text)  # 0.7 and 0.9: 0.2/√2
    found = {(r["method"], r["metric"]): r for r in rows(job, "summary.csv")}
    row = found["hlrs", "adjusted_balanced_accuracy"]
    assert (row["mean"], row["std"], row["seeds"]) == ("0.8", "0.1414213562", "2")
    assert row["bootstrap_low"] == "0.7"
    assert found["hlrs", "balanced_accuracy"]["mean"] == "0.57"
    assert ("darts", "adjusted_balanced_accuracy") not in found
    listed = {
        (r["method"], r["adjusted_balanced_accuracy"], r["adjusted_medium"]) for r in rows(job, "runs.csv")
    }
    assert listed == {("darts", "", ""), ("random", "", ""), ("hlrs", "0.7", ""), ("hlrs", "0.9", "")}
    assert {row["metric"] for row in rows(job, "differences.csv")} == {"balanced_accuracy", "top1"}


def test_paired_difference_with_two_seeds():
    job = make_job(TWO_SEEDS)
    run(job)
    found = {(r["method"], r["metric"]): r for r in rows(job, "differences.csv")}
    assert {method for method, _ in found} == {"hlrs", "random"}
    row = found["hlrs", "balanced_accuracy"]  # 0.03 and 0.01: 0.02 ± 12.706 · 0.0141421/√2
    assert float(row["mean"]) == pytest.approx(0.02)
    assert float(row["low"]) == pytest.approx(0.02 - 0.12706, abs=1e-5)
    assert float(row["high"]) == pytest.approx(0.02 + 0.12706, abs=1e-5)
    assert (row["reference"], row["confidence"], row["seeds"]) == ("darts", "0.95", "2")
    assert found["random", "balanced_accuracy"]["low"] == ""  # −0.1 twice: no spread, so no interval


def test_pairs_are_of_the_same_seed():
    """The spread of the seeds themselves drops out: differences 0.01, 0.02, 0.03 at very different levels."""
    job = make_job({"darts": [0.2, 0.5, 0.8], "hlrs": [0.21, 0.52, 0.83]}, seeds=[7, 3, 5])
    found = compare(gather(job))[0]
    assert found.mean == pytest.approx(0.02)
    assert found.high - found.low == pytest.approx(2 * 4.3027 * 0.01 / 3**0.5, abs=1e-5)


def test_metrics_json_holds_no_nulls():
    job = make_job(TWO_SEEDS)
    run(job)
    shown = json.loads(job.output("metrics.json").read_text())
    assert shown["d"]["hlrs"] == {
        "top1": 0.67, "balanced_accuracy": 0.57, "many": 0.9, "few": 0.285, "ece": 0.125, "seeds": 2,
        "supernet_accuracy": 0.75, "decoded_accuracy": 0.5, "discretization_gap": 0.25,
        "weights": 464154, "multiply_adds": 68862592,
    }  # fmt: skip


def test_runs_and_classes():
    job = make_job(TWO_SEEDS)
    run(job)
    first = rows(job, "runs.csv")[0]
    assert first | {"medium": "", "nll": "1.5", "test_images": "40", "seed": "0"} == first
    found = [r for r in rows(job, "classes.csv") if (r["method"], r["seed"]) == ("hlrs", "1")]
    assert [(r["class"], r["group"], r["train_count"], r["accuracy"]) for r in found] == [
        ("0", "many", "150", "0.9"),
        ("1", "few", "19", "0.61"),
        ("2", "few", "2", ""),
    ]
    means = [r["accuracy"] for r in rows(job, "plots/class_accuracy.csv") if r["method"] == "darts"]
    assert means == ["0.9", "0.55", ""]
    counts = [r for r in rows(job, "plots/class_counts.csv") if r["class"] == "0"]
    assert [(r["subset"], r["count"]) for r in counts] == [
        ("weights", "75"), ("alphas", "75"), ("holdout", "5"), ("test", "20"),
    ]  # fmt: skip


def test_histories_with_gaps_and_an_empty_search():
    job = make_job(TWO_SEEDS)
    run(job)
    found = rows(job, "plots/search.csv")
    assert [*found[0]] == ["dataset", "method", "split_seed", "seed", "run", *SCHEMAS["search_history"]]
    assert {r["method"] for r in found} == {"darts", "hlrs"}
    mine = [r for r in found if r["run"] == "d/hlrs/1"]
    assert [r["alphas_loss"] for r in mine] == ["2.2", "", ""]
    assert len(rows(job, "plots/retrain.csv")) == 3 * 2 * 3


def test_files_other_than_the_page_depend_on_no_times_or_hosts():
    job = make_job(TWO_SEEDS)
    run(job)
    tables = [name for name in OUTPUTS["report"] if name != "index.html"]
    before = [job.output(name).read_bytes() for name in tables]
    for name, path in job.inputs.items():
        if name.endswith("provenance.json"):
            write_record(Path(path), bare(name) | {"host": "elsewhere"})
    run(job)
    assert [job.output(name).read_bytes() for name in tables] == before


def test_the_report_reads_what_the_plan_provides():
    names = {name.split("/")[0] + "/" + name.split("/")[-1] for name in make_job(TWO_SEEDS).inputs}
    stages = REPORTED.keys() - {"lookup"}  # in test_lookups.py
    assert names == {f"{stage}/{name}" for stage in stages for name in REPORTED[stage]}


def test_missing_input_is_named():
    job = make_job(TWO_SEEDS)
    del job.inputs["evaluate/d/hlrs/0/metrics.json"]
    with pytest.raises(UserError, match=r"evaluate/d/hlrs/0/metrics\.json"):
        run(job)


# --- several retrainings, methods without a search ----------------------------------------------------

# seed means 0.5, 0.7 and 0.54, 0.75: differences 0.04 and 0.05
NESTED = {"darts": [[0.4, 0.6], [0.6, 0.8]], "hlrs": [[0.52, 0.56], [0.7, 0.8]]}


def test_retrainings_are_averaged_before_seeds():
    job = make_job(NESTED)
    run(job)
    found = {(r["method"], r["metric"]): r for r in rows(job, "summary.csv")}
    darts = found["darts", "balanced_accuracy"]
    assert float(darts["mean"]) == pytest.approx(0.6)
    assert float(darts["std"]) == pytest.approx(0.2 / 2**0.5)  # of 0.5 and 0.7; of all four it would be 0.163
    assert float(darts["retrain_std"]) == pytest.approx(0.02**0.5)  # √((0.02 + 0.02)/2)
    assert darts["seeds"] == "2"
    row = next(r for r in rows(job, "differences.csv") if r["metric"] == "balanced_accuracy")
    assert float(row["mean"]) == pytest.approx(0.045)
    assert (row["seeds"], row["left_out"]) == ("2", "0")
    half = 12.706 * 0.01 / 2**0.5 / 2**0.5
    assert float(row["low"]) == pytest.approx(0.045 - half, abs=1e-5)
    assert float(row["p"]) == pytest.approx(1 - 2 / math.pi * math.atan(9), abs=1e-6)  # t = 0.045/0.005


def test_a_seed_that_one_side_lacks_is_left_out_and_counted():
    results = gather(make_job({"darts": [0.5, 0.6, 0.7], "hlrs": [0.52, 0.61, 0.9]}))
    lacking = [r for r in results.runs if (r.method, r.seed) != ("hlrs", 2)]
    found = compare(replace(results, runs=lacking))[0]
    assert (found.mean, found.seeds, found.left_out) == (pytest.approx(0.015), 2, 1)


def test_every_table_names_the_retraining():
    job = make_job(NESTED)
    text = html(job)
    for name in ("runs.csv", "classes.csv", "plots/retrain.csv"):
        assert {r["retrain_seed"] for r in rows(job, name)} == {"0", "3"}, name
    assert {r["run"] for r in rows(job, "plots/retrain.csv")} >= {"d/hlrs/1", "d/hlrs/1-3"}
    assert len(rows(job, "plots/search.csv")) == 2 * 2 * 3  # each search once
    assert "1 data set × 2 methods × 2 seeds × 2 retrainings = 8 runs" in text
    assert ">Retraining</th>" in text
    assert "<small>± 14.1\n(± 14.1)</small>" in text
    assert text.count('class="cell"') == 2 * 2  # of the first seed of each method
    assert ">Retraining</th>" not in html(make_job(TWO_SEEDS))


def test_a_shared_search_costs_once():
    results = gather(make_job(NESTED))
    total = hours_table(results).groups[0].total
    assert total[1].text == "24"  # 4 searches and extractions, 8 retrainings and evaluations
    hours = [cell.text for cell in total[2:]]
    assert hours == ["0.1", "0.1", "0.2", "0.2", "0.6", "0.3"]  # 90 s per job; last: per seed of all methods
    second = record_table(results).groups[0].rows[1]
    assert second[0].text == "d/darts/0-3"
    assert second[4].href.endswith("search/d/darts/0/provenance.json")
    assert second[7].href.endswith("evaluate/d/darts/0-3/provenance.json")


# differences 0.03, 0.03 on the first draw, 0.01, 0.03 on the second
DRAWN = {"darts": [0.5, 0.52], "hlrs": [0.53, 0.55]}, {7: {"darts": [0.6, 0.62], "hlrs": [0.61, 0.65]}}


def test_seeds_are_averaged_before_draws():
    job = make_job(DRAWN[0], drawn=DRAWN[1])
    run(job)
    found = {(r["method"], r["metric"]): r for r in rows(job, "summary.csv")}
    darts = found["darts", "balanced_accuracy"]
    assert float(darts["mean"]) == pytest.approx(0.56)
    assert float(darts["std"]) == pytest.approx(0.1 / 2**0.5)  # of 0.51 and 0.61
    assert float(darts["seed_std"]) == pytest.approx(0.0002**0.5)  # √((0.0002 + 0.0002)/2)
    assert (darts["seeds"], darts["draws"], darts["retrain_std"]) == ("4", "2", "")
    row = next(r for r in rows(job, "differences.csv") if r["metric"] == "balanced_accuracy")
    assert float(row["mean"]) == pytest.approx(0.025)  # of 0.03 and 0.02
    assert float(row["low"]) == pytest.approx(0.025 - 12.706 * 0.005, abs=1e-5)  # s/√2 = 0.01/√2/√2
    assert float(row["p"]) == pytest.approx(1 - 2 / math.pi * math.atan(5), abs=1e-6)  # t = 0.025/0.005
    assert (row["seeds"], row["draws"], row["left_out"]) == ("4", "2", "0")
    results = gather(job)
    lacking = [r for r in results.runs if r.name != "d-7/hlrs/1"]
    found = compare(replace(results, runs=lacking))[0]  # the pair of draw 7 and seed 1 is lost
    # of 0.03 and 0.01; of the three pairs it would be 0.0233
    assert (found.mean, found.seeds, found.left_out) == (pytest.approx(0.02), 3, 1)


def test_every_table_and_drawing_names_the_draw():
    job = make_job(DRAWN[0], drawn=DRAWN[1], datasets=("d", "e"))
    page = Page(text := html(job))
    for name in ("runs.csv", "classes.csv", "plots/retrain.csv", "plots/search.csv"):
        assert {r["split_seed"] for r in rows(job, name)} == {"0", "7"}, name
        assert {r["dataset"] for r in rows(job, name)} == {"d", "e"}, name
    assert {r["run"] for r in rows(job, "plots/search.csv")} >= {"d/hlrs/1", "d-7/hlrs/1"}
    assert "2 data sets × 2 methods × 2 seeds × 2 draws = 16 runs" in text
    for said in (
        "<small>± 7.1\n(± 1.4)</small>",
        "4 seeds on 2 draws",
        "each of the 2 draws",
        "darts, draw 7, seed 1",
        "darts, draw 0, seed 1",
    ):
        assert said in text, said
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {a["href"] for tag, a in page.elements if tag == "a"}
    assert "#lineage/d-7/hlrs/1" in links
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    with zipfile.ZipFile(job.output("figures.zip")) as file:
        names = file.namelist()
        shown = list(csv.DictReader(io.TextIOWrapper(file.open("e/methods.csv"))))
    assert len(names) == len(set(names))
    assert {"e/cells_hlrs/seed_1_normal.svg", "e/cells_hlrs/draw_7_seed_1_normal.svg"} <= {*names}
    assert {(row["split_seed"], row["seed"]) for row in shown} == {*product("07", "01")}
    text = html(make_job(DRAWN[0]))
    assert not re.search(r"\bdraws?\b", text.split('id="data/d"')[1].split('id="cost"')[0])


WITHOUT = {"darts": [0.5, 0.6], "published": [0.5, 0.7], "resnet32": [0.4, 0.5]}


def test_stages_that_a_method_lacks_are_not_shown():
    job = make_job(WITHOUT)
    text = html(job)
    assert re.search(r"[Nn]o search: published, resnet32", text)
    assert text.count('class="cell"') == 2 * 2  # none of the ResNet's
    results = gather(job)
    assert [row[0].text for row in operations_table(results, "d").groups[0].rows] == ["darts", "published"]
    hours = {row[0].text: [c.text for c in row[1:6]] for row in hours_table(results).groups[0].rows}
    assert hours["resnet32"] == ["4", "–", "–", "0.05", "0.05"]
    stages = {(r[0].text, r[1].text) for r in stages_table(results).groups[0].rows}
    assert {s for m, s in stages if m == "resnet32"} == {"retrain", "evaluate"}
    assert {s for m, s in stages if m == "published"} == {"extract", "retrain", "evaluate"}
    assert {r["method"] for r in rows(job, "plots/search.csv")} == {"darts"}
    keys = [sum(bool(cell.href) for cell in row) for row in record_table(results).groups[0].rows[::2]]
    assert keys == [7, 6, 4]  # the split's, genotype and weights among them


def test_a_report_of_resnets_alone():
    text = html(make_job({"resnet32": [0.4, 0.5]}, reference=None))
    assert 'id="cells/' not in text
    assert "Architecture weights" not in text
    assert Page(text).open == []


# --- words --------------------------------------------------------------------------------------------


def answers(scores: dict[str, list[float]], **options) -> list[str]:
    results = gather(make_job(scores, **options))
    return answer(results, compare(results))


def test_interval_that_includes_zero_claims_nothing():
    [sentence] = answers({"darts": [0.5, 0.6], "hlrs": [0.53, 0.61]})
    for fact in ("hlrs on d", "+2.0", "darts", "95 % interval −10.7 to +14.7, p 0.3, 2 seeds"):
        assert fact in sentence
    assert sentence.endswith(": not significant.")


def test_interval_that_excludes_zero():
    up = answers({"darts": [0.5, 0.5, 0.5], "hlrs": [0.52, 0.53, 0.54]})
    assert up[0].endswith("(95 % interval +0.5 to +5.5, p 0.035, 3 seeds): higher.")  # t = 3√3, 2 degrees
    assert answers({"darts": [0.5, 0.5, 0.5], "hlrs": [0.48, 0.47, 0.46]})[0].endswith(": lower.")


def test_the_corrected_p_decides():
    """With two methods each p of 0.035 is doubled: both intervals exclude 0, yet nothing is significant."""
    up = [0.52, 0.53, 0.54]
    results = gather(make_job({"darts": [0.5, 0.5, 0.5], "hlrs": up, "a": up}))
    found = [d for d in compare(results) if d.metric == "balanced_accuracy"]
    assert [d.p for d in found] == pytest.approx([0.0351] * 2, abs=1e-4)
    assert [d.corrected for d in found] == pytest.approx([0.0702] * 2, abs=1e-4)
    assert all(d.low > 0 and d.verdict == "not significant" and d.compared == 2 for d in found)
    assert "p 0.07, corrected for 2 methods" in answer(results, found)[1]


def test_one_seed_is_stated():
    sentences = answers({"darts": [0.5], "hlrs": [0.6]})
    assert "One seed" in sentences[0]
    assert "+10.0 percentage points" in sentences[1]
    assert "interval" not in sentences[1]
    page = html(make_job({"darts": [0.5], "hlrs": [0.6]}))
    assert 'class="dot alone"' in page
    assert 'class="span"' not in page
    assert "needs 2 seeds" in page
    assert "± " not in page.split('id="methods/d"')[1].split("<tbody>")[1].split("</tbody>")[0]


def test_same_difference_in_every_seed_is_no_certainty():
    [sentence] = answers({"darts": [0.5, 0.6], "hlrs": [0.6, 0.7]})
    assert "same in every seed" in sentence
    assert "significant" not in sentence


def test_what_chance_cannot_judge_is_not_called_insignificant():
    same, none = {"darts": [0.5, 0.6], "a": [0.6, 0.7]}, {"b": [0.5, 0.7]}
    assert answers(same | {"c": [0.1, 0.2]})[0] == (
        "In none of 2 comparisons with darts can chance be judged."
    )
    assert answers(same | none)[0] == (
        "No method differs significantly from darts in balanced accuracy; chance cannot be judged in 1."
    )


def test_a_p_value_shows_its_side_of_the_level():
    assert [chance(p, 1 - 0.95) for p in (0.0498, 0.0502, 0.049996, 0.05, 0.0351)] == [
        "0.0498", "0.0502", "0.049996", "0.05", "0.035",
    ]  # fmt: skip
    assert chance(0.0996, 1 - 0.9) == "0.0996"


def test_several_comparisons_are_counted():
    scores = {
        "darts": [0.5, 0.5, 0.5],
        "a": [0.52, 0.525, 0.53],
        "b": [0.49, 0.5, 0.51],
        "c": [0.4, 0.41, 0.39],
    }
    headline = answers(scores)[0]
    for fact in ("darts", "higher in 1 (by 2.5 points)", "lower in 1 (by 10.0 points)", "of 3 comparisons"):
        assert fact in headline
    assert headline.endswith("one is not significant.")
    none = answers({"darts": [0.5, 0.5], "a": [0.4, 0.6], "b": [0.4, 0.7]})[0]
    assert none.startswith("No method differs significantly from darts")


def test_many_comparisons_are_summarized():
    scores = {"darts": [0.5, 0.5, 0.5], "up": [0.6, 0.601, 0.602]} | {
        f"m{i}": [0.4, 0.5, 0.6] for i in range(12)
    }
    assert answers(scores)[1:] == ["d: higher: up +10.1; not significant: 12 methods."]
    text = html(make_job(scores))
    assert "Every difference with its interval" in text
    assert "In words" not in text
    assert Page(text).open == []


def test_the_claim_stands_near_the_top():
    text = html(make_job(TWO_SEEDS))
    assert text.index('id="claim"') < text.index('id="data/d"')
    assert "<strong>not tested on d</strong>" in text
    assert 'id="claim"' not in html(make_job(TWO_SEEDS, reference="random"))


def test_a_claim_that_the_matrix_cannot_speak_to_is_left_to_the_table():
    job = make_job({"darts": [0.5, 0.5], "random": [0.4, 0.5]})
    assert 'id="claim"' not in html(job)
    assert {r["verdict"] for r in rows(job, "claim.csv")} == {"not tested"}


def test_the_best_method_is_named_with_its_accuracy_and_interval():
    first = accuracies(gather(make_job({"darts": [0.5, 0.5], "a": [0.6, 0.8], "b": [0.55, 0.55]})))
    # x̄ ± t₁ s/√2 with t₁ = 12.706 and s/√2 = 0.1, −57 to 197 %, within what accuracies can be
    named = "a 70.0 % (95 % interval 0.0 to 100.0 %), b 55.0 %, darts 50.0 %"
    assert first == [f"Balanced accuracy on d, best first: {named}."]
    many = {"darts": [0.5]} | {f"m{i}": [0.6 + i / 100] for i in range(6)}
    [named] = accuracies(gather(make_job(many)))
    assert named == "Balanced accuracy on d, highest of 7: m5 65.0 %, reference darts 50.0 %."
    [named] = accuracies(gather(make_job(many | {"darts": [0.7]})))
    assert named == "Balanced accuracy on d, highest of 7: darts 70.0 %."


def test_differences_print_alike_however_they_were_summed():
    assert points(0.0125) == points(0.0125 + 1e-12) == points(0.0125 - 1e-12)


def test_without_a_reference_nothing_is_compared():
    assert "report.reference" in answers(TWO_SEEDS, reference=None)[0]
    job = make_job(TWO_SEEDS, reference=None)
    assert 'class="glance"' not in html(job)
    assert rows(job, "differences.csv") == []
    assert "nothing to compare" in answers({"darts": [0.5, 0.6]})[0]


def test_a_difference_is_never_rounded_to_zero():
    assert [points(x) for x in (0.0123, -0.0123, 0.0003, -0.00004, 0.0, 1e-17)] == [
        "+1.2", "−1.2", "+0.03", "−0.004", "0.0", "0.0",
    ]  # fmt: skip


# --- cost ---------------------------------------------------------------------------------------------


def cost_of(*records: dict) -> Cost:
    return cost([JobRecord.of("", Record.sealed(BARE | {"ended": ""} | record)) for record in records])


def test_hours_are_of_gpus_or_of_threads():
    gpu = {"stage": "search", "seconds": 1800.0, "gpu": {"name": "A GPU", "peak_memory_bytes": 2**30}}
    cpu = {"stage": "retrain", "seconds": 900.0, "params": {"retrain": {"threads": 4}}, "resumes": 0}
    found = cost_of(gpu, gpu, cpu, {"stage": "search"})
    assert (found.gpu_hours, found.cpu_hours, found.jobs, found.unknown) == (1.0, 1.0, 4, 1)
    assert (found.gpu_memory, found.host_memory, found.resumes, found.startup) == (2**30, None, 0, None)


def test_startup_is_imports_and_setup():
    found = cost_of(
        {"startup": {"imports_seconds": 1.5, "setup_seconds": None}}, {"startup": {"setup_seconds": 4}}
    )
    assert found.startup == 2.75  # the median of 1.5 and 4


def test_latency_is_shown_by_device_where_it_was_measured():
    job = make_job({"darts": [0.5, 0.6, 0.7], "hlrs": [0.5, 0.6, 0.7]})
    page, figures = html(job), {name: job.output(name).read_text() for name in ("metrics.json", "runs.csv")}
    assert "Latency" not in page

    def passes(batch, *milliseconds, memory=None):
        low, middle, high = (value / 1000 for value in milliseconds)
        facts = {"median_seconds": middle, "quartiles_seconds": [low, high], "passes": 10}
        return {"batch": batch, **facts, "peak_memory_bytes": memory}

    measured = {
        0: ("CPU, A", [passes(1, 1, 2, 3, memory=2**20), passes(64, 50, 60, 90)]),
        1: ("CPU, A", [passes(1, 2, 4, 9, memory=5 * 2**20), passes(64, 40, 50, 60)]),
        2: ("A GPU", [passes(1, 1, 1, 1)]),
    }
    for seed, (device, batches) in measured.items():
        own = {"latency": {"device": device, "threads": 1, "batches": batches}}
        name = f"evaluate/d/hlrs/{seed}"
        write_record(Path(f"in/{name}/provenance.json"), record("evaluate", f"d/hlrs/{seed}") | own)
    table = latency_table(gather(job))
    assert [column.detail for column in table.columns[3:]] == ["1 image"] * 3 + ["64 images"] * 3
    assert [[cell.text for cell in row] for row in table.groups[0].rows] == [
        ["hlrs", "CPU, A, 1 thread", "2", "3", "1 to 9", "5 MiB", "55", "40 to 90", "not recorded"],
        ["hlrs", "A GPU, 1 thread", "1", "1", "1 to 1", "not recorded", "–", "–", "–"],
    ]
    assert Page(html(job)).open == []
    assert {
        name: job.output(name).read_text() for name in figures
    } == figures  # of a machine, not of a result


def test_after_a_resume_the_epochs_of_all_processes_count():
    """The last process took 100 s, 70 of them for epoch 2; epochs 0 and 1 took 200 s before."""
    epochs = [{"epoch": e, "seconds": s, "images_per_second": 10.0 + e} for e, s in enumerate((90, 110, 65))]
    facts = {"seconds": 100.0, "training_seconds": 70.0, "throughput": epochs}
    assert cost_of(facts | {"resumes": 1}).cpu_hours == pytest.approx((30 + 265) / 3600)
    assert cost_of(facts | {"resumes": 0}).cpu_hours == pytest.approx(100 / 3600)
    assert cost_of(facts | {"resumes": 0}).images_per_second == 11.0


def test_the_page_sums_up_the_hours():
    text = html(make_job(TWO_SEEDS))  # 90 s per job on a GPU, four jobs per run, two runs per method
    total = text.split('id="cost"')[1].split('<tr class="total">')[1].split("</tr>")[0]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", total) == ["24", "0.15", "0.15", "0.15", "0.15", "0.6", "0.3"]
    assert "1 data set × 3 methods × 2 seeds = 6 runs, 2026-11-22, 0.6 GPU-hours" in text


def test_durations_and_sizes():
    assert [duration(x) for x in (8.06, 90, 5400, None)] == ["8.1 s", "1.5 min", "1 h 30 min", "not recorded"]
    assert [memory(x) for x in (2**20, 3 * 2**17, 12.4 * 2**20, 3 * 2**29, None)] == [
        "1 MiB", "0.38 MiB", "12 MiB", "1.5 GiB", "not recorded",
    ]  # fmt: skip


# --- the page -----------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collect elements; fail on one that is not closed."""

    VOID = ("meta", "link", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_fetches_nothing_and_runs_its_own_script_only():
    text = html(make_job(TWO_SEEDS))
    page = Page(text)
    assert page.open == []
    assert not {"img", "iframe", "object", "embed"} & {tag for tag, _ in page.elements}
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.split("; ")[:2] == ["default-src 'none'", f"script-src 'sha256-{digest}'"]
    for tag, attributes in page.elements:
        links = [attributes[name] for name in ("src", "href", "xlink:href", "srcset") if name in attributes]
        beside = OUTPUTS["report"] if tag == "a" else []
        assert all(link == "data:," or link.startswith(("#", "../")) or link in beside for link in links)
        assert not [name for name in attributes if name.startswith("on")]
    assert "@import" not in text
    assert "url(" not in text
    assert set(re.findall(r"https?://[^\"'\s<]*", text)) <= {"http://www.w3.org/2000/svg"}


def test_anchors_exist_and_are_unique():
    page = Page(html(make_job(TWO_SEEDS, datasets=("d", "e"))))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {a["href"] for tag, a in page.elements if tag == "a"}
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert {link for link in links if not link.startswith(("#", "../"))} == {*OUTPUTS["report"]} - {
        "index.html"
    }
    assert {f"#lineage/{d}/{m}/{s}" for d in "de" for m in TWO_SEEDS for s in (0, 1)} <= links


def test_hostile_names_are_escaped():
    text = html(make_job(TWO_SEEDS))
    assert HOSTILE not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<title>A &lt;title&gt;</title>" in text


def test_page_shows_cells_records_and_what_is_missing():
    job = make_job(TWO_SEEDS)
    text = html(job)
    assert text.count('class="cell"') == 3 * 2
    assert "No curves for random" in text
    assert "A GPU" in text
    assert re.search(r"55\.0\s*<small>± 7\.1</small>", text)
    for name, path in job.inputs.items():
        if name.endswith("provenance.json"):
            write_record(Path(path), bare(name))
    text = html(job)
    assert "A GPU" not in text
    assert text.count("not recorded") > 12


def test_tables_name_their_rows_and_columns():
    page = Page(html(make_job(TWO_SEEDS)))
    tables = sum(tag == "table" for tag, _ in page.elements)
    assert tables == sum(tag == "caption" for tag, _ in page.elements)
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")


# --- lineage ------------------------------------------------------------------------------------------


def files_linked(job, name):
    """A record, and what is linked beside it."""
    beside = {"extract": "genotype.json", "retrain": "weights.safetensors"}.get(name.split("/")[0])
    record = Path(job.inputs[name])
    return [record, *([record.with_name(beside)] if beside else [])]


def test_every_job_is_linked_to_its_record_and_files():
    """The page lies in report/, one folder below the workflow's, to which the records' paths are relative."""
    job = make_job(TWO_SEEDS, datasets=("d", "e"))
    table = record_table(gather(job))
    assert [(group.name, group.anchor) for group in table.groups] == [("d", "runs/d"), ("e", "runs/e")]
    links = [cell.href for group in table.groups for row in group.rows for cell in row[1:]]
    assert {Path("report", link).resolve() for link in links} == {
        path.resolve()
        for name in job.inputs
        if name.endswith("provenance.json")
        for path in files_linked(job, name)
    }
    [row] = [row for row in table.groups[0].rows if row[0].text == "d/hlrs/1"]
    assert [cell.text for cell in row[1:]] == ["genotype.json", "weights.safetensors", *["0123456789ab"] * 5]
    assert row[0].anchor == "lineage/d/hlrs/1"


def test_facts_that_jobs_share_are_shown_once():
    job = make_job(TWO_SEEDS)
    edited = record("extract", "d/hlrs/0") | {"dirty": True}
    write_record(Path(job.inputs["extract/d/hlrs/0/provenance.json"]), edited)
    found = {fact.label: fact for fact in facts(gather(job))}
    assert found["Versions"].values == [("torch 2.9.0", 25)]
    assert found["Commit"].values == [("not recorded", 24), ("not recorded + uncommitted changes", 1)]
    assert found["Code of search"].values == [("c0de" * 16, 6)]
    text = html(job)
    assert text.count("torch 2.9.0") == 1
    assert "1 job ran uncommitted code" in text


# --- charts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 97, [0, 20, 40, 60, 80, 100]),
        (1.5, 2.08, [1.4, 1.6, 1.8, 2, 2.2]),
        (-3, 4, [-4, -2, 0, 2, 4]),
    ],
)
def test_nice_ticks(low, high, expected):
    assert charts.nice_ticks(low, high) == pytest.approx(expected)


def test_few_digits_still_write_a_large_number_whole():
    assert charts.number(12345.6, 3) == "12\u202f346"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-1, 1, ["−1", "−0.5", "0", "0.5", "1"]),
        (0, 4000, ["0", "1\u202f000", "2\u202f000", "3\u202f000", "4\u202f000"]),
        (2.07938, 2.07944, ["2.07938", "2.0794", "2.07942", "2.07944"]),
        (
            5000.1,
            5000.3,
            ["5\u202f000.10", "5\u202f000.15", "5\u202f000.20", "5\u202f000.25", "5\u202f000.30"],
        ),
    ],
)
def test_labels_of_ticks_have_as_many_digits_as_tell_them_apart(low, high, expected):
    assert charts.labels_apart(charts.nice_ticks(low, high)) == expected


def test_log_ticks():
    assert charts.log_ticks(1, 1000) == [1, 10, 100, 1000]
    assert charts.log_ticks(4, 120) == [5, 10, 20, 50, 100]


def test_extent_of_nothing_and_of_one_value():
    assert charts.extent([None, float("nan")]) == (-0.5 + 0.5, 1.0)
    assert charts.extent([3.0]) == (2.5, 3.5)
    assert charts.extent([3.0], zero=True) == (0.0, 3.0)


def test_line_breaks_at_gaps():
    line = charts.Line("l", 0, [0, 1, 2, 3, 4], [1.0, 2.0, None, float("nan"), 3.0])
    svg = charts.line_chart([line], charts.Axes("t", "x", "y", (0, 4), (0, 4)))
    path = re.search(r'class="line s0" d="([^"]*)"', svg).group(1)
    assert (path.count("M"), path.count("l"), path.count("h0")) == (2, 1, 2)


def test_bars_are_as_high_as_their_counts():
    axes = charts.Axes("", "class", "images", (0, 1), (0, 100))
    svg = charts.bar_chart({"a": [100, 50], "b": [0, 50]}, ["x", "y"], axes, [("many", 0, 1)])
    first, second = re.findall(r'class="fill s\d" d="([^"]*)"', svg)
    tall, half = (float(h) for h in re.findall(r"v(\d[\d.]*)", first))
    assert tall == pytest.approx(2 * half, abs=0.2)
    assert re.findall(r"v(\d[\d.]*)", second) == [f"{half:.1f}"]
    assert "<title>y: a 50, b 50</title>" in svg


# --- the checklist ------------------------------------------------------------------------------------


def test_the_checklist_says_what_the_records_say_and_leaves_the_rest_to_the_author():
    job = make_job(TWO_SEEDS)
    found = {practice.number: (practice.answer, practice.evidence) for practice in checklist(gather(job))}
    assert sorted(found) == [*range(1, 15)]
    assert {number for number, (answer, _) in found.items() if answer == "left to the author"} == {
        *(1, 2, 3, 5, 12)
    }
    assert found[1][1].startswith("The jobs ran outside of a checkout")
    assert found[4] == (
        "yes",
        "All methods share the images of each data set. Common to all: search.space. Common to all: retrain.",
    )
    assert found[8][0] == "partly"
    assert found[8][1].startswith("Random sampling: random.")
    assert found[9] == ("yes", "Seeds of the searches: 0, 1. Seeds of the retrainings: 0.")
    assert (found[7][0], found[10][0], found[11][0], found[14][0]) == ("no", "no", "yes", "yes")
    # 2 seeds × (3 searches, 3 extractions, 3 retrainings, 3 evaluations) of 90 s; a search or retraining was
    # resumed, yet its training time is not on record, so that its recorded duration counts
    assert found[13] == ("yes", "From search to evaluation, all methods and seeds: 0.6 GPU-hours.")
    assert '<td class="text">left to the author</td>' in html(job)


def test_the_checklist_names_what_differs_between_methods_and_jobs():
    specs = {"hlrs": SPECS["hlrs"] | {"retrain": {"epochs": 7}, "evaluate": {"batch_size": 3}}}
    job = make_job({"darts": [0.5], "hlrs": [0.6]}, specs=specs)
    for name, change in (
        ("search/d/hlrs/0", {"cpu": "B", "gpu": None}),
        ("evaluate/d/darts/0", {"seconds": None}),
    ):
        write_record(Path(job.inputs[f"{name}/provenance.json"]), record(*name.split("/", 1)) | change)
    found = {practice.number: (practice.answer, practice.evidence) for practice in checklist(gather(job))}
    assert found[4] == (
        "partly",
        "All methods share the images of each data set. Common to all: search.space. "
        "Different in retrain: darts | hlrs.",
    )
    assert found[6] == ("partly", "Different in evaluate: darts | hlrs.")
    assert found[8][0] == "no"
    assert found[9][0] == "no"
    assert found[11] == ("partly", "Different between jobs: device (2).")
    # 90 s on a CPU, 6 × 90 s on a GPU
    assert found[13] == (
        "partly",
        "At least 0.15 GPU-hours and 0.025 CPU-hours; 1 job without a time on record.",
    )
