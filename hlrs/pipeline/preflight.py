"""Checks before a job, or any job, starts: disk, data files, splits that can be drawn, memory."""

import importlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from hlrs.artifacts.data_digest import content_digest, file_digests, leaks
from hlrs.artifacts.jobs import ASIDE, CHECKPOINTS, RESULTS, Job
from hlrs.config.data import Natural, Source, Torchvision, check_visible
from hlrs.config.jobs import Images, ReportJob, RetrainJob, ScoreJob, SearchJob, SplitJob, parse
from hlrs.config.methods import EtfHead, Objective, Plain
from hlrs.config.recipes import Filled
from hlrs.data.sources.base import ImageSource, remedy_for
from hlrs.data.sources.open import files_of, open_source
from hlrs.data.split import draw
from hlrs.errors import HlrsError, UserError, about
from hlrs.nas import selection
from hlrs.nas.multipliers import describe_products, read_products
from hlrs.pipeline import memory
from hlrs.pipeline.cost_probe import Calibration, alphas_step, finder, offline
from hlrs.pipeline.tracking import check_installed

# Predictions of 50,000 images in 1,000 classes take 200 MB, two checkpoints of the authors' networks 60 MB.
FREE_BYTES = 300_000_000
TRAINED = ("search", "retrain")
SAMPLE = 16  # images that are read to learn their size
AUXILIARY_FEATURES = 768  # that an auxiliary head's classifier reads (hlrs/nas/derived.py)


def check_disk() -> None:
    """Raise UserError if results/ or the checkpoints' folder is full or not writable."""
    for folder in (RESULTS, CHECKPOINTS):
        there = next(path for path in (folder, *folder.parents, Path()) if path.exists())
        free = shutil.disk_usage(there).free
        if free < FREE_BYTES:
            raise UserError(
                f"{folder}/: {free / 1e6:.0f} MB free on {platform.node()}, a job needs "
                f"{FREE_BYTES / 1e6:.0f} MB; delete what you do not need ({ASIDE}, old data) and rerun"
            )
        if not os.access(there, os.W_OK):
            raise UserError(
                f"{folder}/: not writable on {platform.node()}; grant write permission (chmod u+w)"
            )


def check_data(job: Job) -> None:
    """Raise UserError if a data file is unreachable from this node or has changed since the plan."""
    if images := _images_of(job):
        source: Source = TypeAdapter(Source).validate_python(images["source"])
        paths = [] if source.identity is not None else [named.path for named in files_of(source)]
        _check_content(job, paths, partial(content_digest, source), images["content"])
    for path, content in _files_of(job).items():
        _check_content(job, [path], partial(_digest, path), content)


def _check_content(job: Job, paths: list[str], digest: Callable[[], str], planned: str) -> None:
    for path in paths:
        if not os.access(path, os.R_OK):
            remedy = remedy_for(path, "store data where every node can read them")
            raise UserError(f"{path}: not readable on {platform.node()}; {remedy}")
    try:
        content = digest()
    except UserError as error:
        raise UserError(f"{error} (seen from {platform.node()})") from None
    if content != planned:
        raise UserError(f"{job.run}: the data files changed since this job was planned; rerun snakemake")


def _files_of(job: Job) -> dict[str, str]:
    """Return the data files besides images that a job reads, with their digests.

    A table of accuracies, weights to start with, a table of products.
    """
    if job.stage == "lookup":
        return {job.params["table"]: job.params["content"]}
    files = {}
    if job.stage == "retrain" and "content" in job.params:
        files[job.params["retrain"]["start"]] = job.params["content"]
    multiplier = job.params.get("arithmetic", {}).get("multiplier", {})
    if job.stage in ("search", "retrain") and "file" in multiplier:
        files[multiplier["file"]] = multiplier["content"]
    return files


def _digest(path: str) -> str:
    [digest] = file_digests([path])
    return digest


