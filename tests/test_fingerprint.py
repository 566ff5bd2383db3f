"""Digests of data: what counts as a change of a data set's bytes, and what does not."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from hlrs import config, fingerprint
from hlrs.errors import UserError
from hlrs.fingerprint import content_digest, data_files, file_digests


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/train.parquet").write_bytes(b"some bytes")
    return tmp_path


def parquet(*train, test=()):
    return config.Parquet(kind="parquet", train=list(train) or ["data/train.parquet"], test=list(test))


def test_changed_bytes_change_the_digest(workspace):
    before = content_digest(parquet())
    Path("data/train.parquet").write_bytes(b"same size!")
    os.utime("data/train.parquet", ns=(0, 0))
    assert content_digest(parquet()) != before


def test_the_digest_is_that_of_names_within_the_source_and_bytes(workspace):
    once = hashlib.sha256(b"some bytes").hexdigest()
    assert content_digest(parquet()) == hashlib.sha256(f"train/0 {once}".encode()).hexdigest()
    Path("elsewhere").mkdir()
    shutil.copyfile("data/train.parquet", "elsewhere/other.parquet")
    assert content_digest(parquet("elsewhere/other.parquet")) == content_digest(parquet())


def test_order_and_part_of_the_files_count(workspace):
    Path("data/b.parquet").write_bytes(b"other bytes")
    a, b = "data/train.parquet", "data/b.parquet"
    found = {content_digest(s) for s in (parquet(a, b), parquet(b, a), parquet(a, test=[b]), parquet(a))}
    assert len(found) == 4


def test_an_unchanged_file_is_not_read_again(workspace):
    first = content_digest(parquet())
    times = Path("data/train.parquet").stat()
    Path("data/train.parquet").write_bytes(b"OTHER BYTE")  # what a second reading would see
    os.utime("data/train.parquet", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content_digest(parquet()) == first


def test_a_touched_file_is_read_again_and_keeps_its_digest(workspace):
    first = content_digest(parquet())
    os.utime("data/train.parquet", ns=(5, 5))
    assert content_digest(parquet()) == first


@pytest.mark.parametrize("memory", ["", "{", "\x00"])
def test_a_broken_memory_is_forgotten(workspace, memory):
    first = content_digest(parquet())
    fingerprint.MEMORY.write_text(memory)
    assert content_digest(parquet()) == first


def test_the_pointer_of_dvc_answers_for_the_file(workspace):
    Path("data/train.parquet.dvc").write_text("outs:\n- md5: 0123abc\n  path: train.parquet\n")
    expected = hashlib.sha256(b"train/0 0123abc").hexdigest()
    assert content_digest(parquet()) == expected
    Path("data/train.parquet").unlink()  # as in a fresh clone, before `dvc pull`
    assert content_digest(parquet()) == expected


def test_the_pointer_of_dvc_answers_for_a_folder(workspace):
    Path("data/images.dvc").write_text("outs:\n- md5: 77ff.dir\n  path: images\n")
    source = config.ImageFolder(kind="image_folder", train="data/images")
    assert content_digest(source) == hashlib.sha256(b"train 77ff.dir").hexdigest()


def test_a_folder_is_its_images_by_name(workspace):
    for name in ("a/1.png", "b/2.JPG", "b/notes.txt"):
        path = Path("data/images", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    source = config.ImageFolder(kind="image_folder", train="data/images")
    before = content_digest(source)
    Path("data/images/b/notes.txt").write_text("not an image")
    assert content_digest(source) == before
    Path("data/images/b/2.JPG").rename("data/images/a/2.JPG")  # the same bytes, of another class
    assert content_digest(source) != before


def test_torchvisions_files_are_known_by_name(workspace):
    found = {
        content_digest(config.Torchvision(kind="torchvision", name=n, root=r))
        for n, r in (("cifar10", "x"), ("cifar10", "y"), ("cifar100", "x"))
    }
    assert len(found) == 2


def test_digits_come_with_scikit_learn(workspace):
    assert content_digest(config.Digits(kind="digits")) == content_digest(config.Digits(kind="digits"))
    assert not Path("data/digits").exists()


@pytest.mark.parametrize(
    "source",
    [parquet("data/none.parquet"), config.ImageFolder(kind="image_folder", train="data/none")],
    ids=["file", "folder"],
)
def test_a_missing_file_is_one_line_that_names_it(workspace, source):
    with pytest.raises(UserError, match=r"^data/none.*: (No such file|no such folder)") as caught:
        content_digest(source)
    assert "\n" not in str(caught.value)


def test_a_folder_without_images_is_refused(workspace):
    with pytest.raises(UserError, match="holds no images"):
        content_digest(config.ImageFolder(kind="image_folder", train="data"))


def test_every_file_is_named_also_below_a_folder_that_dvc_tracks(workspace):
    for name in ("a/1.png", "b/2.png"):
        path = Path("data/images", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    Path("data/images.dvc").write_text("outs:\n- md5: 77ff.dir\n  path: images\n")
    files = data_files(config.ImageFolder(kind="image_folder", train="data/images"))
    assert files == [(f"train/{name}", Path("data/images", name)) for name in ("a/1.png", "b/2.png")]
    digests = file_digests(path for _, path in files)
    assert digests == [hashlib.sha256(name.encode()).hexdigest() for name in ("a/1.png", "b/2.png")]
