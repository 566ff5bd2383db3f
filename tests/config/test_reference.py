"""docs/parameters.md, and the JSON Schema of params.yaml."""

import json
import re

import jsonschema
import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from hlrs.cli import main
from hlrs.config.reference import markdown, schema
from tests.config.test_config import ROOT, SHIPPED

VALIDATOR = jsonschema.Draft202012Validator(schema())


def read(path):
    return YAML(typ="safe", pure=True).load(path)


def test_the_page_of_the_docs_is_current():
    found = (ROOT / "docs/parameters.md").read_text()
    assert found == markdown(), "run `hlrs schema --markdown > docs/parameters.md`"


def test_the_schema_beside_params_yaml_is_current():
    found = json.loads((ROOT / "params.schema.json").read_text())
    assert found == schema(), "run `hlrs schema > params.schema.json`"
    first = (ROOT / "params.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=params.schema.json"


def rows_of(title):
    """Return the table's rows below a heading, by entry."""
    section = markdown().split(f"\n## `{title}`\n")[1].split("\n## ")[0]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("| `")]
    return {name.strip().strip("`"): [cell.strip() for cell in rest] for name, *rest in cells}


def test_a_row_has_type_default_bounds_and_meaning():
    assert rows_of("matrix")["retrain_seeds"][:2] == ["list of integer", "`[0]`"]
    sgd = rows_of("weights: {kind: sgd}")
    assert sgd["momentum"] == ["number", "`0.9`", "≥ 0, < 1", ""]
    assert sgd["clip"] == [
        "number or `null`",
        "`5.0`",
        "> 0, ≤ 1,000,000",
        "largest norm of the gradient; null: no clipping",
    ]
    assert sgd["schedule"][:2] == ["kind `cosine`, `multistep`, `triangular`", "kind `cosine`"]
    assert rows_of("augment")["flip"][0] == "`true`, `false`, `alternating`"
    assert rows_of("source: {kind: npz}")["file"][:2] == ["text", "required"]
    assert rows_of("source: {kind: csv}")["suffix"][:2] == ["text", '`""`']


def test_every_kind_has_a_section():
    kinds = set(re.findall(r"kind: (\w+)\}`", markdown()))
    assert {"diffused", "implant", "zo_darts", "nasbench201", "proco", "muon", "sparsemax"} <= kinds


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_files_fit_the_schema(path):
    assert not [error.message for error in VALIDATOR.iter_errors(read(path))]


def test_the_schema_finds_slips():
    params = read(ROOT / "params.yaml")
    params["search"]["epoch"] = 3
    params["retrain"]["channels"] = "8"
    params["methods"]["darts"]["searcher"]["kind"] = "dart"
    params["methods"]["hlrs"]["retrain"] = {"classifier": {"kind": "diffusion"}}
    found = {".".join(map(str, error.absolute_path)) for error in VALIDATOR.iter_errors(params)}
    assert found == {
        "search",
        "retrain.channels",
        "methods.darts.searcher",
        "methods.hlrs.retrain.classifier",
    }


def test_the_command_prints_both():
    assert json.loads(CliRunner().invoke(main, ["schema"]).output) == schema()
    assert CliRunner().invoke(main, ["schema", "--markdown"]).output == markdown()
