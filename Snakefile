"""Architecture search on long-tailed images: split -> search -> extract -> (lookup) -> retrain -> evaluate -> report.

`snakemake --cores all` makes what params.yaml requests; `snakemake -n` lists it. With another parameter file:
`--config params=workflow/experiments/cifar10_lt.yaml`; in an image: `--sdm apptainer --config container=FILE.sif`.
The paths of results carry the key of what they depend on (hlrs/pipeline/plan.py): a result that exists is current, whatever
its time stamp.
"""

import sys

sys.path.insert(0, workflow.basedir)

from hlrs.errors import INTERRUPTED
from hlrs.pipeline.memory import MEM_MB
from hlrs.pipeline.snakemake import SLURM_EXTRA, inputs, rest_between_jobs, start, threads

PLAN = start(config, workflow)
HLRS = f"{PLAN.python} -m hlrs"  # the code beside this file, in the environment of this process or of the image


container: PLAN.image


report: "workflow/report/workflow.rst"


wildcard_constraints:
    key="[0-9a-f]{12}",
    seed="[0-9]+(-[0-9]+)?",  # the search's, followed by the retraining's unless that is 0


def reads(name):
    """The input of this name, as a job's spec has it; none for a job that needs none (a ResNet's genotype)."""
    return lambda wildcards: [ancient(path) for given, path in inputs(wildcards.key).items() if given == name]


def reads_all(wildcards):
    """Every input of a job."""
    return [ancient(path) for path in inputs(wildcards.key).values()]


def threads_of(wildcards):
    return threads(wildcards.key)


def minutes(needed):
    """Run time in minutes, growing with each attempt up to the site's limit, at which a job is requeued and resumes."""
    limit = config.get("time_limit", float("inf"))
    return lambda wildcards, attempt: min(needed * attempt, limit)


def stage(name):
    """Return the shell command of a stage; if it fails, the end of its log is shown.

    A job that resumes appends to its log: Snakemake has deleted that, but a second link keeps it until the job is done.

    SLURM's signals also reach the shell, which waits until its stage has saved. The warning is ignored until the
    stage handles it, and is repeated (hlrs/pipeline/slurm.py).
    """
    command = f"{HLRS} {name} .hlrs/specs/{{wildcards.key}}.json >> {{log}} 2>&1"
    begun = "(ln {log}.part {log} || (touch {log}; ln {log} {log}.part)) 2> /dev/null || true"
    shown = f"test $status = {INTERRUPTED} || tail -n 20 {{log}} >&2 || true"
    done = f"{command} && rm -f {{log}}.part"
    return f"trap : TERM; trap '' USR1; {begun}; {done} || (status=$?; {shown}; exit $status)"


rule all:
    input:
        PLAN.targets("report"),


for phase in ("split", "search", "extract", "lookup", "retrain", "evaluate"):

    rule:
        name:
            f"{phase}_all"
        input:
            PLAN.targets(phase),


include: "workflow/rules/split.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/extract.smk"
include: "workflow/rules/lookup.smk"
include: "workflow/rules/retrain.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


onstart:
    rest_between_jobs(workflow)
    PLAN.show(workflow)


onsuccess:
    PLAN.succeed()


onerror:
    PLAN.fail()
