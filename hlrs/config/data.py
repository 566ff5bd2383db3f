"""Specs of data sets: source, imbalance, augmentation, groups of classes."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from hlrs.config.base import (
    LARGEST_SEED,
    Factor,
    FilePath,
    ImageCount,
    ImageSize,
    Pixels,
    Seed,
    Share,
    ShareOrNone,
    Spec,
    Text,
    Threads,
)

# --- sources --------------------------------------------------------------------------------------------
# `has_test`: whether the source has a test set of its own. `any_size`: whether its images may differ in size,
# so that image_size is needed. `size`: the height and width of its images; None: only its files show them.
# `identity`: what identifies its content where a library verifies the bytes; None: the bytes of its files do.


class Digits(Spec):
    """scikit-learn's 1,797 handwritten digits, 8×8, grey; no download, no official test set."""

    kind: Literal["digits"] = "digits"
    size: ClassVar[int] = 8
    has_test: ClassVar[bool] = False
    any_size: ClassVar[bool] = False
    identity: ClassVar[None] = None


class Parquet(Spec):
    """Hugging Face's image layout: a struct column with `bytes`, and a column of labels, integers or text.

    `train` and `test` list files or patterns such as data/train-*.parquet.
    """

    kind: Literal["parquet"] = "parquet"
    size: ClassVar[None] = None
    any_size: ClassVar[bool] = False
    identity: ClassVar[None] = None
    train: list[FilePath] = Field(min_length=1, max_length=10_000)
    test: list[FilePath] = Field([], max_length=10_000)
    image_column: Text | None = None  # null: a usual name, else the only one that fits
    label_column: Text | None = None

    @property
    def has_test(self) -> bool:
        """Whether test images are named."""
        return bool(self.test)


class Torchvision(Spec):
    """One of torchvision's data sets; `download` fetches it into `root` when the split is drawn."""

    kind: Literal["torchvision"] = "torchvision"
    has_test: ClassVar[bool] = True
    any_size: ClassVar[bool] = False
    name: Literal["cifar10", "cifar100", "fashion_mnist", "mnist", "kmnist"]
    root: FilePath = "data/torchvision"
    download: bool = False
    labels: Literal["fine", "coarse"] = "fine"  # coarse: CIFAR-100's 20 superclasses

    @property
    def size(self) -> int:
        """The height and width of its images."""
        return 32 if self.name.startswith("cifar") else 28

    @property
    def class_count(self) -> int:
        """The number of its classes."""
        if self.name == "cifar100":
            return 20 if self.labels == "coarse" else 100
        return 10

    @property
    def identity(self) -> str:
        """Identify the content by name, as torchvision verifies the bytes that it downloads."""
        return f"torchvision:{self.name}"

    @model_validator(mode="after")
    def _has_coarse(self) -> "Torchvision":
        if self.labels == "coarse" and self.name != "cifar100":
            raise ValueError(f"labels coarse exist for cifar100 only, not for {self.name}: leave labels out")
        return self


class ImageFolder(Spec):
    """One folder per class, images below it; the classes are the sorted folder names of `train`."""

    kind: Literal["image_folder"] = "image_folder"
    size: ClassVar[None] = None
    any_size: ClassVar[bool] = True
    identity: ClassVar[None] = None
    train: FilePath
    test: FilePath | None = None

    @property
    def has_test(self) -> bool:
        """Whether test images are named."""
        return bool(self.test)


class ListFile(Spec):
    """Images below `root`, listed in text files of "path label" lines, as for ImageNet-LT, iNaturalist 2018.

    `classes`: a text file with one class name per line; without it, classes are named by their numbers.
    """

    kind: Literal["list_file"] = "list_file"
    size: ClassVar[None] = None
    any_size: ClassVar[bool] = True
    identity: ClassVar[None] = None
    root: FilePath
    train: FilePath
    test: FilePath | None = None
    classes: FilePath | None = None

    @property
    def has_test(self) -> bool:
        """Whether test images are named."""
        return bool(self.test)


