"""Estimate the memory that a training or scoring needs, and what its job may have.

The estimate counts the maps that a step keeps for its backward pass, the weights with their gradients,
moments and averages, and the images that are held on the device. The maps per edge, cell and block were
fitted to measured peaks, which lie within a factor of `UNSURE` (tests/pipeline/test_memory.py measures
some): only a job that does not fit by more than that factor is refused. Loads without torch.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlrs.config.jobs import Images, RetrainJob, ScoreJob, SearchJob
from hlrs.config.recipes import Inherited, Retrain, Search
from hlrs.config.spaces import ImplantSpace, Space
from hlrs.pipeline.gpus import available, listed

MEM_MB = 8000  # that the rules of searches and retrainings request
REQUESTED = {"gpu": 1, "mem_mb": MEM_MB}  # by these rules, where no profile sets something else
LARGEST_GPU = 300e9  # bytes
MEBIBYTE = 2.0**20  # what SLURM calls a megabyte
UNSURE = 2.0

FLOAT = 4  # bytes
WORD = 8  # bytes of a pattern
OF_A_PATTERN = 4  # words: itself, joined with all others, and what finds the different ones
OF_A_MAP = {"float32": FLOAT, "bfloat16": 2}  # bytes, by precision
OF_A_WEIGHT = 3  # numbers: itself, its gradient, a step's scratch; moments and averages come on top
BLOCK = 7  # maps that a residual block of a ResNet keeps
STEMS = {"cifar": 9.0, "imagenet": 0.5}  # maps of `channels` and all pixels
RESNET_STAGES = 3


@dataclass(frozen=True)
class Maps:
    """What the networks of a space keep."""

    edge: int  # maps of an edge of the supernet, of all operations
    derived_edge: int  # maps of an edge of a derived network
    cell: int  # maps of a cell besides its edges'
    weights: tuple[int, int]  # a, b: an edge of the supernet has a c² + b c weights
    derived_weights: int  # a: an edge of a derived network has up to about a c²


MAPS = {
    "darts": Maps(16, 5, 10, (6, 102), 2),  # six separable stages
    "nasbench201": Maps(5, 4, 2, (10, 0), 9),  # a 1×1 and a 3×3 convolution
    "implant": Maps(16, 5, 10, (6, 102), 2),  # as DARTS's
}


@dataclass(frozen=True)
class Pictures:
    """The images of a split: pixels of a side, and how many are trained on (0: unknown)."""

    size: int
    count: int = 0


@dataclass(frozen=True)
class Room:
    """Bytes that a job may have, and whose they are."""

    bytes: float
    of: str


# --- what a training needs ----------------------------------------------------------------------------


def of_search(params: SearchJob, pictures: Pictures) -> float:
    """Estimate the bytes of a search."""
    search = params.search
    shape = Inherited(nodes=search.nodes, portion=params.searcher.portion)
    batch = search.batch_size * params.objective.passes
    copies = 2 * params.searcher.directions if params.searcher.order == 0 else 0  # of weights, and momentum
    needed = _of_supernet(search, search.space, shape, batch, params.images, pictures, copies)
    if isinstance(search.space, ImplantSpace):
        needed += _of_blocks(search, batch, pictures)
    return needed + _held(params.images, pictures)


def _of_supernet(
    recipe: Search | Retrain,
    space: Space,
    shape: Inherited,
    batch: int,
    images: Images,
    pictures: Pictures,
    copies: int = 0,
) -> float:
    """Estimate the bytes of a supernet's training steps, without the images; `copies` of the weights."""
    of, edges = MAPS[space.kind], len(space.edges(shape.nodes))
    plan = _cell_plan(recipe.channels, _cells(recipe, space), images, pictures)
    inner = [of.edge * edges / shape.portion * channels * size**2 for channels, size in plan]
    outer = sum(of.cell * channels * size**2 for channels, size in plan)
    kept = max(inner) if isinstance(recipe, Search) and recipe.recompute else sum(inner)
    maps = kept + max(inner) + outer  # the largest cell's gradients come on top
    maps += STEMS[images.stem] * recipe.channels * pictures.size**2
    own = [channels / shape.portion for channels, _ in plan]
    weights = edges * sum(of.weights[0] * c**2 + of.weights[1] * c for c in own)
    return _bytes(recipe, batch * maps, weights, copies)


