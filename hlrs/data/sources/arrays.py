"""Images held in memory: digits, torchvision's data sets, MedMNIST's .npz files."""

import gzip
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hlrs.config.base import Choices
from hlrs.config.data import Digits, Npz, Torchvision
from hlrs.data.sources.base import RENEW, ImageSource, Named, first_line, regular, single
from hlrs.data.sources.lists import read_class_names
from hlrs.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

Labels = NDArray[np.int64]

TORCHVISION: Choices[tuple[str, str]] = {  # torchvision's class, and the folder of its files below the root
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
    "fashion_mnist": ("FashionMNIST", "FashionMNIST/raw"),
    "mnist": ("MNIST", "MNIST/raw"),
    "kmnist": ("KMNIST", "KMNIST/raw"),
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


class ResidentSource(ImageSource):
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


# --- digits ---------------------------------------------------------------------------------------------


def digits_file() -> Path:
    """Find scikit-learn's file of digits without importing it, which is slow; UserError without it."""
    from importlib.util import find_spec

    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise UserError("source digits needs scikit-learn, which is not installed: pip install scikit-learn")
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"


def digits_source(_: Digits) -> ImageSource:
    """Read the digits, their grey levels scaled to 0 to 255."""
    rows = np.loadtxt(digits_file(), delimiter=",", dtype=np.uint8)  # 64 pixels of 0 to 16, and the digit
    pixels = np.rint(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return ResidentSource("digits", [str(digit) for digit in range(10)], pixels, rows[:, -1], [])


def digits_files(_: Digits) -> list[Named]:
    """List scikit-learn's file."""
    return [single("digits", str(digits_file()))]


# --- torchvision ----------------------------------------------------------------------------------------


def torchvision_folder(spec: Torchvision) -> Path:
    """Return the folder of a data set's files."""
    return Path(spec.root, TORCHVISION[spec.name][1])


def torchvision_files(spec: Torchvision) -> list[Named]:
    """List the files that torchvision's class reads, in a fixed order."""
    kind, folder = _torchvision(spec.name), torchvision_folder(spec)
    if hasattr(kind, "base_folder"):  # the CIFARs
        names = [entry[0] for entry in (*kind.train_list, *kind.test_list, [kind.meta["filename"]])]
    else:
        names = [archive.removesuffix(".gz") for archive, _ in kind.resources]
    return [single(name, str(folder / name)) for name in names]


def are_published(spec: Torchvision) -> bool:
    """Return whether the files are the published ones, by torchvision's MD5 digests, or still to be fetched.

    Of the MNIST family it has those of the archives, so each file is compared with what its archive holds.
    """
    if not all(Path(file.path).is_file() for file in torchvision_files(spec)):
        return True
    kind, folder = _torchvision(spec.name), torchvision_folder(spec)
    if hasattr(kind, "base_folder"):
        digests = [*kind.train_list, *kind.test_list, [kind.meta["filename"], kind.meta["md5"]]]
        return all(_md5(folder / name) == digest for name, digest in digests)
    return all(
        _md5(folder / archive) == digest
        and gzip.decompress((folder / archive).read_bytes()) == _bytes(folder / archive.removesuffix(".gz"))
        for archive, digest in kind.resources
    )


def _torchvision(name: str) -> Any:
    from torchvision import datasets

    return getattr(datasets, TORCHVISION[name][0])


def _md5(path: Path) -> str | None:
    content = _bytes(path)
    return None if content is None else hashlib.md5(content, usedforsecurity=False).hexdigest()


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def torchvision_source(spec: Torchvision) -> ImageSource:
    """Read one of torchvision's data sets; UserError if its files are missing or broken."""
    name, root = spec.name, spec.root
    read = _torchvision(name)
    remedy = (
        "check the network and the disk" if spec.download else "set download: true or copy the files there"
    )
    for file in torchvision_files(spec):
        if Path(file.path).exists():
            regular(file.path)
    try:
        train, test = (read(root, train=part, download=spec.download) for part in (True, False))
        pixels = np.concatenate([np.asarray(train.data), np.asarray(test.data)])
    except Exception as error:  # undocumented and varied on broken files
        raise UserError(f"{root}: {name} is missing or broken ({first_line(error)}); {remedy}") from None
    for part, data in (("training", train), ("test", test)):
        if len(data.data) != len(data.targets):
            counts = f"{len(data.data)} {part} images and {len(data.targets)} labels"
            raise UserError(f"{root}: {name} holds {counts}; {remedy}")
    labels = [np.asarray(part.targets) for part in (train, test)]
    classes, labels = LABELS[spec.labels](list(train.classes), labels)
    return ResidentSource(f"{root} ({name})", classes, pixels, *labels)


def superclasses(fine: Sequence[str]) -> NDArray[np.int64]:
    """Map CIFAR-100's fine classes, given by name, to coarse labels: int64 [100]."""
    coarse = {name: c for c, names in enumerate(SUPERCLASSES.values()) for name in names.split()}
    return np.array([coarse[name] for name in fine])


def as_they_are(classes: list[str], labels: list[Labels]) -> tuple[list[str], list[Labels]]:
    """Return the data set's own classes and labels."""
    return classes, labels


def coarse_labels(classes: list[str], labels: list[Labels]) -> tuple[list[str], list[Labels]]:
    """Return CIFAR-100's superclasses, and labels among them."""
    table = superclasses(classes)
    return list(SUPERCLASSES), [table[fine] for fine in labels]


LABELS: Choices[Callable[..., tuple[list[str], list[Labels]]]] = {
    "fine": as_they_are,
    "coarse": coarse_labels,
}


# --- .npz files -----------------------------------------------------------------------------------------


def npz_files(spec: Npz) -> list[Named]:
    """List the .npz file, and that of class names."""
    return [single("npz", spec.file), *([single("classes", spec.classes)] if spec.classes else [])]


class NpzSource(ImageSource):
    """The arrays {train,val,test}_{images,labels} of an .npz; the pixels are read on first use."""

    def __init__(self, spec: Npz) -> None:
        self.path = Path(spec.file)
        self.parts = ["train", *(["val"] if spec.join_val else []), "test"]
        with self._opened() as arrays:
            missing = {f"{part}_{what}" for part in self.parts for what in ("images", "labels")}
            missing -= {*arrays.files}
            if missing:
                there = ", ".join(arrays.files) or "none"
                needed = "train_images, train_labels, test_images and test_labels, as in MedMNIST"
                raise UserError(
                    f"{self.path}: no array {min(missing)} among its arrays ({there}); source npz needs "
                    f"{needed}{'; with join_val also val_images and val_labels' * spec.join_val}"
                )
            self.shapes = {part: self._image_shape(arrays, f"{part}_images") for part in self.parts}
            labels = [self._labels(arrays, part) for part in self.parts]
        train = self.shapes["train"][1:]
        for part, shape in self.shapes.items():
            if shape[1:] != train:
                found = f"train images {list(train)}, {part} images {list(shape[1:])}"
                raise UserError(f"{self.path}: {found}; all need one shape: {RENEW}")
        super().__init__(
            self._classes(spec, int(labels[0].max()) + 1), train[2], np.concatenate(labels[:-1]), labels[-1]
        )

    def _classes(self, spec: Npz, count: int) -> list[str]:
        """Return the classes' names, without a file their numbers; UserError if they are not as many."""
        if spec.classes is None:
            return [str(label) for label in range(count)]
        names = read_class_names(Path(spec.classes))
        if len(names) != count:
            found = f"{spec.classes}: {len(names)} class names, but {self.path} has labels 0 to {count - 1}"
            raise UserError(f"{found}; write one name per line, in the order of the labels")
        return names

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            regular(self.path)
            # a lone array in place of an .npz would be read whole, were it not mapped
            with np.load(self.path, allow_pickle=False, mmap_mode="r") as arrays:
                yield arrays
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such file; it is named in the params as an .npz file") from None
        except UserError:
            raise
        except Exception as error:  # varied on broken files, as NumPy and zipfile parse them
            raise UserError(f"{self.path}: broken or not an .npz ({first_line(error)}); {RENEW}") from None

    def _header(self, arrays: Any, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Read shape and type of an array from its header alone; UserError if it is too large to be read."""
        with arrays.zip.open(f"{name}.npy") as member:
            major, _ = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            shape, _, kind = read(member)
            stored = arrays.zip.getinfo(member.name).file_size - member.tell()
        size = math.prod(shape) * kind.itemsize
        if size != stored and not kind.hasobject:
            found = f"{name} is {kind} {list(shape)}, {size:,} bytes, but holds {stored:,}"
            raise UserError(f"{self.path}: {found}; {RENEW}")
        return tuple(shape), kind

    def _image_shape(self, arrays: Any, name: str) -> tuple[int, int, int, int]:
        """Return the shape of an array of images, with channels; UserError if it cannot hold images."""
        shape, kind = self._header(arrays, name)
        if (
            kind == np.uint8
            and 0 not in shape
            and (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3)))
        ):
            return (*shape, 1)[:4]
        found = f"{self.path}: {name} is {kind} {list(shape)}"
        if len(shape) > 3 and len({*shape[1:4]}) == 1:
            raise UserError(f"{found}; these are 3-D images, of which none are supported: use a 2-D data set")
        raise UserError(f"{found}; images must be uint8, [n, height, width] and 1 or 3 channels, if any")

    def _labels(self, arrays: Any, part: str) -> NDArray[np.int64]:
        shape, kind = self._header(arrays, f"{part}_labels")
        images = self.shapes[part][0]
        if len(shape) == 2 and shape[1] > 1:
            raise UserError(
                f"{self.path}: {part}_labels has {shape[1]} labels per image, but only one is "
                "supported: use a data set that is not multi-label"
            )
        if shape not in ((images,), (images, 1)) or kind.kind not in "iu":
            found = f"{part}_labels is {kind} {list(shape)} for {images} images"
            raise UserError(f"{self.path}: {found}; labels must be integers, one per image")
        self._check_memory(images * (kind.itemsize + 8))
        labels: NDArray[Any] = arrays[f"{part}_labels"]
        return labels.reshape(-1).astype(np.int64)

    def _check_memory(self, needed: int) -> None:
        free = available_memory()
        if needed > free:
            found = f"{self.path}: unpacking it takes {needed / 1e9:,.1f} GB of memory"
            raise UserError(f"{found}, {free / 1e9:,.1f} GB are free; free memory or use smaller images")

    @cached_property
    def _pixels(self) -> NDArray[np.uint8]:
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        self._check_memory(sum(sizes) + max(sizes))  # one part is unpacked at a time
        shape = len(self.train_labels) + len(self.test_labels), *self.shapes["train"][1:]
        pixels, start = np.empty(shape, dtype=np.uint8), 0
        with self._opened() as arrays:
            for part, of in self.shapes.items():
                pixels[start : start + of[0]] = arrays[f"{part}_images"].reshape(of)
                start += of[0]
        return pixels

    def _images(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, "Image"]]:
        from PIL import Image

        for position, index in enumerate(indices):
            pixels = self._pixels[index]
            yield position, Image.fromarray(pixels[..., 0] if self.channels == 1 else pixels)

    def _where(self, index: int) -> str:
        ends = np.cumsum([shape[0] for shape in self.shapes.values()])
        number = int(np.searchsorted(ends, index, side="right"))
        part = self.parts[number]
        return f"{self.path}, {part} image {index - ends[number] + self.shapes[part][0]}"


def available_memory() -> int:
    """Bytes of memory that are free or can be freed on this machine."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
