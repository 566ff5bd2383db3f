"""A finished run, damaged in every way: the audit names the file, and no command ends in a traceback."""

import functools
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from dvc.repo import Repo

from hlrs.artifacts import records
from hlrs.artifacts.jobs import OUTPUTS, PROVENANCE, key_of
from hlrs.artifacts.records import seal
from hlrs.artifacts.tables import read_table, write_table
from hlrs.cli import main
from hlrs.config.params import load
from hlrs.pipeline import plan
from hlrs.provenance.audit import Audit, check_data, report
from hlrs.provenance.dvc_lock import tree_digest
from hlrs.provenance.files import digests
from tests.conftest import TINY, edit, make_all

REPORT = [f"report/{name}" for name in [*OUTPUTS["report"], PROVENANCE]]
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder, not to be changed, in which everything was made and published."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "params.yaml").write_text(yaml.safe_dump(TINY))
    make_all(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of it, the current folder."""
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "damaged"))


@functools.cache
def planned():
    """The jobs of the folder's params."""
    return plan.plan(load(Path("params.yaml")))


def audit():
    """The findings that break something, as path -> what; each is one printable line."""
    audited = Audit(planned())
    found = [finding for finding in audited.findings() if finding.broken]
    assert all(line.isprintable() for line in report(audited, found))
    return {finding.path: finding.what for finding in found}


def result(stage, run="digits/hlrs/0"):
    [found] = Path("results", stage, run).iterdir()
    return found


# --- kinds of damage ----------------------------------------------------------------------------------


def edited(path):
    content = path.read_bytes()
    path.write_bytes(content.replace(b"0", b"1", 1) if b"0" in content else content + b"1")


def emptied(path):
    path.write_bytes(b"")


def dangling(path):
    path.unlink()
    path.symlink_to("nowhere")


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def unreadable(path):
    path.unlink()
    path.symlink_to("/proc/self/mem")  # its first byte cannot be read, by root neither


def a_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = [Path.unlink, edited, emptied, dangling, fifo, unreadable, a_folder]


def repair(path, whole):
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    shutil.copyfile(whole / path, path)


# --- report/ ------------------------------------------------------------------------------------------


def test_a_finished_run_is_whole_with_its_report_and_without(folder):
    assert audit() == {}
    shutil.rmtree("report")
    assert audit() == {}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_each_file_of_the_report_is_missed_and_compared(made, folder, damage):
    for path in map(Path, REPORT):
        damage(path)
        assert audit().keys() == {str(path)}
        repair(path, made)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_replaced_page_is_found_beside_a_damaged_record(folder, damage):
    edited(Path("report/index.html"))
    damage(Path("report/provenance.json"))
    assert audit().keys() == {"report/index.html", "report/provenance.json"}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_replaced_page_is_found_beside_a_damaged_record_of_its_result(folder, damage):
    edited(Path("report/index.html"))
    record = result("report", "all") / PROVENANCE
    damage(record)
    assert {"report/index.html", str(record)} <= audit().keys()


def test_a_replaced_page_whose_result_is_gone_is_compared_with_its_own_record(folder):
    shutil.rmtree("results/report")
    assert audit() == {}
    edited(Path("report/index.html"))
    Path("report/plots/search.csv").unlink()
    assert audit() == {
        "report/index.html": "is not the one on record in report/provenance.json",
        "report/plots/search.csv": "is on record in report/provenance.json, but missing here",
    }


def test_a_record_edited_to_name_another_result_hides_no_replaced_page(folder):
    edited(Path("report/index.html"))
    path = Path("report/provenance.json")
    record = json.loads(path.read_text()) | {"key": "0123456789ab"}
    path.write_text(json.dumps(record | {"seal": seal(record)}))
    assert audit() == {
        "report/index.html": f"is not the one on record in {result('report', 'all')}/provenance.json",
        "report/provenance.json": "holds parameters, code or inputs that do not fit its key",
    }


def test_the_record_of_another_stage_is_none_of_a_report(folder):
    shutil.copyfile(result("search") / PROVENANCE, "report/provenance.json")
    assert audit() == {"report/provenance.json": "is the record of search digits/hlrs/0"}


@pytest.mark.parametrize("name", ["mine.csv", "plots/mine.csv", "index.html.tmp", "plots/more/mine.csv"])
def test_a_file_added_to_the_report_is_named(folder, name):
    path = Path("report", name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    assert audit().keys() == {str(path)}


def test_a_report_without_record_and_result_is_a_finding(folder):
    shutil.rmtree("results/report")
    Path("report/provenance.json").unlink()
    assert audit() == {"report/provenance.json": "no such file"}


@pytest.mark.parametrize("damage", [fifo, dangling, edited], ids=lambda damage: damage.__name__)
def test_a_report_that_is_no_folder_is_a_finding(folder, damage):
    shutil.rmtree("report")
    Path("report").touch()
    damage(Path("report"))
    assert audit()["report"].startswith("cannot be listed: ")


# --- results/ -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_each_artifact_and_record_is_named(made, folder, damage):
    tried = set()
    for path in sorted(path for path in Path("results").rglob("*") if path.is_file()):
        if path.parts[1] not in ("split", "report") and path.parts[3] != "hlrs":
            continue
        damage(path)
        assert str(path) in audit()
        tried.add((path.parts[1], path.name))
        repair(path, made)
    made_here = {stage: names for stage, names in OUTPUTS.items() if stage != "lookup"}  # without a table
    assert len(tried) == sum(len(names) + 1 for names in made_here.values())


@pytest.mark.parametrize("damage", DAMAGES[1:], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", ["more", "more/more", "../more", "more\n1 broken", os.fsdecode(b"\xff")])
def test_what_was_added_is_named(folder, name, damage):
    path = result("search") / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    damage(path)
    if damage is a_folder:
        (path / "in it").touch()
        path /= PROVENANCE if name == "../more" else "in it"  # it looks like the folder of a result
    assert [os.path.normpath(found) for found in audit()] == [os.path.normpath(path)]


def test_a_link_that_leads_up_is_named_and_not_followed(folder):
    path = result("search") / "up"
    path.symlink_to("../../../..")
    assert audit() == {str(path): "is not on record"}
    path.rename("results/search/up")
    assert audit() == {"results/search/up": "is not in the folder of a result"}


def test_results_behind_links_are_read(folder):
    for name in ("results/search", "results"):
        Path(name).rename("elsewhere")
        Path("elsewhere").rename(f"{name.replace('/', '-')}-there")
        Path(name).symlink_to(Path(f"{name.replace('/', '-')}-there").resolve())
    assert audit() == {}
    edited(result("search") / "alphas.parquet")
    assert audit().keys() == {str(result("search") / "alphas.parquet")}


# --- records ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [300, 900, 100_000])
def test_a_record_that_is_nested_deeply_is_named(folder, size):
    path = result("search") / PROVENANCE
    text = path.read_text().rstrip().removesuffix("}")
    path.write_text(text + ', "more": ' + "[" * size + "]" * size + "}")
    assert str(path) in audit()
    path.write_text(text.replace('"seed": 0', '"seed": ' + "[" * size + "]" * size, 1) + "}")
    assert str(path) in audit()


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"{}" * 99, b"NaN", b"9" * 9999, b'{"key": "\\ud800"}'])
def test_a_record_that_is_no_record_is_named(folder, content):
    path = result("search") / PROVENANCE
    path.write_bytes(content)
    assert str(path) in audit()


def test_a_record_larger_than_any_is_not_read(folder, monkeypatch):
    path = result("report", "all") / PROVENANCE
    size = max(found.stat().st_size for found in Path("results/report").rglob(PROVENANCE))
    monkeypatch.setattr(records, "LARGEST", size - 1)
    assert audit()[str(path)] == "larger than any record, so these artifacts have no recorded origin"


def reseal(path, **changes):
    """Edit a record and renew its seal."""
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(record | {"seal": seal(record)}))


