"""The network that is retrained and evaluated."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hlrs.artifacts.files import read_json
from hlrs.artifacts.tensors import read_tensors
from hlrs.config.base import Kinds
from hlrs.config.jobs import EvaluateJob, RetrainJob
from hlrs.config.recipes import Inherited
from hlrs.config.spaces import Space
from hlrs.errors import Failure
from hlrs.longtail.objectives import layout_of
from hlrs.nas.continuous import CONTINUOUS, inherit
from hlrs.nas.genotype import PARSERS, Genotype
from hlrs.nas.mixture import Mixture, decoded
from hlrs.nas.network import BranchedNetwork
from hlrs.nas.resnet import ResNet
from hlrs.nas.spaces import NETWORKS
from hlrs.stages.architectures import final_architecture

Inputs = Mapping[str, str]  # of a job


def read_genotype(path: Path, space: Space) -> Genotype:
    """Read a genotype of a space from JSON; UserError if it is not one."""
    return PARSERS[type(space)](read_json(path), str(path))


def build_network(
    params: RetrainJob | EvaluateJob, inputs: Inputs, stem: str, in_channels: int, classes: int
) -> BranchedNetwork:
    """Build the network to retrain: of a genotype, a ResNet, or what its search trained.

    The latter has the supernet's weights where these are an input; others have PyTorch's initialisation.
    `load_weights` and `load_trained` give them those of a retraining.
    """
    recipe, space = params.retrain, params.space
    layout: dict[str, Any] = {"in_channels": in_channels, "classes": classes, **layout_of(recipe.objective)}
    if params.resnet is not None:
        return ResNet(params.resnet, recipe.channels, **layout)
    layout |= {"channels": recipe.channels, "cells": recipe.cells, "stem": stem}
    if params.inherited is not None:
        return CONTINUED[type(params.inherited)](params.inherited, space, inputs, layout)
    if recipe.auxiliary_weight:
        layout["auxiliary"] = True
    return NETWORKS[type(space)](read_genotype(Path(inputs["genotype"]), space), **layout)


def load_weights(network: BranchedNetwork, weights: Mapping[str, Tensor], path: str) -> None:
    """Copy a retraining's weights, read from `path`, to a network, in place. Failure if they do not fit."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise Failure(f"{path}: does not fit the network ({str(error).splitlines()[0]})") from None


def load_trained(network: BranchedNetwork, path: str) -> None:
    """Copy the weights that another training wrote to a network, in place; what was added keeps its own."""
    own = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(network.added)}
    load_weights(network, own | read_tensors(Path(path))[0], path)


def inherited_network(
    inherited: Inherited, space: Space, inputs: Inputs, layout: Mapping[str, Any]
) -> BranchedNetwork:
    """Build the continuous network of a supernet, with its weights where these are an input."""
    mixture, shape = _mixture(space, inherited, inputs), dict(inherited)
    network = CONTINUOUS[type(space)](space, mixture, **shape, **layout)
    if "supernet" in inputs:
        inherit(network, read_tensors(Path(inputs["supernet"]))[0])
    return network


CONTINUED: Kinds[Callable[..., BranchedNetwork]] = {Inherited: inherited_network}


def _mixture(space: Space, inherited: Inherited, inputs: Inputs) -> Mixture:
    """Read the weights of operations and edges: the search's last ones, or those of the genotype."""
    if "genotype" in inputs:
        return decoded(space, inherited.nodes, read_genotype(Path(inputs["genotype"]), space))
    _, *by_cell = final_architecture(Path(inputs["alphas"]), space, "weight")
    operations, edges = (np.stack([values[kind] for kind in space.kinds]) for values in by_cell)
    return Mixture(torch.from_numpy(operations), torch.from_numpy(edges))
