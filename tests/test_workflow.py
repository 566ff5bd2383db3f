"""Snakemake and DVC for real, in copies of this working tree: what runs, what does not, and what is recorded.

An execution is counted twice over, by the job logs that were written and by the provenance records that are
new. What the cases start from is made once a session, also with several workers, and copied for each case.
"""

import contextlib
import copy
import fcntl
import hashlib
import json
import os
import platform
import pstats
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, TINY, edit, outputs
from pydantic import ValidationError

from hlrs import config, plan
from hlrs.artifacts import OUTPUTS, PROVENANCE
from hlrs.nas.genotype import PUBLISHED

DEADLINE = 300.0  # seconds until a command counts as hanging
IDLE = "Nothing to be done"
CLEAN = "Data and pipelines are up to date."
COUPLED = {"methods.hlrs.arch_lr": {"kind": "coupled"}}  # as it is at first
COSINE = {"methods.hlrs.arch_lr": {"kind": "cosine", "final": 0.2}}
DARTS_ALONE = {"matrix.methods": ["darts"]}
BOTH = {"matrix.methods": ["darts", "hlrs"]}


def runs_of(*methods):
    """Search to evaluation of the methods, each once, and the report; a job is spelled stage/run."""
    stages = ("search", "extract", "retrain", "evaluate")
    return Counter([*(f"{stage}/digits/{m}/0" for stage in stages for m in methods), "report/all"])


NOTHING: Counter[str] = Counter()
REPORT = Counter(["report/all"])
EVERYTHING = Counter(["split/digits"]) + runs_of("darts", "hlrs")


# --- folders and commands -----------------------------------------------------------------------------


def tiny():
    """TINY with fewer images and epochs: nearly all the time is then Python's start."""
    params = copy.deepcopy(TINY)
    params["datasets"]["digits"]["max_per_class"] = 20
    params["datasets"]["digits"]["groups"] = {"many_above": 10, "few_below": 4}
    params["search"]["epochs"] = params["retrain"]["epochs"] = 2
    return params


def checkout(folder):
    """Make a Git repository that holds this working tree's files, as they are, and tiny params."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    (folder / "params.yaml").write_text(yaml.safe_dump(tiny()))
    run(folder, "git", "init", "--quiet", "--initial-branch", "main")
    commit(folder, "Tiny")
    return {}


def duplicate(source, target):
    """A copy of a folder, with its times of change."""
    return Path(shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True))


def environment(folder):
    """This process's commands with the code of `folder`, and nobody's settings."""
    foreign = ("PYTEST_", "GIT_", "DVC_", "SNAKEMAKE_", "SLURM_")
    people = ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(foreign)},
        **{f"GIT_{person}": "test@localhost" for person in people},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "DVC_GLOBAL_CONFIG_DIR": f"{folder}.dvc",
        "DVC_SYSTEM_CONFIG_DIR": f"{folder}.dvc",
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


def commit(folder, message):
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", message)


def pipeline():
    """What dvc.yaml says."""
    return yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())


def dvc_status(folder):
    """What `dvc status` says."""
    return run(folder, "dvc", "status").stdout.strip()


def replace(path, old, new):
    """Replace a text that occurs once in a file."""
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


# --- counting -----------------------------------------------------------------------------------------


def _logs(folder):
    """(job, time of change) of every log."""
    root = folder / "logs"
    return {(str(p.parent.relative_to(root)), p.stat().st_mtime_ns) for p in root.rglob("*.log")}


def _records(folder):
    """(key, text) of every provenance record, wherever a result lies by now."""
    roots = (folder / "results", folder / ".hlrs/aside")
    return {(p.parent.name, p.read_text()) for root in roots for p in root.rglob(PROVENANCE)}


@contextlib.contextmanager
def counting(folder, failed=NOTHING):
    """How often each job left a new record in the body: every job that ran, but for those in `failed`."""
    ran: Counter[str] = Counter()
    logs, records = _logs(folder), _records(folder)
    yield ran
    for _, text in _records(folder) - records:
        record = json.loads(text)
        ran[f"{record['stage']}/{record['run']}"] += 1
    assert Counter(job for job, _ in _logs(folder) - logs) == ran + failed


def executions(folder, *command):
    """How often a successful command ran each job."""
    with counting(folder) as ran:
        run(folder, *command)
    return ran


def snakemake(folder, *arguments):
    """How often Snakemake ran each job."""
    return executions(folder, "snakemake", "--cores", "2", *arguments)


def planned(folder, *arguments):
    """How many jobs of each stage Snakemake would run now."""
    output = run(folder, "snakemake", "-n", *arguments).stdout
    if IDLE in output:
        return NOTHING
    table = output.split("Job stats:")[1].split("total")[0]
    rows = re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)
    return Counter({rule: int(count) for rule, count in rows if rule in OUTPUTS})


def by_stage(ran):
    """How many jobs of each stage ran."""
    return Counter(job.split("/")[0] for job in ran.elements())


# --- results ------------------------------------------------------------------------------------------


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(folder):
    """File -> bytes of everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def results(folder):
    """How many results there are of each job, each of them whole, with nothing else below results/."""
    root = folder / "results"
    found = [path.parent for path in root.rglob(PROVENANCE)]
    files = {f"{d.relative_to(root)}/{f}" for d in found for f in [*OUTPUTS[stage_of(d, root)], PROVENANCE]}
    assert tree(root).keys() == files
    assert all(any(path.iterdir()) for path in root.rglob("*") if path.is_dir())
    return Counter(str(directory.parent.relative_to(root)) for directory in found)


