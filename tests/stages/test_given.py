"""Genotypes that were found before: in a file, or by another run of the matrix."""

import copy
import json
from pathlib import Path

import pytest

from hlrs.config.params import Params
from hlrs.errors import UserError
from hlrs.pipeline import plan, preflight
from hlrs.stages import extract, search
from tests.conftest import TINY
from tests.messages import says

NB201 = {"kind": "nasbench201"}
CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|"
DARTS = {
    "normal": [[["sep_conv_3x3", 1], ["skip_connect", 0]]],
    "normal_concat": [2],
    "reduce": [[["max_pool_3x3", 0], ["dil_conv_5x5", 1]]],
    "reduce_concat": [2],
}
DRAWN = {"searcher": {"kind": "random"}}


def params_of(genotype, *, search=None, datasets=("digits",), **others):
    """TINY's params with a method `given`, and others that come after it."""
    own = {"given": {"searcher": {"kind": "fixed", "genotype": genotype}}}
    recipe = {"space": search, "nodes": 3} if search else {}
    changes = {
        "methods": own | others,
        "datasets": dict.fromkeys(datasets, TINY["datasets"]["digits"]),
        "matrix": {"datasets": [*datasets], "methods": ["given", *others], "seeds": [0, 1]},
        "search": TINY["search"] | recipe,
        "retrain": TINY["retrain"] | {"auxiliary_weight": 0.0, "drop_path": 0.0},
        "report": {},
    }
    return Params.model_validate(copy.deepcopy(TINY) | changes)


def planned(*args, **changes):
    return {f"{job.stage}/{job.run}": job for job in plan.plan(params_of(*args, **changes))}


def test_the_content_of_a_file_is_the_genotype_whatever_its_name(workspace):
    Path("found.json").write_text(json.dumps(DARTS))
    Path("again.json").write_text(json.dumps(DARTS, indent=4))
    jobs, again = planned("found.json"), planned("again.json")
    assert not [name for name in jobs if name.startswith("search/")]
    differing = {name for name in jobs if jobs[name].key != again[name].key}
    assert differing == {"report/all"}  # which shows the parameters
    job = jobs["extract/digits/given/0"]
    extract.run(job)
    assert json.loads(job.output("genotype.json").read_text()) == DARTS
    assert preflight._nodes(jobs["retrain/digits/given/0"], dict.fromkeys(job.outputs, job)) == 1
    Path("cell.json").write_text(json.dumps({"cell": CELL}))
    from_file, spelled = (planned(genotype, search=NB201) for genotype in ("cell.json", CELL))
    assert {n for n in spelled if spelled[n].key != from_file[n].key} == {"report/all"}


def test_a_run_gives_what_it_finds_also_on_other_images_and_is_planned_first(workspace):
    two = {"datasets": ("digits", "other")}
    on = {"searcher": {"kind": "trained", "method": "given"}}
    jobs = planned("other/drawn/1", drawn=DRAWN, on=on, **two)
    seen = set()
    for job in jobs.values():
        assert seen.issuperset(job.inputs.values())
        seen.update(job.outputs)
    found = jobs["extract/other/drawn/1"]
    search.run(jobs["search/other/drawn/1"])
    extract.run(found)
    for run in ("digits/given/0", "digits/given/1", "other/given/0"):
        job = jobs[f"extract/{run}"]
        assert job.inputs == {"genotype": str(found.output("genotype.json"))}
        extract.run(job)
        assert job.output("genotype.json").read_bytes() == found.output("genotype.json").read_bytes()
    plain = planned("DARTS_V2", drawn=DRAWN, **two)
    kept = {name for name in plain if "/given/" not in name and name != "report/all"}
    assert all(jobs[name].key == plain[name].key for name in kept)
    assert (
        preflight._nodes(jobs["retrain/digits/given/0"], {p: j for j in jobs.values() for p in j.outputs})
        == 1
    )


def test_what_gives_no_genotype_is_refused_before_any_job(workspace):
    Path("cell.json").write_text(json.dumps({"cell": CELL}))
    Path("broken.json").write_text(json.dumps(DARTS | {"normal": [[["conv", 0]]]}))
    for file, *said in (
        ("absent.json", "no such file"),
        ("cell.json", "nasbench201", "search.space"),
        ("broken.json", "normal", "node 0", "conv"),
    ):
        with pytest.raises(UserError) as refused:
            planned(file)
        says(str(refused.value), "methods.given", "searcher.genotype", file, *said)
    of_cells = {"searcher": {"kind": "random"}, "search": {"space": NB201, "nodes": 2}}
    for genotype, *said in (
        ("digits/drawn/2", "seed 2", "matrix"),
        ("mnist/drawn/0", "data set mnist", "matrix"),
        ("digits/absent/0", "method absent", "matrix"),
        ("digits/given/0", "given", "finds no genotype"),
        ("digits/cells/0", "cells", "nasbench201", "search.space"),
        ("DARTS_V3", "DARTS_V2", "data set/method/seed"),
    ):
        with pytest.raises(ValueError, match="genotype") as refused:
            params_of(genotype, drawn=DRAWN, cells=of_cells)
        says(" ".join(str(refused.value).splitlines()), "genotype", *said)
