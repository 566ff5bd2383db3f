"""Small workflows, each in its own folder."""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import warnings
from pathlib import Path

import pytest
import yaml

# before anything imports Triton; TRITON_INTERPRET=0 has its kernels run on a GPU
os.environ.setdefault("TRITON_INTERPRET", "1")

REPOSITORY = Path(__file__).parents[1]

TINY = {
    "matrix": {"datasets": ["digits"], "methods": ["darts", "hlrs"], "seeds": [0]},
    "datasets": {
        "digits": {
            "source": {"kind": "digits"},
            "imbalance": {"kind": "exponential", "factor": 10},
            "max_per_class": 40,
            "test_per_class": 5,
            "augment": {"crop_padding": 1, "flip": True},
            "groups": {"many_above": 20, "few_below": 8},
        }
    },
    "methods": {
        "darts": {
            "searcher": {"kind": "darts", "order": 1},
            "objective": {"kind": "plain"},
            "arch_lr": {"kind": "constant"},
        },
        "hlrs": {
            "searcher": {"kind": "darts", "order": 1},
            "objective": {"kind": "bilateral", "mixing": {"kind": "symmetric"}},
            "arch_lr": {"kind": "coupled"},
        },
    },
    "search": {
        "epochs": 3,
        "batch_size": 16,
        "channels": 2,
        "cells": 3,
        "nodes": 1,
        "cutout": 2,
        "alphas": {"lr": 0.01},
    },
    "retrain": {
        "epochs": 3,
        "batch_size": 16,
        "channels": 2,
        "cells": 3,
        "auxiliary_weight": 0.4,
        "drop_path": 0.2,
        "cutout": 2,
    },
    "evaluate": {},
    "report": {"reference": "darts"},
}


STARTERS = {"repository", "cluster", "image", "browser"}  # fixtures for what only end-to-end tests start


def pytest_itemcollected(item):
    """Mark a test that uses one of them, directly or not, as end to end."""
    if STARTERS.intersection(item.fixturenames):
        item.add_marker("e2e")


FILES = {"test_slurm.py": -3, "test_workflow.py": -2, "test_accounting.py": 2}  # the latter needs SLURM's end
ROOMS = {"stages": 0, "report": 3, "training": 3}


def pytest_collection_modifyitems(items):
    """Run end-to-end tests first, then the rooms with long files, so that all workers end at once."""

    def place(item):
        room = -1 if item.get_closest_marker("e2e") else ROOMS.get(item.path.parent.name, 1)
        return FILES.get(item.path.name, room)

    items.sort(key=place)


def untested(what: str, reason: str, variable: str):
    """End a test that lacks a tool: fail if the variable is `required`, else skip with a warning."""
    message = f"NOT TESTED {what}: {reason}"
    if os.environ.get(variable) == "required":
        pytest.fail(message)
    warnings.warn(message, stacklevel=2)
    pytest.skip(message)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty folder with a tiny params.yaml, which is the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(TINY))
    return tmp_path


@contextlib.contextmanager
def at_work_in(folder: Path, monkeypatch):
    """Make a checkout the current folder, and its package the one that is digested."""
    from hlrs.artifacts import code_digest

    monkeypatch.chdir(folder)
    monkeypatch.setattr(code_digest, "PACKAGE", folder / "hlrs")
    caches = (code_digest.here, code_digest.committed)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def edit(path: Path, **changes) -> None:
    """Change entries of params.yaml: edit(p, **{"search.epochs": 4})."""
    params = yaml.safe_load(path.read_text())
    for dotted, value in changes.items():
        put(params, dotted.split("."), value)
    path.write_text(yaml.safe_dump(params))


def put(tree, path, value) -> None:
    """Set an entry of nested mappings and lists, given what leads to it."""
    *parents, last = path
    for parent in parents:
        tree = tree[parent]
    tree[last] = value


# A server that has imported torch and forks: a stage starts in milliseconds, and can be killed.
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    ["torch._dynamo", "hlrs.cli", "hlrs.stages.search", "hlrs.stages.retrain", "hlrs.stages.evaluate"]
)


def _command(folder: str, arguments: list[str], log: str, checkpoint_seconds: float) -> None:
    # if a streamed set's loader started the fork server, it blocks the signals that a training handles
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.chdir(folder)
    sys.stderr = sys.stdout = Path(log).open("a", buffering=1)  # noqa: SIM115 - as long as the process
    import hlrs.training.loop
    from hlrs.cli import main

    hlrs.training.loop.CHECKPOINT_SECONDS = checkpoint_seconds
    main(arguments)


def start(folder: Path, *arguments: str, log: str = "log", checkpoint_seconds: float = 300.0):
    """Start `hlrs ARGUMENTS` in a new process; its output goes to the file `log`."""
    process = FORK.Process(
        target=_command, args=(str(folder), list(arguments), str(folder / log), checkpoint_seconds)
    )
    process.start()
    return process


def hlrs(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run `hlrs ARGUMENTS`; return its exit status and output."""
    process = start(folder, *arguments, log="output")
    process.join()
    output = (folder / "output").read_text()
    (folder / "output").unlink()
    return process.exitcode, output


def _make_all(folder: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        own = at_work_in(Path(folder), patch) if Path(folder, "hlrs").is_dir() else contextlib.chdir(folder)
        with own:
            from hlrs.config.params import load
            from hlrs.pipeline.execute import execute
            from hlrs.pipeline.plan import due, plan, publish

            jobs = plan(load(Path("params.yaml")))
            for job in due(jobs):
                execute(job)
            publish(jobs)


def make_all(folder: Path) -> None:
    """Run every due job in one process, faster than Snakemake; a checkout runs its own code."""
    process = FORK.Process(target=_make_all, args=(str(folder),))
    process.start()
    process.join()
    assert process.exitcode == 0


def result_files() -> list[Path]:
    """Every file in results/, but for the state that lies there."""
    from hlrs.artifacts.jobs import RESULTS, STATE

    return sorted(path for path in RESULTS.rglob("*") if STATE not in path.parents and path.is_file())


def outputs(folder: Path, stage: str) -> dict[str, str]:
    """File -> SHA-256 of all results of a stage, without the provenance records."""
    import hashlib

    files = sorted((folder / "results" / stage).rglob("*"))
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in files
        if f.is_file() and f.name != "provenance.json"
    }


def record(folder: Path, stage: str, run: str) -> dict:
    """The provenance record of a run's only result."""
    [path] = (folder / "results" / stage / run).glob("*/provenance.json")
    return json.loads(path.read_text())
