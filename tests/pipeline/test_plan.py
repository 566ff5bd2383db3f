"""The plan: its jobs, what their keys depend on, and what prune, publish and freeze do."""

import ast
import itertools
import json
import os
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from hlrs.artifacts import code_digest
from hlrs.artifacts.data_digest import content_digest, sha256
from hlrs.artifacts.files import write_json
from hlrs.artifacts.jobs import OUTPUTS, PROVENANCE, STATE, repeat, search_of, seeds_of
from hlrs.artifacts.records import Record
from hlrs.config.methods import Searcher
from hlrs.config.params import Params
from hlrs.config.spaces import DartsSpace
from hlrs.errors import HlrsError, UserError
from hlrs.pipeline import plan
from hlrs.pipeline.plan_view import missing_controls
from hlrs.stages.report import BEFORE_RETRAINING
from tests.specs import specs


def params(**changes):
    """Two data sets × three methods × two seeds; `changes` replace entries, "a__b" naming b in a."""
    tree = {
        "matrix": {
            "datasets": ["small", "large"],
            "methods": ["darts", "hlrs", "random"],
            "seeds": [0, 1],
        },
        "datasets": {
            "small": {
                "source": {"kind": "digits"},
                "imbalance": {"kind": "exponential", "factor": 10},
                "test_per_class": 50,
            },
            "large": {
                "source": {"kind": "digits"},
                "imbalance": {"kind": "step", "factor": 5},
                "test_per_class": 40,
            },
            "unused": {
                "source": {"kind": "digits"},
                "imbalance": {"kind": "natural"},
                "test_per_class": 10,
            },
        },
        "methods": {
            "darts": {
                "searcher": {"kind": "darts"},
                "objective": {"kind": "plain"},
                "arch_lr": {"kind": "constant"},
            },
            "hlrs": {
                "searcher": {"kind": "darts"},
                "objective": {"kind": "bilateral"},
                "arch_lr": {"kind": "coupled"},
            },
            "random": {"searcher": {"kind": "random"}},
        },
        "search": {},
        "retrain": {"cutout": 2},
        "evaluate": {},
        "report": {"reference": "darts"},
    }
    for name, value in changes.items():
        *path, last = name.split("__")
        target = tree
        for part in path:
            target = target.setdefault(part, {})
        target[last] = value
    return Params.model_validate(tree)


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keys(of):
    return {(job.stage, job.run): job.key for job in plan.plan(of)}


def changed(**changes):
    """(stage, run) of the jobs whose key a change of the params changes; no job may appear or vanish."""
    before, after = keys(params()), keys(params(**changes))
    assert before.keys() == after.keys()
    return {job for job in before if before[job] != after[job]}


def runs(stages, datasets=("small", "large"), methods=("darts", "hlrs", "random"), seeds=(0, 1)):
    return {
        (stage, f"{dataset}/{method}/{seed}")
        for stage, dataset, method, seed in itertools.product(stages, datasets, methods, seeds)
    }


REPORT = {("report", "all")}
RUN_STAGES = ("search", "extract", "retrain", "evaluate")


# --- jobs ---------------------------------------------------------------------------------------------


def test_the_plan_is_a_split_per_data_set_four_stages_per_run_and_the_report():
    jobs = plan.plan(params())
    expected = {("split", "small"), ("split", "large")} | runs(RUN_STAGES) | REPORT
    assert len(jobs) == 2 + 4 * 12 + 1
    assert {(job.stage, job.run) for job in jobs} == expected
    assert len({job.key for job in jobs}) == len(jobs)


def test_every_input_is_the_output_of_an_earlier_job():
    made = set()
    for job in plan.plan(params()):
        assert set(job.inputs.values()) <= made
        made |= set(job.outputs)


def test_paths_name_stage_run_and_key():
    for job in plan.plan(params()):
        assert len(job.key) == 12
        assert int(job.key, 16) >= 0
        prefix = f"results/{job.stage}/{job.run}/{job.key}/"
        assert [path.removeprefix(prefix) for path in job.outputs] == [*OUTPUTS[job.stage], PROVENANCE]


def test_searchers_without_training_get_no_images():
    search = {job.run: job.params for job in plan.plan(params()) if job.stage == "search"}
    assert "images" in search["small/darts/0"]
    assert set(search["small/random/1"]) == {"seed", "searcher", "space", "nodes"}


