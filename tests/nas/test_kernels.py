"""The Triton kernels, interpreted on the CPU, compared with PyTorch in double precision."""

import subprocess
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from triton import knobs
from triton.runtime import build

from hlrs.config.methods import Darts
from hlrs.config.recipes import Collapse
from hlrs.config.spaces import DartsSpace
from hlrs.nas import bilevel
from hlrs.nas.collapse import EarlyStopping
from hlrs.nas.mixed_edges import DARTS_OWN, DARTS_SHARED, OutEdges, Primitives
from hlrs.nas.network import initialize
from hlrs.nas.ops import triton_available, triton_pointwise, triton_pooling, triton_separable
from hlrs.nas.ops.triton_available import takes_kernels
from hlrs.nas.searchers.darts import DartsSearcher
from hlrs.nas.supernet import DartsSupernet, initialize_alphas

PRIMITIVES = Primitives.chosen(DartsSpace().primitives, DARTS_SHARED, DARTS_OWN)
SHAPES = {
    "as in the supernet": (2, 8, 16, 16, 12),
    "widths not a power of two": (2, 2, 36, 20, 9),
    "wider than a block": (1, 2, 80, 130, 5),
    "narrower than a matrix unit": (3, 4, 4, 6, 6),
}


def operands(n, groups, a, b, size):
    draw = torch.Generator().manual_seed(0)
    x, weight, gradient = (
        torch.randn(shape, generator=draw)
        for shape in ((n, groups * a, size, size + 1), (groups * b, a, 1, 1), (n, groups * b, size, size + 1))
    )
    return x, weight, gradient


def expected(x, weight, gradient):
    x, weight, gradient = (t.double().requires_grad_() for t in (x, weight, gradient))
    y = F.conv2d(x, weight, groups=x.shape[1] // weight.shape[1])
    return y.detach(), *torch.autograd.grad(y, (x, weight), gradient)


def test_kernels_need_triton_a_compiler_and_headers(monkeypatch, tmp_path):
    monkeypatch.setattr(triton_available, "KERNEL_DEVICE", "cpu")
    monkeypatch.delenv("CC", raising=False)
    x = torch.zeros(1, 1, 2, 2)
    try:
        for break_it, reason in (
            (lambda: None, ""),
            (
                lambda: monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": str(tmp_path)}),
                "Python.h",
            ),
            (lambda: monkeypatch.setattr("shutil.which", lambda name: None), "install gcc"),
            (lambda: monkeypatch.setattr("importlib.util.find_spec", lambda name: None), "Triton"),
        ):
            break_it()
            triton_available.missing.cache_clear()
            assert reason in triton_available.missing()
            assert takes_kernels(x, 2**29 - 1) == (reason == "")
            assert not takes_kernels(x, 2**29)  # times four values: more than 31 bits
        assert not takes_kernels(x.double())
    finally:
        triton_available.missing.cache_clear()


def test_a_prebuilt_library_takes_the_place_of_the_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(triton_available, "PREBUILT", tmp_path / "cuda_utils.so")
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(knobs.build, "impl", None)
    monkeypatch.setenv("CC", "/bin/false")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    source = tmp_path / "source.c"
    source.write_text("int answer;")
    triton_available.use_prebuilt()
    with pytest.raises(subprocess.CalledProcessError):
        build.compile_so_from_file(str(source), "cuda_utils")
    triton_available.PREBUILT.write_bytes(b"compiled")
    triton_available.missing.cache_clear()
    try:
        assert triton_available.missing() == ""
    finally:
        triton_available.missing.cache_clear()
    triton_available.use_prebuilt()
    assert Path(build.compile_so_from_file(str(source), "cuda_utils")).read_bytes() == b"compiled"
    with pytest.raises(RuntimeError, match="asks for launcher"):
        build.compile_so_from_file(str(source), "launcher")


def differ(found, right):
    return float((found.double() - right).norm() / right.norm())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_pointwise_and_its_gradients(monkeypatch, shape):
    x, weight, gradient = operands(*shape)
    y, by_x, by_weight = expected(x, weight, gradient)
    found = triton_pointwise.pointwise(x, weight)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert differ(found, y) < 1e-6
    for programs in (triton_pointwise.PROGRAMS, 3):
        monkeypatch.setattr(triton_pointwise, "PROGRAMS", programs)
        gradients = triton_pointwise.pointwise_backward(gradient, x, weight, (True, True))
        assert gradients[1].shape == weight.shape
        assert max(map(differ, gradients, (by_x, by_weight))) < 1e-6
    assert triton_pointwise.pointwise_backward(gradient, x, weight, (False, False)) == (None, None)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_depthwise_and_its_gradients(size, stride, dilation):
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 6, 7, 8, generator=draw), torch.randn(6, 1, size, size, generator=draw)
    exact = [t.double().requires_grad_() for t in (x, weight)]
    y = F.conv2d(*exact, None, stride, dilation * (size // 2), dilation, 6)
    gradient = torch.randn(y.shape, generator=draw)
    assert differ(triton_separable.depthwise(x, weight, stride, dilation), y.detach()) < 1e-6
    found = triton_separable.depthwise_backward(gradient, x, weight, stride, dilation, wanted=(True, True))
    assert max(map(differ, found, torch.autograd.grad(y, exact, gradient.double()))) < 1e-6
    assert triton_separable.depthwise_backward(
        gradient, x, weight, stride, dilation, wanted=(False, False)
    ) == (
        None,
        None,
    )


def normalize(y, scale):
    mean, variance = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), keepdim=True, unbiased=False)
    return scale[:, None, None] * (y - mean) / (variance + 1e-5).sqrt()


