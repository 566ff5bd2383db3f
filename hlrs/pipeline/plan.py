"""Turn validated params into jobs.

The inputs' paths carry their own keys, so a key covers everything upstream. A result that exists is current.
`freeze` writes each job's spec to `.hlrs/specs/<key>.json`; jobs read that, never `params.yaml`.
"""

import errno
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hlrs.artifacts.code_digest import code_digest
from hlrs.artifacts.data_digest import content_digest, file_digests
from hlrs.artifacts.files import UNREADABLE, read_json, replacing, replacing_folder, set_aside, write_json
from hlrs.artifacts.jobs import (
    ASIDE,
    CHECKPOINTS,
    OUTPUTS,
    PROVENANCE,
    PUBLISHED,
    RESULTS,
    SPECS,
    Job,
    folders,
    key_of,
    load_spec,
    repeat,
)
from hlrs.artifacts.records import Record
from hlrs.artifacts.tensors import read_shapes
from hlrs.config.arithmetic import Arithmetic, TableMultiplier
from hlrs.config.base import Spec
from hlrs.config.data import Dataset, Groups
from hlrs.config.jobs import (
    BudgetedNetwork,
    DrawJob,
    EvaluateJob,
    ExtractJob,
    Images,
    LookupJob,
    ReportJob,
    RetrainJob,
    ScoredNetworks,
    ScoreJob,
    SearchJob,
    SplitJob,
)
from hlrs.config.methods import ConstantLR, Fixed, Implant, OnTrained, PcDarts, Plain, Random, Softmax
from hlrs.config.params import Params, Sections
from hlrs.config.spaces import DartsSpace, NasBench201Space
from hlrs.errors import HlrsError, UserError, about
from hlrs.nas.cell_table import check_column, operations, read_table_of_cells
from hlrs.nas.genotype import given
from hlrs.nas.multipliers import read_products
from hlrs.pipeline.locks import leased

REPORTED = {  # what the report reads of each stage; with every record, so that one that is missing is made
    "split": ["classes.json", PROVENANCE],
    "search": ["alphas.parquet", "history.parquet", PROVENANCE],
    "extract": ["genotype.json", "normal.svg", "reduce.svg", PROVENANCE],
    "lookup": ["lookup.json", PROVENANCE],
    "retrain": ["history.parquet", "features.parquet", PROVENANCE],
    "evaluate": ["metrics.json", PROVENANCE],
}


@dataclass(frozen=True)
class Shared:
    """What the runs of a plan share, so that it is read once.

    `lookup`: the parameters of look-ups; `contents`: SHA-256 of the files that retrainings start with, by
    path; `given`: genotypes by method, as spelled or as a file's content; `found`: by method, the input that
    holds the genotype which another run finds; `arithmetics`: by method, where it is approximate.
    """

    params: Params
    lookup: LookupJob | None = None
    contents: dict[str, str] = field(default_factory=dict)
    given: dict[str, str | dict[str, Any]] = field(default_factory=dict)
    found: dict[str, dict[str, str]] = field(default_factory=dict)
    arithmetics: dict[str, Arithmetic] = field(default_factory=dict)


def make_job(stage: str, run: str, params: Spec, inputs: dict[str, str]) -> Job:
    """Build a job with its key."""
    body = {
        "stage": stage,
        "run": run,
        "params": params.model_dump(),
        "code": code_digest(stage, params),
        "inputs": inputs,
    }
    return Job(**body, key=key_of(body))  # type: ignore[arg-type]


