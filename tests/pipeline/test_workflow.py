"""Snakemake and DVC in copies of this working tree: what runs, what does not, and what is recorded.

Every execution is counted twice, by new job logs and by new provenance records. The tests' starting points
are made once per session, even with several workers, and copied for each test.
"""

import contextlib
import copy
import fcntl
import hashlib
import importlib.util
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
from pydantic import ValidationError

from hlrs.artifacts.jobs import ASIDE, OUTPUTS, PROVENANCE
from hlrs.config.params import Params, load
from hlrs.errors import UserError
from hlrs.nas.genotype import PUBLISHED
from hlrs.pipeline import locks, plan
from tests.artifacts.test_code_digest import TABLES, with_kind
from tests.conftest import REPOSITORY, TINY, at_work_in, edit, hlrs, make_all, outputs, record
from tests.nas.test_cell_table import lines

DEADLINE = 900.0  # seconds until a command counts as hanging
IDLE = "Nothing to be done"
CLEAN = "Data and pipelines are up to date."
COUPLED = {"methods.hlrs.arch_lr": {"kind": "coupled"}}  # as it is initially
COSINE = {"methods.hlrs.arch_lr": {"kind": "cosine", "final": 0.2}}
DARTS_ALONE = {"matrix.methods": ["darts"]}
BOTH = {"matrix.methods": ["darts", "hlrs"]}


def runs_of(*methods):
    """Search to evaluation of the methods, each once, and the report; a job is named stage/run."""
    stages = ("search", "extract", "retrain", "evaluate")
    return Counter([*(f"{stage}/digits/{m}/0" for stage in stages for m in methods), "report/all"])


TRAINED = ("search", "retrain")
NOTHING: Counter[str] = Counter()
REPORT = Counter(["report/all"])
EVERYTHING = Counter(["split/digits"]) + runs_of("darts", "hlrs")


# --- folders and commands -----------------------------------------------------------------------------


def tiny():
    """TINY with fewer images and epochs: nearly all the time is Python's startup."""
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
    """Copy a folder with its modification times."""
    return Path(shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True))


def environment(folder):
    """This process's environment with the code of `folder` and nobody's settings."""
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
    """The content of dvc.yaml."""
    return yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())


def record_by_dvc(folder):
    """Have DVC record what a finished run made, without running Snakemake."""
    run(folder, "hlrs", "prune")
    for phase in ("search", "lookup"):  # which may have no jobs
        (folder / "results" / phase).mkdir(exist_ok=True)
    run(folder, "dvc", "commit", "--force")


def dvc_status(folder):
    """The output of `dvc status`."""
    return run(folder, "dvc", "status").stdout.strip()


def replace(path, old, new):
    """Replace a text that occurs once in a file."""
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


# --- counting -----------------------------------------------------------------------------------------


def _logs(folder):
    """(job, modification time) of every log."""
    root = folder / "logs"
    return {(str(p.parent.relative_to(root)), p.stat().st_mtime_ns) for p in root.rglob("*.log")}


def _records(folder):
    """(key, text) of every provenance record, also of results set aside."""
    return {(p.parent.name, p.read_text()) for p in (folder / "results").rglob(PROVENANCE)}


def jobs_of(records):
    """How many of the records each job left."""
    bodies = [json.loads(text) for _, text in records]
    return Counter(f"{record['stage']}/{record['run']}" for record in bodies)


@contextlib.contextmanager
def counting(folder, failed=NOTHING):
    """How often each job left a new record in the body: every job that ran, except those in `failed`."""
    ran: Counter[str] = Counter()
    logs, records = _logs(folder), _records(folder)
    yield ran
    ran.update(jobs_of(_records(folder) - records))
    assert Counter(job for job, _ in _logs(folder) - logs) == ran + failed


def executions(folder, *command):
    """How often a successful command ran each job."""
    with counting(folder) as ran:
        run(folder, *command)
    return ran


def snakemake(folder, *arguments):
    """How often Snakemake ran each job."""
    return executions(folder, "snakemake", "--cores", "2", *arguments)


