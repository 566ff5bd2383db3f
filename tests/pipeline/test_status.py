"""`hlrs status`: what each job of a plan does, from leases, logs and results."""

import contextlib
import io
import json
import logging
import shutil
from pathlib import Path

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from hlrs.artifacts.files import write_text
from hlrs.artifacts.tensors import write_tensors
from hlrs.config.params import load
from hlrs.pipeline import plan, slurm_commands
from hlrs.pipeline.execute import execute
from hlrs.pipeline.live import INCOMPLETE, MOST, RESUMES, SILENT, STOPPING, Live
from hlrs.pipeline.locks import LEASES, claimed, lease
from hlrs.pipeline.slurm import Queued
from hlrs.pipeline.status import State, facts, lines, state_of, survey
from hlrs.training.progress import duration
from tests.conftest import edit, hlrs
from tests.messages import says as names

EPOCHS = (
    "{run}  started in 3.0 s (imports 2.9 s, data and model 0.1 s)\n"
    "{run}  epoch 1/3  progress 0  weights_loss 2.3  weights_accuracy 0.1  90 images/s  9 s left\n"
    "{run}  epoch 2/3  progress 0.3  weights_loss 1.2  weights_accuracy 0.5  88 images/s  4 s left\n"
)
SHOWN = "epoch 2/3, weights_loss 1.2, weights_accuracy 0.5, 88 images/s, 4 s left"


@pytest.fixture
def jobs(workspace):
    edit(workspace / "params.yaml", **{"matrix.seeds": [0, 1]})
    return plan.plan(load(workspace / "params.yaml"))


def of(jobs, stage, run):
    return next(job for job in jobs if (job.stage, job.run) == (stage, run))


def says(job, text):
    write_text(job.log, text.format(run=job.run))


def test_every_state_of_a_job_is_told_apart(jobs):
    split = of(jobs, "split", "digits")
    execute(split)
    running, failed, stopped, first = (
        of(jobs, "search", f"digits/{name}") for name in ("darts/0", "darts/1", "hlrs/0", "hlrs/1")
    )
    says(running, EPOCHS)
    says(failed, EPOCHS + "hlrs: {run}: the loss is not finite; lower search.weights.lr\n")
    says(stopped, EPOCHS + "hlrs: {run}: interrupted by SIGTERM; rerun to resume\n")
    write_text(stopped.checkpoint, "a state")
    with lease(running), lease(first):
        states = {state.job.key: state for state in survey(jobs)}
        text = list(lines(list(states.values())))
        found = facts(list(states.values()))
    assert [states[job.key].what for job in (split, running, failed, stopped, first)] == [
        "done",
        "running",
        "failed",
        "stopped",
        "running",
    ]
    assert states[running.key].says == states[stopped.key].says == SHOWN
    assert states[running.key].share == pytest.approx(2 / 3)
    assert states[first.key].says == "in its first epoch"
    assert found["jobs"] == {"done": 1, "running": 2, "failed": 1, "stopped": 1, "waiting": 13, "gone": 0}
    assert text[0] == "18 jobs: 1 done, 2 running, 1 failed, 1 stopped, 13 waiting"
    assert text[1] == "no snakemake runs in this folder"
    assert "failed    search    digits/darts/1  the loss is not finite; lower search.weights.lr" in text
    assert str(failed.log) in "\n".join(text)
    assert "waiting   extract   digits/{darts,hlrs}/{0,1}" in text


def test_a_deleted_result_that_nothing_due_reads_is_gone_and_not_done(jobs):
    for path in (path for job in jobs for path in job.outputs):
        write_text(Path(path), "")
    one, other = (of(jobs, "extract", f"digits/{name}/0") for name in ("darts", "hlrs"))
    shutil.rmtree(one.directory)
    other.output("reduce.svg").unlink()
    assert plan.due(jobs) == []
    states = survey(jobs)
    assert {state.job.key for state in states if state.what == "gone"} == {one.key, other.key}
    text = list(lines(states))
    assert text[0] == "18 jobs: 16 done, 2 gone"
    assert "time left" not in "\n".join(text)
    names(text[-1], "gone", "extract", "digits/{darts,hlrs}/0", "snakemake --cores all extract_all")
    assert facts(states)["seconds_left"] == 0
    with lease(one):
        assert {state.what for state in survey(jobs)} == {"done", "running", "gone"}


