"""Open a source, and list its files, by its spec."""

from collections.abc import Callable

from hlrs.config.base import Kinds
from hlrs.config.data import Csv, Digits, ImageFolder, ListFile, Npz, Parquet, Source, Torchvision
from hlrs.data.sources.arrays import (
    NpzSource,
    digits_files,
    digits_source,
    npz_files,
    torchvision_files,
    torchvision_source,
)
from hlrs.data.sources.base import ImageSource, Named
from hlrs.data.sources.csv_files import CsvSource, csv_files
from hlrs.data.sources.folders import FolderSource, folder_files
from hlrs.data.sources.lists import ListSource, list_files
from hlrs.data.sources.parquet import ParquetSource, parquet_files

SOURCES: Kinds[Callable[..., ImageSource]] = {
    Digits: digits_source,
    Parquet: ParquetSource,
    Torchvision: torchvision_source,
    ImageFolder: FolderSource,
    ListFile: ListSource,
    Csv: CsvSource,
    Npz: NpzSource,
}

FILES: Kinds[Callable[..., list[Named]]] = {
    Digits: digits_files,
    Parquet: parquet_files,
    Torchvision: torchvision_files,
    ImageFolder: folder_files,
    ListFile: list_files,
    Csv: csv_files,
    Npz: npz_files,
}


def files_of(spec: Source) -> list[Named]:
    """List the files and folders that a spec names, in a fixed order; UserError for an unmatched pattern."""
    return FILES[type(spec)](spec)


def open_source(spec: Source) -> ImageSource:
    """Open the source that a spec describes; no image is decoded yet.

    UserError for a missing or broken file, and for labels outside 0 to C − 1.
    """
    return SOURCES[type(spec)](spec)