def stage_of(directory, root):
    return directory.relative_to(root).parts[0]


# --- what the cases start from ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """once(make): the folder that `make` filled and what it counted; made by the first worker that asks."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(make):
        folder = shared / f"workflow-{make.__name__}"
        counted = Path(f"{folder}.json")
        with Path(f"{folder}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not counted.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                counted.write_text(json.dumps(make(folder)))
        return folder, Counter(json.loads(counted.read_text()))

    return get


@pytest.fixture(scope="session")
def repository(once):
    """A Git repository, not to be changed, of this working tree with tiny params."""
    return once(checkout)[0]


@pytest.fixture(scope="session")
def first(once, repository):
    """A folder, not to be changed, in which all was run once; what ran."""

    def first_run(folder):
        return snakemake(duplicate(repository, folder))

    return once(first_run)


@pytest.fixture
def finished(first, tmp_path):
    """A copy of it."""
    return duplicate(first[0], tmp_path / "finished")


@pytest.fixture(scope="session")
def recorded(once, first):
    """The same, then recorded by DVC and committed; what `dvc repro` ran."""

    def recorded_run(folder):
        duplicate(first[0], folder)
        ran = executions(folder, "dvc", "repro")
        commit(folder, "Coupled")
        return ran

    return once(recorded_run)


@pytest.fixture(scope="session")
def edited(once, recorded):
    """The same, then one method edited, `dvc repro` and a second commit; what it ran."""

    def edited_run(folder):
        duplicate(recorded[0], folder)
        edit(folder / "params.yaml", **COSINE)
        ran = executions(folder, "dvc", "repro")
        commit(folder, "Cosine")
        return ran

    return once(edited_run)


UNSEARCHED = Counter(
    [
        *("split/digits", "extract/digits/fixed/0", "report/all"),
        *(
            f"{stage}/digits/{method}/{seeds}"
            for stage in ("retrain", "evaluate")
            for method in ("fixed", "resnet")
            for seeds in ("0", "0-3")
        ),
    ]
)


@pytest.fixture(scope="session")
def unsearched(once, repository):
    """A folder, not to be changed: a published genotype and a ResNet, each retrained twice, and recorded.

    What Snakemake ran for them.
    """

    def unsearched_run(folder):
        duplicate(repository, folder)
        params = tiny()
        params["methods"] = {
            "fixed": {"searcher": {"kind": "fixed", "genotype": "PC_DARTS"}},
            "resnet": {"searcher": {"kind": "resnet", "depth": 20}},
        }
        params["matrix"] |= {"methods": [*params["methods"]], "retrain_seeds": [0, 3]}
        params["report"] = {"reference": "fixed"}
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        ran = snakemake(folder)
        assert executions(folder, "dvc", "repro") == NOTHING
        commit(folder, "Nothing is searched")
        return ran

    return once(unsearched_run)


# --- everything, once ---------------------------------------------------------------------------------


def test_the_first_run_makes_everything_once_and_the_second_nothing(first, finished):
    assert first[1] == EVERYTHING
    assert results(finished) == EVERYTHING
    assert snakemake(finished) == NOTHING
    assert IDLE in run(finished, "snakemake", "-n").stdout


def test_every_result_has_a_record_that_tells_its_digest(first):
    paths = list((first[0] / "results").rglob(PROVENANCE))
    assert len(paths) == EVERYTHING.total()
    for path in paths:
        record = json.loads(path.read_text())
        assert record["outputs"] == {name: sha256(path.parent / name) for name in OUTPUTS[record["stage"]]}
        spec = json.loads((first[0] / f".hlrs/specs/{record['key']}.json").read_text())
        assert record["inputs"] == {
            name: {"path": source, "sha256": sha256(first[0] / source)}
            for name, source in spec["inputs"].items()
        }
        assert {field: record[field] for field in spec if field != "inputs"} == {
            field: spec[field] for field in spec if field != "inputs"
        }


@pytest.mark.parametrize("job", ["split/digits", "extract/digits/hlrs/0"])
def test_a_job_killed_before_its_record_runs_again_and_nothing_trains(finished, job):
    [record] = (finished / "results" / job).glob(f"*/{PROVENANCE}")
    record.unlink()
    shutil.rmtree(finished / "results/report")  # which would have come after it
    assert snakemake(finished) == Counter([job, "report/all"])
    assert record.is_file()


def test_the_report_is_published_whole(first):
    [made] = (first[0] / "results/report/all").iterdir()
    assert tree(first[0] / "report") == tree(made)
    assert tree(made).keys() == {*OUTPUTS["report"], PROVENANCE}


def test_snakemakes_own_report_of_a_finished_workflow_carries_captions(finished):
    logs = _logs(finished)
    run(finished, "snakemake", "--report", "snakemake.zip")
    assert _logs(finished) == logs
    with zipfile.ZipFile(finished / "snakemake.zip") as file:
        page = file.read("snakemake/report.html").decode()
        held = Counter(Path(name).name for name in file.namelist())
    tables = ("runs.csv", "summary.csv", "differences.csv", "claim.csv", "classes.csv")
    shown = {"normal.svg": 2, "reduce.svg": 2, "metrics.json": 2, "index.html": 1, **dict.fromkeys(tables, 1)}
    assert held == {**shown, "report.html": 1}
    captions = re.findall(r'"caption": "((?:[^"\\]|\\.)*)"', page)
    assert len(captions) == sum(shown.values())
    assert all(captions)
    for method in ("darts", "hlrs"):
        assert sum(f"search with <strong>{method}</strong> found on digits, seed" in c for c in captions) == 2
    assert "Architecture search on long-tailed images" in page  # the workflow's description
    assert not re.search(r'(src|href)="https?:', page)


def test_a_searcher_without_training_runs_from_another_params_file(finished):
    old = tree(finished / "report")
    params = tiny()
    params["methods"]["random"] = {"searcher": {"kind": "random"}}
    params["matrix"]["methods"] = ["darts", "random"]
    (finished / "other.yaml").write_text(yaml.safe_dump(params))
    other = ("--config", "params=other.yaml")
    assert snakemake(finished, *other) == runs_of("random")
    metrics = json.loads((finished / "report/metrics.json").read_text())
    assert metrics["digits"].keys() == {"darts", "random"}
    assert snakemake(finished) == NOTHING
    assert tree(finished / "report") == old


def test_methods_that_search_nothing_are_retrained_once_a_seed(unsearched, tmp_path):
    folder = duplicate(unsearched[0], tmp_path / "folder")
    assert unsearched[1] == UNSEARCHED
    assert snakemake(folder) == NOTHING
    assert dvc_status(folder) == CLEAN  # of the phases without jobs, too
    assert run(folder, "git", "status", "--porcelain").stdout == ""
    genotype = json.loads(next(folder.glob("results/extract/digits/fixed/0/*/genotype.json")).read_text())
    assert genotype == PUBLISHED["PC_DARTS"].to_json()
    weights = [*folder.glob("results/retrain/digits/resnet/*/*/weights.safetensors")]
    assert len({path.read_bytes() for path in weights}) == 2
    edit(folder / "params.yaml", **{"matrix.retrain_seeds": [3]})
    assert snakemake(folder) == REPORT
    edit(folder / "params.yaml", **{"matrix.retrain_seeds": [3, 4], "matrix.methods": ["resnet", "fixed"]})
    assert planned(folder) == Counter({"retrain": 2, "evaluate": 2, "report": 1})


def test_a_retraining_by_hand_is_named_with_its_seed(unsearched, tmp_path):
    folder = duplicate(unsearched[0], tmp_path / "folder")
    again = executions(folder, "hlrs", "retrain", "digits/resnet/0-3")
    assert again == NOTHING
    [directory] = folder.glob("results/retrain/digits/resnet/0-3/*")
    before = (directory / "weights.safetensors").read_bytes()
    shown = run(folder, "hlrs", "retrain", "digits/resnet/0-3", "--force").stdout
    assert shown.strip().splitlines()[-1] == str(directory.relative_to(folder))
    assert (directory / "weights.safetensors").read_bytes() == before
    failed = run(folder, "hlrs", "search", "digits/resnet/0", status=2)
    assert "search has no run 'digits/resnet/0'" in failed.stderr
    assert failed.stderr.endswith("there are: none, as no method asks for it\n")


# --- large matrices -----------------------------------------------------------------------------------


def calls(folder, runs):
    """How many functions `snakemake -n` calls for a matrix of so many runs: all of them, and ours alone."""
    edit(folder / "params.yaml", **DARTS_ALONE, **{"matrix.seeds": list(range(runs))})
    profiled = ("-m", "cProfile", "-o", "profile", "-m", "snakemake", "-n")
    shown = run(folder, sys.executable, *profiled).stdout
    assert re.search(rf"^total +{4 * runs + 3}$", shown, re.MULTILINE)
    profile = pstats.Stats(str(folder / "profile"))
    ours = sum(facts[1] for (file, *_), facts in profile.stats.items() if Path(file).is_relative_to(folder))
    assert ours > 10 * runs
    return profile.total_calls, ours


def test_what_snakemake_plans_grows_linearly_with_the_matrix(repository, tmp_path):
    folder = duplicate(repository, tmp_path / "large")
    for few, some, many in zip(*(calls(folder, runs) for runs in (20, 40, 80)), strict=True):
        assert many - some < 2.2 * (some - few)


# --- edits and back -----------------------------------------------------------------------------------


def test_an_edit_runs_what_follows_and_undoing_it_nothing(finished):
    old = tree(finished / "report")
    edit(finished / "params.yaml", **COSINE)
    assert snakemake(finished) == runs_of("hlrs")
    new = tree(finished / "report")
    assert new["plots/search.csv"] != old["plots/search.csv"]
    for params, expected in ((COUPLED, old), (COSINE, new)):
        edit(finished / "params.yaml", **params)
        assert snakemake(finished) == NOTHING
        assert tree(finished / "report") == expected


def test_a_smaller_matrix_leaves_no_orphan_and_a_larger_one_runs_nothing(finished):
    path, old = finished / "params.yaml", tree(finished / "report")
    edit(path, **DARTS_ALONE)
    assert snakemake(finished) == REPORT
    run(finished, "hlrs", "prune")
    assert results(finished) == Counter(["split/digits"]) + runs_of("darts")
    edit(path, **BOTH)
    assert snakemake(finished) == NOTHING
    assert tree(finished / "report") == old
    run(finished, "hlrs", "prune")
    assert results(finished) == EVERYTHING


def test_code_runs_the_stages_that_import_it_and_comments_run_nothing(finished):
    supernet = finished / "hlrs/nas/supernet.py"
    replace(supernet, '"""Weights of one or', '"""The weights of one or')
    replace(supernet, "def initialize_alphas(", "# a remark\ndef initialize_alphas(")
    assert snakemake(finished) == NOTHING
    replace(finished / "hlrs/report/page.html.j2", "<body>", '<body class="changed">')
    assert snakemake(finished) == REPORT
    assert '<body class="changed">' in (finished / "report/index.html").read_text()
    replace(supernet, "scale: float = 1e-3", "scale: float = 2e-3")
    assert planned(finished) == by_stage(runs_of("darts", "hlrs"))
    edit(finished / "params.yaml", **DARTS_ALONE)  # to save time
    assert snakemake(finished) == runs_of("darts")


def test_snakemake_looks_for_work_when_a_job_ends_and_not_all_the_time(finished):
    remove(finished, "report", "evaluate/digits")
    with counting(finished) as ran:
        output = run(finished, "snakemake", "--cores", "1", "--verbose").stderr
    assert ran == Counter(["evaluate/digits/darts/0", "evaluate/digits/hlrs/0", "report/all"])
    assert output.count("Resources before job selection") <= ran.total() + 1  # it begins with two


# --- what would run -----------------------------------------------------------------------------------


def remove(folder, *jobs):
    """Remove the results of jobs, each spelled stage/run."""
    for job in jobs:
        shutil.rmtree(folder / "results" / job)


def situations():
    """What is done to a folder in which all was run, by name."""
    return {
        "fresh": lambda folder: shutil.rmtree(folder / "results"),
        "finished": lambda folder: None,
        "a method edited": lambda folder: edit(folder / "params.yaml", **COSINE),
        "a smaller matrix": lambda folder: edit(folder / "params.yaml", **DARTS_ALONE),
        "another seed": lambda folder: edit(folder / "params.yaml", **{"matrix.seeds": [0, 1]}),
        "a result that nobody misses": lambda folder: remove(folder, "search/digits/darts"),
        "the report": lambda folder: remove(folder, "report", "split", "search/digits/darts"),
        "a chain": lambda folder: remove(folder, "report", *(f"{s}/digits/darts" for s in CHAIN)),
        "what others read as well": lambda folder: remove(
            folder, "report", "split", *(f"{s}/digits/darts" for s in CHAIN)
        ),
        "a file": lambda folder: next((folder / "results/report").rglob("runs.csv")).unlink(),
        "put aside": lambda folder: (
            edit(folder / "params.yaml", **DARTS_ALONE),
            run(folder, "hlrs", "prune"),
            edit(folder / "params.yaml", **BOTH),
        ),
    }


CHAIN = ("search", "extract", "retrain", "evaluate")


@pytest.mark.parametrize("situation", situations())
def test_the_plan_names_the_jobs_that_snakemake_would_run(finished, monkeypatch, situation):
    situations()[situation](finished)
    output = run(finished, "snakemake", "-n").stdout
    expected = set(re.findall(r"^ +output: results/(\S+)/[0-9a-f]{12}/", output, re.MULTILINE))
    assert (IDLE in output) == (not expected)
    monkeypatch.chdir(finished)
    jobs = plan.plan(config.load(Path("params.yaml")))
    plan.restore(jobs)
    assert [f"{job.stage}/{job.run}" for job in jobs if job in plan.due(jobs)] == [
        f"{job.stage}/{job.run}" for job in jobs if f"{job.stage}/{job.run}" in expected
    ]
    assert len(plan.due(jobs)) == len(expected)


def test_the_command_tells_from_real_records_what_would_run_and_what_it_costs(finished):
    assert run(finished, "hlrs", "plan").stdout.count("\n") == 1
    edit(finished / "params.yaml", **COSINE)
    before = tree(finished / "results")
    facts = json.loads(run(finished, "hlrs", "plan", "--json").stdout)
    assert tree(finished / "results") == before
    assert Counter(f"{job['stage']}/{job['run']}" for job in facts["due"]) == runs_of("hlrs")
    assert {job["estimate"]["basis"] for job in facts["due"]} == {"records", "scaled"}
    assert not (finished / ".hlrs/calibration.json").exists()
    records = [json.loads(path.read_text()) for path in (finished / "results").rglob(PROVENANCE)]
    took = sum(record["seconds"] for record in records if "/darts/" not in record["run"] + "/")
    split = next(record["seconds"] for record in records if record["stage"] == "split")
    assert facts["gpu_hours"] + facts["cpu_hours"] == pytest.approx((took - split) / 3600, rel=0.5)


def test_an_estimate_without_records_is_within_reach_of_what_then_runs(repository, tmp_path):
    folder = duplicate(repository, tmp_path / "folder")
    edit(folder / "params.yaml", **DARTS_ALONE)
    facts = json.loads(run(folder, "hlrs", "plan", "--json").stdout)
    estimates = {job["stage"]: job["estimate"] for job in facts["due"]}
    assert estimates["search"]["basis"] == estimates["retrain"]["basis"] == "measured"
    assert not (folder / "results").exists()
    assert snakemake(folder) == EVERYTHING - runs_of("hlrs") + REPORT
    for stage in ("search", "retrain"):
        [path] = (folder / "results" / stage).rglob(PROVENANCE)
        took = json.loads(path.read_text())["training_seconds"]
        assert took / 20 < estimates[stage]["seconds"] < 20 * took


# --- edits while jobs run -----------------------------------------------------------------------------


@contextlib.contextmanager
def in_the_first_search(folder, *command, status=0):
    """The body happens after the first search's first epoch, while the other one waits."""
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(folder), stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + DEADLINE
    try:
        while not list((folder / ".hlrs/checkpoints").glob("*.safetensors")):
            assert process.poll() is None, (folder / "output").read_text()
            assert time.monotonic() < deadline
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        yield
        assert process.wait(DEADLINE) == status, (folder / "output").read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="session")
