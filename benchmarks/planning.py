"""Time planning: `snakemake -n` of growing matrices, `hlrs --help`, and an idle, finished checkout.

    python benchmarks/planning.py [--checkout FOLDER]

Prints a table and writes benchmarks/results/planning.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from hlrs.config.params import load
from hlrs.pipeline.environment import cpu_model, versions
from hlrs.pipeline.plan import freeze, plan

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks/results/planning.json"
SNAKEMAKE = (
    *("snakemake", "-n", "--quiet", "--snakefile", str(REPOSITORY / "Snakefile")),
    *("--workflow-profile", str(REPOSITORY / "profiles/default")),
)
COLUMNS = {  # name -> heading
    "runs": "runs",
    "jobs": "jobs",
    "plan_seconds": "plan s",
    "freeze_seconds": "freeze s",
    "first_seconds": "snakemake -n s",
    "again_seconds": "again s",
    "seconds_per_job": "s per job",
}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--runs", type=int, nargs="+", default=[125, 250, 500, 1000], help="sizes of the matrix"
    )
    parser.add_argument(
        "--checkout", type=Path, help="a folder in which the quickstart was run and recorded by DVC"
    )
    parser.add_argument("--plan", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plan:
        print(*plan_here())
        return
    print("  ".join(f"{heading:>14}" for heading in COLUMNS.values()))
    matrices = [show(matrix(runs)) for runs in arguments.runs]
    result = {"host": host(), "matrices": matrices, "hlrs_help_seconds": median("hlrs", "--help")}
    print(f"hlrs --help: {result['hlrs_help_seconds']:.2f} s")
    if arguments.checkout:
        result["finished"] = finished(arguments.checkout)
    else:
        print("snakemake -n and dvc status where all is done: skipped; --checkout FOLDER times them")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def matrix(runs: int) -> dict[str, Any]:
    """Time the plan of `runs` runs, writing its specs, and `snakemake -n` before and after that."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        YAML().dump(params(runs), folder / "params.yaml")
        first, again = (seconds(*SNAKEMAKE, folder=folder) for _ in range(2))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        YAML().dump(params(runs), folder / "params.yaml")
        jobs, planned, frozen = run(sys.executable, __file__, "--plan", folder=folder).split()
    return {
        "runs": runs,
        "jobs": int(jobs),
        "plan_seconds": round(float(planned), 3),
        "freeze_seconds": round(float(frozen), 3),
        "first_seconds": round(first, 3),
        "again_seconds": round(again, 3),
        "seconds_per_job": round(first / int(jobs), 5),
    }


def plan_here() -> tuple[int, float, float]:
    """Plan and freeze the current folder's params.yaml; return the number of jobs and the seconds of each."""
    began = time.monotonic()
    jobs = plan(load(Path("params.yaml")))
    planned = time.monotonic()
    freeze(jobs)
    return len(jobs), planned - began, time.monotonic() - planned


def params(runs: int) -> dict[str, Any]:
    """Make the quickstart's params with five identical methods and runs/5 seeds."""
    if runs % 5:
        sys.exit(f"--runs {runs}: not a multiple of 5")
    tree: dict[str, Any] = YAML(typ="safe").load(REPOSITORY / "params.yaml")
    methods = [f"method{i}" for i in range(5)]
    tree["methods"] = {name: tree["methods"]["hlrs"].copy() for name in methods}
    tree["matrix"] |= {"methods": methods, "seeds": list(range(runs // 5))}
    tree["report"] = {"title": "Planning"}
    return tree


def finished(folder: Path) -> dict[str, float]:
    """Time the commands that find nothing to do; SystemExit if they find something."""
    for command, idle in (("snakemake -n", "Nothing to be done"), ("dvc status", "up to date")):
        if idle not in run(*command.split(), folder=folder):
            sys.exit(
                f"{folder}: `{command}` finds something to do; run `snakemake` and `dvc repro` there first"
            )
    times = {
        "snakemake_seconds": median("snakemake", "-n", folder=folder),
        "dvc_status_seconds": median("dvc", "status", folder=folder),
    }
    print(f"snakemake -n where all is done: {times['snakemake_seconds']:.2f} s")
    print(f"dvc status where all is done: {times['dvc_status_seconds']:.2f} s")
    return times


def run(*command: str, folder: Path = REPOSITORY) -> str:
    """Run a command with this checkout's code; return its output, SystemExit if it fails."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:2])}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def seconds(*command: str, folder: Path = REPOSITORY) -> float:
    """Time a command."""
    began = time.monotonic()
    run(*command, folder=folder)
    return time.monotonic() - began


def median(*command: str, folder: Path = REPOSITORY) -> float:
    """Time a command: the median of five times."""
    return round(statistics.median(seconds(*command, folder=folder) for _ in range(5)), 3)


def show(row: dict[str, Any]) -> dict[str, Any]:
    """Print a row of the table."""
    print("  ".join(f"{row[name]:14.4g}" for name in COLUMNS))
    return row


def host() -> dict[str, Any]:
    """Describe the machine, the versions and the date."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "versions": versions(),
        "date": datetime.now(UTC).date().isoformat(),
    }


if __name__ == "__main__":
    main()
