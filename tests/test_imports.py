"""Modules that load without torch, and contents of packages; import-linter checks directions."""

import ast
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import hlrs

PACKAGE = Path(hlrs.__file__).parent
# loaded by the Snakefile, on a login node, and by `hlrs plan`
LIGHT = ("artifacts", "config", "pipeline", "provenance", "report")
HEAVY = ("hlrs.pipeline.model_size", "hlrs.training.latency")  # build networks, or run them
ALL = [module.name for module in pkgutil.walk_packages(hlrs.__path__, "hlrs.")]
LIGHT_MODULES = [
    *(name for name in ALL if name.split(".")[1] in LIGHT and name not in HEAVY),
    "hlrs.cli",
    "hlrs.errors",
    "hlrs.data.sources.open",
    "hlrs.data.split",
    "hlrs.longtail.metrics",
    "hlrs.longtail.mixing",
    "hlrs.nas.arch_lr",
    "hlrs.nas.drawing",
    "hlrs.nas.genotype",
    "hlrs.training.startup",
    "hlrs.training.throughput",
]
SLOW = {
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "snakemake",
    "dvc",
    "pydantic",
}


def loaded(*modules: str) -> dict[str, list[str]]:
    """For each module, imported in turn by one process, the slow packages loaded so far."""
    script = (
        "import importlib, json, sys\n"
        "found = {}\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    found[name] = sorted({SLOW!r} & sys.modules.keys())\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_light_modules_load_without_torch():
    assert len(LIGHT_MODULES) > 50
    assert {m: slow for m, slow in loaded(*LIGHT_MODULES).items() if {"torch", "torchvision"} & {*slow}} == {}


def test_the_command_line_loads_without_slow_packages():
    assert loaded("hlrs.cli") == {"hlrs.cli": []}


ROOMS = sorted(
    PACKAGE.glob("*/**/__init__.py")
)  # hlrs itself offers docs/python.md's names, which load when used


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.parent.name)
def test_packages_export_nothing(path):
    """Each import names the module that defines what it brings."""
    docstring, *rest = ast.parse(path.read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(docstring.value, ast.Constant)
    declared = {room: ["CHANGES_NO_RESULT"] for room in ("config", "inference")}  # for the code digest
    assert [ast.unparse(node.targets[0]) for node in rest] == declared.get(path.parent.name, [])
