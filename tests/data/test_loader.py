"""Streamed images: the same bytes as resident ones for any number of workers; errors and signals."""

import copy
import hashlib
import itertools
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hlrs.artifacts.jobs import PROVENANCE
from hlrs.artifacts.tensors import read_tensors
from hlrs.config.data import Augment, Digits, ImageFolder, Parquet, Stream
from hlrs.config.jobs import SearchJob
from hlrs.config.methods import ReversedSampler, UniformSampler
from hlrs.config.params import Params, load
from hlrs.config.recipes import RandAugment, SimAugment
from hlrs.data.augment import Augmentation
from hlrs.data.batches import Batches
from hlrs.data.images import ImageSet, Request
from hlrs.data.loader import Loader, Order, Reader, StreamedSet
from hlrs.data.sources.open import open_source
from hlrs.errors import Failure, UserError
from hlrs.pipeline import plan, snakemake
from hlrs.pipeline.execute import execute
from hlrs.stages import images as images_module
from hlrs.stages import search, split
from hlrs.stages.images import SplitImages
from tests.conftest import TINY, edit, hlrs
from tests.messages import says

POLICY = RandAugment(operations=2, magnitude=9)
AUGMENTATIONS = {
    "none": Augmentation(),
    "crop_padding": Augmentation(crop_padding=2),
    "flip": Augmentation(flip=True),
    "alternating flip": Augmentation(flip="alternating"),
    "cutout": Augmentation(cutout=4),
    "color_jitter": Augmentation(color_jitter=0.4),
    "policy": Augmentation(policy=POLICY),
    "contrast": Augmentation(policy=SimAugment()),
    "all": Augmentation(2, True, 4, None, 0.4, POLICY),
}
SAMPLERS = [UniformSampler(), ReversedSampler()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty images of several sizes in three classes."""
    root = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    for number in range(40):
        path = root / "abc"[number % 3] / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        height, width = 12 + number % 5, 14 + number % 7
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return root


def source_of(root):
    return open_source(ImageFolder(train=str(root)))


STATISTICS = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])


def resident(root, index):
    source = source_of(root)
    images = torch.from_numpy(source.read(index, 10))
    return ImageSet(images, torch.from_numpy(source.train_labels[index]), *STATISTICS)


def streamed(root, index, workers=1):
    source = source_of(root)
    loader = Loader(Reader(source, 10, (3, 10, 10)), index, workers, pin_memory=False)
    return StreamedSet(loader, torch.from_numpy(source.train_labels[index]), *STATISTICS)


INDEX = np.arange(39, -1, -3)  # 14 of the images, in another order


def feeds(images, augmentation, steps=3):
    return [
        Batches(images, torch.arange(14), SAMPLERS, 4, steps, augmentation, purpose)
        for purpose in ("0/search/weights", "0/search/alphas")
    ]


def epoch_of(feeds, epoch, steps=range(3)):
    """All batches that a search takes in an epoch."""
    for feed in feeds:
        feed.begin(epoch, 0.5)
    return [batch for step in steps for feed in feeds for batch in feed(step)]


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
        for a, b in zip(first, second, strict=True)
    )


# --- the same bytes -----------------------------------------------------------------------------------


def test_streamed_batches_equal_resident_ones(folder):
    """Every augmentation, two samplers, two consumers, with the same workers throughout."""
    held, read = resident(folder, INDEX), streamed(folder, INDEX, workers=2)
    seen = {}
    for name, augmentation in AUGMENTATIONS.items():
        seen[name] = epoch_of(feeds(held, augmentation), 1)
        assert same(seen[name], epoch_of(feeds(read, augmentation), 1)), name
    for one, other in itertools.combinations(seen.values(), 2):
        assert not same(one, other)


def test_the_same_workers_serve_every_epoch(folder):
    read = streamed(folder, INDEX, workers=2)
    training, validation = feeds(read, Augmentation())
    seen = set()
    for epoch in range(3):
        epoch_of([training, validation] if epoch < 2 else [training], epoch)
        seen.add(tuple(worker.pid for worker in read.loader.iterator._workers))
    [pids] = seen
    assert len(pids) == 2


def test_resized_crops_do_not_depend_on_the_workers(folder):
    augmentation = Augmentation(flip=True, cutout=2, resized_crop=0.1)
    one = epoch_of(feeds(streamed(folder, INDEX, 1), augmentation), 0)
    assert same(one, epoch_of(feeds(streamed(folder, INDEX, 2), augmentation), 0))
    assert not same(one, epoch_of(feeds(resident(folder, INDEX), Augmentation(flip=True, cutout=2)), 0))


def test_a_resized_crop_needs_the_files(folder):
    request = Request(torch.arange(2), Augmentation(resized_crop=0.5), ("p",))
    with pytest.raises(ValueError, match=r"resized_crop.*streamed"):
        resident(folder, INDEX).batch(request)


def test_an_epoch_can_resume_restart_and_skip_steps(folder):
    augmentation = AUGMENTATIONS["all"]
    whole = epoch_of(feeds(resident(folder, INDEX), augmentation), 0)
    consumers = feeds(streamed(folder, INDEX), augmentation)
    assert same(whole[4:], epoch_of(consumers, 0, steps=range(1, 3)))  # resumed after a step
    assert same(whole[8:], epoch_of(consumers, 0, steps=[2]))
    training, validation = consumers
    for feed in consumers:
        feed.begin(0, 0.5)
    assert same(whole[:2], training(0))
    assert same(whole[:2], training(0))  # as `throughput.measure` repeats steps
    assert same(whole[10:], validation(2))  # not in the order in which they are read
    assert same(whole[8:10], training(2))
    assert same(whole[6:8], validation(1))


def test_the_loader_interleaves_consumers_as_it_reads_ahead(folder):
    read = streamed(folder, INDEX)
    consumers = feeds(read, Augmentation())
    epoch_of(consumers, 0, steps=[0])
    purposes = [order.purpose for order in read.loader.queue]
    assert purposes == [
        (f"0/search/{half}", place, "augment", 0, step)
        for step in range(3)
        for half in ("weights", "alphas")
        for place in range(2)
    ]
    consumers[0].begin(1, 0.5)  # the alphas have stopped
    consumers[0](1)
    assert [order.purpose[3:] for order in read.loader.queue] == [(1, 1)] * 2 + [(1, 2)] * 2


def test_nothing_is_drawn_from_the_global_generator(folder):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    for images in (streamed(folder, INDEX), resident(folder, INDEX)):
        epoch_of(feeds(images, AUGMENTATIONS["all"]), 0)
    Reader(source_of(folder), 10, (3, 10, 10)).read(Order(INDEX, Augmentation(resized_crop=0.2), ("p",)))
    assert torch.equal(torch.rand(3), expected)


# --- sources in a worker ------------------------------------------------------------------------------


def test_sources_can_be_sent_to_a_worker(folder, tmp_path):
    from tests.data.test_sources import pixels, write_parquet

    file = write_parquet(tmp_path / "a.parquet", pixels(3), [0, 1, 0])
    for source in (source_of(folder), open_source(Parquet(train=[str(file)])), open_source(Digits())):
        sent = pickle.loads(pickle.dumps(source))
        assert np.array_equal(sent.read([2, 0], 8), source.read([2, 0], 8))


def test_an_image_that_cannot_be_decoded_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "broken")
    [broken] = (tmp_path / "broken").glob("*/07.png")
    broken.write_bytes(broken.read_bytes()[:60])
    source = source_of(tmp_path / "broken")
    where = source.files.index(str(broken))
    images = streamed(tmp_path / "broken", np.array([0, where]))
    with pytest.raises(UserError) as caught:
        images.batch(Request(torch.tensor([0, 1]), Augmentation(), ("p",)))
    says(str(caught.value), "07.png", "image", "dvc pull")


def test_an_image_of_another_size_is_named(tmp_path):
    from tests.data.test_sources import pixels, write_parquet

    file = write_parquet(tmp_path / "a.parquet", [*pixels(2, 8, 8), *pixels(2, 6, 8)], [0, 0, 1, 1])
    reader = Reader(open_source(Parquet(train=[str(file)])), None, (3, 8, 8))
    assert reader[Order(np.array([0, 1]), Augmentation(), ("p",))][1].shape == (2, 3, 8, 8)
    error = reader[Order(np.array([3, 2]), Augmentation(), ("p",))][1]
    assert isinstance(error, UserError)
    says(str(error), "a.parquet, row 3", "8×6", "8×8", "image_size")


def test_a_dead_worker_is_reported(folder):
    read = streamed(folder, INDEX)
    [feed, _] = feeds(read, Augmentation(), steps=50)
    feed.begin(0, 0.5)
    feed(0)
    [worker] = read.loader.iterator._workers
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()

    def rest():
        for step in range(1, 50):
            feed(step)

    # torch notices in its handler of SIGCHLD, at any point, or while it waits for a batch
    with pytest.raises((Failure, RuntimeError), match="DataLoader worker"):
        rest()


# --- through the stages -------------------------------------------------------------------------------

STREAM = {"stream": {"above_mb": 0, "workers": 1}}


@pytest.mark.slow
def test_a_streamed_run_resumed_within_an_epoch_gives_the_resident_bytes(workspace):
    """Covers a search interrupted by a signal, a retraining with a held-out curve, and an evaluation."""
    edit(workspace / "params.yaml", **{"datasets.digits.holdout_fraction": 0.1, "retrain.epochs": 1})
    expected = run_all(("split", *RESULTS))
    assert (
        len(expected) == 11
    )  # alphas, genotype, drawings, weights (2), features, metrics, predictions, histories (2)
    edit(workspace / "params.yaml", **{"datasets.digits.stream": STREAM["stream"]})
    process = search_alone(workspace)
    for pid in [*descendants(process.pid), process.pid]:  # as SLURM and a terminal do
        os.kill(pid, signal.SIGUSR1)
    log = process.communicate()[0]
    assert process.returncode == 75, log
    assert "Traceback" not in log
    [checkpoint] = (workspace / ".hlrs/checkpoints").glob("*.safetensors")
    assert read_tensors(checkpoint)[1]["step"] > 0  # in the middle of an epoch
    assert run_all(RESULTS) == expected


RESULTS = ("search", "extract", "retrain", "evaluate")


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def run_all(stages):
    """Run some stages of the method `hlrs` in this process; return the digest of each output."""
    digests = {}
    for job in plan.plan(load(Path("params.yaml"))):
        if job.stage in stages and job.run in ("digits", "digits/hlrs/0", "digits/hlrs/0/0"):
            execute(job)
            made = [Path(path) for path in job.outputs if not path.endswith(PROVENANCE)]
            digests |= {(job.stage, path.name): sha256(path.read_bytes()) for path in made}
    return {key: digest for key, digest in digests.items() if key[0] != "split"}


def search_alone(folder):
    """Start a search in a process with its own fork server; return it after its first checkpoint."""
    command = "import hlrs.training.loop as t; t.CHECKPOINT_SECONDS = 0.0; from hlrs.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "search", "digits/hlrs/0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not list((folder / ".hlrs/checkpoints").glob("*.safetensors")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    return process


def descendants(pid):
    """All descendants of a process (Linux)."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(further for child in children for further in descendants(child))]


@pytest.mark.slow
def test_no_worker_outlives_a_killed_run(workspace):
    edit(workspace / "params.yaml", **{"datasets.digits.stream": STREAM["stream"], "search.epochs": 60})
    assert hlrs(workspace, "split", "digits")[0] == 0
    process = search_alone(workspace)
    left = descendants(process.pid)
    assert len(left) == 3  # the resource tracker, the fork server, the worker
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in left):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_a_decode_error_ends_the_job_and_names_the_file(folder, workspace):
    shutil.copytree(folder, workspace / "images")
    source = {"kind": "image_folder", "train": "images", "test": None}
    edit(
        workspace / "params.yaml",
        **{
            "datasets.digits": {
                "source": source,
                "imbalance": {"kind": "natural"},
                "test_per_class": 2,
                "image_size": 10,
                "augment": {"resized_crop": 0.3},
                "stream": {"workers": 1},
            }
        },
    )
    status, output = hlrs(workspace, "split", "digits")
    assert status == 0, output
    for image in (workspace / "images/b").glob("*.png"):
        status, content = image.stat(), image.read_bytes()
        image.write_bytes(content[:60] + bytes(len(content) - 60))
        os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))  # unseen until it is read
    status, output = hlrs(workspace, "search", "digits/darts/0")
    assert status == 2, output
    says(output, "images/b", "image", "dvc pull")


