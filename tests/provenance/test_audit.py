"""The audit of a workflow that ran, was recorded by DVC and committed finds whatever is wrong."""

import json
import os
import shutil
from pathlib import Path

import pytest

from hlrs.artifacts import code_digest
from hlrs.artifacts.jobs import ASIDE, OUTPUTS, PROVENANCE, SPECS
from hlrs.artifacts.records import seal
from hlrs.config.params import load
from hlrs.pipeline import plan
from hlrs.provenance.audit import Audit, check_data
from hlrs.provenance.files import digests
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


@pytest.fixture(scope="module")
def whole(recorded, tmp_path_factory):  # noqa: F811
    """A copy of the recorded folder, made current; the package's code is the copy's, read once."""
    copy = duplicate(recorded[0], tmp_path_factory.mktemp("audited"))
    with pytest.MonkeyPatch.context() as patch, at_work_in(copy, patch):
        yield copy


@pytest.fixture
def folder(whole, recorded):  # noqa: F811
    """The same, restored after the test."""
    yield whole
    for name in ("results", "report"):
        shutil.rmtree(whole / name, ignore_errors=True)
        duplicate(recorded[0] / name, whole / name)
    shutil.copy2(recorded[0] / "params.yaml", whole)


@pytest.fixture
def own(recorded, tmp_path, monkeypatch):  # noqa: F811
    """A copy for one test, whose code or commits it changes."""
    copy = duplicate(recorded[0], tmp_path / "audited")
    with at_work_in(copy, monkeypatch):
        yield copy


def audit(check=lambda audited: audited.findings()):
    """The breaks and the remarks."""
    found = [*check(Audit(plan.plan(load(Path("params.yaml")))))]
    return [f for f in found if f.broken], [f for f in found if not f.broken]


def directory(stage, name="digits/hlrs/0"):
    [found] = Path("results", stage, name).iterdir()
    return found


def rewrite(path, **changes):
    """Edit a record and renew its seal."""
    record = json.loads(path.read_text()) | changes
    record["seal"] = seal(record)
    path.write_text(json.dumps(record))


def test_a_recorded_and_committed_workflow_is_intact(folder):
    assert audit() == ([], [])


def test_methods_without_a_search_and_retrainings_are_intact_too(unsearched, tmp_path, monkeypatch):  # noqa: F811
    with at_work_in(duplicate(unsearched[0], tmp_path / "audited"), monkeypatch):
        assert audit() == ([], [])
        genotype = directory("extract", "digits/fixed/0") / "genotype.json"
        genotype.write_text("{}")
        [broken], _ = audit()
        assert (broken.path, broken.rests) == (str(genotype), 5)  # two retrainings, as evaluated, the report


def test_a_byte_flipped_in_any_artifact_is_found_there(folder):
    tried = 0
    for path in sorted(Path("results").rglob("*")):
        if not path.is_file() or path.name == PROVENANCE:
            continue
        whole = path.read_bytes()
        digest = sha256(path)
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        broken, remarks = audit()
        assert [(f.path, f.affected) for f in broken] == [(str(path), str(path))]
        assert sha256(path)[:8] in broken[0].what
        assert digest[:8] in broken[0].what
        assert not remarks
        path.write_bytes(whole)
        tried += 1
    assert tried == 3 + 2 * (3 + 3 + 3 + 2) + len(OUTPUTS["report"])


def test_a_missing_artifact(folder):
    path = directory("retrain") / "weights.safetensors"
    path.unlink()
    broken, _ = audit()
    assert [(f.path, f.affected) for f in broken] == [
        (str(path), str(path)),
        (str(directory("evaluate") / "metrics.json"), str(directory("evaluate") / "metrics.json")),
    ]
    assert "missing" in broken[0].what
    assert f"weights.safetensors of {path.parent}" in broken[1].what


def test_the_results_that_rest_on_a_broken_artifact_are_counted(folder):
    path = directory("extract") / "genotype.json"
    path.write_text(path.read_text() + " ")
    [broken], _ = audit()
    assert broken.rests == 3  # its retraining and evaluation, the report


def test_the_remedy_restores_what_dvc_recorded_and_touches_nothing_else(own):
    """`dvc checkout --force` deletes what dvc.lock does not have."""
    damaged, other = (directory("extract", f"digits/{method}/0") for method in ("darts", "hlrs"))
    before = (damaged / "genotype.json").read_bytes()
    unrecorded = damaged.with_name("0" * len(damaged.name)) / "genotype.json"
    unrecorded.parent.mkdir()
    for path in (damaged / "genotype.json", other / "genotype.json", unrecorded):
        path.write_text("{}")
    remedies = {f.path: f.remedy for f in audit()[0]}
    command = f"dvc checkout --force {damaged}"
    assert f"`{command}`" in remedies[str(damaged / "genotype.json")]
    assert "dvc checkout" not in remedies[f"{unrecorded.parent}/{PROVENANCE}"]
    run(own, *command.split())
    assert (damaged / "genotype.json").read_bytes() == before
    assert (other / "genotype.json").read_text() == unrecorded.read_text() == "{}"
    Path("dvc.lock").unlink()
    assert not [f.remedy for f in audit()[0] if "dvc checkout" in f.remedy]


