"""Where images come from: every kind of source answers with class names, labels, and the pixels asked for."""

import io
import json
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hlrs.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL.Image import Image

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}
BATCH = 256  # rows of a Parquet file in memory at a time, encoded
BUFFER = 1 << 20  # bytes; left to its defaults, pyarrow holds a whole row group at once
TORCHVISION = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "fashion_mnist": "FashionMNIST",
    "mnist": "MNIST",
    "kmnist": "KMNIST",
}
SUPERCLASSES = {  # CIFAR-100's, in the order of its coarse labels
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
PARTS = ("train", "test")
RENEW = "copy, write or `dvc pull` it anew"


class ImageSource(ABC):
    """Labelled images. Index: position in the training images, the official test images after them.

    classes: names; channels: 1 or 3; train_labels: int64 [n]; test_labels: int64 [m], 0 without a test set.
    """

    def __init__(
        self,
        classes: list[str],
        channels: int,
        train_labels: NDArray[np.int64],
        test_labels: NDArray[np.int64],
    ) -> None:
        self.classes = classes
        self.channels = channels
        self.train_labels = train_labels
        self.test_labels = test_labels
        labels = np.concatenate([train_labels, test_labels])
        wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
        if len(wrong):
            label, where = labels[wrong[0]], self._where(int(wrong[0]))
            raise UserError(f"{where}: label {label} is none of 0 to {len(classes) - 1}; correct the label")

    def read(
        self,
        indices: ArrayLike,
        size: int | None = None,
        crop: Callable[[int, "Image"], "Image"] | None = None,
    ) -> NDArray[np.uint8]:
        """The images asked for, in that order: uint8 [k, channels, height, width].

        size None: as they are. Else the shorter side is resized to `size` (bilinear, antialiased) and the
        centre cut out, of what `crop` makes of the image if given (its place in `indices`, the file's image).
        UserError for an image that cannot be decoded, and if the images differ in size.
        """
        asked = np.asarray(indices, dtype=np.int64)
        total = len(self.train_labels) + len(self.test_labels)
        if len(asked) and not 0 <= asked.min() <= asked.max() < total:
            found = f"images {asked.min()} to {asked.max()} are asked of a source with {total}"
            raise UserError(f"{found}: its files are not those that were split; make the split anew")
        images = np.empty((0, self.channels, size or 0, size or 0), dtype=np.uint8)
        for position, image in self._images(asked):
            pixels = _pixels(crop(position, image) if crop else image, size)
            if not len(images):
                images = np.empty((len(asked), *pixels.shape), dtype=np.uint8)
            if pixels.shape != images.shape[1:]:
                found = f"{self._where(int(asked[position]))}: {pixels.shape[2]}×{pixels.shape[1]} pixels"
                raise UserError(
                    f"{found}, not {images.shape[3]}×{images.shape[2]} as before it; set image_size"
                )
            images[position] = pixels
        return images

    @abstractmethod
    def _images(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, "Image"]]:
        """(position in `indices`, decoded image), in whatever order is cheapest to read."""

    @abstractmethod
    def _where(self, index: int) -> str:
        """Where the user finds an image."""


def open_source(spec: Mapping[str, Any]) -> ImageSource:
    """The source that a spec (`config.Source`, dumped) describes; no image is decoded yet.

    UserError for a file that is missing or broken and for labels that are not 0 to C − 1.
    """
    return KINDS[spec["kind"]](spec)


def _pixels(image: "Image", size: int | None) -> NDArray[np.uint8]:
    """uint8 [channels, height, width]; arithmetic of torchvision's Resize and CenterCrop."""
    from PIL.Image import Resampling

    if size is not None:
        width, height = image.size
        short = min(width, height)
        width, height = int(size * width / short), int(size * height / short)
        left, top = round((width - size) / 2), round((height - size) / 2)
        image = image.resize((width, height), Resampling.BILINEAR).crop((left, top, left + size, top + size))
    array: NDArray[np.uint8] = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _decode(file: io.BytesIO | Path, where: str) -> "Image":
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise nearly anything on broken bytes
        raise UserError(
            f"{where}: not an image that can be decoded ({_first_line(error)}); {RENEW}"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# --- in memory ----------------------------------------------------------------------------------------


class _Resident(ImageSource):
    """Images that fit in memory: pixels uint8 [n + m, height, width] or [n + m, height, width, 3]."""

    def __init__(self, name: str, classes: list[str], pixels: NDArray[np.uint8], *labels: ArrayLike) -> None:
        self.name = name
        self.pixels = pixels
        train, test = (np.asarray(part, dtype=np.int64) for part in labels)
        super().__init__(classes, 1 if pixels.ndim == 3 else 3, train, test)

    def _images(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, "Image"]]:
        from PIL import Image

        for position, index in enumerate(indices):
            yield position, Image.fromarray(self.pixels[index])

    def _where(self, index: int) -> str:
        return f"{self.name}, image {index}"


