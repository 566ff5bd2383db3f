"""The workflow on a real SLURM with accounting (tests/cluster/accounting.py), queried by sacct.

slurmdbd hears from the controller with a delay, and reports a preempted job that waits in the queue as
PREEMPTED.
"""

import signal
import time
from pathlib import Path

import pytest
import yaml
from snakemake_executor_plugin_slurm.job_status_query import query_job_status_sacct

from tests.cluster import accounting
from tests.conftest import edit
from tests.messages import says
from tests.pipeline.test_slurm import (  # noqa: F401 - fixtures among them
    LONG,
    RUN,
    alone,
    once,
    repository,
    running,
    same_as_undisturbed,
    search_of,
    site,
    undisturbed,
)

AWAY_SECONDS = 30.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with running(accounting, tmp_path_factory.mktemp("accounting")) as one:
        yield one


@pytest.fixture
def accounted(site):
    """A site whose profile names an account."""
    site.profile("--force", "--account", accounting.ACCOUNT)
    return site


OWN, EXECUTORS = "sacct", ".hlrs/bin/sacct"


def state(site, sacct, job):
    """A job's state according to SLURM's own sacct or to the one that the executor calls."""
    run = site.cluster.ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%j")
    found = site.command(sacct, *query_job_status_sacct(run).split()[1:])
    return dict(line.split("|") for line in found.splitlines())[job]


def test_accounting_is_detected_and_a_foreign_account_refused(site):
    command = ("hlrs", "profile", "slurm", "--force", "--account")
    site.command(*command, accounting.ACCOUNT)
    written = yaml.safe_load(Path(f"{site.folder}.config/snakemake/slurm/config.yaml").read_text())
    assert written["slurm-status-command"] == "sacct"
    assert written["default-resources"]["slurm_account"] == f"'{accounting.ACCOUNT}'"
    [line] = site.command(*command, "labs", status=2).splitlines()
    assert line.startswith("hlrs: --account labs: ")
    assert "lab, root" in line


def test_the_limit_of_a_qos_is_kept_to_and_named_where_it_is_not(site):
    site.profile("--force", "--account", accounting.ACCOUNT, "--qos", accounting.QOS)
    folder = Path(f"{site.folder}.config/snakemake/slurm")
    assert yaml.safe_load((folder / "site.yaml").read_text()) == {"time_limit": 30}
    [line] = site.command("hlrs", "profile", "slurm", "--force", "--qos", "brief", status=2).splitlines()
    says(line, "--qos brief", "choose from: normal")  # the default account may not use it

    edit(site.folder / "params.yaml", **alone(1))
    site.command("hlrs", "split", "digits")
    site.lay_over(**{"set-resources": ["search:runtime=31"]})
    site.start("search_all")
    line = site.waits_for("QOSMaxWallDurationPerJobLimit")
    says(line, "waiting   search", "time_limit", "profile")
    site.process.send_signal(signal.SIGINT)
    site.finish(status=1)


@pytest.mark.slow
def test_a_preempted_search_resumes_and_slurmdbd_may_be_down(accounted, search_of):
    site, *reference = search_of(LONG)
    site.start("search_all", "--verbose")
    job, node = site.job()
    safe = site.progressed()
    site.cluster.ask(
        *("sbatch", "--partition=urgent", f"--account={accounting.ACCOUNT}", f"--nodelist={node}"),
        *("--exclusive", "--wrap=true", "--output=/dev/null"),
    )
    site.wait(lambda: state(site, OWN, job) == "PREEMPTED", "the job is not preempted")
    assert state(site, EXECUTORS, job) in ("COMPLETING", "PENDING")
    site.wait_until_resumed(safe)
    site.cluster.kill("slurmdbd")
    away = time.monotonic()
    site.wait(lambda: time.monotonic() - away > AWAY_SECONDS, "")
    site.cluster.start_accounting()
    site.finish()
    assert "command=sacct" in site.output.read_text()
    same_as_undisturbed(site, *reference)
    query = ("sacct", "-X", "-n", "-P", f"--jobs={job}", "--format=account,state")
    site.wait(lambda: site.cluster.ask(*query) == "lab|COMPLETED", "the job is not in the accounting")


def test_a_cancelled_job_is_reported_with_its_reason(accounted):
    site = accounted
    edit(site.folder / "params.yaml", **{"matrix.methods": ["hlrs"], "report": {}, "search.epochs": 1000})
    site.command("hlrs", "split", "digits")
    site.start("search_all")
    job, _ = site.job()
    site.progressed()
    site.cluster.ask("scancel", job)
    site.finish(status=1)
    [line] = site.complaints()
    assert line.startswith(f"hlrs: search {RUN} (SLURM job {job}): ")
    assert "cancelled" in line


def test_tasks_of_an_array_are_told_apart(site):
    """The executor queries raw ids, of which one task's is the whole array's."""
    site.command("snakemake", "--profile", "slurm", "-n")  # installs the commands
    run, wrapped = "run-of-an-array", "--wrap=exit $((SLURM_ARRAY_TASK_ID == 2))"
    options = ("--parsable", "--job-name", run, "--array=1-3", "--output=/dev/null", wrapped)
    array = site.command(".hlrs/bin/sbatch", *options).strip()
    expected = {f"{array}_1": "COMPLETED", f"{array}_2": "FAILED", f"{array}_3": "COMPLETED"}
    query = query_job_status_sacct(run).split()[1:]

    def ended():
        found = site.command(EXECUTORS, *query)
        return dict(line.split("|") for line in found.splitlines()) == expected

    site.wait(ended, "not the states of three tasks")
    # which squeue knew before sacct did
    site.wait(lambda: f"{array}|" in site.command(OWN, *query), "no raw id of the whole array")
    assert f"{array}_" not in site.command(OWN, *query)
