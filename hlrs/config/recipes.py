"""Specs of recipes: how a search, a retraining, an evaluation and the report are run."""

from collections.abc import Mapping, Sequence
from operator import not_
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from hlrs.config.base import (
    BatchSize,
    BetaShape,
    Cells,
    Channels,
    Epochs,
    Exponent,
    FilePath,
    LearningRate,
    Name,
    Nodes,
    Pixels,
    Precision,
    Share,
    ShareOrNone,
    Spec,
    Text,
    Threads,
    TrainingBatch,
    WeightDecay,
)
from hlrs.config.methods import Objective, Plain, Sampler, UniformSampler, check_branches, check_reached
from hlrs.config.spaces import DartsSpace, Space, check_cells
from hlrs.errors import UserError

SHOWN = 3  # classes, in a message


def _check_weights(weights: "Optimizer", epochs: int) -> None:
    """Reject a warm-up that takes all epochs, and an `at` beyond the last epoch."""
    if weights.warm_up and weights.warm_up >= epochs:
        raise ValueError(
            f"weights.warm_up {weights.warm_up} takes all {epochs} epochs: lower it, or raise epochs"
        )
    check_reached(weights, epochs, "weights")


# `ends`: whether the learning rate ends at lr_min. `rises`: whether it begins below lr, as after a warm-up.


class CosineSchedule(Spec):
    """From `lr` to `lr_min` along half a cosine, by epoch."""

    kind: Literal["cosine"] = "cosine"
    ends: ClassVar[bool] = True
    rises: ClassVar[bool] = False


class MultistepSchedule(Spec):
    """`lr` times `factor` at each progress of `at`  (Cao et al. 2019: 0.01 at epochs 160 and 180 of 200)."""

    kind: Literal["multistep"] = "multistep"
    ends: ClassVar[bool] = False
    rises: ClassVar[bool] = False
    at: list[Share] = Field([0.8, 0.9], min_length=1, max_length=1000)
    factor: Share = 0.01


class TriangularSchedule(Spec):
    """Linearly from `start` · `lr` to `lr` at progress `peak`, then to `lr_min`, by epoch.

    Jordan 2024, whose airbench94.py has start 0.2, peak 0.23 and an end of 0.07 · lr, by step.
    """

    kind: Literal["triangular"] = "triangular"
    ends: ClassVar[bool] = True
    rises: ClassVar[bool] = True
    start: Share = 0.2
    peak: Share = 0.23


Schedule = Annotated[CosineSchedule | MultistepSchedule | TriangularSchedule, Field(discriminator="kind")]


class Optimizer(Spec):
    """What all optimizers share: the learning rate follows `schedule` by epoch.

    The first `warm_up` epochs multiply that by (epoch + 1)/warm_up  (Goyal et al. 2017, §2.2).
    `scales`: whether a classifier's gradient, r times as large, makes r times as large a step. `moments`:
    numbers that it keeps per weight.
    """

    scales: ClassVar[bool]
    moments: ClassVar[int] = 1

    lr: LearningRate
    lr_min: float = Field(0.0, ge=0, le=1000)  # at the end of the schedule
    schedule: Schedule = CosineSchedule(kind="cosine")
    warm_up: int = Field(0, ge=0, le=100_000)  # epochs in which the learning rate rises to the schedule's
    clip: float | None = Field(5.0, gt=0, le=1_000_000)  # largest norm of the gradient; null: no clipping

    @model_validator(mode="after")
    def _acts(self) -> "Optimizer":
        if self.warm_up == 1:
            raise ValueError(
                "warm_up 1 changes nothing, as its one epoch has the full learning rate: set 0, or 2 or more"
            )
        if self.lr_min and not self.schedule.ends:
            raise ValueError(
                f"lr_min is the end of another schedule, {self.schedule.kind} has none: leave lr_min out"
            )
        if self.warm_up and self.schedule.rises:
            raise ValueError(
                f"warm_up would repeat the rise of schedule {self.schedule.kind}: leave warm_up out"
            )
        if self.lr_min > self.lr:
            raise ValueError(
                f"lr_min {self.lr_min:g} is above lr {self.lr:g}, from which the learning rate falls to it: "
                "lower lr_min, or raise lr"
            )
        return self


