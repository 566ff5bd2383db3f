"""The long-tailed split of a data set."""

from typing import Any

import numpy as np

from hlrs.artifacts import SUBSETS, Job, write_json, write_table
from hlrs.config import SplitJob
from hlrs.data.sources import open_source
from hlrs.data.split import draw


def run(job: Job) -> dict[str, Any]:
    """Write `split.parquet` and `classes.json`; returns no facts for the record. UserError for bad data."""
    params = SplitJob.model_validate(job.params).model_dump()
    source = open_source(params["source"])
    columns = draw(source.train_labels, source.test_labels, params, source.classes)
    write_table(job.output("split.parquet"), "split", columns)
    labels = {subset: columns["label"][columns["subset"] == subset] for subset in SUBSETS}
    counts = {
        subset: np.bincount(of, minlength=len(source.classes)).tolist() for subset, of in labels.items()
    }
    write_json(job.output("classes.json"), {"names": source.classes, "counts": counts})
    return {}
