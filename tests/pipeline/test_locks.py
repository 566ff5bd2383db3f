"""One writer per key: holding, waiting for, and taking over a lease; one workflow per folder."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hlrs.artifacts.files import write_text
from hlrs.artifacts.jobs import Job
from hlrs.config.params import load
from hlrs.errors import INTERRUPTED, Failure
from hlrs.pipeline import locks
from hlrs.pipeline.locks import LEASES, lease
from hlrs.pipeline.plan import plan
from tests.conftest import FORK, REPOSITORY, edit, hlrs, outputs, record, start

JOB = Job("search", "d/m/0", {}, "", {}, "0123456789ab")
PATH = LEASES / "0123456789ab.json"
DEADLINE = 60.0


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """Beat every 20 ms; DEAD_SECONDS leaves a live holder time, even on a loaded machine."""
    monkeypatch.chdir(tmp_path)
    for name, seconds in (("BEAT", 0.02), ("DEAD", 5.0), ("POLL", 0.01), ("PATIENCE", DEADLINE)):
        monkeypatch.setattr(locks, f"{name}_SECONDS", seconds)


@pytest.fixture
def soon_dead(monkeypatch):
    """Presume dead after 0.3 s, for tests without a live holder."""
    monkeypatch.setattr(locks, "DEAD_SECONDS", 0.3)


def facts():
    return json.loads(PATH.read_text())


def until(condition):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def hold(folder, beat_seconds, release):
    """Hold the lease in another process until `release` exists; its exit status shows whether it lost it."""
    os.chdir(folder)
    locks.BEAT_SECONDS = beat_seconds
    with lease(JOB):
        Path("held").touch()
        until(lambda: Path(release).exists())


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lease and beats."""
    process = FORK.Process(target=hold, args=(str(tmp_path), 0.02, "release"))
    process.start()
    until(Path("held").exists)
    yield process
    process.kill()
    process.join()


def elsewhere(**changes):
    """Write a lease of another machine, as a shared file system shows it."""
    PATH.parent.mkdir(parents=True, exist_ok=True)
    body = {
        "token": "other",
        "beat": 0,
        "host": "n7",
        "slurm_job": "41",
        "pid": 1,
        "machine": "m",
        "born": "1",
    }
    write_text(PATH, json.dumps(body | changes))  # whole, as a beat is


def test_the_lease_is_held_in_the_body_and_released_after_it():
    with lease(JOB) as waited:
        assert not waited
        first = facts()
        assert (first["pid"], first["slurm_job"]) == (os.getpid(), os.environ.get("SLURM_JOB_ID"))
        until(lambda: facts()["beat"] >= 3)
        assert facts() == {**first, "beat": facts()["beat"]}
    assert list(LEASES.iterdir()) == []


def test_the_lease_is_released_when_the_body_fails():
    with pytest.raises(Failure, match="broken"), lease(JOB):
        raise Failure("broken")
    assert list(LEASES.iterdir()) == []


def test_a_live_holder_is_waited_for(holder, capsys):
    threading.Timer(0.1, Path("release").touch).start()
    with lease(JOB) as waited:
        assert waited
        assert facts()["pid"] == os.getpid()
    holder.join()
    assert holder.exitcode == 0
    assert f"d/m/0  waiting for process {holder.pid} on " in capsys.readouterr().err


def test_waiting_too_long_for_a_live_holder_fails_and_names_it(holder, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.3)
    with pytest.raises(Failure) as caught, lease(JOB):
        pass
    assert f"{JOB.directory}: " in str(caught.value)
    assert f"process {holder.pid} on " in str(caught.value)
    assert "stop it" in str(caught.value)
    assert facts()["pid"] == holder.pid


def test_a_killed_holder_on_this_machine_is_dead_at_once(holder, monkeypatch):
    monkeypatch.setattr(locks, "DEAD_SECONDS", 1e9)
    holder.kill()
    holder.join()
    assert PATH.exists()
    with lease(JOB) as waited:
        assert waited


