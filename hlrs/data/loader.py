"""Images read from their files when they are needed, by worker processes, ahead of the training step."""

import functools
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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

SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}  # which a training answers by saving its state


class Order(NamedTuple):
    """A `Request` as a worker reads it: indices int64 [n] into the source."""

    indices: NDArray[np.int64]
    augmentation: Augmentation
    purpose: tuple[object, ...]


@dataclass(frozen=True)
class Reader(Dataset[tuple[tuple[object, ...], Tensor | UserError]]):
    """What a worker has: the source, the spec's image_size, and the shape of every image asked of it."""

    source: ImageSource
    size: int | None
    shape: tuple[int, ...]

    def __getitem__(self, order: Order) -> tuple[tuple[object, ...], Tensor | UserError]:
        """The order's purpose; its images uint8 [n, channels, height, width] or why they cannot be had."""
        try:
            return order.purpose, self.read(order)
        except UserError as error:  # raised here, it would come out as a traceback of the worker
            return order.purpose, error

    def read(self, order: Order) -> Tensor:
        """Cropped, flipped, recoloured images; UserError for one that cannot be decoded or that differs."""
        pixels = self.source.read(order.indices, self.size, self._crop(order))
        if pixels.shape[1:] != self.shape:
            found, first = ("×".join(map(str, shape[:0:-1])) for shape in (pixels.shape[1:], self.shape))
            where = self.source._where(int(order.indices[0]))
            raise UserError(f"{where}: {found} pixels, not {first} as before it; set image_size")
        return distort(torch.from_numpy(pixels), order.augmentation, generator(*order.purpose, "distort"))

    def _crop(self, order: Order) -> Callable[[int, "Image"], "Image"] | None:
        """What is done to a file's image, by its place in the order."""
        share, size = order.augmentation.resized_crop, self.shape[-1]
        if share is None:
            return None
        draw = generator(*order.purpose, "resized_crop")
        seeds = torch.randint(SEEDS, (len(order.indices),), generator=draw).tolist()
        return lambda place, image: resized_crop(image, share, size, seeds[place])


def _end_with(alive: connection.Connection, worker: int) -> None:
    """Have a worker end when the other end of a pipe is closed, as it is when that process dies.

    torch looks at the worker's parent for it, the fork server, which in turn waits for its workers.
    """

    def wait() -> None:
        connection.wait([alive])
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _unchanged(read: Any) -> Any:
    """What a worker read, which torch's own collation would take for a list of numbers."""
    return read


class Loader:
    """Worker processes that read ahead what several askers are going to ask for, step by step.

    They start with the first request and live as long as this does. What they give depends neither on their
    number nor on what is asked for first.
    """

    def __init__(self, reader: Reader, index: NDArray[np.int64], workers: int, pin_memory: bool) -> None:
        context = multiprocessing.get_context("forkserver")
        # what takes seconds is imported once, not once a worker
        context.set_forkserver_preload([__name__, "torchvision.transforms"])
        alive, own_end = context.Pipe(duplex=False)
        # at exit multiprocessing ends its workers by a signal that these do not get, and waits for them
        Finalize(None, own_end.close, exitpriority=0)
        self.index = index
        self.queue: list[Order] = []  # the loader goes over it anew at each start
        self.loader = DataLoader(
            reader,
            batch_size=None,  # an order is a batch
            sampler=self.queue,
            collate_fn=_unchanged,
            num_workers=workers,
            worker_init_fn=functools.partial(_end_with, alive),
            multiprocessing_context=context,
            persistent_workers=True,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # else it draws from the global one
        )
        self.steps: dict[str, Sequence[Sequence[Request]]] = {}  # of those that began since the last start
        self.started = False
        self.coming: set[tuple[object, ...]] = set()  # purposes of what is being read and was not taken yet
        self.ready: dict[tuple[object, ...], Tensor | UserError] = {}

    def expect(self, name: str, steps: Sequence[Sequence[Request]]) -> None:
        """What `name` is going to ask for; those who begin together are read for in turn, a step each."""
        if self.started:
            self.steps, self.started = {}, False
        self.coming.clear()
        self.steps[name] = steps

    def pixels(self, request: Request) -> Tensor:
        """Images of a request, uint8 on the CPU; what follows it is read meanwhile.

        UserError for an image that cannot be had, Failure where a worker died.
        """
        if request.purpose not in self.coming:
            self._start(request)
        try:
            while request.purpose not in self.ready:
                purpose, images = next(self.iterator)
                self.ready[purpose] = images
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            if not reason.startswith("DataLoader worker"):  # a worker's own error comes through as it is
                raise
            raise Failure(f"reading images: {reason}; if memory is short, lower stream.workers") from None
        self.coming.remove(request.purpose)
        images = self.ready.pop(request.purpose)
        if isinstance(images, UserError):
            raise images
        return images

    def _start(self, request: Request) -> None:
        """Read on from a request: the first of an epoch, or one in its middle where a run is resumed."""
        in_turn = itertools.zip_longest(*self.steps.values(), fillvalue=())
        expected = [one for step in in_turn for requests in step for one in requests]
        following = itertools.dropwhile(lambda one: one.purpose != request.purpose, expected)
        sequence = list(following) or [request]
        self.queue[:] = [Order(self.index[r.positions.numpy()], *r[1:]) for r in sequence]
        self.coming, self.ready, self.started = {r.purpose for r in sequence}, {}, True
        with _signals_kept_from_children():
            self.iterator = iter(self.loader)


@contextmanager
def _signals_kept_from_children() -> Iterator[None]:
    """Processes started meanwhile never get a signal that asks the run to stop: it needs them to its end.

    SLURM and a terminal send it to every process of a job. Here it is put off, not lost.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    resource_tracker.ensure_running()  # lets two of them in again when it has started
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class StreamedSet(LabelledImages):
    """Images that a loader reads; labels int64 [n], mean and std [channels] on the device of the batches."""

    loader: Loader
    labels: Tensor
    mean: Tensor
    std: Tensor

    def expect(self, name: str, steps: Sequence[Sequence[Request]]) -> None:
        """What `name` is going to ask for in its next steps, step by step."""
        self.loader.expect(name, steps)

    def pixels(self, request: Request) -> Tensor:
        """Cropped, flipped, recoloured images of a request: uint8 [n, channels, height, width]."""
        return self.loader.pixels(request).to(self.labels.device, non_blocking=True)