def plan(params: Params) -> list[Job]:
    """List every job of the matrix, upstream first.

    UserError if a data file is missing, a table unfit, or a file to start with not one of weights.
    """
    jobs: list[Job] = []
    genotypes = _given_genotypes(params)
    arithmetics = _arithmetics(params)
    found = {name: _found_by(params, arithmetics, name) for name in params.matrix.methods}
    shared = Shared(
        *(params, _lookup_params(params, genotypes), _start_digests(params), genotypes, found, arithmetics)
    )
    for name in params.matrix.datasets:
        for drawn, dataset in params.draws(name).items():
            jobs += _dataset_jobs(shared, drawn, dataset)
    used = {
        "datasets": {name: params.datasets[name] for name in params.matrix.datasets},
        "methods": {name: params.methods[name] for name in params.matrix.methods},
    }
    shown = Sections(**{name: getattr(params, name) for name in Sections.model_fields} | used)
    inputs = {
        f"{job.stage}/{job.run}/{name}": str(job.output(name)) for job in jobs for name in REPORTED[job.stage]
    }
    jobs.sort(key=lambda job: _borrows(params, job))  # such a run may be of a later data set
    if params.tracking is not None:
        tracking = params.tracking.model_dump()
        jobs = [
            replace(job, tracking=tracking) if job.stage in ("search", "retrain") else job for job in jobs
        ]
    return [*jobs, make_job("report", "all", ReportJob(report=params.report, params=shown), inputs)]


def _lookup_params(params: Params, genotypes: dict[str, str | dict[str, Any]]) -> LookupJob | None:
    """Return the parameters of every look-up; None without a table.

    UserError if the table is not one, lacks the column of a data set, or has no cell of any method, or of a
    method that nothing else judges.
    """
    table, matrix = params.evaluate.table, params.matrix
    if table is None:
        return None
    with about("evaluate.table"):
        [content] = file_digests([table])
    cells = read_table_of_cells(Path(table))
    for name in matrix.datasets:
        check_column(cells, f"datasets.{name}.table_column", params.datasets[name].table_column)
    for name in matrix.methods:
        cell = genotypes.get(name)
        if _tabulated(params, name) and cell and cell not in cells.cells:
            field = f"methods.{name}.searcher.genotype"
            try:
                operations(str(cell))
            except ValueError as error:
                raise UserError(
                    f"{field}: {error}, so {table} cannot have it; leave the method out of the matrix"
                ) from None
            raise UserError(
                f"{field}: {cell} is not in {table}; add its row, or leave the method out of the matrix"
            )
    outside = [name for name in matrix.methods if not _tabulated(params, name)]
    if len(outside) == len(matrix.methods):
        raise UserError(
            f"evaluate.table: {table} has cells of space nasbench201 with 4 nodes, which no method of the "
            "matrix searches; set search.space and search.nodes, or leave the table out"
        )
    if outside and not matrix.retrain_seeds:
        raise UserError(
            f"methods.{outside[0]}: its cells are not those of space nasbench201 with 4 nodes, and nothing "
            "else judges it; list a seed in matrix.retrain_seeds, or leave the method out of the matrix"
        )
    return LookupJob(content=content, table=table)


def _given_genotypes(params: Params) -> dict[str, str | dict[str, Any]]:
    """Return the genotypes that methods of the matrix are given, as spelled, or as their files hold them.

    UserError if a file is missing or holds no genotype of the method's space.
    """
    found: dict[str, str | dict[str, Any]] = {}
    for name in params.matrix.methods:
        searcher, space = params.methods[name].searcher, params.space_of(name)
        if not isinstance(searcher, Fixed) or searcher.run is not None:
            continue
        found[name] = searcher.genotype
        if searcher.file is not None and space is not None:
            with about(f"methods.{name}: searcher.genotype"):
                genotype = given(space, read_json(Path(searcher.file)), searcher.file)
            found[name] = str(genotype) if isinstance(space, NasBench201Space) else genotype.to_json()
    return found


