"""params.yaml: a mistake gives one line that names the file, the field as in the file, and the remedy."""

import inspect
import re
from pathlib import Path
from typing import Annotated, get_args

import pytest

from hlrs.config import data, jobs, methods, params, recipes
from hlrs.config.base import Spec
from hlrs.config.methods import Bilateral
from hlrs.config.params import Params
from hlrs.config.params import load as load_params
from hlrs.errors import UserError
from tests.messages import says
from tests.specs import specs

ROOT = Path(__file__).parents[2]
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
retrain: {epochs: 30, cells: 6, cutout: 0, auxiliary_weight: 0, weights: {lr: 0.05}}
evaluate: {}
report: {reference: darts}
"""


@pytest.fixture
def load(tmp_path):
    """Load PARAMS with some replacements (old, new), each of which must apply."""

    def load_changed(*changes):
        text = PARAMS
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
        path = tmp_path / "params.yaml"
        path.write_text(text)
        return load_params(path)

    return load_changed


@pytest.fixture
def complaint(load, tmp_path):
    """Return the message about PARAMS with some replacements, without the file's name."""

    def complaint_about(*changes):
        with pytest.raises(UserError) as caught:
            load(*changes)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / 'params.yaml'}: ")
        return message.removeprefix(f"{tmp_path / 'params.yaml'}: ")

    return complaint_about


# --- mistakes -----------------------------------------------------------------------------------------

