"""Specs of trained networks: what a file of weights has to say, so that nothing else is needed to use it."""

from operator import not_
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hlrs.config.arithmetic import Arithmetic
from hlrs.config.base import Cells, Channels, Spec
from hlrs.config.methods import Head, LinearHead, ResNetDepth
from hlrs.config.recipes import Inherited
from hlrs.config.spaces import Space

MOST_CLASSES = 1_000_000
Side = Annotated[int, Field(ge=1, le=65_536)]  # of images, in pixels
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

    shape: Annotated[list[Side], Field(min_length=3, max_length=3)]
    image_size: Side | None
    mean: Annotated[list[float], Field(min_length=1, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1, max_length=3)]

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> "Preprocessing":
        channels = self.shape[0]
        for name in ("mean", "std"):
            if len(found := getattr(self, name)) != channels:
                raise ValueError(f"{name} has {len(found)} values for {channels} channels")
        return self


class TrainedNetwork(Spec):
    """What the header of weights.safetensors says of the network, its images and classes."""

    network: NetworkSpec
    preprocessing: Preprocessing
    classes: Annotated[list[ClassName], Field(min_length=1, max_length=MOST_CLASSES)]

    @model_validator(mode="after")
    def _consistent(self) -> "TrainedNetwork":
        channels = self.preprocessing.shape[0]
        if channels != self.network.in_channels:
            raise ValueError(f"images of {channels} channels for a network of {self.network.in_channels}")
        if len(self.classes) != self.network.classes:
            raise ValueError(f"{len(self.classes)} classes for a network of {self.network.classes}")
        return self
