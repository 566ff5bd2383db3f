"""The workflow on a real SLURM of two nodes (tests/cluster/slurm.py), and what can happen to jobs there.

The cluster has no accounting, forgets a job ten seconds after its end, and its GPUs are device files.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from hlrs.artifacts.jobs import CHECKPOINTS
from hlrs.artifacts.tensors import read_tensors
from tests import thin
from tests.cluster import slurm
from tests.conftest import edit, outputs, record, untested
from tests.messages import says
from tests.pipeline.test_container import image  # noqa: F401 - a fixture
from tests.pipeline.test_workflow import (  # noqa: F401 - fixtures among them
    IDLE,
    PROVENANCE,
    counting,
    duplicate,
    environment,
    first,
    once,
    repository,
    results,
    runs_of,
    sha256,
)

DEADLINE = 600.0
RUN = "digits/hlrs/0"
BRIEF, LONG = 30, 60  # epochs of a search that is disturbed once, and several times


def alone(epochs):
    """Params of one search."""
    return {
        "matrix.methods": ["hlrs"],
        "report": {},
        "search.epochs": epochs,
        "search.collapse": {"power_iterations": 0},
    }


QUICK = {"seconds-between-status-checks": 2, "slurm-init-seconds-before-status-checks": 2, "latency-wait": 5}
CPU = {"HLRS_DEVICE": "cpu"}  # the device files are no GPUs


@contextlib.contextmanager
def running(kind, folder, **settings):
    """A cluster of a kind, slurm or accounting; if it cannot run, CI fails and other runs skip."""
    reason = kind.missing()
    if reason:
        untested("ON A REAL SLURM", reason, "HLRS_TEST_SLURM")
    one = kind.Cluster(folder)
    with slurm.alone():
        try:
            one.start(MinJobAge=10, **settings)
            yield one
        finally:
            one.stop()


@pytest.mark.e2e
def test_the_cluster_of_a_killed_test_is_cleaned_up(tmp_path):
    if reason := slurm.missing():
        untested("ON A REAL SLURM", reason, "HLRS_TEST_SLURM")
    left = slurm.Cluster(tmp_path / "left")
    command = [sys.executable, slurm.__file__, str(left.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()  # its nodes are up
        process.kill()
    assert len(left.marked()) == 4  # munged, slurmctld and two slurmd
    assert slurm.missing() == ""  # links left in /etc/slurm do not count as the machine's own files
    with slurm.alone():
        left.wait(lambda: not left.marked(), "its daemons still run")
        assert not any(os.path.lexists(slurm.ETC / name) for name in slurm.FILES)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with running(slurm, tmp_path_factory.mktemp("slurm")) as one:
        yield one


def command_line(pid):
    return slurm.read_process(pid, "cmdline")


def parent(pid):
    line = re.search(rb"^PPid:\s+(\d+)", slurm.read_process(pid, "status"), re.MULTILINE)
    return int(line[1]) if line else None


class Site:
    """A checkout on the cluster, and the user who works in it."""

    def __init__(self, cluster, folder):
        self.cluster, self.folder = cluster, folder
        self.environment = {
            **environment(folder),
            **CPU,
            slurm.MARK: str(cluster.folder),
            "XDG_CONFIG_HOME": f"{folder}.config",
        }
        self.process = None

    def command(self, *command, status=0, **variables):
        """Output of a command, whose exit status must be `status`."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def profile(self, *options):
        """Run `hlrs profile slurm` and shorten the pauses: nothing here takes minutes."""
        self.command("hlrs", "profile", "slurm", *options)
        self.lay_over(**QUICK)

    def lay_over(self, **changes):
        """Edit the profile."""
        path = Path(f"{self.folder}.config/snakemake/slurm/config.yaml")
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))

    def set_site(self, **facts):
        """Override facts of the site."""
        path = Path(f"{self.folder}.config/snakemake/slurm/site.yaml")
        path.write_text(yaml.safe_dump((yaml.safe_load(path.read_text()) or {}) | facts))

    def start(self, *arguments, **variables):
        """Run `snakemake --profile slurm` in the background, where Ctrl-C reaches it nevertheless."""
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                ["env", "--default-signal=INT", "snakemake", "--profile", "slurm", *arguments],
                cwd=self.folder,
                env=self.environment | variables,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def output(self):
        return Path(f"{self.folder}.output")

    def finish(self, status=0):
        """Wait until it ends with this status."""
        code = self.process.wait(DEADLINE)
        assert code == status, f"{code}\n{self.transcript()}"
        self.process = None

    def complaints(self):
        """The lines of hlrs in snakemake's output."""
        return [line for line in self.output.read_text().splitlines() if line.startswith("hlrs:")]

    def transcript(self):
        """Its output and the jobs' logs."""
        logs = [
            *(self.folder / ".snakemake/slurm_logs").rglob("*.log"),
            *(self.folder / "logs").rglob("*.log"),
        ]
        return "\n".join(
            [self.output.read_text(), *(f"--- {p}\n{p.read_text()[-1500:]}" for p in sorted(logs))]
        )

    def wait(self, condition, complaint):
        """Wait until the condition holds; fail if snakemake ends first."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            ended = self.process is not None and self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"{complaint}\n{self.transcript()}\n{self.cluster.logs()}")
            time.sleep(0.05)

    # --- the running search ---------------------------------------------------------------------------

    def job(self, state="RUNNING"):
        """(id, node) of the search in the queue, once it is in this state."""
        found = []

        def there():
            found[:] = [
                (id_, node)
                for id_, (its_state, comment, node, _) in self.cluster.queue().items()
                if its_state == state and comment.startswith("rule_search")
            ]
            return found

        self.wait(there, f"no search is {state}")
        return found[0]

    def submitted(self, field):
        """A field of each job submitted from this checkout; earlier tests' jobs stay listed for a while."""
        listing = ("squeue", "--noheader", "--states=all", f"--format={field} %Z")
        rows = (line.split() for line in self.cluster.ask(*listing).splitlines())
        return [value for value, folder in rows if folder == str(self.folder)]

    def waits_for(self, reason):
        """The line of `hlrs status` on a search that waits in the queue for a reason, once there is one."""
        self.wait(lambda: reason in self.command("hlrs", "status"), f"no search waits for {reason}")
        [line] = [line for line in self.command("hlrs", "status").splitlines() if reason in line]
        return line

    @property
    def log(self):
        text = [path.read_text() for path in (self.folder / "logs/search" / RUN).glob("*.log")]
        return text[0] if text else ""

    def resumed(self):
        """The epoch at which the search resumed last; its log has all its runs."""
        epochs = re.findall(r"resumed after epoch (\d+)/", self.log)
        return int(epochs[-1]) if epochs else 0

    def stage_process(self):
        """The process that trains."""
        [pid] = self.stage_processes()
        return pid

    def stage_processes(self):
        """The processes that train, one per search."""
        return [p for p in self.cluster.processes() if b"hlrs\0search" in command_line(p)]

    def step_process(self):
        """The snakemake inside the step, which SLURM's shepherd started."""
        shepherds = set(self.cluster.shepherds())
        [pid] = [
            p for p in self.cluster.processes() if parent(p) in shepherds and b"snakemake" in command_line(p)
        ]
        return pid

    def progressed(self):
        """Wait until the search saves another epoch; return the number of safe epochs."""
        before = self.position()
        self.wait(lambda: self.position() > before, "the search makes no progress")
        return self.position()

    def position(self):
        """The epochs that the search's checkpoint holds."""
        keys = [path.stem for path in (self.folder / "logs/search" / RUN).glob("*.log")]
        paths = [self.folder / CHECKPOINTS / f"{key}.safetensors" for key in keys]
        return next((read_tensors(path)[1]["epoch"] for path in paths if path.exists()), 0)

    def wait_until_resumed(self, epoch):
        """Wait until the search resumes where it was, or later: no epoch is trained twice."""
        self.wait(lambda: self.resumed() >= epoch, f"the search does not resume at epoch {epoch}")