def digits_file() -> Path:
    """scikit-learn's file of handwritten digits, found without importing it (which takes a second)."""
    from importlib.util import find_spec

    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise UserError("source digits is scikit-learn's, which is not installed: pip install scikit-learn")
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"


def _digits(_: Mapping[str, Any]) -> ImageSource:
    rows = np.loadtxt(digits_file(), delimiter=",", dtype=np.uint8)  # 64 pixels of 0 to 16, and the digit
    pixels = np.rint(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return _Resident("digits", [str(digit) for digit in range(10)], pixels, rows[:, -1], [])


def torchvision_files(name: str, root: Path) -> list[tuple[str, Path]]:
    """(name, path) of the files that torchvision's class reads, in a fixed order."""
    from torchvision import datasets

    kind: Any = getattr(datasets, TORCHVISION[name])
    if hasattr(kind, "base_folder"):  # the CIFARs
        lists = [*kind.train_list, *kind.test_list, [kind.meta["filename"]]]
        return [(entry[0], root / kind.base_folder / entry[0]) for entry in lists]
    raw = root / kind.__name__ / "raw"
    return [(file, raw / file) for file in (archive.removesuffix(".gz") for archive, _ in kind.resources)]


def _torchvision(spec: Mapping[str, Any]) -> ImageSource:
    from torchvision import datasets

    name, root = spec["name"], spec["root"]
    read = getattr(datasets, TORCHVISION[name])
    remedy = (
        "look at the network and the disk"
        if spec["download"]
        else "set download: true or copy the files there"
    )
    try:
        train, test = (read(root, train=part, download=spec["download"]) for part in (True, False))
        pixels = np.concatenate([np.asarray(train.data), np.asarray(test.data)])
    except Exception as error:  # what torchvision raises on a broken file is undocumented, and varied
        raise UserError(f"{root}: {name} is missing or broken ({_first_line(error)}); {remedy}") from None
    for part, data in (("training", train), ("test", test)):
        if len(data.data) != len(data.targets):
            counts = f"{len(data.data)} {part} images and {len(data.targets)} labels"
            raise UserError(f"{root}: {name} holds {counts}; {remedy}")
    classes, labels = list(train.classes), [np.asarray(part.targets) for part in (train, test)]
    if spec["labels"] == "coarse":
        table = superclasses(classes)
        classes, labels = list(SUPERCLASSES), [table[fine] for fine in labels]
    return _Resident(f"{root} ({name})", classes, pixels, *labels)


def superclasses(fine: Sequence[str]) -> NDArray[np.int64]:
    """The coarse label of each of CIFAR-100's fine classes, given by name: int64 [100]."""
    coarse = {name: c for c, names in enumerate(SUPERCLASSES.values()) for name in names.split()}
    return np.array([coarse[name] for name in fine])


# --- MedMNIST -----------------------------------------------------------------------------------------


class _Npz(ImageSource):
    """The arrays {train,test}_{images,labels} of an .npz; the pixels are read when first asked for."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.path = Path(spec["file"])
        with self._opened() as arrays:
            missing = {f"{part}_{what}" for part in PARTS for what in ("images", "labels")} - {*arrays.files}
            if missing:
                there = ", ".join(arrays.files) or "none"
                raise UserError(
                    f"{self.path}: no array {sorted(missing)[0]} among its arrays ({there}); "
                    "source npz reads train_ and test_, images and labels, as MedMNIST has them"
                )
            shapes = {part: self._shape(arrays, f"{part}_images") for part in PARTS}
            train, test = (self._labels(arrays[f"{part}_labels"], part, shapes[part][0]) for part in PARTS)
        if shapes["train"][1:] != shapes["test"][1:]:
            found = f"training images {list(shapes['train'][1:])}, test images {list(shapes['test'][1:])}"
            raise UserError(f"{self.path}: {found}; both must be of one shape: {RENEW}")
        classes = [str(label) for label in range(int(train.max()) + 1)]
        super().__init__(classes, 1 if len(shapes["train"]) == 3 else 3, train, test)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                yield arrays
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such file; it is named in the params as an .npz file") from None
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{self.path}: broken or not an .npz ({_first_line(error)}); {RENEW}") from None

    def _shape(self, arrays: Any, name: str) -> tuple[int, ...]:
        """The shape of an array of images, by its header alone."""
        with arrays.zip.open(f"{name}.npy") as member:
            major, _ = np.lib.format.read_magic(member)
            header = (
                np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            )
            shape, _, kind = header(member)
        plain = len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)
        if kind != np.uint8 or not plain or not shape[0]:
            raise UserError(
                f"{self.path}: {name} is {kind} {list(shape)}; images must be uint8, "
                "[n, height, width] or [n, height, width, 3]"
            )
        return tuple(shape)

    def _labels(self, labels: NDArray[Any], part: str, images: int) -> NDArray[np.int64]:
        if labels.ndim == 2 and labels.shape[1] > 1:
            raise UserError(
                f"{self.path}: {part}_labels has {labels.shape[1]} labels an image; here an image is of one "
                "class: use a data set that is not multi-label"
            )
        if labels.shape not in ((images,), (images, 1)) or labels.dtype.kind not in "iu":
            found = f"{part}_labels is {labels.dtype} {list(labels.shape)} for {images} images"
            raise UserError(f"{self.path}: {found}; labels must be integers, one an image")
        return labels.reshape(-1).astype(np.int64)

    @cached_property
    def _pixels(self) -> NDArray[np.uint8]:
        with self._opened() as arrays:
            return np.concatenate([arrays[f"{part}_images"] for part in PARTS])

    def _images(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, "Image"]]:
        from PIL import Image

        for position, index in enumerate(indices):
            yield position, Image.fromarray(self._pixels[index])

    def _where(self, index: int) -> str:
        test = index >= len(self.train_labels)
        return f"{self.path}, {PARTS[test]} image {index - test * len(self.train_labels)}"


# --- Parquet ------------------------------------------------------------------------------------------


class _Parquet(ImageSource):
    """Encoded images in Parquet files; only the row groups that hold what is asked for are read."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        files = parquet_files(spec["train"], spec["test"])
        self.paths = [path for part in PARTS for path in files[part]]
        readers = [_open_parquet(path) for path in self.paths]
        self.metadata = [reader.metadata for reader in readers]
        self.starts = np.cumsum([0, *(metadata.num_rows for metadata in self.metadata)])
        schema = readers[0].schema_arrow
        self.image_column = _choose(self.paths[0], schema, "image", spec["image_column"])
        label_column = _choose(self.paths[0], schema, "label", spec["label_column"])
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
            if spec[part] and not len(found):
                raise UserError(f"{spec[part][0]}: no rows; name files that hold images under source.{part}")
        super().__init__(names or self._numbered(train), 3, train, test)

    def _numbered(self, train: NDArray[np.int64]) -> list[str]:
        """Classes without names: one for each label up to the largest; there cannot be more than images."""
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
        """(position in `rows`, image) of the given rows, sorted, of one file."""
        for first, batch in self._batches(number, rows):
            lower, upper = np.searchsorted(rows, [first, first + len(batch)])
            for place in range(lower, upper):
                where = self._where(int(self.starts[number] + rows[place]))
                encoded = batch[int(rows[place]) - first].as_py()
                if encoded is None:
                    raise UserError(f"{where}: no image, its bytes are null; write the images into the file")
                yield place, _decode(io.BytesIO(encoded), where)

    def _batches(self, number: int, rows: NDArray[np.int64]) -> Iterator[tuple[int, "pa.Array"]]:
        """(first row, encoded images) of the row groups of one file that hold any of the given rows."""
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
            raise UserError(f"{self.paths[number]}: cannot be read ({_first_line(error)}); {RENEW}") from None

    def _where(self, index: int) -> str:
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return f"{self.paths[number]}, row {index - self.starts[number]}"


def parquet_files(train: Sequence[str], test: Sequence[str]) -> dict[str, list[Path]]:
    """The files of either part in the order of the params, what a pattern matches in sorted order.

    UserError for a pattern that matches nothing, and for a file that is named twice.
    """
    parts = {"train": train, "test": test}
    found = {
        part: [path for entry in parts[part] for path in _matches(entry, f"source.{part}")] for part in PARTS
    }
    seen: set[Path] = set()
    for path in (path for part in PARTS for path in found[part]):
        if path in seen:
            raise UserError(
                f"{path}: named twice in source.train and source.test; a file's images are read once: "
                "name it, or a pattern that matches it, in one place"
            )
        seen.add(path)
    return found


def _matches(entry: str, field: str) -> list[Path]:
    """The files of a pattern, also those of which there is only a `.dvc` pointer; else the file named."""
    if not any(sign in entry for sign in "*?[") or Path(entry).exists():
        return [Path(entry)]
    root = Path(Path(entry).anchor)
    pattern = str(Path(entry).relative_to(root))
    found = {path for path in root.glob(pattern) if path.suffix != ".dvc"}
    found |= {path.with_suffix("") for path in root.glob(f"{pattern}.dvc")}
    if not found:
        raise UserError(f"{entry}: no file matches this pattern; write the files there or correct {field}")
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
        raise UserError(f"{path}: truncated or not Parquet ({_first_line(error)}); {RENEW}") from None


def _choose(path: Path, schema: "pa.Schema", role: str, named: str | None) -> str:
    """The column of a role, `image` or `label`: as named, or by a usual name, or the only one of its type."""
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
    """From the schema's metadata: `class_names`, or what Hugging Face's `datasets` notes of a ClassLabel."""
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
        raise UserError(f"{path}: {column} cannot be read ({_first_line(error)}); {RENEW}") from None
    if labels.null_count:
        row = labels.is_null().to_numpy().argmax()
        raise UserError(f"{path}, row {row}: {column} is null; give it a label or leave the row out")
    return np.asarray(labels.to_numpy(), dtype=np.int64)


# --- files of their own -------------------------------------------------------------------------------


class _Files(ImageSource):
    """A file an image: `files`, training images first."""

    files: Sequence[str | Path]

    def _images(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, "Image"]]:
        for position, index in enumerate(indices):
            yield position, _decode(Path(self.files[index]), str(self.files[index]))

    def _where(self, index: int) -> str:
        return str(self.files[index])


