"""Folders that an export writes: complete or absent."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hlrs.errors import Failure, UserError


def check_new(target: Path) -> None:
    """Raise UserError unless a path is free or an empty folder."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: exists and is not an empty folder; name another one")


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield a folder beside the target that replaces it once the body has succeeded."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise Failure(f"{target}: could not be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
