"""What DVC recorded: `dvc.lock`, and the listings of folders in DVC's cache."""

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hlrs.artifacts.dvc_pointers import importing_dvc
from hlrs.errors import Failure

LOCK = Path("dvc.lock")


class _Out(BaseModel):
    model_config = ConfigDict(strict=True)

    path: str
    md5: str | None = None  # other remotes' outputs have other digests


class _Stage(BaseModel):
    model_config = ConfigDict(strict=True)

    outs: list[_Out] = []


class _Lock(BaseModel):
    model_config = ConfigDict(strict=True)

    stages: dict[str, _Stage] = {}


def recorded() -> dict[str, str | None]:
    """Output -> digest in dvc.lock. Failure if it is not one that DVC wrote."""
    try:
        if not LOCK.is_file():  # reading a FIFO would wait for ever
            raise Failure("is not a regular file")
        body = YAML(typ="safe", pure=True).load(LOCK.read_text(encoding="utf-8"))
        lock = _Lock.model_validate({} if body is None else body)
    except OSError as error:
        raise Failure(f"cannot be read: {error.strerror}") from None
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"])) or "the whole"
        raise Failure(f"is not what DVC writes: {field}: {error.errors()[0]['msg']}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise Failure(f"is not valid YAML{f', line {mark.line + 1}' if mark else ''}") from None
    return {out.path: out.md5 for stage in lock.stages.values() for out in stage.outs}


def tree_digest(files: dict[str, str]) -> str:
    """DVC's digest of a folder, given the MD5 of every file: that of its listing (dvc_data, Tree.digest)."""
    entries = [{"md5": digest, "relpath": name} for name, digest in sorted(files.items())]
    return _digest(json.dumps(entries).encode())


def _digest(listing: bytes) -> str:
    return f"{hashlib.md5(listing, usedforsecurity=False).hexdigest()}.dir"


def listing(digest: str | None) -> dict[str, str] | None:
    """File -> MD5 of a folder; None if DVC's cache does not hold its listing, or holds another one.

    UserError without DVC, which knows where its cache is.
    """
    with importing_dvc(str(LOCK)):
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

    try:
        with Repo() as repo:
            text = Path(repo.cache.local.oid_to_path(digest)).read_bytes()
    except (OSError, ValueError, TypeError, DvcException):
        return None
    if _digest(text) != digest:
        return None
    return {entry["relpath"]: entry["md5"] for entry in json.loads(text)}
