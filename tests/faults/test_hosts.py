"""Two hosts with one `results/`: processes of other host names and boots, which cannot see each other."""

import copy
import os
import platform
import sys
from pathlib import Path

import pytest
import yaml

from hlrs.pipeline import locks
from tests.conftest import FORK, TINY, hlrs, outputs, record

SEARCH = "digits/darts/0"
EPOCHS = 12

pytestmark = pytest.mark.e2e


def _become(name, folder):
    """Make this process one of a host of this name, in a folder."""
    os.chdir(folder)
    sys.stderr = sys.stdout = Path("log").open("a", buffering=1)  # noqa: SIM115 - as long as the process
    identify = locks._process
    locks._process = lambda pid: identify(pid) | {"machine": f"boot of {name}"}
    platform.node = lambda: name
    locks.BEAT_SECONDS, locks.DEAD_SECONDS, locks.POLL_SECONDS = 0.05, 5.0, 0.02


def _run(name, folder, *arguments):
    from hlrs.cli import main

    _become(name, folder)
    main(arguments)


def _claim(name, folder):
    _become(name, folder)
    locks._claim("snakemake")


def start(target, *arguments):
    process = FORK.Process(target=target, args=arguments)
    process.start()
    return process


@pytest.fixture
def hosts(tmp_path):
    """The checkouts of two hosts, with a split; a search lasts longer than the other host's start."""
    params = copy.deepcopy(TINY)
    params["search"]["epochs"] = EPOCHS
    (tmp_path / "shared").mkdir()
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        (folder / "results").symlink_to(tmp_path / "shared")
    assert hlrs(folders[0], "split", "digits")[0] == 0
    return folders


def log(folder):
    return (folder / "log").read_text()


def until_leased(folder, process):
    while not list(folder.glob("results/.hlrs/leases/*.json")):
        process.join(0.01)
        assert process.exitcode is None, log(folder)


def test_one_host_trains_and_the_other_waits_for_its_result(hosts):
    a, b = hosts
    first = start(_run, "north", a, "search", SEARCH)
    until_leased(a, first)
    second = start(_run, "south", b, "search", SEARCH)
    for process in (first, second):
        process.join()
        assert process.exitcode == 0, log(a) + log(b)
    assert [f"epoch 1/{EPOCHS}" in log(folder) for folder in hosts] == [True, False]
    assert f"waiting for process {first.pid} on north" in log(b)
    assert record(b, "search", SEARCH)["host"] == "north"


@pytest.mark.slow
def test_a_host_that_died_is_replaced_after_its_silence(hosts):
    a, b = hosts
    first = start(_run, "north", a, "search", SEARCH)
    until_leased(a, first)
    first.kill()
    first.join()
    second = start(_run, "south", b, "search", SEARCH)
    second.join()
    assert second.exitcode == 0, log(b)
    assert record(b, "search", SEARCH)["host"] == "south"
    made = outputs(b, "search")
    assert hlrs(a, "search", SEARCH, "--force")[0] == 0
    assert outputs(a, "search") == made


def test_the_claim_of_another_host_is_respected(hosts):
    """Also once its process has died: only `--unlock` may remove it."""
    a, b = hosts
    claiming = start(_claim, "north", a)
    claiming.join()
    pruning = start(_run, "south", b, "prune")
    pruning.join()
    assert pruning.exitcode == 1
    [line] = log(b).splitlines()
    assert f"process {claiming.pid} on north, is running in {a}" in line
    assert "snakemake --unlock" in line
    assert (a / "results/.hlrs/run.json").is_file()
