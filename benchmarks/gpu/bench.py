"""Measure single parts of training on a GPU; a later part's failure or time-out costs none before it.

    python benchmarks/gpu/bench.py PART... [--reference CLONE] [--out FILE] [--pairs 3] [--batch 64]

Prints one line of JSON per part as soon as it is known, and appends it to FILE. PYTHONPATH must name the
checkout and its benchmarks/. On a CPU (HLRS_DEVICE=cpu), parts that only a GPU has give null; `--tiny`
shrinks the networks for a rehearsal there.
"""

import argparse
import contextlib
import functools
import json
import os
import tempfile
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import loading
import measure
import reference
import steps
import torch
from measure import Step, spread
from torch import Tensor
from torch.nn import functional as F

from hlrs.config.methods import UniformSampler
from hlrs.config.recipes import AutoAugment, Collapse
from hlrs.data.augment import Augmentation
from hlrs.data.batches import Batches
from hlrs.data.images import ImageSet, LabelledImages
from hlrs.nas.collapse import EarlyStopping
from hlrs.nas.resnet import ResNet
from hlrs.training.cuda_graphs import GraphCache
from hlrs.training.device import prepare
from hlrs.training.optim import optimizer_step

SHOWN = 900  # characters of a part's line
KERNELS = 40  # the longest ones of a profile
QUEUED = 60  # steps
STARTING = 20  # steps, more than workers read ahead


