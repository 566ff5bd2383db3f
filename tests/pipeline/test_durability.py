"""What outlasts a power cut, and what is no file though it has a result's name."""

import os
from pathlib import Path

import pytest

from hlrs.artifacts.data_digest import sha256
from hlrs.artifacts.files import write_text
from hlrs.artifacts.jobs import OUTPUTS, PROVENANCE, PUBLISHED, Job, key_of
from hlrs.artifacts.records import Record
from hlrs.pipeline.execute import current
from hlrs.pipeline.plan import is_current, publish

BODY = {"stage": "report", "run": "all", "params": {}, "code": "", "inputs": {}}
REPORT = Job(**BODY, key=key_of(BODY))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in OUTPUTS["report"]:
        write_text(REPORT.output(name), name)
    digests = {name: sha256(REPORT.output(name)) for name in OUTPUTS["report"]}
    body = BODY | {"key": REPORT.key, "outputs": digests, "ended": "2026-01-01T00:00:00+00:00"}
    Record.sealed(body).write(REPORT.output(PROVENANCE))


@pytest.fixture
def synced(monkeypatch):
    """The names of what is synced, in that order."""
    names, sync = [], os.fsync

    def fsync(descriptor):
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


def test_a_file_is_synced_and_then_its_name(synced):
    write_text(Path("folder/file"), "x")
    assert synced == [f".file.{os.getpid()}.tmp", "folder"]


def test_a_folder_that_cannot_be_synced_does_not_matter(monkeypatch):
    sync = os.fsync

    def fsync(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_dir():
            raise OSError(22, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(Path("folder/file"), "x")
    assert Path("folder/file").read_text() == "x"


def test_the_published_report_is_synced_before_its_record(synced):
    assert publish([REPORT])
    written = [name for name in synced if name.endswith(".tmp")]
    assert len(written) == len(OUTPUTS["report"]) + 1
    assert written[-1] == f".{PROVENANCE}.{os.getpid()}.tmp"


def test_what_a_killed_process_left_in_the_published_report_is_removed():
    write_text(PUBLISHED / "plots/.search.csv.7.tmp", "half")
    assert publish([REPORT])
    found = {str(path.relative_to(PUBLISHED)) for path in PUBLISHED.rglob("*") if path.is_file()}
    assert found == {*OUTPUTS["report"], PROVENANCE}


def test_a_publication_that_is_killed_leaves_no_record_beside_its_files(monkeypatch):
    """Else `report/` would be current again once the params of the earlier report are back."""
    assert publish([REPORT])
    before = (PUBLISHED / PROVENANCE).read_bytes()
    REPORT.output(PROVENANCE).write_bytes(before + b" ")
    monkeypatch.setattr("hlrs.pipeline.plan.shutil.copyfile", _killed)
    with pytest.raises(KeyboardInterrupt):
        publish([REPORT])
    REPORT.output(PROVENANCE).write_bytes(before)
    assert not is_current([REPORT])


def _killed(source, target):
    raise KeyboardInterrupt


def test_a_published_report_is_current_until_it_or_the_params_change():
    assert not is_current([REPORT])
    publish([REPORT])
    assert is_current([REPORT])
    (PUBLISHED / "index.html").unlink()
    assert not is_current([REPORT])
    publish([REPORT])
    (PUBLISHED / PROVENANCE).write_text("{}")  # of other params
    assert not is_current([REPORT])


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_result_that_is_no_file_is_not_there(make):
    assert REPORT.complete
    path = Path(REPORT.outputs[0])
    path.unlink()
    make(path)
    assert not REPORT.complete
    assert not current(REPORT)
    assert not publish([REPORT])
