"""What others find at first glance: how to cite, the workflow catalog's files, and the installed package."""

from types import SimpleNamespace

import yaml

from hlrs import __version__
from hlrs.pipeline.snakemake import ALLOWED, register_handlers
from tests.conftest import REPOSITORY


def read(name):
    """A YAML file (JSON is YAML) of the repository."""
    return yaml.safe_load((REPOSITORY / name).read_text())


def test_the_citation_and_the_archive_say_the_same():
    citation, archive = read("CITATION.cff"), read(".zenodo.json")
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what CFF 1.2.0 requires
    assert archive["creators"] == [{"name": author["name"]} for author in citation["authors"]]
    assert archive["description"] == f"<p>{citation['abstract']}</p>"
    for name in ("title", "license", "keywords"):
        assert archive[name] == citation[name]
    assert archive["license"] == (REPOSITORY / "LICENSE").read_text().split()[0]


def test_what_the_workflow_catalog_and_snakedeploy_read():
    usage = read(".snakemake-workflow-catalog.yml")["usage"]
    assert usage["software-stack-deployment"] == {"conda": False, "apptainer": True, "apptainer+conda": False}
    settings = read("config/config.yaml")  # which snakedeploy's Snakefile reads
    assert settings == {"params": "config/params.yaml"}
    for name in ("params.yaml", "params.schema.json"):
        assert (REPOSITORY / "config" / name).resolve() == REPOSITORY / name
    page = (REPOSITORY / "config/README.md").read_text()
    assert all(f"`{name}: {what}`" in page for name, what in ALLOWED.items())
    assert all(f"`{section}`" in page for section in read("params.yaml"))


def test_a_modules_handlers_follow_those_of_the_snakefile_that_uses_it():
    called = []
    events = ("onstart", "onsuccess", "onerror")
    theirs = {f"_{event}": lambda log, event=event: called.append((event, log)) for event in events}
    ours = {event: lambda event=event: called.append(event) for event in events}
    module = SimpleNamespace(is_main_snakefile=lambda: False)
    register_handlers(workflow := SimpleNamespace(**theirs, globals=ours, modifier=module))
    workflow._onsuccess("log")
    workflow._onerror("log")
    assert called == [("onsuccess", "log"), "onsuccess", ("onerror", "log"), "onerror"]

    alone = SimpleNamespace(is_main_snakefile=lambda: True)  # whose handlers Snakemake registers itself
    register_handlers(main := SimpleNamespace(**theirs, globals=ours, modifier=alone))
    assert vars(main).items() >= theirs.items()