@contextlib.contextmanager
def in_the_first_search(folder, *command, status=0):
    """Run the body after the first search's first epoch, while the other search waits."""
    with (folder / "shown").open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(folder), stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + DEADLINE
    try:
        while not list((folder / ".hlrs/checkpoints").glob("*.safetensors")):
            assert process.poll() is None, (folder / "shown").read_text()
            assert time.monotonic() < deadline
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        yield
        assert process.wait(DEADLINE) == status, (folder / "shown").read_text()
        (folder / "shown").unlink()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


# --- results ------------------------------------------------------------------------------------------


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(folder):
    """File -> bytes of everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_results(folder):
    """File -> bytes of everything in results/, but for the state that lies there."""
    found = tree(folder / "results")
    return {name: content for name, content in found.items() if not name.startswith(".hlrs/")}


def results(folder):
    """How many results each job has, all of them complete, with nothing else below results/."""
    root = folder / "results"
    everything = [path for path in root.rglob("*") if root / ".hlrs" not in (path, *path.parents)]
    found = [path.parent for path in everything if path.name == PROVENANCE]
    files = {f"{d.relative_to(root)}/{f}" for d in found for f in [*OUTPUTS[stage_of(d, root)], PROVENANCE]}
    assert in_results(folder).keys() == files
    folders = [
        path for path in everything if path.is_dir() and path.parent != root
    ]  # a phase may have no jobs
    assert all(any(path.iterdir()) for path in folders)
    return Counter(str(directory.parent.relative_to(root)) for directory in found)


def stage_of(directory, root):
    return directory.relative_to(root).parts[0]


# --- starting points ----------------------------------------------------------------------------------


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
    """A Git repository of this working tree with tiny params; do not change it."""
    return once(checkout)[0]


@pytest.fixture(scope="session")
def first(once, repository):
    """A folder, not to be changed, in which everything ran once while its params were edited; what ran."""

    def first_run(folder):
        path = duplicate(repository, folder) / "params.yaml"
        before = path.read_bytes()
        with counting(folder) as ran, in_the_first_search(folder, "snakemake", "--cores", "2"):
            edit(path, **{"search.epochs": 3, "retrain.epochs": 3})
        path.write_bytes(before)
        return ran

    return once(first_run)


@pytest.fixture
def finished(first, tmp_path):
    """A copy of it."""
    return duplicate(first[0], tmp_path / "finished")


@pytest.fixture(scope="session")
def recorded(once, first):
    """The same, then recorded by DVC and committed; what `dvc repro` ran of its first phases."""

    def recorded_run(folder):
        duplicate(first[0], folder)
        ran = executions(folder, "dvc", "repro", "search")
        record_by_dvc(folder)
        commit(folder, "Coupled")
        return ran

    return once(recorded_run)


@pytest.fixture(scope="session")
def edited(once, recorded):
    """The same, then one method edited, run, recorded and committed; what ran."""

    def edited_run(folder):
        duplicate(recorded[0], folder)
        edit(folder / "params.yaml", **COSINE)
        records = _records(folder)
        make_all(folder)
        record_by_dvc(folder)
        commit(folder, "Cosine")
        return jobs_of(_records(folder) - records)

    return once(edited_run)


@pytest.fixture(scope="session")
def unsearched(once, repository):
    """A folder, not to be changed: a published genotype and a ResNet, each retrained twice, and recorded."""

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
        make_all(folder)
        record_by_dvc(folder)
        commit(folder, "Nothing is searched")
        return {}

    return once(unsearched_run)


# --- everything, once ---------------------------------------------------------------------------------


def test_the_first_run_makes_everything_once_and_the_second_nothing(first, finished):
    assert first[1] == EVERYTHING
    assert results(finished) == EVERYTHING
    assert snakemake(finished) == NOTHING


def test_params_edited_during_a_run_change_none_of_its_jobs(first):
    records = [json.loads(path.read_text()) for path in (first[0] / "results").rglob(PROVENANCE)]
    epochs = [
        record["params"][stage]["epochs"] for record in records if (stage := record["stage"]) in TRAINED
    ]
    assert epochs == [2, 2, 2, 2]


def test_another_process_makes_the_same_bytes(first, repository, tmp_path):
    folder = duplicate(repository, tmp_path / "folder")
    make_all(folder)
    made, remade = (
        {name: digest for stage in OUTPUTS for name, digest in outputs(root, stage).items()}
        for root in (first[0], folder)
    )
    assert made.keys() == remade.keys()
    assert len(made) == sum(len(OUTPUTS[job.split("/")[0]]) for job in EVERYTHING.elements())
    different = [Path(name).name for name in made if made[name] != remade[name]]
    assert different == ["index.html"]  # it shows dates and durations


def test_every_result_has_a_record_with_its_digest(first):
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


def test_a_job_killed_before_its_record_runs_again_and_snakemake_does_not_poll(finished):
    [record] = (finished / "results/split/digits").glob(f"*/{PROVENANCE}")
    record.unlink()
    remove(finished, "report")  # which comes after it
    with counting(finished) as ran:
        output = run(finished, "snakemake", "--cores", "1", "--verbose").stderr
    assert ran == Counter(["split/digits", "report/all"])
    assert record.is_file()
    assert output.count("Resources before job selection") <= ran.total() + 1  # it starts with two
    assert f"The report: {finished}/report/index.html\n" in output


def test_the_report_is_published_whole(first):
    [made] = (first[0] / "results/report/all").iterdir()
    assert tree(first[0] / "report") == tree(made)
    assert tree(made).keys() == {*OUTPUTS["report"], PROVENANCE}


def test_snakemakes_own_report_has_captions(finished):
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


@pytest.mark.slow
def test_methods_without_a_search_have_none_under_snakemake_and_dvc(unsearched, tmp_path):
    folder = duplicate(unsearched[0], tmp_path / "folder")
    assert snakemake(folder) == NOTHING
    assert executions(folder, "dvc", "repro", "--force", "--single-item", "search") == NOTHING
    assert dvc_status(folder) == CLEAN
    assert run(folder, "git", "status", "--porcelain").stdout == ""
    [genotype] = folder.glob("results/extract/digits/fixed/0/*/genotype.json")
    remove(folder, "extract")
    assert snakemake(folder, "extract_all") == Counter(["extract/digits/fixed/0"])
    assert json.loads(genotype.read_text()) == PUBLISHED["PC_DARTS"].to_json()
    weights = [*folder.glob("results/retrain/digits/resnet/*/*/weights.safetensors")]
    assert len({path.read_bytes() for path in weights}) == 2


def test_a_single_retraining_is_named_by_its_seed(unsearched, tmp_path):
    folder = duplicate(unsearched[0], tmp_path / "folder")
    [directory] = folder.glob("results/retrain/digits/resnet/0-3/*")
    before = (directory / "weights.safetensors").read_bytes()
    records = _records(folder)
    assert hlrs(folder, "retrain", "digits/resnet/0-3")[0] == 0
    assert _records(folder) == records
    status, shown = hlrs(folder, "retrain", "digits/resnet/0-3", "--force")
    assert (status, shown.strip().splitlines()[-1]) == (0, str(directory.relative_to(folder)))
    assert (directory / "weights.safetensors").read_bytes() == before
    status, failed = hlrs(folder, "search", "digits/resnet/0")
    assert status == 2
    assert "'digits/resnet/0'" in failed


# --- large matrices -----------------------------------------------------------------------------------


def calls(folder, runs):
    """How many of Snakemake's functions, and of ours, `snakemake -n` calls for a matrix of this many runs."""
    edit(folder / "params.yaml", **DARTS_ALONE, **{"matrix.seeds": list(range(runs))})
    profiled = ("-m", "cProfile", "-o", "profile", "-m", "snakemake", "-n")
    shown = run(folder, sys.executable, *profiled).stdout
    assert re.search(rf"^total +{4 * runs + 3}$", shown, re.MULTILINE)
    profile = pstats.Stats(str(folder / "profile")).stats.items()
    snakemakes = Path(importlib.util.find_spec("snakemake").origin).parent
    inside = (folder, snakemakes)  # other modules wait in loops, as long as it takes
    counted = [sum(facts[1] for (file, *_), facts in profile if Path(file).is_relative_to(f)) for f in inside]
    assert min(counted) > 10 * runs
    return counted


