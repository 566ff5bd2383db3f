"""The squeue, sacct and sbatch that the executor calls, wrapped around stand-ins for SLURM's own."""

import base64
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from hlrs.artifacts.files import write_text
from hlrs.pipeline import slurm, slurm_commands
from tests.standins import Commands

RUN = "0b5a0b3c-7a0c-4f57-9d9e-2f8f5f0a6a11"
KEY, OTHER = "0123456789ab", "ba9876543210"
SQUEUE = ("squeue", "--format=%i|%T", "--states=all", "--noheader", "--name", RUN)
SACCT = ("sacct", "-X", "--parsable2", "--noheader", "--format=JobIdRaw,State", "--name", RUN)
COMMENT = f"rule_search_wildcards_digits_hlrs_0_{KEY}"
SBATCH = ("sbatch", "--parsable", "--job-name", RUN, "--comment", COMMENT, "--wrap=true")
UNREACHABLE = 'echo "sacct: error: Problem talking to the database: Connection refused" >&2; exit 1'
DISABLED = 'echo "Slurm accounting storage is disabled" >&2; exit 1'
AWAY = 'echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2; exit 1'
SENT_AWAY = (
    'echo "sbatch: error: Batch job submission failed: Unable to contact slurm controller" >&2; exit 1'
)
HURRIED = (
    "import sys; from hlrs.pipeline import slurm_commands as p\n"
    "p.PAUSE_SECONDS, p.STATUS_SECONDS, p.SUBMIT_SECONDS, p.CALL_SECONDS = 0.02, {0}, {0}, {1}\n"
    "sys.exit(p.main())"
)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Commands(tmp_path / "commands", monkeypatch)


