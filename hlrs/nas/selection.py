"""When a search selects its architecture on the supernet, and what that takes (DARTS-PT, Wang et al. 2021).

After `search.epochs`, each round decides the operation of an edge, and later the edges into a node, in each
kind of cell. `searcher.tune` epochs lie between two rounds, and the last one ends the search. Without a
`tune`, nothing is selected. Loads without torch.
"""

from hlrs.config.jobs import SearchJob
from hlrs.nas.genotype import contested, first_choice


def epochs(params: SearchJob) -> int:
    """Return the epochs of a search: those of the training, and those between two rounds."""
    tune = params.searcher.tune
    return params.search.epochs + (0 if tune is None else tune * (_rounds(params) - 1))


def progress(params: SearchJob, epoch: int) -> float:
    """Return the progress t of an epoch; it stays at that of the training's last one."""
    return min(epoch, params.search.epochs - 1) / params.search.epochs


def rounds_after(params: SearchJob, epoch: int) -> range:
    """Return the rounds, counted from 0, that follow an epoch."""
    tune, tuned = params.searcher.tune, epoch + 1 - params.search.epochs
    if tune is None or tuned < 0:
        return range(0)
    if tune == 0:
        return range(_rounds(params))
    return range(0) if tuned % tune else range(tuned // tune, tuned // tune + 1)


def passes(params: SearchJob) -> int:
    """Return how often the rounds pass over the alphas' images: once per candidate."""
    if params.searcher.tune is None:
        return 0
    space, nodes = params.search.space, params.search.nodes
    operations = len(space.primitives) - first_choice(space)
    edges = sum(len(rows) for rows in contested(space, nodes))
    return len(space.kinds) * (len(space.edges(nodes)) * operations + edges)


def _rounds(params: SearchJob) -> int:
    space, nodes = params.search.space, params.search.nodes
    return len(space.edges(nodes)) + len(contested(space, nodes))
