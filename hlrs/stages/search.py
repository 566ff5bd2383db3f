"""Search: the supernet's weights and alphas, trained in turn on the two halves of the training images."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hlrs.artifacts.jobs import Job
from hlrs.artifacts.tables import SCHEMAS, write_table
from hlrs.config.jobs import RandomSearchJob, SearchJob
from hlrs.config.methods import PcDarts
from hlrs.data.batches import Batches, batches_of, steps_per_epoch
from hlrs.data.images import generator
from hlrs.longtail.objectives import Mixing, Outcome, demands_of, make_objective, mixing_at
from hlrs.nas import arch_lr, bilevel, collapse, genotype
from hlrs.nas.network import initialize
from hlrs.nas.ops import triton_available
from hlrs.nas.supernet import Supernet, initialize_alphas
from hlrs.stages.images import SplitImages, augmentation_of
from hlrs.training.checkpoints import pack_optimizer, prefixed, unpack_optimizer, unprefixed
from hlrs.training.cuda_graphs import GraphCache
from hlrs.training.device import prepare
from hlrs.training.loop import fit
from hlrs.training.optim import make_sgd, optimizer_step, set_lr, settable, sgd_lr
from hlrs.training.task import step_metrics
from hlrs.training.throughput import Throughput, measure

CELLS = ("normal", "reduce")
HALVES = ("weights", "alphas")

Architecture = dict[str, npt.NDArray[np.float32]]  # name -> values


def run(job: Job) -> dict[str, Any]:
    """Write alphas.parquet (all epochs) and history.parquet (an epoch a row)."""
    if job.params["searcher"]["kind"] == "random":
        return _random(job)
    params = SearchJob.model_validate(job.params)
    device = prepare(params.search.threads)
    images = SplitImages(job, params.images, HALVES, device)
    task = SearchTask(params, images, device)
    position = fit(task, job, device)
    _write(job, params.search.nodes, task.trajectory, position.rows)
    own = {"gpu_kernels": not triton_available.missing()} if device.type == "cuda" else {}
    return {"device": device.type, **own, **position.facts}


def probe(job: Job, epochs: Sequence[int], seconds: float) -> list[Throughput]:
    """The pace of a search in each of some epochs, measured over so many seconds each; it is not written."""
    params = SearchJob.model_validate(job.params)
    device = prepare(params.search.threads)
    images = SplitImages(job, params.images, HALVES, device)
    task = SearchTask(params, images, device)
    return [measure(task, epoch, seconds) for epoch in epochs]


def _random(job: Job) -> dict[str, Any]:
    """Independent, equally distributed alphas: DARTS's rule makes a uniformly random genotype of them."""
    params = RandomSearchJob.model_validate(job.params)
    draw = generator(params.seed, "search", "random")
    shape = (len(genotype.edges(params.nodes)), len(genotype.PRIMITIVES))
    alphas = {f"alphas.{cell}": torch.randn(shape, generator=draw).numpy() for cell in CELLS}
    _write(job, params.nodes, [alphas], [])
    return {"device": "cpu", "resumes": 0, "throughput": []}


