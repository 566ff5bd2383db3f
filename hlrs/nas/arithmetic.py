"""Approximate arithmetic of a network: which convolutions compute by it, and what their products cost."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from hlrs.config.arithmetic import (
    Arithmetic,
    ExactMultiplier,
    TableMultiplier,
    TruncatedMultiplier,
)
from hlrs.config.base import Kinds
from hlrs.errors import UserError
from hlrs.nas.multipliers import (
    CIRCUITS,
    FLOAT32_ENERGY,
    INTEGER_ENERGY,
    Table,
    exact_products,
    read_products,
    truncated_products,
)
from hlrs.nas.network import BranchedNetwork, count_multiply_adds
from hlrs.nas.ops.approximate import EXACT, Product, Tabulated, Truncated
from hlrs.nas.ops.convolution import Conv, exact


def exact_multiplier(multiplier: ExactMultiplier, terms: int) -> Truncated:
    """Return the multiplier that omits nothing."""
    return Truncated()


def truncated_multiplier(multiplier: TruncatedMultiplier, terms: int) -> Truncated:
    """Return the multiplier of a spec."""
    return Truncated(multiplier.activation_bits, multiplier.weight_bits, multiplier.columns)


def table_multiplier(multiplier: TableMultiplier, terms: int) -> Tabulated:
    """Return a multiplier with room for a table, which `load_products` reads, or a file of weights holds.

    Until then, it is exact.
    """
    assert multiplier.signed is not None  # the plan finds out
    return Tabulated(exact_products(multiplier.signed), multiplier.signed, terms)


# (spec, products that a convolution sums at most)
MULTIPLIERS: Kinds[Callable[..., Truncated | Tabulated]] = {
    ExactMultiplier: exact_multiplier,
    TruncatedMultiplier: truncated_multiplier,
    TableMultiplier: table_multiplier,
}


def approximate(network: BranchedNetwork, arithmetic: Arithmetic, tracked: bool = True) -> None:
    """Give a network's convolutions approximate products, in place; `tracked` as in `Product`.

    A genotype without convolutions has none. UserError if the sums of one's products leave the range of whole
    numbers that float32 holds.
    """
    chosen = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, Conv) and (module.primitive or arithmetic.where == "convolutions")
    }
    terms = {name: convolution.weight[0].numel() for name, convolution in chosen.items()}
    multiplier = MULTIPLIERS[type(arithmetic.multiplier)](
        arithmetic.multiplier, max(terms.values(), default=1)
    )
    for name, convolution in chosen.items():
        check_sums(name, terms[name], multiplier.largest)
        convolution.product = Product(multiplier, *convolution.parts, tracked)
    network.multiplier = multiplier


def check_sums(name: str, terms: int, largest: int) -> None:
    """Raise UserError if sums of so many products leave the range of whole numbers that float32 holds."""
    if terms * largest > EXACT:
        raise UserError(
            f"arithmetic.multiplier: {name} sums {terms:,} products of up to {largest:,}, and float32 holds "
            f"whole numbers to {EXACT:,}, so {EXACT // largest:,} products: lower channels"
        )


ARITHMETICS: Kinds[Callable[..., None]] = {Arithmetic: approximate}


def approximate_supernet(supernet: BranchedNetwork, arithmetic: Arithmetic) -> None:
    """Give a supernet approximate products, in place, with each batch's ranges, as its batch norms have."""
    approximate(supernet, arithmetic, tracked=False)
    load_products(supernet, arithmetic)


OF_SUPERNETS: Kinds[Callable[..., None]] = {Arithmetic: approximate_supernet}


def load_products(network: BranchedNetwork, arithmetic: Arithmetic) -> None:
    """Copy the products of a multiplier's file to a network, in place. UserError if it holds none."""
    if isinstance(arithmetic.multiplier, TableMultiplier):
        table = read_products(arithmetic.multiplier.file, arithmetic.multiplier.signed)
        assert isinstance(network.multiplier, Tabulated)
        check_sums(arithmetic.multiplier.file, network.multiplier.terms, int(np.abs(table.products).max()))
        network.multiplier.products.copy_(torch.from_numpy(table.products))
        network.multiplier.decompose()


LOADS: Kinds[Callable[..., None]] = {Arithmetic: load_products}


# --- energy -----------------------------------------------------------------------------------------------


def products_of(network: BranchedNetwork) -> Table:
    """Return the products of all codes that an approximate network computes by."""
    multiplier: Any = network.multiplier
    table: Table = multiplier.table
    return table


def relative_energy(network: BranchedNetwork, arithmetic: Arithmetic) -> float | None:
    """Return the energy of an approximate multiplication relative to an exact 8-bit one; None if not known.

    It is the ratio of the circuits' published powers, or what is given for a table that is none of theirs.
    """
    multiplier, reference = arithmetic.multiplier, CIRCUITS[0, 0, 0].power
    if isinstance(multiplier, TableMultiplier) and multiplier.energy is not None:
        return multiplier.energy
    products, signed = products_of(network)
    same = (circuit for of, circuit in CIRCUITS.items() if np.array_equal(products, truncated_products(*of)))
    circuit = next(same, None) if signed else None
    return None if circuit is None else circuit.power / reference


def count_approximate(network: BranchedNetwork, in_channels: int, size: int) -> int:
    """Count the approximate multiplications for one `size`×`size` image at inference."""
    counts: list[int] = []

    def count(convolution: nn.Module, _: Any, output: torch.Tensor) -> None:
        counts.append(output.numel() * convolution.weight[0].numel())  # type: ignore[index]

    approximated = [module for module in network.modules() if isinstance(module, Conv) and module.product]
    hooks = [convolution.register_forward_hook(count) for convolution in approximated]
    device = next(network.parameters()).device
    with exact(network), torch.no_grad():
        network(torch.zeros(1, in_channels, size, size, device=device))
    for hook in hooks:
        hook.remove()
    return sum(counts)


def energy(network: BranchedNetwork, arithmetic: Arithmetic, in_channels: int, size: int) -> dict[str, Any]:
    """Count a network's multiplications for one image, and compare the energy of all with others'.

    `energy_to_int8`: relative to exact 8-bit ones throughout, which those that are not approximate count as;
    `energy_to_float32`: relative to 32-bit floating point throughout, which these are. None if not known.
    """
    count = count_multiply_adds(network, in_channels, size)
    approximate = count_approximate(network, in_channels, size)
    relative, share = relative_energy(network, arithmetic), approximate / count
    facts: dict[str, Any] = {"approximate_multiplications": approximate}
    if relative is None:
        return facts | {"energy_to_int8": None, "energy_to_float32": None}
    float32 = share * relative * INTEGER_ENERGY / FLOAT32_ENERGY + 1 - share
    return facts | {"energy_to_int8": share * relative + 1 - share, "energy_to_float32": float32}


ENERGIES: Kinds[Callable[..., dict[str, Any]]] = {Arithmetic: energy}
