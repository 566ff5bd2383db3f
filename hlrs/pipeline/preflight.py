"""Checks before a job, or any job, starts: disk space, data files, and splits that can be drawn."""

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
    """Raise UserError if results/ or the checkpoints' folder is full or not writable."""
    for folder in (RESULTS, CHECKPOINTS):
        there = next(path for path in (folder, *folder.parents, Path()) if path.exists())
        free = shutil.disk_usage(there).free
        if free < FREE_BYTES:
            raise UserError(
                f"{folder}/: {free / 1e6:.0f} MB free on {platform.node()}, a job needs "
                f"{FREE_BYTES / 1e6:.0f} MB; delete what you do not need (.hlrs/aside, old data) and rerun"
            )
        if not os.access(there, os.W_OK):
            raise UserError(
                f"{folder}/: not writable on {platform.node()}; grant write permission (chmod u+w)"
            )


def check_data(job: Job) -> None:
    """Raise UserError if a data file is unreachable from this node or has changed since the plan."""
    images = job.params.get("images", job.params)
    if "content" not in images:
        return
    source: Source = TypeAdapter(Source).validate_python(images["source"])
    if source.identity is None:
        for named in files_of(source):
            if not os.access(named.path, os.R_OK):
                raise UserError(
                    f"{named.path}: not readable on {platform.node()}; "
                    "store data where every node can read them"
                )
    try:
        content = content_digest(source)
    except UserError as error:
        raise UserError(f"{error} (seen from {platform.node()})") from None
    if content != images["content"]:
        raise UserError(f"{job.run}: the data files changed since this job was planned; rerun snakemake")


def check_splits(jobs: Iterable[Job]) -> None:
    """Raise UserError, before a job is queued, if a missing split cannot be drawn from the images.

    Data that are not on this machine are left to the job that needs them, and so are torchvision's data sets,
    which a node with torch may have to download first.
    """
    for job in jobs:
        if job.stage == "split" and not job.complete:
            source: Source = TypeAdapter(Source).validate_python(job.params["source"])
            if source.identity is not None or not all(Path(n.path).exists() for n in files_of(source)):
                continue
            opened = open_source(source)
            draw(opened.train_labels, opened.test_labels, SplitJob.model_validate(job.params), opened.classes)
