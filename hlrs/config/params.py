"""Spec of the whole of params.yaml, its consistency across sections, and reading the file."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor

from hlrs.config.base import NAME_LENGTH, Name, Seed, Spec, overlay
from hlrs.config.data import Dataset, Draw, check_visible
from hlrs.config.messages import describe_error
from hlrs.config.methods import (
    OF_A_GENOTYPE,
    OF_CELLS,
    FreezeLR,
    Implant,
    Method,
    Objective,
    OnTrained,
    Plain,
    balancing,
    check_branches,
    check_moment,
    check_reached,
)
from hlrs.config.recipes import (
    OF_SUPERNET,
    Evaluate,
    Evaluation,
    Inherited,
    Report,
    Retrain,
    Search,
)
from hlrs.config.spaces import DartsSpace, ImplantSpace, Space, check_cells, space_of
from hlrs.config.tracking import Tracking
from hlrs.errors import UserError

RUNS = 100_000  # in a matrix; each has five jobs, and planning takes memory and time for each
FILE_BYTES = 10_000_000  # of params.yaml
FIRST = ("extra_forbidden", "invalid_key")  # errors to name first: a mistyped name also causes a missing key
ENTRIES = 10_000  # of a mapping in it
DIGITS = 1000  # of a number in it
# entries of a retraining that act while its network trains, not while its classifier alone does: in any case,
# and unless that reads images
OF_NETWORK = ("objective", "mix", "drop_path", "auxiliary_weight", "lookahead", "ema", "swa", "precision")
OF_IMAGES = ("sharpness", "cutout", "policy", "weights")
# entries of a search that must fit its space, with values that do where a method does not read them
UNREAD: dict[str, Any] = {"nodes": 4, "cells": 15, "collapse": {}}

Recipe = TypeVar("Recipe", Search, Retrain, Evaluation)


class Matrix(Spec):
    """What is run: every data set × method × seed, each genotype retrained once per retraining seed.

    Without retraining seeds nothing is retrained, and evaluate.table alone judges the genotypes. With split
    seeds, each data set is drawn once per split seed, else once, as it says itself.
    """

    datasets: list[Name] = Field(min_length=1, max_length=1000)
    methods: list[Name] = Field(min_length=1, max_length=1000)
    seeds: list[Seed] = Field(min_length=1, max_length=10_000)
    retrain_seeds: list[Seed] = Field([0], max_length=10_000)
    split_seeds: list[Draw] = Field([], max_length=1000)

    @model_validator(mode="after")
    def _distinct(self) -> "Matrix":
        for field in ("datasets", "methods", "seeds", "retrain_seeds", "split_seeds"):
            values = getattr(self, field)
            if len(set(values)) < len(values):
                twice = next(value for value in values if values.count(value) > 1)
                raise ValueError(f"{field} repeats an entry: {twice}; list each once")
        searches = len(self.datasets) * len(self.methods) * len(self.seeds)
        runs = searches * max(1, len(self.split_seeds)) * max(1, len(self.retrain_seeds))
        if runs > RUNS:
            factors = "datasets × methods × seeds × retrain_seeds" + " × split_seeds" * bool(self.split_seeds)
            raise ValueError(f"{factors} are {runs:,} runs, more than {RUNS:,}; shorten these lists")
        return self


class Sections(Spec):
    """The sections of `params.yaml` that decide on results."""

    matrix: Matrix
    datasets: dict[Name, Dataset] = Field(max_length=1000)
    methods: dict[Name, Method] = Field(max_length=1000)
    search: Search
    retrain: Retrain
    evaluate: Evaluate

    def draws(self, dataset: str) -> dict[str, Dataset]:
        """Return a data set once per split seed, by the name of its results: its own draw keeps its name.

        So results made without split seeds are also those of one of several draws.
        """
        own = self.datasets[dataset]
        return {
            dataset if draw == own.draw else f"{dataset}-{draw}": own.redrawn(draw)
            for draw in self.matrix.split_seeds or [own.draw]
        }


class Params(Sections):
    """The whole of `params.yaml`; every section must be present, if empty ({}), for DVC to follow it.

    Not so `tracking`, on which no result depends.
    """

    report: Report
    tracking: Tracking | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        for field, known in (("datasets", self.datasets), ("methods", self.methods)):
            for name in getattr(self.matrix, field):
                if name not in known:
                    raise ValueError(f"matrix.{field}: {_undefined(name, field, known)}")
        self._check_draws()
        for name in self.methods:
            self._check_shared(name)
        for name in self.methods:
            self._check_search(name)
            self._check_space(name)
            self._check_budget(name)
            self._check_evaluation(name)
        self._check_table()
        for name in self.matrix.methods if self.matrix.retrain_seeds else ():
            self._check_start(name)
            self._check_arithmetic(name)
        for name in self.matrix.datasets:
            dataset = self.datasets[name]
            size = dataset.image_size or dataset.source.size
            if size is not None:
                check_visible(size, dataset.augment, self._cutouts(), f"datasets.{name}")
        searchers = {name: self.methods[name].searcher for name in self.matrix.methods}
        small = {
            name: "a resnet" if space is None else f"space {space.kind}"
            for name in searchers
            if (space := self.space_of(name)) is None or not space.large_images
        }
        large = [name for name in self.matrix.datasets if self.datasets[name].stem == "imagenet"]
        if small and large:
            name, what = next(iter(small.items()))
            raise ValueError(
                f"methods.{name}: {what} has CIFAR's stem, but datasets.{large[0]}.stem is imagenet: "
                "leave one of them out of the matrix"
            )
        if self.report.reference is not None and self.report.reference not in self.matrix.methods:
            allowed = ", ".join(self.matrix.methods)
            raise ValueError(
                f"report.reference: {self.report.reference!r} is not in the matrix; allowed: {allowed}"
            )
        return self

    def _check_draws(self) -> None:
        """Reject split seeds that draw nothing or leave out a data set's own draw, and names that clash."""
        split_seeds, names = self.matrix.split_seeds, set(self.datasets)
        for name in self.matrix.datasets if split_seeds else ():
            dataset = self.datasets[name]
            if not dataset.is_drawn:
                raise ValueError(
                    f"matrix.split_seeds: nothing of datasets.{name} is drawn: its imbalance is natural, or "
                    "of factor 1, its test set its own; leave split_seeds or the data set out of the matrix, "
                    "or set its max_per_class or test_per_class"
                )
            if dataset.draw not in split_seeds:
                field = "protocol" if dataset.draw == "ldam" else "seed"
                raise ValueError(
                    f"matrix.split_seeds: lacks {dataset.draw}, the draw by datasets.{name}.{field}: "
                    "add it, or change the latter"
                )
            try:
                drawn = self.draws(name).keys() - {name}
            except ValidationError as error:
                why = describe_error(error.errors()[0], {}, Dataset)
                raise ValueError(f"matrix.split_seeds: datasets.{name}: {why}, or leave out ldam") from None
            for other in sorted(drawn):
                if other in names or len(other) > NAME_LENGTH:
                    why = "is taken" if other in names else f"is longer than {NAME_LENGTH} characters"
                    raise ValueError(
                        f"matrix.split_seeds: {other}, the name of a draw of datasets.{name}, {why}: rename "
                        "the data set, or use another seed"
                    )
            names |= drawn

    def _check_shared(self, name: str) -> None:
        """Reject a network that no other method trains, and entries that would change it."""
        searcher, own = self.methods[name].searcher, self.methods[name].retrain
        if not isinstance(searcher, OnTrained):
            return
        field = f"methods.{name}.searcher.method"
        if searcher.method not in self.methods:
            alone = {
                other: method.searcher
                for other, method in self.methods.items()
                if not isinstance(method.searcher, OnTrained)
            }
            if isinstance(searcher, Implant):
                alone = {other: each for other, each in alone.items() if each.genotype_is == "absent"}
            raise ValueError(f"{field}: {_undefined(searcher.method, 'methods', alone)}")
        other = self.methods[searcher.method].searcher
        if isinstance(other, OnTrained):
            raise ValueError(
                f"{field}: {searcher.method} has no network of its own, as its searcher is {other.kind}: "
                "name another method"
            )
        if isinstance(searcher, Implant) and other.genotype_is != "absent":
            raise ValueError(
                f"{field}: {searcher.method} trains a network of cells, which has no skips to implant others "
                "on: name a method with searcher resnet"
            )
        of_network = OF_CELLS if other.genotype_is == "absent" else ("channels", "cells")
        fixed = [f"retrain.{entry}" for entry in ("start", *of_network) if entry in own]
        if isinstance(searcher, Implant):
            layout = ("channels", "cells")
            fixed += [f"search.{entry}" for entry in layout if entry in self.methods[name].search]
        if fixed:
            raise ValueError(
                f"methods.{name}.{fixed[0]}: the network is that of {searcher.method}, with its weights: "
                f"leave {fixed[0].partition('.')[2]} out"
            )
        if name not in self.matrix.methods:
            return
        if searcher.method not in self.matrix.methods:
            raise ValueError(
                f"{field}: {searcher.method} is not in matrix.methods, so nothing trains it: add it"
            )
        if not self.matrix.retrain_seeds:
            raise ValueError(
                f"{field}: matrix.retrain_seeds is empty, so nothing trains {searcher.method}: list a "
                f"seed, or leave {name} out of the matrix"
            )

    def _check_table(self) -> None:
        """Reject what needs evaluate.table where there is none."""
        if self.evaluate.table is not None:
            return
        if not self.matrix.retrain_seeds:
            raise ValueError(
                "matrix.retrain_seeds: is empty, so nothing would judge the genotypes; list a seed, or name "
                "a table of accuracies in evaluate.table"
            )
        for name, dataset in self.datasets.items():
            if dataset.table_column is not None:
                raise ValueError(
                    f"datasets.{name}.table_column: {dataset.table_column!r} is a column of no table; name "
                    "the table in evaluate.table, or leave this out"
                )

    def _cutouts(self) -> dict[str, int]:
        """The cutouts of the matrix, by their fields."""
        found = {}
        for name in self.matrix.methods:
            if self.methods[name].searcher.genotype_is == "searched":
                found[self._field(name, "search", "cutout")] = self.search_of(name).cutout
            if self.matrix.retrain_seeds:
                found[self._field(name, "retrain", "cutout")] = self.retrain_of(name).cutout
        return found

    def _check_search(self, name: str) -> None:
        """Reject a method that does not fit the recipe of its search."""
        method, recipe, field = self.methods[name], self.search_of(name), f"methods.{name}"
        check_reached(method, recipe.epochs, field)
        cells = f"{field}.objective.branch_cells: {self._field(name, 'search', 'cells')}"
        check_branches(method.objective, recipe.cells, cells)
        searcher = method.searcher
        if searcher.genotype_is != "searched":
            return
        if searcher.order != 1 and recipe.precision == "bfloat16":
            wants, remedy = {
                0: ("searcher.perturbation divides differences of weights", ""),
                2: ("searcher.order: 2 takes second derivatives", "order to 1, or "),
            }[searcher.order]
            raise ValueError(
                f"{field}.{wants}, for which {self._field(name, 'search', 'precision')} bfloat16 is too "
                f"coarse: set {remedy}precision to float32"
            )
        frozen = method.arch_lr.at if isinstance(method.arch_lr, FreezeLR) else 1.0
        if recipe.entropy is not None and frozen <= recipe.entropy.at:
            raise ValueError(
                f"{field}.arch_lr.at {frozen:g} freezes the alphas before the penalty acts, from "
                f"{self._field(name, 'search', 'entropy')}.at {recipe.entropy.at:g} on: raise the former, or "
                "lower the latter"
            )
        if searcher.warm_up < 1:
            check_moment(searcher.warm_up, recipe.epochs, f"{field}.searcher.warm_up")
        if recipe.channels % searcher.portion:
            channels = self._field(name, "search", "channels")
            if isinstance(searcher, Implant):
                channels = f"methods.{searcher.method}.searcher.width"
            raise ValueError(
                f"{field}.searcher.portion: {searcher.portion} does not divide {channels}, "
                f"{recipe.channels}: change either"
            )

    def space_of(self, method: str) -> Space | None:
        """Return the search space of a method, None for a network without cells."""
        searcher = self.methods[method].searcher
        if searcher.genotype_is == "shared":
            return self.space_of(searcher.method)
        return None if searcher.genotype_is == "absent" else self.search_of(method).space

    def _check_space(self, name: str) -> None:
        """Reject a genotype of another space, and a recipe that the space's networks do not have."""
        recipe, space, searcher = self.retrain_of(name), self.space_of(name), self.methods[name].searcher
        if space is None:
            return
        if searcher.genotype_is == "given" and searcher.run is not None:
            self._check_found(name, *searcher.run)
        elif (
            searcher.genotype_is == "given"
            and not searcher.file
            and space_of(searcher.genotype) != space.kind
        ):
            field = self._field(name, "search", "space")
            raise ValueError(
                f"methods.{name}.searcher.genotype: {searcher.genotype} is of space "
                f"{space_of(searcher.genotype)}, but {field} is {space.kind}; change either"
            )
        if isinstance(space, ImplantSpace) != isinstance(searcher, Implant):
            raise ValueError(
                f"{self._field(name, 'search', 'space')}: searcher {searcher.kind} does not search space "
                f"{space.kind}; implant is the space of searcher implant, and its only one: leave space out"
            )
        if name not in self.matrix.methods or not self.matrix.retrain_seeds:
            return
        check_cells(space, recipe.cells, self._field(name, "retrain", "cells"))
        for entry in ("auxiliary_weight", "drop_path"):
            if getattr(recipe, entry) and not space.auxiliary:
                field = self._field(name, "retrain", entry)
                raise ValueError(
                    f"{field} is {getattr(recipe, entry):g}, but networks of space {space.kind} have none: "
                    "set it to 0"
                )

    def _check_found(self, name: str, dataset: str, method: str, seed: int) -> None:
        """Reject a run that is not in the matrix, or finds no genotype of a method's space."""
        field = f"methods.{name}.searcher.genotype"
        datasets = {drawn for known in self.matrix.datasets for drawn in self.draws(known)}
        for part, value, known in (
            ("data set", dataset, datasets),
            ("method", method, self.matrix.methods),
            ("seed", seed, self.matrix.seeds),
        ):
            if name in self.matrix.methods and value not in known:
                raise ValueError(
                    f"{field}: no run of the matrix has {part} {value}: add it to the matrix, or name the "
                    "file of a genotype that was found before"
                )
        if method not in self.methods:
            return
        if self.methods[method].searcher.genotype_is not in ("searched", "drawn", "scored"):
            raise ValueError(f"{field}: {method} finds no genotype; name a method that searches or draws one")
        own, theirs = self.space_of(name), self.space_of(method)
        if own is not None and theirs is not None and own.kind != theirs.kind:
            raise ValueError(
                f"{field}: {method} finds genotypes of space {theirs.kind}, but "
                f"{self._field(name, 'search', 'space')} is {own.kind}; change either"
            )

    def _check_budget(self, name: str) -> None:
        """Reject a budget of a network that is not the genotype's, or that nothing trains."""
        budget, start = self.search_of(name).budget, self.retrain_of(name).start
        finds = self.methods[name].searcher.genotype_is in ("searched", "drawn", "scored")
        if budget is None or not finds or name not in self.matrix.methods:
            return
        field = self._field(name, "search", "budget")
        if not self.matrix.retrain_seeds:
            raise ValueError(
                f"{field} bounds the network that is retrained, and matrix.retrain_seeds is empty: list a "
                "seed, or leave budget out"
            )
        if start in OF_SUPERNET:
            raise ValueError(
                f"{field} bounds the genotype's network, and with {self._field(name, 'retrain', 'start')} "
                f"{start} the supernet is retrained: set start to scratch, or leave budget out"
            )

    def _check_start(self, name: str) -> None:
        """Reject a retraining that starts as a supernet which no search of the method trains."""
        recipe, method = self.retrain_of(name), self.methods[name]
        start = f"{self._field(name, 'retrain', 'start')} {recipe.start}"
        if recipe.start == "scratch":
            return
        if recipe.file is not None:
            self._check_resting(name, shaping=("objective",))
            return
        if method.searcher.genotype_is == "shared":
            self._check_same_network(name, method.searcher.method)
            return
        if isinstance(method.searcher, Implant):
            self._check_implanted(name, method.searcher)
            return
        if recipe.start == "trained":
            raise ValueError(
                f"{start} is what searcher trained has: name the other method in searcher.method"
            )
        if method.searcher.genotype_is != "searched":
            raise ValueError(
                f"{start}: searcher {method.searcher.kind} trains no supernet: set start to scratch"
            )
        if recipe.start == "supernet" and method.searcher.tune is not None:
            raise ValueError(
                f"{start}: searcher {method.searcher.kind} decides everything on the supernet, so nothing "
                "continuous is left: set start to decoded"
            )
        search, objective = self.search_of(name), method.objective or Plain()
        for entry in ("channels", "cells"):
            own, supernet = getattr(recipe, entry), getattr(search, entry)
            if own != supernet:
                raise ValueError(
                    f"{start}: the supernet has {self._field(name, 'search', entry)} {supernet}, not "
                    f"{self._field(name, 'retrain', entry)} {own}: set the latter to {supernet}"
                )
        differing = _differing_heads(objective, recipe.objective)
        if differing is not None:
            entry, supernet, own = differing
            raise ValueError(
                f"{start}: the search's objective has {entry} {supernet}, "
                f"{self._field(name, 'retrain', 'objective')} has {own}, so branches or classifiers differ: "
                "give the retraining the search's objective, or set start to scratch"
            )

    def _check_arithmetic(self, name: str) -> None:
        """Reject approximate arithmetic that a method's network does not have."""
        method, field = self.methods[name], f"methods.{name}.arithmetic"
        searcher, arithmetic = method.searcher, method.arithmetic
        if isinstance(searcher, Implant) and self.methods[searcher.method].arithmetic is not None:
            raise ValueError(
                f"methods.{name}.searcher.method: {searcher.method} has approximate arithmetic, and cells "
                "are implanted on networks without: name another method"
            )
        if arithmetic is None:
            return
        if searcher.genotype_is == "shared":
            raise ValueError(
                f"{field}: the network is the one that {searcher.method} trains: set "
                f"methods.{searcher.method}.arithmetic, or leave it out"
            )
        if isinstance(searcher, Implant) and arithmetic.where == "convolutions":
            raise ValueError(
                f"{field}.where: the network of {searcher.method} rests as it was trained, in floating "
                "point: set where to primitives"
            )
        if searcher.genotype_is == "absent" and arithmetic.where == "primitives":
            raise ValueError(f"{field}.where: a {searcher.kind} has no primitives: set where to convolutions")
        if not arithmetic.in_search and searcher.genotype_is not in ("searched", "scored"):
            raise ValueError(
                f"{field}.in_search: false changes nothing, as searcher {searcher.kind} reads no images "
                "in the search: leave it out"
            )
        idle = searcher.genotype_is in ("given", "drawn") or not arithmetic.in_search
        if idle and not self.matrix.retrain_seeds:
            raise ValueError(
                f"{field} changes nothing, as the search is without and matrix.retrain_seeds is empty: leave "
                "it out, or list a seed"
            )

    def _check_same_network(self, name: str, other: str) -> None:
        """Reject a recipe whose network is not the one that another method's recipe trains from scratch."""
        recipe, trained, field = self.retrain_of(name), self.retrain_of(other), f"methods.{name}"
        self._check_resting(name)
        if trained.start != "scratch" and trained.file is None:
            raise ValueError(
                f"{field}.searcher.method: {other} starts as its {trained.start} network, so its own epochs "
                "can be raised; name a method that starts from scratch"
            )
        if bool(recipe.auxiliary_weight) != bool(trained.auxiliary_weight):
            raise ValueError(
                f"{field}.retrain.auxiliary_weight {recipe.auxiliary_weight:g}: {other} has "
                f"{trained.auxiliary_weight:g}, and the auxiliary head is a part of its network: set both to "
                "0, or neither"
            )
        differing = _differing_heads(trained.objective, recipe.objective)
        if differing is not None:
            entry, theirs, own = differing
            raise ValueError(
                f"{field}.retrain.objective: has {entry} {own}, {other} has {theirs}, so branches or "
                "classifiers differ: change the objective"
            )

    def _check_resting(self, name: str, shaping: tuple[str, ...] = ()) -> None:
        """Reject entries that act while a network trains, where it rests; those `shaping` it act as well."""
        recipe = self.retrain_of(name)
        on_images = recipe.classifier is not None and any(recipe.classifier.passes)
        entries = OF_NETWORK if on_images else OF_NETWORK + OF_IMAGES
        own = self.methods[name].retrain.keys() - {*shaping}
        idle = [entry for entry in entries if entry in own]
        if idle and not recipe.epochs:
            raise ValueError(
                f"methods.{name}.retrain.{idle[0]}: acts while the network trains, and epochs is 0: leave it "
                "out, or raise epochs"
            )

    def _check_evaluation(self, name: str) -> None:
        """Reject an adjustment of what is balanced already, and entries where nothing is evaluated."""
        evaluation, own = self.evaluate_of(name), self.methods[name].evaluate
        if name not in self.matrix.methods:
            return
        if not self.matrix.retrain_seeds and (own or evaluation.adjust is not None):
            field = f"methods.{name}.evaluate" if own else "evaluate.adjust"
            raise ValueError(
                f"{field} changes nothing, as matrix.retrain_seeds is empty and no network is evaluated: "
                "leave it out, or list a seed"
            )
        if evaluation.adjust is not None and (balanced := self._balanced_by(name)):
            raise ValueError(
                f"{self._field(name, 'evaluate', 'adjust')} {evaluation.adjust:g} makes up for the "
                f"classes' frequencies, as {balanced} of methods.{name} has already: classes would be "
                f"corrected twice; set methods.{name}.evaluate: {{adjust: null}}"
            )

    def _balanced_by(self, name: str) -> str:
        """Name what in a method's training makes up for the classes' frequencies; "" if nothing does."""
        recipe, method = self.retrain_of(name), self.methods[name]
        if recipe.classifier is not None and recipe.classifier.rebalances:
            return f"classifier {recipe.classifier.kind}"
        if not recipe.epochs:  # what the search, or another method, trained is evaluated as it is
            if method.searcher.genotype_is == "shared":
                return self._balanced_by(method.searcher.method)
            unknown = recipe.file is not None  # the objective that its weights were trained by
            return "" if unknown or method.objective is None else balancing(method.objective)
        return balancing(recipe.objective)

    def _check_implanted(self, name: str, searcher: Implant) -> None:
        """Reject recipes of cells that do not fit the network to implant them on."""
        other, field = searcher.method, f"methods.{name}"
        recipe, trained = self.retrain_of(name), self.retrain_of(other).objective
        if trained.kind != "plain":
            raise ValueError(
                f"{field}.searcher.method: {other} has objective {trained.kind}, and cells learn on a "
                "network of objective plain: name another method"
            )
        self._check_same_network(name, other)
        if recipe.classifier is not None:
            raise ValueError(
                f"{field}.retrain.classifier: the classifier is that of {other}, and rests: leave it out"
            )
        if 0 not in self.matrix.retrain_seeds:
            raise ValueError(
                f"matrix.retrain_seeds: lacks 0, and the cells of {name} are searched on what {other} "
                f"trained with that seed: add 0, or leave {name} out of the matrix"
            )
        differing = _differing_heads(trained, self.methods[name].objective or Plain())
        if searcher.genotype_is == "searched" and differing is not None:
            entry, theirs, own = differing
            raise ValueError(
                f"{field}.objective: has {entry} {own}, {other} is trained with {theirs}, so classifiers "
                f"differ: give the search the objective of {other}"
            )

    def inherited_of(self, method: str) -> Inherited | None:
        """Return the supernet that a method's retraining starts as; None for one from scratch."""
        searcher = self.methods[method].searcher
        if searcher.genotype_is != "searched" or self.retrain_of(method).start not in OF_SUPERNET:
            return None
        return Inherited(nodes=self.search_of(method).nodes, portion=searcher.portion)

    def _field(self, method: str, section: Literal["search", "retrain", "evaluate"], entry: str) -> str:
        """Name an entry of a method's recipe as the file does."""
        own = entry in getattr(self.methods[method], section)
        return f"methods.{method}.{section}.{entry}" if own else f"{section}.{entry}"

    def search_of(self, method: str) -> Search:
        """Lay a method's own entries over the common recipe; ValueError if they do not fit.

        Implanted cells have their own space, with the operations of the common one if it is DARTS's, and the
        layout of the network that they are implanted on.
        """
        searcher, network, common = self.methods[method].searcher, {}, self.search.space
        if searcher.genotype_is != "searched":
            read = OF_A_GENOTYPE.get(searcher.genotype_is, ())
            network = {entry: value for entry, value in UNREAD.items() if entry not in read}
        if isinstance(searcher, Implant):
            trained = self.retrain_of(searcher.method)
            operations = {"primitives": common.primitives} if isinstance(common, DartsSpace) else {}
            space = {"kind": "implant", **operations}
            network |= {"channels": trained.channels, "cells": trained.cells, "space": space}
        return _overlaid(self.search, network, self.methods[method].search, f"methods.{method}.search")

    def retrain_of(self, method: str) -> Retrain:
        """Lay a method's own entries over the common recipe; ValueError if they do not fit.

        A ResNet has no auxiliary head and no drop path; its channels are its width, its cells its residual
        blocks. What is on another method's network has that one's recipe, but for its classifier.
        """
        searcher, network = self.methods[method].searcher, {}
        field, own = f"methods.{method}.retrain", self.methods[method].retrain
        if isinstance(searcher, OnTrained):
            return _overlaid(
                self.retrain_of(searcher.method), {"start": "trained", "classifier": None}, own, field
            )
        if searcher.genotype_is == "absent":
            blocks = (searcher.depth - 2) // 2
            network = {"channels": searcher.width, "cells": blocks, "auxiliary_weight": 0.0, "drop_path": 0.0}
        return _overlaid(self.retrain, network, own, field)

    def evaluate_of(self, method: str) -> Evaluation:
        """Lay a method's own entries over the common evaluation; ValueError if they do not fit."""
        common = Evaluation(**self.evaluate.model_dump(exclude={"table"}))
        return _overlaid(common, {}, self.methods[method].evaluate, f"methods.{method}.evaluate")


