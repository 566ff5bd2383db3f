"""Cells searched on, and trained on the skips of, what another method trained."""

import contextlib
import shutil

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hlrs.artifacts.files import read_json
from hlrs.artifacts.tables import read_table
from hlrs.config.jobs import SearchJob
from hlrs.config.methods import PcDarts
from hlrs.config.params import Params
from hlrs.nas.genotype import from_json
from hlrs.nas.resnet import ResNet
from hlrs.pipeline.execute import execute
from hlrs.pipeline.plan import discard_states, plan
from hlrs.provenance.lineage import read_here, trace
from hlrs.provenance.lineage_view import tree as tree_of
from hlrs.stages import search
from hlrs.training import loop
from tests.conftest import TINY, outputs, record
from tests.tasks import retrain_task, run_all, weights

CPU = torch.device("cpu")
METHODS = {
    "base": {"searcher": {"kind": "resnet", "depth": 20, "width": 4}},
    "iac": {"searcher": {"kind": "implant", "method": "base", "portion": 2, "warm_up": 0.4}},
    "drawn": {"searcher": {"kind": "implant", "method": "base", "cell": "random"}},
}
OPERATIONS = ["max_pool_3x3", "skip_connect", "sep_conv_3x3"]
MATRIX = {"datasets": ["digits"], "methods": [*METHODS], "seeds": [0], "retrain_seeds": [0]}
PARAMS = TINY | {
    "matrix": MATRIX,
    "methods": METHODS,
    "search": TINY["search"]
    | {"collapse": {"power_iterations": 0}, "space": {"kind": "darts", "primitives": OPERATIONS}},
    "retrain": TINY["retrain"] | {"epochs": 1},
    "report": {},
}


