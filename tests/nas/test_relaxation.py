"""Relaxations: sparsemax, its annealing, what a genotype follows from, and what a search writes of them."""

import copy

import numpy as np
import pytest
import torch
import yaml

from hlrs.artifacts.files import read_json
from hlrs.artifacts.tables import read_table
from hlrs.config.methods import Darts, PcDarts, Sparsemax
from hlrs.config.params import Params
from hlrs.config.spaces import DartsSpace, NasBench201Space
from hlrs.nas.genotype import derive_darts, derive_nasbench201
from hlrs.nas.relaxation import relaxed, sparsemax, temperature
from hlrs.nas.searchers.darts import DartsSearcher
from hlrs.nas.searchers.pc_darts import PcDartsSearcher
from hlrs.pipeline.plan import plan
from hlrs.stages import extract, search
from tests.conftest import TINY
from tests.training.test_cuda_graphs import by_stage

SPARSE = {"kind": "sparsemax", "temperature": 0.01, "factor": 0.5, "every": 0.5}


def sorted_sparsemax(z):
    """Martins & Astudillo 2016, algorithm 1."""
    u = sorted(z, reverse=True)
    k = max(k for k in range(1, len(u) + 1) if 1 + k * u[k - 1] > sum(u[:k]))
    tau = (sum(u[:k]) - 1) / k
    return [max(value - tau, 0.0) for value in z]


@pytest.mark.parametrize(
    ("z", "p"),
    [
        ([1.0, 0.8, 0.1], [0.6, 0.4, 0.0]),
        ([0.001] * 8, [1 / 8] * 8),
        ([2.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]),
        ([1.0, 0.0], [1.0, 0.0]),  # at the border of the support
    ],
)
def test_sparsemax_of_small_vectors(z, p):
    assert sparsemax(np.array([z, z[::-1]])).tolist() == [pytest.approx(p), pytest.approx(p[::-1])]
    assert sparsemax(torch.tensor(z, dtype=torch.float64)).tolist() == pytest.approx(p)


def test_sparsemax_is_that_of_the_published_algorithm():
    z = np.random.default_rng(0).normal(size=(200, 8))
    p = sparsemax(z)
    assert p.tolist() == [pytest.approx(sorted_sparsemax(row), abs=1e-12) for row in z.tolist()]
    assert set((p > 0).sum(1).tolist()) >= {1, 2, 3}
    single = sparsemax(torch.from_numpy(z).float())
    assert torch.allclose(single.double(), torch.from_numpy(p), atol=1e-6)
    assert (single >= 0).all()


