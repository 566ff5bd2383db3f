"""Genotypes: DARTS's rule on constructed alphas, the JSON file, published cells."""

import copy
import json
import math
from collections import Counter

import numpy as np
import pytest

from hlrs.config.spaces import DartsSpace
from hlrs.errors import UserError
from hlrs.nas.genotype import PUBLISHED, derive_darts, edge_softmax, entropy, from_json
from hlrs.nas.relaxation import softmax
from tests.conftest import put
from tests.messages import says

NONE, MAX, AVG, SKIP, SEP3, SEP5, DIL3, DIL5 = range(8)


def alphas(nodes, *entries):
    """Zeros except for some (row, operation, value)."""
    table = np.zeros((sum(range(2, 2 + nodes)), 8), dtype=np.float32)
    for row, operation, value in entries:
        table[row, operation] = value
    return table


def derived(normal, reduce, normal_edges=None):
    """The genotype of alphas, with edge weights of 1 unless given."""
    edge_weights = {
        cell: np.ones(len(table), np.float32) for cell, table in (("normal", normal), ("reduce", reduce))
    }
    if normal_edges is not None:
        edge_weights["normal"] = np.array(normal_edges, np.float32)
    return derive_darts(DartsSpace(), {"normal": normal, "reduce": reduce}, edge_weights)


def normal_of(table, edge_weights=None):
    return derived(table, table, edge_weights).normal


# --- the rule -----------------------------------------------------------------------------------------


def test_edges_are_ordered_by_node_then_state():
    assert DartsSpace().edges(3) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (2, 3)]


def test_operations_match_the_paper_in_its_order():
    assert tuple(DartsSpace().primitives) == (
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    )


def test_two_strongest_edges_strongest_first():
    # node 0: rows 0, 1; node 1: rows 2 to 4, of which state 2 is the strongest and state 0 the weakest
    table = alphas(2, (0, SEP3, 1), (1, DIL5, 3), (2, MAX, 1), (3, SEP5, 2), (4, SKIP, 3))
    assert normal_of(table) == [
        [("dil_conv_5x5", 1), ("sep_conv_3x3", 0)],
        [("skip_connect", 2), ("sep_conv_5x5", 1)],
    ]


def test_normal_and_reduce_come_from_their_own_alphas():
    genotype = derived(alphas(1, (0, SEP3, 1)), alphas(1, (1, MAX, 1)))
    assert genotype.normal[0][0] == ("sep_conv_3x3", 0)
    assert genotype.reduce[0][0] == ("max_pool_3x3", 1)


def test_every_node_is_part_of_the_output():
    genotype = derived(alphas(3), alphas(3))
    assert genotype.normal_concat == genotype.reduce_concat == [2, 3, 4]


def test_none_is_never_chosen_even_if_it_is_the_largest():
    table = alphas(1, (0, NONE, 9), (0, AVG, 2), (1, NONE, 9), (1, DIL3, 1))
    assert normal_of(table) == [[("avg_pool_3x3", 0), ("dil_conv_3x3", 1)]]


def test_a_large_none_makes_its_edge_weak():
    # state 2's best alpha is the largest of the node, yet `none` takes nearly all of its softmax
    table = alphas(2, (2, SEP3, 1), (3, SEP3, 1), (4, SEP3, 2), (4, NONE, 6))
    assert normal_of(table)[1] == [("sep_conv_3x3", 0), ("sep_conv_3x3", 1)]


def test_strength_is_the_softmax_weight_not_the_alpha():
    # row 2 has the largest alphas, but spread over all operations; row 4 is peaked
    table = alphas(2, (4, SKIP, 3), (3, SEP5, 1))
    table[2] = 5.0
    assert normal_of(table)[1] == [("skip_connect", 2), ("sep_conv_5x5", 1)]


def test_ties_keep_the_lower_state_and_the_earlier_operation():
    assert normal_of(alphas(2)) == [
        [("max_pool_3x3", 0), ("max_pool_3x3", 1)],
        [("max_pool_3x3", 0), ("max_pool_3x3", 1)],
    ]
    assert normal_of(alphas(1, (1, SKIP, 1), (1, SEP5, 1), (0, SKIP, 1), (0, DIL5, 1))) == [
        [("skip_connect", 0), ("skip_connect", 1)]
    ]


def test_edge_weights_multiply_the_strength_but_do_not_choose_operations():
    # e³/(e³ + 7) = 0.742, e²/(e² + 7) = 0.514, e/(e + 7) = 0.280 are the best of node 1's edges
    table = alphas(2, (2, SEP3, 3), (3, SKIP, 2), (4, DIL5, 1))
    assert normal_of(table)[1] == [("sep_conv_3x3", 0), ("skip_connect", 1)]
    # 0.742 · 0.1 = 0.074, 0.514 · 0.3 = 0.154, 0.280 · 0.6 = 0.168
    assert normal_of(table, [0.5, 0.5, 0.1, 0.3, 0.6])[1] == [("dil_conv_5x5", 2), ("skip_connect", 1)]


