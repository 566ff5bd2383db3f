"""Architecture search on long-tailed images: split -> search -> extract -> retrain -> evaluate -> report.

`snakemake --cores all` runs what params.yaml asks for; `snakemake -n` shows it. Another parameter file:
`--config params=workflow/experiments/cifar10_lt.yaml`; in an image: `--sdm apptainer --config container=FILE.sif`.
The paths of results carry the key of what they depend on (hlrs/plan.py): what exists is current, whatever its
time stamp.
"""

import sys

sys.path.insert(0, workflow.basedir)

from hlrs import workflow as hlrs

PLAN = hlrs.start(config, workflow)
HLRS = f"{PLAN.python} -m hlrs"  # the code beside this file, in the environment of this process or the image's


container: PLAN.image


report: "workflow/report/workflow.rst"


wildcard_constraints:
    key="[0-9a-f]{12}",
    seed="[0-9]+(-[0-9]+)?",  # of the search, and of its retrainings but the first


def inputs(wildcards):
    return [ancient(path) for path in hlrs.inputs(wildcards.key).values()]


def threads_of(wildcards):
    return hlrs.threads(wildcards.key)


def minutes(needed):
    """Run time, more with each attempt; within the site's limit, where a job goes on in another allocation."""
    limit = config.get("time_limit", float("inf"))
    return lambda wildcards, attempt: min(needed * attempt, limit)


def stage(name):
    """The shell command of a stage; the end of its log is shown where it fails, even with --quiet.

    SLURM's signals reach the shell as well: it stays until its stage has saved. The warning is ignored until
    the stage listens to it, and comes again then (hlrs/slurm.py).
    """
    command = f"{HLRS} {name} .hlrs/specs/{{wildcards.key}}.json > {{log}} 2>&1"
    return f"trap : TERM; trap '' USR1; {command} || (status=$?; tail -n 20 {{log}} >&2 || true; exit $status)"


rule all:
    input:
        PLAN.targets("report"),


for phase in ("split", "search", "extract", "retrain", "evaluate"):

    rule:
        name:
            f"{phase}_all"
        input:
            PLAN.targets(phase),


include: "workflow/rules/split.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/extract.smk"
include: "workflow/rules/retrain.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


onstart:
    hlrs.rest_between_jobs(workflow)


onsuccess:
    PLAN.publish()


onerror:
    PLAN.fail()
