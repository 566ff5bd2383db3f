"""Whether a network allows its arithmetic, before anything is trained."""

from collections.abc import Mapping
from typing import Any

import torch

from hlrs.config.jobs import RetrainJob, ScoreJob, SearchJob
from hlrs.config.methods import Darts
from hlrs.config.networks import NetworkSpec
from hlrs.config.spaces import Space
from hlrs.longtail.objectives import layout_of
from hlrs.nas.arithmetic import approximate
from hlrs.nas.searchers.base import Searcher
from hlrs.nas.searchers.darts import DartsSearcher
from hlrs.nas.searchers.table import SEARCHERS
from hlrs.nas.spaces import SUPERNETS
from hlrs.nas.trained import build
from hlrs.stages.networks import network_of

LAYOUT: dict[str, Any] = {"in_channels": 3, "classes": 2}  # no sum of products depends on these


def check_arithmetic(
    params: SearchJob | ScoreJob | RetrainJob, nodes: int, known: Mapping[str, str] | None = None
) -> None:
    """Raise UserError if a network does not allow its arithmetic.

    Of a genotype that is still to find, by the supernet of so many nodes per cell; `known`: the inputs of a
    retraining whose genotype is known.
    """
    with torch.device("meta"):
        if isinstance(params, RetrainJob) and known is not None:
            build(network_of(params, known, params.images.stem, **LAYOUT))
            return
        if isinstance(params, SearchJob):
            search, searcher = params.search, SEARCHERS[type(params.searcher)](params.searcher)
            _check(params, search.space, searcher, nodes, search, layout_of(params.objective))
        elif isinstance(params, ScoreJob):
            _check(params, params.search.space, DartsSearcher(Darts()), nodes, params.search, {})
        elif params.resnet is not None:
            recipe = params.retrain
            shape = {"channels": recipe.channels, "cells": recipe.cells, **layout_of(recipe.objective)}
            build(
                NetworkSpec(
                    space=params.space, resnet=params.resnet, arithmetic=params.arithmetic, **shape, **LAYOUT
                )
            )
        else:
            layout = layout_of(params.retrain.objective)
            _check(params, params.space, DartsSearcher(Darts()), nodes, params.retrain, layout)


def _check(
    params: Any, space: Space, searcher: Searcher, nodes: int, recipe: Any, layout: dict[str, Any]
) -> None:
    shape = {"channels": recipe.channels, "cells": recipe.cells, "stem": params.images.stem}
    supernet = SUPERNETS[type(space)](space, searcher, nodes=nodes, **shape, **layout, **LAYOUT)
    approximate(supernet, params.arithmetic, tracked=False)