class SearchTask:
    """DARTS's alternating descent (Liu et al. 2019, algorithm 1) under any objective and schedule."""

    images_per_step = 0  # set by the epoch: fewer without alpha steps
    sums = 5  # loss and accuracy on the weights' images, on the alphas' images, mixing coefficient

    def __init__(self, params: SearchJob, images: SplitImages, device: torch.device) -> None:
        self.params, self.epochs = params, params.search.epochs
        self.on_weights, self.on_alphas = (
            make_objective(params.objective, images.counts(half), for_alphas=half == "alphas")
            for half in HALVES
        )
        self.demands = demands_of(params.objective)
        self.samplers = self.demands.samplers
        self.supernet = _make_supernet(params, images).to(device)
        self.alphas = list(self.supernet.architecture().values())  # and betas
        self.weights = self.supernet.weights()
        adam = params.search.alphas
        self.weights_optimizer = make_sgd(self.weights, params.search.weights)
        self.on_weights.attach(self.supernet, self.weights_optimizer)
        self.alphas_optimizer = torch.optim.Adam(
            self.alphas,
            settable(adam.lr, device),
            (adam.betas[0], adam.betas[1]),
            weight_decay=adam.weight_decay,
            fused=True,
            capturable=device.type == "cuda",
        )
        self.recorded = GraphCache(device)
        self._feed(images)
        self.trajectory = [self._architecture()]
        start = torch.randn(
            sum(parameter.numel() for parameter in self.alphas),
            generator=generator(params.seed, "search", "eigenvalue"),
        )
        self.watch = collapse.Watch(start.to(device), **dict(params.search.collapse))

    def _feed(self, images: SplitImages) -> None:
        search, augment = self.params.search, self.params.images.augment
        augmentation = augmentation_of(augment, search.cutout)
        positions = {half: images.positions(half) for half in HALVES}
        self.steps = steps_per_epoch(len(positions["weights"]), search.batch_size)
        self.training, self.validation = (
            Batches(
                images.set,
                positions[half],
                self.samplers,
                search.batch_size,
                self.steps,
                augmentation,
                f"{self.params.seed}/search/{half}",
            )
            for half in HALVES
        )

    def begin(self, epoch: int) -> None:
        """Learning rates at t = epoch/epochs, as DARTS's and BBN's code have them, and the epoch's order."""
        self.epoch, self.t = epoch, epoch / self.epochs
        self.weights_lr = sgd_lr(self.params.search.weights, epoch, self.epochs)
        self.alphas_lr = self._alphas_lr()
        set_lr(self.weights_optimizer, self.weights_lr)
        set_lr(self.alphas_optimizer, self.alphas_lr)
        fed = [self.training, self.validation] if self.alphas_lr > 0 else [self.training]
        self.images_per_step = sum(batches.batch_size for batches in fed) * len(self.samplers)
        for batches in fed:
            batches.begin(epoch, self.t)
        self.compute = self.recorded(self._compute, self.baked())

    def baked(self) -> tuple[Any, ...]:
        """The epoch's numbers that a recorded step holds, others than its inputs and what lies on the GPU."""
        stepped = self.alphas_lr > 0
        unrolled_at = self.weights_lr if stepped and self.params.searcher.order == 2 else None
        return stepped, self.on_weights.loss.weighs(self.t), self.on_alphas.loss.weighs(self.t), unrolled_at

    def _alphas_lr(self) -> float:
        """By the schedule; 0, and there are no alphas' steps, before the warm-up's end or after a stop."""
        searcher = self.params.searcher
        if self.watch.stopped or (isinstance(searcher, PcDarts) and self.t < searcher.warm_up):
            return 0.0
        mixing = mixing_at(self.params.objective, self.t, "")
        return self.params.search.alphas.lr * arch_lr.factor(self.params.arch_lr, self.t, mixing)

    def _mixing(self, step: int) -> float | None:
        purpose = f"{self.params.seed}/search/mixing/{self.epoch}/{step}"
        return mixing_at(self.params.objective, self.t, purpose)

    def step(self, step: int) -> Tensor:
        """The alphas' step on their batch, then the weights' step on theirs."""
        batches = [*self.training(step), *(self.validation(step) if self.alphas_lr > 0 else [])]
        return self.compute(self._mixing(step), *itertools.chain(*batches))

    def _compute(self, mixing: Mixing, *fields: Any) -> Tensor:
        """A step on the batches with these fields: of the weights' images, then of the alphas' images."""
        batches = batches_of(fields)
        on_weights, on_alphas = batches[: len(self.samplers)], batches[len(self.samplers) :]

        def training() -> Outcome:
            return self.on_weights(self.supernet, on_weights, self.t, mixing)

        def validation() -> Outcome:
            return self.on_alphas(self.supernet, on_alphas, self.t, mixing)

        seen = self._step_alphas(training, validation) if on_alphas else (0.0, 0.0)
        with bilevel.frozen(self.alphas):
            outcome = training()
            optimizer_step(
                outcome.loss, self.weights, self.weights_optimizer, self.params.search.weights.clip
            )
        return step_metrics(*outcome, *seen, 0.0 if mixing is None else mixing)

    def _step_alphas(self, training: Callable[[], Outcome], on_alphas: Callable[[], Outcome]) -> Outcome:
        """One Adam step; returns loss and accuracy on the alphas' batch, at w or at the unrolled w′."""
        seen: list[Outcome] = []

        def validation() -> Tensor:
            seen.append(on_alphas())
            return seen[-1].loss

        if self.params.searcher.order == 1:
            gradients = bilevel.first_order(self.alphas, self.weights, validation)
        else:
            gradients = bilevel.second_order(
                self.alphas,
                self.weights,
                lambda: training().loss,
                validation,
                self._momentum(),
                self.weights_lr,
            )
        for alphas, gradient in zip(self.alphas, gradients, strict=True):
            alphas.grad = gradient
        self.alphas_optimizer.step()
        return seen[0]

    def _momentum(self) -> list[Tensor]:
        """What SGD would add to the gradient: weight decay · w + momentum · buffer."""
        sgd = self.params.search.weights
        added = []
        for weight in self.weights:
            buffer = self.weights_optimizer.state[weight].get("momentum_buffer")
            decay = sgd.weight_decay * weight.detach()
            added.append(decay if buffer is None else decay + sgd.momentum * buffer)
        return added

    def end(self, means: list[float]) -> dict[str, Any]:
        """The epoch's row of history.parquet, after the watch had a look."""
        stepped = self.alphas_lr > 0
        eigenvalue = self.watch.estimate(self._look)
        self.trajectory.append(self._architecture())
        if stepped:
            skips = genotype.derive(*_weighed(self.trajectory[-1])).skips("normal")
            self._go_back(self.watch.judge(eigenvalue, skips))
        alphas, edge_weights = _weighed(self.trajectory[-1])
        derived = genotype.derive(alphas, edge_weights)
        return {
            "epoch": self.epoch,
            "progress": self.t,
            "weights_loss": means[0],
            "weights_accuracy": means[1],
            "alphas_loss": means[2] if stepped else None,
            "alphas_accuracy": means[3] if stepped else None,
            "weights_lr": self.weights_lr,
            "alphas_lr": self.alphas_lr,
            "mixing": means[4] if self.demands.mixing is not None else None,
            **{f"entropy_{cell}": genotype.entropy(alphas[cell]) for cell in CELLS},
            **{f"skips_{cell}": derived.skips(cell) for cell in CELLS},
            "eigenvalue": eigenvalue,
            "stopped": int(self.watch.stopped),
        }

    def _look(self, vector: Tensor) -> Tensor:
        """What the watch finds on a quarter of the epoch's first batch of the alphas' images.

        On these, second derivatives need about the memory of a training step on the whole batch.
        """
        if self.alphas_lr == 0:
            self.validation.begin(self.epoch, self.t)
        few = max(2, self.validation.batch_size // 4)
        batches = [
            batch._replace(images=batch.images[:few], labels=batch.labels[:few])
            for batch in self.validation(0)
        ]
        sharpness = self.recorded(self._sharpness, self.on_alphas.loss.weighs(self.t))
        return sharpness(vector, self._mixing(0), *itertools.chain(*batches))

    def _sharpness(self, vector: Tensor, mixing: Mixing, *fields: Any) -> Tensor:
        """The loss's sharpness on the batches with these fields, sought from a vector."""
        loss = self.on_alphas(self.supernet, batches_of(fields), self.t, mixing).loss
        return self.watch.sharpness(loss, self.alphas, self.weights, vector)

    def _architecture(self) -> Architecture:
        named = self.supernet.architecture().items()
        return {name: parameter.detach().cpu().numpy().copy() for name, parameter in named}

    def _go_back(self, epochs: int) -> None:
        """Take the architecture of so many epochs before this one for this one's."""
        self.trajectory[-1] = self.trajectory[-1 - epochs]
        with torch.no_grad():
            for name, parameter in self.supernet.architecture().items():
                parameter.copy_(torch.from_numpy(self.trajectory[-1][name]))

    def state(self) -> dict[str, Tensor]:
        """Weights, architecture, both optimizers, the watch, and the architectures of the epochs so far."""
        trajectory = {
            name: torch.from_numpy(np.stack([architecture[name] for architecture in self.trajectory]))
            for name in self.supernet.architecture()
        }
        return {
            **prefixed("net", self.supernet.state_dict()),
            **prefixed("sgd", pack_optimizer(self.weights_optimizer)),
            **prefixed("adam", pack_optimizer(self.alphas_optimizer)),
            **prefixed("watch", self.watch.state()),
            **prefixed("trajectory", trajectory),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over a state."""
        self.recorded.forget()  # the optimizers' states move to other memory
        self.supernet.load_state_dict(unprefixed("net", state))
        unpack_optimizer(self.weights_optimizer, unprefixed("sgd", state))
        unpack_optimizer(self.alphas_optimizer, unprefixed("adam", state))
        self.watch.load(unprefixed("watch", state))
        trajectory = unprefixed("trajectory", state)
        epochs = zip(*(tensor.numpy() for tensor in trajectory.values()), strict=True)
        self.trajectory = [dict(zip(trajectory, values, strict=True)) for values in epochs]


def _make_supernet(params: SearchJob, images: SplitImages) -> Supernet:
    searcher = params.searcher
    partial: dict[str, Any] = {}
    if isinstance(searcher, PcDarts):
        partial = {"portion": searcher.portion, "edge_normalization": searcher.edge_normalization}
    supernet = Supernet(
        nodes=params.search.nodes,
        **partial,
        in_channels=images.channels,
        classes=len(images.classes),
        channels=params.search.channels,
        cells=params.search.cells,
        recompute=params.search.recompute,
        stem=images.stem,
        **demands_of(params.objective).layout(),
    )
    initialize(supernet, generator(params.seed, "search", "weights"))
    initialize_alphas(supernet, generator(params.seed, "search", "alphas"))
    return supernet


def _weighed(architecture: Architecture) -> tuple[Architecture, Architecture]:
    """Alphas [edges, primitives] and edge weights [edges] of each cell; the weights are 1 without betas."""
    alphas = {cell: architecture[f"alphas.{cell}"] for cell in CELLS}
    edge_weights = {
        cell: genotype.edge_softmax(architecture[f"betas.{cell}"])
        if f"betas.{cell}" in architecture
        else np.ones(len(alphas[cell]), dtype=np.float32)
        for cell in CELLS
    }
    return alphas, edge_weights


def _write(job: Job, nodes: int, trajectory: list[Architecture], history: list[dict[str, Any]]) -> None:
    cells = list(zip(*_alpha_rows(nodes, trajectory), strict=True))
    write_table(job.output("alphas.parquet"), "alphas", dict(zip(SCHEMAS["alphas"], cells, strict=True)))
    columns = {name: [row[name] for row in history] for name in SCHEMAS["search_history"]}
    write_table(job.output("history.parquet"), "search_history", columns)


def _alpha_rows(nodes: int, trajectory: list[Architecture]) -> Iterator[tuple[Any, ...]]:
    """The rows of alphas.parquet."""
    for epoch, architecture in enumerate(trajectory):
        alphas, edge_weights = _weighed(architecture)
        for cell in CELLS:
            weights = genotype.softmax(alphas[cell])
            for row, (node, state) in enumerate(genotype.edges(nodes)):
                edge = epoch, cell, node, state
                for column, primitive in enumerate(genotype.PRIMITIVES):
                    own = alphas[cell][row, column], weights[row, column], edge_weights[cell][row]
                    yield *edge, primitive, *own
