"""The image that Snakemake runs the rules in (`--sdm apptainer`): checked, known by digest, given GPUs."""

import os
import shlex
from pathlib import Path

from hlrs.artifacts.data_digest import file_digests
from hlrs.errors import UserError
from hlrs.training.device import given_gpus

IMAGE = "HLRS_IMAGE"  # inside a container: the digest of its image, for the provenance records
PREFIXES = ("APPTAINER", "SINGULARITY")  # SingularityCE reads the latter only


def image(named: str | None, apptainer: bool) -> str | None:
    """The path of the SIF that the rules run in, None without; `apptainer`: whether Snakemake would use it.

    UserError for a path that cannot be used, and where only one of the two was given.
    """
    if named is None and not apptainer:
        return None
    if named is None:
        raise UserError(
            "--sdm apptainer: no image; name one with --config container=FILE.sif (`make image` makes one)"
        )
    if not apptainer:
        raise UserError(
            f"--config container={named}: is used with --sdm apptainer only; give both or neither"
        )
    if shlex.quote(named) != named:  # Snakemake puts it unquoted into a command
        raise UserError(
            f"--config container={named!r}: a path without blanks and special characters is needed"
        )
    remedy = "`make image` makes build/hlrs.sif, `apptainer pull FILE.sif URL` fetches an image"
    try:
        with Path(named).open("rb") as file:
            header = file.read(64)
    except OSError as error:
        raise UserError(f"--config container={named}: {error.strerror}; {remedy}") from None
    if b"SIF_MAGIC" not in header:
        raise UserError(f"--config container={named}: not a SIF; {remedy}")
    return named


def hand_in(named: str) -> None:
    """Tell Apptainer, through this process's environment, the image's digest and whether a GPU was given."""
    digest = f"sha256:{file_digests([Path(named)])[0]}"
    for prefix in PREFIXES:
        os.environ[f"{prefix}ENV_{IMAGE}"] = digest
        if gpu_given():
            os.environ[f"{prefix}_NV"] = "1"
        elif "SLURM_JOB_ID" in os.environ:  # it hands the submitting process's environment on
            os.environ.pop(f"{prefix}_NV", None)


def gpu_given() -> bool:
    """Whether SLURM gave this job a GPU; outside SLURM, whether the host has one."""
    if "SLURM_JOB_ID" in os.environ:
        return given_gpus(os.environ) > 0
    return Path("/dev/nvidiactl").exists()


def inside() -> str | None:
    """The kind of container that this process runs in: apptainer, podman or docker; None outside of one."""
    marks = {"apptainer": "/.singularity.d", "podman": "/run/.containerenv", "docker": "/.dockerenv"}
    return next((kind for kind, mark in marks.items() if Path(mark).exists()), None)


def digest_of_this() -> str | None:
    """The digest of the image that this process runs in, as it was handed in: `sha256:…`."""
    return os.environ.get(IMAGE) or None
