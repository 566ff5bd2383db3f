"""Estimate what the jobs of a plan cost, from records of the same parameters or measurements.

A GPU-hour is an hour of one GPU, a CPU-hour one of one core.
"""

from dataclasses import dataclass, replace
from typing import Any

from hlrs.artifacts.jobs import Job
from hlrs.artifacts.records import Record
from hlrs.config.jobs import parse
from hlrs.errors import HlrsError
from hlrs.pipeline.cost_probe import Calibration, batches, batches_of, gpu_here, signature
from hlrs.pipeline.reasons import checkpoint
from hlrs.provenance.differences import Past

TRAINED = ("search", "retrain")  # the stages with epochs


@dataclass(frozen=True)
class Estimate:
    """The cost of one job, including start and end if records show them."""

    job: Job
    how: str  # records, measured, remembered, or unknown
    why: str = ""  # of an unknown one
    device: str = ""
    gpu: bool = False
    threads: int = 1
    overhead: float = 0.0  # seconds before and after the training
    training: float = 0.0  # seconds of it from the first epoch to the last
    done: float = 0.0  # share of it that a checkpoint holds
    sources: frozenset[str] = frozenset()  # keys of records, or names of measurements
    steps: int = 0  # measured
    date: str = ""  # of the measurement
    guessed: bool = False  # measured with a random genotype

    @property
    def seconds(self) -> float:
        """Seconds left to do."""
        return self.overhead + self.training * (1 - self.done)

    @property
    def hours(self) -> float:
        """GPU-hours or CPU-hours."""
        return self.seconds * (1 if self.gpu else self.threads) / 3600

    @property
    def saved(self) -> float:
        """GPU-hours or CPU-hours that a checkpoint saves."""
        return self.training * self.done * (1 if self.gpu else self.threads) / 3600


class Forecast:
    """Estimates for the jobs of a plan."""

    def __init__(self, past: Past, calibration: Calibration) -> None:
        self.past, self.calibration = past, calibration
        self.by_stage: dict[str, list[Record]] = {}
        for record in sorted(past.records, key=lambda record: record.ended, reverse=True):
            if record.seconds is not None:
                self.by_stage.setdefault(record.stage, []).append(record)
        self.found: dict[tuple[str, str, str], Estimate] = {}

    def of(self, job: Job) -> Estimate:
        """The estimate for a job; the same for jobs that differ in nothing but the seeds."""
        if job.stage in TRAINED and "images" in job.params:  # a random search has none
            name = job.stage, signature(job.params), job.inputs["split"]
            if name not in self.found:
                self.found[name] = self._training(job)
            threads = job.params[job.stage]["threads"]
            guessed = self.calibration.guesses(job)
            return replace(self.found[name], job=job, done=_share_done(job), threads=threads, guessed=guessed)
        return self._other(job)

    def _other(self, job: Job) -> Estimate:
        """A stage without epochs takes as long as its like took before: for this run, else for others."""
        known = self.by_stage.get(job.stage, [])
        known = [
            record for record in known if _weight(job.stage, record.params) == _weight(job.stage, job.params)
        ]
        known = [record for record in known if record.run == job.run] or known
        if not known:
            return Estimate(job, "unknown", "no comparable record yet")
        same, device, gpu = _of_one_device(known)
        seconds = sum(record.seconds or 0.0 for record in same) / len(same)
        threads = job.params.get(job.stage, {}).get("threads", 1)
        return Estimate(job, "records", "", device, gpu, threads, seconds, sources=_keys(same))

    def _training(self, job: Job) -> Estimate:
        """From records of the same parameters and split, else from a measurement."""
        wanted = signature(job.params), job.inputs["split"]
        same = [r for r in self.by_stage.get(job.stage, []) if _trains(r)]
        same = [r for r in same if (signature(r.params), _split(r)) == wanted]
        if not all(record.gpu for record in same) and gpu_here():
            same = [record for record in same if record.gpu]
        same = [record for record in same if record.code == job.code] or same
        if same:
            return self._recorded(job, same)
        try:
            return self._measured(job)
        except HlrsError as error:
            return Estimate(job, "unknown", str(error))
        except ModuleNotFoundError as error:
            return Estimate(job, "unknown", f"{error.name} is not installed here")

    def _recorded(self, job: Job, records: list[Record]) -> Estimate:
        same, device, gpu = _of_one_device(records)
        overhead, training = _mean_training(same)
        return Estimate(job, "records", "", device, gpu, 1, overhead, training, sources=_keys(same))

    def _measured(self, job: Job) -> Estimate:
        found = self.calibration.throughput(job)
        numbers = batches(job)
        return Estimate(
            job,
            "measured" if found.fresh else "remembered",
            device=found.device,
            gpu=found.gpu,
            training=found.seconds(numbers),
            sources=frozenset([f"{job.stage} {signature(job.params)} {job.inputs['split']}"]),
            steps=sum(p.steps for p in found.paces.values()),
            date=found.date,
        )


# --- records ------------------------------------------------------------------------------------------


def _trained(record: Record) -> tuple[float, float]:
    """Seconds before and after the training, and seconds of the training.

    After a resume the record's duration is the last process's, and the throughput of the epoch it resumed in
    covers only the rest of that epoch: it is extrapolated to the whole epoch.
    """
    epochs = record.throughput or []
    numbers = batches_of(parse(record.stage, record.params))
    images = [epoch["seconds"] * epoch["images_per_second"] for epoch in epochs]
    unit = max(count / numbers[epoch["epoch"]] for count, epoch in zip(images, epochs, strict=True))
    training = sum(unit * numbers[epoch["epoch"]] / epoch["images_per_second"] for epoch in epochs)
    inside = sum(epoch["seconds"] for epoch in epochs)
    if record.resumes and record.training_seconds is not None:
        inside = record.training_seconds
    return max(0.0, (record.seconds or 0.0) - inside), training


def _mean_training(records: list[Record]) -> tuple[float, float]:
    """The means of `_trained`."""
    overhead, training = (sum(part) / len(records) for part in zip(*map(_trained, records), strict=True))
    return overhead, training


def _of_one_device(records: list[Record]) -> tuple[list[Record], str, bool]:
    """The records of the newest one's device, its name, and whether it is a GPU; newest first."""
    device = _device(records[0])
    return [record for record in records if _device(record) == device], *device


def _trains(record: Record) -> bool:
    """Whether a record has what an estimate of a training needs."""
    return bool(record.throughput) and record.training_seconds is not None and record.resumes is not None


def _device(record: Record) -> tuple[str, bool]:
    gpu = record.gpu_name
    return (gpu, True) if gpu else (f"CPU, {record.cpu or 'unknown'}", False)


def _keys(records: list[Record]) -> frozenset[str]:
    return frozenset(record.key for record in records)


def _weight(stage: str, params: dict[str, Any]) -> list[Any]:
    """Return what the cost of a stage without epochs depends on most; records must share it."""
    images, retrain = params.get("images", params), params.get("retrain", {})
    network = [images.get("image_size"), params.get("resnet"), retrain.get("channels"), retrain.get("cells")]
    kinds = {"split": [images.get("source")], "evaluate": [images.get("source"), *network]}
    return kinds.get(stage, [params.get("searcher")])  # a random search is like no other


def _split(record: Record) -> str | None:
    return record.inputs["split"].path if "split" in record.inputs else None


def _share_done(job: Job) -> float:
    """The share of a training that its checkpoint holds, in whole epochs."""
    held = checkpoint(job)
    numbers = batches(job)
    return sum(numbers[: held[0]]) / sum(numbers) if held else 0.0
