"""Which supernet and which networks implement which search space; its genotypes are in `nas.genotype`."""

from collections.abc import Callable

from hlrs.config.base import Kinds
from hlrs.config.spaces import DartsSpace, ImplantSpace, NasBench201Space
from hlrs.nas.derived import DerivedNetwork
from hlrs.nas.implant import ImplantNetwork, ImplantSupernet
from hlrs.nas.nasbench201 import NasBench201Network, NasBench201Supernet
from hlrs.nas.network import BranchedNetwork
from hlrs.nas.supernet import DartsSupernet, Supernet

# (space, searcher, *, nodes, recompute, and the network's layout)
SUPERNETS: Kinds[Callable[..., Supernet]] = {
    DartsSpace: DartsSupernet,
    NasBench201Space: NasBench201Supernet,
    ImplantSpace: ImplantSupernet,
}

# (genotype, *, and the network's layout)
NETWORKS: Kinds[Callable[..., BranchedNetwork]] = {
    DartsSpace: DerivedNetwork,
    NasBench201Space: NasBench201Network,
    ImplantSpace: ImplantNetwork,
}
