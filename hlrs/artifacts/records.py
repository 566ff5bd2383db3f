"""Provenance records: what a job ran with."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from hlrs.artifacts.data_digest import sha256
from hlrs.artifacts.files import read_json, write_json
from hlrs.artifacts.jobs import OUTPUTS, PROVENANCE, Job, ResultPath
from hlrs.errors import Failure, HlrsError, UserError

UNKNOWN = "not recorded"
LARGEST = 1 << 28  # bytes; a report on 10,000 runs has a record of a tenth


class Input(BaseModel):
    """A file that a job read, and the SHA-256 of what it read."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    path: str
    sha256: str


Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Gpu(BaseModel):
    """The GPU that a job ran on."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    name: str
    peak_memory_bytes: int | None = None


class Start(BaseModel):
    """The file of weights that a retraining began with, and what became of its classifier."""

    name: str
    bytes: Annotated[int, Field(ge=0)]
    sha256: str
    classifier: Literal["kept", "initialised"]


class Origin(BaseModel):
    """The source of a split's images; every one has a kind."""

    kind: str


class Recipe(BaseModel):
    """The recipe of a retraining, which may begin with a file of weights."""

    start: str | None = None


class Parameters(BaseModel):
    """What a job's parameters, of any version of hlrs, say of the data files that it read."""

    source: Origin | None = None
    retrain: Recipe | None = None


class Pace(BaseModel):
    """What every record says of an epoch."""

    epoch: Annotated[int, Field(ge=0)]
    seconds: Number
    images_per_second: Number


class Passes(BaseModel):
    """The seconds of a network's passes over a batch, their first and third quartile, and the peak memory."""

    batch: Annotated[int, Field(ge=1)]
    median_seconds: Number
    quartiles_seconds: Annotated[list[Number], Field(min_length=2, max_length=2)]
    passes: Annotated[int, Field(ge=1)]
    peak_memory_bytes: Annotated[int, Field(ge=0)] | None


class Latency(BaseModel):
    """The time and memory that a network took to predict on a device, by batch."""

    device: str
    threads: Annotated[int, Field(ge=1)]
    batches: list[Passes]


def _like(kind: Any) -> AfterValidator:
    """Check a value and keep it as it is."""
    adapter = TypeAdapter(kind)

    def check(value: Any) -> Any:
        adapter.validate_python(value, strict=True)
        return value

    return AfterValidator(check)


