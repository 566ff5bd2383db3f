"""Puts the workflow's files, at the top of the repository, into the package; the rest: pyproject.toml."""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

TOP = Path(__file__).parent
sys.path.insert(0, str(TOP))

from hlrs.pipeline.workflow_files import PACKED, find  # noqa: E402 - a build does not look here by itself


class WithWorkflow(build_py):
    """Builds the package with the workflow's files; an editable one has them beside it."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            packed = Path(self.build_lib, "hlrs", PACKED)
            shutil.rmtree(packed, ignore_errors=True)
            for name, source in find(TOP).items():
                (packed / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, packed / name)


setup(cmdclass={"build_py": WithWorkflow})
