"""Parquet tables and their columns."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlrs.artifacts.files import replacing
from hlrs.config.base import Choices
from hlrs.errors import Failure, UserError

if TYPE_CHECKING:
    import pyarrow as pa

SUBSETS = ("weights", "alphas", "holdout", "test")


# Column -> type, in order. Index: position in the source's training images, official test images after them.
SCHEMAS: Choices[dict[str, str]] = {
    "split": {"index": "int64", "label": "int32", "subset": "string"},
    # one row per data file, named as in the source
    "files": {"name": "string", "bytes": "int64", "sha256": "string"},
    # one row per epoch × cell × edge × operation, after that many epochs; weight: the relaxation's, of the
    # alphas; edge_weight: softmax of the betas of a node's edges, 1 without betas
    "trajectory": {
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
        "entropy_normal": "float64",  # of the operations' weights, nats, mean over edges
        "entropy_reduce": "float64",
        "nonzero_normal": "float64",  # weights per edge that are not 0, a mean; null where none can be
        "nonzero_reduce": "float64",
        "skips_normal": "int32",  # skip connections in the genotype that would be extracted now
        "skips_reduce": "int32",
        # mean size of both parts of an estimated gradient's slope along its directions; null: not estimated
        "slope_direct": "float64",
        "slope_implicit": "float64",
        "eigenvalue": "float64",  # dominant, of the alphas' loss by the alphas; null: unknown
        "stopped": "int32",  # 1 from the epoch at whose end early stopping froze the alphas
        # on the alphas' images, after the last epoch; null before: of the supernet, of the genotype in it
        "supernet_accuracy": "float64",
        "decoded_accuracy": "float64",
    },
    "retrain_history": {
        "epoch": "int32",
        "phase": "string",  # network; diffusion, of its features; classifier, which trains alone at the end
        "progress": "float64",  # of the phase
        "loss": "float64",
        "accuracy": "float64",  # null in diffusion
        "weights_lr": "float64",
        "mixing": "float64",
        "drop_path": "float64",
        "holdout_accuracy": "float64",  # null without a holdout, as is the next
        "holdout_nll": "float64",
    },
    # one row per class × origin, images or generated; empty where nothing was generated; frechet: from the
    # generated features to the images', null for images and of fewer than two; x, y: some features,
    # standardised, along the principal axes of the images'
    "features": {
        "class": "int32",
        "origin": "string",
        "count": "int64",
        "frechet": "float64",
        "x": "list<float32>",
        "y": "list<float32>",
    },
    "predictions": {
        "index": "int64",
        "label": "int32",
        "predicted": "int32",
        "confidence": "float32",
        "probabilities": "list<float32>",
    },
}


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
