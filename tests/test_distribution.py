"""What others find at first glance: how to cite, the workflow catalog's files, and the installed package."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner

from hlrs import __version__
from hlrs.cli import main
from hlrs.pipeline import environment, workflow_files
from hlrs.pipeline.snakemake import ALLOWED, register_handlers
from tests.conftest import REPOSITORY
from tests.messages import says
from tests.pipeline.test_workflow import checkout, run


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


# --- the installed package ----------------------------------------------------------------------------


def test_init_lays_every_file_that_the_workflow_needs(tmp_path, monkeypatch):
    """Every file of the repository is laid or known to be of no use in a folder where the workflow runs."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["init", "mine"])
    laid = {path.relative_to("mine").as_posix() for path in Path("mine").rglob("*") if path.is_file()}
    assert (done.exit_code, done.stdout.splitlines()[0].split(";")[0]) == (0, f"mine: {len(laid)} files")
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True).stdout
    for top in ("Snakefile", "params.yaml", "params.schema.json", "workflow/", "profiles/", ".dvc", "data/"):
        wanted = {name for name in tracked.splitlines() if name.startswith(top)}
        assert wanted <= laid, top
    assert Path("mine/params.yaml").read_bytes() == (REPOSITORY / "params.yaml").read_bytes()
    assert Path("mine/requirements.txt").read_text() == f"hlrs=={__version__}\n"
    theirs, ours = yaml.safe_load(Path("mine/dvc.yaml").read_text()), read("dvc.yaml")
    for name, stage in ours["stages"].items():
        deps = [{"hlrs": "requirements.txt"}.get(path, path) for path in stage["deps"]]
        assert theirs["stages"][name] == {**stage, "deps": deps}

    for name, arguments in {"dvc.yaml": ["init", "there"], "requirements.txt": ["init", "other"]}.items():
        (folder := Path(arguments[1])).mkdir()
        (folder / name).touch()
        refused = CliRunner().invoke(main, arguments)
        assert (refused.exit_code, [path.name for path in folder.iterdir()]) == (2, [name])
        says(refused.stderr, str(folder), name, "name a folder")
    Path("file").touch()
    assert CliRunner().invoke(main, ["init", "file"]).exit_code == 2
    monkeypatch.setattr(workflow_files, "PACKAGE", tmp_path / "site-packages/hlrs")
    says(CliRunner().invoke(main, ["init", "new"]).stderr, "use a clone")


def test_an_installed_package_has_no_commit_even_inside_a_repository(tmp_path, monkeypatch):
    run(tmp_path, "git", "init", "--quiet")
    run(tmp_path, "git", "commit", "--quiet", "--allow-empty", "--message", "Theirs")
    (package := tmp_path / ".venv/hlrs").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setattr(environment, "PACKAGE", package)
    assert {name: environment.here("cpu")[name] for name in ("commit", "dirty")} == {
        "commit": None,
        "dirty": None,
    }


MODULE = """
configfile: "config/config.yaml"


module hlrs:
    snakefile:
        {snakefile}
    config:
        config


use rule * from hlrs
"""


@pytest.mark.e2e
def test_a_wheel_starts_the_workflow_in_an_empty_folder_and_as_a_module(tmp_path):
    """Build, install and run it, as `pip install hlrs`, `hlrs init` and `snakedeploy` have it; no network."""
    for name in ("source", "site", "deployed/workflow"):
        (tmp_path / name).mkdir(parents=True)
    checkout(tmp_path / "source")
    build = (
        "uv",
        "build",
        "--quiet",
        "--offline",
        "--wheel",
        "--no-build-isolation",
        "--python",
        sys.executable,
    )
    run(tmp_path / "source", *build, "--out-dir", "..", ".")
    [wheel] = tmp_path.glob("hlrs-*.whl")
    install = ("uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", sys.executable)
    run(tmp_path, *install, "--target", "site", wheel.name)
    shutil.rmtree(tmp_path / "source")

    run(tmp_path / "site", sys.executable, "-m", "hlrs", "init", "../mine")
    shutil.copytree(REPOSITORY / "config", tmp_path / "deployed/config")
    snakefile = tmp_path / "mine/workflow/Snakefile"
    (tmp_path / "deployed/workflow/Snakefile").write_text(MODULE.format(snakefile=repr(str(snakefile))))
    for folder, name in {"mine": "Snakefile", "deployed": "workflow/Snakefile"}.items():
        where = ("--snakefile", f"../{folder}/{name}", "--directory", f"../{folder}")
        done = run(tmp_path / "site", "snakemake", "-n", "--cores", "1", *where)
        assert re.search(r"^report +1\nall +1\ntotal +", done.stdout, re.MULTILINE), done.stdout
