"""Images per second that are decoded and augmented, in the training process and by loader workers.

    python benchmarks/loading.py [--size 224] [--batch 32] [--batches 8] [--workers 1 2] [--threads 1]

Two kinds of images: photographs, made in a temporary folder as smooth noise of 500×375 pixels, JPEG of
quality 90; and noise of 32×32 pixels in one array, as CIFAR's, in batches of 256, under the policies that are
applied image by image. Prints a table and writes benchmarks/results/loading-cpu.json.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from measure import spread, table
from PIL import Image
from torch.nn import functional as F

from hlrs.config.data import ImageFolder, Npz
from hlrs.config.methods import UniformSampler
from hlrs.config.recipes import AutoAugment, RandAugment, SimAugment
from hlrs.data.augment import Augmentation
from hlrs.data.batches import Batches
from hlrs.data.images import ImageSet, LabelledImages
from hlrs.data.loader import Loader, Reader, StreamedSet
from hlrs.data.sources.base import ImageSource
from hlrs.data.sources.open import open_source
from hlrs.nas.derived import DerivedNetwork
from hlrs.nas.genotype import PUBLISHED

PHOTOGRAPHS = {
    "centre crop": Augmentation(),
    "resized crop, flip": Augmentation(flip=True, resized_crop=0.08),
    "and colour jitter": Augmentation(flip=True, resized_crop=0.08, color_jitter=0.4),
}
SMALL = {
    "crop, flip": Augmentation(crop_padding=4, flip=True),
    "and AutoAugment": Augmentation(crop_padding=4, flip=True, policy=AutoAugment()),
    "and RandAugment": Augmentation(crop_padding=4, flip=True, policy=RandAugment()),
    "a view for contrast": Augmentation(policy=SimAugment()),
}
IMAGES = {"photographs": 256, "small": 2048}
STATISTICS = torch.full((3,), 0.5)


def make_photographs(root: Path) -> ImageSource:
    """Two classes of JPEGs, about as large as ImageNet's."""
    draw = np.random.default_rng(0)
    for number in range(IMAGES["photographs"]):
        coarse = Image.fromarray(draw.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        path = root / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    return open_source(ImageFolder(train=str(root)))


def make_small(file: Path) -> ImageSource:
    """Two classes of noise, as large as CIFAR's images."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (IMAGES["small"], 32, 32, 3), dtype=np.uint8)
    labels = np.arange(len(images)) % 2
    arrays = {
        f"{part}_{name}": a
        for part in ("train", "test")
        for name, a in (("images", images), ("labels", labels))
    }
    np.savez(file, **arrays)
    return open_source(Npz(file=str(file)))


def streamed(source: ImageSource, size: int, workers: int, device: torch.device) -> StreamedSet:
    index, cuda = np.arange(len(source.train_labels)), device.type == "cuda"
    loader = Loader(Reader(source, size, (3, size, size)), index, workers, pin_memory=cuda)
    labels, half = torch.from_numpy(source.train_labels).to(device), STATISTICS.to(device)
    return StreamedSet(loader, labels, half, half)


def resident(source: ImageSource) -> ImageSet:
    pixels = source.read(np.arange(len(source.train_labels)), None)
    return ImageSet(torch.from_numpy(pixels), torch.from_numpy(source.train_labels), STATISTICS, STATISTICS)


def rate(images: LabelledImages, batch: int, batches: int, augmentation: Augmentation) -> dict[str, Any]:
    positions = torch.arange(len(images.labels))
    feed = Batches(images, positions, [UniformSampler()], batch, batches, augmentation, "benchmark")
    return spread(images_per_second(feed))


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
    cpu = torch.device("cpu")
    results: dict[str, Any] = {"host": measure.host(cpu, arguments.threads)}
    results |= {name: vars(arguments)[name] for name in ("size", "batch", "batches")}
    workers = arguments.workers
    with tempfile.TemporaryDirectory() as folder:
        source = make_photographs(Path(folder, "photographs"))
        results["photographs"] = {
            name: {
                counted(n): rate(
                    streamed(source, arguments.size, n, cpu), arguments.batch, arguments.batches, augmentation
                )
                for n in workers
            }
            for name, augmentation in PHOTOGRAPHS.items()
        }
        source = make_small(Path(folder, "small.npz"))
        results["small"] = {
            name: {"training process": rate(resident(source), 256, 8, augmentation)}
            | {counted(n): rate(streamed(source, 32, n, cpu), 256, 8, augmentation) for n in workers}
            for name, augmentation in SMALL.items()
        }
    results["training"] = training_images_per_second(arguments.size, arguments.batch)
    measure.record("loading-cpu", results)
    for kind in IMAGES:
        print(f"\n{kind}, images/s\n{table(rows_of(results[kind]))}")
    print(f"\nA training step of a small network takes {results['training']:.0f} photographs/s.")


def counted(workers: int) -> str:
    return f"{workers} worker{'s' * (workers != 1)}"


def rows_of(rates: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Tabulate the median rates, one row per augmentation."""
    columns = [*next(iter(rates.values()))]
    return [
        ["", *columns],
        *([name, *(f"{row[column]['median']:,.0f}" for column in columns)] for name, row in rates.items()),
    ]


if __name__ == "__main__":
    main()
