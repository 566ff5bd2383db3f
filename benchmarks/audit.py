"""Time `hlrs audit` on results of a given size: python benchmarks/audit.py [--gigabytes 10]."""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from hlrs.artifacts.data_digest import sha256
from hlrs.artifacts.jobs import OUTPUTS, PROVENANCE, key_of
from hlrs.artifacts.records import seal
from hlrs.provenance.audit import Audit
from hlrs.provenance.dvc_lock import LOCK

LARGE = 512 << 20  # bytes of a file of weights


def fill(count: int) -> None:
    """Write results of `count` retrainings, with random weights, and a dvc.lock, which requires MD5 too."""
    LOCK.write_text("stages: {}\n")
    for seed in range(count):
        body = {"stage": "retrain", "run": f"d/m/{seed}", "params": {"seed": seed}, "code": "", "inputs": {}}
        folder = Path("results/retrain", str(body["run"]), key_of(body))
        folder.mkdir(parents=True)
        for name in OUTPUTS["retrain"]:
            with (folder / name).open("wb") as file:
                for _ in range((LARGE >> 24) if name.startswith("weights") else 1):
                    file.write(os.urandom(1 << 24))
        outputs = {name: sha256(folder / name) for name in OUTPUTS["retrain"]}
        times = {"seconds": 0.0, "ended": "2026-01-01T00:00:00+00:00"}
        record = {**body, **times, "key": folder.name, "outputs": outputs}
        (folder / PROVENANCE).write_text(json.dumps(record | {"seal": seal(record)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=10.0)
    wanted = parser.parse_args().gigabytes
    with tempfile.TemporaryDirectory(dir=".") as folder:
        os.chdir(folder)
        fill(max(1, round(wanted * 1e9 / (LARGE + (1 << 24)))))
        started = time.perf_counter()
        audited = Audit([])
        broken = [finding for finding in audited.findings() if finding.broken]
        seconds = time.perf_counter() - started
        os.chdir("..")
    size = sum(entry.size for entry in audited.files.values())
    assert not broken, broken
    print(
        f"{size / 1e9:.1f} GB in {len(audited.files)} files: {seconds:.1f} s, {size / 1e9 / seconds:.2f} GB/s"
    )


if __name__ == "__main__":
    main()
