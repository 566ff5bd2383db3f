"""Write the user's Snakemake profile for a SLURM cluster from what the cluster reports.

The profile holds what depends on the site: partitions, account, time limit, status command. What a rule needs
is declared in the rule (workflow/rules/).
"""

import io
import math
import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from getpass import getuser
from pathlib import Path
from textwrap import indent
from typing import Any

from ruamel.yaml import YAML

from hlrs.artifacts.files import write_text
from hlrs.errors import UserError
from hlrs.pipeline.gpus import GPU_STAGES
from hlrs.pipeline.slurm import ask

COLUMNS = "%P|%a|%D|%r|%l|%G"


@dataclass(frozen=True)
class Partition:
    """A partition as sinfo shows it."""

    name: str
    default: bool
    up: bool  # whether a user's job may ever start in it
    limit: int | None  # minutes; None if unlimited
    gpus: frozenset[str]  # types in its nodes; "" is a GPU without a type

    @property
    def preference(self) -> tuple[bool, float]:
        """Rank the default partition highest, then by time limit."""
        return self.default, math.inf if self.limit is None else self.limit


@dataclass(frozen=True)
class Terms:
    """The terms on which the user may charge an account."""

    qos: frozenset[str]  # that may be requested; empty if unknown
    default_qos: str  # "" if the cluster has none
    limit: int | None  # minutes, where the QOS has no limit of its own; None if unlimited


@dataclass(frozen=True)
class Cluster:
    """What a cluster reports."""

    name: str
    version: str
    partitions: list[Partition]
    accounting: bool  # whether sacct answers
    accounts: Mapping[str, Terms] = field(default_factory=dict)  # that the user may charge; empty if unknown
    default_account: str = ""
    qos: Mapping[str, int | None] = field(default_factory=dict)  # the time limit of each in minutes


@dataclass(frozen=True)
class Choice:
    """What the user requests; empty fields use the cluster's defaults."""

    partitions: tuple[str, ...] = ()
    account: str | None = None
    qos: str | None = None
    gpu_type: str | None = None
    container: Path | None = None


# --- what the cluster reports ----------------------------------------------------------------------------


def survey() -> Cluster:
    """Query SLURM; raise UserError if it does not answer, shows no partition, or shows several clusters."""
    clusters = os.environ.get("SLURM_CLUSTERS", "")
    if "," in clusters or clusters == "all":
        raise UserError(
            f"SLURM_CLUSTERS={clusters}: a profile is for one cluster; set it to that cluster's name"
        )
    listing = ask("sinfo", "--noheader", "--format", COLUMNS)
    settings = ask("scontrol", "show", "config")
    if listing is None or settings is None:
        raise UserError(
            "SLURM does not answer (sinfo, scontrol show config); run this on a login node of the cluster"
        )
    facts = dict(re.findall(r"^(\w+)\s*= (.*)$", settings, re.MULTILINE))
    partitions = merge(listing)
    if not partitions:
        raise UserError("sinfo shows no partition that you may use; ask your administrator for access")
    query = ("sacct", "--allocations", "--noheader", "--starttime", "now")
    answers = "none" not in facts.get("AccountingStorageType", "none") and ask(*query) is not None
    name, version = facts.get("ClusterName", "?"), facts.get("SLURM_VERSION", "?")
    if not answers:
        return Cluster(name, version, partitions, False)
    accounts = _accounts(name)
    qos = {qos: minutes(limit) for qos, limit in _show("qos", "format=name,maxwall")}
    return Cluster(name, version, partitions, True, accounts, _default_account(accounts), qos)


def _accounts(cluster: str) -> dict[str, Terms]:
    """Return the accounts that the user may charge on a cluster; a database may have several clusters."""
    mine = (f"user={getuser()}", f"cluster={cluster}")
    return {
        account: Terms(frozenset(filter(None, qos.split(","))), default_qos, minutes(limit))
        for account, qos, default_qos, limit in _show(
            "associations", *mine, "format=account,qos,defaultqos,maxwall"
        )
    }


def _default_account(accounts: Collection[str]) -> str:
    """Return the account that is charged where none is named; "" if unknown."""
    lines = _show("user", getuser(), "format=defaultaccount")
    return next((account for (account,) in lines if account in accounts), "")


def _show(*query: str) -> list[list[str]]:
    """Return the rows of a query of the accounting; none if it does not answer, and no notices of a site."""
    rows = [line.split("|") for line in (ask("sacctmgr", "-nP", "show", *query) or "").splitlines()]
    return [row for row in rows if len(row) == query[-1].count(",") + 1]