class Csv(Spec):
    """Images below `root`, listed in CSV files, as metadata of medical and wildlife images often are.

    `image` and `label` name the columns of paths and of classes, which are the sorted labels of `train`;
    `suffix` is appended to each path, such as .jpg where a column holds the images' identifiers.
    """

    kind: Literal["csv"] = "csv"
    size: ClassVar[None] = None
    any_size: ClassVar[bool] = True
    identity: ClassVar[None] = None
    root: FilePath
    train: FilePath
    test: FilePath | None = None
    image: Text
    label: Text
    suffix: Text = ""

    @property
    def has_test(self) -> bool:
        """Whether test images are named."""
        return bool(self.test)


class Npz(Spec):
    """A MedMNIST file: arrays train_images, train_labels, test_images, test_labels.

    `join_val`: whether val_images and val_labels are training images as well, instead of being left out.
    `classes`: a text file with one class name per line; without it, classes are named by their numbers.
    """

    kind: Literal["npz"] = "npz"
    size: ClassVar[None] = None
    has_test: ClassVar[bool] = True
    any_size: ClassVar[bool] = False
    identity: ClassVar[None] = None
    file: FilePath
    join_val: bool = False
    classes: FilePath | None = None


Source = Annotated[
    Digits | Parquet | Torchvision | ImageFolder | ListFile | Csv | Npz, Field(discriminator="kind")
]


# --- imbalance ------------------------------------------------------------------------------------------


class Exponential(Spec):
    """n_c = n_max · factor^(−c/(C−1))  (Cui et al. 2019, §5.1)."""

    kind: Literal["exponential"] = "exponential"
    factor: Factor


class Step(Spec):
    """n_max/factor images in each of the last `minority` share of the classes  (Buda et al. 2018)."""

    kind: Literal["step"] = "step"
    factor: Factor
    minority: Share = 0.5


class Pareto(Spec):
    """n_max to n_max/factor along the quantiles (c + 1)^(−1/power) of a Pareto distribution.

    Our own reading of Liu et al. 2019, §4, who draw at random, with their power of 6.
    """

    kind: Literal["pareto"] = "pareto"
    factor: Factor
    power: float = Field(6.0, gt=0, le=1000)


class Natural(Spec):
    """All images of each class, or at most `max_per_class`."""

    kind: Literal["natural"] = "natural"


Imbalance = Annotated[Exponential | Step | Pareto | Natural, Field(discriminator="kind")]


# --- a data set -----------------------------------------------------------------------------------------


def _seed_or_ldam(draw: Any) -> Any:
    """Reject what is neither, in one line in place of one per type."""
    if draw != "ldam" and (type(draw) is not int or not 0 <= draw <= LARGEST_SEED):
        raise ValueError(
            f"{draw!r:.50} is no draw; write a seed, a whole number from 0 to {LARGEST_SEED}, or ldam"
        )
    return draw


# of a data set's images: by a seed under protocol seeded, or LDAM-DRW's
Draw = Annotated[Seed | Literal["ldam"], BeforeValidator(_seed_or_ldam)]


def _no_number(flip: Any) -> Any:
    """Reject the numbers that Python takes for truth values."""
    if isinstance(flip, int) and not isinstance(flip, bool):
        raise ValueError(f"{flip} is a number; write true, false or alternating")
    return flip


Flip = Annotated[Literal[True, False, "alternating"], BeforeValidator(_no_number)]


class Augment(Spec):
    """Augmentation of training images: crop, flip, colours.

    `crop_padding`: random crop after zero-padding by this many pixels; `flip`: horizontally, with probability
    one half or, `alternating`, so in the first epoch, then in every other one (Jordan 2024);
    `resized_crop`: a random part of at least this share of the file's image, 3:4 to 4:3, resized to
    image_size (Szegedy et al. 2015; ImageNet's customary 0.08); `color_jitter`: brightness, contrast and
    saturation by a factor of up to 1 ± this, hue by half of it (DARTS's train_imagenet.py has 0.4).
    """

    crop_padding: Pixels = 0
    flip: Flip = False
    resized_crop: float | None = Field(None, gt=0, le=1)
    color_jitter: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _one_crop(self) -> "Augment":
        if self.crop_padding and self.resized_crop is not None:
            raise ValueError("crop_padding and resized_crop exclude each other: set only one of them")
        return self


class Stream(Spec):
    """Images that take more than `above_mb` (10⁶ bytes, decoded) are streamed from disk by `workers`.

    On a GPU, set 0 beside a policy or colour jitter: the workers then apply it ahead of the step.
    """

    above_mb: int = Field(4000, ge=0, le=1_000_000_000)
    workers: Threads = 4


