"""Look-ups in a table of accuracies: planned, run, recorded, traced; and one line for what does not fit."""

import copy
import csv
import hashlib
import io
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

import hlrs
from hlrs.artifacts.files import write_json, write_text
from hlrs.cli import main
from hlrs.config.params import Params, load
from hlrs.errors import UserError
from hlrs.pipeline import plan
from hlrs.pipeline.execute import execute
from hlrs.provenance import ro_crate
from hlrs.provenance.audit import Audit, check_data
from hlrs.provenance.differences import compare
from hlrs.provenance.lineage import facts, find, read_here, trace
from hlrs.provenance.lineage_view import dot, tree
from hlrs.stages import extract
from tests.conftest import TINY, put
from tests.messages import says
from tests.nas.test_cell_table import ALL, ONE, POINTS, POOLS, SKIPS, lines

TABLE = "cells.csv"
METHODS = {"random": {"searcher": {"kind": "random"}}}
FOUND = [ONE, SKIPS]  # by seed
STAGES = ("split", "search", "extract", "lookup")


def params(**changes) -> Params:
    """TINY with a random search, judged by the table's column `a` alone."""
    tree = copy.deepcopy(TINY) | {
        "methods": copy.deepcopy(METHODS),
        "report": {},
        "evaluate": {"table": TABLE},
    }
    tree["matrix"] |= {"methods": ["random"], "seeds": [0, 1], "retrain_seeds": []}
    tree["datasets"]["digits"]["table_column"] = "a"
    tree["retrain"] |= {"auxiliary_weight": 0, "drop_path": 0}  # networks of the space have none
    tree["search"] |= {"space": {"kind": "nasbench201"}, "nodes": 4, "cells": 3}
    for name, value in changes.items():
        put(tree, name.split("__"), value)
    Path("params.yaml").write_text(yaml.safe_dump(tree))
    return load(Path("params.yaml"))


@pytest.fixture(autouse=True)
def _table(workspace, monkeypatch):
    """A folder with a table, and searches of NAS-Bench-201 that find the cells of FOUND."""

    def find_cell(job):
        write_json(job.output("genotype.json"), {"cell": FOUND[int(job.run[-1])]})
        for cell in ("normal", "reduce"):
            write_text(job.output(f"{cell}.svg"), "<svg></svg>")
        return {}

    monkeypatch.setattr(extract, "run", find_cell)
    Path(TABLE).write_text(lines())


def done(stages=STAGES, **changes):
    """The jobs of the plan, those of some stages run, by stage and run."""
    jobs = plan.plan(params(**changes))
    for job in jobs:
        if job.stage in stages:
            execute(job)
    return {(job.stage, job.run): job for job in jobs}


# --- the plan -----------------------------------------------------------------------------------------


def test_without_retraining_seeds_the_look_up_ends_a_run():
    jobs = plan.plan(params())
    assert [(job.stage, job.run) for job in jobs] == [
        ("split", "digits"),
        *((stage, "digits/random/0") for stage in ("search", "extract", "lookup")),
        *((stage, "digits/random/1") for stage in ("search", "extract", "lookup")),
        ("report", "all"),
    ]
    lookup = jobs[3]
    assert lookup.inputs == {"genotype": str(jobs[2].output("genotype.json"))}
    assert lookup.params == {"table": TABLE, "content": hashlib.sha256(lines().encode()).hexdigest()}
    assert str(lookup.output("lookup.json")) in jobs[-1].inputs.values()


def test_a_retraining_neither_reads_the_table_nor_depends_on_it():
    seeds = {"matrix__retrain_seeds": [0]}
    judged = {(job.stage, job.run): job.key for job in plan.plan(params(**seeds))}
    plain = plan.plan(params(**seeds, evaluate={}, datasets__digits__table_column=None))
    alone = {(job.stage, job.run): job.key for job in plain}
    assert judged.keys() - alone.keys() == {("lookup", f"digits/random/{seed}") for seed in (0, 1)}
    assert {job for job in alone if alone[job] != judged[job]} == {("report", "all")}


