"""Check the installation: `hlrs doctor`."""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from hlrs import __version__
from hlrs.artifacts.code_digest import PACKAGE
from hlrs.nas.ops import triton_available
from hlrs.pipeline.container import digest_of_this, gpu_given, inside
from hlrs.pipeline.slurm import ask

if TYPE_CHECKING:
    import torch

PATIENCE = 10.0  # seconds; `sacct` without accounting never answers
FREE = 2 * 1024**3  # bytes; the quickstart writes 10 MB, a large run some hundred
STEPS = 5
TF32_ERROR = 0.01  # relative; matrix units round factors to 10 bits, 5e-4
GIB = 1024**3


class State(StrEnum):
    """Outcome of a check."""

    OK = "ok"
    BROKEN = "broken"
    UNUSED = "not needed"


OK, BROKEN, UNUSED = State
SIGNS = {OK: "ok", BROKEN: "!!", UNUSED: "--"}


@dataclass(frozen=True)
class Check:
    """Result of one check; `text` describes the finding, or the remedy."""

    name: str
    state: State
    text: str


def examine(say: Callable[[str], None]) -> Iterator[Check]:
    """Run every check, in the order of display; `say` receives a line before each slow one."""
    yield Check("hlrs", OK, f"{__version__}, {PACKAGE}")
    yield Check("Python", OK, f"{platform.python_version()}, {sys.executable}")
    yield from _devices(say)
    yield _package("Snakemake", "snakemake")
    yield _package("SLURM executor", "snakemake-executor-plugin-slurm")
    yield _dvc()
    yield _program("git", "git", "install git: DVC and the records need it")
    yield _apptainer()
    yield from _slurm(say)
    yield _image()
    yield _disk()


def line(check: Check) -> str:
    """Format a check as a line of the table."""
    return f"{SIGNS[check.state]}  {check.name:16}{check.text}"


def verdict(checks: list[Check]) -> str:
    """Sum up all checks in a line."""
    broken = [check.name for check in checks if check.state == BROKEN]
    said = f"To repair: {', '.join(broken)}." if broken else "Everything required works."
    return f"{said}  (ok: works   --: not needed here   !!: repair)"


# --- PyTorch and its devices --------------------------------------------------------------------------


def _devices(say: Callable[[str], None]) -> Iterator[Check]:
    say("importing PyTorch")
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check("PyTorch", BROKEN, f"{_first_line(error)}; install requirements.lock (`make quickstart`)")
        return
    yield Check("PyTorch", OK, f"{torch.__version__}, built for CUDA {torch.version.cuda or '(none)'}")
    driver = _driver()
    yield _driver_check(driver, torch.cuda.is_available())
    say(f"searching on the CPU, {STEPS} steps")
    expected, note = _step(torch.device("cpu"), None)
    yield Check("CPU", BROKEN if expected is None else OK, f"{_cores()}; {note}")
    for i in range(torch.cuda.device_count()):
        say(f"searching on GPU {i}, {STEPS} steps")
        yield _gpu(i, expected)
    if torch.cuda.device_count():
        say("compiling a GPU kernel")
        yield _kernels(torch.device("cuda"))


def _cores() -> str:
    """Count the cores that this process may use, in a container or SLURM job maybe some of the machine's."""
    usable, all_of_them = len(os.sched_getaffinity(0)), os.cpu_count() or 0
    return f"{usable} of {all_of_them} cores" if usable < all_of_them else f"{usable} cores"


def _gpu(index: int, expected: float | None) -> Check:
    import torch

    try:
        free, total = torch.cuda.mem_get_info(index)
        facts = f"{torch.cuda.get_device_name(index)}, {total / GIB:.0f} GiB, {free / GIB:.0f} free"
    except RuntimeError as error:  # in exclusive use by another process, or defective
        return Check(f"GPU {index}", BROKEN, f"cannot be used: {_first_line(error)}")
    loss, note = _step(torch.device("cuda", index), expected)
    return Check(f"GPU {index}", BROKEN if loss is None else OK, f"{facts}; {note}")


