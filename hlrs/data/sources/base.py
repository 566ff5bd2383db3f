"""The base of image sources: class names, labels, and pixels on request."""

import hashlib
import io
import os
import re
import stat
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hlrs.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}

PARTS = ("train", "test")

RENEW = "copy, write or `dvc pull` it again"

NOT_READ = {"F": "floating-point pixels", "LAB": "Lab colours"}  # Pillow's modes

WHITE = 65535  # of 16-bit grey

PHOTOMETRIC = 262  # a TIFF's tag; 0: white is zero
ORIENTATION = 274  # the tag of EXIF

SEVERAL = "hold several frames or pages, of which the first is read"
DEEP = f"are 16-bit grey, read as 0 for black to {WHITE:,} for white"

SPECIAL: dict[Callable[[int], bool], str] = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def remedy_for(path: str, otherwise: str) -> str:
    """Return `dvc pull` of the pointer that covers a missing file or folder; `otherwise` without one."""
    pointers = (Path(f"{part}.dvc") for part in (Path(path), *Path(path).parents))
    return next((f"`dvc pull {pointer}`" for pointer in pointers if pointer.is_file()), otherwise)


class Named(NamedTuple):
    """A file or folder that a source's spec names.

    `files` lists the single files in it: (name within the source, path). Paths are text, as half a million
    `Path` objects would take seconds at each start.
    """

    name: str
    path: str
    files: Callable[[], list[tuple[str, str]]]


def single(name: str, path: str) -> Named:
    """Name a single file."""
    return Named(name, path, lambda: [(name, path)])


class ImageSource(ABC):
    """Labelled images, indexed from the training images on, the official test images after them.

    classes: names; channels: 1 or 3; train_labels: int64 [n]; test_labels: int64 [m], 0 without a test set;
    files: the path of each image, empty where images share a file; remarks: what a user should know of the
    images, one line each.
    """

    files: Sequence[str | Path] = ()

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
        self.remarks: list[str] = []
        labels = np.concatenate([train_labels, test_labels])
        wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
        if len(wrong):
            label, where = labels[wrong[0]], self._where(int(wrong[0]))
            found = f"{where}: label {label} is none of 0 to {len(classes) - 1}"
            if label == -1:
                count = f"{(labels == -1).sum():,} of {len(labels):,} images"
                raise UserError(
                    f"{found}; -1 marks an unlabelled image, as {count} are: use images with labels"
                )
            raise UserError(f"{found}; correct the label")

    def read(
        self,
        indices: ArrayLike,
        size: int | None = None,
        crop: Callable[[int, "Image"], "Image"] | None = None,
    ) -> NDArray[np.uint8]:
        """Read images in the order of `indices`: uint8 [k, channels, height, width].

        `crop`, if given, first maps (place in `indices`, the file's image) to an image. Its shorter side is
        then resized to `size` (bilinear, antialiased) and the centre cut out; size None leaves it as it is.
        UserError for an image that cannot be decoded, and if the images differ in size.
        """
        asked = np.asarray(indices, dtype=np.int64)
        total = len(self.train_labels) + len(self.test_labels)
        if len(asked) and not 0 <= asked.min() <= asked.max() < total:
            found = f"images {asked.min()} to {asked.max()} requested, the source has {total}"
            raise UserError(f"{found}: its files changed after the split; rerun the split")
        images = np.empty((0, self.channels, size or 0, size or 0), dtype=np.uint8)
        for position, image in self._images(asked):
            pixels = pixels_of(crop(position, image) if crop else image, size)
            if not len(images):
                images = np.empty((len(asked), *pixels.shape), dtype=np.uint8)
            if pixels.shape != images.shape[1:]:
                found = f"{self._where(int(asked[position]))}: {pixels.shape[2]}×{pixels.shape[1]} pixels"
                raise UserError(
                    f"{found}, not {images.shape[3]}×{images.shape[2]} like the images before it; "
                    "set image_size"
                )
            images[position] = pixels
        return images

    def survey(self, indices: ArrayLike) -> list[str]:
        """Count what is unusual in the headers of encoded images: lines for the log.

        UserError for the first image whose header cannot be read.
        """
        return []

    def check(self, indices: ArrayLike, seconds: float) -> list[str]:
        """Read the headers of images, and their pixels if that takes less than `seconds`; show progress.

        Return lines for the log; one counts official test images with the pixels of a training image.
        UserError for the first image that cannot be read.
        """
        from tqdm import tqdm

        asked = np.asarray(indices, dtype=np.int64)
        remarks, started = self.survey(asked), time.monotonic()
        images = tqdm(self._images(asked), "checking images", len(asked), unit="image", disable=None)
        train: dict[bytes, int] = {}  # digest of the pixels -> index
        test: dict[int, bytes] = {}
        for done, (position, image) in enumerate(images, 1):
            index, pixels = int(asked[position]), hashlib.sha256(image.tobytes()).digest()
            if index < len(self.train_labels):
                train[pixels] = index
            else:
                test[index] = pixels
            elapsed = time.monotonic() - started
            if elapsed > 1 and elapsed / done * len(asked) > seconds:
                rest = "of the others only the headers; `hlrs split --check-images` decodes all"
                return [*remarks, f"decoded {done:,} of {len(asked):,} images, {rest}"]
        if same := [index for index, pixels in test.items() if pixels in train]:
            found = f"{len(same):,} of {len(test):,} test images have the pixels of a training image"
            remarks.append(f"{found}: {self._where(same[0])} is {self._where(train[test[same[0]]])}")
        return remarks

    @abstractmethod
    def _images(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, "Image"]]:
        """Yield (position in `indices`, decoded image), in the order that is cheapest to read."""

    @abstractmethod
    def _where(self, index: int) -> str:
        """Name the place where the user finds an image: its file, and position in it."""