class Momentum(Spec):
    """Momentum; `nesterov` takes Nesterov's, in PyTorch's form (Sutskever et al. 2013, §2.1)."""

    momentum: ShareOrNone = 0.9
    nesterov: bool = False

    @model_validator(mode="after")
    def _accelerates(self) -> "Momentum":
        if self.nesterov and not self.momentum:
            raise ValueError(
                "nesterov changes nothing without momentum: raise momentum, or leave nesterov out"
            )
        return self


class Sgd(Optimizer, Momentum):
    """SGD with momentum, and the L2 penalty in the gradient."""

    kind: Literal["sgd"] = "sgd"
    scales: ClassVar[bool] = True
    lr: LearningRate = 0.025
    weight_decay: WeightDecay = 3e-4

    def of_classifier(self, lr: float) -> "Sgd":
        """Return what trains a classifier alone, from a learning rate along a cosine to 0."""
        along = {"lr_min": 0.0, "schedule": CosineSchedule(), "warm_up": 0}
        return self.model_copy(update={"lr": lr, **along})


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), with PyTorch's defaults."""

    kind: Literal["adamw"] = "adamw"
    scales: ClassVar[bool] = False
    moments: ClassVar[int] = 2
    lr: LearningRate = 1e-3
    betas: list[ShareOrNone] = Field([0.9, 0.999], min_length=2, max_length=2)
    eps: float = Field(1e-8, ge=1e-30, le=1)  # a smaller one is 0 in float32
    weight_decay: WeightDecay = 0.01

    def of_classifier(self, lr: float) -> Sgd:
        """Return SGD, for which rates of classifiers are known (Kang et al. 2020)."""
        return Sgd(lr=lr, clip=self.clip)


class Rest(Momentum):
    """SGD of the parameters that Muon leaves out; its learning rate falls as Muon's does."""

    lr: LearningRate = 0.025
    weight_decay: WeightDecay = 3e-4


class Muon(Optimizer, Momentum):
    """Momentum of dense filters, orthogonalised by `steps` of Newton and Schulz; SGD for the `rest`.

    The weight decay is decoupled, as in the authors' muon.py (Jordan et al. 2024).
    """

    kind: Literal["muon"] = "muon"
    scales: ClassVar[bool] = True
    lr: LearningRate = 0.02
    momentum: ShareOrNone = 0.95
    nesterov: bool = True
    weight_decay: WeightDecay = 0.0
    steps: int = Field(5, ge=1, le=100)
    rest: Rest = Rest()

    def of_classifier(self, lr: float) -> Sgd:
        """Return the rest's SGD, which trains classifiers."""
        return Sgd(**{**dict(self.rest), "lr": lr}, clip=self.clip)


def _sgd_without_kind(weights: Any) -> Any:
    """Let a mapping without `kind` be SGD's, as all are that were written before there was a choice."""
    return {"kind": "sgd", **weights} if isinstance(weights, dict) else weights


AnyOptimizer = Annotated[
    Annotated[Sgd | AdamW | Muon, Field(discriminator="kind")], BeforeValidator(_sgd_without_kind)
]


class Adam(Spec):
    """Adam for the alphas, with the L2 penalty in the gradient, as in DARTS."""

    lr: LearningRate = 3e-4
    betas: list[ShareOrNone] = Field([0.5, 0.999], min_length=2, max_length=2)
    weight_decay: WeightDecay = 1e-3


class Collapse(Spec):
    """Early stopping against DARTS's collapse: skip connections take over, the validation loss grows sharp.

    `power_iterations` estimate the dominant eigenvalue of ∇²_α L_val in each epoch (0: no estimate; Zela et
    al. 2020, §4). `stop` rests the alphas after the epoch in which the normal cell has `skips` skip
    connections (DARTS+, Liang et al. 2019), or the eigenvalue's size, a mean over `window` epochs, has grown
    by more than 1/`ratio` within `window` epochs; the architecture then goes back to the one before that
    growth (Zela et al. 2020, §4.3: 5 and 0.75).
    """

    power_iterations: int = Field(3, ge=0, le=1000)
    stop: Literal["never", "skips", "eigenvalue"] = "never"
    skips: int = Field(2, ge=1, le=40)
    window: Epochs = 5
    ratio: Share = 0.75

    @model_validator(mode="after")
    def _known(self) -> "Collapse":
        if self.stop == "eigenvalue" and not self.power_iterations:
            raise ValueError("stop eigenvalue needs power_iterations of 1 or more")
        return self