def test_a_set_streams_above_its_limit_and_for_resized_crops(workspace, monkeypatch):
    params = copy.deepcopy(TINY)
    jobs = {job.stage: job for job in plan.plan(Params.model_validate(params)) if "darts" in job.run}
    split.run(next(j for j in plan.plan(Params.model_validate(params)) if j.stage == "split"))
    job, device = jobs["search"], torch.device("cpu")
    images = SearchJob.model_validate(job.params).images
    number = len(SplitImages(job, images, search.HALVES, device).index)

    def kind(above_mb, source=images.source, size=None, **augment):
        spec = images.model_copy(
            update={
                "image_size": size,
                "stream": Stream(above_mb=above_mb, workers=1),
                "augment": Augment(**augment),
            }
        )
        return type(SplitImages(job, spec, search.HALVES, device, ([0.5], [0.2])).set)

    assert kind(4000) is ImageSet
    assert kind(0) is StreamedSet
    assert kind(4000, resized_crop=0.5, size=8) is StreamedSet
    size = math.ceil(math.sqrt(1e6 / number))  # at one byte per pixel, just above 1 MB
    assert kind(1, size=size) is StreamedSet
    assert kind(1, size=size - 1) is ImageSet


def test_channel_statistics_of_a_streamed_set_come_from_a_sample(workspace, monkeypatch):
    params = Params.model_validate(copy.deepcopy(TINY))
    first, *_ = plan.plan(params)
    split.run(first)
    job = next(job for job in plan.plan(params) if job.stage == "search")
    images = SearchJob.model_validate(job.params).images
    read = images.model_copy(update={"stream": Stream(above_mb=0, workers=1)})
    held, whole = (SplitImages(job, spec, search.HALVES, torch.device("cpu")) for spec in (images, read))
    assert whole.statistics == held.statistics  # fewer images than a sample holds
    monkeypatch.setattr(images_module, "SAMPLE", 20)
    one, other = (SplitImages(job, read, search.HALVES, torch.device("cpu")).statistics for _ in range(2))
    assert one == other != held.statistics
    assert one[0] == pytest.approx(held.statistics[0], abs=0.05)


# --- cores --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "cores"),
    [
        ({}, 2),
        ({"stream": {"above_mb": 0, "workers": 3}}, 5),
        ({"stream": {"above_mb": 1, "workers": 3}}, 2),
        ({"stream": {"workers": 3}, "augment": {"resized_crop": 0.1}, "image_size": 8}, 5),
    ],
)
def test_cores_of_a_job_are_its_threads_plus_its_workers(workspace, dataset, cores):
    params = copy.deepcopy(TINY)
    params["datasets"]["digits"] |= dataset
    params["search"]["threads"] = params["retrain"]["threads"] = params["evaluate"]["threads"] = 2
    jobs = plan.plan(Params.model_validate(params))
    plan.freeze(jobs)
    found = {job.stage: snakemake.threads(job.key) for job in jobs}
    assert [found[stage] for stage in ("search", "retrain", "evaluate")] == [cores] * 3
    assert found["split"] == found["report"] == 1
