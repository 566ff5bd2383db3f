"""Data that DVC tracks, in a real repository of DVC: a pointer counts if the files agree with it."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from hlrs.artifacts.data_digest import CONTENTS, content_digest, data_files
from hlrs.config.data import ImageFolder, ListFile, Parquet
from hlrs.errors import UserError

FILE = Parquet(kind="parquet", train=["data/*.parquet"])
FOLDER = ImageFolder(kind="image_folder", train="data/images")
NAMES = ("a/1.png", "a/2.png", "b/3.png")


@pytest.fixture
def repo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    for name in NAMES:
        path = Path("data/images", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    Path("data/train.parquet").write_bytes(b"some bytes")
    with Repo.init(no_scm=True) as repo:
        repo.add(["data/images", "data/train.parquet"])
        yield repo


def test_the_md5_of_a_file_stands_for_it_also_before_it_is_pulled(repo):
    md5 = hashlib.md5(b"some bytes").hexdigest()
    expected = hashlib.sha256(f"train/0 {md5}".encode()).hexdigest()
    assert content_digest(FILE) == expected
    Path("data/train.parquet").unlink()
    assert content_digest(FILE) == expected


def test_a_folder_has_its_key_also_before_it_is_pulled(repo):
    before = content_digest(FOLDER)
    shutil.rmtree("data/images")
    CONTENTS.unlink()
    assert content_digest(FOLDER) == before
    repo.checkout()
    assert content_digest(FOLDER) == before
    assert [name for name, _ in data_files(FOLDER)] == [f"train/{name}" for name in NAMES]


def add(repo):
    Path("data/images/a/new.png").write_bytes(b"new")


def remove(repo):
    Path("data/images/a/2.png").unlink()


def edit(repo):
    Path("data/images/a/2.png").write_bytes(b"another picture")


def edit_a_link_to_the_cache(repo):
    """As with `cache.type = symlink`: the link stays, what it leads to is another file."""
    path, target = Path("data/images/a/2.png"), Path("elsewhere.png")
    path.unlink()
    target.write_bytes(b"another picture")
    path.symlink_to(target.resolve())


@pytest.mark.parametrize("change", [add, remove, edit, edit_a_link_to_the_cache])
def test_a_folder_that_changed_beside_its_pointer_is_refused_until_it_is_added(change, repo):
    before = content_digest(FOLDER)
    change(repo)
    with pytest.raises(UserError, match=r"^data/images: .*`dvc add data/images`.*`dvc checkout") as caught:
        content_digest(FOLDER)
    assert "\n" not in str(caught.value)
    repo.add("data/images")
    assert content_digest(FOLDER) != before


def behind_a_link():
    Path("data/images/b").rename("elsewhere")
    Path("data/images/b").symlink_to(Path("elsewhere").resolve())


def ignored():
    Path(".dvcignore").write_text("3*.png\n")


@pytest.mark.parametrize("hide", [behind_a_link, ignored])
def test_files_that_are_read_but_not_tracked_are_refused(hide, repo):
    hide()
    with Repo() as again:  # which reads .dvcignore
        again.add("data/images")
    with pytest.raises(UserError, match=r"^data/images/b/3\.png: not tracked by data/images\.dvc"):
        content_digest(FOLDER)


def test_files_are_hashed_by_dvc_only_after_a_change(repo, monkeypatch):
    content_digest(FOLDER)
    monkeypatch.setattr(Repo, "__init__", None)  # a call would be a TypeError
    content_digest(FOLDER)
    os.utime("data/images/a/2.png", ns=(5, 5))
    with pytest.raises(TypeError):
        content_digest(FOLDER)


def test_a_list_below_a_root_that_dvc_tracks(repo):
    Path("train.txt").write_text("a/1.png 0\nb/3.png 1\n")
    source = ListFile(kind="list_file", root="data/images", train="train.txt")
    before = content_digest(source)
    shutil.rmtree("data/images")
    assert content_digest(source) == before
    Path("train.txt").write_text("a/1.png 0\na/2.png 1\n")
    assert content_digest(source) != before


BROKEN = {
    "empty": "",
    "without a hash": "outs:\n- path: images\n",
    "of another folder": "outs:\n- md5: 0123abc.dir\n  path: others\n",
    "cut off": "outs: [",
    "with a conflict": "<<<<<<< HEAD\nouts:\n",
    "deep": "[" * 3000,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_pointer_is_one_line_that_names_it(content, repo):
    Path("data/images.dvc").write_text(content)
    with pytest.raises(UserError, match=r"^data/images\.dvc: .*`dvc add data/images`") as caught:
        content_digest(FOLDER)
    assert "\n" not in str(caught.value)


def test_outside_of_a_repository_a_pointer_does_not_count(repo):
    shutil.rmtree(".dvc")
    before = content_digest(FOLDER)
    edit(repo)
    assert content_digest(FOLDER) != before


def test_what_is_not_pulled_is_named_with_the_command(repo):
    Path("data/images/test").mkdir()
    with pytest.raises(UserError, match=r"^data/images/none: .*`dvc pull data/images\.dvc`"):
        content_digest(ImageFolder(kind="image_folder", train="data/images/none"))
