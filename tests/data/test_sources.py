"""Sources: labels, pixels, order, and one line about any fault in the user's files."""

import gzip
import hashlib
import io
import json
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from hlrs.artifacts.files import read_json
from hlrs.artifacts.tables import read_table
from hlrs.cli import main
from hlrs.config.data import Parquet, Source, Torchvision
from hlrs.data.sources import open as sources
from hlrs.data.sources import parquet as parquet_module
from hlrs.data.sources.arrays import SUPERCLASSES, superclasses, torchvision_files
from hlrs.data.sources.parquet import parts
from hlrs.errors import UserError
from tests.conftest import TINY
from tests.messages import says
from tests.specs import spec as spec_of
from tests.specs import specs

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
    """A file in the Hugging Face layout, four rows per row group; an image is pixels, bytes or None."""
    encoded = [png(i) if isinstance(i, np.ndarray) else i for i in images]
    records = pa.array([{"bytes": e, "path": None} for e in encoded], STRUCT)
    table = pa.table(extra | {image: records, label: labels}).replace_schema_metadata(metadata)
    pq.write_table(table, path, row_group_size=4, compression="none")
    return str(path)


KINDS = specs(Source)


def open_source(given):
    """The source of a spec's fields."""
    return sources.open_source(spec_of(Source, given))


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


def write_list(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def lists(root, train, test=None, classes=None):
    return {"kind": "list_file", "root": str(root), "train": train, "test": test, "classes": classes}


def write_imagenet(root, images, labels, test_images, test_labels):
    """ImageNet-LT's layout: one folder per class under train and val; its list files beside them."""
    lines = {"train": [], "val": []}
    for number, label in enumerate(labels):
        lines["train"].append(f"train/n0144{label:04d}/n0144{label:04d}_{number}.JPEG {label}")
    for number, label in enumerate(test_labels, 1):
        lines["val"].append(f"val/n0144{label:04d}/ILSVRC2012_val_{number:08d}.JPEG {label}")
    for line, image in zip([*lines["train"], *lines["val"]], [*images, *test_images], strict=True):
        path = root / line.split()[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))  # Pillow identifies formats by content, not by name
    train = write_list(root / "ImageNet_LT_train.txt", lines["train"])
    return lists(root, train, write_list(root / "ImageNet_LT_test.txt", lines["val"]))


def write_metadata(root, images, labels, test_images, test_labels):
    """HAM10000's layout: images in one folder, named by identifiers; diagnoses among other columns."""
    diagnoses = "akiec", "bcc", "mel"
    lines = [
        f'HAM_{number // 2:07d},ISIC_{number:07d},{diagnoses[label]},histo,80.0,male,"scalp, left"'
        for number, label in enumerate([*labels, *test_labels])
    ]
    header = "lesion_id,image_id,dx,dx_type,age,sex,localization"
    for line, image in zip(lines, [*images, *test_images], strict=True):
        path = root / "images" / f"{line.split(',')[1]}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    return {
        "kind": "csv",
        "root": str(root / "images"),
        "train": write_list(root / "train.csv", [header, *lines[: len(labels)]]),
        "test": write_list(root / "test.csv", [header, *lines[len(labels) :]]),
        "image": "image_id",
        "label": "dx",
        "suffix": ".jpg",
    }


def npz(path, **arrays):
    np.savez_compressed(path, **arrays)
    return {"kind": "npz", "file": str(path)}


def medmnist(images, labels, test_images, test_labels):
    """The arrays of a MedMNIST file; validation images must not be read."""
    column = [np.array(some, dtype=np.uint8)[:, None] for some in (labels, test_labels)]
    return {
        "train_images": images,
        "train_labels": column[0],
        "val_images": np.zeros((1, 28, 28), dtype=np.uint8),
        "val_labels": np.array([[99]], dtype=np.uint8),
        "test_images": test_images,
        "test_labels": column[1],
    }


def torchvision(root, name="fashion_mnist", labels="fine"):
    return {"kind": "torchvision", "name": name, "root": str(root), "download": False, "labels": labels}