# --- methods without a search, several retrainings ----------------------------------------------------

FIXED = {"methods__random__searcher": {"kind": "fixed", "genotype": "PDARTS"}}
RESNET = {"methods__random__searcher": {"kind": "resnet", "depth": 20}}
AGAIN = {"matrix__retrain_seeds": [0, 3]}


def test_a_published_genotype_is_extracted_without_a_search():
    jobs = {(job.stage, job.run): job for job in plan.plan(params(**FIXED))}
    assert ("search", "small/random/0") not in jobs
    extract = jobs["extract", "small/random/0"]
    space = DartsSpace().model_dump()
    assert (extract.params, extract.inputs) == ({"genotype": "PDARTS", "space": space}, {})
    assert jobs["retrain", "small/random/0"].inputs["genotype"] == str(extract.output("genotype.json"))
    assert jobs["extract", "small/darts/0"].params == {"genotype": None, "space": space}


def test_a_given_genotype_does_not_depend_on_what_searches_choose_from():
    narrow = {"search__space": {"kind": "darts", "primitives": ["skip_connect", "sep_conv_3x3"]}}
    before, after = (
        {(job.stage, job.run): job.key for job in plan.plan(params(**FIXED, **changes))}
        for changes in ({}, narrow)
    )
    same = {run for run in before if before[run] == after[run]}
    assert {("extract", "small/random/0"), ("retrain", "small/random/0")} <= same
    assert not {("search", "small/darts/0"), ("extract", "small/darts/0")} & same


def test_a_resnet_is_retrained_and_evaluated_alone():
    jobs = {(job.stage, job.run): job for job in plan.plan(params(**RESNET))}
    assert [stage for stage, run in jobs if run == "small/random/1"] == ["retrain", "evaluate"]
    retrain, evaluate = (jobs[stage, "small/random/1"] for stage in ("retrain", "evaluate"))
    assert (set(retrain.inputs), set(evaluate.inputs)) == (
        {"split", "classes"},
        {"split", "classes", "weights"},
    )
    assert (retrain.params["resnet"], evaluate.params["resnet"]) == (20, 20)
    assert jobs["retrain", "small/darts/1"].params["resnet"] is None


@pytest.mark.parametrize("kind", specs(Searcher))
def test_the_report_reads_the_stages_that_the_plan_has_before_a_retraining(kind):
    needed = {"fixed": {"genotype": "PDARTS"}, "trained": {"method": "hlrs"}, "implant": {"method": "hlrs"}}
    other = {"methods__hlrs": {"searcher": {"kind": "resnet"}}} if kind == "implant" else {}
    searcher = {"kind": kind} | needed.get(kind, {})
    jobs = plan.plan(params(methods__random={"searcher": searcher}, **other))
    before = [job.stage for job in jobs if job.run == "small/random/0" and job.stage in ("search", "extract")]
    assert BEFORE_RETRAINING[TypeAdapter(Searcher).validate_python(searcher).genotype_is] == before


BASE = {"searcher": {"kind": "resnet"}, "retrain": {"epochs": 20}}
IMPLANT = {"searcher": {"kind": "implant", "method": "base"}, "retrain": {"epochs": 5}}
CONTROLS = {  # of cells on a trained network: method, what the line names without it
    "longer": ({"retrain": {"epochs": 5}}, "5 more epochs"),
    "drawn": (IMPLANT | {"searcher": IMPLANT["searcher"] | {"cell": "random"}}, "random cell"),
    "crt": ({"retrain": {"epochs": 0, "classifier": {"kind": "retrained"}}}, "classifier retrained alone"),
}


def test_a_missing_control_of_implanted_cells_is_named():
    trained = {"searcher": {"kind": "trained", "method": "base"}}
    methods = {"base": BASE, "iac": IMPLANT} | {name: trained | own for name, (own, _) in CONTROLS.items()}

    def lines(*left_out, **changes):
        names = [name for name in methods if name not in left_out]
        return [*missing_controls(params(methods=methods | changes, matrix__methods=names, report={}))]

    assert lines() == lines("iac", *CONTROLS) == []
    for name, (_, remedy) in CONTROLS.items():
        [line] = lines(name)
        assert all((other in line) == (other == remedy) for _, other in CONTROLS.values())
    [line] = lines(*CONTROLS)
    assert "base" in line
    assert all(remedy in line for _, remedy in CONTROLS.values())
    assert "5 more epochs" in lines(longer=trained | {"retrain": {"epochs": 4}})[0]
    normalized = trained | {"retrain": {"epochs": 0, "classifier": {"kind": "tau_normalized"}}}
    assert "classifier retrained alone" in lines(crt=normalized)[0]


