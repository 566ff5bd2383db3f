"""Records are sealed, and never stay beside artifacts that they do not describe."""

import hashlib
import json
from pathlib import Path

import pytest

from hlrs.artifacts.files import read_json, write_text
from hlrs.artifacts.jobs import OUTPUTS, PROVENANCE
from hlrs.artifacts.records import seal
from hlrs.config.params import load
from hlrs.pipeline import plan
from hlrs.pipeline.execute import current, execute
from hlrs.stages import split


@pytest.fixture
def job(workspace):
    """A split that ran."""
    found = plan.plan(load(Path("params.yaml")))[0]
    execute(found)
    return found


def test_a_seal_is_the_digest_of_everything_else_in_the_record(job):
    record = read_json(job.output(PROVENANCE))
    rest = {name: value for name, value in record.items() if name != "seal"}
    assert record["seal"] == hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    assert record["seal"] == seal(record) != seal(record | {"seconds": record["seconds"] + 1})


def test_an_interrupted_rebuild_leaves_no_record(job, monkeypatch):
    assert current(job)

    def killed(source):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(split, "files", killed)  # after two of three artifacts were written
        with pytest.raises(KeyboardInterrupt):
            execute(job)
    assert job.output(OUTPUTS["split"][0]).exists()
    assert not job.output(PROVENANCE).exists()
    assert not job.complete
    execute(job)
    assert current(job)


@pytest.mark.parametrize("name", [".split.parquet.7.tmp", "plots/.search.csv.7.tmp"])  # as in a report
def test_what_a_killed_run_left_half_written_is_removed(job, name):
    half = job.directory / name
    write_text(half, "half")
    job.output(PROVENANCE).unlink()
    execute(job)
    assert current(job)
    assert not half.exists()
