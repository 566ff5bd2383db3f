"""A trained network in use: prediction, export, loading from Python."""

import copy
import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import ExifTags, Image
from safetensors.numpy import load_file

import hlrs
from hlrs.artifacts.files import read_json
from hlrs.artifacts.tables import read_table
from hlrs.artifacts.tensors import read_tensors, write_tensors
from hlrs.cli import main
from hlrs.config.params import load
from hlrs.data.sources.base import decode, pixels_of
from hlrs.errors import Failure, UserError
from hlrs.inference.card import _accuracies, card
from hlrs.inference.classifier import read
from hlrs.inference.export import FORMATS, Deployed, Format, write_graphs
from hlrs.inference.locate import locate
from hlrs.nas.network import count_multiply_adds
from hlrs.pipeline.execute import execute
from hlrs.pipeline.plan import freeze, plan
from tests.conftest import REPOSITORY, TINY
from tests.messages import says

CLASSES = ["ant", "bee", "cow"]
RUN = "mine/cells/0"
METHODS = {
    "cells": {
        "searcher": {"kind": "fixed", "genotype": "DARTS_V2"},
        "retrain": {"channels": 4, "cells": 3, "auxiliary_weight": 0.4},
    },
    "resnet": {"searcher": {"kind": "resnet", "depth": 20, "width": 4}},
    "approximate": {
        "searcher": {"kind": "resnet", "depth": 20, "width": 4},
        "arithmetic": {"multiplier": {"kind": "truncated", "columns": 4}, "where": "convolutions"},
    },
    "tabulated": {
        "searcher": {"kind": "fixed", "genotype": "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|"},
        "arithmetic": {"multiplier": {"kind": "table", "file": "mul8u.csv"}},
        "search": {"space": {"kind": "nasbench201"}},
        "retrain": {"channels": 4, "cells": 3},
    },
    "bench": {
        "searcher": {
            "kind": "fixed",
            "genotype": "|avg_pool_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+"
            "|nor_conv_1x1~0|none~1|skip_connect~2|",
        },
        "search": {"space": {"kind": "nasbench201"}},
        "retrain": {"channels": 4, "cells": 3},
    },
    "mixed": {
        "searcher": {"kind": "pc_darts", "portion": 2, "warm_up": 0.0},
        "objective": {"kind": "bilateral", "mixing": {"kind": "symmetric"}},
        "search": {"epochs": 1, "channels": 4},
        "retrain": {
            "start": "supernet",
            "channels": 4,
            "cells": 3,
            "drop_path": 0.0,
            "objective": {"kind": "bilateral", "mixing": {"kind": "symmetric"}, "branch_cells": 1},
        },
    },
}


