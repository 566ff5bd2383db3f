"""What a retraining spends its time on beside its steps: start-up, checkpoints, input.

    python benchmarks/retraining.py DATASET/METHOD/SEED

in a folder with params.yaml whose split and genotype are there (`snakemake --until extract`) and whose
retraining is not. It retrains by the workflow's own job, and writes results/retraining-cpu.json beside this
file, or retraining-cuda.json, by run. On a GPU, which works while the next input is queued, the input's share
is that of queueing it.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import torch

from hlrs.artifacts.jobs import PROVENANCE
from hlrs.artifacts.records import Record
from hlrs.config.params import load
from hlrs.data.batches import Batches
from hlrs.pipeline.execute import execute
from hlrs.pipeline.plan import freeze, plan
from hlrs.training import loop


class Timed:
    """A function whose calls' seconds are added up."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds, self.calls = function, 0.0, 0

    def __call__(self, *arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return self.function(*arguments)
        finally:
            self.seconds += time.perf_counter() - began
            self.calls += 1


def shares(run: str) -> dict[str, Any]:
    """Retrain a run; return its start-up in seconds, and the shares of its training's time."""
    jobs = plan(load(Path("params.yaml")))
    freeze(jobs)
    [job] = [job for job in jobs if (job.stage, job.run) == ("retrain", run)]
    save, batch = Timed(loop.save), Timed(Batches.__call__)
    loop.save = save
    Batches.__call__ = lambda batches, step: batch(batches, step)  # a method, which an object would not be
    execute(job)
    record = Record.read(job.output(PROVENANCE))
    return {
        "host": measure.host(torch.device(record.device), job.params["retrain"]["threads"]),
        "recipe": job.params["retrain"],
        "startup": record.startup,
        "training_seconds": record.training_seconds,
        "epochs": len(record.throughput or []),
        "checkpoints": save.calls,
        "checkpoint_share": save.seconds / record.training_seconds,
        "input_share": batch.seconds / record.training_seconds,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="DATASET/METHOD/SEED")
    run = parser.parse_args().run
    found = shares(run)
    print(json.dumps(found, indent=1))
    name = f"retraining-{'cuda' if found['host']['gpu'] else 'cpu'}"
    path = measure.RESULTS / f"{name}.json"
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    measure.record(name, earlier | {run: found})


if __name__ == "__main__":
    main()
