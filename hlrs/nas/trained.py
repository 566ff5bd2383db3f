"""The network of a spec, as it was retrained."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hlrs.config.base import Kinds
from hlrs.config.networks import MixtureValues, NetworkSpec
from hlrs.config.recipes import Inherited
from hlrs.errors import Failure
from hlrs.nas.arithmetic import ARITHMETICS
from hlrs.nas.continuous import CONTINUOUS
from hlrs.nas.genotype import PARSERS
from hlrs.nas.mixture import Mixture
from hlrs.nas.network import BranchedNetwork
from hlrs.nas.resnet import ResNet
from hlrs.nas.spaces import NETWORKS

SHOWN = 200  # characters of what PyTorch says


def build(spec: NetworkSpec, name: str = "genotype") -> BranchedNetwork:
    """Build the network of a spec, with PyTorch's initialisation.

    UserError, naming the file `name`, if the genotype is none of the space.
    """
    network = _build(spec, name)
    if spec.arithmetic is not None:
        ARITHMETICS[type(spec.arithmetic)](network, spec.arithmetic)
    return network


def _build(spec: NetworkSpec, name: str) -> BranchedNetwork:
    layout: dict[str, Any] = {
        "in_channels": spec.in_channels,
        "classes": spec.classes,
        "branches": spec.branches,
        "branch_cells": spec.branch_cells,
        "head": spec.head,
        "dual": spec.dual,
    }
    if spec.resnet is not None:
        return ResNet(spec.resnet, spec.channels, **layout)
    layout |= {"channels": spec.channels, "cells": spec.cells, "stem": spec.stem}
    if spec.inherited is not None:
        return CONTINUED[type(spec.inherited)](spec, layout)
    if spec.auxiliary:
        layout["auxiliary"] = True
    return NETWORKS[type(spec.space)](PARSERS[type(spec.space)](spec.genotype, name), **layout)


def load_weights(network: BranchedNetwork, weights: Mapping[str, Tensor], path: str) -> None:
    """Copy a retraining's weights, read from `path`, to a network, in place. Failure if they do not fit."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        _, first, *_ = [*str(error).splitlines(), ""]
        raise Failure(f"{path}: does not fit the network ({first.strip()[:SHOWN]})") from None


def inherited_network(spec: NetworkSpec, layout: dict[str, Any]) -> BranchedNetwork:
    """Build the continuous network of a supernet."""
    assert spec.inherited is not None
    return CONTINUOUS[type(spec.space)](
        spec.space, mixture_of(spec.mixture), **dict(spec.inherited), **layout
    )


CONTINUED: Kinds[Callable[..., BranchedNetwork]] = {Inherited: inherited_network}


def mixture_of(values: MixtureValues | None) -> Mixture:
    """Return the mixture of its values."""
    assert values is not None
    operations, edges = (torch.tensor(of, device="cpu") for of in (values.operations, values.edges))
    return Mixture(operations, edges)
