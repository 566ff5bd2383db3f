"""Provenance records: what a job ran with."""

import hashlib
import json
from typing import Any


def seal(record: dict[str, Any]) -> str:
    """SHA-256 of a record's JSON without its seal: an edited record does not fit it."""
    body = {name: value for name, value in record.items() if name != "seal"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


UNKNOWN = "not recorded"


def environment(record: dict[str, Any]) -> dict[str, str]:
    """Commit, lock file, container image, host, device and versions of a job, UNKNOWN where not recorded."""
    gpu = record.get("gpu")
    device = gpu.get("name") if isinstance(gpu, dict) else gpu
    plain = ", without kernels of our own" * (record.get("gpu_kernels") is False)
    versions = record.get("versions") or {}
    return {
        "commit": str(record.get("commit") or UNKNOWN) + " + uncommitted changes" * bool(record.get("dirty")),
        "lock": str(record.get("lock") or UNKNOWN),
        "image": str(record.get("image") or "none"),
        "host": str(record.get("host") or UNKNOWN),
        "device": str(device or record.get("cpu") or record.get("device") or UNKNOWN) + plain,
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) or UNKNOWN,
    }


Record = dict[str, Any]  # a provenance record
