"""Every number, list, mapping and text of params.yaml has an upper bound, and names and paths can exist."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from hlrs.config import base, data, jobs, methods, params, recipes
from hlrs.config.base import FilePath, Name, Spec
from hlrs.config.params import Params
from hlrs.config.recipes import Sgd
from tests.conftest import put

UPPER = {  # JSON schema's type -> what bounds it from above
    "integer": ("maximum", "exclusiveMaximum"),
    "number": ("maximum", "exclusiveMaximum"),
    "string": ("maxLength",),
    "array": ("maxItems",),
    "object": ("maxProperties",),
}
SPECS = sorted(
    {
        spec
        for module in (data, jobs, methods, params, recipes)
        for _, spec in inspect.getmembers(module, inspect.isclass)
        if issubclass(spec, Spec) and spec is not Spec
    },
    key=lambda spec: spec.__name__,
)


def unbounded(schema: Any, path: str = "") -> Iterator[str]:
    """Paths of the parts of a schema that may be arbitrarily large."""
    if isinstance(schema, list):
        for item in schema:
            yield from unbounded(item, path)
    if not isinstance(schema, dict):
        return
    kind = schema.get("type")
    closed = schema.keys() & {"const", "enum"} or schema.get("additionalProperties") is False
    if kind in UPPER and not closed and not schema.keys() & set(UPPER[kind]):
        yield path
    for key, value in schema.items():
        if key in ("properties", "patternProperties", "$defs"):
            for name, part in value.items():
                yield from unbounded(part, f"{path}.{name}" if path else name)
        elif key not in ("default", "const", "enum"):
            yield from unbounded(value, path)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.__name__)
def test_no_field_is_unbounded(spec):
    assert list(unbounded(spec.model_json_schema())) == []


def test_the_walk_finds_what_lacks_a_bound():
    class Forgetful(Spec):
        number: int
        shares: list[float]
        texts: dict[str, base.Text]
        sound: base.Epochs | None = None

    assert sorted(unbounded(Forgetful.model_json_schema())) == ["number", "shares", "shares", "texts"]


@pytest.mark.parametrize("path", ["", "  ", "a\0b", "data/" + "x" * 256, "ä" * 128, "x/" * 2049])
def test_a_path_that_no_file_has_is_refused(path):
    with pytest.raises(ValidationError):
        TypeAdapter(FilePath).validate_python(path)


@pytest.mark.parametrize("path", ["data/" + "x" * 255, "ä" * 127, "a b/c", "."])
def test_a_path_that_a_file_may_have_is_kept(path):
    assert TypeAdapter(FilePath).validate_python(path) == path


def test_the_longest_names_and_seeds_make_a_folder_name_that_file_systems_hold():
    seed, key = "9223372036854775807", "0123456789ab"  # 2^63 − 1, and the digits of a key
    name = TypeAdapter(Name).validate_python("n" * 100)
    assert len("_".join([name, name, f"{seed}-{seed}", key])) <= 255  # Snakemake's executor joins them so
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python("n" * 101)


def test_a_search_has_a_cell_that_is_no_reduction():
    """Reductions lie at one and two thirds: 0 and 1 of two cells, 1 and 2 of three."""
    with pytest.raises(ValidationError, match=r"search\.cells\n.* greater than or equal to 3"):
        shipped(**{"search.cells": 2})
    assert shipped(**{"search.cells": 3}).search.cells == 3


def test_a_learning_rate_never_rises_to_its_end():
    with pytest.raises(ValidationError, match=r"lr_min 0\.1 is above lr 0\.01"):
        Sgd(lr=0.01, lr_min=0.1)
    assert Sgd(lr=0.01, lr_min=0.01).lr_min == 0.01


# --- images that an option would hide -----------------------------------------------------------------


def shipped(**changes: Any) -> Params:
    """The shipped params (8×8 digits) with some changes by dotted name."""
    raw = YAML(typ="safe", pure=True).load(Path(__file__).parents[2] / "params.yaml")
    for dotted, value in changes.items():
        put(raw, dotted.split("."), value)
    return Params.model_validate(raw)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("search.cutout", 10, r"search\.cutout: 10 is larger than the images of datasets\.digits_lt, 8×8"),
        ("retrain.cutout", 10, r"retrain\.cutout: 10 is larger .* 4 or less, or set 0"),
        ("methods.hlrs.search", {"cutout": 10}, r"methods\.hlrs\.search\.cutout: 10 is larger"),
        ("methods.hlrs.retrain", {"cutout": 10}, r"methods\.hlrs\.retrain\.cutout: 10 is larger"),
        (
            "datasets.digits_lt.augment",
            {"crop_padding": 8},
            r"datasets\.digits_lt\.augment\.crop_padding: 8 ",
        ),
    ],
)
def test_an_option_that_hides_the_images_is_refused_by_its_field(field, value, said):
    with pytest.raises(ValidationError, match=said):
        shipped(**{field: value})


def test_without_retraining_its_cutout_hides_nothing():
    searched = {"search.space": {"kind": "nasbench201"}, "search.nodes": 4, "search.cells": 3}
    judged = {"evaluate.table": "cells.csv", "datasets.digits_lt.table_column": "a"}
    only = {"matrix.retrain_seeds": [], "retrain.cutout": 16, "search.cutout": 8}
    assert shipped(**searched, **judged, **only).retrain.cutout == 16
    with pytest.raises(ValidationError, match=r"search\.cutout: 10 is larger"):
        shipped(**searched, **judged, **only | {"search.cutout": 10})


def test_a_cutout_as_large_as_the_images_is_kept():
    assert shipped(**{"retrain.cutout": 8, "search.cutout": 8}).retrain.cutout == 8


def test_images_that_are_resized_count_with_the_size_they_get():
    resized = {"datasets.digits_lt.image_size": 16, "retrain.cutout": 16}
    assert shipped(**resized).retrain.cutout == 16
    with pytest.raises(ValidationError, match="16×16"):
        shipped(**{**resized, "retrain.cutout": 18})


def test_a_matrix_of_more_runs_than_anybody_starts_is_refused_before_it_is_planned():
    assert len(shipped(**{"matrix.seeds": list(range(10_000))}).matrix.seeds) == 10_000  # 1 · 3 · 10,000 runs
    many = {"matrix.seeds": list(range(5000)), "matrix.retrain_seeds": list(range(7))}
    with pytest.raises(ValidationError, match="105,000 runs, more than 100,000"):  # 1 · 3 · 5,000 · 7
        shipped(**many)
    drawn = {"matrix.seeds": list(range(5000)), "matrix.split_seeds": list(range(7))}
    with pytest.raises(ValidationError, match="split_seeds are 105,000 runs, more than 100,000"):
        shipped(**drawn)


def test_the_name_of_a_draw_is_no_longer_than_a_data_sets():
    """SLURM's logs of a job lie in a folder called after it, so 100 characters; here 98 and `-10`."""
    long = "d" * 98
    digits = {"source": {"kind": "digits"}, "imbalance": {"kind": "natural"}, "test_per_class": 50}
    names = {"matrix.datasets": [long], "matrix.split_seeds": [0, 10], "datasets": {long: digits}}
    with pytest.raises(ValidationError, match=f"{long}-10, .* longer than 100 characters: rename"):
        shipped(**names)
