"""The command line: a sub-command a stage, and what people need around them."""

import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import hlrs.training.startup  # noqa: F401 - loaded first: its clock stands in where the system does not tell the start
from hlrs import __version__
from hlrs.errors import HlrsError, UserError

if TYPE_CHECKING:
    from hlrs.artifacts.jobs import Job

STAGE_HELP = {
    "split": "Cut a long-tailed split: weights, alphas, holdout and test images of a data set.",
    "search": "Train the supernet: alphas and search history.",
    "extract": "Derive the genotype from the alphas, and draw its cells.",
    "retrain": "Train the genotype's network from scratch on the long-tailed training set.",
    "evaluate": "Evaluate the trained network on the test set: many, medium and few shot.",
    "report": "Put all runs side by side in one HTML page, CSV tables and plots.",
}
RUN_HELP = {
    "split": "RUN is a data set of params.yaml, e.g. digits_lt,",
    "report": "RUN is `all`,",
}


class Commands(click.Group):
    """Turns the project's errors into one line on stderr and an exit status."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except HlrsError as error:
            click.echo(f"hlrs: {error}", err=True)
            sys.exit(error.status)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hlrs")
def main() -> None:
    """Neural architecture search for long-tailed images, as a versioned workflow.

    `snakemake --cores all` runs everything that params.yaml asks for; the stages below are its jobs, one at a
    time: split, search, extract, retrain, evaluate, report. They read params.yaml in the current folder and
    write below results/. Exit status: 0 done, 1 failure, 2 a mistake in what was given, 75 stopped by a
    signal with the state saved (run again to go on).
    """


params_option = click.option(
    "--params",
    type=click.Path(path_type=Path),
    default="params.yaml",
    show_default=True,
    help="Parameter file.",
)


def _stage_command(stage: str) -> click.Command:
    run = RUN_HELP.get(stage, "RUN is dataset/method/seed of the matrix, e.g. digits_lt/hlrs/0,")
    if stage in ("retrain", "evaluate"):
        run += " or digits_lt/hlrs/0-3 of the retraining with seed 3,"

    @click.argument("run")
    @click.option("--force", is_flag=True, help="Run even though the result is there.")
    @params_option
    def command(run: str, force: bool, params: Path) -> None:
        from hlrs.pipeline.execute import current, execute

        job = _find(stage, run, params)
        if run.endswith(".json") or force or not current(job):
            execute(job)
        click.echo(job.directory)

    command.__doc__ = (
        f"{STAGE_HELP[stage]}\n\n{run} or the path of a frozen spec "
        "(.hlrs/specs/KEY.json, as the workflow calls it).\n\nPrints the folder of the results."
    )
    return click.command(stage)(command)


for _stage in STAGE_HELP:
    main.add_command(_stage_command(_stage))


def _find(stage: str, run: str, params: Path) -> "Job":
    """The job of a frozen spec, or of a run of the params' matrix."""
    from hlrs.artifacts.jobs import load_spec

    if run.endswith(".json"):
        job = load_spec(Path(run))
        if job.stage != stage:
            raise UserError(f"{run}: the spec of a {job.stage} job; `hlrs {job.stage} {run}` runs it")
        return job
    jobs = [job for job in _jobs(params) if job.stage == stage]
    for job in jobs:
        if job.run == run:
            return job
    there = ", ".join(job.run for job in jobs) or "none, as no method asks for it"
    raise UserError(f"{stage} has no run {run!r} in {params}; there are: {there}")


def _jobs(params: Path) -> "list[Job]":
    from hlrs.config.params import load
    from hlrs.pipeline import plan

    jobs = plan.plan(load(params))
    plan.freeze(jobs)
    plan.restore(jobs)
    return jobs


def _width() -> int:
    """Columns to write in."""
    return min(shutil.get_terminal_size((110, 50)).columns, 130)


@main.command("plan")
@params_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--why",
    "run",
    metavar="RUN",
    help="Of one run (data set/method/seed, or seed-3 for its retraining 3), what differs, in full.",
)
def show_plan(params: Path, as_json: bool, run: str | None) -> None:
    """Show which jobs would run, why, and what they would cost; runs none of them.

    Why: which parameter, code, data or input differs from the nearest earlier result. The cost comes from the
    records of past runs with the same parameters; without any, from a few seconds of training on this
    machine's device, which are remembered in .hlrs/calibration.json.
    """
    from hlrs.config.params import load
    from hlrs.pipeline.plan_view import Outlook

    if run is not None and as_json:
        raise UserError("--json: does not go with --why; without it, --json has every job's differences")
    jobs = _jobs(params)
    if run is not None:
        from hlrs.pipeline.plan_view import why

        click.echo("\n".join(why(run.strip("/"), jobs, load(params), _width())))
        return
    outlook = Outlook(jobs, load(params), lambda text: click.echo(f"{text} ...", err=True))
    if as_json:
        click.echo(json.dumps(outlook.facts(), indent=1))
    else:
        for line in outlook.lines():
            click.echo(line)


