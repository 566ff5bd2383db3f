"""Early stopping: the eigenvalue compared with the full Hessian's, the rules, stops, and resumed runs."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hlrs.artifacts.files import read_json
from hlrs.artifacts.tables import read_table
from hlrs.config.methods import PcDarts
from hlrs.config.params import Params
from hlrs.config.recipes import Collapse, Search
from hlrs.data.images import generator
from hlrs.nas.collapse import EarlyStopping, dominant_eigenvalue, epochs_back, has_sharpened
from hlrs.nas.searchers.pc_darts import PcDartsSearcher
from hlrs.pipeline.plan import plan
from hlrs.stages import extract, search, split
from hlrs.training.loop import fit
from tests.conftest import TINY
from tests.nas.test_supernet import small_supernet
from tests.tasks import search_task


@pytest.fixture(autouse=True)
def one_thread():
    """These maps are too small for two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_stopping(**changes) -> EarlyStopping:
    """Early stopping as in the params."""
    return EarlyStopping(Collapse(**changes), torch.ones(3))


def estimate(stopping, loss, alphas, weights):
    """Estimate a loss's sharpness."""
    return stopping.estimate(lambda start: stopping.iterate(loss(), alphas, weights, start))


def power_iteration(*problem):
    """The eigenvalue and the vector."""
    found = dominant_eigenvalue(*problem)
    return float(found[0]), found[1:]


# --- the eigenvalue -----------------------------------------------------------------------------------


def test_a_quadratic_problem_by_hand():
    # ∇² ½ xᵀHx = H, with the eigenvalues 3, -5 and 1: the dominant one is negative
    directions = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double())[0]
    hessian = directions @ torch.diag(torch.tensor([3.0, -5.0, 1.0]).double()) @ directions.T
    x = nn.Parameter(torch.tensor([0.3, 2.0, -1.0], dtype=torch.float64))
    loss = x @ hessian @ x / 2
    value, vector = power_iteration(loss, [x], torch.ones(3, dtype=torch.float64), 60)
    assert value == pytest.approx(-5, rel=1e-9)
    assert abs(float(vector @ directions[:, 1])) == pytest.approx(1, rel=1e-9)
    # one iteration is the Rayleigh quotient at the start
    value, vector = power_iteration(x @ hessian @ x / 2, [x], torch.tensor([2.0, 0, 0]).double(), 1)
    assert value == pytest.approx(float(hessian[0, 0]), rel=1e-12)
    assert torch.allclose(vector, hessian[0] / hessian[0].norm())


def test_a_flat_loss_has_eigenvalue_0_and_keeps_its_direction():
    x = nn.Parameter(torch.ones(2))
    value, vector = power_iteration((0.0 * x**2).sum(), [x], torch.tensor([3.0, 4.0]), 3)
    assert value == 0
    assert vector.tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize(
    "options", [{}, {"recompute": True}, {"searcher": PcDartsSearcher(PcDarts(portion=2))}]
)
def test_power_iteration_finds_the_dominant_eigenvalue_of_a_supernets_hessian(options):
    supernet = small_supernet(1, torch.float64, **options)
    draw = torch.Generator().manual_seed(3)
    images = torch.randn(4, 2, 4, 4, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, 3, (4,), generator=draw)
    architecture = list(supernet.architecture().values())
    sizes = [p.numel() for p in architecture]
    assert sum(sizes) == (36 if "searcher" in options else 32)

    def loss() -> torch.Tensor:
        return F.cross_entropy(supernet(images), labels)

    def gradient() -> torch.Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss(), architecture)])

    columns, step = [], 1e-5  # central differences of the gradient
    for parameter in architecture:
        for i in range(parameter.numel()):
            with torch.no_grad():
                entry = parameter.view(-1)[i]
                before = entry.item()
                entry.fill_(before + step)
            ahead = gradient()
            with torch.no_grad():
                entry.fill_(before - step)
            columns.append((ahead - gradient()) / (2 * step))
            with torch.no_grad():
                entry.fill_(before)
    hessian = torch.stack(columns)
    assert torch.allclose(hessian, hessian.T, atol=1e-6)
    eigenvalues, vectors = torch.linalg.eigh((hessian + hessian.T) / 2)
    place = eigenvalues.abs().argmax()
    dominant = float(eigenvalues[place])
    start = vectors[:, place] + 0.1 * torch.randn(sum(sizes), generator=draw, dtype=torch.float64)
    found, vector = power_iteration(loss(), architecture, start, 30)
    assert found == pytest.approx(dominant, rel=1e-4)
    # a warm start finds it in one iteration, as in a search with frozen weights
    stopping = EarlyStopping(Collapse(power_iterations=1), vector)
    again = estimate(stopping, loss, architecture, supernet.weights())
    assert again == pytest.approx(dominant, rel=1e-4)