@pytest.fixture
def site(cluster, repository, tmp_path):
    """A checkout with tiny params and a profile, on an empty queue."""
    cluster.wait(lambda: not cluster.queue(), "jobs are left in the queue", DEADLINE)
    one = Site(cluster, duplicate(repository, tmp_path / "site"))
    one.profile()
    yield one
    if one.process is not None and one.process.poll() is None:
        os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait()
    cluster.ask("scancel", "--user=root")


@pytest.fixture(scope="module")
def undisturbed():
    """Start the search of a site's params elsewhere, once per number of epochs; return folder and process."""
    started = {}

    def start(site, epochs):
        if epochs not in started:
            folder = duplicate(site.folder, site.folder.with_name("undisturbed"))
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            command = ["hlrs", "search", RUN]
            process = subprocess.Popen(command, cwd=folder, env=environment(folder) | CPU, **quiet)
            started[epochs] = folder, process
        return started[epochs]

    yield start
    for _, process in started.values():
        process.kill()
        process.wait()


@pytest.fixture
def search_of(site, undisturbed):
    """Give a site the params of one search with so many epochs; return the site and the same, undisturbed."""

    def prepare(epochs):
        site.command("hlrs", "split", "digits")
        edit(site.folder / "params.yaml", **alone(epochs))
        return site, *undisturbed(site, epochs)

    return prepare


