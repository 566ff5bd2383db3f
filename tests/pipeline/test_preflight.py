"""What a job looks at before it starts: disk, data files as its node sees them, and the GPUs it was given."""

import multiprocessing
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from hlrs.artifacts.data_digest import content_digest
from hlrs.config.params import load
from hlrs.errors import UserError
from hlrs.pipeline import plan, preflight
from hlrs.pipeline.preflight import check_data, check_disk, check_splits
from hlrs.training.device import choose, given_gpus
from tests.conftest import TINY, edit

MB = 1_000_000
GIB = 2**30


@pytest.fixture(autouse=True)
def node(tmp_path, monkeypatch):
    """An empty folder, on a node with a name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platform.node", lambda: "n7")


# --- disk ---------------------------------------------------------------------------------------------


def disk(monkeypatch, **free):
    """Free bytes of the file systems of some folders; the others have plenty."""
    asked = []

    def usage(path):
        asked.append(str(path))
        return SimpleNamespace(free=free.get(str(path).replace("/", "_"), 10**12))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    return asked


def test_a_folder_with_room_passes(monkeypatch):
    disk(monkeypatch)
    check_disk()
    assert list(Path().iterdir()) == []


def test_a_full_disk_is_named_with_its_space_and_the_node(monkeypatch):
    Path("results").mkdir()
    disk(monkeypatch, results=299_999_999 - 50 * MB)
    with pytest.raises(UserError) as refused:
        check_disk()
    message = str(refused.value)
    assert message.startswith("results/: 250 MB free on n7, a job needs 300 MB; ")
    assert ".hlrs/aside" in message
    disk(monkeypatch, results=preflight.FREE_BYTES)
    check_disk()


def test_the_checkpoints_disk_is_looked_at_as_well(monkeypatch):
    Path(".hlrs/checkpoints").mkdir(parents=True)
    disk(monkeypatch, **{".hlrs_checkpoints": 0})
    with pytest.raises(UserError, match=r"^\.hlrs/checkpoints/: 0 MB free on n7"):
        check_disk()


def test_of_folders_that_are_not_there_the_next_above_is_looked_at(monkeypatch):
    Path(".hlrs").mkdir()
    asked = disk(monkeypatch)
    check_disk()
    assert asked == [".", ".hlrs"]


def as_nobody(folder, sender):
    os.chdir(folder)
    if os.geteuid() == 0:  # who may write everywhere
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        check_disk()
        sender.send("passed")
    except UserError as error:
        sender.send(str(error))


@pytest.mark.parametrize(("mode", "told"), [(0o777, "passed"), (0o555, "results/: not writable on")])
def test_a_folder_that_the_user_may_not_write_to_is_named(tmp_path, mode, told):
    """By a process that is not root's."""
    Path(".hlrs/checkpoints").mkdir(parents=True)
    Path(".hlrs/checkpoints").chmod(0o777)
    Path("results").mkdir()
    Path("results").chmod(mode)
    tmp_path.chmod(0o755)
    receiver, sender = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=as_nobody, args=(tmp_path, sender))
    process.start()
    assert receiver.poll(30)
    assert receiver.recv().startswith(told)
    process.join()


# --- data files ---------------------------------------------------------------------------------------


def parquet(path, pixels=b"1"):
    images = [{"bytes": pixels, "path": None}]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, "label": [0]}), path)


def planned(**source):
    """The jobs, one a stage, of params with a source."""
    Path("params.yaml").write_text(yaml.safe_dump(TINY))
    edit(Path("params.yaml"), **{"datasets.digits.source": source, "datasets.digits.image_size": 8})
    return {job.stage: job for job in plan.plan(load(Path("params.yaml")))}


def refusal(job):
    with pytest.raises(UserError) as refused:
        check_data(job)
    return str(refused.value)


REACH = "not readable on n7; store data where every node can read them"


def test_data_that_are_there_pass():
    parquet("data/train.parquet")
    jobs = planned(kind="parquet", train=["data/train.parquet"])
    for job in jobs.values():
        check_data(job)