@pytest.mark.slow
def test_planning_by_snakemake_grows_linearly_with_the_matrix(repository, tmp_path):
    folder = duplicate(repository, tmp_path / "large")
    for few, some, many in zip(*(calls(folder, runs) for runs in (10, 30, 90)), strict=True):
        assert many - some < 5 * (some - few)  # 3 times if linear, 9 if quadratic


# --- edits and their reversal -------------------------------------------------------------------------


def test_an_edit_runs_what_depends_on_it_and_undoing_it_runs_nothing(recorded, edited, tmp_path):
    assert edited[1] == runs_of("hlrs")
    folder = duplicate(edited[0], tmp_path / "folder")
    old, new = (tree(made[0] / "report") for made in (recorded, edited))
    assert new["plots/search.csv"] != old["plots/search.csv"]
    for params, expected in ((COUPLED, old), (COSINE, new)):
        edit(folder / "params.yaml", **params)
        assert snakemake(folder) == NOTHING
        assert tree(folder / "report") == expected
    run(folder, "hlrs", "prune")
    assert in_results(folder) == in_results(edited[0])


def test_a_smaller_matrix_leaves_no_orphan_and_a_larger_one_runs_nothing(finished):
    path, old = finished / "params.yaml", tree(finished / "report")
    shutil.copy(path, finished / "other.yaml")
    edit(finished / "other.yaml", **DARTS_ALONE)
    assert snakemake(finished, "--config", "params=other.yaml") == REPORT
    metrics = json.loads((finished / "report/metrics.json").read_text())
    assert metrics["digits"].keys() == {"darts"}
    edit(path, **DARTS_ALONE)
    assert hlrs(finished, "prune")[0] == 0
    assert results(finished) == Counter(["split/digits"]) + runs_of("darts")
    edit(path, **BOTH)
    assert snakemake(finished) == NOTHING
    assert tree(finished / "report") == old
    assert hlrs(finished, "prune")[0] == 0
    assert results(finished) == EVERYTHING