def same_as_undisturbed(site, reference, process):
    """Check that the search's bytes are the undisturbed one's and every epoch was counted once."""
    assert process.wait(DEADLINE) == 0
    assert outputs(site.folder, "search") == outputs(reference, "search")
    found = record(site.folder, "search", RUN)
    epochs = record(reference, "search", RUN)["params"]["search"]["epochs"]
    assert [entry["epoch"] for entry in found["throughput"]] == list(range(epochs))
    return found


# --- undisturbed --------------------------------------------------------------------------------------


def test_the_workflow_runs_on_slurm_and_gives_the_same_bytes(site, first):
    edit(site.folder / "params.yaml", **{"matrix.methods": ["hlrs"], "report": {}})
    site.lay_over(**{"set-resources": {"evaluate": {"gpu": 0, "gres": "'shard:1'"}}})  # a part of a GPU
    with counting(site.folder) as ran:
        site.start()
        site.finish()
    assert ran == results(site.folder) == Counter(["split/digits"]) + runs_of("hlrs")
    for stage in ("split", "search", "extract", "retrain", "evaluate"):
        made = outputs(site.folder, stage)
        assert made
        assert made.items() <= outputs(first[0], stage).items()
    records = [json.loads(path.read_text()) for path in (site.folder / "results").rglob(PROVENANCE)]
    gpus = {(r["stage"], r["slurm_gpus"], r["slurm_job"] is not None) for r in records}
    assert gpus == {  # the extractions, a second each, were not submitted
        *((stage, 1, True) for stage in ("search", "retrain", "evaluate")),
        *((stage, 0, True) for stage in ("split", "report")),
        ("extract", 0, False),
    }
    assert (site.folder / "report/index.html").is_file()
    assert IDLE in site.command("snakemake", "--profile", "slurm", "-n")


def test_rules_run_in_a_container_on_slurm(site, image):
    """The warning reaches a search through Apptainer; the job resumes in another allocation."""
    edit(site.folder / "params.yaml", **alone(BRIEF))
    site.command("hlrs", "split", "digits")
    site.profile("--force", "--container", str(image[0]))
    site.environment |= thin.binds()
    site.start("search_all")
    safe = site.progressed()
    os.kill(site.step_process(), signal.SIGUSR1)
    site.wait_until_resumed(safe)
    site.finish()
    found = record(site.folder, "search", RUN)
    assert found["image"] == f"sha256:{sha256(image[0])}"
    assert (found["resumes"], found["slurm_gpus"]) == (1, 1)
    assert image[1] in site.log  # which only the image's python writes


# --- interruptions: SLURM resumes the job, nobody has to act ------------------------------------------


