"""Networks of DARTS's cells as models of timm."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hlrs.errors import UserError
from hlrs.inference.python import PARAMS, Network, load
from hlrs.nas.genotype import Genotype
from hlrs.nas.network import BranchedNetwork, CellNetwork, chain
from hlrs.nas.ops.packed import unpack

CONFIG = {  # in timm's words
    "input_size": (3, 32, 32),
    "num_classes": 10,
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "classifier": "network.classifier",
}


class TimmNetwork(nn.Module):
    """A network of cells with the methods of timm's models; `drop_rate`: of dropout before the classifier."""

    def __init__(self, network: CellNetwork, drop_rate: float) -> None:
        super().__init__()
        self.network, self.drop_rate = network, drop_rate
        self.num_features = self.head_hidden_size = network.branch_count * network.width
        self.num_classes = len((network.class_specific or network.classifier).weight)

    def get_classifier(self) -> nn.Module:
        """Return what maps features to logits; of a dual network, the class-specific part."""
        return self.network.class_specific or self.network.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a linear one; none, for 0 classes. Pooling stays the mean."""
        device = next(self.network.parameters()).device
        fresh = nn.Linear(self.num_features, num_classes, device=device) if num_classes else nn.Identity()
        self.num_classes, self.network.class_specific = num_classes, None
        self.network.classifier = fresh  # type: ignore[assignment]

    def forward_features(self, images: Tensor) -> Tensor:
        """Compute the maps before pooling, of all branches: float [batch, num_features, height, width]."""
        shared, width = self.network.backbone(images), self.network.width
        maps = [chain(branch.children(), *shared)[1] for branch in self.network.branches.children()]
        return torch.cat([unpack(x, x.shape[1] // width) for x in maps], 1)

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits [batch, num_classes], or with `pre_logits` the pooled features."""
        features = F.dropout(maps.mean((2, 3)), self.drop_rate, self.training)
        logits: Tensor = self.get_classifier()(features)
        return features if pre_logits else logits

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [batch, num_classes] of float [batch, in_chans, height, width]."""
        return self.forward_head(self.forward_features(images))


def make(network: BranchedNetwork, num_classes: int, in_chans: int, drop_rate: float = 0.0) -> TimmNetwork:
    """Wrap a network, with a fresh classifier for another number of classes.

    UserError for a network that is not of DARTS's cells, and for images of other channels than it reads.
    """
    if not isinstance(network, CellNetwork):
        raise UserError(
            "this is no network of DARTS's cells, as timm's models of hlrs are; use hlrs.load or hlrs.Network"
        )
    own = next(module.in_channels for module in network.stem.modules() if isinstance(module, nn.Conv2d))
    if in_chans != own:
        raise UserError(f"in_chans: {in_chans}, but the network reads images of {own}: leave it out")
    model = TimmNetwork(network, drop_rate)
    if num_classes != model.num_classes:
        model.reset_classifier(num_classes)
    return model.train()  # as timm's own models are


def hlrs_cells(
    pretrained: bool = False,
    *,
    genotype: Genotype | str,
    channels: int = 36,
    cells: int = 20,
    stem: Literal["cifar", "imagenet"] = "cifar",
    seed: int = 0,
    pretrained_cfg: dict[str, Any] | None = None,
    **options: Any,
) -> TimmNetwork:
    """Build the network of a genotype, as `hlrs.Network` does; `options` are timm's."""

    def build(num_classes: int, in_chans: int, **rest: Any) -> TimmNetwork:
        classes = max(1, num_classes)  # without any, timm's users mean features
        network = Network(genotype, channels, cells, classes, in_channels=in_chans, stem=stem, seed=seed)
        return make(network, num_classes, in_chans, **rest)

    return _built(build, "hlrs_cells", pretrained, pretrained_cfg or CONFIG, options)


def hlrs_trained(
    pretrained: bool = False,
    *,
    run: str,
    params: str = PARAMS,
    pretrained_cfg: dict[str, Any] | None = None,
    **options: Any,
) -> TimmNetwork:
    """Load a network as `hlrs.load` does, always with its weights; `options` are timm's.

    For another number of classes than the training's, the classifier is fresh.
    """
    classifier = load(run, "cpu", params)
    images, names = classifier.facts.preprocessing, classifier.classes
    config = CONFIG | {
        "input_size": tuple(images.shape),
        "mean": tuple(images.mean),
        "std": tuple(images.std),
        "num_classes": len(names),
        "label_names": tuple(names),
    }
    build = partial(make, classifier.network)
    return _built(build, "hlrs_trained", False, config | (pretrained_cfg or {}), options)


def _built(
    build: Callable[..., TimmNetwork],
    name: str,
    pretrained: bool,
    config: dict[str, Any],
    options: dict[str, Any],
) -> TimmNetwork:
    from timm.models import build_model_with_cfg

    model: TimmNetwork = build_model_with_cfg(build, name, pretrained, config, **options)
    return model


def register_timm() -> None:
    """Have `timm.create_model` know "hlrs_cells" and "hlrs_trained"; UserError if timm is not installed."""
    try:
        from timm.models import is_model, register_model
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is missing; `pip install 'hlrs[timm]'`") from None
    for model in (hlrs_cells, hlrs_trained):
        if not is_model(model.__name__):
            register_model(model)
