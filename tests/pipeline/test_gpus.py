"""GPUs outside a queue: which a job takes, and how many jobs Snakemake starts at once."""

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from hlrs.artifacts.files import write_text
from hlrs.cli import main
from hlrs.config.params import load
from hlrs.pipeline import plan
from hlrs.pipeline.gpus import available, listed
from tests.conftest import REPOSITORY, edit, record
from tests.pipeline.test_reasons import finish
from tests.pipeline.test_workflow import duplicate, once, repository, run  # noqa: F401 - fixtures among them
from tests.standins import Commands

FOUR = "\n".join(
    f"echo {index}, GPU-{name}, {used}, 81559"
    for index, (name, used) in enumerate(zip("abcd", (700, 3, 50, 4), strict=True))
)
UNIFIED = "echo '0, GPU-x, [N/A], [N/A]'"
LOST = "echo '0, [GPU is lost], [GPU is lost], [GPU is lost]'; echo '1, GPU-y, [Unknown Error], 81559'; "


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Make nvidia-smi one that runs these lines of sh."""
    monkeypatch.delenv("HLRS_DEVICE", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    commands = Commands(tmp_path / "bin", monkeypatch)
    listed.cache_clear()
    yield lambda lines: commands.write("nvidia-smi", lines)
    listed.cache_clear()


def test_a_plan_measures_on_the_gpu_that_is_used_least(nvidia_smi, workspace, monkeypatch):
    """Here it measures nothing: a plan is complete."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "to be restored")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    nvidia_smi("echo 0, GPU-busy, 40000, 81559; echo 1, GPU-idle, 3, 81559")
    finish(plan.plan(load(Path("params.yaml"))))
    assert CliRunner().invoke(main, ["plan"]).exit_code == 0
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-idle"