def _bytes(recipe: Search | Retrain, maps: float, weights: float, copies: int = 0) -> float:
    """Bytes of so many elements of maps and of so many weights, of which there are further `copies`."""
    averages = recipe.averages if isinstance(recipe, Retrain) else 0
    numbers = OF_A_WEIGHT + recipe.weights.moments + averages + copies
    return OF_A_MAP[recipe.precision] * maps + FLOAT * numbers * weights


def of_retraining(params: RetrainJob, nodes: int, pictures: Pictures) -> float:
    """Estimate the bytes of a retraining; `nodes` of its genotype's cells."""
    recipe, of, edges = params.retrain, MAPS[params.space.kind], _derived_edges(params.space, nodes)
    batch = recipe.batch_size * recipe.objective.passes
    if params.inherited is not None and recipe.start == "supernet":
        needed = _of_supernet(recipe, params.space, params.inherited, batch, params.images, pictures)
        return needed + _held(params.images, pictures)
    needed = _held(params.images, pictures)
    if params.resnet is not None or isinstance(params.space, ImplantSpace):
        needed += _of_blocks(recipe, batch, pictures)
    if params.resnet is None:
        plan = _cell_plan(recipe.channels, _cells(recipe, params.space), params.images, pictures)
        maps = sum(float(edges * of.derived_edge + of.cell) * channels * size**2 for channels, size in plan)
        maps += STEMS[params.images.stem] * recipe.channels * pictures.size**2
        weights = sum(float(of.derived_weights * edges * channels**2) for channels, _ in plan)
        needed += _bytes(recipe, batch * maps, weights)
    return needed