def call(*arguments, text=None):
    """Exit status, stdout and stderr of the wrapper, as the executor calls it."""
    command = [sys.executable, "-I", slurm_commands.__file__, *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def hurried(*arguments, seconds=20.0, call_seconds=20.0):
    """The same, with pauses of hundredths of a second and other deadlines."""
    command = [sys.executable, "-c", HURRIED.format(seconds, call_seconds), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def submitted(*entries, run=RUN):
    """Write the record of a Snakemake run that submitted these (job, key) pairs."""
    path = slurm_commands.RECORDS / f"{run}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"job": job, "key": key}) + "\n" for job, key in entries))
    return path


def make(key):
    path = Path("results/search/digits/hlrs/0", key, "provenance.json")
    path.parent.mkdir(parents=True)
    path.write_text("{}")


# --- other calls --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", slurm_commands.TOOLS)
@pytest.mark.parametrize("arguments", [["--version"], [], ["--name", "a job; ls", "two  words", "*"]])
def test_other_calls_are_passed_through_unchanged(commands, tool, arguments):
    commands.write(tool, "cat; echo answer; echo complaint >&2; exit 7")
    assert call(tool, *arguments, text="input\n") == (7, "input\nanswer\n", "complaint\n")
    assert commands.calls(tool) == [arguments]


def test_a_wrapper_does_not_call_itself(commands, tmp_path, monkeypatch):
    commands.write("squeue", "echo real")
    wrapper = tmp_path / ".hlrs/bin/squeue"
    wrapper.parent.mkdir(parents=True)
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -I {slurm_commands.__file__} squeue "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(wrapper.parent), prepend=":")
    done = subprocess.run(["squeue", "--me"], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, commands.calls("squeue")) == ("real\n", [["--me"]])


def test_a_missing_command_is_one_line(commands, monkeypatch):
    monkeypatch.setenv("PATH", str(commands.folder))
    status, output, complaint = call(*SQUEUE)
    assert (status, output, complaint.count("\n")) == (1, "", 1)
    assert complaint.startswith("squeue: ")


# --- states -------------------------------------------------------------------------------------------


def test_states_are_passed_on_as_slurm_reports_them(commands):
    commands.write("squeue", "echo '7|RUNNING'; echo '8|PENDING'; echo '9|TIMEOUT'")
    assert call(*SQUEUE) == (0, "7|RUNNING\n8|PENDING\n9|TIMEOUT\n", "")
    assert commands.calls("squeue") == [["--array", *SQUEUE[1:]]]
    commands.write("squeue", "true")
    commands.write("sacct", "echo '7|CANCELLED by 1000'; echo '8|OUT_OF_MEMORY'")
    assert call(*SACCT) == (0, "7|CANCELLED\n8|OUT_OF_MEMORY\n", "")  # the executor knows only CANCELLED
    by_task = ["-X", "--parsable2", "--noheader", "--format=JobID,State", "--name", RUN]
    assert commands.calls("sacct") == [by_task]


@pytest.mark.parametrize("query", [SQUEUE, SACCT])
def test_a_query_that_fails_twice_is_retried(commands, query):
    commands.write("squeue", AWAY)
    commands.write(query[0], f"[ $n -gt 2 ] || {{ {AWAY}; }}; echo '7|RUNNING'")
    assert hurried(*query) == (0, "7|RUNNING\n", "")
    assert len(commands.calls(query[0])) == 3


def test_a_query_that_keeps_failing_returns_its_status(commands):
    commands.write("squeue", AWAY.replace("exit 1", "exit 3"))
    started = time.monotonic()
    status, output, complaint = hurried(*SQUEUE, seconds=0.5)
    assert (status, output) == (3, "")
    assert complaint == "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
    assert time.monotonic() - started > 0.5
    assert len(commands.calls("squeue")) > 1


def test_submitted_jobs_are_pending_until_a_query_succeeds(commands):
    """The executor asks no more for jobs of which it heard nothing in fifty queries, and waits for ever."""
    commands.write("squeue", AWAY)
    submitted(("7", KEY), ("8_1", OTHER))
    assert hurried(*SQUEUE, seconds=0.1)[:2] == (0, "7|PENDING\n8_1|PENDING\n")


def test_a_hanging_query_is_killed_and_retried(commands):
    commands.write("squeue", "[ $n -gt 1 ] || exec sleep 50; echo '7|RUNNING'")
    assert hurried(*SQUEUE, call_seconds=1.0) == (0, "7|RUNNING\n", "")


def test_the_real_deadlines_are_shorter_than_the_executors():
    """It gives up on a query after 60 seconds; a query may begin just before the deadline."""
    assert slurm_commands.STATUS_SECONDS < 60
    assert slurm_commands.CALL_SECONDS + slurm_commands.PAUSE_SECONDS < slurm_commands.STATUS_SECONDS


@pytest.mark.parametrize("complaint", [DISABLED, UNREACHABLE])
def test_squeue_answers_if_accounting_does_not(commands, complaint):
    commands.write("sacct", complaint)
    commands.write("squeue", "echo '7|RUNNING'")
    submitted(("7", KEY), ("8", OTHER))
    assert call(*SACCT) == (0, "7|RUNNING\n8|FAILED\n", "")
    assert len(commands.calls("sacct")) == 1
    assert commands.calls("squeue") == [["--array", *SQUEUE[1:]]]


def test_squeue_answers_where_sacct_is_not_installed(commands, tmp_path, monkeypatch):
    """The executor finds our sacct, and prefers it where MinJobAge is short."""
    commands.write("squeue", "echo '7|RUNNING'")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sh", "wc"):
        (programs / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, (commands.folder, programs))))
    submitted(("7", KEY), ("8", OTHER))
    assert call(*SACCT) == (0, "7|RUNNING\n8|FAILED\n", "")


def test_a_job_that_squeue_forgot_is_judged_by_its_result(commands):
    commands.write("squeue", "echo '7|RUNNING'")
    submitted(("6", KEY), ("7", "777777777777"), ("8", OTHER))
    make(KEY)
    assert call(*SQUEUE) == (0, "7|RUNNING\n6|COMPLETED\n8|FAILED\n", "")


def test_each_task_of_an_array_has_a_state_of_its_own(commands):
    commands.write("squeue", "echo '7_1|RUNNING'; echo '7_3|PENDING'")
    submitted(("7_1", KEY), ("7_2", KEY), ("7_3", OTHER), ("7_4", OTHER))
    make(KEY)
    assert call(*SQUEUE) == (0, "7_1|RUNNING\n7_3|PENDING\n7_2|COMPLETED\n7_4|FAILED\n", "")


def test_a_record_outside_of_results_is_ignored(commands):
    commands.write("squeue", "true")
    submitted(("6", KEY))
    aside = Path("results/.hlrs/aside/results/search/digits/hlrs/0", KEY, "provenance.json")
    aside.parent.mkdir(parents=True)
    aside.write_text("{}")
    assert call(*SQUEUE)[1] == "6|FAILED\n"


def test_jobs_of_another_snakemake_are_ignored(commands):
    commands.write("squeue", "true")
    submitted(("6", KEY), run="another")
    assert call(*SQUEUE) == (0, "", "")


