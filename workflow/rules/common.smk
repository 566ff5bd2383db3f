# What the rules share: how they name inputs, resources and commands.


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
