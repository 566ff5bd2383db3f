"""Metrics of a classifier, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from hlrs.longtail.metrics import (
    adjusted,
    calibration,
    confusion,
    evaluate,
    expected_calibration_error,
    groups,
)

# Five classes; class 4 has no test images, class 0 the most.
TRAIN_COUNTS = [150, 101, 100, 20, 19]
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2, 3])
PREDICTED = [0, 0, 0, 1, 1, 0, 2, 2, 4]


def certain(predicted, classes=5, top=0.6):
    """Probabilities with `top` on the predicted class, the rest spread evenly."""
    table = np.full((len(predicted), classes), (1 - top) / (classes - 1))
    table[np.arange(len(predicted)), predicted] = top
    return table


@pytest.fixture
def toy():
    return evaluate(certain(PREDICTED), LABELS, TRAIN_COUNTS, many_above=100, few_below=20, bins=15)


def test_group_boundaries():
    assert groups([101, 100, 20, 19, 0], 100, 20) == ["many", "medium", "medium", "few", "few"]


def test_group_boundaries_move_with_the_parameters():
    assert groups([60, 61, 25, 24], 60, 25) == ["medium", "many", "medium", "few"]


def test_confusion_has_true_classes_in_rows():
    table = confusion(np.array([0, 0, 0, 1, 2, 2]), np.array([0, 1, 1, 1, 0, 2]), 4)
    assert table.tolist() == [[1, 2, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


def test_confusion_of_the_toy(toy):
    assert toy["confusion"] == [
        [3, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 2, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0],
    ]


def test_accuracies_on_an_imbalanced_test_set(toy):
    assert toy["top1"] == pytest.approx(6 / 9)  # 3 + 1 + 2 + 0 right
    assert toy["per_class"] == [3 / 4, 1 / 2, 1.0, 0.0, None]
    assert toy["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2 + 1 + 0) / 4)


def test_accuracies_of_the_groups_are_means_over_classes(toy):
    assert toy["many"] == pytest.approx((3 / 4 + 1 / 2) / 2)  # over images it would be 4/6
    assert toy["medium"] == pytest.approx((1 + 0) / 2)  # over images it would be 2/3
    assert toy["groups"] == ["many", "many", "medium", "medium", "few"]


def test_a_group_whose_classes_have_no_test_images_is_null(toy):
    assert toy["few"] is None


def test_a_group_without_classes_is_null():
    metrics = evaluate(certain([0, 1], 2), np.array([0, 1]), [500, 400], 100, 20, 15)
    assert (metrics["many"], metrics["medium"], metrics["few"]) == (1.0, None, None)


def test_negative_log_likelihood_is_the_mean_in_nats():
    probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    metrics = evaluate(probabilities, np.array([0, 2]), [3, 2, 1], 100, 20, 15)
    assert metrics["nll"] == pytest.approx((0.6931471806 + 2.302585093) / 2)


def test_impossible_label_gives_a_finite_likelihood():
    metrics = evaluate(np.array([[1.0, 0.0]]), np.array([1]), [2, 2], 100, 20, 15)
    assert math.isfinite(metrics["nll"])
    assert metrics["nll"] > 700


# Three classes with 90, 9 and 1 training images. p/n: .0089 .0167 .05 | .0106 .0054 .001 | .0056 .044 .1 |
# .01 .0089 .02 | .011 .0006 .005; p/√n: .084 .05 .05 | .1 .016 .001 | .053 .133 .1 | .095 .027 .02 | .104 …
LEANING = np.array(
    [[0.8, 0.15, 0.05], [0.95, 0.049, 0.001], [0.5, 0.4, 0.1], [0.9, 0.08, 0.02], [0.99, 0.005, 0.005]]
)


def test_adjusted_predictions_by_hand():
    assert adjusted(LEANING, [90, 9, 1], 1.0).tolist() == [2, 0, 2, 2, 0]
    assert adjusted(LEANING, [90, 9, 1], 0.5).tolist() == [0, 0, 1, 0, 0]
    labels = np.array([2, 0, 1, 0, 0])
    plain, half, whole = (evaluate(LEANING, labels, [90, 9, 1], 50, 5, 15, tau) for tau in (None, 0.5, 1.0))
    names = ("top1", "balanced_accuracy", "many", "medium", "few")
    assert [plain[name] for name in names] == pytest.approx([3 / 5, 1 / 3, 1, 0, 0])
    assert [half[f"adjusted_{name}"] for name in names] == pytest.approx([4 / 5, 2 / 3, 1, 1, 0])
    assert [whole[f"adjusted_{name}"] for name in names] == pytest.approx([3 / 5, 5 / 9, 2 / 3, 0, 1])
    assert (half["adjust"], whole["adjust"]) == (0.5, 1.0)
    assert plain["groups"] == ["many", "medium", "few"]
    for metrics in (half, whole):  # beside the plain prediction's, which stay as they are
        assert metrics.keys() - plain.keys() == {"adjust", *(f"adjusted_{name}" for name in names)}
        assert metrics | plain == metrics


def test_adjusted_predictions_are_those_of_shifted_logits():
    draw = np.random.default_rng(0)
    logits, counts = draw.normal(0, 3, (200, 6)), [500, 200, 80, 30, 12, 5]
    odds = np.exp(logits)
    for tau in (0.3, 1.0, 2.5):
        expected = (logits - tau * np.log(np.array(counts) / sum(counts))).argmax(1)
        found = adjusted((odds / odds.sum(1, keepdims=True)).astype(np.float32), counts, tau)
        assert (found == expected).all()
        assert (found != logits.argmax(1)).any()
    assert (adjusted(odds / odds.sum(1, keepdims=True), [7] * 6, 2.5) == logits.argmax(1)).all()


def test_adjusted_predictions_of_impossible_and_unseen_classes():
    assert adjusted(np.array([[0.9, 0.1, 0.0]]), [1000, 1000, 1], 100.0).tolist() == [0]
    assert adjusted(np.array([[0.6, 0.4], [0.7, 0.3]]), [2, 0], 1.0).tolist() == [1, 0]  # as if [2, 1]


def test_calibration_error_by_hand():
    # bins of width 1/5: (.8, 1] has .95 right and .85 wrong: |.5 - .90| · 2;  (.6, .8] has .65 right: .35;
    # (.4, .6] has .55 right and .45 wrong: 0;  (.2, .4] has .25 wrong: .25;  sum / 6 images
    confidence = np.array([0.95, 0.85, 0.65, 0.55, 0.45, 0.25])
    correct = np.array([True, False, True, True, False, False])
    error = expected_calibration_error(calibration(confidence, correct, 5))
    assert error == pytest.approx((0.8 + 0.35 + 0 + 0.25) / 6)


def test_reliability_diagram_by_hand():
    # (.2, .4] nothing; (.4, .6] .55 right, .45 wrong; (.6, .8] .65 right; (.8, 1] .95 right, .85 wrong
    confidence = np.array([0.95, 0.85, 0.65, 0.55, 0.45])
    diagram = calibration(confidence, np.array([True, False, True, True, False]), 5)
    assert [(b["low"], b["high"], b["images"], b["accuracy"]) for b in diagram] == [
        (0.4, 0.6, 2, 0.5), (0.6, 0.8, 1, 1.0), (0.8, 1.0, 2, 0.5),
    ]  # fmt: skip
    assert [b["confidence"] for b in diagram] == pytest.approx([0.5, 0.65, 0.9])


def test_calibration_intervals_include_their_upper_end():
    # (0, .5] and (.5, 1]: |1 - .5|/2 + |0 - .75|/2; in one interval it would be |.5 - .625|
    error = expected_calibration_error(calibration(np.array([0.5, 0.75]), np.array([True, False]), 2))
    assert error == pytest.approx(0.625)


def test_calibration_keeps_confidence_zero_and_one():
    error = expected_calibration_error(calibration(np.array([0.0, 1.0]), np.array([False, True]), 15))
    assert error == 0


def test_calibration_of_the_toy_uses_the_largest_probability(toy):
    assert toy["ece"] == pytest.approx(6 / 9 - 0.6)  # every confidence is .6
    [only] = toy["calibration"]
    assert (only["low"], only["high"], only["images"]) == (8 / 15, 9 / 15, 9)
    assert (only["accuracy"], only["confidence"]) == pytest.approx((6 / 9, 0.6))


def test_metrics_of_single_precision_probabilities_are_plain_json_values():
    metrics = evaluate(certain(PREDICTED).astype(np.float32), LABELS, TRAIN_COUNTS, 100, 20, 15)
    assert all(type(metrics[name]) is float for name in ("top1", "balanced_accuracy", "ece", "nll"))
    assert metrics["test_images"] == 9
    assert metrics["train_counts"] == TRAIN_COUNTS
