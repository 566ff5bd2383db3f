"""DARTS-PT: what each decision keeps, given accuracies worked out by hand, and the search that it ends."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hlrs.artifacts.files import read_json
from hlrs.artifacts.tables import read_table
from hlrs.config.jobs import SearchJob
from hlrs.config.methods import DartsPt
from hlrs.config.params import Params
from hlrs.config.spaces import DartsSpace, NasBench201Space
from hlrs.nas import genotype, selection
from hlrs.nas.relaxation import softmax
from hlrs.nas.searchers.perturbation import PerturbationSearcher
from hlrs.pipeline.plan import plan
from hlrs.stages import extract, search, split
from tests.conftest import TINY
from tests.nas.test_supernet import plain_cell, relative, small_supernet
from tests.tasks import search_task
from tests.training.test_cuda_graphs import trained

# Two nodes: edges 0 and 1 lead to node 0, edges 2, 3 and 4 to node 1. The accuracy of the made-up supernet is
# the sum of operation weight × value: masking an operation costs value/8, a decided edge its whole value.
# Columns: none, max, avg, skip, sep 3×3, sep 5×5, dil 3×3, dil 5×5; `none` would cost most, but is no choice.
VALUES = torch.tensor(
    [
        [9.0, 1, 2, 3, 4, 5, 6, 7],  # dil 5×5
        [9.0, 3, 8, 1, 1, 1, 1, 8],  # avg before dil 5×5: a tie
        [9.0, 6, 1, 1, 1, 1, 1, 1],  # max, which costs 6 in the end
        [9.0, 1, 1, 2, 1, 1, 1, 1],  # skip, 2: the least, so the edge that node 1 loses
        [9.0, -1, -1, -1, 3, -1, -1, -1],  # sep 3×3, 3
    ]
)
CHOSEN, LOST, SPACE = [7, 2, 1, 3, 4], 3, DartsSpace()


class Supernet:
    """Accuracies by VALUES, of one kind of cell or of two alike, and what was asked for."""

    def __init__(self, kinds=1):
        self.searcher, self.asked = PerturbationSearcher(DartsPt()), []
        self.searcher.draw((kinds, 5, 8), torch.Generator(), 0, 1)

    def accuracy(self, masks):
        self.asked.append(masks.clone())
        scale, shift = masks.unbind(1)
        return float(((scale / 8 + shift) * VALUES).sum())

    def decide(self, *rounds, seed=0):
        for number in rounds:
            draw = torch.Generator().manual_seed(seed)
            self.searcher.decide(number, SPACE, 2, draw, self.accuracy)
        return self.searcher.masks


def test_each_edge_keeps_the_operation_that_costs_most_and_each_node_its_two_such_edges():
    masks = Supernet(kinds=2).decide(*range(6))
    expected = F.one_hot(torch.tensor(CHOSEN), 8).float()
    expected[LOST] = 0
    for scale, shift in masks:
        assert not scale.any()
        assert torch.equal(shift, expected)


def test_edges_come_in_random_order_each_once_before_the_nodes():
    orders = []
    for seed in (0, 1):
        made = Supernet()
        seen = []
        for number in range(5):
            before = made.searcher.masks
            changed = (made.decide(number, seed=seed) != before)[0, 1].any(-1)
            seen += changed.nonzero().flatten().tolist()
        assert sorted(seen) == list(range(5))
        orders.append(seen)
    assert orders[0] != orders[1]
    assert len(made.asked) == 5 * 7  # candidates: all operations but `none`
    made.decide(5)
    assert len(made.asked) == 5 * 7 + 3  # node 1's edges


def test_a_candidate_is_masked_alone_and_the_other_weights_stay():
    made = Supernet()
    made.decide(0)
    untouched = torch.stack([torch.ones(5, 8), torch.zeros(5, 8)])
    [edge] = made.searcher.masks[0, 1].any(-1).nonzero().flatten().tolist()
    for operation, masks in enumerate(made.asked, 1):
        found = (masks[0] != untouched).nonzero().tolist()
        assert found == [[0, edge, operation]]
    alphas = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    masked = made.searcher.operation_weights(alphas, made.asked[2][0])
    expected = alphas.softmax(-1)
    expected[edge, 3] = 0  # not renormalised
    assert torch.equal(masked, expected)


def test_later_decisions_are_taken_among_the_earlier_ones():
    made = Supernet()
    decided = made.decide(0, 1, 2)
    made.asked.clear()
    made.decide(3)
    kept = decided[0, 1].any(-1)
    assert int(kept.sum()) == 3
    for masks in made.asked:
        assert torch.equal(masks[0][:, kept], decided[0][:, kept])


def test_before_any_decision_weights_are_those_of_darts_to_the_bit():
    made = Supernet()
    alphas = torch.randn(5, 8, generator=torch.Generator().manual_seed(2))
    assert torch.equal(made.searcher.operation_weights(alphas, made.searcher.masks[0]), alphas.softmax(-1))


@pytest.mark.parametrize("seed", range(5))
def test_the_derived_genotype_is_the_decided_one(seed):
    draw, nodes = torch.Generator().manual_seed(seed), 3
    searcher = PerturbationSearcher(DartsPt())
    searcher.draw((2, 9, 8), draw, 0, 1)
    rounds = 9 + 2
    for number in range(rounds):
        order = torch.Generator().manual_seed(seed)
        searcher.decide(number, SPACE, nodes, order, lambda _: float(torch.rand((), generator=draw)))
    trained_far = {f"alphas.{kind}": 100 * torch.randn(9, 8, generator=draw) for kind in ("normal", "reduce")}
    searcher.settle(SPACE, trained_far)
    alphas = {kind: trained_far[f"alphas.{kind}"].numpy() for kind in ("normal", "reduce")}
    found = genotype.derive_darts(SPACE, alphas, dict.fromkeys(alphas, np.ones(9, dtype=np.float32)))
    for kind, (scale, shift) in zip(("normal", "reduce"), searcher.masks, strict=True):
        cell = [[] for _ in range(nodes)]
        for row, (node, state) in enumerate(SPACE.edges(nodes)):
            if shift[row].any():
                cell[node].append((SPACE.primitives[int(shift[row].argmax())], state))
                assert softmax(alphas[kind])[row].tolist() == shift[row].tolist()  # in double
            else:
                assert softmax(alphas[kind])[row].tolist() == [1] + [0] * 7  # `none`
        assert getattr(found, kind) == cell
        assert [len(node) for node in cell] == [2, 2, 2]
        assert not scale.any()


def test_a_cell_of_nasbench201_keeps_all_edges_and_may_choose_none():
    """Masking costs value/5 of an undecided edge: the largest value of each row is kept, `none` included."""
    values = torch.tensor([[9.0, 1, 2, 3, 4], [1, 9, 2, 3, 4], [0, 1, 2, 3, 4]])  # of three edges: 3 nodes
    space, searcher = NasBench201Space(), PerturbationSearcher(DartsPt())
    searcher.draw((1, 3, 5), torch.Generator(), 0, 1)

    def accuracy(masks):
        scale, shift = masks[0]
        return float(((scale / 5 + shift) * values).sum())

    for number in range(3):
        searcher.decide(number, space, 3, torch.Generator().manual_seed(0), accuracy)
    assert searcher.masks[0, 1].argmax(-1).tolist() == [0, 1, 4]
    alphas = {"alphas.normal": torch.randn(3, 5, generator=torch.Generator().manual_seed(1))}
    searcher.settle(space, alphas)
    ones = {"normal": np.ones(3, dtype=np.float32)}
    found = genotype.derive_nasbench201(space, {"normal": alphas["alphas.normal"].numpy()}, ones)
    assert str(found) == "|none~0|+|skip_connect~0|avg_pool_3x3~1|"


def test_alphas_of_undecided_edges_stay():
    made = Supernet()
    [decided] = made.decide(0)[0, 1].any(-1).nonzero().flatten().tolist()
    alphas = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))
    before = alphas.clone()
    made.searcher.settle(SPACE, {"alphas.normal": alphas})
    assert [row for row in range(5) if not torch.equal(alphas[row], before[row])] == [decided]


def test_a_decided_supernet_computes_the_derived_cells():
    searcher = PerturbationSearcher(DartsPt())
    supernet = small_supernet(2, torch.float64, searcher=searcher)
    searcher.draw(supernet.shape, torch.Generator(), 0, 1)
    for number in range(6):
        searcher.decide(number, SPACE, 2, torch.Generator().manual_seed(0), Supernet().accuracy)
    supernet.drawn = searcher.masks.double()
    derived = F.one_hot(torch.tensor(CHOSEN), 8).double()
    derived[LOST] = 0
    images = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    states = supernet.stem(images)
    for cell in supernet.shared:
        states = states[1], plain_cell(cell, *(F.relu(state) for state in states), derived)
    logits = supernet.classifier(states[1].mean((2, 3)))
    assert relative(supernet(images), logits) < 1e-10
    gradients = torch.autograd.grad(supernet(images).sum(), supernet.alphas.values())
    assert not any(gradient.any() for gradient in gradients)  # nothing is left to learn for the alphas


# --- in a search --------------------------------------------------------------------------------------


def jobs_of(kind, epochs=2, nodes=2, **options):
    """The jobs of one search of cells with two nodes, by stage."""
    params = copy.deepcopy(TINY)
    params["matrix"]["methods"], params["report"] = ["m"], {}
    params["methods"] = {"m": {"searcher": {"kind": kind} | options}}
    params["datasets"]["digits"]["max_per_class"] = 20
    params["search"] |= {"channels": 4, "epochs": epochs, "nodes": nodes}
    return {job.stage: job for job in plan(Params.model_validate(params))}


def task_of(kind, **options):
    by_stage = jobs_of(kind, **options)
    split.run(by_stage["split"])
    return search_task(by_stage["search"])


@pytest.mark.parametrize(
    ("nodes", "tune", "epochs", "passes"),
    [
        (1, 10, 50 + 10, 2 * 2 * 7),  # 2 edges
        (2, 0, 50, 2 * (5 * 7 + 3)),  # 5 edges and a node of 3, at once
        (4, 10, 50 + 160, 2 * (14 * 7 + 3 + 4 + 5)),  # 14 edges, 3 nodes: the authors' 16 intervals
    ],
)
def test_tuning_lies_between_rounds(workspace, nodes, tune, epochs, passes):
    params = SearchJob.model_validate(jobs_of("darts_pt", 50, nodes, tune=tune)["search"].params)
    assert selection.epochs(params) == epochs
    assert selection.passes(params) == passes
    after = [[*selection.rounds_after(params, epoch)] for epoch in range(epochs)]
    assert after[:49] == [[]] * 49
    rounds = [number for numbers in after for number in numbers]
    assert rounds == [*range(len(rounds))]
    taken = [epoch for epoch, numbers in enumerate(after) if numbers]
    assert taken == ([49] if tune == 0 else [*range(49, epochs, tune)])
    assert selection.progress(params, epochs - 1) == 49 / 50


def test_a_search_without_decisions_has_no_such_epochs(workspace):
    params = SearchJob.model_validate(jobs_of("darts", 3)["search"].params)
    assert (selection.epochs(params), selection.passes(params)) == (3, 0)
    assert [*selection.rounds_after(params, 2)] == []


def test_the_training_before_the_first_decision_is_that_of_darts(workspace):
    tasks = [task_of(kind, epochs=3, nodes=1) for kind in ("darts", "darts_pt")]
    (seen, state), (seen_pt, state_pt) = (trained(task, epochs=[0, 1]) for task in tasks)
    assert seen == seen_pt
    assert {name for name in state_pt if name not in state} == {"searcher.masks"}
    assert all(torch.equal(state[name], state_pt[name]) for name in state)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["darts_pt", "blank_pt"])
def test_a_search_ends_with_the_genotype_that_it_decided(workspace, monkeypatch, kind):
    by_stage = jobs_of(kind, tune=1)
    split.run(by_stage["split"])
    tasks, asked = [], []
    make, measure = search._make_task, search.SearchTask._accuracy

    def counted(task, assess, *weights):
        asked.append((task.epoch, assess.__name__))
        return measure(task, assess, *weights)

    monkeypatch.setattr(search, "_make_task", lambda *args: tasks.append(make(*args)) or tasks[-1])
    monkeypatch.setattr(search.SearchTask, "_accuracy", counted)
    search.run(by_stage["search"])
    history = read_table(by_stage["search"].output("history.parquet"), "search_history").to_pydict()
    assert history["epoch"] == [*range(2 + 5)]  # 6 rounds
    assert history["progress"] == [0.0] + [0.5] * 6
    assert history["weights_lr"] == pytest.approx([0.025, 0.013] + [0.0025] * 5)
    assert [asked.count((epoch, "_assess")) for epoch in range(7)] == [0, 14, 14, 14, 14, 14, 6 + 1]
    assert [asked.count((epoch, "_assess_mixture")) for epoch in range(7)] == [0] * 6 + [1]
    assert history["supernet_accuracy"] == history["decoded_accuracy"]  # all is decided
    assert history["eigenvalue"][2:] == [None] * 5
    steps_alphas = kind == "darts_pt"
    assert history["alphas_lr"] == [0.01 if steps_alphas else 0.0] * 7
    assert [loss is not None for loss in history["alphas_loss"]] == [steps_alphas] * 7
    recorded = tasks[0].trajectory.architectures
    for name in recorded[0]:
        moved = [(recorded[epoch + 1][name] != recorded[epoch][name]).any(1).sum() for epoch in range(7)]
        # an edge is decided after each epoch from the second to the sixth; node 1 loses one after the last
        expected = [5, 5, 4, 3, 2, 1, 1] if steps_alphas else [0, 1, 1, 1, 1, 1, 1]
        assert moved == expected, name
    extract.run(by_stage["extract"])
    found = genotype.from_json(read_json(by_stage["extract"].output("genotype.json")), "genotype.json")
    for kind_of_cell, (scale, shift) in zip(("normal", "reduce"), tasks[0].searcher.masks, strict=True):
        assert not scale.any()
        assert int(shift.sum()) == 4
        cell = [[], []]
        for row in shift.any(-1).nonzero().flatten().tolist():
            node, state = SPACE.edges(2)[row]
            cell[node].append((SPACE.primitives[int(shift[row].argmax())], state))
        assert getattr(found, kind_of_cell) == cell


def test_the_accuracy_is_that_of_whole_batches_of_the_alphas_images_without_augmentation(workspace):
    task = task_of("darts_pt", epochs=1)
    task.begin(0)
    task.step(0)
    masks = task.searcher.masks.clone()
    masks[0, 0, 2, 4] = 0
    found = task._accuracy(task._assess, masks)
    assert task._accuracy(task._assess, masks) == found
    positions = torch.cat([request.positions for [request] in task.evaluation.requests])
    alphas = set(task.validation.positions.tolist())
    assert len(positions) == len(set(positions.tolist())) == len(alphas) // 16 * 16
    assert set(positions.tolist()) <= alphas
    hits = 0
    for part in positions.split(16):
        images = task.evaluation.images.normalize(task.evaluation.images.images[part])
        task.supernet.drawn = masks
        hits += int((task.supernet(images).argmax(1) == task.evaluation.images.labels[part]).sum())
    assert found == pytest.approx(hits / len(positions))
    assert not any(parameter.grad_fn for parameter in task.supernet.parameters())


def test_the_tuning_trains_the_supernet_as_decided(workspace):
    task = task_of("darts_pt", epochs=1, tune=1)
    trained(task, epochs=[0])
    decided = task.searcher.masks.clone()
    assert int(decided[:, 0].any(-1).sum()) == 2 * 5 - 2
    task.begin(1)
    task.step(0)
    assert torch.equal(task.supernet.drawn, decided)


def test_a_search_continues_from_a_state_between_decisions_to_the_bit(workspace):
    whole = task_of("darts_pt", nodes=1, tune=2)
    trained(whole, epochs=range(3))  # in the middle of the tuning after the first of two decisions
    state = {name: tensor.clone() for name, tensor in whole.state().items()}
    resumed = task_of("darts_pt", nodes=1, tune=2)
    resumed.load(state)
    rest = range(3, whole.epochs)
    (seen, end), (seen_again, end_again) = (trained(task, epochs=rest) for task in (whole, resumed))
    assert seen == seen_again
    assert all(torch.equal(end[name], end_again[name]) for name in end)
    assert not end["searcher.masks"][:, 0].any()