def test_a_search_survives_its_time_limit_a_preemption_and_the_loss_of_its_node(search_of):
    site, *reference = search_of(LONG)
    site.set_site(time_limit=30)
    site.start("search_all")
    job, node = site.job()
    assert site.cluster.ask("squeue", "--noheader", "-o", "%l", f"--jobs={job}") == "30:00"
    safe = site.progressed()
    # SLURM checks limits every 30 s; the search must not end before. SLURM sends SIGCONT with its warning.
    os.kill(site.stage_process(), signal.SIGSTOP)
    site.cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=3")  # it warns 2 minutes before that
    site.wait(lambda: "SIGUSR1" in site.log or site.resumed(), "SLURM does not warn")
    site.cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=60")  # no further warning
    site.wait_until_resumed(safe)
    assert site.job()[0] == job

    safe = site.progressed()
    os.kill(site.step_process(), signal.SIGUSR1)  # alone, as SLURM signals with proctrack/cgroup
    site.wait_until_resumed(safe)

    safe = site.progressed()
    node = site.job()[1]
    os.kill(site.stage_process(), signal.SIGSTOP)  # SLURM preempts it when it next looks at the queue
    site.cluster.ask(
        "sbatch",
        "--partition=urgent",
        f"--nodelist={node}",
        "--exclusive",
        "--wrap=true",
        "--output=/dev/null",
    )
    site.wait(lambda: site.cluster.queue().get(job, ["gone"])[0] != "RUNNING", "the job is not preempted")
    site.wait_until_resumed(safe)

    safe = site.progressed()
    node = site.job()[1]
    site.cluster.lose(node)
    site.wait(lambda: site.job()[1] != node, "the job does not leave the lost node")
    site.wait_until_resumed(safe)
    site.cluster.start_node(node)
    site.finish()
    assert same_as_undisturbed(site, *reference)["resumes"] >= 4


def test_a_partition_file_beside_the_profile_replaces_its_choice(site):
    """The executor prefers the partition with the closer limits, here one that preempts other jobs."""
    limits = {"main": {"max_runtime": 2880}, "urgent": {"max_runtime": 1440}}
    beside = Path(f"{site.folder}.config/snakemake/slurm/partitions.yaml")
    beside.write_text(yaml.safe_dump({"partitions": limits}))
    site.lay_over(**{"default-resources": {}, "slurm-partition-config": beside.name})
    site.start("split_all")
    site.wait(lambda: site.submitted("%P"), "nothing is submitted")
    assert site.submitted("%P") == ["urgent"]
    site.finish()


def test_a_job_that_slurm_will_not_start_says_why_and_what_helps(site):
    """SLURM queues a job that exceeds its partition's time limit, 2880 minutes, and never starts it."""
    edit(site.folder / "params.yaml", **alone(1))
    site.command("hlrs", "split", "digits")
    site.lay_over(**{"set-resources": ["search:runtime=5000"]})
    site.start("search_all")

    line = site.waits_for("PartitionTimeLimit")
    says(line, f"waiting   search    {RUN}  in SLURM's queue:", "time_limit", "profile")
    id_, _ = site.job("PENDING")
    site.cluster.ask("scontrol", "uhold", id_)
    says(site.waits_for("JobHeldUser"), "scontrol release")
    site.process.send_signal(signal.SIGINT)
    site.finish(status=1)


# --- job arrays ---------------------------------------------------------------------------------------

THREE = {"matrix.seeds": [0, 1, 2]}
ARRAY = {"jobs": "unlimited", "slurm-array-jobs": "search", "slurm-disable-memory-fudge": True}


