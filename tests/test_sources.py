"""Sources: labels, pixels, order, and one line for whatever is wrong with the user's files."""

import gzip
import io
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hlrs.data import sources
from hlrs.data.sources import open_source
from hlrs.errors import UserError

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CLASS_NAMES = {"class_names": json.dumps(["cat", "dog", "eel"])}


def pixels(count, height=8, width=8, seed=0):
    """Random images, uint8 [count, height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def write_parquet(path, images, labels, image="img", label="label", metadata=None, **extra):
    """A file in the Hugging Face layout, four rows a row group; an image is pixels, bytes or None."""
    encoded = [png(i) if isinstance(i, np.ndarray) else i for i in images]
    records = pa.array([{"bytes": e, "path": None} for e in encoded], STRUCT)
    table = pa.table(extra | {image: records, label: labels}).replace_schema_metadata(metadata)
    pq.write_table(table, path, row_group_size=4, compression="none")
    return str(path)


def parquet(train, test=(), **columns):
    spec = {
        "kind": "parquet",
        "train": list(train),
        "test": list(test),
        "image_column": None,
        "label_column": None,
    }
    return spec | columns


def write_folders(root, images, labels, names=("cat", "dog", "eel")):
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = root / names[label] / f"{number // 2}" / f"{number:02d}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    return str(root)


def folders(train, test=None):
    return {"kind": "image_folder", "train": str(train), "test": test and str(test)}


def write_idx(root, part, images, labels):
    """One part of a Fashion-MNIST, in the idx files that torchvision unpacks."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">IIII", 0x803, *images.shape)
    (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
    header = struct.pack(">II", 0x801, len(labels))
    (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes(labels))


def torchvision(root, name="fashion_mnist"):
    return {"kind": "torchvision", "name": name, "root": str(root), "download": False}


LABELS = [2, 0, 1, 0, 2, 1, 1, 0, 0, 2]  # of the training images of every made-up source
TEST_LABELS = [0, 1, 2]


def make(kind, tmp_path):
    """(spec, pixels uint8 [13, channels, height, width], labels) of a tiny source of a kind."""
    images, labels = pixels(13), [*LABELS, *TEST_LABELS]
    if kind == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        return {"kind": "digits"}, digits.images[:, None] / 16 * 255, digits.target.tolist()
    if kind == "parquet":
        train = [
            write_parquet(tmp_path / "b.parquet", images[:7], LABELS[:7], metadata=CLASS_NAMES),
            write_parquet(tmp_path / "a.parquet", images[7:10], LABELS[7:], metadata=CLASS_NAMES),
        ]
        test = write_parquet(tmp_path / "test.parquet", images[10:], TEST_LABELS, metadata=CLASS_NAMES)
        return parquet(train, [test]), images.transpose(0, 3, 1, 2), labels
    if kind == "image_folder":
        train, test = tmp_path / "train", tmp_path / "test"
        write_folders(train, images[:10], LABELS)
        write_folders(test, images[10:], TEST_LABELS)
        order = [1, 3, 7, 8, 2, 5, 6, 0, 4, 9, 10, 11, 12]  # by class, then by path
        return folders(train, test), images[order].transpose(0, 3, 1, 2), [labels[i] for i in order]
    assert kind == "torchvision"
    write_idx(tmp_path, "train", images[:10, ..., 0], LABELS)
    write_idx(tmp_path, "t10k", images[10:, ..., 0], TEST_LABELS)
    return torchvision(tmp_path), images[:, None, ..., 0], labels


# --- every kind ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sources.KINDS)
def test_contract(kind, tmp_path):
    spec, expected, labels = make(kind, tmp_path)
    source = open_source(spec)
    assert np.concatenate([source.train_labels, source.test_labels]).tolist() == labels
    assert len(source.test_labels) == (0 if kind == "digits" else 3)
    assert source.train_labels.dtype == source.test_labels.dtype == np.int64
    asked = [12, 3, 0, 9, 3, 10, 6]  # out of order, with a repetition, across files and parts
    images = source.read(asked)
    assert images.dtype == np.uint8
    assert images.shape[1] == source.channels
    assert np.abs(images - expected[asked]).max() <= 0.5
    assert source.read([], size=4).shape == (0, source.channels, 4, 4)
    assert source.read(np.array([5, 6]), size=8).tolist() == source.read([5, 6]).tolist()
    with pytest.raises(UserError, match=f"asked of a source with {len(labels)}"):
        source.read([len(labels)])


def test_digits_are_scaled_and_rounded():
    first_row = open_source({"kind": "digits"}).read([0])[0, 0, 0]
    assert first_row.tolist() == [0, 0, 80, 207, 143, 16, 0, 0]  # of 0, 0, 5, 13, 9, 1, 0, 0 in 0 to 16


def test_only_torchvision_needs_torch(tmp_path):
    specs = [make(kind, tmp_path)[0] for kind in ("digits", "parquet", "image_folder")]
    program = (
        "import json, sys; import hlrs.data.sources as s, hlrs.data.split\n"
        "lazy = {'torch', 'torchvision', 'sklearn', 'PIL', 'pyarrow'}\n"
        "assert not lazy & set(sys.modules), lazy & set(sys.modules)\n"
        "for spec in json.loads(sys.argv[1]): s.open_source(spec).read([0])\n"
        "assert 'torch' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", program, json.dumps(specs)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


# --- size ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(30, 47), (47, 30), (9, 9), (8, 200), (31, 32)])
@pytest.mark.parametrize("size", [8, 17])
def test_size_is_resize_and_centre_crop(shape, size, tmp_path):
    from torchvision import transforms

    image = pixels(1, *shape)[0]
    path = write_parquet(tmp_path / "a.parquet", [image], [0])
    reference = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size)])
    expected = np.asarray(reference(Image.fromarray(image))).transpose(2, 0, 1)
    assert (open_source(parquet([path])).read([0], size=size)[0] == expected).all()


