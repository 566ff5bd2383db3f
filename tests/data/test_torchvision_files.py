"""torchvision's files: the published ones count by name, others by their bytes."""

import gzip
import hashlib
from pathlib import Path

import pytest
from torchvision import datasets

from hlrs.artifacts.data_digest import content_digest
from hlrs.config.data import Torchvision

NAMES = [archive.removesuffix(".gz") for archive, _ in datasets.MNIST.resources]
MNIST, CIFAR = Torchvision(name="mnist", root="tv"), Torchvision(name="cifar10", root="tv")


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    """Files of MNIST and CIFAR-10, made up, with checksums that torchvision takes for the published ones."""
    monkeypatch.chdir(tmp_path)
    raw = Path("tv/MNIST/raw")
    raw.mkdir(parents=True)
    resources = []
    for name in NAMES:
        (raw / name).write_bytes(name.encode())
        (raw / f"{name}.gz").write_bytes(gzip.compress(name.encode()))
        resources.append((f"{name}.gz", md5(raw / f"{name}.gz")))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    folder = Path("tv/cifar-10-batches-py")
    folder.mkdir()
    for name in ("batch", "test", "meta"):
        (folder / name).write_bytes(name.encode())
    for field, name in (("train_list", "batch"), ("test_list", "test")):
        monkeypatch.setattr(datasets.CIFAR10, field, [[name, md5(folder / name)]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": "meta", "md5": md5(folder / "meta")})


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("spec", "changed"), [(MNIST, f"MNIST/raw/{NAMES[1]}"), (CIFAR, "cifar-10-batches-py/test")]
)
def test_replaced_files_change_the_digest_and_the_published_ones_restore_it(spec, changed):
    published = content_digest(spec)
    assert published == f"torchvision:{spec.name}"
    path = Path("tv", changed)
    before = path.read_bytes()
    path.write_bytes(b"other labels")
    assert content_digest(spec) not in (published, None)
    path.write_bytes(before)
    assert content_digest(spec) == published


def test_before_their_download_they_count_as_published():
    for name in NAMES:
        Path("tv/MNIST/raw", name).unlink()
    assert content_digest(MNIST) == "torchvision:mnist"
    assert content_digest(Torchvision(name="kmnist", root="nowhere")) == "torchvision:kmnist"


def test_without_their_archives_they_count_by_their_bytes():
    for name in NAMES:
        Path("tv/MNIST/raw", f"{name}.gz").unlink()
    files = [f"{name} {hashlib.sha256(name.encode()).hexdigest()}" for name in NAMES]
    assert content_digest(MNIST) == hashlib.sha256("\n".join(files).encode()).hexdigest()
