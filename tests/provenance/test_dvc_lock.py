"""What DVC recorded, as far as it can be read without DVC; and every command where DVC is not installed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner
from dvc_data.hashfile.tree import Tree

from hlrs.cli import main
from hlrs.provenance.dvc_lock import tree_digest
from tests.conftest import edit
from tests.messages import says


def test_a_folders_digest_is_dvcs():
    files = {"b/ü.json": "1" * 32, "a.csv": "2" * 32, "b.csv": "3" * 32, 'b/"x"': "4" * 32}
    tree = Tree.from_list([{"md5": digest, "relpath": name} for name, digest in files.items()])
    tree.digest()
    assert tree_digest(files) == str(tree.oid)


COMMANDS = """
import json, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("dvc", "dvc_data"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())

from click.testing import CliRunner
from hlrs.cli import main

for arguments in json.loads(sys.argv[1]):
    done = CliRunner().invoke(main, arguments)
    print(json.dumps([done.exit_code, done.stdout, done.stderr]))
"""


def without_dvc(*commands):
    """Exit status, stdout and stderr of each `hlrs` command in a process where DVC cannot be imported."""
    started = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(started, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_command_but_those_that_ask_dvc_works_without_it(workspace):
    edit(workspace / "params.yaml", **{"matrix.methods": ["darts"], "report.reference": None})
    split = CliRunner().invoke(main, ["split", "digits"]).stdout.strip()
    Path("dvc.lock").write_text("stages: {split: {cmd: x, outs: [{path: results/split, md5: 00.dir}]}}")
    shutil.copy("params.yaml", "tracked.yaml")
    source = {"kind": "parquet", "train": ["data/train.parquet"]}
    edit(workspace / "tracked.yaml", **{"datasets.digits.source": source})
    Path("data").mkdir()
    for name in ("train.parquet", "train.parquet.dvc"):
        Path("data", name).write_text("anything")
    subprocess.run(["git", "init", "--quiet"], check=True)

    trace = ["lineage", f"{split}/split.parquet"]
    works = [["plan", "--why", "digits/darts/0"], ["status"], ["prune"], trace, ["audit", "--json"]]
    asks = [[*trace, "--since", "HEAD"], ["plan", "--params", "tracked.yaml"]]
    *done, since, plan = without_dvc(*works, *asks)
    assert [status for status, _, _ in done] == [0] * len(works), done
    [remark] = [found for found in json.loads(done[-1][1]) if found["path"] == "results/split"]
    assert (remark["broken"], remark["remedy"]) == (False, "`pip install dvc`")
    for (status, _, stderr), subject in ((since, "--since HEAD"), (plan, "data/train.parquet.dvc")):
        assert status == 2
        says(stderr, subject, "not installed", "pip install dvc")
