"""Search: train the supernet's weights and architecture in turn, on one half of the training images each."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hlrs.artifacts.jobs import Job
from hlrs.artifacts.tables import SCHEMAS, write_table
from hlrs.artifacts.tensors import write_tensors
from hlrs.config.base import Kinds
from hlrs.config.jobs import DrawJob, ScoreJob, SearchJob, parse
from hlrs.config.methods import Relaxation, Softmax
from hlrs.config.recipes import Adam
from hlrs.config.spaces import Space
from hlrs.data.augment import Augmentation, send
from hlrs.data.batches import Batches, batches_of, steps_per_epoch
from hlrs.data.images import generator
from hlrs.errors import UserError
from hlrs.longtail.mixing import mixing_at
from hlrs.longtail.objectives import Mixing, Outcome, demands_of, layout_of, make_objective
from hlrs.nas import arch_lr, bilevel, selection, trajectory
from hlrs.nas.arithmetic import OF_SUPERNETS
from hlrs.nas.collapse import EarlyStopping
from hlrs.nas.entropy import mean_entropy, penalty_weight
from hlrs.nas.mixture import Mixture, continuous, decoded
from hlrs.nas.network import initialize
from hlrs.nas.ops import triton_available
from hlrs.nas.relaxation import Relax, relaxed
from hlrs.nas.searchers.base import Searcher
from hlrs.nas.searchers.table import DRAWS, SEARCHERS, WINDOWS
from hlrs.nas.spaces import SUPERNETS
from hlrs.nas.supernet import Supernet, initialize_alphas
from hlrs.nas.trajectory import Architecture, Trajectory
from hlrs.stages.images import SplitImages, augmentation_of
from hlrs.stages.networks import load_trained
from hlrs.stages.scoring import ScoreTask
from hlrs.stages.sizes import draw_fitting, limit_of
from hlrs.training.checkpoints import pack_optimizer, prefixed, unpack_optimizer, unprefixed
from hlrs.training.cuda_graphs import GraphCache
from hlrs.training.device import prepare
from hlrs.training.loop import fit
from hlrs.training.optim import learning_rate, make_sgd, optimizer_step, set_lr, settable
from hlrs.training.task import Task, step_metrics
from hlrs.training.throughput import Throughput, measure

HALVES = ("weights", "alphas")
UNSEEN: tuple[Tensor | float, ...] = (0.0, 0.0, 0.0, 0.0)  # of a step in which the alphas take none
TUNING = 0.1  # learning rate of the weights between two decisions, as a factor (DARTS-PT's code)


def run(job: Job) -> dict[str, Any]:
    """Write alphas.parquet (all epochs), history.parquet (one row per epoch) and supernet.safetensors.

    The latter holds the supernet's last weights and architecture; nothing where no supernet is trained.
    """
    params = parse(job.stage, job.params)
    return SEARCHES[type(params)](job, params)


def probe(job: Job, epochs: Sequence[int], seconds: float) -> list[Throughput]:
    """Measure a search's throughput for so many seconds in each of the epochs; writes nothing."""
    task = _make_task(job, SearchJob.model_validate(job.params))
    return [measure(task, epoch, seconds) for epoch in epochs]


def _train(job: Job, params: SearchJob) -> dict[str, Any]:
    task = _make_task(job, params)
    if task.window is not None and task.window.steps > task.steps * task.epochs:
        raise UserError(
            f"searcher.steps: {task.window.steps} is more than the {task.steps * task.epochs} steps of the "
            "search, so its alphas would take none; lower it, or raise search.epochs"
        )
    position = fit(task, job, task.device)
    found, relaxation = task.trajectory.architectures, params.searcher.relaxation
    _write(job, params.search.space, params.search.nodes, found, position.rows, relaxation)
    write_tensors(job.output("supernet.safetensors"), task.supernet.state_dict(), {})
    on_gpu = {"gpu_kernels": not triton_available.missing()} if task.device.type == "cuda" else {}
    return {"device": task.device.type, **on_gpu, **position.facts}


