"""Every parameter of `params.yaml`: frozen pydantic models, unknown keys forbidden, no torch.

This module declares what may be said and never acts on it, which is why the stages' code digests leave it
out (`hlrs.fingerprint`): what was said is in a job's key, every default written out.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hlrs.errors import UserError

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"  # becomes a folder's name and a Snakemake wildcard


class Spec(BaseModel):
    """Base of all specs: immutable, no unknown keys, no silent conversion ("3" is not 3)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


# --- data ---------------------------------------------------------------------------------------------


class Digits(Spec):
    """scikit-learn's 1,797 handwritten digits, 8×8, grey; comes with the package, no official test set."""

    kind: Literal["digits"]


class Parquet(Spec):
    """Hugging Face image layout: a struct column with `bytes`, and an integer label column.

    `train` and `test` name files, or patterns of them such as data/train-*.parquet.
    """

    kind: Literal["parquet"]
    train: list[str] = Field(min_length=1)
    test: list[str] = []
    image_column: str | None = None  # found by itself when there is just one
    label_column: str | None = None


class Torchvision(Spec):
    """A data set that torchvision knows; `download` fetches it into `root` when the split is made."""

    kind: Literal["torchvision"]
    name: Literal["cifar10", "cifar100", "fashion_mnist", "mnist", "kmnist"]
    root: str = "data/torchvision"
    download: bool = False
    labels: Literal["fine", "coarse"] = "fine"  # coarse: CIFAR-100's 20 superclasses

    @model_validator(mode="after")
    def _has_coarse(self) -> "Torchvision":
        if self.labels == "coarse" and self.name != "cifar100":
            raise ValueError(
                f"labels coarse are cifar100's; {self.name} has one kind of labels: leave it out"
            )
        return self


class ImageFolder(Spec):
    """A folder a class, images below it; classes are the sorted folder names of `train`."""

    kind: Literal["image_folder"]
    train: str
    test: str | None = None


class ListFile(Spec):
    """Images below `root`, text files of "path label" lines, as ImageNet-LT and iNaturalist 2018 have them.

    `classes`: a text file with a class name a line; without it classes are called by their number.
    """

    kind: Literal["list_file"]
    root: str
    train: str
    test: str | None = None
    classes: str | None = None


class Npz(Spec):
    """A MedMNIST file: arrays train_images, train_labels, test_images, test_labels; val_* are not read."""

    kind: Literal["npz"]
    file: str


Source = Annotated[Digits | Parquet | Torchvision | ImageFolder | ListFile | Npz, Field(discriminator="kind")]


class Exponential(Spec):
    """n_c = n_max · factor^(−c/(C−1))  (Cui et al. 2019, §5.1)."""

    kind: Literal["exponential"]
    factor: float = Field(ge=1)


class Step(Spec):
    """The last `minority` share of the classes has n_max/factor images  (Buda et al. 2018)."""

    kind: Literal["step"]
    factor: float = Field(ge=1)
    minority: float = Field(0.5, gt=0, lt=1)


class Pareto(Spec):
    """n_max to n_max/factor along the quantiles (c + 1)^(−1/power) of a Pareto distribution.

    Our own reading of Liu et al. 2019, §4, who draw at random, with their power of 6.
    """

    kind: Literal["pareto"]
    factor: float = Field(ge=1)
    power: float = Field(6.0, gt=0)


class Natural(Spec):
    """The classes as they are."""

    kind: Literal["natural"]


Imbalance = Annotated[Exponential | Step | Pareto | Natural, Field(discriminator="kind")]


class Augment(Spec):
    """What happens to training images: crop, flip, colours.

    `crop_padding`: random crop after zero-padding by so many pixels; `flip`: horizontally, with probability
    one half; `resized_crop`: a random part of at least this share of the file's image, 3:4 to 4:3, resized to
    image_size (Szegedy et al. 2015; ImageNet's customary 0.08); `color_jitter`: brightness, contrast and
    saturation by a factor of up to 1 ± this, hue by half of it (DARTS's train_imagenet.py has 0.4).
    """

    crop_padding: int = Field(0, ge=0)
    flip: bool = False
    resized_crop: float | None = Field(None, gt=0, le=1)
    color_jitter: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _one_crop(self) -> "Augment":
        if self.crop_padding and self.resized_crop is not None:
            raise ValueError("crop_padding and resized_crop are two ways to crop: set one of them")
        return self


class Stream(Spec):
    """Images that need more than `above_mb` (10⁶ bytes, decoded) are read when needed, by `workers`."""

    above_mb: int = Field(4000, ge=0)
    workers: int = Field(4, ge=1)


