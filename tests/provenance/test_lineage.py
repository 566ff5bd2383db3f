"""Lineage of a workflow that ran and was recorded twice: from a number to the data, and back in time."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from hlrs.artifacts import code_digest
from hlrs.artifacts.jobs import ASIDE, OUTPUTS, PROVENANCE
from hlrs.artifacts.records import seal
from hlrs.config.params import load
from hlrs.data.sources.arrays import digits_file
from hlrs.errors import UserError
from hlrs.pipeline import plan
from hlrs.pipeline.plan_view import why
from hlrs.provenance import lineage_view
from hlrs.provenance.differences import differences
from hlrs.provenance.lineage import earlier, facts, find, read_here, trace
from tests.conftest import at_work_in, edit
from tests.pipeline.test_workflow import (  # noqa: F401
    commit,
    duplicate,
    edited,
    first,
    once,
    recorded,
    replace,
    repository,
    run,
    sha256,
    unsearched,
)

STAGES = ["split", "search", "extract", "retrain", "evaluate"]


@pytest.fixture
def folder(edited, tmp_path, monkeypatch):  # noqa: F811
    """A copy of the twice-recorded folder, made current; the package's code is the copy's."""
    copy = duplicate(edited[0], tmp_path / "lineage")
    with at_work_in(copy, monkeypatch):
        yield copy


def read():
    return load(Path("params.yaml"))


def lineage(asked):
    return trace(find(asked, plan.plan(read())), read_here)


def directory(stage, name="digits/hlrs/0"):
    [found] = Path("results", stage, name).iterdir()
    return found


def test_a_cell_of_the_report_leads_to_the_data(folder):
    found = facts(lineage("digits/hlrs/0"))
    metrics = directory("evaluate") / "metrics.json"
    assert found["artifacts"] == [{"path": str(metrics), "sha256": sha256(metrics), "matches": True}]
    jobs = {job["stage"]: job for job in found["jobs"]}
    assert jobs.keys() == set(STAGES)
    for stage, job in jobs.items():
        assert job["directory"] == str(directory(stage, "digits" if stage == "split" else "digits/hlrs/0"))
        record = json.loads(Path(job["directory"], PROVENANCE).read_text())
        assert {name: job[name] for name in record} == record
        assert job["matches"] == dict.fromkeys(OUTPUTS[stage], True)
    read_by_search = {Path(entry["path"]).parent for entry in jobs["search"]["inputs"].values()}
    assert read_by_search == {Path(jobs["split"]["directory"])}
    digits = digits_file().read_bytes()
    assert found["data"] == {
        "digits": [
            {
                "name": "digits",
                "path": str(digits_file()),
                "bytes": len(digits),
                "sha256": hashlib.sha256(digits).hexdigest(),
            }
        ]
    }
    assert found["missing"] == []


@pytest.mark.parametrize(
    ("asked", "stages"),
    [
        ("digits/darts/0", STAGES),
        ("digits", STAGES),
        ("report/metrics.json", [*STAGES, "report"]),
        ("report", [*STAGES, "report"]),
        ("RETRAIN/history.parquet", ["split", "search", "extract", "retrain"]),
        ("EXTRACT", ["split", "search", "extract"]),
    ],
)
def test_cells_data_sets_files_and_folders_have_a_lineage(folder, asked, stages):
    for stage in STAGES[1:]:
        asked = asked.replace(stage.upper(), str(directory(stage)))
    assert {record.stage for record in lineage(asked).records.values()} == set(stages)
    absolute = lineage(str(Path(asked).resolve())) if Path(asked).exists() else lineage(asked)
    assert absolute.targets == lineage(asked).targets


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("digits/hlrs/7", "data set/method/seed of the params"),
        ("params.yaml", "folder of a result"),
        ("results/search", "folder of a result"),
        ("/", "current folder"),
    ],
)
def test_a_path_without_a_lineage_is_one_line(folder, asked, message):
    with pytest.raises(UserError, match=f"^{asked}: .*{message}") as caught:
        lineage(asked)
    assert "\n" not in str(caught.value)


def test_a_missing_record_is_one_line(folder):
    path = directory("search")
    (path / PROVENANCE).unlink()
    with pytest.raises(UserError, match=f"^{path}/provenance.json: .*alphas.parquet"):
        lineage(str(path / "alphas.parquet"))


def test_a_cell_without_a_result_is_named(folder):
    edit(Path("params.yaml"), **{"retrain.epochs": 3})
    with pytest.raises(UserError, match=r"^digits/hlrs/0: .*`dvc pull` .*`hlrs plan`"):
        lineage("digits/hlrs/0")


# --- what is shown ------------------------------------------------------------------------------------


def test_the_tree_shows_everything_once_and_fits(folder):
    lines = [*lineage_view.tree(lineage("digits/hlrs/0"), 110)]
    assert max(map(len, lines)) <= 110
    text = "\n".join(lines)
    for stage in STAGES:
        name = "digits" if stage == "split" else "digits/hlrs/0"
        assert text.count(f"{stage} {directory(stage, name).name} · code ") == 1
    for stage, name in {
        "search": "alphas.parquet",
        "extract": "genotype.json",
        "retrain": "weights.safetensors",
    }.items():
        assert text.count(sha256(directory(stage) / name)) == 1
    assert text.count(sha256(digits_file())) == 1
    assert "arch_lr: cosine, final 0.2" in text
    assert "objective: bilateral, branch_cells 1, " in text
    assert re.search(r"Shared by all 5 jobs:\n  lock     [0-9a-f]{64}\n  image    none\n  host     ", text)
    assert len(re.findall(r"  commit [0-9a-f]{40}\n", text)) == 5  # the split is of an earlier one
    assert "!" not in text


def test_the_tree_marks_what_differs_from_the_records(folder):
    (directory("extract") / "genotype.json").write_text("{}")
    (directory("split", "digits") / PROVENANCE).unlink()
    (directory("retrain") / "weights.safetensors").unlink()
    text = "\n".join(lineage_view.tree(lineage("digits/hlrs/0"), 200))
    assert re.search(r"genotype.json +sha256 \w{64}  ! .*other bytes", text)
    assert re.search(r"weights.safetensors +sha256 \w{64}  \(not here\)", text)
    assert re.search(f"! .*{directory('split', 'digits')}/provenance.json", text)


def test_many_runs_take_one_line_each(folder):
    lines = [*lineage_view.tree(lineage("report"), 110)]
    for method in ("darts", "hlrs"):
        keys = [directory("split", "digits").name]
        keys += [directory(stage, f"digits/{method}/0").name for stage in STAGES[1:]]
        [line] = [line for line in lines if line.startswith(f"digits/{method}/0")]
        assert line.split()[1:] == keys


def test_the_table_marks_runs_whose_files_do_not_match(folder):
    """An edited output of one run, and an input of another that was made again with other bytes."""
    (directory("extract") / "genotype.json").write_text("{}")
    path = directory("retrain", "digits/darts/0") / PROVENANCE
    record = json.loads(path.read_text())
    record["outputs"]["weights.safetensors"] = "0" * 64
    path.write_text(json.dumps(record | {"seal": seal(record)}))
    lines = [*lineage_view.tree(lineage("report"), 110)]
    rows = {line.split()[0]: line for line in lines if line.startswith("digits/")}
    marked = {name: re.findall(r"(\w{12}) !", row) for name, row in rows.items()}
    assert marked == {
        "digits/hlrs/0": [directory("extract").name],
        "digits/darts/0": [directory(s, "digits/darts/0").name for s in ("retrain", "evaluate")],
    }
    assert any(line.startswith("! ") and "`hlrs audit`" in line for line in lines)


def test_the_graph_holds_every_job_and_link(folder):
    found = lineage("report")
    links = {(s, d) for d in found.records for s in found.sources(d)}
    assert len(found.records) == 10
    assert len(links) == 7 * 2 + 9  # of two runs, into the report
    dot = lineage_view.dot(found)
    drawn = re.findall(r'^  "([^"]+)" -> "([^"]+)" \[label=', dot, re.MULTILINE)
    assert set(drawn) == links


# --- methods without a search, several retrainings ----------------------------------------------------


@pytest.fixture
def retrained(unsearched, tmp_path, monkeypatch):  # noqa: F811
    """A copy of the folder without searches, made current."""
    copy = duplicate(unsearched[0], tmp_path / "retrained")
    with at_work_in(copy, monkeypatch):
        yield copy


@pytest.mark.parametrize(
    ("asked", "runs"),
    [
        ("digits/fixed/0", ["digits", "digits/fixed/0"]),
        ("digits/fixed/0-3", ["digits", "digits/fixed/0", "digits/fixed/0-3"]),
        ("digits/resnet/0-3", ["digits", "digits/resnet/0-3"]),
        ("digits/resnet", ["digits", "digits/resnet/0", "digits/resnet/0-3"]),
    ],
)
def test_a_retraining_leads_to_its_genotype(retrained, asked, runs):
    assert sorted({record.run for record in lineage(asked).records.values()}) == runs


def test_a_search_stands_for_its_retrainings_if_none_has_seed_0(retrained):
    edit(Path("params.yaml"), **{"matrix.retrain_seeds": [3]})
    assert lineage("digits/fixed/0").targets == lineage("digits/fixed/0-3").targets


def test_a_retraining_is_one_tree_with_its_genotype(retrained):
    text = "\n".join(lineage_view.tree(lineage("digits/fixed/0-3"), 110))
    keys = {stage: directory(stage, f"digits/fixed/{seed}").name for stage, seed in RETRAINED.items()}
    for stage, key in keys.items():
        assert text.count(f"{stage} {key} · code ") == 1
    assert "genotype PC_DARTS" in text
    assert "retrain_seed 3" in text


RETRAINED = {"extract": "0", "retrain": "0-3", "evaluate": "0-3"}


def test_the_line_of_a_retraining_has_its_genotypes_key(retrained):
    lines = [*lineage_view.tree(lineage("report"), 110)]
    split = directory("split", "digits").name
    extract = directory("extract", "digits/fixed/0").name
    for run_, keys in (("fixed/0", [extract]), ("fixed/0-3", [extract]), ("resnet/0-3", [])):
        own = [directory(stage, f"digits/{run_}").name for stage in ("retrain", "evaluate")]
        [line] = [line for line in lines if line.startswith(f"digits/{run_} ")]
        assert line.split()[1:] == [split, *keys, *own]


@pytest.mark.parametrize("asked", ["report", "digits/fixed/0-3", "digits/resnet/0"])
def test_the_graph_without_a_search_holds_every_job_and_link(retrained, asked):
    found = lineage(asked)
    links = {(s, d) for d in found.records for s in found.sources(d)}
    assert lineage_view.dot(found).count(" [label=") == len(found.records) + len(links)


def test_why_a_retraining_would_run(retrained):
    edit(Path("params.yaml"), **{"matrix.retrain_seeds": [0, 3, 5], "methods.fixed.retrain": {"epochs": 3}})
    assert reasons("digits/fixed/0-3")["retrain"][2:] == ["methods.fixed.retrain.epochs 2 -> 3"]
    assert reasons("digits/resnet/0-5")["retrain"][2:] in (["retrain_seed 0 -> 5"], ["retrain_seed 3 -> 5"])
    assert [*reasons("digits/fixed/0")] == ["extract", "retrain", "evaluate"]


# --- two versions -------------------------------------------------------------------------------------


def since(found, revision):
    return differences(earlier(found, revision).records.values(), found.records.values(), read())


def test_what_differs_from_an_earlier_commit(folder):
    found = lineage("digits/hlrs/0")
    changes = {d.stage: d for d in since(found, "HEAD~1")}
    assert [*changes] == STAGES
    assert changes["split"].same
    lines = {stage: [*lineage_view.words(change)] for stage, change in changes.items()}
    assert lines["search"][0] == "methods.hlrs.arch_lr.kind coupled -> cosine (final 0.2)"
    assert lines["extract"][0].endswith(": alphas")
    assert lines["retrain"][0].endswith(": genotype")
    assert lines["evaluate"][0].endswith(": genotype, weights")
    assert "alphas.parquet, history.parquet" in lines["search"][-1]
    assert all(d.same for d in since(found, "HEAD"))
    darts = lineage("digits/darts/0")
    assert all(d.same for d in since(darts, "HEAD~1"))


@pytest.mark.parametrize(
    ("revision", "message"),
    [("nowhere", "^nowhere: .*`git log`"), ("HEAD~2", r"^HEAD~2: .*\bdvc\.lock\b")],
)
def test_a_revision_that_cannot_be_compared_is_one_line(folder, revision, message):
    with pytest.raises(UserError, match=message):
        earlier(lineage("digits/hlrs/0"), revision)


def test_an_edited_copy_in_the_published_report_is_refused(folder):
    copy = folder / "report" / "summary.csv"
    content = copy.read_text()
    copy.write_text(content.replace("0.", "0.9", 1))
    [line] = run(folder, "hlrs", "lineage", "report/summary.csv", status=2).stderr.splitlines()
    copy.write_text(content)
    assert line.startswith("hlrs: report/summary.csv: was edited")
    assert run(folder, "hlrs", "lineage", "report/summary.csv").stdout


def test_the_command_shows_a_tree_differences_or_json(folder):
    assert run(folder, "hlrs", "lineage", "digits/hlrs/0").stdout.startswith(
        "results/evaluate/digits/hlrs/0/"
    )
    shown = run(folder, "hlrs", "lineage", "digits/hlrs/0", "--since", "HEAD~1").stdout
    headline, _, first_job, *_ = shown.splitlines()
    assert "4 of 5 jobs" in headline
    assert "HEAD~1" in headline
    assert first_job == "search digits/hlrs/0"
    jobs = json.loads(run(folder, "hlrs", "lineage", "report/index.html", "--json").stdout)["jobs"]
    assert len(jobs) == 10
    failed = run(folder, "hlrs", "lineage", "digits/hlrs/0", "--since", "HEAD~1", "--dot", status=2)
    [line] = failed.stderr.splitlines()
    for fact in ("hlrs: --dot ", "--since", "--json"):
        assert fact in line


# --- why a key is what it is --------------------------------------------------------------------------


def reasons(name):
    """stage -> lines about a run."""
    params = read()
    found: dict[str, list[str]] = {}
    for line in why(name, plan.plan(params), params, 500):
        if line[0] != " ":
            stage, text = line[:9].strip(), line[9:]
            found[stage] = [text]
        else:
            found[stage].append(line.strip())
    return found


def test_an_existing_run_has_nothing_to_explain(folder):
    found = reasons("digits/hlrs/0")
    assert [*found] == STAGES[1:]
    for stage, [line] in found.items():
        assert directory(stage).name in line


def test_parameter_function_and_input_are_named(folder):
    old = {stage: directory(stage).name for stage in STAGES[1:]}
    edit(Path("params.yaml"), **{"search.epochs": 4})
    replace(Path("hlrs/nas/bilevel.py"), "list(torch.autograd.grad(validation(), alphas))", "[*alphas]")
    code_digest.here.cache_clear()
    found = reasons("digits/hlrs/0")
    assert old["search"] in found["search"][1]
    epochs, code = found["search"][2:]
    assert epochs == "search.epochs 2 -> 4"
    assert "nas.bilevel.first_order" in code
    [new] = [j.key for j in plan.plan(read()) if j.stage == "search" and j.run == "digits/hlrs/0"]
    assert found["extract"][2:] == [f"input alphas: search {old['search']} -> search {new}"]


def test_a_new_seed_is_compared_with_the_nearest_run(folder):
    edit(Path("params.yaml"), **{"matrix.seeds": [0, 5]})
    assert reasons("digits/hlrs/5")["search"][2:] == ["seed 0 -> 5"]
    assert "digits/hlrs/0" in reasons("digits/hlrs/5")["search"][1]


def test_without_any_result_there_is_nothing_to_compare_with(folder):
    shutil.rmtree("results")
    shutil.rmtree(ASIDE, ignore_errors=True)
    [line] = reasons("digits/hlrs/0")["search"][1:]
    assert "no result" in line
    with pytest.raises(UserError, match=r"^digits/none/0: .*: digits, "):
        reasons("digits/none/0")


def test_why_in_json_is_refused(folder):
    failed = run(folder, "hlrs", "plan", "--why", "digits/hlrs/0", "--json", status=2)
    for fact in ("hlrs: --json ", "--why"):
        assert fact in failed.stderr