# --- the rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("eigenvalues", "sharpened"),
    [
        ([1, 1, 1], False),  # too few for two windows of 2
        ([1, 1, 1, 1], False),
        ([3, 3, 4, 4], False),  # 3/4 is not below the ratio
        ([3, 3, 4, 4.1], True),
        ([9, 9, 3, 3, 4, 4.1], True),  # only the last two windows count
        ([1, 5, 5, 1, 5, 5], True),  # (5 + 1)/(5 + 5) = 0.6
        ([-3, -3, -4, -4.1], True),  # by size
        ([4, 4, -1, -1], False),
    ],
)  # fmt: skip
def test_the_rule_on_sequences(eigenvalues, sharpened):
    assert has_sharpened(eigenvalues, window=2, ratio=0.75) == sharpened


def test_the_architecture_comes_from_the_middle_of_the_window_before_the_growth():
    # window 5, last epoch 20: i = 18 is in the middle of 16 to 20, i - k = 13 in the middle of 11 to 15
    assert 20 - epochs_back(5) == 13
    assert 9 - epochs_back(1) == 8


def test_each_kind_of_stop():
    never = make_stopping()
    assert [never.update(10.0**e, 9) for e in range(20)] == [0] * 20
    assert not never.stopped
    by_skips = make_stopping(stop="skips", skips=3)
    for skips, stopped in ((0, False), (2, False), (3, True)):
        assert (by_skips.update(1.0, skips), by_skips.stopped) == (0, stopped)
    by_eigenvalue = make_stopping(stop="eigenvalue", window=1, ratio=0.5)
    assert [(by_eigenvalue.update(e, 9), by_eigenvalue.stopped) for e in (1.0, 2.0, None, 4.5)] == [
        (0, False),
        (0, False),
        (0, False),
        (2, True),  # the growth is from 2.0 to 4.5; 2.0 was two epochs ago
    ]


@pytest.mark.parametrize(
    ("eigenvalues", "back"),
    [
        ([1, 1, 1, 4, 4], 3),  # windows 1, 1 and 4, 4; as without gaps, from the fifth epoch to the second
        ([1, 1, 1, None, 4, 4], 4),  # to the second of six
        ([1, None, 1, 1, 4, None, None, 4], 5),  # to the third of eight
        ([None, 1, 1, 4, 4], 3),  # a gap before it changes nothing
    ],
)
def test_a_roll_back_counts_the_epochs_without_a_finite_eigenvalue(eigenvalues, back):
    """k = 2: to the architecture of the last eigenvalue but 2 + 1, however many epochs ago."""
    stopping = make_stopping(stop="eigenvalue", window=2, ratio=0.3)
    *before, last = [stopping.update(value and float(value), 9) for value in eigenvalues]
    assert (before, last, stopping.stopped) == ([0] * (len(eigenvalues) - 1), back, True)