def test_a_job_unknown_to_accounting_is_found_in_the_queue(commands):
    commands.write("sacct", "echo '7|RUNNING'")
    commands.write("squeue", "echo '7|RUNNING'; echo '8|PENDING'")
    submitted(("7", KEY), ("8", OTHER))
    assert call(*SACCT)[1] == "7|RUNNING\n8|PENDING\n"
    commands.write("squeue", AWAY)
    assert call(*SACCT)[1] == "7|RUNNING\n"  # an unknown state is not invented


@pytest.mark.parametrize("state", ["PREEMPTED", "NODE_FAIL", "REQUEUED", "CANCELLED by 0"])
def test_a_requeued_job_is_pending_whatever_accounting_says(commands, state):
    """SLURM 22.05: PREEMPTED until the job's begin time, two minutes; `scontrol requeue` then fails."""
    commands.write("sacct", f"echo '7|{state}'")
    commands.write("squeue", "echo '7|PENDING'")
    assert call(*SACCT) == (0, "7|PENDING\n", "")


@pytest.mark.parametrize(
    "state", ["RUNNING", "PENDING", "SUSPENDED", "RESIZING", "PREEMPTED", "NODE_FAIL", "REQUEUED", None]
)
def test_a_job_whose_end_accounting_missed_is_judged_by_its_result(commands, state):
    """The controller was killed before it reported to slurmdbd, and forgot the job."""
    commands.write("sacct", f"echo '6|{state}'; echo '7|{state}'" if state else "true")
    commands.write("squeue", "true")
    submitted(("6", KEY), ("7", OTHER))
    make(KEY)
    assert call(*SACCT) == (0, "6|COMPLETED\n7|FAILED\n", "")


def test_an_end_known_to_accounting_is_passed_on(commands):
    commands.write("sacct", "echo '6|TIMEOUT'; echo '7|COMPLETED'")
    commands.write("squeue", "true")
    submitted(("6", KEY), ("7", OTHER))
    make(KEY)
    assert call(*SACCT) == (0, "6|TIMEOUT\n7|COMPLETED\n", "")


def test_a_job_submitted_during_the_query_is_not_reported(commands):
    record = submitted(("7", KEY))
    new = json.dumps({"job": "8", "key": OTHER})
    commands.write("squeue", f"echo '{new}' >> {record}; echo '7|RUNNING'")
    assert call(*SQUEUE)[1] == "7|RUNNING\n"
    commands.write("squeue", "echo '7|RUNNING'")
    assert call(*SQUEUE)[1] == "7|RUNNING\n8|FAILED\n"


def test_a_truncated_line_is_skipped(commands):
    path = submitted(("6", KEY), ("7", OTHER))
    path.write_text(path.read_text() + '{"job": "8", "k')
    commands.write("squeue", "echo '7|RUNNING'")
    assert call(*SQUEUE) == (0, "7|RUNNING\n6|FAILED\n", "")
    assert slurm_commands.submissions(Path()) == [("6", KEY), ("7", OTHER)]


def test_a_submission_after_a_truncated_line_is_kept(commands):
    path = submitted(("6", KEY))
    path.write_text(path.read_text() + '{"job": "7", "k')
    commands.write("sbatch", "echo 8")
    call(*SBATCH)
    assert slurm_commands.submissions(Path()) == [("6", KEY), ("8", KEY)]


@pytest.mark.parametrize("state", ["PREEMPTED", "NODE_FAIL"])
@pytest.mark.parametrize("query", [SQUEUE, SACCT])
def test_an_interrupted_job_is_requeued(commands, query, state):
    commands.write("squeue", AWAY)
    commands.write(query[0], f"echo '7|{state}'; echo '8|RUNNING'")
    commands.write("scontrol", "true")
    assert call(*query)[1] == "7|PENDING\n8|RUNNING\n"
    assert commands.calls("scontrol") == [["requeue", "7"]]


@pytest.mark.parametrize("state", ["PREEMPTED", "NODE_FAIL"])
def test_an_interrupted_job_that_slurm_does_not_requeue_has_failed(commands, state):
    commands.write("squeue", f"echo '7|{state}'")
    commands.write("scontrol", "echo 'Requested operation is presently disabled for job 7' >&2; exit 1")
    assert call(*SQUEUE) == (0, "7|FAILED\n", "")