def test_the_jacobian_of_sparsemax():
    z = torch.tensor([1.0, 0.8, 0.1], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(sparsemax, z)
    assert jacobian.tolist() == [[0.5, -0.5, 0.0], [-0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]


def test_the_temperature_falls_at_the_published_epochs():
    published = [temperature(Sparsemax(), epoch, 50) for epoch in range(50)]
    assert published == pytest.approx([1.5 * 0.75 ** (epoch // 5) for epoch in range(50)])
    assert published[-1] == pytest.approx(0.1126, abs=1e-4)
    assert temperature(Sparsemax(factor=1.0), 49, 50) == 1.5


def test_a_genotype_takes_the_temperature_of_the_last_epoch_that_was_done():
    alphas = np.array([[1.0, 0.8, 0.1]], dtype=np.float32)
    spec = Sparsemax(temperature=1.0, factor=0.25, every=0.5)
    by_epochs_done = [relaxed(spec, done, 4)(alphas)[0].tolist() for done in range(5)]
    warm, cold = pytest.approx([0.6, 0.4, 0.0]), pytest.approx([0.9, 0.1, 0.0])  # (4 + 3.2 − 1)/2 = 3.1
    assert by_epochs_done == [warm, warm, warm, cold, cold]


@pytest.mark.parametrize(("searcher", "spec"), [(DartsSearcher, Darts), (PcDartsSearcher, PcDarts)])
def test_a_searcher_weighs_by_sparsemax_at_its_temperature(searcher, spec):
    made = searcher(spec(relaxation=Sparsemax(temperature=2.0, factor=0.5, every=0.5)))
    draws = [made.draw((2, 1, 3), torch.Generator(), epoch, 4) for epoch in range(4)]
    assert [drawn.tolist() for drawn in draws] == [[2.0] * 2, [2.0] * 2, [1.0] * 2, [1.0] * 2]
    alphas = torch.tensor([[2.0, 1.6, 0.2]])
    assert made.operation_weights(alphas, draws[0][0])[0].tolist() == pytest.approx([0.6, 0.4, 0.0])
    assert made.operation_weights(alphas, draws[3][0])[0].tolist() == pytest.approx([0.7, 0.3, 0.0])


def test_among_weights_of_exactly_0_the_larger_alpha_wins():
    space, ones = DartsSpace(), np.ones(5, dtype=np.float32)
    alphas = np.zeros((5, 8), dtype=np.float32)
    alphas[:, 0] = 9.0  # `none` takes all, so that every other weight is 0
    alphas[0, 4], alphas[1, 6], alphas[2, 3], alphas[3, 5], alphas[4, 7] = 0.1, 0.2, 0.1, 0.3, 0.2
    found = derive_darts(
        space, dict.fromkeys(space.kinds, alphas), dict.fromkeys(space.kinds, ones), sparsemax
    )
    assert found.normal == [
        [("dil_conv_3x3", 1), ("sep_conv_3x3", 0)],
        [("sep_conv_5x5", 1), ("dil_conv_5x5", 2)],
    ]
    cell = NasBench201Space(primitives=["none", "skip_connect"])
    made = derive_nasbench201(cell, {"normal": np.zeros((1, 2), np.float32)}, {"normal": ones[:1]}, sparsemax)
    assert str(made) == "|none~0|"  # equal in both: the earlier


def test_a_search_writes_what_its_relaxation_makes_of_the_alphas(workspace):
    jobs = by_stage({"searcher": {"kind": "darts", "relaxation": SPARSE}}, epochs=2)
    search.run(jobs["search"])
    extract.run(jobs["extract"])
    table = read_table(jobs["search"].output("alphas.parquet"), "trajectory").to_pylist()
    history = read_table(jobs["search"].output("history.parquet"), "search_history").to_pylist()
    for epoch, cold in enumerate((0.01, 0.01, 0.005)):  # before any, and after each of two
        own = [row for row in table if row["epoch"] == epoch]
        edges = [own[i : i + 8] for i in range(0, len(own), 8)]
        expected = [sorted_sparsemax([row["alpha"] / cold for row in edge]) for edge in edges]
        for edge, weights in zip(edges, expected, strict=True):
            assert [row["weight"] for row in edge] == pytest.approx(weights, abs=1e-6)
        if epoch:
            for cell, part in (
                ("normal", expected[: len(edges) // 2]),
                ("reduce", expected[len(edges) // 2 :]),
            ):
                counts = [sum(p > 0 for p in weights) for weights in part]
                assert history[epoch - 1][f"nonzero_{cell}"] == sum(counts) / len(counts) < 8
                entropy = [-sum(p * np.log(p) for p in weights if p) for weights in part]
                assert history[epoch - 1][f"entropy_{cell}"] == pytest.approx(np.mean(entropy), abs=1e-6)
    strongest = [max(edge[1:], key=lambda row: (row["weight"], row["alpha"])) for edge in edges[:2]]
    edges_of_node = sorted(strongest, key=lambda row: -row["weight"])
    found = read_json(jobs["extract"].output("genotype.json"))["normal"]
    assert found == [[[row["primitive"], row["input"]] for row in edges_of_node]]


def test_softmax_as_a_choice_changes_no_jobs_parameters(workspace):
    given = {}
    for name, relaxation in (("default", {}), ("softmax", {"relaxation": {"kind": "softmax"}})):
        given[name] = by_stage({"searcher": {"kind": "pc_darts", "portion": 2} | relaxation})
    assert [job.key for job in given["default"].values()] == [job.key for job in given["softmax"].values()]
    assert "relaxation" not in given["default"]["search"].params["searcher"]
    assert "relaxation" not in given["default"]["extract"].params
    sparse = by_stage({"searcher": {"kind": "pc_darts", "portion": 2, "relaxation": SPARSE}})
    for stage in ("search", "extract"):
        assert sparse[stage].key != given["default"][stage].key
        assert yaml.safe_load(yaml.safe_dump(sparse[stage].params)) == sparse[stage].params


@pytest.mark.parametrize(
    ("relaxation", "says"),
    [
        ({"every": 0.9}, "methods.m.searcher.relaxation.every 0.9 is never reached"),
        ({"every": 0.01, "factor": 0.5}, "raise factor or every"),
        ({"temperature": 0.0}, "methods.m.searcher.darts.relaxation.sparsemax.temperature"),
    ],
)
def test_an_annealing_that_cannot_act_or_ends_at_0_is_refused(relaxation, says):
    params = copy.deepcopy(TINY)
    params["matrix"]["methods"], params["report"] = ["m"], {}
    searcher = {"kind": "darts", "relaxation": {"kind": "sparsemax"} | relaxation}
    params["methods"] = {"m": {"searcher": searcher}}
    with pytest.raises(ValueError, match=says):
        plan(Params.model_validate(params))
