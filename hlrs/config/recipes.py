"""Specs of recipes: how a search, a retraining, an evaluation and the report are run."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hlrs.config.base import Spec
from hlrs.config.methods import Objective, Plain, check_branches, check_reached


def _check_sgd(sgd: "Sgd", epochs: int) -> None:
    """Reject a warm-up that takes all epochs, and an `at` beyond the last epoch."""
    if sgd.warm_up and sgd.warm_up >= epochs:
        raise ValueError(
            f"weights.warm_up {sgd.warm_up} takes all {epochs} epochs: lower it, or raise epochs"
        )
    check_reached(sgd, epochs, "weights")


class CosineSchedule(Spec):
    """From `lr` to `lr_min` along half a cosine, by epoch."""

    kind: Literal["cosine"] = "cosine"


class MultistepSchedule(Spec):
    """`lr` times `factor` at each progress of `at`  (Cao et al. 2019: 0.01 at epochs 160 and 180 of 200)."""

    kind: Literal["multistep"] = "multistep"
    at: list[Annotated[float, Field(gt=0, lt=1)]] = Field([0.8, 0.9], min_length=1)
    factor: float = Field(0.01, gt=0, lt=1)


class Sgd(Spec):
    """SGD with momentum; the learning rate follows `schedule` by epoch.

    The first `warm_up` epochs multiply that by (epoch + 1)/warm_up  (Goyal et al. 2017, §2.2).
    """

    lr: float = Field(0.025, gt=0)
    lr_min: float = Field(0.0, ge=0)
    schedule: Annotated[CosineSchedule | MultistepSchedule, Field(discriminator="kind")] = CosineSchedule(
        kind="cosine"
    )
    warm_up: int = Field(0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(3e-4, ge=0)
    clip: float | None = Field(5.0, gt=0)  # largest norm of the gradient; null: no clipping

    @model_validator(mode="after")
    def _acts(self) -> "Sgd":
        if self.warm_up == 1:
            raise ValueError(
                "warm_up 1 changes nothing, as its one epoch has the full learning rate: set 0, or 2 or more"
            )
        if self.lr_min and self.schedule.kind != "cosine":
            raise ValueError("lr_min is the end of schedule cosine, multistep has none: leave lr_min out")
        return self


class Adam(Spec):
    """Adam for the alphas, with the L2 penalty in the gradient, as in DARTS."""

    lr: float = Field(3e-4, gt=0)
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [
        0.5,
        0.999,
    ]
    weight_decay: float = Field(1e-3, ge=0)


class Collapse(Spec):
    """Early stopping against DARTS's collapse: skip connections take over, the validation loss grows sharp.

    `power_iterations` estimate the dominant eigenvalue of ∇²_α L_val in each epoch (0: no estimate; Zela et
    al. 2020, §4). `stop` rests the alphas after the epoch in which the normal cell has `skips` skip
    connections (DARTS+, Liang et al. 2019), or the eigenvalue's size, a mean over `window` epochs, has grown
    by more than 1/`ratio` within `window` epochs; the architecture then goes back to the one before that
    growth (Zela et al. 2020, §4.3: 5 and 0.75).
    """

    power_iterations: int = Field(3, ge=0)
    stop: Literal["never", "skips", "eigenvalue"] = "never"
    skips: int = Field(2, ge=1)
    window: int = Field(5, ge=1)
    ratio: float = Field(0.75, gt=0, lt=1)

    @model_validator(mode="after")
    def _known(self) -> "Collapse":
        if self.stop == "eigenvalue" and not self.power_iterations:
            raise ValueError("stop eigenvalue needs power_iterations of 1 or more")
        return self


class Search(Spec):
    """The supernet and its bilevel training (DARTS, §3.1)."""

    epochs: int = Field(50, ge=1)
    batch_size: int = Field(64, ge=2)
    channels: int = Field(16, ge=2, multiple_of=2)  # even, as a factorized reduction halves them
    cells: int = Field(8, ge=3)  # fewer would all be reduction cells
    nodes: int = Field(4, ge=1)
    cutout: int = Field(0, ge=0, multiple_of=2)
    recompute: bool = False  # recompute a cell's inner maps in the backward pass: for large images
    threads: int = Field(1, ge=1)
    weights: Sgd = Sgd(lr_min=0.001)
    alphas: Adam = Adam()
    collapse: Collapse = Collapse()

    @model_validator(mode="after")
    def _acts(self) -> "Search":
        _check_sgd(self.weights, self.epochs)
        edges, needed = 2 * self.nodes, 2 * self.collapse.window
        if self.collapse.stop == "skips" and self.collapse.skips > edges:
            raise ValueError(
                f"collapse.skips {self.collapse.skips} is never reached: a cell of {self.nodes} nodes keeps "
                f"{edges} edges; lower it to at most that"
            )
        if self.collapse.stop == "eigenvalue" and self.epochs < needed:
            raise ValueError(
                f"collapse.stop eigenvalue compares two windows of {self.collapse.window} epochs: raise "
                f"epochs from {self.epochs} to {needed} or more, or lower collapse.window"
            )
        return self


class AutoAugment(Spec):
    """AutoAugment's policy (Cubuk et al. 2019), learned on the named data set; torchvision's."""

    kind: Literal["autoaugment"] = "autoaugment"
    policy: Literal["cifar10", "imagenet", "svhn"] = "cifar10"


class RandAugment(Spec):
    """`operations` random operations per image, at `magnitude` of 30 (Cubuk et al. 2020), torchvision's."""

    kind: Literal["randaugment"] = "randaugment"
    operations: int = Field(2, ge=1)
    magnitude: int = Field(9, ge=0, le=30)


