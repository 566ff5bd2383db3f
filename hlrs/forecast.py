"""What the jobs of a plan cost, and how that is known: from records, scaled from one, or measured.

A GPU-hour is an hour of one GPU, a CPU-hour one of one core.
"""

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hlrs.artifacts import Job
from hlrs.calibration import SEEDS, Calibration, batches, batches_of, gpu_here, offline, signature
from hlrs.config import RetrainJob, SearchJob
from hlrs.errors import HlrsError
from hlrs.plan import ASIDE
from hlrs.reasons import Past, Record, checkpoint, differences

NEAR = 1.5  # ratio of multiply-adds up to which the time a step takes is taken to follow them
TRAINED = ("search", "retrain")  # the stages with epochs


@dataclass(frozen=True)
class Estimate:
    """What one job costs, start and end included where records tell of them."""

    job: Job
    how: str  # records, scaled, measured, remembered, or unknown
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
    near: bool = True  # scaled from a like network and batch size
    guessed: bool = False  # measured with a random genotype

    @property
    def seconds(self) -> float:
        """What is left to do."""
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
        for record in sorted(past.records, key=lambda record: str(record["ended"]), reverse=True):
            if "seconds" in record:
                self.by_stage.setdefault(record["stage"], []).append(record)
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
            record
            for record in known
            if _weight(job.stage, record["params"]) == _weight(job.stage, job.params)
        ]
        known = [record for record in known if record["run"] == job.run] or known
        if not known:
            return Estimate(job, "unknown", "no record of their like yet")
        same, device, gpu = _of_one_device(known)
        seconds = sum(record["seconds"] for record in same) / len(same)
        threads = job.params.get(job.stage, {}).get("threads", 1)
        return Estimate(job, "records", "", device, gpu, threads, seconds, sources=_keys(same))

    def _training(self, job: Job) -> Estimate:
        """From records of the same parameters, else scaled from the nearest one, else measured."""
        known = [r for r in self.by_stage.get(job.stage, []) if _trains(r) and _alike(r, job)]
        if not all(record.get("gpu") for record in known) and gpu_here():
            known = [record for record in known if record.get("gpu")]
        same = [
            r
            for r in known
            if signature(r["params"]) == signature(job.params) and _split(r) == job.inputs["split"]
        ]
        same = [record for record in same if record["code"] == job.code] or same
        if same:
            return self._recorded(job, same)
        scaled = self._scaled(job, known) if known else None
        if scaled and (scaled.near or (scaled.gpu and self._out_of_reach(job))):
            return scaled
        try:
            return self._measured(job)
        except HlrsError as error:
            why = str(error)
        except ModuleNotFoundError as error:
            why = f"{error.name} is not installed here"
        return scaled or Estimate(job, "unknown", why)

    def _out_of_reach(self, job: Job) -> bool:
        """Whether there is no GPU here, and none was that a training was measured on."""
        held = self.calibration.remembered(job)
        return not gpu_here() and not (held and held.gpu)

    def _recorded(self, job: Job, records: list[Record]) -> Estimate:
        same, device, gpu = _of_one_device(records)
        overhead, training, _ = _mean_training(same)
        return Estimate(job, "records", "", device, gpu, 1, overhead, training, sources=_keys(same))

    def _scaled(self, job: Job, known: list[Record]) -> Estimate | None:
        """What the nearest record and its like took, by the ratio of images and of multiply-adds.

        None where data or torch, which counts multiply-adds, are not there.
        """
        nearest = min(known, key=functools.partial(_distance, job))
        alike = [r for r in known if signature(r["params"]) == signature(nearest["params"])]
        alike = [record for record in alike if _split(record) == _split(nearest)]
        same, device, gpu = _of_one_device(alike)
        overhead, training, images = _mean_training(same)
        try:
            ratio, network = self._images(job) / images, _network_ratio(job, nearest)
        except (HlrsError, ModuleNotFoundError):
            return None
        training *= ratio * network
        sizes = (params[job.stage]["batch_size"] for params in (job.params, nearest["params"]))
        near = 1 / NEAR <= network <= NEAR and len({*sizes}) == 1
        sources = _keys(same)
        return Estimate(job, "scaled", "", device, gpu, 1, overhead, training, sources=sources, near=near)

    def _images(self, job: Job) -> int:
        """The images that all steps of a training take."""
        counts, size = self.calibration.counts(job), int(job.params[job.stage]["batch_size"])
        images = counts["weights"] + (counts["alphas"] if job.stage == "retrain" else 0)
        return self.calibration.steps(job) * sum(batches(job)) * min(size, images)

    def _measured(self, job: Job) -> Estimate:
        pace = self.calibration.pace(job)
        numbers = batches(job)
        return Estimate(
            job,
            "measured" if pace.fresh else "remembered",
            device=pace.device,
            gpu=pace.gpu,
            training=pace.seconds(numbers),
            sources=frozenset([f"{job.stage} {signature(job.params)} {job.inputs['split']}"]),
            steps=sum(p.steps for p in pace.paces.values()),
            date=pace.date,
        )


# --- records ------------------------------------------------------------------------------------------


