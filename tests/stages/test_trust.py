"""What a job reads back is what was written: checkpoint, spec and inputs; what is damaged is never used."""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from hlrs.artifacts.jobs import load_spec
from hlrs.config.jobs import SearchJob
from hlrs.config.params import load
from hlrs.errors import UserError
from hlrs.pipeline.execute import execute
from hlrs.pipeline.plan import discard_states, freeze, plan
from hlrs.stages.images import SplitImages
from hlrs.training.checkpoints import resume, save
from hlrs.training.task import Position
from tests.conftest import TINY, edit, hlrs, make_all, outputs, start

SEARCH = "digits/darts/0"
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder with every result, and the checkpoint that the search had in its second epoch."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "params.yaml").write_text(yaml.safe_dump(TINY))
    assert hlrs(folder, "split", "digits")[0] == 0
    process = start(folder, "search", SEARCH, checkpoint_seconds=0.0)
    while not list(folder.glob(".hlrs/checkpoints/*.safetensors")):
        process.join(0.01)
    process.kill()
    process.join()
    shutil.copytree(folder / ".hlrs/checkpoints", folder / "kept")
    make_all(folder)
    return folder


@pytest.fixture
def work(finished, workspace):
    """A copy of it, and its jobs."""
    shutil.copytree(finished, workspace, dirs_exist_ok=True)
    return workspace


def find(stage, run=SEARCH):
    return next(job for job in plan(load(Path("params.yaml"))) if (job.stage, job.run) == (stage, run))


# --- checkpoints ----------------------------------------------------------------------------------------


def header(content):
    return 8 + int.from_bytes(content[:8], "little")


