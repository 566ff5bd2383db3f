"""A budget of the found network's size: drawn again until it fits, refused by the extraction of a search."""

import copy
from pathlib import Path

import numpy as np
import pytest

from hlrs.artifacts.files import read_json
from hlrs.config.jobs import BudgetedNetwork
from hlrs.config.params import Params
from hlrs.config.spaces import DartsSpace, NasBench201Space
from hlrs.errors import UserError
from hlrs.nas.genotype import from_json
from hlrs.nas.trajectory import derive
from hlrs.pipeline.plan import plan
from hlrs.pipeline.preflight import check_counts
from hlrs.provenance.differences import compare
from hlrs.stages import evaluate, extract, retrain, search, split
from hlrs.stages.sizes import SizeLimit, smallest
from tests.conftest import TINY
from tests.messages import says

NB201 = {"space": {"kind": "nasbench201"}, "nodes": 2}  # one edge
SEARCHERS = {
    "drawn": {"kind": "random"},
    "scored": {"kind": "swap", "candidates": 2, "batch_size": 4},
    "searched": {"kind": "darts"},
}


def params_of(searcher="drawn", *, seed=0, budget=None, retrain=None, **recipe):
    changes = {
        "methods": {"m": {"searcher": SEARCHERS[searcher]}},
        "matrix": TINY["matrix"] | {"methods": ["m"], "seeds": [seed]},
        "search": TINY["search"] | {"epochs": 1, "channels": 2} | recipe | {"budget": budget},
        "retrain": TINY["retrain"]
        | {"epochs": 1, "auxiliary_weight": 0.0, "drop_path": 0.0}
        | (retrain or {}),
        "report": {},
    }
    return Params.model_validate(copy.deepcopy(TINY) | changes)


def planned(*args, **changes):
    return {job.stage: job for job in plan(params_of(*args, **changes))}


def found(*args, **changes):
    """What is extracted, and the jobs."""
    jobs = planned(*args, **changes)
    for stage in (split, search, extract):
        stage.run(jobs[stage.__name__.rpartition(".")[2]])
    return read_json(jobs["extract"].output("genotype.json")), jobs