def _trained(record: Record) -> tuple[float, float, float]:
    """Seconds before and after the training, seconds of the training, images of all its steps.

    After a resume the record's duration is the last process's, and the epoch it came into is told of from
    there on: such an epoch counts whole, at its pace.
    """
    epochs = record["throughput"]
    numbers = batches_of(record["stage"], record["params"])
    images = [epoch["seconds"] * epoch["images_per_second"] for epoch in epochs]
    unit = max(count / numbers[epoch["epoch"]] for count, epoch in zip(images, epochs, strict=True))
    whole = [unit * numbers[epoch["epoch"]] for epoch in epochs]
    training = sum(count / epoch["images_per_second"] for count, epoch in zip(whole, epochs, strict=True))
    inside = record["training_seconds"] if record["resumes"] else sum(epoch["seconds"] for epoch in epochs)
    return max(0.0, record["seconds"] - inside), training, sum(whole)


def _mean_training(records: list[Record]) -> tuple[float, float, float]:
    """The means of `_trained`."""
    overhead, training, images = (
        sum(part) / len(records) for part in zip(*map(_trained, records), strict=True)
    )
    return overhead, training, images


def _of_one_device(records: list[Record]) -> tuple[list[Record], str, bool]:
    """The records of the newest one's device, its name, and whether it is a GPU; newest first."""
    device = _device(records[0])
    return [record for record in records if _device(record) == device], *device


def _trains(record: Record) -> bool:
    """Whether a record tells of a training, in the terms of today's parameters."""
    model = SearchJob if record["stage"] == "search" else RetrainJob
    try:
        model.model_validate(record["params"])
    except ValidationError:
        return False
    return bool(record.get("throughput")) and {"training_seconds", "resumes"} <= record.keys()


def _device(record: Record) -> tuple[str, bool]:
    gpu = record.get("gpu")
    return (gpu["name"], True) if gpu else (f"CPU, {record.get('cpu') or 'unknown'}", False)


def _keys(records: list[Record]) -> frozenset[str]:
    return frozenset(record["key"] for record in records)


def _weight(stage: str, params: dict[str, Any]) -> list[Any]:
    """What the cost of a stage without epochs depends on most: only records with the same tell of it."""
    images, retrain = params.get("images", params), params.get("retrain", {})
    network = [images.get("image_size"), params.get("resnet"), retrain.get("channels"), retrain.get("cells")]
    kinds = {"split": [images.get("source")], "evaluate": [images.get("source"), *network]}
    return kinds.get(stage, [params.get("searcher")])  # a random search is like no other


def _split(record: Record) -> Any:
    return record["inputs"].get("split", {}).get("path")


def _alike(record: Record, job: Job) -> bool:
    """Whether a training does the same in a step but for the sizes: only then its cost can be scaled."""

    def kind(params: dict[str, Any], stage: str) -> list[Any]:
        threads = None if record.get("gpu") else params[stage].get("threads", 1)
        resnet = params.get("resnet") is not None  # its steps are not those of a network of cells
        return [params.get("searcher"), resnet, params[stage].get("recompute", False), threads]

    return kind(record["params"], job.stage) == kind(job.params, job.stage)


def _distance(job: Job, record: Record) -> int:
    alike = dict.fromkeys(SEEDS)
    return sum(1 for _ in differences(record["params"] | alike, job.params | alike))


def _share_done(job: Job) -> float:
    """The share of a training that its checkpoint holds, in whole epochs."""
    held = checkpoint(job)
    numbers = batches(job)
    return sum(numbers[: held[0]]) / sum(numbers) if held else 0.0


# --- networks -----------------------------------------------------------------------------------------


def _network_ratio(job: Job, record: Record) -> float:
    """Multiply-adds of a job's network for an image of one branch, over those of a record's network."""
    new, old = (_layout(job.stage, params) for params in (job.params, record["params"]))
    if new == old:  # the genotypes may differ, as they do from seed to seed
        return 1.0
    if job.stage == "search":
        networks = ["supernet", "supernet"]
    elif job.params["resnet"]:
        networks = [f"resnet{params['resnet']}" for params in (job.params, record["params"])]
    else:
        there = [path for path in (Path(job.inputs["genotype"]), *_genotypes(record)) if path.is_file()]
        networks = [str(there[0]), str(there[-1])] if there else ["DARTS_V2", "DARTS_V2"]
    return _multiply_adds(networks[0], *new) / _multiply_adds(networks[1], *old)


def _genotypes(record: Record) -> list[Path]:
    path = Path(record["inputs"]["genotype"]["path"])
    return [path, ASIDE / path]


def _layout(stage: str, params: dict[str, Any]) -> tuple[str, str, str, int, int, int]:
    """What a network's multiply-adds depend on: images, stem, channels, cells, nodes of a supernet's cell."""
    images, sizes = params["images"], params[stage]
    source, size = json.dumps(images["source"], sort_keys=True), json.dumps(images["image_size"])
    return source, size, images["stem"], sizes["channels"], sizes["cells"], sizes.get("nodes", 4)


@functools.cache
def _multiply_adds(
    network: str, source: str, size: str, stem: str, channels: int, cells: int, nodes: int
) -> int:
    from hlrs.data.sources import open_source
    from hlrs.describe import RESNETS, describe

    opened = open_source(offline(json.loads(source)))
    pixels = opened.read([0], json.loads(size))
    facts = describe(
        network,
        stem=stem,
        channels=None if network in RESNETS else channels,
        cells=None if network in RESNETS else cells,
        nodes=nodes,
        classes=len(opened.classes),
        image_size=pixels.shape[2],
        in_channels=pixels.shape[1],
        auxiliary=False,
    )
    return int(facts["multiply_adds"])