def test_a_requeue_is_retried_when_the_controller_is_back(commands):
    commands.write("squeue", "echo '7|NODE_FAIL'")
    commands.write("scontrol", AWAY)
    assert call(*SQUEUE) == (0, "7|PENDING\n", "")
    commands.write("scontrol", "true")
    assert call(*SQUEUE) == (0, "7|PENDING\n", "")
    assert commands.calls("scontrol") == [["requeue", "7"]] * 2


# --- submissions --------------------------------------------------------------------------------------


def test_a_submission_is_recorded_with_its_key(commands):
    commands.write("sbatch", "echo 7")
    assert call(*SBATCH) == (0, "7\n", "")
    assert commands.calls("sbatch") == [list(SBATCH[1:])]
    assert slurm_commands.submissions(Path()) == [("7", KEY)]
    assert [path.name for path in slurm_commands.RECORDS.iterdir()] == [f"{RUN}.jsonl"]


@pytest.mark.parametrize("answer", ["7", "7;alps"])
def test_a_submission_is_found_among_a_sites_notices(commands, answer):
    """The executor takes any number for the job's, and refuses two."""
    notices = "echo 'Your project has used 12 of 400 GPU hours'"
    commands.write("sbatch", f"{notices}; echo '{answer}'; echo; {notices}; echo 'sbatch: note 3' >&2")
    assert call(*SBATCH) == (0, f"{answer}\n", "sbatch: note 3\n")
    assert slurm_commands.submissions(Path()) == [("7", KEY)]


def test_a_submission_to_a_named_cluster_is_recorded_by_its_number(commands):
    commands.write("sbatch", "echo '7;a_cluster'")
    assert call(*SBATCH) == (0, "7;a_cluster\n", "")
    assert slurm_commands.submissions(Path()) == [("7", KEY)]


@pytest.mark.parametrize(
    "complaint",
    [
        "Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "Batch job submission failed: Socket timed out on send/recv operation",
        "Batch job submission failed: Slurm backup controller in standby mode",
        "Slurm temporarily unable to accept job, sleeping and retrying",
        "Batch job submission failed: Zero Bytes were transmitted or received",
    ],
)
def test_a_submission_waits_for_the_controller(commands, complaint):
    commands.write("sbatch", f"[ $n -gt 2 ] || {{ echo 'sbatch: error: {complaint}' >&2; exit 1; }}; echo 7")
    commands.write("squeue", "true")
    assert hurried(*SBATCH) == (0, "7\n", "")
    assert commands.calls("sbatch") == [list(SBATCH[1:])] * 3
    assert slurm_commands.submissions(Path()) == [("7", KEY)]


@pytest.mark.parametrize(
    "complaint",
    [
        "Batch job submission failed: Invalid account or account/partition combination specified",
        "invalid partition specified: gpus",
        "Batch job submission failed: Requested node configuration is not available",
        "Memory specification can not be satisfied",
    ],
)
def test_a_submission_that_slurm_refuses_is_not_retried(commands, complaint):
    commands.write("sbatch", f"echo 'sbatch: error: {complaint}' >&2; exit 1")
    assert call(*SBATCH) == (1, "", f"sbatch: error: {complaint}\n")
    assert len(commands.calls("sbatch")) == 1
    assert slurm_commands.submissions(Path()) == []


def test_a_submission_gives_up_eventually(commands):
    commands.write("sbatch", SENT_AWAY)
    commands.write("squeue", "true")
    status, output, complaint = hurried(*SBATCH, seconds=0.3)
    assert (status, output) == (1, "")
    assert "Unable to contact slurm controller" in complaint
    assert slurm_commands.submissions(Path()) == []


def test_a_submission_whose_answer_was_lost_is_not_sent_twice(commands):
    commands.write("sbatch", SENT_AWAY)
    commands.write("squeue", f"echo '6|rule_search_wildcards_digits_hlrs_1_{KEY}'; echo '7|{COMMENT}'")
    assert hurried(*SBATCH) == (0, "7\n", "")
    assert len(commands.calls("sbatch")) == 1
    [arguments] = commands.calls("squeue")
    assert {f"--name={RUN}", "--states=all", "--noheader"} <= set(arguments)
    assert slurm_commands.submissions(Path()) == [("7", KEY)]


def test_nothing_is_resent_before_squeue_answers(commands):
    """The controller accepted the job, then died before it could say so."""
    commands.write("sbatch", SENT_AWAY)
    commands.write("squeue", f"[ $n -gt 2 ] || {{ {AWAY}; }}; echo '7|{COMMENT}'")
    assert hurried(*SBATCH) == (0, "7\n", "")
    assert len(commands.calls("sbatch")) == 1