class Mixup(Spec):
    """λx_i + (1 − λ)x_j, losses likewise, λ ~ Beta(alpha, alpha)  (Zhang et al. 2018)."""

    kind: Literal["mixup"] = "mixup"
    alpha: float = Field(1.0, gt=0)


class Cutmix(Spec):
    """A box of share 1 − λ from another image, losses by area, λ ~ Beta(alpha, alpha)  (Yun et al. 2019)."""

    kind: Literal["cutmix"] = "cutmix"
    alpha: float = Field(1.0, gt=0)


class RetrainedClassifier(Spec):
    """cRT (Kang et al. 2020, §4.2): the classifier, initialised again, trained alone, class-balanced."""

    kind: Literal["retrained"] = "retrained"
    epochs: int = Field(10, ge=1)
    lr: float = Field(0.1, gt=0)


class NormalizedClassifier(Spec):
    """τ-normalisation (Kang et al. 2020, §4.3): w_c/‖w_c‖^tau after training."""

    kind: Literal["tau_normalized"] = "tau_normalized"
    tau: float = Field(1.0, ge=0)


class Retrain(Spec):
    """The training of the derived network from scratch (DARTS, §A.2)."""

    epochs: int = Field(600, ge=1)
    batch_size: int = Field(96, ge=2)
    channels: int = Field(36, ge=2, multiple_of=2)
    cells: int = Field(20, ge=1)
    auxiliary_weight: float = Field(0.4, ge=0)  # 0: no auxiliary head
    drop_path: float = Field(0.2, ge=0, lt=1)
    cutout: int = Field(16, ge=0, multiple_of=2)
    policy: Annotated[AutoAugment | RandAugment, Field(discriminator="kind")] | None = None
    mix: Annotated[Mixup | Cutmix, Field(discriminator="kind")] | None = None
    ema: float | None = Field(None, gt=0, lt=1)  # decay per step of the weights' moving average, the result
    threads: int = Field(1, ge=1)
    weights: Sgd = Sgd()
    objective: Objective = Plain(kind="plain")
    # what is done to the classifier after training
    classifier: Annotated[RetrainedClassifier | NormalizedClassifier, Field(discriminator="kind")] | None = (
        None
    )

    @model_validator(mode="after")
    def _compatible(self) -> "Retrain":
        check_branches(self.objective, self.cells, "cells (blocks, of a resnet)")
        _check_sgd(self.weights, self.epochs)
        check_reached(self.objective, self.epochs, "objective")
        objective = self.objective
        if self.auxiliary_weight and not objective.auxiliary:
            raise ValueError(f"objective {objective.kind} has no auxiliary head: set auxiliary_weight to 0")
        if self.mix is not None and objective.mixing is not None:
            raise ValueError(
                f"objective {objective.kind} mixes batches itself: leave out mix {self.mix.kind}"
            )
        if self.classifier is not None and not objective.one_classifier:
            raise ValueError(
                f"objective {objective.kind} has class-specific weights for the tail: leave out classifier "
                f"{self.classifier.kind}"
            )
        if self.classifier is not None and objective.loss.scale is not None:
            raise ValueError(
                f"loss {objective.loss.kind} has a classifier of unit norm: leave out classifier "
                f"{self.classifier.kind}"
            )
        return self


class Evaluate(Spec):
    """The evaluation of the trained network on the test set."""

    batch_size: int = Field(250, ge=1)
    calibration_bins: int = Field(15, ge=1)
    threads: int = Field(1, ge=1)


class Report(Spec):
    """The report: compares methods with `reference`, at the given level of confidence."""

    title: str = "Architecture search on long-tailed images"
    reference: str | None = None
    confidence: float = Field(0.95, gt=0, lt=1)
    resamples: int = Field(10_000, ge=100)  # of the bootstrap
    margin: float = Field(0.01, gt=0, lt=1)  # differences in accuracy up to this count as equivalent
