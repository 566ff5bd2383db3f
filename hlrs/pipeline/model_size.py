"""Count weights and multiply-adds of networks without running them."""

from pathlib import Path
from typing import Any

import torch

from hlrs.artifacts.files import read_json
from hlrs.config.methods import Darts
from hlrs.errors import UserError
from hlrs.nas.derived import DerivedNetwork
from hlrs.nas.genotype import PUBLISHED, from_json
from hlrs.nas.network import BranchedNetwork, count_multiply_adds, count_weights
from hlrs.nas.resnet import ResNet
from hlrs.nas.searchers.darts import DartsSearcher
from hlrs.nas.supernet import Supernet

RESNETS = {f"resnet{depth}": depth for depth in (20, 32, 44, 56, 110)}


def describe(
    network: str,
    *,
    channels: int | None,
    cells: int | None,
    nodes: int,
    classes: int,
    image_size: int,
    in_channels: int,
    auxiliary: bool,
    stem: str = "cifar",
) -> dict[str, Any]:
    """Count the weights and multiply-adds of a published genotype, genotype JSON, ResNet or `supernet`.

    Raises UserError for any other name, and for an option that the network does not have.
    """
    supernet, resnet = network == "supernet", RESNETS.get(network)
    layout: dict[str, Any] = {"in_channels": in_channels, "classes": classes}
    if resnet is None:
        channels, cells = channels or (16 if supernet else 36), cells or (8 if supernet else 20)
        if channels % 2:
            raise UserError(f"--channels: {channels} is odd; a factorized reduction halves it")
        layout |= {"channels": channels, "cells": cells, "stem": stem}
    elif channels or cells or stem != "cifar":
        raise UserError(
            f"{network} has its own channels, blocks and stem: omit --channels, --cells and --stem"
        )
    if auxiliary and (supernet or resnet):
        raise UserError(f"--auxiliary: a {network.rstrip('0123456789')} has no auxiliary head")
    with torch.device("meta"):
        model: BranchedNetwork
        if resnet is not None:
            model = ResNet(resnet, **layout)
        elif supernet:
            model = Supernet(DartsSearcher(Darts()), nodes=nodes, **layout)
        else:
            model = DerivedNetwork(_genotype(network), auxiliary=auxiliary, **layout)
        facts = {
            "network": network,
            **layout,
            "image_size": image_size,
            "weights": count_weights(model),
            "multiply_adds": count_multiply_adds(model.eval(), in_channels, image_size),
        }
    if auxiliary:
        facts["auxiliary_weights"] = sum(
            p.numel() for n, p in model.named_parameters() if n.startswith("auxiliary")
        )
    return facts


def _genotype(name: str) -> Any:
    if name in PUBLISHED:
        return PUBLISHED[name]
    if not Path(name).exists():
        known = ", ".join([*PUBLISHED, "supernet", *RESNETS])
        raise UserError(f"{name}: neither a file nor a published network; choose from: {known}")
    return from_json(read_json(Path(name)), name)