def test_native_sizes_must_agree(tmp_path):
    images = [*pixels(2), pixels(1, 10, 12)[0]]
    source = open_source(parquet([write_parquet(tmp_path / "a.parquet", images, [0, 0, 0])]))
    with pytest.raises(UserError, match=r"a\.parquet, row 2: 12×10 pixels, not 8×8 .*image_size"):
        source.read([0, 1, 2])
    assert source.read([0, 1, 2], size=6).shape == (3, 3, 6, 6)


def test_encoded_images_become_rgb(tmp_path):
    grey = np.full((8, 8), 77, dtype=np.uint8)
    source = open_source(parquet([write_parquet(tmp_path / "a.parquet", [grey], [0])]))
    assert (source.read([0]) == 77).all()
    assert source.read([0]).shape == (1, 3, 8, 8)


# --- Parquet ------------------------------------------------------------------------------------------


def test_parquet_decodes_only_what_is_asked_for(tmp_path):
    images = [*pixels(5), b"no image", None]
    path = write_parquet(tmp_path / "a.parquet", images, [0] * 7)
    source = open_source(parquet([path]))
    assert source.read([4, 0]).shape == (2, 3, 8, 8)
    with pytest.raises(UserError, match=r"a\.parquet, row 5: not an image.*cannot identify"):
        source.read([0, 5])
    with pytest.raises(UserError, match=r"a\.parquet, row 6: .*null"):
        source.read([6])


