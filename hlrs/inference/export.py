"""Write a trained network to a folder of its own: weights, what they need, and other formats."""

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hlrs import __version__
from hlrs.artifacts.data_digest import sha256
from hlrs.artifacts.files import check_new, replacing_folder, write_json, write_text
from hlrs.artifacts.tensors import write_tensors
from hlrs.config.base import Choices
from hlrs.data.images import normalize
from hlrs.errors import Failure, UserError
from hlrs.inference.classifier import ImageClassifier
from hlrs.inference.locate import CONFIG, EXPORTED
from hlrs.nas.network import count_multiply_adds

TOLERANCE = 1e-4  # of a probability: other kernels sum in another order
ROUNDED = 0.05  # likewise, where another order can move a value to the next code
TRACED = 2  # images in a recorded batch; with one, a graph can hold for one only


class Deployed(nn.Module):
    """From pixels to probabilities: uint8 [n, channels, height, width] -> float32 [n, classes]."""

    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images, and compute the probabilities."""
        normalized = normalize(images, self.classifier.mean, self.classifier.std)
        return self.classifier(normalized).softmax(1)  # type: ignore[no-any-return]


Probabilities = np.ndarray[Any, np.dtype[np.float32]]  # [n, classes]
Predict = Callable[[Tensor], Probabilities]  # of a file that was written
Write = Callable[[Deployed, Tensor, Path], Predict]
Card = Callable[[Mapping[str, float]], str]  # of how far each file's probabilities are from the network's


def write_onnx(network: Deployed, images: Tensor, path: Path) -> Predict:
    """Write ONNX; UserError if its packages are not installed, or if it cannot express the arithmetic."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - which PyTorch's exporter needs
    except ModuleNotFoundError as error:
        raise UserError(f"--format onnx: {error.name} is missing; `pip install 'hlrs[onnx]'`") from None
    if any(buffer.is_floating_point() and buffer.itemsize > 4 for buffer in network.buffers()):
        raise UserError(
            "--format onnx: this table of products needs convolutions in float64, which ONNX Runtime lacks; "
            "choose torchscript, torch-export or integers"
        )
    program = torch.onnx.export(
        network,
        (images,),
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes=_any_batch(),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"images": batch.numpy()})[0]


def write_torchscript(network: Deployed, images: Tensor, path: Path) -> Predict:
    """Write TorchScript, by tracing."""
    torch.jit.trace(network, images, check_trace=False).save(path)
    predict = _numpy(torch.jit.load(path))

    def unoptimized(batch: Tensor) -> Probabilities:
        # optimising takes minutes for a large graph
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return predict(batch)

    return unoptimized


def write_torch_export(network: Deployed, images: Tensor, path: Path) -> Predict:
    """Write the graph of torch.export."""
    torch.export.save(torch.export.export(network, (images,), dynamic_shapes=_any_batch()), path)
    return _numpy(torch.export.load(path).module())


def _any_batch() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch")},)


def _numpy(module: nn.Module) -> Predict:
    return lambda batch: module(batch).detach().numpy()


def write_integers(network: Deployed, images: Tensor, path: Path) -> Predict:
    """Write integer weights and a reference in NumPy; UserError if no product is approximate."""
    from hlrs.inference import integers

    own, arithmetic = network.classifier.network, network.classifier.facts.network.arithmetic
    reference = integers.write_integers(network, own, arithmetic, images, path.parent)
    return lambda batch: reference(batch.numpy())


class Format(NamedTuple):
    """A format: its file, what writes it, and how far a probability may be from the network's.

    So many batches are compared as have no more multiplications than `products`, and at least one.
    """

    file: str
    write: Write
    tolerance: float = TOLERANCE
    products: float = math.inf


FORMATS: Choices[Format] = {
    "onnx": Format("model.onnx", write_onnx),
    "torchscript": Format("model.torchscript.pt", write_torchscript),
    "torch-export": Format("model.pt2", write_torch_export),
    "integers": Format("integers.json", write_integers, ROUNDED, 10**10),
}


def export(
    classifier: ImageClassifier, folder: Path, formats: Sequence[str], card: Card, images: Iterable[Tensor]
) -> None:
    """Write model.safetensors, config.json, README.md and requirements.txt, and a file for each format.

    Those files must give the network's probabilities, to the format's tolerance, of all `images`, in batches
    uint8 [n, channels, height, width]. UserError if the folder is not empty; Failure if a file disagrees.
    """
    check_new(folder)
    facts = classifier.facts.model_dump(mode="json")
    version = torch.__version__.partition("+")[0]
    with replacing_folder(folder.absolute()) as temporary:
        write_tensors(temporary / EXPORTED, classifier.network.state_dict(), facts)
        write_json(temporary / CONFIG, facts | {"sha256": sha256(temporary / EXPORTED)})
        write_text(temporary / "requirements.txt", f"hlrs=={__version__}\ntorch>={version}\n")
        apart = write_graphs(Deployed(classifier), temporary, formats, images) if formats else {}
        write_text(temporary / "README.md", card(apart))


def _products(network: Deployed, batch: Tensor) -> int:
    """Count the multiplications of a batch."""
    images, channels, size = batch.shape[:3]
    return images * count_multiply_adds(network.classifier.network, channels, size)


@torch.no_grad()
def write_graphs(
    network: Deployed, folder: Path, formats: Sequence[str], batches: Iterable[Tensor]
) -> dict[str, float]:
    """Write the file of each format; return how far its probabilities are from the network's, at most.

    Of all images and classes, by file; one batch at a time is kept. Failure if they are further than the
    format's tolerance.
    """
    batches = iter(batches)
    first = next(batches)
    each = _products(network, first)
    apart: dict[str, float] = {}
    with warnings.catch_warnings(action="ignore"):
        traced = first.repeat(TRACED, 1, 1, 1)[:TRACED]
        written = [
            (form, form.write(network, traced, folder / form.file)) for form in (FORMATS[n] for n in formats)
        ]
        for number, batch in enumerate(itertools.chain([first], batches)):
            spent = (number + 1) * each
            compared = [pair for pair in written if number == 0 or spent <= pair[0].products]
            if not compared:
                break
            expected = network(batch).numpy()
            for form, predict in compared:
                apart[form.file] = max(_distance(predict(batch), expected, form), apart.get(form.file, 0.0))
    return apart


def _distance(found: Probabilities, expected: Probabilities, form: Format) -> float:
    """How far probabilities are from the network's, at most; Failure if that exceeds the tolerance."""
    most = float(np.abs(found - expected).max())
    if not most <= form.tolerance:
        raise Failure(
            f"{form.file}: its probabilities differ from the network's by {most:.2g}; report this bug"
        )
    return most