LABELS = [2, 0, 1, 0, 2, 1, 1, 0, 0, 2]  # of the training images of every source in these tests
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
    if kind == "list_file":
        spec = write_imagenet(tmp_path, images[:10], LABELS, images[10:], TEST_LABELS)
        return spec, images.transpose(0, 3, 1, 2), labels
    if kind == "csv":
        spec = write_metadata(tmp_path, images[:10], LABELS, images[10:], TEST_LABELS)
        return spec, images.transpose(0, 3, 1, 2), labels
    if kind == "npz":
        spec = npz(tmp_path / "path.npz", **medmnist(images[:10], LABELS, images[10:], TEST_LABELS))
        return spec, images.transpose(0, 3, 1, 2), labels
    assert kind == "torchvision"
    write_idx(tmp_path, "train", images[:10, ..., 0], LABELS)
    write_idx(tmp_path, "t10k", images[10:, ..., 0], TEST_LABELS)
    return torchvision(tmp_path), images[:, None, ..., 0], labels


# --- every kind ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_its_labels_and_pixels(kind, tmp_path):
    spec, expected, labels = make(kind, tmp_path)
    source = open_source(spec)
    assert np.concatenate([source.train_labels, source.test_labels]).tolist() == labels
    assert len(source.test_labels) == (3 if spec_of(Source, spec).has_test else 0)
    assert source.train_labels.dtype == source.test_labels.dtype == np.int64
    asked = [12, 3, 0, 9, 3, 10, 6]  # out of order, with a repetition, across files and parts
    images = source.read(asked)
    assert images.dtype == np.uint8
    assert images.shape[1] == source.channels
    assert np.abs(images - expected[asked]).max() <= 0.5
    assert source.read([], size=4).shape == (0, source.channels, 4, 4)
    assert source.read(np.array([5, 6]), size=8).tolist() == source.read([5, 6]).tolist()
    with pytest.raises(UserError, match=rf"\b{len(labels)}\b.*rerun the split"):
        source.read([len(labels)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_of_every_kind_of_source(kind, tmp_path, monkeypatch):
    """`hlrs split`, from params.yaml to what is written: natural tail, one test image per class."""
    spec, _, labels = make(kind, tmp_path)
    changed = {"matrix": TINY["matrix"] | {"datasets": ["images"]}}
    dataset = {"source": spec, "imbalance": {"kind": "natural"}, "image_size": 8}
    own = spec_of(Source, spec).has_test
    changed["datasets"] = {"images": dataset | ({} if own else {"test_per_class": 1})}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(TINY | changed))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["split", "images"], catch_exceptions=False)
    if kind == "torchvision":  # three of Fashion-MNIST's ten classes
        says(result.output, "datasets.images", "7 of 10", "Dress, Coat", "add")
        return
    assert result.exit_code == 0, result.output
    folder = Path(result.output.splitlines()[-1])
    counts = {subset: np.array(of) for subset, of in read_json(folder / "classes.json")["counts"].items()}
    train = counts["weights"] + counts["alphas"]
    assert set(counts["test"].tolist()) == {1}
    assert (train + 1).tolist() == np.bincount(labels).tolist()
    if kind != "digits":
        assert train.tolist() == [4, 3, 3]
        assert counts["weights"].tolist() == [2, 2, 2]
    written = read_table(folder / "files.parquet", "files").to_pylist()
    names = {"digits": 1, "parquet": 3, "image_folder": 13, "list_file": 15, "csv": 15, "npz": 1}
    assert len({file["name"] for file in written}) == len(written) == names[kind]


def test_digits_are_scaled_and_rounded():
    first_row = open_source({"kind": "digits"}).read([0])[0, 0, 0]
    assert first_row.tolist() == [0, 0, 80, 207, 143, 16, 0, 0]  # of 0, 0, 5, 13, 9, 1, 0, 0 in 0 to 16


