"""Artifacts: what the tables hold, how files are written whole or not at all, and how they are read back."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrs.errors import Failure, UserError

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

SPECS = Path(".hlrs/specs")
RESULTS = Path("results")
CHECKPOINTS = Path(".hlrs/checkpoints")
PROVENANCE = "provenance.json"
OUTPUTS = {
    "split": ["split.parquet", "classes.json", "files.parquet"],
    "search": ["alphas.parquet", "history.parquet"],
    "extract": ["genotype.json", "normal.svg", "reduce.svg"],
    "retrain": ["weights.safetensors", "history.parquet"],
    "evaluate": ["metrics.json", "predictions.parquet"],
    "report": [
        "index.html",
        "figures.zip",
        "metrics.json",
        *(f"{table}.csv" for table in ("runs", "summary", "differences", "claim", "classes")),
        *(f"plots/{plot}.csv" for plot in ("class_counts", "class_accuracy", "search", "retrain")),
    ],
}
SUBSETS = ("weights", "alphas", "holdout", "test")

# Column -> type, in order. Index: position in the source's training images, official test images after them.
SCHEMAS: dict[str, dict[str, str]] = {
    "split": {"index": "int64", "label": "int32", "subset": "string"},
    # a row a data file, named as in the source
    "files": {"name": "string", "bytes": "int64", "sha256": "string"},
    # a row an epoch × cell × edge × primitive; epoch e: after e epochs; weight: softmax of an edge's alphas;
    # edge_weight: softmax of the betas of a node's edges, 1 without betas
    "alphas": {
        "epoch": "int32",
        "cell": "string",
        "node": "int32",
        "input": "int32",
        "primitive": "string",
        "alpha": "float32",
        "weight": "float32",
        "edge_weight": "float32",
    },
    "search_history": {
        "epoch": "int32",
        "progress": "float64",
        "weights_loss": "float64",
        "weights_accuracy": "float64",
        "alphas_loss": "float64",  # null in an epoch without alpha steps
        "alphas_accuracy": "float64",
        "weights_lr": "float64",
        "alphas_lr": "float64",
        "mixing": "float64",  # null without branches; the epoch's mean
        "entropy_normal": "float64",  # of softmax(alphas), nats, mean over edges
        "entropy_reduce": "float64",
        "skips_normal": "int32",  # skip connections in the genotype that would be extracted now
        "skips_reduce": "int32",
        "eigenvalue": "float64",  # dominant, of the alphas' loss by the alphas; null: not asked, not finite
        "stopped": "int32",  # 1 from the epoch on at whose end the watch on the collapse let the alphas rest
    },
    "retrain_history": {
        "epoch": "int32",
        "phase": "string",  # network; classifier, which is trained anew at the end (cRT)
        "progress": "float64",  # of the phase
        "loss": "float64",
        "accuracy": "float64",
        "weights_lr": "float64",
        "mixing": "float64",
        "drop_path": "float64",
        "holdout_accuracy": "float64",  # null without a holdout
    },
    "predictions": {
        "index": "int64",
        "label": "int32",
        "predicted": "int32",
        "confidence": "float32",
        "probabilities": "list<float32>",
    },
}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; on success it is synced and renamed to `path`, else it is removed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise Failure(f"{path}: could not be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # its folder may not be there, nor one
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys; a NaN is refused with ValueError."""
    write_text(path, json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """A JSON file; UserError if it is missing, Failure if it is not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise Failure(f"{path}: truncated or not JSON ({error})") from None


def _schema(kind: str) -> "pa.Schema":
    import pyarrow as pa

    types = {name: getattr(pa, name)() for name in ("int32", "int64", "float32", "float64", "string")}
    types["list<float32>"] = pa.list_(pa.float32())
    return pa.schema([(column, types[name]) for column, name in SCHEMAS[kind].items()])


def write_table(path: Path, kind: str, columns: dict[str, Any]) -> None:
    """Write a Parquet table of the given kind of SCHEMAS from a mapping column -> sequence."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: columns[name] for name in SCHEMAS[kind]}, schema=_schema(kind))
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_table(path: Path, kind: str) -> "pa.Table":
    """A Parquet table of the given kind; UserError if missing, Failure if truncated or of another layout."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise Failure(f"{path}: truncated or not Parquet ({str(error).splitlines()[0]})") from None
    if table.schema != _schema(kind):
        raise Failure(
            f"{path}: columns {table.schema.names} are not those of a {kind} table: {[*SCHEMAS[kind]]}"
        )
    return table


def write_tensors(path: Path, tensors: "dict[str, torch.Tensor]", facts: dict[str, Any]) -> None:
    """Write safetensors; `facts`, JSON, goes into the header under the key `facts`."""
    from safetensors.torch import save

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    body = save(whole, metadata={"facts": json.dumps(facts, sort_keys=True)})
    with replacing(path) as temporary:
        temporary.write_bytes(body)


def read_tensors(path: Path) -> "tuple[dict[str, torch.Tensor], dict[str, Any]]":
    """Tensors and facts of a safetensors file, on the CPU; UserError if missing, Failure if truncated."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return tensors, json.loads((file.metadata() or {})["facts"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise Failure(f"{path}: truncated or not a safetensors file of hlrs ({error})") from None


def read_facts(path: Path) -> dict[str, Any]:
    """The facts in the header of a safetensors file, without its tensors; Failure if it is not whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return dict(json.loads((file.metadata() or {})["facts"]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise Failure(f"{path}: truncated or not a safetensors file of hlrs ({error})") from None


# --- jobs ------------------------------------------------------------------------------------------


def repeat(run: str, retrain_seed: int) -> str:
    """The name of a retraining of a run: the run's for seed 0, else with the seed behind it."""
    return f"{run}-{retrain_seed}" if retrain_seed else run


def seeds_of(run: str) -> tuple[int, int]:
    """The seeds of the search and of the retraining in a run's name, data set/method/seed[-seed]."""
    search, _, retrain = run.rsplit("/", 1)[1].partition("-")
    return int(search), int(retrain or 0)


def search_of(run: str) -> str:
    """The run of the search that a run's retraining builds on; another run's name as it is."""
    *before, seeds = run.split("/")
    return "/".join((*before, seeds.partition("-")[0])) if before else run


@dataclass(frozen=True)
class Job:
    """One execution of a stage: everything that it is told, and where its results go."""

    stage: str
    run: str  # "digits_lt" for a split, "digits_lt/hlrs/0" for most, "all" for the report
    params: dict[str, Any]
    code: str
    inputs: dict[str, str]  # name -> path
    key: str

    @property
    def directory(self) -> Path:
        """The folder of the results, relative to the workflow's folder."""
        return RESULTS / self.stage / self.run / self.key

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
        """Whether all results are there."""
        return all(Path(path).exists() for path in self.outputs)

    @property
    def checkpoint(self) -> Path:
        """Outside the declared outputs, which Snakemake deletes before a job; named by the job's key."""
        return CHECKPOINTS / f"{self.key}.safetensors"

    @property
    def spec(self) -> Path:
        """The frozen spec's path."""
        return SPECS / f"{self.key}.json"


def load_spec(path: Path) -> Job:
    """The frozen spec of a job; UserError if it is missing or not one."""
    try:
        return Job(**read_json(path))
    except TypeError:
        raise UserError(f"{path}: not the spec of a job") from None
