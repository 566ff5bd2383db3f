"""Artifacts: atomic writes, reproducible bytes, and one line about a broken file."""

import json
import math
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hlrs.artifacts.files import check_new, read_json, write_json, write_text
from hlrs.artifacts.jobs import Job, ResultPath, key_of, load_spec
from hlrs.artifacts.records import Record, seal
from hlrs.artifacts.tables import SCHEMAS, read_table, write_table
from hlrs.artifacts.tensors import read_tensors, write_tensors
from hlrs.errors import Failure, HlrsError, UserError
from tests.messages import says

SPLIT = {"index": [5, 0, 7], "label": [0, 1, 1], "subset": ["weights", "alphas", "test"]}
TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor([1, -2]), "half": torch.ones(2).bfloat16()}

WRITERS = {
    "json": lambda path: write_json(path, {"b": [1, 2.5, None], "a": "ü"}),
    "text": lambda path: write_text(path, "some text\n"),
    "table": lambda path: write_table(path, "split", SPLIT),
    "tensors": lambda path: write_tensors(path, TENSORS, {"epoch": 3}),
}
READERS = {
    "json": read_json,
    "table": lambda path: read_table(path, "split"),
    "tensors": read_tensors,
}


def one_line(caught, path, *facts):
    """Assert that a message starts with the file, and names the facts."""
    assert str(caught.value).startswith(f"{path}: ")
    says(str(caught.value), *facts)