def test_only_torchvision_needs_torch(tmp_path):
    specs = [make(kind, tmp_path)[0] for kind in KINDS if kind != "torchvision"]
    program = (
        "import json, sys; import hlrs.data.sources.open as s, hlrs.data.split\n"
        "lazy = {'torch', 'torchvision', 'sklearn', 'PIL', 'pyarrow'}\n"
        "assert not lazy & set(sys.modules), lazy & set(sys.modules)\n"
        "from pydantic import TypeAdapter; from hlrs.config.data import Parquet, Source, Torchvision\n"
        "specs = TypeAdapter(list[Source]).validate_json(sys.argv[1])\n"
        "for spec in specs: s.open_source(spec).read([0])\n"
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
    with pytest.raises(UserError) as caught:
        source.read([0, 1, 2])
    says(str(caught.value), "a.parquet, row 2", "12×10", "8×8", "image_size")
    assert source.read([0, 1, 2], size=6).shape == (3, 3, 6, 6)


def test_encoded_images_become_rgb(tmp_path):
    grey = np.full((8, 8), 77, dtype=np.uint8)
    source = open_source(parquet([write_parquet(tmp_path / "a.parquet", [grey], [0])]))
    assert (source.read([0]) == 77).all()
    assert source.read([0]).shape == (1, 3, 8, 8)


# --- Parquet ------------------------------------------------------------------------------------------


def test_parquet_decodes_only_requested_images(tmp_path):
    images = [*pixels(5), b"no image", None]
    path = write_parquet(tmp_path / "a.parquet", images, [0] * 7)
    source = open_source(parquet([path]))
    assert source.read([4, 0]).shape == (2, 3, 8, 8)
    with pytest.raises(UserError, match=r"a\.parquet, row 5\b.*image.*`dvc pull`"):
        source.read([0, 5])
    with pytest.raises(UserError, match=r"a\.parquet, row 6\b.*null"):
        source.read([6])


def test_parquet_reads_only_row_groups_of_requested_images(tmp_path):
    path = Path(write_parquet(tmp_path / "a.parquet", pixels(8), [0] * 8))
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    source = open_source(parquet([str(path)]))
    assert source.read([3, 0]).shape == (2, 3, 8, 8)
    with pytest.raises(UserError, match=r"a\.parquet\b.*`dvc pull`"):
        source.read([4])


def test_parquet_of_many_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_module, "BATCH", 3)  # a row group of four then takes two batches
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


BAD_PARQUET = {  # how to write it, and what the message names
    "missing": (lambda p: str(p), "params"),
    "a folder": (lambda p: p.mkdir() or str(p), "a folder", "name a file"),
    "text": (lambda p: p.write_text("label,img\n" * 9) and str(p), "Parquet", "dvc pull"),
    "empty": (lambda p: p.write_bytes(b"") or str(p), "empty", "dvc pull"),
    "truncated": (lambda p: truncated(write_parquet(p, pixels(2), [0, 0])), "Parquet", "dvc pull"),
    "no rows": (lambda p: write_parquet(p, [], pa.array([], pa.int64())), "rows", "source.train"),
    "fractions": (
        lambda p: write_parquet(p, pixels(2), [0.0, 1.0]),
        "integers",
        "label",
        "source.label_column",
    ),
    "two labels": (
        lambda p: write_parquet(p, pixels(1), [0], label="a", b=[1]),
        "integers",
        "b, img, a",
        "source.label_column",
    ),
    "no image": (
        lambda p: pq.write_table(pa.table({"label": [0]}), p) or str(p),
        "`bytes`",
        "label",
        "source.image_column",
    ),
    "image as text": (
        lambda p: pq.write_table(pa.table({"img": [{"bytes": "x"}], "label": [0]}), p) or str(p),
        "`bytes`",
        "img",
        "source.image_column",
    ),
    "negative": (lambda p: write_parquet(p, pixels(3), [0, 1, -1]), "row 2", "label -1"),
    "null": (lambda p: write_parquet(p, pixels(2), [0, None]), "row 1", "label", "null"),
    "too large": (
        lambda p: write_parquet(p, pixels(3), [0, 3, 1], metadata=CLASS_NAMES),
        "row 1",
        "label 3",
        "0 to 2",
    ),
    "absurd": (lambda p: write_parquet(p, pixels(2), [0, 10**5]), "row 1", "label 100000", "2", "renumber"),
    "names": (
        lambda p: write_parquet(p, pixels(1), [0], metadata={"class_names": "[1"}),
        "class names",
        "JSON",
    ),
    "mapping": (
        lambda p: write_parquet(p, pixels(1), [0], metadata={"class_names": '{"a": 1}'}),
        "class names",
        "JSON",
    ),
}


@pytest.mark.parametrize("case", BAD_PARQUET)
def test_bad_parquet(case, tmp_path):
    write, *facts = BAD_PARQUET[case]
    rejected(parquet([write(tmp_path / "a.parquet")]), "a.parquet", *facts)