@pytest.mark.parametrize("stage", ["split", "search", "retrain", "evaluate"])
def test_a_file_that_this_node_does_not_see_is_named(stage):
    parquet("data/train.parquet")
    jobs = planned(kind="parquet", train=["data/train.parquet"])
    Path("data/train.parquet").unlink()
    assert refusal(jobs[stage]) == f"data/train.parquet: {REACH}"


@pytest.mark.parametrize("stage", ["extract", "report"])
def test_a_stage_that_reads_no_images_does_not_look_for_them(stage):
    parquet("data/train.parquet")
    jobs = planned(kind="parquet", train=["data/train.parquet"])
    Path("data/train.parquet").unlink()
    check_data(jobs[stage])


def test_a_file_that_dvc_did_not_pull_is_named_though_planning_needs_its_pointer_only():
    pointer = {"outs": [{"md5": "0" * 32, "path": "train.parquet"}]}
    Path("data").mkdir()
    Path("data/train.parquet.dvc").write_text(yaml.safe_dump(pointer))
    jobs = planned(kind="parquet", train=["data/train.parquet"])
    assert refusal(jobs["search"]) == f"data/train.parquet: {REACH}"
    parquet("data/train.parquet")
    check_data(jobs["search"])


def test_a_folder_that_dvc_tracks_whole_is_named():
    Path("data").mkdir()
    pointer = {"outs": [{"md5": "0" * 32 + ".dir", "path": "tree"}]}
    Path("data/tree.dvc").write_text(yaml.safe_dump(pointer))
    jobs = planned(kind="image_folder", train="data/tree")
    assert refusal(jobs["split"]) == f"data/tree: {REACH}"
    Path("data/tree").mkdir()
    check_data(jobs["split"])


@pytest.mark.parametrize("stage", ["split", "search"])
def test_data_that_changed_since_the_plan_are_refused(stage):
    parquet("data/train.parquet")
    jobs = planned(kind="parquet", train=["data/train.parquet"])
    parquet("data/train.parquet", pixels=b"22")
    told = refusal(jobs[stage])
    assert told == f"{jobs[stage].run}: the data files changed since this job was planned; rerun snakemake"


def test_bundled_and_downloaded_data_are_not_looked_for():
    for source in ({"kind": "digits"}, {"kind": "torchvision", "name": "cifar10", "root": "nowhere"}):
        job = planned(**source)["search"]
        assert job.params["images"]["content"] == content_digest(
            load(Path("params.yaml")).datasets["digits"].source
        )
        check_data(job)


def test_images_of_a_list_that_this_node_does_not_see_are_counted():
    for number in range(3):
        Path("data").mkdir(exist_ok=True)
        Path(f"data/{number}.jpg").write_bytes(b"1")
    Path("train.txt").write_text("0.jpg 0\n1.jpg 1\n2.jpg 1\n")
    job = planned(kind="list_file", root="data", train="train.txt")["search"]
    check_data(job)
    Path("data/1.jpg").unlink()
    assert refusal(job) == (
        "data/1.jpg: No such file or directory; 1 of 3 data files cannot be reached: "
        "put them there or correct the params (seen from n7)"
    )
    Path("train.txt").unlink()
    assert refusal(job) == f"train.txt: {REACH}"


def write_images(count_of, folder="data"):
    """A folder a class; the images are never decoded here."""
    for name, count in count_of.items():
        Path(folder, name).mkdir(parents=True)
        for number in range(count):
            Path(folder, name, f"{number}.png").write_bytes(b"1")


def test_a_split_that_cannot_be_drawn_is_refused_before_any_job_runs():
    write_images({"cat": 60, "dog": 0, "eel": 60})
    jobs = planned(kind="image_folder", train="data")
    with pytest.raises(UserError, match=r"^1 of 3 classes have no training image: dog; add images"):
        check_splits(jobs.values())
    write_images({"dog/more": 60})
    check_splits(planned(kind="image_folder", train="data").values())


