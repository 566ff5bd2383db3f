"""Long-tailed splits: draw images, and assign them to weights, alphas or holdout."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlrs.config.base import Kinds
from hlrs.config.data import Exponential, Imbalance, Natural, Pareto, Step
from hlrs.config.jobs import SplitJob
from hlrs.errors import UserError

TEST, TRAIN, ASSIGN = range(3)  # purposes of randomness; the numbers are part of every result


def exponential(spec: Exponential, n_max: float, classes: int) -> list[int]:
    """⌊n_max · f^(−c/(C−1))⌋  (Cui et al. 2019).

    The order of operations is LDAM-DRW's (Cao et al. 2019), which multiplies by 1/f, for the same floor.
    """
    share = 1 / spec.factor
    return [int(n_max * share ** (c / max(classes - 1, 1))) for c in range(classes)]


def step(spec: Step, n_max: float, classes: int) -> list[int]:
    """⌊n_max/f⌋ images in each of the last `minority` share of the classes  (Buda et al. 2018).

    The share is rounded half up, with at least one class on either side.
    """
    minority = min(max(_round(classes * spec.minority), 1), classes - 1)
    return [int(n_max)] * (classes - minority) + [int(n_max * (1 / spec.factor))] * minority


def pareto(spec: Pareto, n_max: float, classes: int) -> list[int]:
    """⌊n_min + (n_max − n_min)(q_c − q_(C−1))/(q_0 − q_(C−1))⌋ with n_min = n_max/f.

    q_c = (c + 1)^(−1/power) is a Pareto distribution's quantile at the expected rank of the (c + 1)-th
    largest of C draws, up to a factor that cancels (our own reading of Liu et al. 2019).
    """
    if classes == 1:
        return [int(n_max)]
    quantiles = [(c + 1) ** (-1 / spec.power) for c in range(classes)]
    last, span, n_min = quantiles[-1], quantiles[0] - quantiles[-1], n_max / spec.factor
    return [int(n_min + (n_max - n_min) * ((q - last) / span)) for q in quantiles]


def natural(spec: Natural, n_max: float, classes: int) -> list[int]:
    """Return the largest count allowed, for each class."""
    return [int(n_max)] * classes


IMBALANCES: Kinds[Callable[..., list[int]]] = {
    Exponential: exponential,
    Step: step,
    Pareto: pareto,
    Natural: natural,
}


def class_counts(spec: Imbalance, n_max: float, classes: int) -> list[int]:
    """Return training images per class, head first; for `natural`, the largest count allowed."""
    return IMBALANCES[type(spec)](spec, n_max, classes)


def draw(
    train_labels: NDArray[np.int64],
    test_labels: NDArray[np.int64],
    params: SplitJob,
    classes: Sequence[str],
) -> dict[str, NDArray[Any]]:
    """Draw a split's columns: index int64, label int32, subset str; training images by class first.

    Without official test images (`test_labels` empty), the test set is taken out of the training images
    first. UserError where a class has too few images.
    """
    if len(classes) < 2:
        raise UserError(f"one class only, {classes[0]}; a data set needs images of two classes or more")
    _check_present(train_labels, classes)
    labels = np.concatenate([train_labels, test_labels])
    pool, test = np.split(np.arange(len(labels)), [len(train_labels)])
    test = _test_set(labels, pool, test, params, classes)
    pool = np.setdiff1d(pool, test)
    available = np.bincount(labels[pool], minlength=len(classes))
    n_max = _n_max(params, available)
    counts = class_counts(params.imbalance, n_max, len(classes))
    if isinstance(params.imbalance, Natural):
        counts = np.minimum(counts, available).tolist()
    ldam = params.protocol == "ldam"
    shuffler = np.random.RandomState(0) if ldam else _generator(params.seed, TRAIN)
    train = _draw_each(labels, pool, counts, shuffler, classes, ("max_per_class", n_max))
    subsets = _subsets(labels[train], params, classes)
    index = np.concatenate([train, test])
    subset = np.concatenate([subsets, np.full(len(test), "test")])
    return {"index": index, "label": labels[index].astype(np.int32), "subset": subset}


def _check_present(train_labels: NDArray[np.int64], classes: Sequence[str]) -> None:
    empty = np.flatnonzero(np.bincount(train_labels, minlength=len(classes)) == 0)
    if len(empty):
        raise UserError(
            f"{len(empty)} of {len(classes)} classes have no training image: {_named(empty, classes)}; "
            "add images of them, or remove these classes from the data set"
        )


def _named(which: Sequence[int] | NDArray[np.int64], classes: Sequence[str]) -> str:
    """Name the first five of some classes."""
    shown = ", ".join(classes[c] for c in which[:5])
    return f"{shown}, …" if len(which) > 5 else shown


def _test_set(
    labels: NDArray[np.int64],
    pool: NDArray[np.int64],
    official: NDArray[np.int64],
    params: SplitJob,
    classes: Sequence[str],
) -> NDArray[np.int64]:
    """Choose the test images, sorted: the official ones, or `test_per_class` of these or of the pool."""
    if params.test_per_class is not None:
        origin = official if len(official) else pool
        counts = [params.test_per_class] * len(classes)
        generator = _generator(params.seed, TEST)
        drawn = _draw_each(labels, origin, counts, generator, classes, ("test_per_class", counts[0]))
        return np.sort(drawn)
    if not len(official):
        raise UserError(
            "the source has no test images; set test_per_class to take some of the training images"
        )
    return official


def _n_max(params: SplitJob, available: NDArray[np.int64]) -> float:
    """Return the images of the largest class; for LDAM-DRW the mean over the classes, not rounded."""
    if params.max_per_class is not None:
        return float(params.max_per_class)
    if isinstance(params.imbalance, Natural):
        return float(available.max())
    return float(available.mean()) if params.protocol == "ldam" else float(available[0])


def _draw_each(
    labels: NDArray[np.int64],
    origin: NDArray[np.int64],
    counts: Sequence[int],
    shuffler: np.random.RandomState | np.random.Generator,
    classes: Sequence[str],
    limit: tuple[str, float],
) -> NDArray[np.int64]:
    """Draw the first `counts[c]` of each class's shuffled images, class by class.

    UserError where a class has fewer; `limit`: the parameter to which counts are proportional, and its value.

    With RandomState(0) these are exactly LDAM-DRW's draws (`gen_imbalanced_data`), as all images of a class
    are shuffled, however few are taken; so a larger factor draws a subset of what a smaller one draws.
    """
    chosen = []
    for rows, name, count in zip(_by_class(labels[origin], len(classes)), classes, counts, strict=True):
        members = origin[rows]
        if len(members) < count:
            raise UserError(
                f"class {name}: {len(members)} images available, {count} needed"
                + _lacking(labels[origin], counts, classes, limit)
            )
        chosen.append(shuffler.permutation(members)[:count])
    return np.concatenate(chosen)


def _lacking(
    labels: NDArray[np.int64], counts: Sequence[int], classes: Sequence[str], limit: tuple[str, float]
) -> str:
    """Name the other classes with fewer images than counted, and the limit that all classes allow."""
    available = np.bincount(labels, minlength=len(classes))
    first, *others = (c for c, count in enumerate(counts) if available[c] < count)
    name, value = limit
    most = min(int(value * available[c] / counts[c]) for c in (first, *others))
    also = f"; too few also in {len(others)} of {len(classes)} classes: {_named(others, classes)}"
    add = "add images or remove such classes from the data set"
    remedy = f"set {name} to at most {most}" if most else add
    if name == "test_per_class" and most > 2:
        remedy += f", to {most - 2} if training images are taken for it"
    return f"{also if others else ''}; {remedy}"


def _by_class(labels: NDArray[np.int64], classes: int) -> list[NDArray[np.int64]]:
    """Return the positions of each class, ascending."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(1, classes)))