def undisturbed(once, repository):
    """Another folder in which all was run, params.yaml being edited meanwhile; what ran."""

    def edited_while_it_ran(folder):
        duplicate(repository, folder)
        with counting(folder) as ran, in_the_first_search(folder, "snakemake", "--cores", "1"):
            assert len(list((folder / "logs/search").rglob("*.log"))) == 1
            edit(folder / "params.yaml", **{"search.epochs": 3})
        return ran

    return once(edited_while_it_ran)


def test_params_edited_while_jobs_run_change_none_of_them(undisturbed):
    folder, ran = undisturbed
    assert ran == EVERYTHING
    records = [json.loads(path.read_text()) for path in (folder / "results/search").rglob(PROVENANCE)]
    assert [record["params"]["search"]["epochs"] for record in records] == [2, 2]
    assert planned(folder) == by_stage(runs_of("darts", "hlrs"))


def test_two_first_runs_give_the_same_bytes(first, undisturbed):
    made, remade = (
        {name: digest for stage in OUTPUTS for name, digest in outputs(folder, stage).items()}
        for folder in (first[0], undisturbed[0])
    )
    assert made.keys() == remade.keys()
    assert len(made) == sum(len(OUTPUTS[stage]) for stage in by_stage(EVERYTHING).elements())
    different = [Path(name).name for name in made if made[name] != remade[name]]
    assert different == ["index.html"]  # it tells when and for how long