def test_a_genotype_is_retrained_once_per_retraining_seed():
    jobs = {(job.stage, job.run): job for job in plan.plan(params(**AGAIN, matrix__seeds=[7]))}
    names = [f"{stage} {run}" for stage, run in jobs if run.startswith("small/darts/")]
    assert names == [
        *("search small/darts/7", "extract small/darts/7"),
        *("retrain small/darts/7", "evaluate small/darts/7"),
        *("retrain small/darts/7-3", "evaluate small/darts/7-3"),
    ]
    again = jobs["retrain", "small/darts/7-3"]
    assert (again.params["seed"], again.params["retrain_seed"]) == (7, 3)
    assert again.inputs == jobs["retrain", "small/darts/7"].inputs  # the same genotype
    assert jobs["evaluate", "small/darts/7-3"].inputs["weights"] == str(again.output("weights.safetensors"))


def test_more_retrainings_affect_only_the_report():
    before, after = keys(params()), keys(params(**AGAIN))
    assert {job for job in before if before[job] != after[job]} == REPORT
    assert after.keys() - before.keys() == {
        (stage, f"{run}-3") for stage, run in runs(("retrain", "evaluate"))
    }


def test_more_draws_add_a_split_with_its_runs_and_affect_only_the_report():
    """The data set's own draw keeps names and keys; LDAM's is drawn as under its protocol."""
    before, after = keys(params()), keys(params(matrix__split_seeds=[0, 7, "ldam"]))
    assert {job for job in before if before[job] != after[job]} == REPORT
    drawn = [f"{name}-{draw}" for name in ("small", "large") for draw in (7, "ldam")]
    assert after.keys() - before.keys() == runs(RUN_STAGES, drawn) | {("split", name) for name in drawn}
    jobs = {(job.stage, job.run): job for job in plan.plan(params(matrix__split_seeds=[0, 7, "ldam"]))}
    chosen = [jobs["split", f"small{name}"].params for name in ("", "-7", "-ldam")]
    assert [(split["protocol"], split["seed"]) for split in chosen] == [
        ("seeded", 0), ("seeded", 7), ("ldam", 0),
    ]  # fmt: skip
    assert jobs["search", "small-7/hlrs/1"].params == jobs["search", "small/hlrs/1"].params
    assert "results/split/small-7/" in jobs["retrain", "small-7/hlrs/1"].inputs["split"]
    theirs = params(
        datasets__small__protocol="ldam", matrix__split_seeds=["ldam", 0], matrix__datasets=["small"]
    )
    chosen = {job.run: job.params for job in plan.plan(theirs) if job.stage == "split"}
    assert [(run, split["protocol"]) for run, split in chosen.items()] == [
        ("small", "ldam"),
        ("small-0", "seeded"),
    ]
    own = keys(params(datasets__small__seed=7, matrix__split_seeds=[7, 0], matrix__datasets=["small"]))
    alone = keys(params(datasets__small__seed=7, matrix__datasets=["small"]))
    assert {job for job in alone if alone[job] != own[job]} == REPORT  # seed 7's keeps the name here


def test_a_resnet_does_not_depend_on_the_options_of_cells():
    cells = {"retrain__cells": 8, "retrain__channels": 20, "retrain__drop_path": 0.1}
    before, after = keys(params(**RESNET)), keys(params(**RESNET, **cells))
    assert {run for job, run in before if before[job, run] != after[job, run]} == {
        run for _, run in runs(("retrain",), methods=["darts", "hlrs"]) | REPORT
    }


@pytest.mark.parametrize(
    ("run", "search", "seeds"),
    [
        ("d/m/0", "d/m/0", (0, 0)),
        ("d/m/12-3", "d/m/12", (12, 3)),
        ("d-1/m-2/0", "d-1/m-2/0", (0, 0)),
        ("d-1/m-2/4-15", "d-1/m-2/4", (4, 15)),
    ],
)
def test_a_runs_name_holds_its_seeds_and_its_search(run, search, seeds):
    assert (search_of(run), seeds_of(run)) == (search, seeds)
    assert repeat(search, seeds[1]) == run