def test_the_script_is_sent_with_every_attempt(commands):
    commands.write("sbatch", f"cat >> sent; [ $n -gt 1 ] || {{ {SENT_AWAY}; }}; echo 7")
    commands.write("squeue", "true")
    command = [sys.executable, "-c", HURRIED.format(20, 20), *SBATCH, "/dev/stdin"]
    done = subprocess.run(command, input="#!/bin/sh\ntrue\n", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "7\n")
    assert Path("sent").read_text() == "#!/bin/sh\ntrue\n" * 2


def test_concurrent_submissions_are_all_recorded(commands):
    commands.write("sbatch", "echo $n")
    command = [sys.executable, "-I", slurm_commands.__file__, *SBATCH]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    ids = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert sorted(slurm_commands.submissions(Path())) == sorted((job, KEY) for job in ids)


def test_submissions_are_those_of_active_snakemake_runs(commands):
    submitted(("6", KEY), run="old")
    os.utime(slurm_commands.RECORDS / "old.jsonl", (1000, 1000))
    submitted(("7", OTHER))
    assert slurm_commands.submissions(Path()) == [("7", OTHER), ("6", KEY)]
    assert slurm_commands.submissions(Path(), since=2000) == [("7", OTHER)]
    assert slurm_commands.submissions(Path("nowhere")) == []


@pytest.mark.parametrize(
    ("stage", "added"),
    [("search", ["--signal=USR1@120", "--open-mode=append"]), ("evaluate", [])],
)
def test_jobs_that_resume_are_warned_and_append_whatever_a_profile_adds(commands, stage, added):
    """Before its `slurm_extra`, so that sbatch, which takes the last of equal options, obeys that."""
    write_text(slurm_commands.SPECS / f"{KEY}.json", json.dumps({"stage": stage}))
    commands.write("sbatch", "echo 7")
    assert call(*SBATCH, "--exclude=n7")[0] == 0
    assert commands.calls("sbatch") == [[*added, *SBATCH[1:], "--exclude=n7"]]


def test_the_warning_is_the_signal_at_which_a_stage_saves():
    assert slurm_commands.RESUMING[0] == f"--signal={slurm.WARNING.name.removeprefix('SIG')}@120"


def test_a_slow_submission_is_waited_for(commands):
    """A query is killed after CALL_SECONDS; of a submission SLURM may make a job nevertheless."""
    commands.write("sbatch", "sleep 1; echo 7")
    assert hurried(*SBATCH, call_seconds=0.1) == (0, "7\n", "")
    assert len(commands.calls("sbatch")) == 1


def test_a_submission_is_recorded_although_its_terminal_closes(commands):
    commands.write("sbatch", "kill -INT 0; kill -HUP 0; echo 7")
    command = [sys.executable, "-I", slurm_commands.__file__, *SBATCH]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, start_new_session=True)
    assert (done.returncode, done.stdout) == (0, "7\n")
    assert slurm_commands.submissions(Path()) == [("7", KEY)]


def test_a_repeated_attempt_is_not_taken_for_the_first(commands):
    """Snakemake's --retries submits a failed job once more with the same comment."""
    submitted(("6", KEY))
    commands.write("sbatch", f"[ $n -gt 1 ] || {{ {SENT_AWAY}; }}; echo 7")
    commands.write("squeue", f"echo '6|{COMMENT}'")
    assert hurried(*SBATCH) == (0, "7\n", "")
    assert slurm_commands.submissions(Path()) == [("6", KEY), ("7", KEY)]


def stop(run=RUN):
    slurm_commands.RECORDS.mkdir(parents=True, exist_ok=True)
    slurm_commands.stopped(run).touch()
    return slurm_commands.stopped(run)


def test_nothing_is_submitted_once_snakemake_is_stopped(commands):
    commands.write("sbatch", "echo 7")
    stop()
    status, output, complaint = call(*SBATCH)
    assert (status, output, complaint.count("\n")) == (1, "", 1)
    assert commands.calls("sbatch") == []


def test_a_submission_waits_for_no_controller_once_snakemake_is_stopped(commands):
    stop().rename("later")
    commands.write("sbatch", f"mv later {slurm_commands.stopped(RUN)}; {SENT_AWAY}")
    commands.write("squeue", "true")
    assert hurried(*SBATCH, seconds=600)[0] == 1
    assert len(commands.calls("sbatch")) == 1