def test_a_job_that_ends_while_its_state_is_looked_up_is_done(jobs, monkeypatch):
    ending, again = (of(jobs, "search", f"digits/darts/{seed}") for seed in (0, 1))
    for path in again.outputs:  # a result that is made again, as the split that it was made from is gone
        write_text(Path(path), "")
    look_up = plan.due

    def due(jobs):
        found = look_up(jobs)
        for path in ending.outputs:
            write_text(Path(path), "")
        return found

    monkeypatch.setattr(plan, "due", due)
    states = {state.job.key: state.what for state in survey(jobs)}
    assert [states[job.key] for job in (ending, again, jobs[0])] == ["done", "waiting", "waiting"]


def test_a_job_that_fails_while_its_state_is_looked_up_has_failed(jobs, monkeypatch):
    job = of(jobs, "search", "digits/darts/0")
    says(job, EPOCHS)

    def ends_now(key):
        says(job, EPOCHS + "hlrs: {run}: the loss is not finite\n")
        return False

    monkeypatch.setattr("hlrs.pipeline.status.leased", ends_now)
    assert (state_of(job).what, state_of(job).says) == ("failed", "the loss is not finite")


def test_a_training_without_a_log_is_where_its_state_is(jobs):
    """As one that was run by hand: it logs to its terminal."""
    job = of(jobs, "search", "digits/darts/0")
    write_tensors(job.checkpoint, {}, {"epoch": 2})
    assert state_of(job) == State(job, "stopped", "epoch 2/3", 2 / 3)


def test_a_step_within_a_long_epoch_counts_as_part_of_it(jobs):
    job = of(jobs, "search", "digits/darts/0")
    says(job, EPOCHS + "{run}  epoch 3/3, step 5/20  3 s left\n")
    with lease(job):
        state = state_of(job)
    assert (state.says, state.share) == ("epoch 3/3, step 5/20, 3 s left", pytest.approx(2.25 / 3))


def test_a_job_that_ended_on_another_node_does_not_run(jobs):
    """Nobody released its lease, and nothing here can tell that its process is dead; SLURM can."""
    search = of(jobs, "search", "digits/darts/0")
    says(search, EPOCHS)
    write_text(search.checkpoint, "a state")
    with lease(search):
        path = LEASES / f"{search.key}.json"
        held = json.loads(path.read_text()) | {"machine": "n7", "host": "n7", "slurm_job": "9"}
        path.write_text(json.dumps(held))

        def states(queue):
            return next(state for state in survey(jobs, queue) if state.job.key == search.key)

        assert states([]).what == "running"  # submitted from elsewhere, whose jobs are not asked for
        record = json.dumps({"job": "9", "key": search.key})
        write_text(slurm_commands.RECORDS / "run.jsonl", f"{record}\n")
        assert states(None).what == "running"  # SLURM did not answer
        assert states([Queued("9", "RUNNING", search.key, "None")]).what == "running"
        assert states([]).what == "stopped"
        again = states([Queued("9", "PENDING", search.key, "BeginTime")])
        assert (again.what, again.says, again.by) == ("waiting", SHOWN, "SLURM job 9")


def test_what_an_earlier_process_said_is_not_what_the_last_one_says(jobs):
    search = of(jobs, "search", "digits/darts/0")
    says(search, EPOCHS + "hlrs: {run}: the loss is not finite\n{run}  begins on n7 (SLURM job 9)\n")
    assert next(state for state in survey(jobs) if state.job.key == search.key).what == "waiting"
    with lease(search):
        running = next(state for state in survey(jobs) if state.job.key == search.key)
    assert (running.what, running.says, running.share) == ("running", "in its first epoch", 0)