def test_a_job_refuses_code_that_changed_while_it_waited(finished):
    edit(finished / "params.yaml", **{"search.epochs": 4})
    command = ("snakemake", "--cores", "1", "search_all")
    failed: Counter[str] = Counter()
    with counting(finished, failed) as ran:
        with in_the_first_search(finished, *command, status=1):
            replace(finished / "hlrs/nas/supernet.py", "scale: float = 1e-3", "scale: float = 2e-3")
        message = "the code of search changed since this job was planned; run snakemake again"
        [refused] = re.findall(
            rf"^\s*hlrs: (\S+): {message}$", (finished / "output").read_text(), re.MULTILINE
        )
        failed[f"search/{refused}"] += 1
    assert ran + failed == Counter(["search/digits/darts/0", "search/digits/hlrs/0"])
    assert planned(finished, "search_all") == {"search": 2}


def test_beside_a_running_workflow_others_say_so_and_after_a_kill_the_next_goes_on(recorded, tmp_path):
    folder = duplicate(recorded[0], tmp_path / "folder")
    edit(folder / "params.yaml", **{"search.epochs": 4})
    first_one = ("snakemake", "--cores", "1", "search_all")
    with counting(folder) as ran:
        with in_the_first_search(folder, *first_one, status=-signal.SIGKILL):
            [search] = [json.loads(path.read_text())["pid"] for path in (folder / ".hlrs/leases").iterdir()]
            os.kill(search, signal.SIGSTOP)  # so that it does not end meanwhile
            claim = json.loads((folder / ".hlrs/run.json").read_text())
            at_work = f"hlrs: {' '.join(first_one)}, process {claim['pid']} on {platform.node()}, is at work"
            for command, status in (
                (("snakemake", "--quiet", "rules", "progress", "host", "--cores", "1"), 2),
                (("snakemake", "--unlock"), 2),
                (("dvc", "repro"), 255),
                (("hlrs", "prune"), 1),
            ):
                said = run(folder, *command, status=status)
                [line] = [line for line in said.stderr.splitlines() if line.startswith("hlrs: ")]
                assert line.startswith(at_work), command
                assert f"kill -INT -{claim['pid']}`" in line  # it leads a session of its own
                assert "Traceback" not in said.stdout + said.stderr
            assert planned(folder, "search_all") == {"search": 2}
            assert json.loads((folder / ".hlrs/run.json").read_text()) == claim
            os.kill(claim["pid"], signal.SIGKILL)
            os.kill(search, signal.SIGCONT)
        assert list((folder / ".snakemake/locks").iterdir())
        run(folder, *first_one)  # without --unlock; it takes what the search, which went on, makes
    assert ran == Counter(["search/digits/darts/0", "search/digits/hlrs/0"])
    assert not (folder / ".hlrs/run.json").exists()
    assert results(folder) == EVERYTHING + ran


