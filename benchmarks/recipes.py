"""Training steps of our published recipes beside those of the authors' code, read from clones; the CPU only.

    python benchmarks/recipes.py --ldam CLONE --bbn CLONE --glmc CLONE --proco CLONE     # any of them

of kaidic/LDAM-DRW, megvii-research/BBN, ynu-yangpeng/GLMC and LeapLabTHU/ProCo on GitHub. The recipes are
those of workflow/experiments, on a few random images with a long tail and in batches of 8. Ours runs first,
through the stage's own task; then the authors' program trains their network from the same weights on the same
augmented images, labels and draws, both in float64. Losses, weights and running statistics are compared after
every step, learning rates in all epochs. CASES names what was matched, and what was left.

Prints a table and writes benchmarks/results/recipes-cpu.json. None of the authors' code is committed here.
"""

import argparse
import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import measure
import numpy as np
import torch
from authors import (
    CLASSES,
    CPU,
    EPOCHS,
    PROGRAMS,
    Given,
    State,
    Step,
    Theirs,
    Views,
    authors_modules,
    commit_of,
    find_modules,
    run_bbn,
    run_glmc,
    run_ldam,
    run_proco,
    stay,
)
from measure import table
from ruamel.yaml import YAML
from torch import Tensor
from torch.nn import functional as F

from hlrs.config.jobs import RetrainJob
from hlrs.config.params import Params
from hlrs.data import augment
from hlrs.data.batches import Batches
from hlrs.longtail import proco
from hlrs.longtail.proco import ProCoHead
from hlrs.pipeline.plan import plan
from hlrs.stages import split
from hlrs.stages.images import SplitImages
from hlrs.stages.retrain import RetrainTask

EXPERIMENTS = Path(__file__).parent.parent / "workflow" / "experiments"
BATCH, LARGEST_CLASS, FACTOR = 8, 20, 10
STEPS = 2  # of each epoch: under ProCo's learning rate, rounding grows tenfold in a step
Matching = Callable[[RetrainTask, Given, Path], contextlib.AbstractContextManager[Any]]


# --- our side -------------------------------------------------------------------------------------------


def write_images(path: Path) -> None:
    """Write random images of ten classes, always the same."""
    draw = np.random.default_rng(0)
    arrays = dict[str, Any]()
    for part, count in (("train", LARGEST_CLASS), ("val", 1), ("test", 1)):
        labels = np.repeat(np.arange(CLASSES, dtype=np.uint8), count)[:, None]
        images = draw.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
        arrays |= {f"{part}_images": images, f"{part}_labels": labels}
    np.savez(path, **arrays)


def make_task(experiment: str, method: str) -> tuple[RetrainTask, list[int]]:
    """Make the task of an experiment's retraining on those images, in the current folder; also its counts."""
    write_images(Path("images.npz"))
    params = YAML(typ="safe", pure=True).load(EXPERIMENTS / f"{experiment}.yaml")
    params["matrix"] = {"datasets": ["cifar10_lt"], "methods": [method], "seeds": [0]}
    params["methods"] = {method: params["methods"][method]}
    params["datasets"]["cifar10_lt"]["source"] = {"kind": "npz", "file": "images.npz"}
    params["datasets"]["cifar10_lt"]["imbalance"]["factor"] = FACTOR
    params["retrain"]["batch_size"] = BATCH
    params["report"] = {}
    jobs = {job.stage: job for job in plan(Params.model_validate(params))}
    split.run(jobs["split"])
    job = jobs["retrain"]
    own = RetrainJob.model_validate(job.params)
    images = SplitImages(job, own.images, ("weights", "alphas", "holdout"), CPU)
    task = RetrainTask(own, images, job.inputs, CPU)
    task.network.double()
    return task, images.counts("weights", "alphas").tolist()


@contextlib.contextmanager
def in_float64(views: list[Views]) -> Iterator[None]:
    """Let batches have float64 images, and keep a copy of each step's."""
    original = Batches.__call__

    def call(self: Batches, step: int) -> list[Any]:
        batches = [batch._replace(images=batch.images.double()) for batch in original(self, step)]
        views.append([(batch.images.clone(), batch.labels.clone()) for batch in batches])
        return batches

    with patch.object(Batches, "__call__", call):
        yield