class EncodedSource(ImageSource):
    """Labelled images that are encoded, each in a file or in a file of many."""

    def survey(self, indices: ArrayLike) -> list[str]:
        """Count what is unusual in the headers of encoded images: lines for the log.

        UserError for the first image whose header cannot be read.
        """
        asked = np.asarray(indices, dtype=np.int64)
        found: dict[str, list[str]] = {}
        for position, file in self._encoded(asked):
            where = self._where(int(asked[position]))
            for peculiarity in peculiarities(file, where):
                found.setdefault(peculiarity, []).append(where)
        return [
            f"{len(places):,} of {len(asked):,} images {peculiarity}; one is {places[0]}"
            for peculiarity, places in found.items()
        ]

    def _images(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, "Image"]]:
        for position, file in self._encoded(indices):
            yield position, decode(file, self._where(int(indices[position])))

    @abstractmethod
    def _encoded(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, io.BytesIO | Path]]:
        """Yield (position in `indices`, encoded image), in the order that is cheapest to read."""


def pixels_of(image: "Image", size: int | None) -> NDArray[np.uint8]:
    """Convert to uint8 [channels, height, width], as torchvision's Resize and CenterCrop compute it."""
    from PIL.Image import Resampling

    if size is not None:
        width, height = image.size
        short = min(width, height)
        width, height = int(size * width / short), int(size * height / short)
        left, top = round((width - size) / 2), round((height - size) / 2)
        image = image.resize((width, height), Resampling.BILINEAR).crop((left, top, left + size, top + size))
    array: NDArray[np.uint8] = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def decode(file: io.BytesIO | Path, where: str) -> "Image":
    """Decode an image as RGB by the rules of docs/data.md; UserError, naming `where`, if that fails."""
    with _opened(file, where) as image:
        from PIL import ImageOps

        image.load()
        with suppress(Exception):  # broken EXIF data turn no image
            ImageOps.exif_transpose(image, in_place=True)
        return _rgb(image, where)


