"""Convolutions by approximate products, against one product at a time looked up in a table."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hlrs.config.arithmetic import Arithmetic, ExactMultiplier, TruncatedMultiplier
from hlrs.errors import UserError
from hlrs.nas.arithmetic import approximate, energy
from hlrs.nas.derived import DerivedNetwork
from hlrs.nas.genotype import published
from hlrs.nas.mixed_edges import SeparableConv
from hlrs.nas.multipliers import CIRCUITS, truncated_products
from hlrs.nas.network import initialize
from hlrs.nas.ops.approximate import Product, Tabulated, Truncated
from hlrs.nas.resnet import ResNet

UNSIGNED = np.arange(256)
GEOMETRIES = [  # channels, outputs, groups, kernel, stride, dilation
    (6, 6, 6, (3, 3), 1, 1),
    (6, 6, 6, (5, 5), 2, 1),
    (6, 6, 6, (3, 3), 1, 2),
    (8, 4, 1, (1, 1), 1, 1),
    (6, 4, 2, (1, 7), 1, 1),
    (28, 16, 1, (3, 3), 1, 1),
]


def codes(x, signed, low, high):
    """Codes, the code of 0 and the scale, in float64."""
    if signed:
        scale = np.float32(max(-low, high)) / np.float32(127)
        return np.clip(np.rint(x * (np.float32(1) / scale)), -127, 127).astype(int), 0, scale
    scale = (np.float32(max(high, 0)) - np.float32(min(low, 0))) / np.float32(255)
    zero = np.rint(np.float32(-min(low, 0)) / scale)
    rounded = np.rint(x * (np.float32(1) / scale)) + zero
    return np.clip(rounded, 0, 255).astype(int), int(zero), scale


def looked_up(x, weight, products, signed, stride, dilation, groups):
    """Convolve with products of a table, one at a time, and padding by the code of 0."""
    first = 128 if signed else 0
    x, weight = x.numpy(), weight.numpy()
    a, zero_a, scale_a = codes(x, signed, x.min(), x.max())
    b, zero_b, scale_b = codes(weight, signed, weight.min(), weight.max())
    (n, _, *size), (outputs, inputs, *kernel) = x.shape, weight.shape
    reach = [dilation * (k // 2) for k in kernel]
    a = np.pad(a, ((0, 0), (0, 0), *((r, r) for r in reach)), constant_values=zero_a)
    out = [(s - 1) // stride + 1 for s in size]
    y = np.zeros((n, outputs, *out))
    for o in range(outputs):
        for c in range(inputs):
            source = a[:, o // (outputs // groups) * inputs + c]
            for i in range(kernel[0]):
                for j in range(kernel[1]):
                    rows = slice(i * dilation, i * dilation + stride * (out[0] - 1) + 1, stride)
                    columns = slice(j * dilation, j * dilation + stride * (out[1] - 1) + 1, stride)
                    q, w = source[:, rows, columns], b[o, c, i, j]
                    y[:, o] += products[q + first, w + first] - zero_b * q - zero_a * w + zero_a * zero_b
    return torch.from_numpy(y), float(scale_a * scale_b)


def drawn(geometry, seed=0):
    channels, outputs, groups, kernel, *_ = geometry
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(3, channels, 9, 9, generator=draw)
    return x, torch.randn(outputs, channels // groups, *kernel, generator=draw)


NOISE = np.random.default_rng(0).integers(-9, 10, (256, 1))
MULTIPLIERS = {
    **{f"truncated {omitted}": (Truncated(*omitted), truncated_products(*omitted)) for omitted in CIRCUITS},
    "table, signed": (Tabulated(truncated_products(2, 0, 5), True, 288), truncated_products(2, 0, 5)),
    **{
        f"table, {name}": (Tabulated(products, False, 258), products)
        for name, products in {
            "exact": np.multiply.outer(UNSIGNED, UNSIGNED),
            "zero": np.zeros((256, 256), np.int64),
            "rows": np.multiply.outer(UNSIGNED, UNSIGNED) + NOISE,
            "truncated": np.multiply.outer(UNSIGNED - UNSIGNED % 4, UNSIGNED - UNSIGNED % 8),
        }.items()
    },
}


@pytest.mark.parametrize("name", MULTIPLIERS)
def test_a_convolution_sums_the_products_of_the_table(name):
    multiplier, products = MULTIPLIERS[name]
    signed = not isinstance(multiplier, Tabulated) or multiplier.signed
    for geometry in GEOMETRIES:
        x, weight = drawn(geometry)
        *_, groups, _, stride, dilation = geometry
        sums, scale = looked_up(x, weight, products, signed, stride, dilation, groups)
        product = Product(multiplier, 1, 1, tracked=False)
        found = product(x.contiguous(memory_format=torch.channels_last), weight, stride, dilation)
        # the sums are whole numbers: equal to the last one
        assert torch.equal((found.double() / scale).round(), sums), geometry
        assert torch.allclose(found.double(), sums * scale, rtol=1e-6, atol=0)


def test_gradients_are_those_of_the_exact_product():
    """Finite differences of the exact product of the dequantized values, which is linear in each."""
    x, weight = (t.requires_grad_() for t in drawn(GEOMETRIES[1]))
    product = Product(Truncated(2, 2, 0), 1, 1, tracked=False)
    along = torch.randn(3, 6, 5, 5, generator=torch.Generator().manual_seed(1))
    by_x, by_weight = torch.autograd.grad((product(x, weight, 2, 1) * along).sum(), (x, weight))
    values = []
    for t in (x, weight):
        t = t.detach().double().numpy()
        q, _, scale = codes(t.astype(np.float32), True, t.min(), t.max())
        values.append(torch.from_numpy(q * float(scale)))

    def exact(a, b):
        return float((F.conv2d(a, b, None, 2, 2, 1, 6) * along).sum())

    for at, gradient, place in ((0, by_x, (1, 2, 3, 4)), (1, by_weight, (5, 0, 1, 2))):
        ends = []
        for step in (0.5, -0.5):
            moved = [value.clone() for value in values]
            moved[at][place] += step
            ends.append(exact(*moved))
        assert float(gradient[place]) == pytest.approx(ends[0] - ends[1], rel=1e-5)


def test_second_derivatives_are_those_of_the_exact_product():
    x, weight = (t.requires_grad_() for t in drawn(GEOMETRIES[0]))

    def second(y):
        [by_weight] = torch.autograd.grad(y.square().sum(), weight, create_graph=True)
        return torch.autograd.grad(by_weight.square().sum(), x)[0]

    found = second(Product(Truncated(), 1, 1, tracked=False)(x, weight))
    values = []
    for t in (x, weight):
        scale = t.detach().abs().max() / 127
        values.append(t + ((t / scale).round() * scale - t).detach())
    expected = second(F.conv2d(*values, None, 1, 1, 1, 6))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_ranges_move_in_training_and_rest_in_evaluation():
    product = Product(Truncated(), 1, 1, tracked=True)
    weight = torch.ones(1, 1, 1, 1)
    product(torch.tensor([-1.0, 3.0]).view(1, 1, 1, 2), weight)
    product(torch.tensor([-2.0, 8.0]).view(1, 1, 1, 2), weight)
    assert product.ranges.flatten().tolist() == pytest.approx([-1.1, 3.5])  # 0.9 of the old, 0.1 of the new
    product.eval()
    x = torch.tensor([0.9, 5.0]).view(1, 1, 1, 2).requires_grad_()
    y = product(x, weight)
    # codes of 3.5 / 127 each: 0.9 is the 33rd, 5 is clipped
    assert y.flatten().tolist() == pytest.approx([33 * 3.5 / 127, 3.5])
    y.sum().backward()
    assert x.grad.flatten().tolist() == pytest.approx([1.0, 0.0])
    alone = product(x[..., :1], weight)
    assert torch.equal(alone, y[..., :1])
    assert product.ranges.flatten().tolist() == pytest.approx([-1.1, 3.5])


def test_maps_side_by_side_have_codes_of_their_own():
    x, weight = drawn((4, 4, 4, (3, 3), 1, 1))
    x[:, 2:] *= 100
    both = Product(Truncated(1, 0, 3), 2, 2, tracked=False)(x, weight)
    for half in (slice(0, 2), slice(2, 4)):
        alone = Product(Truncated(1, 0, 3), 1, 1, tracked=False)(x[:, half], weight[half])
        assert torch.allclose(both[:, half], alone, rtol=1e-6, atol=1e-6 * float(alone.abs().max()))


def test_a_supernets_convolution_is_that_of_each_edge():
    torch.manual_seed(0)
    edges = SeparableConv(3, 1, 2, 4, 1, 1)
    multiplier = Truncated(0, 0, 4)
    for convolution in (*edges.depthwise, *edges.pointwise):
        convolution.product = Product(multiplier, *convolution.parts, tracked=False)
    x, scale = torch.randn(2, 8, 6, 6), torch.rand(8)
    found = edges(x, scale)
    for edge in range(2):
        own = slice(4 * edge, 4 * edge + 4)
        y = x[:, own]
        for stage in range(2):
            product = Product(multiplier, 1, 1, tracked=False)
            y = product(F.relu(y) if stage else y, edges.depthwise[stage].weight[own])
            y = F.batch_norm(product(y, edges.pointwise[stage].weight[own]), None, None, training=True)
        assert torch.allclose(found[:, own], y * scale[own, None, None], rtol=1e-4, atol=1e-5)


def network(channels, cells, arithmetic, device="meta"):
    with torch.device(device):
        made = DerivedNetwork(
            published("DARTS_V2"), in_channels=3, classes=10, channels=channels, cells=cells
        )
        approximate(made, arithmetic)
    return made.eval()


def test_energy_of_the_published_network():
    """By hand: (0, 0, 4) saves 8.00 %, and the primitives of DARTS_V2 have 57 % of all products.

    A normal cell has eleven stages of 9 C + C² products per pixel (five separable convolutions twice, a
    dilated one), a reduction cell none; there are six normal cells each of 36, 72 and 144 channels.
    """
    multiplier = TruncatedMultiplier(columns=4)
    everywhere = Arithmetic(multiplier=multiplier, where="convolutions")
    found = energy(network(36, 20, everywhere), everywhere, 3, 32)
    assert found["energy_to_int8"] == pytest.approx(0.9200, abs=5e-5)  # 0.391 / 0.425 mW
    primitives = Arithmetic(multiplier=multiplier)
    found = energy(network(36, 20, primitives), primitives, 3, 32)
    by_hand = sum(6 * 11 * (9 * c + c**2) * size**2 for c, size in ((36, 32), (72, 16), (144, 8)))
    assert found["approximate_multiplications"] == by_hand == 301_086_720
    share = by_hand / 528_359_040
    assert found["energy_to_int8"] == pytest.approx(1 - 0.08 * share, abs=1e-6)
    # the others stay in floating point; 0.2 and 3.7 pJ
    assert found["energy_to_float32"] == pytest.approx(1 - share * (1 - 0.92 * 0.2 / 3.7), abs=1e-6)


def test_a_genotype_without_convolutions_stays_exact():
    arithmetic = Arithmetic(multiplier=ExactMultiplier())
    two_reductions = network(4, 2, arithmetic)  # of DARTS_V2: pools and skips
    assert energy(two_reductions, arithmetic, 3, 8) == {
        "approximate_multiplications": 0,
        "energy_to_int8": 1.0,
        "energy_to_float32": 1.0,
    }


def test_energy_of_a_multiplier_without_figures_is_unknown():
    arithmetic = Arithmetic(multiplier=TruncatedMultiplier(activation_bits=5))
    found = energy(network(4, 3, arithmetic), arithmetic, 3, 8)
    assert found["approximate_multiplications"] > 0
    assert found["energy_to_int8"] is None


def test_products_are_chosen_by_where():
    whole = Arithmetic(multiplier=ExactMultiplier(), where="convolutions")
    primitives = {
        n
        for n, m in network(4, 3, Arithmetic(multiplier=ExactMultiplier())).named_modules()
        if isinstance(m, Product)
    }
    everywhere = {n for n, m in network(4, 3, whole).named_modules() if isinstance(m, Product)}
    assert primitives < everywhere
    assert all(".nodes." in name for name in primitives)
    assert {"stem.layers.0.product", "shared.0.input0.0.product"} <= everywhere - primitives


def test_networks_that_do_not_allow_it_are_refused():
    exact = ExactMultiplier()
    with torch.device("meta"):
        wide = ResNet(20, 128, in_channels=3, classes=2)
        with pytest.raises(UserError, match=r"1,152 products of up to 16,384.* so 1,024 products: lower"):
            approximate(wide, Arithmetic(multiplier=exact, where="convolutions"))


def test_a_prediction_does_not_depend_on_its_batch():
    made = network(4, 3, Arithmetic(multiplier=TruncatedMultiplier(weight_bits=1, columns=3)), "cpu")
    initialize(made, torch.Generator().manual_seed(0))
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    made.train()
    made(images)
    made.eval()
    with torch.no_grad():
        assert torch.allclose(made(images)[:1], made(images[:1]), rtol=1e-5, atol=1e-6)
