"""Specs of methods: searcher, objective (samplers, loss, mixing), schedule of the alphas' learning rate."""

from operator import not_
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hlrs.config.arithmetic import Arithmetic
from hlrs.config.base import (
    BetaShape,
    Channels,
    CosineScale,
    Exponent,
    Name,
    Share,
    ShareOrNone,
    Spec,
    Temperature,
    Text,
    Tuning,
)
from hlrs.config.spaces import FILE, RUN, Found
from hlrs.errors import UserError

# --- relaxations ----------------------------------------------------------------------------------------


class Softmax(Spec):
    """p = softmax(α)  (DARTS, eq. 2)."""

    kind: Literal["softmax"] = "softmax"


class Sparsemax(Spec):
    """p = sparsemax(α/θ), with θ = temperature · factor^⌊t/every⌋  (ZO-DARTS+, the authors' code).

    Factor 1 keeps θ as it is.
    """

    kind: Literal["sparsemax"] = "sparsemax"
    temperature: Temperature = 1.5
    factor: float = Field(0.75, gt=0, le=1)
    every: Share = 0.1

    @model_validator(mode="after")
    def _stays_above_0(self) -> "Sparsemax":
        last = self.temperature * self.factor ** (1 / self.every)
        if last < COLDEST:
            raise ValueError(
                f"temperature {self.temperature:g} falls to {last:.2g} in the end, below {COLDEST:g}: raise "
                "factor or every"
            )
        return self


Relaxation = Annotated[Softmax | Sparsemax, Field(discriminator="kind")]
COLDEST = 0.001


def _is_softmax(relaxation: Softmax | Sparsemax) -> bool:
    """Leave the default out of a job's parameters, as before there was a choice: its key stays."""
    return relaxation.kind == "softmax"


OrSparsemax = Annotated[Relaxation, Field(exclude_if=_is_softmax)]

# --- searchers ------------------------------------------------------------------------------------------
# `genotype_is`: "searched" on a supernet; "drawn" at random; "scored", the best of some that are drawn, by
# their untrained networks; "given", a published one; "absent", as the network has no cells; "shared" with
# another method, or absent there. For those that search, `order` of the architecture's gradient, 0 if it is
# estimated (nas/bilevel.py); `portion`: the supernet searches on one channel in so many;
# `edge_normalization`: whether it has betas; `warm_up`: the progress at which the architecture takes its
# first step, 1 if it takes none; `sums_to_one`: whether an edge's operation weights do; `tune`: the epochs
# between two decisions on the supernet (nas/selection.py), None if the genotype follows from the alphas;
# `relaxation`: what turns these into the weights that it follows from.


class Darts(Spec):
    """DARTS (Liu et al. 2019): order 1, or order 2 with the unrolled weight step."""

    kind: Literal["darts"] = "darts"
    genotype_is: ClassVar[Literal["searched"]] = "searched"
    portion: ClassVar[int] = 1
    edge_normalization: ClassVar[bool] = False
    warm_up: ClassVar[float] = 0.0
    sums_to_one: ClassVar[bool] = True
    tune: ClassVar[None] = None
    order: Literal[1, 2] = 1
    relaxation: OrSparsemax = Softmax()


class PartialConnections(Spec):
    """A search on one channel in `portion`, with edges weighed by betas (PC-DARTS; Xu et al. 2020).

    The alphas and betas rest up to progress `warm_up` (15 of 50 epochs there).
    """

    kind: Name
    sums_to_one: ClassVar[bool] = True
    tune: ClassVar[None] = None
    order: Literal[1, 2] = 1
    portion: int = Field(4, ge=2, le=10_000)
    edge_normalization: bool = True
    warm_up: ShareOrNone = 0.3
    relaxation: OrSparsemax = Softmax()


class PcDarts(PartialConnections):
    """PC-DARTS (Xu et al. 2020): a search on one channel in `portion`.

    With `edge_normalization`, betas weigh the edges. Alphas and betas rest up to progress `warm_up` (15 of 50
    epochs in the paper).
    """

    kind: Literal["pc_darts"] = "pc_darts"
    genotype_is: ClassVar[Literal["searched"]] = "searched"


class Gdas(Spec):
    """GDAS (Dong & Yang 2019): each step draws one operation per edge by Gumbel-max; first order.

    The temperature falls linearly from `tau_max` in the first epoch to `tau_min` in the last.
    """

    kind: Literal["gdas"] = "gdas"
    genotype_is: ClassVar[Literal["searched"]] = "searched"
    order: ClassVar[Literal[1]] = 1
    portion: ClassVar[int] = 1
    edge_normalization: ClassVar[bool] = False
    warm_up: ClassVar[float] = 0.0
    sums_to_one: ClassVar[bool] = True
    relaxation: ClassVar[Softmax] = Softmax()
    tune: ClassVar[None] = None
    tau_max: Temperature = 10.0
    tau_min: Temperature = 0.1

    @model_validator(mode="after")
    def _falls(self) -> "Gdas":
        if self.tau_min > self.tau_max:
            raise ValueError(
                f"tau_min {self.tau_min:g} is above tau_max {self.tau_max:g}, but the temperature falls: "
                "swap them, or set both to one value"
            )
        return self


