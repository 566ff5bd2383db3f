"""Encoded images in Parquet files."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hlrs.config.data import Parquet
from hlrs.data.sources.base import PARTS, RENEW, ImageSource, Named, decode, first_line, single
from hlrs.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL.Image import Image

BATCH = 256  # rows of a Parquet file in memory at a time, encoded

BUFFER = 1 << 20  # bytes; by default, pyarrow holds a whole row group at once


class ParquetSource(ImageSource):
    """Encoded images in Parquet files; reads only the row groups that hold the requested images."""

    def __init__(self, spec: Parquet) -> None:
        files = parts(spec)
        self.paths = [path for part in PARTS for path in files[part]]
        readers = [_open_parquet(path) for path in self.paths]
        self.metadata = [reader.metadata for reader in readers]
        self.starts = np.cumsum([0, *(metadata.num_rows for metadata in self.metadata)])
        schema = readers[0].schema_arrow
        self.image_column = _choose(self.paths[0], schema, "image", spec.image_column)
        label_column = _choose(self.paths[0], schema, "label", spec.label_column)
        names = _class_names(self.paths[0], schema, label_column)
        labels = []
        for path, reader in zip(self.paths, readers, strict=True):
            _choose(path, reader.schema_arrow, "image", self.image_column)
            _choose(path, reader.schema_arrow, "label", label_column)
            if _class_names(path, reader.schema_arrow, label_column) not in (None, names):
                raise UserError(
                    f"{path}: its class names are not those of {self.paths[0]}; use files of one data set"
                )
            labels.append(_labels(path, reader, label_column))
        first = len(files["train"])
        train = np.concatenate(labels[:first])
        test = np.concatenate([np.empty(0, dtype=np.int64), *labels[first:]])
        for part, found in (("train", train), ("test", test)):
            if getattr(spec, part) and not len(found):
                raise UserError(
                    f"{getattr(spec, part)[0]}: no rows; name files that hold images under source.{part}"
                )
        super().__init__(names or self._numbered(train), 3, train, test)

    def _numbered(self, train: NDArray[np.int64]) -> list[str]:
        """Number classes without names up to the largest label; UserError if that exceeds the images."""
        largest = int(train.argmax())
        if train[largest] >= len(train):
            found = f"{self._where(largest)}: label {train[largest]} with {len(train)} training images"
            raise UserError(f"{found}; labels count from 0 to the number of classes − 1: renumber them")
        return [str(label) for label in range(train[largest] + 1)]

    def _images(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, "Image"]]:
        order = np.argsort(indices, kind="stable")
        bounds = np.searchsorted(indices[order], self.starts)
        for number, start in enumerate(self.starts[:-1]):
            positions = order[bounds[number] : bounds[number + 1]]
            if len(positions):
                rows = indices[positions] - start
                for place, image in self._decoded(number, rows):
                    yield int(positions[place]), image

    def _decoded(self, number: int, rows: NDArray[np.int64]) -> Iterator[tuple[int, "Image"]]:
        """Yield (position in `rows`, image) for the given rows, sorted, of one file."""
        for first, batch in self._batches(number, rows):
            lower, upper = np.searchsorted(rows, [first, first + len(batch)])
            for place in range(lower, upper):
                where = self._where(int(self.starts[number] + rows[place]))
                encoded = batch[int(rows[place]) - first].as_py()
                if encoded is None:
                    raise UserError(f"{where}: no image, its bytes are null; write the image into the file")
                yield place, decode(io.BytesIO(encoded), where)

    def _batches(self, number: int, rows: NDArray[np.int64]) -> Iterator[tuple[int, "pa.Array"]]:
        """Yield (first row, encoded images) for one file's row groups that hold any of the given rows."""
        import pyarrow as pa

        metadata = self.metadata[number]
        starts = np.cumsum([0, *(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))])
        reader = _open_parquet(self.paths[number], metadata)
        columns = [f"{self.image_column}.bytes"]
        try:
            for group in np.unique(np.searchsorted(starts, rows, side="right") - 1):
                first = int(starts[group])
                for batch in reader.iter_batches(BATCH, row_groups=[int(group)], columns=columns):
                    yield first, batch.column(0).field("bytes")
                    first += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{self.paths[number]}: cannot be read ({first_line(error)}); {RENEW}") from None

    def _where(self, index: int) -> str:
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return f"{self.paths[number]}, row {index - self.starts[number]}"


