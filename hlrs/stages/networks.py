"""The network that is retrained and evaluated."""

from pathlib import Path
from typing import Any

from hlrs.artifacts.files import read_json
from hlrs.config.recipes import Retrain
from hlrs.config.spaces import Space
from hlrs.longtail.objectives import layout_of
from hlrs.nas.genotype import PARSERS, Genotype
from hlrs.nas.network import BranchedNetwork
from hlrs.nas.resnet import ResNet
from hlrs.nas.spaces import NETWORKS


def read_genotype(path: Path, space: Space) -> Genotype:
    """Read a genotype of a space from JSON; UserError if it is not one."""
    return PARSERS[type(space)](read_json(path), str(path))


def derived_network(
    genotype: str | None,
    space: Space,
    resnet: int | None,
    recipe: Retrain,
    stem: str,
    in_channels: int,
    classes: int,
) -> BranchedNetwork:
    """Build the network to retrain, of the genotype in a file or a ResNet of depth `resnet`.

    Its weights have PyTorch's initialisation.
    """
    layout: dict[str, Any] = {"in_channels": in_channels, "classes": classes, **layout_of(recipe.objective)}
    if resnet is not None:
        return ResNet(resnet, **layout)
    assert genotype is not None  # hlrs.pipeline.plan gives one or the other
    if recipe.auxiliary_weight:
        layout["auxiliary"] = True
    layout |= {"channels": recipe.channels, "cells": recipe.cells, "stem": stem}
    return NETWORKS[type(space)](read_genotype(Path(genotype), space), **layout)