class BetaDarts(Spec):
    """β-DARTS (Ye et al. 2022): DARTS, with w(t) · logsumexp(α) added to the architecture's loss.

    w rises linearly with the epoch, from 0 to `weight`.
    """

    kind: Literal["beta_darts"] = "beta_darts"
    genotype_is: ClassVar[Literal["searched"]] = "searched"
    portion: ClassVar[int] = 1
    edge_normalization: ClassVar[bool] = False
    warm_up: ClassVar[float] = 0.0
    sums_to_one: ClassVar[bool] = True
    relaxation: ClassVar[Softmax] = Softmax()
    tune: ClassVar[None] = None
    order: Literal[1, 2] = 1
    weight: float = Field(50.0, gt=0, le=1_000_000)


class Drnas(Spec):
    """DrNAS (Chen et al. 2021): each step draws operation weights from Dirichlet(ELU(α) + 1)."""

    kind: Literal["drnas"] = "drnas"
    genotype_is: ClassVar[Literal["searched"]] = "searched"
    portion: ClassVar[int] = 1
    edge_normalization: ClassVar[bool] = False
    warm_up: ClassVar[float] = 0.0
    sums_to_one: ClassVar[bool] = True
    relaxation: ClassVar[Softmax] = Softmax()
    tune: ClassVar[None] = None
    order: Literal[1, 2] = 1


class DartsPt(Spec):
    """DARTS-PT (Wang et al. 2021): DARTS, but operations and edges are selected by perturbation.

    What costs the supernet most accuracy when masked stays. `tune` epochs lie between two decisions (10, and
    5 in NAS-Bench-201, in the authors' code).
    """

    kind: Literal["darts_pt"] = "darts_pt"
    genotype_is: ClassVar[Literal["searched"]] = "searched"
    portion: ClassVar[int] = 1
    edge_normalization: ClassVar[bool] = False
    warm_up: ClassVar[float] = 0.0
    sums_to_one: ClassVar[bool] = True
    relaxation: ClassVar[Softmax] = Softmax()
    order: Literal[1, 2] = 1
    tune: Tuning = 10


class BlankPt(Spec):
    """DARTS-PT's control ("blank" in the authors' code): the alphas stay as they are initialised."""

    kind: Literal["blank_pt"] = "blank_pt"
    genotype_is: ClassVar[Literal["searched"]] = "searched"
    order: ClassVar[Literal[1]] = 1
    portion: ClassVar[int] = 1
    edge_normalization: ClassVar[bool] = False
    warm_up: ClassVar[float] = 1.0
    sums_to_one: ClassVar[bool] = True
    relaxation: ClassVar[Softmax] = Softmax()
    tune: Tuning = 10


class ZoDarts(Spec):
    """ZO-DARTS+ (Xie et al. 2024): the architecture's gradient estimated over `steps` steps of the weights.

    Along `directions` drawn at random, from copies that train at alphas `perturbation` · ‖α‖ away.
    """

    kind: Literal["zo_darts"] = "zo_darts"
    genotype_is: ClassVar[Literal["searched"]] = "searched"
    order: ClassVar[Literal[0]] = 0
    portion: ClassVar[int] = 1
    edge_normalization: ClassVar[bool] = False
    warm_up: ClassVar[float] = 0.0
    sums_to_one: ClassVar[bool] = True
    tune: ClassVar[None] = None
    relaxation: Relaxation = Sparsemax()
    steps: int = Field(10, ge=1, le=1_000_000)
    perturbation: float = Field(0.005, ge=1e-9, le=10)
    directions: int = Field(1, ge=1, le=100)


class Random(Spec):
    """A genotype drawn uniformly from the search space: every search's baseline (Li & Talwalkar 2019)."""

    kind: Literal["random"] = "random"
    genotype_is: ClassVar[Literal["drawn"]] = "drawn"


class Swap(Spec):
    """SWAP (Peng et al. 2024): of `candidates` genotypes drawn uniformly, the one with the highest score.

    The score counts the activation patterns of an untrained network on `batch_size` images, without labels.
    """

    kind: Literal["swap"] = "swap"
    genotype_is: ClassVar[Literal["scored"]] = "scored"
    candidates: int = Field(100, ge=2, le=1_000_000)
    batch_size: int = Field(16, ge=2, le=64)  # a pattern has one bit per image of a 64-bit word

    def check_images(self, images: int) -> None:
        """Raise UserError if the weights' half has fewer images than are scored."""
        if self.batch_size > images:
            raise UserError(
                f"searcher.batch_size: {self.batch_size} is more than the {images} images of the weights' "
                "half; lower it"
            )


