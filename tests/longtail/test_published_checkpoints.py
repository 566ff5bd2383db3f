"""Published checkpoints through our evaluation: LDMLR's ResNet-32 on CIFAR-LT of factor 100.

Skipped unless LDMLR names a checkout of github.com/AlvinHan123/LDMLR, or a folder with these parts of it:

    pretrained_models/resnet32_cifar{10,100}_lt001.checkpoint
    data/CIFAR{10,100}_LT001/, data/TEST_CIFAR{10,100}/    PNG images, one folder per class

    LDMLR=FOLDER pytest tests/longtail/test_published_checkpoints.py
"""

import os
from pathlib import Path

import pytest

from benchmarks.ldmlr import FACTS, weights_of
from hlrs.artifacts.files import read_json
from hlrs.artifacts.tensors import write_tensors
from hlrs.config.params import Params
from hlrs.pipeline.plan import plan
from hlrs.stages import evaluate, split

FOLDER = os.environ.get("LDMLR")
SHARES = {  # plain and adjusted, of their network and their label shift, run on these files
    "cifar10": (0.7249, 0.8086),
    "cifar100": (0.4128, 0.4859),
}
README = {"cifar10": (0.7246, 0.8088), "cifar100": (0.4128, 0.4858)}  # its rows "CE" and "Label shift"


def evaluated(name: str) -> dict:
    """Evaluate a checkpoint on the folder's test images, adjusted by the counts of its training images."""
    source = {
        "kind": "image_folder",
        "train": f"{FOLDER}/data/{name.upper()}_LT001",
        "test": f"{FOLDER}/data/TEST_{name.upper()}",
    }
    params = {
        "matrix": {"datasets": [name], "methods": ["resnet32"], "seeds": [0]},
        "datasets": {name: {"source": source, "imbalance": {"kind": "natural"}, "image_size": 32}},
        "methods": {"resnet32": {"searcher": {"kind": "resnet"}}},
        "search": {},
        "retrain": {},
        "evaluate": {"adjust": 1.0},
        "report": {},
    }
    by_stage = {job.stage: job for job in plan(Params.model_validate(params))}
    split.run(by_stage["split"])
    weights = weights_of(Path(FOLDER), name)
    write_tensors(Path(by_stage["evaluate"].inputs["weights"]), weights, FACTS)
    evaluate.run(by_stage["evaluate"])
    return read_json(by_stage["evaluate"].output("metrics.json"))


@pytest.mark.skipif(not FOLDER, reason="LDMLR names no folder of checkpoints")
@pytest.mark.parametrize("name", SHARES)
def test_a_published_checkpoint_has_its_accuracies_here(workspace, name):
    metrics = evaluated(name)
    counts = metrics["train_counts"]
    assert (len(counts), max(counts), min(counts)) == {
        "cifar10": (10, 5000, 50),
        "cifar100": (100, 500, 5),
    }[name]
    assert metrics["test_images"] == 10_000
    found = (metrics["top1"], metrics["adjusted_top1"])
    assert found == pytest.approx(SHARES[name], abs=1.5e-4)  # one image may round otherwise elsewhere
    assert found == pytest.approx(README[name], abs=3.5e-4)