def test_a_zombie_holder_is_dead(monkeypatch):
    """As in a container whose init process does not reap."""
    monkeypatch.setattr(locks, "DEAD_SECONDS", 1e9)
    PATH.parent.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        locks.create(PATH, "other")
        os._exit(0)
    until(lambda: Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    with lease(JOB) as waited:
        assert waited
    os.waitpid(child, 0)


def test_a_later_process_with_the_same_id_is_not_the_holder(monkeypatch):
    monkeypatch.setattr(locks, "DEAD_SECONDS", 1e9)
    own = locks._process(os.getpid())
    elsewhere(**{**own, "born": "1"})
    with lease(JOB):
        assert facts()["token"] != "other"


@pytest.mark.parametrize("content", ["{", "[]", '"x"', ""])
def test_an_incomplete_lease_is_taken_over(content, soon_dead):
    PATH.parent.mkdir(parents=True)
    PATH.write_text(content)
    with lease(JOB):
        assert facts()["pid"] == os.getpid()


def test_a_remote_holder_is_dead_once_its_beat_stops(soon_dead):
    elsewhere()
    began = time.monotonic()
    with lease(JOB) as waited:
        assert waited
        assert time.monotonic() - began >= locks.DEAD_SECONDS
        assert facts()["pid"] == os.getpid()
    assert list(LEASES.iterdir()) == []


def test_a_remote_holder_lives_while_it_beats_whatever_the_clocks_show(monkeypatch):
    monkeypatch.setattr(locks, "DEAD_SECONDS", 1.0)
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 2.5)
    stop = threading.Event()

    def beat():
        count = 0
        while not stop.wait(0.02):
            count += 1
            elsewhere(beat=count)
            os.utime(PATH, (0, 0))  # an mtime of 1970

    thread = threading.Thread(target=beat)
    elsewhere()
    thread.start()
    try:
        with pytest.raises(Failure, match=r"process 1 on n7 \(SLURM job 41\)"), lease(JOB):
            pass
    finally:
        stop.set()
        thread.join()


def test_a_frozen_holder_that_was_presumed_dead_exits_when_it_wakes(holder, soon_dead):
    os.kill(holder.pid, signal.SIGSTOP)
    frozen = PATH.read_bytes()
    PATH.write_bytes(frozen.replace(facts()["machine"].encode(), b"another"))  # as seen from elsewhere
    with lease(JOB):
        taken = facts()
        os.kill(holder.pid, signal.SIGCONT)
        holder.join()
        assert holder.exitcode == INTERRUPTED
        assert facts()["token"] == taken["token"]


def test_a_dead_holders_lease_has_one_new_holder_at_a_time(monkeypatch):
    monkeypatch.setattr(locks, "DEAD_SECONDS", 2.0)
    elsewhere()
    inside, most = [], []

    def contend(number):
        with lease(JOB):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.02)
            inside.remove(number)

    threads = [threading.Thread(target=contend, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8
    assert list(LEASES.iterdir()) == []


def test_two_commands_for_one_result_train_it_once(workspace):
    """The second waits for the first, then finds its result."""
    run = "digits/darts/0"
    edit(workspace / "params.yaml", **{"search.epochs": 20})  # long enough for the second to find it running
    assert hlrs(workspace, "split", "digits")[0] == 0
    first = start(workspace, "search", run, log="first")
    until(lambda: list((workspace / LEASES).glob("*.json")))
    second = start(workspace, "search", run, log="second")
    for process in (first, second):
        process.join()
        assert process.exitcode == 0
    assert "waiting for process" in (workspace / "second").read_text()
    assert "epoch 20/20" in (workspace / "first").read_text()
    assert "epoch" not in (workspace / "second").read_text()
    assert record(workspace, "search", run)["resumes"] == 0
    assert len(outputs(workspace, "search")) == 3
    assert not list((workspace / LEASES).iterdir())


def test_slurms_warning_while_waiting_for_the_lease_requeues_the_job(workspace):
    assert hlrs(workspace, "split", "digits")[0] == 0
    job = next(job for job in plan(load(Path("params.yaml"))) if job.stage == "search")
    path = LEASES / f"{job.key}.json"
    body = {"token": "other", "beat": 0, "host": "n7", "pid": 1, "machine": "m", "born": "1"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body))
    with Path("output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "hlrs", "search", job.run],
            env={**os.environ, "SLURM_JOB_ID": "7", "PYTHONPATH": str(REPOSITORY)},
            stdout=output,
            stderr=output,
        )
    until(lambda: "waiting for process 1 on n7" in Path("output").read_text())
    process.send_signal(signal.SIGUSR1)
    assert process.wait(DEADLINE) == INTERRUPTED
    message = Path("output").read_text().splitlines()[-1]
    assert message.startswith(f"hlrs: {job.run}: ")
    assert "SIGUSR1" in message
    assert "rerun to resume" in message
    assert [request.name for request in Path(".hlrs/requeue").iterdir()] == ["7"]
    assert path.exists()  # the other holder's


def test_a_claim_of_another_host_is_kept_until_unlocked(workspace):
    facts = {"pid": 1, "host": "n7", "machine": "another", "born": "1", "since": "2026-11-24T18:42:03+00:00"}
    locks.RUN.parent.mkdir(parents=True)
    locks.RUN.write_text(json.dumps({**facts, "command": "snakemake --profile slurm", "token": "another"}))
    for entered in (locks.claim, locks.claimed("hlrs prune").__enter__):
        with pytest.raises(Failure) as refused:
            entered()
        for fact in ("snakemake --profile slurm", "process 1 on n7", "2026-11-24 18:42", "--unlock"):
            assert fact in str(refused.value)
    locks.unlock()
    assert not locks.RUN.exists()
    with locks.claimed("hlrs prune"):
        pass
