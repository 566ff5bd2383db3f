"""The benchmarks can be imported without a GPU, and all names that they import from hlrs exist."""

import ast
import importlib.util
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "benchmarks"
PATHS = sorted([*FOLDER.glob("*.py"), *FOLDER.glob("gpu/*.py")])


@pytest.fixture
def importable(monkeypatch):
    """Let benchmarks import one another by name, as when they run."""
    for folder in (FOLDER, FOLDER / "gpu"):
        monkeypatch.syspath_prepend(str(folder))
    yield
    for name in {path.stem for path in PATHS} & sys.modules.keys():
        if FOLDER in Path(sys.modules[name].__file__ or "").parents:
            del sys.modules[name]


def missing_names(tree: ast.Module) -> list[str]:
    """The names that a module imports from hlrs, also in functions, and that do not exist."""
    missing = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hlrs":
            module = import_module(node.module)
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                holds = hasattr(module, alias.name) or (
                    hasattr(module, "__path__") and importlib.util.find_spec(submodule)
                )
                missing += [] if holds else [submodule]
    return missing


def test_there_are_benchmarks_for_a_gpu():
    assert {"bench.py", "pack.py", "params.py", "stamp.py", "warm.py"} <= {path.name for path in PATHS}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.relative_to(FOLDER).with_suffix("").as_posix())
def test_a_benchmark_can_be_imported(path, importable):
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert missing_names(ast.parse(path.read_text())) == []


def test_the_parameters_of_a_gpu_run_are_valid(importable, tmp_path):
    from hlrs.config.params import load

    params = import_module("params")
    for tiny in (False, True):
        params.write_params(params.make_params(tmp_path, tiny), tmp_path / "params.yaml")
        loaded = load(tmp_path / "params.yaml")
        assert loaded.datasets["cifar10_lt"].source.train == [str(tmp_path / "train.parquet")]
        assert loaded.search.epochs == (2 if tiny else 50)


def test_an_epoch_is_shortened_to_run_loss_and_throughput(importable):
    line = "search d/m/0  epoch 2/50  progress 0.02  weights_loss 2.25  mixing 0.5  2021 images/s  8 s left"
    short = "d/m/0 2/50 weights_loss 2.25 2021 images/s  8 s left"
    stamp = import_module("stamp")
    assert stamp.shorten(line) == short
    assert stamp.shorten("a" * 300) == "a" * 200