@main.command()
@click.argument("path")
@params_option
@click.option("--json", "form", flag_value="json", help="Print JSON: every record whole, every data file.")
@click.option("--dot", "form", flag_value="dot", help="Print a graph for Graphviz: `| dot -Tsvg`.")
@click.option("--since", metavar="REV", help="Tell what differs from what DVC recorded at a Git revision.")
def lineage(path: str, params: Path, form: str | None, since: str | None) -> None:
    """Show where a result comes from, back to the data files.

    PATH is a file below results/ or report/, or a cell of the report: data set/method/seed, data set/method
    or data set. Shows, for every job on the way, its parameters, the SHA-256 of what it read, code, commit,
    lock file, image, host, device, SLURM job, duration and resumes; files that are not what was recorded
    stand out.
    """
    from hlrs.config.params import load
    from hlrs.provenance import lineage_view
    from hlrs.provenance.differences import differences
    from hlrs.provenance.lineage import earlier, facts, find, read_here, trace

    found = trace(find(path, _jobs(params)), read_here)
    if since:
        changes = differences(earlier(found, since).records.values(), found.records.values(), load(params))
        if form == "json":
            click.echo(json.dumps([asdict(change) for change in changes], indent=1))
        elif form:
            raise UserError("--dot: does not go with --since; --json does")
        else:
            click.echo("\n".join(lineage_view.since(changes, since, _width())))
    elif form == "json":
        click.echo(json.dumps(facts(found), indent=1))
    elif form:
        click.echo(lineage_view.dot(found))
    else:
        click.echo("\n".join(lineage_view.tree(found, _width())))


@main.command()
@params_option
@click.option("--data", "with_data", is_flag=True, help="Also read the data files and compare them.")
@click.option("--strict", is_flag=True, help="Exit status 1 for remarks as well.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def audit(params: Path, with_data: bool, strict: bool, as_json: bool) -> None:
    """Check that every result is what its record tells, and that all records agree.

    Reads everything below results/ and compares files, records, the records of who read them, dvc.lock,
    params.yaml, report/ and the commits on record. Names each break and the first artifact that cannot be
    trusted for it; remarks are what a reader of the results should know. Exit status 1 if something is
    broken.
    """
    from hlrs.provenance.audit import Audit, check_data, report

    audited = Audit(_jobs(params))
    findings = [*audited.findings(), *(check_data(audited) if with_data else ())]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        click.echo("\n".join(report(audited, findings)))
    sys.exit(any(finding.broken or strict for finding in findings))


@main.command()
@click.argument("stages", nargs=-1, type=click.Choice(list(STAGE_HELP)))
@click.option("--complete", is_flag=True, help="Refuse if a result that params.yaml asks for is not there.")
@params_option
def prune(stages: tuple[str, ...], complete: bool, params: Path) -> None:
    """Put results aside that params.yaml does not ask for; of all STAGES by default.

    results/ then holds what DVC should version. They come back by themselves when params.yaml asks for them
    again; to free the space, delete .hlrs/aside.
    """
    from hlrs.artifacts.jobs import RESULTS
    from hlrs.pipeline import locks, plan

    locks.refuse_beside()
    jobs = _jobs(params)
    stages = stages or tuple(STAGE_HELP)
    missing = [job for job in jobs if job.stage in stages and not job.complete]
    if complete and missing:
        raise UserError(
            f"{missing[0].directory}: {params} asks for it, but it is not there, one of {len(missing)}; "
            "if the file was edited meanwhile, run again"
        )
    for stage in stages:
        for directory in plan.prune(jobs, stage):
            click.echo(f"put aside {directory}")
        if complete:  # DVC records a phase, if the methods leave it nothing to do
            (RESULTS / stage).mkdir(parents=True, exist_ok=True)


@main.command()
@params_option
def publish(params: Path) -> None:
    """Copy the report of the current params to report/, where people and DVC open it by name."""
    from hlrs.artifacts.jobs import PUBLISHED
    from hlrs.pipeline import plan

    if not plan.publish(_jobs(params)):
        raise UserError("the report of these params is not there yet; `snakemake --cores all` makes it")
    click.echo(PUBLISHED / "index.html")


@main.command()
@click.option(
    "--ro-crate",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder to write, new or empty.",
)
@click.option(
    "--weights/--no-weights",
    default=True,
    show_default=True,
    help="Copy the trained weights, too; without them, their SHA-256 and size still stand in the crate.",
)
@params_option
def export(folder: Path, weights: bool, params: Path) -> None:
    """Pack the finished run as an RO-Crate: results, parameters, code, and where each came from.

    A Provenance Run Crate (https://w3id.org/ro/wfrun/provenance/0.5), for a data repository or a colleague.
    The data set's images are described, not copied. Open ro-crate-preview.html in it.
    """
    from hlrs.provenance import ro_crate

    found = ro_crate.export(_jobs(params), params, folder, weights)
    size = f"{found['bytes'] / 1e6:,.1f} MB"
    click.echo(f"{folder}: {found['jobs']} jobs, {found['files']} files, {size}")


@main.command()
@click.argument("system", type=click.Choice(["slurm"]))
@click.option(
    "--partition",
    "partitions",
    multiple=True,
    metavar="NAME",
    help="Partition to use; given twice, the one with GPUs is for the rules that need one.",
)
@click.option("--account", metavar="NAME", help="Account to charge.")
@click.option("--qos", metavar="NAME", help="Quality of service.")
@click.option("--gpu-type", metavar="TYPE", help="Type of GPU, as sinfo names it.")
@click.option(
    "--container", type=click.Path(path_type=Path), help="Apptainer image (SIF) to run every rule in."
)
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write.  [default: where `snakemake --profile slurm` looks]",
)
@click.option("--force", is_flag=True, help="Replace a profile that is there.")
def profile(system: str, folder: Path | None, force: bool, **choice: Any) -> None:
    """Write the Snakemake profile for the cluster that this machine belongs to.

    Asks SLURM for partitions, GPUs, time limits and whether accounting answers, and shows what it wrote. From
    then on, `snakemake --profile slurm` runs the workflow there.
    """
    from hlrs.pipeline import slurm_profile as profiles

    cluster = profiles.survey()
    wanted = profiles.Choice(**choice)
    click.echo(profiles.write(cluster, wanted, folder or profiles.default_folder(), force))
    if profiles.choose(cluster, wanted)[0] is None:
        click.echo("No GPU is to be had in these partitions: every rule runs on CPUs.")
    if folder is None and (first := profiles.shadowed_by()):
        click.echo(f"hlrs: ./{first} comes first for `--profile slurm` in this folder; rename it", err=True)