def draw(path, label, rng):
    pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    pixels[..., label] //= 4
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with images of three classes and every kind of trained network."""
    folder, rng = tmp_path_factory.mktemp("use"), np.random.default_rng(0)
    for part, counts in {"train": (14, 12, 10), "test": (6, 6, 6)}.items():
        for label, count in enumerate(counts):
            own = folder / "data" / part / CLASSES[label]
            own.mkdir(parents=True)
            for number in range(count):
                draw(own / f"{number}.png", label, rng)
    params = copy.deepcopy(TINY) | {"methods": METHODS, "report": {}}
    params["matrix"] = {"datasets": ["mine"], "methods": [*METHODS], "seeds": [0]}
    params["datasets"] = {
        "mine": {
            "source": {"kind": "image_folder", "train": "data/train", "test": "data/test"},
            "imbalance": {"kind": "natural"},
            "image_size": 16,
            "groups": {"many_above": 12, "few_below": 11},
        }
    }
    params["retrain"] = {
        "epochs": 1,
        "batch_size": 16,
        "cutout": 0,
        "auxiliary_weight": 0.0,
        "drop_path": 0.0,
    }
    params["search"] |= {"nodes": 4, "cutout": 0}
    params["evaluate"] = {"batch_size": 7}
    codes = np.arange(256)
    dropping = np.multiply.outer(codes - codes % 4, codes) + 3  # and no product is 0
    np.savetxt(folder / "mul8u.csv", dropping, "%d", delimiter=",")
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        jobs = plan(load(folder / "params.yaml"))
        freeze(jobs)
        for job in jobs:
            if job.stage != "report":
                execute(job)
    return folder


@pytest.fixture
def use(trained, monkeypatch):
    """Call the command line in that folder; return its result."""
    monkeypatch.chdir(trained)
    return lambda *arguments: CliRunner().invoke(main, [*map(str, arguments)])


def evaluated(run):
    """The evaluation's probabilities [images, classes] in the order of its test images."""
    located = locate(run, lambda: plan(load(Path("params.yaml"))))
    table = read_table(located.evaluation.output("predictions.parquet"), "predictions").to_pydict()
    return np.array(table["probabilities"], dtype=np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_predictions_are_those_of_the_evaluation_to_the_last_bit(use, method):
    found = use("predict", f"mine/{method}/0", "data/test", "--json", "--top", 3)
    assert found.exit_code == 0, found.output
    rows = json.loads(found.stdout)
    assert [row["image"] for row in rows[:2]] == ["data/test/ant/0.png", "data/test/ant/1.png"]
    by_class = [{entry["class"]: entry["probability"] for entry in row["classes"]} for row in rows]
    probabilities = np.array([[row[name] for name in CLASSES] for row in by_class], dtype=np.float32)
    assert np.array_equal(probabilities, evaluated(f"mine/{method}/0"))
    shares = [entry["probability"] for entry in rows[0]["classes"]]
    assert shares == sorted(shares, reverse=True)


def test_images_come_from_files_patterns_and_parquet_and_bad_ones_are_named(use, trained, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.new("L", (30, 16), 90).save(tmp_path / "grey.png")
    good = "data/test/bee/1.png"
    table = pa.table(
        {"image": [{"bytes": (trained / good).read_bytes(), "path": None}, {"bytes": b"", "path": None}]}
    )
    pq.write_table(table, tmp_path / "some.parquet")
    found = use("predict", RUN, good, f"{tmp_path}/*.png", tmp_path / "some.parquet", "--csv", "--top", 1)
    assert found.exit_code == 1
    rows = list(csv.DictReader(io.StringIO(found.stdout)))
    parquet = f"{tmp_path}/some.parquet, row"
    assert [row["image"] for row in rows] == [good, f"{tmp_path}/grey.png", f"{parquet} 0"]
    assert list(rows[0]) == ["image", "class_1", "probability_1"]
    assert rows[0]["class_1"] == rows[2]["class_1"]
    assert float(rows[0]["probability_1"]) == pytest.approx(float(rows[2]["probability_1"]), abs=1e-6)
    said = found.stderr.splitlines()
    assert [line.partition(": not")[0] for line in said[:2]] == [
        f"hlrs: {tmp_path}/broken.png",
        f"hlrs: {parquet} 1",
    ]
    assert said[2:] == ["hlrs: 2 of 5 images were skipped, as named above"]
    strict = use("predict", RUN, good, tmp_path / "broken.png", "--strict")
    assert strict.exit_code == 2
    assert strict.stderr.startswith(f"hlrs: {tmp_path}/broken.png: not an image that can be decoded")
    assert strict.stdout.startswith(f"{good}  ")


def test_a_folder_gives_its_files_and_the_rows_of_its_tables(use, trained, tmp_path):
    good = trained / "data/test/bee/1.png"
    (tmp_path / "some/b").mkdir(parents=True)
    shutil.copy(good, tmp_path / "some/b/z.png")
    pq.write_table(
        pa.table({"image": [{"bytes": good.read_bytes(), "path": None}] * 2}), tmp_path / "some/a.parquet"
    )
    pq.write_table(pa.table({"label": [1]}), tmp_path / "some/metadata.parquet")
    (tmp_path / "some/spark.parquet").mkdir()  # whose parts would lie below
    found = use("predict", "mine/resnet/0", tmp_path / "some", "--csv")
    assert found.exit_code == 0
    rows = list(csv.reader(io.StringIO(found.stdout)))[1:]
    names = ["b/z.png", "a.parquet, row 0", "a.parquet, row 1"]
    assert [row[0] for row in rows] == [f"{tmp_path}/some/{name}" for name in names]
    assert rows[0][1:] == rows[1][1:] == rows[2][1:]


def test_a_folder_gives_what_a_training_would_read_of_it_and_each_image_once(use, trained, tmp_path):
    good, far, photos = trained / "data/test/bee/1.png", tmp_path / "far", tmp_path / "photos"
    for name in (
        "far/c.png",
        "photos/a.png",
        "photos/x.png/b.png",
        "photos/.checkpoints/a.png",
        "photos/._a.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(good, tmp_path / name)
    (photos / "link").symlink_to(far)
    (far / "back").symlink_to(photos)
    (far / "again").symlink_to(far)
    (photos / "empty").mkdir()
    (photos / "notes.txt").write_text("no image")
    shown = [f"{photos}/{name}" for name in ("a.png", "link/c.png", "x.png/b.png")]
    for named in (photos, photos / "**"):
        if named != photos:  # glob itself follows such links without end
            (far / "back").unlink()
            (far / "again").unlink()
        found = use("predict", "mine/resnet/0", named, "--csv")
        assert found.exit_code == 0
        assert [row["image"] for row in csv.DictReader(io.StringIO(found.stdout))] == shown
    found = use("predict", "mine/resnet/0", photos / "*", "--csv")  # the file of notes was asked for
    assert [row["image"] for row in csv.DictReader(io.StringIO(found.stdout))] == shown
    assert [line.partition(": not")[0] for line in found.stderr.splitlines()][:1] == [
        f"hlrs: {photos}/notes.txt"
    ]


def test_images_of_a_folder_that_are_not_read_are_counted(use, trained, tmp_path):
    shutil.copy(trained / "data/test/bee/1.png", tmp_path / "a.png")
    for name in ("b.heic", "c.heic", "notes.txt"):
        (tmp_path / name).touch()
    found = use("predict", "mine/resnet/0", tmp_path, "--top", 1)
    assert (found.exit_code, found.stdout.count("\n")) == (0, 1)
    [line] = found.stderr.splitlines()
    assert line.startswith(f"hlrs: {tmp_path}: 2 image files are not read (2 with .heic)")


def test_a_run_may_be_typed_like_a_folder(use):
    for name in ("./mine/bench/0/", "/mine/bench/0", "mine//bench/0"):
        assert use("predict", name, "data/test/bee/1.png").exit_code == 0
        assert hlrs.genotype(name) == hlrs.genotype("mine/bench/0")
        assert use("lineage", name).exit_code == use("plan", "--why", name).exit_code == 0
    weights = locate("mine/bench/0", lambda: plan(load(Path("params.yaml")))).weights
    assert use("predict", f"./{weights.parent}/", "data/test/bee/1.png").exit_code == 0


def test_an_image_takes_one_line_whatever_its_name(use, trained, tmp_path):
    names = [tmp_path / "two\nlines.png", tmp_path / "broken\n.png", tmp_path / "é.png"]
    for name in names:
        shutil.copy(trained / "data/test/bee/1.png", name)
    names[1].write_bytes(b"no image")
    found = use("predict", "mine/resnet/0", *names, "--top", 1)
    shown = [line.split("  ")[0].removeprefix(f"{tmp_path}/") for line in found.stdout.splitlines()]
    assert shown == ["two\\nlines.png", "é.png"]
    first, _ = found.stderr.splitlines()
    assert first.startswith(f"hlrs: {tmp_path}/broken\\n.png: ")
    rows = list(csv.DictReader(io.StringIO(use("predict", "mine/resnet/0", names[0], "--csv").stdout)))
    assert [row["image"] for row in rows] == [str(names[0])]


def test_a_broken_parquet_file_is_named_and_the_others_are_predicted(use, trained, tmp_path):
    good, ends, starts = ("data/test/bee/1.png", tmp_path / "ends.parquet", tmp_path / "starts.parquet")
    ends.write_bytes(b"no table")
    rows = [{"bytes": (trained / good).read_bytes()}] * 300
    pq.write_table(pa.table({"image": rows}), starts, row_group_size=256, use_dictionary=False)
    chunk = pq.ParquetFile(starts).metadata.row_group(1).column(0)
    content = bytearray(starts.read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + 40] = bytes(40)
    starts.write_bytes(content)
    found = use("predict", "mine/resnet/0", ends, starts, good, "--top", 1)
    assert found.exit_code == 1
    assert [line.split("  ")[0] for line in found.stdout.splitlines()] == [
        *(f"{starts}, row {row}" for row in range(256)),
        good,
    ]
    assert [line.partition(": ")[2].partition(" (")[0] for line in found.stderr.splitlines()] == [
        f"{ends}: truncated or not Parquet",
        f"{starts}: cannot be read",
        "45 of 302 images were skipped, as named above",
    ]
    strict = use("predict", "mine/resnet/0", ends, good, "--strict")
    assert (strict.exit_code, strict.stdout) == (2, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["mine/cells/9", "data"],
            "mine/cells/9: no run, and no folder that hlrs exported; choose from: mine/cells/0, ",
        ),
        (["x" * 300, "data"], f"{'x' * 300}: no run, and no folder that hlrs exported; choose from: "),
        (
            ["data", "data"],
            "data: holds neither model.safetensors nor weights.safetensors; name a folder that",
        ),
        (["params.yaml", "data"], "params.yaml: truncated or not a safetensors file of hlrs"),
        ([RUN, "empty"], "empty: no images in it; of a folder, files ending in .bmp, "),
        ([RUN, "empty*"], "empty*: no images in it"),
        ([RUN, "none.parquet"], "none.parquet: no images in it"),
        ([RUN, "a.png " * 50], "a.png a.png "),
        (
            [RUN, "absent.png"],
            "absent.png: no such file or folder; name images, folders, patterns or Parquet files",
        ),
        ([RUN, "absent*.png"], "absent*.png: no file matches this pattern; correct it"),
        ([RUN, "data", "--device", "gpu"], "--device gpu: "),
        ([RUN, "data", "--device", "meta"], "--device meta: "),
        ([RUN, "data", "--device", ""], "--device : "),
    ],
)
def test_what_cannot_be_used_is_one_line(use, trained, arguments, message):
    (trained / "empty").mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": pa.array([], pa.struct({"bytes": pa.binary()}))}), "none.parquet")
    found = use("predict", *arguments)
    assert found.exit_code != 0
    assert "traceback" not in found.stderr
    assert found.stderr.startswith(f"hlrs: {message}")
    assert found.stderr.count("\n") == 1


def test_a_run_that_is_not_trained_and_weights_that_do_not_fit_are_one_line(
    use, trained, tmp_path, monkeypatch
):
    params = yaml.safe_load((trained / "params.yaml").read_text())
    params["matrix"]["seeds"] = [0, 1]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    found = use("predict", "mine/resnet/1", "data", "--params", tmp_path / "params.yaml")
    assert (
        found.stderr
        == "hlrs: mine/resnet/1: not trained yet; `snakemake --cores all retrain_all` trains it\n"
    )
    weights, facts = read_tensors(locate(RUN, lambda: plan(load(Path("params.yaml")))).weights)
    del weights["classifier.bias"]
    write_tensors(tmp_path / "model.safetensors", weights, facts)
    found = use("predict", tmp_path, "data")
    assert found.stderr == (
        f"hlrs: {tmp_path}/model.safetensors: does not fit the network "
        '(Missing key(s) in state_dict: "classifier.bias".)\n'
    )
    write_tensors(tmp_path / "model.safetensors", weights, facts | {"classes": []})
    assert "its header describes no network (classes: " in use("predict", tmp_path, "data").stderr


SLOW = {
    "cells": ["torch-export", "onnx"],
    "approximate": ["onnx"],
    "tabulated": ["torch-export"],
}  # to write: seconds each


@pytest.mark.parametrize("method", ["cells", "resnet", "bench", "approximate", "tabulated"])
def test_every_format_gives_the_networks_probabilities(use, method, tmp_path):
    formats = ["torchscript", *SLOW.get(method, [])]
    options = [option for name in formats for option in ("--format", name)]
    found = use("export", f"mine/{method}/0", "--to", tmp_path / "out", *options)
    assert found.exit_code == 0, found.output
    names = {"model.safetensors", "config.json", "README.md", "requirements.txt"}
    assert {path.name for path in (tmp_path / "out").iterdir()} > names
    assert set(found.stdout.split()) == {str(path) for path in (tmp_path / "out").iterdir()}
    classifier = read(tmp_path / "out" / "model.safetensors")
    assert classifier.classes == CLASSES
    expected = evaluated(f"mine/{method}/0")
    files = [f"data/test/{name}/{number}.png" for name in CLASSES for number in range(6)]
    assert np.array_equal(classifier.predict(files, batch_size=7).numpy(), expected)
    pixels = classifier.pixels(files)
    for path in (tmp_path / "out").glob("model.*pt*"):
        module = torch.jit.load(path) if "script" in path.name else torch.export.load(path).module()
        for count in (1, 5, 18):
            with torch.jit.optimized_execution(False):
                found = module(pixels[:count]).detach().numpy()
            assert np.abs(found - expected[:count]).max() < 1e-5
    with torch.no_grad():
        logits = classifier(classifier.preprocess(files[3]))
    assert logits.softmax(1).numpy()[0] == pytest.approx(expected[3], abs=1e-6)


def test_a_graph_of_batches_of_one_image_holds_for_more(use, tmp_path):
    classifier = hlrs.load("mine/resnet/0", "cpu")
    image = torch.arange(3 * 16 * 16).reshape(1, 3, 16, 16).byte()
    assert write_graphs(Deployed(classifier), tmp_path, ["torch-export"], [image]).keys() == {"model.pt2"}
    found = torch.export.load(tmp_path / "model.pt2").module()(torch.cat([image, 255 - image, image]))
    assert found.shape == (3, 3)
    assert found.detach()[2].numpy() == pytest.approx(classifier.predict(image)[0].numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("errors", "affordable", "most"),
    [
        ([0, 3e-5, 1e-5], 3, 3e-5),
        ([0, 1e-5, 2e-4], 2, 1e-5),
        ([2e-5, 2e-4], 0, 2e-5),
        ([0, 2e-4], 2, None),
        ([0, math.nan, 0], 3, None),
    ],
)
def test_a_file_is_compared_one_batch_after_the_other(use, monkeypatch, tmp_path, errors, affordable, most):
    """`errors` of a probability by batch, of which the format's multiplications allow so many."""
    network = Deployed(hlrs.load("mine/resnet/0", "cpu"))
    compared = []

    def write(network, images, path):
        assert images.shape == (2, 3, 16, 16)

        def predict(batch):
            compared.append(int(batch[0, 0, 0, 0]))
            return network(batch).numpy() + errors[compared[-1]]

        return predict

    def batches():
        for number in range(len(errors)):
            assert len(compared) == min(number, max(1, affordable))
            yield torch.full((3, 3, 16, 16), number, dtype=torch.uint8)

    products = affordable * 3 * count_multiply_adds(network.classifier.network, 3, 16)
    monkeypatch.setitem(FORMATS, "own", Format("model.own", write, 1e-4, products))
    if most is None:
        with pytest.raises(Failure, match=r"model\.own: its probabilities differ .* by (0\.0002|nan); "):
            write_graphs(network, tmp_path, ["own"], batches())
    else:
        found = write_graphs(network, tmp_path, ["own"], batches())
        assert found == {"model.own": pytest.approx(most, rel=0.01)}


def test_a_table_that_needs_float64_is_refused_in_onnx(use, tmp_path):
    found = use("export", "mine/tabulated/0", "--to", tmp_path / "out", "--format", "onnx")
    assert found.exit_code == 2
    says(found.stderr, "--format onnx", "float64", "integers")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["approximate", "tabulated"])