def test_other_names_are_not_runs_of_a_search():
    assert [search_of(name) for name in ("all", "cifar-10")] == ["all", "cifar-10"]


# --- what a key depends on ----------------------------------------------------------------------------


def test_the_same_params_give_the_same_keys():
    assert keys(params()) == keys(params())


def test_a_methods_schedule_affects_all_stages_of_its_runs_and_the_report():
    assert changed(methods__darts__arch_lr={"kind": "cosine"}) == runs(RUN_STAGES, methods=["darts"]) | REPORT


def test_a_methods_override_affects_its_retraining():
    assert changed(methods__hlrs__retrain={"weights": {"clip": 1}}) == (
        runs(("retrain", "evaluate"), methods=["hlrs"]) | REPORT
    )


def test_a_methods_override_of_the_search_affects_all_stages_of_its_runs_and_no_others():
    own = {"weights": {"clip": 1}, "nodes": 3}
    assert changed(methods__hlrs__search=own) == runs(RUN_STAGES, methods=["hlrs"]) | REPORT
    assert changed(methods__random__search={"nodes": 3}) == runs(RUN_STAGES, methods=["random"]) | REPORT


def test_search_options_affect_neither_the_split_nor_a_search_without_training():
    assert changed(search__epochs=7) == runs(RUN_STAGES, methods=["darts", "hlrs"]) | REPORT


def test_the_size_of_the_search_space_affects_every_search():
    assert changed(search__nodes=3) == runs(RUN_STAGES) | REPORT


def test_retraining_options_affect_neither_search_nor_extraction():
    assert changed(retrain__epochs=7) == runs(("retrain", "evaluate")) | REPORT


def test_groups_affect_only_the_evaluation():
    assert changed(datasets__small__groups={"many_above": 60}) == runs(("evaluate",), ["small"]) | REPORT


def test_evaluation_options_affect_no_training():
    assert changed(evaluate__calibration_bins=10) == runs(("evaluate",)) | REPORT


def test_an_adjustment_concerns_evaluations_of_the_methods_that_have_it():
    assert changed(evaluate__adjust=1.0) == runs(("evaluate",)) | REPORT
    own = {"evaluate": {"adjust": 1.0}}
    assert changed(methods__random={"searcher": {"kind": "random"}} | own) == (
        runs(("evaluate",), methods=["random"]) | REPORT
    )
    bilateral = {"methods__hlrs__retrain": {"objective": {"kind": "bilateral"}, "auxiliary_weight": 0}}
    refusing = {"methods__hlrs__evaluate": {"adjust": None}, "evaluate__adjust": 1.0}
    adjusted = {
        job.run
        for job in plan.plan(params(**bilateral, **refusing))
        if job.stage == "evaluate" and job.params["evaluate"].get("adjust") == 1
    }
    assert adjusted == {run for _, run in runs(("evaluate",), methods=["darts", "random"])}


def test_jobs_without_an_adjustment_have_the_parameters_of_before_there_was_one():
    jobs = {job.stage: job.params for job in plan.plan(params())}
    assert jobs["evaluate"]["evaluate"] == {"batch_size": 250, "calibration_bins": 15, "threads": 1}
    shown = jobs["report"]["params"]
    assert set(shown["evaluate"]) == {"batch_size", "calibration_bins", "threads", "table"}
    assert "evaluate" not in shown["methods"]["darts"]


def test_a_data_sets_imbalance_affects_all_of_its_jobs():
    found = changed(datasets__small__imbalance={"kind": "exponential", "factor": 20})
    assert found == {("split", "small")} | runs(RUN_STAGES, ["small"]) | REPORT


def test_augmentation_does_not_affect_the_split():
    found = changed(datasets__small__augment={"flip": True})
    assert found == runs(("search", "extract", "retrain", "evaluate"), ["small"], ["darts", "hlrs"]) | (
        runs(("retrain", "evaluate"), ["small"], ["random"]) | REPORT
    )


def test_the_reports_title_affects_only_the_report():
    assert changed(report__title="Another") == REPORT


def test_entries_outside_of_the_matrix_affect_nothing():
    assert changed(datasets__unused__test_per_class=20) == set()


