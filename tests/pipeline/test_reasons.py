"""Why a job would run, after edits, compared with handmade records."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hlrs.artifacts.jobs import OUTPUTS, PROVENANCE, abbreviate
from hlrs.artifacts.records import Record
from hlrs.artifacts.tensors import write_tensors
from hlrs.config.params import load
from hlrs.pipeline import plan
from hlrs.pipeline.locks import lease
from hlrs.pipeline.reasons import fold, reasons
from hlrs.provenance.differences import Past, compare
from tests.conftest import edit


def read():
    return load(Path("params.yaml"))


def finish(jobs, **fields):
    """Write empty results of jobs, with their records."""
    for job in jobs:
        for name in OUTPUTS[job.stage]:
            job.output(name).parent.mkdir(parents=True, exist_ok=True)
            job.output(name).touch()
        inputs = {name: {"path": path, "sha256": ""} for name, path in job.inputs.items()}
        facts = {"ended": "2026-01-01T00:00:00+00:00", **vars(job), "inputs": inputs, "outputs": {}, **fields}
        Record.sealed(facts).write(job.output(PROVENANCE))


def words():
    """stage/run -> reasons, of the jobs that would run now."""
    params = read()
    jobs = plan.plan(params)
    plan.restore(jobs)
    return {f"{r.job.stage}/{r.job.run}": r.words() for r in reasons(plan.due(jobs), params, Past())}


@pytest.fixture
def finished(workspace):
    """The params.yaml of a folder in which every job of TINY has an (empty) result."""
    finish(plan.plan(read()))
    assert words() == {}
    return workspace / "params.yaml"


def test_without_results_the_reason_is_that_there_are_none(workspace):
    found = words()
    assert len(found) == 10
    assert {tuple(why) for why in found.values()} == {("no result yet",)}


@pytest.mark.parametrize(
    ("changes", "job", "why"),
    [
        ({"search.epochs": 5}, "search/digits/darts/0", ["search.epochs 3 -> 5"]),
        ({"search.epochs": 5}, "extract/digits/darts/0", ["input alphas changed (search runs)"]),
        ({"search.epochs": 5}, "retrain/digits/darts/0", ["input genotype changed (extract runs)"]),
        (
            {"search.epochs": 5},
            "evaluate/digits/darts/0",
            ["input genotype changed (extract runs)", "input weights changed (retrain runs)"],
        ),
        (
            {"search.epochs": 5},
            "report/all",
            ["search.epochs 3 -> 5", "results changed: search, extract, retrain, evaluate of 2 runs"],
        ),
        (
            {"search.weights": {"lr": 0.05}, "search.epochs": 5},
            "search/digits/darts/0",
            ["search.epochs 3 -> 5", "search.weights.lr 0.025 -> 0.05", "search.weights.lr_min 0.001 -> 0.0"],
        ),
        (
            {"datasets.digits.imbalance.factor": 5},
            "split/digits",
            ["datasets.digits.imbalance.factor 10.0 -> 5.0"],
        ),
        (
            {"datasets.digits.imbalance.factor": 5},
            "search/digits/hlrs/0",
            ["inputs classes, split changed (split runs)"],
        ),
        (
            {"datasets.digits.augment.flip": False},
            "retrain/digits/darts/0",
            ["datasets.digits.augment.flip true -> false", "input genotype changed (extract runs)"],
        ),
        (
            {"datasets.digits.groups.few_below": 4},
            "evaluate/digits/hlrs/0",
            ["datasets.digits.groups.few_below 8 -> 4"],
        ),
        (
            {"methods.hlrs.arch_lr": {"kind": "cosine", "final": 0.2}},
            "search/digits/hlrs/0",
            ["methods.hlrs.arch_lr.kind coupled -> cosine (final 0.2)"],
        ),
        (
            {"methods.darts.retrain": {"epochs": 7}},
            "retrain/digits/darts/0",
            ["methods.darts.retrain.epochs 3 -> 7"],
        ),
        ({"retrain.epochs": 7}, "retrain/digits/darts/0", ["retrain.epochs 3 -> 7"]),
        (
            {"methods.hlrs.search": {"alphas": {"lr": 0.5}}, "search.epochs": 5},
            "search/digits/hlrs/0",
            ["methods.hlrs.search.alphas.lr 0.01 -> 0.5", "search.epochs 3 -> 5"],
        ),
        (
            {"methods.hlrs.labels": "random"},
            "search/digits/hlrs/0",
            ["methods.hlrs.labels given -> random"],
        ),
        ({"report.title": "Tails"}, "report/all", None),
    ],
)
def test_an_edit_is_named_as_params_yaml_names_it(finished, changes, job, why):
    edit(finished, **changes)
    title = ["report.title Architecture search on long-tailed images -> Tails"]
    assert words()[job] == (why or title)


SOURCES = {
    "methods.darts": {"searcher": {"kind": "fixed", "genotype": "DARTS_V2"}},
    "methods.hlrs": {"searcher": {"kind": "resnet", "depth": 20}},
}


def test_another_published_network_is_named_as_the_method_names_it(finished):
    edit(finished, **SOURCES)
    finish(plan.plan(read()))
    edit(finished, **{"methods.darts.searcher.genotype": "PDARTS", "methods.hlrs.searcher.depth": 32})
    found = words()
    assert found["extract/digits/darts/0"] == ["methods.darts.searcher.genotype DARTS_V2 -> PDARTS"]
    assert found["retrain/digits/darts/0"] == ["input genotype changed (extract runs)"]
    assert found["retrain/digits/hlrs/0"] == ["methods.hlrs.searcher.depth 20 -> 32"]
    edit(finished, **{"methods.hlrs.searcher": {"kind": "resnet", "depth": 20, "width": 32}})
    assert words()["retrain/digits/hlrs/0"] == ["methods.hlrs.searcher.width 16 -> 32"]
    assert not [job for job in found if job.startswith("search")]


def test_a_method_that_no_longer_searches_is_explained(finished):
    edit(finished, **SOURCES)
    found = words()
    assert found["extract/digits/darts/0"] == [
        "methods.darts.searcher.genotype null -> DARTS_V2",
        "input alphas changed (no longer read)",
    ]
    assert found["retrain/digits/hlrs/0"] == [
        "methods.hlrs.searcher.depth null -> 20",
        "input genotype changed (no longer read)",
    ]


def test_a_retraining_is_compared_with_itself(finished):
    edit(finished, **{"matrix.retrain_seeds": [0, 3]})
    finish(plan.plan(read()))
    edit(finished, **{"retrain.epochs": 7})
    found = words()
    assert found["retrain/digits/hlrs/0-3"] == found["retrain/digits/hlrs/0"] == ["retrain.epochs 3 -> 7"]
    assert found["evaluate/digits/hlrs/0-3"][-1] == "input weights changed (retrain runs)"
    assert found["report/all"][-1] == "results changed: retrain, evaluate of 4 runs"


def test_a_new_method_is_named_as_added(finished):
    edit(
        finished,
        **{"methods.random": {"searcher": {"kind": "random"}}, "matrix.methods": ["darts", "random"]},
    )
    found = words()
    assert found["search/digits/random/0"] == ["no result yet"]
    assert 'matrix.methods ["darts", "hlrs"] -> ["darts", "random"]' in found["report/all"]
    assert {"methods.hlrs removed", "methods.random added"} <= set(found["report/all"])


def test_the_nearest_result_has_the_fewest_differences_then_the_latest_end(finished):
    edit(finished, **{"search.epochs": 4, "search.channels": 4})
    finish(plan.plan(read()), ended="2026-03-01T00:00:00+00:00")  # the newest, but further off
    edit(finished, **{"search.epochs": 6, "search.channels": 2})
    finish(plan.plan(read()), ended="2026-02-01T00:00:00+00:00")
    edit(finished, **{"search.epochs": 5})  # one off from 3 and from 6 epochs
    assert words()["search/digits/darts/0"] == ["search.epochs 6 -> 5"]


def test_changed_code_and_data_are_named(finished, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(plan, "code_digest", lambda stage, params: f"another {stage}")
        found = words()
    assert found["split/digits"] == ["code of split changed"]
    assert found["search/digits/darts/0"] == [
        "code of search changed",
        "inputs classes, split changed (split runs)",
    ]
    monkeypatch.setattr(plan, "content_digest", lambda source: "other bytes")
    assert words()["split/digits"] == ["data changed"]


def test_a_result_set_aside_is_compared_too(finished):
    edit(finished, **{"matrix.methods": ["darts"]})
    plan.prune(plan.plan(read()), "search")
    edit(finished, **{"matrix.methods": ["darts", "hlrs"], "search.nodes": 2})
    assert words()["search/digits/hlrs/0"] == ["search.nodes 1 -> 2"]


def test_missing_files_are_named(finished):
    jobs = {f"{job.stage}/{job.run}": job for job in plan.plan(read())}
    jobs["report/all"].output("index.html").unlink()
    assert words() == {"report/all": ["index.html missing from its result"]}
    shutil.rmtree(jobs["evaluate/digits/hlrs/0"].directory)
    assert words()["evaluate/digits/hlrs/0"] == ["no result yet"]
    jobs["split/digits"].output("classes.json").unlink()
    found = words()  # every reader of classes.json waits for it, and runs
    assert found["split/digits"] == ["classes.json missing from its result"]
    assert found["search/digits/darts/0"] == ["input classes missing, will be rebuilt"]
    assert "extract/digits/darts/0" not in found


def test_a_checkpoint_is_reported(finished):
    edit(finished, **{"search.epochs": 12})
    [search, _] = [job for job in plan.plan(read()) if job.stage == "search"]
    write_tensors(search.checkpoint, {}, {"epoch": 7, "step": 2})
    edited, interrupted = words()["search/digits/darts/0"]
    assert edited == "search.epochs 3 -> 12"
    assert "epoch 7/12" in interrupted
    search.checkpoint.write_bytes(b"broken")
    assert words()["search/digits/darts/0"] == ["search.epochs 3 -> 12"]


def test_a_job_that_runs_is_not_called_interrupted(finished):
    edit(finished, **{"search.epochs": 12})
    [search, _] = [job for job in plan.plan(read()) if job.stage == "search"]
    with lease(search):
        assert words()["search/digits/darts/0"] == ["search.epochs 3 -> 12", "runs now"]
        write_tensors(search.checkpoint, {}, {"epoch": 7, "step": 2})
        running = words()["search/digits/darts/0"][1]
        assert running.startswith("runs now")
        assert "epoch 7/12" in running
        assert "interrupted" not in running
    assert "interrupted" in words()["search/digits/darts/0"][1]


def test_a_classifiers_own_epochs_are_counted(finished):
    edit(finished, **{"retrain.classifier": {"kind": "retrained", "epochs": 4}})
    retrain = next(job for job in plan.plan(read()) if job.stage == "retrain")
    write_tensors(retrain.checkpoint, {}, {"epoch": 5, "step": 0})
    assert "epoch 5/7" in words()["retrain/digits/darts/0"][-1]


def test_broken_records_are_skipped(finished):
    for path in Path("results/search").rglob(PROVENANCE):
        path.write_text("{" if "darts" in str(path) else "[]")
    edit(finished, **{"search.epochs": 5})
    assert words()["search/digits/darts/0"] == ["no result yet"]


def test_two_specs_compare_without_a_record(finished):
    old, search, *_ = plan.plan(read())
    edit(finished, **{"search.epochs": 5, "datasets.digits.seed": 1})
    _, later, *_ = plan.plan(read())
    found = compare(later, search, read())
    assert [str(change) for change in found.changes] == ["search.epochs 3 -> 5"]
    assert (found.inputs, found.code, found.data, found.size) == (["classes", "split"], False, False, 3)
    assert compare(old, old, read()).size == 0
    edited = replace(old, code=old.code[:-4] + "edit")  # which of the two has today's code does not matter
    assert compare(old, edited, read()).code
    assert compare(edited, old, read()).code


def test_equal_specs_compare_as_equal(finished):
    for job in plan.plan(read()):
        [record] = Past().of[job.stage, job.run]
        assert compare(job, record.job, read()).size == 0


def test_a_hundred_runs_fold_into_a_line_per_reason(workspace):
    edit(workspace / "params.yaml", **{"matrix.seeds": list(range(50))})
    params = read()
    folded = fold(reasons(plan.due(plan.plan(params)), params, Past()))
    assert {(stage, *why, len(runs)) for (stage, why), runs in folded.items()} == {
        ("split", "no result yet", 1),
        *((stage, "no result yet", 100) for stage in ("search", "extract", "retrain", "evaluate")),
        ("report", "no result yet", 1),
    }
    assert abbreviate(folded["search", ("no result yet",)]) == "digits/{darts,hlrs}/{0..49}"


@pytest.mark.parametrize(
    ("runs", "short"),
    [
        (["all"], "all"),
        (["a", "b"], "a, b"),
        (["a/m/0"], "a/m/0"),
        (["a/m/1", "a/m/0"], "a/m/{0,1}"),
        (["a/m/0", "a/m/1", "a/m/2", "a/m/7"], "a/m/{0..2,7}"),
        (["a/m/10", "b", "a/m/9", "a/m/2"], "b, a/m/{2,9,10}"),  # names first; by value, not by digits
        (["a/m/0", "a/n/0", "a/n/1"], "a/m/0, a/n/{0,1}"),
        (["a/m/0", "a/n/0", "b/m/0", "b/n/0"], "{a,b}/{m,n}/0"),
        (["a/m/0", "a/n/0", "b/m/0"], "a/{m,n}/0, b/m/0"),
        (["a/m/0-3"], "a/m/0-3"),
        (["a/m/0", "a/m/0-1", "a/m/1", "a/m/1-1"], "a/m/{0,1}, a/m/{0,1}-1"),
        (["a/m/0-1", "a/m/0-2", "a/m/1-1", "a/m/1-2", "a/m/1-3"], "a/m/{0,1}-{1,2}, a/m/1-3"),
        (
            [f"{d}/{m}/{s}-{r}" for d in "ab" for m in "mn" for s in (0, 1) for r in (4, 5, 6)],
            "{a,b}/{m,n}/{0,1}-{4..6}",
        ),
    ],
)
def test_runs_are_abbreviated(runs, short):
    assert abbreviate(runs) == short