class Fixed(Spec):
    """A given genotype, retrained like the others: a published one, or a cell of NAS-Bench-201 as spelled.

    Or one that was found before: a file `genotype.json`, or what a run data set/method/seed of the matrix
    finds, on other images perhaps.
    """

    kind: Literal["fixed"] = "fixed"
    genotype_is: ClassVar[Literal["given"]] = "given"
    genotype: Found

    @property
    def file(self) -> str | None:
        """Return the genotype's file; None without one."""
        return self.genotype if self.genotype.endswith(FILE) else None

    @property
    def run(self) -> tuple[str, str, int] | None:
        """Return data set, method and seed of the run that finds the genotype; None without one."""
        if self.file or not RUN.fullmatch(self.genotype):
            return None
        dataset, method, seed = self.genotype.split("/")
        return dataset, method, int(seed)


ResNetDepth = Literal[20, 32, 44, 56, 110]


class ResNet(Spec):
    """The ResNet for CIFAR (He et al. 2016, §4.2), retrained only, as in published long-tail tables.

    `width`: the channels of its first stage, 16 there; each later stage has twice those of the one before.
    """

    kind: Literal["resnet"] = "resnet"
    genotype_is: ClassVar[Literal["absent"]] = "absent"
    depth: ResNetDepth = 32
    width: Channels = 16


class Trained(Spec):
    """The network that `method`, another one, trained with the same seeds, to be trained on or given a head.

    Its retraining has that method's recipe, with its own entries over it, and starts with its weights.
    """

    kind: Literal["trained"] = "trained"
    genotype_is: ClassVar[Literal["shared"]] = "shared"
    method: Name


class Implant(PartialConnections):
    """Cells on the skips of the ResNet that `method`, another one, trained and that stays as it is.

    Implantable Adaptive Cells (Benedykciuk et al. 2024) in a form for classification; the published form is
    for U-Nets. One `cell` is searched for all skips, as PC-DARTS's normal cell, on the ResNet of retraining
    seed 0, or drawn at random. It is then trained alone, on the ResNet with the same seeds.
    """

    kind: Literal["implant"] = "implant"
    method: Name
    cell: Literal["searched", "random"] = "searched"

    @property
    def genotype_is(self) -> Literal["searched", "drawn"]:
        """How the cell is found."""
        return "searched" if self.cell == "searched" else "drawn"

    @model_validator(mode="after")
    def _acts(self) -> "Implant":
        rules = {
            name: field.default for name, field in PartialConnections.model_fields.items() if name != "kind"
        }
        idle = [name for name, default in rules.items() if getattr(self, name) != default]
        if self.cell == "random" and idle:
            raise ValueError(f"{idle[0]} is of a search, and cell random is drawn: leave {idle[0]} out")
        return self


SupernetSearcher = (  # those that train a supernet
    Darts | PcDarts | Gdas | BetaDarts | Drnas | DartsPt | BlankPt | ZoDarts
)
DrawnSearcher = Random  # those that draw a genotype; a union like the one above once there are two
ScoredSearcher = Swap  # those that score untrained networks; likewise
OnTrained = Trained | Implant  # those on what another method trained

Searcher = Annotated[
    SupernetSearcher | DrawnSearcher | ScoredSearcher | Fixed | ResNet | OnTrained,
    Field(discriminator="kind"),
]

OF_CELLS = ("channels", "cells", "auxiliary_weight", "drop_path")  # entries of a recipe for networks of cells
OF_ALPHAS = ("alphas", "collapse", "entropy")  # entries of a search recipe that act on the alphas' steps
OF_A_GENOTYPE = {  # entries of a search recipe that act where nothing is trained
    "drawn": ("space", "nodes", "budget"),
    "scored": ("space", "nodes", "channels", "cells", "threads", "budget"),
    "given": ("space",),
}

# --- samplers -------------------------------------------------------------------------------------------
# `rebalances`: whether it changes the class frequencies of the images.


class UniformSampler(Spec):
    """Every image equally often: P_c = n_c/n."""

    kind: Literal["uniform"] = "uniform"
    rebalances: ClassVar[bool] = False


class ClassBalancedSampler(Spec):
    """Every class equally often: P_c = 1/C  (Kang et al. 2020, §3)."""

    kind: Literal["class_balanced"] = "class_balanced"
    rebalances: ClassVar[bool] = True


class ReversedSampler(Spec):
    """P_c ∝ n_max/n_c  (BBN, §4.2)."""

    kind: Literal["reversed"] = "reversed"
    rebalances: ClassVar[bool] = True


class SquareRootSampler(Spec):
    """P_c ∝ √n_c  (Kang et al. 2020, §3)."""

    kind: Literal["square_root"] = "square_root"
    rebalances: ClassVar[bool] = True