def test_an_explicit_default_changes_nothing():
    assert changed(search__epochs=50, methods__darts__searcher={"kind": "darts", "order": 1}) == set()


def test_a_smaller_matrix_keeps_the_remaining_keys():
    before, after = keys(params()), keys(params(matrix__seeds=[0], matrix__methods=["darts", "random"]))
    assert set(after) < set(before)
    assert {job for job in after if after[job] != before[job]} == REPORT


def test_another_seed_gives_other_keys():
    found = keys(params())
    for stage, dataset, method in itertools.product(RUN_STAGES, ("small", "large"), ("darts", "random")):
        assert found[stage, f"{dataset}/{method}/0"] != found[stage, f"{dataset}/{method}/1"]


def test_keys_do_not_depend_on_the_order_of_entries():
    def backwards(value):
        return {k: backwards(value[k]) for k in reversed(value)} if isinstance(value, dict) else value

    straight = params(methods__darts__retrain={"epochs": 9, "weights": {"clip": 1, "lr": 0.1}})
    turned = Params.model_validate(backwards(straight.model_dump(mode="json")))
    assert list(turned.methods) != list(straight.methods)
    assert keys(turned) == keys(straight)


def test_a_missing_data_file_stops_the_plan():
    with pytest.raises(UserError, match=r"none\.parquet: "):
        plan.plan(params(datasets__small__source={"kind": "parquet", "train": ["none.parquet"]}))


# --- large matrices -----------------------------------------------------------------------------------


def effort(runs):
    """(executed instructions of hlrs, bytes of all specs) of planning this many runs."""
    done = 0

    def trace(frame, event, argument):
        nonlocal done
        if "hlrs" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        done += event == "opcode"
        return trace

    of = params(matrix__datasets=["small"], matrix__methods=["darts"], matrix__seeds=list(range(runs)))
    plan.plan(params())  # to cache the digests
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        jobs = plan.plan(of)
    finally:
        sys.settrace(before)
    assert len(jobs) == 2 + 4 * runs
    assert done > 100 * runs
    return done, sum(len(json.dumps(asdict(job))) for job in jobs)


@pytest.mark.slow
def test_the_effort_of_a_plan_grows_linearly_with_its_runs():
    (few_steps, few_bytes), (many_steps, many_bytes) = effort(20), effort(200)
    assert many_steps < 11 * few_steps
    assert many_bytes < 11 * few_bytes


def test_code_and_data_are_digested_once_for_any_number_of_runs(monkeypatch):
    done = Counter()

    def counted(function):
        def call(argument, *others):
            done["data" if function is content_digest else argument] += 1
            return function(argument, *others)

        return call

    code_digest.here.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(ast, "parse", counted(ast.parse))
        patched.setattr(plan, "content_digest", counted(content_digest))
        plan.plan(params(matrix__seeds=list(range(50))))
    assert done.pop("data") == 2  # data sets
    assert len(done) > 2 * len(OUTPUTS)
    assert set(done.values()) == {1}


# --- housekeeping -------------------------------------------------------------------------------------


def make(job, text="made"):
    """Write the results of a job, each holding its own name."""
    for path in map(Path, job.outputs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text} {path.name} of {job.key}")


def make_report(jobs):
    """Write a report with its record, as its job does."""
    job = report_of(jobs)
    make(job)
    digests = {name: sha256(job.output(name)) for name in OUTPUTS["report"]}
    inputs = {name: {"path": path, "sha256": "0" * 64} for name, path in job.inputs.items()}
    body = vars(job) | {"inputs": inputs, "outputs": digests, "ended": "2026-01-01T00:00:00+00:00"}
    Record.sealed(body).write(job.output(PROVENANCE))


def files(root="."):
    return {str(path) for path in Path(root).rglob("*") if path.is_file() and STATE not in path.parents}


def test_freeze_writes_what_load_reads():
    jobs = plan.plan(params())
    plan.freeze(jobs)
    assert [plan.spec(job.key) for job in jobs] == jobs
    assert len(files(".hlrs/specs")) == len(jobs)


def test_freeze_leaves_an_existing_spec_alone():
    jobs = plan.plan(params())
    plan.freeze(jobs)
    os.utime(jobs[3].spec, ns=(5, 5))
    plan.freeze(jobs)
    assert jobs[3].spec.stat().st_mtime_ns == 5