def test_a_swapped_genotype(folder):
    one, other = (
        directory("extract", f"digits/{method}/0") / "genotype.json" for method in ("darts", "hlrs")
    )
    content = one.read_bytes(), other.read_bytes()
    assert content[0] != content[1]
    one.write_bytes(content[1])
    other.write_bytes(content[0])
    assert [f.path for f in audit()[0]] == [str(one), str(other)]


def test_a_genotype_swapped_with_its_record_adjusted(folder):
    one, other = (directory("extract", f"digits/{method}/0") for method in ("darts", "hlrs"))
    shutil.copyfile(one / "genotype.json", other / "genotype.json")
    outputs = json.loads((other / PROVENANCE).read_text())["outputs"]
    rewrite(other / PROVENANCE, outputs=outputs | {"genotype.json": sha256(one / "genotype.json")})
    broken, _ = audit()
    found = {f.affected for f in broken}
    assert {
        str(directory("retrain") / "weights.safetensors"),
        str(directory("evaluate") / "metrics.json"),
    } < found
    assert str(other / "genotype.json") in {f.path for f in broken if "dvc.lock" in f.what}


@pytest.mark.parametrize("change", [{"seconds": 1.0}, {"host": "elsewhere"}, {"seed": 3}])
def test_an_edited_record(folder, change):
    path = directory("search") / PROVENANCE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    broken, _ = audit()
    assert any("seal" in f.what for f in broken if f.path == str(path))
    assert broken[0].affected == str(directory("search") / "alphas.parquet")
    report = str(directory("report", "all") / "index.html")  # it read the record as it was
    assert report in {f.affected for f in broken}


def test_a_record_of_other_parameters_with_a_fitting_seal(folder):
    path = directory("search") / PROVENANCE
    params = json.loads(path.read_text())["params"]
    rewrite(path, params=params | {"seed": 7})
    broken, _ = audit()
    assert broken[0].path == str(path)
    assert "key" in broken[0].what


def test_a_result_made_with_other_parameters_under_this_key(folder, edited):  # noqa: F811
    [other] = (edited[0] / "results/search/digits/hlrs/0").iterdir()
    mine = directory("search")
    assert other.name != mine.name
    shutil.rmtree(mine)
    shutil.copytree(other, mine)
    broken, _ = audit()
    assert broken[0].path == str(mine / PROVENANCE)
    assert "search digits/hlrs/0" in broken[0].what
    assert other.name in broken[0].what
    assert str(directory("extract") / "genotype.json") in {f.affected for f in broken}


def test_one_file_made_with_other_parameters(folder, edited):  # noqa: F811
    [other] = (edited[0] / "results/search/digits/hlrs/0").iterdir()
    shutil.copyfile(other / "alphas.parquet", directory("search") / "alphas.parquet")
    assert [f.path for f in audit()[0]] == [str(directory("search") / "alphas.parquet")]


def test_results_copied_from_another_run(folder):
    mine = directory("retrain")
    shutil.rmtree(mine)
    shutil.copytree(directory("retrain", "digits/darts/0"), mine)
    broken, _ = audit()
    assert broken[0].path == str(mine / PROVENANCE)
    assert "retrain digits/darts/0" in broken[0].what


def test_a_missing_link(folder):
    gone = directory("extract")
    shutil.rmtree(gone)
    broken, remarks = audit()
    first_of = {f"{directory(stage) / OUTPUTS[stage][0]}" for stage in ("retrain", "evaluate")}
    assert {f.affected for f in broken} == first_of | {str(directory("report", "all") / "index.html")}
    assert all(str(gone) in f.what for f in broken)
    assert all("`snakemake --cores all extract_all`" in f.remedy for f in broken)  # alone it makes nothing
    assert any("1 of the 10 results" in f.what for f in remarks)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}"])
def test_a_record_that_is_missing_or_broken(folder, text):
    path = directory("split", "digits") / PROVENANCE
    path.unlink() if text is None else path.write_text(text)
    broken, _ = audit()
    assert broken[0].path == str(path)
    assert broken[0].affected == str(path.parent / "split.parquet")
    assert broken[0].rests == 9


@pytest.mark.parametrize(
    "changes",
    [{"outputs": []}, {"run": 1}, {"inputs": {"x": {"path": "/etc/hosts", "sha256": ""}}}, {"params": None}],
)
def test_a_record_with_an_invalid_field(folder, changes):
    path = directory("search") / PROVENANCE
    rewrite(path, **changes)
    broken, _ = audit()
    assert broken[0].path == str(path)
    assert "no recorded origin" in broken[0].what


def test_files_without_a_record(folder):
    stray = [directory("search") / "notes.txt", Path("results/search/digits/readme")]
    for path in stray:
        path.write_text("mine")
    assert {f.path for f in audit()[0]} == {str(path) for path in stray}