def test_bad_parquet_beside_a_good_one(tmp_path):
    good = write_parquet(tmp_path / "good.parquet", pixels(3), [0, 1, 2], metadata=CLASS_NAMES)
    other = write_parquet(tmp_path / "other.parquet", pixels(1), [0], metadata={"class_names": '["owl"]'})
    label = write_parquet(tmp_path / "label.parquet", pixels(1), [3])
    column = write_parquet(tmp_path / "column.parquet", pixels(1), [0], label="target")
    rejected(parquet([good], [other]), "other.parquet", "class names", "good.parquet")
    rejected(parquet([good], [label]), "label.parquet", "row 0", "label 3", "0 to 2")
    rejected(parquet([good, column]), "column.parquet", "label", "img, target", "source.label_column")
    rejected(parquet([good], label_column="class"), "good.parquet", "class", "source.label_column")
    rejected(parquet([good], image_column="label"), "good.parquet", "`bytes`", "source.image_column")


def rejected(spec, *facts):
    """Assert that a source cannot be opened, and that the message names the facts."""
    with pytest.raises(UserError) as caught:
        open_source(spec)
    says(str(caught.value), *facts)


def test_files_of_a_pattern_are_read_in_sorted_order(tmp_path):
    """Hugging Face's layout: several files a part, the class names of every label column in the metadata."""
    names = {"fine_label": ["ant", "bee", "cod"], "coarse_label": ["insect", "fish"]}
    features = {column: {"names": of, "_type": "ClassLabel"} for column, of in names.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    images = pixels(7)
    fine, coarse = [2, 0, 1, 0, 1, 2, 0], [1, 0, 0, 0, 0, 1, 0]
    for part, number, rows in (
        ("train", 1, [2, 3]),
        ("train", 0, [0, 1]),
        ("train", 2, [4]),
        ("test", 0, [5, 6]),
    ):
        path = tmp_path / f"{part}-{number:05d}-of-00003.parquet"
        labels = {"fine_label": [fine[row] for row in rows], "coarse_label": [coarse[row] for row in rows]}
        write_parquet(
            path, images[rows], labels.pop("fine_label"), label="fine_label", metadata=metadata, **labels
        )
    (tmp_path / "train-00000-of-00003.parquet.dvc").touch()  # a pointer, not a file of images
    spec = parquet([f"{tmp_path}/train-*"], [f"{tmp_path}/test-?????-of-*.parquet"])
    source = open_source(spec)
    assert source.classes == ["ant", "bee", "cod"]
    assert source.train_labels.tolist() == fine[:5]
    assert source.test_labels.tolist() == fine[5:]
    assert (source.read(range(7)) == images.transpose(0, 3, 1, 2)).all()
    source = open_source(spec | {"label_column": "coarse_label"})
    assert source.classes == ["insect", "fish"]
    assert source.train_labels.tolist() == coarse[:5]


def test_a_file_takes_precedence_over_a_pattern_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a[1].parquet", "a1.parquet"):
        Path(name).touch()
    assert parts(Parquet(train=["a[1].parquet"], test=["a?.parquet"])) == {
        "train": [Path("a[1].parquet")],
        "test": [Path("a1.parquet")],
    }


def test_bad_patterns(tmp_path):
    rejected(parquet([f"{tmp_path}/train-*.parquet"]), "train-*.parquet", "pattern", "source.train")
    path = write_parquet(tmp_path / "test.parquet", pixels(1), [0])
    rejected(parquet([f"{tmp_path}/*.parquet"], [path]), "test.parquet", "source.train", "source.test")


# --- lists --------------------------------------------------------------------------------------------


def test_imagenet_lt_as_published(tmp_path):
    images = pixels(5)
    source = open_source(write_imagenet(tmp_path, images[:3], [1, 0, 1], images[3:], [0, 1]))
    assert source.files[0] == f"{tmp_path}/train/n01440001/n01440001_0.JPEG"
    assert source.classes == ["0", "1"]
    assert source.train_labels.tolist() == [1, 0, 1]
    assert source.test_labels.tolist() == [0, 1]
    Path(source.files[1]).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"n01440000_1\.JPEG\b.*image.*`dvc pull`"):
        source.read([1])


