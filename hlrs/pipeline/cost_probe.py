"""Measure trainings without a record for a few seconds, and save the result in `.hlrs/calibration.json`.

The stage's own task runs on a sample of its split's images, so that a large data set is not read whole.
"""

import dataclasses
import hashlib
import importlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from hlrs.artifacts.cache import Cache
from hlrs.artifacts.files import read_json, write_json
from hlrs.artifacts.jobs import Job
from hlrs.artifacts.tables import SCHEMAS, read_table, write_table
from hlrs.config.data import Source, Torchvision
from hlrs.config.jobs import ExtractJob, Images, RetrainJob, SearchJob, SplitJob, parse
from hlrs.config.methods import Softmax
from hlrs.config.spaces import Space
from hlrs.errors import Failure, UserError, about, out_of_memory
from hlrs.longtail.mixing import mixing_at
from hlrs.nas import arch_lr, selection
from hlrs.nas.genotype import DERIVATIONS, Genotype, given
from hlrs.training.device import choose
from hlrs.training.throughput import Throughput

MEMORY = Path(".hlrs/calibration.json")  # name of a training -> device -> what was measured
FORWARD = 1 / 3  # share of a step that is its forward passes
SECONDS = 3.0  # of steps, for each kind of epoch
SAMPLE = 16  # steps whose images, at most, are read of each subset
SEEDS = ("seed", "retrain_seed")  # of a job: they do not change what it costs


@dataclass(frozen=True)
class Measurement:
    """The throughput of a training on a device."""

    device: str
    gpu: bool
    steps: int  # per epoch
    paces: dict[int, Throughput]  # by batches per step
    date: str
    waited: float = 0.0  # share of the time in which its threads could run that they waited for a core
    fresh: bool = False  # measured by this process

    def seconds(self, batches: list[int], evaluated: float = 0) -> float:
        """Return the seconds of all epochs, given the batches per step of each, and those only evaluated.

        Epochs without images, which take far less, are left out.
        """
        of_one = min(pace.seconds / number for number, pace in self.paces.items())
        trained = sum(self.paces[number].seconds for number in batches if number)
        return self.steps * (trained + FORWARD * of_one * evaluated)


Count = Annotated[int, Field(ge=1, le=10**9)]


class Entry(BaseModel):
    """A measurement as it is saved."""

    gpu: bool
    steps: Count
    paces: dict[Count, tuple[Count, Annotated[float, Field(gt=0, le=1e6)]]]
    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
    waited: Annotated[float, Field(ge=0, le=1)]