def mixture(x, scales, weights, edges, stride):
    """`Mixture`, one PyTorch operation at a time."""
    n, _, h, w = x.shape
    width, c = weights[0].shape[0], weights[1].shape[1]
    repeated = x.view(n, -1, 1, c, h, w).expand(-1, -1, edges, -1, -1, -1).reshape(n, width, h, w)
    total, rest = 0, iter(weights)
    for scale, stages, dilated in zip(scales, (2, 2, 1, 1), (1, 1, 2, 2), strict=True):
        y, geometry = repeated, (stride, dilated)
        for stage in range(stages):
            depthwise, one = next(rest), next(rest)
            padding = geometry[1] * (depthwise.shape[-1] // 2)
            y = F.conv2d(y, depthwise, None, geometry[0], padding, geometry[1], width)
            y = F.conv2d(y, one, groups=width // c)
            last = stage == stages - 1
            y = normalize(y, scale if last else torch.ones_like(scale))
            y, geometry = y if last else y.relu(), (1, 1)
        total = total + y
    return total.view(n, -1, edges * c, *total.shape[2:]).sum(1)


MIXTURES = {  # batch, sources, edges, channels, height, width, stride; small, since the interpreter is slow
    "two sources": (1, 2, 1, 3, 4, 5, 1),
    "two edges, halved": (2, 1, 2, 4, 5, 4, 2),
    "wider than a block": (1, 1, 1, 65, 2, 3, 1),
    "many blocks": (1, 1, 1, 2, 13, 11, 1),
}


def of_mixture(n, sources, edges, c, h, w):
    draw = torch.Generator().manual_seed(0)
    width = sources * edges * c
    shapes = [((width, 1, k, k), (width, c, 1, 1)) for k in (3, 3, 5, 5, 3, 5)]
    weights = [0.3 * torch.randn(shape, generator=draw) for pair in shapes for shape in pair]
    x = torch.randn(n, sources * c, h, w, generator=draw).relu()
    return x, torch.rand(4, width, generator=draw), weights


@pytest.mark.parametrize("shape", MIXTURES.values(), ids=MIXTURES)
def test_the_mixture_and_its_gradients(shape):
    *sizes, stride = shape
    x, scales, weights = of_mixture(*sizes)
    exact = [t.double().requires_grad_() for t in (x, scales, *weights)]
    right = mixture(exact[0], exact[1], exact[2:], sizes[2], stride)
    gradient = torch.randn(right.shape, generator=torch.Generator().manual_seed(1))
    inputs = [t.requires_grad_() for t in (x, scales, *weights)]
    found = triton_separable.Mixture.apply(None, *inputs[:2], sizes[1], stride, *inputs[2:])
    assert differ(found.detach(), right.detach()) < 1e-6
    gradients = torch.autograd.grad(found, inputs, gradient)
    for a, b in zip(gradients, torch.autograd.grad(right, exact, gradient.double()), strict=True):
        assert a.shape == b.shape
        assert differ(a, b) < 2e-6


def test_a_mixture_computes_only_wanted_gradients(monkeypatch):
    x, scales, weights = of_mixture(2, 1, 1, 4, 5, 5)
    monkeypatch.setattr(triton_separable, "by_kernels", None)  # fails if called
    monkeypatch.setattr(triton_separable, "by_pointwise", None)
    triton_separable.Mixture.apply(
        None, x.requires_grad_(), scales.requires_grad_(), 1, 1, *weights
    ).sum().backward()
    assert x.grad is not None
    assert scales.grad is not None
    frozen = [weight.requires_grad_() for weight in weights]
    result = triton_separable.Mixture.apply(None, x, scales, 1, 1, *frozen)
    with bilevel.frozen(frozen):
        torch.autograd.grad(result.sum(), [x, scales])


POOLS = {  # batch, sources, edges, channels, height, width, stride
    "odd maps": (2, 2, 2, 3, 5, 6, 1),
    "odd maps, halved": (2, 1, 2, 4, 7, 8, 2),
    "wider than a block": (1, 1, 1, 70, 3, 4, 1),
    "many blocks": (1, 1, 1, 2, 15, 11, 1),
    "one pixel": (2, 1, 2, 2, 1, 1, 1),
}


@pytest.mark.parametrize("shape", POOLS.values(), ids=POOLS)
def test_pools_and_their_gradients(shape):
    n, sources, edges, c, h, w, stride = shape
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n, sources * c, h, w, generator=draw)
    weights = torch.rand(edges, (3 if stride == 1 else 2) * sources, generator=draw)
    exact = [t.double().requires_grad_() for t in (x, weights)]
    one = torch.ones(sources * c, dtype=torch.float64)
    maps = [
        normalize(F.max_pool2d(exact[0], 3, stride, 1), one),
        normalize(F.avg_pool2d(exact[0], 3, stride, 1, count_include_pad=False), one),
        *([exact[0]] if stride == 1 else []),
    ]
    by_source = torch.stack([y.unflatten(1, (sources, c)) for y in maps])  # [operation, n, source, c, ...]
    shares = exact[1].view(edges, len(maps), sources)
    right = torch.einsum("eks,knschw->nechw", shares, by_source).flatten(1, 2)
    inputs = [t.requires_grad_() for t in (x, weights)]
    found = triton_pooling.Pooled.apply(None, *inputs, sources, stride)
    assert differ(found.detach(), right.detach()) < 1e-6
    gradient = torch.randn(right.shape, generator=draw)
    gradients = torch.autograd.grad(found, inputs, gradient)
    for a, b in zip(gradients, torch.autograd.grad(right, exact, gradient.double()), strict=True):
        assert float((a.double() - b).norm()) <= 2e-6 * float(b.norm()) + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sources", "stride", "freezes"),
    [(1, 1, False), (2, 2, True)],
    ids=["at stride 1", "at stride 2, with weights frozen after the forward pass"],
)
def test_derivatives_of_out_edges_are_the_same_with_kernels(monkeypatch, sources, stride, freezes):
    """First and second derivatives of all edges from some states, as on a GPU."""
    out = OutEdges(PRIMITIVES, sources, 1, 2, stride)
    draw = torch.Generator().manual_seed(0)
    for parameter in out.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=draw)
    width = 2 * sources
    x = torch.randn(2, width, 4, 5, generator=draw).contiguous(memory_format=torch.channels_last)
    linear = torch.rand(1, sources * (3 if stride == 1 else 2), generator=draw)
    _, scales = torch.rand(4, 3 + width, generator=draw).split([3, width], 1)  # a slice, as in a cell
    skip = torch.rand(width, generator=draw) if stride == 2 else None
    inputs = [x.requires_grad_(), linear.requires_grad_(), scales.requires_grad_()]
    weights = list(out.parameters())

    def derivatives():
        y = out(x, linear, inputs[2], skip)
        asked = inputs if freezes else [*inputs, *weights]
        with bilevel.frozen(weights if freezes else []):
            first = torch.autograd.grad((y**3).sum(), asked, create_graph=True)
            along = sum((g * torch.randn(g.shape, generator=seeded())).sum() for g in first)
            return [y, *first, *torch.autograd.grad(along, inputs)]

    plain = derivatives()
    monkeypatch.setattr(triton_available, "KERNEL_DEVICE", "cpu")
    applied = []
    apply = triton_separable.Mixture.apply
    monkeypatch.setattr(triton_separable.Mixture, "apply", lambda *given: applied.append(1) or apply(*given))
    found = derivatives()
    assert len(applied) == 1
    for a, b in zip(found, plain, strict=True):
        assert differ(a.detach(), b.detach().double()) < 2e-5


