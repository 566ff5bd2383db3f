"""The base of image sources: class names, labels, and pixels on request."""

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hlrs.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}

PARTS = ("train", "test")

RENEW = "copy, write or `dvc pull` it again"


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
    remarks: Sequence[str] = ()

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

    @abstractmethod
    def _images(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, "Image"]]:
        """Yield (position in `indices`, decoded image), in the order that is cheapest to read."""

    @abstractmethod
    def _where(self, index: int) -> str:
        """Name the place where the user finds an image: its file, and position in it."""


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
    """Decode an image as RGB; UserError, naming `where`, if it cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise almost anything on broken bytes
        raise UserError(f"{where}: not an image that can be decoded ({first_line(error)}); {RENEW}") from None


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