def test_edge_weights_are_a_softmax_over_the_edges_to_a_node():
    # node 0 reads two states, node 1 three: 1:3 and 2:1:5
    betas = np.log(np.array([1, 3, 2, 1, 5], dtype=np.float32))
    assert edge_softmax(betas, 2).tolist() == pytest.approx([1 / 4, 3 / 4, 2 / 8, 1 / 8, 5 / 8])


def naive_darts(table, nodes):
    """The authors' rule in plain Python, with exponentials: the two best edges of each node."""
    cell, row = [], 0
    for node in range(nodes):
        ranked = []
        for state in range(node + 2):
            values = [math.exp(a) for a in table[row + state].tolist()]
            best = max(range(1, 8), key=lambda k: values[k])
            ranked.append((values[best] / sum(values), state, DartsSpace().primitives[best]))
        ranked.sort(key=lambda entry: -entry[0])
        cell.append([(operation, state) for _, state, operation in ranked[:2]])
        row += node + 2
    return cell


@pytest.mark.parametrize("seed", range(5))
def test_random_alphas_agree_with_the_plain_rule(seed):
    draw = np.random.default_rng(seed)
    table = draw.normal(size=(14, 8)).astype(np.float32)
    assert normal_of(table) == naive_darts(table, 4)


def test_random_alphas_give_operations_and_pairs_of_states_uniformly():
    draw = np.random.default_rng(7)
    operations, pairs = Counter(), Counter()
    cells = 1500
    for _ in range(cells):
        cell = normal_of(draw.normal(size=(9, 8)).astype(np.float32))
        operations.update(operation for node in cell for operation, _ in node)
        pairs[frozenset(state for _, state in cell[2])] += 1
    edges_drawn = cells * 6
    spread = 4.5 * math.sqrt(edges_drawn * (1 / 7) * (6 / 7))
    assert set(operations) == set(DartsSpace().primitives) - {"none"}
    assert all(abs(n - edges_drawn / 7) < spread for n in operations.values())
    assert len(pairs) == 6  # two of the four states that node 2 may read
    assert all(abs(n - cells / 6) < 4.5 * math.sqrt(cells * (1 / 6) * (5 / 6)) for n in pairs.values())


# --- entropy and skips --------------------------------------------------------------------------------


def test_entropy_of_equal_alphas_is_ln_8():
    assert entropy(softmax(alphas(4))) == pytest.approx(2.0794415417, abs=1e-9)


def test_entropy_is_the_mean_over_edges():
    certain = alphas(1, (0, SEP3, 200))  # one edge certain, one undecided
    assert entropy(softmax(certain)) == pytest.approx(2.0794415417 / 2, abs=1e-9)


def test_entropy_by_hand():
    table = np.full((1, 8), -1000, dtype=np.float32)
    table[0, :2] = [0, math.log(3)]  # 1/4 and 3/4
    assert entropy(softmax(table)) == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3), abs=1e-6)


def test_softmax_of_large_alphas_does_not_overflow():
    large_and_small = np.array([[1000.0, 1000.0], [0.0, 0.0]], dtype=np.float32)
    assert softmax(large_and_small).tolist() == [[0.5, 0.5]] * 2


def test_skips_are_counted_per_cell():
    assert (PUBLISHED["DARTS_V1"].skips("normal"), PUBLISHED["DARTS_V1"].skips("reduce")) == (3, 3)
    assert (PUBLISHED["PC_DARTS"].skips("normal"), PUBLISHED["PC_DARTS"].skips("reduce")) == (1, 0)


# --- published cells ----------------------------------------------------------------------------------


BRIEF = {"max": "max_pool_3x3", "avg": "avg_pool_3x3", "skip": "skip_connect", "s3": "sep_conv_3x3",
         "s5": "sep_conv_5x5", "d3": "dil_conv_3x3", "d5": "dil_conv_5x5"}  # fmt: skip
