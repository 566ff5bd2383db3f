"""The command line: one subcommand per stage, and those that plan, inspect and publish results."""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

import hlrs.training.startup  # noqa: F401 - first: its clock replaces a start time that the system does not report
from hlrs import __version__
from hlrs.errors import Failure, UserError, in_one_line

if TYPE_CHECKING:
    from hlrs.artifacts.jobs import Job
    from hlrs.config.params import Params
    from hlrs.report.figure_files import Format

STAGE_HELP = {
    "split": "Draw a long-tailed split of a data set.",
    "search": "Train the supernet and record its alphas.",
    "extract": "Derive the genotype from the alphas and draw its cells.",
    "lookup": "Look the genotype up in a table of accuracies.",
    "retrain": "Train the genotype's network, or what its search trained.",
    "evaluate": "Evaluate the trained network on the test set.",
    "report": "Compare all runs in one HTML page, CSV tables and plots.",
}
RUN_HELP = {
    "split": "RUN is a data set of params.yaml, e.g. digits_lt,",
    "report": "RUN is `all`,",
}


class Commands(click.Group):
    """Commands in the order of the workflow; errors become one line and an exit status."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)

    @in_one_line(passing=(click.ClickException, click.exceptions.Exit, click.Abort))
    def invoke(self, context: click.Context) -> Any:
        return super().invoke(context)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hlrs")
def main() -> None:
    """Neural architecture search for long-tailed images, as a versioned workflow.

    `snakemake --cores all` runs everything that params.yaml requests. The first seven commands run its stages
    one job at a time; they read params.yaml in the current folder and write to results/. Exit status: 0 done,
    1 failure, 2 wrong arguments, parameters or data, 75 interrupted with the state saved (rerun to resume).
    """


def _params_here() -> Path:
    """Return params.yaml, or where `snakedeploy` puts it."""
    deployed = Path("config/params.yaml")
    return deployed if deployed.is_file() and not Path("params.yaml").exists() else Path("params.yaml")


params_option = click.option(
    "--params",
    type=click.Path(path_type=Path),
    default=_params_here,
    show_default="params.yaml, else config/params.yaml",
    help="Parameter file.",
)


def _stage_command(stage: str) -> click.Command:
    run = RUN_HELP.get(stage, "RUN is data set/method/seed, e.g. digits_lt/hlrs/0,")
    if stage in ("retrain", "evaluate"):
        run += " or digits_lt/hlrs/0-3 for the retraining with seed 3,"

    @click.argument("run")
    @click.option("--force", is_flag=True, help="Rerun even if the result exists.")
    @params_option
    def command(run: str, force: bool, params: Path, check_images: bool = False) -> None:
        from hlrs.pipeline.execute import current, execute
        from hlrs.pipeline.plan import discard_states

        job = _find(stage, run, params)
        if check_images:
            from hlrs.stages.split import check_images as check

            check(job)
        if run.endswith(".json"):  # Snakemake has yet to accept the result
            execute(job, logged=True)
        elif force or not current(job):
            discard_states([job])
            execute(job)
            discard_states([job])
        click.echo(job.directory)

    command.__doc__ = (
        f"{STAGE_HELP[stage]}\n\n{run} or the path of a frozen spec "
        "(.hlrs/specs/KEY.json, which the workflow passes).\n\nPrints the folder of the results."
    )
    if stage == "split":
        decode = "First decode every image of the source; name all that are broken."
        option = click.option("--check-images", is_flag=True, help=decode)
        command = option(command)
    example = {"split": "digits_lt", "report": "all"}.get(stage, "digits_lt/hlrs/0")
    return click.command(stage, epilog=f"Example: hlrs {stage} {example}")(command)


for _stage in STAGE_HELP:
    main.add_command(_stage_command(_stage))


def _find(stage: str, run: str, params: Path) -> "Job":
    """Find the job of a frozen spec, or of a run in the matrix. UserError names the runs that exist."""
    from hlrs.artifacts.jobs import load_spec, typed

    if run.endswith(".json"):
        job = load_spec(Path(run))
        if job.stage != stage:
            raise UserError(f"{run}: this spec is of stage {job.stage}; run `hlrs {job.stage} {run}`")
        return job
    jobs = [job for job in _jobs(params) if job.stage == stage]
    for job in jobs:
        if job.run == typed(run):
            return job
    why = "nothing is retrained" if stage in ("retrain", "evaluate") else "no method needs it"
    known = ", ".join(job.run for job in jobs) or f"none, because {why}"
    raise UserError(f"{stage} has no run {run!r} in {params}; choose from: {known}")


def _jobs(params: Path) -> "list[Job]":
    from hlrs.config.params import load

    return _frozen(load(params))


def _frozen(params: "Params") -> "list[Job]":
    from hlrs.pipeline import plan

    jobs = plan.plan(params)
    plan.freeze(jobs)
    plan.restore(jobs)
    return jobs


def _jobs_or_made(params: Path) -> "tuple[list[Job], str]":
    """Return the jobs of the params; where they cannot be planned, those of the results here, and why.

    Without writing anything: an audit changes nothing, and a colleague's folder may be read-only.
    """
    from hlrs.config.params import load
    from hlrs.pipeline import plan
    from hlrs.provenance.differences import Past

    loaded = load(params)
    try:
        return plan.plan(loaded), ""
    except UserError as error:
        return [record.job for record in Past().records], str(error)


def _announce(text: str) -> None:
    """Say on stderr what takes time now."""
    click.echo(f"{text} ...", err=True)


def _only(**asked: bool) -> str | None:
    """Name the one form of output that was asked for; UserError for two, None for none."""
    forms = [form for form, given in asked.items() if given]
    if len(forms) > 1:
        raise UserError(f"--{forms[0]} cannot be combined with --{forms[1]}; omit one of them")
    return forms[0] if forms else None


def _width() -> int:
    """Return the width of the output in columns."""
    return min(shutil.get_terminal_size((110, 50)).columns, 130)


@main.command(epilog="Example: hlrs init experiment")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
def init(folder: Path) -> None:
    """Write the workflow's files to a folder, to run it there.

    DIR is a new folder, or one that has none of these files. An installed hlrs needs this once; a clone of
    the repository has the files already.
    """
    from hlrs.pipeline.workflow_files import lay

    click.echo(f"{folder}: {len(lay(folder))} files; edit {folder / 'params.yaml'}, then there")
    click.echo("snakemake --cores all")


@main.command("plan", epilog="Example: hlrs plan --why digits_lt/hlrs/0")
@params_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--why",
    "run",
    metavar="RUN",
    help="Show every difference of one run: data set/method/seed (seed-3 for its retraining 3).",
)
def show_plan(params: Path, as_json: bool, run: str | None) -> None:
    """Show which jobs would run, why, and at what cost.

    The reason is the parameter, code, data or input that differs from the nearest earlier result. The cost
    comes from records of runs with the same parameters; if there are none, from a few seconds of training on
    this machine, saved in .hlrs/calibration.json. No job runs.
    """
    from hlrs.artifacts.jobs import typed
    from hlrs.config.params import load
    from hlrs.pipeline.gpus import take_one
    from hlrs.pipeline.plan import due
    from hlrs.pipeline.plan_view import Outlook, missing_controls, why
    from hlrs.pipeline.preflight import check_before

    if run is not None and as_json:
        raise UserError("--json cannot be combined with --why; --json alone includes every job's differences")
    loaded = load(params)
    jobs = _frozen(loaded)
    if run is not None:
        click.echo("\n".join(why(typed(run), jobs, loaded, _width())))
        return
    check_before(jobs, due(jobs), lambda text: click.echo(f"hlrs: {text}", err=True))
    for line in missing_controls(loaded):
        click.echo(f"hlrs: {line}", err=True)
    take_one()  # as a job does: the first GPU may be at work
    outlook = Outlook(jobs, loaded, _announce)
    if as_json:
        click.echo(json.dumps(outlook.facts(), indent=1))
    else:
        for line in outlook.lines():
            click.echo(line)


@main.command(epilog="Example: watch -n 10 hlrs status")
@params_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(params: Path, as_json: bool) -> None:
    """Show what runs, what failed, what waits, and the time left.

    Run it in the workflow's folder at any time, from any shell, also while jobs run on a cluster.
    """
    from hlrs.config.params import load
    from hlrs.pipeline import plan
    from hlrs.pipeline.status import facts, in_queue, lines, survey

    jobs = plan.plan(load(params))
    states = survey(jobs, in_queue(jobs))
    click.echo(json.dumps(facts(states), indent=1) if as_json else "\n".join(lines(states)))


@main.command("schema", epilog="Example: hlrs schema > params.schema.json")
@click.option("--markdown", "as_page", is_flag=True, help="Print the page docs/parameters.md.")
def show_schema(as_page: bool) -> None:
    """Print the JSON Schema of params.yaml, for editors.

    params.schema.json holds it; the first line of params.yaml names that file:
    # yaml-language-server: $schema=params.schema.json
    """
    from hlrs.config.reference import markdown, schema

    page = markdown() if as_page else json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"
    click.echo(page, nl=False)


@main.command(epilog="Example: hlrs lineage digits_lt/hlrs/0")
@click.argument("path")
@params_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON: complete records and every data file.")
@click.option("--dot", "as_dot", is_flag=True, help="Print a Graphviz graph; pipe it to `dot -Tsvg`.")
@click.option("--since", metavar="REV", help="Show differences from what DVC recorded at a Git revision.")
def lineage(path: str, params: Path, as_json: bool, as_dot: bool, since: str | None) -> None:
    """Trace a result back to the data files.

    PATH is a file in results/ or report/, or a cell of the report: data set/method/seed, data set/method or
    data set. For every job on the way, shows its parameters, the SHA-256 of its inputs, code, commit, lock
    file, image, host, device, SLURM job, duration and resumes, and marks files that differ from their record.
    """
    from hlrs.config.params import load
    from hlrs.provenance import lineage_view
    from hlrs.provenance.differences import differences
    from hlrs.provenance.lineage import earlier, facts, find, read_here, trace

    form = _only(json=as_json, dot=as_dot)
    jobs, unplanned = _jobs_or_made(params)
    if unplanned:
        click.echo(f"hlrs: {unplanned}; until then all results of a run are shown", err=True)
    found = trace(find(path, jobs), read_here)
    if since:
        changes = differences(earlier(found, since).records.values(), found.records.values(), load(params))
        if form == "json":
            click.echo(json.dumps([asdict(change) for change in changes], indent=1))
        elif form:
            raise UserError("--dot cannot be combined with --since; use --json")
        else:
            click.echo("\n".join(lineage_view.since(changes, since, _width())))
    elif form == "json":
        click.echo(json.dumps(facts(found), indent=1))
    elif form:
        click.echo(lineage_view.dot(found))
    else:
        click.echo("\n".join(lineage_view.tree(found, _width())))


@main.command(epilog="Example: hlrs audit --data")
@params_option
@click.option("--data", "with_data", is_flag=True, help="Also verify the data files.")
@click.option("--strict", is_flag=True, help="Exit with status 1 for remarks, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def audit(params: Path, with_data: bool, strict: bool, as_json: bool) -> None:
    """Check that results match their records and records agree.

    Compares everything in results/ with its records, the records of its readers, dvc.lock, params.yaml,
    report/ and the recorded commits. Names each break and the first artifact that cannot be trusted because
    of it; remarks are facts that a reader of the results should know. Exit status 1 if anything is broken.
    """
    from hlrs.provenance.audit import Audit, Finding, check_data, report

    jobs, unplanned = _jobs_or_made(params)
    audited = Audit(jobs)
    findings = [*audited.findings(), *(check_data(audited) if with_data else ())]
    if unplanned:
        what = f"not compared with results, as data are missing: {unplanned}"
        findings.append(Finding(str(params), what, "restore them, then rerun", False))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        click.echo("\n".join(report(audited, findings)))
    sys.exit(any(finding.broken or strict for finding in findings))


@main.command(epilog="Example: hlrs prune search retrain")
@click.argument("stages", nargs=-1, type=click.Choice(list(STAGE_HELP)))
@click.option("--complete", is_flag=True, help="Fail if a result that params.yaml requests is missing.")
@params_option
def prune(stages: tuple[str, ...], complete: bool, params: Path) -> None:
    """Set aside results that params.yaml does not request.

    STAGES defaults to all. results/ then holds what DVC should version. Results are restored when params.yaml
    requests them again; to free the space, delete results/.hlrs/aside.
    """
    from hlrs.artifacts.jobs import RESULTS
    from hlrs.pipeline import locks, plan

    with locks.claimed("hlrs prune"):
        jobs = _jobs(params)
        stages = stages or tuple(STAGE_HELP)
        missing = [job for job in jobs if job.stage in stages and not job.complete]
        if complete and missing:
            raise UserError(
                f"{missing[0].directory}: missing, one of {len(missing)} results that {params} requests; "
                "if the file was edited meanwhile, rerun"
            )
        for stage in stages:
            for directory in plan.prune(jobs, stage):
                click.echo(f"set aside {directory}")
            if complete:  # DVC records a phase even if no method needs it
                (RESULTS / stage).mkdir(parents=True, exist_ok=True)


@main.command(epilog="Example: hlrs publish")
@params_option
def publish(params: Path) -> None:
    """Copy the report of the current params to report/."""
    from hlrs.artifacts.jobs import PUBLISHED
    from hlrs.pipeline import plan

    if not plan.publish(_jobs(params)):
        raise UserError("the report of these params does not exist yet; `snakemake --cores all` builds it")
    click.echo(PUBLISHED / "index.html")


@main.command(epilog="Example: hlrs figures --to paper/figures --format pdf")
@click.option(
    "--to", "folder", type=click.Path(path_type=Path), metavar="DIR", required=True, help="Folder to write."
)
@click.option(
    "--format",
    "formats",
    type=click.Choice(["pdf", "png"]),
    multiple=True,
    default=["pdf", "png"],
    help="Format; may be repeated.  [default: both]",
)
@click.option(
    "--dpi",
    type=click.IntRange(72, 600),
    default=300,
    show_default=True,
    help="Resolution of PNG; 96 gives the page's pixels.",
)
@params_option
def figures(folder: Path, formats: "tuple[Format, ...]", dpi: int, params: Path) -> None:
    """Convert the report's figures to PDF and PNG.

    DIR must be new or empty. It gets every figure of report/figures.zip under its name there: as PDF, drawn
    in vectors, for LaTeX, and as PNG for slides. `hlrs publish` copies the report of the current params to
    report/.
    """
    from hlrs.artifacts.jobs import PUBLISHED
    from hlrs.pipeline import plan
    from hlrs.report.figure_files import convert

    if "png" not in formats:
        _refuse_given(["dpi"], "acts with --format png alone")
    count = convert(PUBLISHED / "figures.zip", folder, [*dict.fromkeys(formats)], dpi)
    click.echo(f"{folder}: {count} files")
    asked = click.get_current_context().get_parameter_source("params") is not ParameterSource.DEFAULT
    if (asked or params.exists()) and not plan.is_current(_jobs(params)):
        click.echo(
            f"hlrs: {PUBLISHED}/ is not the report of {params}; `snakemake --cores all` renews it", err=True
        )


@main.command(epilog="Example: hlrs predict digits_lt/darts/0 'photos/*.png' --top 3")
@click.argument("network", metavar="RUN")
@click.argument("images", nargs=-1, required=True)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--top", type=click.IntRange(1), default=5, show_default=True, help="Classes to print per image."
)
@click.option("--device", help="Device, e.g. cpu or cuda:1.  [default: the GPU, if there is one]")
@click.option(
    "--batch-size", type=click.IntRange(1), help="Images at a time.  [default: as the evaluation's, else 250]"
)
@click.option("--strict", is_flag=True, help="Stop at the first image that cannot be read.")
@params_option
def predict(
    network: str,
    images: tuple[str, ...],
    as_csv: bool,
    as_json: bool,
    top: int,
    device: str | None,
    batch_size: int | None,
    strict: bool,
    params: Path,
) -> None:
    """Predict the classes of images with a trained network.

    RUN is data set/method/seed, or a folder that `hlrs export --to` wrote. IMAGES are files, folders,
    patterns in quotes, and Parquet files, which are decoded, resized and normalised as in the training. An
    image that cannot be read is named and skipped; the exit status is then 1.
    """
    from hlrs.inference.images import find
    from hlrs.inference.locate import locate
    from hlrs.inference.output import WRITERS, readable
    from hlrs.inference.prediction import predict as predictions

    form = _only(csv=as_csv, json=as_json)
    named = [find(name) for name in images]
    for remark in (remark for part in named for remark in part.remarks):
        click.echo(f"hlrs: {remark}", err=True)
    located = locate(network, lambda: _jobs(params))
    classifier = located.load(device)
    found = predictions(classifier, named, batch_size or located.evaluated.batch_size)
    printed = WRITERS[form](readable(found, named, strict), classifier.classes, top)
    total = sum(part.total for part in named)
    if printed < total:
        raise Failure(f"{total - printed} of {total} images were skipped, as named above")


@main.command(epilog="Example: hlrs export digits_lt/darts/0 --to network --format onnx")
@click.argument("network", metavar="[RUN]", required=False)
@click.option("--to", "folder", type=click.Path(path_type=Path), metavar="DIR", help="Write RUN's network.")
@click.option(
    "--format",
    "formats",
    type=click.Choice(["safetensors", "onnx", "torchscript", "torch-export", "integers"]),
    multiple=True,
    help="Another format besides safetensors; may be repeated.",
)
@click.option(
    "--ro-crate", "crate", type=click.Path(path_type=Path), metavar="DIR", help="Write the whole experiment."
)
@click.option(
    "--croissant",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the metadata of the splits, a folder for each.",
)
@click.option(
    "--weights/--no-weights",
    default=True,
    show_default=True,
    help="Copy the trained weights to the crate; otherwise it only records their SHA-256 and size.",
)
@params_option
def export(
    network: str | None,
    folder: Path | None,
    formats: tuple[str, ...],
    crate: Path | None,
    croissant: Path | None,
    weights: bool,
    params: Path,
) -> None:
    """Export a network, the whole experiment, or its splits.

    DIR must be new or empty. With RUN (data set/method/seed) and --to, it gets the weights as
    model.safetensors, which say all that is needed to use them, a model card (README.md) and
    requirements.txt; `hlrs predict DIR IMAGES` needs no more. The other formats hold plain operators, take
    any number of images, and are compared with the network on all test images. Of approximate arithmetic,
    `integers` are the weights' codes, scales and zero points, with a reference in NumPy that predicts by them
    (compared on as many images as have 10¹⁰ multiplications).

    With --ro-crate, it gets results, parameters, code and the origin of each, for a data repository or a
    colleague, as a Provenance Run Crate (https://w3id.org/ro/wfrun/provenance/0.5). The data set's images are
    described, not copied. Start reading at its ro-crate-preview.html. With --croissant, it gets the splits'
    metadata in Croissant (https://mlcommons.org/croissant).
    """
    from hlrs.provenance import croissant as splits
    from hlrs.provenance import ro_crate

    if [folder, crate, croissant].count(None) != 2 or (network is None) != (folder is None):
        raise UserError("export: give RUN --to DIR, --ro-crate DIR or --croissant DIR")
    if folder is None:
        _refuse_given(["formats"], "acts with RUN --to alone")
    if crate is None:
        _refuse_given(["weights"], "acts with --ro-crate alone")
    if network is not None and folder is not None:
        _export_network(network, folder, formats, params)
    if croissant is not None:
        click.echo(f"{croissant}: {', '.join(splits.export(_jobs(params), croissant))}")
    if crate is not None:
        found = ro_crate.export(_jobs(params), params, crate, weights)
        size = f"{found['bytes'] / 1e6:,.1f} MB"
        click.echo(f"{crate}: {found['jobs']} jobs, {found['files']} files, {size}")


def _export_network(network: str, folder: Path, formats: tuple[str, ...], params: Path) -> None:
    from hlrs.inference.card import card
    from hlrs.inference.export import FORMATS
    from hlrs.inference.export import export as write
    from hlrs.inference.locate import locate

    located = locate(network, lambda: _jobs(params))
    classifier = located.load("cpu")
    others = [name for name in dict.fromkeys(formats) if name in FORMATS]
    page = partial(card, classifier, folder.name, located.evaluation)
    write(classifier, folder, others, page, located.images(classifier.facts.preprocessing.shape))
    for path in sorted(folder.iterdir()):
        click.echo(path)


@main.command(epilog="Example: hlrs profile slurm --partition gpu")
@click.argument("system", type=click.Choice(["slurm"]))
@click.option(
    "--partition",
    "partitions",
    multiple=True,
    metavar="NAME",
    help="Partition to use; repeat it to run rules without GPUs in another partition.",
)
@click.option("--account", metavar="NAME", help="Account to charge.")
@click.option("--qos", metavar="NAME", help="Quality of service.")
@click.option("--gpu-type", metavar="TYPE", help="Type of GPU, as sinfo names it.")
@click.option(
    "--container", type=click.Path(path_type=Path), help="Apptainer image (SIF) that every rule runs in."
)
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write.  [default: where `snakemake --profile slurm` searches]",
)
@click.option("--force", is_flag=True, help="Replace an existing profile.")
def profile(system: str, folder: Path | None, force: bool, **choice: Any) -> None:
    """Write a Snakemake profile for this machine's cluster.

    Queries SLURM for partitions, GPUs, time limits and accounting, and prints the files it writes.
    `snakemake --profile slurm` then runs the workflow on the cluster.
    """
    from hlrs.pipeline import slurm_profile as profiles

    cluster = profiles.survey()
    wanted = profiles.Choice(**choice)
    click.echo(profiles.write(cluster, wanted, folder or profiles.default_folder(), force))
    if profiles.choose(cluster, wanted)[0] is None:
        click.echo("No GPU in these partitions: every rule runs on CPUs.")
    if folder is None and (first := profiles.shadowed_by()):
        click.echo(
            f"hlrs: ./{first} hides this profile from `--profile slurm` in this folder; rename it", err=True
        )


@main.command(epilog="Example: hlrs describe digits_lt/hlrs/0")
@click.argument("network")
@click.option(
    "--space",
    type=click.Choice(["darts", "nasbench201"]),
    help="Search space of a supernet.  [default: darts]",
)
@click.option(
    "--channels",
    type=click.IntRange(2),
    help="Initial channels, of a ResNet its width.  [default: as published]",
)
@click.option("--cells", type=click.IntRange(1), help="Number of cells.  [default: as published]")
@click.option("--nodes", type=click.IntRange(1), help="Nodes per cell of a supernet.  [default: 4]")
@click.option("--classes", type=click.IntRange(1), default=10, show_default=True, help="Number of classes.")
@click.option(
    "--image-size", type=click.IntRange(4), default=32, show_default=True, help="Height and width in pixels."
)
@click.option(
    "--in-channels", type=click.IntRange(1), default=3, show_default=True, help="Channels per image."
)
@click.option(
    "--stem",
    type=click.Choice(["cifar", "imagenet"]),
    default="cifar",
    show_default=True,
    help="Stem: one convolution (cifar) or three of stride 2 (imagenet).",
)
@click.option(
    "--auxiliary",
    is_flag=True,
    help="Add the auxiliary head; its weights are counted separately, as in the literature.",
)
@click.option(
    "--multiplier",
    metavar="exact|R,S,V|FILE",
    help="Approximate multiplier of 8-bit codes: the lowest bits of activations and weights and the columns "
    "that it omits, or a table of its products.",
)
@click.option(
    "--where",
    type=click.Choice(["primitives", "convolutions"]),
    default="primitives",
    show_default=True,
    help="What is computed by the multiplier.",
)
@params_option
@click.option("--measure", is_flag=True, help="Measure latency and memory on this machine's GPU or CPU.")
@click.option(
    "--threads",
    type=click.IntRange(1, 4096),
    default=1,
    show_default=True,
    help="Number of threads to measure with, on a CPU.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def describe(network: str, as_json: bool, params: Path, measure: bool, threads: int, **layout: Any) -> None:
    """Count the weights and multiply-adds of a network.

    NETWORK is a run of params.yaml, data set/method/seed, with its own layout and images; or a published
    genotype (DARTS_V1, DARTS_V2, PC_DARTS, PDARTS), a cell of NAS-Bench-201
    ('|nor_conv_3x3~0|+|none~0|skip_connect~1|+...'), the path of a genotype JSON or of an exported network,
    `supernet`, or a ResNet for CIFAR (resnet20, resnet32, resnet44, resnet56, resnet110). Multiply-adds cover
    the convolutions and matrix products for one image. With --multiplier, their energy is compared with that
    of exact 8-bit integers and of floating point. With --measure, passes of 1 and 64 images are timed and
    their peak memory is read; HLRS_DEVICE=cpu leaves a GPU out.
    """
    from hlrs.artifacts.jobs import RUN, typed
    from hlrs.pipeline.model_size import describe as count
    from hlrs.pipeline.model_size import energy_lines, facts_of
    from hlrs.training.latency import lines

    if not measure:
        _refuse_given(["threads"], "acts with --measure alone")
    if layout["multiplier"] is None:
        _refuse_given(["where"], "acts with --multiplier alone")
    used = threads if measure else None
    if RUN.fullmatch(typed(network)) and not Path(network).exists():
        from hlrs.config.jobs import RetrainJob
        from hlrs.stages.networks import network_of_run

        _refuse_given(layout, f"{network} has its own layout, images and arithmetic")
        job = _find("retrain", network, params)
        built, own = network_of_run(job)
        arithmetic = RetrainJob.model_validate(job.params).arithmetic
        counted = facts_of(built, own["in_channels"], own["image_size"], used, arithmetic)
        facts = {"network": network, **own, **counted}
    elif Path(network).is_dir() or network.endswith(".safetensors"):
        from hlrs.inference.locate import locate

        _refuse_given(layout, f"{network} has its own layout, images and arithmetic")
        classifier = locate(network, list).load("cpu")
        spec, (in_channels, size, _) = classifier.facts.network, classifier.facts.preprocessing.shape
        counted = facts_of(classifier.network, in_channels, size, used, spec.arithmetic)
        own = {
            "in_channels": in_channels,
            "classes": spec.classes,
            "channels": spec.channels,
            "cells": spec.cells,
        }
        facts = {"network": network, **own, **counted}
    else:
        facts = count(network, **layout, threads=used)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
    else:
        measured, approximated = facts.pop("measured", None), facts.pop("arithmetic", None)
        for name, value in facts.items():
            click.echo(
                f"{name.replace('_', ' '):18} {value:,}" if isinstance(value, int) else f"{name:18} {value}"
            )
        for line in energy_lines(approximated) if approximated else ():
            click.echo(line)
        for line in lines(measured) if measured else ():
            click.echo(line)


def _refuse_given(names: Iterable[str], why: str) -> None:
    """Reject options of the current command that were given."""
    context, refused = click.get_current_context(), set(names)
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") is not ParameterSource.DEFAULT
        if option.name in refused and given:
            raise UserError(f"{'/'.join([*option.opts, *option.secondary_opts])}: {why}; omit it")


@main.command(epilog="Example: hlrs warm --capability 90")
@params_option
@click.option(
    "--processes",
    type=click.IntRange(1, 1024),
    default=lambda: len(os.sched_getaffinity(0)),
    show_default="the cores of this process",
    help="Number of processes.",
)
@click.option(
    "--capability",
    type=click.Choice(["70", "75", "80", "86", "89", "90", "100", "120"]),
    show_default="the first GPU's",
    help="Compute capability of the GPUs, e.g. 90.",
)
def warm(params: Path, processes: int, capability: str | None) -> None:
    """Compile the GPU kernels of searches ahead of their jobs.

    They stay in Triton's cache (~/.triton/cache, or TRITON_CACHE_DIR), where jobs find them. A node without a
    GPU can compile them as well, given --capability.
    """
    from hlrs.config.jobs import SearchJob, parse
    from hlrs.nas.ops import triton_available
    from hlrs.pipeline.warm import capability_of_first_gpu, compile_ahead

    if reason := triton_available.missing():
        raise UserError(f"kernels cannot be compiled here: {reason}")
    jobs = [parse(job.stage, job.params) for job in _jobs(params) if job.stage == "search"]
    searches = [job for job in jobs if isinstance(job, SearchJob)]
    target = int(capability) if capability else capability_of_first_gpu()
    began = time.monotonic()
    seen, compiled = compile_ahead(searches, processes, target)
    click.echo(
        f"{compiled} of {seen} kernel variants are ready for GPUs of capability {target} "
        f"({time.monotonic() - began:.0f} s, {processes} process{'es' * (processes > 1)})"
    )


@main.command(epilog="Example: hlrs doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Check the installation and show how to repair it.

    Trains a tiny supernet for a few steps on the CPU and on every GPU. Exit status 1 if anything is broken.
    """
    from hlrs.pipeline.doctor import BROKEN, examine, line, verdict

    checks = []
    for check in examine(_announce):
        checks.append(check)
        if not as_json:
            click.echo(line(check))
    click.echo(json.dumps([vars(check) for check in checks], indent=1) if as_json else f"\n{verdict(checks)}")
    sys.exit(any(check.state == BROKEN for check in checks))