def multiply_adds(cell):
    """Of NAS-Bench-201's network of 2 channels and 3 cells of one edge, on 8×8 images of one channel.

    Three stages of c = 2, 4, 8 channels and s = 8, 4, 2 pixels; the cell has k² c² s² of them, and each
    residual block of stride 2 to c channels 9 c²/2 s² + 9 c² s² and c²/2 s² in its shortcut.
    """
    stages = [(2, 8), (4, 4), (8, 2)]
    kernel = 3 if "nor_conv_3x3" in cell else 1 if "nor_conv_1x1" in cell else 0
    cells = sum(kernel**2 * c**2 * s**2 for c, s in stages)
    blocks = sum((9 * c * c // 2 + 9 * c * c + c * c // 2) * s**2 for c, s in stages[1:])
    return cells + blocks + 9 * 2 * 64 + 8 * 10


def limit_of(jobs, stage="search"):
    of = BudgetedNetwork.model_validate(jobs[stage].params["limit"])
    return SizeLimit(of, NasBench201Space(), 10)


def test_the_size_is_that_of_the_network_as_evaluated(workspace):
    objective = {"objective": {"kind": "bilateral", "branch_cells": 1}}
    genotype, jobs = found(budget={"weights": 10**9}, retrain=objective)
    for stage in (retrain, evaluate):
        stage.run(jobs[stage.__name__.rpartition(".")[2]])
    metrics = read_json(jobs["evaluate"].output("metrics.json"))
    of = BudgetedNetwork.model_validate(jobs["search"].params["limit"])
    for name in ("weights", "multiply_adds"):
        for most, fits in ((metrics[name], True), (metrics[name] - 1, False)):
            bound = of.model_copy(
                update={"budget": of.budget.model_copy(update={"weights": None, name: most})}
            )
            excess = SizeLimit(bound, DartsSpace(), 10).excess(from_json(genotype, "genotype"))
            assert excess == ("" if fits else f"{metrics[name]:,} {name}, more than {most:,}")


@pytest.mark.parametrize("searcher", ["drawn", "scored"])
def test_what_exceeds_the_budget_is_drawn_again(workspace, searcher):
    """Of five operations, two have convolutions; a seed whose first draw fits keeps it."""
    most = multiply_adds("skip_connect")
    again = 0
    for seed in range(8 if searcher == "drawn" else 3):
        cell, _ = found(searcher, seed=seed, **NB201)
        fitting, jobs = found(searcher, seed=seed, budget={"multiply_adds": most}, **NB201)
        assert multiply_adds(fitting["cell"]) <= most
        assert limit_of(jobs).excess(from_json(fitting, "")) == ""
        if searcher == "drawn" and multiply_adds(cell["cell"]) <= most:
            assert fitting == cell
        again += multiply_adds(cell["cell"]) > most
    assert again or searcher == "scored"


def test_a_supernets_search_is_not_told_and_its_extraction_refuses(workspace):
    bare = planned("searched", **NB201)
    genotype, jobs = found("searched", budget={"multiply_adds": 10**9}, **NB201)
    assert jobs["search"].key == bare["search"].key
    assert jobs["extract"].key != bare["extract"].key
    change = compare(bare["extract"], jobs["extract"], params_of("searched"))
    assert [str(c) for c in change.changes] == ["search.budget removed"]
    size = multiply_adds(genotype["cell"])
    tight = planned("searched", budget={"multiply_adds": size - 1}, **NB201)
    with pytest.raises(UserError) as refused:
        extract.run(tight["extract"])
    says(str(refused.value), "search.budget", f"{size:,}", f"{size - 1:,}", "retrain.channels")
    extract.run(planned("searched", budget={"multiply_adds": size}, **NB201)["extract"])


def test_the_smallest_network_of_a_space_is_smaller_than_drawn_ones(workspace):
    of = BudgetedNetwork.model_validate(planned(budget={"weights": 1})["search"].params["limit"])
    draw = np.random.default_rng(0)

    def weights(space, genotype):
        return int(SizeLimit(of, space, 10).excess(genotype).split()[0].replace(",", ""))

    for primitives in (DartsSpace().primitives, ["skip_connect", "dil_conv_3x3", "sep_conv_3x3"]):
        space = DartsSpace(primitives=primitives)
        least = smallest(space, 2)
        for _ in range(4):
            shape = len(space.edges(2)), len(space.primitives)
            alphas = {f"alphas.{kind}": draw.random(shape, dtype=np.float32) for kind in space.kinds}

            assert weights(space, derive(space, alphas)) >= weights(space, least)
    assert smallest(DartsSpace(primitives=["sep_conv_3x3"]), 2) is None
    assert smallest(NasBench201Space(), 3).to_json() == {"cell": "|none~0|+|none~0|none~1|"}


def test_a_budget_that_cannot_act_or_that_nothing_fits_is_refused_before_any_job(workspace):
    with pytest.raises(ValueError, match="budget") as refused:
        params_of(budget={})
    says(" ".join(str(refused.value).splitlines()), "search", "budget", "weights", "multiply_adds")
    decoded = {"retrain": {"start": "decoded"}, "channels": 2}
    with pytest.raises(ValueError, match=r"search\.budget .*retrain\.start"):
        params_of("searched", budget={"weights": 9}, **decoded)
    raw = params_of(budget={"weights": 9}).model_dump()
    Path("cells.csv").write_text("cell,a\n")
    raw["matrix"]["retrain_seeds"], raw["evaluate"]["table"] = [], "cells.csv"
    with pytest.raises(ValueError, match=r"search\.budget .*retrain_seeds"):
        Params.model_validate(raw)
    raw["methods"]["m"] = {
        "searcher": {"kind": "fixed", "genotype": "DARTS_V2"},
        "search": {"budget": {"weights": 9}},
    }
    with pytest.raises(ValueError, match=r"search\.budget changes nothing for searcher fixed"):
        Params.model_validate(raw)
    least = multiply_adds("none")
    for searcher in SEARCHERS:
        check_counts(plan(params_of(searcher, budget={"multiply_adds": least}, **NB201)))
        with pytest.raises(UserError) as refused:
            check_counts(plan(params_of(searcher, budget={"multiply_adds": least - 1}, **NB201)))
        says(str(refused.value), "methods.m", "search.budget", f"{least:,}", f"{least - 1:,}")
