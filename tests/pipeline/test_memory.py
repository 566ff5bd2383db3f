"""The memory that a training needs: estimates near measured peaks, and one line before what is too large."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from snakemake.cli import get_argument_parser

from hlrs.artifacts.files import write_text
from hlrs.config.jobs import RetrainJob, SearchJob
from hlrs.config.params import Params, load
from hlrs.errors import UserError
from hlrs.pipeline import memory, plan
from hlrs.pipeline.gpus import Gpu
from hlrs.pipeline.memory import LARGEST_GPU, Pictures, Room, of_retraining, of_search, room
from hlrs.pipeline.preflight import check_splits, check_trainings
from tests.conftest import TINY, edit

ROOT = Path(__file__).parents[2]
SHIPPED = [ROOT / "params.yaml", *sorted((ROOT / "workflow" / "experiments").glob("*.yaml"))]
NO_CGROUPS = Path("/nowhere")
PLENTY = Room(LARGEST_GPU, "the largest GPU")

MEASURE = r"""
import re, torch
from torch.nn import functional as F
from hlrs.config.methods import Darts, PcDarts
from hlrs.config.spaces import DartsSpace, ImplantSpace, NasBench201Space
from hlrs.nas.derived import DerivedNetwork
from hlrs.nas.genotype import PUBLISHED, ImplantGenotype, nasbench201_from_string
from hlrs.nas.implant import ImplantNetwork, ImplantSupernet
from hlrs.nas.nasbench201 import NasBench201Network, NasBench201Supernet
from hlrs.nas.network import initialize
from hlrs.nas.resnet import ResNet
from hlrs.nas.searchers.table import SEARCHERS
from hlrs.nas.supernet import DartsSupernet, initialize_alphas
from hlrs.training.device import prepare

def supernet(spec, **layout):
    network = DartsSupernet(DartsSpace(), SEARCHERS[type(spec)](spec), in_channels=3, classes=10, **layout)
    initialize_alphas(network, torch.Generator())
    return network

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"

def supernet201(**layout):
    searcher = SEARCHERS[Darts](Darts())
    network = NasBench201Supernet(NasBench201Space(), searcher, in_channels=3, classes=10, **layout)
    initialize_alphas(network, torch.Generator())
    return network

def implants(**layout):
    searcher = SEARCHERS[PcDarts](PcDarts())
    network = ImplantSupernet(ImplantSpace(), searcher, in_channels=3, classes=10, **layout)
    initialize_alphas(network, torch.Generator())
    return network

def peak():  # of this program; getrusage also counts the process that started it
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])