def _draw(job: Job, params: DrawJob) -> dict[str, Any]:
    draw = generator(params.seed, "search", params.searcher.kind)
    one = partial(DRAWS[type(params.searcher)], params.searcher, params.space, params.nodes, draw)
    drawn = draw_fitting(one, params.space, limit_of(params.limit, params.space, job.inputs))
    _write(job, params.space, params.nodes, [drawn], [])
    write_tensors(job.output("supernet.safetensors"), {}, {})
    return {"device": "cpu", "resumes": 0, "throughput": []}


def _score(job: Job, params: ScoreJob) -> dict[str, Any]:
    device = prepare(params.search.threads)
    limit = limit_of(params.limit, params.search.space, job.inputs)
    task = ScoreTask(params, SplitImages(job, params.images, ["weights"], device), device, limit)
    position = fit(task, job, device)
    _write(job, params.search.space, params.search.nodes, [task.candidate(task.best)], [])
    write_tensors(job.output("supernet.safetensors"), {}, {})
    found = {"candidates": task.steps, "best": task.best, "score": int(task.scores[task.best])}
    return {"device": device.type, **found, **position.facts}


SEARCHES: Kinds[Callable[..., dict[str, Any]]] = {SearchJob: _train, DrawJob: _draw, ScoreJob: _score}