def _of_blocks(recipe: Search | Retrain, batch: int, pictures: Pictures) -> float:
    """Estimate the bytes of a ResNet's training steps, without the images."""
    scales, blocks = [2**stage for stage in range(RESNET_STAGES)], recipe.cells // RESNET_STAGES
    stages = [(scale * recipe.channels, -(-pictures.size // scale)) for scale in scales]
    maps = sum(float(blocks * BLOCK * channels * size**2) for channels, size in stages)
    weights: float = sum(18.0 * blocks * channels**2 for channels, _ in stages)
    return _bytes(recipe, batch * maps, weights)


def _cells(recipe: Search | Retrain, space: Space) -> int:
    """Count the cells of a network: of implanted ones, one in each stage of the residual blocks."""
    return RESNET_STAGES if isinstance(space, ImplantSpace) else recipe.cells


def of_scoring(params: ScoreJob, pictures: Pictures) -> float:
    """Estimate the bytes of scoring untrained networks: the maps of one cell, and the patterns of all."""
    network, batch = params.search, params.searcher.batch_size
    edges, outer = _derived_edges(network.space, network.nodes), MAPS[network.space.kind].cell
    plan = _cell_plan(network.channels, network.cells, params.images, pictures)
    sizes = [float(channels * size**2) for channels, size in plan]
    stem = STEMS[params.images.stem] / 2 * network.channels * pictures.size**2  # no gradients
    maps = FLOAT * batch * (2 * (edges + outer) * max(sizes) + stem)  # twice: they become bits of words
    patterns = WORD * OF_A_PATTERN * 2 * edges * sum(sizes)
    return maps + patterns + _held(params.images, pictures)


def _derived_edges(space: Space, nodes: int) -> int:
    """Count the edges of a genotype's cell."""
    return (space.kept or 0) * nodes or len(space.edges(nodes))


def _cell_plan(channels: int, cells: int, images: Images, pictures: Pictures) -> list[tuple[int, int]]:
    """List the channels and the size of each cell's maps (hlrs/nas/network.py)."""
    size = -(-pictures.size // 8) if images.stem == "imagenet" else pictures.size
    plan = []
    for index in range(cells):
        if index in (cells // 3, 2 * cells // 3):
            channels, size = 2 * channels, -(-size // 2)
        plan.append((channels, size))
    return plan


def _held(images: Images, pictures: Pictures) -> float:
    """Bytes of the images that are held on the device: none where they are streamed."""
    held = 3.0 * pictures.count * pictures.size**2
    streamed = images.augment.resized_crop is not None or held > images.stream.above_mb * 1e6
    return 0.0 if streamed else held


# --- what its job may have ----------------------------------------------------------------------------


UNKNOWN = Room(LARGEST_GPU, "the largest GPU")


def room(stage: str, cores: int, workflow: Any, queued: bool) -> Room:
    """Return what a job of a stage may have under this Snakemake; `queued`: its jobs run in a queue.

    That is a GPU of unknown memory where the job runs elsewhere: in a queue, or after a dry run. `cores`:
    that the job's rule requests.
    """
    if workflow.output_settings.dryrun:
        return UNKNOWN
    if queued:
        settings = workflow.resource_settings
        cores = _value(settings.overwrite_threads.get(stage, cores))
        profile = settings.overwrite_resources.get(stage, {})
        return _requested(settings.default_resources or {}, profile, cores) or UNKNOWN
    gpu = _gpu_here(os.environ)
    return Room(gpu, "this machine's GPU") if gpu else main_memory(os.environ)


def main_memory(environment: Mapping[str, str], root: Path = Path("/")) -> Room:
    """Return the main memory that this process may have: the least of what bounds it."""
    physical = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    grouped = (Room(limit, "this process's cgroup") for limit in _cgroup_limits(root))
    allocated = (Room(limit, "this SLURM allocation") for limit in _allocated(environment))
    return min([Room(physical, "this machine"), *grouped, *allocated], key=lambda room: room.bytes)


def _cgroup_limits(root: Path) -> Iterator[float]:
    """Yield the limits on the bytes of this process's cgroup and of those around it, v1 and v2."""
    with suppress(OSError):  # a system without cgroups
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            folder, file = ("memory", "memory.limit_in_bytes") if controllers else ("", "memory.max")
            own = Path(name.lstrip("/"))  # a container may see only the group at the root, its own
            for group in (own, *own.parents):
                with suppress(OSError, ValueError):  # "max": no limit
                    yield float(int((root / "sys/fs/cgroup" / folder / group / file).read_text()))


def _allocated(environment: Mapping[str, str]) -> Iterator[float]:
    """Yield the bytes on this node of the SLURM job that this process runs in; none where it has no limit."""
    if "SLURM_JOB_ID" not in environment:
        return
    names = ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE")
    texts = (environment.get(name, "") for name in names)  # srun reads them, too: a user may set 8G
    per_node, per_cpu, cpus = (int(text) if text.isdecimal() else 0 for text in texts)
    yield from (limit * MEBIBYTE for limit in (per_node, per_cpu * cpus) if limit)  # 0: the whole node's


def _requested(defaults: Mapping[str, Any], profile: Mapping[str, Any], cores: int | None) -> Room | None:
    """Return what a job without a GPU requests; None if unknown.

    `defaults`: Snakemake's resources for rules that set none themselves, `profile`: those set for this rule.
    """
    values = {name: _value(each) for name, each in {**defaults, **REQUESTED, **profile}.items()}
    if values["gpu"] != 0 or "gres" in values or "slurm_extra" in profile:  # which may request anything
        return None
    megabytes, of = values["mem_mb"], "mem_mb"
    per_core = values.get("mem_mb_per_cpu", 0)
    if per_core != 0:  # which Snakemake's executor requests instead
        cores = values.get("cpus_per_task", cores)
        known = isinstance(per_core, int) and isinstance(cores, int) and cores > 0
        megabytes, of = per_core * cores if known else None, f"{cores} × mem_mb_per_cpu"
    return Room(megabytes * 1e6, f"the job ({of})") if isinstance(megabytes, int) and megabytes else None


def _value(resource: Any) -> Any:
    """Return the value of Snakemake's resource; None of an expression, which only a job gives one."""
    expression = getattr(resource, "is_evaluable", bool)()  # earlier versions of Snakemake do not refuse it
    return None if expression else getattr(resource, "value", resource)


def _gpu_here(environment: Mapping[str, str]) -> float:
    """Return the bytes of this machine's largest GPU; 0 without one, or if the environment leaves it out."""
    return max((gpu.total or 0.0 for gpu in listed()), default=0.0) if available(environment) else 0.0