def _undefined(name: str, section: str, known: Collection[str]) -> str:
    """Say where to define what a section lacks, and what can be named in its place."""
    others = f", or name one of: {', '.join(known)}" if known else ""
    return f"{name!r} is not defined; define it in {section}{others}"


def _heads(objective: Objective) -> dict[str, object]:
    """Return what an objective's branches and classifiers depend on."""
    return {
        "kind": objective.kind,
        "branch_cells": objective.branch_cells,
        "scale of cosines": objective.loss.scale,
        "head": objective.head.kind,
        "head scale": getattr(objective.head, "scale", None),
    }


def _differing_heads(one: Objective, other: Objective) -> tuple[str, object, object] | None:
    """Return the first thing in which two objectives' branches or classifiers differ, and both values."""
    ones, others = _heads(one), _heads(other)
    return next(((name, ones[name], others[name]) for name in ones if ones[name] != others[name]), None)


def _overlaid(common: Recipe, network: dict[str, Any], override: dict[str, Any], field: str) -> Recipe:
    """Lay what follows from the network, then a method's own entries, over a common recipe."""
    if not network and not override:
        return common
    merged = overlay(common.model_dump() | network, override)
    try:
        return type(common).model_validate(merged)
    except ValidationError as error:
        detail = error.errors()[0]
        separator = "." if detail["loc"] else ": "
        raise ValueError(f"{field}{separator}{describe_error(detail, merged, type(common))}") from None


