"""The image that Snakemake runs the rules in (`--sdm apptainer`): its check, digest and GPUs."""

import os
import shlex
from pathlib import Path

from hlrs.artifacts.data_digest import file_digests
from hlrs.errors import UserError
from hlrs.training.device import given_gpus

IMAGE = "HLRS_IMAGE"  # inside a container: the digest of its image, for the provenance records
PREFIXES = ("APPTAINER", "SINGULARITY")  # SingularityCE reads the latter only


def image(named: str | None, apptainer: bool) -> str | None:
    """Check and return the path of the SIF that the rules run in, or None for no container.

    `apptainer`: whether Snakemake uses Apptainer. UserError if only one of the two was given, or if the path
    is unusable.
    """
    if named is None and not apptainer:
        return None
    if named is None:
        raise UserError(
            "--sdm apptainer: no image; name one with --config container=FILE.sif (`make image` builds one)"
        )
    if not apptainer:
        raise UserError(f"--config container={named}: works with --sdm apptainer only; give both or neither")
    if shlex.quote(named) != named:  # Snakemake puts it unquoted into a command
        raise UserError(
            f"--config container={named!r}: must not contain blanks or special characters; rename it"
        )
    remedy = "`make image` builds build/hlrs.sif, `apptainer pull FILE.sif URL` downloads an image"
    try:
        with Path(named).open("rb") as file:
            header = file.read(64)
    except OSError as error:
        raise UserError(f"--config container={named}: {error.strerror}; {remedy}") from None
    if b"SIF_MAGIC" not in header:
        raise UserError(f"--config container={named}: not a SIF; {remedy}")
    return named


def hand_in(named: str) -> None:
    """Pass the image's digest, and --nv if a GPU was given, to Apptainer in environment variables."""
    digest = f"sha256:{file_digests([Path(named)])[0]}"
    for prefix in PREFIXES:
        os.environ[f"{prefix}ENV_{IMAGE}"] = digest
        if gpu_given():
            os.environ[f"{prefix}_NV"] = "1"
        elif "SLURM_JOB_ID" in os.environ:  # which inherits the submitting process's environment
            os.environ.pop(f"{prefix}_NV", None)


def gpu_given() -> bool:
    """Return whether SLURM gave this job a GPU or, outside SLURM, whether the host has one."""
    if "SLURM_JOB_ID" in os.environ:
        return given_gpus(os.environ) > 0
    return Path("/dev/nvidiactl").exists()


def inside() -> str | None:
    """Return the kind of container of this process: apptainer, podman or docker; None outside."""
    marks = {"apptainer": "/.singularity.d", "podman": "/run/.containerenv", "docker": "/.dockerenv"}
    return next((kind for kind, mark in marks.items() if Path(mark).exists()), None)


def digest_of_this() -> str | None:
    """Return the digest (`sha256:…`) of this process's image, as `hand_in` passed it."""
    return os.environ.get(IMAGE) or None
