"""LDMLR's published ResNet-32, its classifier trained by each of ours: the table of docs/results/ldmlr.md.

    python benchmarks/ldmlr.py --checkout FOLDER --out FILE.csv [--data cifar10] [--seeds 5] [--methods NAME…]

FOLDER is a checkout of github.com/AlvinHan123/LDMLR, or holds these parts of it:

    pretrained_models/resnet32_cifar{10,100}_lt001.checkpoint
    data/CIFAR{10,100}_LT001/, data/TEST_CIFAR{10,100}/    PNG images, one folder per class

Runs the stages in the working folder, so call it in an empty one; called again there, it resumes.
tests/longtail/test_published_checkpoints.py compares the checkpoint's own accuracy with the published one.
"""

import argparse
import csv
import re
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from hlrs.artifacts.files import read_json
from hlrs.artifacts.jobs import PROVENANCE, Job
from hlrs.artifacts.tensors import write_tensors
from hlrs.config.params import Params
from hlrs.pipeline.plan import freeze, plan
from hlrs.stages import evaluate, retrain, split
from hlrs.stages.images import SplitImages

MEAN, STD = ([x / 255 for x in of] for of in ([125.3, 123.0, 113.9], [63.0, 62.1, 66.7]))
FACTS = {"preprocessing": {"mean": MEAN, "std": STD}}  # in their dataloader/Custom_Dataloader.py
PARTS = {"conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4"}  # of a block; the stem has the first two
BASE = "checkpoint"
CLASSIFIERS = {
    "continued": {"kind": "continued"},
    "class_balanced": {"kind": "continued", "sampler": {"kind": "class_balanced"}},
    "gaussian_fifth": {"kind": "gaussian", "fill": "ratio"},
    "gaussian_filled": {"kind": "gaussian"},
    "diffused_fifth": {"kind": "diffused", "fill": "ratio"},
    "diffused_filled": {"kind": "diffused"},
}
IMBALANCED = (BASE, "continued", "gaussian_fifth", "diffused_fifth")  # so that adjusting them makes sense
COLUMNS = ("data", "method", "seed", "top1", "many", "medium", "few", "last3", "adjusted_top1")


def renamed(name: str) -> str:
    """Return our name of a tensor of their resnet_cifar.py, whose three stages have five blocks each."""
    layer = re.fullmatch(r"layer(\d)\.(\d)\.(\w+)\.(\w+)", name)
    if layer:
        stage, block, part, kind = layer.groups()
        return f"shared.{5 * (int(stage) - 1) + int(block)}.residual.{PARTS[part]}.{kind}"
    part, kind = name.split(".")
    return f"classifier.{kind}" if part == "fc" else f"stem.{PARTS[part]}.{kind}"


def weights_of(checkout: Path, data: str) -> dict[str, Tensor]:
    """Read a checkpoint; return its tensors by our names."""
    path = checkout / "pretrained_models" / f"resnet32_{data}_lt001.checkpoint"
    weights = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]["model"]
    return {renamed(theirs): tensor for theirs, tensor in weights.items()}


def params_of(checkout: Path, data: str, classifiers: list[str], seeds: int) -> Params:
    """Return parameters whose method BASE is the checkpoint, and the others train its classifier."""
    folders = {
        "train": str(checkout / "data" / f"{data.upper()}_LT001"),
        "test": str(checkout / "data" / f"TEST_{data.upper()}"),
    }
    methods: dict[str, dict[str, Any]] = {BASE: {"searcher": {"kind": "resnet"}}}
    for name in classifiers:
        recipe = {"epochs": 0, "classifier": CLASSIFIERS[name]}
        methods[name] = {"searcher": {"kind": "trained", "method": BASE}, "retrain": recipe}
    for name in methods.keys() & set(IMBALANCED):
        methods[name]["evaluate"] = {"adjust": 1.0}
    source = {"kind": "image_folder"} | folders
    return Params.model_validate(
        {
            "matrix": {
                "datasets": [data],
                "methods": list(methods),
                "seeds": [0],
                "retrain_seeds": list(range(seeds)),
            },
            "datasets": {data: {"source": source, "imbalance": {"kind": "natural"}, "image_size": 32}},
            "methods": methods,
            "search": {},
            "retrain": {"batch_size": 1024},  # theirs; it sets how many steps a classifier takes
            "evaluate": {},
            "report": {},
        }
    )


def seed_of(job: Job) -> int:
    """Return the seed of a run's retraining."""
    return int(job.run.rpartition("-")[2]) if "-" in job.run else 0


def execute(job: Job, weights: dict[str, Tensor]) -> None:
    """Run a job, unless it did before; instead of training BASE, write the checkpoint's weights."""
    if all(Path(path).exists() for path in job.outputs if not path.endswith(PROVENANCE)):
        return
    if job.stage == "split":
        split.run(job)
    elif job.stage == "retrain" and f"/{BASE}/" in job.run:
        path = job.output("weights.safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, weights, FACTS)
    elif job.stage == "retrain":
        retrain.run(job)
    elif job.stage == "evaluate":
        evaluate.run(job)


def row_of(job: Job) -> dict[str, Any]:
    """Return an evaluation as a row of COLUMNS."""
    metrics = read_json(job.output("metrics.json"))
    data, method, _ = job.run.split("/")
    own = {"data": data, "method": method, "seed": seed_of(job), "last3": mean(metrics["per_class"][-3:])}
    return own | {name: metrics.get(name) for name in COLUMNS if name not in own}


def main() -> None:
    """Run every stage, and write the table; jobs that ran before do not run again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", choices=("cifar10", "cifar100"), default="cifar10")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="*", choices=CLASSIFIERS, default=list(CLASSIFIERS))
    options = parser.parse_args()

    # the checkpoints were trained on images normalised by their authors' statistics
    own = partial(SplitImages, statistics=(MEAN, STD))
    retrain.SplitImages = own  # type: ignore[misc,assignment]
    weights = weights_of(options.checkout, options.data)
    jobs = plan(params_of(options.checkout.absolute(), options.data, options.methods, options.seeds))
    freeze(jobs)
    with options.out.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for job in sorted(jobs, key=seed_of):  # the table is useful after each seed
            if f"/{BASE}/" in job.run and job.stage == "evaluate" and seed_of(job):
                continue  # the same network
            execute(job, weights)
            if job.stage == "evaluate":
                table.writerow(row_of(job))
                file.flush()


if __name__ == "__main__":
    main()
