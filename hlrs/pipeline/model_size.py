"""Count weights and multiply-adds of networks without running them."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from hlrs.artifacts.files import read_json
from hlrs.config.arithmetic import Arithmetic
from hlrs.config.methods import Darts
from hlrs.config.methods import ResNet as ResNetSpec
from hlrs.config.spaces import SPACES, check_cells, check_stem, space_of
from hlrs.errors import UserError
from hlrs.nas.arithmetic import approximate, energy, load_products, products_of
from hlrs.nas.genotype import GIVEN, Genotype, from_json
from hlrs.nas.multipliers import describe_products, read_products
from hlrs.nas.network import BranchedNetwork, count_multiply_adds, count_weights
from hlrs.nas.resnet import ResNet
from hlrs.nas.searchers.darts import DartsSearcher
from hlrs.nas.spaces import NETWORKS, SUPERNETS
from hlrs.training.latency import measure

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
    multiplier: str | None = None,
    where: Literal["primitives", "convolutions"] = "primitives",
) -> dict[str, Any]:
    """Count the weights and multiply-adds of a genotype, given by name, string or file, ResNet or `supernet`.

    `space` and `nodes` are a supernet's; a ResNet's `channels` are its width; with `threads`, latency and
    memory are measured on so many (hlrs/training/latency.py). With a `multiplier`, as `arithmetic_of` reads
    it, products are approximate. Raises UserError for any other name, and for an
    option that the network does not have.
    """
    supernet, resnet = network == "supernet", RESNETS.get(network)
    layout: dict[str, Any] = {"in_channels": in_channels, "classes": classes}
    if auxiliary and (supernet or resnet):
        raise UserError(f"--auxiliary: a {network.rstrip('0123456789')} has no auxiliary head")
    if resnet and multiplier is not None and where == "primitives":
        raise UserError("--where: a resnet has no primitives; set it to convolutions")
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
    arithmetic = None if multiplier is None else arithmetic_of(multiplier, where)
    if arithmetic is not None:
        approximate(model, arithmetic, tracked=not supernet)
        load_products(model, arithmetic)
    counted = facts_of(model, in_channels, image_size, threads, arithmetic)
    facts = {"network": network, **layout, **counted}
    if auxiliary:
        facts["auxiliary_weights"] = sum(
            p.numel() for n, p in model.named_parameters() if n.startswith("auxiliary")
        )
    return facts


def facts_of(
    model: BranchedNetwork,
    in_channels: int,
    image_size: int,
    threads: int | None,
    arithmetic: Arithmetic | None = None,
) -> dict[str, Any]:
    """Count a network's weights and multiply-adds, and their energy; with `threads`, measure it as well."""
    facts: dict[str, Any] = {
        "image_size": image_size,
        "weights": count_weights(model),
        "multiply_adds": count_multiply_adds(model.eval(), in_channels, image_size),
    }
    if arithmetic is not None:
        found = describe_products(products_of(model))
        facts["arithmetic"] = {"multiplier": found, **energy(model, arithmetic, in_channels, image_size)}
    if threads is not None:
        facts["measured"] = measure(model, in_channels, image_size, threads)
    return facts


def arithmetic_of(multiplier: str, where: Literal["primitives", "convolutions"]) -> Arithmetic:
    """Return the arithmetic of a multiplier: "exact", its omitted bits "r,s,v", or the file of a table.

    UserError if it is none of these.
    """
    numbers = [number.strip() for number in multiplier.split(",")]
    spec: dict[str, Any] = {"kind": "exact"}
    if all(number.removeprefix("-").isdecimal() for number in numbers):
        names = ("activation_bits", "weight_bits", "columns")
        if len(numbers) != len(names):
            raise UserError(f"--multiplier {multiplier}: three numbers name one, such as 0,0,4")
        spec = {"kind": "truncated", **dict(zip(names, map(int, numbers), strict=True))}
    elif multiplier != "exact":
        spec = {"kind": "table", "file": multiplier, "signed": read_products(multiplier).signed}
    try:
        return Arithmetic(multiplier=spec, where=where)  # type: ignore[arg-type]  # pydantic builds it
    except ValidationError as error:
        [detail, *_] = error.errors()
        field, said = str(detail["loc"][-1]), detail["msg"].removeprefix("Value error, ")
        raise UserError(
            f"--multiplier {multiplier}: {said if field in said else f'{field}: {said}'}"
        ) from None


def energy_lines(found: dict[str, Any]) -> list[str]:
    """Say what multiplications cost, one line per fact, with the sources of the figures."""
    said = [f"{'multiplier':18} {found['multiplier']}"]
    said.append(f"{'multiplications':18} {found['approximate_multiplications']:,} of these are by it")
    if found["energy_to_int8"] is None:
        return [
            *said,
            f"{'energy':18} not known: no power of it is published; a table can have its own (energy)",
        ]
    return [
        *said,
        f"{'energy to int8':18} {found['energy_to_int8']:.4f} (powers of EvoApproxLib's circuits)",
        f"{'energy to float32':18} {found['energy_to_float32']:.4f} (3.7 pJ; of int8 0.2 pJ: Horowitz 2014)",
    ]


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
        check_stem(SPACES[space], stem, "--stem")
    except ValueError as error:
        raise UserError(str(error)) from None
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
