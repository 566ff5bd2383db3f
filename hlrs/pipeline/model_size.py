"""Count weights and multiply-adds of networks without running them."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from hlrs.artifacts.files import read_json
from hlrs.config.methods import Darts
from hlrs.config.methods import ResNet as ResNetSpec
from hlrs.config.spaces import SPACES, check_cells, space_of
from hlrs.errors import UserError
from hlrs.nas.genotype import GIVEN, Genotype, from_json
from hlrs.nas.network import BranchedNetwork, count_multiply_adds, count_weights
from hlrs.nas.resnet import ResNet
from hlrs.nas.searchers.darts import DartsSearcher
from hlrs.nas.spaces import NETWORKS, SUPERNETS
from hlrs.pipeline.latency import measure

RESNETS = {f"resnet{depth}": depth for depth in (20, 32, 44, 56, 110)}
# channels and cells of a retraining, as published; of implanted cells those of ResNet-32
LAYOUTS = {"darts": (36, 20), "nasbench201": (16, 15), "implant": (16, 15)}
PADS = "a shortcut pads half of the missing ones on each side"
HALVES = {"darts": "a factorized reduction halves it", "implant": PADS}  # why channels are even


def describe(
    network: str,
    *,
    space: str | None = None,
    channels: int | None,
    cells: int | None,
    nodes: int | None = None,
    classes: int,
    image_size: int,
    in_channels: int,
    auxiliary: bool,
    stem: str = "cifar",
    threads: int | None = None,
) -> dict[str, Any]:
    """Count the weights and multiply-adds of a genotype, given by name, string or file, ResNet or `supernet`.

    `space` and `nodes` are a supernet's; a ResNet's `channels` are its width; with `threads`, latency and
    memory are measured on so many (hlrs/pipeline/latency.py). Raises UserError for any other name, and for an
    option that the network does not have.
    """
    supernet, resnet = network == "supernet", RESNETS.get(network)
    layout: dict[str, Any] = {"in_channels": in_channels, "classes": classes}
    if auxiliary and (supernet or resnet):
        raise UserError(f"--auxiliary: a {network.rstrip('0123456789')} has no auxiliary head")
    for option, value in (("--space", space), ("--nodes", nodes)):
        if value is not None and not supernet:
            raise UserError(f"{option}: only a supernet leaves it open; omit it")
    genotype = None if supernet or resnet else _genotype(network)
    space = genotype.space if genotype else space or "darts"
    if not SPACES[space].edges(nodes or 4):
        raise UserError(f"--nodes {nodes}: a cell of space {space} needs 2 or more")
    if resnet is None:
        layout |= _layout_of_cells(space, channels, cells, stem, supernet)
    elif cells or stem != "cifar":
        raise UserError(f"{network} has its own blocks and stem: omit --cells and --stem")
    elif channels and channels % 2:
        raise UserError(f"--channels: {channels} is odd; {PADS}")
    else:
        layout["width"] = channels or ResNetSpec().width
    if auxiliary and not SPACES[space].auxiliary:
        raise UserError(f"--auxiliary: a network of space {space} has no auxiliary head")
    with torch.device("meta" if threads is None else "cpu"):
        model: BranchedNetwork
        if resnet is not None:
            model = ResNet(resnet, **layout)
        elif genotype is None:
            of = SPACES[space]
            model = SUPERNETS[type(of)](of, DartsSearcher(Darts()), nodes=nodes or 4, **layout)
        else:
            head = {"auxiliary": True} if auxiliary else {}
            model = NETWORKS[type(SPACES[space])](genotype, **head, **layout)
    facts = {"network": network, **layout, **facts_of(model, in_channels, image_size, threads)}
    if auxiliary:
        facts["auxiliary_weights"] = sum(
            p.numel() for n, p in model.named_parameters() if n.startswith("auxiliary")
        )
    return facts


def facts_of(
    model: BranchedNetwork, in_channels: int, image_size: int, threads: int | None
) -> dict[str, Any]:
    """Count a network's weights and multiply-adds; with `threads`, measure it as well."""
    facts = {
        "image_size": image_size,
        "weights": count_weights(model),
        "multiply_adds": count_multiply_adds(model.eval(), in_channels, image_size),
    }
    return (
        facts if threads is None else facts | {"measured": measure(model, in_channels, image_size, threads)}
    )


def _layout_of_cells(
    space: str, channels: int | None, cells: int | None, stem: str, supernet: bool
) -> dict[str, Any]:
    """Fill in the published channels and cells; UserError for what a space's networks cannot have."""
    published = (16, 8) if supernet and space == "darts" else LAYOUTS[space]
    channels, cells = channels or published[0], cells or published[1]
    if space in HALVES and channels % 2:
        raise UserError(f"--channels: {channels} is odd; {HALVES[space]}")
    try:
        check_cells(SPACES[space], cells, "--cells")
    except ValueError as error:
        raise UserError(str(error)) from None
    if stem != "cifar" and not SPACES[space].large_images:
        raise UserError(f"--stem {stem}: a network of space {space} has CIFAR's stem: omit it")
    return {"channels": channels, "cells": cells, "stem": stem}


def _genotype(name: str) -> Genotype:
    with suppress(OSError):  # a cell can be too long for the name of a file
        if Path(name).exists():
            return from_json(read_json(Path(name)), name)
    try:
        return GIVEN[type(SPACES[space_of(name)])](name)
    except ValueError as error:
        others = ", ".join(["supernet", *RESNETS])
        raise UserError(f"NETWORK: {error}; it can also be a genotype's file, or {others}") from None
