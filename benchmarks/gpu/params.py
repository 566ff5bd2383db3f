"""Write the params.yaml of a GPU run: workflow/experiments/cifar10_lt.yaml with Parquet files and DARTS_V2.

    python benchmarks/gpu/params.py DATA TARGET [--tiny]

DATA holds train.parquet and test.parquet. `--tiny` shrinks everything for a rehearsal on a CPU.
"""

import argparse
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

EXPERIMENT = Path(__file__).resolve().parents[2] / "workflow/experiments/cifar10_lt.yaml"
METHODS = ["resnet32", "darts", "darts_bbn", "darts_v2"]


def make_params(data: Path, tiny: bool) -> dict[str, Any]:
    """Return the sections of params.yaml, with absolute paths of the data."""
    params: dict[str, Any] = YAML(typ="safe", pure=True).load(EXPERIMENT.read_text())
    files = {part: [str(data.resolve() / f"{part}.parquet")] for part in ("train", "test")}
    params["datasets"]["cifar10_lt"]["source"] = {"kind": "parquet", **files}
    params["methods"]["darts_v2"] = {"searcher": {"kind": "fixed", "genotype": "DARTS_V2"}}
    params["matrix"] = {"datasets": ["cifar10_lt"], "methods": METHODS, "seeds": [0]}
    if tiny:
        _shrink(params)
    return params


def _shrink(params: dict[str, Any]) -> None:
    params["search"] |= {"epochs": 2, "batch_size": 8, "channels": 2, "cells": 3, "nodes": 1}
    params["datasets"]["cifar10_lt"] |= {
        "max_per_class": 20,
        "imbalance": {"kind": "exponential", "factor": 5},
    }
    params["methods"]["resnet32"]["searcher"]["depth"] = 20
    params["methods"]["resnet32"]["retrain"] |= {"epochs": 10, "batch_size": 16}
    params["retrain"] |= {"batch_size": 8, "channels": 4, "cells": 3}


def write_params(params: dict[str, Any], target: Path) -> None:
    """Write sections as YAML 1.2."""
    with target.open("w") as file:
        YAML(typ="safe", pure=True).dump(params, file)


def main() -> None:
    """Parse the arguments and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    write_params(make_params(arguments.data, arguments.tiny), arguments.target)
    print(f"{arguments.target}: {', '.join(METHODS)}")


if __name__ == "__main__":
    main()