class Groups(Spec):
    """Many-shot: more than `many_above` training images; few-shot: fewer than `few_below`.

    Liu et al. 2019, §4: 100 and 20.
    """

    many_above: int = Field(100, ge=1)
    few_below: int = Field(20, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> "Groups":
        if self.few_below > self.many_above + 1:
            raise ValueError(
                f"few_below ({self.few_below}) must not exceed many_above ({self.many_above}) + 1"
            )
        return self


class Dataset(Spec):
    """A long-tailed data set: where the images are, how the tail is cut, how images are augmented."""

    source: Source
    imbalance: Imbalance
    protocol: Literal["seeded", "ldam"] = "seeded"
    seed: int = Field(0, ge=0)
    max_per_class: int | None = Field(None, ge=1)
    test_per_class: int | None = Field(None, ge=1)
    weights_fraction: float = Field(0.5, gt=0, lt=1)
    holdout_fraction: float = Field(0.0, ge=0, lt=1)
    image_size: int | None = Field(None, ge=4)
    stem: Literal["cifar", "imagenet"] = "cifar"  # imagenet: three convolutions of stride 2 before the cells
    augment: Augment = Augment()
    stream: Stream = Stream()
    groups: Groups = Groups()

    @model_validator(mode="after")
    def _possible(self) -> "Dataset":
        if self.protocol == "ldam" and self.imbalance.kind not in ("exponential", "step"):
            raise ValueError(
                f"protocol ldam draws an exponential or step imbalance; it knows no {self.imbalance.kind}"
            )
        if self.protocol == "ldam" and isinstance(self.imbalance, Step) and self.imbalance.minority != 0.5:
            raise ValueError("protocol ldam knows step imbalance with minority 0.5 only")
        has_test = self.source.kind in ("torchvision", "npz") or bool(getattr(self.source, "test", None))
        if not has_test and self.test_per_class is None:
            raise ValueError("test_per_class is needed, as this source has no test set of its own")
        if self.source.kind in ("image_folder", "list_file") and self.image_size is None:
            raise ValueError(
                f"image_size is needed for source {self.source.kind}, whose images may differ in size"
            )
        if self.augment.resized_crop is not None and self.image_size is None:
            raise ValueError("image_size is needed for augment.resized_crop, which resizes to it")
        return self


# --- method -------------------------------------------------------------------------------------------


class Darts(Spec):
    """DARTS (Liu et al. 2019): order 1, or order 2 with the unrolled weight step."""

    kind: Literal["darts"]
    order: Literal[1, 2] = 1


class PcDarts(Spec):
    """PC-DARTS (Xu et al. 2020): one channel in `portion` is searched on, edges are weighed by betas.

    The alphas and betas rest up to progress `warm_up` (15 of 50 epochs there).
    """

    kind: Literal["pc_darts"]
    order: Literal[1, 2] = 1
    portion: int = Field(4, ge=2)
    edge_normalization: bool = True
    warm_up: float = Field(0.3, ge=0, lt=1)


class Random(Spec):
    """A genotype drawn uniformly from the search space: what every search must beat (Li & Talwalkar 2019)."""

    kind: Literal["random"]


class Fixed(Spec):
    """A published genotype, retrained like the others: nothing is searched."""

    kind: Literal["fixed"]
    genotype: Literal["DARTS_V1", "DARTS_V2", "PC_DARTS", "PDARTS"]


class ResNet(Spec):
    """The ResNet for CIFAR (He et al. 2016, §4.2), retrained only: what published long-tail tables use."""

    kind: Literal["resnet"]
    depth: Literal[20, 32, 44, 56, 110] = 32


Searcher = Annotated[Darts | PcDarts | Random | Fixed | ResNet, Field(discriminator="kind")]
SEARCHED = ("darts", "pc_darts")  # the searchers that train a supernet
OF_CELLS = ("channels", "cells", "auxiliary_weight", "drop_path")  # of a recipe, what a ResNet has not


# --- samplers and losses ------------------------------------------------------------------------------


class UniformSampler(Spec):
    """Every image equally often: P_c = n_c/n."""

    kind: Literal["uniform"]


class ClassBalancedSampler(Spec):
    """Every class equally often: P_c = 1/C  (Kang et al. 2020, §3)."""

    kind: Literal["class_balanced"]


class ReversedSampler(Spec):
    """P_c ∝ n_max/n_c  (BBN, §4.2)."""

    kind: Literal["reversed"]


class SquareRootSampler(Spec):
    """P_c ∝ √n_c  (Kang et al. 2020, §3)."""

    kind: Literal["square_root"]


class ProgressiveSampler(Spec):
    """P_c = (1 − t) · n_c/n + t/C  (progressively balanced; Kang et al. 2020, §3)."""

    kind: Literal["progressive"]


class DeferredSampler(Spec):
    """Uniform up to progress `at`, class-balanced from there on (deferred re-sampling; Cao et al. 2019)."""

    kind: Literal["deferred"]
    at: float = Field(0.8, gt=0, lt=1)


Sampler = Annotated[
    UniformSampler
    | ClassBalancedSampler
    | ReversedSampler
    | SquareRootSampler
    | ProgressiveSampler
    | DeferredSampler,
    Field(discriminator="kind"),
]


class CrossEntropy(Spec):
    """−log p_y, the target smoothed to (1 − s) y + s/C  (label smoothing; Szegedy et al. 2016, §7)."""

    kind: Literal["cross_entropy"]
    smoothing: float = Field(0.0, ge=0, lt=1)


class ClassBalanced(Spec):
    """Cross-entropy weighted by (1 − β)/(1 − β^n_c)  (effective number; Cui et al. 2019, §4).

    The weights act from progress `at` on (deferred re-weighting, Cao et al. 2019).
    """

    kind: Literal["class_balanced"]
    beta: float = Field(0.9999, ge=0, lt=1)
    at: float = Field(0.0, ge=0, lt=1)


class Focal(Spec):
    """−(1 − p_y)^γ log p_y  (Lin et al. 2017, eq. 4)."""

    kind: Literal["focal"]
    gamma: float = Field(2.0, ge=0)


class Ldam(Spec):
    """LDAM (Cao et al. 2019): margins ∝ n_c^(−1/4), the largest `max_margin`, on `scale` times cosines.

    From progress `at` on, classes are weighted by their effective number under `beta` (deferred
    re-weighting); null: never.
    """

    kind: Literal["ldam"]
    max_margin: float = Field(0.5, gt=0)
    scale: float = Field(30.0, gt=0)
    beta: float = Field(0.9999, ge=0, lt=1)
    at: float | None = Field(0.8, ge=0, lt=1)


class BalancedSoftmax(Spec):
    """Cross-entropy of z + log n_c  (Ren et al. 2020, eq. 4)."""

    kind: Literal["balanced_softmax"]


class LogitAdjustment(Spec):
    """Cross-entropy of z + τ log(n_c/n)  (Menon et al. 2021, eq. 10)."""

    kind: Literal["logit_adjustment"]
    tau: float = Field(1.0, gt=0)


class Seesaw(Spec):
    """Seesaw loss (Wang et al. 2021): mitigation (n_j/n_y)^p, compensation (σ_j/σ_y)^q, both on negatives."""

    kind: Literal["seesaw"]
    p: float = Field(0.8, ge=0)
    q: float = Field(2.0, ge=0)


Loss = Annotated[
    CrossEntropy | ClassBalanced | Focal | Ldam | BalancedSoftmax | LogitAdjustment | Seesaw,
    Field(discriminator="kind"),
]


def corrects(loss: Any) -> str:
    """How a loss corrects class frequencies, which a sampler must then leave alone; empty if it does not."""
    if loss.kind in ("balanced_softmax", "logit_adjustment"):
        return "shifts the logits by the classes' frequencies in the images"
    if loss.kind == "seesaw":
        return "compares the classes' frequencies in the images"
    reweights = loss.kind == "class_balanced" or (loss.kind == "ldam" and loss.at is not None)
    return "weights the classes by their frequencies in the images" if reweights else ""


def _check_balance(loss: Any, *samplers: Any) -> None:
    """Refuse a loss that corrects frequencies which a sampler has changed already."""
    why = corrects(loss)
    changed = [sampler.kind for sampler in samplers if sampler.kind != "uniform"]
    if why and changed:
        remedy = "use one of the two" + (", or at: null" if loss.kind == "ldam" else "")
        raise ValueError(
            f"loss {loss.kind} {why}, sampler {changed[0]} changes these: classes would be "
            f"corrected twice; {remedy}"
        )


# --- objectives ---------------------------------------------------------------------------------------


class ParabolicDecay(Spec):
    """m = 1 − t²  (BBN, §4.3)."""

    kind: Literal["parabolic_decay"]


class LinearDecay(Spec):
    """m = 1 − t."""

    kind: Literal["linear_decay"]


class CosineDecay(Spec):
    """m = cos(πt/2)."""

    kind: Literal["cosine_decay"]


class Equal(Spec):
    """m = 1/2."""

    kind: Literal["equal"]


class ParabolicIncrement(Spec):
    """m = t²."""

    kind: Literal["parabolic_increment"]


class Beta(Spec):
    """m ~ Beta(a, a), drawn anew each step."""

    kind: Literal["beta"]
    a: float = Field(0.2, gt=0)


class Symmetric(Spec):
    """m = 1 − 2t² up to t = 1/2, then 2(1 − t)²; so m(t) + m(1 − t) = 1."""

    kind: Literal["symmetric"]


Mixing = Annotated[
    ParabolicDecay | LinearDecay | CosineDecay | Equal | ParabolicIncrement | Beta | Symmetric,
    Field(discriminator="kind"),
]


class Plain(Spec):
    """One network, one sampler, one loss."""

    kind: Literal["plain"]
    sampler: Sampler = UniformSampler(kind="uniform")
    loss: Loss = CrossEntropy(kind="cross_entropy")

    @model_validator(mode="after")
    def _balanced_once(self) -> "Plain":
        _check_balance(self.loss, self.sampler)
        return self


class Bilateral(Spec):
    """Bilateral-Branch Network (Zhou et al. 2020): two samplers' batches, mixed by m(t).

    The last `branch_cells` cells exist once a branch; the cells before them are shared.
    """

    kind: Literal["bilateral"]
    mixing: Mixing = ParabolicDecay(kind="parabolic_decay")
    branch_cells: int = Field(1, ge=0)
    conventional: Sampler = UniformSampler(kind="uniform")
    rebalancing: Sampler = ReversedSampler(kind="reversed")
    loss: Loss = CrossEntropy(kind="cross_entropy")

    @model_validator(mode="after")
    def _balanced_once(self) -> "Bilateral":
        _check_balance(self.loss, self.conventional, self.rebalancing)
        return self


class DualHead(Spec):
    """HLRS after the summary: a shared classifier, and class-specific weights that give the final logits.

    Only the shared classifier's loss drives the alphas. Row c of the class-specific weights learns at a rate
    ∝ (n_max/n_c)^gamma, whose mean over the images is 1 (our own reading).
    """

    kind: Literal["dual_head"]
    gamma: float = Field(0.5, ge=0)
    sampler: Sampler = UniformSampler(kind="uniform")
    loss: Loss = CrossEntropy(kind="cross_entropy")

    @model_validator(mode="after")
    def _balanced_once(self) -> "DualHead":
        _check_balance(self.loss, self.sampler)
        return self


Objective = Annotated[Plain | Bilateral | DualHead, Field(discriminator="kind")]


class ConstantLR(Spec):
    """η(t) = η."""

    kind: Literal["constant"]


class CosineLR(Spec):
    """η(t) = η · (final + (1 − final)(1 + cos πt)/2)."""

    kind: Literal["cosine"]
    final: float = Field(0.0, ge=0, le=1)


class LinearLR(Spec):
    """η(t) = η · (1 − (1 − final)t)."""

    kind: Literal["linear"]
    final: float = Field(0.0, ge=0, le=1)


class StepLR(Spec):
    """η(t) = η before `at`, η · factor from there on."""

    kind: Literal["step"]
    at: float = Field(0.5, gt=0, lt=1)
    factor: float = Field(0.1, gt=0, lt=1)


class FreezeLR(Spec):
    """η(t) = η before `at`, 0 from there on: the alphas stay, and their steps are saved."""

    kind: Literal["freeze"]
    at: float = Field(0.5, gt=0, lt=1)


class ExponentialLR(Spec):
    """η(t) = η · final^t."""

    kind: Literal["exponential"]
    final: float = Field(0.01, gt=0, le=1)


class CoupledLR(Spec):
    """η(t) = η · m(t): the alphas' learning rate follows the mixing coefficient (HLRS, our own reading)."""

    kind: Literal["coupled"]


ArchLR = Annotated[
    ConstantLR | CosineLR | LinearLR | StepLR | FreezeLR | ExponentialLR | CoupledLR,
    Field(discriminator="kind"),
]


class Method(Spec):
    """A method composes independent parts; `retrain` overrides single entries of the common recipe."""

    searcher: Searcher
    objective: Objective | None = None
    arch_lr: ArchLR | None = None
    retrain: dict[str, Any] = {}

    @model_validator(mode="after")
    def _compatible(self) -> "Method":
        if self.searcher.kind not in SEARCHED:
            if self.objective is not None or self.arch_lr is not None:
                raise ValueError(
                    f"searcher {self.searcher.kind} trains nothing in the search: "
                    "leave out objective and arch_lr"
                )
            given = [name for name in OF_CELLS if name in self.retrain]
            if self.searcher.kind == "resnet" and given:
                raise ValueError(
                    f"retrain.{given[0]} is of networks of cells, and a resnet has none: leave it out"
                )
            return self
        if self.arch_lr is not None and self.arch_lr.kind == "coupled":
            if not isinstance(self.objective, Bilateral):
                raise ValueError(
                    "arch_lr coupled follows the mixing coefficient: it needs objective bilateral"
                )
            if self.objective.mixing.kind == "beta":
                raise ValueError("arch_lr coupled needs a mixing that depends on progress alone, not beta")
        if isinstance(self.searcher, PcDarts) and isinstance(self.arch_lr, FreezeLR):
            warm_up, at = self.searcher.warm_up, self.arch_lr.at
            if at <= warm_up:
                raise ValueError(
                    f"searcher pc_darts begins at progress warm_up ({warm_up}), and arch_lr freeze ends at "
                    f"{at}: the alphas would never learn; freeze later"
                )
        return self


def _check_branches(objective: Any, cells: int, field: str) -> None:
    if isinstance(objective, Bilateral) and objective.branch_cells > cells:
        raise ValueError(f"{field} is {cells}, fewer than the branch_cells of {objective.branch_cells}")


def _check_reached(spec: Spec, epochs: int, field: str = "") -> None:
    """Refuse what is to act from a progress on that no epoch reaches."""
    last = (epochs - 1) / epochs
    for name, value in spec:
        path = f"{field}.{name}" if field else name
        if isinstance(value, Spec):
            _check_reached(value, epochs, path)
        rests = name == "at" or (name == "warm_up" and isinstance(spec, PcDarts))
        moments = value if isinstance(value, list) else [value]
        late = [moment for moment in moments if rests and moment is not None and moment > last]
        if late:
            raise ValueError(
                f"{path} {late[0]:g} is never reached: the last of {epochs} epochs has progress {last:.3g}; "
                "set it lower, or more epochs"
            )


def _check_sgd(sgd: "Sgd", epochs: int) -> None:
    """Refuse a schedule of SGD that has not begun when the training ends."""
    if sgd.warm_up and sgd.warm_up >= epochs:
        raise ValueError(
            f"weights.warm_up {sgd.warm_up} takes all {epochs} epochs: set it lower, or more epochs"
        )
    _check_reached(sgd, epochs, "weights")


# --- stages -------------------------------------------------------------------------------------------


class CosineSchedule(Spec):
    """From `lr` to `lr_min` along half a cosine, by epoch."""

    kind: Literal["cosine"]


class MultistepSchedule(Spec):
    """`lr` times `factor` at each progress of `at`  (Cao et al. 2019: 0.01 at epochs 160 and 180 of 200)."""

    kind: Literal["multistep"]
    at: list[Annotated[float, Field(gt=0, lt=1)]] = Field([0.8, 0.9], min_length=1)
    factor: float = Field(0.01, gt=0, lt=1)


class Sgd(Spec):
    """SGD with momentum; the learning rate follows `schedule` by epoch.

    In the first `warm_up` epochs it is that times (epoch + 1)/warm_up  (Goyal et al. 2017, §2.2).
    """

    lr: float = Field(0.025, gt=0)
    lr_min: float = Field(0.0, ge=0)
    schedule: Annotated[CosineSchedule | MultistepSchedule, Field(discriminator="kind")] = CosineSchedule(
        kind="cosine"
    )
    warm_up: int = Field(0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(3e-4, ge=0)
    clip: float | None = Field(5.0, gt=0)  # largest norm of the gradient; null: any

    @model_validator(mode="after")
    def _acts(self) -> "Sgd":
        if self.warm_up == 1:
            raise ValueError(
                "warm_up 1 changes nothing, its epoch has the whole learning rate: 0, or 2 or more"
            )
        if self.lr_min and self.schedule.kind != "cosine":
            raise ValueError("lr_min is where schedule cosine ends; multistep has none: leave it out or at 0")
        return self


class Adam(Spec):
    """Adam for the alphas, with the L2 penalty in the gradient as DARTS has it."""

    lr: float = Field(3e-4, gt=0)
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [
        0.5,
        0.999,
    ]
    weight_decay: float = Field(1e-3, ge=0)


class Collapse(Spec):
    """The watch on DARTS's collapse: skip connections take over, the validation loss grows sharp.

    Each epoch the dominant eigenvalue of ∇²_α L_val is estimated by `power_iterations` (0: not; Zela et al.
    2020, §4). `stop` rests the alphas after the epoch in which the normal cell has `skips` skip connections
    (DARTS+, Liang et al. 2019), or the eigenvalue's size, a mean over `window` epochs, has grown by more than
    1/`ratio` within `window` epochs; the architecture then goes back to the one before that growth (Zela et
    al. 2020, §4.3: 5 and 0.75).
    """

    power_iterations: int = Field(3, ge=0)
    stop: Literal["never", "skips", "eigenvalue"] = "never"
    skips: int = Field(2, ge=1)
    window: int = Field(5, ge=1)
    ratio: float = Field(0.75, gt=0, lt=1)

    @model_validator(mode="after")
    def _known(self) -> "Collapse":
        if self.stop == "eigenvalue" and not self.power_iterations:
            raise ValueError("stop eigenvalue needs power_iterations of 1 or more to know it")
        return self


class Search(Spec):
    """The supernet and its bilevel training (DARTS, §3.1)."""

    epochs: int = Field(50, ge=1)
    batch_size: int = Field(64, ge=2)
    channels: int = Field(16, ge=2, multiple_of=2)  # a factorized reduction halves them
    cells: int = Field(8, ge=3)  # fewer would all be reduction cells
    nodes: int = Field(4, ge=1)
    cutout: int = Field(0, ge=0, multiple_of=2)
    recompute: bool = (
        False  # a cell's inner maps in the backward pass, instead of keeping them: for large images
    )
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
                f"{edges} edges"
            )
        if self.collapse.stop == "eigenvalue" and self.epochs < needed:
            raise ValueError(
                f"collapse.stop eigenvalue compares two windows of {self.collapse.window} epochs: it needs "
                f"epochs of {needed} or more, not {self.epochs}; or a smaller collapse.window"
            )
        return self


class AutoAugment(Spec):
    """AutoAugment's policy (Cubuk et al. 2019), learned on the named data set; torchvision's."""

    kind: Literal["autoaugment"]
    policy: Literal["cifar10", "imagenet", "svhn"] = "cifar10"


class RandAugment(Spec):
    """`operations` random operations an image at `magnitude` of 30 (Cubuk et al. 2020); torchvision's."""

    kind: Literal["randaugment"]
    operations: int = Field(2, ge=1)
    magnitude: int = Field(9, ge=0, le=30)


class Mixup(Spec):
    """λx_i + (1 − λ)x_j, losses alike, λ ~ Beta(alpha, alpha)  (Zhang et al. 2018)."""

    kind: Literal["mixup"]
    alpha: float = Field(1.0, gt=0)


class Cutmix(Spec):
    """A box of share 1 − λ from another image, losses by area, λ ~ Beta(alpha, alpha)  (Yun et al. 2019)."""

    kind: Literal["cutmix"]
    alpha: float = Field(1.0, gt=0)


class RetrainedClassifier(Spec):
    """cRT (Kang et al. 2020, §4.2): the classifier drawn anew, trained alone, class-balanced."""

    kind: Literal["retrained"]
    epochs: int = Field(10, ge=1)
    lr: float = Field(0.1, gt=0)


class NormalizedClassifier(Spec):
    """τ-normalisation (Kang et al. 2020, §4.3): w_c/‖w_c‖^tau after training."""

    kind: Literal["tau_normalized"]
    tau: float = Field(1.0, ge=0)


class Retrain(Spec):
    """The derived network's training from scratch (DARTS, §A.2)."""

    epochs: int = Field(600, ge=1)
    batch_size: int = Field(96, ge=2)
    channels: int = Field(36, ge=2, multiple_of=2)
    cells: int = Field(20, ge=1)
    auxiliary_weight: float = Field(0.4, ge=0)  # 0: no auxiliary head
    drop_path: float = Field(0.2, ge=0, lt=1)
    cutout: int = Field(16, ge=0, multiple_of=2)
    policy: Annotated[AutoAugment | RandAugment, Field(discriminator="kind")] | None = None
    mix: Annotated[Mixup | Cutmix, Field(discriminator="kind")] | None = None
    ema: float | None = Field(None, gt=0, lt=1)  # decay a step of the weights' moving average, which is kept
    threads: int = Field(1, ge=1)
    weights: Sgd = Sgd()
    objective: Objective = Plain(kind="plain")
    classifier: Annotated[RetrainedClassifier | NormalizedClassifier, Field(discriminator="kind")] | None = (
        None  # what is done to it after training
    )

    @model_validator(mode="after")
    def _compatible(self) -> "Retrain":
        _check_branches(self.objective, self.cells, "cells (blocks, of a resnet)")
        _check_sgd(self.weights, self.epochs)
        _check_reached(self.objective, self.epochs, "objective")
        kind = self.objective.kind
        if kind != "plain" and self.auxiliary_weight:
            raise ValueError(f"objective {kind} has no auxiliary head: set auxiliary_weight to 0")
        if kind == "bilateral" and self.mix is not None:
            raise ValueError(f"objective bilateral mixes batches itself: leave out mix {self.mix.kind}")
        if kind == "dual_head" and self.classifier is not None:
            raise ValueError(
                f"objective dual_head has class-specific weights for the tail: leave out classifier "
                f"{self.classifier.kind}"
            )
        if self.objective.loss.kind == "ldam" and self.classifier is not None:
            raise ValueError(
                f"loss ldam has a classifier of norm 1: leave out classifier {self.classifier.kind}"
            )
        return self


class Evaluate(Spec):
    """The trained network on the test set."""

    batch_size: int = Field(250, ge=1)
    calibration_bins: int = Field(15, ge=1)
    threads: int = Field(1, ge=1)


class Report(Spec):
    """The report; differences are taken to the method `reference`, at the given level of confidence."""

    title: str = "Architecture search on long-tailed images"
    reference: str | None = None
    confidence: float = Field(0.95, gt=0, lt=1)
    resamples: int = Field(10_000, ge=100)  # of the bootstrap
    margin: float = Field(0.01, gt=0, lt=1)  # differences in accuracy up to it count as the same


Name = Annotated[str, Field(pattern=NAME)]


class Matrix(Spec):
    """What is run: every data set × method × seed, the genotype of each retrained once a retraining seed."""

    datasets: list[Name] = Field(min_length=1)
    methods: list[Name] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    retrain_seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> "Matrix":
        for field in ("datasets", "methods", "seeds", "retrain_seeds"):
            values = getattr(self, field)
            if len(set(values)) < len(values):
                raise ValueError(f"{field} names an entry twice: {values}")
        return self


class Params(Spec):
    """The whole of `params.yaml`; every section must be there, if empty ({}), for DVC to follow it."""

    matrix: Matrix
    datasets: dict[Name, Dataset]
    methods: dict[Name, Method]
    search: Search
    retrain: Retrain
    evaluate: Evaluate
    report: Report

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        for field, known in (("datasets", self.datasets), ("methods", self.methods)):
            for name in getattr(self.matrix, field):
                if name not in known:
                    raise ValueError(f"matrix.{field}: {name!r} is not defined; allowed: {', '.join(known)}")
        for name, method in self.methods.items():
            _check_reached(method, self.search.epochs, f"methods.{name}")
            _check_branches(
                method.objective, self.search.cells, f"methods.{name}.objective.branch_cells: search.cells"
            )
            self._check_searcher(name, method.searcher)
            self.retrain_of(name)
        resnets = [name for name in self.matrix.methods if isinstance(self.methods[name].searcher, ResNet)]
        large = [name for name in self.matrix.datasets if self.datasets[name].stem == "imagenet"]
        if resnets and large:
            raise ValueError(
                f"methods.{resnets[0]}: a resnet has CIFAR's stem, datasets.{large[0]}.stem is imagenet: "
                "leave one of them out of the matrix"
            )
        if self.report.reference is not None and self.report.reference not in self.matrix.methods:
            allowed = ", ".join(self.matrix.methods)
            raise ValueError(
                f"report.reference: {self.report.reference!r} is not in the matrix; allowed: {allowed}"
            )
        return self

    def _check_searcher(self, method: str, searcher: Any) -> None:
        channels = self.search.channels
        if isinstance(searcher, PcDarts) and channels % searcher.portion:
            raise ValueError(
                f"methods.{method}.searcher.portion: {searcher.portion} does not divide search.channels, "
                f"{channels}"
            )

    def retrain_of(self, method: str) -> Retrain:
        """The common recipe with the method's own entries laid over it; ValueError if they do not fit.

        A ResNet has no auxiliary head and no drop path; its cells are its residual blocks.
        """
        override, searcher = self.methods[method].retrain, self.methods[method].searcher
        if not override and not isinstance(searcher, ResNet):
            return self.retrain
        recipe = self.retrain.model_dump()
        if isinstance(searcher, ResNet):
            blocks = (searcher.depth - 2) // 2
            recipe |= {"channels": 16, "cells": blocks, "auxiliary_weight": 0.0, "drop_path": 0.0}
        try:
            return Retrain.model_validate(_overlay(recipe, override))
        except ValidationError as error:
            detail = error.errors()[0]
            separator = "." if detail["loc"] else ": "
            message = _describe(detail, override, Retrain)
            raise ValueError(f"methods.{method}.retrain{separator}{message}") from None


def _overlay(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """`base` with `override` laid over it; a mapping with a `kind` replaces the one below it."""
    merged = dict(base)
    for key, value in override.items():
        nested = isinstance(value, dict) and "kind" not in value and isinstance(base.get(key), dict)
        merged[key] = _overlay(base[key], value) if nested else value
    return merged


# --- what a job is told -------------------------------------------------------------------------------


class SplitJob(Spec):
    """Parameters of a split job; `content` is the digest of the source's files."""

    content: str
    source: Source
    imbalance: Imbalance
    protocol: Literal["seeded", "ldam"]
    seed: int
    max_per_class: int | None
    test_per_class: int | None
    weights_fraction: float
    holdout_fraction: float


class Images(Spec):
    """What a job needs to know to read and augment images, and which stem their size calls for."""

    content: str
    source: Source
    image_size: int | None
    stem: Literal["cifar", "imagenet"]
    augment: Augment
    stream: Stream


class SearchJob(Spec):
    """Parameters of a search job."""

    seed: int
    images: Images
    searcher: Annotated[Darts | PcDarts, Field(discriminator="kind")]
    objective: Objective
    arch_lr: ArchLR
    search: Search


class RandomSearchJob(Spec):
    """Parameters of a random search: only the size of the search space matters."""

    seed: int
    searcher: Random
    nodes: int


class ExtractJob(Spec):
    """Parameters of an extraction: the published genotype, or none where alphas are an input."""

    genotype: str | None


class RetrainJob(Spec):
    """Parameters of a retraining job: of a genotype, an input, or of a ResNet of the given depth."""

    seed: int
    retrain_seed: int
    resnet: int | None
    images: Images
    retrain: Retrain


class EvaluateJob(Spec):
    """Parameters of an evaluation job; network-shaping entries repeat the retraining's."""

    resnet: int | None
    images: Images
    retrain: Retrain
    groups: Groups
    evaluate: Evaluate


class ReportJob(Spec):
    """Parameters of the report: its own, and `params.yaml`'s sections to show."""

    report: Report
    params: dict[str, Any]


# --- reading ------------------------------------------------------------------------------------------


def load(path: Path) -> Params:
    """`params.yaml`, validated; UserError with one line that names file, field and what is allowed."""
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; run in the folder that holds it") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}{_syntax(error)}") from None
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        # an unknown key first: where a name is mistyped, it is the cause of a missing one
        details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
        more = f"  (and {len(details) - 1} more)" if len(details) > 1 else ""
        raise UserError(f"{path}: {_describe(details[0], raw, Params)}{more}") from None


def _syntax(error: Exception) -> str:
    """Line and problem of a YAML error."""
    a_key = getattr(error, "context", None) == "while scanning a simple key"  # that lacks its colon
    mark = getattr(error, "context_mark" if a_key else "problem_mark", None)
    where = f":{mark.line + 1}" if mark else ""
    problem = (getattr(error, "problem", None) or str(error)).splitlines()[0].partition(" with value")[0]
    return f"{where}: not valid YAML: {problem}"


def _describe(detail: ErrorDetails, raw: Any, model: type[Spec]) -> str:
    """One line for a pydantic error: the field as the file names it, the value, what is allowed."""
    field = ".".join(str(part) for part in _path(detail["loc"], raw))
    value, kind, context = detail["input"], detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        message = str(context["error"])
    elif kind == "extra_forbidden":
        allowed = _fields(model, detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), allowed, 1)
        hint = f", did you mean {close[0]}?" if close else ";"
        message = f"unknown key{hint} allowed: {', '.join(allowed)}"
    elif kind == "missing":
        kinds = _kinds(model, detail["loc"])
        message = f"is missing{f'; kinds: {kinds}' if kinds else ''}"
    elif kind == "union_tag_not_found":
        field, message = f"{field}.kind", f"is missing; allowed: {_kinds(model, detail['loc'])}"
    elif kind == "union_tag_invalid":
        field, message = (
            f"{field}.kind",
            f"{context['tag']!r} is unknown; allowed: {context['expected_tags']}",
        )
    elif kind == "literal_error":
        message = f"{value!r} is unknown; allowed: {context['expected']}"
    else:
        message = f"{value!r} is not allowed: {detail['msg'][0].lower()}{detail['msg'][1:]}"
    return f"{field}: {message}" if field else message


