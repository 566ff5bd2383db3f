"""Prepare the folder that a run on a GPU machine without network needs: data, the reference, wheels.

    python benchmarks/gpu/pack.py --cifar DIR --reference CLONE [--folder .gpu] [--python 3.12]

DIR holds CIFAR-10 as train.parquet and test.parquet, with columns img (a struct of bytes and path) and label.
All labels are kept, but only those images that the LDAM split of imbalance factor 100 draws; the others are
null, and nobody reads them. So workflow/experiments/cifar10_lt.yaml draws the same split from 51 MB as from
137.
CLONE is a clone of github.com/Tomorrowdawn/darts_torch2.1. `--python` is the version on the GPU machine
(x86-64 Linux).
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from params import make_params, write_params

REPOSITORY = Path(__file__).resolve().parents[2]
COMMIT = "21482c0"  # of the reference
WHEELS = ("click", "pydantic", "pytest", "pyyaml", "ruamel.yaml", "safetensors", "tqdm")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def drawn(cifar: Path) -> set[int]:
    """Return the indices of the images that the experiment's split draws, test images included."""
    with tempfile.TemporaryDirectory() as folder:
        write_params(make_params(cifar, tiny=False), Path(folder, "params.yaml"))
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "hlrs", "split", "cifar10_lt"]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        [table] = Path(folder, "results/split").rglob("split.parquet")
        return set(pq.read_table(table)["index"].to_pylist())


def thin(source: Path, target: Path, keep: set[int], first: int) -> None:
    """Copy a Parquet file; images whose index, counted from `first`, is not in `keep` become null."""
    table = pq.read_table(source)
    rows = table["img"].to_pylist()
    for index, row in enumerate(rows, first):
        if index not in keep:
            row["bytes"] = None
    field = table.schema.field("img")
    table = table.set_column(table.schema.get_field_index("img"), field, pa.array(rows, field.type))
    pq.write_table(table, target, compression="none", row_group_size=1000)


def pack_data(cifar: Path, target: Path) -> None:
    """Copy what the split draws of both files."""
    target.mkdir(parents=True)
    keep, first = drawn(cifar), 0
    for part in ("train", "test"):
        thin(cifar / f"{part}.parquet", target / f"{part}.parquet", keep, first)
        first += pq.ParquetFile(cifar / f"{part}.parquet").metadata.num_rows


def pack_reference(clone: Path, target: Path) -> None:
    """Unpack the reference's code at its commit."""
    target.mkdir(parents=True)
    archive = ["git", "-C", str(clone), "archive", COMMIT, "cnn"]
    packed = subprocess.run(archive, check=True, capture_output=True).stdout
    subprocess.run(["tar", "x", "-C", str(target)], input=packed, check=True)


def pack_wheels(python: str, target: Path) -> None:
    """Download the wheels of hlrs's small dependencies for another machine's Python."""
    platforms = [option for name in PLATFORMS for option in ("--platform", name)]
    machine = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms]
    command = [sys.executable, "-m", "pip", "download", "-q", *machine, "-d", str(target), *WHEELS]
    subprocess.run(command, check=True)


def main() -> None:
    """Parse the arguments and make the folder, replacing one that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True, help="folder of train.parquet and test.parquet")
    parser.add_argument("--reference", type=Path, required=True, help="clone of Tomorrowdawn/darts_torch2.1")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".gpu")
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    pack_data(arguments.cifar, arguments.folder / "data")
    pack_reference(arguments.reference, arguments.folder / "reference")
    pack_wheels(arguments.python, arguments.folder / "wheels")
    size = sum(path.stat().st_size for path in arguments.folder.rglob("*") if path.is_file())
    print(f"{arguments.folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