class Calibration:
    """Measures trainings among the jobs of a plan; `say` receives what is being measured."""

    def __init__(self, jobs: list[Job], say: Callable[[str], None]) -> None:
        self.makers = {path: job for job in jobs for path in job.outputs}
        self.drawn: dict[str, str] = {}  # split -> the first that differs from it in its draw alone
        first: dict[str, str] = {}
        for job in jobs:
            if job.stage == "split":
                path = str(job.output("split.parquet"))
                self.drawn[path] = first.setdefault(signature(job.params), path)
        self.say = say
        self.splits: dict[str, tuple[dict[str, Any], list[str]]] = {}
        self.cache = Cache[dict[str, Entry]](MEMORY, dict[str, Entry])
        self.known = self.cache.read()

    def remembered(self, job: Job) -> Measurement | None:
        """Return a saved measurement of a training; one of a CPU only if there is no GPU."""
        entries = self.known.get(self._name(job), {}).items()
        read = filter(None, batches(job))
        known = [_measurement(device, entry) for device, entry in entries]
        whole = [measurement for measurement in known if measurement.paces.keys() >= set(read)]
        usable = [measurement for measurement in whole if measurement.gpu or not gpu_here()]
        return max(usable, key=lambda measurement: (measurement.gpu, measurement.date), default=None)

    def split(self, path: str) -> str:
        """Return the split that stands for all draws of the same images, which cost the same to train on."""
        return self.drawn.get(path, path)

    def throughput(self, job: Job) -> Measurement:
        """Return the saved throughput of a training, or measure it.

        Raises HlrsError if data are missing or memory is too small, ModuleNotFoundError without torch.
        """
        known = self.remembered(job)
        if known:
            return known
        steps, (device, gpu) = self.steps(job), _device(job)
        self.say(f"measuring {job.stage} of {job.run} on {device}")
        numbers = batches(job)
        epochs = {number: numbers.index(number) for number in sorted(set(numbers)) if number}
        paces, waited = self._probe(job, list(epochs.values()), device)
        pace, today = dict(zip(epochs, paces, strict=True)), datetime.now(UTC).date().isoformat()
        measured = Measurement(device, gpu, steps, pace, today, waited, fresh=True)
        entry = Entry(gpu=gpu, steps=steps, paces=pace, date=today, waited=waited)
        self.known.setdefault(self._name(job), {})[device] = entry
        self.cache.write(self.known)
        return measured

    def _name(self, job: Job) -> str:
        """What a measurement holds for: everything but seeds, draws, and which network is retrained."""
        there = Path(job.inputs["genotype"]).exists() if "genotype" in job.inputs else None
        facts = [job.stage, signature(job.params), job.code, self.split(job.inputs["split"]), there]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]

    def _probe(self, job: Job, epochs: list[int], device: str) -> tuple[list[Throughput], float]:
        """Measure some epochs of a training, and the share of the time that its threads waited for a core."""
        stage = importlib.import_module(f"hlrs.stages.{job.stage}")
        with tempfile.TemporaryDirectory() as folder:
            sample, before = self._on_sample(job, Path(folder)), scheduled()
            with within_memory(f"{job.stage} of {job.run}", device):
                paces: list[Throughput] = stage.probe(sample, epochs, SECONDS)
        return paces, waited(before, scheduled())

    def _on_sample(self, job: Job, folder: Path) -> Job:
        """The job with a few images of its split, and a network where there is none yet, as its inputs."""
        import numpy as np

        columns, names = self._split(job)
        recipe = job.params[job.stage]
        keep = np.zeros(len(columns["subset"]), dtype=bool)
        draw = np.random.default_rng(0)
        for subset in ("weights", "alphas", "holdout"):
            rows = draw.permutation(np.flatnonzero(columns["subset"] == subset))
            keep[rows[: SAMPLE * recipe["batch_size"] * recipe.get("accumulate", 1)]] = True
        write_table(
            folder / "split.parquet", "split", {name: values[keep] for name, values in columns.items()}
        )
        write_json(folder / "classes.json", {"names": names})
        inputs = job.inputs | {
            "split": str(folder / "split.parquet"),
            "classes": str(folder / "classes.json"),
        }
        if "genotype" in inputs and not Path(inputs["genotype"]).exists():
            inputs["genotype"] = str(folder / "genotype.json")
            write_json(folder / "genotype.json", self._stand_in(job).to_json())
        for weights in ("supernet", "trained"):
            inputs.pop(weights, None)  # which cost the same as any
        if "alphas" in inputs and not Path(inputs["alphas"]).exists():
            inputs["alphas"] = str(folder / "alphas.parquet")
            _write_even_alphas(folder / "alphas.parquet", RetrainJob.model_validate(job.params))
        source = offline(Images.model_validate(job.params["images"]).source)
        images = job.params["images"] | {"source": source.model_dump()}
        return dataclasses.replace(job, inputs=inputs, params=job.params | {"images": images})

    def _stand_in(self, retrain: Job) -> Genotype:
        """For a genotype that is not there yet: the published one that it will be, or one of its size."""
        extract = finder(retrain.inputs["genotype"], self.makers)
        params = ExtractJob.model_validate(extract.params)
        if params.genotype:
            return given(params.space, params.genotype)
        search = self.makers[extract.inputs["alphas"]]
        return random_genotype(params.space, search.params.get("search", search.params)["nodes"])

    def known_genotype(self, job: Job, folder: Path) -> dict[str, str] | None:
        """The input of a training that is its genotype, one that is given written to a folder.

        Empty if it has none, None if it is still to be found.
        """
        path = job.inputs.get("genotype")
        if path is None or Path(path).exists():
            return {} if path is None else {"genotype": path}
        if self.guesses(job):
            return None
        write_json(folder / "genotype.json", self._stand_in(job).to_json())
        return {"genotype": str(folder / "genotype.json")}

    def guesses(self, job: Job) -> bool:
        """Whether a training is measured with a random genotype, as its own is still to be found."""
        genotype = job.inputs.get("genotype")
        there = genotype is None or Path(genotype).exists()
        return not there and finder(str(genotype), self.makers).params["genotype"] is None

    def counts(self, job: Job) -> dict[str, int]:
        """How many images each subset of a job's split has."""
        subset = self._split(job)[0]["subset"].tolist()
        return {name: subset.count(name) for name in ("weights", "alphas", "holdout")}

    def held(self, job: Job) -> float:
        """How many images the holdout has per training image."""
        counts = self.counts(job)
        return counts["holdout"] / (counts["weights"] + counts["alphas"])

    def class_counts(self, job: Job) -> dict[str, int]:
        """How many training images each class of a job's split has."""
        import numpy as np

        columns, names = self._split(job)
        trained = columns["label"][np.isin(columns["subset"], ("weights", "alphas"))]
        return dict(zip(names, np.bincount(trained, minlength=len(names)).tolist(), strict=True))

    def steps(self, job: Job) -> int:
        """Return the steps per epoch."""
        from hlrs.data.batches import steps_per_epoch

        counts = self.counts(job)
        images = counts["weights"] + (counts["alphas"] if job.stage == "retrain" else 0)
        recipe = job.params[job.stage]
        return steps_per_epoch(images, recipe["batch_size"] * recipe.get("accumulate", 1))

    def _split(self, job: Job) -> tuple[dict[str, Any], list[str]]:
        """Columns and class names of a job's split, drawn in memory where it is not there yet."""
        path = job.inputs["split"]
        if path not in self.splits:
            there = Path(path).exists() and Path(job.inputs["classes"]).exists()
            self.splits[path] = _read_split(job) if there else _draw_split(self.makers[path])
        return self.splits[path]


