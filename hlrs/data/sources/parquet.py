"""Encoded images in Parquet files."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hlrs.config.data import Parquet
from hlrs.data.sources.base import PARTS, RENEW, EncodedSource, Named, first_line, regular, single
from hlrs.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH = 256  # rows of a Parquet file in memory at a time, encoded

USUAL = {"image": ("img", "image"), "label": ("label", "fine_label")}  # names of columns

BUFFER = 1 << 20  # bytes; by default, pyarrow holds a whole row group at once


class ParquetSource(EncodedSource):
    """Encoded images in Parquet files; reads only the row groups that hold the requested images.

    Labels are whole numbers, or text, whose sorted values are the classes.
    """

    def __init__(self, spec: Parquet) -> None:
        files = parts(spec)
        self.paths = [path for part in PARTS for path in files[part]]
        readers = [_open_parquet(path) for path in self.paths]
        self.metadata = [reader.metadata for reader in readers]
        self.starts = np.cumsum([0, *(metadata.num_rows for metadata in self.metadata)])
        schemas = [reader.schema_arrow for reader in readers]
        self.image_column, label_column = self._columns(spec, schemas)
        names = self._class_names(schemas, label_column)
        labels = [_labels(*one, label_column) for one in zip(self.paths, readers, strict=True)]
        first = len(files["train"])
        if labels[0].dtype == object:
            names = names or sorted(set(np.concatenate(labels[:first])))
            labels = [_numbers(*one, names) for one in zip(self.paths, labels, strict=True)]
        train = np.concatenate(labels[:first])
        test = np.concatenate([np.empty(0, dtype=np.int64), *labels[first:]])
        for part, found in (("train", train), ("test", test)):
            if getattr(spec, part) and not len(found):
                raise UserError(
                    f"{getattr(spec, part)[0]}: no rows; name files that hold images under source.{part}"
                )
        super().__init__(names or self._numbered(train), 3, train, test)
        chosen = {"image": self.image_column, "label": label_column}
        self.remarks += [
            f"{self.paths[0]}: {role}_column is not set; column {column} is read"
            for role, column in chosen.items()
            if getattr(spec, f"{role}_column") is None and column not in USUAL[role]
        ]

    def _columns(self, spec: Parquet, schemas: "Sequence[pa.Schema]") -> tuple[str, str]:
        """Choose the columns of images and labels in the first file; UserError if others lack them."""
        first = self.paths[0]
        image = _choose(first, schemas[0], "image", spec.image_column)
        label = _choose(first, schemas[0], "label", spec.label_column)
        held = _label_kind(schemas[0].field(label).type)
        for path, schema in zip(self.paths, schemas, strict=True):
            _choose(path, schema, "image", image)
            _choose(path, schema, "label", label)
            kind = _label_kind(schema.field(label).type)
            if kind != held:
                found = f"{path}: column {label} holds {kind}, but {held} in {first}"
                raise UserError(f"{found}; use files of one data set")
        return image, label

    def _class_names(self, schemas: "Sequence[pa.Schema]", column: str) -> list[str] | None:
        """Return the class names that some of the files state; UserError if two files differ in them."""
        every = [_class_names(*one, column) for one in zip(self.paths, schemas, strict=True)]
        stated = [(path, names) for path, names in zip(self.paths, every, strict=True) if names is not None]
        for path, names in stated:
            if names != stated[0][1]:
                raise UserError(
                    f"{path}: its class names are not those of {stated[0][0]}; use files of one data set"
                )
        return stated[0][1] if stated else None

    def _numbered(self, train: NDArray[np.int64]) -> list[str]:
        """Number classes without names up to the largest label; UserError if that exceeds the images."""
        largest = int(train.argmax())
        if train[largest] >= len(train):
            found = f"{self._where(largest)}: label {train[largest]} with {len(train)} training images"
            raise UserError(f"{found}; labels count from 0 to the number of classes − 1: renumber them")
        return [str(label) for label in range(train[largest] + 1)]

    def _encoded(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, io.BytesIO]]:
        order = np.argsort(indices, kind="stable")
        bounds = np.searchsorted(indices[order], self.starts)
        for number, start in enumerate(self.starts[:-1]):
            positions = order[bounds[number] : bounds[number + 1]]
            if len(positions):
                rows = indices[positions] - start
                for place, encoded in self._rows(number, rows):
                    yield int(positions[place]), encoded

    def _rows(self, number: int, rows: NDArray[np.int64]) -> Iterator[tuple[int, io.BytesIO]]:
        """Yield (position in `rows`, encoded image) for rows of one file, in ascending order."""
        for first, batch in self._batches(number, rows):
            lower, upper = np.searchsorted(rows, [first, first + len(batch)])
            for place in range(lower, upper):
                encoded = batch[int(rows[place]) - first].as_py()
                if encoded is None:
                    where = self._where(int(self.starts[number] + rows[place]))
                    found = f"{where}: no image, its bytes are null"
                    raise UserError(f"{found}; write images into the file, not only their paths")
                yield place, io.BytesIO(encoded)

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


def count_rows(path: Path) -> int:
    """Count the rows of a Parquet file."""
    return int(_open_parquet(path).metadata.num_rows)


def has_images(path: Path) -> bool:
    """Whether a Parquet file has a column of images, or cannot be read, which whoever reads it reports."""
    try:
        schema = _open_parquet(path).schema_arrow
    except UserError:
        return True
    return any(_holds_images(field.type) for field in schema)


def encoded_rows(path: Path) -> Iterator[tuple[str, io.BytesIO]]:
    """Yield the encoded images of a Parquet file, whether they have labels or not, each with its place."""
    import pyarrow as pa

    reader = _open_parquet(path)
    column = _choose(path, reader.schema_arrow, "image", None)
    row = 0
    try:
        for batch in reader.iter_batches(BATCH, columns=[f"{column}.bytes"]):
            for encoded in batch.column(0).field("bytes"):
                yield f"{path}, row {row}", io.BytesIO(encoded.as_py() or b"")
                row += 1
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); {RENEW}") from None


def parquet_files(spec: Parquet) -> list[Named]:
    """List the files of both parts."""
    return [single(f"{part}/{i}", str(path)) for part, of in parts(spec).items() for i, path in enumerate(of)]


def parts(spec: Parquet) -> dict[str, list[Path]]:
    """Return the files of each part in the order of the params, those of a pattern sorted.

    UserError for a pattern that matches nothing, and for a file that is named twice, also by a link.
    """
    found = {
        part: [path for entry in getattr(spec, part) for path in _matches(entry, f"source.{part}")]
        for part in PARTS
    }
    seen: dict[object, Path] = {}
    for path in (path for part in PARTS for path in found[part]):
        first = seen.setdefault(_identity(path), path)
        if first is not path:
            also = "" if first == path else f", first as {first}"
            raise UserError(
                f"{path}: named twice in source.train and source.test{also}; each file is read once: "
                "name it, or a pattern that matches it, in one place"
            )
    return found


def _identity(path: Path) -> object:
    """Return what all names of a file share: device and inode, or its resolved path if it is not here."""
    try:
        status = path.stat()
    except OSError:
        return path.resolve()
    return status.st_dev, status.st_ino


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
        regular(path)
        return pq.ParquetFile(path, metadata=metadata, buffer_size=BUFFER, pre_buffer=False)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; it is named in the params as a Parquet file of images"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: truncated or not Parquet ({first_line(error)}); {RENEW}") from None


def _choose(path: Path, schema: "pa.Schema", role: str, named: str | None) -> str:
    """Choose the column of a role, image or label: as named, by a usual name, or the only one of its type.

    UserError if that column has another type: a column of a usual name is what the user means.
    """
    fits = {"image": _holds_images, "label": _label_kind}[role]
    needed = {"image": "struct with a field `bytes`", "label": "column of integers or text"}[role]
    set_it = f"set source.{role}_column"
    columns = f"among the columns {', '.join(schema.names)}"
    fitting = [field.name for field in schema if fits(field.type)]
    usual = [name for name in USUAL[role] if name in schema.names]
    candidates = [named] if named is not None else usual[:1] or fitting
    if len(candidates) != 1:
        many = "more than one" if fitting else "no"
        raise UserError(f"{path}: {many} {needed} {columns}; {set_it}")
    if candidates[0] not in schema.names:
        raise UserError(f"{path}: no column called {candidates[0]} {columns}; {set_it}")
    if candidates[0] not in fitting:
        kind = str(schema.field(candidates[0]).type)[:80]
        raise UserError(f"{path}: column {candidates[0]} is {kind}, no {needed}; rewrite it or {set_it}")
    return candidates[0]


def _holds_images(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    at = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
    return at >= 0 and bool(pa.types.is_binary(kind[at].type) or pa.types.is_large_binary(kind[at].type))


def _label_kind(kind: "pa.DataType") -> str:
    """Return what labels of a type are: integers, text, or the empty string where they cannot be labels."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_integer(kind):
        return "integers"
    return "text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else ""


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