def _arithmetics(params: Params) -> dict[str, Arithmetic]:
    """Return the arithmetic of methods of the matrix, with what a table's file holds.

    UserError if a file is missing, holds no table, or not the one that the parameters name.
    """
    found: dict[str, Arithmetic] = {}
    for name in params.matrix.methods:
        arithmetic = params.methods[name].arithmetic
        if arithmetic is None:
            continue
        if isinstance(arithmetic.multiplier, TableMultiplier):
            with about(f"methods.{name}: arithmetic.multiplier.file"):
                multiplier = _read_table(arithmetic.multiplier)
            arithmetic = arithmetic.model_copy(update={"multiplier": multiplier})
        found[name] = arithmetic
    return found


def _read_table(multiplier: TableMultiplier) -> TableMultiplier:
    [content] = file_digests([multiplier.file])
    if multiplier.content not in (None, content):
        raise UserError(f"{multiplier.file}: has SHA-256 {content}, not that of content; restore the file")
    signed = read_products(multiplier.file, multiplier.signed).signed
    return multiplier.model_copy(update={"content": content, "signed": signed})


def _found_by(params: Params, arithmetics: dict[str, Arithmetic], method: str) -> dict[str, str]:
    """Return the input that holds the genotype which another run finds; none, of a method with its own."""
    searcher = params.methods[method].searcher
    if not isinstance(searcher, Fixed) or searcher.run is None:
        return {}
    drawn, other, seed = searcher.run
    [dataset] = [of[drawn] for name in params.matrix.datasets if drawn in (of := params.draws(name))]
    split, images = _split_job(drawn, dataset)
    jobs = _run_jobs(Shared(params, arithmetics=arithmetics), split, images, dataset.groups, other, seed, ())
    extract = next(job for job in jobs if job.stage == "extract")
    return {"genotype": str(extract.output("genotype.json"))}


def _borrows(params: Params, job: Job) -> bool:
    """Whether a job follows those of other data sets, as its genotype is what another run finds."""
    method = job.run.split("/")[1] if "/" in job.run else ""
    searcher = params.methods[method].searcher if method else None
    if isinstance(searcher, OnTrained):
        searcher = params.methods[searcher.method].searcher
    return isinstance(searcher, Fixed) and searcher.run is not None


def _start_digests(params: Params) -> dict[str, str]:
    """SHA-256 of each file that a retraining starts with. UserError if it is missing or not safetensors."""
    digests: dict[str, str] = {}
    for name in params.matrix.methods if params.matrix.retrain_seeds else ():
        path = params.retrain_of(name).file
        if path is not None and path not in digests:
            with about(f"methods.{name}: retrain.start"):
                [digests[path]] = file_digests([path])
                read_shapes(Path(path))
    return digests


def _tabulated(params: Params, method: str) -> bool:
    """Whether a table can have the cells of a method."""
    searcher = params.methods[method].searcher
    finder = searcher.run[1] if isinstance(searcher, Fixed) and searcher.run else method
    spelled = finder == method and searcher.genotype_is == "given"
    of_four_nodes = spelled or params.search_of(finder).nodes == 4
    return isinstance(params.space_of(method), NasBench201Space) and of_four_nodes


def _dataset_jobs(shared: Shared, name: str, dataset: Dataset) -> Iterator[Job]:
    """Split and runs of one draw of a data set; `name`: of its results."""
    split, images = _split_job(name, dataset)
    yield split
    params, made = shared.params, dict[tuple[str, int], list[Job]]()
    searchers = {method: params.methods[method].searcher for method in params.matrix.methods}
    # those on another's network last, as they read what that one trained
    for method, searcher in sorted(searchers.items(), key=lambda each: isinstance(each[1], OnTrained)):
        for seed in params.matrix.seeds:
            others = made[searcher.method, seed] if isinstance(searcher, OnTrained) else []
            if searcher.genotype_is == "shared":
                jobs = _continued(params, f"{name}/{method}", method, others)
            else:
                jobs = _run_jobs(shared, split, images, dataset.groups, method, seed, others)
            made[method, seed] = list(jobs)
            yield from made[method, seed]