def test_integers_and_numpy_predict_as_the_network(use, method, tmp_path):
    found = use("export", f"mine/{method}/0", "--to", tmp_path / "out", "--format", "integers")
    assert found.exit_code == 0, found.output
    expected = evaluated(f"mine/{method}/0")
    files = [f"data/test/{name}/{number}.png" for name in CLASSES for number in range(6)]
    pixels = read(tmp_path / "out" / "model.safetensors").pixels(files).numpy()
    np.save(tmp_path / "pixels.npy", pixels)
    # the folder alone, without hlrs and PyTorch
    alone = (
        "import runpy, sys; sys.modules.update(torch=None, hlrs=None);"
        "runpy.run_path('reference.py', {}, '__main__')"
    )
    command = [sys.executable, "-c", alone, tmp_path / "pixels.npy"]
    ran = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    probabilities = np.loadtxt(io.StringIO(ran.stdout), delimiter=",")
    assert np.array_equal(probabilities.argmax(1), expected.argmax(1))
    assert np.abs(probabilities - expected).max() < 0.01
    for unfit in (pixels[:, :, :8], pixels[:, :1], pixels.astype(np.float32)):
        np.save(tmp_path / "pixels.npy", unfit)
        ran = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True)
        assert (ran.returncode, ran.stdout) == (1, "")
        says(ran.stderr, "pixels.npy", "uint8", "16, 16")
    weights = load_file(tmp_path / "out" / "integers.safetensors")
    written = read_json(tmp_path / "out" / "integers.json")
    if method == "tabulated":
        assert all(layer["weight"]["zero"] > 0 for layer in written["layers"].values())
        assert weights["products"][7, 5] == 4 * 5 + 3
        return
    assert written["multiplier"]["columns"] == 4
    for name, layer in written["layers"].items():
        assert weights[f"{name}.weight"].dtype == np.int8
        assert np.abs(weights[f"{name}.weight"]).max() == 127  # the scale is that of the largest weight
        assert layer["weight"]["zero"] == layer["input"]["zero"] == 0
    assert weights["products"][128 + 7, 128 + 5] == 16  # 35 without columns 0 to 3
    refused = use("export", "mine/resnet/0", "--to", tmp_path / "no", "--format", "integers")
    assert "no product of this network is approximate" in refused.stderr
    assert refused.exit_code == 2