class ProgressiveSampler(Spec):
    """P_c = (1 − t) · n_c/n + t/C  (progressively balanced; Kang et al. 2020, §3)."""

    kind: Literal["progressive"] = "progressive"
    rebalances: ClassVar[bool] = True


class DeferredSampler(Spec):
    """Uniform up to progress `at`, class-balanced from there on (deferred re-sampling; Cao et al. 2019)."""

    kind: Literal["deferred"] = "deferred"
    rebalances: ClassVar[bool] = True
    at: Share = 0.8


Sampler = Annotated[
    UniformSampler
    | ClassBalancedSampler
    | ReversedSampler
    | SquareRootSampler
    | ProgressiveSampler
    | DeferredSampler,
    Field(discriminator="kind"),
]


# --- losses ---------------------------------------------------------------------------------------------
# `corrects`: what it does about class frequencies, so that no sampler does so too ("": nothing). `scale`:
# of cosines, if its logits are those of a classifier of unit norm times it. `reweights`: whether the paper's
# claim counts it as re-weighting, as it favours rare classes or hard images.
WEIGHTS = "weights the classes by their frequencies in the images"


class CrossEntropy(Spec):
    """−log p_y, the target smoothed to (1 − s) y + s/C  (label smoothing; Szegedy et al. 2016, §7)."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    corrects: ClassVar[str] = ""
    scale: ClassVar[None] = None
    reweights: ClassVar[bool] = False
    smoothing: ShareOrNone = 0.0


class ClassBalanced(Spec):
    """Cross-entropy weighted by (1 − β)/(1 − β^n_c)  (effective number; Cui et al. 2019, §4).

    The weights act from progress `at` on (deferred re-weighting, Cao et al. 2019).
    """

    kind: Literal["class_balanced"] = "class_balanced"
    corrects: ClassVar[str] = WEIGHTS
    scale: ClassVar[None] = None
    reweights: ClassVar[bool] = True
    beta: ShareOrNone = 0.9999
    at: ShareOrNone = 0.0


class Focal(Spec):
    """−(1 − p_y)^γ log p_y  (Lin et al. 2017, eq. 4)."""

    kind: Literal["focal"] = "focal"
    corrects: ClassVar[str] = ""
    scale: ClassVar[None] = None
    reweights: ClassVar[bool] = True
    gamma: Exponent = 2.0


class Ldam(Spec):
    """LDAM (Cao et al. 2019): margins ∝ n_c^(−1/4), the largest `max_margin`, on `scale` times cosines.

    From progress `at` on, classes are weighted by their effective number under `beta` (deferred
    re-weighting); null: never.
    """

    kind: Literal["ldam"] = "ldam"
    reweights: ClassVar[bool] = True
    max_margin: float = Field(0.5, gt=0, le=1000)
    scale: CosineScale = 30.0
    beta: ShareOrNone = 0.9999
    at: ShareOrNone | None = 0.8

    @property
    def corrects(self) -> str:
        """Name what deferred re-weighting corrects; "" without it."""
        return "" if self.at is None else WEIGHTS


class BalancedSoftmax(Spec):
    """Cross-entropy of z + log n_c  (Ren et al. 2020, eq. 4)."""

    kind: Literal["balanced_softmax"] = "balanced_softmax"
    corrects: ClassVar[str] = "shifts the logits by the classes' frequencies in the images"
    scale: ClassVar[None] = None
    reweights: ClassVar[bool] = True


class LogitAdjustment(Spec):
    """Cross-entropy of z + τ log(n_c/n)  (Menon et al. 2021, eq. 10)."""

    kind: Literal["logit_adjustment"] = "logit_adjustment"
    corrects: ClassVar[str] = "shifts the logits by the classes' frequencies in the images"
    scale: ClassVar[None] = None
    reweights: ClassVar[bool] = True
    tau: float = Field(1.0, gt=0, le=100)


class Seesaw(Spec):
    """Seesaw loss (Wang et al. 2021): mitigation (n_j/n_y)^p, compensation (σ_j/σ_y)^q, both on negatives."""

    kind: Literal["seesaw"] = "seesaw"
    corrects: ClassVar[str] = "compares the classes' frequencies in the images"
    scale: ClassVar[None] = None
    reweights: ClassVar[bool] = True
    p: Exponent = 0.8
    q: Exponent = 2.0


class VectorScaling(Spec):
    """Cross-entropy of (n_c/n_max)^γ z_c + τ log(n_c/n)  (Kini et al. 2021, with all weights ω 1).

    The defaults are those of the authors' class_imbalance/train.py.
    """

    kind: Literal["vector_scaling"] = "vector_scaling"
    corrects: ClassVar[str] = "scales and shifts the logits by the classes' frequencies in the images"
    scale: ClassVar[None] = None
    reweights: ClassVar[bool] = True
    gamma: float = Field(0.3, gt=0, le=100)
    tau: float = Field(1.0, gt=0, le=100)


class ClassDependentTemperatures(Spec):
    """Cross-entropy of (n_c/n_max)^γ z_c  (Ye et al. 2020)."""

    kind: Literal["class_dependent_temperatures"] = "class_dependent_temperatures"
    corrects: ClassVar[str] = "scales the logits by the classes' frequencies in the images"
    scale: ClassVar[None] = None
    reweights: ClassVar[bool] = True
    gamma: float = Field(0.3, gt=0, le=100)


Loss = Annotated[
    CrossEntropy
    | ClassBalanced
    | Focal
    | Ldam
    | BalancedSoftmax
    | LogitAdjustment
    | Seesaw
    | VectorScaling
    | ClassDependentTemperatures,
    Field(discriminator="kind"),
]


def _check_balance(objective: Any) -> None:
    """Reject a loss that corrects class frequencies beside a sampler that changes them."""
    loss, changing = objective.loss, [sampler.kind for sampler in objective.samplers if sampler.rebalances]
    if loss.corrects and changing:
        remedy = "use one of the two" + (", or at: null" if isinstance(loss, Ldam) else "")
        raise ValueError(
            f"loss {loss.kind} {loss.corrects}, and sampler {changing[0]} changes these: classes would be "
            f"corrected twice; {remedy}"
        )


# --- heads: the classifier of a network -----------------------------------------------------------------


class LinearHead(Spec):
    """z = W h + b of the features h."""

    kind: Literal["linear"] = "linear"


class CosineHead(Spec):
    """z_c = scale · cos(h, w_c)  (Cao et al. 2019, authors' code; LDAM's logits, for every loss)."""

    kind: Literal["cosine"] = "cosine"
    scale: CosineScale = 30.0


class EtfHead(Spec):
    """z_c = scale · cos(h, w_c), the w_c fixed: a simplex equiangular tight frame (Yang et al. 2022, §3).

    The frame is drawn from the seed and not trained, so that no class is nearer to another.
    """

    kind: Literal["etf"] = "etf"
    scale: CosineScale = 30.0

    def check_classes(
        self, classes: int, features: int, remedy: str = "raise its channels (of a resnet, width)"
    ) -> None:
        """Raise UserError if there are more classes than features, of which no frame can be drawn."""
        if classes > features:
            raise UserError(
                f"head etf needs as many features as classes, and the network has {features} for {classes} "
                f"classes; {remedy}, or set head to cosine"
            )


def _is_linear(head: Any) -> bool:
    """Leave the default out of a job's parameters, as before there was a choice: its key stays."""
    return isinstance(head, LinearHead)