def _split_job(name: str, dataset: Dataset) -> tuple[Job, Images]:
    """Return the split of one draw of a data set, and how jobs read its images."""
    content = content_digest(dataset.source)
    fields = SplitJob.model_fields.keys() - {"content"}
    split = make_job("split", name, SplitJob(content=content, **{f: getattr(dataset, f) for f in fields}), {})
    fields = Images.model_fields.keys() - {"content"}
    return split, Images(content=content, **{field: getattr(dataset, field) for field in fields})


def _run_jobs(
    shared: Shared,
    split: Job,
    images: Images,
    groups: Groups,
    method: str,
    seed: int,
    others: Iterable[Job],
) -> Iterator[Job]:
    """Search, extraction, look-up, retrainings and evaluations of one data set × method × seed.

    A given genotype is not searched for, and a network without cells has none. `others`: all jobs of the
    method on whose networks cells are implanted.
    """
    params, run = shared.params, f"{split.run}/{method}/{seed}"
    searcher, space = params.methods[method].searcher, params.space_of(method)
    recipe, inherited = params.retrain_of(method), params.inherited_of(method)
    backbones = {job.params["retrain_seed"]: _trained(job) for job in others if job.stage == "retrain"}
    tables = {"split": str(split.output("split.parquet")), "classes": str(split.output("classes.json"))}
    network = dict(tables)
    alphas: dict[str, str] = {}
    supernet: dict[str, str] = {}
    arithmetic = shared.arithmetics.get(method)
    computed = None if arithmetic is None else arithmetic.without_energy()
    in_search = computed if computed is not None and computed.in_search else None
    search_params = _search_params(params, images, method, seed, in_search)
    if search_params is not None:
        backbone = backbones[0] if backbones and searcher.genotype_is == "searched" else {}
        search = make_job("search", run, search_params, tables | backbone)
        yield search
        alphas = {"alphas": str(search.output("alphas.parquet"))}
        supernet = {"supernet": str(search.output("supernet.safetensors"))}
    # which operations a search chooses from matters to it alone, and to what starts as its supernet
    network_space = DartsSpace() if space is None else space if inherited else type(space)()
    if space is not None:
        own = type(space)() if searcher.genotype_is == "given" else space
        relaxation = getattr(searcher, "relaxation", Softmax())
        limit = _limit(params, images, method) if searcher.genotype_is == "searched" else None
        extract_params = ExtractJob(
            genotype=shared.given.get(method), space=own, relaxation=relaxation, limit=limit
        )
        sizes = {"classes": tables["classes"]} if limit else {}
        read = alphas | shared.found.get(method, {}) | sizes
        extract = make_job("extract", run, extract_params, read)
        yield extract
        genotype = {"genotype": str(extract.output("genotype.json"))}
        network |= alphas if recipe.start == "supernet" else genotype
        if shared.lookup is not None and _tabulated(params, method):
            yield make_job("lookup", run, shared.lookup, genotype)
    shape: dict[str, Any] = {
        "space": network_space,
        "resnet": searcher.depth if searcher.genotype_is == "absent" else None,
        "inherited": inherited,
        "images": images,
        "retrain": recipe,
    }
    evaluate, content = params.evaluate_of(method), shared.contents.get(recipe.start)
    evaluation = EvaluateJob(**shape, arithmetic=arithmetic, groups=groups, evaluate=evaluate)
    for retrain_seed in params.matrix.retrain_seeds:
        again = repeat(run, retrain_seed)
        job = RetrainJob(**shape, seed=seed, retrain_seed=retrain_seed, arithmetic=computed, content=content)
        start = backbones.get(retrain_seed, supernet if inherited else {})
        retrain = make_job("retrain", again, job, network | start)
        trained = {"weights": str(retrain.output("weights.safetensors")), **network}
        yield from (retrain, make_job("evaluate", again, evaluation, trained))


