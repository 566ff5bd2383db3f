"""Images held in memory: digits, torchvision's data sets, MedMNIST's .npz files."""

import gzip
import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hlrs.config.base import Choices
from hlrs.config.data import Digits, Npz, Torchvision
from hlrs.data.sources.base import PARTS, RENEW, ImageSource, Named, first_line, single
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
    """List the .npz file."""
    return [single("npz", spec.file)]


class NpzSource(ImageSource):
    """The arrays {train,test}_{images,labels} of an .npz; the pixels are read on first use."""

    def __init__(self, spec: Npz) -> None:
        self.path = Path(spec.file)
        with self._opened() as arrays:
            missing = {f"{part}_{what}" for part in PARTS for what in ("images", "labels")} - {*arrays.files}
            if missing:
                there = ", ".join(arrays.files) or "none"
                raise UserError(
                    f"{self.path}: no array {sorted(missing)[0]} among its arrays ({there}); "
                    "source npz needs train_images, train_labels, test_images and test_labels, as in MedMNIST"
                )
            shapes = {part: self._shape(arrays, f"{part}_images") for part in PARTS}
            train, test = (self._labels(arrays[f"{part}_labels"], part, shapes[part][0]) for part in PARTS)
        if shapes["train"][1:] != shapes["test"][1:]:
            found = f"training images {list(shapes['train'][1:])}, test images {list(shapes['test'][1:])}"
            raise UserError(f"{self.path}: {found}; both need one shape: {RENEW}")
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
            raise UserError(f"{self.path}: broken or not an .npz ({first_line(error)}); {RENEW}") from None

    def _shape(self, arrays: Any, name: str) -> tuple[int, ...]:
        """Read the shape of an array of images from its header alone; UserError if it cannot hold images."""
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
                f"{self.path}: {part}_labels has {labels.shape[1]} labels per image, but only one is "
                "supported: use a data set that is not multi-label"
            )
        if labels.shape not in ((images,), (images, 1)) or labels.dtype.kind not in "iu":
            found = f"{part}_labels is {labels.dtype} {list(labels.shape)} for {images} images"
            raise UserError(f"{self.path}: {found}; labels must be integers, one per image")
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
