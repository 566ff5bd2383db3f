"""Write the user's Snakemake profile for a SLURM cluster, from what the cluster reports.

It holds the site's facts (partitions, account, time limits, the status command); what a rule needs is in the
rule (workflow/rules/).
"""

import io
import re
import shutil
from dataclasses import dataclass
from datetime import date
from getpass import getuser
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from hlrs.artifacts.files import write_text
from hlrs.errors import UserError
from hlrs.pipeline.slurm import ask

GPU_RULES = ("search", "retrain", "evaluate")
COLUMNS = "%P|%a|%l|%G"


@dataclass(frozen=True)
class Partition:
    """A partition as sinfo shows it; `limit` in minutes, None if unlimited; `gpus`: types in its nodes."""

    name: str
    default: bool
    up: bool
    limit: int | None
    gpus: frozenset[str]

    @property
    def room(self) -> float:
        """The time limit in minutes, infinite if unlimited."""
        return float("inf") if self.limit is None else self.limit


@dataclass(frozen=True)
class Cluster:
    """What a cluster reports; `accounting`: whether sacct answers."""

    name: str
    version: str
    partitions: list[Partition]
    accounting: bool
    accounts: frozenset[str] = frozenset()  # that the user may charge; empty if unknown


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
    """Query SLURM. UserError if it does not answer or shows no partition."""
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
    answers = "none" not in facts.get("AccountingStorageType", "none") and _accounting_answers()
    return Cluster(
        facts.get("ClusterName", "?"),
        facts.get("SLURM_VERSION", "?"),
        partitions,
        answers,
        _accounts() if answers else frozenset(),
    )


def _accounting_answers() -> bool:
    return ask("sacct", "--allocations", "--noheader", "--starttime", "now") is not None


def _accounts() -> frozenset[str]:
    """Return the accounts that the user may charge; empty if unknown."""
    listing = ask("sacctmgr", "-nP", "show", "associations", f"user={getuser()}", "format=account")
    return frozenset((listing or "").split())


def merge(listing: str) -> list[Partition]:
    """Parse sinfo's lines `name[*]|up|limit|gres`, of which a partition may have several."""
    found: dict[str, Partition] = {}
    for line in listing.splitlines():
        name, state, limit, gres = line.split("|", 3)
        known = found.get(name.rstrip("*"))
        gpus = gpu_types(gres) | (known.gpus if known else frozenset())
        found[name.rstrip("*")] = Partition(
            name.rstrip("*"), name.endswith("*"), state == "up", minutes(limit), gpus
        )
    return list(found.values())


def gpu_types(gres: str) -> frozenset[str]:
    """Return the GPU types in a gres such as `gpu:a100:4(S:0-1),shard:8`; "" is a GPU without a type."""
    parts = (part.split("(")[0] for part in re.split(r",(?![^()]*\))", gres))
    found = (re.fullmatch(r"gpu(?::([^:]+?))??(?::no_consume)?(?::\d+)?", part) for part in parts)
    return frozenset(match[1] or "" for match in found if match)


