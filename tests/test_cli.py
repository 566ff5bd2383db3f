"""The command line: help, results of single commands, and one clear line about each mistake."""

import io
import json
import re
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

from hlrs.artifacts.jobs import OUTPUTS, key_of
from hlrs.cli import STAGE_HELP, main
from hlrs.nas.genotype import PUBLISHED, ImplantGenotype
from tests.conftest import TINY, edit, result_files
from tests.messages import says


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    result = CliRunner().invoke(main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def complaint(*arguments: str, status: int = 2) -> str:
    """The one line on stderr of a command that ends with a status."""
    code, _, stderr = run(*arguments)
    assert (code, stderr.count("\n")) == (status, 1), stderr
    assert stderr.startswith("hlrs: ")
    return stderr.removeprefix("hlrs: ").strip()


def left_behind() -> list[str]:
    return [str(path) for path in result_files()]


def test_help_loads_neither_torch_nor_snakemake():
    program = "import sys, hlrs.cli as c; c.main(['--help'], standalone_mode=False); print([*sys.modules])"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "Neural architecture search for long-tailed images" in shown
    for heavy in ("torch", "snakemake", "pandas", "pydantic", "numpy", "pyarrow"):
        assert f"'{heavy}'" not in shown


def test_help_lists_the_commands_in_order_with_whole_summaries():
    listed = run("--help")[1].split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in listed[: len(OUTPUTS)]] == [*OUTPUTS]
    assert [line for line in listed if not line.endswith(".") or line.endswith("...")] == []


@pytest.mark.parametrize("name", main.commands)
def test_every_command_has_an_example_of_itself(name):
    [example] = [line for line in run(name, "--help")[1].splitlines() if "Example: " in line]
    assert f" hlrs {name}" in example


@pytest.mark.parametrize("stage", STAGE_HELP)
def test_every_stage_has_help_and_outputs(stage):
    code, shown, _ = run(stage, "--help")
    assert code == 0
    assert STAGE_HELP[stage] in " ".join(shown.split())
    assert set(STAGE_HELP) == set(OUTPUTS)


def test_describe_prints_the_published_size_as_json():
    code, shown, _ = run("describe", "DARTS_V2", "--channels", "36", "--cells", "20", "--json")
    facts = json.loads(shown)
    assert code == 0
    assert (facts["weights"], facts["multiply_adds"]) == (3_349_342, 528_359_040)


def test_describe_reads_a_genotype_file_and_names_an_unknown_operation(tmp_path):
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps(PUBLISHED["DARTS_V2"].to_json()))
    assert "3,349,342" in run("describe", str(path))[1]
    path.write_text(path.read_text().replace("dil_conv_3x3", "dil_conv_7x7"))
    line = complaint("describe", str(path))
    says(line, "genotype.json", "normal: node 3", "'dil_conv_7x7'", "max_pool_3x3")


def test_two_forms_of_output_are_refused():
    for command, one in (("lineage", "--dot"), ("predict", "--csv")):
        arguments = ["digits/hlrs/0", *["images"] * (command == "predict"), "--json", one]
        says(complaint(command, *arguments), one, "--json", "omit one")


@pytest.mark.parametrize(
    ("options", "refused", "acts_with"),
    [
        (["--ro-crate", "crate", "--format", "onnx"], "--format", "--to"),
        (["digits/darts/0", "--to", "network", "--no-weights"], "--no-weights", "--ro-crate"),
    ],
)
def test_an_option_of_another_export_is_refused(options, refused, acts_with):
    says(complaint("export", *options), refused, acts_with, "omit")


def test_the_supernet_is_described_with_its_published_size():
    assert json.loads(run("describe", "supernet", "--json")[1])["weights"] == 1_930_618


def test_networks_of_nasbench201_are_described_and_options_that_they_lack_refused():
    cell = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    assert json.loads(run("describe", cell, "--json")[1])["weights"] == 1_531_546
    supernet = run("describe", "supernet", "--space", "nasbench201", "--json")[1]
    assert json.loads(supernet)["weights"] == 1_686_106  # of the authors' TinyNetworkDarts(16, 5, 4, ...)
    says(
        complaint("describe", "supernet", "--space", "nasbench201", "--nodes", "1"), "--nodes 1", "2 or more"
    )
    says(complaint("describe", cell, "--nodes", "4"), "--nodes", "supernet")
    says(complaint("describe", "DARTS_V2", "--space", "darts"), "--space", "supernet")
    says(complaint("describe", cell, "--auxiliary"), "--auxiliary", "nasbench201")
    says(complaint("describe", cell, "--cells", "4"), "--cells 4", "multiple of 3")
    says(complaint("describe", cell, "--stem", "imagenet"), "--stem imagenet", "nasbench201")
    says(complaint("describe", "|foo~0|"), "NETWORK", "'foo'")


def test_a_genotype_of_implanted_cells_is_described_on_the_resnet_of_32_layers(tmp_path):
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps(ImplantGenotype(PUBLISHED["DARTS_V2"].normal, [2, 3, 4, 5]).to_json()))
    facts = json.loads(run("describe", str(path), "--json")[1])
    assert (facts["channels"], facts["cells"]) == (16, 15)  # five blocks in each of three stages
    says(complaint("describe", str(path), "--channels", "15"), "--channels", "15 is odd")