def test_a_restored_watch_decides_as_the_one_before():
    """Of 1, 2, 2, 3: 1 + 2 < 0.75 · (2 + 3); the architecture goes 2 + 1 epochs back."""
    rule = {"stop": "eigenvalue", "window": 2, "ratio": 0.75}
    before, after, stopped = (make_stopping(**rule) for _ in range(3))
    before.vector = torch.tensor([0.0, 0.6, 0.8])
    assert [before.update(value, 0) for value in (1.0, 2.0, 2.0)] == [0, 0, 0]
    after.load(before.state())
    assert after.vector.tolist() == before.vector.tolist()
    assert (after.stopped, after.update(3.0, 0), after.stopped) == (False, 3, True)
    stopped.load(after.state())
    assert stopped.stopped


@pytest.mark.parametrize("seed", range(20))
def test_a_search_whose_sharpness_stays_is_not_stopped(seed):
    """Estimates that start from a random vector grow towards λ; of these eigenvalues, in the first epochs."""
    signs = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(100)
    spectrum = signs / (1 + 0.15 * torch.arange(200))  # -1, 0.87, -0.77, 0.69, …
    start = torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    watch = EarlyStopping(Collapse(stop="eigenvalue", power_iterations=3, window=5), start)
    x = nn.Parameter(torch.zeros(200, dtype=torch.float64))
    for _ in range(15):
        watch.update(estimate(watch, lambda: (spectrum * x * x).sum() / 2, [x], []), 0)
    assert not watch.stopped
    assert 0.8 < abs(watch.eigenvalues[0]) < 1 + 1e-9  # the largest is 1


def test_the_first_estimate_of_a_restored_watch_is_not_repeated():
    before, after = make_stopping(power_iterations=2), make_stopping(power_iterations=2)
    calls = []

    def iterate(vector):
        calls.append(None)
        return torch.cat([torch.ones(1), vector])

    before.estimate(iterate)
    assert len(calls) == 10
    after.load(before.state())
    after.estimate(iterate)
    assert len(calls) == 11


def test_nothing_is_estimated_without_iterations():
    def untouched(start):
        raise AssertionError

    assert make_stopping(power_iterations=0).estimate(untouched) is None


def test_a_non_finite_loss_keeps_the_vector():
    x = nn.Parameter(torch.ones(3))
    sharp = make_stopping()
    assert estimate(sharp, lambda: (x * float("inf")).sum() ** 2, [x], []) is None
    assert sharp.vector.isfinite().all()
    assert estimate(sharp, lambda: (x[0] ** 2).sum(), [x], []) == pytest.approx(2)


def test_an_unreachable_stop_is_rejected():
    with pytest.raises(ValueError, match=r"collapse\.stop eigenvalue\b.*epochs\b.*\b10\b"):
        Search(epochs=9, collapse=Collapse(stop="eigenvalue"))


# --- in a search --------------------------------------------------------------------------------------


def make(searcher=None, objective="plain", arch_lr="constant", **changes) -> dict:
    """The jobs of TINY by stage, for one method, with changes to its search."""
    params = copy.deepcopy(TINY)
    params["matrix"]["methods"], params["report"] = ["m"], {}
    params["search"] |= {"epochs": 4} | changes
    spec = {
        "searcher": searcher or {"kind": "darts"},
        "objective": {"kind": objective},
        "arch_lr": {"kind": arch_lr} if isinstance(arch_lr, str) else arch_lr,
    }
    params["methods"] = {"m": spec}
    return {job.stage: job for job in plan(Params.model_validate(params))}


def searched(**changes):
    """The history's columns, and the alphas [epoch, cell · edge · operation] of a search."""
    by_stage = make(**changes)
    split.run(by_stage["split"])
    search.run(by_stage["search"])
    return found(by_stage)


def found(by_stage):
    history = read_table(by_stage["search"].output("history.parquet"), "search_history").to_pydict()
    table = read_table(by_stage["search"].output("alphas.parquet"), "trajectory").to_pandas()
    return history, np.stack([own.alpha.to_numpy() for _, own in table.groupby("epoch")])