@contextmanager
def within_memory(what: str, device: str) -> Iterator[None]:
    """Raise Failure if the body runs out of memory."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise Failure(f"{what} does not fit the memory of {device}") from None


def _read_split(job: Job) -> tuple[dict[str, Any], list[str]]:
    table = read_table(Path(job.inputs["split"]), "split")
    names = read_json(Path(job.inputs["classes"]))["names"]
    return {name: table[name].to_numpy() for name in table.column_names}, names


def _draw_split(split: Job) -> tuple[dict[str, Any], list[str]]:
    from hlrs.data.sources.open import open_source
    from hlrs.data.split import draw

    params = SplitJob.model_validate(split.params)
    try:
        source = open_source(offline(params.source))
    except UserError:
        if params.source != offline(params.source):
            raise UserError(
                f"{split.run}: its images are missing; `hlrs split {split.run}` downloads them"
            ) from None
        raise
    with about(f"datasets.{split.run}"):
        return draw(source.train_labels, source.test_labels, params, source.classes), source.classes


def finder(genotype: str, makers: Mapping[str, Job]) -> Job:
    """Return the extraction by which the genotype at a path is found, or given: another run's perhaps."""
    extract = makers[genotype]
    return finder(extract.inputs["genotype"], makers) if "genotype" in extract.inputs else extract


def offline(source: Source) -> Source:
    """A source that downloads nothing: a plan changes nothing."""
    return source.model_copy(update={"download": False}) if isinstance(source, Torchvision) else source


def _write_even_alphas(path: Path, params: RetrainJob) -> None:
    """Write a trajectory whose operations all have the same weight."""
    import numpy as np

    from hlrs.nas.trajectory import rows

    assert params.inherited is not None
    space, nodes = params.space, params.inherited.nodes
    zeros = np.zeros((len(space.edges(nodes)), len(space.primitives)), dtype=np.float32)
    even = {f"alphas.{kind}": zeros for kind in space.kinds}
    columns = zip(*rows(space, nodes, [even], Softmax()), strict=True)
    write_table(path, "trajectory", dict(zip(SCHEMAS["trajectory"], columns, strict=True)))


def random_genotype(space: Space, nodes: int) -> Genotype:
    """One drawn uniformly from the search space, always the same: a stand-in for what a search will find."""
    import numpy as np

    draw = np.random.default_rng(0)
    shape = len(space.edges(nodes)), len(space.primitives)
    alphas = {kind: draw.normal(size=shape).astype(np.float32) for kind in space.kinds}
    ones = np.ones(shape[0], dtype=np.float32)
    return DERIVATIONS[type(space)](space, alphas, dict.fromkeys(alphas, ones))