def remarks():
    """The findings that break nothing, as (path, what, remedy)."""
    found = [finding for finding in Audit(planned()).findings() if not finding.broken]
    return [(finding.path, finding.what, finding.remedy) for finding in found]


def test_what_was_made_from_another_version_of_a_result_is_named(folder):
    """The genotype and its record agree, but neither is what the jobs behind them read."""
    path = result("extract") / "genotype.json"
    edited(path)
    outputs = json.loads((path.parent / PROVENANCE).read_text())["outputs"]
    reseal(path.parent / PROVENANCE, outputs=outputs | {path.name: digests([path])[str(path)].sha256})
    found = audit()
    readers = (("retrain", "digits/hlrs/0"), ("evaluate", "digits/hlrs/0"), ("report", "all"))
    assert found.keys() == {str(result(stage, run) / OUTPUTS[stage][0]) for stage, run in readers}
    assert all(what.startswith("was made from another ") for what in found.values())


def test_inputs_that_are_gone_break_only_results_that_the_params_ask_for(folder):
    readers = {str(result("evaluate") / "metrics.json"), str(result("report", "all") / "index.html")}
    gone = result("retrain") / "weights.safetensors"
    gone.unlink()
    assert audit().keys() == {str(gone)} | readers - {str(result("report", "all") / "index.html")}
    shutil.rmtree(gone.parent)
    assert audit().keys() == readers
    edit(Path("params.yaml"), **{"matrix.methods": ["darts"]})
    assert not [f for f in Audit(plan.plan(load(Path("params.yaml")))).findings() if f.broken]


