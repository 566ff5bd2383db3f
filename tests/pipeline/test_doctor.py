"""`hlrs doctor`: what works, what does not, and the remedy; even if PyTorch is broken."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from hlrs.nas.ops import triton_available, triton_pointwise
from hlrs.pipeline import doctor
from hlrs.pipeline.doctor import BROKEN, OK, UNUSED

REPOSITORY = Path(__file__).parents[2]


def program(folder, name, text):
    """Put a shell script into a folder of programs."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def programs(tmp_path):
    """A folder with Git and no other program."""
    folder = tmp_path / "programs"
    program(folder, "git", f'exec {shutil.which("git")} "$@"')
    return folder


def examine(folder, programs, *arguments, status=0, **variables):
    """The output of `hlrs doctor` in a process that finds only those programs."""
    foreign = ("SLURM_", "CUDA_", "HLRS_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    path = variables.pop("PYTHONPATH", "")
    done = subprocess.run(
        [sys.executable, "-m", "hlrs", "doctor", *arguments],
        cwd=folder,
        env={**inherited, "PATH": str(programs), "PYTHONPATH": f"{path}:{REPOSITORY}", **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_each_check_of_a_working_machine_shows_what_it_found(tmp_path, programs):
    digest = f"sha256:{64 * 'a'}"
    checks = {
        check["name"]: check for check in json.loads(examine(tmp_path, programs, "--json", HLRS_IMAGE=digest))
    }
    for name, distribution in (("Snakemake", "snakemake"), ("DVC", "dvc"), ("PyTorch", "torch")):
        assert checks[name]["state"] == "ok"
        assert importlib.metadata.version(distribution).split("+")[0] in checks[name]["text"]
    assert "5 search steps" in checks["CPU"]["text"]
    assert sum(name.startswith("GPU ") for name in checks) == torch.cuda.device_count()
    assert {checks[name]["state"] for name in ("Apptainer", "SLURM")} == {"not needed"}
    assert checks["image"] == {"name": "image", "state": "ok", "text": digest}


def test_dvc_is_not_required(monkeypatch):
    assert doctor._dvc().state == OK

    def absent(distribution):
        raise importlib.metadata.PackageNotFoundError(distribution)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert doctor._dvc().state == UNUSED
    assert "pip install dvc" in doctor._dvc().text


def test_broken_tools_are_named_with_a_remedy_and_set_the_exit_status(tmp_path, programs):
    (programs / "git").unlink()
    program(programs, "sinfo", "echo down >&2; exit 1")
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "torch.py").write_text(
        "raise ImportError('libcudart.so.13: cannot open shared object file')\n"
    )
    shown = examine(tmp_path, programs, status=1, PYTHONPATH=str(modules)).splitlines()
    marked = [line.split("  ")[1].strip() for line in shown if line.startswith("!!")]
    assert marked == ["PyTorch", "git", "SLURM"]
    assert "libcudart.so.13: cannot open" in next(line for line in shown if "PyTorch" in line)
    assert "PyTorch, git, SLURM" in shown[-1]
    columns = {line.index(line[4:].split("  ")[-1].strip()) for line in shown if line[:2] in ("!!", "--")}
    assert columns == {20}


def test_allocated_gpus_without_a_driver_are_broken(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    assert doctor._driver_check(None, usable=False).state == BROKEN
    monkeypatch.delenv("SLURM_JOB_GPUS")
    assert doctor._driver_check("550.54", usable=False).state == UNUSED  # the node's, not the job's
    monkeypatch.delenv("SLURM_JOB_ID")
    assert doctor._driver_check("550.54", usable=False).state == BROKEN
    assert doctor._driver_check("550.54", usable=True) == doctor.Check("NVIDIA driver", OK, "550.54")


def test_a_device_that_computes_another_loss_than_the_cpu_is_broken():
    loss, _ = doctor._step(torch.device("cpu"), None)
    assert loss is not None
    assert doctor._step(torch.device("cpu"), loss)[0] == loss
    broken, reason = doctor._step(torch.device("cpu"), loss + 0.02)
    assert broken is None
    assert f"{loss:.4f}" in reason
    assert f"{loss + 0.02:.4f}" in reason


def test_a_kernel_is_compiled_and_compared(monkeypatch):
    # Triton interprets it here, on the CPU (tests/conftest.py)
    works = doctor._kernels(torch.device("cpu"))
    assert (works.name, works.state) == ("GPU kernels", OK)
    monkeypatch.setattr(triton_pointwise, "pointwise", lambda x, weight: 1.02 * F.conv2d(x, weight, groups=2))
    off = doctor._kernels(torch.device("cpu"))
    assert (off.state, off.text) == (BROKEN, "a 1×1 convolution is 2.0 % off")

    def failing(x, weight):
        raise RuntimeError("ptxas: not found\nand more")

    monkeypatch.setattr(triton_pointwise, "pointwise", failing)
    assert doctor._kernels(torch.device("cpu")).text == "Triton cannot compile one: ptxas: not found"
    monkeypatch.setattr(triton_available, "missing", lambda: "no C compiler found")
    assert doctor._kernels(torch.device("cpu")).state == UNUSED


@pytest.mark.parametrize(
    ("accounting", "state"), [("exec /bin/sleep 60", UNUSED), ("exit 1", UNUSED), ("echo", OK)]
)
def test_slurm_works_with_and_without_accounting(programs, monkeypatch, accounting, state):
    program(programs, "sinfo", "echo 'CLUSTER: alps'\necho 'main* 1/1/0/2'")  # as with SLURM_CLUSTERS
    program(programs, "sacct", accounting)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(doctor, "PATIENCE", 0.3)
    slurm, records = doctor._slurm(print)
    assert (slurm.name, slurm.state) == ("SLURM", OK)
    assert slurm.text == "main* 2 node(s)"
    assert records.state == state


@pytest.mark.parametrize(
    ("listing", "state", "text"),
    [
        ("main* 3/4/0/7\ngpu 0/2/0/2\n", OK, "main* 7 node(s); gpu 2 node(s)"),
        ("main* 3/4/1/8\ngpu 0/0/2/2\n", OK, "main* 8 node(s), 7 up; gpu 2 node(s), 0 up"),
        ("main* 0/0/2/2\nold 0/0/0/0\n", BROKEN, "main* 2 node(s), 0 up; old 0 node(s): `sinfo -R` says why"),
        ("", BROKEN, "no partition that you may use; ask your administrator for access"),
    ],
)
def test_a_cluster_where_no_job_can_start_is_broken(listing, state, text):
    assert doctor._partitions(listing) == doctor.Check("SLURM", state, text)


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        ("git version 2.39.5", "2.39.5"),
        ("git version 2.39.5 (Apple Git-154)", "2.39.5"),
        ("singularity-ce version 4.1.2-jammy", "4.1.2-jammy"),
        ("", "of an unknown version"),
    ],
)
def test_a_version_is_found_in_what_a_program_says(programs, monkeypatch, answer, version):
    program(programs, "tool", f"echo '{answer}'")
    monkeypatch.setenv("PATH", str(programs))
    assert doctor._program("Tool", "tool", "install it") == doctor.Check("Tool", OK, version)


def test_cores_are_those_that_this_process_may_use():
    one = min(os.sched_getaffinity(0))
    limited = f"import os; os.sched_setaffinity(0, [{one}]); from hlrs.pipeline import doctor"
    done = subprocess.run(
        [sys.executable, "-c", f"{limited}; print(doctor._cores())"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    machine = os.cpu_count()
    assert done.stdout == (f"1 of {machine} cores\n" if machine > 1 else "1 cores\n")


def test_a_full_disk_is_broken(monkeypatch):
    assert doctor._disk().state == OK
    monkeypatch.setattr(doctor, "FREE", 1 << 60)
    assert doctor._disk().state == BROKEN