class EntropyPenalty(Spec):
    """λ(t) · mean over edges of H(softmax α), added to the architecture's loss.

    λ(t) = weight · (t − at)/(1 − at) from progress `at` on, 0 before. The single-stage protocol (arXiv
    2405.16610) reports that penalties on high entropy can hinder the supernet; their form is our own reading.
    """

    weight: float = Field(1.0, gt=0, le=1_000_000)
    at: ShareOrNone = 0.0


class Budget(Spec):
    """The largest network that a search may find, counted as its retraining makes it, on its images.

    A supernet is searched without it, and the extraction refuses a genotype that exceeds it. Where genotypes
    are drawn, one that exceeds it is drawn again.
    """

    weights: int | None = Field(None, ge=1, le=10**12)
    multiply_adds: int | None = Field(None, ge=1, le=10**15)  # for one image

    @model_validator(mode="after")
    def _bounds(self) -> "Budget":
        if self.weights is None and self.multiply_adds is None:
            raise ValueError("bounds nothing: set weights or multiply_adds, or leave budget out")
        return self

    def exceeded(self, name: Literal["weights", "multiply_adds"], found: int) -> str:
        """Name both numbers if what was found exceeds the budget; else ""."""
        most = getattr(self, name)
        return f"{found:,} {name}, more than {most:,}" if most is not None and found > most else ""


class Search(Spec):
    """The supernet and its bilevel training (DARTS, §3.1).

    With `halves: redrawn`, each epoch draws again, class by class, which images train the weights and which
    the alphas, so that the weights see all; our own reading of the single-stage protocol's split.
    """

    space: Space = DartsSpace(kind="darts")
    epochs: Epochs = 50
    batch_size: TrainingBatch = 64
    channels: Channels = 16
    cells: int = Field(8, ge=3, le=1000)  # fewer would all be reduction cells
    nodes: Nodes = 4
    cutout: Pixels = Field(0, multiple_of=2)
    recompute: bool = False  # recompute a cell's inner maps in the backward pass: for large images
    precision: Precision = "float32"  # of the maps; weights, statistics, logits and losses are float32
    threads: Threads = 1  # of a CPU; results depend on their number
    weights: Sgd = Sgd(lr_min=0.001)
    alphas: Adam = Adam()
    collapse: Collapse = Collapse()
    entropy: EntropyPenalty | None = None
    halves: Literal["fixed", "redrawn"] = "fixed"
    # null is left out of a job's parameters, as before there was a choice: its key stays
    budget: Budget | None = Field(None, exclude_if=not_)

    @model_validator(mode="after")
    def _acts(self) -> "Search":
        _check_weights(self.weights, self.epochs)
        last = (self.epochs - 1) / self.epochs
        if self.entropy is not None and self.entropy.at >= last:
            raise ValueError(
                f"entropy.at {self.entropy.at:g} never acts: the penalty grows from there on, and the last "
                f"of {self.epochs} epochs has progress {last:.3g}; lower it, or raise epochs"
            )
        check_cells(self.space, self.cells, "cells")
        if not self.space.edges(self.nodes):
            raise ValueError(f"nodes {self.nodes}: a cell of space {self.space.kind} needs 2 or more")
        every, kept = self.space.edges(self.nodes), self.space.kept
        edges = kept * self.nodes if kept else len(every)
        needed = 2 * self.collapse.window
        if self.collapse.stop == "skips" and self.collapse.skips > edges:
            raise ValueError(
                f"collapse.skips {self.collapse.skips} is never reached: a cell of {self.nodes} nodes keeps "
                f"{edges} edges; lower it to at most that"
            )
        if self.collapse.stop == "skips" and "skip_connect" not in self.space.primitives:
            raise ValueError(
                "collapse.stop skips counts skip connections, which space.primitives leaves out: add "
                "skip_connect, or set stop to never or eigenvalue"
            )
        if self.collapse.stop == "eigenvalue" and self.epochs < needed:
            raise ValueError(
                f"collapse.stop eigenvalue compares two windows of {self.collapse.window} epochs: raise "
                f"epochs from {self.epochs} to {needed} or more, or lower collapse.window"
            )
        return self