def test_parquet_reads_only_the_row_groups_asked_for(tmp_path):
    path = Path(write_parquet(tmp_path / "a.parquet", pixels(8), [0] * 8))
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    source = open_source(parquet([path]))
    assert source.read([3, 0]).shape == (2, 3, 8, 8)
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read \(.*anew"):
        source.read([4])


def test_parquet_of_many_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BATCH", 3)  # a row group of four then takes two
    images = pixels(11)
    source = open_source(parquet([write_parquet(tmp_path / "a.parquet", images, [0] * 11)]))
    asked = np.random.default_rng(1).permutation(11)
    assert (source.read(asked) == images[asked].transpose(0, 3, 1, 2)).all()


@pytest.mark.parametrize(
    ("names", "options"),
    [
        ({"image": "image", "label": "fine_label"}, {}),
        ({"image": "picture", "label": "kind"}, {}),
        ({"image": "picture", "label": "b", "a": [5, 5]}, {"label_column": "b"}),
        ({"image": "img", "label": "fine_label", "coarse_label": [5, 5]}, {}),
        (
            {"image": "b", "label": "label", "a": pa.array([{"bytes": b"", "path": ""}] * 2, STRUCT)},
            {"image_column": "b"},
        ),
    ],
)
def test_parquet_columns(names, options, tmp_path):
    images = pixels(2)
    source = open_source(parquet([write_parquet(tmp_path / "a.parquet", images, [1, 0], **names)], **options))
    assert source.train_labels.tolist() == [1, 0]
    assert (source.read([1])[0] == images[1].transpose(2, 0, 1)).all()


HUGGING_FACE = {"info": {"features": {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}}}
NO_NAMES = {"info": {"features": {"label": {"dtype": "int64", "_type": "Value"}}}}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (None, ["0", "1"]),
        ({"huggingface": json.dumps(NO_NAMES)}, ["0", "1"]),
        ({"huggingface": json.dumps(HUGGING_FACE)}, ["ant", "bee"]),
        (
            {"class_names": json.dumps(["x", "y", "z"]), "huggingface": json.dumps(HUGGING_FACE)},
            ["x", "y", "z"],
        ),
    ],
)
def test_parquet_class_names(metadata, expected, tmp_path):
    path = write_parquet(tmp_path / "a.parquet", pixels(2), [1, 0], metadata=metadata)
    assert open_source(parquet([path])).classes == expected


def truncated(path):
    Path(path).write_bytes(Path(path).read_bytes()[:-30])
    return path


BAD_PARQUET = {
    "missing": (lambda p: str(p), r"a\.parquet: no such file"),
    "a folder": (lambda p: p.mkdir() or str(p), r"a\.parquet: truncated or not Parquet"),
    "text": (lambda p: p.write_text("label,img\n" * 9) and str(p), r"a\.parquet: truncated or not Parquet"),
    "empty": (lambda p: p.write_bytes(b"") or str(p), r"a\.parquet: truncated or not Parquet"),
    "truncated": (lambda p: truncated(write_parquet(p, pixels(2), [0, 0])), r"a\.parquet: truncated or not"),
    "no rows": (lambda p: write_parquet(p, [], pa.array([], pa.int64())), r"a\.parquet: no rows"),
    "text labels": (lambda p: write_parquet(p, pixels(2), ["a", "b"]), "no column of integers.* img, label;"),
    "two labels": (
        lambda p: write_parquet(p, pixels(1), [0], label="a", b=[1]),
        "more than one column of integers",
    ),
    "no image": (
        lambda p: pq.write_table(pa.table({"label": [0]}), p) or str(p),
        "no struct.*columns label;",
    ),
    "image as text": (
        lambda p: pq.write_table(pa.table({"img": [{"bytes": "x"}], "label": [0]}), p) or str(p),
        "no struct with a field `bytes`",
    ),
    "negative": (lambda p: write_parquet(p, pixels(3), [0, 1, -1]), r"a\.parquet, row 2: label -1 "),
    "null": (lambda p: write_parquet(p, pixels(2), [0, None]), r"a\.parquet, row 1: label is null"),
    "too large": (
        lambda p: write_parquet(p, pixels(3), [0, 3, 1], metadata=CLASS_NAMES),
        r"a\.parquet, row 1: label 3 is none of 0 to 2",
    ),
    "absurd": (
        lambda p: write_parquet(p, pixels(2), [0, 10**5]),
        r"row 1: label 10+ with 2 training images",
    ),
    "names": (
        lambda p: write_parquet(p, pixels(1), [0], metadata={"class_names": "[1"}),
        "class names .* JSON",
    ),
    "mapping": (
        lambda p: write_parquet(p, pixels(1), [0], metadata={"class_names": '{"a": 1}'}),
        "class names .* JSON",
    ),
}


@pytest.mark.parametrize("case", BAD_PARQUET)
def test_bad_parquet(case, tmp_path):
    write, message = BAD_PARQUET[case]
    refused(parquet([write(tmp_path / "a.parquet")]), message)


