"""Training steps beside the reference's: search, retraining, two branches, unrolled; and what they cost.

    python benchmarks/steps.py [--reference CLONE] [--threads 2] [--pairs 5] [--device cpu]

Prints tables and writes benchmarks/results/steps-DEVICE.json; without a reference, only steps in bfloat16
beside those in float32, to precision-DEVICE.json. Ratios are of alternating pairs, in one process unless
stated otherwise.
"""

import argparse
import contextlib
import functools
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import reference
import torch
from measure import alternate, operators, own_process, ratios, spread, table
from torch import Tensor, nn
from torch.nn import functional as F

from hlrs.config.methods import Darts, UniformSampler
from hlrs.config.spaces import DartsSpace
from hlrs.data.augment import Augmentation, Batch, send
from hlrs.data.batches import Batches
from hlrs.data.images import ImageSet
from hlrs.longtail.objectives import Bilateral
from hlrs.nas import bilevel
from hlrs.nas.derived import DerivedNetwork, DropPath, draw_factors
from hlrs.nas.genotype import PUBLISHED
from hlrs.nas.network import initialize
from hlrs.nas.resnet import ResNet, initialize_resnet
from hlrs.nas.searchers.darts import DartsSearcher
from hlrs.nas.supernet import DartsSupernet, initialize_alphas
from hlrs.training.cuda_graphs import GraphCache
from hlrs.training.device import prepare
from hlrs.training.optim import optimizer_step

LAYOUT = {"channels": 16, "cells": 8, "classes": 10, "size": 32}
LR, MOMENTUM, DECAY, CLIP = 0.025, 0.9, 3e-4, 5.0


# --- what is run ----------------------------------------------------------------------------------------