def _subsets(labels: NDArray[np.int64], params: SplitJob, classes: Sequence[str]) -> NDArray[np.str_]:
    """Assign each image to `holdout`, `weights` or `alphas`, stratified by class.

    Every class has an image in both halves; UserError names the classes with too few for that.
    """
    generator = _generator(params.seed, ASSIGN)
    subsets = np.full(len(labels), "holdout")
    short = []
    for c, members in enumerate(_by_class(labels, len(classes))):
        rows = generator.permutation(members)
        held = _round(len(rows) * params.holdout_fraction)
        rest = len(rows) - held
        if rest < 2:
            short.append((c, len(rows), rest))
            continue
        weights = min(max(_round(rest * params.weights_fraction), 1), rest - 1)
        subsets[rows[held : held + weights]] = "weights"
        subsets[rows[held + weights :]] = "alphas"
    if short:
        raise UserError(_too_few(short, params, classes))
    return subsets


def _too_few(short: Sequence[tuple[int, int, int]], params: SplitJob, classes: Sequence[str]) -> str:
    """Describe classes with too few images, given as (class, images, images not held out)."""
    c, images, rest = short[0]
    others = [c for c, _, _ in short[1:]]
    found = f"class {classes[c]}: {rest} of {images} images left to train on, 2 needed (weights and alphas)"
    if others:
        found += f"; too few also in {len(others)} of {len(classes)} classes: {_named(others, classes)}"
    lowered = {
        "imbalance.factor": getattr(params.imbalance, "factor", 1) > 1,
        "holdout_fraction": params.holdout_fraction > 0,
        "test_per_class": params.test_per_class is not None,
    }
    remedies = [f"lower {name}" for name, helps in lowered.items() if helps]
    if params.max_per_class is not None:
        remedies.append("raise max_per_class")
    if not lowered["imbalance.factor"]:
        remedies.append("add images or remove such classes from the data set")
    return f"{found}; {', '.join(remedies)}"


def _generator(seed: int, purpose: int) -> np.random.Generator:
    """Return the generator of a seed and purpose."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(purpose,))))


def _round(value: float) -> int:
    """Round to the nearest integer, halves up."""
    return int(value + 0.5)
