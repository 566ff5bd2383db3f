"""`hlrs warm`: kernels are compiled ahead, each process its share, without a GPU."""

import os
import subprocess
import sys

import pytest

from hlrs.config.jobs import SearchJob
from hlrs.config.params import load
from hlrs.config.recipes import Collapse, Search
from hlrs.config.spaces import NasBench201Space
from hlrs.errors import Failure, UserError
from hlrs.nas.ops import triton_available
from hlrs.pipeline import warm
from hlrs.pipeline.plan import plan
from tests.conftest import REPOSITORY

SMALL = {"channels": 4, "cells": 3, "nodes": 1, "collapse": Collapse(power_iterations=0)}
compiling = pytest.mark.skipif(bool(triton_available.missing()), reason=triton_available.missing())


@pytest.fixture
def search(workspace):
    """A search of the tiny params, with a small supernet."""
    job = next(job for job in plan(load(workspace / "params.yaml")) if job.stage == "search")
    return SearchJob.model_validate(job.params).model_copy(update={"search": Search(**SMALL)})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return tmp_path / "cache"


@compiling
def test_a_share_is_compiled_and_found_again(search, cache):
    command = [sys.executable, "-m", "hlrs.pipeline.warm", "3", "60", "90"]
    environment = os.environ | warm.ENVIRONMENT
    found = []
    for _ in range(2):
        told = subprocess.check_output(command, input=search.model_dump_json(), env=environment, text=True)
        found.append((*map(int, told.split()), sorted(path.name for path in cache.iterdir())))
    (seen, compiled, files), again = found
    assert compiled == len(files) == len(range(3, seen, 60))
    assert again == (seen, compiled, files)


def test_searches_without_kernels_need_none(search):
    recipe = Search(**SMALL | {"nodes": 4}, space=NasBench201Space())
    assert warm.compile_ahead([search.model_copy(update={"search": recipe})], 1, 90) == (0, 0)


def test_seeds_and_epochs_need_no_kernels_of_their_own(search):
    other = search.model_copy(update={"seed": 7, "search": Search(**SMALL, epochs=3)})
    deeper = search.model_copy(update={"search": Search(**SMALL | {"cells": 4})})
    coarser = search.model_copy(update={"search": Search(**SMALL, precision="bfloat16")})
    assert warm._relevant(other) == warm._relevant(search) != warm._relevant(deeper)
    assert warm._relevant(search) != warm._relevant(coarser)


def test_bfloat16_is_refused_for_gpus_that_lack_it(search):
    coarser = search.model_copy(update={"search": Search(**SMALL, precision="bfloat16")})
    with pytest.raises(UserError, match="capability 75"):
        warm.compile_ahead([search, coarser], 1, 75)


def test_a_process_that_fails_is_named(search, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Failure, match="hlrs doctor"):
        warm.compile_ahead([search], 1, 90)


def test_without_a_gpu_the_capability_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    tool = tmp_path / "nvidia-smi"
    for answer in (None, "", "echo '[GPU is lost]'\n"):
        if answer is not None:
            tool.write_text(f"#!/bin/sh\n{answer}")
            tool.chmod(0o755)
        with pytest.raises(UserError, match="--capability 90"):
            warm.capability_of_first_gpu()
    tool.write_text("#!/bin/sh\necho '[GPU is lost]'\necho 9.0\necho 8.0\n")
    assert warm.capability_of_first_gpu() == 90