prepare(1)
network = {network}
initialize(network, torch.Generator())
before = peak()
F.cross_entropy(network(torch.randn(16, 3, 32, 32)), torch.arange(16) % 10).backward()
print(peak() - before)
"""


def peak(network: str) -> int:
    """Measure the bytes that one step on 16 colour images of 32×32 pixels takes in a process of its own."""
    program = MEASURE.replace("{network}", network)
    return int(subprocess.check_output([sys.executable, "-c", program], cwd=ROOT))


def jobs_of(raw: dict) -> list:
    return plan.plan(Params.model_validate(raw))


def params_of(stage: str, method: str = "darts", **sections):
    """The parameters of a job of the tiny params, with entries of some sections replaced."""
    raw = yaml.safe_load(yaml.safe_dump(TINY))
    for section, entries in sections.items():
        raw[section] |= entries
    model = {"search": SearchJob, "retrain": RetrainJob}[stage]
    job = next(job for job in jobs_of(raw) if (job.stage, job.run) == (stage, f"digits/{method}/0"))
    return model.model_validate(job.params)


OF_201 = {"space": {"kind": "nasbench201"}, "nodes": 4}
NO_HEAD = {"auxiliary_weight": 0.0, "drop_path": 0.0}
LAYOUT = {"batch_size": 16, "channels": 8, "cells": 4}
IMPLANTED = {
    "matrix": {"methods": ["darts", "hlrs", "base", "implant"]},
    "methods": {
        "base": {"searcher": {"kind": "resnet"}},
        "implant": {"searcher": {"kind": "implant", "method": "base", "warm_up": 0.4}},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "estimate"),
    [
        (
            "supernet(Darts(), nodes=3, channels=8, cells=4)",
            lambda: of_search(params_of("search", search=LAYOUT | {"nodes": 3}), Pictures(32)),
        ),
        (
            "supernet201(nodes=4, channels=8, cells=6)",
            lambda: of_search(
                params_of("search", search=LAYOUT | OF_201 | {"cells": 6}, retrain=NO_HEAD), Pictures(32)
            ),
        ),
        (
            "NasBench201Network(nasbench201_from_string(CELL), in_channels=3, classes=10, channels=16, "
            "cells=6)",
            lambda: of_retraining(
                params_of(
                    "retrain",
                    search=OF_201 | {"cells": 3},
                    retrain={"batch_size": 16, "channels": 16, "cells": 6} | NO_HEAD,
                ),
                4,
                Pictures(32),
            ),
        ),
        (
            "DerivedNetwork(PUBLISHED['DARTS_V2'], auxiliary=False, in_channels=3, classes=10, channels=16, "
            "cells=6)",
            lambda: of_retraining(
                params_of("retrain", retrain={"batch_size": 16, "channels": 16, "cells": 6}), 4, Pictures(32)
            ),
        ),
        (
            "ResNet(56, in_channels=3, classes=10)",
            lambda: of_retraining(
                params_of(
                    "retrain",
                    methods={"darts": {"searcher": {"kind": "resnet", "depth": 56}}},
                    retrain={"batch_size": 16},
                ),
                4,
                Pictures(32),
            ),
        ),
        (
            "implants(nodes=4, channels=16, cells=15)",
            lambda: of_search(
                params_of("search", "implant", search={"batch_size": 16, "nodes": 4}, **IMPLANTED),
                Pictures(32),
            ),
        ),
        (
            "ImplantNetwork(ImplantGenotype(PUBLISHED['DARTS_V2'].normal, [2, 3, 4, 5]), in_channels=3, "
            "classes=10, channels=16, cells=15)",
            lambda: of_retraining(
                params_of("retrain", "implant", retrain={"batch_size": 16}, **IMPLANTED), 4, Pictures(32)
            ),
        ),
    ],
    ids=[
        "supernet",
        "supernet of nasbench201",
        "network of nasbench201",
        "derived",
        "resnet",
        "implants",
        "implants of a genotype",
    ],
)
def test_the_estimate_is_within_its_factor_of_a_measured_peak(network, estimate):
    assert 1 / memory.UNSURE < estimate() / peak(network) < memory.UNSURE


def test_a_step_on_twice_the_batch_or_from_two_samplers_needs_twice_the_maps():
    small, large = (of_search(params_of("search", search={"batch_size": n}), Pictures(32)) for n in (64, 128))
    two = of_search(params_of("search", "hlrs", search={"batch_size": 64}), Pictures(32))
    assert large / small == pytest.approx(2, rel=0.02)
    assert two == pytest.approx(large, rel=0.02)


def test_moments_and_averages_need_memory_for_each_weight_and_bfloat16_halves_the_maps():
    def needed(**entries):
        recipe = {"channels": 8, "cells": 3, "batch_size": 16, "auxiliary_weight": 0.0} | entries
        return of_retraining(params_of("retrain", retrain=recipe), 2, Pictures(32))

    # two nodes of two edges with 2 c² weights each; cells of 8, 16 and 32 channels
    weights = 4 * 2 * (8**2 + 16**2 + 32**2)
    plain, adamw = needed(), needed(weights={"kind": "adamw", "lr": 0.001})
    assert adamw - plain == 4 * weights
    assert needed(ema=0.9) - plain == needed(lookahead=0.5) - plain == 4 * weights
    assert needed(swa=0.3) - plain == 4 * weights
    assert needed(ema=0.9, lookahead=0.5) - plain == 8 * weights
    of_weights = 4 * 4 * weights  # itself, gradient, momentum, scratch
    assert needed(precision="bfloat16") - of_weights == pytest.approx((plain - of_weights) / 2)


def test_views_of_an_image_need_maps_of_their_own():
    def needed(batch_size, kind):
        entries = {"objective": {"kind": kind}, "auxiliary_weight": 0.0, "batch_size": batch_size}
        return of_retraining(params_of("retrain", retrain=entries), 4, Pictures(32))

    assert needed(60, "proco") == needed(90, "glmc") == needed(180, "plain")


def test_a_resnet_of_four_times_the_width_needs_four_times_the_maps():
    narrow, wide = (
        of_retraining(
            params_of(
                "retrain",
                methods={"darts": {"searcher": {"kind": "resnet", "width": width}}},
                retrain={"batch_size": 128},
            ),
            4,
            Pictures(32),
        )
        for width in (16, 64)
    )
    # 16 numbers of four bytes per weight of ResNet-32's blocks: 18 weights per two channels of 5 blocks
    weights = [4 * 4 * 18 * 5 * 21 * width**2 for width in (16, 64)]  # 1 + 4 + 16
    assert (wide - weights[1]) / (narrow - weights[0]) == pytest.approx(4)


def test_recomputed_cells_and_streamed_images_are_not_counted():
    whole = of_search(params_of("search", search={"cells": 12}), Pictures(32))
    assert of_search(params_of("search", search={"cells": 12, "recompute": True}), Pictures(32)) < whole
    held = of_search(params_of("search"), Pictures(32, 100_000)) - of_search(
        params_of("search"), Pictures(32)
    )
    assert held == 100_000 * 3 * 32 * 32
    streamed = {"digits": TINY["datasets"]["digits"] | {"stream": {"above_mb": 300}}}  # fewer than 307 MB
    params = params_of("search", datasets=streamed)
    assert of_search(params, Pictures(32, 100_000)) == of_search(params, Pictures(32))


def test_imagenets_stem_leaves_the_cells_an_eighth_of_each_side():
    def needed(stem, size):
        digits = TINY["datasets"]["digits"] | {"stem": stem}
        recipe = {"batch_size": 16, "channels": 8, "cells": 3, "auxiliary_weight": 0.0}
        return of_retraining(
            params_of("retrain", datasets={"digits": digits}, retrain=recipe), 2, Pictures(size)
        )

    # 220 / 8 = 27.5 pixels, rounded up; besides, half a map of all pixels instead of nine, of four bytes
    stems = 4 * 16 * 8 * (0.5 * 220**2 - 9 * 28**2)
    assert needed("imagenet", 220) - needed("cifar", 28) == pytest.approx(stems)


def test_partial_channels_and_copies_of_the_weights_count_in_a_search():
    def needed(searcher, **search):
        methods = {"darts": {"searcher": searcher}}
        search = {"batch_size": 16, "channels": 8, "cells": 3, "nodes": 2} | search
        return of_search(params_of("search", methods=methods, search=search), Pictures(32))

    half, quarter = ({"kind": "pc_darts", "portion": portion} for portion in (2, 4))
    of_16_images = (needed(half, batch_size=32) - needed(half)) - (
        needed(quarter, batch_size=32) - needed(quarter)
    )
    # 5 edges of 16 maps in each of the cells, and once more in the largest
    cells = [8 * 32**2, 16 * 16**2, 32 * 8**2]
    assert of_16_images == 4 * 16 * 5 * 16 * (sum(cells) + max(cells)) * (1 / 2 - 1 / 4)
    # 5 edges of 6 c² + 102 c weights, copied for either side of each direction
    weights = sum(5 * (6 * c**2 + 102 * c) for c in (8, 16, 32))
    three, once = (needed({"kind": "zo_darts", "directions": n, "steps": 1}) for n in (3, 1))
    assert three - once == 4 * 4 * weights
    assert once - needed({"kind": "darts", "order": 1}) == 4 * 2 * weights


def test_a_retraining_of_the_supernet_needs_what_its_search_does():
    recipe = {"batch_size": 16, "channels": 8, "cells": 3}
    retrain = recipe | {"start": "supernet", "auxiliary_weight": 0.0, "drop_path": 0.0}
    sections = {"search": recipe | {"nodes": 2}, "retrain": retrain, "matrix": {"methods": ["darts"]}}
    needed = of_retraining(params_of("retrain", **sections), 2, Pictures(32))
    assert needed == of_search(params_of("search", **sections), Pictures(32))


def test_images_that_are_cropped_and_resized_are_never_held():
    cropped = {"augment": {"resized_crop": 0.2, "flip": True}, "image_size": 8}
    params = params_of("search", datasets={"digits": TINY["datasets"]["digits"] | cropped})
    assert of_search(params, Pictures(32, 100_000)) == of_search(params, Pictures(32))


# --- what a job may have ------------------------------------------------------------------------------


def snakemake(*profile, defaults=(), threads=(), dryrun=False):
    """Snakemake's settings as the Snakefile sees them, with what a profile sets of a search."""
    options = ["--set-resources", *(f"search:{each}" for each in profile)] if profile else []
    options += ["--default-resources", *defaults] if defaults else []
    options += ["--set-threads", *threads] if threads else []
    said = get_argument_parser().parse_args(options)
    return SimpleNamespace(
        output_settings=SimpleNamespace(dryrun=dryrun),
        resource_settings=SimpleNamespace(
            overwrite_resources=said.set_resources,
            default_resources=said.default_resources,
            overwrite_threads=said.set_threads,
        ),
    )