def test_freeze_writes_only_new_specs(monkeypatch):
    written = []
    monkeypatch.setattr(
        plan, "write_json", lambda path, value: (written.append(path), write_json(path, value))
    )
    few, more = plan.plan(params()), plan.plan(params(matrix__seeds=[0, 1, 2]))
    for jobs in (few, few, more):
        plan.freeze(jobs)
    specs = {job.spec for job in few}
    assert written == [job.spec for job in few] + [job.spec for job in more if job.spec not in specs]


def test_an_unknown_key_is_named():
    with pytest.raises(UserError, match=r"0123456789ab\.json: "):
        plan.spec("0123456789ab")


def test_prune_removes_the_stale_results_of_one_stage_only():
    old, new = plan.plan(params()), plan.plan(params(methods__darts__arch_lr={"kind": "cosine"}))
    for job in {job.key: job for job in old + new}.values():
        make(job)
    kept = {path for job in new for path in job.outputs}
    stale = [job for job in old if job.stage == "search" and "/darts/" in job.run]
    others = {path for job in old if job.stage != "search" for path in job.outputs}
    assert plan.prune(new, "search") == sorted(job.directory for job in stale)
    assert files("results") == kept | others
    assert plan.prune(new, "search") == []


@pytest.mark.parametrize("entirely", [False, True], ids=["from the matrix", "entirely"])
@pytest.mark.parametrize(
    ("axis", "gone", "left"),
    [("datasets", "large", ["small"]), ("methods", "hlrs", ["darts", "random"]), ("seeds", "1", [0])],
)
def test_prune_of_a_smaller_matrix_leaves_nothing_of_the_removed_entries(axis, gone, left, entirely):
    whole = params()
    for job in plan.plan(whole):
        make(job)
    tree = whole.model_dump(mode="json")
    tree["matrix"][axis] = left
    if entirely and axis != "seeds":
        del tree[axis][gone]
    less = plan.plan(Params.model_validate(tree))
    make(report_of(less))
    for stage in OUTPUTS:
        plan.prune(less, stage)
    assert files("results") == {path for job in less for path in job.outputs}
    there = [path for path in Path("results").rglob("*") if STATE not in (path, *path.parents)]
    assert not [path for path in there if path.name == gone]
    assert all(any(path.iterdir()) for path in there if path.is_dir())
    plan.restore(plan.plan(whole))
    assert {path for job in plan.plan(whole) for path in job.outputs} <= files("results")


def test_prune_and_restore_handle_retrainings_published_genotypes_and_resnets():
    more = params(**AGAIN, **FIXED, methods__hlrs={"searcher": {"kind": "resnet"}})
    for job in plan.plan(more):
        make(job)
    less = plan.plan(params(matrix__methods=["darts"]))
    kept = {path for job in less if job.stage != "report" for path in job.outputs}
    for stage in OUTPUTS:
        plan.prune(less, stage)
    assert files("results") == kept
    plan.restore(plan.plan(more))
    assert {path for job in plan.plan(more) for path in job.outputs} <= files("results")