def test_a_result_made_outside_git_is_no_result_of_a_commit_that_could_be_fetched(folder):
    reseal(result("search") / PROVENANCE, commit=None)
    [(what, remedy)] = [(what, remedy) for _, what, remedy in remarks() if "outside" in what]
    assert what == "made outside a Git checkout, so their code cannot be checked: digits/hlrs/0"
    assert "git fetch" not in remedy


def test_where_git_is_missing_that_is_said(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    [(what, remedy)] = [(what, fix) for path, what, fix in remarks() if path == "results/search"]
    assert what == "git is not installed, so their code cannot be checked: digits/{darts,hlrs}/0"
    assert remedy == "install git"
    said = complaint(["lineage", "digits/hlrs/0", "--since", "HEAD"])
    assert said == "hlrs: --since HEAD: needs git, which is not installed; install it\n"


def test_the_versions_in_which_compared_runs_differ_are_named_alone(folder):
    path = result("search") / PROVENANCE
    versions = json.loads(path.read_text())["versions"]
    reseal(path, versions=versions | {"torch": "0.0.1", "zlib": "7"})
    [what] = [what for path, what, _ in remarks() if path == "results/search" and "versions" in what]
    theirs = f"torch {versions['torch']} (1)"
    assert sorted(what.partition(": ")[2].split("; ")) == ["torch 0.0.1, zlib 7 (1)", theirs]
    reseal(path, versions=versions | {"zlib": "7"})
    [what] = [what for path, what, _ in remarks() if path == "results/search" and "versions" in what]
    assert sorted(what.partition(": ")[2].split("; ")) == ["none of these (1)", "zlib 7 (1)"]


def test_machines_of_results_that_the_params_do_not_ask_for_are_not_compared(folder):
    reseal(result("search") / PROVENANCE, cpu="Another CPU")
    assert any("Another CPU (1)" in what for _, what, _ in remarks())
    edit(Path("params.yaml"), **{"matrix.methods": ["darts"]})
    asked = [*Audit(plan.plan(load(Path("params.yaml")))).findings()]
    assert not any("Another CPU" in finding.what for finding in asked)


def test_results_that_rest_on_other_data_are_counted(folder):
    assert [*check_data(Audit(planned()))] == []
    path = result("split", "digits") / "files.parquet"
    columns = read_table(path, "files").to_pydict()
    write_table(path, "files", columns | {"sha256": ["0" * 64]})
    [finding] = check_data(Audit(planned()))
    assert (finding.affected, finding.rests) == (str(path.with_name("split.parquet")), 9)
    assert "other bytes than when digits was split" in finding.what


def rekey(stage, run="digits/hlrs/0", **fields):
    """Forge fields of a record, with a key and a seal that fit, and move its folder to where it belongs."""
    source = result(stage, run)
    record = json.loads((source / PROVENANCE).read_text()) | fields
    inputs = {name: entry["path"] for name, entry in record["inputs"].items()}
    names = ("stage", "run", "params", "code")
    record["key"] = key_of({name: record[name] for name in names} | {"inputs": inputs})
    path = source.rename(source.with_name(record["key"])) / PROVENANCE
    path.write_text(json.dumps(record | {"seal": seal(record)}))
    return path


START = {"name": "weights", "bytes": 1, "sha256": "0" * 64, "classifier": "kept"}


@pytest.mark.parametrize("retrain", [[], "x", {"start": 5}, {"start": []}])
def test_weights_to_begin_with_that_no_training_can_have_read_are_named(folder, retrain):
    path = rekey("retrain", params={"retrain": retrain}, start=START)
    assert audit()[str(path)].startswith("not the record of a job")


@pytest.mark.parametrize("retrain", [None, {}, {"start": "x" * 999}, {"start": "\0"}])
def test_weights_to_begin_with_that_are_not_here_are_remarked(folder, retrain):
    path = rekey("retrain", params={"retrain": retrain}, start=START)
    assert str(path) not in audit()
    [finding] = check_data(Audit(planned()))
    assert (finding.path, finding.broken) == (str(path), False)
    assert finding.what == "1 of 1 data files of digits/hlrs/0 are not here"
    assert complaint(["lineage", str(path.with_name("weights.safetensors"))]) == ""


@pytest.mark.parametrize("source", ["x", [], {}, {"kind": 5}])
def test_a_split_of_no_kind_of_source_is_named(folder, source):
    path = rekey("split", "digits", params={"source": source})
    assert audit()[str(path)].startswith("not the record of a job")
    assert str(path) in complaint(["lineage", str(path.with_name("split.parquet"))])


WRONG = [None, -1, "", "../../x", "\ud800", [[]], {"x": []}]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_record_with_a_field_of_a_wrong_type_is_named_though_its_seal_fits(folder, wrong):
    path = result("search") / PROVENANCE
    whole = json.loads(path.read_text())
    for field in ("key", "stage", "run", "params", "code", "inputs", "outputs", "ended"):
        forged = whole | {field: wrong}
        path.write_text(json.dumps(forged | {"seal": seal(forged)}))
        if field != "ended" or not isinstance(wrong, str):
            assert str(path) in audit()
    for field in whole.keys() - {"seal"}:
        path.write_text(json.dumps(whole | {field: wrong}))
        assert str(path) in audit() or whole[field] == wrong


COMMANDS = [
    ["plan"],
    ["lineage", "digits/hlrs/0"],
    ["lineage", "report", "--json"],
    ["lineage", "digits/hlrs/0", "--dot"],
    ["export", "--ro-crate", "crate"],
]


def complaint(arguments):
    """The one line on stderr of a command that fails; empty for one that ends well."""
    done = CliRunner().invoke(main, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), (arguments, done.exception)
    assert done.stderr.count("\n") == bool(done.exit_code), done.stderr
    shutil.rmtree("crate", ignore_errors=True)
    return done.stderr


def test_without_damage_every_command_works(folder):
    assert [complaint(arguments) for arguments in COMMANDS] == [""] * len(COMMANDS)


MALFORMED = [
    b"",
    b"\xff",
    b"[]",
    b"{}",
    b"null",
    b"9" * 9999,
    DEEP.encode(),
    b'{"x":' * 300 + b"1" + b"}" * 300,
]


@pytest.mark.parametrize("content", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_record_is_one_line_for_every_command(folder, content):
    path = result("search") / PROVENANCE
    path.write_bytes(content)
    for arguments in COMMANDS[1:]:
        assert str(path) in complaint(arguments), arguments
    assert complaint(COMMANDS[0]) == ""


@pytest.mark.parametrize("field", ["params", "outputs", "gpu", "ended", "throughput", "versions"])
def test_an_edited_record_is_one_line_for_every_command(folder, field):
    path = result("search") / PROVENANCE
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {field: [] if field == "throughput" else {}}))
    for arguments in COMMANDS[1:]:
        assert str(path) in complaint(arguments), arguments
    edit(Path("params.yaml"), **{"search.epochs": 4})
    assert complaint(["plan", "--why", "digits/hlrs/0"]) == ""  # it compares with earlier records