@pytest.mark.parametrize(
    ("profile", "megabytes"),
    [
        ([], 300_000),
        (["gpu=0"], 8000),
        (["gpu=0", "slurm_partition='cpu'", "runtime=60 * attempt"], 8000),
        (["gpu=0", "gres='shard:2'"], 300_000),
        (["gpu=0", "mem_mb=64000"], 64_000),
        (["gpu=0", "mem=64GB"], 64_000),
        (["gpu=0", "mem_mib=1000"], 1048),  # 1000 · 2^20 bytes, in whole MB
        (["gpu=0", "mem_mb=0"], 300_000),  # then the executor leaves it to the partition
        (["gpu=0", "mem_mb=4000 * attempt"], 300_000),
        (["gpu=int(attempt < 2)"], 300_000),
        (["gpu=0", "slurm_extra='--mem=64G'"], 300_000),
        (["gpu=0", "mem_mb_per_cpu=5000"], 20_000),  # of four cores
        (["gpu=0", "mem_mb_per_cpu=5000", "mem_mb=64000"], 20_000),
        (["gpu=0", "mem_mb_per_cpu=5000", "cpus_per_task=6"], 30_000),
        (["gpu=0", "mem_mb_per_cpu=5000", "cpus_per_task=threads"], 300_000),
        (["gpu=0", "mem_mb_per_cpu=5000 * attempt"], 300_000),
        (["gpu=0", "mem_mb_per_cpu=0"], 8000),
    ],
)
def test_a_job_in_a_queue_has_what_it_requests_or_an_unknown_gpu(profile, megabytes):
    found = room("search", 4, snakemake(*profile), queued=True)
    assert found.bytes == megabytes * 1e6
    assert ("mem_mb_per_cpu" in found.of) == (megabytes in (20_000, 30_000))


