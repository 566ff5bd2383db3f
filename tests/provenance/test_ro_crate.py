"""The RO-Crate of a run: it validates, its hashes match, and it leads from a number to the data."""

import copy
import hashlib
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import requests
import requests_cache
import yaml
from click.testing import CliRunner
from rocrate.rocrate import ROCrate
from rocrate_validator import models, services

from hlrs.artifacts.records import seal
from hlrs.artifacts.tables import write_table
from hlrs.cli import main
from hlrs.config.params import load
from hlrs.data.sources.arrays import digits_file
from hlrs.pipeline import plan
from hlrs.provenance import ro_crate
from hlrs.provenance.citation import authors
from tests.conftest import REPOSITORY, TINY, make_all, record
from tests.messages import says
from tests.pipeline.test_workflow import sha256

STAGES = ["split", "search", "extract", "retrain", "evaluate"]
METADATA = "ro-crate-metadata.json"
ROOT = "Root Data Entity"
RECOMMENDED = {  # unmet recommendations, with the number of places
    "The Action SHOULD have an agent that is a Person or Organization": 11,
    f"The {ROOT} SHOULD have a link to a Contextual Entity representing the `author` of the RO-Crate": 1,
    f"The `publisher` property of a `{ROOT}` SHOULD be an `Organization`": 1,
    "The organization SHOULD have a URL.": 1,
    "The SoftwareApplication id SHOULD be an absolute URI": 9,  # the tools are files of the crate
}


# --- a run and its crates -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder, not to be changed, with all results of tiny params."""
    folder = tmp_path_factory.mktemp("finished")
    params = copy.deepcopy(TINY)
    params["datasets"]["digits"]["max_per_class"] = 20
    params["datasets"]["digits"]["groups"] = {"many_above": 10, "few_below": 4}
    params["report"]["title"] = "Ten digits"
    params["search"]["epochs"] = params["retrain"]["epochs"] = 1
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    make_all(folder)
    return folder


@pytest.fixture(scope="module")
def crates(finished):
    """Its crate with and without weights."""
    made = {"with": finished / "crates/with", "without": finished / "crates/without"}
    for weights, option in (("with", "--weights"), ("without", "--no-weights")):
        assert export(finished, made[weights], option)[0] == 0
    return made


@pytest.fixture
def work(finished, tmp_path):
    """A copy of the finished folder."""
    ignored = shutil.ignore_patterns("crates")
    return Path(shutil.copytree(finished, tmp_path / "work", ignore=ignored))


def export(folder, target, *options):
    """Exit status, stdout and stderr of `hlrs export` in a folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        done = CliRunner().invoke(main, ["export", "--ro-crate", str(target), *options])
    finally:
        os.chdir(before)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def entities(crate):
    graph = json.loads((crate / METADATA).read_text())["@graph"]
    found = {entity["@id"]: entity for entity in graph}
    assert len(found) == len(graph)
    return found


def refs(entity, key):
    value = entity.get(key, [])
    return [one["@id"] for one in (value if isinstance(value, list) else [value])]


def of_type(found, kind):
    types = {i: e["@type"] if isinstance(e["@type"], list) else [e["@type"]] for i, e in found.items()}
    return {i: e for i, e in found.items() if kind in types[i]}


# --- validation ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validate(tmp_path_factory):
    """validate(crate, level): the validator's messages and how often each occurs, without a network.

    It looks up JSON-LD contexts on the web. Here it finds them in its HTTP cache: crate_contexts.json has the
    terms that crates of hlrs use, as in https://w3id.org/ro/crate/1.1/context (1.1.3) and
    https://w3id.org/ro/terms/workflow-run/context.
    """
    cache = tmp_path_factory.mktemp("cache") / "http"
    session = requests_cache.CachedSession(str(cache), backend="sqlite", expire_after=-1)
    for url, context in json.loads((REPOSITORY / "tests/crate_contexts.json").read_text()).items():
        response = requests_cache.CachedResponse(
            url=url,
            status_code=200,
            content=json.dumps(context).encode(),
            headers={"Content-Type": "application/ld+json"},
            request=requests_cache.CachedRequest(method="GET", url=url),
        )
        key = session.cache.create_key(requests.Request("GET", url))
        session.cache.save_response(response, cache_key=key)
    session.close()

    def issues(crate, level):
        settings = services.ValidationSettings(
            rocrate_uri=models.URI(str(crate)),
            profile_identifier="provenance-run-crate",
            requirement_severity=models.Severity[level],
            offline=True,
            cache_path=cache,
        )
        return Counter(issue.message for issue in services.validate(settings).get_issues())

    return issues


def test_it_validates_and_names_no_people(crates, validate):
    assert validate(crates["with"], "RECOMMENDED") == RECOMMENDED
    found = entities(crates["with"])
    assert refs(found["Snakefile"], "author") == ["#author/The%20hlrs%20authors"]
    assert found["#author/The%20hlrs%20authors"]["@type"] == "Organization"
    assert "author" not in found["./"]


PEOPLE = """
authors:
  - {given-names: Ada, name-particle: van, family-names: Doe, orcid: "https://orcid.org/0000-0001-2345-678X"}
  - {name: The Lab}
