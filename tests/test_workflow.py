"""Snakemake and DVC for real, in copies of this working tree: what runs, what does not, and what is recorded.

An execution is counted twice over: as a job log that was written, and as a provenance record that is new. What
several cases start from is made once a session, also by several workers, and copied for each case.
"""

import contextlib
import copy
import fcntl
import hashlib
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
from conftest import REPOSITORY, TINY, edit
from pydantic import ValidationError

from hlrs import config, plan
from hlrs.artifacts import OUTPUTS, PROVENANCE

DEADLINE = 300.0  # seconds until a command counts as hanging
MATRIX = TINY["matrix"]
RUNS = [f"{d}/{m}/{s}" for d in MATRIX["datasets"] for m in MATRIX["methods"] for s in MATRIX["seeds"]]
RUN_STAGES = ("search", "extract", "retrain", "evaluate")
REST = dict.fromkeys(RUN_STAGES, 2)  # of both methods
EVERYTHING = {"split": 1, **REST, "report": 1}
ONE_METHOD = {**dict.fromkeys(RUN_STAGES, 1), "report": 1}
NOTHING: dict[str, int] = {}
CLEAN = "Data and pipelines are up to date."
IDLE = "Nothing to be done"


# --- folders ------------------------------------------------------------------------------------------


def tiny():
    """TINY with fewer images and epochs: nearly all the time is then Python's start."""
    params = copy.deepcopy(TINY)
    params["datasets"]["digits"]["max_per_class"] = 10
    params["datasets"]["digits"]["groups"] = {"many_above": 6, "few_below": 3}
    params["search"]["epochs"] = params["retrain"]["epochs"] = 2
    return params


def checkout(folder):
    """A Git repository that holds this working tree's files, as they are, and tiny params."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    (folder / "params.yaml").write_text(yaml.safe_dump(tiny()))
    run(folder, "git", "init", "--quiet", "--initial-branch", "main")
    commit(folder, "Tiny")


def environment(folder):
    """This environment's commands with the code of `folder`, and nobody's settings."""
    foreign = ("PYTEST_", "GIT_", "DVC_", "SNAKEMAKE_", "SLURM_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    person = {
        f"GIT_{role}_{field}": "t@example.org"
        for role in ("AUTHOR", "COMMITTER")
        for field in ("NAME", "EMAIL")
    }
    return {
        **kept,
        **person,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "DVC_SITE_CACHE_DIR": f"{folder}.dvc",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(folder),
    }


def run(folder, *command, status=0):
    """A command's completed process, whose exit status must be `status`."""
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


@contextlib.contextmanager
def started(folder, *command):
    """A command that runs while the body does; what it started ends with it."""
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(folder), stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(process, condition):
    """Return as soon as `condition` holds, while the process runs."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)


def commit(folder, message):
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", message)


# --- counting -----------------------------------------------------------------------------------------


def _logs(folder):
    return {(path, path.stat().st_mtime_ns) for path in (folder / "logs").rglob("*.log")}


def _records(folder):
    """(key, bytes) of every provenance record, wherever a result lies by now."""
    roots = (folder / "results", folder / ".hlrs/aside")
    return {(p.parent.name, p.read_bytes()) for root in roots for p in root.rglob(PROVENANCE)}


@contextlib.contextmanager
def counting(folder):
    """Counter of the jobs, by stage, that ran in the body, each of which must have left a new record."""
    ran: Counter[str] = Counter()
    logs, records = _logs(folder), _records(folder)
    yield ran
    ran.update(path.relative_to(folder / "logs").parts[0] for path, _ in _logs(folder) - logs)
    recorded = Counter(json.loads(content)["stage"] for _, content in _records(folder) - records)
    assert recorded == ran


def executions(folder, *command):
    """How many jobs of each stage a successful command ran."""
    with counting(folder) as ran:
        run(folder, *command)
    return ran


def planned(folder, *arguments):
    """How many jobs of each stage Snakemake would run now."""
    output = run(folder, "snakemake", "-n", *arguments).stdout
    if IDLE in output:
        return NOTHING
    table = output.split("Job stats:")[1].split("total")[0]
    found = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}
    del found["all"]
    return found


def tree(folder):
    """File -> bytes of everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def jobs(folder):
    """The jobs of the folder's params. (Data and code are those of this process, so keys are, too.)"""
    return plan.plan(config.load(folder / "params.yaml"))


