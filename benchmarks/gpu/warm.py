"""Compile the Triton kernels that the parts of run.sh need, in several processes (hlrs/pipeline/warm.py).

python benchmarks/gpu/warm.py [--processes N] [--sets search,unrolled] [--capability 90]
"""

import argparse
import os
import time
from typing import Any

from hlrs.config.jobs import SearchJob
from hlrs.pipeline.warm import capability_of_first_gpu, compile_ahead

PUBLISHED = {"channels": 16, "cells": 8, "nodes": 4}
TESTED = {"channels": 4, "cells": 3, "nodes": 1}  # tests/training/test_gpu.py
UNWATCHED = {"collapse": {"power_iterations": 0}}
SETS: dict[str, list[tuple[int, dict[str, Any]]]] = {  # the searches' order and recipe
    "search": [(1, PUBLISHED)],
    "unrolled": [(2, PUBLISHED | UNWATCHED)],
    "bfloat16": [(1, PUBLISHED | UNWATCHED | {"precision": "bfloat16"})],
    "tests": [(1, TESTED), (2, TESTED)],
}


def make_search(order: int, recipe: dict[str, Any]) -> SearchJob:
    """Make the parameters of a search; its images do not matter."""
    images = {"content": "", "source": {"kind": "digits"}, "image_size": 8, "stem": "cifar"}
    return SearchJob.model_validate(
        {
            "seed": 0,
            "images": images | {"augment": {}, "stream": {}},
            "searcher": {"kind": "darts", "order": order},
            "objective": {"kind": "plain"},
            "arch_lr": {"kind": "constant"},
            "search": recipe,
        }
    )


def main() -> None:
    """Compile, and print how many variants there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--sets", default="search,unrolled", help=f"of {', '.join(SETS)}, comma-separated")
    parser.add_argument("--capability", type=int, help="such as 90; by default, the first GPU's")
    arguments = parser.parse_args()
    began, target = time.monotonic(), arguments.capability or capability_of_first_gpu()
    searches = [make_search(*entry) for name in arguments.sets.split(",") for entry in SETS[name]]
    seen, compiled = compile_ahead(searches, arguments.processes, target)
    print(
        f"warm: {compiled} of {seen} variants for sm_{target} in {time.monotonic() - began:.1f} s, "
        f"{arguments.processes} processes"
    )


if __name__ == "__main__":
    main()
