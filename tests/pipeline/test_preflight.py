"""What a job checks before it starts: disk space, data files as its node sees them, and allocated GPUs."""

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
from dvc.repo import Repo

from hlrs.artifacts.data_digest import content_digest
from hlrs.config.jobs import parse
from hlrs.config.methods import EtfHead
from hlrs.config.params import Params, load
from hlrs.errors import UserError
from hlrs.pipeline import plan, preflight
from hlrs.pipeline.preflight import check_data, check_disk, check_present, check_splits
from hlrs.training.device import choose, given_gpus
from tests.conftest import TINY, edit
from tests.messages import says

MB = 1_000_000
GIB = 2**30
ETF = {"kind": "etf"}


@pytest.fixture(autouse=True)
def node(tmp_path, monkeypatch):
    """An empty folder, on a node with a name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platform.node", lambda: "n7")


# --- disk ---------------------------------------------------------------------------------------------


def disk(monkeypatch, **free):
    """Set the free bytes of some folders, others have plenty; return the folders that get checked."""
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
    for fact in ("results/: ", "250 MB", "n7", "300 MB", ".hlrs/aside"):
        assert fact in str(refused.value)
    disk(monkeypatch, results=preflight.FREE_BYTES)
    check_disk()


def test_the_checkpoints_disk_is_checked_too(monkeypatch):
    Path(".hlrs/checkpoints").mkdir(parents=True)
    disk(monkeypatch, **{".hlrs_checkpoints": 0})
    with pytest.raises(UserError, match=r"^\.hlrs/checkpoints/: .*\b0 MB .*\bn7\b"):
        check_disk()


def test_the_parent_of_a_missing_folder_is_checked(monkeypatch):
    Path(".hlrs").mkdir()
    asked = disk(monkeypatch)
    check_disk()
    assert asked == [".", ".hlrs"]


def as_nobody(folder, sender):
    os.chdir(folder)
    if os.geteuid() == 0:  # root may write everywhere
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        check_disk()
        sender.send("passed")
    except UserError as error:
        sender.send(str(error))


@pytest.mark.parametrize(("mode", "outcome"), [(0o777, "passed"), (0o555, "results/: ")])
def test_an_unwritable_folder_is_named(tmp_path, mode, outcome):
    """The process that checks is not root's."""
    Path(".hlrs/checkpoints").mkdir(parents=True)
    Path(".hlrs/checkpoints").chmod(0o777)
    Path("results").mkdir()
    Path("results").chmod(mode)
    tmp_path.chmod(0o755)
    receiver, sender = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=as_nobody, args=(tmp_path, sender))
    process.start()
    assert receiver.poll(30)
    assert receiver.recv().startswith(outcome)
    process.join()


# --- data files ---------------------------------------------------------------------------------------


def parquet(path, pixels=b"1"):
    images = [{"bytes": pixels, "path": None}]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, "label": [0]}), path)


def planned(**source):
    """The jobs of params with a source, one per stage."""
    Path("params.yaml").write_text(yaml.safe_dump(TINY))
    edit(Path("params.yaml"), **{"datasets.digits.source": source, "datasets.digits.image_size": 8})
    return {job.stage: job for job in plan.plan(load(Path("params.yaml")))}


def refusal(job):
    with pytest.raises(UserError) as refused:
        check_data(job)
    return str(refused.value)


def unreadable(job, remedy="every node"):
    """The file that the refusal of a job names as unreadable on this node."""
    path, problem = refusal(job).split(": ", 1)
    assert "n7" in problem
    assert remedy in problem
    return path


def test_readable_data_pass():
    parquet("data/train.parquet")
    jobs = planned(kind="parquet", train=["data/train.parquet"])
    for job in jobs.values():
        check_data(job)


@pytest.mark.parametrize("stage", ["split", "search", "retrain", "evaluate"])
def test_a_file_that_this_node_cannot_read_is_named(stage):
    parquet("data/train.parquet")
    jobs = planned(kind="parquet", train=["data/train.parquet"])
    Path("data/train.parquet").unlink()
    assert unreadable(jobs[stage]) == "data/train.parquet"


@pytest.mark.parametrize("stage", ["extract", "report"])
def test_a_stage_that_reads_no_images_does_not_check_them(stage):
    parquet("data/train.parquet")
    jobs = planned(kind="parquet", train=["data/train.parquet"])
    Path("data/train.parquet").unlink()
    check_data(jobs[stage])