def test_what_a_networks_products_would_cost_by_an_approximate_multiplier_is_described(tmp_path):
    approximate = ("describe", "resnet20", "--where", "convolutions", "--multiplier")
    code, shown, _ = run(*approximate, "0,0,4")
    assert code == 0
    whole, approximate_ones = (
        int(re.search(rf"{name} +([\d,]+)", shown)[1].replace(",", ""))
        for name in ("multiply adds", "multiplications")
    )
    assert whole - approximate_ones == 64 * 10  # all but the classifier's
    to_int8, to_float = (
        float(re.search(rf"energy to {of} +([\d.]+)", shown)[1]) for of in ("int8", "float32")
    )
    assert 0 < to_int8 < 1
    assert to_float == pytest.approx(to_int8 * 0.2 / 3.7, abs=1e-4)  # pJ of a product, Horowitz 2014
    table = tmp_path / "products.npy"
    np.save(table, np.multiply.outer(np.arange(256), np.arange(256)))
    assert "not known" in run(*approximate, str(table), "--channels", "4")[1]  # no power of it is published
    for numbers in ("0,4", "0,0,4,4"):
        says(complaint(*approximate, numbers), f"--multiplier {numbers}", "three numbers")
    says(complaint("describe", "resnet20", "--multiplier", "0,0,4"), "--where", "primitives", "convolutions")


def test_a_run_is_described_with_its_own_layout_and_measured(workspace, monkeypatch):
    monkeypatch.setattr("hlrs.training.latency.SECONDS", 0.0)
    monkeypatch.setattr("hlrs.training.latency.BATCHES", (1, 2))
    fixed = {"searcher": {"kind": "fixed", "genotype": "DARTS_V2"}}
    edit(workspace / "params.yaml", **{"methods.darts": fixed})
    says(complaint("describe", "digits/darts/0"), "genotype.json", "missing", "extract_all")
    run("extract", "digits/darts/0")
    code, shown, _ = run("describe", "digits/darts/0", "--measure", "--threads", "1", "--json")
    facts = json.loads(shown)
    assert code == 0
    layout = {"in_channels": 1, "classes": 10, "channels": 2, "cells": 3, "image_size": 8}
    assert facts.items() >= layout.items()
    sizes = ("--channels", "2", "--cells", "3", "--in-channels", "1", "--image-size", "8", "--json")
    by_hand = json.loads(run("describe", "DARTS_V2", *sizes)[1])
    for name in ("weights", "multiply_adds"):
        assert facts[name] == by_hand[name]
    assert [row["batch"] for row in facts["measured"]["batches"]] == [1, 2]
    assert facts["measured"]["batches"][0]["median_seconds"] > 0
    assert "measured" not in by_hand
    says(complaint("describe", "digits/darts/0", "--stem", "cifar"), "--stem", "digits/darts/0")
    says(complaint("describe", "digits/none/0"), "digits/none/0", "digits/darts/0")
    as_folder = run("describe", "./digits/darts/0/", "--json")[1]
    assert json.loads(as_folder)["weights"] == json.loads(shown)["weights"]
    says(complaint("describe", "resnet20", "--threads", "1"), "--threads", "--measure")


def encoded(size):
    file = io.BytesIO()
    Image.new("RGB", (size, size)).save(file, "PNG")
    return {"bytes": file.getvalue()}


def test_the_plan_refuses_what_snakemake_refuses(workspace):
    edit(Path("params.yaml"), **{"datasets.digits.test_per_class": 500})
    says(complaint("plan"), "datasets.digits", "178", "500", "test_per_class")
    sizes, labels = [encoded(8), encoded(9)] * 60, [0, 1] * 60
    images = {"image": sizes, "label": labels}
    pq.write_table(pa.table(images), "images.parquet")
    source = {"kind": "parquet", "train": ["images.parquet"]}
    edit(Path("params.yaml"), **{"datasets.digits.source": source, "datasets.digits.test_per_class": 5})
    says(complaint("plan"), "datasets.digits", "images.parquet", "image_size")
    assert not left_behind()


def test_a_manual_split_prints_its_folder_and_is_kept(workspace):
    code, first, _ = run("split", "digits")
    assert code == 0
    record = Path(first.strip()) / "provenance.json"
    before = record.stat().st_mtime_ns
    assert run("split", "digits") == run("split", "./digits/") == (0, first, "")
    assert record.stat().st_mtime_ns == before
    run("split", "digits", "--force")
    assert record.stat().st_mtime_ns > before


