"""A trained network with what its images and classes are."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from hlrs.artifacts.tensors import read_tensors
from hlrs.config.networks import TrainedNetwork
from hlrs.config.recipes import Evaluation
from hlrs.data.images import normalize
from hlrs.data.sources.base import as_decoded, decode, pixels_of
from hlrs.errors import Failure, UserError
from hlrs.nas.network import BranchedNetwork
from hlrs.nas.trained import build, load_weights

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageClassifier(nn.Module):
    """A trained network, in evaluation mode, that knows its classes and what to do with an image.

    As a module it maps normalised images, float [batch, channels, height, width] from `preprocess`, to logits
    [batch, classes]. `facts` say what it is; `classes` are the names, in the order of the logits.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: BranchedNetwork, facts: TrainedNetwork) -> None:
        super().__init__()
        self.network, self.facts = network, facts
        for name in ("mean", "std"):
            values = torch.tensor(getattr(facts.preprocessing, name), dtype=torch.float32)
            self.register_buffer(name, values, persistent=False)
        self.eval()

    @property
    def classes(self) -> list[str]:
        """The classes' names."""
        return self.facts.classes

    @property
    def device(self) -> torch.device:
        """The device that the network is on."""
        return self.mean.device

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [batch, classes] of normalised images, float [batch, channels, height, width]."""
        return self.network(images)  # type: ignore[no-any-return]

    def preprocess(self, images: Any) -> Tensor:
        """Return images as the network reads them: [n, channels, height, width], its type, on its device.

        `images` is one of these or a sequence of them: a path, an image of Pillow, an array uint8 [height,
        width] or [height, width, 3]; or a tensor uint8 [n, channels, height, width] of the network's size.
        UserError for what cannot be read, and for another size where the training resized no image.
        """
        normalized = normalize(self.pixels(images).to(self.device), self.mean, self.std)
        return normalized.to(next(self.network.parameters()).dtype)

    def pixels(self, images: Any) -> Tensor:
        """Decode and resize images, as in `preprocess`: uint8 [n, channels, height, width]."""
        shape, several = self.facts.preprocessing.shape, isinstance(images, Sequence)
        if isinstance(images, Tensor):
            if images.dtype != torch.uint8 or list(images.shape[1:]) != shape:
                found = f"images: a tensor of {images.dtype}, {list(images.shape)}"
                needed = f"give torch.uint8, [n, {', '.join(map(str, shape))}], levels of 0 to 255"
                raise UserError(f"{found}; {needed}; normalised images are for the call itself")
            return images
        each = images if several and not isinstance(images, str) else [images]
        read = [self._pixels(image, f"image {number}") for number, image in enumerate(each)]
        return torch.from_numpy(np.stack(read) if read else np.empty((0, *shape), np.uint8))

    def _pixels(self, image: Any, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        from PIL import Image

        if isinstance(image, str | Path):
            name = str(image)
            if not Path(name).is_file():
                found = "is a folder" if Path(name).is_dir() else "no such file"
                raise UserError(f"{name}: {found}; name an image")
            image = decode(Path(name), name)
        elif isinstance(image, np.ndarray):
            if image.dtype != np.uint8:
                raise UserError(f"{name}: an array of {image.dtype}; give uint8, levels of 0 to 255")
            if image.size == 0 or (image.ndim != 2 and image.shape[2:] != (3,)):
                raise UserError(
                    f"{name}: an array {list(image.shape)}; give [height, width] or [height, width, 3]"
                )
            image = Image.fromarray(image)
        elif isinstance(image, Image.Image):
            image = as_decoded(image, name)
        else:
            raise UserError(
                f"{name}: {type(image).__name__}; give a path, an image of Pillow, or an array uint8"
            )
        return self.fitted(image, name)

    def fitted(self, image: "Image", name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Resize a decoded image: uint8 [channels, height, width]; UserError, naming it, if unfit."""
        given = self.facts.preprocessing
        found = pixels_of(image.convert("L" if given.shape[0] == 1 else "RGB"), given.image_size)
        if list(found.shape) != given.shape:
            (_, height, width), (_, own_height, own_width) = found.shape, given.shape
            needed = f"the network reads images of {own_width}×{own_height}, and resizes none"
            raise UserError(f"{name}: {width}×{height} pixels; {needed}: resize it")
        return found

    @torch.no_grad()
    def predict(self, images: Any, batch_size: int = Evaluation().batch_size) -> Tensor:
        """Return probabilities float32 [n, classes], on the CPU, of images as in `preprocess`.

        They equal the evaluation's to the last bit in its order and batches, on the same kind of device. The
        network computes in evaluation mode, and is left in its own. Failure if they are not finite.
        """
        if batch_size < 1:
            raise UserError(f"batch_size: {batch_size}; give 1 or more")
        every = self.pixels(images).split(batch_size)
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            parts = [self(self.preprocess(part)).float().softmax(1).cpu() for part in every]
        finally:
            for module in training:
                module.training = True
        found = torch.cat(parts) if parts else torch.empty(0, len(self.classes))
        if not found.isfinite().all():
            raise Failure(
                "the network's outputs are not finite: its weights are damaged, or its training diverged; "
                "retrain or export it again"
            )
        return found


def read(path: Path) -> ImageClassifier:
    """Read a file of weights, which says what network they are of, on the CPU.

    UserError if there is none; Failure if it is damaged or of another version of hlrs.
    """
    weights, header = read_tensors(path)
    try:
        facts = TrainedNetwork.model_validate(header)
    except ValidationError as error:
        [first, *_] = error.errors()
        field = ".".join(map(str, first["loc"]))
        found = f"{path}: its header describes no network ({field}: {first['msg']})"
        raise Failure(
            f"{found}; it was written by another version of hlrs: retrain or export it again"
        ) from None
    network = build(facts.network, str(path))
    for name, own in network.state_dict().items():
        if name in weights and weights[name].is_floating_point() != own.is_floating_point():
            raise Failure(
                f"{path}: tensor {name} is of {weights[name].dtype}, not {own.dtype}; export it again"
            )
    load_weights(network, weights, str(path))
    return ImageClassifier(network, facts)
