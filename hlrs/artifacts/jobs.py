"""Jobs: names of runs, paths of results, keys.

    results/<stage>/<run>/<key>/...     run = dataset, or dataset/method/seed, or all

Of a draw by another split seed, dataset is dataset-split_seed (hlrs.config.params.Sections.draws).
No other module builds or parses these paths.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hlrs.artifacts.files import read_json
from hlrs.errors import HlrsError, UserError

CHANGES_NO_RESULT = True  # so no code digest covers it (artifacts/code_digest.py)

SPECS = Path(".hlrs/specs")
RESULTS = Path("results")
STATE = RESULTS / ".hlrs"  # of all checkouts whose results/ is this folder: claim, leases, results set aside
ASIDE = STATE / "aside"  # may be deleted to free space
CHECKPOINTS = Path(".hlrs/checkpoints")
PROVENANCE = "provenance.json"
FILES = "files.parquet"  # the table of the data files that a job read
PART = "[A-Za-z0-9][A-Za-z0-9_.-]{0,254}"  # of a path, as params.yaml and file systems allow names
SEEDS = "[0-9]{1,20}(-[0-9]{1,20})?"
FOLDERS = {  # number of folders that a run's name makes -> RUN/KEY
    1: re.compile(f"(?P<run>{PART})/(?P<key>{PART})"),
    3: re.compile(f"(?P<run>{PART}/{PART}/{SEEDS})/(?P<key>{PART})"),
}
RUN = re.compile(f"{PART}/{PART}/{SEEDS}")  # data set/method/seed[-seed]
OUTPUTS = {
    "split": ["split.parquet", "classes.json", FILES],
    "search": ["alphas.parquet", "history.parquet", "supernet.safetensors"],
    "extract": ["genotype.json", "normal.svg", "reduce.svg"],
    "lookup": ["lookup.json", FILES],
    "retrain": ["weights.safetensors", "history.parquet", "features.parquet"],
    "evaluate": ["metrics.json", "predictions.parquet"],
    "report": [
        "index.html",
        "figures.zip",
        "metrics.json",
        *(f"{table}.csv" for table in ("runs", "summary", "differences", "claim", "classes")),
        *(f"plots/{plot}.csv" for plot in ("class_counts", "class_accuracy", "search", "retrain")),
    ],
}


def repeat(run: str, retrain_seed: int) -> str:
    """The name of a retraining of a run: the run's for seed 0, else with the seed behind it."""
    return f"{run}-{retrain_seed}" if retrain_seed else run


def seeds_of(run: str) -> tuple[int, int]:
    """The seeds of the search and of the retraining in a run's name, data set/method/seed[-seed]."""
    search, _, retrain = run.rsplit("/", 1)[1].partition("-")
    return int(search), int(retrain or 0)


def typed(run: str) -> str:
    """The run that somebody typed, perhaps like a folder: ./digits_lt/darts/0/."""
    return PurePosixPath(run.strip("/")).as_posix()


def search_of(run: str) -> str:
    """The run of the search that a run's retraining builds on; another run's name as it is."""
    *before, seeds = run.split("/")
    return "/".join((*before, seeds.partition("-")[0])) if before else run


@dataclass(frozen=True)
class ResultPath:
    """The folder of a result, results/<stage>/<run>/<key>, or the file `name` in it."""

    stage: str
    run: str
    key: str
    name: str = ""

    def __post_init__(self) -> None:
        for part in (self.stage, self.run, self.key, self.name):
            if part.startswith("/") or ".." in part.split("/"):
                raise UserError(f"{part!r}: leads out of results/; no part of a result's path may")

    @classmethod
    def parse(cls, path: str | Path) -> "ResultPath":
        """Take a path below results/ apart; UserError for one that is not in the folder of a result."""
        root, stage, *rest = [*PurePosixPath(path).parts, "", ""]
        rest = rest[:-2]
        depth = _depth(stage)
        place = FOLDERS[depth].fullmatch("/".join(rest[: depth + 1]))
        if root != str(RESULTS) or stage not in OUTPUTS or not place or ".." in rest:
            raise UserError(f"{path}: not in the folder of a result (results/STAGE/RUN/KEY/)")
        return cls(stage, place["run"], place["key"], "/".join(rest[depth + 1 :]))

    @property
    def directory(self) -> Path:
        """The result's folder."""
        return RESULTS / self.stage / self.run / self.key

    @property
    def folder(self) -> str:
        """The result's folder, as records spell paths."""
        return self.directory.as_posix()


def _depth(stage: str) -> int:
    """The number of folders that a run's name makes."""
    return 1 if stage in ("split", "report") else 3