def test_a_job_in_the_queue_waits_and_says_for_what(jobs):
    ready = of(jobs, "split", "digits")
    stopped, failed, running, lost = (
        of(jobs, "search", f"digits/{name}") for name in ("darts/0", "darts/1", "hlrs/0", "hlrs/1")
    )
    says(stopped, EPOCHS + "hlrs: {run}: interrupted by SIGUSR1; rerun to resume\n")
    write_text(stopped.checkpoint, "a state")
    says(failed, "hlrs: {run}: the loss is not finite\n")  # and was submitted again
    says(lost, "hlrs: {run}: the loss is not finite\n")
    queue = [
        Queued("9_1", "PENDING", stopped.key, "PartitionTimeLimit"),
        Queued("9_2", "PENDING", failed.key, "PartitionTimeLimit"),
        Queued("9_3", "PENDING", running.key, "None"),
        Queued("10", "PENDING", ready.key, "None"),
        Queued("8", "RUNNING", lost.key, "None"),
    ]
    with lease(running):
        states = survey(jobs, queue)
        text = list(lines(states))
    found = {state.job.key: state for state in states}
    assert [found[job.key].what for job in (stopped, failed, running, lost, ready)] == [
        "waiting",
        "waiting",
        "running",
        "failed",
        "waiting",
    ]
    one = found[stopped.key]
    assert (one.says, one.by, one.share) == (SHOWN, "SLURM job 9_1", pytest.approx(2 / 3))
    [entry] = [entry for entry in facts(states)["states"] if entry["key"] == failed.key]
    assert (entry["state"], entry["says"], entry["by"], entry["reason"]) == (
        "waiting",
        "",
        "SLURM job 9_2",
        "PartitionTimeLimit",
    )
    [held] = [line for line in text if "PartitionTimeLimit" in line]
    names(
        held,
        "waiting   search    digits/darts/{0,1}  in SLURM's queue: PartitionTimeLimit",
        "runtime",
        "profile",
    )
    assert "waiting   split     digits  in SLURM's queue: not considered yet" in text


# --- what a running snakemake shows -------------------------------------------------------------------


@pytest.fixture
def live(jobs):
    plan.freeze(jobs)
    shown = Live(jobs, logging.StreamHandler(io.StringIO()))
    yield shown
    shown.close()


def event(live, event, **facts):
    live.emit(logging.makeLogRecord({"event": event, **facts}))


def printed(live):
    """The lines so far, without the time of day."""
    return [line.split("  ", 1)[1] for line in live.terminal.stream.getvalue().splitlines()]


def test_a_running_snakemake_shows_epochs_ends_and_the_time_left_at_a_bounded_rate(jobs, live):
    one, *others = [job for job in jobs if job.stage in ("search", "retrain")]
    for number, job in enumerate((one, *others)):
        event(live, LogEvent.JOB_INFO, jobid=number, wildcards={"key": job.key})
    says(one, EPOCHS)
    assert list(live._news(live.summed)) == []  # all still wait in a queue
    with lease(one):
        first = [f"running   search    {one.run}  {SHOWN}"]
        assert [list(live._news(live.summed + at)) for at in (1, 2)] == [first, []]
        *again, whole = live._news(live.summed + SILENT + 1)
    assert again == first
    assert whole.startswith(f"{len(jobs)} jobs: 1 running, {len(jobs) - 1} waiting; time left: ")
    for job in others:
        says(job, EPOCHS)
    with contextlib.ExitStack() as leases:
        for job in others:
            leases.enter_context(lease(job))
        turns = [list(live._news(live.summed + at)) for at in (1, 2, 3)]
    assert [len(turn) for turn in turns] == [MOST, len(others) - MOST, 0]
    event(live, LogEvent.JOB_FINISHED, job_id=0)
    assert [text[: text.index(" in ")] for text in printed(live)] == [f"done      search    {one.run} "]


