"""Slow weights against numbers worked out by hand."""

import pytest
import torch
from torch import nn

from hlrs.training.lookahead import Lookahead


def small():
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    network[0].weight.data.fill_(1.0)
    return network


def test_both_meet_every_five_steps_and_the_slow_ones_are_the_result():
    """w rises by 1 per step. d = 0.8 t³: after 5 of 12 steps w = 6, φ = 1; after 10, w has risen by 5."""
    network = small()
    weight, mean = network[0].weight, network[1].running_mean
    held = weight.data_ptr(), mean.data_ptr()
    lookahead = Lookahead(0.8, network, 12)
    seen = []
    for done in range(1, 13):
        weight.data += 1.0
        mean += 2.0
        lookahead.follow(done)
        seen.append(weight.item())
    first, second = 0.8 * (5 / 12) ** 3, 0.8 * (10 / 12) ** 3
    after5 = first * 1 + (1 - first) * 6
    after10 = second * after5 + (1 - second) * (after5 + 5)
    between = [after5 + 1, after5 + 2, after5 + 3, after5 + 4]
    assert seen == pytest.approx([2, 3, 4, 5, after5, *between, after10, after10 + 1, after10])
    assert mean.item() == pytest.approx(2 * (after10 - 1))  # the running mean began at 0
    assert (weight.data_ptr(), mean.data_ptr()) == held
    assert network[1].num_batches_tracked.item() == 0


def test_a_restored_state_continues_as_before():
    networks = [small(), small()]
    one, other = (Lookahead(0.5, network, 20) for network in networks)
    with torch.no_grad():
        networks[0][0].weight.fill_(3.0)
        one.follow(5)
        networks[0][0].weight.fill_(7.0)
        networks[1].load_state_dict(networks[0].state_dict())
    other.load({name: tensor.clone() for name, tensor in one.state().items()})
    for lookahead in (one, other):
        lookahead.follow(10)
    assert networks[0][0].weight.item() == networks[1][0].weight.item() != 7.0