class Record(BaseModel):
    """A job's `provenance.json`. Fields that only other versions of hlrs write are kept as they are.

    `seconds`: of the process that finished the job; `gpu`: its name alone in old records; `throughput`: one
    row per epoch (epoch, seconds, images_per_second); memory in bytes.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    key: str
    stage: str
    run: str
    params: Annotated[dict[str, Any], _like(Parameters)]
    code: str
    inputs: dict[str, Input]
    outputs: dict[str, str]  # name -> SHA-256
    ended: str
    seal: str
    seconds: float | None = None
    started: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    lock: str | None = None
    versions: dict[str, str] | None = None
    image: str | None = None
    host: str | None = None
    cpu: str | None = None
    device: str | None = None
    gpu: Gpu | str | None = None
    gpu_kernels: bool | None = None
    slurm_job: str | None = None
    peak_memory_bytes: int | None = None
    resumes: int | None = None
    throughput: Annotated[list[dict[str, Any]], _like(list[Pace])] | None = None
    training_seconds: float | None = None
    startup: Annotated[dict[str, Any], _like(dict[str, Number | None])] | None = None
    start: Annotated[dict[str, Any], _like(Start)] | None = None
    latency: Annotated[dict[str, Any], _like(Latency)] | None = None

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Read a record; UserError if it is missing, Failure if it is not whole."""
        if path.is_file() and path.stat().st_size > LARGEST:
            raise Failure(f"{path}: larger than any record")
        return cls.parse(read_json(path), str(path))

    @classmethod
    def parse(cls, body: Any, path: str) -> "Record":
        """Check a record's JSON, as found at `path`; Failure if it is not whole."""
        try:
            record = cls.model_validate(body)
            for made in (f"{record.result.folder}/{PROVENANCE}", *(i.path for i in record.inputs.values())):
                ResultPath.parse(made)
            for name in record.outputs:
                ResultPath(record.stage, record.run, record.key, name)
        except (ValueError, UserError):
            raise Failure(f"{path}: not the record of a job") from None
        return record

    @classmethod
    def sealed(cls, body: dict[str, Any]) -> "Record":
        """Make a record of its fields, and seal it."""
        return cls.model_validate(body | {"seal": seal(body)})

    def write(self, path: Path) -> None:
        """Write the record as JSON, whole or not at all."""
        write_json(path, self.body())

    def body(self) -> dict[str, Any]:
        """Return the fields that its JSON has."""
        return self.model_dump(exclude_unset=True)

    @property
    def intact(self) -> bool:
        """Whether the record fits its seal."""
        try:
            return self.seal == seal(self.body())
        except (RecursionError, ValueError):  # nested too deeply to have been written
            return False

    def fault(self, folder: str) -> str:
        """Say why this cannot be the record of the result in a folder; empty if it can."""
        if self.result.folder != folder:
            return f"is the record of {self.stage} {self.run}, key {self.key}: copied from there"
        if not self.intact:
            return "was edited: it does not fit its seal"
        if not self.job.fits_key:
            return "holds parameters, code or inputs that do not fit its key"
        return ""

    def differing(self) -> list[str]:
        """List the result's files here whose bytes are not those on record."""
        recorded, folder = self.outputs, self.result.directory
        return [name for name in OUTPUTS[self.stage] if recorded.get(name) != sha256(folder / name)]

    @property
    def job(self) -> Job:
        """The job that made the result."""
        inputs = {name: entry.path for name, entry in self.inputs.items()}
        return Job(self.stage, self.run, self.params, self.code, inputs, self.key)

    @property
    def result(self) -> ResultPath:
        """Where the result was made."""
        return ResultPath(self.stage, self.run, self.key)

    @property
    def gpu_name(self) -> str | None:
        """The GPU's name, None without one."""
        return self.gpu.name if isinstance(self.gpu, Gpu) else self.gpu

    @property
    def gpu_memory(self) -> int | None:
        """Peak bytes allocated on the GPU, None where not recorded."""
        return self.gpu.peak_memory_bytes if isinstance(self.gpu, Gpu) else None

    def environment(self) -> dict[str, str]:
        """Commit, lock file, image, host, device and versions, UNKNOWN where not recorded."""
        plain = ", without kernels of our own" * (self.gpu_kernels is False)
        versions = sorted((self.versions or {}).items())
        return {
            "commit": (self.commit or UNKNOWN) + " + uncommitted changes" * bool(self.dirty),
            "lock": self.lock or UNKNOWN,
            "image": self.image or "none",
            "host": self.host or UNKNOWN,
            "device": (self.gpu_name or self.cpu or self.device or UNKNOWN) + plain,
            "versions": ", ".join(f"{name} {version}" for name, version in versions) or UNKNOWN,
        }


def seal(body: dict[str, Any]) -> str:
    """SHA-256 of a record's JSON without its seal: an edited record does not fit it."""
    rest = {name: value for name, value in body.items() if name != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


# --- files that fit their record ----------------------------------------------------------------------


def recorded(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each output of a job, from its record; UserError if that was edited or moved."""
    place = directory / PROVENANCE
    try:
        record = Record.read(place)
    except HlrsError as error:
        raise _unfit(ResultPath.parse(place), str(error)) from None
    if fault := record.fault(directory.as_posix()):
        raise _unfit(ResultPath.parse(place), f"{place}: {fault}")
    return record.outputs


def trusted(path: str | Path, read: Callable[[Path], dict[str, str]] = recorded) -> str:
    """Return the SHA-256 of a result's file; UserError if it is not the one that its job recorded.

    `read`: returns what the record in a folder says of its files.
    """
    made = ResultPath.parse(path)
    known, actual = read(made.directory), sha256(Path(path))
    if made.name != PROVENANCE and known.get(made.name) != actual:
        raise _unfit(made, f"{path}: differs from the record of the job that made it")
    return actual


def _unfit(made: ResultPath, what: str) -> UserError:
    again = f"`hlrs {made.stage} {made.run} --force` makes it again"
    return UserError(f"{what}; `hlrs audit` says how to restore it, {again}")
