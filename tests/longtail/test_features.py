"""Features by class: counts to generate, class Gaussians, Fréchet distance, principal axes."""

import math

import pytest
import torch

from hlrs.config.recipes import DiffusedClassifier, GaussianClassifier
from hlrs.errors import UserError
from hlrs.longtail.features import (
    Features,
    Scale,
    draw_gaussian,
    frechet_distance,
    principal_axes,
    shared_covariance,
    square_root,
)

LDAM = [int(5000 * 0.01 ** (c / 9)) for c in range(10)]  # 5000 … 50


def test_a_fifth_of_each_class_is_generated_or_what_it_lacks():
    assert sum(GaussianClassifier(fill="ratio").generated(LDAM)) == 2480
    assert GaussianClassifier(fill="ratio", ratio=0.2, least=5).generated([100, 20, 3]) == [20, 5, 5]
    assert GaussianClassifier().generated([100, 20, 3]) == [0, 80, 97]


def test_classes_too_small_to_model_are_named():
    counts = {"ant": 9, "bee": 4, "cat": 3, "dog": 2, "eel": 1}
    with pytest.raises(UserError, match=r"least: 5 .* bee \(4\), cat \(3\), dog \(2\) and 1 more have fewer"):
        DiffusedClassifier().check_classes(counts)
    DiffusedClassifier(least=1).check_classes(counts)
    with pytest.raises(UserError, match=r"classifier.fill: balanced has nothing to generate"):
        DiffusedClassifier().check_classes({"ant": 5, "bee": 5})
    DiffusedClassifier(fill="ratio").check_classes({"ant": 5, "bee": 5})
    with pytest.raises(UserError, match="2 classes of one image each have no covariance"):
        GaussianClassifier(fill="ratio", least=1).check_classes({"ant": 1, "bee": 1})


def test_the_shared_covariance_by_hand():
    values = torch.tensor([[0.0, 0.0], [2.0, 2.0], [5.0, 1.0], [5.0, 3.0]])
    means, covariance = shared_covariance(Features(values, torch.tensor([0, 0, 1, 1])), 2)
    assert means.tolist() == [[1.0, 1.0], [5.0, 2.0]]
    # deviations ±(1, 1) and ±(0, 1), two degrees of freedom
    assert covariance.tolist() == [[1.0, 1.0], [1.0, 2.0]]


def test_a_class_gaussian_has_its_mean_and_covariance():
    means = torch.tensor([[1.0, -2.0], [7.0, 0.0]], dtype=torch.float64)
    covariance = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    noise = torch.randn(40_000, 2, generator=torch.Generator().manual_seed(0))
    drawn = draw_gaussian(means, covariance, torch.ones(40_000, dtype=torch.int64), noise)
    assert drawn.dtype == torch.float32
    assert drawn.mean(0).tolist() == pytest.approx([7.0, 0.0], abs=0.03)
    assert torch.allclose(torch.cov(drawn.T), covariance.float(), atol=0.07)


def test_the_root_of_a_singular_matrix_is_symmetric():
    matrix = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)  # v vᵀ, v = (1, 2), |v|² = 5
    assert torch.allclose(square_root(matrix), matrix / math.sqrt(5))


def test_the_frechet_distance_by_hand():
    # sample covariances diag(1, 1) and diag(4, 4) exactly, means (0, 0) and (3, 4)
    corners = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) * math.sqrt(1.5)
    x, y = corners, 2 * corners + torch.tensor([3.0, 4.0])
    assert frechet_distance(x, y) == pytest.approx(25 + 2)  # + Σ (1 + 4 − 2·2)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(x, y[:1]) is None


def test_features_are_standardised_and_restored():
    values = torch.tensor([[1.0, 7.0], [3.0, 7.0]])
    scale = Scale.of(values)
    assert scale.standardize(values).tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert torch.equal(scale.restore(scale.standardize(values)), values)
    assert scale.standardize(torch.tensor([[1.0, 7.5]])).tolist() == [[-1.0, 0.5]]  # 7 has the deviation 1


def test_the_principal_axes_follow_the_variance_and_do_not_depend_on_the_solver():
    values = torch.tensor([[3.0, 0, 0], [-3, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 1], [0, 0, -1]])
    assert torch.allclose(
        principal_axes(values + 5), torch.tensor([[1.0, 0], [0, 1], [0, 0]], dtype=torch.float64)
    )
    assert torch.allclose(principal_axes(-values), principal_axes(values))