@pytest.mark.parametrize(
    ("lines", "environment", "gpus"),
    [
        (FOUR, {}, ["GPU-b", "GPU-d", "GPU-c", "GPU-a"]),  # the least used memory first
        (UNIFIED, {}, ["GPU-x"]),
        (LOST + UNIFIED, {}, ["GPU-y", "GPU-x"]),
        (f"{LOST} echo '2, GPU-z, 9, 81559'", {}, ["GPU-z", "GPU-y"]),  # one that cannot be read comes last
        ("printf 'GPU \\344'", {}, []),
        ("echo No devices were found; exit 6", {}, []),
        ("echo No devices were found", {}, []),
        (FOUR, {"HLRS_DEVICE": "cpu"}, []),
        (FOUR, {"SLURM_JOB_ID": "7"}, []),  # which requested none
        (FOUR, {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "NoDevFiles"}, []),
        (FOUR, {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1"}, ["0", "1"]),  # snakemake inside salloc
        (FOUR, {"CUDA_VISIBLE_DEVICES": "3,1"}, ["3", "1"]),
        (FOUR, {"CUDA_VISIBLE_DEVICES": "3,-1,1"}, ["3"]),
        (FOUR, {"CUDA_VISIBLE_DEVICES": "0, GPU-c,MIG-d"}, ["0", "GPU-c", "MIG-d"]),
        (FOUR, {"CUDA_VISIBLE_DEVICES": "0,x,1"}, ["0"]),
        (FOUR, {"CUDA_VISIBLE_DEVICES": "all"}, []),
        (FOUR, {"CUDA_VISIBLE_DEVICES": ""}, []),
    ],
)
def test_the_gpus_that_a_process_may_use(nvidia_smi, lines, environment, gpus):
    nvidia_smi(lines)
    assert available(environment) == gpus


def test_without_nvidia_smi_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    listed.cache_clear()
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
    one, two = (f"GPU-{tmp_path.name}-{number}" for number in range(2))  # no other test's
    gpus = {"CUDA_VISIBLE_DEVICES": f"{one},{two}"}
    with job(**gpus) as (_, first), job(**gpus) as (second, other), job(**gpus) as (_, third):
        assert (first, other, third) == (one, two, one)
        second.kill()
        second.wait()
        with job(**gpus) as (_, again):
            assert again == two
    with job(CUDA_VISIBLE_DEVICES=one) as (_, only), job(**gpus) as (_, other):
        assert (only, other) == (one, two)


def test_a_gpu_is_the_same_by_every_name(nvidia_smi, tmp_path):
    """By its index, its UUID, and the beginning of that."""
    uuids = [f"GPU-{tmp_path.name}-{letter}" for letter in "ab"]
    nvidia_smi("\n".join(f"echo {index}, {uuid}, 3, 81559" for index, uuid in enumerate(uuids)))
    with job(CUDA_VISIBLE_DEVICES="0") as (_, first), job() as (_, second):
        assert (first, second) == ("0", uuids[1])
        with job(CUDA_VISIBLE_DEVICES=f"1,{uuids[0]}") as (_, third):  # each has one job
            assert third == "1"
            with job(CUDA_VISIBLE_DEVICES=f"{uuids[1]},0") as (_, fourth):
                assert fourth == "0"


def test_allocations_of_one_node_count_their_own_gpus(tmp_path):
    """Where each sees GPUs from 0 on, equal names are not the same GPU."""
    mine, theirs = ({"SLURM_JOB_ID": f"{tmp_path.name}{n}", "CUDA_VISIBLE_DEVICES": "0,1"} for n in "ab")
    with job(**mine) as (_, first), job(**theirs) as (_, other), job(**mine) as (_, second):
        assert (first, other, second) == ("0", "0", "1")


def test_a_single_gpu_is_left_as_it_is(nvidia_smi, tmp_path):
    nvidia_smi(f"echo 0, GPU-{tmp_path.name}, 3, 81559")
    with job() as (_, taken):
        assert taken == "None"


def test_a_job_on_a_machine_without_gpus_takes_none(nvidia_smi):
    nvidia_smi("exit 9")
    with job() as (_, taken):
        assert taken == "None"


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("options", "at_once", "says"),
    [
        (["-j", "2"], 1, "one job per GPU at a time, 1 GPU;"),
        (["--cores", "2", "--resources", "gpu=2"], 2, ""),
    ],
)
def test_snakemake_starts_one_job_per_gpu_unless_more_are_asked_for(
    repository,  # noqa: F811
    nvidia_smi,
    tmp_path,
    options,
    at_once,
    says,
):
    nvidia_smi("echo 0, GPU-a, 3, 81559")
    folder = duplicate(repository, tmp_path / "site")
    edit(folder / "params.yaml", **{"matrix.methods": ["darts", "hlrs"], "search.epochs": 12})
    done = run(folder, "snakemake", "search_all", *options)
    assert ("one job per GPU" in done.stderr) == bool(says)
    assert says in done.stderr
    spans = []
    for method in ("darts", "hlrs"):
        found = record(folder, "search", f"digits/{method}/0")
        spans.append((datetime.fromisoformat(found["started"]), datetime.fromisoformat(found["ended"])))
    overlap = any(a[0] < b[1] and b[0] < a[1] for a, b in itertools.combinations(spans, 2))
    assert overlap == (at_once > 1)
    if at_once > 1:
        refused = run(folder, "snakemake", "-n", "--resources", "gpu=0", status=2)
        assert "hlrs: --resources gpu=0: " in refused.stderr
        assert "HLRS_DEVICE=cpu" in refused.stderr


SHOWN = f"""
include: {str(REPOSITORY / "workflow" / "Snakefile")!r}

print("gpu" in workflow.global_resources)
raise SystemExit
"""


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("options", "queued"),
    [(["-j", "2"], False), (["--cores", "2", "-j", "2"], False), (["--profile", "./slurm"], True)],
)
def test_what_a_queue_has_is_not_this_machines(workspace, nvidia_smi, options, queued):
    """Neither the number of its GPUs, one, nor their memory, of which this one has none to speak of."""
    nvidia_smi("echo 0, GPU-a, 0, 1")
    write_text(Path("Snakefile"), SHOWN)
    write_text(
        Path("slurm/config.yaml"), "executor: slurm\njobs: 2\nset-resources: {search: {gres: \"'x'\"}}\n"
    )
    folder = os.environ["PATH"].split(os.pathsep)[0]  # without SLURM's commands
    for name in ("bash", "sh", "which", "wc"):
        Path(folder, name).symlink_to(shutil.which(name))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *options],
        env=os.environ | {"PATH": folder, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    if queued:
        assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr
    else:
        assert "this machine's GPU has 0.0 GB" in done.stderr
        assert done.returncode == 2