def test_of_many_running_jobs_those_not_shown_for_longest_come_first(jobs, live):
    trained = [job for job in jobs if job.stage in ("search", "retrain")]
    for number, job in enumerate(trained):
        event(live, LogEvent.JOB_INFO, jobid=number, wildcards={"key": job.key})
    shown = []
    with contextlib.ExitStack() as leases:
        for job in trained:
            leases.enter_context(lease(job))
        for look in range(3):
            for job in trained:
                says(job, EPOCHS.replace("loss 1.2", f"loss 1.{look}"))
            shown += [text.split()[1:3] for text in live._news(live.summed + look)]
    every = [[job.stage, job.run] for job in trained]
    assert shown[: len(every) + MOST] == [*every, *every][: len(every) + MOST]


def test_a_running_snakemake_says_once_why_its_jobs_wait_in_the_queue(jobs, live, monkeypatch):
    def look(minute, **reasons):
        queue = [
            Queued("9", "PENDING", of(jobs, "search", f"digits/{method}/0").key, reason)
            for method, reason in reasons.items()
        ]
        monkeypatch.setattr("hlrs.pipeline.live.in_queue", lambda jobs: queue)
        return list(live._news(live.began + minute * (SILENT + 1)))[1:]

    live.summed = live.began
    waits = "waiting   search    digits/{}/0  in SLURM's queue: {}"
    assert look(1, darts="Priority", hlrs="Priority") == [waits.format("{darts,hlrs}", "Priority")]
    assert look(2, hlrs="Priority") == []
    [held] = look(3, hlrs="JobHeldUser")
    assert held.startswith(waits.format("hlrs", "JobHeldUser  held by you: "))


def test_a_job_that_ends_at_a_look_is_not_shown_as_waiting(jobs, live, monkeypatch):
    one = of(jobs, "search", "digits/darts/0")
    event(live, LogEvent.JOB_INFO, jobid=0, wildcards={"key": one.key})
    monkeypatch.setattr("hlrs.pipeline.live.leased", lambda key: True)  # and no longer at the next question
    assert list(live._news(live.summed)) == []


def test_ctrl_c_does_not_look_like_a_loss_and_a_failure_does(jobs, live):
    def passes(text, **facts):
        return live.passes(logging.makeLogRecord({"msg": text, **facts}))

    hidden = "Command 'hlrs search' returned non-zero exit status 75."
    assert [passes(text) for text in (hidden, hidden.replace("75", "127"), "MissingOutputException")] == [
        False,
        True,
        True,
    ]
    assert not passes("Finished jobid: 1", event=LogEvent.JOB_FINISHED)
    killed = of(jobs, "search", "digits/hlrs/1")
    event(live, LogEvent.JOB_INFO, jobid=7, wildcards={"key": killed.key})
    says(killed, EPOCHS)
    assert passes("Error in rule search", event=LogEvent.JOB_ERROR, jobid=7)  # nobody else says so
    event(live, LogEvent.JOB_ERROR, jobid=7)
    stopped, failed = (of(jobs, "search", f"digits/darts/{seed}") for seed in (0, 1))
    says(stopped, EPOCHS + "hlrs: {run}: interrupted by SIGINT; rerun to resume\n")
    write_text(stopped.checkpoint, "a state")
    live.stop()
    assert printed(live) == [f"stopped   search    {stopped.run}  {SHOWN}", RESUMES]
    assert not passes(f"WorkflowError:\n{INCOMPLETE}")
    event(live, LogEvent.JOB_INFO, jobid=1, wildcards={"key": failed.key})
    says(failed, "hlrs: {run}: the loss is not finite\n")
    assert not passes("Error in rule search", event=LogEvent.JOB_ERROR, jobid=1)
    event(live, LogEvent.JOB_ERROR, jobid=1)
    live.stop()
    assert printed(live)[2] == f"failed    search    {failed.run}  the loss is not finite; {failed.log}"
    assert RESUMES not in printed(live)[2:]
    assert passes(f"WorkflowError:\n{INCOMPLETE}")


