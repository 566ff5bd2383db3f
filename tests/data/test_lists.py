"""Lists as editors and scripts leave them."""

import os

import pytest

from hlrs.config.data import ListFile
from hlrs.data.sources.lists import ListSource
from hlrs.errors import UserError

BOM = b"\xef\xbb\xbf"


def opened(train, **fields):
    return ListSource(ListFile(root="images", train=train, **fields))


def refused(message, train, **fields):
    with pytest.raises(UserError, match=message) as caught:
        opened(train, **fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"a/1.png 0\nb/2.png 1\n",
        BOM + b"a/1.png 0\r\nb/2.png 1\r\n",
        b"a/1.png\t0\nb/2.png\t\t1",
        b"a/1.png 0  \t\n\n \nb/2.png 1 \n\n",
        b"./a/1.png 0\nb/./2.png 1\n",
        b"a//1.png 0\nb/2.png 1\n",
        b"a/1.png 0\rb/2.png 1\r",
    ],
)
def test_a_list_in_every_spelling(content, write):
    source = opened(write("train.txt", content))
    assert source.names == ["a/1.png", "b/2.png"]
    assert source.files == ["images/a/1.png", "images/b/2.png"]
    assert source.train_labels.tolist() == [0, 1]


def test_class_names_of_windows_editor(write):
    train = write("train.txt", b"a/1.png 0\nb/2.png 1\n")
    classes = write("classes.txt", BOM + "ameise\r\nb\u00e4r \r\n\r\n".encode())
    assert opened(train, classes=classes).classes == ["ameise", "b\u00e4r"]


@pytest.mark.parametrize("other", ["a/./1.png", "a//1.png", "./a/1.png"])
def test_an_image_under_two_spellings_is_one_image(other, write):
    twice = write("twice.txt", f"a/1.png 0\nb/2.png 1\n{other} 1\n".encode())
    refused(r"twice\.txt:3: a/1\.png is listed twice; 1 of 3 lines repeat", twice)
    train, test = write("train.txt", b"a/1.png 0\nb/2.png 1\n"), write("test.txt", f"{other} 0\n".encode())
    refused(r"test\.txt: 1 of 1 images are also in .*train\.txt, the first is a/1\.png;", train, test=test)


def test_lists_that_cannot_be_read(write, tmp_path):
    refused(
        r"nul\.txt:2: 'b\\x002\.png' holds a NUL character", write("nul.txt", b"a/1.png 0\nb\x002.png 1\n")
    )
    refused(r"wide\.txt: not text in UTF-8", write("wide.txt", "a/1.png 0\n".encode("utf-16")))
    refused(r"empty\.txt: empty;", write("empty.txt", b""))
    os.mkfifo(tmp_path / "pipe.txt")
    refused(r"pipe\.txt: a pipe", str(tmp_path / "pipe.txt"))
    refused(r"zero\.txt: a device", write("zero.txt", b"") and _link(tmp_path / "zero.txt", "/dev/zero"))
    refused(": a folder", str(tmp_path))


def _link(path, target):
    path.unlink()
    path.symlink_to(target)
    return str(path)
