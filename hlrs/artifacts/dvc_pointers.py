"""Data that DVC tracks: what a pointer, FILE.dvc, says of a file or folder beside it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hlrs.errors import UserError


@contextmanager
def importing_dvc(subject: str) -> Iterator[None]:
    """Raise UserError, about a subject, if the body imports DVC and it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("dvc", "dvc_data"):
            raise
        raise UserError(f"{subject}: needs DVC, which is not installed; `pip install dvc`") from None


def tracked_hash(path: str, read: Iterable[str]) -> str | None:
    """Return the hash by which DVC tracks a file or folder, after checking it against what is here.

    `read`: the files below it that are read. DVC must track each: it leaves out what `.dvcignore` names, and
    folders behind links.

    Without the data, as before `dvc pull`, the pointer stands alone. None if it belongs to no DVC repository.
    UserError for a pointer that cannot be read, for data that differ from it, and without DVC.
    """
    pointer = f"{path}.dvc"
    with importing_dvc(pointer):
        from dvc.exceptions import DvcException, NotDvcRepoError
        from dvc.repo import Repo
        from dvc_data.hashfile.tree import Tree

    try:
        with Repo(str(Path(path).parent)) as repo:
            outs = repo.stage.load_one(path=pointer).outs
            here = Path(path).resolve()
            out = next((out for out in outs if Path(out.fs_path).resolve() == here and out.hash_info), None)
            differs = out is not None and out.exists and out.changed_checksum()
            tree = out.get_obj() if out is not None and not differs else None
            tracked = {"/".join(parts) for parts, _, _ in tree} if isinstance(tree, Tree) else None
    except NotDvcRepoError:
        return None
    except (DvcException, OSError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{pointer}: not a pointer of DVC ({reason}); `dvc add {path}` rewrites it") from None
    if out is None:
        raise UserError(f"{pointer}: holds no hash of {path}; `dvc add {path}` rewrites it")
    if differs:
        raise UserError(
            f"{path}: changed since `dvc add`; `dvc add {path}` records the change, "
            f"`dvc checkout {pointer}` undoes it"
        )
    missed = [name for name in read if tracked is not None and name[len(path) + 1 :] not in tracked]
    if missed:
        raise UserError(
            f"{missed[0]}: not tracked by {pointer}, like {len(missed) - 1} others: it lies behind a link "
            f"or is in .dvcignore; put it into {path} itself, or delete the pointer"
        )
    return str(out.hash_info.value)
