"""Which searcher implements which spec."""

from collections.abc import Callable

from hlrs.config.base import Kinds
from hlrs.config.methods import Darts, Gdas, PcDarts
from hlrs.nas.searchers.base import Searcher
from hlrs.nas.searchers.darts import DartsSearcher
from hlrs.nas.searchers.gdas import GdasSearcher
from hlrs.nas.searchers.pc_darts import PcDartsSearcher

SEARCHERS: Kinds[Callable[..., Searcher]] = {
    Darts: DartsSearcher,
    PcDarts: PcDartsSearcher,
    Gdas: GdasSearcher,
}
