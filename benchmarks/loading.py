"""Images per second that loader workers decode and augment, beside what a training step consumes.

    python benchmarks/loading.py [--size 224] [--batch 32] [--batches 8] [--workers 1 2] [--threads 1]

Photographs are made in a temporary folder: smooth noise of 500×375 pixels, JPEG of quality 90. Prints a table
and writes benchmarks/results/loading-cpu.json.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from measure import spread, table
from PIL import Image
from torch.nn import functional as F

from hlrs.config.data import ImageFolder
from hlrs.config.methods import UniformSampler
from hlrs.data.augment import Augmentation
from hlrs.data.batches import Batches
from hlrs.data.loader import Loader, Reader, StreamedSet
from hlrs.data.sources.base import ImageSource
from hlrs.data.sources.open import open_source
from hlrs.nas.derived import DerivedNetwork
from hlrs.nas.genotype import PUBLISHED

AUGMENTATIONS = {
    "centre crop": Augmentation(),
    "resized crop, flip": Augmentation(flip=True, resized_crop=0.08),
    "and colour jitter": Augmentation(flip=True, resized_crop=0.08, color_jitter=0.4),
}
IMAGES = 256


def make_photographs(root: Path) -> None:
    """Two classes of JPEGs, about as large as ImageNet's."""
    draw = np.random.default_rng(0)
    for number in range(IMAGES):
        coarse = Image.fromarray(draw.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        path = root / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)


def feed_of(
    source: ImageSource, size: int, workers: int, batch: int, batches: int, augmentation: Augmentation
) -> Batches:
    loader = Loader(Reader(source, size, (3, size, size)), np.arange(IMAGES), workers, pin_memory=False)
    statistics = torch.full((3,), 0.5)
    images = StreamedSet(loader, torch.from_numpy(source.train_labels), statistics, statistics)
    positions = torch.arange(IMAGES)
    return Batches(images, positions, [UniformSampler()], batch, batches, augmentation, "benchmark")


def images_per_second(feed: Batches, epochs: int = 3) -> list[float]:
    """Measure epochs that only fetch batches, after one that starts the workers."""
    rates = []
    for epoch in range(epochs + 1):
        feed.begin(epoch, 0.0)
        started = time.perf_counter()
        for step in range(feed.steps):
            feed(step)
        rates.append(feed.steps * feed.batch_size / (time.perf_counter() - started))
    return rates[1:]


def training_images_per_second(size: int, batch: int, steps: int = 2) -> float:
    """Measure forward and backward passes of a small derived network with the stem for large images."""
    network = DerivedNetwork(
        PUBLISHED["DARTS_V2"],
        auxiliary=False,
        in_channels=3,
        classes=2,
        channels=16,
        cells=4,
        stem="imagenet",
    )
    images, labels = torch.randn(batch, 3, size, size), torch.zeros(batch, dtype=torch.int64)
    seconds = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        F.cross_entropy(network(images), labels).backward()
        seconds.append(time.perf_counter() - started)
    return batch * steps / sum(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results: dict[str, Any] = {"host": measure.host(torch.device("cpu"), arguments.threads)}
    results |= {name: vars(arguments)[name] for name in ("size", "batch", "batches")}
    with tempfile.TemporaryDirectory() as folder:
        make_photographs(Path(folder))
        source = open_source(ImageFolder(train=folder))
        results["loading"] = {
            name: {
                str(workers): spread(
                    images_per_second(
                        feed_of(
                            source, arguments.size, workers, arguments.batch, arguments.batches, augmentation
                        )
                    )
                )
                for workers in arguments.workers
            }
            for name, augmentation in AUGMENTATIONS.items()
        }
    results["training"] = training_images_per_second(arguments.size, arguments.batch)
    measure.record("loading-cpu", results)
    print(table(rows_of(results, arguments.workers)))


def rows_of(results: dict[str, Any], workers: Sequence[int]) -> list[list[str]]:
    """Tabulate images per second by augmentation and workers, and a training step's last."""
    rows = [["images/s", *(f"{number} workers" for number in workers)]]
    for name, rates in results["loading"].items():
        rows.append([name, *(f"{rates[str(number)]['median']:.0f}" for number in workers)])
    return [*rows, ["a training step takes", *(f"{results['training']:.0f}" for _ in workers)]]


if __name__ == "__main__":
    main()