# the level of all channels where an image was moved away; black is left out of a job's parameters, as before
# there was a choice: its key stays
Fill = Annotated[int, Field(ge=0, le=255, exclude_if=not_)]


class AutoAugment(Spec):
    """AutoAugment's policy (Cubuk et al. 2019), learned on the named data set; torchvision's.

    `fill`: the level, 0 to 255, of what an image that is moved leaves empty; 128 in much code for CIFAR.
    """

    kind: Literal["autoaugment"] = "autoaugment"
    policy: Literal["cifar10", "imagenet", "svhn"] = "cifar10"
    fill: Fill = 0


class RandAugment(Spec):
    """`operations` random operations per image, at `magnitude` of 30 (Cubuk et al. 2020), torchvision's.

    `fill`: the level, 0 to 255, of what an image that is moved leaves empty.
    """

    kind: Literal["randaugment"] = "randaugment"
    operations: int = Field(2, ge=1, le=100)
    magnitude: int = Field(9, ge=0, le=30)
    fill: Fill = 0


class SimAugment(Spec):
    """A view for contrast: a resized crop, mirrored, with other colours or none (Chen et al. 2020, §3)."""

    kind: Literal["simaugment"] = "simaugment"


class Mixup(Spec):
    """λx_i + (1 − λ)x_j, losses likewise, λ ~ Beta(alpha, alpha)  (Zhang et al. 2018)."""

    kind: Literal["mixup"] = "mixup"
    alpha: BetaShape = 1.0


class Cutmix(Spec):
    """A box of share 1 − λ from another image, losses by area, λ ~ Beta(alpha, alpha)  (Yun et al. 2019)."""

    kind: Literal["cutmix"] = "cutmix"
    alpha: BetaShape = 1.0


# `rebalances`: whether it makes up for the class frequencies of the images. `passes`: the batches of images
# per step of each of its epochs; 0 of an epoch on features.


class RetrainedClassifier(Spec):
    """cRT (Kang et al. 2020, §4): the classifier, initialised again, trained alone, class-balanced."""

    kind: Literal["retrained"] = "retrained"
    rebalances: ClassVar[bool] = True
    epochs: Epochs = 10
    lr: LearningRate = 0.1

    @property
    def passes(self) -> list[int]:
        """Return the batches of images per step of each epoch."""
        return [1] * self.epochs


class NormalizedClassifier(Spec):
    """τ-normalisation (Kang et al. 2020, §4): w_c/‖w_c‖^tau after training."""

    kind: Literal["tau_normalized"] = "tau_normalized"
    rebalances: ClassVar[bool] = True
    passes: ClassVar[list[int]] = []
    tau: Exponent = 1.0


class OnFeatures(Spec):
    """The trained classifier trains on, alone, on fixed features of the images, by Adam.

    The features are those of evaluation mode, of images without augmentation. The learning rate falls from
    `lr` to 0 along a cosine.
    """

    epochs: Epochs = 100
    lr: LearningRate = 1e-3

    @property
    def passes(self) -> list[int]:
        """Return the batches of images per step of each epoch."""
        return [0] * self.epochs


class ContinuedClassifier(OnFeatures):
    """Train the classifier further, alone, on fixed features of the images, as `sampler` draws them.

    The control of generated features.
    """

    kind: Literal["continued"] = "continued"
    sampler: Sampler = UniformSampler()

    @property
    def rebalances(self) -> bool:
        """Whether the classes' shares change."""
        return self.sampler.rebalances