def in_double(value: Any) -> Any:
    """Return a tensor of floats in float64, anything else as it is."""
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def run_ours(case: "Case", folder: Path) -> Given:
    """Run the first steps of a case's epochs, with what it matches to the modules in a folder."""
    task, counts = make_task(case.experiment, case.method)
    rates = [task.first.learning_rate(epoch) for epoch in range(EPOCHS)]
    given = Given(case.epochs, copied(task), counts, rates)
    with case.matching(task, given, folder):
        for epoch in case.epochs:
            task.begin(epoch)
            views = given.views[epoch] = list[Views]()
            for step in range(STEPS):
                with in_float64(views):
                    inputs = [in_double(value) for value in task.phase.inputs(step)]
                loss = task.phase.take_step(*inputs)[0].item()
                given.steps.append(Step(loss, copied(task)))
            task.phase.end(read=False)
    return given


def copied(task: RetrainTask) -> State:
    """Copy the network's weights and running statistics."""
    return {name: tensor.clone() for name, tensor in task.network.state_dict().items()}


# --- where ours is changed to theirs --------------------------------------------------------------------


@contextlib.contextmanager
def glmc_matched(task: RetrainTask, given: Given, folder: Path) -> Iterator[None]:
    """Round the sides of cutmix's box up, and λ to float32, as our labels' share is; keep what is drawn."""
    shares, centres = given.draws["shares"], given.draws["centres"] = list[float](), list[int]()
    draw_share = augment._draw_share

    def share_of(alpha: float, draw: torch.Generator) -> float:
        shares.append(float(np.float32(draw_share(alpha, draw))))
        return shares[-1]

    def side(size: int, share: float, draw: torch.Generator) -> tuple[int, int]:
        half = math.ceil(size * math.sqrt(1 - share)) // 2
        centres.append(int(torch.randint(0, size, (), generator=draw)))
        return max(centres[-1] - half, 0), min(centres[-1] + half, size)

    with patch.object(augment, "_draw_share", share_of), patch.object(augment, "_side", side):
        yield


@contextlib.contextmanager
def proco_matched(task: RetrainTask, given: Given, folder: Path) -> Iterator[None]:
    """Estimate distributions and compute Bessel functions as theirs, one view after the other."""
    with authors_modules(folder, {}):
        from loss.proco import LogRatioC  # type: ignore[import-not-found]
    draw, dimensions = torch.Generator().manual_seed(0), task.recipe.objective.dimensions  # type: ignore[union-attr]
    # theirs: two estimators' at first, then one's per epoch, in which the second of the moment is read
    given.draws["directions"] = directions = [
        torch.randn(CLASSES, dimensions, generator=draw, dtype=torch.float64)
        for _ in range(2 + len(given.epochs))
    ]
    see, logits, seen = ProCoHead.see, ProCoHead.logits, list[Tensor]()

    def estimates(head: ProCoHead) -> tuple[Tensor, Tensor]:
        counts = head.counts.sum(0)[:, None]
        drawn = 0.9 * F.normalize(directions[1 + list(given.epochs).index(task.epoch)])
        means = torch.where(counts > 0, head.sums.sum(0) / counts.clamp(min=1), drawn)
        length = means.norm(dim=1)
        kappa = dimensions * length / (1 - length**2).clamp(min=1e-10)  # of a single image, by rounding < 0
        return F.normalize(means), kappa.clamp(max=proco.LARGEST)

    def log_bessel(order: float, squared: Tensor) -> Tensor:
        return LogRatioC.apply(squared.sqrt(), torch.tensor(2 * order + 2), 0.0)  # type: ignore[no-any-return]

    def each_view(head: ProCoHead, z: Tensor, temperature: float) -> Tensor:
        found = []
        for view, labels in zip(z.chunk(2), seen.pop().chunk(2), strict=True):
            see(head, view, labels)
            found.append(logits(head, view, temperature))
        return torch.cat(found)

    with (
        patch.object(ProCoHead, "see", lambda head, z, labels: seen.append(labels)),
        patch.object(ProCoHead, "logits", each_view),
        patch.object(ProCoHead, "estimates", estimates),
        patch.object(proco, "log_bessel", log_bessel),
        patch.object(Tensor, "cuda", stay),
    ):
        yield