def folders(stage: str) -> list[Path]:
    """The folders of a stage's results that are here."""
    pattern = "/".join("*" * (_depth(stage) + 1))
    return sorted(path for path in (RESULTS / stage).glob(pattern) if path.is_dir())


@dataclass(frozen=True)
class Job:
    """One execution of a stage: its parameters, code and inputs, and where its results go."""

    stage: str
    run: str  # "digits_lt" for a split, "digits_lt/hlrs/0" for most, "all" for the report
    params: dict[str, Any]
    code: str
    inputs: dict[str, str]  # name -> path
    key: str
    tracking: dict[str, Any] | None = None  # what follows the training; not in the key

    def __post_init__(self) -> None:
        _ = self.result  # whose parts name every other path of a job, too

    @property
    def result(self) -> ResultPath:
        """Where the results go."""
        return ResultPath(self.stage, self.run, self.key)

    @property
    def directory(self) -> Path:
        """The folder of the results, relative to the workflow's folder."""
        return self.result.directory

    @property
    def outputs(self) -> list[str]:
        """The paths of the results, the provenance record last."""
        return [str(self.directory / name) for name in [*OUTPUTS[self.stage], PROVENANCE]]

    def output(self, name: str) -> Path:
        """The path of one result by its name."""
        assert name in [*OUTPUTS[self.stage], PROVENANCE], name
        return self.directory / name

    @property
    def complete(self) -> bool:
        """Whether all results are there, as files."""
        return all(Path(path).is_file() for path in self.outputs)

    @property
    def checkpoint(self) -> Path:
        """Outside the declared outputs, which Snakemake deletes before a job; named by the job's key."""
        return CHECKPOINTS / f"{self.key}.safetensors"

    @property
    def log(self) -> Path:
        """Where the workflow's rules write what the job says."""
        return Path("logs", self.stage, self.run, f"{self.key}.log")

    @property
    def fits_key(self) -> bool:
        """Whether the key is that of what it stands for."""
        body = {name: value for name, value in vars(self).items() if name not in ("key", "tracking")}
        return key_of(body) == self.key

    @property
    def spec(self) -> Path:
        """The frozen spec's path."""
        return SPECS / f"{self.key}.json"


def load_spec(path: Path) -> Job:
    """The frozen spec of a job; UserError if it is missing, not one, or differs from its key."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        job = Job(**read_json(path))
        for made in (str(job.output(PROVENANCE)), *job.inputs.values()):
            ResultPath.parse(made)
        sound = job.fits_key
    except (TypeError, AttributeError, KeyError, HlrsError) as error:
        raise UserError(f"{path}: not the spec of a job ({error}); rerun snakemake to restore it") from None
    if not sound or job.key != path.stem:
        raise UserError(f"{path}: was edited, as it does not fit its key; rerun snakemake to restore it")
    return job


PUBLISHED = Path("report")


def key_of(body: dict[str, Any]) -> str:
    """The key of a job: stage, run, params, code, and the paths of its inputs by name."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]


STAGES = list(OUTPUTS)  # in the order in which they run
Row = tuple[str, ...]  # data set, method, seed of the search, "-" or "", seed of the retraining or ""


def abbreviate(runs: Iterable[str]) -> str:
    """Shorten runs with a shell's braces, `digits_lt/{darts,hlrs}/{0..4}`; a data set's name or `all` stays.

    Repeated retrainings are listed apart from the first: `digits_lt/darts/{0..4}-{1,2}`.
    """
    plain: list[str] = []
    rows: list[Row] = []
    for run in runs:
        dataset, *rest = run.split("/")
        if rest:
            method, seeds = rest
            rows.append((dataset, method, *seeds.partition("-")))
        else:
            plain.append(run)
    for field, join in ((2, _ranges), (4, _ranges), (1, ",".join), (0, ",".join)):
        rows = _fold(rows, field, join)
    return ", ".join([*plain, *(f"{dataset}/{method}/{''.join(seeds)}" for dataset, method, *seeds in rows)])


def _fold(rows: list[Row], field: int, join: Callable[[list[str]], str]) -> list[Row]:
    """Merge the rows that differ in one field only."""
    groups: dict[tuple[Row, Row], list[str]] = {}
    for row in rows:
        groups.setdefault((row[:field], row[field + 1 :]), []).append(row[field])
    return [
        (*before, values[0] if len(values) == 1 else f"{{{join(values)}}}", *after)
        for (before, after), values in groups.items()
    ]


def _ranges(numbers: list[str]) -> str:
    """Spell numbers by their ranges: 0,1 or 0..9 or 0..3,7."""
    ranges: list[list[int]] = []
    for number in sorted(map(int, numbers)):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    return ",".join(f"{r[0]}..{r[-1]}" if len(r) > 2 else ",".join(map(str, r)) for r in ranges)
