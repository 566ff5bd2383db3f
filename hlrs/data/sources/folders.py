"""Image files: one folder per class."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hlrs.config.data import ImageFolder
from hlrs.data.sources.base import IMAGE_SUFFIXES, PARTS, ImageSource, Named, decode
from hlrs.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


class FilesSource(ImageSource):
    """One file per image: `files`, training images first."""

    files: Sequence[str | Path]

    def _images(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, "Image"]]:
        for position, index in enumerate(indices):
            yield position, decode(Path(self.files[index]), str(self.files[index]))

    def _where(self, index: int) -> str:
        return str(self.files[index])


class FolderSource(FilesSource):
    """One folder per class, its images below it at any depth, in sorted order."""

    def __init__(self, spec: ImageFolder) -> None:
        roots = [Path(getattr(spec, part)) for part in PARTS if getattr(spec, part)]
        classes = _folders(roots[0])
        if not classes:
            raise UserError(f"{roots[0]}: contains no folders; image_folder needs one folder per class")
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
                    f"{root}: no images in its folders; add {', '.join(sorted(IMAGE_SUFFIXES))} there"
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


def folder_files(spec: ImageFolder) -> list[Named]:
    """List the folders of both parts, each with its images."""
    roots = {part: Path(root) for part in PARTS if (root := getattr(spec, part)) is not None}
    return [Named(part, str(root), partial(_tree, part, root)) for part, root in roots.items()]


def _tree(part: str, root: Path) -> list[tuple[str, str]]:
    """List the images of a folder tree; UserError if there are none."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; image_folder needs one folder per class below it")
    files = _image_files(root)
    if not files:
        raise UserError(f"{root}: no images in its folders; add {', '.join(sorted(IMAGE_SUFFIXES))}")
    return [(f"{part}/{path.relative_to(root)}", str(path)) for path in files]