def test_a_claim_from_another_host_is_kept_until_somebody_unlocks(finished):
    claim = finished / ".hlrs/run.json"
    facts = {"pid": 1, "host": "n7", "machine": "another", "born": "1", "since": "2026-11-24T18:42:03+00:00"}
    claim.write_text(json.dumps({**facts, "command": "snakemake --profile slurm", "token": "another"}))
    message = run(finished, "snakemake", "--cores", "1", status=2).stderr.splitlines()[-1]
    assert message == (
        "hlrs: snakemake --profile slurm, process 1 on n7, is at work in this folder since 2026-11-24 18:42; "
        "wait for it to end; if it is no more, `snakemake --unlock`, and run again"
    )
    run(finished, "snakemake", "--unlock")
    assert not claim.exists()


# --- mistakes -----------------------------------------------------------------------------------------


NO_FILE = {"kind": "parquet", "train": ["data/none.parquet"]}


@pytest.mark.parametrize(
    ("params", "arguments", "named"),
    [
        ({"datasets.digits.imbalance.factor": 0.5}, [], "datasets.digits.imbalance.factor"),
        ({"datasets.digits.source": NO_FILE}, [], "data/none.parquet"),
        ({"search.epochs": 3}, ["--config", "epochs=4"], "epochs"),
    ],
    ids=["value", "data file", "--config"],
)
def test_a_mistake_is_one_line_and_runs_nothing(repository, tmp_path, params, arguments, named):
    folder = duplicate(repository, tmp_path / "folder")
    edit(folder / "params.yaml", **params)
    done = run(folder, "snakemake", "--cores", "2", *arguments, status=2)
    [line] = [line for line in done.stderr.splitlines() if "hlrs" in line]
    assert line.startswith("hlrs: ")
    assert named in line
    assert "Traceback" not in done.stdout + done.stderr
    assert not [name for name in ("results", "logs", "report", ".hlrs/specs") if (folder / name).exists()]


