"""params.yaml: a mistake is one line that names the file, the field as in the file, and what is allowed."""

import inspect
from pathlib import Path

import pytest

from hlrs import config
from hlrs.errors import UserError

ROOT = Path(__file__).parent.parent
SHIPPED = [ROOT / "params.yaml", *sorted((ROOT / "workflow" / "experiments").glob("*.yaml"))]

PARAMS = """\
matrix:
  datasets: [digits_lt]
  methods: [darts, hlrs, random]
  seeds: [0, 1]
datasets:
  digits_lt:
    source: {kind: digits}
    imbalance: {kind: exponential, factor: 10}
    test_per_class: 50
methods:
  darts:
    searcher: {kind: darts, order: 1}
    objective: {kind: plain}
    arch_lr: {kind: constant}
  hlrs:
    searcher: {kind: darts}
    objective: {kind: bilateral, mixing: {kind: symmetric}}
    arch_lr: {kind: coupled}
  random:
    searcher: {kind: random}
search: {epochs: 12, cells: 3}
retrain: {epochs: 30, cells: 6, auxiliary_weight: 0, weights: {lr: 0.05}}
evaluate: {}
report: {reference: darts}
"""


@pytest.fixture
def load(tmp_path):
    """Loads PARAMS with some replacements (old, new); each must apply."""

    def load_changed(*changes):
        text = PARAMS
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
        path = tmp_path / "params.yaml"
        path.write_text(text)
        return config.load(path)

    return load_changed


@pytest.fixture
def complaint(load, tmp_path):
    """The message about PARAMS with some replacements, without the file's name."""

    def complaint_about(*changes):
        with pytest.raises(UserError) as caught:
            load(*changes)
        message = str(caught.value)
        assert "\n" not in message
        assert message.startswith(f"{tmp_path / 'params.yaml'}: ")
        return message.removeprefix(f"{tmp_path / 'params.yaml'}: ")

    return complaint_about


# --- mistakes -----------------------------------------------------------------------------------------

