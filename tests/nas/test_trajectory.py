"""A search's architectures, recorded, replaced, rolled back and restored, worked out by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from hlrs.config.methods import Softmax, Sparsemax
from hlrs.config.spaces import NasBench201Space
from hlrs.nas.trajectory import Trajectory, rows


def make_parameters():
    return {"alphas.normal": nn.Parameter(torch.zeros(2, 3)), "betas.normal": nn.Parameter(torch.zeros(2))}


def fill(parameters, value):
    """Give the alphas a value, the betas its negative."""
    for name, sign in (("alphas.normal", 1), ("betas.normal", -1)):
        parameters[name].data.fill_(sign * value)


def values(trajectory):
    """The value of the alphas after each epoch, with the betas' sign checked."""
    found = [float(own["alphas.normal"].mean()) for own in trajectory.architectures]
    assert [float(own["betas.normal"].mean()) for own in trajectory.architectures] == [-v for v in found]
    return found


def recorded(*epochs):
    """A supernet's parameters, and their trajectory over epochs that end with these values."""
    parameters = make_parameters()
    trajectory = Trajectory(parameters)
    for value in epochs:
        fill(parameters, value)
        trajectory.record()
    return parameters, trajectory


def test_rolling_back_changes_the_last_architecture_and_the_supernets():
    parameters, trajectory = recorded(1.0, 2.0, 3.0)
    trajectory.roll_back(0)
    assert values(trajectory) == [0, 1, 2, 3]
    trajectory.roll_back(2)
    assert values(trajectory) == [0, 1, 2, 1]
    assert parameters["alphas.normal"].unique().tolist() == [1]
    assert parameters["betas.normal"].unique().tolist() == [-1]
    fill(parameters, 7.0)  # what was recorded stays
    assert values(trajectory) == [0, 1, 2, 1]


def test_a_revision_replaces_the_last_architecture_alone():
    parameters, trajectory = recorded(1.0, 2.0)
    fill(parameters, 5.0)
    trajectory.revise()
    assert values(trajectory) == [0, 1, 5]


def test_a_restored_trajectory_continues_as_before():
    _, trajectory = recorded(1.0, 2.0)
    parameters, other = recorded()
    other.load(trajectory.state())
    assert values(other) == [0, 1, 2]
    fill(parameters, 3.0)
    other.record()
    assert values(other) == [0, 1, 2, 3]
    assert [own["alphas.normal"].shape for own in other.architectures] == [(2, 3)] * 4


def test_the_rows_of_alphas_have_each_epochs_own_weights():
    """One edge, alphas 0 and 1/4: sparsemax is (1 ± d)/2, d = 1/4 at θ = 1, then 1/2 at θ = 1/2."""
    space = NasBench201Space(primitives=["skip_connect", "avg_pool_3x3"])
    alphas = {"alphas.normal": np.array([[0.0, 0.25]], dtype=np.float32)}
    annealed = Sparsemax(temperature=1.0, factor=0.5, every=0.5)
    found = [*rows(space, 2, [alphas] * 3, annealed)]  # before, between and after two epochs
    assert [row[:5] for row in found[2:4]] == [
        (1, "normal", 0, 0, "skip_connect"),
        (1, "normal", 0, 0, "avg_pool_3x3"),
    ]
    assert [float(row[5]) for row in found] == [0, 0.25] * 3
    assert [float(row[6]) for row in found] == pytest.approx([0.375, 0.625] * 2 + [0.25, 0.75])
    assert [float(row[7]) for row in found] == [1] * 6  # without betas
    [one, other] = rows(space, 2, [alphas], Softmax())
    assert float(other[6] / one[6]) == pytest.approx(np.exp(0.25))