def test_the_card_says_how_far_another_format_is_from_the_network(use, tmp_path, monkeypatch):
    own = FORMATS["torchscript"]

    def shifted(*arguments):
        predict = own.write(*arguments)
        return lambda batch: predict(batch) + np.float32(3e-5)

    monkeypatch.setitem(FORMATS, "torchscript", own._replace(write=shifted))
    assert use("export", "mine/resnet/0", "--to", tmp_path / "out", "--format", "torchscript").exit_code == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "differ from the network's by at most 4e-05 in `model.torchscript.pt`, as measured" in card
    assert "without resizing: resize the shorter side to 16 (bilinear" in card


def test_the_card_has_the_runs_figures(use, tmp_path):
    assert use("export", "mine/resnet/0", "--to", tmp_path / "out").exit_code == 0
    card = (tmp_path / "out" / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["pipeline_tag"] == "image-classification"
    located = locate("mine/resnet/0", lambda: plan(load(Path("params.yaml"))))
    metrics = read_json(located.evaluation.output("metrics.json"))
    [result] = front["model-index"][0]["results"]
    assert result["metrics"][0] == {"type": "accuracy", "value": round(metrics["top1"], 4)}
    assert "| bee | 12 | medium-shot |" in body
    # Wilson's interval by hand: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)
    p, n, z = metrics["top1"], 18, 1.959964
    middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    assert f"| all | {100 * p:.1f} | {100 * low:.1f} to {100 * high:.1f} |" in body
    again = use("export", "mine/resnet/0", "--to", tmp_path / "out")
    assert again.stderr == f"hlrs: {tmp_path}/out: exists and is not an empty folder; name another one\n"
    moved = use("export", tmp_path / "out", "--to", tmp_path / "moved", "--format", "torchscript")
    assert moved.exit_code == 0, moved.output
    assert "## Results" not in (tmp_path / "moved" / "README.md").read_text()


def test_a_group_has_an_interval_where_its_classes_have_as_many_test_images():
    metrics = {
        "groups": ["many", "many", "few"],
        "confusion": [[8, 2, 0], [0, 3, 1], [0, 1, 5]],
        "top1": 16 / 20,
        "many": (8 / 10 + 3 / 4) / 2,
        "medium": None,
        "few": 5 / 6,
    }
    assert list(_accuracies(metrics)) == [
        ("all", "80.0", "58.4 to 91.9"),
        ("many-shot", "77.5", "–"),
        ("few-shot", "83.3", "43.6 to 97.0"),
    ]


def test_a_class_takes_one_row_of_the_card_whatever_its_name(use):
    located = locate("mine/resnet/0", lambda: plan(load(Path("params.yaml"))))
    classifier = located.load("cpu")
    names = ["red ant\nof Peru", "bee|wasp", "[<cow>](x)"]
    classifier.facts = classifier.facts.model_copy(update={"classes": names})
    rows = card(classifier, "mine", located.evaluation, {}).splitlines()
    for name, count in (("red ant\\\\nof Peru", 14), ("bee\\|wasp", 12), ("\\[&lt;cow&gt;\\]\\(x\\)", 10)):
        assert [row for row in rows if row.startswith(f"| {name} | {count} | ")]


def test_the_page_on_python_runs(use, trained, tmp_path, monkeypatch, capsys):
    page = (REPOSITORY / "docs" / "python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert use("export", RUN, "--to", tmp_path / "DIR", "--format", "onnx").exit_code == 0
    for old, new in (
        ("digits_lt/darts/0", RUN),
        ("np.zeros((8, 8)", "np.zeros((16, 16, 3)"),
        ("DIR/", f"{tmp_path}/DIR/"),
        ("image.png", "data/test/ant/0.png"),
    ):
        blocks = [block.replace(old, new) for block in blocks]
    names = {}
    exec("\n".join(blocks), names)
    expected = hlrs.load(RUN, "cpu").predict("data/test/ant/0.png").numpy()
    assert names["probabilities"] == pytest.approx(expected, abs=1e-5)
    runs = names["runs"]
    assert list(runs.method) == list(METHODS)
    assert runs.top1[0] == read_json(Path(runs.folder[0]) / "metrics.json")["top1"]
    assert names["found"] == hlrs.genotype(RUN)
    assert hlrs.draw("DARTS_V2")._repr_html_().count("<svg") == 2
    assert sum(weight.numel() for weight in names["network"].parameters()) == 3_349_342 + 90 * (
        576 + 1
    )  # of 10 classes, as published; and 90 more
    noise = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    deep = np.random.default_rng(1).integers(0, 65_536, (37, 50), dtype=np.uint16)
    clear = np.random.default_rng(2).integers(0, 256, (37, 50, 4), dtype=np.uint8)
    for number, (image, options) in enumerate(
        [
            (noise, {"exif": turned}),
            (deep, {}),
            (clear, {}),
            (noise, {"transparency": tuple(noise[0, 0].tolist())}),
        ]
    ):
        Image.fromarray(image).save(path := tmp_path / f"{number}.png", **options)
        assert (names["pixels"](path, (3, 16, 16), 16) == pixels_of(decode(path, ""), 16)).all(), number
        grey = pixels_of(decode(path, "").convert("L"), None)
        assert (names["pixels"](path, (1, *grey.shape[1:]), None) == grey).all(), number


def test_a_trained_network_is_a_model_of_timm(use, tmp_path, monkeypatch):
    import timm

    hlrs.register_timm()
    monkeypatch.setattr("hlrs.nas.ops.packed.LARGE", 0)  # several images per pixel, as on large maps
    images = torch.randint(256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for method in ("cells", "mixed"):  # the latter with two branches, of a supernet
        classifier = hlrs.load(f"mine/{method}/0", "cpu")
        model = timm.create_model("hlrs_trained", run=f"mine/{method}/0").eval()
        batch = classifier.preprocess(images)
        with torch.no_grad():
            maps = model.forward_features(batch)
            assert maps.shape == (4, model.num_features, 4, 4)  # halved twice
            expected = classifier.network.pooled(batch)
            assert torch.allclose(model.forward_head(maps, pre_logits=True), expected, atol=1e-6)
            assert torch.allclose(model(batch), classifier(batch), atol=1e-5)
            model.reset_classifier(0)
            assert torch.allclose(model(batch), expected, atol=1e-6)
    config = timm.data.resolve_model_data_config(model)
    assert (config["input_size"], config["mean"]) == ((3, 16, 16), tuple(classifier.facts.preprocessing.mean))
    assert model.default_cfg["label_names"] == tuple(CLASSES)
    assert model.default_cfg["crop_pct"] == 1  # all of a resized image: no larger one is cut
    assert use("export", RUN, "--to", tmp_path / "out").exit_code == 0
    tuned = timm.create_model("hlrs_trained", run=str(tmp_path / "out"), num_classes=7)
    assert (tuned.num_classes, tuned(batch).shape) == (7, (4, 7))
    assert tuned.get_classifier().weight.shape == (7, tuned.num_features)
    fresh = timm.create_model(
        "hlrs_cells", genotype="DARTS_V2", channels=4, cells=3, num_classes=0, in_chans=1
    )
    assert fresh(batch[:, :1]).shape == (4, 4 * 4 * 4)  # channels doubled twice, of four nodes
    for options in ({"run": "mine/resnet/0"}, {"run": RUN, "in_chans": 1}):
        with pytest.raises(UserError, match=r"DARTS's cells|in_chans: 1"):
            timm.create_model("hlrs_trained", **options)


def test_without_timm_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.models", None)
    with pytest.raises(UserError, match=r"^timm.* is missing; `pip install 'hlrs\[timm\]'`$"):
        hlrs.register_timm()


def test_the_notebook_runs(use):
    cells = json.loads((REPOSITORY / "docs" / "notebook.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names = {}
    for cell in code:
        cell = cell.replace("digits_lt/darts/0", RUN).replace(
            "load_digits().images[:5]", "np.ones((5, 16, 16))"
        )
        exec(f"import numpy as np\n{cell}", names)
    assert len(names["probabilities"]) == 5
    assert len(names["runs"]) == len(METHODS)


def test_a_public_name_loads_when_it_is_used_and_torch_with_the_first_network():
    code = (
        "import hlrs, sys; hlrs.results; drawn = hlrs.draw('DARTS_V2'); assert 'torch' not in sys.modules; "
        "hlrs.Network('DARTS_V2', 4, 3, 10); sys.modules['torch']; hlrs.nothing"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stderr.endswith("AttributeError: module 'hlrs' has no attribute 'nothing'\n")


def test_weights_and_config_that_changed_are_refused(use, tmp_path):
    assert use("export", RUN, "--to", tmp_path / "out").exit_code == 0
    weights, config = tmp_path / "out" / "model.safetensors", tmp_path / "out" / "config.json"
    for path, change in (
        (weights, lambda content: content[:-4] + bytes(4)),
        (config, lambda content: content.replace(b'"bee"', b'"wasp"')),
    ):
        content = path.read_bytes()
        path.write_bytes(change(content))
        found = use("predict", tmp_path / "out", "data/test/ant")
        assert found.exit_code == 1
        assert (
            found.stderr
            == f"hlrs: {weights}: differs from what {config} says; restore both, or export again\n"
        )
        path.write_bytes(content)
    assert use("predict", tmp_path / "out", "data/test/ant").exit_code == 0


def test_weights_of_another_run_are_refused(use, trained, tmp_path):
    """Folders that were swapped have records that fit the weights, but not the place."""
    ours, others = (
        locate(f"mine/{method}/0", lambda: plan(load(Path("params.yaml")))).weights.parent
        for method in ("resnet", "cells")
    )
    shutil.copytree(ours, tmp_path / "ours")
    try:
        shutil.rmtree(ours)
        shutil.copytree(others, ours)
        for found in (
            use("predict", "mine/resnet/0", "data/test/ant"),
            use("export", "mine/resnet/0", "--to", "x"),
        ):
            assert found.exit_code == 2
            says(found.stderr, "record of retrain mine/cells/0", "`hlrs retrain mine/resnet/0 --force`")
    finally:
        shutil.rmtree(ours)
        shutil.copytree(tmp_path / "ours", ours)


def test_predicting_leaves_a_network_in_training_as_it_is(use):
    """Its batch norms would take the images for a batch of the training."""
    classifier = hlrs.load("mine/resnet/0", "cpu")
    expected = classifier.predict(images := ["data/test/ant/0.png", "data/test/bee/1.png"])
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    classifier.train()
    frozen = next(module for module in classifier.modules() if isinstance(module, torch.nn.BatchNorm2d))
    frozen.eval()
    assert classifier.predict(images).equal(expected)
    assert all(value.equal(before[name]) for name, value in classifier.state_dict().items())
    assert (classifier.training, frozen.training) == (True, False)
    expected.requires_grad_()  # no tensor of inference mode, for a head of one's own
    half = classifier.bfloat16().eval().predict(images)
    assert (half.dtype, half.shape) == (torch.float32, expected.shape)
    assert half.allclose(expected, atol=0.05)


def test_outputs_that_are_not_finite_are_no_prediction(use):
    classifier = hlrs.load("mine/resnet/0", "cpu")
    next(classifier.parameters()).data.fill_(math.nan)
    with pytest.raises(Failure, match="not finite"):
        classifier.predict("data/test/ant/0.png")
    with pytest.raises(UserError, match="batch_size: 0"):
        classifier.predict("data/test/ant/0.png", batch_size=0)
    with pytest.raises(UserError, match=r"data/test: is a folder"):
        classifier.predict("data/test")


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda header: header["preprocessing"].update(std=[0.0, 1.0, 1.0]), "std.0"),
        (lambda header: header["preprocessing"].update(mean=[0.5]), "mean has 1 values for 3 channels"),
        (lambda header: header["preprocessing"].update(shape=[3, -16, 16]), "shape.1"),
        (lambda header: header["preprocessing"].update(image_size=0), "image_size"),
        (lambda header: header["network"].update(in_channels=1), "images of 3 channels for a network of 1"),
        (lambda header: header.update(classes=["ant"]), "1 classes for a network of 3"),
    ],
)
def test_a_header_that_contradicts_itself_is_one_line(use, tmp_path, edit, fault):
    weights, header = read_tensors(locate(RUN, lambda: plan(load(Path("params.yaml")))).weights)
    edit(header)
    write_tensors(path := tmp_path / "model.safetensors", weights, header)
    found = use("predict", path, "data/test/ant/0.png")
    assert found.exit_code == 1
    says(found.stderr, str(path.name), fault)


def test_weights_that_are_no_real_numbers_are_one_line(use, tmp_path):
    weights, header = read_tensors(locate(RUN, lambda: plan(load(Path("params.yaml")))).weights)
    name = next(name for name, value in weights.items() if value.is_floating_point())
    write_tensors(path := tmp_path / "model.safetensors", weights | {name: weights[name].int()}, header)
    found = use("predict", path, "data/test/ant/0.png")
    assert found.exit_code == 1
    says(found.stderr, name, "int32", "export")


def test_an_exported_network_is_described_as_its_run(use, tmp_path):
    assert use("export", RUN, "--to", tmp_path / "out").exit_code == 0
    of_run, of_folder, of_file = (
        json.loads(use("describe", name, "--json").stdout)
        for name in (RUN, tmp_path / "out", tmp_path / "out" / "model.safetensors")
    )
    for found in (of_run, of_folder, of_file):
        del found["network"]
    assert of_run == of_folder == of_file


def test_a_table_whose_images_are_not_found_has_a_remedy_that_helps(use, tmp_path):
    image = {"bytes": Path("data/test/ant/0.png").read_bytes()}
    two = pa.table({"photo": [image], "mask": [image]})
    pq.write_table(two, path := tmp_path / "two.parquet")
    said = use("predict", RUN, path, "--strict").stderr
    says(said, "photo", "mask", "call the column `image`")
    pq.write_table(two.rename_columns(["image", "mask"]), path)
    assert use("predict", RUN, path).exit_code == 0


def test_an_opened_tiff_whose_zero_is_white_is_read_as_its_file(use, tmp_path):
    levels = np.random.default_rng(0).integers(0, 65_536, (16, 16), dtype=np.uint16)
    Image.fromarray(levels).save(path := tmp_path / "deep.tif", tiffinfo={262: 0})
    classifier = hlrs.load(RUN, "cpu")
    given = Image.open(path)
    assert classifier.pixels([given]).equal(classifier.pixels([path]))
    broken = Image.open(io.BytesIO(Path("data/test/ant/0.png").read_bytes()[:300]))
    with pytest.raises(UserError, match="image 0: not an image that can be decoded"):
        classifier.pixels([broken])


@pytest.mark.parametrize(
    ("run", "stage", "name", "reading"),
    [
        (RUN, "extract", "genotype.json", lambda use: hlrs.genotype(RUN)),
        (RUN, "extract", "genotype.json", lambda use: _raise_from(use("describe", RUN))),
        (RUN, "evaluate", "metrics.json", lambda use: hlrs.results()),
        ("mine/mixed/0", "search", "history.parquet", lambda use: hlrs.results()),
    ],
)
def test_edited_results_are_refused(run, stage, name, reading, use, trained):
    [path] = (trained / "results" / stage / run).glob(f"*/{name}")
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    try:
        with pytest.raises(UserError) as caught:
            reading(use)
    finally:
        path.write_bytes(content)
    says(str(caught.value), name, "differs from the record", f"`hlrs {stage} {run} --force`")
    reading(use)


def _raise_from(found):
    """Raise the error that a command ended with."""
    if found.exit_code:
        raise UserError(found.stderr)


def test_published_genotypes_are_known_by_name_in_any_folder(tmp_path, monkeypatch, use):
    with pytest.raises(UserError, match=r"^DARTS_V3: no run .*; or from: DARTS_V1, DARTS_V2, "):
        hlrs.genotype("DARTS_V3")
    cell = METHODS["bench"]["searcher"]["genotype"]
    bench = hlrs.genotype("mine/bench/0")
    monkeypatch.chdir(tmp_path)  # without params.yaml
    assert hlrs.genotype("DARTS_V2").normal[0] == [("sep_conv_3x3", 0), ("sep_conv_3x3", 1)]
    assert hlrs.genotype(cell) == bench
    with pytest.raises(UserError, match="unknown operation 'foo'"):
        hlrs.genotype("|foo~0|")


@pytest.mark.parametrize("kind", ["plain", "turned", "transparent", "16-bit grey"])
def test_an_opened_image_is_predicted_as_its_file(kind, use, tmp_path):
    rng, options = np.random.default_rng(1), {}
    pixels = rng.integers(0, 256, (20, 24, 4), dtype=np.uint8)
    image = Image.fromarray(pixels if kind == "transparent" else pixels[..., :3])
    if kind == "turned":
        options["exif"] = Image.Exif()
        options["exif"][ExifTags.Base.Orientation] = 6
    if kind == "16-bit grey":
        image = Image.fromarray(rng.integers(0, 65536, (20, 24)).astype(np.uint16))
    image.save(tmp_path / "image.png", **options)
    classifier = hlrs.load(RUN, "cpu")
    expected = pixels_of(decode(tmp_path / "image.png", ""), 16)
    assert (classifier.pixels(Image.open(tmp_path / "image.png"))[0].numpy() == expected).all()


def test_what_python_cannot_use_is_said_in_one_line(use):
    classifier = hlrs.load(RUN)
    arrays = np.zeros((4, 8, 8), np.uint8), np.zeros((8, 8)), np.zeros((0, 8), np.uint8)
    for image in (3, *arrays, "absent.png"):
        with pytest.raises(UserError, match=r"give|no such file"):
            classifier.predict([image])
    images = torch.zeros(2, 3, 16, 16)
    for tensor in (images, images.byte()[:, :1], images.byte()[0], images.byte()[..., 1:]):
        with pytest.raises(
            UserError, match=r"a tensor of torch\.\w+, \[.*give torch\.uint8, \[n, 3, 16, 16\]"
        ):
            classifier.predict(tensor)
    with pytest.raises(UserError, match="image 0: floating-point pixels are not read"):
        classifier.predict(Image.new("F", (16, 16)))
    for arguments in (("DARTS_V2", 7, 4, 10), ("nothing", 8, 4, 10), (None, 8, 4, 10)):
        with pytest.raises(UserError, match=r"channels|genotype"):
            hlrs.Network(*arguments)
    with pytest.raises(UserError, match=r"^stem imagenet: a network of space nasbench201 has CIFAR's stem"):
        hlrs.Network(METHODS["bench"]["searcher"]["genotype"], 8, 3, 10, stem="imagenet")
