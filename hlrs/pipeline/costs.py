"""Estimate what the jobs of a plan cost, from records of the same parameters or from measurements.

A GPU-hour is one hour on one GPU, a CPU-hour one hour on one core.
"""

from dataclasses import dataclass, replace
from typing import Any

from hlrs.artifacts.jobs import Job
from hlrs.artifacts.records import Record
from hlrs.errors import HlrsError, UserError
from hlrs.pipeline.cost_probe import Calibration, batches, evaluated, gpu_here, signature
from hlrs.pipeline.reasons import checkpoint, epochs
from hlrs.provenance.differences import Past


@dataclass(frozen=True)
class Estimate:
    """The cost of one job."""

    job: Job
    how: str  # records, measured, remembered, running, or unknown
    why: str = ""  # the cost is unknown
    device: str = ""
    gpu: bool = False
    threads: int = 1
    overhead: float = 0.0  # seconds before and after the training, as far as records show them
    training: float = 0.0  # seconds from the first epoch to the last
    done: float = 0.0  # share of the training that a checkpoint holds
    sources: frozenset[str] = frozenset()  # keys of records, or names of measurements
    steps: int = 0  # that were measured
    date: str = ""  # of the measurement
    guessed: bool = False  # whether a random genotype was measured
    waited: float = 0.0  # share of the measurement's time that went by without a free core

    @property
    def seconds(self) -> float:
        """Return the seconds that the job will take."""
        return self.overhead + self.training * (1 - self.done)

    @property
    def hours(self) -> float:
        """Return the GPU-hours or CPU-hours that the job will take."""
        return self.seconds * (1 if self.gpu else self.threads) / 3600

    @property
    def saved(self) -> float:
        """Return the GPU-hours or CPU-hours that a checkpoint saves."""
        return self.training * self.done * (1 if self.gpu else self.threads) / 3600


class Forecast:
    """Estimates the jobs of a plan."""

    def __init__(self, past: Past, calibration: Calibration) -> None:
        self.calibration = calibration
        self.by_stage: dict[str, list[Record]] = {}
        for record in sorted(past.records, key=lambda record: record.ended, reverse=True):
            if record.seconds is not None:
                self.by_stage.setdefault(record.stage, []).append(record)
        self.trainings: dict[tuple[str, str, str], Estimate] = {}  # by stage, parameters and split

    def of(self, job: Job) -> Estimate:
        """Estimate a job; jobs that differ only in seeds and draws share one estimate of the training."""
        if not epochs(job):
            return self._other(job)
        name = job.stage, signature(job.params), self.calibration.split(job.inputs["split"])
        if name not in self.trainings:
            self.trainings[name] = self._training(job)
        threads = job.params[job.stage]["threads"]
        guessed = self.calibration.guesses(job)
        return replace(self.trainings[name], job=job, done=_share_done(job), threads=threads, guessed=guessed)

    def _other(self, job: Job) -> Estimate:
        """Estimate a job without epochs by records of this run, or of comparable ones."""
        weight = _weight(job.stage, job.params)
        known = [r for r in self.by_stage.get(job.stage, []) if _weight(r.stage, r.params) == weight]
        known = [record for record in known if record.run == job.run] or known
        if not known:
            return Estimate(job, "unknown", "no comparable record yet")
        same, device, gpu = _of_one_device(known)
        seconds = sum(record.seconds or 0.0 for record in same) / len(same)
        threads = job.params.get(job.stage, {}).get("threads", 1)
        return Estimate(job, "records", "", device, gpu, threads, seconds, sources=_keys(same))

    def _training(self, job: Job) -> Estimate:
        """Estimate a training by records of the same parameters and split, or by a measurement."""
        wanted = signature(job.params), self.calibration.split(job.inputs["split"])
        same = [
            r for r in self.by_stage.get(job.stage, []) if (signature(r.params), self._split(r)) == wanted
        ]
        same = [r for r in same if _trains(r, batches(job))]
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

    def _split(self, record: Record) -> str | None:
        return self.calibration.split(record.inputs["split"].path) if "split" in record.inputs else None

    def _recorded(self, job: Job, records: list[Record]) -> Estimate:
        same, device, gpu = _of_one_device(records)
        overhead, training = _mean_training(same, batches(job))
        return Estimate(job, "records", "", device, gpu, 1, overhead, training, sources=_keys(same))

    def _measured(self, job: Job) -> Estimate:
        numbers = batches(job)
        if not any(numbers):
            raise UserError("reads no images, and has no comparable record yet")
        found = self.calibration.throughput(job)
        return Estimate(
            job,
            "measured" if found.fresh else "remembered",
            device=found.device,
            gpu=found.gpu,
            training=found.seconds(numbers, evaluated(job, self.calibration.held(job))),
            sources=frozenset(
                [f"{job.stage} {signature(job.params)} {self.calibration.split(job.inputs['split'])}"]
            ),
            steps=sum(p.steps for p in found.paces.values()),
            date=found.date,
            waited=found.waited,
        )