def _path(location: tuple[int | str, ...], raw: Any) -> Iterator[int | str]:
    """The error's location without the union tags that pydantic puts between the file's own keys."""
    for part in location:
        tag = isinstance(raw, dict) and part not in raw and raw.get("kind") == part
        if tag or part == "[key]":
            continue
        yield part
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            raw = None


def _annotation(model: type[Spec], location: tuple[int | str, ...]) -> Any:
    """The type at an error's location."""
    current: Any = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            current = (
                current.model_fields[str(part)].annotation if str(part) in current.model_fields else None
            )
            continue
        members = [t for t in _flatten(current) if isinstance(t, type) and issubclass(t, BaseModel)]
        tagged = (
            [t for t in members if part in get_args(t.model_fields["kind"].annotation)]
            if _has_kind(members)
            else []
        )
        if tagged:
            current = tagged[0]
        elif len(members) == 1:  # the value of a dict, or an optional model
            current = members[0]
            if str(part) in current.model_fields:
                current = current.model_fields[str(part)].annotation
        else:
            return None
    return current


def _flatten(annotation: Any) -> Iterator[Any]:
    """The leaves of unions, Annotated, dict and list annotations."""
    arguments = get_args(annotation)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _flatten(argument)


def _has_kind(members: list[type[BaseModel]]) -> bool:
    return bool(members) and all("kind" in member.model_fields for member in members)


def _fields(model: type[Spec], location: tuple[int | str, ...]) -> list[str]:
    """The names allowed at a location."""
    found = _annotation(model, location)
    members = [t for t in _flatten(found) if isinstance(t, type) and issubclass(t, BaseModel)]
    return sorted({name for member in members for name in member.model_fields})


def _kinds(model: type[Spec], location: tuple[int | str, ...]) -> str:
    """The kinds allowed at a location, or nothing where there are none."""
    members = [
        t for t in _flatten(_annotation(model, location)) if isinstance(t, type) and issubclass(t, BaseModel)
    ]
    return (
        ", ".join(str(get_args(m.model_fields["kind"].annotation)[0]) for m in members)
        if _has_kind(members)
        else ""
    )