def test_what_a_profile_sets_for_all_rules_counts_where_the_rule_says_nothing():
    def megabytes(*defaults, threads=()):
        return room("search", 4, snakemake("gpu=0", defaults=defaults, threads=threads), True).bytes / 1e6

    assert megabytes("mem_mb=1000", "gpu=2") == 8000
    assert megabytes("mem_mb_per_cpu=5000") == 20_000
    assert megabytes("mem_mb_per_cpu=5000", threads=["search=3"]) == 15_000
    assert megabytes("gres='gpu:1'") == 300_000


def test_after_a_dry_run_jobs_may_run_elsewhere():
    assert room("search", 1, snakemake(dryrun=True), queued=False).bytes == LARGEST_GPU


def test_a_job_on_this_machine_has_its_gpu_or_its_memory(monkeypatch):
    monkeypatch.setattr("hlrs.pipeline.memory._gpu_here", lambda environment: 0.0)
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1_000_000}.__getitem__)
    assert memory.main_memory({}, NO_CGROUPS) == Room(4_096_000_000, "this machine")
    monkeypatch.setattr("hlrs.pipeline.memory.main_memory", lambda environment: Room(1e9, "whatever bounds"))
    assert room("search", 1, snakemake(), queued=False) == Room(1e9, "whatever bounds")
    monkeypatch.setattr("hlrs.pipeline.memory._gpu_here", lambda environment: 8e10)
    assert room("search", 1, snakemake(), queued=False) == Room(8e10, "this machine's GPU")


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        # v2: the limit may be on the group itself, or on one around it
        ("0::/user.slice/session-3.scope", {"user.slice/session-3.scope/memory.max": "2000000000"}, 2e9),
        (
            "0::/slurm/job_7/step_0",
            {
                "slurm/job_7/step_0/memory.max": "max",
                "slurm/job_7/memory.max": "1073741824",
                "slurm/memory.max": "3000000000",
            },
            1_073_741_824,
        ),
        ("0::/", {"memory.max": "500000000"}, 5e8),  # in a container with a namespace of its own
        ("0::/a", {"b/memory.max": "500000000"}, None),
        ("0::/a", {"a/memory.max": "max"}, None),
        # v1: a hierarchy per controller; without a limit, the largest multiple of a page below 2^63
        ("9:cpu:/c\n4:memory:/m\n0::/", {"memory/m/memory.limit_in_bytes": "700000000"}, 7e8),
        ("4:hugetlb,memory:/docker/1", {"memory/memory.limit_in_bytes": "700000000"}, 7e8),
        ("4:memory:/m", {"memory/m/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("9:cpu:/c", {"memory/c/memory.limit_in_bytes": "700000000"}, None),
    ],
)
def test_a_cgroup_bounds_what_a_job_on_this_machine_may_have(monkeypatch, tmp_path, own, files, expected):
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1_000_000}.__getitem__)
    write_text(tmp_path / "proc/self/cgroup", own + "\n")
    for name, text in files.items():
        write_text(tmp_path / "sys/fs/cgroup" / name, text + "\n")
    machine = Room(4_096_000_000, "this machine")
    group = Room(expected, "this process's cgroup") if expected else machine
    assert memory.main_memory({}, tmp_path) == group


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_MEM_PER_NODE": "2000"}, 2_097_152_000),  # MiB
        ({"SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_ON_NODE": "3"}, 1_572_864_000),
        ({"SLURM_MEM_PER_NODE": "0"}, None),  # --mem=0: the node's
        ({"SLURM_MEM_PER_CPU": "0", "SLURM_CPUS_ON_NODE": "3"}, None),
        ({"SLURM_MEM_PER_CPU": "500"}, None),
        ({"SLURM_MEM_PER_NODE": "2G"}, None),
        ({"SLURM_MEM_PER_NODE": "9000"}, None),  # more than the machine has
        ({}, None),
    ],
)
def test_an_allocation_bounds_what_a_job_on_this_machine_may_have(monkeypatch, environment, expected):
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1_000_000}.__getitem__)
    machine = Room(4_096_000_000, "this machine")
    allocation = Room(expected, "this SLURM allocation") if expected else machine
    assert memory.main_memory({"SLURM_JOB_ID": "7", **environment}, NO_CGROUPS) == allocation
    assert memory.main_memory(environment, NO_CGROUPS) == machine  # left over in the shell of an ended job


