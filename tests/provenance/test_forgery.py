"""A page forged with its record and all copies: what dvc.lock still shows."""

import json
import shutil
from pathlib import Path

import yaml

from hlrs.artifacts.jobs import PROVENANCE
from hlrs.provenance.dvc_lock import tree_digest
from hlrs.provenance.files import digests
from tests.provenance.test_audit import (  # noqa: F401
    audit,
    directory,
    first,
    once,
    own,
    recorded,
    repository,
    rewrite,
    sha256,
)


def forge():
    """Edit the page, and adjust its record and the copies of both."""
    target = directory("report", "all")
    page = target / "index.html"
    page.write_text(page.read_text() + " ")
    outputs = json.loads((target / PROVENANCE).read_text())["outputs"]
    rewrite(target / PROVENANCE, outputs=outputs | {"index.html": sha256(page)})
    for name in ("index.html", PROVENANCE):
        shutil.copyfile(target / name, f"report/{name}")
    return target


def test_a_listing_in_the_cache_that_was_forged_too_is_not_trusted(own):  # noqa: F811
    target = forge()
    broken, _ = audit()
    assert {f.path for f in broken} == {str(target / "index.html"), str(target / PROVENANCE)}
    digest = outs()["results/report"]
    root = Path("results/report")
    found = digests([path for path in sorted(root.rglob("*")) if path.is_file()])
    files = {str(Path(path).relative_to(root)): entry.md5 for path, entry in found.items()}
    assert tree_digest(files) != digest
    path = Path(".dvc/cache/files/md5", digest[:2], digest[2:])
    assert path.is_file()
    path.unlink()
    path.write_text(json.dumps([{"md5": md5, "relpath": name} for name, md5 in files.items()]))
    broken, remarks = audit()
    assert not broken
    assert [f.path for f in remarks] == ["results/report"]
    assert "whose listing DVC's cache does not hold" in remarks[0].what


def test_a_report_whose_result_is_gone_is_compared_with_dvc_lock(own):  # noqa: F811
    shutil.rmtree(forge())
    broken, _ = audit()
    assert {(f.path, f.what) for f in broken} == {
        (f"report/{name}", "is not the version in dvc.lock") for name in ("index.html", PROVENANCE)
    }


def outs():
    """Output -> digest in dvc.lock."""
    stages = yaml.safe_load(Path("dvc.lock").read_text())["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
