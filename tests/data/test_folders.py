"""Folders as people have them: hidden files, links, images of other formats, one level too high."""

import os
from pathlib import Path

import pytest
from PIL import Image

from hlrs.artifacts.data_digest import content_digest, data_files, leaks
from hlrs.config.data import ImageFolder, ListFile
from hlrs.data.sources.open import open_source
from hlrs.errors import UserError


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(*paths, grey=0):
    for number, name in enumerate(paths):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, grey, 0)).save(path, format="PNG")


def folder(train="train", test=None):
    return ImageFolder(kind="image_folder", train=train, test=test)


def read(spec):
    """File -> label of what is read; the digest lists the same files."""
    source = open_source(spec)
    labels = [*source.train_labels.tolist(), *source.test_labels.tolist()]
    found = dict(zip(map(str, source.files), labels, strict=True))
    assert [str(path) for _, path in data_files(spec)] == [*found]
    return found


SOUND = {"train/cat/1.png": 0, "train/dog/2.png": 1}


def test_what_is_hidden_is_no_image_and_no_class():
    write(*SOUND, "train/cat/._1.png", "train/cat/.ipynb_checkpoints/1.png", "train/.ipynb_checkpoints/3.png")
    write("train/__MACOSX/cat/1.png")
    Path("train/cat/Thumbs.db").touch()
    assert read(folder()) == SOUND
    assert open_source(folder()).remarks == []


def test_a_folder_with_an_images_name_is_a_folder():
    write("train/v1.png/1.png", "train/v2.png/2.png")
    assert read(folder()) == {"train/v1.png/1.png": 0, "train/v2.png/2.png": 1}


def test_links_to_classes_and_within_them_are_followed():
    write("pool/felines/1.png", "pool/2.png", "train/dog/2.png")
    Path("train/cat").symlink_to(Path("pool/felines").resolve())
    Path("train/dog/more").symlink_to(Path("pool").resolve())
    assert read(folder()) == {
        "train/cat/1.png": 0,
        "train/dog/2.png": 1,
        "train/dog/more/2.png": 1,
        "train/dog/more/felines/1.png": 1,
    }


def test_a_change_behind_a_link_changes_the_digest():
    write("pool/1.png", "train/dog/2.png")
    Path("train/cat").symlink_to(Path("pool").resolve())
    before = content_digest(folder())
    write("pool/1.png", grey=9)
    assert content_digest(folder()) != before


def test_a_link_back_up_is_refused():
    write(*SOUND)
    Path("train/dog/again").symlink_to(Path("train").resolve())
    with pytest.raises(
        UserError, match=r"^train/dog/again/dog: a link .*remove the link|^train/dog/again.*: a link"
    ):
        open_source(folder())


def test_images_of_other_formats_are_counted_and_named():
    write(*SOUND, "train/cat/a.gif", "train/cat/b.gif", "train/dog/none")
    Path("train/dog/photo.HEIC").touch()  # of which Pillow does not know
    [remark] = open_source(folder()).remarks
    assert remark.startswith("train: 4 image files are not read (2 with .gif, ")
    assert "1 with .heic" in remark
    assert "1 with no suffix" in remark
    assert "train/cat/a.gif" in remark


def test_images_beside_the_classes_are_counted_and_named():
    write(*SOUND, "train/stray.png")
    Path("train/README").touch()
    [remark] = open_source(folder()).remarks
    assert remark.startswith("train: 1 images beside the classes' folders are not read")
    assert "train/stray.png; move" in remark


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "val"), ("train",)])
def test_one_level_too_high(names):
    write(*(f"data/{name}/{c}/1.png" for name in names for c in ("cat", "dog")))
    with pytest.raises(UserError, match=rf"^data: holds .*did you mean data/{names[0]}\?"):
        open_source(folder("data"))


def test_one_level_too_high_beside_other_folders():
    write(*(f"data/{name}/{c}/1.png" for name in ("train", "val", "samples") for c in ("cat", "dog")))
    with pytest.raises(UserError, match=r"did you mean data/train\?"):
        open_source(folder("data"))


def test_a_test_folder_one_level_too_high():
    write(*SOUND, "data/test/cat/1.png")
    with pytest.raises(UserError, match=r"did you mean data/test\?"):
        open_source(folder(test="data"))


def test_a_name_that_is_not_utf_8_is_one_line():
    write(*SOUND)
    Path(os.fsdecode(b"train/cat/caf\xe9.png")).write_bytes(b"")
    with pytest.raises(UserError, match=r"train/cat/caf.*UTF-8.*rename"):
        open_source(folder())


def make_fifo(path):
    os.mkfifo(path)


def link_to_zeros(path):
    Path(path).symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [make_fifo, link_to_zeros])
def test_what_is_no_regular_file_is_refused_before_it_is_read(make):
    write(*SOUND)
    make("train/cat/2.png")
    with pytest.raises(UserError, match=r"^train/cat/2\.png: a (pipe|device)"):
        content_digest(folder())


# --- test images that are training images -------------------------------------------------------------


def link(target):
    Path("other").symlink_to(Path(target).resolve())
    return "other"


@pytest.mark.parametrize("test", ["train", "train/", "./train", "train/../train", link])
def test_the_same_folder_under_any_name_is_refused(test):
    write(*SOUND)
    spec = folder(test=test("train") if callable(test) else test)
    with pytest.raises(UserError, match=r"^2 of 2 test images are training images.*source\.test"):
        leaks(open_source(spec))


def test_a_test_folder_inside_the_training_folder_is_refused():
    write("data/cat/1.png", "data/dog/2.png", "data/test/cat/3.png", "data/test/dog/4.png")
    with pytest.raises(UserError, match="2 of 2 test images are training images"):
        leaks(open_source(folder("data", "data/test")))


def test_the_same_bytes_under_another_name_are_counted():
    write(*SOUND)
    write("test/cat/a.png", "test/dog/b.png", grey=7)
    Path("test/dog/copy.png").write_bytes(Path("train/cat/1.png").read_bytes())
    [remark] = leaks(open_source(folder(test="test")))
    assert remark.startswith("1 of 3 test images")
    assert "test/dog/copy.png" in remark
    assert "train/cat/1.png" in remark
    assert leaks(open_source(folder())) == []


def test_lists_are_compared_too():
    write("a/1.png", "a/2.png", "b/3.png", grey=5)
    Path("b/copy.png").write_bytes(Path("a/1.png").read_bytes())
    Path("train.txt").write_text("a/1.png 0\na/2.png 1\n")
    Path("test.txt").write_text("b/copy.png 0\nb/3.png 1\n")
    [remark] = leaks(open_source(ListFile(kind="list_file", root=".", train="train.txt", test="test.txt")))
    assert remark.startswith("1 of 2 test images")