def _labels(path: Path, reader: "pq.ParquetFile", column: str) -> NDArray[Any]:
    """Read labels: int64 [rows], or text as objects [rows]. UserError if some are missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = _label_kind(reader.schema_arrow.field(column).type) == "text"
    try:
        labels = reader.read(columns=[column]).column(0).cast(pa.large_string() if text else pa.int64())
        labels.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: {column} cannot be read ({first_line(error)}); {RENEW}") from None
    missing = pc.fill_null(pc.equal(labels, ""), True) if text else labels.is_null()
    if pc.any(missing).as_py():
        row = missing.to_numpy().argmax()
        raise UserError(f"{path}, row {row}: {column} is null or empty; give it a label or leave the row out")
    found: NDArray[Any] = labels.to_numpy()
    return found


def _numbers(path: Path, labels: NDArray[Any], names: Sequence[str]) -> NDArray[np.int64]:
    """Number text labels by their places among the class names; UserError for one that is none of these."""
    numbers = {name: number for number, name in enumerate(names)}
    unknown = next((row for row, label in enumerate(labels) if label not in numbers), None)
    if unknown is not None:
        found = f"{path}, row {unknown}: label {labels[unknown]!r} is none of the {len(names)} classes"
        raise UserError(f"{found}, {', '.join(names)[:80]}; correct the label")
    return np.array([numbers[label] for label in labels], dtype=np.int64)