def test_changed_code_runs_the_stages_that_import_it_and_comments_run_nothing(finished, monkeypatch):
    supernet = finished / "hlrs/nas/supernet.py"
    replace(supernet, '"""Weights of a cell', '"""The weights of a cell')
    replace(supernet, "def initialize_alphas(", "# a remark\ndef initialize_alphas(")
    replace(finished / "hlrs/report/page.html.j2", "<body>", '<body class="changed">')
    assert snakemake(finished) == REPORT
    assert '<body class="changed">' in (finished / "report/index.html").read_text()
    replace(supernet, "scale: float = 1e-3", "scale: float = 2e-3")
    with at_work_in(finished, monkeypatch):
        assert due_here() == runs_of("darts", "hlrs")


@pytest.mark.slow
def test_new_kinds_and_moved_modules_run_nothing_and_a_changed_kind_runs_its_users(finished, monkeypatch):
    """A kind is added to each table; a module is renamed with all its mentions; then a schedule changes."""
    package = finished / "hlrs"
    for table, file in TABLES.items():
        (package / file).write_text(with_kind(table, "brand_new")((package / file).read_text()))
        with at_work_in(finished, monkeypatch):
            assert due_here() == NOTHING, table
    for path in package.rglob("*.py"):
        path.write_text(re.sub(r"\bbilevel\b", "twofold", path.read_text()))
    (package / "nas/bilevel.py").rename(package / "nas/twofold.py")
    with at_work_in(finished, monkeypatch):
        assert due_here() == NOTHING
    replace(package / "nas/arch_lr.py", "return 1.0\n", "return 0.5\n")
    with at_work_in(finished, monkeypatch):
        assert due_here() == runs_of("darts")


# --- what would run -----------------------------------------------------------------------------------


def remove(folder, *jobs):
    """Remove the results of jobs, each named stage/run."""
    for job in jobs:
        shutil.rmtree(folder / "results" / job)


def due_here():
    """How often the plan for the current folder's params would run each job."""
    jobs = plan.plan(load(Path("params.yaml")))
    plan.restore(jobs)
    return Counter(f"{job.stage}/{job.run}" for job in plan.due(jobs))