def test_a_split_that_is_made_or_whose_data_are_elsewhere_is_not_drawn(monkeypatch):
    write_images({"cat": 1})
    jobs = planned(kind="image_folder", train="data")
    with pytest.raises(UserError, match=r"^class cat: 1 images available, 5 needed; lower test_per_class"):
        check_splits(jobs.values())
    for path in jobs["split"].outputs:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    check_splits(jobs.values())
    Path("tree.dvc").write_text(yaml.safe_dump({"outs": [{"md5": "0" * 32 + ".dir", "path": "tree"}]}))
    check_splits(planned(kind="image_folder", train="tree").values())
    check_splits(planned(kind="torchvision", name="cifar10", root="nowhere").values())


# --- GPUs ---------------------------------------------------------------------------------------------

SLURM = {"SLURM_JOB_ID": "41"}


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 0),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 0),  # the user's own, outside SLURM
        (SLURM, 0),
        (SLURM | {"SLURM_STEP_GPUS": "0", "CUDA_VISIBLE_DEVICES": "0"}, 1),
        (SLURM | {"SLURM_STEP_GPUS": "2,3", "CUDA_VISIBLE_DEVICES": "0,1"}, 2),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "1"}, 1),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "MIG-0c757cd7-e942-5726-a0b8-0e8fb7067135"}, 1),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0),  # as SLURM hides GPUs that were not asked for
        (SLURM | {"CUDA_VISIBLE_DEVICES": ""}, 0),
        (SLURM | {"SLURM_STEP_GPUS": "", "CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0),
    ],
)
def test_gpus_given_are_counted_as_slurm_tells_them(environment, count):
    assert given_gpus(environment) == count


@pytest.fixture
def gpus(monkeypatch):
    """PyTorch on a node where it sees GPUs with so much memory free, of 80 GiB."""

    def set_up(*free_gib):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(free_gib))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free_gib))
        monkeypatch.setattr(
            torch.cuda, "mem_get_info", lambda device: (int(free_gib[device] * GIB), 80 * GIB)
        )

    return set_up


ONE = SLURM | {"SLURM_STEP_GPUS": "0", "CUDA_VISIBLE_DEVICES": "0"}
TWO = SLURM | {"SLURM_STEP_GPUS": "0,1", "CUDA_VISIBLE_DEVICES": "0,1"}


@pytest.mark.parametrize(
    ("environment", "free", "device"),
    [
        ({}, (), "cpu"),
        ({}, (80,), "cuda"),
        ({}, (1,), "cuda"),  # a desktop's, which is nobody's gift
        (SLURM, (), "cpu"),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, (), "cpu"),
        (ONE, (80,), "cuda"),
        (TWO, (80, 40), "cuda"),
        ({"HLRS_DEVICE": "cpu"}, (80,), "cpu"),
        (ONE | {"HLRS_DEVICE": "cpu"}, (), "cpu"),
    ],
)
def test_the_gpu_is_used_where_there_is_one(gpus, environment, free, device):
    gpus(*free)
    assert choose(environment) == device


def test_a_gpu_that_was_given_and_is_not_seen_is_no_reason_to_use_the_cpu(gpus):
    gpus()
    with pytest.raises(
        UserError, match=r"^SLURM gave this job 1 GPU on n7, PyTorch sees 0: run `hlrs doctor`"
    ):
        choose(ONE)
    gpus(80)
    with pytest.raises(UserError, match=r"^SLURM gave this job 2 GPUs on n7, PyTorch sees 1: "):
        choose(TWO)


def test_a_gpu_that_is_somebody_elses_is_named(gpus):
    gpus(80, 39)
    with pytest.raises(UserError) as refused:
        choose(TWO)
    assert str(refused.value).startswith("GPU 1 on n7 has 41.9 of 85.9 GB free: ")
    assert "`nvidia-smi`" in str(refused.value)


def test_an_unknown_device_is_refused():
    with pytest.raises(UserError, match=r"^HLRS_DEVICE=cuda:1: unknown; allowed: cpu"):
        choose({"HLRS_DEVICE": "cuda:1"})