def test_mistakes_in_the_command_are_reported_in_one_line(workspace):
    for stage, wrong in (("search", "digits/drats/0"), ("retrain", "digits/darts/0-3")):
        line = complaint(stage, wrong)
        says(line, stage, f"'{wrong}'", "params.yaml", "digits/darts/0, digits/hlrs/0")
    says(complaint("search", "digits/darts/0"), "split.parquet", "`hlrs split digits`")
    says(complaint("split", "digits", "--params", "p.yaml"), "p.yaml", "folder")
    says(complaint("publish"), "report", "`snakemake --cores all`")
    run("split", "digits")
    [spec] = [p for p in Path(".hlrs/specs").iterdir() if json.loads(p.read_text())["stage"] == "split"]
    says(complaint("search", str(spec)), "stage split", f"`hlrs split {spec}`")


def test_pruning_an_incomplete_stage_is_rejected_and_moves_nothing(workspace):
    run("split", "digits")
    made = left_behind()
    edit(workspace / "params.yaml", **{"datasets.digits.max_per_class": 30})
    says(complaint("prune", "--complete", "split"), "results/split/digits", "missing", "params.yaml", "rerun")
    assert left_behind() == made
    assert run("prune", "split")[0] == 0
    assert left_behind() == []


def test_too_few_images_are_reported_in_one_line(workspace):
    edit(workspace / "params.yaml", **{"datasets.digits.max_per_class": 400})
    says(complaint("split", "digits"), "class", "400", "max_per_class")
    assert left_behind() == []


def test_code_changed_since_the_plan_is_rejected(workspace):
    run("split", "digits")
    [spec] = [p for p in Path(".hlrs/specs").iterdir() if json.loads(p.read_text())["stage"] == "split"]
    body = {**json.loads(spec.read_text()), "code": "0" * 64}  # as an earlier version froze it
    del body["key"]
    earlier = spec.with_stem(key_of(body))
    earlier.write_text(json.dumps(body | {"key": earlier.stem}))
    says(complaint("split", str(earlier)), "code of split", "rerun snakemake")


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def parquet(workspace):
    """A params file on a Parquet of 60 images in 3 classes, and a function that writes it."""

    def write(images=None, labels=None):
        images = images or [png(4 * i) for i in range(60)]
        labels = [i % 3 for i in range(60)] if labels is None else labels
        struct = pa.array([{"bytes": i, "path": None} for i in images])
        table = pa.table({"img": struct, "label": pa.array(labels, pa.int64())})
        table = table.replace_schema_metadata({"class_names": json.dumps(["a", "b", "c"])})
        pq.write_table(table, workspace / "images.parquet")

    params = yaml.safe_load(yaml.safe_dump(TINY))
    source = {"kind": "parquet", "train": ["images.parquet"]}
    params["datasets"]["digits"] |= {
        "source": source,
        "imbalance": {"kind": "natural"},
        "max_per_class": None,
    }
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))
    write()
    return write


def test_a_missing_data_file_is_named_before_anything_runs(parquet):
    Path("images.parquet").unlink()
    says(complaint("split", "digits"), "images.parquet", "params")


def test_a_truncated_data_file_is_named(parquet):
    Path("images.parquet").write_bytes(Path("images.parquet").read_bytes()[:-100])
    says(complaint("split", "digits"), "images.parquet", "dvc pull")
    assert left_behind() == []


def test_a_label_out_of_range_is_named_with_its_row(parquet):
    parquet(labels=[7 if i == 41 else i % 3 for i in range(60)])
    says(complaint("split", "digits"), "images.parquet, row 41", "label 7", "0 to 2")
    assert left_behind() == []


@pytest.mark.parametrize("broken", [b"\x89PNG no", png(23)[:-30]], ids=["header", "pixels"])
def test_an_image_that_cannot_be_decoded_is_named_with_its_row_by_the_split(broken, parquet):
    parquet(images=[broken if i == 23 else png(4 * i) for i in range(60)])
    says(complaint("split", "digits"), "images.parquet, row 23", "image", "dvc pull")
    assert left_behind() == []


def test_every_image_is_decoded_if_asked_also_those_that_no_split_draws(parquet):
    parquet(images=[png(23)[:-30] if i == 59 else png(4 * i) for i in range(60)])
    edit(Path("params.yaml"), **{"datasets.digits.max_per_class": 4})
    assert run("split", "digits")[0] == 0
    says(complaint("split", "digits", "--check-images"), "images.parquet, row 59", "image", "dvc pull")


def test_all_broken_images_are_named_if_every_image_is_decoded(parquet):
    broken = {7: b"\x89PNG no", 8: png(32)[:-30], 59: b"x"}
    parquet(images=[broken.get(i, png(4 * i)) for i in range(60)])
    status, _, errors = run("split", "digits", "--check-images")
    *lines, last = errors.splitlines()
    assert status == 2
    assert len(lines) == 3
    for line, row in zip(lines, broken, strict=True):
        says(line, f"images.parquet, row {row}", "not an image", "dvc pull")
    says(last, "datasets.digits", "3 of 60 images", "remove")
    assert left_behind() == []


def test_data_changed_since_the_plan_are_rejected(parquet):
    run("split", "digits")
    [spec] = [p for p in Path(".hlrs/specs").iterdir() if json.loads(p.read_text())["stage"] == "split"]
    parquet(images=[png(3 * i) for i in range(60)])
    says(complaint("split", str(spec)), "data files", "rerun snakemake")
