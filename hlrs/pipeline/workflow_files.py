"""The workflow's files, which a checkout has at its top and the installed package inside: `hlrs init`.

setup.py reads the patterns, so that this module imports nothing that a build would have to install.
"""

import shutil
from pathlib import Path

from hlrs import __version__
from hlrs.errors import Failure, UserError

PATTERNS = (
    "Snakefile",
    "dvc.yaml",
    "params.yaml",
    "params.schema.json",
    "workflow/**/*",
    "profiles/default/*",
    "data/README.md",
    ".dvc/.gitignore",
    ".dvc/config",
    ".dvc/plots/*.json",
    ".dvcignore",
    ".gitignore",
)
PACKAGE = Path(__file__).parents[1]
PACKED = "workflow_files"  # the folder in the installed package that holds them
REQUIREMENTS = "requirements.txt"  # which dvc.yaml watches in place of the package's folder


def find(root: Path) -> dict[str, Path]:
    """Return the workflow's files below a folder by their names in it."""
    found = sorted({path for pattern in PATTERNS for path in root.glob(pattern) if path.is_file()})
    return {path.relative_to(root).as_posix(): path for path in found}


def lay(target: Path) -> list[str]:
    """Write the workflow's files to a folder, new or without any of them; return their names.

    UserError if it has one of them, or this installation has none; Failure if it cannot be written.
    """
    packed = PACKAGE / PACKED
    files = find(packed if packed.is_dir() else PACKAGE.parent)
    if "Snakefile" not in files:
        raise UserError(f"{PACKAGE}: installed without the workflow's files, as in an image; use a clone")
    if there := [name for name in (*files, REQUIREMENTS) if (target / name).exists()]:
        more = f" and {len(there) - 1} more" if there[1:] else ""
        raise UserError(f"{target}: already has {there[0]}{more}; name a folder without a workflow")
    try:
        for name, source in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / name)
        (target / REQUIREMENTS).write_text(f"hlrs=={__version__}\n")
        pipeline = (target / "dvc.yaml").read_text(encoding="utf-8")
        (target / "dvc.yaml").write_text(
            pipeline.replace("deps: [hlrs", f"deps: [{REQUIREMENTS}"), encoding="utf-8"
        )
    except OSError as error:
        raise Failure(f"{target}: cannot be written: {error.strerror}") from None
    return [*files, REQUIREMENTS]