class Groups(Spec):
    """Many-shot: more than `many_above` training images; few-shot: fewer than `few_below`.

    Liu et al. 2019, §4: 100 and 20.
    """

    many_above: ImageCount = 100
    few_below: ImageCount = 20

    @model_validator(mode="after")
    def _ordered(self) -> "Groups":
        if self.few_below > self.many_above + 1:
            raise ValueError(
                f"few_below ({self.few_below}) must not exceed many_above ({self.many_above}) + 1"
            )
        return self


class Dataset(Spec):
    """A long-tailed data set: source, imbalance and split, stem, augmentation, groups."""

    source: Source
    imbalance: Imbalance
    protocol: Literal["seeded", "ldam"] = "seeded"  # which images are drawn: by `seed`, or as LDAM-DRW's code
    seed: Seed = 0
    max_per_class: ImageCount | None = None  # training images of the head, the first class; null: all it has
    test_per_class: ImageCount | None = None  # test images drawn per class; null: the source's test set
    weights_fraction: Share = 0.5  # of the search's images: those that train the weights, not the alphas
    holdout_fraction: ShareOrNone = 0.0  # of each class, never trained on: a curve during the retraining
    image_size: ImageSize | None = None  # to which images are resized; null: as they are
    stem: Literal["cifar", "imagenet"] = "cifar"  # imagenet: three stride-2 convolutions before the cells
    augment: Augment = Augment()
    stream: Stream = Stream()
    groups: Groups = Groups()
    table_column: Text | None = (
        None  # of evaluate.table: the task whose accuracies judge this data set's searches
    )

    @model_validator(mode="after")
    def _possible(self) -> "Dataset":
        if self.protocol == "ldam" and self.imbalance.kind not in ("exponential", "step"):
            raise ValueError(
                f"protocol ldam needs imbalance exponential or step, not {self.imbalance.kind}: change either"
            )
        if self.protocol == "ldam" and isinstance(self.imbalance, Step) and self.imbalance.minority != 0.5:
            raise ValueError(
                f"protocol ldam needs imbalance.minority 0.5, not {self.imbalance.minority:g}: change either"
            )
        if not self.source.has_test and self.test_per_class is None:
            own = ", or source.test," if "test" in type(self.source).model_fields else ""
            raise ValueError(
                f"test_per_class{own} is needed, as source {self.source.kind} has no test set of its own"
            )
        if self.source.any_size and self.image_size is None:
            raise ValueError(
                f"image_size is needed for source {self.source.kind}, whose images may differ in size"
            )
        if self.augment.resized_crop is not None and self.image_size is None:
            raise ValueError("image_size is needed for augment.resized_crop, which resizes to it")
        return self

    @property
    def draw(self) -> Draw:
        """The draw of its images."""
        return "ldam" if self.protocol == "ldam" else self.seed

    @property
    def is_drawn(self) -> bool:
        """Whether images are chosen at all, for training or for the test; a factor of 1 takes all alike."""
        tail = self.imbalance.kind != "natural" and self.imbalance.factor > 1
        return tail or self.max_per_class is not None or self.test_per_class is not None

    def redrawn(self, draw: Draw) -> "Dataset":
        """Return the data set with another draw of its images; ValueError if it cannot have it."""
        changes = {"protocol": "ldam"} if draw == "ldam" else {"protocol": "seeded", "seed": draw}
        return Dataset.model_validate(self.model_dump() | changes)


def check_visible(size: int, augment: Augment, cutouts: dict[str, int], images: str) -> None:
    """Reject what hides images of `size` × `size` pixels; `cutouts` by their field, `images` names these."""
    for field, cutout in cutouts.items():
        if cutout > size:
            raise ValueError(
                f"{field}: {cutout} is larger than the images of {images}, {size}×{size} pixels, and would "
                f"blank them out; lower it to {size // 4 * 2} or less, or set 0 for none"
            )
    if augment.crop_padding >= size:
        raise ValueError(
            f"{images}.augment.crop_padding: {augment.crop_padding} can crop images of {size}×{size} pixels "
            f"away; lower it to {size // 2} or less"
        )
