"""Opening a source by its spec."""

from collections.abc import Callable

from hlrs.config.base import Kinds
from hlrs.config.data import Digits, ImageFolder, ListFile, Npz, Parquet, Source, Torchvision
from hlrs.data.sources.arrays import NpzSource, digits_source, torchvision_source
from hlrs.data.sources.base import ImageSource
from hlrs.data.sources.folders import FolderSource
from hlrs.data.sources.lists import ListSource
from hlrs.data.sources.parquet import ParquetSource

SOURCES: Kinds[Callable[..., ImageSource]] = {
    Digits: digits_source,
    Parquet: ParquetSource,
    Torchvision: torchvision_source,
    ImageFolder: FolderSource,
    ListFile: ListSource,
    Npz: NpzSource,
}


def open_source(spec: Source) -> ImageSource:
    """The source that a spec describes; no image is decoded yet.

    UserError for a file that is missing or broken and for labels that are not 0 to C − 1.
    """
    return SOURCES[type(spec)](spec)
