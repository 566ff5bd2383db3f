"""Metrics of a classifier on a test set, overall and by the number of training images per class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]

GROUPS = ("many", "medium", "few")


def groups(train_counts: Sequence[int], many_above: int, few_below: int) -> list[str]:
    """Return each class's group: more than `many_above` training images, fewer than `few_below`, or between.

    Liu et al. 2019, §4, with 100 and 20.
    """
    return ["many" if n > many_above else "few" if n < few_below else "medium" for n in train_counts]


def confusion(labels: Integers, predicted: Integers, classes: int) -> Integers:
    """Count images, integers [classes, classes]: row = true class, column = predicted class."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def calibration(confidence: Floats, correct: npt.NDArray[np.bool_], bins: int) -> list[dict[str, Any]]:
    """Compute the reliability diagram over `bins` equal intervals (low, high], without empty ones.

    Each has its number of images, their accuracy and mean confidence; 0 belongs to the first interval.
    """
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return [
        {
            "low": b / bins,
            "high": (b + 1) / bins,
            "images": int((index == b).sum()),
            "accuracy": float(correct[index == b].mean()),
            "confidence": float(confidence[index == b].mean()),
        }
        for b in np.unique(index).tolist()
    ]


def expected_calibration_error(diagram: Sequence[dict[str, Any]]) -> float:
    """Σ_b |B_b|/n · |accuracy(B_b) − confidence(B_b)| over the intervals of a reliability diagram.

    Guo et al. 2017, eq. 3.
    """
    images = sum(b["images"] for b in diagram)
    return float(sum(b["images"] / images * abs(b["accuracy"] - b["confidence"]) for b in diagram))


def evaluate(
    probabilities: Floats,
    labels: Integers,
    train_counts: Sequence[int],
    many_above: int,
    few_below: int,
    bins: int,
) -> dict[str, Any]:
    """Compute all metrics of probabilities [images, classes] against labels [images]; fractions in [0, 1].

    Balanced accuracy is the mean of the per-class accuracies. A class without test images has None, as has a
    group none of whose classes has test images. `nll` is the mean negative log-likelihood in nats.
    """
    probabilities = probabilities.astype(np.float64)
    predicted = probabilities.argmax(1)
    counts = confusion(labels, predicted, len(train_counts))
    totals = counts.sum(1)
    per_class = [int(counts[c, c]) / int(totals[c]) if totals[c] else None for c in range(len(totals))]
    member = groups(train_counts, many_above, few_below)
    correct = predicted == labels
    diagram = calibration(probabilities.max(1), correct, bins)
    of_label = probabilities[np.arange(len(labels)), labels]
    return {
        "top1": float(correct.mean()),
        "balanced_accuracy": _mean(per_class),
        **{g: _mean([a for a, m in zip(per_class, member, strict=True) if m == g]) for g in GROUPS},
        "ece": expected_calibration_error(diagram),
        "nll": float(-np.log(np.maximum(of_label, np.finfo(np.float64).tiny)).mean()),
        "test_images": len(labels),
        "calibration": diagram,
        "per_class": per_class,
        "confusion": counts.tolist(),
        "train_counts": list(train_counts),
        "groups": member,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