def test_another_table_makes_the_look_ups_due_and_another_column_only_the_report():
    before = {(job.stage, job.run): job for job in plan.plan(params())}

    def changed(**changes):
        return {
            job.stage for job in plan.plan(params(**changes)) if before[job.stage, job.run].key != job.key
        }

    assert changed(datasets__digits__table_column="b") == {"report"}
    Path(TABLE).write_text(lines().replace("94.0", "94.1"))
    assert changed() == {"lookup", "report"}
    job = next(job for job in plan.plan(params()) if job.stage == "lookup")
    assert compare(job, before["lookup", job.run], params()).data
    Path(TABLE).write_text(lines())
    Path("other.csv").write_text(lines())
    job = next(job for job in plan.plan(params(evaluate__table="other.csv")) if job.stage == "lookup")
    assert [str(c) for c in compare(job, before["lookup", job.run], params()).changes] == [
        "evaluate.table cells.csv -> other.csv"
    ]


def test_a_given_cell_of_another_size_is_refused_for_its_size():
    small = {"fixed": {"searcher": {"kind": "fixed", "genotype": "|none~0|+|none~0|none~1|"}}}
    with pytest.raises(
        UserError, match=r"^methods\.fixed\.searcher\.genotype: .* has 2 nodes besides its input"
    ):
        plan.plan(params(methods=METHODS | small, matrix__methods=["random", "fixed"]))


# --- a look-up ----------------------------------------------------------------------------------------


TWO = METHODS | {"fixed": {"searcher": {"kind": "fixed", "genotype": POINTS}}}


def check_results_against_csv(jobs):
    """Return hlrs.results(), which must have the rows, columns and values of the report's runs.csv."""
    frame = hlrs.results()
    written = pd.read_csv(jobs["report", "all"].output("runs.csv"))
    own = frame[[name for name in frame if name in written]]
    assert {*written} <= {*frame}
    pd.testing.assert_frame_equal(own, written[[*own]], check_dtype=False, rtol=1e-5)
    return frame


def test_results_in_python_are_the_reports_where_nothing_is_retrained():
    methods = {"methods": TWO, "matrix__methods": ["random", "fixed"]}
    jobs = done((*STAGES, "report"), matrix__split_seeds=[7, 0], matrix__seeds=[1, 0], **methods)
    frame = check_results_against_csv(jobs)
    assert frame.method.tolist() == ["random"] * 4 + ["fixed"] * 4
    assert frame.split_seed.tolist() == [7, 7, 0, 0] * 2
    assert frame.table_accuracy.tolist() == [0.94, 0.50] * 4  # ONE and SKIPS, whoever extracts
    assert all((Path(folder) / "lookup.json").is_file() for folder in frame.folder)


def test_results_in_python_are_the_reports_where_networks_are_retrained():
    retrained = {"matrix__retrain_seeds": [3], "matrix__seeds": [1]}
    jobs = done((*STAGES, "retrain", "evaluate", "report"), **retrained)
    [row] = check_results_against_csv(jobs).to_dict("records")
    assert (row["retrain_seed"], row["cell"], row["table_accuracy"]) == (3, SKIPS, 0.50)
    assert row["folder"] == str(jobs["evaluate", "digits/random/1-3"].directory)


def test_results_in_python_have_their_columns_before_anything_has_run():
    params()
    with pytest.warns(UserWarning, match="^0 of 2 results of params.yaml are there"):
        frame = hlrs.results()
    assert [*frame] == ["dataset", "method", "split_seed", "seed", "retrain_seed", "folder"]


def test_the_look_up_writes_what_the_table_says_and_which_file_said_it():
    jobs = done()
    found = json.loads(jobs["lookup", "digits/random/0"].output("lookup.json").read_text())
    assert (found["cell"], found["cells"]) == (ONE, 5)
    assert {name: column["accuracy"] for name, column in found["columns"].items()} == {"a": 94.0, "b": 10.0}
    other = json.loads(jobs["lookup", "digits/random/1"].output("lookup.json").read_text())
    assert (other["collapsed"], other["columns"]["a"]["rank"]) == (True, 4)  # 50, behind 94, 90 and 80