class Filled(OnFeatures):
    """On the features of the images, and on generated ones that fill the tail up.

    `fill`: `balanced` generates what each class lacks of the largest one's images, `ratio`
    max(round(ratio · n_c), least) per class. A class of fewer than `least` images is refused as too small to
    model.
    """

    fill: Literal["balanced", "ratio"] = "balanced"  # balanced: what a class lacks of the largest one
    ratio: float = Field(0.2, gt=0, le=1000)  # of a class's images, with fill ratio
    least: int = Field(5, ge=1, le=100_000)  # images of a class; with fill ratio, generated features as well

    @model_validator(mode="after")
    def _fills(self) -> "Filled":
        if self.fill == "balanced" and self.ratio != type(self).model_fields["ratio"].default:
            raise ValueError(
                f"ratio {self.ratio:g} acts with fill ratio alone, and fill is balanced: set fill to ratio, "
                "or leave ratio out"
            )
        return self

    @property
    def rebalances(self) -> bool:
        """Whether the classes' shares change."""
        return self.fill == "balanced"

    def generated(self, counts: Sequence[int]) -> list[int]:
        """Count the features to generate per class, given its images."""
        if self.fill == "balanced":
            return [max(counts) - own for own in counts]
        return [max(round(self.ratio * own), self.least) for own in counts]

    def check_classes(self, counts: Mapping[str, int]) -> None:
        """Raise UserError if a class, by name, has too few images to model."""
        small = [f"{name} ({own})" for name, own in counts.items() if own < self.least]
        if small:
            more = f" and {len(small) - SHOWN} more" if len(small) > SHOWN else ""
            raise UserError(
                f"classifier.least: {self.least} training images are the least to model a class by, and "
                f"{', '.join(small[:SHOWN])}{more} have fewer: lower it, or the data set's imbalance"
            )
        if not any(self.generated([*counts.values()])):
            raise UserError(
                "classifier.fill: balanced has nothing to generate, as all classes have the same number of "
                "images; set it to ratio, or leave classifier out"
            )


class GaussianClassifier(Filled):
    """Train the classifier further, alone, on fixed features of images and on some drawn from Gaussians.

    One Gaussian per class, with a covariance that all share: the plain control of diffusion.
    """

    kind: Literal["gaussian"] = "gaussian"

    def check_classes(self, counts: Mapping[str, int]) -> None:
        """Raise UserError if a class has too few images to model, or all have too few for a covariance."""
        super().check_classes(counts)
        if sum(counts.values()) <= len(counts):
            raise UserError(
                f"classifier gaussian: {len(counts)} classes of one image each have no covariance; set it to "
                "retrained, or add images"
            )


class DiffusedClassifier(Filled):
    """Train the classifier further, alone, on fixed features of images and on some that diffusion generates.

    Class-conditional (LDMLR, Han et al. 2024, §3.2; hlrs/longtail/diffusion.py). A denoiser of `width` units
    learns `steps` steps, in epochs of 100; DDIM then takes `sampling_steps` of its `timesteps`.
    """

    steps_per_epoch: ClassVar[int] = 100

    kind: Literal["diffused"] = "diffused"
    timesteps: int = Field(1000, ge=2, le=100_000)
    sampling_steps: int = Field(50, ge=1, le=100_000)
    width: int = Field(256, ge=8, le=10_000, multiple_of=2)
    steps: int = Field(3000, ge=steps_per_epoch, le=10_000_000, multiple_of=steps_per_epoch)

    @property
    def diffusion_epochs(self) -> int:
        """Return the epochs of the diffusion's steps."""
        return self.steps // self.steps_per_epoch

    @property
    def passes(self) -> list[int]:
        """Return the batches of images per step of each epoch, the diffusion's among them."""
        return [0] * (self.diffusion_epochs + self.epochs)

    @model_validator(mode="after")
    def _samples(self) -> "DiffusedClassifier":
        if self.sampling_steps > self.timesteps:
            raise ValueError(
                f"sampling_steps {self.sampling_steps} are more than the {self.timesteps} timesteps: lower "
                "them, or raise timesteps"
            )
        return self


Classifier = Annotated[
    RetrainedClassifier
    | NormalizedClassifier
    | ContinuedClassifier
    | GaussianClassifier
    | DiffusedClassifier,
    Field(discriminator="kind"),
]


STARTS = ("scratch", "supernet", "decoded", "trained")
OF_SUPERNET = ("supernet", "decoded")
WEIGHTS = ".safetensors"


def _known_start(start: str) -> str:
    """Reject what is neither a word for where to start nor the name of a file of weights."""
    if start not in STARTS and not start.endswith(WEIGHTS):
        raise ValueError(f"{start!r} is unknown; allowed: {', '.join(STARTS)}, or a file *{WEIGHTS}")
    return start


