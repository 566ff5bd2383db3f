"""The full image under Podman and Apptainer, on a read-only root file system and as another user.

Not collected by itself: `make test-image` builds the image and runs this.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

import hlrs
from hlrs.artifacts.code_digest import here
from tests.conftest import REPOSITORY, edit
from tests.pipeline.test_workflow import (  # noqa: F401
    DARTS_ALONE,
    PROVENANCE,
    checkout,
    duplicate,
    environment,
    once,
    sha256,
)

NAME = "localhost/hlrs"
SIF = REPOSITORY / "build/hlrs.sif"
STRANGER = 12345  # a user id without a name
COMPILERS = (
    "as",
    "c++",
    "c89",
    "c99",
    "cc",
    "clang",
    "cpp",
    "g++",
    "gcc",
    "gfortran",
    "go",
    "ld",
    "nvcc",
    "rustc",
)


def output(*command, **options):
    """What a successful command prints."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def place():
    """A folder that other users reach; tmp_path's parents are closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="hlrs-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def work(place):
    """A checkout with tiny params, owned by the user that Podman runs as."""
    folder = place / "work"
    folder.mkdir()
    checkout(folder)
    edit(folder / "params.yaml", **DARTS_ALONE)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, STRANGER, STRANGER)
    return folder


@pytest.fixture(scope="session")
def podman(work):
    """podman(command): what it prints in the image, where only the checkout is writable."""
    digest = output("podman", "image", "inspect", "--format", "{{.Digest}}", NAME).strip()
    options = ["--read-only", "--read-only-tmpfs=false", f"--user={STRANGER}:{STRANGER}"]
    options += [f"--volume={work}:/checkout", f"--env=HLRS_IMAGE={digest}"]

    def run(*command):
        return output("podman", "run", "--rm", *options, NAME, *command)

    run.digest = digest
    return run


@pytest.fixture(scope="session")
def apptainer(place):
    """apptainer(command): what it prints in the image, as the user `nobody`."""
    home = place / "home"
    home.mkdir()
    shutil.chown(home, "nobody")
    os.link(SIF, place / "hlrs.sif")
    user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]

    def run(*command):
        start = [*user, "apptainer", "--quiet", "exec", "--home", str(home), str(place / "hlrs.sif")]
        return output(*start, *command, cwd=home, env={"PATH": os.environ["PATH"], "HOME": str(home)})

    return run


@pytest.fixture(params=["podman", "apptainer"])
def inside(request):
    """Both of them."""
    return request.getfixturevalue(request.param)


def test_it_starts_and_everything_works(inside):
    assert inside("hlrs", "--version") == f"hlrs, version {hlrs.__version__}\n"
    checks = {check["name"]: check for check in json.loads(inside("hlrs", "doctor", "--json"))}
    assert checks["hlrs"]["text"].endswith("/opt/hlrs/lib/python3.11/site-packages/hlrs")
    assert "search steps" in checks["CPU"]["text"]


def test_it_contains_this_code_and_not_a_link_to_it(inside):
    """Every module and template, byte for byte."""
    script = (
        "from hlrs.artifacts.code_digest import here; import hashlib, json; "
        "print(json.dumps({f: hashlib.sha256(b).hexdigest() for f, b in here().files.items()}))"
    )
    found = json.loads(inside("sh", "-c", f"cd / && exec python3 -c {shlex.quote(script)}"))
    assert found == {f: hashlib.sha256(content).hexdigest() for f, content in here().files.items()}


def test_it_contains_no_compiler_and_its_files_are_read_only(inside):
    search = f"for name in {' '.join(COMPILERS)}; do command -v $name; done"
    script = f"{search}; touch /opt/hlrs/x 2>&1 || echo refused"
    assert inside("sh", "-c", script).splitlines()[1:] == ["refused"]


def test_it_holds_what_triton_would_compile(inside):
    """The library fits the driver's, which only a machine with a GPU has."""
    script = """
import ctypes
from hlrs.nas.ops import triton_available
assert triton_available.PREBUILT.is_file() and triton_available.missing() == ""
try:
    ctypes.CDLL(triton_available.PREBUILT)
except OSError as error:
    print(error)
"""
    assert "libcuda.so.1: cannot open shared object file" in inside("python3", "-c", script)


def test_its_labels_name_the_version_and_the_lock_file():
    expected = {
        "org.opencontainers.image.version": hlrs.__version__,
        "hlrs.lock": f"sha256:{sha256(REPOSITORY / 'requirements.lock')}",
    }
    labels = json.loads(output("podman", "image", "inspect", "--format", "{{json .Labels}}", NAME))
    assert labels | expected == labels
    inspected = json.loads(output("apptainer", "inspect", "--json", str(SIF)))
    labels = inspected["data"]["attributes"]["labels"]
    assert labels | expected == labels


def test_snakemake_and_git_run_under_podman_and_the_record_names_the_image(podman, work):
    podman("snakemake", "--cores", "1", "split_all")
    [path] = (work / "results/split").rglob(PROVENANCE)
    record = json.loads(path.read_text())
    assert record["image"] == podman.digest
    assert record["lock"] == sha256(REPOSITORY / "requirements.lock")
    assert record["commit"] == output("git", "-c", "safe.directory=*", "rev-parse", "HEAD", cwd=work).strip()


def test_snakemake_runs_all_rules_in_it(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    checkout(folder)
    edit(folder / "params.yaml", **DARTS_ALONE)
    command = ["snakemake", "--cores", "2", "--sdm", "apptainer", "--config", f"container={SIF}"]
    output(*command, cwd=folder, env=environment(folder))
    records = [json.loads(path.read_text()) for path in (folder / "results").rglob(PROVENANCE)]
    assert [record["image"] for record in records] == 6 * [f"sha256:{sha256(SIF)}"]
    version = "import platform; print(platform.python_version())"
    inside = output("apptainer", "--quiet", "exec", str(SIF), "python3", "-c", version).strip()
    assert {record["versions"]["python"] for record in records} == {inside}
