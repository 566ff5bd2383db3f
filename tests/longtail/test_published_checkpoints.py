"""Published checkpoints through our evaluation: LDMLR's ResNet-32 on CIFAR-LT of factor 100.

Skipped unless LDMLR names a checkout of github.com/AlvinHan123/LDMLR, or a folder with these parts of it:

    pretrained_models/resnet32_cifar{10,100}_lt001.checkpoint
    data/CIFAR{10,100}_LT001/, data/TEST_CIFAR{10,100}/    PNG images, one folder per class

    LDMLR=FOLDER pytest tests/longtail/test_published_checkpoints.py
"""

import os
import re
from pathlib import Path

import pytest
import torch

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
FACTS = {  # of both data sets, in their dataloader/Custom_Dataloader.py
    "channels": 3,
    "mean": [125.3 / 255, 123.0 / 255, 113.9 / 255],
    "std": [63.0 / 255, 62.1 / 255, 66.7 / 255],
}
PARTS = {"conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4"}  # of a block; the stem has the first two


def renamed(name: str) -> str:
    """Return our name of a tensor of their resnet_cifar.py, whose three stages have five blocks each."""
    layer = re.fullmatch(r"layer(\d)\.(\d)\.(\w+)\.(\w+)", name)
    if layer:
        stage, block, part, kind = layer.groups()
        return f"shared.{5 * (int(stage) - 1) + int(block)}.residual.{PARTS[part]}.{kind}"
    part, kind = name.split(".")
    return f"classifier.{kind}" if part == "fc" else f"stem.{PARTS[part]}.{kind}"


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
    path = f"{FOLDER}/pretrained_models/resnet32_{name}_lt001.checkpoint"
    weights = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]["model"]
    ours = {renamed(theirs): tensor for theirs, tensor in weights.items()}
    write_tensors(Path(by_stage["evaluate"].inputs["weights"]), ours, FACTS)
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
