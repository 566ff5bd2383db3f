"""Which searcher implements which spec; what draws a genotype, or scores it, where nothing is trained."""

from collections.abc import Callable

from hlrs.config.base import Kinds
from hlrs.config.methods import (
    BetaDarts,
    BlankPt,
    Darts,
    DartsPt,
    Drnas,
    Gdas,
    PcDarts,
    Random,
    Swap,
    ZoDarts,
)
from hlrs.nas.searchers.base import Searcher
from hlrs.nas.searchers.beta_darts import BetaDartsSearcher
from hlrs.nas.searchers.darts import DartsSearcher
from hlrs.nas.searchers.drnas import DrnasSearcher
from hlrs.nas.searchers.gdas import GdasSearcher
from hlrs.nas.searchers.pc_darts import PcDartsSearcher
from hlrs.nas.searchers.perturbation import PerturbationSearcher
from hlrs.nas.searchers.random import draw_architecture
from hlrs.nas.searchers.swap import count_patterns
from hlrs.nas.searchers.zo_darts import Window
from hlrs.nas.trajectory import Architecture

SEARCHERS: Kinds[Callable[..., Searcher]] = {
    Darts: DartsSearcher,
    PcDarts: PcDartsSearcher,
    Gdas: GdasSearcher,
    BetaDarts: BetaDartsSearcher,
    Drnas: DrnasSearcher,
    DartsPt: PerturbationSearcher,
    BlankPt: PerturbationSearcher,
    ZoDarts: DartsSearcher,
}

# (spec, alphas, optimizer of the weights) -> what estimates the alphas' gradient, where its order is 0
WINDOWS: Kinds[Callable[..., Window]] = {ZoDarts: Window}

DRAWS: Kinds[Callable[..., Architecture]] = {Random: draw_architecture}

# (spec, network, images) -> the higher, the better
SCORES: Kinds[Callable[..., int]] = {Swap: count_patterns}
