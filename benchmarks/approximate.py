"""Convolutions by approximate products beside the same in float32, and beside products looked up one by one.

    python benchmarks/approximate.py [--threads 1] [--pairs 20] [--device cpu]

Layers of DARTS's search (16 channels, 32×32 pixels, batch 64) and of its last cells (64 channels, 8×8).
Prints the ratio of each multiplier's time to float32's and writes benchmarks/results/approximate-DEVICE.json.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import measure
import torch
from measure import alternate, spread, table
from torch import Tensor
from torch.nn import functional as F

from hlrs.nas.multipliers import truncated_products
from hlrs.nas.ops.approximate import Product, Tabulated, Truncated
from hlrs.nas.ops.depthwise import conv
from hlrs.training.device import prepare

LAYERS = {  # channels, size, kernel, groups, dilation
    "depthwise 3×3": (16, 32, 3, 16, 1),
    "depthwise 5×5": (16, 32, 5, 16, 1),
    "depthwise 3×3, dilated": (16, 32, 3, 16, 2),
    "1×1": (16, 32, 1, 1, 1),
    "depthwise 3×3, last cells": (64, 8, 3, 64, 1),
    "1×1, last cells": (64, 8, 1, 1, 1),
}
OMITTED = [(0, 0, 0), (2, 2, 0), (3, 3, 0), (1, 0, 3), (0, 0, 4), (2, 0, 5)]
BATCH = 64
FEW = 2  # images whose products are looked up one by one, scaled to the batch


def looked_up(x: Tensor, weight: Tensor, products: Tensor, dilation: int) -> Tensor:
    """Sum products of codes by a gather on unfolded windows, as emulators do without a decomposition."""
    kernel, groups = weight.shape[2], x.shape[1] // weight.shape[1]
    codes = F.unfold(x, kernel, dilation, dilation * (kernel // 2)).view(len(x), groups, -1, x[0, 0].numel())
    rows = weight.view(groups, -1, codes.shape[2]).long() + 128
    places = (codes.long()[:, :, None] + 128) * 256 + rows[None, ..., None]
    return torch.take(products, places).sum(3)


def ratios(layer: tuple[int, ...], pairs: int, device: torch.device, training: bool) -> dict[str, Any]:
    """Measure a layer by each multiplier, in turns with float32: forward, or forward and backward."""
    channels, size, kernel, groups, dilation = layer
    x = torch.randn(BATCH, channels, size, size, device=device).relu()
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_(training)
    weight = torch.randn(channels, channels // groups, kernel, kernel, device=device, requires_grad=training)

    def step(compute: Callable[[], Tensor]) -> Callable[[], Any]:
        def forward() -> Any:
            with torch.no_grad():
                return compute()

        def both() -> Any:
            return torch.autograd.grad(compute().sum(), (x, weight))

        return both if training else forward

    multipliers: dict[str, Any] = {str(omitted): Truncated(*omitted) for omitted in OMITTED}
    multipliers["table of (0, 0, 4)"] = Tabulated(truncated_products(0, 0, 4), True, 64)
    steps = {"float32": step(lambda: conv(x, weight, 1, dilation))}
    for name, multiplier in multipliers.items():
        product = Product(multiplier, 1, 1, tracked=True).to(device)
        product(x.detach(), weight.detach(), 1, dilation)
        product.train(training)
        steps[name] = step(lambda product=product: product(x, weight, 1, dilation))
    seconds = dict(zip(steps, alternate([*steps.values()], pairs, device), strict=True))
    if not training:
        few = (20 * x[:FEW]).round().clamp(-127, 127), (20 * weight).round().clamp(-127, 127)
        products = torch.from_numpy(truncated_products(0, 0, 4)).flatten().to(device)
        [own] = alternate([lambda: looked_up(*few, products, dilation)], 3, device)
        seconds["looked up"] = [BATCH / FEW * value for value in own]
    base = statistics.median(seconds["float32"])
    found = {name: spread([value / base for value in own]) for name, own in seconds.items()}
    return found | {"float32": spread([1000 * value for value in seconds["float32"]])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    prepare(arguments.threads)
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    results: dict[str, Any] = {"host": measure.host(device, arguments.threads)}
    for kind, training in (("forward", False), ("training step", True)):
        results[kind] = {
            name: ratios(layer, arguments.pairs, device, training) for name, layer in LAYERS.items()
        }
        names = [*next(iter(results[kind].values()))]
        rows = [[kind, *("float32, ms" if name == "float32" else name for name in names)]]
        rows += [
            [name, *(f"{own[column]['median']:.2g}" for column in names)]
            for name, own in results[kind].items()
        ]
        print(table(rows))
    measure.record(f"approximate-{arguments.device}", results)


if __name__ == "__main__":
    main()