LearningHead = Annotated[LinearHead | CosineHead, Field(discriminator="kind", exclude_if=_is_linear)]
Head = Annotated[LinearHead | CosineHead | EtfHead, Field(discriminator="kind", exclude_if=_is_linear)]


def _check_head(objective: Any) -> None:
    """Reject a head beside a loss that has one of its own."""
    loss = objective.loss
    if loss.scale is not None and "head" in objective.model_fields_set:
        raise ValueError(
            f"loss {loss.kind} has cosines of its own, times loss.scale: leave out head {objective.head.kind}"
        )


# --- mixing coefficients --------------------------------------------------------------------------------
# `drawn`: whether it is drawn at random, rather than given by the progress alone.


class ParabolicDecay(Spec):
    """m = 1 − t²  (BBN, §4.3)."""

    kind: Literal["parabolic_decay"] = "parabolic_decay"
    drawn: ClassVar[bool] = False


class LinearDecay(Spec):
    """m = 1 − t."""

    kind: Literal["linear_decay"] = "linear_decay"
    drawn: ClassVar[bool] = False


class CosineDecay(Spec):
    """m = cos(πt/2)."""

    kind: Literal["cosine_decay"] = "cosine_decay"
    drawn: ClassVar[bool] = False


class Equal(Spec):
    """m = 1/2."""

    kind: Literal["equal"] = "equal"
    drawn: ClassVar[bool] = False


class ParabolicIncrement(Spec):
    """m = t²."""

    kind: Literal["parabolic_increment"] = "parabolic_increment"
    drawn: ClassVar[bool] = False


class Beta(Spec):
    """m ~ Beta(a, a), drawn at each step."""

    kind: Literal["beta"] = "beta"
    drawn: ClassVar[bool] = True
    a: BetaShape = 0.2


class Symmetric(Spec):
    """m = 1 − 2t² up to t = 1/2, then 2(1 − t)²; so m(t) + m(1 − t) = 1."""

    kind: Literal["symmetric"] = "symmetric"
    drawn: ClassVar[bool] = False


Mixing = Annotated[
    ParabolicDecay | LinearDecay | CosineDecay | Equal | ParabolicIncrement | Beta | Symmetric,
    Field(discriminator="kind"),
]


