"""The authors' code of published recipes, read from clones and run on the CPU: LDAM-DRW, BBN, GLMC and ProCo.

None of it is committed here. Each `run_` trains the authors' network on what our task was given (recipes.py),
by their own loop where that can be called, and returns what each step left.
"""

import contextlib
import io
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock, patch

import numpy as np
import sklearn.metrics  # noqa: F401 - before the authors' modules, which are forgotten afterwards
import torch
import torchvision  # noqa: F401 - likewise
from ruamel.yaml import YAML
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

EPOCHS, CLASSES = 200, 10
CPU = torch.device("cpu")
State = dict[str, Tensor]
Views = list[tuple[Tensor, Tensor]]  # images and labels of the views in a step


class Step(NamedTuple):
    """What a step left: its loss, then weights and running statistics by their names in our network."""

    loss: float
    state: State


@dataclass
class Given:
    """What our side did in the chosen epochs, and what the authors' program needs to do the same."""

    epochs: Sequence[int]
    start: State
    counts: list[int]  # training images per class
    rates: list[float]  # learning rates of all epochs
    draws: dict[str, list[Any]] = field(default_factory=dict)
    views: dict[int, list[Views]] = field(default_factory=dict)  # by epoch and step
    steps: list[Step] = field(default_factory=list)


Theirs = tuple[list[Step], list[float]]  # steps, learning rates of all epochs


@dataclass(frozen=True)
class Program:
    """An authors' program: repository, folder of the modules, a file that it must have, packages replaced."""

    repository: str
    folder: str
    file: str
    stubs: dict[str, Any] = field(default_factory=dict)


def stay(own: Any, *_: Any, **__: Any) -> Any:
    """Return a tensor or module where it is, instead of moving it to a GPU."""
    return own


@contextlib.contextmanager
def authors_modules(folder: Path, stubs: dict[str, Any]) -> Iterator[None]:
    """Let the authors' modules be imported and run in float64 on the CPU; forget them afterwards.

    Packages that draw, log or parse options are stubs.
    """
    stubs = dict.fromkeys(("matplotlib", "matplotlib.pyplot", "tensorboardX"), MagicMock()) | stubs

    def where(condition: Tensor, *values: Tensor, original: Any = torch.where) -> Tensor:
        return original(condition.bool(), *values)  # type: ignore[no-any-return] # bytes, before torch 2

    before = set(sys.modules)
    with contextlib.ExitStack() as stack:
        for owner, name, value in (
            (torch.Tensor, "cuda", stay),
            (nn.Module, "cuda", stay),
            (nn, "DataParallel", lambda network: network),
            (torch, "FloatTensor", torch.DoubleTensor),
            (torch.cuda, "FloatTensor", torch.DoubleTensor),
            (torch, "where", where),
            (sys, "path", [str(folder), *sys.path]),
        ):
            stack.enter_context(patch.object(owner, name, value))
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float64)
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        sys.modules.update(stubs)
        try:
            yield
        finally:
            for name in set(sys.modules) - before:
                if name in stubs or lies_in(sys.modules[name], folder):
                    del sys.modules[name]


def lies_in(module: types.ModuleType, folder: Path) -> bool:
    """Say whether a module, or a package without a file, was imported from a folder."""
    paths = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", [])]
    return any(folder in Path(path).parents for path in paths)


@contextlib.contextmanager
def recording(network: nn.Module, given: Given, names: Callable[[str], str | None]) -> Iterator[list[Step]]:
    """Give the authors' network our weights, and record the steps taken on it.

    `names` maps our names to the authors', or to None. LDAM's classifier is ours transposed.
    """
    known = {name: their for name in given.start if (their := names(name)) is not None}
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    turned = {name for name, their in known.items() if given.start[name].shape != shapes[their]}
    turn = {name: Tensor.t if name in turned else Tensor.clone for name in known}
    network.load_state_dict({their: turn[name](given.start[name]) for name, their in known.items()})
    steps, losses, backward = list[Step](), list[float](), Tensor.backward

    def keep_loss(loss: Tensor, *arguments: Any, **options: Any) -> None:
        losses.append(loss.item())
        backward(loss, *arguments, **options)

    def keep_state(*_: Any) -> None:
        state = network.state_dict()
        steps.append(
            Step(losses[-1], {name: turn[name](state[their]).clone() for name, their in known.items()})
        )

    hook = register_optimizer_step_post_hook(keep_state)
    try:
        with patch.object(Tensor, "backward", keep_loss):
            yield steps
    finally:
        hook.remove()


class Loader:
    """Yields, like the authors' loaders, the steps of one epoch after the other; none but in those chosen."""

    def __init__(self, given: Given, arrange: Callable[[Views], Any]) -> None:
        self.given, self.arrange, self.epoch = given, arrange, -1

    def __iter__(self) -> Iterator[Any]:
        self.epoch += 1
        return map(self.arrange, self.given.views.get(self.epoch, []))

    def __len__(self) -> int:
        return len(self.given.views.get(self.epoch, []))