def test_a_submission_waits_for_no_controller_without_its_snakemake(commands):
    commands.write("sbatch", f"kill -KILL $(cut -d ' ' -f 4 /proc/$PPID/stat); {SENT_AWAY}")
    commands.write("squeue", "true")
    wrapper = shlex.join([sys.executable, "-c", HURRIED.format(20, 20), *SBATCH])
    subprocess.run(["sh", "-c", f"{wrapper}; true"], capture_output=True, timeout=60)  # in snakemake's place
    assert len(commands.calls("sbatch")) == 1


def test_what_is_submitted_while_snakemake_is_stopped_is_cancelled(commands):
    stop().rename("later")
    commands.write("sbatch", f"mv later {slurm_commands.stopped(RUN)}; echo '7;alps'")
    commands.write("scancel", "true")
    assert call(*SBATCH)[:2] == (0, "7;alps\n")
    assert commands.calls("scancel") == [["7"]]
    assert slurm_commands.submissions(Path()) == [("7", KEY)]


# --- arrays: as the executor submits them (2.8, run_array_jobs) ---------------------------------------


def command_of(key):
    return f"echo --target-jobs 'search:dataset=digits,method=hlrs,seed=0,key={key}'"


def others(**keys):
    """The commands of the tasks after the first."""
    codes = {index[1:]: zlib.compress(command_of(key).encode(), level=9).hex() for index, key in keys.items()}
    return base64.b64encode(json.dumps(codes).encode()).decode()


FURTHER = others(_5=OTHER, _6="666666666666")
WRAPPED = (f"--wrap={command_of(KEY)} --slurm-jobstep-array-execs={FURTHER}",)
SCRIPT = f"#!/bin/sh\n{command_of(KEY)}\n--slurm-jobstep-array-execs\n{FURTHER}"


@pytest.mark.parametrize(("last", "text"), [(WRAPPED, None), (("/dev/stdin",), SCRIPT)])
def test_each_task_of_an_array_runs_its_own_command_and_is_recorded_with_its_key(commands, last, text):
    commands.write("sbatch", "cat > script; echo 7")
    status, output, complaint = call(*SBATCH[:-1], "--array=4-6", *last, text=text)
    assert (status, output, complaint) == (0, "7\n", "")
    [arguments] = commands.calls("sbatch")
    assert arguments == [*SBATCH[1:-1], "--array=4-6", f"--comment={COMMENT}_and_2_more", "/dev/stdin"]
    keys = {"4": KEY, "5": OTHER, "6": "666666666666"}
    for task, key in keys.items():
        ran = subprocess.run(
            ["sh", "script"], env={"SLURM_ARRAY_TASK_ID": task}, capture_output=True, text=True
        )
        assert ran.stdout == f"--target-jobs search:dataset=digits,method=hlrs,seed=0,key={key}\n"
    assert slurm_commands.submissions(Path()) == [(f"7_{task}", key) for task, key in keys.items()]


def test_an_array_of_another_form_is_passed_through(commands):
    commands.write("sbatch", "echo 7")
    assert call(*SBATCH, "--array=1-3") == (0, "7\n", "")
    assert commands.calls("sbatch") == [[*SBATCH[1:], "--array=1-3"]]
    assert slurm_commands.submissions(Path()) == []  # whose job 7 squeue would never list


def test_a_task_ends_with_the_status_of_its_command(commands):
    commands.write("sbatch", "cat > script; echo 7")
    wrapped = f"--wrap=exit 75 --slurm-jobstep-array-execs={FURTHER}"
    call(*SBATCH[:-1], "--array=4-6", wrapped)
    assert subprocess.run(["sh", "script"], env={"SLURM_ARRAY_TASK_ID": "4"}).returncode == 75


def test_an_array_whose_answer_was_lost_is_not_sent_twice(commands):
    commands.write("sbatch", SENT_AWAY)
    commands.write("squeue", f"echo '7|{COMMENT}_and_2_more'; echo '7|{COMMENT}_and_2_more'")
    assert hurried(*SBATCH[:-1], "--array=4-6", *WRAPPED) == (0, "7\n", "")
    assert len(commands.calls("sbatch")) == 1
    assert "--format=%F|%k" in commands.calls("squeue")[0]  # the array's number, not a task's
    assert [job for job, _ in slurm_commands.submissions(Path())] == ["7_4", "7_5", "7_6"]