# --- objectives -----------------------------------------------------------------------------------------
# `searches`: whether a supernet can be trained by it. `samplers`: a batch of each is read per step. `passes`:
# how many batches pass through the network per step, and `joined`: how many of them at once, so that batch
# norms see them together. `mixing`: the coefficient that mixes the batches or losses of two branches or
# classifiers. `auxiliary`: whether it can train an auxiliary head. `one_classifier`: whether it has a single
# classifier, which can be replaced after training. `reweighted`: whether it weights the classes by their
# frequencies, whatever its `loss`. `branches`: how many the network has, and `branch_cells`: how many cells
# exist once per branch.
# `claimed`: what the paper's claim calls DARTS with this objective: "DARTS" (with another sampler or loss,
# re-sampling or re-weighting), "BBN" (with another arch_lr than constant, HLRS), "HLRS"; None: nothing.

Claimed = Literal["DARTS", "BBN", "HLRS"] | None


def _check_loss(objective: Any) -> Any:
    """Reject a loss that does not fit the samplers or the head."""
    _check_balance(objective)
    _check_head(objective)
    return objective


class Plain(Spec):
    """One network, one sampler, one loss."""

    kind: Literal["plain"] = "plain"
    claimed: ClassVar[Claimed] = "DARTS"
    searches: ClassVar[bool] = True
    passes: ClassVar[int] = 1
    joined: ClassVar[int] = 1
    mixing: ClassVar[None] = None
    auxiliary: ClassVar[bool] = True
    one_classifier: ClassVar[bool] = True
    rated: ClassVar[bool] = False
    reweighted: ClassVar[bool] = False
    branches: ClassVar[int] = 1
    branch_cells: ClassVar[int] = 0
    sampler: Sampler = UniformSampler(kind="uniform")
    loss: Loss = CrossEntropy(kind="cross_entropy")
    head: Head = LinearHead()

    @property
    def samplers(self) -> list[Sampler]:
        """Read from one sampler."""
        return [self.sampler]

    _compatible = model_validator(mode="after")(_check_loss)


class Bilateral(Spec):
    """Bilateral-Branch Network (Zhou et al. 2020): two samplers' batches, mixed by m(t).

    The last `branch_cells` cells exist once per branch; the cells before them are shared.
    """

    kind: Literal["bilateral"] = "bilateral"
    claimed: ClassVar[Claimed] = "BBN"
    searches: ClassVar[bool] = True
    passes: ClassVar[int] = 2
    joined: ClassVar[int] = 1
    auxiliary: ClassVar[bool] = False
    one_classifier: ClassVar[bool] = True
    rated: ClassVar[bool] = False
    reweighted: ClassVar[bool] = False
    branches: ClassVar[int] = 2
    mixing: Mixing = ParabolicDecay(kind="parabolic_decay")
    branch_cells: int = Field(1, ge=0, le=1000)
    conventional: Sampler = UniformSampler(kind="uniform")  # of the branch that m weighs
    rebalancing: Sampler = ReversedSampler(kind="reversed")  # of the branch that 1 − m weighs
    loss: Loss = CrossEntropy(kind="cross_entropy")
    head: Head = LinearHead()

    @property
    def samplers(self) -> list[Sampler]:
        """Read from a sampler per branch."""
        return [self.conventional, self.rebalancing]

    _compatible = model_validator(mode="after")(_check_loss)


class DualHead(Spec):
    """HLRS as its summary describes it: a shared classifier, and class-specific weights for the final logits.

    Only the shared classifier's loss drives the alphas. Row c of the class-specific weights learns at a rate
    ∝ (n_max/n_c)^gamma, whose mean over the images is 1 (our own reading). Both classifiers have `head`,
    which cannot be fixed, as its rows learn.
    """

    kind: Literal["dual_head"] = "dual_head"
    claimed: ClassVar[Claimed] = "HLRS"
    searches: ClassVar[bool] = True
    passes: ClassVar[int] = 1
    joined: ClassVar[int] = 1
    mixing: ClassVar[None] = None
    auxiliary: ClassVar[bool] = False
    one_classifier: ClassVar[bool] = False
    reweighted: ClassVar[bool] = False
    branches: ClassVar[int] = 1
    branch_cells: ClassVar[int] = 0
    gamma: Exponent = 0.5
    sampler: Sampler = UniformSampler(kind="uniform")
    loss: Loss = CrossEntropy(kind="cross_entropy")
    head: LearningHead = LinearHead()

    @property
    def rated(self) -> bool:
        """Have learning rates of its own unless gamma is 0."""
        return self.gamma > 0

    @property
    def samplers(self) -> list[Sampler]:
        """Read from one sampler."""
        return [self.sampler]

    _compatible = model_validator(mode="after")(_check_loss)


