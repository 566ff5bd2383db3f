"""A search step in NAS-Bench-201's space beside the benchmark authors' (D-X-Y/AutoDL-Projects, from a clone).

    python benchmarks/nasbench201.py --reference CLONE [--channels 16] [--cells 15] [--batch 64] [--pairs 5]

First both supernets get the same weights and must give the same logits and gradients of the alphas. Then each
takes first-order steps of DARTS in turn, in one process: ours as in hlrs/stages/search.py, theirs as in
DARTS-V1.py, whose steps of the alphas also compute gradients of the weights. Times are of the processor, so
that other programs disturb less. Writes benchmarks/results/nasbench201-cpu.json; the CPU only.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import torch
from measure import ratios, spread
from torch import Tensor, nn
from torch.nn import functional as F

from hlrs.config.methods import Darts
from hlrs.config.spaces import NasBench201Space
from hlrs.nas import bilevel
from hlrs.nas.nasbench201 import NasBench201Supernet, Reduction
from hlrs.nas.network import initialize
from hlrs.nas.searchers.darts import DartsSearcher
from hlrs.nas.supernet import initialize_alphas
from hlrs.training.device import prepare
from hlrs.training.optim import optimizer_step

CLIP = 5.0
Data = list[tuple[Tensor, Tensor]]  # of the alphas, of the weights


def load_reference(clone: Path, channels: int, cells: int) -> nn.Module:
    """Build the authors' supernet; SystemExit if `clone` does not hold it."""
    if not (clone / "xautodl" / "models" / "cell_searchs").is_dir():
        sys.exit(f"{clone}: missing; clone github.com/D-X-Y/AutoDL-Projects, and pass --reference CLONE")
    sys.path.insert(0, str(clone))
    from xautodl.models.cell_searchs.search_model_darts import TinyNetworkDarts

    names = NasBench201Space().primitives
    return TinyNetworkDarts(channels, cells // 3, 4, 10, list(names), False, False)  # type: ignore[no-any-return]


def copy_weights(supernet: NasBench201Supernet, theirs: Any) -> None:
    """Copy our weights into the reference."""
    *tail, norm = supernet.branches[0]
    pairs = [
        (supernet.stem, theirs.stem),
        (supernet.classifier, theirs.classifier),
        (norm, theirs.lastact[0]),
    ]
    theirs.arch_parameters.copy_(supernet.alphas["normal"])
    for ours, cell in zip([*supernet.shared, *tail], theirs.cells, strict=True):
        if isinstance(ours, Reduction):
            pairs += [(ours.residual[0], cell.conv_a.op), (ours.residual[1], cell.conv_b.op)]
            pairs.append((ours.shortcut, cell.downsample[1]))
            continue
        for key, edge in cell.edges.items():
            node, state = map(int, key.split("<-"))
            out = ours.nodes.out_edges[state]
            for name, operation in zip(supernet.columns, edge, strict=True):
                if name.startswith("nor_conv"):
                    weight = out.convolutions[name].layers[0].weight.chunk(out.edges)[node - 1 - state]
                    operation.op[1].weight.copy_(weight)
    for own, other in pairs:
        other.load_state_dict(own.state_dict(), strict=False)


def our_step(supernet: NasBench201Supernet, data: Data) -> Callable[[], Tensor]:
    """Make a first-order search step as in hlrs/stages/search.py."""
    alphas, weights = list(supernet.alphas.values()), supernet.weights()
    adam = torch.optim.Adam(alphas, 3e-4, (0.5, 0.999), weight_decay=1e-3, fused=True)
    sgd = torch.optim.SGD(weights, 0.025, 0.9, weight_decay=5e-4, nesterov=True, fused=True)
    (images_alphas, labels_alphas), (images, labels) = data

    def step() -> Tensor:
        def validation() -> Tensor:
            return F.cross_entropy(supernet(images_alphas), labels_alphas)

        for parameter, gradient in zip(alphas, bilevel.first_order(alphas, weights, validation), strict=True):
            parameter.grad = gradient
        adam.step()
        with bilevel.frozen(alphas):
            loss = F.cross_entropy(supernet(images), labels)
            optimizer_step(loss, weights, sgd, CLIP)
        return loss.detach()

    return step


def their_step(network: Any, data: Data) -> Callable[[], Tensor]:
    """Make a step of the authors' exps/NAS-Bench-201-algos/DARTS-V1.py."""
    adam = torch.optim.Adam(network.get_alphas(), 3e-4, (0.5, 0.999), weight_decay=1e-3)
    sgd = torch.optim.SGD(network.get_weights(), 0.025, 0.9, weight_decay=5e-4, nesterov=True)
    (images_alphas, labels_alphas), (images, labels) = data

    def step() -> Tensor:
        sgd.zero_grad()
        loss: Tensor = F.cross_entropy(network(images)[1], labels)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        sgd.step()
        adam.zero_grad()
        F.cross_entropy(network(images_alphas)[1], labels_alphas).backward()
        adam.step()
        return loss.detach()

    return step


def difference(supernet: NasBench201Supernet, network: Any, images: Tensor, labels: Tensor) -> float:
    """Return the largest relative difference of logits and of the alphas' gradients, in double precision."""
    supernet, network = copy.deepcopy(supernet).double(), copy.deepcopy(network).double()
    found = [supernet(images.double()), network(images.double())[1]]
    alphas = [supernet.alphas["normal"], network.arch_parameters]
    gradients = [
        torch.autograd.grad(F.cross_entropy(logits, labels), own)[0]
        for logits, own in zip(found, alphas, strict=True)
    ]
    return max(float((a - b).detach().norm() / b.detach().norm()) for a, b in (found, gradients))


def take_turns(steps: list[Callable[[], Tensor]], pairs: int) -> list[list[float]]:
    """Return each step's seconds of processor time in each round, after rounds that warm up."""
    seconds: list[list[float]] = [[] for _ in steps]
    for round_ in range(measure.WARM_UP + pairs):
        for own, step in zip(seconds, steps, strict=True):
            started = time.process_time()
            step()
            if round_ >= measure.WARM_UP:
                own.append(time.process_time() - started)
    return seconds


def main() -> None:
    """Compare, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True)
    for name, default in (("channels", 16), ("cells", 15), ("batch", 64), ("size", 32), ("pairs", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    device = prepare(1)
    draw = torch.Generator().manual_seed(0)
    layout = {"in_channels": 3, "classes": 10, "channels": options.channels, "cells": options.cells}
    supernet = NasBench201Supernet(NasBench201Space(), DartsSearcher(Darts()), nodes=4, **layout)
    initialize(supernet, draw)
    initialize_alphas(supernet, draw)
    network = load_reference(options.reference, options.channels, options.cells)
    shape = options.batch, 3, options.size, options.size
    data = [
        (torch.randn(shape, generator=draw), torch.randint(0, 10, shape[:1], generator=draw))
        for _ in range(2)
    ]
    with torch.no_grad():
        copy_weights(supernet, network)
    apart = difference(supernet, network, *data[0])
    ours, theirs = take_turns([our_step(supernet, data), their_step(network, data)], options.pairs)
    found = {
        "host": measure.host(device, 1),
        "sizes": {name: value for name, value in vars(options).items() if name != "reference"},
        "difference": apart,
        "seconds": {"ours": spread(ours), "theirs": spread(theirs)},
        "ratio": ratios(ours, theirs),
    }
    measure.record(f"nasbench201-{device.type}", found)
    print(found)


if __name__ == "__main__":
    main()