@main.command()
@click.argument("network")
@click.option("--channels", type=click.IntRange(2), help="Initial channels.  [default: 36; supernet: 16]")
@click.option("--cells", type=click.IntRange(1), help="Number of cells.  [default: 20; supernet: 8]")
@click.option(
    "--nodes", type=click.IntRange(1), default=4, show_default=True, help="Nodes of a supernet's cell."
)
@click.option("--classes", type=click.IntRange(1), default=10, show_default=True, help="Number of classes.")
@click.option(
    "--image-size", type=click.IntRange(4), default=32, show_default=True, help="Height and width in pixels."
)
@click.option(
    "--in-channels", type=click.IntRange(1), default=3, show_default=True, help="Channels of the images."
)
@click.option(
    "--stem",
    type=click.Choice(["cifar", "imagenet"]),
    default="cifar",
    show_default=True,
    help="Before the cells: one convolution, or three of stride 2.",
)
@click.option(
    "--auxiliary", is_flag=True, help="With the auxiliary head (counted apart, as in the literature)."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def describe(network: str, as_json: bool, **layout: Any) -> None:
    """Number of weights and multiply-adds of NETWORK.

    NETWORK is a published genotype (DARTS_V1, DARTS_V2, PC_DARTS, PDARTS), the path of a genotype JSON,
    `supernet`, or a ResNet for CIFAR (resnet20, resnet32, resnet44, resnet56, resnet110). Multiply-adds are
    those of convolutions and matrix products for one image.
    """
    from hlrs.pipeline.model_size import describe as count

    facts = count(network, **layout)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
    else:
        for name, value in facts.items():
            click.echo(
                f"{name.replace('_', ' '):18} {value:,}" if isinstance(value, int) else f"{name:18} {value}"
            )


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Whether everything that is needed is here and works, and what to do where it does not.

    Trains a tiny supernet for some steps on the CPU and on every GPU. Exit status 1 if something is broken.
    """
    from hlrs.pipeline.doctor import BROKEN, examine, table

    checks = list(examine())
    click.echo(json.dumps([vars(check) for check in checks], indent=1) if as_json else table(checks))
    sys.exit(any(check.state == BROKEN for check in checks))