@pytest.mark.parametrize("damage", DAMAGES[1:], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", ["alphas.parquet", PROVENANCE])
def test_a_damaged_artifact_is_one_line_for_the_crate(folder, damage, name):
    path = result("search") / name
    damage(path)
    line = complaint(COMMANDS[-1])
    assert str(path) in line or " results that it asks for are missing" in line


def test_a_name_that_is_too_long_is_one_line(folder):
    assert complaint(["lineage", "x" * 999]).startswith(f"hlrs: {'x' * 999}: no such file")


# --- dvc.lock -----------------------------------------------------------------------------------------

LOCKS = {
    b"": None,
    b"{}": None,
    b"schema: '2.0'\nstages:\n": "is not what DVC writes: stages: ",
    b"stages: [1": "is not valid YAML, line 1",
    b"<<<<<<< HEAD\nschema: '2.0'\n=======\n": "is not valid YAML, line ",
    b"\xff\xfe": "is not valid YAML",
    b"[]": "is not what DVC writes: the whole: ",
    b"5": "is not what DVC writes: the whole: ",
    b"stages: 5": "is not what DVC writes: stages: ",
    b"stages: {search: {outs: {path: x}}}": "is not what DVC writes: stages.search.outs: ",
    b"stages: {search: {outs: [{md5: x}]}}": "is not what DVC writes: stages.search.outs.0.path: ",
    b"stages: {search: {outs: [{path: 1, md5: x}]}}": "is not what DVC writes: stages.search.outs.0.path: ",
    b"stages: {search: {outs: [{path: x, md5: 1}]}}": "is not what DVC writes: stages.search.outs.0.md5: ",
    b"[" * 5000: "is not valid YAML",
    b"{a: " * 5000: "is not valid YAML",
}


@pytest.mark.parametrize("content", LOCKS, ids=range(len(LOCKS)))
def test_a_malformed_lock_is_a_finding(folder, content):
    Path("dvc.lock").write_bytes(content)
    found = audit()
    if LOCKS[content] is None:
        assert found == {}
    else:
        assert [*found] == ["dvc.lock"]
        assert found["dvc.lock"].startswith(LOCKS[content])


@pytest.mark.parametrize("damage", [dangling, fifo, unreadable, a_folder], ids=lambda damage: damage.__name__)
def test_a_lock_that_is_no_file_is_a_finding(folder, damage):
    Path("dvc.lock").touch()
    damage(Path("dvc.lock"))
    assert audit().keys() == {"dvc.lock"}


@pytest.mark.parametrize("digest", ["../../../etc/passwd", "", "0" * 32 + ".dir", "\0"])
def test_a_digest_that_the_cache_does_not_hold_is_a_remark(folder, digest):
    outs = [{"path": "results/search", "md5": digest}]
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"search": {"outs": outs}}}))
    found = [*Audit(planned()).findings()]
    assert not any(finding.broken for finding in found)
    remarks = {(finding.path, finding.what) for finding in found}
    other = "is another version than dvc.lock's, whose listing DVC's cache does not hold"
    assert {("results/search", other), ("results/split", "is not in dvc.lock yet")} <= remarks