def _continued(params: Params, folder: str, method: str, others: Iterable[Job]) -> Iterator[Job]:
    """Retrainings, by a method's recipe, of the networks that another method trained, and their evaluations.

    `others`: all jobs of that method; `folder`: dataset/method, of the runs.
    """
    recipe, evaluate = params.retrain_of(method), params.evaluate_of(method)
    for other in others:
        run = f"{folder}/{other.run.rsplit('/', 1)[1]}"
        if other.stage == "retrain":
            update = {"retrain": recipe, "content": None}
            job = RetrainJob.model_validate(other.params).model_copy(update=update)
            retrain = make_job("retrain", run, job, other.inputs | _trained(other))
            yield retrain
        elif other.stage == "evaluate":
            own = {"retrain": recipe, "evaluate": evaluate}
            evaluation = EvaluateJob.model_validate(other.params).model_copy(update=own)
            trained = {"weights": str(retrain.output("weights.safetensors"))}
            yield make_job("evaluate", run, evaluation, other.inputs | trained)


def _trained(retrain: Job) -> dict[str, str]:
    """Return the input of a job that starts with what a retraining trained."""
    return {"trained": str(retrain.output("weights.safetensors"))}


def _search_params(
    params: Params, images: Images, name: str, seed: int, arithmetic: Arithmetic | None
) -> Spec | None:
    """Return the parameters of a method's search job; None if it has none."""
    method, searcher = params.methods[name], params.methods[name].searcher
    limit = _limit(params, images, name)
    if isinstance(searcher, Implant):
        rules = searcher.model_dump(exclude={"kind", "method", "cell"})
        searcher = PcDarts(**rules) if searcher.genotype_is == "searched" else Random()
    if searcher.genotype_is == "drawn":
        recipe = params.search_of(name)
        return DrawJob(seed=seed, searcher=searcher, space=recipe.space, nodes=recipe.nodes, limit=limit)
    if searcher.genotype_is == "scored":
        recipe = params.search_of(name)
        networks = {field: getattr(recipe, field) for field in ScoredNetworks.model_fields}
        of = ScoredNetworks(**networks)
        return ScoreJob(
            seed=seed, images=images, searcher=searcher, arithmetic=arithmetic, search=of, limit=limit
        )
    if searcher.genotype_is != "searched":
        return None
    return SearchJob(
        seed=seed,
        images=images,
        searcher=searcher,
        objective=method.objective or Plain(kind="plain"),
        arch_lr=method.arch_lr or ConstantLR(kind="constant"),
        labels=method.labels,
        arithmetic=arithmetic,
        search=params.search_of(name).model_copy(update={"budget": None}),  # it does not know
    )


def _limit(params: Params, images: Images, method: str) -> BudgetedNetwork | None:
    """Return the budget of what a method finds, and what its size depends on; None without one."""
    budget, recipe = params.search_of(method).budget, params.retrain_of(method)
    if budget is None:
        return None
    return BudgetedNetwork(
        budget=budget,
        images=images,
        channels=recipe.channels,
        cells=recipe.cells,
        objective=recipe.objective,
    )


def due(jobs: list[Job]) -> list[Job]:
    """List the jobs that Snakemake would run for the report, upstream first.

    It runs the job that produces a missing file which the report or another due job reads, then every other
    reader of that file; a missing file that no due job reads triggers nothing.
    """
    makers = {path: job for job in jobs for path in job.outputs}
    missing = {path for path in makers if not Path(path).exists()}
    readers: dict[str, list[Job]] = {path: [] for path in missing}
    for job in jobs:
        for path in missing.intersection(job.inputs.values()):
            readers[path].append(job)
    pending = [job for job in jobs if job.stage == "report" and missing.intersection(job.outputs)]
    found = {job.key for job in pending}
    while pending:
        job = pending.pop()
        asked = [makers[path] for path in missing.intersection(job.inputs.values())]
        read = [reader for path in missing.intersection(job.outputs) for reader in readers[path]]
        for other in (*asked, *read):
            if other.key not in found:
                found.add(other.key)
                pending.append(other)
    return [job for job in jobs if job.key in found]


