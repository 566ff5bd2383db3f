"""Specs of the parameters of each stage's jobs."""

from operator import not_
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from hlrs.config.arithmetic import Arithmetic
from hlrs.config.base import (
    Cells,
    Channels,
    Digest,
    FilePath,
    ImageCount,
    ImageSize,
    Nodes,
    Seed,
    Share,
    ShareOrNone,
    Spec,
    Text,
    Threads,
)
from hlrs.config.data import Augment, Groups, Imbalance, Source, Stream
from hlrs.config.methods import (
    ArchLR,
    DrawnSearcher,
    Labels,
    Objective,
    OrSparsemax,
    ResNetDepth,
    ScoredSearcher,
    Softmax,
    SupernetSearcher,
)
from hlrs.config.params import Sections
from hlrs.config.recipes import Budget, Evaluation, Inherited, Report, Retrain, Search
from hlrs.config.spaces import Given, Space


class SplitJob(Spec):
    """Parameters of a split job; `content` is the digest of the source's files."""

    content: Digest
    source: Source
    imbalance: Imbalance
    protocol: Literal["seeded", "ldam"]
    seed: Seed
    max_per_class: ImageCount | None
    test_per_class: ImageCount | None
    weights_fraction: Share
    holdout_fraction: ShareOrNone


class Images(Spec):
    """How a job reads and augments images, and which stem their size calls for."""

    content: Digest
    source: Source
    image_size: ImageSize | None
    stem: Literal["cifar", "imagenet"]
    augment: Augment
    stream: Stream


class BudgetedNetwork(Spec):
    """The network that a retraining makes of a genotype, as far as its size depends on it, and its budget."""

    budget: Budget
    images: Images
    channels: Channels
    cells: Cells
    objective: Objective


class SearchJob(Spec):
    """Parameters of a search job."""

    seed: Seed
    images: Images
    searcher: Annotated[SupernetSearcher, Field(discriminator="kind")]
    objective: Objective
    arch_lr: ArchLR
    labels: Labels = "given"
    arithmetic: Arithmetic | None = Field(None, exclude_if=not_)
    search: Search


class DrawJob(Spec):
    """Parameters of a search job that draws a genotype: seed and size of the search space, and a budget."""

    seed: Seed
    searcher: DrawnSearcher
    space: Space
    nodes: Nodes
    limit: BudgetedNetwork | None = Field(None, exclude_if=not_)


class ScoredNetworks(Spec):
    """The entries of the search's recipe that shape the networks to score."""

    space: Space
    nodes: Nodes
    channels: Channels
    cells: Cells
    threads: Threads


class ScoreJob(Spec):
    """Parameters of a search job that scores untrained networks."""

    seed: Seed
    images: Images
    searcher: ScoredSearcher
    arithmetic: Arithmetic | None = Field(None, exclude_if=not_)
    search: ScoredNetworks
    limit: BudgetedNetwork | None = Field(None, exclude_if=not_)


class ExtractJob(Spec):
    """Parameters of an extraction: the given genotype, its space, and the relaxation of searched alphas.

    `genotype`: as spelled, or the content of a file; null where alphas, or what another run found, are an
    input. `limit`: the budget that a search on a supernet was given.
    """

    genotype: Given | Annotated[dict[Text, Any], Field(max_length=10)] | None
    space: Space
    relaxation: OrSparsemax = Softmax()
    limit: BudgetedNetwork | None = Field(None, exclude_if=not_)


class LookupJob(Spec):
    """Parameters of a look-up: the table of accuracies; `content` is the SHA-256 of its file."""

    content: Digest
    table: FilePath


class RetrainJob(Spec):
    """Parameters of a retraining job: of the genotype among the inputs, or of a ResNet of the given depth.

    `space` is the genotype's, with default options, as these do not matter for one network, and any for a
    ResNet, whose width is `retrain.channels`. `inherited`: the supernet that the network starts as, whose
    `space` has its options; else None. With `retrain.start` trained, another retraining's weights are an
    input; `content` is the SHA-256 of the file of weights that it names, None without one.
    """

    seed: Seed
    retrain_seed: Seed
    space: Space
    resnet: ResNetDepth | None
    inherited: Inherited | None = None
    images: Images
    arithmetic: Arithmetic | None = Field(None, exclude_if=not_)
    retrain: Retrain
    content: Digest | None = Field(None, exclude_if=not_)  # left out, as before there were such files


class EvaluateJob(Spec):
    """Parameters of an evaluation job; entries that shape the network repeat the retraining's."""

    space: Space
    resnet: ResNetDepth | None
    inherited: Inherited | None = None
    images: Images
    arithmetic: Arithmetic | None = Field(None, exclude_if=not_)
    retrain: Retrain
    groups: Groups
    evaluate: Evaluation


class ReportJob(Spec):
    """Parameters of the report: its own, and `params.yaml`'s sections to show."""

    report: Report
    params: Sections


STAGES: dict[str, Any] = {
    "split": SplitJob,
    "search": SearchJob | DrawJob | ScoreJob,
    "extract": ExtractJob,
    "lookup": LookupJob,
    "retrain": RetrainJob,
    "evaluate": EvaluateJob,
    "report": ReportJob,
}


def parse(stage: str, params: Any) -> Any:
    """Validate a stage's job parameters, as read from JSON; ValidationError for those of another version."""
    return TypeAdapter(STAGES[stage]).validate_python(params)