def test_estimating_the_eigenvalue_does_not_change_the_training(workspace):
    blind, alphas = searched(collapse={"power_iterations": 0})
    estimated, same_alphas = searched()
    assert blind.pop("eigenvalue") == [None] * 4
    assert all(np.isfinite(estimated.pop("eigenvalue")))
    assert blind == estimated
    assert np.array_equal(alphas, same_alphas)


def test_the_recorded_eigenvalue_uses_a_quarter_of_the_epochs_first_batch(workspace):
    by_stage = make(epochs=1, collapse={"power_iterations": 2})
    split.run(by_stage["split"])
    job = by_stage["search"]
    task = search_task(job)
    [row] = fit(task, job, torch.device("cpu")).rows
    v = torch.randn(32, generator=generator(0, "search", "eigenvalue"))
    [batch] = task.validation(0)
    for _ in range(10 * 2):
        loss = F.cross_entropy(task.supernet(batch.images[:4]), batch.labels[:4])  # of 16
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, task.alphas, create_graph=True)])
        v = v / v.norm()
        along = torch.autograd.grad((gradient * v).sum(), task.alphas)
        product = torch.cat([g.flatten() for g in along])
        quotient, v = float(v @ product), product
    assert row["eigenvalue"] == pytest.approx(quotient, rel=1e-4)


def test_skip_connections_stop_only_the_alphas(workspace):
    # with six edges, one soon becomes a skip connection
    history, alphas = searched(nodes=3, collapse={"stop": "skips", "skips": 1}, epochs=5, alphas={"lr": 0.1})
    assert max(history["skips_normal"]) >= 1
    first = next(e for e, skips in enumerate(history["skips_normal"]) if skips >= 1)
    assert first < 4
    assert history["stopped"] == [0] * first + [1] * (5 - first)
    assert [lr > 0 for lr in history["alphas_lr"]] == [True] * (first + 1) + [False] * (4 - first)
    assert [loss is None for loss in history["alphas_loss"]] == [False] * (first + 1) + [True] * (4 - first)
    moved = np.abs(np.diff(alphas, axis=0)).max(1)
    assert (moved[: first + 1] > 0).all()
    assert (moved[first + 1 :] == 0).all()
    assert len(set(history["weights_loss"])) == 5  # weights are still trained
    assert None not in history["eigenvalue"]  # sharpness is still estimated


RISING = {"stop": "eigenvalue", "window": 1, "ratio": 0.999}


def test_a_growing_eigenvalue_stops_the_alphas_at_their_earlier_values(workspace):
    freely, free = searched(epochs=6)
    sizes = np.abs(freely["eigenvalue"])
    first = next(e for e in range(1, 6) if sizes[e - 1] < 0.999 * sizes[e])
    history, alphas = searched(epochs=6, collapse=RISING)
    assert history["stopped"] == [0] * first + [1] * (6 - first)
    assert history["eigenvalue"][: first + 1] == freely["eigenvalue"][: first + 1]
    # row e holds the alphas after e epochs: equal up to the stop, then those of one epoch earlier
    assert np.array_equal(alphas[: first + 1], free[: first + 1])
    assert (alphas[first + 1 :] == free[first]).all()
    assert not np.array_equal(free[first + 1], free[first])


def test_epochs_with_resting_alphas_do_not_count(workspace):
    searcher = {"kind": "pc_darts", "portion": 2, "warm_up": 0.5}
    history, alphas = searched(searcher=searcher, epochs=4, collapse=RISING | {"window": 2})
    # after two epochs of warm-up, two more do not fill two windows
    assert history["stopped"] == [0] * 4
    assert history["alphas_lr"][:2] == [0, 0]
    assert np.array_equal(alphas[0], alphas[2])
    assert not np.array_equal(alphas[2], alphas[3])


LATE = {"kind": "pc_darts", "portion": 2, "warm_up": 0.1}


class Killed(Exception):
    """The end of a process."""


