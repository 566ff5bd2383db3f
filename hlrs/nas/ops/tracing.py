"""Whether a graph is being recorded for export."""

import torch


def exporting() -> bool:
    """Whether torch.export, torch.onnx.export or torch.jit.trace records what is computed.

    Layers then use plain operators, whose graph holds for any batch size and means the same to every
    runtime: autograd functions, phases by strides and several images per pixel do not survive an export.
    """
    return bool(torch.compiler.is_exporting() or torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]