MISTAKES = {  # name: (old, new, the field that the message starts with, what else it names)
    "imbalance below 1": ("factor: 10", "factor: 0.5", "datasets.digits_lt.imbalance.factor", "0.5", "1"),
    "unknown key": (
        "test_per_class: 50",
        "test_per_class: 50\n    test_per_clas: 50",
        "datasets.digits_lt.test_per_clas",
        "did you mean test_per_class",
        "max_per_class",
    ),
    "too little indentation": (
        "    searcher: {kind: random}",
        "  searcher: {kind: random}",
        "methods.searcher.kind",
        "unknown key",
        "is searcher indented too little",
    ),
    "a decimal comma": (
        "report: {reference: darts}",
        "report: {reference: darts, confidence: 0,9}",
        "report.9",
        "a number is no key",
        "without commas",
    ),
    "a name with a blank": (
        "methods: [darts, hlrs, random]",
        "methods: [darts, my method, random]",
        "matrix.methods.1",
        "'my method'",
        "letters, digits",
    ),
    "no entries": (
        "datasets:\n  digits_lt:\n    source: {kind: digits}\n"
        "    imbalance: {kind: exponential, factor: 10}\n    test_per_class: 50",
        "",
        "datasets",
        "is missing",
        "one entry per line",
    ),
    "no part of a kind": ("source: {kind: digits}", "", "datasets.digits_lt.source", "is missing", "parquet"),
    "no number": (", factor: 10}", "}", "datasets.digits_lt.imbalance.factor", "is missing", "a number"),
    "no list": ("  seeds: [0, 1]\n", "", "matrix.seeds", "is missing", "a list"),
    "no choice": (
        "{kind: digits}",
        "{kind: torchvision}",
        "datasets.digits_lt.source.name",
        "is missing",
        "'cifar10'",
    ),
    "nothing defined": (
        "searcher: {kind: random}",
        "searcher: {kind: implant, method: base}",
        "methods.random.searcher.method",
        "'base'",
        "define it in methods",
    ),
    "unknown section": ("search:", "serch: {}\nsearch:", "serch", "did you mean search", "matrix"),
    "unknown key of a kind": (
        "{kind: symmetric}",
        "{kind: symmetric, a: 1}",
        "methods.hlrs.objective.mixing.a",
        "unknown",
        "kind",
    ),
    "key of another kind": (
        "{kind: constant}",
        "{kind: cosine, at: 0.5}",
        "methods.darts.arch_lr.at",
        "unknown",
        "final, kind",
    ),
    "text for a number": ("epochs: 12", 'epochs: "12"', "search.epochs", "'12'", "integer"),
    "fraction for a count": ("epochs: 12", "epochs: 12.5", "search.epochs", "12.5", "integer"),
    "truth for a number": ("seeds: [0, 1]", "seeds: [0, true]", "matrix.seeds.1", "true", "integer"),
    "nothing for a number": ("{lr: 0.05}", "{lr: null}", "retrain.weights.lr", "null", "number"),
    "odd channels": ("epochs: 12", "channels: 5", "search.channels", "5", "multiple of 2"),
    "momentum of 1": ("{lr: 0.05}", "{momentum: 1}", "retrain.weights.momentum", "less than 1"),
    "nesterov without momentum": (
        "{lr: 0.05}",
        "{momentum: 0, nesterov: true}",
        "retrain.weights",
        "raise momentum",
        "leave nesterov out",
    ),
    "unknown flip": (
        "imbalance: {kind",
        "augment: {flip: alternate}\n    imbalance: {kind",
        "datasets.digits_lt.augment.flip",
        "'alternate'",
        "'alternating'",
    ),
    "a number for a flip": (
        "imbalance: {kind",
        "augment: {flip: 1}\n    imbalance: {kind",
        "datasets.digits_lt.augment.flip",
        "1 is a number",
    ),
    "unknown optimizer": (
        "{lr: 0.05}",
        "{kind: adam}",
        "retrain.weights.kind",
        "'adam'",
        "'sgd', 'adamw', 'muon'",
    ),
    "key of another optimizer": (
        "{lr: 0.05}",
        "{betas: [0.9, 0.99]}",
        "retrain.weights.betas",
        "unknown",
        "lr_min",
    ),
    "key of SGD for AdamW": (
        "{lr: 0.05}",
        "{kind: adamw, momentum: 0.5}",
        "retrain.weights.momentum",
        "betas",
    ),
    "a step too many of Muon": (
        "{lr: 0.05}",
        "{kind: muon, steps: 200}",
        "retrain.weights.steps",
        "200",
        "100",
    ),
    "nesterov without momentum in Muon's rest": (
        "{lr: 0.05}",
        "{kind: muon, rest: {momentum: 0, nesterov: true}}",
        "retrain.weights.rest",
        "raise momentum",
    ),
    "another optimizer for a search": (
        "epochs: 12,",
        "epochs: 12, weights: {kind: muon},",
        "search.weights.kind",
        "'muon'",
        "'sgd'",
    ),
    "unknown kind of mixing": (
        "kind: symmetric",
        "kind: parabolic",
        "methods.hlrs.objective.mixing.kind",
        "'parabolic'",
        "'parabolic_decay', 'linear_decay', 'cosine_decay', 'equal'",
        "'symmetric'",
    ),
    "unknown kind of source": (
        "kind: digits",
        "kind: cifar10",
        "datasets.digits_lt.source.kind",
        "'cifar10'",
        "'torchvision'",
    ),
    "kind left out": ("{kind: plain}", "{}", "methods.darts.objective.kind", "missing", "plain, bilateral"),
    "unknown value": (
        "test_per_class: 50",
        "test_per_class: 50\n    protocol: LDAM",
        "datasets.digits_lt.protocol",
        "'LDAM'",
        "'seeded' or 'ldam'",
    ),
    "method without searcher": (
        "    searcher: {kind: darts, order: 1}\n",
        "",
        "methods.darts.searcher",
        "missing",
        "darts, pc_darts",
    ),
    "data set without source": (
        "    source: {kind: digits}\n",
        "",
        "datasets.digits_lt.source",
        "missing",
        "digits, parquet, torchvision, image_folder",
    ),
    "section left out": ("evaluate: {}\n", "", "evaluate", "is missing", "its keys", "{} for the defaults"),
    "undefined data set": (
        "datasets: [digits_lt]",
        "datasets: [cifar]",
        "matrix.datasets",
        "'cifar'",
        "digits_lt",
    ),
    "undefined method": (
        "methods: [darts, hlrs",
        "methods: [drats, hlrs",
        "matrix.methods",
        "'drats'",
        "darts, hlrs, random",
    ),
    "repeated draw": (
        "seeds: [0, 1]",
        "seeds: [0]\n  split_seeds: [0, 3, 3]",
        "matrix",
        "split_seeds",
        "3",
        "once",
    ),
    "draw that is none": (
        "seeds: [0, 1]",
        "seeds: [0]\n  split_seeds: [0, bbn]",
        "matrix.split_seeds.1",
        "'bbn'",
        "seed",
        "ldam",
    ),
    "draws without the data set's own": (
        "seeds: [0, 1]",
        "seeds: [0]\n  split_seeds: [1, 2]",
        "matrix.split_seeds",
        "lacks 0",
        "datasets.digits_lt.seed",
        "add it",
    ),
    "repeated seed": ("seeds: [0, 1]", "seeds: [1, 1]", "matrix", "seeds", "1", "once"),
    "nothing to run": ("seeds: [0, 1]", "seeds: []", "matrix.seeds", "[]", "1"),
    "number for a list": ("seeds: [0, 1]", "seeds: 2", "matrix.seeds", "list", "[2]"),
    "name for a list": (
        "datasets: [digits_lt]",
        "datasets: digits_lt",
        "matrix.datasets",
        "list",
        "[digits_lt]",
    ),
    "empty list": ("seeds: [0, 1]", "seeds:", "matrix.seeds", "empty", "[...]"),
    "too many betas": (
        "epochs: 12",
        "alphas: {betas: [0.5, 0.9, 0.9]}",
        "search.alphas.betas",
        "[0.5, 0.9, 0.9]",
        "2",
    ),
    "name of a loss for its mapping": (
        "{kind: plain}",
        "{kind: plain, loss: focal}",
        "methods.darts.objective.loss",
        "'focal'",
        "{kind: focal}",
    ),
    "name of a source for its mapping": (
        "source: {kind: digits}",
        "source: digits",
        "datasets.digits_lt.source",
        "'digits'",
        "{kind: digits}",
    ),
    "unknown name for a mapping": (
        "{kind: plain}",
        "{kind: plain, loss: facol}",
        "methods.darts.objective.loss",
        "'facol'",
        "focal",
    ),
    "name for a mapping of an override": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    retrain: {policy: randaugment}",
        "methods.random.retrain.policy",
        "'randaugment'",
        "{kind: randaugment}",
    ),
    "empty section": ("evaluate: {}", "evaluate:", "evaluate", "empty", "{}", "defaults"),
    "number for a section": ("evaluate: {}", "evaluate: 3", "evaluate", "3", "batch_size"),
    "entries left out": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    retrain:",
        "methods.random.retrain",
        "empty",
        "{}",
    ),
    "name that is no folder": (
        "datasets: [digits_lt]",
        "datasets: [a/b]",
        "matrix.datasets.0",
        "'a/b'",
        "letters, digits",
    ),
    "coupled without bilateral": (
        "{kind: constant}",
        "{kind: coupled}",
        "methods.darts",
        "arch_lr coupled",
        "such as bilateral",
    ),
    "coupled to a random mixing": (
        "kind: symmetric",
        "kind: beta",
        "methods.hlrs",
        "arch_lr coupled",
        "beta",
    ),
    "random with an objective": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    objective: {kind: plain}",
        "methods.random",
        "searcher random",
        "leave out",
        "objective",
        "arch_lr",
    ),
    "more branch cells than cells": (
        "{kind: symmetric}}",
        "{kind: symmetric}, branch_cells: 4}",
        "methods.hlrs.objective.branch_cells",
        "search.cells",
        "3",
        "4",
        "lower branch_cells",
    ),
    "no test set": ("    test_per_class: 50\n", "", "datasets.digits_lt", "test_per_class", "source digits"),
    "no test folder": (
        "source: {kind: digits}\n    imbalance: {kind: exponential, factor: 10}\n    test_per_class: 50\n",
        "source: {kind: image_folder, train: a}\n    imbalance: {kind: natural}\n    image_size: 8\n",
        "datasets.digits_lt",
        "test_per_class",
        "source.test",
        "source image_folder",
    ),
    "ldam of a natural tail": (
        "imbalance: {kind: exponential, factor: 10}",
        "imbalance: {kind: natural}\n    protocol: ldam",
        "datasets.digits_lt",
        "protocol ldam",
        "natural",
        "change",
    ),
    "groups that overlap": (
        "test_per_class: 50",
        "test_per_class: 50\n    groups: {many_above: 20, few_below: 30}",
        "datasets.digits_lt.groups",
        "few_below (30)",
        "many_above (20)",
    ),
    "reference that is not run": (
        "reference: darts",
        "reference: foo",
        "report.reference",
        "'foo'",
        "darts, hlrs, random",
    ),
    "auxiliary head with two branches": (
        "auxiliary_weight: 0",
        "auxiliary_weight: 0.4, objective: {kind: bilateral}",
        "retrain",
        "objective bilateral",
        "auxiliary_weight",
        "0",
    ),
    "no adjustment": ("evaluate: {}", "evaluate: {adjust: 0}", "evaluate.adjust", "0", "greater than 0"),
    "adjustment beyond reason": ("evaluate: {}", "evaluate: {adjust: 500}", "evaluate.adjust", "500", "100"),
    "adjustment of one method": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    evaluate: {adjust: -1}",
        "methods.random.evaluate.adjust",
        "-1",
        "greater than 0",
    ),
    "table of one method": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    evaluate: {table: a.csv}",
        "methods.random.evaluate.table",
        "unknown key",
        "adjust, batch_size",
    ),
    "value of an override": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    retrain: {epochs: -1}",
        "methods.random.retrain.epochs",
        "-1",
        "0",
    ),
    "key of an override": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    retrain: {epoch: 9}",
        "methods.random.retrain.epoch",
        "did you mean epochs",
        "auxiliary_weight",
    ),
    "nested value of an override": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    retrain: {weights: {lr: fast}}",
        "methods.random.retrain.weights.lr",
        "'fast'",
        "number",
    ),
    "value of an override of the search": (
        "searcher: {kind: darts}",
        "searcher: {kind: darts}\n    search: {weights: {lr: fast}}",
        "methods.hlrs.search.weights.lr",
        "'fast'",
        "number",
    ),
    "override of the search that does not fit the common entries": (
        "searcher: {kind: darts}",
        "searcher: {kind: darts}\n    search: {collapse: {stop: eigenvalue, window: 7}}",
        "methods.hlrs.search",
        "raise epochs from 12 to 14",
    ),
    "moment that the method's own search never reaches": (
        "mixing: {kind: symmetric}}",
        "mixing: {kind: symmetric}, conventional: {kind: deferred, at: 0.9}}\n    search: {epochs: 2}",
        "methods.hlrs.objective.conventional.at 0.9",
        "the last of 2 epochs",
    ),
    "more branch cells than the method's own search has cells": (
        "{kind: symmetric}}",
        "{kind: symmetric}, branch_cells: 5}\n    search: {cells: 4}",
        "methods.hlrs.objective.branch_cells",
        "methods.hlrs.search.cells is 4",
    ),
    "second derivatives in bfloat16": (
        "searcher: {kind: darts}",
        "searcher: {kind: darts, order: 2}\n    search: {precision: bfloat16}",
        "methods.hlrs.searcher.order: 2",
        "methods.hlrs.search.precision",
        "float32",
    ),
    "portion that does not divide the method's own channels": (
        "searcher: {kind: darts}",
        "searcher: {kind: pc_darts}\n    search: {channels: 6}",
        "methods.hlrs.searcher.portion: 4",
        "methods.hlrs.search.channels, 6",
    ),
    "random labels without a search": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    labels: random",
        "methods.random",
        "labels random",
        "sees no labels",
        "leave out labels",
    ),
    "unknown labels": (
        "searcher: {kind: darts}",
        "searcher: {kind: darts}\n    labels: none",
        "methods.hlrs.labels",
        "'none'",
        "'given' or 'random'",
    ),
    "override of a search that trains nothing": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    search: {nodes: 3, epochs: 3}",
        "methods.random",
        "search.epochs",
        "searcher random",
        "leave it out",
    ),
    "override of a search that does not take place": (
        "searcher: {kind: random}",
        "searcher: {kind: resnet}\n    search: {nodes: 3}",
        "methods.random",
        "search.nodes",
        "leave it out",
    ),
    "an operation of another space": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    search: {space: {kind: nasbench201, primitives: [sep_conv_3x3]}}",
        "methods.random.search.space.primitives.0",
        "'sep_conv_3x3'",
        "'nor_conv_3x3'",
    ),
    "no operation but none": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    search: {space: {kind: darts, primitives: [none]}}",
        "methods.random.search.space.primitives",
        "besides none",
        "add one",
    ),
    "an operation twice": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    search: {space: {kind: darts, primitives: [none, none]}}",
        "methods.random.search.space.primitives",
        "repeats none",
    ),
    "stages of unequal length": (
        "searcher: {kind: darts}",
        "searcher: {kind: darts}\n    search: {space: {kind: nasbench201}, cells: 4}",
        "methods.hlrs.search",
        "cells 4",
        "multiple of 3",
    ),
    "a genotype of another space": (
        "searcher: {kind: random}",
        "searcher: {kind: fixed, genotype: '|none~0|'}",
        "methods.random.searcher.genotype",
        "nasbench201",
        "search.space is darts",
    ),
    "an auxiliary head that the space lacks": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    search: {space: {kind: nasbench201}, nodes: 4}\n"
        "    retrain: {cells: 3, auxiliary_weight: 0.3, drop_path: 0}",
        "methods.random.retrain.auxiliary_weight",
        "0.3",
        "nasbench201",
        "set it to 0",
    ),
    "alphas that never move": (
        "searcher: {kind: random}",
        "searcher: {kind: blank_pt}\n    search: {alphas: {lr: 0.1}}",
        "methods.random",
        "search.alphas",
        "blank_pt",
        "leave it out",
    ),
    "skip connections that are not there": (
        "searcher: {kind: darts}",
        "searcher: {kind: darts}\n    search: {space: {kind: darts, primitives: [sep_conv_3x3]}, "
        "collapse: {stop: skips}}",
        "methods.hlrs.search",
        "collapse.stop skips",
        "skip_connect",
    ),
    "another's network that no method trains": (
        "searcher: {kind: random}",
        "searcher: {kind: trained, method: resnet}",
        "methods.random.searcher.method",
        "'resnet'",
        "define it in methods",
    ),
    "its own network": (
        "searcher: {kind: random}",
        "searcher: {kind: trained, method: random}",
        "methods.random.searcher.method",
        "no network of its own",
    ),
    "another's network with other channels": (
        "searcher: {kind: random}",
        "searcher: {kind: trained, method: darts}\n    retrain: {channels: 8}",
        "methods.random.retrain.channels",
        "that of darts",
        "leave channels out",
    ),
    "another's network without its auxiliary head": (
        "searcher: {kind: random}",
        "searcher: {kind: trained, method: darts}\n    retrain: {auxiliary_weight: 0.4}",
        "methods.random.retrain.auxiliary_weight",
        "darts has 0",
    ),
    "another's network with a second branch": (
        "searcher: {kind: random}",
        "searcher: {kind: trained, method: darts}\n    retrain: {objective: {kind: bilateral}}",
        "methods.random.retrain.objective",
        "has kind bilateral",
        "darts has plain",
    ),
    "another's network that does not learn": (
        "searcher: {kind: random}",
        "searcher: {kind: trained, method: darts}\n    retrain: {epochs: 0}",
        "methods.random.retrain",
        "epochs 0",
        "set classifier",
    ),
    "cells on the skips of cells": (
        "searcher: {kind: random}",
        "searcher: {kind: implant, method: darts}",
        "methods.random.searcher.method",
        "no skips",
        "searcher resnet",
    ),
    "cells on a network that no method trains": (
        "searcher: {kind: random}",
        "searcher: {kind: implant, method: resnet}",
        "methods.random.searcher.method",
        "'resnet'",
        "define it in methods",
    ),
    "a drawn cell with a rule of the search": (
        "searcher: {kind: random}",
        "searcher: {kind: implant, method: darts, cell: random, portion: 2}",
        "methods.random.searcher",
        "portion",
        "leave portion out",
    ),
    "cells of another searcher": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    search: {space: {kind: implant}}",
        "methods.random.search.space",
        "searcher implant",
        "leave space out",
    ),
    "another's network without a name": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    retrain: {start: trained}",
        "methods.random.retrain.start",
        "searcher.method",
    ),
    "no supernet to start as": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    retrain: {start: supernet, drop_path: 0}",
        "methods.random.retrain.start",
        "trains no supernet",
        "scratch",
    ),
    "no supernet to start as, without cells": (
        "searcher: {kind: random}",
        "searcher: {kind: resnet}\n    retrain: {start: decoded}",
        "methods.random.retrain.start",
        "trains no supernet",
        "scratch",
    ),
    "a supernet of other channels": (
        "searcher: {kind: darts, order: 1}",
        "searcher: {kind: darts, order: 1}\n    retrain: {start: supernet, drop_path: 0, cells: 3}",
        "methods.darts.retrain.start",
        "search.channels 16",
        "retrain.channels 36",
        "set the latter to 16",
    ),
    "a supernet of other cells": (
        "searcher: {kind: darts, order: 1}",
        "searcher: {kind: darts, order: 1}\n    retrain: {start: decoded, drop_path: 0, channels: 16}",
        "methods.darts.retrain.start",
        "search.cells 3",
        "retrain.cells 6",
    ),
    "branches that the supernet's weights do not fit": (
        "searcher: {kind: darts}",
        "searcher: {kind: darts}\n    retrain: {start: supernet, drop_path: 0, channels: 16, cells: 3}",
        "methods.hlrs.retrain.start",
        "kind bilateral",
        "retrain.objective has plain",
    ),
    "an auxiliary head of a supernet": (
        "searcher: {kind: darts, order: 1}",
        "searcher: {kind: darts, order: 1}\n"
        "    retrain: {start: supernet, drop_path: 0, auxiliary_weight: 0.4}",
        "methods.darts.retrain",
        "start supernet",
        "set auxiliary_weight to 0",
    ),
    "no training at all": (
        "searcher: {kind: darts, order: 1}",
        "searcher: {kind: darts, order: 1}\n    retrain: {epochs: 0}",
        "methods.darts.retrain",
        "epochs 0",
        "set start to supernet or decoded",
    ),
    "a classifier of a network that is not trained": (
        "searcher: {kind: darts, order: 1}",
        "searcher: {kind: darts, order: 1}\n    retrain: {start: decoded, drop_path: 0, epochs: 0, "
        "classifier: {kind: retrained}}",
        "methods.darts.retrain",
        "classifier retrained",
        "leave classifier out",
    ),
    "a penalty that never acts": (
        "searcher: {kind: random}",
        "searcher: {kind: blank_pt}\n    search: {entropy: {weight: 1}}",
        "methods.random",
        "search.entropy",
        "blank_pt",
    ),
    "a penalty after the last epoch": (
        "searcher: {kind: darts, order: 1}",
        "searcher: {kind: darts, order: 1}\n    search: {entropy: {at: 0.95}}",
        "methods.darts.search",
        "entropy.at 0.95",
        "0.917",
    ),
    "a penalty in one epoch": (
        "searcher: {kind: darts, order: 1}",
        "searcher: {kind: darts, order: 1}\n    search: {epochs: 1, entropy: {weight: 1}}",
        "methods.darts.search",
        "entropy.at 0",
        "raise epochs",
    ),
    "a penalty on frozen alphas": (
        "searcher: {kind: darts, order: 1}\n    objective: {kind: plain}\n    arch_lr: {kind: constant}",
        "searcher: {kind: darts, order: 1}\n    arch_lr: {kind: freeze, at: 0.5}\n"
        "    search: {entropy: {at: 0.5}}",
        "methods.darts.arch_lr.at",
        "0.5",
        "methods.darts.search.entropy.at",
    ),
    "a supernet on which everything is decided": (
        "searcher: {kind: random}",
        "searcher: {kind: darts_pt}\n    retrain: {start: supernet, drop_path: 0, channels: 16, cells: 3}",
        "methods.random.retrain.start",
        "darts_pt",
        "decoded",
    ),
    "kind in an override": (
        "searcher: {kind: random}",
        "searcher: {kind: random}\n    retrain: {objective: {kind: bilateral, mixing: {kind: z}}}",
        "methods.random.retrain.objective.mixing.kind",
        "'z'",
        "'parabolic_decay'",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported_with_its_field_and_a_remedy(complaint, name):
    old, new, field, *facts = MISTAKES[name]
    blames(complaint((old, new)), field, *facts)


def blames(message, field, *facts):
    """Assert that a message starts with a field, and names the facts."""
    assert re.match(rf"{re.escape(field)}[: ]", message), message
    says(message, *facts)


# --- parts that exclude each other ----------------------------------------------------------------------

IMBALANCE = "imbalance: {kind: exponential, factor: 10}"
SOURCE = "source: {kind: digits}"
TEST = "test_per_class: 50"
OBJECTIVE = "objective: {kind: plain}"  # of the method darts, in the search
ALONE = "searcher: {kind: random}"  # the method random
SEARCH, RECIPE, LR = "epochs: 12", "epochs: 30", "{lr: 0.05}"
OF_BENCH = "search: {space: {kind: nasbench201}}\n    retrain: {cells: 3, auxiliary_weight: 0, drop_path: 0}"
DRAWS = ("seeds: [0, 1]", "seeds: [0]\n  split_seeds: [0, 1]")


def searched(objective):
    """Give the method darts another objective in the search."""
    return [(OBJECTIVE, f"objective: {objective}")]


def retrained(entries):
    """Give the method random its own entries for retraining."""
    return [(ALONE, f"{ALONE}\n    retrain: {{{entries}}}")]


def sampled(loss, sampler):
    return searched(f"{{kind: plain, loss: {{kind: {loss}}}, sampler: {{kind: {sampler}}}}}")


ADJUSTED = ("evaluate: {}", "evaluate: {adjust: 1}")


def adjusted_after(entries):
    """Adjust the predictions of all methods, of which the method random is retrained with its own entries."""
    return [ADJUSTED, *retrained(entries)]


IMPOSSIBLE = {  # name: (replacements, the field that the message starts with, what else it names)
    "adjusted after logit adjustment": (
        adjusted_after("objective: {kind: plain, loss: {kind: logit_adjustment}}"),
        "evaluate.adjust",
        "loss logit_adjustment",
        "methods.random.evaluate: {adjust: null}",
    ),
    "adjusted after deferred re-weighting": (
        adjusted_after("objective: {kind: plain, loss: {kind: ldam}}"),
        "evaluate.adjust",
        "loss ldam",
        "methods.random.evaluate: {adjust: null}",
    ),
    "adjusted after re-sampling": (
        adjusted_after("objective: {kind: plain, sampler: {kind: square_root}}"),
        "evaluate.adjust",
        "sampler square_root",
        "methods.random.evaluate: {adjust: null}",
    ),
    "adjusted after two branches": (
        adjusted_after("objective: {kind: bilateral}"),
        "evaluate.adjust",
        "sampler reversed",
        "methods.random.evaluate: {adjust: null}",
    ),
    "adjusted after GLMC": (
        adjusted_after("objective: {kind: glmc}"),
        "evaluate.adjust",
        "objective glmc",
        "methods.random.evaluate: {adjust: null}",
    ),
    "adjusted after ProCo": (
        adjusted_after("objective: {kind: proco}"),
        "evaluate.adjust",
        "loss logit_adjustment",
        "methods.random.evaluate: {adjust: null}",
    ),
    "adjusted after a second phase": (
        [(ALONE, f"{ALONE}\n    retrain: {{classifier: {{kind: retrained}}}}\n    evaluate: {{adjust: 2}}")],
        "methods.random.evaluate.adjust",
        "2",
        "classifier retrained",
        "methods.random.evaluate: {adjust: null}",
    ),
    "adjusted after a search with two branches that is evaluated as it is": (
        [
            ADJUSTED,
            (
                "arch_lr: {kind: coupled}",
                "arch_lr: {kind: coupled}\n    retrain: {start: supernet, epochs: 0, channels: 16, cells: 3, "
                "drop_path: 0, objective: {kind: bilateral, branch_cells: 1}}",
            ),
        ],
        "evaluate.adjust",
        "sampler reversed",
        "methods.hlrs.evaluate: {adjust: null}",
    ),
    "Balanced Softmax of a balanced batch": (
        sampled("balanced_softmax", "class_balanced"),
        "methods.darts.objective",
        "loss balanced_softmax",
        "sampler class_balanced",
        "use one",
    ),
    "logit adjustment of a square-root batch": (
        sampled("logit_adjustment", "square_root"),
        "methods.darts.objective",
        "loss logit_adjustment",
        "sampler square_root",
        "use one",
    ),
    "seesaw of a progressively balanced batch": (
        sampled("seesaw", "progressive"),
        "methods.darts.objective",
        "loss seesaw",
        "sampler progressive",
        "use one",
    ),
    "effective numbers of a reversed batch": (
        sampled("class_balanced", "reversed"),
        "methods.darts.objective",
        "loss class_balanced",
        "sampler reversed",
        "use one",
    ),
    "two deferred remedies": (
        sampled("ldam", "deferred"),
        "methods.darts.objective",
        "loss ldam",
        "sampler deferred",
        "use one",
        "at: null",
    ),
    "Balanced Softmax in two branches": (
        searched("{kind: bilateral, loss: {kind: balanced_softmax}}"),
        "methods.darts.objective",
        "loss balanced_softmax",
        "sampler reversed",
        "use one",
    ),
    "seesaw in a balanced dual head": (
        searched("{kind: dual_head, loss: {kind: seesaw}, sampler: {kind: class_balanced}}"),
        "methods.darts.objective",
        "loss seesaw",
        "sampler class_balanced",
        "use one",
    ),
    "balanced twice in retraining": (
        [(RECIPE, "epochs: 30, objective: {kind: plain, loss: {kind: seesaw}, sampler: {kind: reversed}}")],
        "retrain.objective",
        "loss seesaw",
        "sampler reversed",
        "use one",
    ),
    "coupled to a dual head": (
        [*searched("{kind: dual_head}"), ("{kind: constant}", "{kind: coupled}")],
        "methods.darts",
        "arch_lr coupled",
        "such as bilateral",
    ),
    "a published genotype with a schedule": (
        [(ALONE, "searcher: {kind: fixed, genotype: DARTS_V2}\n    arch_lr: {kind: constant}")],
        "methods.random",
        "searcher fixed",
        "leave out",
        "objective",
        "arch_lr",
    ),
    "a resnet with an objective in the search": (
        [(ALONE, "searcher: {kind: resnet}\n    objective: {kind: plain}")],
        "methods.random",
        "searcher resnet",
        "leave out",
        "objective",
        "arch_lr",
    ),
    "a resnet with channels": (
        [(ALONE, "searcher: {kind: resnet}\n    retrain: {epochs: 9, channels: 32}")],
        "methods.random",
        "retrain.channels",
        "resnet",
        "leave it out",
    ),
    "a width of searched cells": (
        [("{kind: darts, order: 1}", "{kind: darts, width: 64}")],
        "methods.darts.searcher.width",
        "unknown key",
        "order",
    ),
    "a resnet of odd width": (
        [(ALONE, "searcher: {kind: resnet, width: 17}")],
        "methods.random.searcher.width",
        "17",
        "multiple of 2",
    ),
    "a resnet with drop path": (
        [(ALONE, "searcher: {kind: resnet}\n    retrain: {drop_path: 0}")],
        "methods.random",
        "retrain.drop_path",
        "resnet",
        "leave it out",
    ),
    "more branch cells than a resnet has blocks": (
        [
            (
                ALONE,
                "searcher: {kind: resnet, depth: 20}\n"
                "    retrain: {objective: {kind: bilateral, branch_cells: 10}}",
            )
        ],
        "methods.random.retrain",
        "cells (blocks",
        "9",
        "10",
        "lower branch_cells",
    ),
    "a resnet on large images": (
        [(ALONE, "searcher: {kind: resnet}"), (TEST, f"{TEST}\n    stem: imagenet")],
        "methods.random",
        "resnet",
        "datasets.digits_lt.stem",
        "imagenet",
        "matrix",
    ),
    "an auxiliary head beside a dual head": (
        [("auxiliary_weight: 0", "auxiliary_weight: 0.4, objective: {kind: dual_head}")],
        "retrain",
        "objective dual_head",
        "auxiliary_weight",
        "0",
    ),
    "mixed images in two branches": (
        retrained("objective: {kind: bilateral}, mix: {kind: cutmix}"),
        "methods.random.retrain",
        "objective bilateral",
        "leave out mix cutmix",
    ),
    "ProCo in a search": (
        searched("{kind: proco}"),
        "methods.darts",
        "objective proco",
        "retrain.objective",
    ),
    "mixed images under ProCo": (
        retrained("objective: {kind: proco}, mix: {kind: mixup}"),
        "methods.random.retrain",
        "objective proco",
        "leave out mix mixup",
    ),
    "an auxiliary head beside ProCo": (
        retrained("objective: {kind: proco}, auxiliary_weight: 0.4"),
        "methods.random.retrain",
        "objective proco",
        "auxiliary_weight to 0",
    ),
    "GLMC in a search": (
        searched("{kind: glmc}"),
        "methods.darts",
        "objective glmc",
        "retrain.objective",
    ),
    "images mixed twice by GLMC": (
        retrained("objective: {kind: glmc}, mix: {kind: cutmix}"),
        "methods.random.retrain",
        "objective glmc",
        "leave out mix cutmix",
    ),
    "an auxiliary head beside GLMC": (
        retrained("objective: {kind: glmc}, auxiliary_weight: 0.4"),
        "methods.random.retrain",
        "objective glmc",
        "auxiliary_weight to 0",
    ),
    "a classifier after GLMC": (
        retrained("objective: {kind: glmc}, classifier: {kind: tau_normalized}"),
        "methods.random.retrain",
        "objective glmc",
        "leave out classifier tau_normalized",
    ),
    "a classifier after ProCo under LDAM": (
        retrained("objective: {kind: proco, loss: {kind: ldam}}, classifier: {kind: retrained}"),
        "methods.random.retrain",
        "loss ldam",
        "leave out classifier retrained",
    ),
    "ProCo that continues a supernet": (
        [
            (
                "searcher: {kind: darts, order: 1}",
                "searcher: {kind: darts, order: 1}\n    retrain: "
                "{start: decoded, drop_path: 0, channels: 16, cells: 3, objective: {kind: proco}}",
            )
        ],
        "methods.darts.retrain.start",
        "proco",
        "start to scratch",
    ),
    "a classifier after a dual head": (
        retrained("objective: {kind: dual_head}, classifier: {kind: tau_normalized}"),
        "methods.random.retrain",
        "objective dual_head",
        "leave out classifier tau_normalized",
    ),
    "a classifier after LDAM": (
        retrained("objective: {kind: plain, loss: {kind: ldam}}, classifier: {kind: retrained}"),
        "methods.random.retrain",
        "loss ldam",
        "leave out classifier retrained",
    ),
    "a classifier after a fixed frame": (
        retrained("objective: {kind: plain, head: {kind: etf}}, classifier: {kind: tau_normalized}"),
        "methods.random.retrain",
        "head etf",
        "leave out classifier tau_normalized",
    ),
    "a classifier after cosines": (
        retrained("objective: {kind: plain, head: {kind: cosine}}, classifier: {kind: retrained}"),
        "methods.random.retrain",
        "head cosine",
        "leave out classifier retrained",
    ),
    "two scales of cosines": (
        searched("{kind: plain, loss: {kind: ldam}, head: {kind: cosine, scale: 16}}"),
        "methods.darts.objective",
        "loss ldam",
        "leave out head cosine",
    ),
    "LDAM beside a linear head": (
        searched("{kind: plain, loss: {kind: ldam}, head: {kind: linear}}"),
        "methods.darts.objective",
        "loss ldam",
        "leave out head linear",
    ),
    "LDAM of a fixed frame": (
        searched("{kind: bilateral, loss: {kind: ldam, at: null}, head: {kind: etf}}"),
        "methods.darts.objective",
        "loss ldam",
        "leave out head etf",
    ),
    "a fixed frame whose rows learn": (
        searched("{kind: dual_head, head: {kind: etf}}"),
        "methods.darts.objective.head.kind",
        "etf",
        "'linear', 'cosine'",
    ),
    "the retraining of a supernet with another head": (
        [
            *searched("{kind: plain, head: {kind: etf}}"),
            ("arch_lr: {kind: constant}", "retrain: {start: supernet, channels: 16, cells: 3, drop_path: 0}"),
        ],
        "methods.darts.retrain.start",
        "head etf",
        "retrain.objective",
        "linear",
        "scratch",
    ),
    "superclasses of CIFAR-10": (
        [(SOURCE, "source: {kind: torchvision, name: cifar10, labels: coarse}")],
        "datasets.digits_lt.source",
        "labels coarse",
        "cifar10",
        "leave labels out",
    ),
    "two crops": (
        [(TEST, f"{TEST}\n    image_size: 8\n    augment: {{crop_padding: 4, resized_crop: 0.08}}")],
        "datasets.digits_lt.augment",
        "crop_padding",
        "resized_crop",
        "only one",
    ),
    "a resized crop to no size": (
        [(TEST, f"{TEST}\n    augment: {{resized_crop: 0.08}}")],
        "datasets.digits_lt",
        "image_size",
        "augment.resized_crop",
    ),
    "images of any size": (
        [(SOURCE, "source: {kind: list_file, root: a, train: b, test: c}")],
        "datasets.digits_lt",
        "image_size",
        "source list_file",
    ),
    "a power law under LDAM-DRW's protocol": (
        [(IMBALANCE, "imbalance: {kind: pareto, factor: 10}\n    protocol: ldam")],
        "datasets.digits_lt",
        "protocol ldam",
        "pareto",
        "change",
    ),
    "the end of a cosine for steps": (
        [(LR, "{schedule: {kind: multistep}, lr_min: 0.001}")],
        "retrain.weights",
        "leave lr_min out",
        "multistep",
    ),
    "a collapse that is not estimated": (
        [(SEARCH, "epochs: 12, collapse: {power_iterations: 0, stop: eigenvalue}")],
        "search.collapse",
        "stop eigenvalue",
        "power_iterations",
        "1",
    ),
    "more skip connections than edges": (
        [(SEARCH, "epochs: 12, nodes: 2, collapse: {stop: skips, skips: 5}")],
        "search",
        "collapse.skips 5",
        "4 edges",
        "lower",
    ),
    "re-weighting after the search's end": (
        [(SEARCH, "epochs: 4"), *searched("{kind: plain, loss: {kind: ldam, at: 0.8}}")],
        "methods.darts.objective.loss.at",
        "0.8",
        "progress 0.75",
        "lower",
        "raise epochs",
    ),
    "re-sampling after the retraining's end": (
        retrained("epochs: 2, objective: {kind: plain, sampler: {kind: deferred, at: 0.6}}"),
        "methods.random.retrain",
        "objective.sampler.at 0.6",
        "progress 0.5",
        "lower",
        "raise epochs",
    ),
    "alphas that freeze after the end": (
        [(SEARCH, "epochs: 2"), ("{kind: constant}", "{kind: freeze, at: 0.7}")],
        "methods.darts.arch_lr.at",
        "0.7",
        "progress 0.5",
        "lower",
        "raise epochs",
    ),
    "a schedule of alphas without steps": (
        [("{kind: darts, order: 1}", "{kind: blank_pt}")],
        "methods.darts",
        "searcher blank_pt",
        "leave it out",
        "arch_lr",
    ),
    "alphas that never move": (
        [(SEARCH, "epochs: 2"), ("{kind: darts, order: 1}", "{kind: pc_darts, warm_up: 0.6}")],
        "methods.darts.searcher.warm_up",
        "0.6",
        "progress 0.5",
        "lower",
        "raise epochs",
    ),
    "draws of all images": (
        [
            (SOURCE, "source: {kind: npz, file: a.npz}"),
            (IMBALANCE, "imbalance: {kind: natural}"),
            (f"    {TEST}\n", ""),
            DRAWS,
        ],
        "matrix.split_seeds",
        "nothing of datasets.digits_lt is drawn",
        "leave split_seeds",
        "max_per_class",
    ),
    "LDAM's draw of a natural tail": (
        [
            (IMBALANCE, "imbalance: {kind: natural}"),
            ("seeds: [0, 1]", "seeds: [0]\n  split_seeds: [0, ldam]"),
        ],
        "matrix.split_seeds",
        "datasets.digits_lt: protocol ldam needs imbalance exponential or step",
        "leave out ldam",
    ),
    "draws of a balanced set, all of it": (
        [
            (SOURCE, "source: {kind: npz, file: a.npz}"),
            (IMBALANCE, "imbalance: {kind: exponential, factor: 1}"),
            (f"    {TEST}\n", ""),
            DRAWS,
        ],
        "matrix.split_seeds",
        "nothing of datasets.digits_lt is drawn",
        "leave split_seeds",
    ),
    "LDAM's protocol without its draw": (
        [(IMBALANCE, f"{IMBALANCE}\n    protocol: ldam"), DRAWS],
        "matrix.split_seeds",
        "lacks ldam",
        "datasets.digits_lt.protocol",
        "add it",
    ),
    "a draw with the name of a data set": (
        [
            (f"    {TEST}\n", f"    {TEST}\n  digits_lt-1:\n    {SOURCE}\n    {IMBALANCE}\n    {TEST}\n"),
            DRAWS,
        ],
        "matrix.split_seeds",
        "digits_lt-1",
        "is taken",
        "rename",
    ),
    "a step of the learning rate after the end": (
        [(RECIPE, "epochs: 10"), (LR, "{schedule: {kind: multistep, at: [0.5, 0.95]}}")],
        "retrain",
        "weights.schedule.at 0.95",
        "progress 0.9",
        "lower",
        "raise epochs",
    ),
    "a peak of the learning rate after the end": (
        [(RECIPE, "epochs: 10"), (LR, "{schedule: {kind: triangular, peak: 0.97}}")],
        "retrain",
        "weights.schedule.peak 0.97",
        "progress 0.9",
        "lower",
        "raise epochs",
    ),
    "rates of rows under AdamW": (
        [*retrained("objective: {kind: dual_head}, weights: {kind: adamw}")],
        "methods.random.retrain",
        "objective dual_head",
        "adamw",
        "set weights to sgd or muon",
        "gamma to 0",
    ),
    "a warm-up of what rises anyway": (
        [(LR, "{schedule: {kind: triangular}, warm_up: 3}")],
        "retrain.weights",
        "leave warm_up out",
        "triangular",
    ),
    "the sharpness of accumulated batches": (
        retrained("sharpness: 0.05, accumulate: 4"),
        "methods.random.retrain",
        "sharpness 0.05",
        "accumulate to 1",
        "sharpness to 0",
    ),
    "two averages": (retrained("ema: 0.99, swa: 0.5"), "methods.random.retrain", "ema", "swa", "only one"),
    "a mean of one epoch": (
        retrained("epochs: 4, swa: 0.6"),
        "methods.random.retrain",
        "swa 0.6",
        "4 epochs",
        "lower",
        "raise epochs",
    ),
    "a warm-up without effect": ([(LR, "{warm_up: 1}")], "retrain.weights", "warm_up 1", "0", "2"),
    "a warm-up without end": (
        [(LR, "{warm_up: 30}")],
        "retrain",
        "weights.warm_up 30",
        "lower",
        "raise epochs",
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_parts_that_exclude_each_other_are_rejected_with_a_remedy(complaint, name):
    changes, field, *facts = IMPOSSIBLE[name]
    blames(complaint(*changes), field, *facts)


POSSIBLE = {  # close to the above, and valid
    "draws of a natural tail's test set": [(IMBALANCE, "imbalance: {kind: natural}"), DRAWS],
    "LDAM's draw among others": [
        (IMBALANCE, f"{IMBALANCE}\n    protocol: ldam"),
        ("seeds: [0, 1]", "seeds: [0]\n  split_seeds: [ldam, 0, 1]"),
    ],
    "LDAM without re-weighting, of a balanced batch": searched(
        "{kind: plain, loss: {kind: ldam, at: null}, sampler: {kind: class_balanced}}"
    ),
    "Balanced Softmax in two branches of one sampler": searched(
        "{kind: bilateral, rebalancing: {kind: uniform}, loss: {kind: balanced_softmax}}"
    ),
    "focal loss of a balanced batch": sampled("focal", "class_balanced"),
    "adjusted, but where the training has balanced": [
        ADJUSTED,
        (
            ALONE,
            f"{ALONE}\n    retrain: {{objective: {{kind: plain, loss: {{kind: balanced_softmax}}}}}}\n"
            "    evaluate: {adjust: null}",
        ),
    ],
    "adjusted after margins": adjusted_after("objective: {kind: plain, loss: {kind: ldam, at: null}}"),
    "adjusted after rates of rows": adjusted_after("objective: {kind: dual_head}"),
    "adjusted after GLMC without class weights": adjusted_after("objective: {kind: glmc, gamma: 0}"),
    "adjusted after ProCo beside plain cross-entropy": adjusted_after(
        "objective: {kind: proco, loss: {kind: cross_entropy}}"
    ),
    "adjusted after two branches of one sampler": adjusted_after(
        "objective: {kind: bilateral, rebalancing: {kind: uniform}}"
    ),
    "adjusted beside a balanced method that the matrix leaves out": [
        ("methods: [darts, hlrs, random]", "methods: [darts, hlrs]"),
        *adjusted_after("classifier: {kind: retrained}"),
    ],
    "mixed images under LDAM": retrained("objective: {kind: plain, loss: {kind: ldam}}, mix: {kind: mixup}"),
    "cosines under a dual head": searched("{kind: dual_head, head: {kind: cosine}}"),
    "mixed images under a dual head": retrained("objective: {kind: dual_head}, mix: {kind: mixup}"),
    "one rate of all rows under AdamW": retrained(
        "objective: {kind: dual_head, gamma: 0}, weights: {kind: adamw}"
    ),
    "rates of rows under Muon": retrained("objective: {kind: dual_head}, weights: {kind: muon}"),
    "a mean of two epochs": retrained("epochs: 4, swa: 0.5"),
    "a moment that the last epoch reaches": [
        (SEARCH, "epochs: 5"),
        *searched("{kind: plain, loss: {kind: class_balanced, at: 0.8}}"),
    ],
    "a cell of another space under a recipe of one node, which it does not read": [
        (ALONE, f"searcher: {{kind: fixed, genotype: '|none~0|'}}\n    {OF_BENCH}"),
        ("cells: 3}", "cells: 4, nodes: 1}"),
    ],
    "a cell of another space drawn under a recipe of four cells and more skips": [
        (ALONE, f"{ALONE}\n    {OF_BENCH}"),
        ("cells: 3}", "cells: 4, collapse: {stop: skips, skips: 7}}"),
    ],
    "a resnet under a recipe of cells": [
        (ALONE, "searcher: {kind: resnet}\n    retrain: {objective: {kind: bilateral, branch_cells: 9}}"),
        ("auxiliary_weight: 0", "auxiliary_weight: 0.4, drop_path: 0.3"),
    ],
    "a resnet that the matrix does not pair with large images": [
        ("methods: [darts, hlrs, random]", "methods: [darts, hlrs]"),
        (ALONE, "searcher: {kind: resnet}"),
        (TEST, f"{TEST}\n    stem: imagenet"),
    ],
    "a source whose images have one size": [
        (SOURCE, "source: {kind: npz, file: a.npz}"),
        (f"    {TEST}\n", ""),
    ],
}


@pytest.mark.parametrize("name", POSSIBLE)
def test_combinations_close_to_rejected_ones_are_valid(load, name):
    assert load(*POSSIBLE[name])


def test_a_resnet_uses_the_common_recipe_except_for_its_network(load):
    params = load(
        (ALONE, "searcher: {kind: resnet, depth: 56}\n    retrain: {weights: {clip: null}}"),
        ("auxiliary_weight: 0", "auxiliary_weight: 0.4, drop_path: 0.3, channels: 20"),
    )
    common, recipe = params.retrain_of("darts"), params.retrain_of("random")
    assert (recipe.cells, recipe.channels) == (27, 16)  # 56 = 2 + 2 · 27 layers; He et al. 2016, §4.2
    assert (recipe.auxiliary_weight, recipe.drop_path, recipe.weights.clip) == (0, 0, None)
    assert (recipe.epochs, recipe.weights.lr, recipe.cutout) == (30, 0.05, common.cutout)
    wide = load((ALONE, "searcher: {kind: resnet, depth: 32, width: 64}"))
    assert (wide.retrain_of("random").cells, wide.retrain_of("random").channels) == (15, 64)


def test_two_mistakes_are_counted(complaint):
    says(complaint(("epochs: 12", "epochs: 0"), ("epochs: 30", "epochs: 0")), "1 more")


@pytest.mark.parametrize(
    ("text", "problem"), [("", "empty"), ("- a\n- b\n", "['a', 'b']"), ("just words\n", "'just words'")]
)
def test_a_file_that_is_not_a_mapping(tmp_path, text, problem):
    says(failing(tmp_path, text.encode()), problem, "datasets, evaluate, matrix")


# --- the file -----------------------------------------------------------------------------------------


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml\b.*\bfolder\b"):
        load_params(tmp_path / "nowhere.yaml")


def failing(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_params(path)
    says(str(caught.value), "params.yaml")
    return str(caught.value).removeprefix(str(path))


def test_a_repeated_key_is_rejected_with_its_line(tmp_path):
    twice = PARAMS.replace("  seeds: [0, 1]\n", "  seeds: [0, 1]\n  seeds: [2]\n")  # lines 4 and 5
    found = failing(tmp_path, twice.encode())
    assert found.startswith(":5: ")
    says(found, "seeds")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("matrix:\n  seeds: [0, 1\nsearch: {}\n", 3),
        ("matrix:\n\tseeds: [0]\n", 2),
        ("matrix:\n  seeds: [0]\nsearch\nretrain: {}\n", 3),
    ],
    ids=["bracket", "tab", "colon"],
)
def test_invalid_yaml_is_rejected_with_its_line(tmp_path, text, line):
    found = failing(tmp_path, text.encode())
    assert found.startswith(f":{line}: ")
    says(found, "YAML")


def test_a_key_that_is_not_a_string_is_rejected(tmp_path):
    says(failing(tmp_path, f"1: 2\n{PARAMS}".encode()), "1", "a number is no key")


def test_bytes_that_are_not_text_are_rejected(tmp_path):
    says(failing(tmp_path, b"matrix: \xff\xfe\n"), ":1:", "UTF-8")


def test_a_control_character_is_rejected_in_one_line(tmp_path):
    says(failing(tmp_path, b"matrix: a\x00b\n"), "YAML")


def test_an_unfilled_template_is_rejected(tmp_path):
    says(failing(tmp_path, b"search:\n  epochs: {{ EPOCHS }}\n"), "YAML")


def test_infinity_is_rejected(complaint):
    blames(complaint(("factor: 10", "factor: .inf")), "datasets.digits_lt.imbalance.factor", "inf")


@pytest.mark.parametrize(("text", "value"), [("3e-4", 3e-4), ("1E-3", 1e-3), ("5.e-2", 0.05), ("1e+0", 1.0)])
def test_exponents_without_a_point_are_numbers(load, text, value):
    lr = load(("epochs: 12", f"weights: {{lr: {text}}}")).search.weights.lr
    assert type(lr) is float
    assert lr == value


def test_a_word_that_starts_like_a_number_stays_a_word(load):
    report = load(("reference: darts", "title: 3e-4x, reference: darts")).report
    assert report.title == "3e-4x"


def test_numbers_and_words_are_those_of_yaml_1_2(load):
    """YAML 1.1 has 8 for 010 and true for yes."""
    params = load(("epochs: 12", "epochs: 010"), ("reference: darts", "title: yes, reference: darts"))
    assert (params.search.epochs, params.report.title) == (10, "yes")


ODD = "a: 010\nb: yes\nc: 3e-4\nd: 0o17\ne: 1_000\nf: 12:30\n"


@pytest.mark.parametrize("text", [*(path.read_text() for path in SHIPPED), ODD])
def test_dvc_reads_the_same(tmp_path, monkeypatch, text):
    from dvc.utils.serialize import load_yaml

    path = tmp_path / "params.yaml"
    path.write_text(text)
    seen = []
    monkeypatch.setattr(Params, "model_validate", seen.append)
    load_params(path)
    assert seen == [load_yaml(str(path))]


# --- what is accepted ---------------------------------------------------------------------------------


def test_an_override_changes_only_its_entries(load):
    params = load(
        ("searcher: {kind: random}", "searcher: {kind: random}\n    retrain: {weights: {clip: 1}, cells: 8}")
    )
    recipe = params.retrain_of("random")
    assert (recipe.weights.clip, recipe.cells) == (1.0, 8)
    assert (recipe.weights.lr, recipe.epochs) == (0.05, 30)  # from the common recipe, not the defaults
    assert params.retrain_of("darts") == params.retrain


def test_weights_without_kind_are_sgds_and_an_override_without_kind_keeps_the_optimizer(load):
    assert load().retrain.weights == load((LR, "{kind: sgd, lr: 0.05}")).retrain.weights
    own = "searcher: {kind: random}\n    retrain: {weights: {lr: 0.3}}"
    muon = load((LR, "{kind: muon, rest: {lr: 0.2}}"), ("searcher: {kind: random}", own)).retrain_of("random")
    assert (muon.weights.kind, muon.weights.lr, muon.weights.rest.lr) == ("muon", 0.3, 0.2)


def test_an_override_of_the_search_changes_only_its_entries(load):
    own = "search: {alphas: {lr: 0.01}, epochs: 4}"
    params = load(
        ("epochs: 12,", "epochs: 12, alphas: {weight_decay: 0.5},"),
        ("searcher: {kind: darts}", f"searcher: {{kind: darts}}\n    {own}"),
        ("searcher: {kind: random}", "searcher: {kind: random}\n    search: {nodes: 3}"),
    )
    recipe = params.search_of("hlrs")
    assert (recipe.alphas.lr, recipe.alphas.weight_decay, recipe.epochs, recipe.cells) == (0.01, 0.5, 4, 3)
    assert params.search_of("random").nodes == 3
    assert params.search_of("darts") == params.search


def test_an_override_with_a_kind_replaces_the_whole_part(load):
    common = "objective: {kind: bilateral, mixing: {kind: equal}, branch_cells: 2}"
    params = load(
        ("auxiliary_weight: 0,", f"auxiliary_weight: 0, {common},"),
        ("searcher: {kind: random}", "searcher: {kind: random}\n    retrain: {objective: {kind: bilateral}}"),
    )
    assert params.retrain_of("random").objective == Bilateral(kind="bilateral")
    assert params.retrain_of("darts").objective.branch_cells == 2


def test_params_cannot_be_changed(load):
    with pytest.raises(ValueError, match="frozen"):
        load().search.epochs = 3


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_params_are_valid(path):
    params = load_params(path)
    assert params.matrix.methods


# --- the declarations ---------------------------------------------------------------------------------


def models():
    rooms = (data, jobs, methods, params, recipes)
    found = {m for room in rooms for _, m in inspect.getmembers(room, inspect.isclass) if issubclass(m, Spec)}
    return sorted(found - {Spec}, key=lambda model: model.__name__)


def test_every_spec_has_a_docstring():
    for model in models():
        assert model.__doc__, model
        assert model.__doc__ != Spec.__doc__, model


def test_every_spec_is_frozen_strict_and_closed():
    for model in models():
        settings = {name: model.model_config.get(name) for name in ("frozen", "extra", "strict")}
        assert settings == {"frozen": True, "extra": "forbid", "strict": True}, model


UNIONS = {
    "schedule": get_args(methods.ArchLR)[0],
    "loss": get_args(methods.Loss)[0],
    "head": get_args(methods.Head)[0],
    "sampler": get_args(methods.Sampler)[0],
    "mixing": get_args(methods.Mixing)[0],
    "objective": get_args(methods.Objective)[0],
    "optimizer": get_args(recipes.AnyOptimizer)[0],
    "learning rate": get_args(recipes.Schedule)[0],
    "searcher": get_args(methods.Searcher)[0],
    "searcher of a supernet": methods.SupernetSearcher,
    "source": get_args(data.Source)[0],
    "imbalance": get_args(data.Imbalance)[0],
}
OF_SUPERNETS = {
    "order",
    "portion",
    "edge_normalization",
    "warm_up",
    "sums_to_one",
    "tune",
    "relaxation",
}  # searchers of one


@pytest.mark.parametrize("family", UNIONS)
def test_every_kind_states_the_rules_of_its_family(family):
    specs = get_args(UNIONS[family])
    rules = {rule for spec in specs for rule in spec.__class_vars__}
    rules -= OF_SUPERNETS if family == "searcher" else set()
    assert {
        (s.__name__, r) for s in specs for r in rules if not hasattr(s, r) and r not in s.model_fields
    } == set()


DOCUMENTED = {  # where the docs name the kinds of a family: file, heading
    "schedule": ("docs/methods.md", "## HLRS"),
    "loss": ("docs/methods.md", "### Losses"),
    "head": ("docs/methods.md", "### Heads"),
    "sampler": ("docs/methods.md", "## Learning on a long tail"),
    "mixing": ("docs/methods.md", "## Learning on a long tail"),
    "objective": ("docs/methods.md", "## Learning on a long tail"),
    "optimizer": ("docs/methods.md", "## Retraining"),
    "learning rate": ("docs/methods.md", "## Retraining"),
    "searcher": ("docs/methods.md", "## The search"),
    "source": ("README.md", "## Your own images"),
    "imbalance": ("docs/methods.md", "## The long-tailed split"),
}


def section(file: str, heading: str) -> str:
    """Return what stands below a heading, up to the next one."""
    _, found, rest = (ROOT / file).read_text().partition(f"\n{heading}\n")
    assert found, f"{file}: no heading {heading}"
    return re.split(r"\n##+ ", rest)[0]


@pytest.mark.parametrize("family", DOCUMENTED)
def test_the_docs_name_every_kind(family):
    text = section(*DOCUMENTED[family])
    kinds = specs(Annotated[UNIONS[family], "a union as config has it"])
    assert [kind for kind in kinds if not re.search(rf"`{kind}`|kind: {kind}\b", text)] == []