def test_a_gpu_that_the_environment_leaves_out_is_not_asked_for(monkeypatch):
    listing = [Gpu("0", "GPU-a", 0, 81559 * 2**20), Gpu("1", "GPU-b", 0, 40960 * 2**20)]
    monkeypatch.setattr("hlrs.pipeline.memory.listed", lambda: listing)
    monkeypatch.setattr("hlrs.pipeline.gpus.listed", lambda: listing)
    assert memory._gpu_here({}) == memory._gpu_here({"CUDA_VISIBLE_DEVICES": "1"}) == 81559 * 2**20
    assert memory._gpu_here({"HLRS_DEVICE": "cpu"}) == memory._gpu_here({"CUDA_VISIBLE_DEVICES": ""}) == 0


# --- before a job -------------------------------------------------------------------------------------


def test_a_search_that_cannot_fit_is_refused_with_both_numbers(workspace):
    edit(workspace / "params.yaml", **{"search.batch_size": 4096, "search.channels": 1024})
    jobs = plan.plan(load(workspace / "params.yaml"))
    with pytest.raises(UserError) as refused:
        check_trainings(jobs, check_splits(jobs, print), lambda job: Room(8e9, "the job (mem_mb)"))
    line = str(refused.value)
    assert line.startswith("search of digits/darts/0: needs about ")
    assert "the job (mem_mb) has 8.0 GB; lower search.batch_size (4096), channels (1024)" in line
    resnet = {"matrix.methods": ["wide"], "report": {}}
    resnet["methods.wide"] = {"searcher": {"kind": "resnet", "depth": 20, "width": 4096}}
    edit(workspace / "params.yaml", **resnet)
    jobs = plan.plan(load(workspace / "params.yaml"))
    with pytest.raises(UserError, match=r"searcher\.width \(4096\), searcher\.depth \(20\)"):
        check_trainings(jobs, check_splits(jobs, print), lambda job: Room(8e9, "the job (mem_mb)"))


