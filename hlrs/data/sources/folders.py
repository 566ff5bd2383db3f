"""Image files: one folder per class."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlrs.config.data import ImageFolder
from hlrs.data.sources.base import IMAGE_SUFFIXES, PARTS, EncodedSource, Named, check_name, remedy_for
from hlrs.errors import UserError

HIDDEN = (".", "__MACOSX")  # how names begin that nobody made by hand

PART_FOLDERS = {  # names of a part's folder, one level above the classes
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}

# images that Pillow may know nothing of: of phones, the web, cameras and hospitals
OTHER_FORMATS = {".heic", ".heif", ".avif", ".jxl", ".dng", ".arw", ".cr2", ".cr3", ".nef", ".dcm", ".svs"}


class FilesSource(EncodedSource):
    """One file per image."""

    def _encoded(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, Path]]:
        for position, index in enumerate(indices):
            yield position, Path(self.files[index])

    def _where(self, index: int) -> str:
        return str(self.files[index])


class FolderSource(FilesSource):
    """One folder per class, its images below it at any depth, in sorted order."""

    def __init__(self, spec: ImageFolder) -> None:
        listings = [_listing(part, root) for part, root in _roots(spec).items()]
        classes = list(listings[0].images)
        for listing in listings[1:]:
            unknown = sorted(listing.images.keys() - set(classes))
            if unknown:
                raise UserError(
                    f"{listing.root}/{unknown[0]}: no such class in {spec.train}; rename or remove the folder"
                )
        images = [[listing.images.get(name, []) for name in classes] for listing in listings]
        self.files = [file for part in images for files in part for file in files]
        labels = [np.repeat(np.arange(len(classes)), [len(files) for files in part]) for part in images]
        super().__init__(classes, 3, labels[0], labels[1] if spec.test else np.empty(0, dtype=np.int64))
        self.remarks += [remark for listing in listings for remark in listing.remarks()]


def folder_files(spec: ImageFolder) -> list[Named]:
    """List the folders of both parts, each with its images."""
    return [Named(part, root, partial(_named, part, root)) for part, root in _roots(spec).items()]


def _roots(spec: ImageFolder) -> dict[str, str]:
    return {part: str(Path(root)) for part in PARTS if (root := getattr(spec, part))}


def _named(part: str, root: str) -> list[tuple[str, str]]:
    images = _listing(part, root).images.values()
    return [(f"{part}/{path[len(root) + 1 :]}", path) for paths in images for path in paths]


@dataclass(frozen=True)
class Listing:
    """The images of each class below a folder.

    `others` look like images but are not read, `beside` are images in no class.

    Paths are text, as half a million `Path` objects would take seconds at each start.
    """

    root: str
    images: dict[str, list[str]]
    others: list[str]
    beside: list[str]

    def remarks(self) -> Iterator[str]:
        """Count the images that are not read."""
        yield from unread(self.root, self.others)
        if self.beside:
            yield (
                f"{self.root}: {len(self.beside)} images beside the classes' folders are not read, the "
                f"first is {self.beside[0]}; move them into a class"
            )


def unread(root: str, others: Sequence[str]) -> Iterator[str]:
    """Count the images below a root that are not read, by the ends of their names."""
    if others:
        ends = Counter(_suffix(path) or "no suffix" for path in others)
        counts = ", ".join(f"{count} with {end}" for end, count in ends.most_common())
        read = " ".join(sorted(IMAGE_SUFFIXES))
        yield (
            f"{root}: {len(others)} image files are not read ({counts}), the first is "
            f"{others[0]}; files with {read} are"
        )


def _listing(part: str, root: str) -> Listing:
    """List the class folders below a root; UserError without any, without images, and one level too high."""
    try:
        entries = _entries(root)
        classes = [entry.name for entry in entries if entry.is_dir()]
    except OSError as error:
        remedy = remedy_for(root, f"source.{part} needs one folder per class below it")
        raise UserError(f"{root}: {error.strerror}; {remedy}") from None
    if not classes:
        raise UserError(f"{root}: contains no folders; image_folder needs one folder per class")
    within = [name for name in classes if name.lower() in PART_FOLDERS[part]]
    parts = [{name for name in classes if name.lower() in names} for names in PART_FOLDERS.values()]
    if within and (all(parts) or set(classes) == set.union(*parts)):
        found = ", ".join(classes)
        raise UserError(f"{root}: holds {found} in place of classes; did you mean {root}/{within[0]}?")
    images: dict[str, list[str]] = {}
    others: list[str] = []
    for name in classes:
        files = list(files_below(f"{root}/{name}"))
        images[name] = [path for path in files if _suffix(path) in IMAGE_SUFFIXES]
        others += [path for path in files if _suffix(path) not in IMAGE_SUFFIXES and is_image(path)]
    if not any(images.values()):
        raise UserError(f"{root}: no images in its folders; add {', '.join(sorted(IMAGE_SUFFIXES))} there")
    beside = [e.path for e in entries if _suffix(e.path) in IMAGE_SUFFIXES and not e.is_dir()]
    return Listing(root, images, others, beside)


def files_below(folder: str, hidden: bool = False, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the files below a folder, in sorted order, through links.

    Without `hidden`, names that begin with a dot are left out (`._x.jpg`, `.ipynb_checkpoints`). UserError
    for a link to a folder that it lies in, and a name that is not UTF-8.
    """
    real = os.path.realpath(folder)
    if real in above:
        raise UserError(f"{folder}: a link to {real}, which it lies in; remove the link")
    for entry in _entries(folder, hidden):
        if entry.is_dir():
            yield from files_below(entry.path, hidden, (*above, real))
        else:
            yield entry.path


def _entries(folder: str, hidden: bool = False) -> list["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if hidden or not entry.name.startswith(HIDDEN)]
    for entry in found:
        check_name(entry.path)
    return sorted(found, key=lambda entry: entry.name)


def _suffix(path: str) -> str:
    stem, dot, end = path.rpartition("/")[2].rpartition(".")
    return f"{dot}{end}".lower() if stem else ""


def is_image(path: str) -> bool:
    """Return whether Pillow, a camera or, by its missing suffix, a user would take a file for an image."""
    from PIL import Image

    suffix = _suffix(path)
    return not suffix or suffix in OTHER_FORMATS or suffix in Image.registered_extensions()