def parquet_files(spec: Parquet) -> list[Named]:
    """List the files of both parts."""
    return [single(f"{part}/{i}", str(path)) for part, of in parts(spec).items() for i, path in enumerate(of)]


def parts(spec: Parquet) -> dict[str, list[Path]]:
    """Return the files of each part in the order of the params, those of a pattern sorted.

    UserError for a pattern that matches nothing, and for a file that is named twice.
    """
    found = {
        part: [path for entry in getattr(spec, part) for path in _matches(entry, f"source.{part}")]
        for part in PARTS
    }
    seen: set[Path] = set()
    for path in (path for part in PARTS for path in found[part]):
        if path in seen:
            raise UserError(
                f"{path}: named twice in source.train and source.test; each file is read once: "
                "name it, or a pattern that matches it, in one place"
            )
        seen.add(path)
    return found


def _matches(entry: str, field: str) -> list[Path]:
    """Return the files of a pattern, with those that exist only as `.dvc` pointers; else the file named."""
    if not any(sign in entry for sign in "*?[") or Path(entry).exists():
        return [Path(entry)]
    root = Path(Path(entry).anchor)
    pattern = str(Path(entry).relative_to(root))
    found = {path for path in root.glob(pattern) if path.suffix != ".dvc"}
    found |= {path.with_suffix("") for path in root.glob(f"{pattern}.dvc")}
    if not found:
        raise UserError(f"{entry}: no file matches this pattern; add the files or correct {field}")
    return sorted(found)


def _open_parquet(path: Path, metadata: "pq.FileMetaData | None" = None) -> "pq.ParquetFile":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, metadata=metadata, buffer_size=BUFFER, pre_buffer=False)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; it is named in the params as a Parquet file of images"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: truncated or not Parquet ({first_line(error)}); {RENEW}") from None


def _choose(path: Path, schema: "pa.Schema", role: str, named: str | None) -> str:
    """Choose the column of a role, image or label: as named, by a usual name, or the only one of its type."""
    import pyarrow as pa

    def fits(kind: "pa.DataType") -> bool:
        if role == "label":
            return bool(pa.types.is_integer(kind))
        at = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
        return at >= 0 and bool(pa.types.is_binary(kind[at].type) or pa.types.is_large_binary(kind[at].type))

    usual = {"image": ("img", "image"), "label": ("label", "fine_label")}[role]
    fitting = [field.name for field in schema if fits(field.type)]
    preferred = [name for name in usual if name in fitting]
    if named is None and (preferred or len(fitting) == 1):
        return (preferred or fitting)[0]
    if named in fitting:
        return str(named)
    kind = {"image": "struct with a field `bytes`", "label": "column of integers"}[role]
    what = f"no {kind} called {named}" if named else f"{'more than one' if fitting else 'no'} {kind}"
    raise UserError(f"{path}: {what} among the columns {', '.join(schema.names)}; set source.{role}_column")


def _class_names(path: Path, schema: "pa.Schema", label_column: str) -> list[str] | None:
    """Read class names from the schema's metadata: `class_names`, or Hugging Face's ClassLabel."""
    metadata = schema.metadata or {}
    try:
        if b"class_names" in metadata:
            names = json.loads(metadata[b"class_names"])
        else:
            features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
            names = features.get(label_column, {}).get("names")
    except (ValueError, AttributeError):
        names = False
    if names is None or (names and isinstance(names, list) and all(isinstance(name, str) for name in names)):
        return names
    raise UserError(f"{path}: the class names in its metadata are not a JSON list of strings; {RENEW}")


def _labels(path: Path, reader: "pq.ParquetFile", column: str) -> NDArray[np.int64]:
    import pyarrow as pa

    try:
        labels = reader.read(columns=[column]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: {column} cannot be read ({first_line(error)}); {RENEW}") from None
    if labels.null_count:
        row = labels.is_null().to_numpy().argmax()
        raise UserError(f"{path}, row {row}: {column} is null; give it a label or leave the row out")
    return np.asarray(labels.to_numpy(), dtype=np.int64)