def results_hold_what_the_params_ask_for(folder):
    stages = {path.parts[-1] for path in (folder / "results").iterdir()}
    files = {f"results/{name}" for name in tree(folder / "results")}
    return stages == set(OUTPUTS) and files == {path for job in jobs(folder) for path in job.outputs}


# --- what the cases start from ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """once(make): the folder that `make` filled and what it returned; made by the first worker that asks."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(make):
        folder = shared / f"workflow-{make.__name__}"
        facts = Path(f"{folder}.json")
        with Path(f"{folder}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not facts.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                facts.write_text(json.dumps(make(folder)))
        return folder, json.loads(facts.read_text())

    return get


def fresh_run(folder):
    checkout(folder)
    return executions(folder, "snakemake", "--cores", "2")


@pytest.fixture
def finished(once, tmp_path):
    """A folder in which all was run once."""
    return duplicate(once(fresh_run)[0], tmp_path / "finished")


@pytest.fixture
def recorded(once, tmp_path):
    """A folder in which all was run once, and then recorded by DVC and committed."""
    return duplicate(recorded_run(once)[0], tmp_path / "recorded")


def duplicate(source, target):
    """A copy with its times of change."""
    return Path(shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True))


def recorded_run(once):
    def recorded(folder):
        duplicate(once(fresh_run)[0], folder)
        ran = executions(folder, "dvc", "repro")
        commit(folder, "Recorded")
        return ran

    return once(recorded)


COSINE = {"methods.hlrs.arch_lr": {"kind": "cosine"}}
COUPLED = {"methods.hlrs.arch_lr": {"kind": "coupled"}}


def two_versions(once):
    """The run that DVC recorded, then one method edited, run and recorded by DVC; both committed."""

    def versions(folder):
        duplicate(recorded_run(once)[0], folder)
        edit(folder / "params.yaml", **COSINE)
        ran = executions(folder, "dvc", "repro")
        commit(folder, "Cosine")
        return ran

    return once(versions)


# --- first run ----------------------------------------------------------------------------------------


def test_the_first_run_makes_everything_once_and_the_second_nothing(once, finished):
    assert once(fresh_run)[1] == EVERYTHING
    assert results_hold_what_the_params_ask_for(finished)
    assert executions(finished, "snakemake", "--cores", "2") == NOTHING
    assert IDLE in run(finished, "snakemake", "-n").stdout


def test_every_artifact_has_a_record_that_tells_its_digest(once):
    folder, _ = once(fresh_run)
    for job in jobs(folder):
        record = json.loads((folder / job.output(PROVENANCE)).read_text())
        assert (record["key"], record["stage"], record["run"]) == (job.key, job.stage, job.run)
        assert record["outputs"] == {name: digest(folder / job.output(name)) for name in OUTPUTS[job.stage]}
        assert record["inputs"] == {
            name: {"path": path, "sha256": digest(folder / path)} for name, path in job.inputs.items()
        }


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_report_is_published_whole(once):
    folder, _ = once(fresh_run)
    [made] = (folder / "results/report/all").iterdir()
    assert tree(folder / "report") == tree(made)
    assert tree(made).keys() == {*OUTPUTS["report"], PROVENANCE}


# --- DVC ----------------------------------------------------------------------------------------------


def test_dvc_records_a_finished_run_and_runs_nothing(once, recorded):
    assert recorded_run(once)[1] == NOTHING
    assert CLEAN in run(recorded, "dvc", "status").stdout
    assert executions(recorded, "dvc", "repro") == NOTHING
    assert run(recorded, "git", "status", "--porcelain").stdout == ""
    assert results_hold_what_the_params_ask_for(recorded)