# --- comparison -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A method of an experiment beside its program: in which epochs, by which function, what differs."""

    experiment: str
    method: str
    epochs: Sequence[int]
    run: Callable[[Path, Given], Theirs]
    matching: Matching = lambda *_: contextlib.nullcontext()
    matched: str = "nothing"
    left: str = "nothing"


def ldam_case(method: str, loss: str, rule: str) -> Case:
    """Make a case of LDAM-DRW's program, on both sides of its deferred re-weighting."""
    return Case("ldam_resnet32", method, (158, 159, 160, 161), partial(run_ldam, loss=loss, rule=rule))


CASES = {
    "ldam": [
        ldam_case("ce", "CE", "None"),
        ldam_case("ldam_drw", "LDAM", "DRW"),
        ldam_case("cb", "CE", "Reweight"),
        ldam_case("focal", "Focal", "None"),
    ],
    "bbn": [
        Case("bbn", "bbn", (0, 120, 199), run_bbn, left="warm-up, from a fifth; the steps take our rate")
    ],
    "glmc": [
        Case(
            "glmc", "glmc", (0, 100, 199), run_glmc, glmc_matched, matched="sides of cutmix's box, rounded up"
        )
    ],
    "proco": [
        Case(
            "procolt",
            "proco",
            (0, 1),
            run_proco,
            proco_matched,
            matched="κ, unseen classes' directions, one view seen after the other, Miller's recurrence",
        )
    ],
}


def relative(ours: State, theirs: State, statistics: bool) -> float:
    """Return the largest difference of a weight, or running statistic, by the largest of its tensor."""
    names = [n for n in theirs if "num_batches" not in n and ("running" in n) == statistics]
    return max(float((ours[n] - theirs[n]).abs().max() / theirs[n].abs().max()) for n in names)


def differences(given: Given, theirs: Theirs) -> dict[str, float]:
    """Return the largest differences of losses, weights, running statistics and learning rates."""
    steps, rates = theirs
    pairs = list(zip(given.steps, steps, strict=True))
    return {
        "losses": max(abs(a.loss - b.loss) for a, b in pairs),
        "weights": max(relative(a.state, b.state, False) for a, b in pairs),
        "running statistics": max(relative(a.state, b.state, True) for a, b in pairs),
        "learning rates": max(abs(a - b) for a, b in zip(given.rates, rates, strict=True)),
    }


def describe(case: Case, option: str, clone: Path) -> dict[str, Any]:
    """Describe a case: whose code, which commit, which epochs, what was matched and left."""
    about = {name: getattr(case, name) for name in ("experiment", "epochs", "matched", "left")}
    return about | {"repository": PROGRAMS[option].repository, "commit": commit_of(clone)}


def compare(case: Case, option: str, folder: Path) -> dict[str, float]:
    """Run both sides of a case in a folder of their own."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        given = run_ours(case, folder)
        with authors_modules(folder, PROGRAMS[option].stubs):
            return differences(given, case.run(folder, given))


def main() -> None:
    """Compare each case of the clones given, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for option in PROGRAMS:
        parser.add_argument(f"--{option}", type=Path, metavar="CLONE")
    clones = {option: clone for option, clone in vars(parser.parse_args()).items() if clone}
    if not clones:
        parser.error("pass at least one clone")
    folders = {option: find_modules(option, clone) for option, clone in clones.items()}
    rows = [["method", "commit", "epochs", "losses", "weights", "running statistics", "learning rates"]]
    found = {}
    for option, folder in folders.items():
        for case in CASES[option]:
            about, apart = describe(case, option, clones[option]), compare(case, option, folder)
            found[case.method] = about | {"apart": apart}
            figures = [f"{value:.1e}" for value in apart.values()]
            rows.append([case.method, about["commit"], ", ".join(map(str, case.epochs)), *figures])
            print(f"{case.method}: matched {case.matched}; left {case.left}", flush=True)
    print(table(rows))
    host = measure.host(CPU, torch.get_num_threads())
    measure.record("recipes-cpu", {"host": host, "batch": BATCH, "steps": STEPS, "methods": found})


if __name__ == "__main__":
    main()
