"""Specs of trained networks: what a file of weights has to say, so that nothing else is needed to use it."""

from operator import not_
from typing import Annotated, Any, Literal

from pydantic import Field

from hlrs.config.arithmetic import Arithmetic
from hlrs.config.base import Cells, Channels, Spec
from hlrs.config.methods import Head, LinearHead, ResNetDepth
from hlrs.config.recipes import Inherited
from hlrs.config.spaces import Space

MOST_CLASSES = 1_000_000
ClassName = Annotated[str, Field(max_length=4096)]


class MixtureValues(Spec):
    """Weights of operations [kinds of cell, edges, operations] and edges, [kinds of cell, edges]."""

    operations: list[list[list[float]]]
    edges: list[list[float]]


class NetworkSpec(Spec):
    """What shapes a network: a ResNet of a depth, or the cells of a genotype, or those of a supernet.

    `genotype` is the content of genotype.json. A supernet's cells are `inherited`, and mixed as `mixture`.
    """

    space: Space
    resnet: ResNetDepth | None = None
    genotype: dict[str, Any] | None = None
    inherited: Inherited | None = None
    mixture: MixtureValues | None = None
    in_channels: Annotated[int, Field(ge=1, le=3)]
    classes: Annotated[int, Field(ge=1, le=MOST_CLASSES)]
    channels: Channels
    cells: Cells
    stem: Literal["cifar", "imagenet"] = "cifar"
    auxiliary: bool = False
    branches: Annotated[int, Field(ge=1, le=2)] = 1
    branch_cells: Annotated[int, Field(ge=0, le=1000)] = 0
    head: Head = LinearHead()
    dual: bool = False
    arithmetic: Arithmetic | None = Field(None, exclude_if=not_)


class Preprocessing(Spec):
    """What a network's images are: [channels, height, width], resized to `image_size` unless it is null.

    Pixels are divided by 255; then `mean` is subtracted, and they are divided by `std`, per channel.
    """

    shape: Annotated[list[int], Field(min_length=3, max_length=3)]
    image_size: int | None
    mean: Annotated[list[float], Field(min_length=1, max_length=3)]
    std: Annotated[list[float], Field(min_length=1, max_length=3)]


class TrainedNetwork(Spec):
    """What the header of weights.safetensors says of the network, its images and classes."""

    network: NetworkSpec
    preprocessing: Preprocessing
    classes: Annotated[list[ClassName], Field(min_length=1, max_length=MOST_CLASSES)]