def resnet_name(name: str) -> str:
    """Return the authors' name of a weight of our ResNet-32, all of whom took theirs from one program."""
    inner = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2"}
    if found := re.fullmatch(r"stem\.(\d)\.(.*)", name):
        return f"{inner[found[1]]}.{found[2]}"
    if found := re.fullmatch(r"shared\.(\d+)\.residual\.(\d)\.(.*)", name):
        layer, block = divmod(int(found[1]), 5)
        return f"layer{layer + 1}.{block}.{inner[found[2]]}.{found[3]}"
    if found := re.fullmatch(r"branches\.(\d)\.0\.residual\.(\d)\.(.*)", name):
        return f"{('cb', 'rb')[int(found[1])]}_block.{inner[found[2]]}.{found[3]}"
    return name


def renamed(name: str, prefixes: dict[str, str]) -> str | None:
    """Return the authors' name of a weight, of which only those outside the ResNet differ."""
    for ours, theirs in prefixes.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return resnet_name(name)


def run_ldam(folder: Path, given: Given, loss: str, rule: str) -> Theirs:
    """Run main_worker of LDAM-DRW's cifar_train.py over all epochs, on images in the chosen ones."""
    import cifar_train as program  # type: ignore[import-not-found]
    from models import resnet_cifar  # type: ignore[import-not-found]

    network = resnet_cifar.resnet32(num_classes=CLASSES, use_norm=loss == "LDAM")
    rates, adjust = list[float](), program.adjust_learning_rate

    def adjust_and_keep(optimizer: Any, *arguments: Any) -> None:
        adjust(optimizer, *arguments)
        rates.append(optimizer.param_groups[0]["lr"])

    options = program.parser.parse_args(["--loss_type", loss, "--train_rule", rule])
    options.store_name, options.root_log = ".", "."
    program.models = types.SimpleNamespace(resnet32=lambda **_: network)
    program.adjust_learning_rate = adjust_and_keep
    program.IMBALANCECIFAR10 = lambda **_: types.SimpleNamespace(get_cls_num_list=lambda: given.counts)
    program.datasets, program.save_checkpoint = MagicMock(), MagicMock()
    program.validate = lambda *_: 0.0
    loader = Loader(given, lambda views: views[0])
    with (
        recording(network, given, lambda name: renamed(name, {"classifier": "linear"})) as steps,
        patch.object(torch.utils.data, "DataLoader", lambda *_, **__: loader),
    ):
        program.main_worker(None, 1, options)
    return steps, rates


class Config(dict[str, Any]):
    """A section of BBN's configuration, instead of one of the package yacs."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__

    def merge(self, other: dict[str, Any]) -> None:
        """Overwrite values, section by section."""
        for key, value in other.items():
            if isinstance(value, dict):
                self[key].merge(value)
            else:
                self[key] = value


def run_bbn(folder: Path, given: Given) -> Theirs:
    """Run train_model of BBN's lib/core/function.py with configs/cifar10.yaml, as main/train.py does.

    In a chosen epoch it takes our learning rate: theirs warms up otherwise.
    """
    from core.combiner import Combiner  # type: ignore[import-not-found]
    from core.function import train_model  # type: ignore[import-not-found]
    from loss.loss import CrossEntropy  # type: ignore[import-not-found]
    from utils.utils import get_model, get_optimizer, get_scheduler  # type: ignore[import-not-found]

    from config import cfg  # type: ignore[attr-defined]

    cfg.merge(YAML(typ="safe", pure=True).load(folder.parent / "configs" / "cifar10.yaml"))
    cfg.CPU_MODE = True
    network = get_model(cfg, CLASSES, CPU, None)
    combiner, optimizer = Combiner(cfg, CPU), get_optimizer(cfg, network)
    scheduler = get_scheduler(cfg, optimizer)
    scheduler.last_epoch = -1  # where torch 1.0.1 of their requirements.txt leaves it, unlike torch 2
    rates, logger = list[float](), MagicMock()

    def name_of(name: str) -> str:
        return name if name.startswith("classifier") else f"backbone.{resnet_name(name)}"

    with recording(network, given, name_of) as steps:
        for epoch, rate in enumerate(given.rates):
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
            for group in optimizer.param_groups:
                group["lr"] = rate
            arguments = epoch + 1, EPOCHS, optimizer, combiner, CrossEntropy(), cfg, logger
            if epoch in given.epochs:
                both = [
                    (*uniform, {"sample_image": other[0], "sample_label": other[1]})
                    for uniform, other in given.views[epoch]
                ]
                train_model(both, network, *arguments)
    return steps, rates


def run_glmc(folder: Path, given: Given) -> Theirs:
    """Run train of GLMC's Trainer.py over all epochs, on images in the chosen ones."""
    import Trainer  # type: ignore[import-not-found]
    from model import ResNet_cifar as networks  # type: ignore[import-not-found]

    network, rates = networks.resnet32(CLASSES), list[float]()
    # the README's command; `beta` is drawn from but not used
    options: dict[str, Any]
    options = {"lr": 0.01, "weight_decay": 5e-3, "label_weighting": 1.2, "contrast_weight": 1}
    options |= {"beta": 0.5, "epochs": EPOCHS, "start_epoch": 0, "num_classes": CLASSES, "dataset": "cifar10"}
    loaders = [
        Loader(given, lambda v, first=first: ((v[first][0], v[first + 1][0]), v[first][1]))
        for first in (0, 2)
    ]
    trainer = Trainer.Trainer(
        types.SimpleNamespace(gpu=None, print_freq=EPOCHS, **options),
        model=network,
        train_loader=loaders[0],
        weighted_train_loader=loaders[1],
        per_class_num=np.array(given.counts),
    )
    Trainer.save_checkpoint = MagicMock()

    def validate(epoch: int) -> float:
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        return 0.0

    trainer.validate = validate
    shares, centres = iter(np.repeat(given.draws["shares"], 2)), iter(given.draws["centres"])
    heads = {
        "training_head.conventional": "fc",
        "classifier": "fc_cb",
        "training_head.projection": "projection_head.0",
        "training_head.prediction": "contrast_head.0",
    }
    with (
        recording(network, given, lambda name: renamed(name, heads)) as steps,
        patch.object(np.random, "beta", lambda *_: next(shares)),
        patch.object(np.random, "randint", lambda _: next(centres)),
    ):
        trainer.train()
    return steps, rates