FILE_OF_WEIGHTS = {"type": "string", "pattern": r"\.safetensors$", "maxLength": 4096}
Start = Annotated[
    FilePath, AfterValidator(_known_start), WithJsonSchema({"anyOf": [{"enum": [*STARTS]}, FILE_OF_WEIGHTS]})
]


class Retrain(Spec):
    """The training of the derived network from scratch (DARTS, §A.2), or of what the search trained.

    `start`: the network, and the weights it starts with. `scratch`: the derived network, initialised.
    `supernet`: the supernet as it is, its architecture settled, as in the single-stage protocol (arXiv
    2405.16610); `decoded`: the genotype's operations in it. The latter two have the search's weights and
    layout; after 0 epochs only their running statistics are measured, in one pass over the images.
    `trained`: another method's network (searcher trained), with cells beside it (searcher implant); after 0
    epochs only its classifier learns. A file *.safetensors: the derived network with the weights of an
    earlier retraining, its classifier initialised if that had other classes; after 0 epochs only it learns.
    """

    start: Start = "scratch"
    epochs: int = Field(600, ge=0, le=100_000)
    batch_size: TrainingBatch = 96
    channels: Channels = 36
    cells: Cells = 20
    auxiliary_weight: float = Field(0.4, ge=0, le=1000)  # 0: no auxiliary head
    drop_path: ShareOrNone = 0.2
    cutout: Pixels = Field(16, multiple_of=2)
    policy: Annotated[AutoAugment | RandAugment, Field(discriminator="kind")] | None = None
    mix: Annotated[Mixup | Cutmix, Field(discriminator="kind")] | None = None
    accumulate: int = Field(1, ge=1, le=100_000)  # batches of which a step takes the mean gradient
    sharpness: float = Field(0.0, ge=0, le=1000)  # the radius ρ of SAM (Foret et al. 2021); 0: no SAM
    lookahead: Share | None = None  # the share of slow weights in the end (Zhang et al. 2019; Jordan 2024)
    ema: Share | None = None  # decay per step of the weights' moving average, the result
    swa: Share | None = None  # progress from which the weights' mean over the epochs' ends is the result
    precision: Precision = "float32"  # of the maps; weights, statistics, logits and losses are float32
    threads: Threads = 1
    weights: AnyOptimizer = Sgd()
    objective: Objective = Plain(kind="plain")
    classifier: Classifier | None = None  # what is done to the classifier after training

    @model_validator(mode="after")
    def _compatible(self) -> "Retrain":
        check_branches(self.objective, self.cells, "cells (blocks, of a resnet)")
        self._check_start()
        if self.epochs:
            _check_weights(self.weights, self.epochs)
            check_reached(self.objective, self.epochs, "objective")
            self._check_averages()
        objective = self.objective
        if self.auxiliary_weight and not objective.auxiliary:
            raise ValueError(f"objective {objective.kind} has no auxiliary head: set auxiliary_weight to 0")
        if objective.rated and not self.weights.scales:
            raise ValueError(
                f"objective {objective.kind} has learning rates of its own for the tail, and weights "
                f"{self.weights.kind} cancels them: set weights to sgd or muon, or objective.gamma to 0"
            )
        if self.sharpness and self.accumulate > 1:
            raise ValueError(
                f"sharpness {self.sharpness:g} takes the gradient of one batch twice, accumulate "
                f"{self.accumulate} that of several once: set accumulate to 1, or sharpness to 0"
            )
        if self.mix is not None and objective.passes > 1:
            raise ValueError(
                f"objective {objective.kind} mixes or contrasts batches itself: leave out mix {self.mix.kind}"
            )
        if self.classifier is not None and not objective.one_classifier:
            raise ValueError(
                f"objective {objective.kind} trains a classifier of its own for the tail: leave out "
                f"classifier {self.classifier.kind}"
            )
        loss, head = objective.loss, objective.head
        if self.classifier is not None and (loss.scale is not None or head.kind != "linear"):
            of = f"head {head.kind}" if loss.scale is None else f"loss {loss.kind}"
            raise ValueError(
                f"{of} has a classifier of unit norm: leave out classifier {self.classifier.kind}"
            )
        return self

    @property
    def averages(self) -> int:
        """Count the copies of the weights that averages keep."""
        return sum(share is not None for share in (self.lookahead, self.ema, self.swa))

    @property
    def file(self) -> str | None:
        """Return the file of weights that the network starts with; None without one."""
        return None if self.start in STARTS else self.start

    def check_classifier(self, kept: bool) -> None:
        """Raise UserError if a classifier that was just initialised would be normalised."""
        if not (kept or self.epochs) and isinstance(self.classifier, NormalizedClassifier):
            raise UserError(
                f"retrain.classifier tau_normalized normalises what was trained, and that of {self.start} is "
                "of other classes: raise retrain.epochs, or set classifier to retrained"
            )

    def check_images(self, images: int) -> None:
        """Raise UserError if a step would read the training images more than once."""
        most = max(1, images // min(self.batch_size, images))
        if self.accumulate > most:
            raise UserError(
                f"retrain.accumulate: {self.accumulate} batches of {self.batch_size} are more than the "
                f"{images} training images; lower it to at most {most}"
            )

    def _check_start(self) -> None:
        """Reject what a network that starts as a supernet lacks, and an untrained network."""
        if self.start == "scratch" and not self.epochs:
            raise ValueError("epochs 0 trains nothing: raise it, or set start to supernet or decoded")
        if self.start not in ("scratch", *OF_SUPERNET) and not self.epochs and self.classifier is None:
            raise ValueError("epochs 0 trains nothing: raise it, or set classifier, which then learns alone")
        if self.start not in OF_SUPERNET:
            return
        for entry in ("auxiliary_weight", "drop_path"):
            if getattr(self, entry):
                raise ValueError(f"start {self.start} is a supernet, which has no {entry}: set {entry} to 0")
        if not self.epochs and self.classifier is not None:
            raise ValueError(
                f"classifier {self.classifier.kind} follows a training, and epochs is 0: raise epochs, or "
                "leave classifier out"
            )

    def _check_averages(self) -> None:
        """Reject two averages, and one of less than two epochs."""
        if self.swa is None:
            return
        if self.ema is not None:
            raise ValueError("ema and swa average the same weights: set only one of them")
        if self.swa > (self.epochs - 2) / self.epochs:
            raise ValueError(
                f"swa {self.swa:g} leaves fewer than two of {self.epochs} epochs to average: lower it, or "
                "raise epochs"
            )


class Inherited(Spec):
    """What shapes a supernet besides the entries that a retraining has as well."""

    nodes: Nodes
    portion: int = Field(ge=1, le=10_000)


class Evaluation(Spec):
    """The evaluation of the trained network on the test set.

    `adjust`: the τ of a second prediction beside the plain one, by logits z_c − τ log(n_c/n)  (post-hoc logit
    adjustment, Menon et al. 2021); null: none. `latency`: whether to measure the time and memory of the
    network's passes, as `hlrs describe --measure` does, for the report's costs.
    """

    batch_size: BatchSize = 250
    calibration_bins: int = Field(15, ge=1, le=10_000)
    threads: Threads = 1
    # null and false are left out of a job's parameters, as before there was a choice: its key stays
    adjust: float | None = Field(None, gt=0, le=100, exclude_if=not_)  # τ of a second, adjusted prediction
    latency: bool = Field(False, exclude_if=not_)  # measure the time and memory of a prediction


class Evaluate(Evaluation):
    """How genotypes are judged: by a network's evaluation, and by look-up in a table of accuracies.

    `table`: a CSV with a column `cell` of NAS-Bench-201's cells, and a column of accuracies in per cent for
    each task (docs/data.md); null: no look-up.
    """

    table: FilePath | None = None


class Report(Spec):
    """The report: compares methods with `reference`, at the given level of confidence."""

    title: Text = "Architecture search on long-tailed images"
    reference: Name | None = None  # a method of the matrix; null: no comparison
    confidence: Share = 0.95
    resamples: int = Field(10_000, ge=100, le=1_000_000)  # of the bootstrap
    margin: Share = 0.01  # differences in accuracy up to this count as equivalent
