"""What is looked at before a job starts, or before any does: disk, data files, and what a split can draw."""

import os
import platform
import shutil
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter

from hlrs.artifacts.data_digest import content_digest
from hlrs.artifacts.jobs import CHECKPOINTS, RESULTS, Job
from hlrs.config.data import Source
from hlrs.config.jobs import SplitJob
from hlrs.data.sources.open import files_of, open_source
from hlrs.data.split import draw
from hlrs.errors import UserError

# Predictions of 50,000 images in 1,000 classes take 200 MB, two checkpoints of the authors' networks 60 MB.
FREE_BYTES = 300_000_000


def check_disk() -> None:
    """Room for results and checkpoints; UserError that names the folder, its free space and the remedy."""
    for folder in (RESULTS, CHECKPOINTS):
        there = next(path for path in (folder, *folder.parents, Path()) if path.exists())
        free = shutil.disk_usage(there).free
        if free < FREE_BYTES:
            raise UserError(
                f"{folder}/: {free / 1e6:.0f} MB free on {platform.node()}, a job needs "
                f"{FREE_BYTES / 1e6:.0f} MB; delete what is not needed (.hlrs/aside, old data) and run again"
            )
        if not os.access(there, os.W_OK):
            raise UserError(
                f"{folder}/: cannot be written to on {platform.node()}; give its owner the right to"
            )


def check_data(job: Job) -> None:
    """The data files are reachable from here and are what the job was planned with; UserError otherwise."""
    images = job.params.get("images", job.params)
    if "content" not in images:
        return
    source: Source = TypeAdapter(Source).validate_python(images["source"])
    if source.identity is None:
        for named in files_of(source):
            if not os.access(named.path, os.R_OK):
                raise UserError(
                    f"{named.path}: not readable on {platform.node()}; "
                    "data must lie where every node reaches them"
                )
    try:
        content = content_digest(source)
    except UserError as error:
        raise UserError(f"{error} (seen from {platform.node()})") from None
    if content != images["content"]:
        raise UserError(f"{job.run}: the data files changed since this job was planned; run snakemake again")


def check_splits(jobs: Iterable[Job]) -> None:
    """Splits that are not made yet can be drawn from the images there are; UserError before a job is queued.

    What is not here is left to the job that needs it, and so are torchvision's data sets: they may have to be
    downloaded first, by a node that has torch.
    """
    for job in jobs:
        if job.stage == "split" and not job.complete:
            source: Source = TypeAdapter(Source).validate_python(job.params["source"])
            if source.identity is not None or not all(Path(n.path).exists() for n in files_of(source)):
                continue
            opened = open_source(source)
            draw(opened.train_labels, opened.test_labels, SplitJob.model_validate(job.params), opened.classes)