def as_decoded(image: "Image", where: str) -> "Image":
    """Convert an image that somebody opened as `decode` does; UserError, naming `where`, if that fails."""
    from PIL import Image, ImageOps

    if image.mode in NOT_READ:
        raise UserError(f"{where}: {NOT_READ[image.mode]} are not read; convert it to grey or RGB")
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise almost anything on broken bytes
        raise UserError(f"{where}: not an image that can be decoded ({first_line(error)}); {RENEW}") from None
    rgb = _rgb(image, where)  # first: a turned copy lacks the tags of a TIFF
    with suppress(Exception):  # broken EXIF data turn no image
        exif = Image.Exif()
        exif[ORIENTATION] = image.getexif()[ORIENTATION]
        rgb.info["exif"] = exif.tobytes()
        ImageOps.exif_transpose(rgb, in_place=True)
    return rgb


def peculiarities(file: io.BytesIO | Path, where: str) -> list[str]:
    """Name what is unusual in an image's header; UserError, naming `where`, if it cannot be read."""
    with _opened(file, where) as image:
        # a camera's JPEG of several pictures (MPO) has previews behind the first
        several = getattr(image, "is_animated", False) and image.format != "MPO"
        deep = image.mode.startswith("I")
    return [SEVERAL] * several + [DEEP] * deep


@contextmanager
def _opened(file: io.BytesIO | Path, where: str) -> Iterator["Image"]:
    """Open an image for the body; UserError, naming `where`, for what Pillow raises here or there."""
    from PIL import Image

    try:
        if isinstance(file, Path):
            regular(file)
        with warnings.catch_warnings(action="ignore"), Image.open(file) as image:
            if image.mode in NOT_READ:
                found = f"{where}: {NOT_READ[image.mode]} are not read"
                raise UserError(f"{found}; save the image as grey or RGB, with 8 or 16 bits")
            yield image
    except UserError:
        raise
    except Image.DecompressionBombError:
        limit = f"{2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
        raise UserError(f"{where}: larger than the {limit} that are read; shrink the image") from None
    except Exception as error:  # Pillow's decoders raise almost anything on broken bytes
        raise UserError(f"{where}: not an image that can be decoded ({first_line(error)}); {RENEW}") from None


def _rgb(image: "Image", where: str) -> "Image":
    """Convert to RGB, what is transparent on white."""
    from PIL import Image

    if image.mode.startswith("I"):
        image = _eight_bits(image, where)
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _eight_bits(image: "Image", where: str) -> "Image":
    """Scale grey levels of 0 to 65,535 to 8 bits; UserError if there are others."""
    from PIL import Image

    levels: NDArray[Any] = np.asarray(image)
    lowest, highest = levels.min(), levels.max()
    if lowest < 0 or highest > WHITE:
        found = f"{where}: grey levels of {lowest:,} to {highest:,}"
        raise UserError(f"{found}; save the image with levels of 0 to {WHITE:,}, as 16-bit grey")
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0:
        levels = WHITE - levels
    grey = Image.fromarray(np.rint(levels / np.float32(257)).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8)))
    return grey


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has none; without Python's addresses."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r" <\S+ object at 0x[0-9a-f]+>", "", line)


# --- files ----------------------------------------------------------------------------------------------


def regular(path: str | Path) -> os.stat_result:
    """Look at a file before it is opened; UserError unless it, or its link's target, is regular with content.

    Reading a pipe or a device may never end. OSError if the file is out of reach.
    """
    check_name(str(path))
    status = os.stat(path)  # noqa: PTH116 - see `Named`
    if not stat.S_ISREG(status.st_mode):
        kind = next((word for of, word in SPECIAL.items() if of(status.st_mode)), "no regular file")
        raise UserError(f"{path}: {kind}, where a file of data is needed; name a file")
    if not status.st_blocks and os.path.realpath(path).startswith(("/proc/", "/sys/")):
        raise UserError(f"{path}: made up by the kernel, where a file of data is needed; name a file")
    if not status.st_size:
        raise UserError(f"{path}: empty; {RENEW}")
    return status


def check_name(path: str) -> None:
    """Raise UserError for a path that cannot be written as text, or that no file can have."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(f"{path!r}: the name is not UTF-8; rename it") from None
    if "\0" in path:
        raise UserError(f"{path!r}: a name cannot hold a NUL character; correct it")
