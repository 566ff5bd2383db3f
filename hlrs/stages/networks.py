"""The network that is retrained and evaluated."""

from pathlib import Path

from hlrs.artifacts.files import read_json
from hlrs.config.recipes import Retrain
from hlrs.longtail.objectives import layout_of
from hlrs.nas.derived import DerivedNetwork
from hlrs.nas.genotype import Genotype, from_json
from hlrs.nas.network import BranchedNetwork
from hlrs.nas.resnet import ResNet


def read_genotype(path: Path) -> Genotype:
    """Read a genotype from JSON; UserError if it is not one."""
    return from_json(read_json(path), str(path))


def derived_network(
    genotype: str | None,
    resnet: int | None,
    recipe: Retrain,
    stem: str,
    in_channels: int,
    classes: int,
) -> BranchedNetwork:
    """Build the network to retrain, of the genotype in a file or a ResNet of depth `resnet`.

    Its weights have PyTorch's initialisation.
    """
    layout = {"in_channels": in_channels, "classes": classes, **layout_of(recipe.objective)}
    if resnet is not None:
        return ResNet(resnet, **layout)
    assert genotype is not None  # hlrs.pipeline.plan gives one or the other
    return DerivedNetwork(
        read_genotype(Path(genotype)),
        auxiliary=recipe.auxiliary_weight > 0,
        channels=recipe.channels,
        cells=recipe.cells,
        stem=stem,
        **layout,
    )
