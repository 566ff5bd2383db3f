"""Checks before a job, or any job, starts: disk space, data files, and splits that can be drawn."""

import os
import platform
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from hlrs.artifacts.data_digest import content_digest, leaks
from hlrs.artifacts.jobs import ASIDE, CHECKPOINTS, RESULTS, Job
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
                f"{FREE_BYTES / 1e6:.0f} MB; delete what you do not need ({ASIDE}, old data) and rerun"
            )
        if not os.access(there, os.W_OK):
            raise UserError(
                f"{folder}/: not writable on {platform.node()}; grant write permission (chmod u+w)"
            )


def check_data(job: Job) -> None:
    """Raise UserError if a data file is unreachable from this node or has changed since the plan."""
    images = _images_of(job)
    if not images:
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


def check_present(jobs: Iterable[Job]) -> None:
    """Raise UserError, before a job is queued, if one needs data of which only DVC's pointer is here."""
    for images in {str(images): images for job in jobs if (images := _images_of(job))}.values():
        source: Source = TypeAdapter(Source).validate_python(images["source"])
        for path in (of.path for of in files_of(source) if source.identity is None):
            if Path(f"{path}.dvc").is_file() and not Path(path).exists():
                raise UserError(f"{path}: not here, but jobs need it; `dvc pull {path}.dvc` fetches it")


def check_splits(jobs: Iterable[Job], remark: Callable[[str], None]) -> None:
    """Raise UserError, before a job is queued, if a missing split cannot be drawn from the images.

    Pass to `remark` what a user should know of the images. Torchvision's data sets are left to the split's
    job, since a node with torch may have to download them first.
    """
    for job in jobs:
        if job.stage == "split" and not job.complete:
            spec = SplitJob.model_validate(job.params)
            if spec.source.identity is None:
                source = open_source(spec.source)
                draw(source.train_labels, source.test_labels, spec, source.classes)
                for text in (*source.remarks, *leaks(source)):
                    remark(f"{job.run}: {text}")


def _images_of(job: Job) -> dict[str, Any]:
    """Return the part of a job's parameters that describes its images; empty if it reads none."""
    images: dict[str, Any] = job.params.get("images", job.params)
    return images if "content" in images else {}