def check_present(jobs: Iterable[Job]) -> None:
    """Raise UserError, before a job is queued, if one needs data of which only DVC's pointer is here."""
    for images in {str(images): images for job in jobs if (images := _images_of(job))}.values():
        source: Source = TypeAdapter(Source).validate_python(images["source"])
        for path in (of.path for of in files_of(source) if source.identity is None):
            if Path(f"{path}.dvc").is_file() and not Path(path).exists():
                raise UserError(f"{path}: not here, but jobs need it; `dvc pull {path}.dvc` fetches it")


def check_before(jobs: list[Job], due: list[Job], remark: Callable[[str], None]) -> None:
    """Raise UserError for whatever a dry run of snakemake refuses; see `check_splits` for `remark`."""
    check_installed(jobs)
    opened = check_splits(jobs, remark)
    describe_tables(jobs, remark)
    check_trainings(jobs, opened, lambda job: memory.UNKNOWN)
    check_counts(jobs)
    check_present(due)


def describe_tables(jobs: Iterable[Job], remark: Callable[[str], None]) -> None:
    """Pass to `remark` what the table of each multiplier is found to hold."""
    described = set()
    for job in jobs:
        multiplier = job.params.get("arithmetic", {}).get("multiplier", {})
        if "file" in multiplier and multiplier["file"] not in described and not job.complete:
            described.add(multiplier["file"])
            table = read_products(multiplier["file"], multiplier["signed"])
            remark(f"methods.{job.run.split('/')[1]}: {multiplier['file']}: {describe_products(table)}")


def check_splits(jobs: Collection[Job], remark: Callable[[str], None]) -> dict[str, ImageSource]:
    """Raise UserError, before a job is queued, if a missing split cannot be drawn from the images.

    Pass to `remark` what a user should know of the images. Data that are not on this machine are left to the
    job that needs them, and so are torchvision's data sets, which a node with torch may have to download
    first. Return the sources that were opened, by data set.
    """
    opened, fields = {}, _fields(jobs)
    for job in jobs:
        if job.stage == "split" and not job.complete:
            with about(fields[job.run]):
                params = SplitJob.model_validate(job.params)
                source = _open(params.source)
                if source is not None:
                    for text in _small_head(source.train_labels, params, source.classes):
                        remark(f"{fields[job.run]}: {text}")
                    columns = draw(source.train_labels, source.test_labels, params, source.classes)
                    _check_cap(params, columns["index"], len(source.train_labels))
                    for text in (*source.remarks, *leaks(source), *_untested(columns, source.classes)):
                        remark(f"{fields[job.run]}: {text}")
                    opened[job.run] = source
    return opened


def _small_head(labels: NDArray[np.int64], params: SplitJob, classes: Sequence[str]) -> list[str]:
    """Return a remark if the first class, which bounds the others, is no head: half of another, or less."""
    counts = np.bincount(labels, minlength=len(classes))
    largest = int(counts.argmax())
    bounded = params.max_per_class is None and params.protocol == "seeded"
    if isinstance(params.imbalance, Natural) or not bounded or 2 * counts[0] > counts[largest]:
        return []
    return [
        f"the first class is the head: the {counts[0]:,} images of {classes[0]} bound all others "
        f"({classes[largest]} has {counts[largest]:,}); imbalance: {{kind: natural}} takes images as they are"
    ]


def _untested(columns: Mapping[str, NDArray[Any]], classes: Sequence[str]) -> list[str]:
    """Return a remark that names the classes of a split without test images."""
    tested = set(columns["label"][columns["subset"] == "test"].tolist())
    without = [name for number, name in enumerate(classes) if number not in tested]
    if not without:
        return []
    named = ", ".join(without[:5]) + ", …" * (len(without) > 5)
    found = f"{len(without)} of {len(classes)} classes have no test image: {named}"
    return [f"{found}; balanced accuracy will be the mean of the others"]