class _Folder(_Files):
    """A folder a class, its images below it at any depth, in sorted order."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        roots = [Path(spec[part]) for part in PARTS if spec[part]]
        classes = _folders(roots[0])
        if not classes:
            raise UserError(
                f"{roots[0]}: no folders in it; image_folder takes each class from a folder of its own"
            )
        files: list[Path] = []
        labels = []
        for root in roots:
            unknown = sorted(set(_folders(root)) - set(classes))
            if unknown:
                raise UserError(
                    f"{root / unknown[0]}: no such class in {roots[0]}; rename or remove the folder"
                )
            folders = [_image_files(root / name) for name in classes]
            files += [file for folder in folders for file in folder]
            labels.append(np.repeat(np.arange(len(classes)), [len(folder) for folder in folders]))
            if not len(labels[-1]):
                raise UserError(
                    f"{root}: no images in its folders; put {', '.join(sorted(IMAGE_SUFFIXES))} there"
                )
        self.files = files
        test = labels[1] if len(roots) == 2 else np.empty(0, dtype=np.int64)
        super().__init__(classes, 3, labels[0], test)


def _folders(root: Path) -> list[str]:
    try:
        return sorted(path.name for path in root.iterdir() if path.is_dir())
    except OSError as error:
        raise UserError(
            f"{root}: {error.strerror}; it is named in the params as a folder of images"
        ) from None


def _image_files(folder: Path) -> Sequence[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


class _Lists(_Files):
    """Images below a folder, with labels, that text files of "path label" lines name."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        names, train = _read_list(Path(spec["train"]))
        classes = _known_classes(spec, train)
        test = np.empty(0, dtype=np.int64)
        if spec["test"]:
            others, test = _read_list(Path(spec["test"]))
            beyond = np.flatnonzero(test >= len(classes))
            if len(beyond):
                where = _line(Path(spec["test"]), int(beyond[0]))
                found = f"{where}: label {test[beyond[0]]} is none of 0 to {len(classes) - 1}"
                raise UserError(f"{found}, those of {spec['train']}; use lists of one data set")
            both = set(names).intersection(others)
            if both:
                found = f"{len(both)} of {len(others)} images are in {spec['train']} as well"
                first = next(name for name in others if name in both)
                raise UserError(
                    f"{spec['test']}: {found}, the first is {first}; what is trained on cannot test: "
                    "take them out of one of the lists"
                )
            names += others
        self.names = names
        self.files = [f"{spec['root']}/{name}" for name in names]
        super().__init__(classes, 3, train, test)