# --- writing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITERS)
def test_nothing_but_the_file_is_left_behind(tmp_path, kind):
    path = tmp_path / "new" / "folder" / "file"
    WRITERS[kind](path)
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_content_gives_the_same_bytes(tmp_path, kind):
    for name in ("first", "second"):
        WRITERS[kind](tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.mark.parametrize("kind", WRITERS)
def test_a_reader_keeps_the_file_that_it_opened(tmp_path, kind):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with path.open("rb") as reader:
        WRITERS[kind](path)  # a new file takes the name; none is overwritten
        assert reader.read() == b"before"
    assert path.read_bytes() != b"before"


def test_json_does_not_depend_on_the_order_of_keys(tmp_path):
    write_json(tmp_path / "a", {"x": 1, "y": {"p": 2, "q": 3}})
    write_json(tmp_path / "b", {"y": {"q": 3, "p": 2}, "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_table_does_not_depend_on_the_order_of_columns(tmp_path):
    write_table(tmp_path / "a", "split", SPLIT)
    write_table(tmp_path / "b", "split", dict(reversed(SPLIT.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_rejects_nan_and_infinity_and_keeps_the_old_file(tmp_path, value):
    write_json(tmp_path / "m.json", {"top1": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "m.json", {"top1": value})
    assert read_json(tmp_path / "m.json") == {"top1": 0.5}
    assert [p.name for p in tmp_path.iterdir()] == ["m.json"]


@pytest.mark.parametrize("missing", [True, False])
def test_a_table_that_violates_its_schema_keeps_the_old_file(tmp_path, missing):
    write_table(tmp_path / "t", "split", SPLIT)
    before = (tmp_path / "t").read_bytes()
    wrong = {"index": [1], "label": [2]} if missing else {**SPLIT, "label": ["a", "b", "c"]}
    with pytest.raises((KeyError, pa.ArrowException)):
        write_table(tmp_path / "t", "split", wrong)
    assert (tmp_path / "t").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's full device")
@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_reported_in_one_line_and_keeps_the_old_file(tmp_path, kind):
    path = tmp_path / "file"
    path.write_text("before")
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to("/dev/full")  # where the new bytes are written first
    with pytest.raises(Failure) as caught:
        WRITERS[kind](path)
    one_line(caught, path, "No space left on device")
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_target_that_cannot_be_replaced_is_reported_in_one_line(tmp_path, kind):
    path = tmp_path / "file"
    (path / "within").mkdir(parents=True)  # the target is a folder
    with pytest.raises(Failure) as caught:
        WRITERS[kind](path)
    one_line(caught, path, "written", "Is a directory")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_parent_that_is_a_file_is_reported_in_one_line(tmp_path, kind):
    (tmp_path / "parent").write_text("a file")
    with pytest.raises(Failure) as caught:
        WRITERS[kind](tmp_path / "parent" / "file")
    one_line(caught, tmp_path / "parent" / "file")


# --- reading ------------------------------------------------------------------------------------------


def test_json_round_trip(tmp_path):
    value = {"ü": [1, 2.5, None, True, "text"], "a": {"b": []}}
    write_json(tmp_path / "v.json", value)
    assert read_json(tmp_path / "v.json") == value
    assert (tmp_path / "v.json").read_bytes().endswith(b"}\n")


def test_a_table_round_trip(tmp_path):
    write_table(tmp_path / "t", "split", SPLIT)
    assert read_table(tmp_path / "t", "split").to_pydict() == SPLIT


def test_types_of_a_table_are_those_of_the_schema(tmp_path):
    columns = {
        "index": np.array([1, 2]),
        "label": np.array([0, 1], dtype=np.int32),
        "predicted": np.array([1, 1], dtype=np.int32),
        "confidence": np.array([0.5, 0.75], dtype=np.float32),
        "probabilities": list(np.array([[0.5, 0.5], [0.25, 0.75]], dtype=np.float32)),
    }
    write_table(tmp_path / "p", "predictions", columns)
    table = read_table(tmp_path / "p", "predictions")
    assert [str(t) for t in table.schema.types] == [
        "int64",
        "int32",
        "int32",
        "float",
        "list<element: float>",
    ]
    assert table["probabilities"].to_pylist() == [[0.5, 0.5], [0.25, 0.75]]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_table_of_every_kind_may_be_empty(tmp_path, kind):
    write_table(tmp_path / "t", kind, {column: [] for column in SCHEMAS[kind]})
    table = read_table(tmp_path / "t", kind)
    assert (table.num_rows, table.column_names) == (0, list(SCHEMAS[kind]))


def test_nulls_of_a_history_round_trip(tmp_path):
    row = {c: [0] if t == "int32" else [None] for c, t in SCHEMAS["search_history"].items()}
    write_table(tmp_path / "h", "search_history", row)
    assert read_table(tmp_path / "h", "search_history").to_pydict() == row


def test_tensors_and_facts_round_trip(tmp_path):
    write_tensors(tmp_path / "w", TENSORS, {"mean": [0.5], "epoch": 3})
    tensors, facts = read_tensors(tmp_path / "w")
    assert facts == {"mean": [0.5], "epoch": 3}
    assert set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


# --- broken files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", READERS)
def test_a_missing_file_is_reported_in_one_line(tmp_path, kind):
    with pytest.raises(UserError) as caught:
        READERS[kind](tmp_path / "none")
    one_line(caught, tmp_path / "none")


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("left", [0.0, 0.02, 0.5, 0.9, 0.97])
def test_a_truncated_file_is_reported_in_one_line(tmp_path, kind, left):
    path = tmp_path / "file"
    WRITERS[kind](path)
    body = path.read_bytes()
    path.write_bytes(body[: int(left * len(body))])
    with pytest.raises(Failure) as caught:
        READERS[kind](path)
    one_line(caught, path, "truncated")


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("body", [b"<html>404</html>", b"\xff\xfe\x00", b"\x00" * 64])
def test_a_file_of_another_kind_is_reported_in_one_line(tmp_path, kind, body):
    (tmp_path / "file").write_bytes(body)
    with pytest.raises(Failure) as caught:
        READERS[kind](tmp_path / "file")
    one_line(caught, tmp_path / "file", "truncated")


@pytest.mark.parametrize("kind", READERS)
def test_a_folder_is_reported_in_one_line(tmp_path, kind):
    with pytest.raises(HlrsError) as caught:
        READERS[kind](tmp_path)
    one_line(caught, tmp_path)


def test_tensors_of_another_program_are_rejected(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "w")
    with pytest.raises(Failure) as caught:
        read_tensors(tmp_path / "w")
    one_line(caught, tmp_path / "w", "safetensors", "hlrs")


@pytest.mark.parametrize(
    "columns",
    [
        {"index": pa.array([1]), "label": pa.array([0], pa.int32())},
        {"index": pa.array([1]), "label": pa.array([0]), "subset": pa.array(["test"])},  # int64
        {"label": pa.array([0], pa.int32()), "index": pa.array([1]), "subset": pa.array(["test"])},
        {**{c: pa.array([1]) for c in ("index", "label", "subset")}, "more": pa.array([1])},
    ],
    ids=["column missing", "type", "order", "column more"],
)
def test_a_table_of_another_layout_is_rejected(tmp_path, columns):
    pq.write_table(pa.table(columns), tmp_path / "t")
    with pytest.raises(Failure) as caught:
        read_table(tmp_path / "t", "split")
    one_line(caught, tmp_path / "t", "split", "['index', 'label', 'subset']")


# --- specs --------------------------------------------------------------------------------------------

JOB = Job(
    "extract", "d/m/0", {}, "c0de", {"alphas": "results/search/d/m/0/abc/alphas.parquet"}, "0123456789ab"
)


def test_a_spec_round_trip(tmp_path):
    body = {name: value for name, value in asdict(JOB).items() if name not in ("key", "tracking")}
    path = tmp_path / f"{key_of(body)}.json"
    write_json(path, body | {"key": path.stem})
    assert load_spec(path) == replace(JOB, key=path.stem)


def test_paths_of_a_job():
    assert str(JOB.output("normal.svg")) == "results/extract/d/m/0/0123456789ab/normal.svg"
    assert JOB.outputs[-1] == "results/extract/d/m/0/0123456789ab/provenance.json"
    assert str(JOB.spec) == ".hlrs/specs/0123456789ab.json"


@pytest.mark.parametrize("value", [{"stage": "search"}, [], 3, {**asdict(JOB), "more": 1}])
def test_an_invalid_spec_is_reported_in_one_line(tmp_path, value):
    (tmp_path / "s.json").write_text(json.dumps(value))
    with pytest.raises(UserError) as caught:
        load_spec(tmp_path / "s.json")
    one_line(caught, tmp_path / "s.json", "spec")


def test_tensors_of_any_memory_layout_are_kept(tmp_path):
    # gradients of convolutions, and so momentum buffers, may be channels-last
    tensor = torch.arange(48.0).reshape(2, 3, 2, 4).to(memory_format=torch.channels_last)
    write_tensors(tmp_path / "t.safetensors", {"t": tensor}, {})
    assert torch.equal(read_tensors(tmp_path / "t.safetensors")[0]["t"], tensor)


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("results/split/d/0123/split.parquet", ("split", "d", "0123", "split.parquet")),
        ("results/report/all/0123/plots/a.csv", ("report", "all", "0123", "plots/a.csv")),
        ("results/search/d/m/0/0123", ("search", "d/m/0", "0123", "")),
    ],
)
def test_the_path_of_a_result_has_four_parts(path, parts):
    found = ResultPath.parse(path)
    assert (found.stage, found.run, found.key, found.name) == parts
    assert f"{found.folder}/{found.name}".rstrip("/") == path


@pytest.mark.parametrize(
    "path", ["results/search/d/m/0", "results/other/d/m/0/0123/x", "elsewhere/search/d/m/0/0123/x", "", "/"]
)
def test_a_path_outside_a_result_is_rejected(path):
    with pytest.raises(UserError, match="results/STAGE/RUN/KEY"):
        ResultPath.parse(path)


RECORD = {
    "key": "0123",
    "stage": "extract",
    "run": "d/m/0",
    "params": {"genotype": None},
    "code": "1",
    "inputs": {"alphas": {"path": "results/search/d/m/0/4567/alphas.parquet", "sha256": "89", "later": 1}},
    "outputs": {"genotype.json": "ab"},
    "ended": "2026-01-01T00:00:00+00:00",
    "another_version_wrote": [1, 2.0, None],
}


def test_a_record_preserves_every_field(tmp_path):
    body = RECORD | {"seal": seal(RECORD)}
    write_json(tmp_path / "written", body)
    record = Record.read(tmp_path / "written")
    record.write(tmp_path / "rewritten")
    assert (tmp_path / "rewritten").read_bytes() == (tmp_path / "written").read_bytes()
    assert record.intact
    assert not record.model_copy(update={"seconds": 1.0}).intact


@pytest.mark.parametrize(
    "changes", [{"outputs": []}, {"inputs": {"x": {"path": "/etc/hosts", "sha256": ""}}}, {"seal": None}]
)
def test_an_invalid_record_is_rejected(tmp_path, changes):
    write_json(tmp_path / "record", RECORD | {"seal": ""} | changes)
    with pytest.raises(Failure) as caught:
        Record.read(tmp_path / "record")
    one_line(caught, tmp_path / "record", "record of a job")


def test_a_folder_that_another_cannot_replace_is_refused(tmp_path, monkeypatch):
    """A container's volume, a link, and the folder of the caller's shell, all of them empty."""
    (tmp_path / "empty").mkdir()
    check_new(tmp_path / "empty")
    check_new(tmp_path / "new")
    (tmp_path / "link").symlink_to("empty")
    with pytest.raises(UserError, match=r"link: a link, .* in it"):
        check_new(tmp_path / "link")
    with pytest.raises(UserError, match="mount point"):
        check_new(Path("/proc"))
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match="the current folder"):
        check_new(Path())
