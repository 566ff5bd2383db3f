"""Split: draw the long-tailed split of a data set."""

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlrs.artifacts.data_digest import data_files, file_digests, leaks
from hlrs.artifacts.files import printable, write_json
from hlrs.artifacts.jobs import Job
from hlrs.artifacts.tables import SUBSETS, write_table
from hlrs.config.data import Source
from hlrs.config.jobs import SplitJob
from hlrs.data.sources.base import ImageSource
from hlrs.data.sources.open import open_source
from hlrs.data.split import draw
from hlrs.errors import UserError, about

CHECK_SECONDS = 60.0  # for decoding the images of a split
BATCH = 256  # images among which broken ones are looked for


def run(job: Job) -> dict[str, Any]:
    """Write split.parquet, classes.json and files.parquet, which records the bytes of their origin."""
    spec = SplitJob.model_validate(job.params)
    with about(f"datasets.{job.run}"):
        source = open_source(spec.source)
        columns = draw(source.train_labels, source.test_labels, spec, source.classes)
        remarks = [*source.remarks, *leaks(source), *source.check(columns["index"], CHECK_SECONDS)]
    for remark in remarks:
        print(f"{job.run}  {remark}", file=sys.stderr)
    write_table(job.output("split.parquet"), "split", columns)
    labels = {subset: columns["label"][columns["subset"] == subset] for subset in SUBSETS}
    counts = {
        subset: np.bincount(of, minlength=len(source.classes)).tolist() for subset, of in labels.items()
    }
    write_json(job.output("classes.json"), {"names": source.classes, "counts": counts})
    write_table(job.output("files.parquet"), "files", files(spec.source))
    return {}


def check_images(job: Job) -> None:
    """Decode every image of a split's source; UserError if some cannot be, after a line for each."""
    source = open_source(SplitJob.model_validate(job.params).source)
    every = np.arange(len(source.train_labels) + len(source.test_labels))
    try:
        remarks = source.check(every, math.inf)
    except UserError:
        broken = [
            error
            for start in range(0, len(every), BATCH)
            for error in faults(source, every[start : start + BATCH])
        ]
        if len(broken) < 2:
            raise
        for error in broken:
            print(f"hlrs: {printable(str(error))}", file=sys.stderr)
        found = f"datasets.{job.run}: {len(broken):,} of {len(every):,} images cannot be read"
        raise UserError(f"{found}; renew or remove those named above") from None
    for remark in remarks:
        print(f"{job.run}  {remark}", file=sys.stderr)


def faults(source: ImageSource, indices: NDArray[np.int64]) -> list[UserError]:
    """Find the images that cannot be read, by halving; return the error of each."""
    try:
        source.read(indices, size=1)
    except UserError as error:
        if len(indices) == 1:
            return [error]
        return [fault for half in np.array_split(indices, 2) for fault in faults(source, half)]
    return []


def files(source: Source) -> dict[str, list[Any]]:
    """Return name, size and SHA-256 of every file of a source; names, as paths differ between machines."""
    names, paths = zip(*data_files(source), strict=True)
    digests = file_digests(paths)  # first, as it reports missing files
    return {"name": list(names), "bytes": [path.stat().st_size for path in paths], "sha256": digests}