def listed_images(spec: Mapping[str, Any]) -> list[str]:
    """The images that a `config.ListFile`, dumped, names, below its root. UserError as of `open_source`."""
    return _Lists(spec).names


def _known_classes(spec: Mapping[str, Any], labels: NDArray[np.int64]) -> list[str]:
    """The names in the file of class names, or numbers; each class must be among the training labels."""
    found = np.unique(labels)
    count = int(found[-1]) + 1
    names: list[str] | None = None
    if spec["classes"]:
        lines = _text(Path(spec["classes"]), "a file of class names").split("\n")
        names = [line.strip() for line in lines if line.strip()]
        if count > len(names):
            where = _line(Path(spec["train"]), int(labels.argmax()))
            raise UserError(
                f"{where}: label {count - 1}, but {spec['classes']} names {len(names)} classes, "
                f"0 to {len(names) - 1}; correct one of the two"
            )
        count = len(names)
    if len(found) < count:
        first = next(c for c, label in enumerate([*found, count]) if c != label)
        gaps = f"no image of {count - len(found):,} of the labels 0 to {count - 1:,}, the first is {first}"
        raise UserError(f"{spec['train']}: {gaps}; number the classes that have images from 0 on")
    return names or [str(label) for label in range(count)]


def _read_list(path: Path) -> tuple[list[str], NDArray[np.int64]]:
    """The paths and labels of a file of "path label" lines; a path may hold spaces, a line may be blank."""
    names, labels = [], []
    for number, line in enumerate(_text(path, "a list of images").split("\n"), 1):
        parts = line.rsplit(None, 1)
        if not parts:
            continue
        name, label = parts if len(parts) == 2 else (line, "")
        if not (label.isascii() and label.isdecimal() and len(label) < 10):
            raise UserError(
                f'{path}:{number}: {line.strip()[:80]!r} is no line of "path label"; '
                "a label is a whole number from 0 on"
            )
        if name.startswith("/") or "/../" in f"/{name}/":
            raise UserError(f"{path}:{number}: {name} is not below source.root; name images relative to it")
        names.append(name)
        labels.append(int(label))
    if not names:
        raise UserError(f'{path}: names no image; write lines of "path label" into it')
    repeated = len(names) - len(set(names))
    if repeated:
        first = {name: i for i, name in reversed([*enumerate(names)])}
        entry = next(i for i, name in enumerate(names) if first[name] != i)
        found = f"{names[entry]} is named a second time; {repeated:,} of {len(names):,} lines repeat an image"
        raise UserError(f"{_line(path, entry)}: {found}: name each once")
    return names, np.array(labels, dtype=np.int64)


def _line(path: Path, entry: int) -> str:
    """Where in a list an entry stands."""
    lines = _text(path, "a list of images").split("\n")
    return f"{path}:{[number for number, line in enumerate(lines, 1) if line.strip()][entry]}"


def _text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; it is named in the params as {what}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not text in UTF-8; it is named in the params as {what}") from None


KINDS = {
    "digits": _digits,
    "parquet": _Parquet,
    "torchvision": _torchvision,
    "image_folder": _Folder,
    "list_file": _Lists,
    "npz": _Npz,
}