class SearchTask(Task):
    """Alternating descent (DARTS, Liu et al. 2019, algorithm 1) for any searcher, objective, schedule."""

    images_per_step = 0  # set per epoch: fewer without architecture steps
    # loss and accuracy on the weights' images, on the alphas' images; mixing coefficient; size of both parts
    # of an estimated gradient
    sums = 7

    def __init__(self, params: SearchJob, images: SplitImages, device: torch.device) -> None:
        self.params, self.device, self.epochs = params, device, selection.epochs(params)
        self.searcher = SEARCHERS[type(params.searcher)](params.searcher)
        self.on_weights, self.on_alphas = (
            make_objective(params.objective, images.counts(half), for_alphas=half == "alphas")
            for half in HALVES
        )
        self.supernet = _make_supernet(params, self.searcher, images).to(device)
        self.alphas = list(self.supernet.architecture().values())  # and betas
        self.weights = self.supernet.weights()
        self.weights_optimizer = make_sgd(self.weights, params.search.weights)
        self.on_weights.attach(self.supernet, self.weights_optimizer)
        self.alphas_optimizer = _make_adam(self.alphas, params.search.alphas, device)
        window = WINDOWS.get(type(params.searcher))
        self.window = window and window(params.searcher, self.alphas, self.weights_optimizer)
        self.captured = GraphCache(device)
        self.training, self.validation, self.evaluation = _make_batches(params, images)
        self.steps = self.training.steps
        self.trajectory = Trajectory(self.supernet.architecture())
        start = torch.randn(
            sum(parameter.numel() for parameter in self.alphas),
            generator=generator(params.seed, "search", "eigenvalue"),
        )
        self.early_stopping = EarlyStopping(params.search.collapse, start.to(device))

    def begin(self, epoch: int) -> None:
        """Set learning rates at t = epoch/epochs, as DARTS's and BBN's code do; draw the epoch's order."""
        self.epoch, self.t = epoch, selection.progress(self.params, epoch)
        self.weights_lr = self._weights_lr()
        self.alphas_lr = self._alphas_lr()
        entropy = self.params.search.entropy
        self.entropy_weight = None if entropy is None else penalty_weight(entropy, self.t)
        set_lr(self.weights_optimizer, self.weights_lr)
        set_lr(self.alphas_optimizer, self.alphas_lr)
        if self.params.search.halves == "redrawn":
            self._redraw_halves()
        fed = [self.training, self.validation] if self.alphas_lr > 0 else [self.training]
        self.images_per_step = sum(batches.batch_size * len(batches.samplers) for batches in fed)
        self.training.begin(epoch, self.t)
        self.alphas_steps = self._alphas_steps()
        if self.alphas_steps:
            self.validation.begin(epoch, self.t, self.alphas_steps)
        self.compute = self.captured(self._compute, self.captured_constants())

    def _redraw_halves(self) -> None:
        """Draw the images of both halves for this epoch: of each class as many as before."""
        draw = generator(self.params.seed, "search", "halves", self.epoch)
        halves = redrawn(self.training, self.validation, draw)
        for batches, positions in zip((self.training, self.validation), halves, strict=True):
            batches.choose(positions)
        self.evaluation.choose(halves[1])

    def captured_constants(self) -> tuple[Any, ...]:
        """Return the epoch's constants that a captured step holds besides its inputs and device memory."""
        return self.alphas_lr > 0, self.on_weights.loss.weighs(self.t), self.on_alphas.loss.weighs(self.t)

    def _weights_lr(self) -> float:
        """Return the schedule's rate; while decisions are made, a tenth of the highest."""
        weights, epochs = self.params.search.weights, self.params.search.epochs
        return learning_rate(weights, self.epoch, epochs) if self.epoch < epochs else TUNING * weights.lr

    def _alphas_lr(self) -> float:
        """Return the schedule's rate; 0, which skips the steps, while the searcher rests or after a stop."""
        if self.early_stopping.stopped or self.searcher.rests(self.t):
            return 0.0
        mixing = mixing_at(self.params.objective, self.t, "")
        return self.params.search.alphas.lr * arch_lr.factor(self.params.arch_lr, self.t, mixing)

    def _alphas_steps(self) -> range:
        """Return the epoch's steps in which the architecture takes one, too."""
        if self.alphas_lr == 0:
            return range(0)
        return range(self.steps) if self.window is None else self.window.ends(self.steps)

    def _mixing(self, step: int) -> float | None:
        purpose = f"{self.params.seed}/search/mixing/{self.epoch}/{step}"
        return mixing_at(self.params.objective, self.t, purpose)

    def _draw(self, purpose: str, step: int) -> Tensor | None:
        """Let the searcher draw for the passes of one purpose in a step."""
        draw = generator(self.params.seed, "search", "draw", purpose, self.epoch, step)
        drawn = self.searcher.draw(self.supernet.shape, draw, self.epoch, self.params.search.epochs)
        return None if drawn is None else send(drawn, self.device)

    def step(self, step: int) -> Tensor:
        """Step the architecture on its batch, then the weights on theirs; in windows, the other way round."""
        batches, drawn_for_alphas, compute = self.training(step), None, self.compute
        if step in self.alphas_steps:
            batches, drawn_for_alphas = batches + self.validation(step), self._draw("alphas", step)
        if self.window is not None and self.alphas_lr > 0:
            if self.window.starts(step):
                self.window.start(generator(self.params.seed, "search", "directions", self.epoch, step))
            if step not in self.alphas_steps:
                compute = self.captured(self._compute, self.captured_constants(), "within a window")
        drawn = self._draw("weights", step), drawn_for_alphas
        numbers = self._mixing(step), self.weights_lr, self.entropy_weight
        return compute(*numbers, *drawn, *itertools.chain(*batches))

    def _compute(
        self,
        mixing: Mixing,
        weights_lr: Tensor | float,
        entropy_weight: Tensor | float | None,
        for_weights: Tensor | None,
        for_alphas: Tensor | None,
        *fields: Any,
    ) -> Tensor:
        """Step on the batches with these fields: first those of the weights' images, then the alphas'."""
        batches, samplers = batches_of(fields), len(self.training.samplers)
        on_weights, on_alphas = batches[:samplers], batches[samplers:]

        def training() -> Outcome:
            self.supernet.drawn = for_weights
            return self.on_weights(self.supernet, on_weights, self.t, mixing)

        def validation() -> Outcome:
            self.supernet.drawn = for_alphas
            return self.on_alphas(self.supernet, on_alphas, self.t, mixing)

        def step_weights() -> Outcome:
            clip = self.params.search.weights.clip
            with bilevel.frozen(self.alphas):
                outcome = training()
                optimizer_step(outcome.loss, self.weights, self.weights_optimizer, clip)
            return outcome

        def step_alphas() -> Sequence[Tensor | float]:
            if not on_alphas:
                return UNSEEN
            return self._step_alphas(training, validation, weights_lr, entropy_weight)

        if self.window is None:
            seen, outcome = step_alphas(), step_weights()
        else:
            if self.alphas_lr > 0:
                self.window.follow(step_weights)
            outcome, seen = step_weights(), step_alphas()
        return step_metrics(*outcome, *seen[:2], 0.0 if mixing is None else mixing, *seen[2:])

    def _step_alphas(
        self,
        training: Callable[[], Outcome],
        validation: Callable[[], Outcome],
        weights_lr: Tensor | float,
        entropy_weight: Tensor | float | None,
    ) -> Sequence[Tensor | float]:
        """Take one Adam step; return loss and accuracy on the alphas' batch, at w or at the unrolled w′.

        Behind these the sizes of both parts of an estimated gradient's slope, means over its directions.
        """
        seen, slope = list[Outcome](), list(UNSEEN[2:])

        def penalized() -> Tensor:
            seen.append(validation())
            loss, architecture = seen[-1].loss, self.supernet.architecture()
            penalty = self.searcher.penalty(architecture, self.supernet.drawn)
            if penalty is not None:
                loss = loss + penalty
            return loss if entropy_weight is None else loss + entropy_weight * mean_entropy(architecture)

        if self.window is not None:
            gradients, *parts = self.window.estimate(penalized)
            slope = [part.abs().mean() for part in parts]
        elif self.searcher.order == 1:
            gradients = bilevel.first_order(self.alphas, self.weights, penalized)
        else:
            added, factor = bilevel.sgd_terms(self.weights, self.weights_optimizer)
            gradients = bilevel.second_order(
                self.alphas, self.weights, lambda: training().loss, penalized, added, factor * weights_lr
            )
        for alphas, gradient in zip(self.alphas, gradients, strict=True):
            alphas.grad = gradient
        self.alphas_optimizer.step()
        return [*seen[0], *slope]

    def end(self, means: list[float]) -> dict[str, Any]:
        """Record the architecture, check whether to stop it; return the epoch's row of history.parquet."""
        stepped, tuned = self.alphas_lr > 0, self.epoch >= self.params.search.epochs
        watched = not tuned and self.searcher.warm_up < 1  # else the alphas take no steps
        eigenvalue = self.early_stopping.estimate(self._estimate) if watched else None
        self.trajectory.record()
        relax = relaxed(self.params.searcher.relaxation, self.epoch + 1, self.params.search.epochs)
        if stepped and not tuned:
            found = trajectory.derive(self.params.search.space, self.trajectory.architectures[-1], relax)
            self.trajectory.roll_back(self.early_stopping.update(eigenvalue, found.skips("normal")))
        rounds = selection.rounds_after(self.params, self.epoch)
        if rounds or tuned:
            self._select(rounds)
        ended = self.epoch + 1 == self.epochs
        of_supernet, of_decoded = self._discretize(relax) if ended else (None, None)
        if self.window is not None:
            self.window.end_epoch(self.steps if stepped else 0)
        taken = len(self.alphas_steps)
        per_step = self.steps / taken if taken else 0.0  # steps of the weights per one of the alphas
        estimated = taken > 0 and self.window is not None
        return {
            "epoch": self.epoch,
            "progress": self.t,
            "weights_loss": means[0],
            "weights_accuracy": means[1],
            "alphas_loss": means[2] * per_step if taken else None,
            "alphas_accuracy": means[3] * per_step if taken else None,
            "weights_lr": self.weights_lr,
            "alphas_lr": self.alphas_lr,
            "mixing": means[4] if self.params.objective.mixing is not None else None,
            **trajectory.describe(self.params.search.space, self.trajectory.architectures[-1], relax),
            "slope_direct": means[5] * per_step if estimated else None,
            "slope_implicit": means[6] * per_step if estimated else None,
            "eigenvalue": eigenvalue,
            "stopped": int(self.early_stopping.stopped),
            "supernet_accuracy": of_supernet,
            "decoded_accuracy": of_decoded,
        }

    def _select(self, rounds: range) -> None:
        """Take rounds of decisions, and record all that is decided so far as the architecture."""
        space, nodes = self.params.search.space, self.params.search.nodes
        for number in rounds:
            order = generator(self.params.seed, "search", "selection")
            self.searcher.decide(number, space, nodes, order, partial(self._accuracy, self._assess))
        self.searcher.settle(space, self.supernet.architecture())
        self.trajectory.revise()

    def _discretize(self, relax: Relax) -> list[float]:
        """Measure the accuracies of the supernet and of the genotype decoded in it, with the same weights.

        The supernet has the weights from which the genotype is derived, even if the searcher draws others;
        what was decided on it counts as decided.
        """
        space, nodes, last = (
            self.params.search.space,
            self.params.search.nodes,
            self.trajectory.architectures[-1],
        )
        found = trajectory.derive(space, last, relax)
        after = self._accuracy(self._assess_mixture, *decoded(space, nodes, found))
        decisions = None if self.params.searcher.tune is None else self._draw("selection", 0)
        if decisions is not None:
            return [self._accuracy(self._assess, decisions), after]
        return [self._accuracy(self._assess_mixture, *continuous(space, last, relax)), after]

    def _accuracy(self, assess: Callable[..., Tensor], *weights: Tensor) -> float:
        """Measure the supernet's accuracy on the alphas' images, given what weighs its operations."""
        self.evaluation.begin(self.epoch, self.t)
        compute = self.captured(assess, self.on_alphas.loss.weighs(self.t))
        sums = torch.zeros((), dtype=torch.float64, device=self.device)
        weights = tuple(send(tensor, self.device) for tensor in weights)
        for step in range(self.evaluation.steps):
            sums += compute(self._mixing(step), *weights, *itertools.chain(*self.evaluation(step)))
        return float(sums) / self.evaluation.steps

    def _assess(self, mixing: Mixing, drawn: Tensor, *fields: Any) -> Tensor:
        """Compute the accuracy on the batches with these fields, given what the searcher drew."""
        self.supernet.drawn = drawn
        with torch.no_grad():
            return self.on_alphas(self.supernet, batches_of(fields), self.t, mixing).accuracy

    def _assess_mixture(self, mixing: Mixing, operations: Tensor, edges: Tensor, *fields: Any) -> Tensor:
        """Compute the accuracy on the batches with these fields, given a mixture."""
        self.supernet.mixture = Mixture(operations, edges)
        with torch.no_grad():
            accuracy = self.on_alphas(self.supernet, batches_of(fields), self.t, mixing).accuracy
        self.supernet.mixture = None
        return accuracy

    def _estimate(self, vector: Tensor) -> Tensor:
        """Run power iteration from a vector, on a quarter of the epoch's first batch of the alphas' images.

        On these, second derivatives need about as much memory as a training step on the whole batch.
        """
        if 0 not in self.alphas_steps:  # then its first batch was not drawn
            self.validation.begin(self.epoch, self.t)
        few = max(2, self.validation.batch_size // 4)
        batches = [
            batch._replace(images=batch.images[:few], labels=batch.labels[:few])
            for batch in self.validation(0)
        ]
        iterate = self.captured(self._iterate, self.on_alphas.loss.weighs(self.t))
        return iterate(vector, self._mixing(0), self._draw("eigenvalue", 0), *itertools.chain(*batches))

    def _iterate(self, vector: Tensor, mixing: Mixing, drawn: Tensor | None, *fields: Any) -> Tensor:
        """Run power iteration from a vector on the batches with these fields."""
        self.supernet.drawn = drawn
        with self.supernet.in_float32():  # for second derivatives
            loss = self.on_alphas(self.supernet, batches_of(fields), self.t, mixing).loss
        return self.early_stopping.iterate(loss, self.alphas, self.weights, vector)

    def state(self) -> dict[str, Tensor]:
        """Return weights, architecture, decisions, optimizers, early stopping, and the trajectory so far."""
        return {
            **prefixed("net", self.supernet.state_dict()),
            **prefixed("searcher", self.searcher.state()),
            **prefixed("sgd", pack_optimizer(self.weights_optimizer)),
            **prefixed("adam", pack_optimizer(self.alphas_optimizer)),
            **prefixed("early_stopping", self.early_stopping.state()),
            **prefixed("trajectory", self.trajectory.state()),
            **prefixed("window", {} if self.window is None else self.window.state()),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore a state."""
        self.captured.forget()  # the optimizers' states move to other memory
        self.supernet.load_state_dict(unprefixed("net", state))
        self.searcher.load(unprefixed("searcher", state))
        unpack_optimizer(self.weights_optimizer, unprefixed("sgd", state))
        unpack_optimizer(self.alphas_optimizer, unprefixed("adam", state))
        self.early_stopping.load(unprefixed("early_stopping", state))
        self.trajectory.load(unprefixed("trajectory", state))
        if self.window is not None:
            self.window.load(unprefixed("window", state))


# --- building -----------------------------------------------------------------------------------------


def _make_task(job: Job, params: SearchJob) -> SearchTask:
    device = prepare(params.search.threads, params.search.precision)
    images = SplitImages(job, params.images, HALVES, device)
    if params.labels == "random":
        images.relabel(generator(params.seed, "search", "labels"))
    task = SearchTask(params, images, device)
    if "trained" in job.inputs:
        load_trained(task.supernet, job.inputs["trained"])
    return task


def _make_supernet(params: SearchJob, searcher: Searcher, images: SplitImages) -> Supernet:
    search = params.search
    supernet = SUPERNETS[type(search.space)](
        search.space,
        searcher,
        nodes=search.nodes,
        in_channels=images.channels,
        classes=len(images.classes),
        channels=search.channels,
        cells=search.cells,
        recompute=search.recompute,
        stem=images.stem,
        **layout_of(params.objective),
    )
    supernet.precision = search.precision
    if params.arithmetic is not None:
        OF_SUPERNETS[type(params.arithmetic)](supernet, params.arithmetic)
    initialize(supernet, generator(params.seed, "search", "weights"))
    initialize_alphas(supernet, generator(params.seed, "search", "alphas"))
    return supernet


def _make_adam(alphas: list[torch.nn.Parameter], adam: Adam, device: torch.device) -> torch.optim.Adam:
    return torch.optim.Adam(
        alphas,
        settable(adam.lr, device),
        (adam.betas[0], adam.betas[1]),
        weight_decay=adam.weight_decay,
        fused=True,
        capturable=device.type == "cuda",
    )


def _make_batches(params: SearchJob, images: SplitImages) -> Iterable[Batches]:
    """Build the batches of both halves, as many of each, and those that decisions are made on."""
    search, samplers = params.search, demands_of(params.objective).samplers
    augmentation = augmentation_of(params.images.augment, search.cutout)
    positions = {half: images.positions(half) for half in HALVES}
    steps = {half: steps_per_epoch(len(positions[half]), search.batch_size) for half in HALVES}

    def batches(half: str, steps: int, augmentation: Augmentation, purpose: str) -> Batches:
        purpose = f"{params.seed}/search/{purpose}"
        return Batches(images.set, positions[half], samplers, search.batch_size, steps, augmentation, purpose)

    return [
        *(batches(half, steps["weights"], augmentation, half) for half in HALVES),
        batches("alphas", steps["alphas"], Augmentation(), "selection"),
    ]


def redrawn(first: Batches, second: Batches, draw: torch.Generator) -> list[Tensor]:
    """Divide the images of two halves again: int64 positions in order, as many of each class as before."""
    positions, labels = (
        torch.cat([first.positions, second.positions]),
        torch.cat([first.labels, second.labels]),
    )
    halves: list[list[Tensor]] = [[], []]
    for label in labels.unique():
        own = positions[labels == label].sort().values
        own, count = own[torch.randperm(len(own), generator=draw)], int((first.labels == label).sum())
        halves[0].append(own[:count])
        halves[1].append(own[count:])
    return [torch.cat(half).sort().values for half in halves]


def _write(
    job: Job,
    space: Space,
    nodes: int,
    architectures: list[Architecture],
    history: list[dict[str, Any]],
    relaxation: Relaxation = Softmax(),  # noqa: B008 - frozen
) -> None:
    columns = zip(*trajectory.rows(space, nodes, architectures, relaxation), strict=True)
    table = dict(zip(SCHEMAS["trajectory"], columns, strict=True))
    write_table(job.output("alphas.parquet"), "trajectory", table)
    rows = {name: [row[name] for row in history] for name in SCHEMAS["search_history"]}
    write_table(job.output("history.parquet"), "search_history", rows)