def test_lineage_leads_from_the_look_up_to_the_table():
    jobs = [*done().values()]
    found = trace(find("digits/random/0", jobs), read_here)
    assert [record.stage for record in found.records.values()] == ["lookup", "extract", "search", "split"]
    [file] = facts(found)["data"]["digits/random/0"]
    size, digest = len(lines()), hashlib.sha256(lines().encode()).hexdigest()
    assert file == {"name": TABLE, "path": TABLE, "bytes": size, "sha256": digest}
    shown = "\n".join(tree(found, 110))
    assert f"data: 1 file of evaluate.table, {size} bytes" in shown
    assert digest in shown
    assert "data of digits/random/0" in dot(found)


def test_the_audit_finds_a_table_that_changed_after_the_look_up():
    jobs = [*done().values()]
    assert [finding for finding in check_data(Audit(jobs)) if finding.broken] == []
    Path(TABLE).write_text(lines().replace("94.0", "94.1"))
    broken = [finding for finding in check_data(Audit(jobs)) if finding.broken]
    assert {finding.path for finding in broken} == {TABLE}
    assert broken[0].what == "has other bytes than when digits/random/0 was looked up"


def test_without_the_table_results_are_traced_and_audited_all_the_same():
    jobs = done()
    Path(TABLE).unlink()
    traced = CliRunner().invoke(main, ["lineage", "digits/random/0"])
    assert traced.exit_code == 0
    for stage in ("split", "search", "extract", "lookup"):
        name = "digits" if stage == "split" else "digits/random/0"
        assert f"{stage} {jobs[stage, name].key} · " in traced.stdout
    says(traced.stderr, "evaluate.table", TABLE, "put them there")
    audited = CliRunner().invoke(main, ["audit", "--json"])
    assert audited.exit_code == 0
    [remark] = [finding for finding in json.loads(audited.stdout) if finding["path"] == "params.yaml"]
    says(remark["what"], "evaluate.table", TABLE)
    assert not remark["broken"]
    Path(jobs["lookup", "digits/random/0"].output("lookup.json")).write_text("{}")
    assert CliRunner().invoke(main, ["audit"]).exit_code == 1


def test_a_search_is_judged_from_the_plan_to_the_report_without_a_retraining():
    """ONE has 94 in column a, SKIPS 50, of a mean of 64.8; ranks 1, 4; percentiles 1, 2/5."""
    stages = ("split", "search", "extract", "lookup", "report")
    jobs = done(stages)
    assert {stage for stage, _ in jobs} == {*stages}
    assert [f for f in Audit([*jobs.values()]).findings() if f.broken] == []
    report = jobs["report", "all"]
    [first, second] = csv.DictReader(io.StringIO(report.output("runs.csv").read_text()))
    assert (first["table_accuracy"], first["table_regret"], first["table_rank"]) == ("0.94", "0", "1")
    assert (second["table_accuracy"], second["cell"], second["collapsed"]) == ("0.5", SKIPS, "True")
    assert json.loads(report.output("metrics.json").read_text()) == {
        "digits": {
            "random": {
                "seeds": 2,
                "table_accuracy": 0.72,
                "table_regret": 0.22,
                "table_rank": 2.5,
                "table_percentile": 0.7,
                "collapses": 1,
            },
            "random cell": {"table_accuracy": 0.648},
            "largest cell": {"table_accuracy": 0.9, "rank_correlation": pytest.approx(8.5 / 95**0.5)},
        }
    }
    assert "64.8" in report.output("index.html").read_text()


def test_a_crate_describes_the_table_once_for_all_look_ups():
    jobs = done(("split", "search", "extract", "lookup", "report"))
    ro_crate.export([*jobs.values()], Path("params.yaml"), Path("crate"), weights=True)
    graph = {e["@id"]: e for e in json.loads(Path("crate/ro-crate-metadata.json").read_text())["@graph"]}
    [table] = [name for name in graph if name.startswith("#table/") and name.count("/") == 1]
    assert graph[table]["description"].startswith(f'"{TABLE}"; the files themselves are not in this crate')
    assert graph[table]["contentSize"] == str(len(lines()))
    readers = [e["name"] for e in graph.values() if {"@id": table} in [*e.get("object", [])]]
    assert sorted(readers) == ["Run of the workflow", "lookup digits/random/0", "lookup digits/random/1"]