AUTHORS = {  # normal and reduction cell, node by node, from the genotypes.py of the authors' repositories
    "DARTS_V1": (  # Liu et al. 2019, figures 4 and 5 show V2
        "s3 1 s3 0 | skip 0 s3 1 | skip 0 s3 1 | s3 0 skip 2",
        "max 0 max 1 | skip 2 max 0 | max 0 skip 2 | skip 2 avg 0",
    ),
    "DARTS_V2": (
        "s3 0 s3 1 | s3 0 s3 1 | s3 1 skip 0 | skip 0 d3 2",
        "max 0 max 1 | skip 2 max 1 | max 0 skip 2 | skip 2 max 1",
    ),
    "PC_DARTS": (
        "s3 1 skip 0 | s3 0 d3 1 | s5 0 s3 1 | avg 0 d3 1",
        "s5 1 max 0 | s5 1 s5 2 | s3 0 s3 3 | s3 1 s3 2",
    ),
    "PDARTS": (
        "skip 0 d3 1 | skip 0 s3 1 | s3 1 s3 3 | s3 0 d5 4",
        "avg 0 s5 1 | s3 0 d5 2 | max 0 d3 1 | d3 1 d5 3",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_genotypes_are_those_of_the_authors(name):
    def nodes(cell):
        words = [node.split() for node in cell.split("|")]
        return [[(BRIEF[a], int(b)), (BRIEF[c], int(d))] for a, b, c, d in words]

    normal, reduce = map(nodes, AUTHORS[name])
    assert (PUBLISHED[name].normal, PUBLISHED[name].reduce) == (normal, reduce)
    assert PUBLISHED[name].normal_concat == PUBLISHED[name].reduce_concat == [2, 3, 4, 5]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_genotypes_round_trip(name):
    text = json.dumps(PUBLISHED[name].to_json())
    assert from_json(json.loads(text), "genotype.json") == PUBLISHED[name]


def test_json_is_plain_lists():
    assert derived(alphas(1), alphas(1)).to_json() == {
        "normal": [[["max_pool_3x3", 0], ["max_pool_3x3", 1]]],
        "normal_concat": [2],
        "reduce": [[["max_pool_3x3", 0], ["max_pool_3x3", 1]]],
        "reduce_concat": [2],
    }


# --- invalid files ------------------------------------------------------------------------------------

GOOD = {
    "normal": [[["sep_conv_3x3", 0], ["skip_connect", 1]], [["max_pool_3x3", 2]]],
    "normal_concat": [2, 3],
    "reduce": [[["sep_conv_3x3", 0], ["skip_connect", 1]], [["max_pool_3x3", 2]]],
    "reduce_concat": [2, 3],
}


def changed(*path_and_value):
    """GOOD with one entry replaced."""
    *path, value = path_and_value
    tree = copy.deepcopy(GOOD)
    put(tree, path, value)
    return tree


def without(key):
    return {name: value for name, value in GOOD.items() if name != key}


KEYS = "normal, normal_concat, reduce, reduce_concat"
WRONG = [  # (value, what the message names ...)
    ([], KEYS),
    (None, KEYS),
    (without("reduce_concat"), KEYS),
    ({**GOOD, "extra": 1}, KEYS),
    (changed("normal", []), "normal", "list"),
    (changed("reduce", "sep_conv_3x3"), "reduce", "list"),
    (changed("normal", 1, []), "normal: node 1", "edges"),
    (changed("reduce", 0, [["skip_connect", 0]] * 3), "reduce: node 0", "edges"),
    (changed("reduce", 0, "skip_connect"), "reduce: node 0", "edges"),
    (changed("normal", 0, 1, "skip_connect"), "normal: node 0", "'skip_connect'", "edge"),
    (changed("normal", 0, 1, ["skip_connect"]), "normal: node 0", "['skip_connect']", "edge"),
    (changed("normal", 0, 1, 0, "none"), "normal: node 0", "'none'", "max_pool_3x3"),
    (changed("reduce", 1, 0, 0, "conv_7x7"), "reduce: node 1", "'conv_7x7'", "max_pool_3x3"),
    (changed("reduce", 1, 0, 0, ["sep_conv_3x3"]), "reduce: node 1", "['sep_conv_3x3']"),
    (changed("normal", 0, 1, 1, 2), "normal: node 0", "2", "0 to 1"),
    (changed("normal", 1, 0, 1, 3), "normal: node 1", "3", "0 to 2"),
    (changed("normal", 1, 0, 1, -1), "normal: node 1", "-1", "0 to 2"),
    (changed("normal", 1, 0, 1, "0"), "normal: node 1", "'0'", "0 to 2"),
    (changed("normal", 1, 0, 1, 1.0), "normal: node 1", "1.0", "0 to 2"),
    (changed("normal", 1, 0, 1, True), "normal: node 1", "True", "0 to 2"),
    (changed("normal_concat", []), "normal_concat", "2 to 3"),
    (changed("normal_concat", [1, 2]), "normal_concat", "2 to 3"),
    (changed("reduce_concat", [2, 4]), "reduce_concat", "2 to 3"),
    (changed("reduce_concat", [2, 2]), "reduce_concat", "2 to 3"),
    (changed("reduce_concat", "23"), "reduce_concat", "2 to 3"),
    (changed("reduce_concat", [2]), "normal", "reduce", "same number"),
    ({**GOOD, "reduce": GOOD["reduce"][:1], "reduce_concat": [2]}, "normal", "reduce", "same number"),
    (  # as many outputs, but not as many nodes
        {**GOOD, "reduce": GOOD["reduce"][:1], "reduce_concat": [2], "normal_concat": [3]},
        *("normal", "reduce", "same number"),
    ),
]


def test_a_valid_genotype_is_accepted():
    assert from_json(GOOD, "g.json").normal == [
        [("sep_conv_3x3", 0), ("skip_connect", 1)],
        [("max_pool_3x3", 2)],
    ]


@pytest.mark.parametrize("case", WRONG, ids=[f"{i} {fact}" for i, (_, fact, *_) in enumerate(WRONG)])
def test_an_invalid_genotype_is_located_in_one_line(case):
    value, *facts = case
    with pytest.raises(UserError) as caught:
        from_json(value, "path/g.json")
    assert str(caught.value).startswith("path/g.json: ")
    says(str(caught.value), *facts)