def named(jobs):
    return {f"{job.stage}/{job.run}": job for job in jobs}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with every result of the matrix, and its jobs by stage and run."""
    folder = tmp_path_factory.mktemp("implants")
    with contextlib.chdir(folder):
        yield folder, run_all(Params.model_validate(PARAMS))


@pytest.fixture
def jobs(made, monkeypatch):
    monkeypatch.chdir(made[0])
    return made[1]


def holds(network, backbone):
    """Return whether a network has all tensors of a backbone, to the bit."""
    return all(torch.equal(network[name], tensor) for name, tensor in backbone.items())


def test_each_job_starts_with_the_backbone_of_its_seeds(workspace):
    matrix = MATRIX | {"methods": ["iac", "drawn", "base"], "retrain_seeds": [3, 0]}
    jobs = named(plan(Params.model_validate(PARAMS | {"matrix": matrix})))
    backbones = {
        seeds: str(jobs[f"retrain/digits/base/{seeds}"].output("weights.safetensors"))
        for seeds in ("0", "0-3")
    }
    assert jobs["search/digits/iac/0"].inputs["trained"] == backbones["0"]
    assert "trained" not in jobs["search/digits/drawn/0"].inputs
    for name in ("iac", "drawn"):
        for seeds, path in backbones.items():
            assert jobs[f"retrain/digits/{name}/{seeds}"].inputs["trained"] == path
            assert "trained" not in jobs[f"evaluate/digits/{name}/{seeds}"].inputs
    params = jobs["search/digits/iac/0"].params
    assert params["searcher"] == PcDarts(portion=2, warm_up=0.4).model_dump()
    assert (params["search"]["channels"], params["search"]["cells"]) == (4, 9)
    space = {"kind": "implant", "primitives": OPERATIONS}
    assert params["search"]["space"] == jobs["search/digits/drawn/0"].params["space"] == space


def test_the_search_and_the_training_leave_the_backbone_as_it_is(jobs):
    backbone = weights(jobs["retrain/digits/base/0"])
    supernet = weights(jobs["search/digits/iac/0"], "supernet.safetensors")
    assert holds(supernet, backbone)
    assert supernet.keys() - backbone.keys() > {"alphas.normal", "betas.normal"}
    for name in ("iac", "drawn"):
        found = weights(jobs[f"retrain/digits/{name}/0"])
        assert holds(found, backbone)
        assert all(name.startswith("implants.") for name in found.keys() - backbone.keys())
        assert all(found[f"implants.{stage}.projection"].any() for stage in range(3))


def test_both_begin_as_the_backbone(jobs):
    backbone = ResNet(20, 4, in_channels=1, classes=10)
    backbone.load_state_dict(weights(jobs["retrain/digits/base/0"]))
    job = jobs["search/digits/iac/0"]
    task = search._make_task(job, SearchJob.model_validate(job.params))
    retraining = retrain_task(jobs["retrain/digits/iac/0"])
    x = retraining.images.normalize(retraining.images.images[:20])
    with torch.no_grad():
        expected = backbone.eval()(x)
        assert torch.equal(task.supernet(x), expected)
        assert torch.equal(retraining.network(x), expected)


def test_the_alphas_rest_and_then_step_on_one_kind_of_cell(jobs):
    job = jobs["search/digits/iac/0"]
    rows = read_table(job.output("alphas.parquet"), "trajectory").to_pylist()
    assert {row["cell"] for row in rows} == {"normal"}
    alphas = np.reshape([row["alpha"] for row in rows], (4, -1))  # before the search, after three epochs
    assert np.array_equal(alphas[0], alphas[2])
    assert not np.array_equal(alphas[2], alphas[3])


def test_its_searcher_is_called_as_in_the_params(jobs):
    for name, said in {
        "iac": "implant, edge_normalization true, order 1, portion 2",
        "drawn": "implant (cell random)",
    }.items():
        found = trace([str(jobs[f"search/digits/{name}/0"].output("alphas.parquet"))], read_here)
        tree = " ".join(" ".join(tree_of(found, 110)).split())
        assert f"searcher: {said}" in tree
        assert "pc_darts" not in tree


def test_the_report_draws_the_cell_and_where_it_lies(jobs):
    page = jobs["report/all"].output("index.html").read_text()
    for name in ("iac", "drawn"):
        found = from_json(
            read_json(jobs[f"extract/digits/{name}/0"].output("genotype.json")), "genotype.json"
        )
        assert [*found.cells] == ["normal"]
        for title in ("normal cell", "skip (k-2 and k-1) with its normal cell"):
            assert f'aria-label="{title} of digits/{name}/0"' in page
    assert "reduce cell" not in page


def test_what_is_evaluated_has_the_backbones_weights_and_the_implants(jobs):
    base, own = (
        read_json(jobs[f"evaluate/digits/{name}/0"].output("metrics.json")) for name in ("base", "iac")
    )
    found = weights(jobs["retrain/digits/iac/0"])
    added = [t for name, t in found.items() if name.startswith("implants.") and "running" not in name]
    assert own["weights"] - base["weights"] == sum(t.numel() for t in added if t.dim())


class Killed(BaseException):
    """Ends a job as a kill does: nothing catches it."""


def test_what_is_killed_ends_with_the_same_bytes(jobs, made, monkeypatch):
    """In the last epoch of the search, as the alphas step, and in the training."""
    for stage, step in (("search", 11), ("retrain", 4)):
        job = jobs[f"{stage}/digits/iac/0"]
        expected = outputs(made[0], stage)
        discard_states([job])
        shutil.rmtree(job.directory)
        saves = []

        def save(*state, real=loop.save, last=step, saves=saves):
            real(*state)
            saves.append(state)
            if len(saves) == last:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(loop, "save", save)
            patch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
            with pytest.raises(Killed):
                execute(job)
        assert not (job.directory / "history.parquet").exists()
        execute(job)
        assert outputs(made[0], stage) == expected
        assert record(made[0], stage, "digits/iac/0")["resumes"] == 1


@pytest.mark.parametrize(
    ("method", "base", "seeds", "says"),
    [
        ({"search": {"channels": 8}}, {}, [0], ["methods.iac.search.channels", "leave channels out"]),
        ({"retrain": {"drop_path": 0.1}}, {}, [0], ["methods.iac.retrain.drop_path", "leave drop_path out"]),
        ({"searcher": {"portion": 3}}, {}, [0], ["searcher.portion", "methods.base.searcher.width, 4"]),
        ({"retrain": {"classifier": {"kind": "retrained"}}}, {}, [0], ["retrain.classifier", "leave it out"]),
        ({}, {"objective": {"kind": "bilateral"}}, [0], ["methods.iac.searcher.method", "bilateral"]),
        (
            {},
            {"objective": {"kind": "plain", "loss": {"kind": "ldam", "at": None}}},
            [0],
            ["methods.iac.objective", "base"],
        ),
        ({}, {}, [3], ["matrix.retrain_seeds", "add 0"]),
    ],
)
def test_what_does_not_fit_the_backbone_is_refused(method, base, seeds, says):
    iac = METHODS["iac"] | method | {"searcher": METHODS["iac"]["searcher"] | method.get("searcher", {})}
    methods = {"base": METHODS["base"] | {"retrain": base}, "iac": iac}
    matrix = MATRIX | {"methods": ["base", "iac"], "retrain_seeds": seeds}
    with pytest.raises(ValidationError) as error:
        Params.model_validate(PARAMS | {"methods": methods, "matrix": matrix})
    assert all(part in str(error.value) for part in says), error.value