def batches(
    count: int, batch: int, size: int, classes: int, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Draw random images and labels, always the same."""
    draw = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(batch, 3, size, size, generator=draw).to(device),
            torch.randint(0, classes, (batch,), generator=draw).to(device),
        )
        for _ in range(count)
    ]


def make_supernet(
    device: torch.device, channels: int, cells: int, classes: int, **options: Any
) -> DartsSupernet:
    draw = torch.Generator().manual_seed(0)
    supernet = DartsSupernet(
        DartsSpace(),
        DartsSearcher(Darts()),
        nodes=4,
        in_channels=3,
        classes=classes,
        channels=channels,
        cells=cells,
        **options,
    )
    initialize(supernet, draw)
    initialize_alphas(supernet, draw)
    return supernet.to(device)


def search_step(
    supernet: DartsSupernet,
    data: list[tuple[Tensor, Tensor]],
    order: int = 1,
    bilateral: bool = False,
    bfloat16: bool = False,
) -> Callable[[], Tensor]:
    """Make a search step as in hlrs/stages/search.py: alphas on the first batches, weights on the last."""
    alphas, weights = list(supernet.alphas.values()), supernet.weights()
    supernet.precision = "bfloat16" if bfloat16 else "float32"
    device = data[0][0].device
    cuda = device.type == "cuda"
    adam = torch.optim.Adam(alphas, 3e-4, (0.5, 0.999), weight_decay=1e-3, fused=True, capturable=cuda)
    sgd = torch.optim.SGD(weights, LR, MOMENTUM, weight_decay=DECAY, fused=True)
    objective = Bilateral(lambda logits, labels, t: F.cross_entropy(logits, labels))

    def loss(batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        if bilateral:
            return objective(supernet, [Batch(*batch) for batch in batches], 0.7, 0.7).loss
        [(images, labels)] = batches
        return F.cross_entropy(supernet(images), labels)

    half = len(data) // 2
    validation, training = (functools.partial(loss, part) for part in (data[:half], data[half:]))

    def step() -> Tensor:
        if order == 1:
            gradients = bilevel.first_order(alphas, weights, validation)
        else:
            still = [torch.zeros_like(weight) for weight in weights]
            gradients = bilevel.second_order(alphas, weights, training, validation, still, LR)
        for parameter, gradient in zip(alphas, gradients, strict=True):
            parameter.grad = gradient
        adam.step()
        with bilevel.frozen(alphas):
            found = training()
            optimizer_step(found, weights, sgd, CLIP)
        return found.detach()

    return GraphCache(device)(step)


def reference_search(modules: dict[str, Any], device: torch.device) -> nn.Module:
    search = modules["model_search"]
    loss = nn.CrossEntropyLoss()
    return search.Network(LAYOUT["channels"], LAYOUT["classes"], LAYOUT["cells"], loss).to(device)  # type: ignore[no-any-return]


def reference_step(
    modules: dict[str, Any], network: Any, data: list[tuple[Tensor, Tensor]]
) -> Callable[[], None]:
    """Make a first-order step of the reference's train_search.py."""
    arguments = types.SimpleNamespace(
        momentum=MOMENTUM, weight_decay=DECAY, arch_learning_rate=3e-4, arch_weight_decay=1e-3
    )
    architect = modules["architect"].Architect(network, arguments)
    sgd = torch.optim.SGD(network.parameters(), LR, MOMENTUM, weight_decay=DECAY)
    (images_alphas, labels_alphas), (images, labels) = data

    @reference.as_it_runs
    def step() -> None:
        architect.step(images, labels, images_alphas, labels_alphas, LR, sgd, unrolled=False)
        sgd.zero_grad()
        network._loss(images, labels).backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        sgd.step()

    return step


def copy_weights(network: Any, supernet: DartsSupernet) -> None:
    """Copy the reference's weights and alphas into the supernet."""
    with torch.no_grad():
        for ours, theirs in zip(supernet.stem.parameters(), network.stem.parameters(), strict=True):
            ours.copy_(theirs)
        supernet.classifier.load_state_dict(network.classifier.state_dict())
        for kind, theirs in (("normal", network.alphas_normal), ("reduce", network.alphas_reduce)):
            supernet.alphas[kind].copy_(theirs)
        for ours, theirs in zip(supernet.shared, network.cells, strict=True):
            inputs = [(ours.input0, theirs.preprocess0), (ours.input1, theirs.preprocess1)]
            for own, other in inputs:
                for a, b in zip(own.parameters(), other.parameters(), strict=True):
                    a.copy_(b)
            edges = iter(theirs._ops)
            for node in range(4):
                for state in range(node + 2):
                    out = ours.nodes.out_edges[max(0, state - 1)]
                    group = state * 4 + node if state < 2 else node - (state - 1)
                    copy_edge(next(edges)._ops, out, group)


def copy_edge(primitives: Any, out: Any, group: int) -> None:
    """Copy one edge's weights of the reference into the rows of its group."""
    convolutions = zip(out.convolutions.values(), primitives[4:8], strict=True)
    for own, other in convolutions:
        theirs = [m.weight for m in other.op if isinstance(m, nn.Conv2d)]
        ours = [w for pair in zip(own.depthwise, own.pointwise, strict=True) for w in pair]
        for a, b in zip(ours, theirs, strict=True):
            a.weight[group * out.channels : (group + 1) * out.channels].copy_(b)
    if out.stride == 2:
        half = slice(group * out.channels // 2, (group + 1) * out.channels // 2)
        out.skip_even.weight[half].copy_(primitives[3].conv_1.weight)
        out.skip_odd.weight[half].copy_(primitives[3].conv_2.weight)


RETRAIN_BATCH, AUXILIARY_WEIGHT, DROP = 96, 0.4, 0.2


def retrain_step(device: torch.device, bfloat16: bool = False) -> Callable[[], Any]:
    """Make a step of DARTS_V2 with 20 cells of 36 channels, auxiliary head and drop path."""
    [(images, labels)] = batches(1, RETRAIN_BATCH, 32, 10, device)
    network = DerivedNetwork(
        PUBLISHED["DARTS_V2"], auxiliary=True, in_channels=3, classes=10, channels=36, cells=20
    ).to(device)
    network.precision = "bfloat16" if bfloat16 else "float32"
    draw = torch.Generator().manual_seed(0)
    weights = list(network.parameters())
    sgd = torch.optim.SGD(weights, LR, MOMENTUM, weight_decay=DECAY, fused=True)

    def compute(factors: Tensor) -> Tensor:
        network.drop_path = DropPath(factors)
        logits, auxiliary = network.heads(images)
        loss = F.cross_entropy(logits, labels) + AUXILIARY_WEIGHT * F.cross_entropy(auxiliary, labels)
        optimizer_step(loss, weights, sgd, CLIP)
        return loss.detach()

    computed = GraphCache(device)(compute)

    def step() -> Tensor:
        return computed(send(draw_factors(network.dropped_maps, RETRAIN_BATCH, DROP, draw), device))

    return step


def resnet_step(device: torch.device, bfloat16: bool = False) -> Callable[[], Any]:
    """Make a retraining step of ResNet-32, batch 128."""
    [(images, labels)] = batches(1, 128, 32, 10, device)
    network = ResNet(32, in_channels=3, classes=10)
    initialize_resnet(network, torch.Generator().manual_seed(0))
    network.to(device).precision = "bfloat16" if bfloat16 else "float32"
    weights = list(network.parameters())
    sgd = torch.optim.SGD(weights, 0.1, MOMENTUM, weight_decay=DECAY, fused=True)

    def step() -> Tensor:
        loss = F.cross_entropy(network(images), labels)
        optimizer_step(loss, weights, sgd, CLIP)
        return loss.detach()

    return GraphCache(device)(step)


def reference_retrain_step(modules: dict[str, Any], device: torch.device) -> Callable[[], None]:
    """Make the reference's step of the same network, as in its train.py."""
    [(images, labels)] = batches(1, RETRAIN_BATCH, 32, 10, device)
    network = modules["model"].NetworkCIFAR(36, 10, 20, True, modules["genotypes"].DARTS_V2).to(device)
    network.drop_path_prob = DROP
    sgd = torch.optim.SGD(network.parameters(), LR, MOMENTUM, weight_decay=DECAY)

    @reference.as_it_runs
    def step() -> None:
        sgd.zero_grad()
        logits, auxiliary = network(images)
        loss = F.cross_entropy(logits, labels) + AUXILIARY_WEIGHT * F.cross_entropy(auxiliary, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        sgd.step()

    return step


# --- what is measured -----------------------------------------------------------------------------------


def measure_search(modules: dict[str, Any], device: torch.device, batch: int, pairs: int) -> dict[str, Any]:
    """Measure our search step beside the reference's, with the same weights."""
    data = batches(2, batch, LAYOUT["size"], LAYOUT["classes"], device)
    network = reference_search(modules, device)
    supernet = make_supernet(device, LAYOUT["channels"], LAYOUT["cells"], LAYOUT["classes"])
    copy_weights(network, supernet)
    with torch.no_grad():
        ours, theirs = supernet(data[0][0]), network(data[0][0])
    steps = search_step(supernet, data), reference_step(modules, network, data)
    seconds = alternate(steps, pairs, device)
    return {
        "logits_differ_relative": float((ours - theirs).norm() / theirs.norm()),
        "seconds": spread(seconds[0]),
        "reference_seconds": spread(seconds[1]),
        "ratio": ratios(*seconds),
        "operators": operators(getattr(steps[0], "compute", steps[0])),
        "reference_operators": operators(steps[1]),
    }


def measure_gpu_search(
    modules: dict[str, Any], device: torch.device, batch: int, pairs: int
) -> dict[str, Any]:
    """Measure, on a GPU, a search step in bfloat16 beside the reference's, and the memory of each."""
    data = batches(2, batch, LAYOUT["size"], LAYOUT["classes"], device)
    shape = LAYOUT["channels"], LAYOUT["cells"], LAYOUT["classes"]
    make: dict[str, Callable[[], Any]] = {
        "reference": lambda: reference_step(modules, reference_search(modules, device), data),
        "ours": lambda: search_step(make_supernet(device, *shape), data),
        "recompute": lambda: search_step(make_supernet(device, *shape, recompute=True), data),
        "bfloat16": lambda: search_step(make_supernet(device, *shape), data, bfloat16=True),
    }
    peaks, steps = {}, {}
    for name, of in make.items():
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        steps[name] = of()
        for _ in range(measure.WARM_UP):
            steps[name]()
        peaks[f"{name}_bytes"] = torch.cuda.max_memory_allocated() - before
    seconds = alternate((steps["bfloat16"], steps["reference"]), pairs, device)
    floor = floor_bytes(batch, **LAYOUT) / measure.bandwidth(device)
    return {"peak": peaks, "bfloat16": compared(*seconds), "floor_seconds": floor}


def floor_bytes(batch: int, channels: int, cells: int, size: int, classes: int) -> int:
    """Count the fewest bytes a first-order step moves in float32: its wide maps, at batch norms alone.

    Of each edge there are six maps that must lie in memory, since a batch norm needs all of one before any of
    it can be used: each is written and read in the forward pass (12). In the backward pass those of the four
    last ones are read for the sums and again for the gradients (8), the two inner ones twice, likewise (4),
    and the gradients by these are written and read (4). A step has two passes each way.
    """
    elements = 0
    for cell in range(cells):
        level = (cell >= cells // 3) + (cell >= 2 * cells // 3)
        edges = 2 * 4 + 3 + 2 + 1
        elements += edges * channels * 2**level * batch * (size // 2**level) ** 2
    return 2 * (12 + 16) * elements * 4


def measure_pair(steps: Any, pairs: int, device: torch.device) -> dict[str, Any]:
    """Measure one step beside another."""
    return compared(*alternate(steps, pairs, device))


def compared(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Return the spreads of both, and of their ratio."""
    return {"seconds": spread(ours), "other_seconds": spread(theirs), "ratio": ratios(ours, theirs)}


def measure_retraining_apart(clone: Path, threads: int, pairs: int) -> dict[str, Any]:
    """Measure, on a CPU, our retraining step and the reference's, each in its own process."""
    options = "--reference", str(clone), "--threads", str(threads)
    workers = [measure.Worker("--retrain", which, *options) for which in ("ours", "reference")]
    return compared(*measure.take_turns(workers, pairs))


def measure_variants(device: torch.device, batch: int, pairs: int) -> dict[str, Any]:
    """Measure two branches, the unrolled step, and recomputed cells beside the plain first-order step."""
    make = functools.partial(make_supernet, device, LAYOUT["channels"], LAYOUT["cells"], LAYOUT["classes"])
    data = batches(4, batch, LAYOUT["size"], LAYOUT["classes"], device)
    plain = search_step(make(), data[:2])
    variants = {
        "two branches (BBN)": search_step(make(branches=2, branch_cells=1), data, bilateral=True),
        "unrolled (order 2)": search_step(make(), data[:2], order=2),
        "cells recomputed": search_step(make(recompute=True), data[:2]),
    }
    return {name: measure_pair((step, plain), pairs, device) for name, step in variants.items()}


def measure_bfloat16(device: torch.device, pairs: int) -> dict[str, Any]:
    """Measure steps in bfloat16 beside the same in float32."""
    data = batches(2, 64, LAYOUT["size"], LAYOUT["classes"], device)

    def search(device: torch.device, bfloat16: bool) -> Callable[[], Any]:
        supernet = make_supernet(device, LAYOUT["channels"], LAYOUT["cells"], LAYOUT["classes"])
        return search_step(supernet, data, bfloat16=bfloat16)

    makers = {"ResNet-32, batch 128": resnet_step, "retraining": retrain_step, "search, batch 64": search}
    return {
        name: measure_pair([make(device, bfloat16) for bfloat16 in (True, False)], pairs, device)
        for name, make in makers.items()
    }


def measure_input(device: torch.device, batch: int, pairs: int) -> dict[str, float]:
    """Measure a step's two batches (crop, flip, cutout) as a share of the step."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20_000, 3, 32, 32), generator=draw, dtype=torch.uint8).to(device)
    labels = torch.randint(0, 10, (20_000,), generator=draw).to(device)
    statistics_ = torch.full((3,), 0.5, device=device)
    augmentation = Augmentation(crop_padding=4, flip=True, cutout=16)
    feed = Batches(
        ImageSet(images, labels, statistics_, statistics_),
        torch.arange(20_000),
        [UniformSampler()],
        batch,
        100,
        augmentation,
        "benchmark",
    )
    feed.begin(0, 0.0)
    supernet = make_supernet(device, LAYOUT["channels"], LAYOUT["cells"], LAYOUT["classes"])
    step = search_step(supernet, batches(2, batch, LAYOUT["size"], LAYOUT["classes"], device))
    seconds = alternate((lambda: (feed(0), feed(1)), step), pairs, device)
    return ratios(*seconds)


def measure_curve(device: torch.device, pairs: int) -> list[dict[str, Any]]:
    """Time a first-order step, one quantity changed at a time."""
    base = LAYOUT | {"batch": 32}
    changes = {
        "channels": (8, 16, 32),
        "cells": (3, 8, 14),
        "batch": (16, 32, 64, 128),
        "size": (16, 32, 64),
        "classes": (10, 100, 1000),
    }
    rows = []
    for name, values in changes.items():
        for value in values:
            point = base | {name: value}
            supernet = make_supernet(device, point["channels"], point["cells"], point["classes"])
            data = batches(2, point["batch"], point["size"], point["classes"], device)
            [seconds] = alternate([search_step(supernet, data)], pairs, device)
            rows.append({"changed": name, **point, "seconds": spread(seconds)})
    return rows


def peak_memory(which: str, clone: Path, batch: int, threads: int) -> None:
    """Print by how much two steps raise the process's largest resident size, in bytes."""
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    data = batches(2, batch, LAYOUT["size"], LAYOUT["classes"], device)
    if which == "reference":
        modules = reference.load(clone, device)
        step = reference_step(modules, reference_search(modules, device), data)
    else:
        shape = LAYOUT["channels"], LAYOUT["cells"], LAYOUT["classes"]
        step = search_step(make_supernet(device, *shape, recompute=which == "recompute"), data)
    before = measure.peak_memory()
    for _ in range(2):
        step()
    print(json.dumps(measure.peak_memory() - before))


def measure_memory(clone: Path, batch: int, threads: int) -> dict[str, Any]:
    """Measure the peak memory of each step twice, in separate processes."""
    peaks = {
        which: [
            own_process(
                "--peak", which, "--reference", str(clone), "--batch", str(batch), "--threads", str(threads)
            )
            for _ in range(2)
        ]
        for which in ("ours", "recompute", "reference")
    }
    return {
        **{f"{which}_bytes": spread(values) for which, values in peaks.items()},
        "ratio": ratios(peaks["ours"], peaks["reference"]),
        "ratio_recompute": ratios(peaks["recompute"], peaks["reference"]),
    }


# --- report ---------------------------------------------------------------------------------------------


def row(name: str, value: dict[str, float], target: str) -> list[str]:
    return [name, f"{value['median']:.3f}", f"{value['min']:.3f} to {value['max']:.3f}", target]


def report_bfloat16(found: dict[str, Any]) -> str:
    """Format the table of precisions."""
    rows = [["step in bfloat16 / in float32", "median", "range", "seconds in float32"]]
    for name, pair in found.items():
        rows.append(row(name, pair["ratio"], f"{pair['other_seconds']['median']:.3g}"))
    return table(rows)


def report(results: dict[str, Any]) -> str:
    """Format the tables."""
    cuda = results["host"]["gpu"] is not None
    rows = [["measured", "median", "range", "goal"]]
    for batch, found in results["search"].items():
        rows.append(
            row(f"search step / reference, batch {batch}", found["ratio"], "≤ 1/10" if cuda else "≤ 1/3")
        )
        operators_ratio = found["operators"] / found["reference_operators"]
        rows.append([f"operators / reference ({found['operators']})", f"{operators_ratio:.3f}", "", "≤ 1/5"])
        if batch in results["memory"]:
            rows.append(
                row(f"peak memory / reference, batch {batch}", results["memory"][batch]["ratio"], "≤ 1/2")
            )
            recompute = results["memory"][batch]["ratio_recompute"]
            rows.append(row(f"the same, cells recomputed, batch {batch}", recompute, ""))
    for batch, found in results["gpu"].items():
        rows.append(
            row(f"search step in bfloat16 / reference, batch {batch}", found["bfloat16"]["ratio"], "")
        )
        for name in ("ours", "recompute", "bfloat16"):
            share = found["peak"][f"{name}_bytes"] / found["peak"]["reference_bytes"]
            rows.append([f"peak memory / reference, {name}, batch {batch}", f"{share:.3f}", "", "≤ 1/2"])
        share = found["floor_seconds"] / results["search"][batch]["seconds"]["median"]
        rows.append([f"memory-traffic floor / search step, batch {batch}", f"{share:.3f}", "", ""])
    rows.append(row("retraining step / reference", results["retrain"]["ratio"], "≤ 1/3" if cuda else "≤ 1/2"))
    if not cuda:
        rows.append(row("the same, each in its own process", results["retrain_apart"]["ratio"], "≤ 1/2"))
    asked = {"two branches (BBN)": "≤ 2.1", "unrolled (order 2)": "≤ 3"}
    for name, found in results["variants"].items():
        rows.append(row(f"{name} / plain step", found["ratio"], asked.get(name, "")))
    rows.append(row("input / step", results["input"], "< 0.03"))
    curve = [["changed", "to", "seconds per step", "images/s"]]
    for point in results["curve"]:
        seconds = point["seconds"]["median"]
        value = str(point[point["changed"]])
        curve.append([point["changed"], value, f"{seconds:.3g}", f"{2 * point['batch'] / seconds:.0f}"])
    return f"{table(rows)}\n\n{report_bfloat16(results['bfloat16'])}\n\n{table(curve)}"


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--reference", type=Path, help="clone of Tomorrowdawn/darts_torch2.1")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--no-curve", dest="curve", action="store_false", help="leave the curve of costs out")
    parser.add_argument("--retrain", choices=("ours", "reference"), help=argparse.SUPPRESS)
    parser.add_argument("--peak", choices=("ours", "recompute", "reference"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        peak_memory(arguments.peak, arguments.reference, arguments.batch[0], arguments.threads)
        return
    device, pairs = torch.device(arguments.device), arguments.pairs
    if arguments.retrain == "reference":
        torch.set_num_threads(arguments.threads)
        with contextlib.redirect_stdout(sys.stderr):  # it prints its sizes
            step = reference_retrain_step(reference.load(arguments.reference, device), device)
        measure.work(step)
        return
    prepare(arguments.threads)  # ours as in a job; the reference's script asks for cuDNN's fastest
    if arguments.retrain == "ours":
        measure.work(retrain_step(device))
        return
    results: dict[str, Any] = {"host": measure.host(device, arguments.threads)}
    if arguments.reference is None:
        results["bfloat16"] = measure_bfloat16(device, pairs)
        measure.record(f"precision-{device.type}", results)
        print(report_bfloat16(results["bfloat16"]))
        return
    modules = reference.load(arguments.reference, device)

    def say(what: str) -> None:
        print(f"{what} …", file=sys.stderr, flush=True)

    results |= {"search": {}, "memory": {}, "gpu": {}}
    if device.type == "cpu":  # first, while this process is small: these need 8 GB each
        say("retraining step, in processes of their own")
        results["retrain_apart"] = measure_retraining_apart(arguments.reference, arguments.threads, pairs)
    for batch in arguments.batch:
        say(f"search step, batch {batch}")
        results["search"][batch] = measure_search(modules, device, batch, pairs)
        if device.type == "cpu" and batch == arguments.batch[0]:
            say(f"peak memory, batch {batch}")
            results["memory"][batch] = measure_memory(arguments.reference, batch, arguments.threads)
        if device.type == "cuda":
            results["gpu"][batch] = measure_gpu_search(modules, device, batch, pairs)
    say("variants")
    results["variants"] = measure_variants(device, arguments.batch[0], pairs)
    results["input"] = measure_input(device, arguments.batch[0], pairs)
    say("bfloat16")
    results["bfloat16"] = measure_bfloat16(device, pairs)
    say("retraining step")
    retraining = retrain_step(device), reference_retrain_step(modules, device)
    results["retrain"] = measure_pair(retraining, pairs, device)
    say("curve")
    results["curve"] = measure_curve(device, 2) if arguments.curve else []
    measure.record(f"steps-{device.type}", results)
    print(report(results))


if __name__ == "__main__":
    main()
