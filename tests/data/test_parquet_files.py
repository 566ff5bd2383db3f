"""Parquet files as others write them: text labels, several files, columns that are not guessed."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hlrs.config.data import Parquet
from hlrs.data.sources.parquet import ParquetSource
from hlrs.errors import UserError
from tests.data.test_pictures import COLOURS, DEEP, encoded

PICTURE = encoded(Image.new("RGB", (4, 4), "red"))
NAMES = {"class_names": json.dumps(["cat", "dog", "eel"])}


@pytest.fixture
def write(tmp_path):
    """Write a file with an image per label; its path, as text."""

    def write_file(name, labels, label="label", metadata=None, **columns):
        images = [{"bytes": PICTURE, "path": None}] * len(labels)
        table = pa.table({"image": images, label: labels, **columns})
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / name)
        return str(tmp_path / name)

    return write_file


def opened(train, test=(), **columns):
    return ParquetSource(Parquet(train=list(train), test=list(test), **columns))


def refused(message, train, test=(), **columns):
    with pytest.raises(UserError, match=message) as caught:
        opened(train, test, **columns)
    assert "\n" not in str(caught.value)


def named(source):
    """The class names of all images, training images first."""
    labels = np.concatenate([source.train_labels, source.test_labels])
    return [source.classes[label] for label in labels]


# --- text labels ----------------------------------------------------------------------------------------

WORDS = ["dog", "cat", "eel", "cat"]
TEXTS = {
    "string": pa.array(WORDS),
    "large string": pa.array(WORDS, pa.large_string()),
    "dictionary": pa.array(WORDS).dictionary_encode(),  # in the order in which they occur
}


@pytest.mark.parametrize("kind", TEXTS)
def test_text_labels_are_classes_in_sorted_order(kind, write):
    source = opened([write("a.parquet", TEXTS[kind])])
    assert source.classes == ["cat", "dog", "eel"]
    assert source.train_labels.tolist() == [1, 0, 2, 0]
    assert source.train_labels.dtype == np.int64
    assert source.read([0]).shape == (1, 3, 4, 4)


def test_text_labels_are_the_same_in_any_order_of_the_files(write):
    first, second = write("a.parquet", ["eel", "dog"]), write("b.parquet", TEXTS["dictionary"])
    test = write("test.parquet", pa.array(["dog"], pa.large_string()))
    for train in ([first, second], [second, first]):
        source = opened(train, [test])
        assert source.classes == ["cat", "dog", "eel"]
        assert sorted(named(source)[:-1]) == ["cat", "cat", "dog", "dog", "eel", "eel"]
        assert named(source)[-1] == "dog"


def test_text_labels_take_the_order_of_stated_class_names(write):
    metadata = {"class_names": json.dumps(["eel", "dog", "cat", "ant"])}
    source = opened([write("a.parquet", WORDS, metadata=metadata)])
    assert source.classes == ["eel", "dog", "cat", "ant"]
    assert source.train_labels.tolist() == [1, 2, 0, 2]


def test_dictionaries_of_numbers_are_numbers(write):
    source = opened([write("a.parquet", pa.array([1, 0, 1]).dictionary_encode())])
    assert source.classes == ["0", "1"]
    assert source.train_labels.tolist() == [1, 0, 1]


def test_bad_text_labels(write):
    train = write("a.parquet", WORDS)
    unknown = write("test.parquet", ["dog", "Dog"])
    refused(r"test\.parquet, row 1: label 'Dog' is none of the 3 classes, cat, dog, eel;", [train], [unknown])
    numbers = write("numbers.parquet", [0, 1])
    refused(r"numbers\.parquet: column label holds integers, but text in .*a\.parquet;", [train, numbers])
    refused(r"a\.parquet: column label holds text, but integers in .*numbers\.parquet;", [numbers, train])
    for missing in ("", None):
        refused(r"b\.parquet, row 1: label is null or empty", [write("b.parquet", ["cat", missing])])
    invalid = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], dtype=np.int32)), pa.py_buffer(b"\xe9")]
    )
    refused(r"c\.parquet: label cannot be read", [write("c.parquet", invalid)])
    huge = write("d.parquet", pa.array([0, 2**64 - 1], pa.uint64()))
    refused(r"d\.parquet: label cannot be read", [huge])


# --- columns --------------------------------------------------------------------------------------------


def test_a_column_of_the_usual_name_is_what_the_user_means(write):
    folds = {"fold": [0, 1, 2, 3]}
    assert opened([write("a.parquet", WORDS, **folds)]).classes == ["cat", "dog", "eel"]
    fractions = write("b.parquet", [0.0, 1.0, 2.0, 1.0], **folds)
    refused(
        r"b\.parquet: column label is double, no column of integers or text; .* source\.label_column",
        [fractions],
    )
    assert opened([fractions], label_column="fold").train_labels.tolist() == [0, 1, 2, 3]
    multiple = write("c.parquet", pa.array([[0]] * 4), fine_label=[0, 1, 2, 3])
    refused(r"c\.parquet: column label is list<", [multiple])


def test_columns_of_other_names_are_not_guessed(write):
    path = write("a.parquet", WORDS, label="species", fold=[0, 1, 2, 3])
    refused(r"more than one column of integers or text among the columns image, species, fold; set", [path])
    assert named(opened([path], label_column="species")) == WORDS
    raw = pa.table({"image": [PICTURE], "label": [0]})
    pq.write_table(raw, path)
    refused(r"a\.parquet: column image is binary, no struct with a field `bytes`; .*image_column", [path])


def test_what_was_chosen_is_said(write):
    path = write("a.parquet", [0, 1], label="fold")
    assert opened([path]).remarks == [
        f"{path}: label_column is not set; column fold is read",
    ]
    assert opened([path], image_column="image", label_column="fold").remarks == []


# --- several files --------------------------------------------------------------------------------------


def test_class_names_may_stand_in_any_of_the_files(write):
    with_names = write("a.parquet", [0, 2, 1], metadata=NAMES)
    without = write("b.parquet", [1, 0, 0])
    for train, test in ([with_names, without], [without, with_names]):
        for files in (([train, test], []), ([train], [test])):
            assert opened(*files).classes == ["cat", "dog", "eel"]
    other = write("c.parquet", [0, 1], metadata={"class_names": '["owl", "yak"]'})
    refused(r"c\.parquet: its class names are not those of .*a\.parquet", [without, with_names], [other])


def test_a_test_set_without_labels_is_called_unlabelled(write):
    train, test = write("train.parquet", [0, 1, 2, 1]), write("test.parquet", [-1, -1])
    found = r"test\.parquet, row 0: label -1 is none of 0 to 2; -1 marks an unlabelled image, as 2 of 6"
    refused(found, [train], [test])


def test_a_file_is_read_once_under_all_of_its_names(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write("a.parquet", [0, 1])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.parquet").symlink_to("../a.parquet")
    (tmp_path / "linked").symlink_to("folder")
    os.link(path, "hard.parquet")
    others = [
        "a.parquet",
        "./folder/../a.parquet",
        "folder/link.parquet",
        "linked/link.parquet",
        "hard.parquet",
    ]
    for other in others:
        refused(r"a\.parquet: named twice in source\.train and source\.test, first as ", [other], [path])
    refused(r"a\.parquet: named twice in source\.train and source\.test;", [path, path])
    (tmp_path / "copy.parquet").write_bytes((tmp_path / "a.parquet").read_bytes())
    assert opened([path], ["copy.parquet"]).test_labels.tolist() == [0, 1]


# --- images ---------------------------------------------------------------------------------------------


def test_paths_in_place_of_images(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": None, "path": "a.png"}, None], kind)
    pq.write_table(pa.table({"image": images, "label": [0, 1]}), tmp_path / "a.parquet")
    source = opened([str(tmp_path / "a.parquet")])
    for row in (0, 1):
        for read in (source.read, source.survey):
            with pytest.raises(
                UserError, match=rf"a\.parquet, row {row}: no image, its bytes are null; write"
            ):
                read([row])
    images = pa.array([{"path": "a.png"}], pa.struct([("path", pa.string())]))
    pq.write_table(pa.table({"image": images, "label": [0]}), tmp_path / "b.parquet")
    refused("column image is struct<path: string>, no struct with a field", [str(tmp_path / "b.parquet")])


def test_a_pipe_in_place_of_a_file(tmp_path):
    os.mkfifo(tmp_path / "a.parquet")
    refused(r"a\.parquet: a pipe, where a file of data is needed", [str(tmp_path / "a.parquet")])


def test_a_survey_counts_what_is_unusual_without_decoding(tmp_path):
    more = {"save_all": True, "append_images": [Image.fromarray(255 - COLOURS)]}
    gif, camera = encoded(COLOURS, "GIF", **more), encoded(COLOURS, "MPO", **more)  # a JPEG with a preview
    plain, grey = encoded(COLOURS), encoded(DEEP)
    path = tmp_path / "a.parquet"
    images = [{"bytes": content} for content in (plain, gif, grey, camera, gif, plain[:60], b"GIF")]
    pq.write_table(pa.table({"image": images, "label": [0] * 7}), path)
    source = opened([str(path)])
    frames, deep = source.survey(range(5))
    assert frames.startswith("2 of 5 images hold several frames or pages, of which the first is read; ")
    assert frames.endswith(f"{path}, row 1")
    assert deep.startswith("1 of 5 images are 16-bit grey")
    assert deep.endswith(f"{path}, row 2")
    assert source.survey([0, 3, 5]) == []  # the header of the last is whole
    with pytest.raises(UserError, match=r"a\.parquet, row 6: not an image"):
        source.survey([0, 6])