def _kernels(device: "torch.device") -> Check:
    """Compile one of our Triton kernels, the grouped 1×1 convolution, and compare it with PyTorch's."""
    if missing := triton_available.missing():
        return Check("GPU kernels", UNUSED, f"{missing}; searches are slower without them")
    import torch
    from torch.nn import functional as F

    from hlrs.data.images import generator
    from hlrs.nas.ops.triton_pointwise import pointwise  # Triton is slow to import

    triton_available.use_prebuilt()
    draw = generator("doctor")
    x, weight = torch.randn(2, 32, 8, 8, generator=draw), torch.randn(32, 16, 1, 1, generator=draw)
    expected = F.conv2d(x.double(), weight.double(), groups=2)
    began = time.monotonic()
    try:
        error = float((pointwise(x.to(device), weight.to(device)).cpu() - expected).norm() / expected.norm())
    except Exception as failure:
        return Check("GPU kernels", BROKEN, f"Triton cannot compile one: {_first_line(failure)}")
    if not error < TF32_ERROR:
        return Check("GPU kernels", BROKEN, f"a 1×1 convolution is {100 * error:.1f} % off")
    return Check("GPU kernels", OK, f"Triton compiled one of them in {time.monotonic() - began:.1f} s")


def _driver() -> str | None:
    """Return the version of the NVIDIA driver, None if none is loaded."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split()
    except OSError:
        return None
    return next((word for word in words if word[0].isdigit() and "." in word), "of an unknown version")


def _driver_check(driver: str | None, usable: bool) -> Check:
    if usable:
        return Check("NVIDIA driver", OK, driver or "found by PyTorch")
    if gpu_given() or (
        driver and "SLURM_JOB_ID" not in os.environ
    ):  # a job without GPUs may share their node
        remedy = (
            "start the container with its GPUs: --nv (Apptainer), --device nvidia.com/gpu=all (Podman)"
            if inside()
            else "PyTorch cannot use it; check with `nvidia-smi` whether it is too old for this CUDA"
        )
        return Check("NVIDIA driver", BROKEN, f"{driver or 'not found, though a GPU was given'}; {remedy}")
    return Check(
        "NVIDIA driver", UNUSED, "no GPU: everything runs on the CPU, where searches of real size are slow"
    )


def _step(device: "torch.device", expected: float | None) -> tuple[float | None, str]:
    """Return the loss of a tiny supernet's first step, None if it failed or is wrong, and a message."""
    try:
        losses, seconds = _search(device)
    except Exception as error:
        return None, f"a search step failed: {_first_line(error)}"
    if expected is not None and abs(losses[0] - expected) > 0.01:
        return None, f"a search step's loss is {losses[0]:.4f}, on the CPU {expected:.4f}"
    if not losses[-1] < losses[0]:
        return None, f"the loss did not fall in {STEPS} search steps: {losses[0]:.4f}, then {losses[-1]:.4f}"
    return losses[0], f"{STEPS} search steps, the last in {1000 * seconds:.0f} ms"


def _search(device: "torch.device") -> tuple[list[float], float]:
    """Return the losses of a tiny supernet's steps on one batch of noise, and the last step's seconds.

    On a GPU in double precision, which our kernels do not take: to compile all that a search needs takes a
    minute.
    """
    import torch
    from torch.nn import functional as F

    from hlrs.config.methods import Darts
    from hlrs.config.spaces import DartsSpace
    from hlrs.data.images import generator
    from hlrs.nas import bilevel
    from hlrs.nas.network import initialize
    from hlrs.nas.searchers.darts import DartsSearcher
    from hlrs.nas.supernet import DartsSupernet, initialize_alphas
    from hlrs.training.optim import optimizer_step

    draw = generator("doctor")
    searcher = DartsSearcher(Darts())
    supernet = DartsSupernet(DartsSpace(), searcher, nodes=2, in_channels=3, classes=4, channels=4, cells=3)
    initialize(supernet, draw)
    initialize_alphas(supernet, draw)
    precision = torch.float64 if device.type == "cuda" else torch.float32
    supernet.to(device, precision)
    images = torch.randn(16, 3, 16, 16, generator=draw).to(device, precision)
    labels = (torch.arange(16) % 4).to(device)
    alphas, weights = list(supernet.alphas.values()), supernet.weights()
    optimizers = torch.optim.Adam(alphas, 3e-3), torch.optim.SGD(weights, 0.05, momentum=0.9)

    def loss() -> torch.Tensor:
        return F.cross_entropy(supernet(images), labels)

    losses, began = [], 0.0
    for _ in range(STEPS):
        began = time.monotonic()
        for alpha, gradient in zip(alphas, bilevel.first_order(alphas, weights, loss), strict=True):
            alpha.grad = gradient
        optimizers[0].step()
        with bilevel.frozen(alphas):
            value = loss()
            optimizer_step(value, weights, optimizers[1], 5.0)
        losses.append(value.item())  # waits for the device
    return losses, time.monotonic() - began


