"""Digests of data: what counts as a change of a data set's bytes, and what does not."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from hlrs.artifacts import data_digest
from hlrs.artifacts.data_digest import content_digest, data_files, file_digests
from hlrs.config.data import Digits, ImageFolder, ListFile, Npz, Parquet, Torchvision
from hlrs.errors import UserError
from tests.messages import says


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/train.parquet").write_bytes(b"some bytes")
    return tmp_path


@pytest.fixture
def images(workspace):
    """Three images that two lists name."""
    for name in ("a/1 0.jpg", "b/2.jpg", "c.jpg"):
        path = Path("data", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    Path("train.txt").write_text("a/1 0.jpg 0\nb/2.jpg 1\n")
    Path("test.txt").write_text("c.jpg 1\n")
    return ListFile(kind="list_file", root="data/", train="train.txt", test="test.txt")


def parquet(*train, test=()):
    return Parquet(kind="parquet", train=list(train) or ["data/train.parquet"], test=list(test))


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
    Path("data/train.parquet").write_bytes(b"OTHER BYTE")  # what reading again would find
    os.utime("data/train.parquet", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content_digest(parquet()) == first


def test_only_the_changed_file_of_many_is_read_again(images, monkeypatch):
    read = []
    original = data_digest.sha256
    monkeypatch.setattr(data_digest, "sha256", lambda path: read.append(str(path)) or original(path))
    before = content_digest(images)
    assert sorted(read) == ["data/a/1 0.jpg", "data/b/2.jpg", "data/c.jpg", "test.txt", "train.txt"]
    assert content_digest(images) == before
    Path("data/b/2.jpg").write_bytes(b"other")
    assert content_digest(images) != before
    Path("data/b/2.jpg").write_bytes(b"b/2.jpg")
    os.utime("data/b/2.jpg", ns=(5, 5))
    assert content_digest(images) == before
    assert read[5:] == ["data/b/2.jpg"] * 2


def test_an_interrupted_run_keeps_its_digests(images, monkeypatch):
    monkeypatch.setattr(data_digest, "ThreadPoolExecutor", Serial)
    original = data_digest.sha256
    read = []

    def interrupted(path):
        if len(read) == 3:
            raise KeyboardInterrupt
        read.append(str(path))
        return original(path)

    monkeypatch.setattr(data_digest, "sha256", interrupted)
    with pytest.raises(KeyboardInterrupt):
        content_digest(images)
    monkeypatch.setattr(data_digest, "sha256", lambda path: read.append(str(path)) or original(path))
    content_digest(images)
    assert len(read) == len(set(read)) == 5


class Serial:
    """A pool of no threads."""

    def __init__(self, *_):
        self.map = map

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_a_touched_file_is_read_again_and_keeps_its_digest(workspace):
    first = content_digest(parquet())
    os.utime("data/train.parquet", ns=(5, 5))
    assert content_digest(parquet()) == first


@pytest.mark.parametrize("memory", ["", "{", "\x00", "[]"])
def test_a_broken_cache_is_ignored(workspace, memory):
    first = content_digest(parquet())
    data_digest.MEMORY.write_text(memory)
    data_digest.CONTENTS.write_text(memory)
    assert content_digest(parquet()) == first


def test_the_digest_of_a_folder_covers_its_images_by_name(workspace):
    for name in ("a/1.png", "b/2.JPG", "b/notes.txt"):
        path = Path("data/images", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    source = ImageFolder(kind="image_folder", train="data/images")
    before = content_digest(source)
    Path("data/images/b/notes.txt").write_text("not an image")
    assert content_digest(source) == before
    Path("data/images/b/2.JPG").rename("data/images/a/2.JPG")  # the same bytes in another class
    assert content_digest(source) != before


def test_the_digest_of_torchvision_is_that_of_its_name(workspace):
    found = {
        content_digest(Torchvision(kind="torchvision", name=n, root=r))
        for n, r in (("cifar10", "x"), ("cifar10", "y"), ("cifar100", "x"))
    }
    assert len(found) == 2


def test_digits_need_no_files(workspace):
    assert content_digest(Digits(kind="digits")) == content_digest(Digits(kind="digits"))
    assert not Path("data/digits").exists()


@pytest.mark.parametrize(
    "source",
    [parquet("data/none.parquet"), ImageFolder(kind="image_folder", train="data/none")],
    ids=["file", "folder"],
)
def test_a_missing_file_is_named_in_one_line(workspace, source):
    with pytest.raises(UserError) as caught:
        content_digest(source)
    assert str(caught.value).startswith("data/none")
    says(str(caught.value))


def test_a_folder_without_images_is_rejected(workspace):
    Path("data/cat").mkdir()
    with pytest.raises(UserError, match=r"^data\b.*images.*add\b"):
        content_digest(ImageFolder(kind="image_folder", train="data"))


def test_files_below_a_folder_that_dvc_tracks_are_listed(workspace):
    for name in ("a/1.png", "b/2.png"):
        path = Path("data/images", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    Path("data/images.dvc").write_text("outs:\n- md5: 77ff.dir\n  path: images\n")
    files = data_files(ImageFolder(kind="image_folder", train="data/images"))
    assert files == [(f"train/{name}", Path("data/images", name)) for name in ("a/1.png", "b/2.png")]
    digests = file_digests(path for _, path in files)
    assert digests == [hashlib.sha256(name.encode()).hexdigest() for name in ("a/1.png", "b/2.png")]


def test_the_digest_of_a_list_covers_its_lines_and_images(images):
    texts = [("train", b"a/1 0.jpg 0\nb/2.jpg 1\n"), ("test", b"c.jpg 1\n")]
    named = [(f"root/{name}", name.encode()) for name in ("a/1 0.jpg", "b/2.jpg", "c.jpg")]
    lines = [f"{name} {hashlib.sha256(content).hexdigest()}" for name, content in texts + named]
    before = content_digest(images)
    assert before == hashlib.sha256("\n".join(lines).encode()).hexdigest()
    Path("data/unlisted.jpg").write_bytes(b"an image that no list names")
    assert content_digest(images) == before
    assert data_files(images)[2:] == [(name, Path("data", name.removeprefix("root/"))) for name, _ in named]
    Path("train.txt").write_text("a/1 0.jpg 1\nb/2.jpg 0\n")
    assert content_digest(images) != before


def test_missing_images_are_counted_and_the_first_is_named(images):
    for name in ("b/2.jpg", "c.jpg"):
        Path("data", name).unlink()
    with pytest.raises(UserError) as caught:
        content_digest(images)
    says(str(caught.value), "data/b/2.jpg", "2 of 3", "params")


def test_bad_lists_are_rejected_on_planning(images):
    Path("test.txt").write_text("c.jpg 2\n")
    with pytest.raises(UserError, match=r"^test\.txt:1\b.*\b2\b.*\b0 to 1\b.*train\.txt"):
        content_digest(images)


def test_another_file_that_a_pattern_matches_changes_the_digest(workspace):
    first = content_digest(parquet("data/*.parquet"))
    assert first == content_digest(parquet())
    Path("data/train-2.parquet").write_bytes(b"more")
    second = content_digest(parquet("data/*.parquet"))
    assert second == content_digest(parquet("data/train-2.parquet", "data/train.parquet")) != first
    with pytest.raises(UserError, match=r"^data/x-\*.*source\.train"):
        content_digest(parquet("data/x-*"))


def test_the_digest_of_an_npz_is_that_of_its_bytes(workspace):
    Path("data/path.npz").write_bytes(b"arrays")
    expected = hashlib.sha256(f"npz {hashlib.sha256(b'arrays').hexdigest()}".encode()).hexdigest()
    assert content_digest(Npz(kind="npz", file="data/path.npz")) == expected