@pytest.mark.slow
def test_the_sharpness_of_a_supernet_is_the_same_with_kernels(monkeypatch):
    """Two cells share their alphas, and the second one's edges read what the first one's write."""
    supernet = DartsSupernet(
        DartsSpace(), DartsSearcher(Darts()), nodes=1, in_channels=1, classes=2, channels=2, cells=2
    )
    initialize(supernet, torch.Generator().manual_seed(0))
    initialize_alphas(supernet, torch.Generator().manual_seed(1))
    alphas, weights = [supernet.alphas["reduce"]], supernet.weights()
    alphas[0].data *= 1000  # of deviation 1
    start = torch.randn(alphas[0].numel(), generator=seeded())
    stopping = EarlyStopping(Collapse(power_iterations=1), start)
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))

    def sharpness():
        calls.clear()
        loss = F.cross_entropy(supernet(images), torch.tensor([0, 1]))
        return stopping.iterate(loss, alphas, weights, start)

    calls = []
    plain = OutEdges._plain
    monkeypatch.setattr(OutEdges, "_plain", lambda *given: calls.append(1) or plain(*given))
    expected, out_edges = sharpness(), len(calls)
    monkeypatch.setattr(triton_available, "KERNEL_DEVICE", "cpu")
    assert differ(sharpness(), expected.double()) < 1e-5
    assert len(calls) == out_edges  # each called once


def seeded():
    return torch.Generator().manual_seed(2)