@pytest.fixture
def dvc(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    with Repo.init(no_scm=True) as repo:
        yield repo


def test_data_that_dvc_did_not_pull_are_named_before_a_job_and_in_one(dvc):
    """The plan needs only their pointer."""
    write_images({"cat": 60, "dog": 60})
    dvc.add("data")
    shutil.rmtree("data")
    jobs = planned(kind="image_folder", train="data")
    with pytest.raises(UserError, match=r"^data: .*`dvc pull data\.dvc`"):
        check_present(jobs.values())
    check_present(job for job in jobs.values() if job.stage in ("extract", "report"))
    assert unreadable(jobs["search"], "`dvc pull data.dvc`") == "data"
    dvc.checkout()
    check_present(jobs.values())
    check_data(jobs["search"])


@pytest.mark.parametrize("stage", ["split", "search"])
def test_data_that_changed_since_the_plan_are_refused(stage):
    parquet("data/train.parquet")
    jobs = planned(kind="parquet", train=["data/train.parquet"])
    parquet("data/train.parquet", pixels=b"22")
    for fact in (f"{jobs[stage].run}: ", "data files", "changed", "rerun snakemake"):
        assert fact in refusal(jobs[stage])


def test_bundled_and_downloaded_data_are_not_checked():
    for source in ({"kind": "digits"}, {"kind": "torchvision", "name": "cifar10", "root": "nowhere"}):
        job = planned(**source)["search"]
        assert job.params["images"]["content"] == content_digest(
            load(Path("params.yaml")).datasets["digits"].source
        )
        check_data(job)


def test_unreadable_images_of_a_list_are_counted():
    for number in range(3):
        Path("data").mkdir(exist_ok=True)
        Path(f"data/{number}.jpg").write_bytes(b"1")
    Path("train.txt").write_text("0.jpg 0\n1.jpg 1\n2.jpg 1\n")
    job = planned(kind="list_file", root="data", train="train.txt")["search"]
    check_data(job)
    Path("data/1.jpg").unlink()
    for fact in ("data/1.jpg: ", "1 of 3 data files", "correct the params", "n7"):
        assert fact in refusal(job)
    Path("train.txt").unlink()
    assert unreadable(job) == "train.txt"


def write_images(count_of, folder="data"):
    """Write a folder per class; these tests never decode the images."""
    for name, count in count_of.items():
        Path(folder, name).mkdir(parents=True)
        for number in range(count):
            Path(folder, name, f"{number}.png").write_bytes(b"1")


def test_classes_without_test_images_are_named():
    write_images({"cat": 60, "dog": 60, "eel": 60}, "train")
    for number, name in enumerate(("cat", "eel", "dog")):
        Path("test", name).mkdir(parents=True)
        Path("test", name, "0.png").write_bytes(b"2")
        remarks = []
        planned(kind="image_folder", train="train", test="test")
        edit(Path("params.yaml"), **{"datasets.digits.test_per_class": None})
        check_splits(plan.plan(load(Path("params.yaml"))), remarks.append)
        assert len(remarks) == (number < 2)
        if number == 1:
            says(remarks[0], "datasets.digits", "1 of 3 classes", "dog", "balanced accuracy")


@pytest.mark.parametrize(
    ("dogs", "settings", "said"), [(120, {}, 1), (119, {}, 0), (120, {"max_per_class": 50}, 0)]
)
def test_a_first_class_that_is_no_head_is_named(dogs, settings, said):
    write_images({"cat": 60, "dog": dogs})
    planned(kind="image_folder", train="data")
    settings = {
        "test_per_class": 10,
        "max_per_class": None,
        "imbalance": {"kind": "exponential", "factor": 2},
    } | settings
    edit(Path("params.yaml"), **{f"datasets.digits.{name}": value for name, value in settings.items()})
    remarks = []
    check_splits(plan.plan(load(Path("params.yaml"))), remarks.append)
    assert len(remarks) == said
    if said:
        says(remarks[0], "datasets.digits", "first class", "60 images of cat", "dog has 120", "natural")


def test_a_split_that_cannot_be_drawn_is_refused_before_any_job_runs():
    write_images({"cat": 60, "dog": 0, "eel": 60})
    jobs = planned(kind="image_folder", train="data")
    with pytest.raises(UserError, match=r"^datasets\.digits: 1 of 3 classes .*\bdog\b.*\badd images"):
        check_splits(jobs.values(), print)
    write_images({"dog/more": 60})
    check_splits(planned(kind="image_folder", train="data").values(), print)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {
                "methods.darts": {"searcher": {"kind": "swap", "batch_size": 64}},
                "datasets.digits.max_per_class": 20,
            },
            r"searcher\.batch_size: 64 is more than the \d\d images of the weights' half",
        ),
        ({"retrain.accumulate": 40}, r"retrain\.accumulate: 40 batches of 16 .* at most 9"),
        # in the search one node of 2 channels, doubled twice
        ({"methods.darts.objective.head": ETF}, r"objective: head etf .*\b8 for 10 classes; raise .*cosine"),
        (
            {"retrain.objective": {"kind": "plain", "head": ETF}},
            r"retrain\.objective: head etf .*\b8 for 10 cl",
        ),
    ],
    ids=["images to score", "accumulated batches", "searched features", "retrained features"],
)
def test_more_images_or_features_than_there_are_is_refused_before_any_job_runs(changes, message):
    params = yaml.safe_load(yaml.safe_dump(TINY))
    params["matrix"]["methods"] = ["darts"]
    Path("params.yaml").write_text(yaml.safe_dump(params))
    preflight.check_counts(plan.plan(load(Path("params.yaml"))))
    edit(Path("params.yaml"), **changes)
    with pytest.raises(UserError, match=rf"^methods\.darts: {message}"):
        preflight.check_counts(plan.plan(load(Path("params.yaml"))))