def test_inaturalist_2018_as_published(tmp_path):
    """One folder per super-category and class; class names in a file, in the order of the labels."""
    images = pixels(4)
    names = ["Plantae/7477/a 1.jpg", "Aves/1/b.jpg", "Plantae/7477/c.jpg", "Aves/1/d.jpg"]
    for name, image in zip(names, images, strict=True):
        path = tmp_path / "train_val2018" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    lines = [f"train_val2018/{name} {label}" for name, label in zip(names, [1, 0, 1, 0], strict=True)]
    train = write_list(tmp_path / "train.txt", [lines[0], "", lines[1] + "\r"])
    test = write_list(tmp_path / "val.txt", lines[2:])
    classes = write_list(tmp_path / "classes.txt", ["Aves wood duck", "Plantae rose"])
    source = open_source(lists(tmp_path, train, test, classes))
    assert source.classes == ["Aves wood duck", "Plantae rose"]
    assert source.train_labels.tolist() == [1, 0]
    assert source.test_labels.tolist() == [1, 0]
    assert (source.read([0, 3]) == images[[0, 3]].transpose(0, 3, 1, 2)).all()
    assert len(open_source(lists(tmp_path, train)).test_labels) == 0


LINES = ["a/1.jpg 0", "b/2.jpg 1", "c/3.jpg 2"]


@pytest.mark.parametrize(
    ("train", "test", "classes", "facts"),
    [
        ([*LINES, "d/4.jpg"], None, None, ("train.txt:4", "'d/4.jpg'", "path label")),
        (["a/1.jpg,0"], None, None, ("train.txt:1", "'a/1.jpg,0'", "path label")),
        (["", "a/1.jpg -1"], None, None, ("train.txt:2", "'a/1.jpg -1'", "path label")),
        (["a/1.jpg 1.0"], None, None, ("train.txt:1", "'a/1.jpg 1.0'", "path label")),
        (["a/1.jpg 99999999999999999999"], None, None, ("train.txt:1", "path label")),
        (["3"], None, None, ("train.txt:1", "'3'", "path label")),
        (["a/1.jpg 0", "/data/a.jpg 1"], None, None, ("train.txt:2", "a.jpg", "source.root")),
        (["../a.jpg 0"], None, None, ("train.txt:1", "../a.jpg", "source.root")),
        (["", " "], None, None, ("train.txt", "images", "path label")),
        ([*LINES, "", "b/2.jpg 2", "a/1.jpg 0"], None, None, ("train.txt:5", "b/2.jpg", "2 of 5", "once")),
        # how many labels of how many lack images, and the first of them
        (["a 1", "b 4", "c 1"], None, None, ("train.txt", "3", "0 to 4", "from 0 on")),
        (["a 0", "b 1", "c 6"], None, None, ("train.txt", "4", "0 to 6", "2")),
        (["a 0", "b 999999999"], None, None, ("train.txt", "999,999,998")),
        (LINES, None, ["v", "w", "x", "y", "z"], ("train.txt", "2", "0 to 4", "3")),
        (["", *LINES], None, ["x", "y"], ("train.txt:4", "label 2", "classes.txt", "0 to 1")),
        (LINES, ["d 2", "", "e 3"], None, ("test.txt:3", "label 3", "0 to 2", "train.txt")),
        (
            LINES,
            ["d 2", LINES[1], "a/1.jpg 2"],
            None,
            ("test.txt", "2 of 3", "train.txt", "b/2.jpg", "remove"),
        ),
    ],
)
def test_bad_lists(train, test, classes, facts, tmp_path):
    named = {"train": train, "test": test, "classes": classes}
    written = {name: lines and write_list(tmp_path / f"{name}.txt", lines) for name, lines in named.items()}
    rejected(lists(tmp_path, **written), *facts)


def test_missing_and_binary_lists(tmp_path):
    rejected(lists(tmp_path, f"{tmp_path}/no.txt"), "no.txt", "images", "params")
    train = write_list(tmp_path / "train.txt", LINES)
    rejected(lists(tmp_path, train, None, f"{tmp_path}/c.txt"), "c.txt", "class names", "params")
    (tmp_path / "latin.txt").write_bytes("é.jpg 0".encode("latin-1"))
    rejected(lists(tmp_path, f"{tmp_path}/latin.txt"), "latin.txt", "UTF-8")


