"""SWAP's score: patterns counted on paper, and the networks' scores by counting sets of tuples."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hlrs.config.methods import Swap
from hlrs.nas.derived import DerivedNetwork
from hlrs.nas.genotype import PUBLISHED, nasbench201_from_string
from hlrs.nas.nasbench201 import NasBench201Network
from hlrs.nas.network import initialize
from hlrs.nas.ops import packed
from hlrs.nas.searchers.swap import count_patterns, patterns

CELL = "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_3x3~2|"


class TwoLayers(nn.Module):
    """h = relu(Wx), then relu(Vh): ReLUs as a module and as a function, one in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
        self.relu = nn.ReLU(inplace=True)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]]))
            self.second.weight.copy_(torch.tensor([[1.0, 0.0, -2.0], [1.0, 1.0, 1.0]]))

    def forward(self, images):
        return F.relu(self.second(self.relu(self.first(images))))


# Wx of the images a = (1, 2), b = (2, 1), c = (−1, 1), d = (−1, −2) for the units (x, y, x − y):
#   x     1  2 −1 −1   1100
#   y     2  1  1 −2   1110
#   x−y  −1  1 −2  1   0101
# h is a (1, 2, 0), b (2, 1, 1), c (0, 1, 0), d (0, 0, 1), hence for (h0 − 2 h2, h0 + h1 + h2):
#         1  0  0 −2   1000
#         3  4  1  1   1111
A, B, C, D = [1.0, 2.0], [2.0, 1.0], [-1.0, 1.0], [-1.0, -2.0]


@pytest.mark.parametrize(
    ("images", "score"),
    [
        ([A, B, C, D], 5),  # 1100, 1110, 0101, 1000, 1111
        ([D, C, B, A], 5),  # the same in another order
        ([A, B], 3),  # 11, 11, 01, 10, 11
        ([C, D], 4),  # 00, 10, 01, 00, 11
        ([A, A], 2),  # 11, 11, 00, 11, 11: of one image twice, all or none
        ([A], 2),
    ],
)
def test_patterns_of_two_layers_share_one_set(images, score):
    assert count_patterns(Swap(), TwoLayers(), torch.tensor(images)) == score


def test_a_pattern_has_a_bit_for_each_of_up_to_64_images():
    assert patterns(torch.tensor([[0.5, -1.0, 0.0], [2.0, 0.0, 1e-9]])).tolist() == [
        3,
        0,
        2,
    ]  # 0 is not above 0
    assert len(patterns(torch.eye(64)).unique()) == 64
    assert len(patterns(torch.cat([torch.eye(64), torch.eye(64)], 1)).unique()) == 64


def network(kind, **layout):
    layout = {"in_channels": 1, "classes": 3, "channels": 4, "cells": 3} | layout
    made = (
        NasBench201Network(nasbench201_from_string(CELL), **layout)
        if kind == "nasbench201"
        else DerivedNetwork(PUBLISHED["DARTS_V2"], **layout)
    )
    initialize(made, torch.Generator().manual_seed(1))
    return made


def recording(relu, found):
    def record(x):
        result = relu(x)
        found.update(map(tuple, (result > 0).flatten(1).T.tolist()))
        return result

    return record


def counted_as_tuples(made, images, monkeypatch):
    """The score by a set of tuples, from what torch's functions return."""
    found = set()
    with monkeypatch.context() as patched, torch.no_grad():
        for name in ("relu", "relu_"):
            patched.setattr(torch, name, recording(getattr(torch, name), found))
        made.train()(images)
    return len(found)


@pytest.mark.parametrize("kind", ["nasbench201", "darts"])
def test_a_networks_score_is_that_of_a_set_of_tuples_and_ignores_the_images_order(kind, monkeypatch):
    made, images = network(kind), torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    score = count_patterns(Swap(), made, images)
    assert 100 < score < 2**12  # neither constant nor saturated
    assert score == counted_as_tuples(made, images, monkeypatch)
    assert score == count_patterns(Swap(), made, images[[3, 0, 5, 4, 1, 2, 11, 7, 9, 8, 10, 6]])


def test_images_that_share_a_pixel_are_told_apart(monkeypatch):
    """Channels that are no multiple of 16 are packed: the score is that of maps of single images."""
    made = network("darts").double()
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    plain = count_patterns(Swap(), made, images)
    monkeypatch.setattr(packed, "LARGE", 0)
    assert packed.fitting(images, 4) == 4
    assert count_patterns(Swap(), made, images) == plain