# --- DVC ----------------------------------------------------------------------------------------------


def test_dvc_records_a_finished_run_and_runs_nothing(recorded, tmp_path):
    folder = duplicate(recorded[0], tmp_path / "folder")
    assert recorded[1] == NOTHING
    assert dvc_status(folder) == CLEAN
    assert executions(folder, "dvc", "repro") == NOTHING
    assert run(folder, "git", "status", "--porcelain").stdout == ""
    assert results(folder) == EVERYTHING


def test_dvc_shows_metrics_and_plots_of_both_methods(recorded, tmp_path):
    folder = duplicate(recorded[0], tmp_path / "folder")
    shown = run(folder, "dvc", "metrics", "show").stdout
    run(folder, "dvc", "plots", "show", "--out", "plots")
    page = (folder / "plots/index.html").read_text()
    plots = [plot for entry in pipeline()["plots"] for plot in entry.values()]
    assert page.count("vegaEmbed(") == len(plots)
    for plot in plots:
        [(file, column)] = plot["y"].items()
        assert f'"filename": "{file}", "field": "{column}"' in page
    for method in ("darts", "hlrs"):
        assert f"digits.{method}.balanced_accuracy" in shown
        assert f'"method": "{method}"' in page


def test_dvc_runs_what_follows_an_edit_and_undoing_it_by_hand_nothing(recorded, edited, tmp_path):
    folder = duplicate(edited[0], tmp_path / "folder")
    assert edited[1] == runs_of("hlrs")
    assert dvc_status(folder) == CLEAN
    edit(folder / "params.yaml", **COUPLED)
    assert executions(folder, "dvc", "repro") == NOTHING
    assert dvc_status(folder) == CLEAN
    for name in ("results", "report"):
        assert tree(folder / name) == tree(recorded[0] / name)
    edit(folder / "params.yaml", **COSINE)
    assert snakemake(folder) == NOTHING
    assert tree(folder / "report") == tree(edited[0] / "report")