def merge(listing: str) -> list[Partition]:
    """Parse sinfo's lines, of which a partition may have several: `name[*]|up|nodes|root only|limit|gres`."""
    found: dict[str, Partition] = {}
    for line in listing.splitlines():
        if line.count("|") < 5:  # a notice of the site's own
            continue
        starred, state, nodes, root, limit, gres = line.split("|", 5)
        up = state == "up" and nodes != "0" and root == "no"
        name, gpus = starred.rstrip("*"), gpu_types(gres)
        if name in found:
            gpus |= found[name].gpus
        found[name] = Partition(name, starred.endswith("*"), up, minutes(limit), gpus)
    return list(found.values())


def gpu_types(gres: str) -> frozenset[str]:
    """Return the GPU types in a gres such as `gpu:a100:4(S:0-1),shard:8`; "" is a GPU without a type."""
    parts = (part.split("(")[0] for part in re.split(r",(?![^()]*\))", gres))
    found = (re.fullmatch(r"gpu(?::([^:]+?))??(?::no_consume)?(?::\d+)?", part) for part in parts)
    return frozenset(match[1] or "" for match in found if match)


def minutes(limit: str) -> int | None:
    """Convert SLURM's [days-]hours[:minutes[:seconds]] or minutes[:seconds] to minutes; None if infinite.

    The executor's parse_time_to_minutes takes minutes:seconds for hours:minutes, so 30:00 for 30 hours.
    """
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", limit):
        return None
    days, _, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if not days and len(parts) < 3:
        parts = [0, *parts]  # no hours
    hours, mins = [*parts, 0][:2]
    return int(days or 0) * 1440 + hours * 60 + mins


# --- choice of partitions -----------------------------------------------------------------------------------


def choose(cluster: Cluster, choice: Choice) -> tuple[Partition | None, Partition]:
    """Choose the partition of rules that need a GPU (None without GPUs) and that of the others.

    Raises UserError for an unknown partition or GPU type, and an account or QOS that the user may not use.
    """
    allowed = _allowed(cluster, choice.partitions)
    _check_account(cluster, choice.account)
    _check_qos(cluster, choice)
    _check_gpu_type(cluster, choice, allowed)
    wanted = choice.gpu_type
    with_gpus = [p for p in allowed if (wanted in p.gpus if wanted else p.gpus)]
    gpu = max(with_gpus, key=lambda p: p.preference, default=None)
    cpu = max(allowed, key=lambda p: (not p.gpus, p.preference))
    return gpu, cpu


def _allowed(cluster: Cluster, names: Sequence[str]) -> list[Partition]:
    """Return the partitions of these names; without names those that are up, or all if none is."""
    known = {partition.name: partition for partition in cluster.partitions}
    for name in names:
        if name not in known:
            raise UserError(f"--partition {name}: unknown to {cluster.name}; choose from: {', '.join(known)}")
    return [known[name] for name in names] or [p for p in cluster.partitions if p.up] or cluster.partitions


def _check_account(cluster: Cluster, account: str | None) -> None:
    if account and cluster.accounts and account.lower() not in cluster.accounts:
        yours = ", ".join(sorted(cluster.accounts))
        raise UserError(f"--account {account}: not yours on {cluster.name}; choose from: {yours}")


def _check_qos(cluster: Cluster, choice: Choice) -> None:
    terms = _terms(cluster, choice)
    yours = terms.qos if terms and terms.qos else cluster.qos
    if choice.qos and yours and choice.qos.lower() not in yours:
        where = f"not yours on {cluster.name}"
        raise UserError(f"--qos {choice.qos}: {where}; choose from: {', '.join(sorted(yours))}")


def _terms(cluster: Cluster, choice: Choice) -> Terms | None:
    """Return the terms of the account that the jobs will be charged to; None if unknown."""
    return cluster.accounts.get((choice.account or cluster.default_account).lower())


def _check_gpu_type(cluster: Cluster, choice: Choice, allowed: list[Partition]) -> None:
    wanted = choice.gpu_type
    types = sorted({gpu for partition in allowed for gpu in partition.gpus if gpu})
    if wanted and wanted not in types:
        where = f"in {', '.join(choice.partitions)}" if choice.partitions else f"on {cluster.name}"
        raise UserError(f"--gpu-type {wanted}: not {where}; available: {', '.join(types) or 'none'}")
    if wanted and not re.fullmatch(r"[A-Za-z0-9_.]+", wanted):
        raise UserError(
            f"--gpu-type {wanted}: Snakemake's slurm executor accepts only letters, digits, _ and .; use "
            "--partition with a partition that has no other GPUs"
        )


# --- the two files ----------------------------------------------------------------------------------------


