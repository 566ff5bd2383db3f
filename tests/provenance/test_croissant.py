"""The Croissant description of a split: as its tables are, and as mlcroissant reads it where installed."""

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from hlrs.cli import main
from tests.conftest import edit
from tests.messages import says


def invoke(*arguments):
    return CliRunner().invoke(main, [*arguments])


@pytest.fixture
def split(workspace):
    """The folder of a drawn split of handwritten digits."""
    edit(workspace / "params.yaml", **{"matrix.methods": ["darts"]})
    return Path(invoke("split", "digits").stdout.strip())


def test_the_description_says_what_the_tables_hold(split):
    assert invoke("export", "--croissant", "out").stdout == "out: digits\n"
    found = json.loads(Path("out/digits/croissant.json").read_text())
    assert sorted(path.name for path in Path("out/digits").iterdir()) == [
        "croissant.json",
        "files.parquet",
        "split.parquet",
    ]
    for file in found["distribution"]:
        content = (split / file["name"]).read_bytes()
        assert Path("out/digits", file["contentUrl"]).read_bytes() == content
        assert (file["sha256"], file["contentSize"]) == (
            hashlib.sha256(content).hexdigest(),
            f"{len(content)} B",
        )
    sets = {entry["@id"]: entry for entry in found["recordSet"]}
    for name, table in {"images": "split.parquet", "files": "files.parquet"}.items():
        columns = [field["source"]["extract"]["column"] for field in sets[name]["field"]]
        assert columns == pq.read_schema(split / table).names
    images = pq.read_table(split / "split.parquet").to_pandas()
    for row in sets["classes"]["data"]:
        own = images[images.label == row["classes/label"]].subset.value_counts()
        for subset in ("weights", "alphas", "holdout", "test"):
            assert row[f"classes/{subset}"] == own.get(subset, 0)
    assert {row["subsets/name"] for row in sets["subsets"]["data"]} >= {*images.subset}
    assert "'digits'" not in found["description"]  # JSON, as the parameters are elsewhere
    assert '"kind": "digits"' in found["description"]


def test_mlcroissant_reads_it(split):
    mlcroissant = pytest.importorskip("mlcroissant")
    assert invoke("export", "--croissant", "out").exit_code == 0
    images = pq.read_table(split / "split.parquet").to_pandas()
    read = mlcroissant.Dataset("out/digits/croissant.json")  # which raises for what is not valid
    assert not read.metadata.ctx.issues.errors
    records = [*read.records("images")]
    assert [record["images/index"] for record in records] == images["index"].tolist()
    assert len([*read.records("classes")]) == 10


def test_mistakes_are_one_line_and_write_nothing(split):
    says(invoke("export").stderr, "--ro-crate", "--croissant")
    Path("full").mkdir()
    Path("full/mine").touch()
    says(invoke("export", "--croissant", "full").stderr, "full", "not an empty folder")
    table = split / "split.parquet"
    content = table.read_bytes()
    table.write_bytes(content[:-5] + b"!" + content[-4:])
    says(invoke("export", "--croissant", "out").stderr, "split.parquet", "hlrs audit")
    table.unlink()
    missing = invoke("export", "--croissant", "out")
    says(missing.stderr, "hlrs split digits")
    assert (missing.exit_code, [*Path().glob("*out*")]) == (2, [])
