"""hlrs in SLURM's queue, without SLURM: why jobs failed, what waits for what, and how a job ends."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_slurm import ExecutorSettings

from hlrs.artifacts.jobs import Job
from hlrs.pipeline import slurm, slurm_commands
from hlrs.pipeline.slurm import REQUESTS, Queued
from hlrs.pipeline.snakemake import Plan, end_on_sigterm
from tests.messages import says
from tests.standins import Commands

KEYS = [f"{number:012x}" for number in range(1, 21)]
JOBS = [Job("search", f"d/m/{seed}", {}, "", {}, key) for seed, key in enumerate(KEYS)]


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Stand-ins for SLURM's commands, outside of any SLURM job that the tests run in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.01)
    return Commands(tmp_path / "commands", monkeypatch)


def submitted(*entries, run="run"):
    path = slurm_commands.RECORDS / f"{run}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"job": job, "key": key}) + "\n" for job, key in entries))
    return path


def make(job):
    for output in map(Path, job.outputs):
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch()


# --- the end of a run ---------------------------------------------------------------------------------


def test_a_run_is_cancelled_by_name(commands, capfd):
    commands.write("scancel", "true")
    slurm.cancel("run")
    assert commands.calls("scancel") == [["--name=run"]]
    assert capfd.readouterr().err == ""
    commands.write("scancel", "exit 1")
    slurm.cancel("run")
    says(capfd.readouterr().err, "hlrs: SLURM has not cancelled", "`scancel --name=run`")


# --- why jobs failed ----------------------------------------------------------------------------------


def log(id_, text):
    path = Path(".snakemake/slurm_logs/rule_search/d_m_0", f"{id_}.log")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def stage_log(job, text):
    path = Path("logs", job.stage, job.run, f"{job.key}.log")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


OOM = ("memory", "mem_mb", "search", "set-resources")
LATE = ("time limit", "search", "set-resources")
AT = "CANCELLED AT 2024-03-01T10:20:30"


@pytest.mark.parametrize(
    ("line", "facts"),
    [
        ("slurmstepd: error: Job 7 exceeded memory limit (9012345 > 8388608), being killed", OOM),
        ("slurmstepd: error: Step 7.0 exceeded memory limit (9012345 > 8388608), being killed", OOM),
        (
            "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.batch. Some of your processes may "
            "have been killed by the cgroup out-of-memory handler.",
            OOM,
        ),
        ("srun: error: n1: task 0: Out Of Memory", OOM),
        (f"slurmstepd: error: *** JOB 7 ON n1 {AT} DUE TO TIME LIMIT ***", LATE),
        (f"slurmstepd: error: *** STEP 7.0 ON n1 {AT} DUE TO TIME LIMIT ***", LATE),
        (f"slurmstepd: error: *** JOB 7 ON n1 {AT} ***", ("cancelled",)),
        ("hlrs: d/m/0: the loss is not a number", ("7): d/m/0: the loss is not a number",)),
        ("hlrs: one thing\nhlrs: then another", ("7): then another",)),
    ],
)
def test_the_reason_of_a_failure_is_read_from_the_jobs_log(commands, line, facts):
    submitted(("7", KEYS[0]))
    log("7", f"Building DAG of jobs...\n{line}\nError in rule search:\n")
    [failure] = slurm.failures(JOBS, 0.0)
    for fact in ("search d/m/0 (SLURM job 7): ", *facts):
        assert fact in failure


@pytest.mark.parametrize(
    "earlier", ["PREEMPTION", "JOB REQUEUE", "NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS"]
)
def test_an_interruption_that_the_job_resumed_from_is_not_the_reason(commands, earlier):
    submitted(("7", KEYS[0]))
    log("7", f"slurmstepd: error: *** JOB 7 ON n1 {AT} DUE TO {earlier} ***\nhlrs: the file is truncated\n")
    assert slurm.failures(JOBS, 0.0) == ["search d/m/0 (SLURM job 7): the file is truncated"]


def test_what_an_earlier_process_said_is_not_the_reason(commands):
    """It was interrupted and resumed; the last one crashed without a word."""
    submitted(("7", KEYS[0]))
    path = log("7", "hlrs: d/m/0: interrupted by SIGUSR1\nSegmentation fault\n")
    stage_log(JOBS[0], "hlrs: d/m/0: interrupted by SIGUSR1\nd/m/0  begins on n7 (SLURM job 7)\n")
    assert slurm.failures(JOBS, 0.0) == [f"search d/m/0 (SLURM job 7): see {path}"]


def test_exhausted_gpu_memory_is_not_reported_as_main_memory(commands):
    submitted(("7", KEYS[0]))
    path = log("7", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n")
    [failure] = slurm.failures(JOBS, 0.0)
    assert str(path) in failure
    assert "mem_mb" not in failure


def test_the_stages_own_log_is_read_too(commands):
    submitted(("7", KEYS[0]), ("8", KEYS[1]))
    stage_log(JOBS[0], "epoch 1\nhlrs: no room\n")
    log("8", "hlrs: no data\n")
    stage_log(JOBS[2], "hlrs: another's\n")
    assert slurm.failures(JOBS, 0.0) == [
        "search d/m/0 (SLURM job 7): no room",
        "search d/m/1 (SLURM job 8): no data",
    ]


def test_a_failure_without_a_reason_names_the_log(commands):
    submitted(("7", KEYS[0]), ("8", KEYS[1]))
    path = log("7", "Killed\n")
    logged, unlogged = slurm.failures(JOBS, 0.0)
    assert logged.startswith("search d/m/0 (SLURM job 7): ")
    assert str(path) in logged
    assert unlogged.startswith("search d/m/1 (SLURM job 8): ")
    assert "log" in unlogged


def test_a_tasks_log_is_beside_those_of_its_array(commands):
    submitted(("7_2", KEYS[0]))
    path = Path(".snakemake/slurm_logs/rule_search/7_2.log")
    path.parent.mkdir(parents=True)
    path.write_text("slurmstepd: error: *** JOB 9 ON n1 CANCELLED AT 2024-03-01T10:20:30 ***\n")
    assert slurm.failures(JOBS, 0.0) == ["search d/m/0 (SLURM job 7_2): it was cancelled"]


@pytest.mark.parametrize("chosen", ["elsewhere/logs", "{here}/elsewhere/logs"])
def test_the_reason_is_read_in_the_logs_folder_of_the_profile(commands, tmp_path, capsys, chosen):
    submitted(("7", KEYS[0]))
    path = tmp_path / "elsewhere/logs/rule_search/d_m_0/7.log"
    path.parent.mkdir(parents=True)
    path.write_text("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2024-03-01T10:20:30 ***\n")
    settings = ExecutorSettings(logdir=Path(chosen.format(here=tmp_path)))
    quiet = SimpleNamespace(verbose=True, quiet=None)
    planned = Plan(JOBS, None, started=0.0)
    planned.show(
        SimpleNamespace(executor_settings=settings, workdir_init=str(tmp_path), output_settings=quiet)
    )
    planned.fail()
    assert capsys.readouterr().err == "hlrs: search d/m/0 (SLURM job 7): it was cancelled\n"


def test_finished_foreign_and_earlier_jobs_are_not_reported(commands):
    submitted(("7", KEYS[0]), ("8", "ffffffffffff"))
    make(JOBS[0])
    os.utime(submitted(("6", KEYS[1]), run="earlier"), (1000, 1000))
    assert slurm.failures(JOBS, 2000.0) == []


def test_at_most_ten_failures_are_reported(commands):
    submitted(*((str(100 + i), key) for i, key in enumerate(KEYS[:13])))
    lines = slurm.failures(JOBS, 0.0)
    assert len(lines) == 11
    assert lines[9].startswith("search d/m/9 (SLURM job 109): ")
    assert "3 more" in lines[10]
    submitted(*((str(100 + i), key) for i, key in enumerate(KEYS[:11])))
    assert slurm.failures(JOBS, 0.0)[10:] == ["and 1 more"]
    submitted(*((str(100 + i), key) for i, key in enumerate(KEYS[:10])))
    assert len(slurm.failures(JOBS, 0.0)) == 10


# --- jobs of an earlier snakemake ---------------------------------------------------------------------


def test_queued_lists_the_jobs_of_this_folder_and_these_keys(commands, tmp_path):
    submitted(("9", KEYS[0]), ("10", KEYS[1]), ("11", KEYS[2]), ("12", KEYS[3]))
    lines = [f"10|PENDING|Priority|{tmp_path}", f"9|RUNNING|None|{tmp_path}", f"11|RUNNING|None|{tmp_path}x"]
    lines += [f"12|RUNNING|None|{tmp_path}", f"13|RUNNING|None|{tmp_path}"]
    commands.write("sbatch", "true")
    commands.write("squeue", "\n".join(f"echo '{line}'" for line in lines))
    expected = [Queued("9", "RUNNING", KEYS[0], "None"), Queued("10", "PENDING", KEYS[1], "Priority")]
    assert slurm.queued(KEYS[:3]) == expected
    assert slurm.queued(iter(KEYS[:3])) == expected
    assert f"--user={os.getuid()}" in commands.calls("squeue")[0]


def test_a_notice_of_the_site_in_the_queue_is_no_job(commands, tmp_path):
    submitted(("9", KEYS[0]))
    commands.write("sbatch", "true")
    commands.write("squeue", f"echo; echo 'Maintenance | Monday'; echo '9|RUNNING|None|{tmp_path}'")
    assert slurm.queued(KEYS) == [Queued("9", "RUNNING", KEYS[0], "None")]


def test_queued_lists_each_task_of_an_array(commands, tmp_path):
    submitted(("9_10", KEYS[0]), ("9_2", KEYS[1]), ("9_3", KEYS[2]))
    commands.write("sbatch", "true")
    commands.write("squeue", f"echo '9_10|PENDING|Priority|{tmp_path}'; echo '9_2|RUNNING|None|{tmp_path}'")
    found = [Queued("9_2", "RUNNING", KEYS[1], "None"), Queued("9_10", "PENDING", KEYS[0], "Priority")]
    assert slurm.queued(KEYS) == found
    assert "--array" in commands.calls("squeue")[0]  # else squeue writes 9_[2-10]


@pytest.mark.parametrize(
    ("reasons", "word"),
    [
        # https://slurm.schedmd.com/job_reason_codes.html
        ("JobHeldUser", "scontrol release"),
        ("JobHeldAdmin launch_failed_requeued_held", "your site"),
        ("PartitionTimeLimit QOSMaxWallDurationPerJobLimit AssocMaxWallDurationPerJobLimit", "time_limit"),
        (
            "QOSMaxGRESPerJob QOSMaxMemoryPerNode AssocMaxCpuPerJobLimit QOSMinGRES MaxMemPerLimit",
            "resources",
        ),
        ("BadConstraints PartitionNodeLimit PartitionConfig", "no node"),
        ("AssocGrpCPUMinutesLimit AssocGrpGRESMinutes QOSGrpBillingMinutes", "budget"),
        ("InvalidQOS InvalidAccount QOSNotAllowed AccountNotAllowed", "slurm_account"),
        ("PartitionDown PartitionInactive", "slurm_partition"),
        ("None Priority Resources BeginTime Dependency Licenses Cleaning Prolog ReqNodeNotAvail", None),
        ("QOSMaxJobsPerUserLimit QOSMaxGRESPerUser AssocGrpGRES QOSGrpCpuLimit Reservation", None),
    ],
)
def test_what_keeps_a_job_in_the_queue_for_good_has_a_remedy(reasons, word):
    for reason in reasons.split():
        text = slurm.remedy(reason)
        assert word in text if word else text == "", f"{reason}: {text}"


def test_without_submissions_or_slurm_squeue_is_not_called(commands, monkeypatch):
    commands.write("squeue", "echo '9|RUNNING|None|/'")
    commands.write("sbatch", "true")
    assert slurm.queued(KEYS) == []
    submitted(("9", KEYS[0]))
    (commands.folder / "sbatch").unlink()
    monkeypatch.setenv("PATH", str(commands.folder))
    assert slurm.queued(KEYS) == []
    assert commands.calls("squeue") == []


def test_a_job_of_an_earlier_snakemake_is_waited_for(commands, tmp_path, capsys):
    submitted(("9", KEYS[0]), ("10", KEYS[1]))
    commands.write("sbatch", "true")
    here = f"echo '9|RUNNING|None|{tmp_path}'"
    commands.write(
        "squeue",
        f"[ $n -gt 4 ] || {here}\n[ $n -gt 2 ] || echo '10|PENDING|Priority|{tmp_path}'",
    )
    slurm.wait_for_earlier(JOBS, wait=True)
    assert len(commands.calls("squeue")) == 5
    both, one = capsys.readouterr().err.splitlines()
    for fact in ("9 running: search d/m/0", "10 pending: search d/m/1", "`scancel 9 10`"):
        assert fact in both
    for fact in ("9 running: search d/m/0", "`scancel 9`"):
        assert fact in one


def test_a_dry_run_reports_and_does_not_wait(commands, tmp_path, capsys):
    ids = [str(9 + i) for i in range(5)]
    submitted(*zip(ids, KEYS, strict=False))
    commands.write("sbatch", "true")
    lines = "\n".join(f"echo '{id_}|RUNNING|None|{tmp_path}'" for id_ in ids)
    commands.write("squeue", f"[ $n -lt 9 ] || exit 0\n{lines}")
    slurm.wait_for_earlier(JOBS, wait=False)
    assert len(commands.calls("squeue")) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "(9 running: search d/m/0, 10 running: search d/m/1, 11 running: search d/m/2, 2 more)" in line
    assert "scancel" not in line


def test_a_job_with_a_result_is_not_waited_for(commands, tmp_path, capsys):
    submitted(("9", KEYS[0]))
    make(JOBS[0])
    commands.write("sbatch", "true")
    commands.write("squeue", f"[ $n -gt 9 ] || echo '9|COMPLETING|{tmp_path}'")
    slurm.wait_for_earlier(JOBS, wait=True)
    assert capsys.readouterr().err == ""


def test_nothing_starts_while_squeue_does_not_answer(commands, capsys):
    """The jobs of an earlier snakemake may be running."""
    submitted(("9", KEYS[0]))
    commands.write("sbatch", "true")
    commands.write("squeue", "[ $n -gt 3 ] || exit 1")
    slurm.wait_for_earlier(JOBS, wait=True)
    assert len(commands.calls("squeue")) == 4
    [line] = capsys.readouterr().err.splitlines()
    for fact in ("hlrs: squeue ", "earlier snakemake", str(slurm_commands.RECORDS)):
        assert fact in line


def test_a_dry_run_does_not_wait_for_squeue(commands, capsys):
    submitted(("9", KEYS[0]))
    commands.write("sbatch", "true")
    commands.write("squeue", "[ $n -gt 9 ] || exit 1")
    slurm.wait_for_earlier(JOBS, wait=False)
    assert len(commands.calls("squeue")) == 1
    assert capsys.readouterr().err.startswith("hlrs: squeue ")


def test_the_patient_commands_come_first_in_path_once(commands, monkeypatch, tmp_path):
    folder = tmp_path / "a folder; and 'quotes"
    folder.mkdir()
    monkeypatch.chdir(folder)
    commands.write("squeue", "echo real")
    slurm.install_commands()
    slurm.install_commands()
    path = os.environ["PATH"].split(os.pathsep)
    assert path[0] == str(folder / ".hlrs/bin")
    assert path.count(path[0]) == 1
    assert sorted(p.name for p in Path(".hlrs/bin").iterdir()) == sorted(slurm_commands.TOOLS)
    done = subprocess.run(["squeue", "--me", "a  b"], capture_output=True, text=True, check=True)
    assert (done.stdout, commands.calls("squeue")) == ("real\n", [["--me", "a  b"]])


def test_an_answer_is_the_output_or_none(commands, monkeypatch):
    commands.write("sinfo", "echo yes; echo no >&2; exit $1")
    assert slurm.ask("sinfo", "0") == "yes\n"
    assert slurm.ask("sinfo", "1") is None
    assert slurm.ask("no-such-command-of-slurm") is None
    monkeypatch.setattr(slurm, "ASK_SECONDS", 0.1)
    commands.write("sinfo", "exec sleep 5")
    assert slurm.ask("sinfo") is None
    monkeypatch.setattr(slurm, "ASK_SECONDS", 60.0)
    assert slurm.ask("sinfo", seconds=0.1) is None


# --- in a job -----------------------------------------------------------------------------------------


def job(program, expected=0, **variables):
    """stderr of a process that serves SLURM job 41 and then runs a program."""
    script = (
        f"from hlrs.pipeline import slurm\nimport os, signal, subprocess, sys\nslurm.serve_job()\n{program}"
    )
    environment = {**os.environ, "SLURM_JOB_ID": "41"} | variables
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,  # a job's processes form their own group
    )
    assert done.returncode == expected, done.stderr
    return done.stderr


@pytest.mark.parametrize(("end", "status"), [("", 0), ("sys.exit(75)", 75), ("raise ValueError", 1)])
def test_a_job_is_requeued_once_at_its_end_if_its_stage_requested_it(commands, end, status):
    commands.write("scontrol", "test ! -e .hlrs/requeue/41")
    output = job(f"slurm.request_requeue(); slurm.request_requeue()\n{end}", expected=status)
    assert commands.calls("scontrol") == [["requeue", "41"]]
    [line] = [line for line in output.splitlines() if line.startswith("hlrs: ")]
    assert "SLURM job 41" in line
    assert "requeued" in line
    assert not (REQUESTS / "41").exists()


@pytest.mark.parametrize(
    ("squeue", "requeues"), [("echo 1:30", 0), ("echo 1-00:00:00", 0), ("echo 0:00", 1), ("exit 1", 1)]
)
def test_a_job_that_is_cancelled_after_the_warning_is_not_requeued(commands, squeue, requeues):
    """One that reaches its time limit is terminated in the same way, and resumes."""
    commands.write("squeue", squeue)
    commands.write("scontrol", "true")
    listens = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7));"
    program = (
        f"code = {listens!r} + 'print(flush=True); signal.pause()'\n"
        "stage = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)\n"
        "stage.stdout.readline()\n"
        "slurm.request_requeue()\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"  # as Snakemake's own
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(0 if stage.wait() == 7 else f'stage: {stage.returncode}')"
    )
    job(program, SLURM_STEP_ID="0")
    assert commands.calls("scontrol") == [["requeue", "41"]] * requeues
    assert commands.calls("squeue") == [["--noheader", "--states=all", "--jobs=41", "--format=%L"]]
    assert list(REQUESTS.iterdir()) == []


def test_a_task_of_an_array_is_requeued_alone(commands):
    """`scontrol requeue 41` would requeue every task of array 41."""
    commands.write("scontrol", "true")
    output = job("slurm.request_requeue()", SLURM_ARRAY_JOB_ID="41", SLURM_ARRAY_TASK_ID="3")
    assert commands.calls("scontrol") == [["requeue", "41_3"]]
    assert "SLURM job 41_3 is requeued" in output


def test_a_job_without_a_request_is_not_requeued(commands):
    commands.write("scontrol", "true")
    (REQUESTS / "42").parent.mkdir(parents=True)
    (REQUESTS / "42").write_text("another's\n")
    (REQUESTS / "41").write_text("of an earlier allocation\n")
    assert job("") == ""
    assert commands.calls("scontrol") == []
    assert [path.name for path in REQUESTS.iterdir()] == ["42"]


def test_outside_a_job_nothing_is_requested_or_set_up(commands):
    slurm.request_requeue()
    assert not REQUESTS.exists()
    before = signal.getsignal(signal.SIGUSR1)
    slurm.serve_job()
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_requeue_that_slurm_refuses_is_one_line(commands):
    refusal = "Requested operation is presently disabled\n  for job 41"
    commands.write("scontrol", f"echo '{refusal}' >&2; exit 1")
    [line] = job("slurm.request_requeue()").splitlines()
    reason = "Requested operation is presently disabled for job 41"
    for fact in ("hlrs: SLURM job 41 ", reason, "rerun `snakemake --profile slurm`"):
        assert fact in line


def test_a_requeue_waits_for_the_controller_but_not_for_ever(commands):
    away = 'echo "slurm_requeue error: Unable to contact slurm controller (connect failure)" >&2; exit 1'
    commands.write("scontrol", f"[ $n -gt 2 ] || {{ {away}; }}")
    hurried = "slurm.slurm_commands.PAUSE_SECONDS = 0.01; slurm.request_requeue()"
    assert "SLURM job 41 is requeued" in job(hurried)
    assert commands.calls("scontrol") == 3 * [["requeue", "41"]]
    commands.write("scontrol", away)
    assert "connect failure" in job(f"slurm.ASK_SECONDS = 0.1; {hurried}")


def test_a_missing_scontrol_is_one_line(commands):
    [line] = job("slurm.request_requeue()", PATH=str(commands.folder)).splitlines()
    for fact in ("hlrs: SLURM job 41 ", "scontrol", "rerun `snakemake --profile slurm`"):
        assert fact in line


def test_the_warning_does_not_end_the_job_and_its_children_do_not_ignore_it(commands):
    commands.write("scontrol", "true")
    job(
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
        "child = subprocess.run([sys.executable, '-c', "
        "'import os, signal; os.kill(os.getpid(), signal.SIGUSR1); signal.pause()'])\n"
        "sys.exit(0 if child.returncode == -signal.SIGUSR1 else f'child: {child.returncode}')"
    )


def test_a_starting_stage_gets_the_warning_once_it_listens(commands):
    commands.write("scontrol", "true")
    listen = "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7)); print(flush=True); signal.pause()"
    starting = f"import signal, sys\ninput()\n{listen}"
    program = (
        "def child(code):\n"
        "    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)\n"
        "    return subprocess.Popen([sys.executable, '-c', code], **pipes)\n"
        "handler = signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"  # as the rule's shell has it
        f"stage, witness = child({starting!r}), child({'import signal, sys;' + listen!r})\n"
        "signal.signal(signal.SIGUSR1, handler)\n"
        "witness.stdout.readline()\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
        "assert witness.wait() == 7\n"  # the first warning was sent
        "stage.communicate('\\n')\n"
        "sys.exit(0 if stage.returncode == 7 else f'stage: {stage.returncode}')"
    )
    job(program, SLURM_STEP_ID="0")


def test_sigterm_waits_for_the_scheduler_outside_of_the_thread_that_it_interrupts():
    """Snakemake holds the lock while it waits for the files of a job, in the main thread."""
    lock, ended = threading.Lock(), threading.Event()

    def exit_gracefully():
        with lock:
            ended.set()

    before = signal.getsignal(signal.SIGTERM)
    try:
        end_on_sigterm(SimpleNamespace(scheduler=SimpleNamespace(exit_gracefully=exit_gracefully)))
        with lock:
            os.kill(os.getpid(), signal.SIGTERM)
            assert not ended.is_set()
        assert ended.wait(60)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_python_with_braces_in_its_path_is_run(monkeypatch):
    """Snakemake formats the commands of rules."""
    monkeypatch.setattr(sys, "executable", "/home/{team}/a venv/bin/python")
    assert Plan([], None).python.format() == "'/home/{team}/a venv/bin/python'"
