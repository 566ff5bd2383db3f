"""GPUs outside a queue: which a job takes, and how many jobs Snakemake starts at once."""

import contextlib
import itertools
import os
import subprocess
import sys
from datetime import datetime

import pytest

from hlrs.pipeline.gpus import available
from tests.conftest import edit, record
from tests.pipeline.test_workflow import duplicate, once, repository, run  # noqa: F401 - fixtures among them
from tests.standins import Commands

FOUR = "\n".join(
    f"echo GPU-{name}, {used}, 81559" for name, used in zip("abcd", (70000, 3, 500, 4), strict=True)
)
UNIFIED = "echo 'GPU-x, [N/A], [N/A]'"


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Make nvidia-smi one that runs these lines of sh."""
    monkeypatch.delenv("HLRS_DEVICE", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    commands = Commands(tmp_path / "bin", monkeypatch)
    return lambda lines: commands.write("nvidia-smi", lines)


@pytest.mark.parametrize(
    ("lines", "environment", "gpus"),
    [
        (FOUR, {}, ["GPU-b", "GPU-d", "GPU-c", "GPU-a"]),  # the least used memory first
        (UNIFIED, {}, ["GPU-x"]),
        ("echo No devices were found; exit 6", {}, []),
        ("echo No devices were found", {}, []),
        (FOUR, {"HLRS_DEVICE": "cpu"}, []),
        (FOUR, {"SLURM_JOB_ID": "7"}, []),  # which requested none
        (FOUR, {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "NoDevFiles"}, []),
        (FOUR, {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1"}, ["0", "1"]),  # snakemake inside salloc
        (FOUR, {"CUDA_VISIBLE_DEVICES": "3,1"}, ["3", "1"]),
        (FOUR, {"CUDA_VISIBLE_DEVICES": "3,-1,1"}, ["3"]),
        (FOUR, {"CUDA_VISIBLE_DEVICES": ""}, []),
    ],
)
def test_the_gpus_that_a_process_may_use(nvidia_smi, lines, environment, gpus):
    nvidia_smi(lines)
    assert available(environment) == gpus


def test_without_nvidia_smi_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert available({}) == []


TAKE = """
import os
from hlrs.pipeline.gpus import take_one
take_one()
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
input()
"""


@contextlib.contextmanager
def job(**variables):
    """A process that takes a GPU; its standard input ends it."""
    with subprocess.Popen(
        [sys.executable, "-c", TAKE],
        env=os.environ | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_each_job_takes_a_gpu_that_the_fewest_have(tmp_path):
    name = tmp_path.name  # no other test's
    gpus = {"CUDA_VISIBLE_DEVICES": f"{name}-0,{name}-1"}
    with job(**gpus) as (_, first), job(**gpus) as (second, other), job(**gpus) as (_, third):
        assert (first, other, third) == (f"{name}-0", f"{name}-1", f"{name}-0")
        second.kill()
        second.wait()
        with job(**gpus) as (_, again):
            assert again == f"{name}-1"
    with job(CUDA_VISIBLE_DEVICES=f"{name}-1") as (_, only):
        assert only == f"{name}-1"


def test_a_job_on_a_machine_without_gpus_takes_none(nvidia_smi):
    nvidia_smi("exit 9")
    with job() as (_, taken):
        assert taken == "None"


@pytest.mark.e2e
@pytest.mark.parametrize(("options", "at_once"), [([], 1), (["--resources", "gpu=2"], 2)])
def test_snakemake_starts_one_job_per_gpu_unless_more_are_asked_for(
    repository,  # noqa: F811
    nvidia_smi,
    tmp_path,
    options,
    at_once,
):
    nvidia_smi("echo GPU-a, 3, 81559")
    folder = duplicate(repository, tmp_path / "site")
    edit(folder / "params.yaml", **{"matrix.methods": ["darts", "hlrs"], "search.epochs": 12})
    run(folder, "snakemake", "--cores", "2", "search_all", *options)
    spans = []
    for method in ("darts", "hlrs"):
        found = record(folder, "search", f"digits/{method}/0")
        spans.append((datetime.fromisoformat(found["started"]), datetime.fromisoformat(found["ended"])))
    overlap = any(a[0] < b[1] and b[0] < a[1] for a, b in itertools.combinations(spans, 2))
    assert overlap == (at_once > 1)
