"""Streaming: worker processes read images from their files ahead of the training step."""

import functools
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection, resource_tracker
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hlrs.data.augment import SEEDS, Augmentation, distort, resized_crop
from hlrs.data.images import LabelledImages, Request, generator
from hlrs.data.sources.base import ImageSource
from hlrs.errors import Failure, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}  # a training saves its state on these


class Order(NamedTuple):
    """A `Request` as sent to a worker: indices int64 [n] into the source instead of positions."""

    indices: NDArray[np.int64]
    augmentation: Augmentation
    purpose: tuple[object, ...]
    flipped: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Reader(Dataset[tuple[tuple[object, ...], Tensor | UserError]]):
    """The data set of a worker: reads orders from a source.

    `size` is the spec's image_size; `shape` (channels, height, width) is that of every image.
    """

    source: ImageSource
    size: int | None
    shape: tuple[int, ...]

    def __getitem__(self, order: Order) -> tuple[tuple[object, ...], Tensor | UserError]:
        """Return the order's purpose, and its images uint8 [n, channels, height, width] or a UserError."""
        try:
            return order.purpose, self.read(order)
        except UserError as error:  # raised here, it would surface as a traceback of the worker
            return order.purpose, error

    def read(self, order: Order) -> Tensor:
        """Read and distort images; UserError if one cannot be decoded or has another shape."""
        pixels = self.source.read(order.indices, self.size, self._crop(order))
        if pixels.shape[1:] != self.shape:
            found, first = ("×".join(map(str, shape[:0:-1])) for shape in (pixels.shape[1:], self.shape))
            where = self.source._where(int(order.indices[0]))
            raise UserError(f"{where}: {found} pixels, not {first} like the images before it; set image_size")
        draw = generator(*order.purpose, "distort")
        return distort(torch.from_numpy(pixels), order.augmentation, draw, order.flipped)

    def _crop(self, order: Order) -> Callable[[int, "Image"], "Image"] | None:
        """Return the resized crop of an image, given its place in the order; None without such crops."""
        share, size = order.augmentation.resized_crop, self.shape[-1]
        if share is None:
            return None
        draw = generator(*order.purpose, "resized_crop")
        seeds = torch.randint(SEEDS, (len(order.indices),), generator=draw).tolist()
        return lambda place, image: resized_crop(image, share, size, seeds[place])


def _end_with(alive: connection.Connection, worker: int) -> None:
    """End a worker when the other end of a pipe is closed, as happens when the run's process dies.

    torch instead watches the worker's parent, the fork server, which in turn waits for its workers.
    """

    def wait() -> None:
        connection.wait([alive])
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _unchanged(read: Any) -> Any:
    """Pass on what a worker read; torch's default collation would take it for a list of numbers."""
    return read


@dataclass
class Announced:
    """The requests that consumers announced, by name and step, and whether one of them was served."""

    steps: dict[str, Sequence[Sequence[Request]]] = field(default_factory=dict)
    served: bool = False

    def starting_at(self, request: Request) -> list[Request]:
        """Return the requests, interleaved by step, from this one on; it alone if it was not announced."""
        interleaved = itertools.zip_longest(*self.steps.values(), fillvalue=())
        every = [one for step in interleaved for requests in step for one in requests]
        return list(itertools.dropwhile(lambda one: one.purpose != request.purpose, every)) or [request]


class Loader:
    """Worker processes that read ahead for several consumers, step by step.

    Each consumer announces its requests for an epoch (`expect`), then takes their images (`pixels`). The
    workers start with the first request and live as long as the loader. The images depend neither on the
    number of workers nor on the order of requests.
    """

    def __init__(self, reader: Reader, index: NDArray[np.int64], workers: int, pin_memory: bool) -> None:
        context = multiprocessing.get_context("forkserver")
        # slow imports happen once, not once per worker
        context.set_forkserver_preload([__name__, "torchvision.transforms"])
        alive, own_end = context.Pipe(duplex=False)
        # at exit multiprocessing waits for its workers, which block the signal it ends them with
        Finalize(None, own_end.close, exitpriority=0)
        self.index = index
        self.queue: list[Order] = []  # the sampler: each start iterates over it from the beginning
        self.loader = DataLoader(
            reader,
            batch_size=None,  # one order is one batch
            sampler=self.queue,
            collate_fn=_unchanged,
            num_workers=workers,
            worker_init_fn=functools.partial(_end_with, alive),
            multiprocessing_context=context,
            persistent_workers=True,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # the default draws from the global one
        )
        self.announced = Announced()
        self.pending: set[tuple[object, ...]] = set()  # purposes of ordered images that were not taken yet
        self.arrived: dict[tuple[object, ...], Tensor | UserError] = {}  # by purpose

    def expect(self, name: str, steps: Sequence[Sequence[Request]]) -> None:
        """Announce the requests of a consumer `name`, step by step; this cancels all pending orders.

        Consumers that announce before the next request is served are interleaved step by step.
        """
        if self.announced.served:
            self.announced = Announced()
        self.announced.steps[name] = steps
        self.pending.clear()

    def pixels(self, request: Request) -> Tensor:
        """Return the images of a request, uint8 on the CPU, while the workers read what follows it.

        UserError if an image cannot be read, Failure if a worker died.
        """
        if request.purpose not in self.pending:
            self._start(request)
        try:
            while request.purpose not in self.arrived:
                purpose, images = next(self.iterator)
                self.arrived[purpose] = images
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            if not reason.startswith("DataLoader worker"):  # an error raised in a worker passes unchanged
                raise
            raise Failure(f"reading images: {reason}; if memory is short, lower stream.workers") from None
        self.pending.remove(request.purpose)
        images = self.arrived.pop(request.purpose)
        if isinstance(images, UserError):
            raise images
        return images

    def _start(self, request: Request) -> None:
        """Order the announced requests from this one on: an epoch's first, or a later one after a resume."""
        sequence = self.announced.starting_at(request)
        self.queue[:] = [Order(self.index[r.positions.numpy()], *r[1:]) for r in sequence]
        self.pending, self.arrived = {r.purpose for r in sequence}, {}
        self.announced.served = True
        with _signals_blocked_in_children():
            self.iterator = iter(self.loader)


@contextmanager
def _signals_blocked_in_children() -> Iterator[None]:
    """Start processes that ignore the signals that ask the run to stop, which needs them until its end.

    SLURM and a terminal signal every process of a job. In this process a signal is deferred, not lost.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    resource_tracker.ensure_running()  # unblocks two of them once it has started
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class StreamedSet(LabelledImages):
    """Images that a `Loader` reads; labels, mean and std on the device of the batches."""

    loader: Loader
    labels: Tensor
    mean: Tensor
    std: Tensor

    def expect(self, name: str, steps: Sequence[Sequence[Request]]) -> None:
        """Announce the requests that `name` will make in its next steps, step by step."""
        self.loader.expect(name, steps)

    def pixels(self, request: Request) -> Tensor:
        """Return a request's images, distorted: uint8 [n, channels, height, width] on the batches' device.

        UserError if an image cannot be read, Failure if a worker died.
        """
        return self.loader.pixels(request).to(self.labels.device, non_blocking=True)