# --- programs -----------------------------------------------------------------------------------------


def _package(name: str, distribution: str) -> Check:
    try:
        return Check(name, OK, importlib.metadata.version(distribution))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, BROKEN, f"install {distribution}: it is in requirements.lock (`make quickstart`)")


def _dvc() -> Check:
    found = _package("DVC", "dvc")
    if found.state == OK:
        return found
    return Check(
        "DVC", UNUSED, "not installed; `dvc repro` and data that it tracks need it: `pip install dvc`"
    )


def _program(name: str, program: str, remedy: str) -> Check:
    answer = ask(program, "--version", seconds=PATIENCE)
    if answer is None:
        return Check(name, BROKEN, remedy)
    number = re.search(r"\d+\.\S+", answer)  # "git version 2.39.5 (Apple Git-154)"
    return Check(name, OK, number[0] if number else "of an unknown version")


def _apptainer() -> Check:
    for program in ("apptainer", "singularity"):
        if shutil.which(program):
            remedy = f"`{program} --version` fails; reinstall it, or ask your administrator"
            return _program("Apptainer", program, remedy)
    return Check("Apptainer", UNUSED, "not installed: only `snakemake --sdm apptainer` needs it")


def _slurm(say: Callable[[str], None]) -> Iterator[Check]:
    if not shutil.which("sinfo"):
        yield Check("SLURM", UNUSED, "`sinfo` not found: only `snakemake --profile slurm` needs it")
        return
    say("asking SLURM")
    nodes = ask("sinfo", "--noheader", "--format=%P %F", seconds=PATIENCE)
    if nodes is None:
        yield Check(
            "SLURM",
            BROKEN,
            "`sinfo` fails or does not answer; run `scontrol ping` or ask your administrator",
        )
        return
    yield _partitions(nodes)
    if ask("sacct", "--noheader", "--allocations", "--starttime=now", seconds=PATIENCE) is None:
        yield Check("SLURM accounting", UNUSED, "`sacct` does not answer: `squeue` is used instead")
    else:
        yield Check("SLURM accounting", OK, "`sacct` answers")


def _partitions(listing: str) -> Check:
    """Judge sinfo's lines `partition allocated/idle/other/total` nodes."""
    found = re.findall(r"^(\S+) (\d+)/(\d+)/\d+/(\d+)$", listing, re.MULTILINE)
    if not found:
        return Check("SLURM", BROKEN, "no partition that you may use; ask your administrator for access")
    ups = [(name, int(allocated) + int(idle), int(total)) for name, allocated, idle, total in found]
    shown = [f"{name} {total} node(s)" + f", {up} up" * (up < total) for name, up, total in ups]
    if not any(up for _, up, _ in ups):
        return Check("SLURM", BROKEN, f"{'; '.join(shown)}: `sinfo -R` says why")
    return Check("SLURM", OK, "; ".join(shown))


def _image() -> Check:
    kind, digest = inside(), digest_of_this()
    if digest:
        return Check("image", OK, digest)
    if kind:
        return Check(
            "image", UNUSED, f"in {kind}, image digest unknown: records will lack it (docs/containers.md)"
        )
    return Check("image", UNUSED, "not in a container")


def _disk() -> Check:
    free = shutil.disk_usage(".").free
    found = f"{free / GIB:.1f} GiB free in {Path.cwd()}"
    if not os.access(".", os.W_OK):
        return Check(
            "disk", BROKEN, f"{Path.cwd()} is not writable; change to your checkout, or mount it writable"
        )
    return (
        Check("disk", OK, found) if free >= FREE else Check("disk", BROKEN, f"only {found}; free some space")
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