def record_by_dvc(*stages):
    """Write dvc.lock and the listings in the cache for results, as `dvc commit` does."""
    Repo.init(no_scm=True).close()
    Path("dvc.lock").touch()
    outs = {}
    for stage in stages:
        root = Path("results", stage)
        found = digests([path for path in sorted(root.rglob("*")) if path.is_file()])
        files = {str(Path(path).relative_to(root)): entry.md5 for path, entry in found.items()}
        digest = tree_digest(files)
        listing = Path(".dvc/cache/files/md5", digest[:2], digest[2:])
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text(json.dumps([{"md5": md5, "relpath": name} for name, md5 in sorted(files.items())]))
        outs[stage] = {"outs": [{"path": str(root), "md5": digest}]}
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": outs}))


def of_dvc():
    """The remarks that name dvc.lock."""
    return {path: what for path, what, _ in remarks() if "dvc.lock" in what}


def test_a_file_of_no_result_that_dvc_recorded_ends_no_audit(folder):
    path = Path("results/search/digits/notes.txt")
    path.write_text("mine")
    record_by_dvc("search")
    found = {str(path): "is not in the folder of a result"}
    assert audit() == found
    path.write_text("mine, edited")
    edited(result("search") / "alphas.parquet")
    broken = audit()
    assert broken.keys() == {str(path), str(result("search") / "alphas.parquet")}
    assert broken[str(path)] == found[str(path)]


def test_results_in_only_one_of_dvc_lock_and_the_folder_are_counted_not_their_folders(folder):
    record_by_dvc("report", "evaluate")
    others = ("split", "search", "extract", "retrain")  # no look-up is here, nor there
    assert of_dvc() == {f"results/{stage}": "is not in dvc.lock yet" for stage in others}
    target = result("report", "all")
    shutil.copytree(target, target.with_name("0123456789ab"))  # with plots/ below it
    assert of_dvc()["results/report"] == "1 result is not in dvc.lock yet"
    shutil.rmtree(target)
    shutil.rmtree(target.with_name("0123456789ab"))
    shutil.rmtree("results/evaluate")
    assert of_dvc()["results/report"] == "1 result is in dvc.lock but not here"
    assert of_dvc()["results/evaluate"] == "2 results are in dvc.lock but not here"


def test_what_a_record_shows_already_is_not_said_again_for_dvc_lock(folder):
    record_by_dvc("search", "retrain")
    gone, changed = result("search") / PROVENANCE, result("retrain") / "history.parquet"
    edited(result("search") / "history.parquet")
    gone.unlink()
    edited(changed)
    assert not [what for what in audit().values() if "dvc.lock" in what]
    Path(gone).write_text("{")  # in both, with other bytes
    assert not [what for what in audit().values() if "dvc.lock" in what]


def test_a_file_that_fits_its_record_but_not_dvc_lock_is_a_break(folder):
    record_by_dvc("search")
    path = result("search") / PROVENANCE
    reseal(path, host="elsewhere")
    assert audit()[str(path)] == "is not the version in dvc.lock"