def in_a_tensor(content):
    return flipped(content, (header(content) + len(content)) // 2)


def in_the_last_tensor(content):
    return flipped(content, len(content) - 1)


def in_the_facts(content):
    """The position: epoch 9 in place of 0."""
    return content.replace(b'\\"epoch\\": 0', b'\\"epoch\\": 9', 1)


def in_the_length_of_the_header(content):
    return flipped(content, 6)


def cut_off(content):
    return content[: len(content) // 2]


def emptied(content):
    return b""


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [in_a_tensor, in_the_last_tensor, in_the_facts, in_the_length_of_the_header, cut_off, emptied],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_job_starts_from_scratch(damage, work):
    expected = outputs(work, "search")
    job = find("search")
    [kept] = Path("kept").glob("*.safetensors")
    shutil.rmtree(job.directory)
    job.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    job.checkpoint.write_bytes(damage(kept.read_bytes()))
    assert job.checkpoint.read_bytes() != kept.read_bytes()
    status, output = hlrs(work, "search", SEARCH)
    assert status == 0
    [line] = [line for line in output.splitlines() if "unreadable" in line]
    assert str(job.checkpoint) in line
    assert outputs(work, "search") == expected
    assert json.loads(job.output("provenance.json").read_text())["resumes"] == 0


def test_a_folder_in_the_place_of_a_checkpoint_is_set_aside_and_kept(work):
    expected = outputs(work, "search")
    job = find("search")
    discard_states([job])
    job.checkpoint.mkdir(parents=True, exist_ok=True)
    discard_states([job])  # leaves a folder alone
    shutil.rmtree(job.directory)
    assert hlrs(work, "search", SEARCH)[0] == 0
    assert outputs(work, "search") == expected
    [aside] = job.checkpoint.parent.glob(f"{job.key}*")
    assert aside.name.endswith(".unreadable")


@pytest.mark.parametrize("change", [{"epoch": 10**9}, {"rows": []}])
def test_a_checkpoint_with_an_absurd_position_is_set_aside(change, work):
    """Even if its digest fits."""
    job = find("search")
    task = Namespace(epochs=3, sums=1, state=dict, load=None)
    absurd = Position(epoch=1, rows=[{}])
    vars(absurd).update(change)
    save(task, job, absurd, torch.zeros(1, dtype=torch.float64))
    position, _ = resume(task, job, CPU)
    assert position == Position()


def test_a_sound_checkpoint_is_resumed(work):
    expected = outputs(work, "search")
    job = find("search")
    [kept] = Path("kept").glob("*.safetensors")
    shutil.rmtree(job.directory)
    shutil.copy(kept, job.checkpoint)
    assert hlrs(work, "search", SEARCH)[0] == 0
    assert outputs(work, "search") == expected
    assert json.loads(job.output("provenance.json").read_text())["resumes"] == 1


def test_the_checkpoint_of_another_job_is_not_resumed(work):
    edit(work / "params.yaml", **{"search.alphas": {"lr": 0.02}})
    job = find("search")
    [kept] = Path("kept").glob("*.safetensors")
    shutil.copy(kept, job.checkpoint)
    status, output = hlrs(work, "search", SEARCH)
    assert status == 0
    assert "unreadable" in output
    assert json.loads(job.output("provenance.json").read_text())["resumes"] == 0


# --- specs ----------------------------------------------------------------------------------------------


def edited(text):
    return text.replace('"lr": 0.01', '"lr": 0.5')


def test_a_folder_in_the_place_of_a_spec_is_set_aside_and_the_spec_written_again(work):
    job = find("search")
    before = job.spec.read_text()
    job.spec.unlink()
    job.spec.mkdir()
    freeze([job])
    assert job.spec.read_text() == before


@pytest.mark.parametrize("change", [edited, lambda text: text[:100], lambda text: "", lambda text: "[]"])
def test_a_changed_spec_is_refused_and_written_again(change, work):
    job = find("search")
    before = job.spec.read_text()
    job.spec.write_text(change(before))
    assert job.spec.read_text() != before
    with pytest.raises(UserError, match=rf"^{job.spec}: .*rerun snakemake"):
        load_spec(job.spec)
    freeze([job])
    assert job.spec.read_text() == before


def test_a_spec_under_the_name_of_another_is_refused(work):
    shutil.copy(find("search").spec, find("retrain").spec)
    with pytest.raises(UserError, match="key"):
        load_spec(find("retrain").spec)


# --- inputs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("maker", "name", "reader", "run"),
    [
        ("split", "split.parquet", "search", SEARCH),
        ("split", "classes.json", "retrain", SEARCH),
        ("search", "alphas.parquet", "extract", SEARCH),
        ("extract", "genotype.json", "retrain", SEARCH),
        ("retrain", "weights.safetensors", "evaluate", SEARCH),
        ("evaluate", "metrics.json", "report", "all"),
        ("evaluate", "provenance.json", "report", "all"),
    ],
)
def test_an_input_that_differs_from_its_makers_record_starts_no_job(maker, name, reader, run, work):
    made, job = find(maker, "digits" if maker == "split" else SEARCH), find(reader, run)
    path = made.output(name)
    path.write_bytes(path.read_bytes().replace(b"3", b"4", 1) + b" ")
    with pytest.raises(UserError, match=rf"^{path}: .*`hlrs {made.stage} {made.run} --force` makes"):
        execute(job)


def test_a_torn_record_of_an_inputs_maker_is_one_line_with_a_remedy(work):
    made, job = find("extract"), find("retrain")
    made.output("provenance.json").write_text("{")
    with pytest.raises(
        UserError,
        match=rf"^{made.directory}/provenance\.json: .*`hlrs {made.stage} {made.run} --force` makes",
    ):
        execute(job)


def test_labels_that_differ_from_the_splits_are_named(workspace):
    for name in ("cat", "dog"):
        for number in range(12):
            path = Path("images", name, f"{number:02}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    source = {"kind": "image_folder", "train": "images"}
    dataset = {"source": source, "imbalance": {"kind": "natural"}, "test_per_class": 2, "image_size": 8}
    edit(workspace / "params.yaml", **{"datasets.digits": dataset})
    job = find("search")
    assert hlrs(workspace, "split", "digits")[0] == 0
    Path("images/cat/00.png").rename("images/dog/99.png")  # as if it happened after the plan
    with pytest.raises(UserError, match=r"^images/dog/.*png: label 1, but 0 when the split was drawn"):
        SplitImages(
            job, SearchJob.model_validate(job.params).images, ["weights", "alphas"], torch.device("cpu")
        )
