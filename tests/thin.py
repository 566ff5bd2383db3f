"""An image made in a second: it holds nothing but a mark, and borrows this machine's programs and Python.

Its `python3` writes the mark, which is nowhere else, to stderr and then becomes this process's Python.
"""

import secrets
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

LINKED = ("bin", "lib", "lib64", "sbin")  # into /usr, or folders of their own
EMPTY = ("dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr", "var/tmp", ".singularity.d/env")
ENVIRONMENT = 'export PATH="/thin:$PATH"\n'
PYTHON = """#!/bin/sh
cat /thin/mark >&2
exec {python} "$@"
"""


def missing() -> str:
    """Why there is no Apptainer to test with; empty if there is."""
    if not shutil.which("apptainer"):
        return "no apptainer on the PATH (.ci/install-apptainer.sh installs it)"
    done = subprocess.run(["apptainer", "--version"], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"apptainer does not start: {done.stderr.strip()}"


def build(folder: Path) -> str:
    """Make `thin.sif` in a folder; returns its mark."""
    root, mark = folder / "root", secrets.token_hex(8)
    for name in (*EMPTY, "thin"):
        (root / name).mkdir(parents=True)
    for name in LINKED:
        if Path("/", name).is_symlink():
            (root / name).symlink_to(Path("/", name).readlink())
        else:
            (root / name).mkdir()
    for name in ("passwd", "group"):
        (root / "etc" / name).touch()
    shutil.copy("/etc/ld.so.cache", root / "etc")
    (root / ".singularity.d/env/90-environment.sh").write_text(ENVIRONMENT)
    (root / "thin/mark").write_text(f"{mark}\n")
    python = root / "thin/python3"
    python.write_text(PYTHON.format(python=shlex.quote(str(Path(sys.prefix).resolve() / "bin/python3"))))
    python.chmod(0o755)
    subprocess.run(["apptainer", "build", folder / "thin.sif", root], capture_output=True, check=True)
    return mark


def binds() -> dict[str, str]:
    """The environment variable by which Apptainer lends it what it lacks."""
    folders = ["/usr", *(f"/{name}" for name in LINKED if not Path("/", name).is_symlink())]
    folders += [str(Path(prefix).resolve()) for prefix in (sys.prefix, sys.base_prefix)]
    return {"APPTAINER_BIND": ",".join(folder for folder in folders if Path(folder).is_dir())}