def test_an_array_is_one_submission_whose_tasks_resume_one_by_one(search_of):
    site, reference, process = search_of(BRIEF)
    edit(site.folder / "params.yaml", **THREE)
    site.lay_over(**ARRAY)
    site.start("search_all")
    site.wait(lambda: len(site.stage_processes()) == 3 and site.position(), "not all three train")
    stages = site.stage_processes()
    for pid in stages:  # so that none ends while it is looked at
        os.kill(pid, signal.SIGSTOP)
    states = json.loads(site.command("hlrs", "status", "--json"))["states"]
    running = {state["run"]: state["by"] for state in states if state["state"] == "running"}
    tasks = {run: re.search(r"\(SLURM job (\d+_\d)\)$", by)[1] for run, by in running.items()}
    [array] = {task.partition("_")[0] for task in tasks.values()}  # one sbatch
    assert sorted(tasks.values()) == [f"{array}_{index}" for index in (1, 2, 3)]
    [comment] = {comment for _, comment, *_ in site.cluster.queue().values()}
    assert re.fullmatch(r"rule_search_wildcards_digits_hlrs_\d_[0-9a-f]{12}_and_2_more", comment)
    queued = site.command("snakemake", "--profile", "slurm", "-n", "search_all")
    assert all(f"{task} running: search {run}" in queued for run, task in tasks.items())

    for pid in stages:
        os.kill(pid, signal.SIGCONT)
    safe = site.progressed()
    site.cluster.ask("scancel", "--signal=USR1", tasks[RUN])  # to the job's steps, as SLURM's warning
    site.wait_until_resumed(safe)
    site.finish()
    assert process.wait(DEADLINE) == 0
    made = outputs(site.folder, "search")
    assert outputs(reference, "search").items() <= made.items()
    records = {run: record(site.folder, "search", run) for run in tasks}
    assert {run: found["slurm_job"] for run, found in records.items()} == tasks
    assert {run: found["resumes"] for run, found in records.items()} == {**dict.fromkeys(tasks, 0), RUN: 1}
    assert {found["slurm_gpus"] for found in records.values()} == {1}


def test_an_array_is_cancelled_with_snakemake(site):
    edit(site.folder / "params.yaml", **alone(1000), **THREE)
    site.command("hlrs", "split", "digits")
    site.lay_over(**ARRAY, **{"seconds-between-status-checks": 3600})  # for which Ctrl-C does not wait
    site.start("search_all")
    site.progressed()
    assert len(site.cluster.queue()) == 3
    site.process.send_signal(signal.SIGINT)
    site.finish(status=1)
    site.wait(lambda: not site.cluster.queue(), "tasks are left in the queue")
    assert site.position()  # its state is saved


def test_what_an_array_would_lose_or_starve_is_refused_before_anything_is_queued(site):
    path = site.folder / "params.yaml"
    edit(path, **{"matrix.methods": ["hlrs"], "matrix.datasets": ["digits", "streamed"], "report": {}})
    digits = yaml.safe_load(path.read_text())["datasets"]["digits"]
    edit(path, **{"datasets.streamed": digits | {"stream": {"above_mb": 0, "workers": 1}}})
    site.command("hlrs", "split", "digits")
    site.command("hlrs", "split", "streamed")
    refused = ("snakemake", "--profile", "slurm", "--slurm-array-jobs=search", "search_all")
    for options, facts in [
        ((), ("--jobs 100 ", "--jobs unlimited")),
        (("--jobs", "unlimited", "--resources", "gpu=4"), ("--resources gpu=4 ",)),
        (("--jobs", "unlimited", "--max-jobs-per-timespan", "2/1m"), ("--max-jobs-per-timespan",)),
        (("--jobs", "unlimited"), ("search need 1 or 2 cores",)),
    ]:
        shown = site.command(*refused, *options, status=2)
        [line] = [line for line in shown.splitlines() if line.startswith("hlrs: ")]
        assert line.startswith("hlrs: --slurm-array-jobs: ")
        assert all(fact in line for fact in facts), line
    assert site.submitted("%i") == []


# --- failures: nothing is lost, and the same command resumes ------------------------------------------

# a command that hangs while a file exists, and notes in another that it was called
SLOW = """#!/bin/sh
test ! -e {hold} || echo >> {hold}.asked
while test -e {hold}; do sleep 0.1; done
exec {real} "$@"
"""


def slow(command, folder):
    """Put a slow command first in a PATH; return the file that holds it up and the PATH's entry."""
    hold, path = folder / "hold", folder / "slow" / command
    path.parent.mkdir()
    path.write_text(SLOW.format(hold=hold, real=shutil.which(command)))
    path.chmod(0o755)
    return hold, path.parent


def test_ctrl_c_while_states_are_queried_cancels_the_jobs(site, tmp_path):
    hold, folder = slow("squeue", tmp_path)
    edit(site.folder / "params.yaml", **alone(1000))
    site.command("hlrs", "split", "digits")
    site.start("search_all", PATH=f"{folder}:{site.environment['PATH']}")
    site.progressed()
    hold.touch()
    site.wait(Path(f"{hold}.asked").exists, "no state is queried")
    site.process.send_signal(signal.SIGINT)
    site.cluster.wait(lambda: not site.cluster.queue(), "the search is left in the queue", DEADLINE)
    hold.unlink()
    site.finish(status=1)
    assert "SIGTERM" in site.log