def _fields(jobs: Iterable[Job]) -> dict[str, str]:
    """Name the entry of params.yaml of each data set in a plan's runs: several draws have one entry."""
    [report] = [ReportJob.model_validate(job.params) for job in jobs if job.stage == "report"]
    return {
        drawn: f"datasets.{name}" for name in report.params.datasets for drawn in report.params.draws(name)
    }


def _check_cap(params: SplitJob, drawn: NDArray[np.int64], images: int) -> None:
    """Reject a largest count of a natural tail that leaves out none of the first `images`, for training."""
    if (
        isinstance(params.imbalance, Natural)
        and params.max_per_class is not None
        and np.count_nonzero(drawn < images) == images
    ):
        raise UserError(
            f"max_per_class: {params.max_per_class} leaves out no image, as no class has more: lower it, or "
            "leave it out"
        )


def _images_of(job: Job) -> dict[str, Any]:
    """Return the part of a job's parameters that describes its images; empty if it reads none."""
    images: dict[str, Any] = job.params.get("limit", job.params).get("images", job.params)
    return images if "source" in images else {}


def _open(source: Source) -> ImageSource | None:
    """Open a source whose files are on this machine and need no library that downloads them."""
    if source.identity is not None or not all(Path(n.path).exists() for n in files_of(source)):
        return None
    return open_source(source)


def check_trainings(
    jobs: list[Job], opened: dict[str, ImageSource], room: Callable[[Job], memory.Room]
) -> None:
    """Raise UserError, before a job is queued, if a training would see no image or exceed its memory.

    `opened`: what `check_splits` returned; `room` says what a job may have.
    """
    makers, fields = {path: job for job in jobs for path in job.outputs}, _fields(jobs)
    pictures: dict[str, memory.Pictures | None] = {}
    for job, dataset, _ in _trainings(jobs):
        if dataset not in pictures:
            with about(fields[dataset]):
                pictures[dataset] = _pictures(job, opened.get(dataset))
        if found := pictures[dataset]:
            _check_training(job, makers, found, room(job), fields[dataset])


def _trainings(jobs: Iterable[Job]) -> Iterator[tuple[Job, str, str]]:
    """Yield the first training still to run of each stage × data set × method, as seeds do not matter."""
    seen = set()
    for job in jobs:
        if job.stage not in TRAINED or "images" not in job.params:
            continue
        dataset, method = job.run.split("/")[:2]
        if (job.stage, dataset, method) not in seen and not job.complete:
            seen.add((job.stage, dataset, method))
            yield job, dataset, method


def check_counts(jobs: list[Job]) -> None:
    """Raise UserError, before a job is queued, if one needs more images or steps than its data set gives.

    Likewise if it needs as many features as classes, and has fewer, or starts with weights that do not fit.
    Images that are not on this machine are left to the job that needs them.
    """
    calibration, makers = Calibration(jobs, print), {path: job for job in jobs for path in job.outputs}
    for job, _, method in _trainings(jobs):
        params = parse(job.stage, job.params)
        if isinstance(head := _objective(params).head, EtfHead):
            with about(f"methods.{method}: {'' if job.stage == 'search' else 'retrain.'}objective"):
                _check_frame(head, params, _classes(calibration, job), _nodes(job, makers))
        classifier = params.retrain.classifier if isinstance(params, RetrainJob) else None
        if isinstance(classifier, Filled) and (found := _class_counts(calibration, job)):
            with about(f"methods.{method}: retrain"):
                classifier.check_classes(found)
        if params.arithmetic is not None:
            with about(f"methods.{method}"), suppress(ModuleNotFoundError):
                _check_arithmetic(params, calibration, job, _nodes(job, makers))
        if isinstance(params, RetrainJob) and params.content is not None:
            with about(f"methods.{method}: retrain.start"):
                _check_start(params, calibration, job)
        if not _demanding(params):
            continue
        try:
            counts = calibration.counts(job)
            steps = calibration.steps(job) if isinstance(params, SearchJob) else 0
        except (HlrsError, ModuleNotFoundError):
            continue
        with about(f"methods.{method}"):
            _check_counts(params, counts, steps)
    _check_budgets(jobs, calibration, makers)


