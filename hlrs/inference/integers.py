"""Export a network whose products are approximate as integer weights, ranges, and a graph of plain steps."""

import copy
import functools
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hlrs.artifacts.files import write_json, write_text
from hlrs.artifacts.tensors import write_tensors
from hlrs.config.arithmetic import Arithmetic
from hlrs.errors import Failure, UserError
from hlrs.inference.reference import FILES, INTEGER_CONVOLUTION, OPERATORS, Reference
from hlrs.nas.arithmetic import products_of
from hlrs.nas.multipliers import CODES
from hlrs.nas.network import BranchedNetwork
from hlrs.nas.ops.approximate import SIGNED, Operand, Product
from hlrs.nas.ops.convolution import Conv
from hlrs.nas.ops.depthwise import Stride


class IntegerConvolution(nn.Module):
    """Stands for a convolution's product in the graph of an export, by the layer's name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor, weight: Tensor, stride: Stride = 1, dilation: int = 1) -> Tensor:
        """Return a map of the product's size, which is all that an export follows."""
        strides = [stride, stride] if isinstance(stride, int) else [*stride]
        return _operator()(x, self.name, len(weight), strides, dilation)


@functools.cache
def _operator() -> Callable[..., Tensor]:
    """Define the operator that a graph shows for an approximate convolution."""

    def sized(x: Tensor, layer: str, outputs: int, stride: list[int], dilation: int) -> Tensor:
        size = [(s - 1) // by + 1 for s, by in zip(x.shape[2:], stride, strict=True)]
        return x.new_zeros(x.shape[0], outputs, *size)

    made = torch.library.custom_op("hlrs::integer_convolution", sized, mutates_args=())
    made.register_fake(sized)
    return made


def write_integers(
    network: nn.Module, found: BranchedNetwork, arithmetic: Arithmetic | None, images: Tensor, folder: Path
) -> Reference:
    """Write what `Reference` reads, and its source, of a network from pixels to probabilities.

    `found`: the approximate network in it. UserError if no product of the network is approximate.
    """
    if arithmetic is None:
        raise UserError("--format integers: no product of this network is approximate; choose another format")
    network = copy.deepcopy(network)
    tensors = {"products": torch.from_numpy(products_of(found).products).int()}
    layers: dict[str, Any] = {}
    for name, module in network.named_modules():
        if isinstance(module, Conv) and isinstance(module.product, Product):
            layers[name], tensors[f"{name}.weight"] = _quantized(module.product, module.weight.detach())
            module.product = IntegerConvolution(name)
    steps, constants = _graph(network, images)
    json_file, tensor_file, source = FILES
    write_tensors(folder / tensor_file, tensors | constants, {})
    multiplier = arithmetic.multiplier.model_dump(mode="json")
    shape = list(images.shape[1:])
    write_json(folder / json_file, {"multiplier": multiplier, "layers": layers, "shape": shape, **steps})
    write_text(folder / source, Path(__file__).with_name(source).read_text(encoding="utf-8"))
    return Reference(folder)


def _quantized(product: Product, weight: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Return the scales and codes of a convolution's operands, and the codes of its weights."""
    [multiplier] = product.shared
    of_x = multiplier.codes(*product.ranges)
    of_weight = multiplier.codes(weight.amin()[None], weight.amax()[None])
    facts = {"input": _codes(of_x), "weight": _codes(of_weight)}
    codes = of_weight.along(len(weight), 0).quantize(weight) + facts["weight"]["zero"]
    return facts, codes.to(torch.int8 if of_weight.zero is None else torch.uint8)


def _codes(operand: Operand) -> dict[str, Any]:
    """Describe codes: scale, zero point, the bounds of those in use, and the first one of the table."""
    if operand.zero is None:
        bounds = {"zero": 0, "least": -SIGNED, "most": SIGNED, "first": -CODES // 2}
    else:
        bounds = {"zero": int(operand.zero), "least": 0, "most": CODES - 1, "first": 0}
    return {"scale": float(operand.scale), **bounds}


def _graph(network: nn.Module, images: Tensor) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the steps from pixels to probabilities, and the tensors that they read."""
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (images,), dynamic_shapes=shapes).run_decompositions()
    signature, tensors, steps = program.graph_signature, dict[str, Tensor](), []
    kept = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    kept |= signature.inputs_to_lifted_tensor_constants
    values = {**program.state_dict, **program.constants}

    def argument(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [argument(one) for one in value]
        if not isinstance(value, torch.fx.Node):
            return value if value is None or isinstance(value, bool | int | float | str) else str(value)
        if value.name not in kept:
            return {"step": value.name}
        name = f"constants.{kept[value.name]}"
        tensors[name] = values[kept[value.name]].detach().clone().contiguous()
        return {"tensor": name}

    for node in program.graph.nodes:
        if node.op != "call_function" or not node.users:  # such as assertions
            continue
        name = _name(node.target)
        if name not in OPERATORS:
            raise Failure(f"{FILES[0]}: no operator {name} in the reference; report this bug")
        arguments = node.args[:1] if name == "_to_copy.default" else node.args
        steps.append({"name": node.name, "operator": name, "arguments": argument(arguments)})
    [given], [returned] = signature.user_inputs, signature.user_outputs
    return {"input": given, "output": returned, "steps": steps}, tensors


def _name(target: Any) -> str:
    """Name an operator as the reference does."""
    if target in (operator.getitem, operator.mul):
        return str(target.__name__)
    name = str(target).removeprefix("aten.")
    return INTEGER_CONVOLUTION if name.startswith("hlrs.") else name
