"""Git, asked about the repository that a folder lies in, whatever the caller's environment says."""

import os
import subprocess
from pathlib import Path

# which a hook, or `git rebase --exec`, sets to the repository that it runs for
OF_A_HOOK = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"}


def git(folder: Path, *arguments: str) -> bytes | None:
    """Return what Git prints in a folder; None if it fails, lasts longer than a minute or is missing.

    A clone that belongs to somebody else, as in a container or a shared folder, counts, too: its code runs
    already.
    """
    environment = {name: value for name, value in os.environ.items() if name not in OF_A_HOOK}
    command = ["git", "-c", "safe.directory=*", *arguments]
    try:
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, check=True, timeout=60
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
