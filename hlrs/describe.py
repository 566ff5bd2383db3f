"""Sizes of networks: weights and multiply-adds, without running them."""

from pathlib import Path
from typing import Any

import torch

from hlrs.artifacts import read_json
from hlrs.errors import UserError
from hlrs.nas.derived import DerivedNetwork
from hlrs.nas.genotype import PUBLISHED, from_json
from hlrs.nas.network import CellNetwork, count_multiply_adds, count_weights
from hlrs.nas.supernet import Supernet


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
) -> dict[str, Any]:
    """Weights and multiply-adds of a published genotype, a genotype JSON or `supernet`.

    Raises UserError for another name.
    """
    supernet = network == "supernet"
    if supernet and auxiliary:
        raise UserError("--auxiliary: a supernet has no auxiliary head")
    channels, cells = channels or (16 if supernet else 36), cells or (8 if supernet else 20)
    if channels % 2:
        raise UserError(f"--channels: {channels} is odd; a factorized reduction halves it")
    layout: dict[str, Any] = {
        "in_channels": in_channels,
        "classes": classes,
        "channels": channels,
        "cells": cells,
    }
    with torch.device("meta"):
        model: CellNetwork
        if supernet:
            model = Supernet(nodes=nodes, **layout)
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
        raise UserError(
            f"{name}: no such file, nor a published genotype; published: {', '.join(PUBLISHED)}, supernet"
        )
    return from_json(read_json(Path(name)), name)
