"""What a split says of its images once it has read them."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hlrs.config.data import Source
from hlrs.data.sources.open import open_source
from tests.specs import spec

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)


def checked(source, seconds=60.0):
    opened = open_source(spec(Source, source))
    return opened.check(np.arange(len(opened.train_labels) + len(opened.test_labels)), seconds)


def encoded(pixels, kind):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(path, images, kind="PNG"):
    cells = [{"bytes": encoded(pixels, kind)} for pixels in images]
    pq.write_table(pa.table({"img": cells, "label": [i % 2 for i in range(len(images))]}), path)
    return str(path)


def test_test_images_with_the_pixels_of_a_training_image_are_counted(tmp_path):
    """In an .npz, and in Parquet files that encode them differently."""
    path = tmp_path / "a.npz"
    labels = {"train_labels": np.array([0, 1, 0, 1]), "test_labels": np.array([1, 0, 1])}
    np.savez(path, train_images=PIXELS[:4], test_images=PIXELS[3:], **labels)
    [remark] = checked({"kind": "npz", "file": str(path)})
    assert remark.startswith("1 of 3 test images ")
    assert remark.endswith(f"{path}, test image 0 is {path}, train image 3")
    train, test = write_parquet(tmp_path / "a", PIXELS[:4]), write_parquet(tmp_path / "b", PIXELS[2:], "BMP")
    [remark] = checked({"kind": "parquet", "train": [train], "test": [test]})
    assert remark.startswith("2 of 4 test images ")


def test_without_such_images_nothing_is_said(tmp_path):
    train, test = write_parquet(tmp_path / "a", PIXELS[:4]), write_parquet(tmp_path / "b", PIXELS[4:])
    assert checked({"kind": "parquet", "train": [train], "test": [test]}) == []


def test_decoding_ends_where_it_would_take_too_long_and_says_how_far_it_came(tmp_path, monkeypatch):
    clock = iter(range(0, 100, 2))  # 2 s per image
    monkeypatch.setattr("hlrs.data.sources.base.time.monotonic", lambda: float(next(clock)))
    train = write_parquet(Path(tmp_path, "a"), PIXELS)
    [remark] = checked(
        {"kind": "parquet", "train": [train], "test": []}, seconds=11.0
    )  # 12 s would be needed
    assert remark.startswith("decoded 1 of 6 images, ")
    assert "--check-images" in remark