def test_the_alphas_first_step_may_be_the_searchs_last_and_not_later():
    """Of 159 images 81 train the weights: 5 steps of 16 in each of 3 epochs."""
    Path("params.yaml").write_text(yaml.safe_dump(TINY))
    searcher = {"kind": "zo_darts", "steps": 15}
    edit(
        Path("params.yaml"), **{"methods.darts.searcher": searcher, "matrix.methods": ["darts"], "report": {}}
    )
    preflight.check_counts(plan.plan(load(Path("params.yaml"))))
    edit(Path("params.yaml"), **{"methods.darts.searcher.steps": 16})
    with pytest.raises(UserError, match=r"^methods\.darts: searcher\.steps: .* 16 steps .* has 15: "):
        preflight.check_counts(plan.plan(load(Path("params.yaml"))))


def test_the_features_that_are_counted_are_those_of_the_networks():
    bilateral, etf = {"kind": "bilateral"}, {"kind": "plain", "head": ETF}
    base = yaml.safe_load(yaml.safe_dump(TINY)) | {"report": {}}
    base["matrix"]["methods"] = ["m"]
    base["retrain"] |= {"channels": 4, "auxiliary_weight": 0.0}
    cases = {  # features by stage, as the networks of these sizes have them: nodes · channels · 4 · branches
        "branches": ({"searcher": {"kind": "darts"}, "objective": bilateral}, {"search": 16, "retrain": 16}),
        "published": ({"searcher": {"kind": "fixed", "genotype": "DARTS_V2"}}, {"retrain": 64}),
        "resnet": ({"searcher": {"kind": "resnet", "width": 6}}, {"retrain": 24}),
        "supernet": (
            {
                "searcher": {"kind": "darts"},
                "objective": etf,
                "search": {"nodes": 3},
                "retrain": {"start": "supernet", "channels": 2, "objective": etf, "drop_path": 0.0},
            },
            {"search": 24, "retrain": 24},
        ),
        "nasbench201": (
            {
                "searcher": {"kind": "darts"},
                "search": {"space": {"kind": "nasbench201"}, "nodes": 4},
                "retrain": {"drop_path": 0.0},
            },
            {"search": 8, "retrain": 16},
        ),
    }
    for name, (method, expected) in cases.items():
        jobs = plan.plan(Params.model_validate(base | {"methods": {"m": method}}))
        makers = {path: job for job in jobs for path in job.outputs}
        found = {
            job.stage: preflight.features(parse(job.stage, job.params), preflight._nodes(job, makers))
            for job in jobs
            if job.stage in expected
        }
        assert found == expected, name


def test_classes_without_features_are_refused_where_the_images_are_missing_or_a_head_is_auxiliary(tmp_path):
    frame, given = {"kind": "plain", "head": ETF}, {"kind": "fixed", "genotype": "DARTS_V2"}
    params = yaml.safe_load(yaml.safe_dump(TINY)) | {"report": {}}
    params["matrix"]["methods"] = ["m"]
    source = {"kind": "torchvision", "name": "cifar100", "root": str(tmp_path)}
    params["datasets"]["digits"] |= {"source": source}
    narrow = {"searcher": {"kind": "resnet", "width": 4}, "retrain": {"objective": frame}}
    jobs = plan.plan(Params.model_validate(params | {"methods": {"m": narrow}}))
    with pytest.raises(UserError, match=r"^methods\.m: retrain\.objective: head etf .*\b16 for 100 classes"):
        preflight.check_counts(jobs)
    wide = {"searcher": given, "retrain": {"objective": frame, "channels": 96, "auxiliary_weight": 0.4}}
    jobs = plan.plan(Params.model_validate(params | {"methods": {"m": wide}}))
    [job] = [job for job in jobs if job.stage == "retrain"]
    preflight.check_counts(jobs)
    with pytest.raises(UserError, match=r"768 for 1000 classes; set auxiliary_weight to 0"):
        preflight._check_frame(EtfHead(), parse("retrain", job.params), 1000, 4)