def test_a_training_is_refused_above_twice_its_room_unless_its_result_is_there(workspace):
    """The estimate of the retraining, which holds the 1,797 images less 50 for tests, beside its steps."""
    edit(workspace / "params.yaml", **{"matrix.methods": ["darts"], "report": {}})
    jobs = plan.plan(load(workspace / "params.yaml"))
    opened = check_splits(jobs, print)
    by_stage = {job.stage: job for job in jobs}
    images = len(opened["digits"].train_labels)
    params = RetrainJob.model_validate(by_stage["retrain"].params)
    needed = of_retraining(params, 1, Pictures(8, images))
    assert needed - of_retraining(params, 1, Pictures(8)) == 3 * 64 * images > 0

    def check(share):
        enough = Room(share * needed, "this machine")
        check_trainings(jobs, opened, lambda job: enough if job.stage == "retrain" else PLENTY)

    check(0.501)
    with pytest.raises(UserError, match=r"^retrain of digits/darts/0: needs about"):
        check(0.499)
    for name in by_stage["retrain"].outputs:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    check(0.499)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_shipped_experiments_fit_a_gpu_of_16_gb_and_are_checked_at_once(path, tmp_path, monkeypatch):
    monkeypatch.setattr("hlrs.pipeline.plan.content_digest", lambda source: "0" * 64)  # the data are not here
    monkeypatch.chdir(tmp_path)
    params = load(path)
    given = [getattr(method.searcher, "genotype", "") for method in params.methods.values()]
    cells = [genotype for genotype in given if genotype.startswith("|")]
    Path("data").mkdir()
    rows = [f"{cell},10\n" for cell in [*cells, "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"]]
    Path("data/nasbench201.csv").write_text("".join(["cell,cifar10\n", *rows]))
    jobs = plan.plan(params)
    started = time.process_time()
    check_trainings(jobs, {}, lambda job: Room(16e9, "a GPU of 16 GB"))
    assert time.process_time() - started < 0.3


def test_a_cutout_is_compared_with_images_whose_size_only_the_file_knows(workspace):
    arrays = {f"{part}_images": np.zeros((30, 8, 12), np.uint8) for part in ("train", "test")}
    labels = {f"{part}_labels": np.arange(30)[:, None] % 3 for part in ("train", "test")}
    np.savez("tiny.npz", **arrays, **labels)
    raw = yaml.safe_load((workspace / "params.yaml").read_text())
    raw["datasets"]["digits"] = {
        "source": {"kind": "npz", "file": "tiny.npz"},
        "imbalance": {"kind": "natural"},
        "augment": {"crop_padding": 1},
    }
    check_trainings(jobs_of(raw), check_splits(jobs_of(raw), print), lambda job: PLENTY)
    raw["retrain"]["cutout"] = 10  # more than the height, not than the width
    with pytest.raises(UserError, match=r"^retrain\.cutout: 10 is larger than the images"):
        check_trainings(jobs_of(raw), check_splits(jobs_of(raw), print), lambda job: PLENTY)
    raw["retrain"]["cutout"] = 16
    jobs = jobs_of(raw)
    with pytest.raises(
        UserError, match=r"^retrain\.cutout: 16 is larger than the images of datasets\.digits, 8"
    ):
        check_trainings(jobs, check_splits(jobs, print), lambda job: PLENTY)
    for job in jobs:
        if job.stage == "split":  # a split that is there already
            for name in job.outputs:
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                Path(name).touch()
    assert check_splits(jobs, print) == {}
    with pytest.raises(UserError, match=r"^retrain\.cutout: 16"):
        check_trainings(jobs, {}, lambda job: PLENTY)