def freeze(jobs: list[Job]) -> None:
    """Write the specs that are missing or differ from their job."""
    for job in jobs:
        try:
            frozen = load_spec(job.spec) == job
        except HlrsError:
            frozen = False
        if not frozen:
            if job.spec.exists() and not job.spec.is_file():
                set_aside(job.spec, "it is written again")
            given = {name: value for name, value in vars(job).items() if value is not None}
            write_json(job.spec, given)


def spec(key: str) -> Job:
    """Load the frozen spec of a key."""
    return load_spec(SPECS / f"{key}.json")


def prune(jobs: list[Job], stage: str) -> list[Path]:
    """Set aside a stage's results that the current params do not request; return their folders.

    DVC then versions exactly what the params request, and `restore` makes returning to other params free, in
    every checkout with the same `results/`. What a job is writing stays.
    """
    wanted = {job.directory for job in jobs if job.stage == stage}
    stale = [folder for folder in folders(stage) if folder not in wanted and not leased(folder.name)]
    for directory in stale:
        _move(directory, ASIDE / directory)
    for directory in sorted((d for d in (RESULTS / stage).rglob("*") if d.is_dir()), reverse=True):
        with suppress(OSError):  # not empty
            directory.rmdir()
    return stale


def restore(jobs: list[Job]) -> None:
    """Restore results that were set aside and are requested again."""
    for job in jobs:
        if (ASIDE / job.directory).is_dir() and not job.directory.exists():
            _move(ASIDE / job.directory, job.directory)


def discard_states(jobs: Iterable[Job]) -> None:
    """Delete the saved states of jobs whose results are there.

    The process that trains leaves its last state, for Snakemake deletes the result if anything fails before
    it has accepted it, and if SLURM starts the job again.
    """
    states: dict[str, list[Path]] = {}
    for path in CHECKPOINTS.glob("*"):
        for key in re.findall("[0-9a-f]{12}", path.name) if not path.name.endswith(UNREADABLE) else ():
            states.setdefault(key, []).append(path)
    for job in jobs:
        for path in states.get(job.key, ()) if job.complete else ():
            with suppress(OSError):  # a folder, which a job sets aside
                path.unlink()


def _move(source: Path, target: Path) -> None:
    """Move a folder in place of another, unless a process of another checkout has moved it by now."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        try:
            source.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with replacing_folder(target) as temporary:  # on another file system
                shutil.copytree(source, temporary, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(source)


def is_current(jobs: list[Job]) -> bool:
    """Whether `report/` has the current params' report."""
    job = next(job for job in jobs if job.stage == "report")
    there = all((PUBLISHED / name).exists() for name in (*OUTPUTS["report"], PROVENANCE))
    return (
        there
        and job.complete
        and (PUBLISHED / PROVENANCE).read_bytes() == job.output(PROVENANCE).read_bytes()
    )


def publish(jobs: list[Job]) -> bool:
    """Copy the current params' report to `report/`; return False if it is not complete."""
    job = next(job for job in jobs if job.stage == "report")
    if not job.complete:
        return False
    if is_current(jobs):
        return True
    record = Record.read(job.output(PROVENANCE))
    if fault := record.fault(str(job.directory)) or " ".join(record.differing()[:1]):
        raise UserError(
            f"{job.directory}: not published, as it does not fit its record ({fault}); delete it and rerun"
        )
    (PUBLISHED / PROVENANCE).unlink(missing_ok=True)  # a kill must not leave it beside another report's files
    for stale in PUBLISHED.rglob(".*.tmp"):  # of a process that was killed while copying
        stale.unlink()
    for name in (*OUTPUTS["report"], PROVENANCE):  # the record last: it marks the copy as complete
        with replacing(PUBLISHED / name) as temporary:
            shutil.copyfile(job.directory / name, temporary)
    return True