SMALL = {"matrix__datasets": ["small"], "matrix__methods": ["darts", "random"], "matrix__seeds": [0]}
DARTS = runs(RUN_STAGES, ["small"], ["darts"], [0])
ALL = {("split", "small")} | runs(RUN_STAGES, ["small"], ["darts", "random"], [0]) | REPORT
SITUATIONS = {  # changed params, missing results, and what has to run
    "finished": ({}, set(), set()),
    "fresh": ({}, ALL, ALL),
    "a method edited": ({"methods__darts__arch_lr": {"kind": "cosine"}}, set(), DARTS | REPORT),
    "a smaller matrix": ({"matrix__methods": ["darts"]}, set(), REPORT),
    "another seed": (
        {"matrix__seeds": [0, 1]},
        set(),
        runs(RUN_STAGES, ["small"], ["darts", "random"], [1]) | REPORT,
    ),
    "a result that no missing job reads": ({}, {("search", "small/darts/0")}, set()),
    "a chain": ({}, DARTS | REPORT, DARTS | REPORT),
    "the report, which reads every result": (
        {},
        {("search", "small/darts/0")} | REPORT,
        {("search", "small/darts/0"), ("extract", "small/darts/0")} | REPORT,  # the alphas' other reader
    ),
    "an input of several jobs": (  # an extraction reads the alphas, which exist
        {},
        {("split", "small")} | REPORT,
        ALL - runs(["extract"]),
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_is_due(situation):
    changes, gone, expected = SITUATIONS[situation]
    for job in plan.plan(params(**SMALL)):
        if (job.stage, job.run) not in gone:
            make(job)
    assert {(job.stage, job.run) for job in plan.due(plan.plan(params(**SMALL | changes)))} == expected


def test_a_missing_file_makes_the_report_due():
    jobs = plan.plan(params(**SMALL))
    for job in jobs:
        make(job)
    report_of(jobs).output("runs.csv").unlink()
    assert [job.stage for job in plan.due(jobs)] == ["report"]


def test_a_new_retraining_does_not_make_its_search_due():
    few, more = plan.plan(params()), plan.plan(params(**AGAIN))
    for job in few:
        make(job)
    assert {(job.stage, job.run) for job in plan.due(more)} == (
        {(stage, f"{run}-3") for stage, run in runs(("retrain", "evaluate"))} | REPORT
    )


def test_restore_brings_back_the_results_of_earlier_params():
    old, new = plan.plan(params()), plan.plan(params(methods__darts__arch_lr={"kind": "cosine"}))
    for job in {job.key: job for job in old + new}.values():
        make(job)
    for stage in OUTPUTS:
        plan.prune(new, stage)
    plan.restore(old)
    assert {path for job in old for path in job.outputs} <= files("results")
    assert all(Path(path).read_text().endswith(job.key) for job in old for path in job.outputs)


def test_restore_keeps_a_rebuilt_result():
    old, new = plan.plan(params()), plan.plan(params(report__title="Another"))
    make(report_of(old), "first")
    plan.prune(new, "report")
    make(report_of(old), "second")
    plan.restore(old)
    assert report_of(old).output("index.html").read_text().startswith("second")


def test_prune_without_results():
    assert plan.prune(plan.plan(params()), "search") == []


def test_prune_keeps_the_results_of_a_seed_that_looks_like_a_key():
    jobs = plan.plan(params(matrix__seeds=[202406110001]))
    for job in jobs:
        make(job)
    assert plan.prune(jobs, "search") == []
    assert files("results") == {path for job in jobs for path in job.outputs}


def report_of(jobs):
    return next(job for job in jobs if job.stage == "report")


def test_publish_copies_the_whole_report():
    jobs = plan.plan(params())
    make_report(jobs)
    assert plan.publish(jobs)
    names = [*OUTPUTS["report"], PROVENANCE]
    assert files("report") == {f"report/{name}" for name in names}
    for name in names:
        assert Path("report", name).read_text() == report_of(jobs).output(name).read_text()


def test_publish_waits_for_the_whole_report():
    jobs = plan.plan(params())
    make_report(jobs)
    report_of(jobs).output(PROVENANCE).unlink()
    assert not plan.publish(jobs)
    assert not Path("report").exists()


def test_publish_replaces_the_report_of_other_params_both_ways():
    old, new = plan.plan(params()), plan.plan(params(report__title="Another"))
    make_report(old)
    make_report(new)
    for jobs in (old, new, old):
        plan.publish(jobs)
        assert Path("report/index.html").read_text().endswith(report_of(jobs).key)
        assert Record.read(Path("report", PROVENANCE)).key == report_of(jobs).key
    assert not [path for path in files("report") if path.endswith(".tmp")]


def test_publish_leaves_a_current_report_alone():
    jobs = plan.plan(params())
    make_report(jobs)
    plan.publish(jobs)
    before = Path("report/index.html").stat().st_ino
    assert plan.publish(jobs)
    assert Path("report/index.html").stat().st_ino == before


def test_publish_restores_a_deleted_file():
    jobs = plan.plan(params())
    make_report(jobs)
    plan.publish(jobs)
    Path("report/index.html").unlink()
    assert plan.publish(jobs)
    assert Path("report/index.html").is_file()


@pytest.mark.parametrize("name", ["index.html", "plots/search.csv", PROVENANCE])
def test_an_edited_report_is_not_published(name):
    jobs = plan.plan(params())
    make_report(jobs)
    path = report_of(jobs).output(name)
    path.write_text(path.read_text().replace("e", "E"))
    with pytest.raises(HlrsError, match=rf"^{report_of(jobs).directory}"):
        plan.publish(jobs)
    assert not Path("report").exists()