# --- records ------------------------------------------------------------------------------------------


def _trained(record: Record, numbers: list[int]) -> tuple[float, float]:
    """Return the seconds outside the training and those of it, given the batches per step of each epoch.

    After a resume, a record's duration is that of the last process, and the throughput of the epoch in which
    it resumed covers only the rest of that epoch; it is extrapolated to the whole one if that reads images.
    """
    epochs = record.throughput or []
    images = [epoch["seconds"] * epoch["images_per_second"] for epoch in epochs]
    read = [(numbers[epoch["epoch"]], epoch, count) for count, epoch in zip(images, epochs, strict=True)]
    unit = max((count / number for number, _, count in read if number), default=0.0)
    training = sum(
        unit * number / epoch["images_per_second"] if number else epoch["seconds"]
        for number, epoch, _ in read
    )
    inside = sum(epoch["seconds"] for epoch in epochs)
    if record.resumes and record.training_seconds is not None:
        inside = record.training_seconds
    return max(0.0, (record.seconds or 0.0) - inside), training


def _mean_training(records: list[Record], numbers: list[int]) -> tuple[float, float]:
    """Return the mean of `_trained` over records."""
    trained = [_trained(record, numbers) for record in records]
    overhead, training = (sum(part) / len(records) for part in zip(*trained, strict=True))
    return overhead, training


def _of_one_device(records: list[Record]) -> tuple[list[Record], str, bool]:
    """Return the records of the first one's device, its name, and whether it is a GPU."""
    device = _device(records[0])
    return [record for record in records if _device(record) == device], *device


def _trains(record: Record, numbers: list[int]) -> bool:
    """Return whether a record suffices to estimate a training, given the batches per step of each epoch."""
    paces = record.throughput or []
    sound = all(
        pace["epoch"] < len(numbers) and (pace["images_per_second"] > 0 or not numbers[pace["epoch"]])
        for pace in paces
    )
    return bool(paces) and sound and record.training_seconds is not None and record.resumes is not None


def _device(record: Record) -> tuple[str, bool]:
    gpu = record.gpu_name
    return (gpu, True) if gpu else (f"CPU, {record.cpu or 'unknown'}", False)


def _keys(records: list[Record]) -> frozenset[str]:
    return frozenset(record.key for record in records)


def _weight(stage: str, params: dict[str, Any]) -> list[Any]:
    """Return what the cost of a stage without epochs mostly depends on."""
    images, retrain = _section(params.get("images", params)), _section(params.get("retrain"))
    network = [images.get("image_size"), params.get("resnet"), retrain.get("channels"), retrain.get("cells")]
    kinds = {
        "split": [images.get("source")],
        "search": [params.get("searcher"), params.get("search"), images.get("image_size")],
        "evaluate": [images.get("source"), *network],
    }
    return kinds.get(stage, [])


def _section(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _share_done(job: Job) -> float:
    """Return the share of a training, in whole epochs, that its checkpoint holds."""
    held, numbers = checkpoint(job), batches(job)
    if not any(numbers):
        numbers = [1] * len(numbers)
    return sum(numbers[: held[0]]) / sum(numbers) if held else 0.0