def test_a_largest_count_of_a_natural_tail_that_no_class_exceeds_is_refused_by_the_field_as_written():
    write_images({"cat": 30, "dog": 60})

    def check(most, **changes):
        planned(kind="image_folder", train="data")
        own = {"imbalance": {"kind": "natural"}, "max_per_class": most, "test_per_class": 5}
        edited = {f"datasets.digits.{name}": value for name, value in own.items()}
        edit(Path("params.yaml"), **edited | changes)
        check_splits(plan.plan(load(Path("params.yaml"))), print)

    check(54)  # of the 55 dogs that the test leaves
    for most, seeds in ((55, []), (400, [0, 3])):
        with pytest.raises(UserError, match=rf"^datasets\.digits: max_per_class: {most} leaves out no image"):
            check(most, **{"matrix.split_seeds": seeds})
    with pytest.raises(UserError, match=r"^datasets\.digits: class cat: 25 images "):  # of draw 3, too
        check(
            40, **{"datasets.digits.imbalance": {"kind": "step", "factor": 1}, "matrix.split_seeds": [3, 0]}
        )


def test_a_split_that_exists_or_whose_data_are_elsewhere_is_not_drawn(monkeypatch):
    write_images({"cat": 1, "dog": 60})
    jobs = planned(kind="image_folder", train="data")
    with pytest.raises(UserError, match=r"^datasets\.digits: .*\bcat: 1 .*\b5 .*\btest_per_class"):
        check_splits(jobs.values(), print)
    for path in jobs["split"].outputs:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    check_splits(jobs.values(), print)
    check_splits(planned(kind="torchvision", name="cifar10", root="nowhere").values(), print)


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
        (SLURM | {"SLURM_STEP_GPUS": "2,3", "CUDA_VISIBLE_DEVICES": "1"}, 1),  # one of them was taken
        (SLURM | {"SLURM_JOB_GPUS": "0", "CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 1),  # a step has lost it
        (SLURM | {"CUDA_VISIBLE_DEVICES": "1"}, 1),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "MIG-0c757cd7-e942-5726-a0b8-0e8fb7067135"}, 1),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0),  # as SLURM hides GPUs that were not requested
        (SLURM | {"CUDA_VISIBLE_DEVICES": ""}, 0),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0, 1,-1,2"}, 2),  # CUDA reads no further
        (SLURM | {"SLURM_STEP_GPUS": "", "CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0),
    ],
)
def test_allocated_gpus_are_counted_from_slurms_variables(environment, count):
    assert given_gpus(environment) == count


@pytest.fixture
def gpus(monkeypatch):
    """Have PyTorch see GPUs of 80 GiB, with this much free on each."""

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
        ({}, (1,), "cuda"),  # a desktop's, not allocated by SLURM
        (SLURM, (), "cpu"),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, (), "cpu"),
        (ONE, (80,), "cuda"),
        (TWO, (80, 40), "cuda"),
        ({"HLRS_DEVICE": "cpu"}, (80,), "cpu"),
        (ONE | {"HLRS_DEVICE": "cpu"}, (), "cpu"),
    ],
)
def test_the_gpu_is_used_if_there_is_one(gpus, environment, free, device):
    gpus(*free)
    assert choose(environment) == device


def test_an_allocated_gpu_that_torch_does_not_see_is_an_error(gpus):
    gpus()
    with pytest.raises(UserError, match=r"\b1 GPU on n7\b.*\b0\b.*`hlrs doctor`"):
        choose(ONE)
    gpus(80)
    with pytest.raises(UserError, match=r"\b2 GPUs on n7\b.*\b1\b.*`hlrs doctor`"):
        choose(TWO)


def test_a_gpu_that_others_use_is_named(gpus):
    gpus(80, 39)
    with pytest.raises(UserError) as refused:
        choose(TWO)
    for fact in ("GPU 1 on n7", "41.9 of 85.9 GB", "`nvidia-smi`"):
        assert fact in str(refused.value)


def test_one_of_several_gpus_may_have_been_left_to_several_jobs(gpus):
    """In an allocation in which snakemake itself starts more jobs than it has GPUs."""
    gpus(10)
    taken = SLURM | {"SLURM_JOB_GPUS": "0,1", "CUDA_VISIBLE_DEVICES": "1"}
    assert choose(taken) == "cuda"
    with pytest.raises(UserError, match="another process"):
        choose(taken | {"SLURM_JOB_GPUS": "1"})


@pytest.mark.parametrize("name", ["SLURM_SHARDS_ON_NODE", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"])
def test_a_part_of_a_gpu_may_lie_beside_others(gpus, name):
    gpus(10)
    assert choose(ONE | {name: "1"}) == "cuda"


def test_an_unknown_device_is_refused():
    with pytest.raises(UserError, match=r"^HLRS_DEVICE=cuda:1: .*\bcpu\b"):
        choose({"HLRS_DEVICE": "cuda:1"})
