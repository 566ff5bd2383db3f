"""What jobs cost, from their records: hours, speed, memory, resumes, start-up."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cost:
    """Of some jobs together; None where no record tells. `unknown`: jobs whose time is not recorded."""

    jobs: int
    unknown: int
    gpu_hours: float  # of the jobs on a GPU
    cpu_hours: float  # of the others: hours × threads
    images_per_second: float | None  # median over the epochs of all
    host_memory: int | None  # bytes, the largest of the jobs
    gpu_memory: int | None
    resumes: int | None
    startup: float | None  # seconds from the process's start to the first step or image, median


def cost(records: Iterable[dict[str, Any]]) -> Cost:
    """The cost of the jobs of some records."""
    records = list(records)
    known = [(seconds, record) for record in records if (seconds := worked(record)) is not None]
    speeds = [row["images_per_second"] for r in records for row in r.get("throughput") or []]
    startups = [_startup(record) for record in records if record.get("startup")]
    resumes = [record["resumes"] for record in records if record.get("resumes") is not None]
    return Cost(
        jobs=len(records),
        unknown=len(records) - len(known),
        gpu_hours=math.fsum(seconds for seconds, record in known if record.get("gpu")) / 3600,
        cpu_hours=math.fsum(s * _threads(record) for s, record in known if not record.get("gpu")) / 3600,
        images_per_second=statistics.median(speeds) if speeds else None,
        host_memory=_largest(record.get("peak_memory_bytes") for record in records),
        gpu_memory=_largest((record.get("gpu") or {}).get("peak_memory_bytes") for record in records),
        resumes=sum(resumes) if resumes else None,
        startup=statistics.median(startups) if startups else None,
    )


def worked(record: dict[str, Any]) -> float | None:
    """Seconds that a job worked for its result, None if not recorded.

    After a resume the record's duration is the last process's: the epochs' own times stand for the training
    then. What an interrupted epoch took before its last resume is in neither.
    """
    if record.get("seconds") is None:
        return None
    seconds = float(record["seconds"])
    if not record.get("resumes") or record.get("training_seconds") is None:
        return seconds
    epochs = math.fsum(row["seconds"] for row in record.get("throughput") or [])
    return max(0.0, seconds - float(record["training_seconds"])) + epochs


def _threads(record: dict[str, Any]) -> int:
    own = (record.get("params") or {}).get(record.get("stage")) or {}
    return int(own.get("threads", 1))


def _startup(record: dict[str, Any]) -> float:
    startup = record["startup"]
    return float(startup.get("imports_seconds") or 0.0) + float(startup.get("setup_seconds") or 0.0)


def _largest(sizes: Iterable[int | None]) -> int | None:
    return max((size for size in sizes if size is not None), default=None)