def test_bad_parquet_beside_a_good_one(tmp_path):
    good = write_parquet(tmp_path / "good.parquet", pixels(3), [0, 1, 2], metadata=CLASS_NAMES)
    other = write_parquet(tmp_path / "other.parquet", pixels(1), [0], metadata={"class_names": '["owl"]'})
    label = write_parquet(tmp_path / "label.parquet", pixels(1), [3])
    column = write_parquet(tmp_path / "column.parquet", pixels(1), [0], label="target")
    refused(parquet([good], [other]), r"other\.parquet: its class names are not those of .*good\.parquet")
    refused(parquet([good], [label]), r"label\.parquet, row 0: label 3 is none of 0 to 2")
    refused(parquet([good, column]), r"column\.parquet: no column of integers called label .* img, target;")
    refused(parquet([good], label_column="class"), "no column of integers called class .*source.label_column")
    refused(parquet([good], image_column="label"), "no struct .* called label .*source.image_column")


def refused(spec, message):
    """Opening fails with one line that matches and that tells what to do."""
    with pytest.raises(UserError, match=message) as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


# --- folders ------------------------------------------------------------------------------------------


def test_folders(tmp_path):
    write_folders(tmp_path / "train", pixels(4), [0, 1, 2, 1])
    write_folders(tmp_path / "test", pixels(1), [2])  # a class less is no mistake
    (tmp_path / "train" / "dog" / "notes.txt").write_text("not an image")
    source = open_source(folders(tmp_path / "train", tmp_path / "test"))
    assert source.classes == ["cat", "dog", "eel"]
    assert source.train_labels.tolist() == [0, 1, 1, 2]
    assert source.test_labels.tolist() == [2]
    broken = tmp_path / "train" / "dog" / "0" / "01.PNG"
    broken.write_bytes(broken.read_bytes()[:60])
    assert source.read([0, 2, 3]).shape == (3, 3, 8, 8)
    with pytest.raises(UserError, match=r"dog/0/01\.PNG: not an image that can be decoded"):
        source.read([1])
    broken.unlink()
    with pytest.raises(UserError, match=r"dog/0/01\.PNG: not an image .*No such file"):
        source.read([1])


def test_bad_folders(tmp_path):
    refused(folders(tmp_path / "none"), "none: No such file or directory; it is named in the params")
    refused(folders(tmp_path), "no folders in it")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    refused(folders(tmp_path / "empty"), r"empty: no images .*\.png")
    train = write_folders(tmp_path / "train", pixels(1), [0])
    refused(folders(train, tmp_path / "empty"), r"empty: no images")
    refused(folders(train, write_folders(tmp_path / "test", pixels(1), [2])), "test/eel: no such class")


# --- torchvision --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist", "mnist", "kmnist"])
def test_torchvision_without_its_files(name, tmp_path):
    refused(torchvision(tmp_path / "tv", name), rf"tv: {name} is missing or broken .*set download: true")
    assert not (tmp_path / "tv").exists()


def test_torchvision_names_and_broken_files(tmp_path):
    spec, _, _ = make("torchvision", tmp_path)
    assert open_source(spec).classes[0] == "T-shirt/top"
    labels = tmp_path / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte"
    labels.write_bytes(struct.pack(">II", 0x801, 9) + bytes(9))
    refused(spec, "holds 10 training images and 9 labels")
    labels.write_bytes(struct.pack(">II", 0x801, 10) + bytes([10] * 10))
    refused(spec, r"\(fashion_mnist\), image 0: label 10 is none of 0 to 9")
    labels.write_bytes(gzip.compress(bytes(20)))
    refused(spec, "fashion_mnist is missing or broken")


def test_torchvision_names_the_files_that_it_reads(tmp_path):
    make("torchvision", tmp_path)
    raw = tmp_path / "FashionMNIST" / "raw"
    files = sources.torchvision_files("fashion_mnist", tmp_path)
    assert sorted(path for _, path in files) == sorted(raw.iterdir())
    cifar = [name for name, _ in sources.torchvision_files("cifar10", tmp_path)]
    assert cifar == [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
    _, path = sources.torchvision_files("cifar100", Path("x"))[0]
    assert path == Path("x/cifar-100-python/train")