def _check_budgets(jobs: Iterable[Job], calibration: Calibration, makers: Mapping[str, Job]) -> None:
    """Reject a budget that no genotype of the space fits, for each data set × method with one."""
    seen = set()
    for job in jobs:
        place = job.run.rpartition("/")[0]
        if "limit" not in job.params or job.complete or place in seen:
            continue
        seen.add(place)
        params, search = parse(job.stage, job.params), makers.get(job.inputs.get("alphas", ""), job)
        shape = search.params.get("search", search.params)
        space = params.search.space if isinstance(params, ScoreJob) else params.space
        try:
            sizes = importlib.import_module("hlrs.stages.sizes")
            limit = sizes.SizeLimit(params.limit, space, len(calibration.class_counts(search)))
        except (HlrsError, ModuleNotFoundError):
            continue
        least = sizes.smallest(space, shape["nodes"])
        if least is not None and (excess := limit.excess(least)):
            raise UserError(
                f"methods.{place.split('/')[1]}: search.budget: even the smallest network of the space has "
                f"{excess}: {sizes.REMEDY}"
            )


def _classes(calibration: Calibration, job: Job) -> int | None:
    """Count the classes of a job's data set; None if they are not known on this machine."""
    source = Images.model_validate(job.params["images"]).source
    if isinstance(source, Torchvision):
        return source.class_count
    counts = _class_counts(calibration, job)
    return None if counts is None else len(counts)


def _class_counts(calibration: Calibration, job: Job) -> dict[str, int] | None:
    """Count the training images of each class of a job's data set; None if they are not on this machine."""
    try:
        return calibration.class_counts(job)
    except (HlrsError, ModuleNotFoundError):
        return None


def _check_frame(head: EtfHead, params: Any, classes: int | None, nodes: int) -> None:
    """Reject more classes than the network, or its auxiliary head, has features; `nodes` of its cells."""
    if classes is None:
        return
    head.check_classes(classes, features(params, nodes))
    if not isinstance(params, SearchJob) and params.retrain.auxiliary_weight:
        head.check_classes(classes, AUXILIARY_FEATURES, "set auxiliary_weight to 0, as its head has so many")


def _check_start(params: RetrainJob, calibration: Calibration, job: Job) -> None:
    """Reject weights that do not fit the network; a genotype that is still to be found is left to the job."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            genotype = calibration.known_genotype(job, Path(folder))
            names = [*calibration.class_counts(job)]
            channels = open_source(offline(params.images.source)).channels
            stage = importlib.import_module("hlrs.stages.retrain")
        except (HlrsError, ModuleNotFoundError):
            return
        if genotype is not None:
            stage.check_start(params, job.inputs | genotype, channels, names)


def _check_arithmetic(params: Any, calibration: Calibration, job: Job, nodes: int) -> None:
    """Reject approximate arithmetic that a network does not allow."""
    stage = importlib.import_module("hlrs.stages.arithmetic")
    with tempfile.TemporaryDirectory() as folder:
        genotype = None
        if isinstance(params, RetrainJob) and params.inherited is None and params.resnet is None:
            with suppress(HlrsError):
                genotype = calibration.known_genotype(job, Path(folder))
        stage.check_arithmetic(params, nodes, genotype and job.inputs | genotype)


def _demanding(params: Any) -> bool:
    """Whether a job of these parameters needs so many images, or steps per epoch."""
    if isinstance(params, SearchJob):
        return params.searcher.order == 0
    return isinstance(params, ScoreJob) or params.retrain.accumulate > 1


def _check_counts(params: Any, counts: dict[str, int], steps: int) -> None:
    if isinstance(params, ScoreJob):
        params.searcher.check_images(counts["weights"])
    elif not isinstance(params, SearchJob):
        params.retrain.check_images(counts["weights"] + counts["alphas"])
    elif params.searcher.order == 0:
        epochs = range(params.search.epochs)
        taken = steps * sum(alphas_step(params, selection.progress(params, epoch)) for epoch in epochs)
        if params.searcher.steps > taken:
            raise UserError(
                f"searcher.steps: the alphas would step after {params.searcher.steps} steps of the weights, "
                f"but their part of the search has {taken}: lower steps, or raise search.epochs"
            )


def _objective(params: Any) -> Objective:
    """Return the objective of a training; a plain one, where nothing is trained."""
    if isinstance(params, ScoreJob):
        return Plain()
    return params.objective if isinstance(params, SearchJob) else params.retrain.objective


def features(params: Any, nodes: int) -> int:
    """Count the features that a training's classifier reads (hlrs/nas/); `nodes` of its cells."""
    search = isinstance(params, SearchJob)
    recipe, space = (params.search, params.search.space) if search else (params.retrain, params.space)
    joined = nodes if space.joins and (search or params.resnet is None) else 1
    channels: int = recipe.channels
    reductions: int = min(2, recipe.cells)
    return _objective(params).branches * joined * channels << reductions  # doubled by each