@pytest.mark.slow
@pytest.mark.parametrize(("searcher", "objective"), [(LATE, "plain"), ({"kind": "gdas"}, "bilateral")])
def test_a_repeatedly_killed_run_gives_the_same_bytes(workspace, searcher, objective, monkeypatch):
    by_stage = make(searcher=searcher, objective=objective, epochs=6, collapse=RISING)
    split.run(by_stage["split"])
    job = by_stage["search"]

    def run(steps: int | None) -> list[bytes]:
        """Run the search, killed repeatedly after so many steps; return its outputs."""
        left = [0]
        step = search.SearchTask.step

        def mortal(task, number):
            if steps is not None and left[0] == 0:
                raise Killed
            left[0] -= 1
            return step(task, number)

        monkeypatch.setattr("hlrs.training.loop.CHECKPOINT_SECONDS", 0.0)
        with monkeypatch.context() as patch:
            patch.setattr(search.SearchTask, "step", mortal)
            for _ in range(100):
                left[0] = steps or -1
                try:
                    search.run(job)
                    break
                except Killed:
                    continue
        job.checkpoint.unlink()
        return [job.output(name).read_bytes() for name in ("alphas.parquet", "history.parquet")]

    whole = run(None)
    assert 1 in found(by_stage)[0]["stopped"]
    assert run(3) == whole


def test_pc_darts_through_the_stages(workspace):
    searcher = {"kind": "pc_darts", "portion": 2, "warm_up": 0.4}
    by_stage = make(searcher=searcher, nodes=2, epochs=4, alphas={"lr": 0.1})
    for name, stage in (("split", split), ("search", search), ("extract", extract)):
        stage.run(by_stage[name])
    history, _ = found(by_stage)
    assert history["alphas_lr"] == pytest.approx([0, 0, 0.1, 0.1])  # t = 0, 1/4, 1/2, 3/4
    table = read_table(by_stage["search"].output("alphas.parquet"), "trajectory").to_pandas()
    by_edge = table.groupby(["epoch", "cell", "node", "input"]).edge_weight
    assert (by_edge.nunique() == 1).all()
    weights = by_edge.first()
    assert np.allclose(weights.groupby(["epoch", "cell", "node"]).sum(), 1, atol=1e-6)
    assert np.allclose(weights[0].groupby("node").mean(), [1 / 2, 1 / 3], atol=1e-6)
    assert np.array_equal(weights[0], weights[2])  # the warm-up
    assert not np.allclose(weights[0], weights[4], atol=1e-3)
    # the two strongest of node 1's three edges, by softmax weight times edge weight
    last = table[
        (table.epoch == 4) & (table.cell == "normal") & (table.node == 1) & (table.primitive != "none")
    ]
    strength = (last.weight * last.edge_weight).groupby(last.input).max()
    genotype = read_json(by_stage["extract"].output("genotype.json"))
    assert [state for _, state in genotype["normal"][1]] == strength.sort_values(ascending=False).index[
        :2
    ].tolist()


def test_pc_darts_of_second_order_and_without_betas(workspace):
    searcher = {"kind": "pc_darts", "portion": 2, "order": 2, "edge_normalization": False, "warm_up": 0.0}
    by_stage = make(searcher=searcher, epochs=2)
    split.run(by_stage["split"])
    search.run(by_stage["search"])
    history, alphas = found(by_stage)
    assert np.isfinite(history["alphas_loss"]).all()
    assert not np.array_equal(alphas[0], alphas[1])
    table = read_table(by_stage["search"].output("alphas.parquet"), "trajectory").to_pandas()
    assert (table.edge_weight == 1).all()


def test_a_portion_that_does_not_divide_the_channels_is_rejected():
    with pytest.raises(
        ValueError, match=r"methods\.m\.searcher\.portion\b.*\b4\b.*search\.channels\b.*\b2\b"
    ):
        make(searcher={"kind": "pc_darts"})


def test_alphas_that_would_never_learn_are_rejected():
    with pytest.raises(ValueError, match=r"arch_lr\.at 0\.3\b.*raise at\b.*lower warm_up\b"):
        make(searcher={"kind": "pc_darts", "portion": 2}, arch_lr={"kind": "freeze", "at": 0.3})