def test_dvc_shows_metrics_and_plots_of_both_methods(once, recorded):
    metrics = json.loads(run(recorded, "dvc", "metrics", "show", "--json").stdout)
    assert metrics[""]["data"]["report/metrics.json"]["data"]["digits"].keys() == set(MATRIX["methods"])
    run(recorded, "dvc", "plots", "show", "--out", "plots")
    page = (recorded / "plots/index.html").read_text()
    assert "Class accuracy against class size" in page
    for method in MATRIX["methods"]:
        assert f'"method": "{method}"' in page


def test_dvc_yaml_names_what_the_keys_depend_on_and_what_the_report_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipeline = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    before = keys(tiny())
    changing = {stage: set() for stage in before}
    for section, params in edits(tiny()):
        with contextlib.suppress(ValidationError):
            after = keys(params)
            for stage in before:
                changing[stage] |= {section} if after[stage] != before[stage] else set()
    assert changing["report"] == set(tiny())  # the edits reach all that there is
    assert {stage: set(pipeline[stage]["params"]) for stage in pipeline} == changing

    planned_jobs = plan.plan(config.Params.model_validate(tiny()))
    sources = {
        stage: {"hlrs"}
        | {str(Path(*Path(p).parts[:2])) for j in planned_jobs if j.stage == stage for p in j.inputs.values()}
        for stage in pipeline
    }
    assert {stage: set(pipeline[stage]["deps"]) for stage in pipeline} == sources

    produced = {stage: declared(pipeline[stage]) for stage in pipeline}
    published = [f"report/{name}" for name in (*OUTPUTS["report"], PROVENANCE)]
    assert {stage: names for stage, names in produced.items() if stage != "report"} == {
        stage: [f"results/{stage}"] for stage in pipeline if stage != "report"
    }
    assert produced["report"] == sorted(["results/report", *published])
    assert set(pipeline) == set(OUTPUTS)


def keys(params):
    """Stage -> keys of its jobs."""
    found = plan.plan(config.Params.model_validate(params))
    return {stage: {job.key for job in found if job.stage == stage} for stage in OUTPUTS}


def edits(params):
    """(section, params with one entry of it changed), for every entry, defaults written out."""
    full = config.Params.model_validate(params).model_dump(mode="json")
    full["methods"]["darts"]["retrain"] = {"epochs": 3}
    yield "methods", full
    for section in full:
        for *parents, last in list(leaves(full[section], [section])):
            changed = copy.deepcopy(full)
            target = changed
            for name in parents:
                target = target[name]
            target[last] = other(target[last])
            yield section, changed


def leaves(value, path):
    """The path of every entry that holds no other entries by name."""
    if isinstance(value, dict) and value:
        for name, entry in value.items():
            yield from leaves(entry, [*path, name])
    else:
        yield path


def other(value):
    """Another value of the same kind; it need not be a valid one."""
    if isinstance(value, list):
        return value[:1] if len(value) > 1 else [*value, *map(other, value)]
    if isinstance(value, str):
        return {"seeded": "ldam", "constant": "cosine", "symmetric": "equal"}.get(value, value + "x")
    return (
        not value if isinstance(value, bool) else value + 2 if isinstance(value, int) else (value or 0.5) / 2
    )


def declared(stage):
    """The paths of outs, metrics and plots, sorted; each is there once."""
    entries = [entry for field in ("outs", "metrics", "plots") for entry in stage.get(field, [])]
    return sorted(entry if isinstance(entry, str) else next(iter(entry)) for entry in entries)


# --- an edit and back ---------------------------------------------------------------------------------


def test_an_edit_runs_what_follows_and_undoing_it_runs_nothing(finished):
    old = tree(finished / "report")
    edit(finished / "params.yaml", **COSINE)
    assert executions(finished, "snakemake", "--cores", "2") == ONE_METHOD
    assert {Path(r["run"]).name for r in new_runs(finished, old)} == {"0"}
    new = tree(finished / "report")
    assert new["plots/search.csv"] != old["plots/search.csv"]
    for params, expected in ((COUPLED, old), (COSINE, new)):
        edit(finished / "params.yaml", **params)
        assert executions(finished, "snakemake", "--cores", "2") == NOTHING
        assert tree(finished / "report") == expected