# --- MedMNIST -----------------------------------------------------------------------------------------


def test_medmnist(tmp_path):
    images = pixels(6, 28, 28)[..., 0]
    arrays = medmnist(images[:4], [1, 0, 2, 1], images[4:], [2, 0])
    source = open_source(npz(tmp_path / "grey.npz", **arrays))
    assert source.channels == 1
    assert source.classes == ["0", "1", "2"]
    assert source.train_labels.tolist() == [1, 0, 2, 1]
    assert source.test_labels.tolist() == [2, 0]
    assert (source.read([5, 0])[:, 0] == images[[5, 0]]).all()
    flat = arrays | {f"{part}_labels": arrays[f"{part}_labels"][:, 0] for part in ("train", "test")}
    assert open_source(npz(tmp_path / "flat.npz", **flat)).train_labels.tolist() == [1, 0, 2, 1]


def test_labels_of_medmnist_are_read_without_its_pixels(tmp_path, monkeypatch):
    spec = npz(tmp_path / "a.npz", **medmnist(pixels(2), [0, 1], pixels(1), [0]))
    read = []
    original = np.lib.npyio.NpzFile.__getitem__
    monkeypatch.setattr(
        np.lib.npyio.NpzFile, "__getitem__", lambda self, name: read.append(name) or original(self, name)
    )
    source = open_source(spec)
    assert read == ["train_labels", "test_labels"]
    source.read([0])
    source.read([1])
    assert read[2:] == ["train_images", "test_images"]


GOOD = medmnist(pixels(2), [0, 1], pixels(1), [0])


@pytest.mark.parametrize(
    ("changed", "facts"),
    [
        ({"train_labels": np.zeros((2, 14), dtype=np.uint8)}, ("train_labels", "14", "multi-label")),
        ({"train_labels": np.zeros((3, 1), dtype=np.uint8)}, ("train_labels", "[3, 1]", "2")),
        ({"test_labels": np.zeros((1, 1))}, ("test_labels", "float64", "integers")),
        ({"test_labels": np.array([[2]])}, ("test image 0", "label 2", "0 to 1")),
        ({"train_labels": np.array([[0], [-1]])}, ("train image 1", "label -1")),
        ({"train_images": np.zeros((2, 8, 8, 8), dtype=np.uint8)}, ("train_images", "[2, 8, 8, 8]", "3")),
        ({"train_images": np.zeros((2, 8, 8))}, ("train_images", "float64", "uint8")),
        ({"train_images": np.array([{}, {}])}, ("train_images", "object", "uint8")),
        ({"train_labels": np.array([{}, {}])}, ("train_labels", "object", "integers")),
        ({"test_images": pixels(1)[..., 0]}, ("[8, 8, 3]", "[8, 8, 1]", "dvc pull")),
    ],
)
def test_bad_arrays(changed, facts, tmp_path):
    rejected(npz(tmp_path / "a.npz", **(GOOD | changed)), "a.npz", *facts)


def test_bad_npz(tmp_path):
    path = tmp_path / "a.npz"
    spec = {"kind": "npz", "file": str(path)}
    rejected(spec, "a.npz", "params")
    for content in (b"", b"text", b"PK\x03\x04" + bytes(40)):
        path.write_bytes(content)
        rejected(spec, "a.npz", "dvc pull")
    rejected(npz(path, train_images=GOOD["train_images"]), "a.npz", "array test_images", "MedMNIST")
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    rejected(spec, "a.npz", ".npz", "dvc pull")
    npz(path, **GOOD)
    source = open_source(spec)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(UserError, match=r"a\.npz\b.*`dvc pull`"):
        source.read([0])


# --- folders ------------------------------------------------------------------------------------------