class ProCo(Spec):
    """Probabilistic contrastive learning (Du et al. 2024): a classifier's loss, and `weight` times ProCo's.

    Three views per image: the first, augmented by the recipe, is classified; two others pass through a
    projection head to a sphere of `dimensions`, on which each class is a von Mises-Fisher distribution.
    """

    kind: Literal["proco"] = "proco"
    claimed: ClassVar[Claimed] = None
    searches: ClassVar[bool] = False
    passes: ClassVar[int] = 3
    joined: ClassVar[int] = 3
    mixing: ClassVar[None] = None
    auxiliary: ClassVar[bool] = False
    one_classifier: ClassVar[bool] = True
    rated: ClassVar[bool] = False
    reweighted: ClassVar[bool] = False
    branches: ClassVar[int] = 1
    branch_cells: ClassVar[int] = 0
    samplers: ClassVar[list[Sampler]] = [UniformSampler()]  # ProCo's loss corrects class frequencies
    temperature: Temperature = 0.1
    weight: float = Field(1.0, gt=0, le=1000)
    dimensions: int = Field(128, ge=2, le=10_000)
    loss: Loss = LogitAdjustment()
    head: Head = LinearHead()

    _compatible = model_validator(mode="after")(_check_loss)


class Glmc(Spec):
    """Global and local mixture consistency (Du et al. 2023): two views, mixed by mixup and by cutmix.

    Images are mixed with those of a second sampler, `partners`, λ ~ Beta(alpha, alpha). A conventional
    classifier's loss is mixed by m(t) with that of a re-balanced one, which inference uses: classes weighted
    by n_c^−gamma. `consistency` weights the negative cosines between both views.
    """

    kind: Literal["glmc"] = "glmc"
    claimed: ClassVar[Claimed] = None
    searches: ClassVar[bool] = False
    passes: ClassVar[int] = 2
    joined: ClassVar[int] = 1
    auxiliary: ClassVar[bool] = False
    one_classifier: ClassVar[bool] = False
    rated: ClassVar[bool] = False
    branches: ClassVar[int] = 1
    branch_cells: ClassVar[int] = 0
    loss: ClassVar[CrossEntropy] = CrossEntropy()
    head: ClassVar[LinearHead] = LinearHead()
    mixing: Mixing = ParabolicDecay()
    partners: Sampler = UniformSampler()
    alpha: BetaShape = 1.0
    gamma: Exponent = 1.0
    consistency: float = Field(10.0, gt=0, le=1_000_000)

    @property
    def reweighted(self) -> bool:
        """Weight the classes of the classifier that inference uses, unless gamma is 0."""
        return self.gamma > 0

    @property
    def samplers(self) -> list[Sampler]:
        """Read images, and those to mix in."""
        return [UniformSampler(), self.partners]


Objective = Annotated[Plain | Bilateral | DualHead | ProCo | Glmc, Field(discriminator="kind")]


def balancing(objective: Objective) -> str:
    """Name what in an objective makes up for the classes' frequencies; "" if nothing does.

    A dual head's rates do not: they leave the minimum of its loss where it is.
    """
    if objective.loss.corrects:
        return f"loss {objective.loss.kind}"
    changing = [f"sampler {sampler.kind}" for sampler in objective.samplers if sampler.rebalances]
    return changing[0] if changing else f"objective {objective.kind}" if objective.reweighted else ""


# --- schedules of the alphas' learning rate η -----------------------------------------------------------


class ConstantLR(Spec):
    """η(t) = η."""

    kind: Literal["constant"] = "constant"


class CosineLR(Spec):
    """η(t) = η · (final + (1 − final)(1 + cos πt)/2)."""

    kind: Literal["cosine"] = "cosine"
    final: float = Field(0.0, ge=0, le=1)


class LinearLR(Spec):
    """η(t) = η · (1 − (1 − final)t)."""

    kind: Literal["linear"] = "linear"
    final: float = Field(0.0, ge=0, le=1)


class StepLR(Spec):
    """η(t) = η before `at`, η · factor from there on."""

    kind: Literal["step"] = "step"
    at: Share = 0.5
    factor: Share = 0.1


class FreezeLR(Spec):
    """η(t) = η before `at`, 0 from there on: the alphas stay, and their steps are skipped."""

    kind: Literal["freeze"] = "freeze"
    at: Share = 0.5


class ExponentialLR(Spec):
    """η(t) = η · final^t."""

    kind: Literal["exponential"] = "exponential"
    final: float = Field(0.01, gt=0, le=1)


class CoupledLR(Spec):
    """η(t) = η · m(t): the alphas' learning rate follows the mixing coefficient (HLRS, our own reading)."""

    kind: Literal["coupled"] = "coupled"


ArchLR = Annotated[
    ConstantLR | CosineLR | LinearLR | StepLR | FreezeLR | ExponentialLR | CoupledLR,
    Field(discriminator="kind"),
]


# --- a method -------------------------------------------------------------------------------------------


Labels = Literal["given", "random"]