CHAIN = ("search", "extract", "retrain", "evaluate")
SITUATIONS = {  # edits of a folder in which everything ran; test_plan.py has more of them
    "a method edited": lambda folder: edit(folder / "params.yaml", **COSINE),
    "an input of several jobs": lambda folder: remove(
        folder, "report", "split", *(f"{stage}/digits/darts" for stage in CHAIN)
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_plan_names_the_jobs_that_snakemake_would_run(finished, monkeypatch, situation):
    SITUATIONS[situation](finished)
    output = run(finished, "snakemake", "-n").stdout
    expected = re.findall(r"^ +output: results/(\S+)/[0-9a-f]{12}/", output, re.MULTILINE)
    monkeypatch.chdir(finished)
    assert due_here() == Counter(expected)
    assert expected


def test_hlrs_plan_shows_what_would_run_and_its_cost_from_real_records(finished):
    assert hlrs(finished, "plan")[1].count("\n") == 1
    edit(finished / "params.yaml", **{"matrix.seeds": [1]})
    before = in_results(finished)
    facts = json.loads(hlrs(finished, "plan", "--json")[1])
    assert in_results(finished) == before
    due = Counter(f"{job['stage']}/{job['run']}".removesuffix("/1") for job in facts["due"])
    assert due == Counter(name.removesuffix("/0") for name in runs_of("darts", "hlrs").elements())
    assert {job["estimate"]["basis"] for job in facts["due"]} == {"records"}
    assert not (finished / ".hlrs/calibration.json").exists()
    records = [json.loads(path.read_text()) for path in (finished / "results").rglob(PROVENANCE)]
    took = sum(record["seconds"] for record in records if record["stage"] != "split")
    assert facts["gpu_hours"] + facts["cpu_hours"] == pytest.approx(took / 3600, rel=0.5)


def test_an_estimate_without_records_has_the_right_magnitude(first, repository, tmp_path):
    folder = duplicate(repository, tmp_path / "folder")
    shown = hlrs(folder, "plan", "--json")[1]
    facts = json.loads(shown[shown.index("{") :])  # after the lines on what is measured
    assert not (folder / "results").exists()
    assert Counter(f"{job['stage']}/{job['run']}" for job in facts["due"]) == EVERYTHING
    estimates = {job["stage"]: job["estimate"] for job in facts["due"]}
    for stage in TRAINED:
        assert estimates[stage]["basis"] == "measured"
        took = record(first[0], stage, "digits/darts/0")["training_seconds"]
        assert took / 20 < estimates[stage]["seconds"] < 20 * took


# --- while jobs run -----------------------------------------------------------------------------------


def test_a_running_workflow_refuses_others_and_after_a_kill_the_next_one_continues(recorded, tmp_path):
    folder = duplicate(recorded[0], tmp_path / "folder")
    edit(folder / "params.yaml", **{"search.epochs": 4})
    first_one = ("snakemake", "--cores", "1", "search_all")
    with counting(folder) as ran:
        with in_the_first_search(folder, *first_one, status=-signal.SIGKILL):
            [search] = [json.loads(path.read_text())["pid"] for path in (folder / locks.LEASES).iterdir()]
            os.kill(search, signal.SIGSTOP)  # so that it does not end in between
            claim = json.loads((folder / locks.RUN).read_text())
            running = (" ".join(first_one), f"process {claim['pid']} on {platform.node()}")
            stop = f"kill -INT -{claim['pid']}`"  # it leads a session of its own
            for command, status in (
                (("snakemake", "--quiet", "rules", "progress", "host", "--cores", "1"), 2),
                (("snakemake", "--unlock"), 2),
                (("dvc", "repro"), 255),
                (("hlrs", "prune"), 1),
            ):
                done = run(folder, *command, status=status)
                [line] = [line for line in done.stderr.splitlines() if line.startswith("hlrs: ")]
                for fact in (*running, stop):
                    assert fact in line, command
                assert "Traceback" not in done.stdout + done.stderr
            assert json.loads((folder / locks.RUN).read_text()) == claim
            os.kill(claim["pid"], signal.SIGKILL)
            os.kill(search, signal.SIGCONT)
        assert list((folder / ".snakemake/locks").iterdir())
        run(folder, *first_one)  # without --unlock; it uses the result of the search, which continued
    assert ran == Counter(["search/digits/darts/0", "search/digits/hlrs/0"])
    assert not (folder / locks.RUN).exists()
    assert results(folder) == EVERYTHING + ran


# --- mistakes -----------------------------------------------------------------------------------------


NO_FILE = {"kind": "parquet", "train": ["data/none.parquet"]}


@pytest.mark.parametrize(
    ("params", "arguments", "named"),
    [
        ({"datasets.digits.source": NO_FILE}, [], "data/none.parquet"),
        ({"search.epochs": 3}, ["--config", "epochs=4"], "epochs"),
    ],
    ids=["data file", "--config"],
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


def test_git_and_dvc_checkout_switch_versions_and_run_nothing(recorded, edited, tmp_path):
    folder = duplicate(edited[0], tmp_path / "folder")
    shutil.rmtree(folder / ASIDE)  # so that results come from DVC's cache
    for revision, version in (("HEAD~1", recorded[0]), ("main", edited[0])):
        run(folder, "git", "checkout", "--quiet", revision)
        run(folder, "dvc", "checkout")
        assert dvc_status(folder) == CLEAN
        assert in_results(folder) == in_results(version)
        assert tree(folder / "report") == tree(version / "report")
        if revision == "HEAD~1":
            assert snakemake(folder) == NOTHING
            assert executions(folder, "dvc", "repro") == NOTHING
            assert dvc_status(folder) == CLEAN


@pytest.mark.slow
def test_a_fresh_clone_with_dvc_pull_has_the_data_and_nothing_to_do(recorded, tmp_path):
    folder, clone = duplicate(recorded[0], tmp_path / "folder"), tmp_path / "clone"
    (folder / "data/mine").mkdir()
    (folder / "data/mine/images").write_text("images")
    run(folder, "dvc", "add", "data/mine")
    run(folder, "dvc", "commit", "--force", "split", "lookup")  # which depend on data/
    run(folder, "dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    commit(folder, "Store")
    assert "data/mine" not in run(folder, "git", "ls-files", "data/mine").stdout
    run(folder, "dvc", "push")
    run(tmp_path, "git", "clone", "--quiet", str(folder), str(clone))
    run(clone, "dvc", "pull")
    assert dvc_status(clone) == CLEAN
    assert snakemake(clone) == NOTHING
    assert "everything agrees" in run(clone, "hlrs", "audit").stdout
    for name in ("results", "report", "data"):
        assert tree(clone / name) == tree(folder / name)


def test_dvc_yaml_names_what_the_keys_depend_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = pipeline()["stages"]
    params = tiny()
    params["evaluate"]["table"], params["datasets"]["digits"]["table_column"] = "cells.csv", "a"
    params["search"] |= {"space": {"kind": "nasbench201"}, "nodes": 4, "cells": 3}
    params["retrain"] |= {"auxiliary_weight": 0.0, "drop_path": 0.0}
    for name in ("cells.csv", "cells.csv!"):
        Path(name).write_text(lines())
    params["datasets"]["more"] = params["datasets"]["digits"] | {"seed": 1}
    params["matrix"]["datasets"] = ["digits", "more"]
    before = keys(params)
    sections = {stage: set() for stage in OUTPUTS}
    for section, changed in edits(params):
        with contextlib.suppress(ValidationError, UserError):  # such as of a column that the table lacks
            after = keys(changed)
            for stage in OUTPUTS:
                sections[stage] |= {section} if after[stage] != before[stage] else set()
    assert sections["report"] == set(params)  # every section was edited with effect
    assert {stage: set(declared["params"]) for stage, declared in stages.items()} == sections
    sources = {stage: {"hlrs"} for stage in OUTPUTS}
    for stage in ("split", "lookup"):
        sources[stage].add("data")
    for job in plan.plan(Params.model_validate(params)):
        sources[job.stage] |= {"/".join(Path(path).parts[:2]) for path in job.inputs.values()}
    assert {stage: set(declared["deps"]) for stage, declared in stages.items()} == sources


def keys(params):
    """Stage -> keys of its jobs."""
    planned_jobs = plan.plan(Params.model_validate(params))
    return {stage: {job.key for job in planned_jobs if job.stage == stage} for stage in OUTPUTS}


def edits(params):
    """(section, params with one entry changed) for every entry, defaults included; not all are valid."""
    full = Params.model_validate(params).model_dump(mode="json")
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