def profile(cluster: Cluster, choice: Choice) -> dict[str, Any]:
    """Return the entries of the profile."""
    gpu, cpu = choose(cluster, choice)
    if gpu is None:
        needs: dict[str, Any] = {"gpu": 0}
    else:
        needs = _literals(slurm_partition=None if gpu is cpu else gpu.name, gpu_model=choice.gpu_type)
    return {
        "executor": "slurm",
        "jobs": 100,
        "local-cores": 2,
        "latency-wait": 60,
        "retries": 0,
        "slurm-requeue": True,
        "slurm-status-command": "sacct" if cluster.accounting else "squeue",
        "slurm-status-attempts": 60,
        "slurm-init-seconds-before-status-checks": 20,
        "configfile": "site.yaml",
        **({"software-deployment-method": "apptainer"} if choice.container else {}),
        "default-resources": _literals(
            slurm_partition=cpu.name, slurm_account=choice.account, qos=choice.qos
        ),
        **({"set-resources": {rule: dict(needs) for rule in GPU_STAGES}} if needs else {}),
    }


def _literals(**resources: str | None) -> dict[str, str]:
    """Quote the resources that are set, because Snakemake evaluates them as expressions."""
    return {name: repr(text) for name, text in resources.items() if text}


def site(cluster: Cluster, choice: Choice) -> dict[str, Any]:
    """Return the workflow's settings: the shortest time limit in minutes, and the image."""
    found = [partition.limit for partition in choose(cluster, choice) if partition is not None]
    limits = [limit for limit in (*found, _accounting_limit(cluster, choice)) if limit is not None]
    settings: dict[str, Any] = {"time_limit": min(limits)} if limits else {}
    return settings | ({"container": str(choice.container.resolve())} if choice.container else {})


def _accounting_limit(cluster: Cluster, choice: Choice) -> int | None:
    """Return the time limit of the QOS that the jobs will have, else of the account."""
    terms = _terms(cluster, choice)
    qos = choice.qos or (terms.default_qos if terms else "")
    limit = cluster.qos.get(qos.lower())
    return terms.limit if terms and limit is None else limit


# --- writing ------------------------------------------------------------------------------------------

COMMENTS = {
    "jobs": "maximum number of jobs in the queue",
    "local-cores": "extractions and look-ups that the login node runs in parallel, one second each",
    "retries": "SLURM owns every continuation; retries > 0 would resubmit a cancelled job",
    "slurm-requeue": "jobs that were preempted or lost their node resume from their checkpoint",
    "slurm-status-attempts": "one minute each that SLURM may not answer (hlrs/pipeline/slurm_commands.py)",
    "configfile": "the workflow's settings for this site, next to this file",
}

ARRAYS = """\
# one sbatch for all jobs of a rule that are ready at once (docs/cluster.md); needs `jobs: unlimited`:
# slurm-array-jobs: search, retrain, evaluate
# slurm-disable-memory-fudge: true
"""


def default_folder() -> Path:
    """Return the folder that `snakemake --profile slurm` searches after the current one."""
    from snakemake.common import get_appdirs

    return Path(get_appdirs().user_config_dir) / "slurm"


def write(cluster: Cluster, choice: Choice, folder: Path, force: bool) -> str:
    """Write config.yaml and site.yaml, and return what to show of them.

    Raises UserError if one exists and not `force`, or if the image or the program that runs it is missing.
    """
    _check_container(choice.container)
    title = f"# {cluster.name}, SLURM {cluster.version}; written by `hlrs profile slurm` on {date.today()}\n"
    entries = _dumped(profile(cluster, choice)).splitlines()
    texts = {
        folder / "config.yaml": title + "".join(map(_commented, entries)) + ARRAYS,
        folder / "site.yaml": title + _dumped(site(cluster, choice)),
    }
    existing = [path for path in texts if path.exists()]
    if existing and not force:
        raise UserError(f"{existing[0]}: exists; --force replaces it")
    for path, text in texts.items():
        write_text(path, text)
    return "\n".join(f"{path}:\n{indent(text, '    ')}" for path, text in texts.items())


def _check_container(container: Path | None) -> None:
    if container and not container.is_file():
        raise UserError(f"--container {container}: no such file; `make image` builds one")
    if container and not (shutil.which("apptainer") or shutil.which("singularity")):
        raise UserError("--container: apptainer not found; try `module load apptainer`")


def _dumped(entries: dict[str, Any]) -> str:
    """Dump YAML 1.1, which Snakemake reads: a partition called `on` is quoted."""
    yaml, text = YAML(), io.StringIO()
    yaml.version, yaml.width = (1, 1), 1000
    yaml.dump(entries, text)
    return text.getvalue().removeprefix("%YAML 1.1\n---").lstrip()


def _commented(line: str) -> str:
    comment = COMMENTS.get(line.split(":")[0])
    return f"{line}  # {comment}\n" if comment else f"{line}\n"


def shadowed_by() -> Path | None:
    """Return what `snakemake --profile slurm` would find before the user's profile."""
    here = Path("slurm")
    return here if here.exists() else None