def test_git_and_dvc_checkout_go_back_and_forward_and_run_nothing(recorded, edited, tmp_path):
    folder = duplicate(edited[0], tmp_path / "folder")
    shutil.rmtree(folder / ".hlrs/aside")  # what comes back comes from DVC's cache
    for revision, version in (("HEAD~1", recorded[0]), ("main", edited[0])):
        run(folder, "git", "checkout", "--quiet", revision)
        run(folder, "dvc", "checkout")
        assert snakemake(folder) == NOTHING
        assert executions(folder, "dvc", "repro") == NOTHING
        assert dvc_status(folder) == CLEAN
        for name in ("results", "report"):
            assert tree(folder / name) == tree(version / name)


def test_a_fresh_clone_with_dvc_pull_has_the_data_and_nothing_to_do(recorded, tmp_path):
    folder, clone = duplicate(recorded[0], tmp_path / "folder"), tmp_path / "clone"
    (folder / "data/mine").mkdir()
    (folder / "data/mine/images").write_text("images")
    run(folder, "dvc", "add", "data/mine")
    run(folder, "dvc", "commit", "--force", "split")  # which lists data/ among its dependencies
    run(folder, "dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    commit(folder, "Store")
    assert "data/mine" not in run(folder, "git", "ls-files", "data/mine").stdout
    run(folder, "dvc", "push")
    run(tmp_path, "git", "clone", "--quiet", str(folder), str(clone))
    assert planned(clone) == by_stage(EVERYTHING)
    run(clone, "dvc", "pull")
    assert dvc_status(clone) == CLEAN
    assert IDLE in run(clone, "snakemake", "-n").stdout
    assert snakemake(clone) == NOTHING
    assert "all whole and in agreement" in run(clone, "hlrs", "audit").stdout
    for name in ("results", "report", "data"):
        assert tree(clone / name) == tree(folder / name)


def test_dvc_yaml_names_what_the_keys_depend_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = pipeline()["stages"]
    params = tiny()
    params["datasets"]["more"] = params["datasets"]["digits"] | {"seed": 1}
    params["matrix"]["datasets"] = ["digits", "more"]
    before = keys(params)
    sections = {stage: set() for stage in OUTPUTS}
    for section, changed in edits(params):
        with contextlib.suppress(ValidationError):
            after = keys(changed)
            for stage in OUTPUTS:
                sections[stage] |= {section} if after[stage] != before[stage] else set()
    assert sections["report"] == set(params)  # every section was edited with effect
    assert {stage: set(declared["params"]) for stage, declared in stages.items()} == sections
    sources = {stage: {"hlrs"} for stage in OUTPUTS}
    sources["split"].add("data")
    for job in plan.plan(config.Params.model_validate(params)):
        sources[job.stage] |= {"/".join(Path(path).parts[:2]) for path in job.inputs.values()}
    assert {stage: set(declared["deps"]) for stage, declared in stages.items()} == sources


def keys(params):
    """Stage -> keys of its jobs."""
    planned_jobs = plan.plan(config.Params.model_validate(params))
    return {stage: {job.key for job in planned_jobs if job.stage == stage} for stage in OUTPUTS}


def edits(params):
    """(section, params with one entry changed) for every entry, defaults included; not all are valid."""
    full = config.Params.model_validate(params).model_dump(mode="json")
    for section in full:
        for *parents, last in list(leaves(full[section], [section])):
            changed = copy.deepcopy(full)
            target = changed
            for name in parents:
                target = target[name]
            target[last] = {"epochs": 3} if last == "retrain" else other(target[last])
            yield section, changed


def leaves(value, path):
    """The path of every entry that holds no further entries by name."""
    if isinstance(value, dict) and value:
        for name, entry in value.items():
            yield from leaves(entry, [*path, name])
    else:
        yield path


def other(value):
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 2
    if isinstance(value, float):
        return value / 2 or 0.5
    if isinstance(value, str):
        return {"seeded": "ldam", "constant": "cosine", "symmetric": "equal"}.get(value, f"{value}!")
    if isinstance(value, list):
        return value[:-1] or [0]
    return 4


def test_dvc_yaml_lists_every_stages_results_and_every_file_of_the_report():
    stages = pipeline()["stages"]
    published = [f"report/{name}" for name in (*OUTPUTS["report"], PROVENANCE)]
    expected = {stage: [f"results/{stage}"] for stage in OUTPUTS}
    expected["report"] = sorted(["results/report", *published])
    listed = {
        stage: sorted(
            entry if isinstance(entry, str) else next(iter(entry))
            for field in ("outs", "metrics", "plots")
            for entry in declared.get(field, [])
        )
        for stage, declared in stages.items()
    }
    assert listed == expected