def load(path: Path) -> Params:
    """Read and validate `params.yaml`; UserError with one line that names file, field and remedy."""
    raw = _read(path)
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        details = sorted(error.errors(), key=lambda detail: detail["type"] not in FIRST)
        more = f"  (and {len(details) - 1} more)" if len(details) > 1 else ""
        raise UserError(f"{path}: {describe_error(details[0], raw, Params)}{more}") from None


def _read(path: Path) -> Any:
    """Read a YAML file; UserError for one that is missing, huge or malformed."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; run in the folder of params.yaml, or name a file of parameters"
        ) from None
    if len(content) > FILE_BYTES:
        raise UserError(f"{path}: longer than {FILE_BYTES / 1e6:.0f} MB; name a file of parameters")
    try:
        yaml = YAML(typ="safe", pure=True)
        yaml.Constructor = _Constructor
        return yaml.load(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 ({error.reason}); save it as UTF-8") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply; no parameter lies that deep") from None
    except Exception as error:  # YAMLError, or whatever its readers of numbers and dates raise
        raise UserError(f"{path}{_syntax(error)}") from None


class _Constructor(SafeConstructor):
    """Builds what YAML describes, but no number of absurd length, and no merge keys that multiply entries."""

    def construct_yaml_int(self, node: Any) -> int:
        """Build a whole number."""
        if len(node.value) > DIGITS:
            raise ConstructorError("", None, f"a number of {len(node.value)} characters", node.start_mark)
        return int(super().construct_yaml_int(node))

    def flatten_mapping(self, node: Any) -> None:
        """Replace a mapping's merge keys by the entries that they name."""
        super().flatten_mapping(node)
        if len(node.value) > ENTRIES:
            raise ConstructorError("", None, f"<< merges more than {ENTRIES} entries", node.start_mark)


_Constructor.add_constructor("tag:yaml.org,2002:int", _Constructor.construct_yaml_int)


def _syntax(error: Exception) -> str:
    """Describe a YAML error by its line and problem."""
    a_key = getattr(error, "context", None) == "while scanning a simple key"  # that lacks its colon
    mark = getattr(error, "context_mark" if a_key else "problem_mark", None)
    where = f":{mark.line + 1}" if mark else ""
    problem = getattr(error, "problem", None) or str(error) or type(error).__name__
    return f"{where}: not valid YAML: {problem.splitlines()[0].partition(' with value')[0]}"