MISTAKES = {  # name: (old, new, what the message starts with, what else it says)
    "imbalance below 1": (
        "factor: 10",
        "factor: 0.5",
        "datasets.digits_lt.imbalance.factor: 0.5 is not allowed",
        "greater than or equal to 1",
    ),
    "unknown key": (
        "test_per_class: 50",
        "test_per_class: 50\n    test_per_clas: 50",
        "datasets.digits_lt.test_per_clas: unknown key, did you mean test_per_class?",
        "max_per_class",
    ),
    "unknown section": (
        "search:",
        "serch: {}\nsearch:",
        "serch: unknown key, did you mean search?",
        "matrix",
    ),
    "unknown key of a kind": (
        "{kind: symmetric}",
        "{kind: symmetric, a: 1}",
        "methods.hlrs.objective.mixing.a: unknown key",
        "allowed: kind",
    ),
    "key of another kind": (
        "{kind: constant}",
        "{kind: cosine, at: 0.5}",
        "methods.darts.arch_lr.at: unknown key",
        "allowed: final, kind",
    ),
    "text for a number": (
        "epochs: 12",
        'epochs: "12"',
        "search.epochs: '12' is not allowed",
        "valid integer",
    ),
    "fraction for a count": (
        "epochs: 12",
        "epochs: 12.5",
        "search.epochs: 12.5 is not allowed",
        "valid integer",
    ),
    "truth for a number": (
        "seeds: [0, 1]",
        "seeds: [0, true]",
        "matrix.seeds.1: True is not allowed",
        "integer",
    ),
    "odd channels": ("epochs: 12", "channels: 5", "search.channels: 5 is not allowed", "multiple of 2"),
    "momentum of 1": (
        "{lr: 0.05}",
        "{momentum: 1}",
        "retrain.weights.momentum: 1 is not allowed",
        "less than 1",
    ),
    "unknown kind of mixing": (
        "kind: symmetric",
        "kind: parabolic",
        "methods.hlrs.objective.mixing.kind: 'parabolic' is unknown",
        "'parabolic_decay', 'linear_decay', 'cosine_decay', 'equal', 'parabolic_increment', 'beta', 'symm",
    ),
    "unknown kind of source": (
        "kind: digits",
        "kind: cifar10",
        "datasets.digits_lt.source.kind: 'cifar10' is unknown",
        "'torchvision'",
    ),
    "kind left out": (
        "{kind: plain}",
        "{}",
        "methods.darts.objective.kind: is missing",
        "allowed: plain, bilateral",
    ),
    "unknown value": (
        "test_per_class: 50",
        "test_per_class: 50\n    protocol: LDAM",
        "datasets.digits_lt.protocol: 'LDAM' is unknown",
        "'seeded' or 'ldam'",
    ),
    "method without searcher": (
        "    searcher: {kind: darts, order: 1}\n",
        "",
        "methods.darts.searcher: is missing",
        "kinds: darts, random",
    ),
    "data set without source": (
        "    source: {kind: digits}\n",
        "",
        "datasets.digits_lt.source: is missing",
        "kinds: digits, parquet, torchvision, image_folder",
    ),
    "section left out": ("evaluate: {}\n", "", "evaluate: is missing", ""),
    "undefined data set": (
        "datasets: [digits_lt]",
        "datasets: [cifar]",
        "matrix.datasets: 'cifar' is not defined",
        "allowed: digits_lt",
    ),
    "undefined method": (
        "methods: [darts, hlrs",
        "methods: [drats, hlrs",
        "matrix.methods: 'drats' is not defined",
        "allowed: darts, hlrs, random",
    ),
    "seed given twice": ("seeds: [0, 1]", "seeds: [1, 1]", "matrix: seeds names an entry twice", "[1, 1]"),
    "nothing to run": ("seeds: [0, 1]", "seeds: []", "matrix.seeds: [] is not allowed", "at least 1"),
    "name that is no folder": (
        "datasets: [digits_lt]",
        "datasets: [a/b]",
        "matrix.datasets.0: 'a/b' is not allowed",
        "pattern",
    ),
    "coupled without bilateral": (
        "{kind: constant}",
        "{kind: coupled}",
        "methods.darts: arch_lr coupled",
        "needs objective bilateral",
    ),
    "coupled to a random mixing": (
        "kind: symmetric",
        "kind: beta",
        "methods.hlrs: arch_lr coupled",
        "not beta",
    ),
    "random with an objective": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    objective: {kind: plain}",
        "methods.random: searcher random trains nothing",
        "leave out objective and arch_lr",
    ),
    "more branch cells than cells": (
        "{kind: symmetric}}",
        "{kind: symmetric}, branch_cells: 4}",
        "methods.hlrs.objective.branch_cells: search.cells is 3",
        "branch_cells of 4",
    ),
    "no test set": (
        "    test_per_class: 50\n",
        "",
        "datasets.digits_lt: test_per_class is needed",
        "no test set",
    ),
    "ldam of a natural tail": (
        "imbalance: {kind: exponential, factor: 10}",
        "imbalance: {kind: natural}\n    protocol: ldam",
        "datasets.digits_lt: protocol ldam",
        "natural",
    ),
    "groups that overlap": (
        "test_per_class: 50",
        "test_per_class: 50\n    groups: {many_above: 20, few_below: 30}",
        "datasets.digits_lt.groups: few_below (30)",
        "many_above (20)",
    ),
    "reference that is not run": (
        "reference: darts",
        "reference: foo",
        "report.reference: 'foo' is not in the matrix",
        "allowed: darts, hlrs, random",
    ),
    "auxiliary head with two branches": (
        "auxiliary_weight: 0",
        "auxiliary_weight: 0.4, objective: {kind: bilateral}",
        "retrain: objective bilateral has no auxiliary head",
        "auxiliary_weight to 0",
    ),
    "value of an override": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    retrain: {epochs: 0}",
        "methods.random.retrain.epochs: 0 is not allowed",
        "greater than or equal to 1",
    ),
    "key of an override": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    retrain: {epoch: 9}",
        "methods.random.retrain.epoch: unknown key, did you mean epochs?",
        "auxiliary_weight",
    ),
    "nested value of an override": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    retrain: {weights: {lr: fast}}",
        "methods.random.retrain.weights.lr: 'fast' is not allowed",
        "valid number",
    ),
    "kind in an override": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    retrain: {objective: {kind: bilateral, mixing: {kind: z}}}",
        "methods.random.retrain.objective.mixing.kind: 'z' is unknown",
        "'parabolic_decay'",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_field_and_what_is_allowed(complaint, name):
    old, new, start, more = MISTAKES[name]
    message = complaint((old, new))
    assert message.startswith(start)
    assert more in message