def test_folders(tmp_path):
    write_folders(tmp_path / "train", pixels(4), [0, 1, 2, 1])
    write_folders(tmp_path / "test", pixels(1), [2])  # a missing class is no mistake
    (tmp_path / "train" / "dog" / "notes.txt").write_text("not an image")
    source = open_source(folders(tmp_path / "train", tmp_path / "test"))
    assert source.classes == ["cat", "dog", "eel"]
    assert source.train_labels.tolist() == [0, 1, 1, 2]
    assert source.test_labels.tolist() == [2]
    broken = tmp_path / "train" / "dog" / "0" / "01.PNG"
    broken.write_bytes(broken.read_bytes()[:60])
    assert source.read([0, 2, 3]).shape == (3, 3, 8, 8)
    with pytest.raises(UserError, match=r"dog/0/01\.PNG\b.*image.*`dvc pull`"):
        source.read([1])
    broken.unlink()
    with pytest.raises(UserError, match=r"dog/0/01\.PNG\b.*No such file"):
        source.read([1])


def test_bad_folders(tmp_path):
    rejected(folders(tmp_path / "none"), "none", "source.train")
    rejected(folders(tmp_path), "image_folder", "one folder per class")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    rejected(folders(tmp_path / "empty"), "empty", ".png")
    train = write_folders(tmp_path / "train", pixels(1), [0])
    rejected(folders(train, tmp_path / "empty"), "empty", ".png")
    rejected(folders(train, write_folders(tmp_path / "test", pixels(1), [2])), "eel", "train", "rename")


# --- torchvision --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist", "mnist", "kmnist"])
def test_torchvision_without_its_files(name, tmp_path):
    rejected(torchvision(tmp_path / "tv", name), "tv", name, "download: true")
    assert not (tmp_path / "tv").exists()


def test_torchvision_names_and_broken_files(tmp_path):
    spec, _, _ = make("torchvision", tmp_path)
    assert open_source(spec).classes[0] == "T-shirt/top"
    labels = tmp_path / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte"
    labels.write_bytes(struct.pack(">II", 0x801, 9) + bytes(9))
    rejected(spec, "fashion_mnist", "10", "9", "download: true")
    labels.write_bytes(struct.pack(">II", 0x801, 10) + bytes([10] * 10))
    rejected(spec, "fashion_mnist", "image 0", "label 10", "0 to 9")
    labels.write_bytes(gzip.compress(bytes(20)))
    rejected(spec, "fashion_mnist", "download: true")


def test_torchvision_files_are_those_that_it_reads(tmp_path):
    make("torchvision", tmp_path)
    raw = tmp_path / "FashionMNIST" / "raw"
    files = torchvision_files(Torchvision(name="fashion_mnist", root=str(tmp_path)))
    assert sorted(Path(file.path) for file in files) == sorted(raw.iterdir())
    cifar = [name for name, *_ in torchvision_files(Torchvision(name="cifar10", root=str(tmp_path)))]
    assert cifar == [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
    path = torchvision_files(Torchvision(name="cifar100", root="x"))[0].path
    assert path == "x/cifar-100-python/train"


FINE = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
    dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
    leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
    otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
    road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
""".split()  # noqa: SIM905 - CIFAR-100's fine classes, in the order of their labels
COARSE = [  # the coarse label of each, as the data set's own files pair them
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7, 6, 13, 15, 3, 15,
    0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4,
    18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19,
    5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
]  # fmt: skip


def test_superclasses_of_cifar100():
    assert superclasses(FINE).tolist() == COARSE
    assert [*SUPERCLASSES] == sorted(SUPERCLASSES)


def test_coarse_labels_of_torchvisions_cifar100(tmp_path, monkeypatch):
    """Reads files in torchvision's format, with its checksums patched to match them."""
    from torchvision import datasets

    fine = {"train": [4, 1, 0], "test": [99, 4]}
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    contents = {
        part: {"data": np.full((len(of), 3072), 7, dtype=np.uint8), "fine_labels": of}
        for part, of in fine.items()
    }
    sums = {}
    for name, content in (contents | {"meta": {"fine_label_names": FINE}}).items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(datasets.CIFAR100, "meta", datasets.CIFAR100.meta | {"md5": sums["meta"]})
    source = open_source(torchvision(tmp_path, "cifar100", "coarse"))
    assert len(source.classes) == 20
    assert [source.classes[c] for c in source.train_labels] == [
        "aquatic_mammals",
        "fish",
        "fruit_and_vegetables",
    ]
    assert source.test_labels.tolist() == [13, 0]
    assert open_source(torchvision(tmp_path, "cifar100")).train_labels.tolist() == fine["train"]
