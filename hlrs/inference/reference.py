"""Predict by integers.json and integers.safetensors, with NumPy and safetensors alone.

Products of approximate convolutions are looked up, and summed as integers; everything else is float32. It is
the reference for an implementation on hardware: slow, and plain. `hlrs export --format integers` copies this
file beside the others.

    python reference.py IMAGES.npy        uint8 [n, channels, height, width]
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[Any]
FILES = "integers.json", "integers.safetensors", "reference.py"
INTEGER_CONVOLUTION = "integer_convolution"


class Reference:
    """The network of a folder: from uint8 [n, channels, height, width] to probabilities [n, classes].

    integers.json lists `steps` in order, each an operator of OPERATORS with its arguments: {"step": name},
    {"tensor": name in integers.safetensors}, or a value. `layers` are the approximate convolutions; `shape`
    is [channels, height, width]. ValueError for images of another shape or type.
    """

    def __init__(self, folder: Path) -> None:
        self.graph: dict[str, Any] = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
        self.tensors = load_file(folder / FILES[1])

    def __call__(self, images: Array) -> Array:
        needed = self.graph["shape"]
        if images.dtype != np.uint8 or images.ndim != 4 or list(images.shape[1:]) != needed:
            raise ValueError(
                f"give uint8 [n, {', '.join(map(str, needed))}], not {images.dtype} {list(images.shape)}"
            )
        found: dict[str, Any] = {self.graph["input"]: images}
        for step in self.graph["steps"]:
            arguments = [self._value(argument, found) for argument in step["arguments"]]
            compute = OPERATORS[step["operator"]] or self.convolve
            found[step["name"]] = compute(*arguments)
        probabilities: Array = found[self.graph["output"]]
        return probabilities

    def _value(self, argument: Any, found: dict[str, Any]) -> Any:
        if isinstance(argument, list):
            return [self._value(one, found) for one in argument]
        if not isinstance(argument, dict):
            return argument
        return found[argument["step"]] if "step" in argument else self.tensors[argument["tensor"]]

    def convolve(self, x: Array, name: str, outputs: int, stride: Any, dilation: int) -> Array:
        """Quantize x, float32 [n, c, h, w], look up and sum products as int64, and scale the sums."""
        layer, products = self.graph["layers"][name], self.tensors["products"].astype(np.int64)
        of_x, of_weight = layer["input"], layer["weight"]
        inverse = np.float32(1) / np.float32(of_x["scale"])
        a = np.rint(x * inverse).astype(np.int64) + of_x["zero"]
        a = np.clip(a, of_x["least"], of_x["most"])
        b = self.tensors[f"{name}.weight"].astype(np.int64)
        zeros = of_x["zero"], of_weight["zero"]
        sums = sum_products(a, b, products, zeros, of_x["first"], stride, dilation)
        scale = np.float32(of_x["scale"]) * np.float32(of_weight["scale"])
        found: Array = sums.astype(np.float32) * scale
        return found


def sum_products(
    a: Array, b: Array, products: Array, zeros: tuple[int, int], first: int, stride: Any, dilation: int
) -> Array:
    """Sum M(a, b) − z₂ a − z₁ b + z₁ z₂ over each window of codes a, [n, c, h, w] padded by the code of 0.

    `first`: the code of the first row and column of the products.
    """
    (zero_a, zero_b), (stride_y, stride_x) = zeros, stride
    outputs, inputs, height, width = b.shape
    reach_y, reach_x = dilation * (height // 2), dilation * (width // 2)
    out_y, out_x = (a.shape[2] - 1) // stride_y + 1, (a.shape[3] - 1) // stride_x + 1
    a = np.pad(a, ((0, 0), (0, 0), (reach_y, reach_y), (reach_x, reach_x)), constant_values=zero_a)
    per_group = outputs * inputs // a.shape[1]
    sums = np.zeros((len(a), outputs, out_y, out_x), np.int64)
    for i in range(height):
        for j in range(width):
            top, left = i * dilation, j * dilation
            rows = slice(top, top + stride_y * (out_y - 1) + 1, stride_y)
            window = a[:, :, rows, left : left + stride_x * (out_x - 1) + 1 : stride_x]
            for c in range(inputs):
                source = window[:, c::inputs].repeat(per_group, 1)  # of each output
                codes = b[:, c, i, j][None, :, None, None]
                sums += products[source - first, codes - first] - zero_b * source - zero_a * codes
    found: Array = sums + inputs * height * width * zero_a * zero_b
    return found


# --- operators in floating point --------------------------------------------------------------------------


def windows(x: Array, kernel: Any, stride: Any, dilation: Any = (1, 1)) -> Array:
    """View the windows of a padded map: [n, c, rows, columns, height, width]."""
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
    return view[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def padded(x: Array, padding: Any, value: float = 0.0) -> Array:
    """Pad a map's rows and columns."""
    around = [(p, p) for p in (padding if len(padding) == 2 else [*padding] * 2)]
    return np.pad(x, ((0, 0), (0, 0), *around), constant_values=value)