def test_ctrl_c_that_every_running_job_outlives_is_no_failure(live):
    live.stop()
    assert printed(live) == []  # something else failed
    live.emit(logging.makeLogRecord({"msg": f"{STOPPING}, this might take some time."}))
    live.stop()
    assert printed(live) == [RESUMES]
    assert not live.passes(logging.makeLogRecord({"msg": f"WorkflowError:\n{INCOMPLETE}"}))


# --- the command --------------------------------------------------------------------------------------


def test_the_time_left_follows_records_and_the_jobs_at_a_time(jobs, workspace):
    for job in jobs:
        if job.run in ("digits", "digits/darts/0"):
            execute(job)
    found = facts(survey(jobs))
    own = {job.stage: json.loads(job.output("provenance.json").read_text()) for job in jobs if job.complete}
    each = sum(own[stage]["seconds"] for stage in ("extract", "retrain", "evaluate"))  # of three runs alike
    assert found["seconds_left"] == pytest.approx(own["search"]["seconds"] + 3 * each, rel=0.01)
    assert found["not_estimated"] == 3  # both searches of hlrs, and the report
    edit(workspace / "params.yaml", **{"matrix.seeds": [0], "matrix.methods": ["darts"]})
    ended = plan.plan(load(workspace / "params.yaml"))
    execute(ended[-1])
    assert list(lines(survey(ended))) == ["6 jobs: 6 done", "no snakemake runs in this folder"]


def test_a_training_that_runs_or_was_stopped_says_how_long_it_and_its_like_take(jobs):
    search = of(jobs, "search", "digits/darts/0")
    execute(of(jobs, "split", "digits"))
    says(search, EPOCHS)  # 2 of 3 epochs, 4 s left: 12 s for all
    with lease(search):
        states = survey(jobs)
    found = facts(states)
    assert found["seconds_left"] == pytest.approx(4 + 12)  # the other seed's waits
    assert found["not_estimated"] == 17 - 2
    assert list(lines(states))[2] == (
        "time left: at least 16 s with one job at a time, 15 of 17 jobs not estimated yet"
    )
    write_text(search.checkpoint, "a state")  # stopped since
    assert facts(survey(jobs))["seconds_left"] == pytest.approx(4 + 12)


@pytest.mark.parametrize(
    ("left", "seconds"),
    [("40 s", 40), ("2 min 5 s", 125), ("1 h 15 min", 4500), ("27 h 0 min", 97_200), ("0 s", 0)],
)
def test_the_time_left_in_a_log_is_read_back(jobs, left, seconds):
    assert duration(seconds) == left
    assert State(jobs[0], "running", f"epoch 2/8, loss 1.2, {left} left", 0.25).whole == seconds / 0.75
    assert State(jobs[0], "running", f"epoch 8/8, loss 1.2, {left} left", 1.0).whole == 0
    assert State(jobs[0], "running", "in its first epoch").whole == 0


def test_the_workflow_that_runs_is_named(jobs, workspace):
    with claimed("snakemake --cores 2"):
        text = list(lines(survey(jobs)))
    assert text[1].startswith("snakemake --cores 2 (process ")
    assert text[2] == "time left: not known yet; `hlrs plan` measures it"


def test_the_command_runs_and_writes_no_job(jobs, workspace):
    status, output = hlrs(workspace, "status", "--json")
    assert status == 0
    assert json.loads(output)["jobs"]["waiting"] == len(jobs)
    assert not (workspace / "results").exists()
    assert not (workspace / ".hlrs/specs").exists()
