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


def nll(probabilities: Floats, labels: Integers) -> float:
    """Compute the mean negative log-likelihood of the labels in nats, of probabilities [images, classes]."""
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(of_label, np.finfo(np.float64).tiny)).mean())


def adjusted(probabilities: Floats, train_counts: Sequence[int], tau: float) -> Integers:
    """Predict with adjusted logits, argmax_c of z_c − τ log(n_c/n): int64 [images]  (Menon et al. 2021).

    Their post-hoc logit adjustment. As log p_c = z_c − log Σ exp z, log p_c − τ log n_c has the same argmax.
    A class without training images counts as one with a single image; a probability of 0 stays 0.
    """
    with np.errstate(divide="ignore"):
        log_p = np.log(probabilities.astype(np.float64))
    predicted: Integers = (log_p - tau * np.log(np.maximum(train_counts, 1))).argmax(1)
    return predicted


def evaluate(
    probabilities: Floats,
    labels: Integers,
    train_counts: Sequence[int],
    many_above: int,
    few_below: int,
    bins: int,
    adjust: float | None = None,
) -> dict[str, Any]:
    """Compute all metrics of probabilities [images, classes] against labels [images]; fractions in [0, 1].

    Balanced accuracy is the mean of the per-class accuracies. A class without test images has None, as has a
    group none of whose classes has test images. `nll` is the mean negative log-likelihood in nats. With
    `adjust`, the τ of `adjusted`, it and that prediction's accuracies are added, these as `adjusted_...`.
    """
    probabilities = probabilities.astype(np.float64)
    predicted = probabilities.argmax(1)
    counts = confusion(labels, predicted, len(train_counts))
    member = groups(train_counts, many_above, few_below)
    diagram = calibration(probabilities.max(1), predicted == labels, bins)
    beside: dict[str, float | None] = {}
    if adjust is not None:
        other = confusion(labels, adjusted(probabilities, train_counts, adjust), len(train_counts))
        beside = {f"adjusted_{name}": value for name, value in _accuracies(other, member).items()}
        beside["adjust"] = adjust
    return {
        **_accuracies(counts, member),
        **beside,
        "ece": expected_calibration_error(diagram),
        "nll": nll(probabilities, labels),
        "test_images": len(labels),
        "calibration": diagram,
        "per_class": _per_class(counts),
        "confusion": counts.tolist(),
        "train_counts": list(train_counts),
        "groups": member,
    }


def _accuracies(counts: Integers, member: Sequence[str]) -> dict[str, float | None]:
    """Compute the accuracies overall, balanced and by group, from a confusion matrix and classes' groups."""
    per_class = _per_class(counts)
    return {
        "top1": float(counts.trace() / counts.sum()),
        "balanced_accuracy": _mean(per_class),
        **{g: _mean([a for a, m in zip(per_class, member, strict=True) if m == g]) for g in GROUPS},
    }


def _per_class(counts: Integers) -> list[float | None]:
    totals = counts.sum(1)
    return [int(counts[c, c]) / int(totals[c]) if totals[c] else None for c in range(len(totals))]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