def test_ctrl_c_while_jobs_are_submitted_leaves_none(site, tmp_path):
    """The executor makes two submissions at a time, here of four."""
    hold, folder = slow("sbatch", tmp_path)
    edit(site.folder / "params.yaml", **alone(1000), **{"matrix.seeds": [0, 1, 2, 3]})
    site.command("hlrs", "split", "digits")
    hold.touch()
    site.start("search_all", PATH=f"{folder}:{site.environment['PATH']}")
    asked = Path(f"{hold}.asked")
    site.wait(lambda: asked.exists() and asked.stat().st_size == 2, "no two jobs are submitted")
    site.process.send_signal(signal.SIGINT)
    site.wait(lambda: list(site.folder.glob(".hlrs/slurm/*.stopped")), "the run is not stopped")
    hold.unlink()
    site.finish(status=1)
    site.wait(lambda: not site.cluster.queue(), "jobs are left in the queue")
    assert len(site.submitted("%i")) == asked.stat().st_size == 2


@pytest.mark.slow
def test_the_same_command_resumes_after_the_end_of_a_job_or_snakemake(search_of):
    site, *reference = search_of(LONG)
    site.start("search_all")
    job, _ = site.job()
    safe = site.progressed()
    site.cluster.ask("scancel", job)
    site.finish(status=1)
    assert f"SLURM-job '{job}' failed" in site.output.read_text()

    site.start("search_all")
    site.wait_until_resumed(safe)
    safe = site.progressed()
    os.kill(site.stage_process(), signal.SIGKILL)
    site.finish(status=1)

    site.start("search_all")
    site.wait_until_resumed(safe)
    safe = site.progressed()
    job, _ = site.job()
    stage = site.stage_process()
    os.kill(stage, signal.SIGSTOP)  # so that it does not end before the next snakemake has seen it
    site.process.kill()
    site.process.wait()
    assert f"{job} running: search {RUN}" in site.command(
        "snakemake", "--profile", "slurm", "-n", "search_all"
    )
    site.start("search_all")
    remedy = f"`scancel {job}`"
    site.wait(lambda: remedy in site.output.read_text(), "it does not wait for the earlier one's job")
    os.kill(stage, signal.SIGCONT)
    site.finish()
    assert IDLE in site.output.read_text()  # the earlier one's job made it
    assert same_as_undisturbed(site, *reference)["resumes"] == 2


def test_too_little_memory_is_reported_and_more_is_enough(search_of):
    site, *reference = search_of(BRIEF)
    site.lay_over(**{"set-resources": {"search": {"mem_mb": 150}}})
    site.start("search_all")
    site.finish(status=1)
    [line] = site.complaints()
    assert re.match(rf"hlrs: search {RUN} \(SLURM job \d+\): .*\bmem_mb\b.*\bset-resources\b", line)
    site.lay_over(**{"set-resources": {"search": {"mem_mb": 8000}}})
    site.start("search_all")
    site.finish()
    same_as_undisturbed(site, *reference)


def test_a_missing_allocated_gpu_is_one_line(site):
    edit(site.folder / "params.yaml", **{"matrix.methods": ["darts"]})
    site.command("hlrs", "split", "digits")
    del site.environment["HLRS_DEVICE"]
    site.start("search_all")
    site.finish(status=1)
    [line] = site.complaints()
    assert re.match(r"hlrs: search digits/darts/0 \(SLURM job \d+\): .*\b1 GPU on \w+", line)
    assert "`hlrs doctor`" in line
    assert "HLRS_DEVICE=cpu" in line


# --- SLURM itself -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_workflow_survives_two_minutes_without_a_controller(search_of):
    site, *reference = search_of(BRIEF)
    site.start("search_all")
    site.progressed()
    site.cluster.kill("slurmctld")
    away = time.monotonic()
    site.wait(lambda: time.monotonic() - away > 120, "")
    assert site.process.poll() is None
    site.cluster.start_controller()
    site.finish()
    same_as_undisturbed(site, *reference)