# --- one line for what does not fit -------------------------------------------------------------------


def refused(error, *said, **changes):
    with pytest.raises(error) as found:
        plan.plan(params(**changes))
    line = str(found.value)
    assert [text for text in said if text not in line] == []
    assert "\n" not in line


def test_a_table_must_be_there_before_a_job_is_planned():
    refused(UserError, "none.csv", "No such file", evaluate={"table": "none.csv"})
    Path(f"{TABLE}.dvc").write_text("outs: []\n")
    Path(TABLE).unlink()
    refused(UserError, TABLE, f"`dvc pull {TABLE}.dvc`")


def test_a_broken_table_stops_the_plan():
    Path(TABLE).write_text(lines().replace("94.0", "many"))
    refused(UserError, f"{TABLE}:5: a: 'many'")


def test_a_data_set_of_the_matrix_must_name_a_column_that_the_table_has():
    field = "datasets.digits.table_column: "
    refused(UserError, f"{field}is missing", "a, b", datasets__digits__table_column=None)
    refused(UserError, f"{field}'c' is not a column of {TABLE}", "a, b", datasets__digits__table_column="c")


def test_a_column_and_no_retraining_need_a_table():
    refused(UserError, "matrix.retrain_seeds: is empty", "evaluate.table", evaluate={})
    named = {"evaluate": {}, "matrix__retrain_seeds": [0]}
    refused(UserError, "datasets.digits.table_column: 'a'", "evaluate.table", **named)


def test_what_is_not_evaluated_is_not_adjusted():
    refused(UserError, "evaluate.adjust changes nothing", "list a seed", evaluate__adjust=1.0)
    own = {"methods__random__evaluate": {"threads": 2}}
    refused(UserError, "methods.random.evaluate changes nothing", "leave it out", **own)
    assert plan.plan(params(**own, evaluate__adjust=1.0, matrix__retrain_seeds=[0]))


def test_a_table_needs_a_method_that_searches_its_space():
    refused(UserError, "evaluate.table: cells.csv", "search.space", search__space={"kind": "darts"})
    refused(UserError, "evaluate.table: cells.csv", "4 nodes", "search.nodes", search__nodes=3)


def test_a_method_of_another_space_must_be_retrained():
    published = {"searcher": {"kind": "fixed", "genotype": "PDARTS"}, "search": {"space": {"kind": "darts"}}}
    both = {
        "methods": METHODS | {"published": published},
        "matrix__methods": ["random", "published"],
    }
    refused(UserError, "methods.published: ", "matrix.retrain_seeds", **both)
    jobs = plan.plan(params(**both, matrix__retrain_seeds=[0]))
    assert [job.run for job in jobs if job.stage == "lookup"] == ["digits/random/0", "digits/random/1"]


@pytest.mark.parametrize("cell", [POINTS, "|skip_connect~0|"])
def test_a_given_cell_that_the_table_lacks_stops_the_plan(cell):
    Path(TABLE).write_text(lines({ONE: (1, 1), ALL: (2, 2)}))
    given = {"methods__random__searcher": {"kind": "fixed", "genotype": cell}}
    refused(UserError, "methods.random.searcher.genotype: ", cell, TABLE, **given)


def test_a_cell_that_the_table_lacks_is_one_line_of_the_look_up():
    Path(TABLE).write_text(lines({POINTS: (1, 1), ALL: (2, 2), POOLS: (3, 3)}))
    with pytest.raises(UserError) as error:
        done()
    assert str(error.value) == f"{TABLE}: lacks the cell {ONE}; add its row, or name another table"


def test_a_table_that_changed_after_the_plan_stops_the_look_up():
    jobs = done(("split", "search", "extract"))
    Path(TABLE).write_text(lines().replace("94.0", "94.1"))
    with pytest.raises(UserError, match=r"data files changed since this job was planned; rerun snakemake"):
        execute(jobs["lookup", "digits/random/0"])
    Path(TABLE).unlink()
    with pytest.raises(UserError, match=r"^cells\.csv: not readable on"):
        execute(jobs["lookup", "digits/random/0"])
