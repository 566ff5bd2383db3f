"""Rules in a real container, through `snakemake --sdm apptainer`, with the image of tests/thin.py.

`make test-image` builds and tests the full image.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from hlrs.errors import UserError
from hlrs.pipeline import container
from tests import thin
from tests.conftest import edit, hlrs, outputs, record, untested
from tests.pipeline.test_workflow import (  # noqa: F401 - fixtures among them
    DARTS_ALONE,
    DEADLINE,
    PROVENANCE,
    duplicate,
    environment,
    once,
    repository,
    run,
    sha256,
)

EPOCHS = {"search.epochs": 15}  # long enough to be stopped after the first
SEARCH = "digits/darts/0"


@pytest.fixture(scope="session")
def image(once):  # noqa: F811
    """(path, mark) of the thin image; without Apptainer, CI fails and other runs skip."""
    reason = thin.missing()
    if reason:
        untested("IN A CONTAINER", reason, "HLRS_TEST_APPTAINER")

    def thin_image(folder):
        return {thin.build(folder): 1}

    folder, marks = once(thin_image)
    return folder / "thin.sif", next(iter(marks))


def snakemake(folder, image, *arguments):
    """The arguments of a subprocess that runs Snakemake with rules in the image."""
    command = ["snakemake", "--cores", "2", "--sdm", "apptainer", "--config", f"container={image[0]}"]
    return {
        "args": [*command, *arguments],
        "cwd": folder,
        "env": {**environment(folder), **thin.binds()},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }


def below(pid):
    """The descendants of a process; it and they may end meanwhile."""
    children = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            children += [int(child) for child in path.read_text().split()]
    return [*children, *(process for child in children for process in below(child))]


@pytest.fixture(scope="session")
def stopped(once, repository, image):  # noqa: F811
    """A folder in which every process of the search got a signal, as SLURM may do; Snakemake's output."""

    def stopped_run(folder):
        duplicate(repository, folder)
        edit(folder / "params.yaml", **DARTS_ALONE, **EPOCHS)
        process = subprocess.Popen(**snakemake(folder, image))
        deadline = time.monotonic() + DEADLINE
        while not list((folder / ".hlrs/checkpoints").glob("*.safetensors")):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for pid in below(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
        output = process.communicate(timeout=DEADLINE)[0]
        return {output: process.returncode}

    return once(stopped_run)


@pytest.fixture(scope="session")
def finished(once, stopped, image):  # noqa: F811
    """The same, and then run to its end."""

    def finished_run(folder):
        duplicate(stopped[0], folder)
        done = subprocess.run(**snakemake(folder, image), timeout=DEADLINE)
        assert done.returncode == 0, done.stdout
        return {}

    return once(finished_run)[0]


def test_a_signal_to_every_process_saves_a_checkpoint_and_keeps_the_exit_status(stopped):
    folder, outcome = stopped
    [(output, status)] = outcome.items()
    assert status == 1
    assert "stopped; results and saved states are kept, and the same command resumes" in output
    [log] = (folder / "logs/search" / SEARCH).glob("*.log")
    [checkpoint] = (folder / ".hlrs/checkpoints").iterdir()
    [line] = [line for line in log.read_text().splitlines() if str(checkpoint.relative_to(folder)) in line]
    assert "SIGUSR1" in line
    assert "rerun" in line
    assert not list((folder / "results/search").rglob("*.parquet"))


def test_the_next_run_resumes_and_makes_the_bytes_of_an_undisturbed_one(finished, repository, tmp_path):  # noqa: F811
    assert record(finished, "search", SEARCH)["resumes"] == 1
    undisturbed = duplicate(repository, tmp_path / "undisturbed")  # and outside of any container
    edit(undisturbed / "params.yaml", **DARTS_ALONE, **EPOCHS)
    for stage, job in (("split", "digits"), ("search", SEARCH)):
        assert hlrs(undisturbed, stage, job)[0] == 0
        assert outputs(finished, stage) == outputs(undisturbed, stage)


def test_every_rule_ran_in_the_image_and_every_record_names_it(finished, image):
    logs = list((finished / "logs").rglob("*.log"))
    records = [json.loads(path.read_text()) for path in (finished / "results").rglob(PROVENANCE)]
    assert len(logs) == len(records) == 6
    assert all(image[1] in log.read_text() for log in logs)
    assert [record["image"] for record in records] == 6 * [f"sha256:{sha256(image[0])}"]


def test_the_digest_is_remembered_until_the_file_changes(finished, image, tmp_path, monkeypatch):
    _, known = json.loads((finished / ".hlrs/digests.json").read_text())
    assert known[str(image[0])][2] == sha256(image[0])
    monkeypatch.chdir(tmp_path)
    sif = Path("changing.sif")
    for content in (b"one", b"three"):
        sif.write_bytes(content)
        container.hand_in(str(sif))
        assert os.environ.pop("APPTAINERENV_HLRS_IMAGE") == f"sha256:{sha256(sif)}"
        assert os.environ.pop("SINGULARITYENV_HLRS_IMAGE") == f"sha256:{sha256(sif)}"


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--sdm", "apptainer", "--config", "container=12"], ["container=12: "]),
        (["--sdm", "apptainer"], ["--sdm apptainer: ", "--config container="]),
        (["--config", "container=params.yaml"], ["container=params.yaml: ", "--sdm apptainer"]),
        (["--sdm", "apptainer", "--config", "container=params.yaml"], ["container=params.yaml: ", "SIF"]),
    ],
    ids=["no file", "no image", "no --sdm", "no SIF"],
)
def test_a_mistake_is_one_line_and_runs_nothing(repository, tmp_path, arguments, facts):  # noqa: F811
    folder = duplicate(repository, tmp_path / "folder")
    done = run(folder, "snakemake", "--cores", "2", *arguments, status=2)
    [line] = [line for line in done.stderr.splitlines() if "hlrs" in line]
    assert line.startswith("hlrs: ")
    for fact in facts:
        assert fact in line
    assert "Traceback" not in done.stdout + done.stderr
    assert not [name for name in ("results", "logs", ".hlrs/specs") if (folder / name).exists()]


def test_a_path_that_the_shell_would_interpret_is_refused():
    with pytest.raises(UserError, match="blanks"):
        container.image("an image.sif", True)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Path("/dev/nvidiactl").exists()),
        ({"SLURM_JOB_ID": "1"}, False),
        ({"SLURM_JOB_ID": "1", "APPTAINER_NV": "1"}, False),  # of the process that submitted
        ({"SLURM_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "NoDevFiles"}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_JOB_GPUS": "0"}, True),
        ({"SLURM_JOB_ID": "1", "SLURM_STEP_GPUS": "1"}, True),
    ],
)
def test_apptainer_passes_gpus_on_only_if_slurm_allocated_some(image, tmp_path, variables, expected):
    script = (
        "import subprocess, sys\nfrom hlrs.pipeline import container\ncontainer.hand_in(sys.argv[1])\n"
        "subprocess.run(['apptainer', '--debug', 'exec', sys.argv[1], 'true'], check=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, image[0]],
        cwd=tmp_path,
        env={**environment(Path(__file__).parents[2]), **thin.binds(), **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert ("for nv GPU setup" in done.stderr) == expected