def test_two_mistakes_are_counted(complaint):
    assert complaint(("epochs: 12", "epochs: 0"), ("epochs: 30", "epochs: 0")).endswith("(and 1 more)")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n"])
def test_a_file_that_is_no_mapping(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="valid dictionary"):
        config.load(path)


# --- the file -----------------------------------------------------------------------------------------


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml: No such file or directory; run in the folder"):
        config.load(tmp_path / "nowhere.yaml")


def failing(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        config.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


def test_a_key_given_twice_is_refused_with_its_line(tmp_path):
    twice = PARAMS.replace("  seeds: [0, 1]\n", "  seeds: [0, 1]\n  seeds: [2]\n")  # lines 4 and 5
    assert failing(tmp_path, twice.encode()) == ":5: not valid YAML: 'seeds' is given twice"


def test_what_is_not_yaml_is_refused_with_its_line(tmp_path):
    assert failing(tmp_path, b"matrix:\n  seeds: [0, 1\nsearch: {}\n").startswith(":3: not valid YAML: ")


def test_what_is_not_text_is_refused(tmp_path):
    assert "not valid YAML" in failing(tmp_path, b"matrix: \xff\xfe\n")


def test_a_control_character_is_refused_in_one_line(tmp_path):
    assert "not valid YAML" in failing(tmp_path, b"matrix: a\x00b\n")


def test_a_template_that_nobody_filled_in_is_refused(tmp_path):
    assert "not valid YAML" in failing(tmp_path, b"search:\n  epochs: {{ EPOCHS }}\n")


def test_infinity_is_refused(complaint):
    assert complaint(("factor: 10", "factor: .inf")).startswith("datasets.digits_lt.imbalance.factor: inf")


@pytest.mark.parametrize(("text", "value"), [("3e-4", 3e-4), ("1E-3", 1e-3), ("5.e-2", 0.05), ("1e+0", 1.0)])
def test_exponents_without_a_point_are_numbers(load, text, value):
    lr = load(("epochs: 12", f"weights: {{lr: {text}}}")).search.weights.lr
    assert type(lr) is float
    assert lr == value


def test_words_and_hexadecimals_stay_what_yaml_says(load):
    report = load(("reference: darts", "title: 3e-4x, reference: darts")).report
    assert report.title == "3e-4x"


# --- what is accepted ---------------------------------------------------------------------------------


def test_an_override_changes_its_entries_alone(load):
    params = load(
        ("searcher: {kind: random}", "searcher: {kind: random}\n    retrain: {weights: {clip: 1}, cells: 8}")
    )
    recipe = params.retrain_of("random")
    assert (recipe.weights.clip, recipe.cells) == (1.0, 8)
    assert (recipe.weights.lr, recipe.epochs) == (0.05, 30)  # of the common recipe, not the defaults
    assert params.retrain_of("darts") == params.retrain


def test_an_override_with_a_kind_replaces_the_whole_part(load):
    common = "objective: {kind: bilateral, mixing: {kind: equal}, branch_cells: 2}"
    params = load(
        ("auxiliary_weight: 0,", f"auxiliary_weight: 0, {common},"),
        ("searcher: {kind: random}", "searcher: {kind: random}\n    retrain: {objective: {kind: bilateral}}"),
    )
    assert params.retrain_of("random").objective == config.Bilateral(kind="bilateral")
    assert params.retrain_of("darts").objective.branch_cells == 2


def test_params_cannot_be_changed(load):
    with pytest.raises(ValueError, match="frozen"):
        load().search.epochs = 3


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_params_are_valid(path):
    params = config.load(path)
    assert params.matrix.methods


# --- the declarations ---------------------------------------------------------------------------------


def models():
    return [m for _, m in inspect.getmembers(config, inspect.isclass) if issubclass(m, config.Spec)]


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_every_spec_says_what_it_is(model):
    assert model.__doc__
    assert model is config.Spec or model.__doc__ != config.Spec.__doc__


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_every_spec_is_frozen_strict_and_closed(model):
    settings = {name: model.model_config.get(name) for name in ("frozen", "extra", "strict")}
    assert settings == {"frozen": True, "extra": "forbid", "strict": True}