"""


def test_people_in_the_citation_file_are_its_authors(work, validate, monkeypatch):
    (work / "CITATION.cff").write_text(PEOPLE)
    monkeypatch.setattr(ro_crate, "authors", lambda path: authors(work / path.name))
    assert export(work, work / "crate", "--no-weights")[0] == 0
    found, orcid = entities(work / "crate"), "https://orcid.org/0000-0001-2345-678X"
    assert found[orcid] == {"@id": orcid, "@type": "Person", "name": "Ada van Doe"}
    assert refs(found["./"], "author") == [orcid]
    assert refs(found["Snakefile"], "author") == [orcid, "#author/The%20Lab"]
    [unmet] = RECOMMENDED.keys() - validate(work / "crate", "RECOMMENDED").keys()
    assert "`author`" in unmet

    (work / "CITATION.cff").write_text(PEOPLE.replace("678X", "678"))
    says(complaint(work, "other"), "CITATION.cff", "authors.0.orcid", "git checkout")


def test_without_weights_it_validates_too(crates, validate):
    assert validate(crates["without"], "REQUIRED") == {}


def test_the_validator_finds_mistakes(crates, validate, tmp_path):
    crate = Path(shutil.copytree(crates["without"], tmp_path / "crate"))
    metadata = json.loads((crate / METADATA).read_text())
    step = next(e for e in metadata["@graph"] if e["@type"] == "ControlAction")
    del step["instrument"]
    (crate / METADATA).write_text(json.dumps(metadata))
    (crate / "params.yaml").unlink()
    found = validate(crate, "REQUIRED")
    assert len(found) == 2
    assert any("params.yaml" in message for message in found)
    assert any(message.startswith("A ControlAction must reference a HowToStep") for message in found)


def test_every_term_is_in_a_context(crates):
    """A term outside of the contexts means nothing to a reader, and the validator ignores it."""
    known = {"buildInstructions", "@id", "@type"}
    for context in json.loads((REPOSITORY / "tests/crate_contexts.json").read_text()).values():
        known |= context["@context"].keys()
    for entity in entities(crates["with"]).values():
        types = entity["@type"] if isinstance(entity["@type"], list) else [entity["@type"]]
        assert entity.keys() | set(types) <= known


# --- files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["with", "without"])
def test_every_file_is_described_with_its_hash_and_size(finished, crates, weights):
    crate = crates[weights]
    found = entities(crate)
    there = {p.relative_to(crate).as_posix() for p in crate.rglob("*") if p.is_file()}
    described = of_type(found, "File")
    assert there - {METADATA, "ro-crate-preview.html"} == {i for i in described if not i.startswith("#")}
    for identifier, entity in described.items():
        path = (finished if identifier.startswith("#") else crate) / identifier.removeprefix("#")
        if identifier.startswith("#data"):
            path = digits_file()
        assert (entity["sha256"], entity["contentSize"]) == (sha256(path), str(path.stat().st_size))
    left_out = {i for i in described if i.startswith("#results")}
    assert len(left_out) == (0 if weights == "with" else 2 * 2)
    assert all(i.endswith(("/weights.safetensors", "/supernet.safetensors")) for i in left_out)


def test_it_contains_the_run_and_what_made_it(finished, crates):
    crate = crates["with"]
    results = {p.relative_to(finished) for p in (finished / "results").rglob("*") if p.is_file()}
    assert {p.relative_to(crate) for p in (crate / "results").rglob("*") if p.is_file()} == results
    made_by = [
        "CITATION.cff",
        "Snakefile",
        "requirements.lock",
        "hlrs/report/page.html.j2",
        "hlrs/nas/supernet.py",
    ]
    for name in [*made_by, "workflow/rules/search.smk"]:
        assert sha256(crate / name) == sha256(REPOSITORY / name)
    assert sha256(crate / "params.yaml") == sha256(finished / "params.yaml")
    page = (crate / "ro-crate-preview.html").read_text()
    [report] = (crate / "results/report").rglob("index.html")
    assert f'href="{report.relative_to(crate)}"' in page


@pytest.mark.parametrize(("weights", "lacking"), [("with", set()), ("without", {"search", "retrain"})])
def test_it_is_a_checkout_with_every_result(crates, monkeypatch, weights, lacking):
    monkeypatch.chdir(crates[weights])
    jobs = plan.plan(load(Path("params.yaml")))
    assert {job.stage for job in jobs if not job.complete} == lacking
    assert plan.due(jobs) == []  # nothing that is missing is needed to make the report


def test_the_library_reads_it_back(crates):
    crate = ROCrate(crates["without"])
    assert (crate.mainEntity.id, crate.name) == ("Snakefile", "Ten digits")
    assert crate.mainEntity["programmingLanguage"]["name"] == "Snakemake"
    assert crate.license["name"] == "MIT License"
    assert [step["name"] for step in crate.mainEntity["step"]] == [*STAGES, "report"]


# --- what happened ------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["with", "without"])
def test_the_actions_lead_from_a_number_back_to_the_data(crates, weights):
    found = entities(crates[weights])
    makers = {
        result: identifier
        for identifier, action in of_type(found, "CreateAction").items()
        for result in refs(action, "result")
        if identifier != "#run"
    }
    [number] = [i for i in found if i.startswith("results/evaluate/digits/hlrs/0/") and "metrics.json" in i]
    pending, passed, ends = [number], set(), set()
    while pending:
        thing = pending.pop()
        if thing in makers and makers[thing] not in passed:
            passed.add(makers[thing])
            pending += refs(found[makers[thing]], "object")
        elif thing not in makers and found[thing]["@type"] != "PropertyValue":
            ends.add(thing)
    assert sorted(i.split("/")[1] for i in passed) == sorted(STAGES)
    assert not [i for i in passed if "darts" in i]
    assert ends == {"#data/digits"}
    of_source = f"digits {sha256(digits_file())}"  # the name of its only file, and that file's SHA-256
    assert found["#data/digits"]["identifier"] == hashlib.sha256(of_source.encode()).hexdigest()


def test_an_action_states_what_the_record_states(finished, crates):
    found = entities(crates["with"])
    recorded = record(finished, "search", "digits/hlrs/0")
    action = found[f"#job/search/digits/hlrs/0/{recorded['key']}"]
    assert (action["startTime"], action["endTime"]) == (recorded["started"], recorded["ended"])
    values = {found[i]["name"]: found[i]["value"] for i in refs(action, "object") if i.startswith("#search")}
    expected = {"search/search.epochs": 1, "search/search.batch_size": 16, "search/seed": 0}
    assert expected.items() <= values.items()
    assert values["search/arch_lr.kind"] == "coupled"
    assert values["search/search.alphas.betas"] == json.dumps(recorded["params"]["search"]["alphas"]["betas"])
    used = {found[i]["name"]: found[i]["value"] for i in refs(action, "resourceUsage")}
    assert used == {name: recorded[name] for name in ("seconds", "peak_memory_bytes", "resumes")}
    facts = {found[i]["name"]: found[i]["value"] for i in refs(action, "additionalProperty")}
    for name in ("key", "code", "commit", "dirty", "lock", "host", "cpu", "device"):
        assert facts[name] == recorded[name]
    assert json.loads(facts["versions"]) == recorded["versions"]
    assert refs(action, "instrument") == ["hlrs/stages/search.py"]
    [about] = [i for i, e in found.items() if refs(e, "about") == [action["@id"]]]
    assert about.endswith(f"{recorded['key']}/provenance.json")


def test_each_job_was_a_step_that_snakemake_organized(crates):
    found = entities(crates["with"])
    steps = refs(found["#snakemake"], "object")
    jobs = [job for step in steps for job in refs(found[step], "object")]
    assert Counter(job.split("/")[1] for job in jobs) == {"split": 1, "report": 1} | dict.fromkeys(
        STAGES[1:], 2
    )
    for step in steps:
        [rule], [job] = refs(found[step], "instrument"), refs(found[step], "object")
        assert refs(found[rule], "workExample") == refs(found[job], "instrument")
    starts = [found[job]["startTime"] for job in jobs]
    assert (found["#run"]["startTime"], refs(found["#snakemake"], "result")) == (min(starts), ["#run"])


def test_steps_are_connected_as_their_jobs_were(crates):
    found = entities(crates["with"])
    connections = {
        (refs(e, "sourceParameter")[0], refs(e, "targetParameter")[0])
        for e in of_type(found, "ParameterConnection").values()
    }
    inner = {
        tuple(slot.removeprefix("hlrs/stages/") for slot in pair)
        for pair in connections
        if not pair[1].startswith("hlrs/stages/report.py")
    }
    classes_and_split = {
        (f"split.py#output/{file}", f"{stage}.py#input/{name}")
        for stage in ("search", "retrain", "evaluate")
        for file, name in (("classes.json", "classes"), ("split.parquet", "split"))
    }
    assert inner == classes_and_split | {
        ("search.py#output/alphas.parquet", "extract.py#input/alphas"),
        ("extract.py#output/genotype.json", "retrain.py#input/genotype"),
        ("extract.py#output/genotype.json", "evaluate.py#input/genotype"),
        ("retrain.py#output/weights.safetensors", "evaluate.py#input/weights"),
    }


@pytest.fixture(scope="module")
def unsearched(tmp_path_factory):
    """The crate of a ResNet and a published genotype, each retrained twice; the ResNet's jobs come first."""
    folder = tmp_path_factory.mktemp("unsearched")
    params = copy.deepcopy(TINY)
    params["methods"] = {
        "resnet": {"searcher": {"kind": "resnet", "depth": 20}},
        "fixed": {"searcher": {"kind": "fixed", "genotype": "PDARTS"}},
    }
    params["matrix"] |= {"methods": [*params["methods"]], "retrain_seeds": [0, 3]}
    params["report"] = {}
    params["retrain"]["epochs"] = 1
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    make_all(folder)
    assert export(folder, folder / "crate")[0] == 0
    return folder / "crate"