def run_proco(folder: Path, given: Given) -> Theirs:
    """Run train of ProCo's ProCo_cifar/main.py in the chosen epochs."""
    import main as program  # type: ignore[import-not-found]
    from loss.logitadjust import LogitAdjust  # type: ignore[import-not-found]
    from loss.proco import ProCoLoss  # type: ignore[import-not-found]
    from models import resnet_cifar

    options, rates = program.parser.parse_args([]), list[float]()
    options.world_size = 1
    network = resnet_cifar.Model(
        num_classes=CLASSES, name=options.arch, feat_dim=options.feat_dim, use_norm=options.use_norm
    )
    optimizer = torch.optim.SGD(
        network.parameters(), options.lr, momentum=options.momentum, weight_decay=options.weight_decay
    )
    directions = iter(given.draws["directions"])

    def name_of(name: str) -> str | None:
        if name in ("training_head.sums", "training_head.counts"):
            return None
        found = renamed(name, {"training_head.projection": "head", "classifier": "fc"})
        return found if name.startswith(("training_head", "classifier")) else f"encoder.{found}"

    with (
        recording(network, given, name_of) as steps,
        patch.object(torch, "randn", lambda *_: next(directions)),
        patch.object(torch.distributed, "all_gather", lambda gathered, own: gathered[0].copy_(own)),
    ):
        classes, logits = ProCoLoss(options.feat_dim, options.temp, CLASSES), LogitAdjust(given.counts)
        for epoch in range(EPOCHS):
            program.adjust_lr(optimizer, epoch, options)
            rates.append(optimizer.param_groups[0]["lr"])
            if epoch in given.epochs:
                batches = [([images for images, _ in views], views[0][1]) for views in given.views[epoch]]
                program.train(batches, network, logits, classes, optimizer, epoch, options, MagicMock())
    return steps, rates


PROGRAMS = {
    "ldam": Program("kaidic/LDAM-DRW", "", "cifar_train.py"),
    "bbn": Program(
        "megvii-research/BBN",
        "lib",
        "core/function.py",
        {
            "yacs": MagicMock(),
            "yacs.config": types.SimpleNamespace(CfgNode=Config),
            "_init_paths": MagicMock(),
        },
    ),
    "glmc": Program("ynu-yangpeng/GLMC", "GLMC-2023", "Trainer.py"),
    "proco": Program("LeapLabTHU/ProCo", "ProCo_cifar", "loss/proco.py"),
}


def find_modules(option: str, clone: Path) -> Path:
    """Return the folder of a clone's modules; SystemExit if it does not hold them."""
    program = PROGRAMS[option]
    folder = clone.resolve() / program.folder
    if not (folder / program.file).is_file():
        sys.exit(
            f"{folder / program.file}: missing; clone github.com/{program.repository}, pass --{option} CLONE"
        )
    return folder


def commit_of(clone: Path) -> str:
    """Return a clone's commit, "unknown" where it has no history."""
    command = ["git", "-C", str(clone), "log", "-1", "--format=%h"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