class Method(Spec):
    """A method, composed of independent parts.

    Under `labels: random` the search sees, for each image, a label drawn once and uniformly over the classes;
    retraining and evaluation see the given ones. A search that learns nothing of the classes is immune to
    their imbalance. After RLNAS (Zhang et al. 2021), which trains a network of single paths and evolves
    genotypes by the angle of its weights; here any searcher trains its alphas on random labels (our own
    reading).

    `arithmetic` acts in search, retraining and evaluation; without it, all is in floating point. `search`,
    `retrain` and `evaluate` override single entries of the common recipes.
    """

    searcher: Searcher
    objective: Objective | None = None  # of the search; null: plain
    arch_lr: ArchLR | None = None  # null: constant
    labels: Labels = "given"
    arithmetic: Arithmetic | None = Field(None, exclude_if=not_)
    search: dict[Text, Any] = Field({}, max_length=100)
    retrain: dict[Text, Any] = Field({}, max_length=100)
    # nothing is left out of the report's parameters, as before there was a choice: its key stays
    evaluate: dict[Text, Any] = Field({}, max_length=100, exclude_if=not_)

    @model_validator(mode="after")
    def _compatible(self) -> "Method":
        if self.objective is not None and not self.objective.searches:
            raise ValueError(
                f"objective {self.objective.kind} trains one network from scratch, not a supernet: move it "
                "to retrain.objective"
            )
        if self.searcher.genotype_is == "searched":
            self._check_searched(self.searcher)
        else:
            self._check_unsearched()
        return self

    def _check_unsearched(self) -> None:
        """Reject entries that change nothing where no supernet is trained."""
        if self.objective is not None or self.arch_lr is not None:
            raise ValueError(
                f"searcher {self.searcher.kind} trains nothing in the search: leave out objective and arch_lr"
            )
        if self.labels != "given":
            raise ValueError(
                f"labels {self.labels}: searcher {self.searcher.kind} sees no labels in the search: leave "
                "out labels"
            )
        acting = OF_A_GENOTYPE.get(self.searcher.genotype_is, ())
        if idle := [name for name in self.search if name not in acting]:
            raise ValueError(
                f"search.{idle[0]} changes nothing for searcher {self.searcher.kind}: leave it out"
            )
        given = [name for name in OF_CELLS if name in self.retrain]
        if self.searcher.genotype_is == "absent" and given:
            raise ValueError(
                f"retrain.{given[0]} applies to networks of cells, not to a {self.searcher.kind}: leave it "
                "out"
            )

    def _check_searched(self, searcher: SupernetSearcher | Implant) -> None:
        """Reject schedules that never act, and entries for alphas that take no steps."""
        if searcher.warm_up == 1:
            rests = {"arch_lr": self.arch_lr, **{f"search.{own}": self.search.get(own) for own in OF_ALPHAS}}
            if idle := [field for field, value in rests.items() if value is not None]:
                raise ValueError(
                    f"{idle[0]} changes nothing for searcher {searcher.kind}, which never steps the alphas: "
                    "leave it out"
                )
        if self.arch_lr is not None and self.arch_lr.kind == "coupled":
            mixing = None if self.objective is None else self.objective.mixing
            if mixing is None:
                raise ValueError(
                    "arch_lr coupled follows the mixing coefficient: it needs an objective that has one, "
                    "such as bilateral"
                )
            if mixing.drawn:
                raise ValueError(
                    f"arch_lr coupled needs a mixing that depends on progress alone, not {mixing.kind}"
                )
        if isinstance(self.arch_lr, FreezeLR) and self.arch_lr.at <= searcher.warm_up:
            raise ValueError(
                f"arch_lr.at {self.arch_lr.at} freezes the alphas before they learn, from searcher.warm_up "
                f"{searcher.warm_up} on: raise at, or lower warm_up"
            )


def check_branches(objective: Any, cells: int, field: str) -> None:
    """Reject more branch cells than the network has cells."""
    if objective is not None and objective.branch_cells > cells:
        raise ValueError(
            f"{field} is {cells}, fewer than the branch_cells of {objective.branch_cells}: lower branch_cells"
        )


def check_reached(spec: Spec, epochs: int, field: str = "") -> None:
    """Reject an `at`, a `peak` or an `every` beyond the last epoch."""
    for name, value in spec:
        path = f"{field}.{name}" if field else name
        if isinstance(value, Spec):
            check_reached(value, epochs, path)
        default = name == "every" and name not in spec.model_fields_set  # fits whatever number of epochs
        if name in ("at", "peak", "every") and value is not None and not default:
            for moment in value if isinstance(value, list) else [value]:
                check_moment(moment, epochs, path)


def check_moment(progress: float, epochs: int, field: str) -> None:
    """Reject a progress beyond the last epoch."""
    last = (epochs - 1) / epochs
    if progress > last:
        raise ValueError(
            f"{field} {progress:g} is never reached: the last of {epochs} epochs has progress {last:.3g}; "
            "lower it, or raise epochs"
        )
