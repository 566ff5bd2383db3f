"""The network that is retrained and evaluated."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from hlrs.artifacts.files import read_json
from hlrs.artifacts.jobs import Job, ResultPath
from hlrs.artifacts.records import trusted
from hlrs.artifacts.tensors import read_shapes, read_tensors
from hlrs.config.base import Kinds
from hlrs.config.jobs import EvaluateJob, RetrainJob
from hlrs.config.networks import MixtureValues, NetworkSpec
from hlrs.config.recipes import Inherited, Retrain
from hlrs.config.spaces import Space
from hlrs.data.sources.open import open_source
from hlrs.errors import UserError, about
from hlrs.longtail.objectives import layout_of
from hlrs.nas.arithmetic import load_products
from hlrs.nas.continuous import inherit
from hlrs.nas.genotype import PARSERS, Genotype
from hlrs.nas.mixture import decoded
from hlrs.nas.network import BranchedNetwork
from hlrs.nas.start import RANGES, keeps_classifier, taken
from hlrs.nas.trained import build, load_weights
from hlrs.stages.architectures import final_architecture

Inputs = Mapping[str, str]  # of a job


def read_genotype(path: Path, space: Space) -> Genotype:
    """Read a genotype of a space from JSON; UserError if it is not one."""
    return PARSERS[type(space)](read_json(path), str(path))


def network_of(
    params: RetrainJob | EvaluateJob, inputs: Inputs, stem: str, in_channels: int, classes: int
) -> NetworkSpec:
    """Describe the network to retrain: of a genotype, a ResNet, or what its search trained."""
    recipe, given = params.retrain, params.resnet is not None or params.inherited is not None
    return NetworkSpec(
        space=params.space,
        resnet=params.resnet,
        genotype=None if given else read_genotype(Path(inputs["genotype"]), params.space).to_json(),
        inherited=params.inherited,
        mixture=MIXTURES[type(params.inherited)](params, inputs) if params.inherited is not None else None,
        in_channels=in_channels,
        classes=classes,
        channels=recipe.channels,
        cells=recipe.cells,
        stem=stem,  # type: ignore[arg-type]
        auxiliary=not given and bool(recipe.auxiliary_weight),
        arithmetic=params.arithmetic,
        **layout_of(recipe.objective),
    )


def network_of_run(job: Job) -> tuple[BranchedNetwork, dict[str, int]]:
    """Build the network of a retraining job, initialised as PyTorch does.

    And return its layout: channels, classes and size of its images. UserError if its genotype or the images
    are missing, or if the genotype was edited.
    """
    params = RetrainJob.model_validate(job.params)
    for name in ("genotype", "alphas"):
        if name in job.inputs and not Path(job.inputs[name]).is_file():
            made = ResultPath.parse(job.inputs[name])
            raise UserError(f"{job.inputs[name]}: missing; `snakemake {made.stage}_all` builds it")
        if name in job.inputs:
            trusted(job.inputs[name])
    source = open_source(params.images.source)
    in_channels, size, _ = source.read([0], params.images.image_size).shape[1:]
    shape = params.images.stem, in_channels, len(source.classes)
    network = build(network_of(params, job.inputs, *shape))
    if params.arithmetic is not None:
        load_products(network, params.arithmetic)
    layout = {"in_channels": in_channels, "classes": len(source.classes)}
    recipe = params.retrain
    layout |= {"channels": recipe.channels, "cells": recipe.cells, "image_size": size}
    return network, layout


def load_trained(network: BranchedNetwork, path: str) -> None:
    """Copy the weights that another training wrote to a network, in place; what was added keeps its own."""
    own = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(network.added)}
    load_weights(network, own | read_tensors(Path(path))[0], path)


def load_supernet(network: BranchedNetwork, path: str) -> None:
    """Copy the weights that a search wrote to the continuous network of its supernet, in place."""
    inherit(network, read_tensors(Path(path))[0])


def fit_start(network: BranchedNetwork, recipe: Retrain, classes: Sequence[str]) -> tuple[list[str], bool]:
    """List the tensors that a network takes of the file that `retrain.start` names.

    And say whether its classifier is among them. UserError if they do not fit.
    """
    path = recipe.file or ""
    given, facts = read_shapes(Path(path))
    names = facts.get("classes")
    kept = keeps_classifier(given, names if isinstance(names, list) else None, classes)
    recipe.check_classifier(kept)
    added = network.added
    own = {n: [*t.shape] for n, t in network.state_dict().items() if not n.startswith(added)}
    with about(path):
        found = taken(own, given, kept)
        if not recipe.epochs and any(name.endswith(RANGES) and name not in found for name in own):
            raise UserError(
                "is of a network in floating point, and retrain.epochs 0 measures no ranges of its "
                "activations: raise epochs"
            )
        return found, kept


def load_start(network: BranchedNetwork, recipe: Retrain, classes: Sequence[str]) -> bool:
    """Copy the weights of the file that `retrain.start` names to a network, in place.

    Return whether its classifier is among them; one of other classes stays as it is. UserError if they do not
    fit.
    """
    names, kept = fit_start(network, recipe, classes)
    weights = load_file(recipe.file or "")
    network.load_state_dict(network.state_dict() | {name: weights[name] for name in names})
    return kept


def inherited_mixture(params: RetrainJob | EvaluateJob, inputs: Inputs) -> MixtureValues:
    """Read the weights of operations and edges: the search's last ones, or those of the genotype."""
    inherited, space = params.inherited, params.space
    assert inherited is not None
    if "genotype" in inputs:
        mixture = decoded(space, inherited.nodes, read_genotype(Path(inputs["genotype"]), space))
        return MixtureValues(operations=mixture.operations.tolist(), edges=mixture.edges.tolist())
    _, *by_cell = final_architecture(Path(inputs["alphas"]), space, "weight")
    operations, edges = (np.stack([values[kind] for kind in space.kinds]).tolist() for values in by_cell)
    return MixtureValues(operations=operations, edges=edges)


MIXTURES: Kinds[Callable[..., MixtureValues]] = {Inherited: inherited_mixture}