def _pictures(training: Job, source: ImageSource | None) -> memory.Pictures | None:
    """Return what is known of a training's images; None if they are not on this machine.

    UserError if a sample of them differs in size, which only `image_size` allows.
    """
    images = Images.model_validate(training.params["images"])
    size = images.image_size or images.source.size
    if size is None:
        source = source or _open(images.source)
        size = None if source is None else min(_sample(source).shape[2:])
    return None if size is None else memory.Pictures(size, 0 if source is None else len(source.train_labels))


def _sample(source: ImageSource) -> NDArray[np.uint8]:
    """Read some of the training images: uint8 [k, channels, height, width]."""
    count = len(source.train_labels)
    return source.read(np.linspace(0, count - 1, min(count, SAMPLE), dtype=np.int64))


def _check_training(
    job: Job, makers: dict[str, Job], pictures: memory.Pictures, room: memory.Room, dataset: str
) -> None:
    params, recipe = parse(job.stage, job.params), job.params[job.stage]
    try:
        cutouts = {f"{job.stage}.cutout": recipe["cutout"]} if "cutout" in recipe else {}
        check_visible(pictures.size, params.images.augment, cutouts, dataset)
    except ValueError as error:
        raise UserError(str(error)) from None
    batch = f"{job.stage}.batch_size ({recipe.get('batch_size')})"
    if isinstance(params, SearchJob):
        needed = memory.of_search(params, pictures)
    elif isinstance(params, ScoreJob):
        needed, batch = (
            memory.of_scoring(params, pictures),
            f"searcher.batch_size ({params.searcher.batch_size})",
        )
    else:
        needed = memory.of_retraining(params, _nodes(job, makers), pictures)
    if needed > memory.UNSURE * room.bytes:
        width, depth = "channels", f"cells ({recipe['cells']})"
        if job.params.get("resnet") is not None:
            width, depth = "searcher.width", f"searcher.depth ({job.params['resnet']})"
        raise UserError(
            f"{job.stage} of {job.run}: needs about {needed / 1e9:,.1f} GB of memory, {room.of} has "
            f"{room.bytes / 1e9:,.1f} GB; lower {batch}, {width} ({recipe['channels']}), {depth} or the "
            f"images' size ({pictures.size})"
        )


def _nodes(training: Job, makers: dict[str, Job]) -> int:
    """Return the nodes per cell of what a job trains; 4 of a published genotype."""
    if shape := training.params.get("search") or training.params.get("inherited"):
        return int(shape["nodes"])
    path = training.inputs.get("genotype")
    extract = finder(path, makers) if path in makers else None
    if extract and isinstance(extract.params["genotype"], dict):
        return len(extract.params["genotype"].get("normal", [])) or 4
    search = makers.get(extract.inputs.get("alphas", "")) if extract else None
    return int(search.params.get("search", search.params)["nodes"]) if search else 4
