"""CSV files as spreadsheets, scripts and challenges leave them."""

import pytest

from hlrs.config.data import Csv
from hlrs.data.sources.csv_files import CsvSource
from hlrs.errors import UserError
from tests.messages import says

BOM = b"\xef\xbb\xbf"


def opened(train, **fields):
    return CsvSource(Csv(**{"root": "images", "train": train, "image": "file", "label": "dx"} | fields))


def refusal(train, **fields):
    with pytest.raises(UserError) as caught:
        opened(train, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"file,dx\na/1.png,nv\nb/2.png,mel\n",
        BOM + b"file,dx\r\na/1.png,nv\r\nb/2.png,mel\r\n",
        b"file,dx\ra/1.png,nv\rb/2.png,mel",
        b"dx;age;file\nnv;3,5;./a/1.png\n\nmel;;b//2.png\n",
        b"age\tfile\tdx\n80\ta/1.png\t nv \n\tb/2.png\tmel\textra\n",
        b'"file","dx","note"\n"a/1.png","nv","one, two"\n"b/2.png","mel","a ""word"" over\ntwo lines"\n',
        b'file , dx\n"a/1.png", "nv"\nb/2.png , "mel"\n',
        b'"file";dx;age, weight, height\na/1.png;nv;3, 4, 5\nb/2.png;mel;\n',
        b"\n  \n,,\nfile,dx,age\na/1.png,nv,3\n  \n,,\nb/2.png,mel,\n,,\n",
    ],
    ids=[
        "plain",
        "Windows",
        "old Mac",
        "semicolons",
        "tabs",
        "quotes",
        "blanks",
        "commas in a name",
        "blank lines",
    ],
)
def test_a_file_in_every_spelling(content, write):
    source = opened(write("train.csv", content))
    assert source.files == ["images/a/1.png", "images/b/2.png"]
    assert source.classes == ["mel", "nv"]
    assert source.train_labels.tolist() == [1, 0]
    assert source.test_labels.tolist() == []


def test_the_suffix_ends_each_path(write):
    source = opened(write("train.csv", b"file,dx\nISIC_1,nv\nISIC_2.2,mel\n"), suffix=".jpg")
    assert source.files == ["images/ISIC_1.jpg", "images/ISIC_2.2.jpg"]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["10", "9", "10", "100"], ["9", "10", "100"]),
        (["1", "01", "0"], ["0", "01", "1"]),  # two spellings are two classes
        (["10", "9", "none"], ["10", "9", "none"]),
        (["1.0", "0.0"], ["0.0", "1.0"]),
        (["NA", "null", "nan"], ["NA", "nan", "null"]),  # names like others
        (["10000000000", "9"], ["10000000000", "9"]),  # identifiers, not numbers
    ],
)
def test_classes_are_the_sorted_labels_by_value_if_all_are_numbers(labels, classes, write):
    lines = "".join(f"{number}.png,{label}\n" for number, label in enumerate(labels))
    source = opened(write("train.csv", f"file,dx\n{lines}".encode()))
    assert source.classes == classes
    assert [source.classes[label] for label in source.train_labels] == labels


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"file,diagnosis\n1.png,nv\n",
            ["train.csv", "no column 'dx'", "source.label", "'file', 'diagnosis'"],
        ),
        (b"image,dx\n1.png,nv\n", ["no column 'file'", "source.image", "'image', 'dx'"]),
        (b"file,dx,dx\n1.png,nv,mel\n", ["train.csv", "2 columns", "'dx'", "rename"]),
        (b"file,dx\n", ["train.csv", "lists no images", "add"]),
        (b"", ["train.csv", "empty"]),
        (b"file,dx\n1.png,nv\n2.png\n", ["train.csv:3", "dx is empty", "fill it"]),
        (b"file,dx\n1.png,nv\n ,nv\n", ["train.csv:3", "file is empty"]),
        (b"file,dx\n/1.png,nv\n", ["train.csv:2", "/1.png", "source.root", "relative"]),
        (b"file,dx\na/../../1.png,nv\n", ["train.csv:2", "source.root"]),
        (
            b"file,dx\n1.png,nv\na/./2.png,nv\n\na//2.png,mel\n",
            ["train.csv:5", "a/2.png", "train.csv:3", "once"],
        ),
        ("file,dx\n1.png,nävus\n".encode("latin-1"), ["train.csv", "UTF-8"]),
        (b'file,dx\n1.png,nv\n2.png,"nv\n', ["train.csv:3", "not CSV", "correct"]),
        (b"file,dx\n1.png," + b"n" * 200_000 + b"\n", ["train.csv:2", "not CSV"]),
        (b"n" * 200_000 + b"\n", ["train.csv:1", "not CSV"]),
        (b"\n\n", ["train.csv", "no column 'file'"]),
        (b"file,dx\n1\0.png,nv\n", ["train.csv:2", "NUL"]),
    ],
)
def test_what_is_wrong_is_said_with_its_line(content, words, write):
    says(refusal(write("train.csv", content)), *words)


def test_test_images_have_the_classes_of_the_training_images_and_are_others(write):
    train = write("train.csv", b"file,dx\n1.png,nv\n2.png,mel\n")
    source = opened(train, test=write("test.csv", b"dx,file\nnv,3.png\n"))
    assert source.files == ["images/1.png", "images/2.png", "images/3.png"]
    assert (source.train_labels.tolist(), source.test_labels.tolist()) == ([1, 0], [1])
    unknown = refusal(train, test=write("unknown.csv", b"file,dx\n3.png,bcc\n"))
    says(unknown, "unknown.csv:2", "'bcc'", "none of the 2 of", "train.csv", "mel, nv", "correct the label")
    both = refusal(train, test=write("both.csv", b"file,dx\n3.png,nv\n2.png,mel\n"))
    says(both, "both.csv:3", "2.png", "train.csv:3", "no training image as a test image")


def test_a_file_that_is_none(tmp_path):
    says(refusal(str(tmp_path / "none.csv")), "none.csv", "No such file", "as a CSV file")
    says(refusal(str(tmp_path)), "a folder")