def convolution(
    x: Array, weight: Array, bias: Array | None, stride: Any, padding: Any, dilation: Any, *rest: Any
) -> Array:
    """Convolve in groups."""
    groups = rest[-1]
    view = windows(padded(x, padding), weight.shape[2:], stride, dilation)
    parts = [
        np.einsum("nchwij,ocij->nohw", of_x, of_weight, optimize=True)
        for of_x, of_weight in zip(np.split(view, groups, 1), np.split(weight, groups), strict=True)
    ]
    y = np.concatenate(parts, 1)
    return y if bias is None else y + bias[:, None, None]


def batch_norm(
    x: Array, weight: Array | None, bias: Array | None, mean: Array, variance: Array, *rest: Any
) -> tuple[Array]:
    """Normalize by running statistics."""
    epsilon = rest[-1]
    scale = 1 / np.sqrt(variance + np.float32(epsilon))
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return (x * scale[:, None, None] + shift[:, None, None],)


def max_pool(
    x: Array, kernel: Any, stride: Any, padding: Any = (0, 0), dilation: Any = (1, 1), ceil: bool = False
) -> tuple[Array]:
    """Take the maximum of windows."""
    return (pooled(padded(x, padding, -np.inf), kernel, stride, ceil, -np.inf).max((4, 5)),)


def avg_pool(
    x: Array, kernel: Any, stride: Any, padding: Any = (0, 0), ceil: bool = False, count_padding: bool = True
) -> Array:
    """Average over windows."""
    total = pooled(padded(x, padding), kernel, stride, ceil).sum((4, 5))
    inside = padded(np.ones_like(x[:1, :1]), padding, float(count_padding))
    return np.asarray(total / pooled(inside, kernel, stride, ceil).sum((4, 5)))


def pooled(x: Array, kernel: Any, stride: Any, ceil: bool, value: float = 0.0) -> Array:
    """View the windows of a padded map; with `ceil`, as many more as cover all of it."""
    stride = stride or kernel
    if ceil:
        missing = [-(size - k) % s for size, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
        x = np.pad(x, ((0, 0), (0, 0), *((0, m) for m in missing)), constant_values=value)
    return windows(x, kernel, stride)


def slice_(x: Array, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Array:
    """Take a slice in one dimension."""
    places: list[Any] = [slice(None)] * x.ndim
    places[dim] = slice(start, end, step)
    return np.asarray(x[tuple(places)])


def softmax(x: Array, dim: int, half: bool) -> Array:
    """Turn logits into probabilities."""
    exponents = np.exp(x - x.max(dim, keepdims=True))
    return np.asarray(exponents / exponents.sum(dim, keepdims=True))


def addmm(bias: Array, x: Array, weight: Array) -> Array:
    """Compute x · weight + bias."""
    return np.asarray(x @ weight + bias)


# names as PyTorch's core ATen operators have them
OPERATORS: dict[str, Callable[..., Any] | None] = {
    "_native_batch_norm_legit_no_training.default": batch_norm,
    "_softmax.default": softmax,
    "_to_copy.default": lambda x: x.astype(np.float32),
    "add.Tensor": np.add,
    "addmm.default": addmm,
    "avg_pool2d.default": avg_pool,
    "cat.default": lambda parts, dim=0: np.concatenate(parts, dim),
    "clone.default": lambda x: x,
    "constant_pad_nd.default": lambda x, ends, value=0.0: np.pad(
        x,
        [(0, 0)] * (x.ndim - len(ends) // 2) + [*zip(ends[::2], ends[1::2], strict=True)][::-1],
        constant_values=value,
    ),
    "convolution.default": convolution,
    "div.Tensor": np.divide,
    "expand.default": lambda x, shape: np.broadcast_to(
        x, [own if s == -1 else s for own, s in zip(x.shape, shape, strict=True)]
    ),
    "getitem": lambda found, place: found[place],
    INTEGER_CONVOLUTION: None,  # Reference.convolve
    "max_pool2d_with_indices.default": max_pool,
    "mean.dim": lambda x, dims, keep=False: x.mean(tuple(dims), keepdims=keep),
    "mul": lambda a, b: a * b,
    "mul.Tensor": np.multiply,
    "permute.default": np.transpose,
    "relu.default": lambda x: np.maximum(x, 0),
    "slice.Tensor": slice_,
    "sub.Tensor": np.subtract,
    "sym_size.int": lambda x, dim: x.shape[dim],
    "unsqueeze.default": np.expand_dims,
    "view.default": lambda x, shape: x.reshape(shape),
}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python reference.py IMAGES.npy")
    try:
        found = Reference(Path(__file__).parent)(np.load(sys.argv[1]))
    except ValueError as error:
        sys.exit(f"{sys.argv[1]}: {error}")
    np.savetxt(sys.stdout, found, "%.6f", delimiter=",")