def minutes(limit: str) -> int | None:
    """Convert SLURM's [days-]hours:minutes:seconds or minutes:seconds to minutes; None if infinite."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", limit):
        return None
    days, _, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days:  # days-hours[:minutes[:seconds]]
        hours, mins = parts[0], parts[1] if len(parts) > 1 else 0
    else:
        hours, mins = (parts[0], parts[1]) if len(parts) == 3 else (0, parts[0])
    return int(days or 0) * 1440 + hours * 60 + mins


# --- choice of partitions -----------------------------------------------------------------------------------


def choose(cluster: Cluster, choice: Choice) -> tuple[Partition | None, Partition]:
    """Choose the partition of rules that need a GPU (None without GPUs) and that of the others.

    UserError for an unknown partition or GPU type, or an account that the user may not charge.
    """
    known = {partition.name: partition for partition in cluster.partitions}
    for name in choice.partitions:
        if name not in known:
            raise UserError(f"--partition {name}: unknown to {cluster.name}; choose from: {', '.join(known)}")
    allowed = (
        [known[name] for name in choice.partitions]
        or [p for p in known.values() if p.up]
        or [*known.values()]
    )
    if choice.account and cluster.accounts and choice.account.lower() not in cluster.accounts:
        yours = ", ".join(sorted(cluster.accounts))
        raise UserError(f"--account {choice.account}: not yours on {cluster.name}; choose from: {yours}")
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
    with_gpus = [p for p in allowed if (wanted in p.gpus if wanted else p.gpus)]
    gpu = max(with_gpus, key=lambda p: (p.default, p.room), default=None)
    cpu = max(allowed, key=lambda p: (not p.gpus, p.default, p.room))
    return gpu, cpu


def profile(cluster: Cluster, choice: Choice) -> dict[str, Any]:
    """Return the entries of the profile."""
    gpu, cpu = choose(cluster, choice)
    needs: dict[str, Any] = {}  # of the rules that train or evaluate
    if gpu is None:
        needs["gpu"] = 0
    elif gpu is not cpu:
        needs["slurm_partition"] = _literal(gpu.name)
    if choice.gpu_type:
        needs["gpu_model"] = _literal(choice.gpu_type)
    defaults = {"slurm_partition": _literal(cpu.name)}
    if choice.account:
        defaults["slurm_account"] = _literal(choice.account)
    if choice.qos:
        defaults["qos"] = _literal(choice.qos)
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
        "default-resources": defaults,
        **({"set-resources": {rule: dict(needs) for rule in GPU_RULES}} if needs else {}),
    }


def site(cluster: Cluster, choice: Choice) -> dict[str, Any]:
    """Return the workflow's settings: the shorter time limit in minutes, and the image."""
    limits = [p.limit for p in choose(cluster, choice) if p is not None and p.limit is not None]
    facts: dict[str, Any] = {"time_limit": min(limits)} if limits else {}
    return facts | ({"container": str(choice.container.resolve())} if choice.container else {})


def _literal(text: str) -> str:
    """Quote a string, because Snakemake evaluates resources as expressions."""
    return repr(text)


# --- writing ------------------------------------------------------------------------------------------

COMMENTS = {
    "jobs": "maximum number of jobs in the queue",
    "local-cores": "extractions that the login node runs in parallel, one second each",
    "retries": "SLURM owns every continuation; retries > 0 would resubmit a cancelled job",
    "slurm-requeue": "jobs that were preempted or lost their node resume from their checkpoint",
    "slurm-status-attempts": "one minute each that SLURM may be absent (hlrs/pipeline/slurm_commands.py)",
    "configfile": "the workflow's settings for this site; next to this file",
}


def default_folder() -> Path:
    """Return the folder that `snakemake --profile slurm` searches after the current one."""
    from snakemake.common import get_appdirs

    return Path(get_appdirs().user_config_dir) / "slurm"


def write(cluster: Cluster, choice: Choice, folder: Path, force: bool) -> str:
    """Write config.yaml and site.yaml and return their text. UserError if one exists and not `force`."""
    if choice.container and not choice.container.is_file():
        raise UserError(f"--container {choice.container}: no such file; `make image` builds one")
    if choice.container and not (shutil.which("apptainer") or shutil.which("singularity")):
        raise UserError("--container: apptainer not found; try `module load apptainer`")
    entries = profile(cluster, choice)
    there = [path for path in (folder / "config.yaml", folder / "site.yaml") if path.exists()]
    if there and not force:
        raise UserError(f"{there[0]}: exists; --force replaces it")
    title = f"# {cluster.name}, SLURM {cluster.version}; written by `hlrs profile slurm` on {date.today()}\n"
    facts = site(cluster, choice)
    texts = {
        "config.yaml": title + "".join(map(_commented, _dumped(entries).splitlines())),
        "site.yaml": title + (_dumped(facts) if facts else "{}\n"),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return "\n".join(f"{folder / name}:\n{_indented(text)}" for name, text in texts.items())


def _dumped(entries: dict[str, Any]) -> str:
    """Dump YAML 1.1, which Snakemake reads: a partition called `on` is quoted."""
    yaml, text = YAML(), io.StringIO()
    yaml.version, yaml.width = (1, 1), 1000
    yaml.dump(entries, text)
    return text.getvalue().removeprefix("%YAML 1.1\n---\n")


def _commented(line: str) -> str:
    comment = COMMENTS.get(line.split(":")[0])
    return f"{line}  # {comment}\n" if comment else f"{line}\n"


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def shadowed_by() -> Path | None:
    """Return what `snakemake --profile slurm` would find before the user's profile."""
    here = Path("slurm")
    return here if here.exists() else None