def test_bytes_and_record_agree_but_differ_from_dvcs(own):
    target = directory("report", "all")
    page = target / "index.html"
    page.write_text(page.read_text() + " ")
    outputs = json.loads((target / PROVENANCE).read_text())["outputs"]
    rewrite(target / PROVENANCE, outputs=outputs | {"index.html": sha256(page)})
    shutil.rmtree("report")
    broken, _ = audit()
    assert {f.path for f in broken} == {str(page), str(target / PROVENANCE)}
    assert all("dvc.lock" in f.what for f in broken)
    run(own, "hlrs", "publish")
    run(own, "dvc", "commit", "--force", "--quiet", "report")
    assert audit()[0] == []


def test_a_published_report_that_is_not_the_result(folder):
    Path("report/summary.csv").write_text("method,mean\nmine,1.0\n")
    assert [f.path for f in audit()[0]] == ["report/summary.csv"]


def test_other_parameters_cause_remarks_and_no_break(folder):
    edit(Path("params.yaml"), **{"search.epochs": 4})
    broken, remarks = audit()
    assert not broken
    assert sorted(f.path for f in remarks) == ["report", "results", "results"]
    for path, fact in (("report", "other parameters"), ("results", "9 of the 10"), ("results", "9 results")):
        assert any(f.path == path and fact in f.what for f in remarks)


def test_uncommitted_code_is_reported(own):
    replace(Path("hlrs/nas/bilevel.py"), "list(torch.autograd.grad(validation(), alphas))", "[*alphas]")
    code_digest.here.cache_clear()
    mine = directory("search")
    [job] = [j for j in plan.plan(load(Path("params.yaml"))) if j.stage == "search" and "hlrs" in j.run]
    assert job.key != mine.name
    shutil.copytree(mine, job.directory)  # as if it had run here
    rewrite(job.output(PROVENANCE), key=job.key, code=job.code)
    _, remarks = audit()
    [remark] = [f.what for f in remarks if "uncommitted" in f.what]
    assert run(own, "git", "rev-parse", "HEAD~1").stdout[:12] in remark
    assert "digits/hlrs/0" in remark
    run(own, "git", "add", "hlrs")
    commit(own, "More")
    assert not [f for f in audit()[1] if "uncommitted" in f.what]


def test_code_that_cannot_be_checked_is_reported_with_its_own_remedy(folder):
    rewrite(directory("search") / PROVENANCE, code="0" * 64)  # without a scheme, as in older records
    rewrite(directory("split", "digits") / PROVENANCE, commit="0" * 40)
    remedies = {f.path: f.remedy for f in audit()[1] if "cannot be checked" in f.what}
    assert remedies.keys() == {"results/search", "results/split"}
    assert "check out their commit" in remedies["results/search"]
    assert "git fetch" in remedies["results/split"]


def test_neither_the_audit_nor_a_lineage_writes(own):
    """They read a colleague's folder, a mounted snapshot, an archive."""
    aside = ASIDE / directory("search")
    aside.parent.mkdir(parents=True)
    directory("search").rename(aside)
    shutil.rmtree(SPECS)

    def files():
        return {path: path.stat().st_mtime_ns for path in Path("results").rglob("*")}

    before = files()
    assert "results that the params ask for are not here" in run(own, "hlrs", "audit", status=1).stdout
    run(own, "hlrs", "lineage", "digits/darts/0")
    assert files() == before


def test_a_mixture_of_machines_is_reported(folder):
    path = directory("search") / PROVENANCE
    rewrite(path, cpu="Another CPU")
    [remark] = [f.what for f in audit()[1]]
    assert "device" in remark
    assert "Another CPU (1)" in remark
    rewrite(path, gpu={"name": "A GPU"}, gpu_kernels=False)
    [remark] = [f.what for f in audit()[1]]
    assert "A GPU, without kernels" in remark


def test_data_files_are_compared_on_request(folder):
    assert audit(check_data) == ([], [])
    target = directory("split", "digits")
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(target / "files.parquet")
    forged = table.set_column(2, "sha256", pa.array(["0" * 64]))
    pq.write_table(forged, target / "files.parquet")
    [broken], _ = audit(check_data)
    assert "digits" in broken.what
    assert broken.affected == str(target / "split.parquet")


def test_the_command_names_the_break_and_fails(folder):
    output = run(folder, "hlrs", "audit").stdout
    assert output.endswith("everything agrees\n")
    path = directory("retrain") / "weights.safetensors"
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff" if path.read_bytes()[-1:] != b"\xff" else b"\x00")
    output = run(folder, "hlrs", "audit", status=1).stdout
    assert f"broken  {path}: " in output
    assert "2 other results" in output
    assert output.endswith("1 broken, 0 remarks\n")


def test_a_file_with_several_names_is_read_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").write_bytes(b"abc")
    os.link("a", "b")
    Path("c").write_bytes(b"")
    found = digests([Path("a"), Path("b"), Path("c")])
    assert found["a"] is found["b"]
    assert found["a"].sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert found["a"].md5 == ""  # no dvc.lock
    Path("dvc.lock").touch()
    assert digests([Path("a")])["a"].md5 == "900150983cd24fb0d6963f7d28e17f72"
