"""Apply a trained network to the images of files, batch by batch."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from hlrs.data.sources.base import decode
from hlrs.errors import UserError
from hlrs.inference.classifier import ImageClassifier
from hlrs.inference.images import Images

Probabilities = np.ndarray[Any, np.dtype[np.float32]]  # [classes]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]  # [channels, height, width]


class Prediction(NamedTuple):
    """The probabilities of an image's classes, or why it cannot be read."""

    image: str
    probabilities: Probabilities | None
    error: str | None = None

    def likeliest(self, classes: list[str], count: int) -> list[tuple[str, Any]]:
        """List the most probable classes by name, each with its probability, float32; none with an error."""
        if self.probabilities is None:
            return []
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(classes[label], self.probabilities[label]) for label in order]


def predict(classifier: ImageClassifier, named: Iterable[Images], batch_size: int) -> Iterator[Prediction]:
    """Predict images in their order, so many at a time; one that cannot be read has its error instead."""
    batch: list[tuple[str, Pixels | UserError]] = []
    readable = 0
    for images in named:
        for name, encoded in images.encoded():
            try:
                if isinstance(encoded, UserError):
                    raise encoded
                batch.append((name, classifier.fitted(decode(encoded, name), name)))
                readable += 1
            except UserError as error:
                batch.append((name, error))
            if readable == batch_size:
                yield from _predicted(classifier, batch)
                batch, readable = [], 0
    yield from _predicted(classifier, batch)


def _predicted(
    classifier: ImageClassifier, batch: list[tuple[str, Pixels | UserError]]
) -> Iterator[Prediction]:
    """Predict the readable images of a batch at once."""
    pixels = [image for _, image in batch if not isinstance(image, UserError)]
    if pixels:
        rows = iter(classifier.predict(torch.from_numpy(np.stack(pixels)), len(pixels)).numpy())
    for name, image in batch:
        if isinstance(image, UserError):
            yield Prediction(name, None, str(image))
        else:
            yield Prediction(name, next(rows))
