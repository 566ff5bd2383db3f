"""MedMNIST's files of every kind, and archives that are not what they seem."""

import io
import os
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from hlrs.config.data import Npz
from hlrs.data.sources import arrays
from hlrs.data.sources.arrays import NpzSource
from hlrs.errors import UserError

COUNTS = {"train": 6, "val": 2, "test": 3}


def medmnist(path, size=28, channels=None, classes=2, **changed):
    """Write a file in MedMNIST's format: pixel [0, 0] of an image is its number over all parts."""
    content, start = {}, 0
    for part, count in COUNTS.items():
        images = np.zeros((count, size, size, channels or 1), dtype=np.uint8)
        images[:, 0, 0] = np.arange(start, start + count)[:, None]
        content[f"{part}_images"] = images if channels else images[..., 0]
        content[f"{part}_labels"] = (np.arange(count, dtype=np.uint8) % classes)[:, None]
        start += count
    np.savez_compressed(path, **(content | changed))
    return str(path)


def refused(message, path, **fields):
    with pytest.raises(UserError, match=message) as caught:
        NpzSource(Npz(file=str(path), **fields)).read([0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [28, 64, 128, 224])
@pytest.mark.parametrize(("channels", "read"), [(None, 1), (1, 1), (3, 3)])
@pytest.mark.parametrize("classes", [2, 3])
def test_every_kind(size, channels, read, classes, tmp_path):
    source = NpzSource(Npz(file=medmnist(tmp_path / "a.npz", size, channels, classes)))
    assert source.classes == [str(label) for label in range(classes)]
    assert source.channels == read
    assert source.train_labels.tolist() == [number % classes for number in range(6)]
    images = source.read(range(9))
    assert images.shape == (9, read, size, size)
    assert images[:, :, 0, 0].tolist() == [[number] * read for number in (0, 1, 2, 3, 4, 5, 8, 9, 10)]


def test_classes_are_named_by_a_file_with_a_name_for_each(tmp_path):
    path, names = medmnist(tmp_path / "a.npz", classes=3), tmp_path / "names.txt"
    names.write_text("adipose\n lymphocytes \n\ndebris\n")
    spec = Npz(file=path, classes=str(names))
    assert NpzSource(spec).classes == ["adipose", "lymphocytes", "debris"]
    assert [file.path for file in arrays.npz_files(spec)] == [path, str(names)]
    names.write_text("adipose\n")
    refused(r"names\.txt: 1 class names, .*labels 0 to 2; write one name per line", path, classes=str(names))
    refused(r"none\.txt: No such file", path, classes=str(tmp_path / "none.txt"))


def test_validation_images_join_the_training_images_if_asked(tmp_path):
    spec = Npz(file=medmnist(tmp_path / "a.npz"), join_val=True)
    source = NpzSource(spec)
    assert source.train_labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert source.test_labels.tolist() == [0, 1, 0]
    assert source.read(range(11))[:, 0, 0, 0].tolist() == [*range(11)]
    assert [source._where(index).split(", ")[1] for index in (5, 6, 8)] == [
        "train image 5",
        "val image 0",
        "test image 0",
    ]
    medmnist(tmp_path / "a.npz", val_labels=np.array([[0], [2]]))
    refused(r"a\.npz, val image 1: label 2 is none of 0 to 1", spec.file, join_val=True)
    assert len(NpzSource(Npz(file=spec.file)).train_labels) == 6
    some = {
        f"{part}_{what}": np.zeros((1, 2, 2), np.uint8)
        for part in ("train", "test")
        for what in ("images", "labels")
    }
    np.savez(tmp_path / "b.npz", **some)
    refused(r"b\.npz: no array val_images .*with join_val", tmp_path / "b.npz", join_val=True)


def test_what_is_not_supported_is_refused_by_name(tmp_path):
    chest = medmnist(tmp_path / "chest.npz", train_labels=np.zeros((6, 14), dtype=np.uint8))
    refused(r"chest\.npz: train_labels has 14 labels per image.*multi-label", chest)
    for shape in ((6, 28, 28, 28), (6, 28, 28, 28, 1)):
        organ = medmnist(tmp_path / "organ.npz", train_images=np.zeros(shape, dtype=np.uint8))
        refused(r"organ\.npz: train_images is uint8 .* 3-D images", organ)
    rgba = medmnist(tmp_path / "rgba.npz", channels=4)
    refused(r"rgba\.npz: train_images is uint8 \[6, 28, 28, 4\]; images must be uint8", rgba)


# --- archives that are not what they seem ---------------------------------------------------------------


def header(shape, kind="|u1"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["train_images", "test_images", "train_labels"])
def test_a_header_of_80_terabytes(name, tmp_path):
    path = medmnist(tmp_path / "a.npz")
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    members[f"{name}.npy"] = header((80_000_000, 1000, 1000)) + bytes(100)
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    refused(rf"a\.npz: {name} is .*80,000,000,000,000 bytes, but holds 100;", path)


def test_a_lone_array_of_80_terabytes(tmp_path):
    (tmp_path / "a.npz").write_bytes(header((80_000_000, 1000, 1000)) + bytes(100))
    refused(r"a\.npz: broken or not an \.npz", tmp_path / "a.npz")


def test_an_archive_that_unpacks_to_more_than_the_memory(tmp_path, monkeypatch):
    path = medmnist(tmp_path / "a.npz", size=224)
    unpacked = (6 + 3 + 6) * 224 * 224  # the images, and beside them the part that is unpacked
    assert Path(path).stat().st_size < unpacked / 50
    monkeypatch.setattr(arrays, "available_memory", lambda: unpacked - 1)
    refused(r"a\.npz: unpacking it takes 0\.0 GB of memory, 0\.0 GB are free", path)
    monkeypatch.setattr(arrays, "available_memory", lambda: unpacked)
    assert NpzSource(Npz(file=path)).read([8])[0, 0, 0, 0] == 10
    monkeypatch.undo()
    assert 10**8 < arrays.available_memory() < 10**14


def test_archives_that_are_broken(tmp_path):
    path = medmnist(tmp_path / "a.npz")
    whole = (tmp_path / "a.npz").read_bytes()
    for change in range(0, len(whole), 11):  # whatever NumPy and zipfile make of it is one line, or no harm
        (tmp_path / "a.npz").write_bytes(whole[:change] + bytes([whole[change] ^ 0xFF]) + whole[change + 1 :])
        with suppress(UserError):
            NpzSource(Npz(file=path)).read([0, 8])
    (tmp_path / "a.npz").write_bytes(b"")
    refused(r"a\.npz: empty;", path)
    (tmp_path / "a.npz").unlink()
    os.mkfifo(path)
    refused(r"a\.npz: a pipe", path)