# --- what a training does -----------------------------------------------------------------------------


def signature(params: dict[str, Any]) -> str:
    """Parameters but for the seeds, spelled out."""
    return json.dumps({name: value for name, value in params.items() if name not in SEEDS}, sort_keys=True)


def batches(job: Job) -> list[int]:
    """Return the batches per step of each epoch: those that pass, twice as many with alpha steps."""
    return batches_of(parse(job.stage, job.params))


def batches_of(params: SearchJob | RetrainJob) -> list[int]:
    """Return the batches per step of each epoch, from a training's parameters; 0: it reads no images."""
    if isinstance(params, RetrainJob):
        recipe, classifier = params.retrain, params.retrain.classifier
        passes = [recipe.objective.passes] * recipe.epochs
        if classifier is not None:
            passes += classifier.passes  # these cost less than that
        return [recipe.accumulate * batches for batches in passes]
    samplers, progress = len(params.objective.samplers), partial(selection.progress, params)
    epochs = range(selection.epochs(params))
    return [samplers * (2 if alphas_step(params, progress(epoch)) else 1) for epoch in epochs]


def evaluated(job: Job, held: float) -> float:
    """Return the batches that a training only evaluates, in batches per step of one epoch.

    `held`: images of the holdout per image that is trained on.
    """
    params = parse(job.stage, job.params)
    if isinstance(params, RetrainJob):
        recipe = params.retrain
        since = 1.0 if recipe.swa is None else recipe.swa
        means = sum(epoch / recipe.epochs >= since for epoch in range(recipe.epochs))
        several = max(0, means - 1)  # epochs that end with a mean of two or more
        measured = several if held else min(several, 1)  # its running statistics, for whoever reads it
        classifier = [] if recipe.classifier is None else recipe.classifier.passes
        holdout = held * (recipe.epochs + len(classifier))
        return recipe.accumulate * (measured * recipe.objective.passes + holdout)
    assert isinstance(params, SearchJob)
    ends = 2  # of the supernet and of the genotype decoded in it, after the last epoch
    return (selection.passes(params) + ends) * len(params.objective.samplers)


def alphas_step(params: SearchJob, t: float) -> bool:
    """Whether the alphas take steps at t unless stopped early: warmed up, at a learning rate above 0."""
    if t < params.searcher.warm_up:
        return False
    return arch_lr.factor(params.arch_lr, t, mixing_at(params.objective, t, "")) > 0


# --- devices ------------------------------------------------------------------------------------------


def gpu_here() -> bool:
    """Whether a stage would use a GPU here; torch is asked only where the system shows one."""
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/kfd").exists():
        return False
    try:
        return choose(os.environ) == "cuda"
    except ModuleNotFoundError:
        return False


def scheduled() -> tuple[int, int]:
    """Return the nanoseconds that this process's threads ran, and waited for a core; zeros if unknown."""
    ran = waited = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):  # Linux's
        with suppress(OSError, ValueError):  # a thread that has ended
            on_core, queued, _ = map(int, path.read_text().split())
            ran, waited = ran + on_core, waited + queued
    return ran, waited


def waited(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Return the share of the time in which threads could run that they waited, between two `scheduled`."""
    ran, queued = (max(0, late - early) for early, late in zip(before, after, strict=True))
    return queued / (ran + queued) if queued else 0.0


def _device(job: Job) -> tuple[str, bool]:
    """The name of the device that a stage would choose here, and whether it is a GPU."""
    import torch

    from hlrs.training.device import cpu_model, prepare

    recipe = job.params[job.stage]
    gpu = prepare(recipe["threads"], recipe.get("precision", "float32")).type == "cuda"
    return (torch.cuda.get_device_name() if gpu else f"CPU, {cpu_model() or 'unknown'}"), gpu


def _measurement(device: str, entry: Entry) -> Measurement:
    paces = {number: Throughput(*pace) for number, pace in entry.paces.items()}
    return Measurement(device, entry.gpu, entry.steps, paces, entry.date, entry.waited)