def test_without_a_search_its_step_is_left_out_and_the_others_are_in_order(unsearched, validate):
    found = entities(unsearched)
    steps = sorted(of_type(found, "HowToStep").values(), key=lambda step: int(step["position"]))
    assert [step["name"] for step in steps] == ["split", "extract", "retrain", "evaluate", "report"]
    jobs = Counter(i.split("/")[1] for i in of_type(found, "CreateAction") if i.startswith("#job/"))
    assert jobs == {"split": 1, "extract": 1, "retrain": 4, "evaluate": 4, "report": 1}
    [extract] = [a for i, a in of_type(found, "CreateAction").items() if i.startswith("#job/extract/")]
    made = [path for path in refs(extract, "result") if path.endswith("genotype.json")]
    read_by = [i for i, e in of_type(found, "CreateAction").items() if made[0] in refs(e, "object")]
    assert Counter(i.split("/")[1] for i in read_by if i.startswith("#job/")) >= Counter(
        retrain=2, evaluate=2
    )


# --- data files -----------------------------------------------------------------------------------------


def list_data_files(folder, count):
    """Have the split of a folder list `count` data files, of 1, 2, 3, ... bytes."""
    rows = {
        "name": [f"train/{i}.png" for i in range(1, count + 1)],
        "bytes": [*range(1, count + 1)],
        "sha256": [hashlib.sha256(bytes(i)).hexdigest() for i in range(1, count + 1)],
    }
    [path] = (folder / "results/split/digits").glob("*/provenance.json")
    write_table(path.with_name("files.parquet"), "files", rows)
    facts = json.loads(path.read_text())
    facts["outputs"]["files.parquet"] = sha256(path.with_name("files.parquet"))
    facts["seal"] = seal(facts)
    path.write_text(json.dumps(facts))
    [report] = (folder / "results/report/all").glob("*/provenance.json")  # it read the split's record
    facts = json.loads(report.read_text())
    facts["inputs"]["split/digits/provenance.json"]["sha256"] = sha256(path)
    facts["seal"] = seal(facts)
    report.write_text(json.dumps(facts))


