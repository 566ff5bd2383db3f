"""Specs of the parameters of each stage's jobs."""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from hlrs.config.base import Spec
from hlrs.config.data import Augment, Groups, Imbalance, Source, Stream
from hlrs.config.methods import ArchLR, DrawnSearcher, Objective, SupernetSearcher
from hlrs.config.params import Sections
from hlrs.config.recipes import Evaluate, Report, Retrain, Search


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
    """How a job reads and augments images, and which stem their size calls for."""

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
    searcher: Annotated[SupernetSearcher, Field(discriminator="kind")]
    objective: Objective
    arch_lr: ArchLR
    search: Search


class DrawJob(Spec):
    """Parameters of a search job that draws a genotype: seed and size of the search space."""

    seed: int
    searcher: DrawnSearcher
    nodes: int


class ExtractJob(Spec):
    """Parameters of an extraction: the published genotype, or null where alphas are an input."""

    genotype: str | None


class RetrainJob(Spec):
    """Parameters of a retraining job: of the genotype among the inputs, or of a ResNet of the given depth."""

    seed: int
    retrain_seed: int
    resnet: int | None
    images: Images
    retrain: Retrain


class EvaluateJob(Spec):
    """Parameters of an evaluation job; entries that shape the network repeat the retraining's."""

    resnet: int | None
    images: Images
    retrain: Retrain
    groups: Groups
    evaluate: Evaluate


class ReportJob(Spec):
    """Parameters of the report: its own, and `params.yaml`'s sections to show."""

    report: Report
    params: Sections


STAGES: dict[str, Any] = {
    "split": SplitJob,
    "search": SearchJob | DrawJob,
    "extract": ExtractJob,
    "retrain": RetrainJob,
    "evaluate": EvaluateJob,
    "report": ReportJob,
}


def parse(stage: str, params: Any) -> Any:
    """Validate a stage's job parameters, as read from JSON; ValidationError for those of another version."""
    return TypeAdapter(STAGES[stage]).validate_python(params)
