"""A search's architectures, recorded, replaced, rolled back and restored, worked out by hand."""

import torch
from torch import nn

from hlrs.nas.trajectory import Trajectory


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