def test_few_data_files_are_described_one_by_one(work, validate):
    list_data_files(work, 3)
    assert export(work, work / "crate")[0] == 0
    found = entities(work / "crate")
    parts = [found[i] for i in refs(found["#data/digits"], "hasPart")]
    assert [(part["name"], part["contentSize"]) for part in parts] == [
        (f"train/{i}.png", str(i)) for i in (1, 2, 3)
    ]
    assert parts[1]["sha256"] == hashlib.sha256(b"\0\0").hexdigest()
    assert parts[1]["encodingFormat"] == "image/png"
    assert validate(work / "crate", "REQUIRED") == {}


def test_many_data_files_are_counted_and_their_table_is_named(work):
    list_data_files(work, 101)
    assert export(work, work / "crate")[0] == 0
    found = entities(work / "crate")
    data = found["#data/digits"]
    assert "hasPart" not in data
    assert not [i for i in found if i.startswith("#data/digits/")]
    assert data["contentSize"] == str(101 * 102 // 2)
    assert "101 files, 5151 bytes" in data["description"]
    [table] = refs(data, "subjectOf")
    assert pq.read_table(work / "crate" / table).num_rows == 101


# --- mistakes -------------------------------------------------------------------------------------------


def complaint(folder, *arguments, status=2):
    """The one line on stderr of an export that makes nothing and ends with this status."""
    before = sorted(folder.iterdir())
    found, stdout, stderr = export(folder, *arguments)
    assert (found, stdout, stderr.count("\n")) == (status, "", 1), stderr
    assert sorted(folder.iterdir()) == before
    return stderr.removeprefix("hlrs: ").strip()


def test_a_folder_with_content_is_refused_and_an_empty_one_filled(work):
    (work / "crate").mkdir()
    (work / "crate/mine").touch()
    line = complaint(work, "crate")
    assert line.startswith("crate: ")
    assert "not an empty folder" in line
    (work / "crate/mine").unlink()
    status, stdout, _ = export(work, "crate", "--no-weights")
    files = len([p for p in (work / "crate").rglob("*") if p.is_file()])
    assert (status, stdout.startswith(f"crate: 10 jobs, {files} files, ")) == (0, True)


def test_missing_results_are_counted(work):
    for path in (work / "results/evaluate/digits").glob("*/0/*/metrics.json"):
        path.unlink()
    line = complaint(work, "crate")
    for fact in ("params.yaml: ", "2 of the 10 results", "`hlrs status`"):
        assert fact in line


@pytest.mark.parametrize("name", ["weights.safetensors", "history.parquet"])
def test_a_file_that_differs_from_its_record_is_named(work, name):
    [path] = (work / "results/retrain/digits/hlrs").rglob(name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    line = complaint(work, "crate", "--no-weights", status=1)
    assert line.startswith(f"{path.relative_to(work)}: ")
    assert f"{path.parent.relative_to(work)}/provenance.json" in line
    assert "`hlrs audit`" in line