class Bench:
    """The device, the sizes, and the reference's modules."""

    def __init__(self, device: torch.device, batch: int, pairs: int, clone: Path) -> None:
        self.device, self.batch, self.pairs, self.clone = device, batch, pairs, clone
        self.cuda = device.type == "cuda"
        self.shape = tuple(steps.LAYOUT[name] for name in ("channels", "cells", "classes"))

    @functools.cached_property
    def modules(self) -> dict[str, types.ModuleType]:
        """Load the reference when a part first needs it."""
        return reference.load(self.clone, self.device)

    def data(self) -> list[tuple[Tensor, Tensor]]:
        """Make the two batches of a search step."""
        return steps.batches(2, self.batch, steps.LAYOUT["size"], steps.LAYOUT["classes"], self.device)

    def search_step(self) -> Step:
        """Make a first-order search step."""
        return steps.search_step(steps.make_supernet(self.device, *self.shape), self.data())

    def seconds(self, step: Step, count: int = 10) -> dict[str, float]:
        """Measure the first call of a step, and `count` calls after the warm-up."""
        began = time.perf_counter()
        step()
        self.wait()
        first = time.perf_counter() - began
        [own] = measure.alternate([step], count, self.device)
        return {"first": first, **spread(own)}

    def per_call(self, call: Callable[[int], Any]) -> tuple[float, float]:
        """Return the mean seconds per call until the host has queued all, and until the device is done."""
        self.wait()
        began = time.perf_counter()
        for number in range(QUEUED):
            call(number)
        queued = time.perf_counter() - began
        self.wait()
        return queued / QUEUED, (time.perf_counter() - began) / QUEUED

    def wait(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()


# --- parts ----------------------------------------------------------------------------------------------


def search(bench: Bench) -> Any:
    """Our search step by itself: a slow reference costs nothing here."""
    return bench.seconds(bench.search_step())


def retrain(bench: Bench) -> Any:
    """Our retraining step by itself."""
    return bench.seconds(steps.retrain_step(bench.device))


def retrain_bfloat16(bench: Bench) -> Any:
    """The retraining step under autocast to bfloat16."""
    return bench.seconds(steps.retrain_step(bench.device, bfloat16=True))


def pairs(bench: Bench) -> Any:
    """The search step beside the reference's."""
    data = bench.data()
    theirs = steps.reference_step(bench.modules, steps.reference_search(bench.modules, bench.device), data)
    return steps.measure_pair((bench.search_step(), theirs), bench.pairs, bench.device)


def pairs_retrain(bench: Bench) -> Any:
    """The retraining step beside the reference's."""
    theirs = steps.reference_retrain_step(bench.modules, bench.device)
    return steps.measure_pair((steps.retrain_step(bench.device), theirs), bench.pairs, bench.device)


def memory(bench: Bench) -> Any:
    """Peaks of memory, bfloat16 beside the reference, and the floor of memory traffic."""
    if not bench.cuda:
        return None
    return steps.measure_gpu_search(bench.modules, bench.device, bench.batch, bench.pairs)


def variants(bench: Bench) -> Any:
    """Two branches, the unrolled step and recomputed cells beside the plain step."""
    return steps.measure_variants(bench.device, bench.batch, bench.pairs)


def input_share(bench: Bench) -> Any:
    """A step's input as a share of the step."""
    return steps.measure_input(bench.device, bench.batch, bench.pairs)


def resnet(bench: Bench) -> Any:
    """ResNet-32, batch 128, captured: replay alone, with its input, and the input alone on the host."""
    step = _resnet_step(bench)
    images, augmentation = _resident(bench.device), Augmentation(crop_padding=4, flip=True)
    feed = _feed(images, augmentation)
    [batch] = feed(0)
    replayed = bench.seconds(lambda: step(batch.images, batch.labels), 20)
    host, whole = _fed(bench, step, feed)
    return {"replay": replayed, "with_input": whole, "host": host, "host_input": bench.per_call(feed)[0]}


def policy(bench: Bench) -> Any:
    """The same step under AutoAugment: images kept on the device, or prepared ahead by worker processes."""
    step, augmentation = _resnet_step(bench), Augmentation(crop_padding=4, flip=True, policy=AutoAugment())
    found = {"training process": _fed(bench, step, _feed(_resident(bench.device), augmentation))[1]}
    with tempfile.TemporaryDirectory() as folder:
        source = loading.make_small(Path(folder, "small.npz"))
        for workers in (4, 8):
            images = loading.streamed(source, 32, workers, bench.device)
            found[f"{workers} workers"] = _fed(bench, step, _feed(images, augmentation))[1]
    return found


def _resnet_step(bench: Bench) -> Callable[[Tensor, Tensor], Tensor]:
    """Capture a training step of ResNet-32."""
    network = ResNet(32, in_channels=3, classes=10).to(bench.device)
    weights = list(network.parameters())
    sgd = torch.optim.SGD(weights, 0.1, 0.9, weight_decay=2e-4, fused=True)

    def compute(images: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(network(images), labels)
        optimizer_step(loss, weights, sgd, None)
        return loss.detach()

    return GraphCache(bench.device)(compute)


def _fed(bench: Bench, step: Callable[[Tensor, Tensor], Tensor], feed: Batches) -> tuple[float, float]:
    """Return the seconds per step with its input, as `per_call`, once what reads ahead has started."""

    def fed_step(number: int) -> Any:
        [batch] = feed(number)
        return step(batch.images, batch.labels)

    for number in range(STARTING):
        fed_step(number)
    return bench.per_call(lambda number: fed_step(STARTING + number))


def _resident(device: torch.device, images: int = 12_000) -> ImageSet:
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8).to(device)
    labels, half = torch.randint(0, 10, (images,)).to(device), torch.full((3,), 0.5, device=device)
    return ImageSet(pixels, labels, half, half)


def _feed(images: LabelledImages, augmentation: Augmentation) -> Batches:
    positions = torch.arange(len(images.labels))
    feed = Batches(images, positions, [UniformSampler()], 128, STARTING + QUEUED, augmentation, "bench")
    feed.begin(0, 0.0)
    return feed


def sharpness(bench: Bench) -> Any:
    """Early stopping's estimate on 16 images: eager, captured, replayed twice."""
    supernet = steps.make_supernet(bench.device, *bench.shape)
    [(images, labels)] = steps.batches(1, 16, steps.LAYOUT["size"], steps.LAYOUT["classes"], bench.device)
    alphas, weights = list(supernet.architecture().values()), supernet.weights()
    draw = torch.Generator().manual_seed(1)
    start = torch.randn(sum(parameter.numel() for parameter in alphas), generator=draw).to(bench.device)
    early_stopping = EarlyStopping(Collapse(), start)

    def estimate(vector: Tensor) -> Tensor:
        return early_stopping.iterate(F.cross_entropy(supernet(images), labels), alphas, weights, vector)

    captured = GraphCache(bench.device)(estimate)
    taken, eigenvalues = [], []
    for _ in range(4):
        began = time.perf_counter()
        eigenvalues.append(float(captured(start)[0]))
        taken.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() if bench.cuda else None
    return {"seconds": taken, "eigenvalues": eigenvalues, "peak_bytes": peak}


def profile(bench: Bench) -> Any:
    """The kernels that take longest in a replayed step."""
    if not bench.cuda:
        return None
    made = {"search": bench.search_step, "retrain": lambda: steps.retrain_step(bench.device)}
    return {name: _profiled(bench, make()) for name, make in made.items()}


def _profiled(bench: Bench, step: Step) -> dict[str, Any]:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    for _ in range(measure.WARM_UP):
        step()
    bench.wait()
    with profiled(activities=[ProfilerActivity.CUDA]) as found:
        step()
        bench.wait()
    events = [event for event in found.key_averages() if event.self_device_time_total]
    rows = [(event.key[:110], event.count, event.self_device_time_total / 1e3) for event in events]
    rows.sort(key=lambda row: -row[2])
    count, milliseconds = sum(row[1] for row in rows), sum(row[2] for row in rows)
    return {"kernels": count, "milliseconds": milliseconds, "longest": rows[:KERNELS]}


def together(bench: Bench) -> Any:
    """One, two and three trainings at a time, each in its own stream: whether one of them fills the GPU."""
    if not bench.cuda:
        return None
    made = {"retrain": lambda: steps.retrain_step(bench.device), "search": bench.search_step}
    return {name: _in_streams(bench, [make() for _ in range(3)]) for name, make in made.items()}


def _in_streams(bench: Bench, own: list[Step]) -> dict[int, dict[str, float]]:
    for step in own:
        for _ in range(measure.WARM_UP):
            step()
    bench.wait()
    streams = [torch.cuda.Stream() for _ in own]

    def first(count: int) -> None:
        for stream, step in zip(streams[:count], own[:count], strict=True):
            with torch.cuda.stream(stream):
                step()

    calls = {count: functools.partial(first, count) for count in range(1, len(own) + 1)}
    return {count: spread(measure.alternate([call], 5, bench.device)[0]) for count, call in calls.items()}


PARTS: dict[str, Callable[[Bench], Any]] = {
    "search": search,
    "retrain": retrain,
    "sharpness": sharpness,
    "profile": profile,
    "pairs": pairs,
    "pairs_retrain": pairs_retrain,
    "memory": memory,
    "variants": variants,
    "resnet": resnet,
    "policy": policy,
    "input": input_share,
    "together": together,
    "retrain_bfloat16": retrain_bfloat16,
}


# --- all ------------------------------------------------------------------------------------------------


def measured(part: str, bench: Bench) -> dict[str, Any]:
    """Measure a part; an error is its result."""
    began = time.perf_counter()
    try:
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):  # the reference
            found = PARTS[part](bench)
    except (Exception, SystemExit) as error:  # the reference ends the program where its clone is missing
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    return {"part": part, "seconds": round(time.perf_counter() - began, 1), "found": found}


def main() -> None:
    """Parse the arguments and measure the parts one by one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--reference", type=Path, default=Path(), help="clone of Tomorrowdawn/darts_torch2.1")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    if arguments.tiny:
        steps.LAYOUT.update(channels=4, cells=3, size=8)
        steps.RETRAIN_BATCH = 8
    device = prepare(arguments.threads)
    print(json.dumps({"host": measure.host(device, arguments.threads)}), flush=True)
    bench = Bench(device, arguments.batch, arguments.pairs, arguments.reference)
    for part in arguments.parts:
        line = json.dumps(measured(part, bench))
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(line + "\n")
        print(line if len(line) < SHOWN else line[:SHOWN] + " …", flush=True)
        if bench.cuda:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
