"""Samplers, augmentation, normalisation: compared with naive loops, exact shares and literal numbers."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from hlrs.config.methods import (
    ClassBalancedSampler,
    DeferredSampler,
    ProgressiveSampler,
    ReversedSampler,
    Sampler,
    SquareRootSampler,
    UniformSampler,
)
from hlrs.data import augment, samplers
from hlrs.data.augment import Augmentation
from hlrs.data.batches import Batches, steps_per_epoch
from hlrs.data.images import ImageSet, Request, channel_statistics, generator
from tests.specs import spec, specs

UNIFORM, REVERSED = UniformSampler(), ReversedSampler()


def labels_of(*counts):
    return torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])


def within(found, draws, share, sigmas=4.5):
    """Whether a count is within the binomial's spread of its expectation."""
    return abs(found - draws * share) <= sigmas * math.sqrt(draws * share * (1 - share))


def plain_set(images, mean=(0.0,), std=(1 / 255,)):
    """With these statistics the normalised values are the bytes themselves."""
    labels = torch.arange(len(images))
    return ImageSet(images, labels, torch.tensor(mean), torch.tensor(std))


def numbered(n, channels, height, width):
    """Images whose pixels all differ, none of them zero."""
    return (
        (torch.arange(n * channels * height * width) % 255 + 1)
        .to(torch.uint8)
        .view(n, channels, height, width)
    )


# --- samplers -----------------------------------------------------------------------------------------


def test_uniform_sampler_is_a_permutation():
    order = samplers.uniform(UNIFORM, labels_of(7, 5, 1), 13, generator("p"), 0.0)
    assert sorted(order.tolist()) == list(range(13))
    assert order.tolist() != list(range(13))


def test_uniform_sampler_chains_whole_permutations():
    order = samplers.uniform(UNIFORM, labels_of(5), 13, generator("p"), 0.0).tolist()
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]
    assert order[:5] != order[5:10]
    assert len(set(order[10:])) == 3


def test_reversed_sampler_draws_classes_by_the_inverse_of_their_size():
    # sizes 60, 30, 10: weights 1/60 : 1/30 : 1/10 = 1 : 2 : 6
    labels = labels_of(60, 30, 10)
    drawn = Counter(labels[samplers.reversed_sampler(REVERSED, labels, 9000, generator("r"), 0.0)].tolist())
    assert within(drawn[0], 9000, 1 / 9)
    assert within(drawn[1], 9000, 2 / 9)
    assert within(drawn[2], 9000, 6 / 9)


def test_reversed_sampler_is_uniform_within_a_class():
    drawn = Counter(
        samplers.reversed_sampler(REVERSED, labels_of(60, 30, 10), 18_000, generator("r"), 0.0).tolist()
    )
    assert all(within(drawn[i], 18_000, 1 / 9 / 60) for i in range(60))
    assert all(within(drawn[i], 18_000, 2 / 9 / 30) for i in range(60, 90))
    assert all(within(drawn[i], 18_000, 6 / 9 / 10) for i in range(90, 100))


def test_reversed_sampler_skips_an_absent_class():
    labels = torch.tensor([0, 0, 0, 2])  # shares 1/4 and 3/4
    drawn = labels[samplers.reversed_sampler(REVERSED, labels, 4000, generator("r"), 0.0)]
    assert within(int((drawn == 2).sum()), 4000, 3 / 4)


SHARES = [  # of classes with 100, 16 and 4 images: P_c by hand
    (ClassBalancedSampler(), 0.3, (1 / 3, 1 / 3, 1 / 3)),
    (SquareRootSampler(), 0.3, (10 / 16, 4 / 16, 2 / 16)),
    (ReversedSampler(), 0.3, (4 / 129, 25 / 129, 100 / 129)),  # 1 : 6.25 : 25
    (ProgressiveSampler(), 0.0, (100 / 120, 16 / 120, 4 / 120)),
    (ProgressiveSampler(), 0.5, (7 / 12, 7 / 30, 11 / 60)),
    (ProgressiveSampler(), 1.0, (1 / 3, 1 / 3, 1 / 3)),
    (DeferredSampler(at=0.8), 0.8, (1 / 3, 1 / 3, 1 / 3)),
    (DeferredSampler(at=0.5), 0.6, (1 / 3, 1 / 3, 1 / 3)),
]


def sample(spec, labels, count, t, purpose="s"):
    return samplers.sample(spec, labels, count, generator(purpose), t)


@pytest.mark.parametrize(("spec", "t", "shares"), SHARES)
def test_samplers_draw_classes_with_their_probabilities(spec, t, shares):
    labels = labels_of(100, 16, 4)
    found = Counter(labels[sample(spec, labels, 30_000, t)].tolist())
    expected = [30_000 * share for share in shares]
    chi_square = sum((found[c] - e) ** 2 / e for c, e in enumerate(expected))
    assert chi_square < 13.8  # two degrees of freedom: exceeded by one seed in a thousand


@pytest.mark.parametrize(("spec", "t", "shares"), SHARES)
def test_samplers_draw_uniformly_within_a_class(spec, t, shares):
    labels = labels_of(100, 16, 4)
    found = Counter(sample(spec, labels, 60_000, t).tolist())
    for start, size, share in ((0, 100, shares[0]), (100, 16, shares[1]), (116, 4, shares[2])):
        assert all(within(found[i], 60_000, share / size, 5) for i in range(start, start + size))


@pytest.mark.parametrize(("spec", "t", "shares"), SHARES)
def test_samplers_ignore_absent_classes(spec, t, shares):
    labels = labels_of(0, 100, 0, 16, 4, 0)
    found = Counter(labels[sample(spec, labels, 30_000, t)].tolist())
    assert set(found) == {1, 3, 4}
    assert all(within(found[c], 30_000, share, 5) for c, share in zip((1, 3, 4), shares, strict=True))


@pytest.mark.parametrize(("spec", "t", "shares"), SHARES)
def test_an_epoch_as_long_as_the_set_is_drawn_with_replacement(spec, t, shares):
    """Without, it would be a permutation, whose classes have the shares of the set."""
    labels = labels_of(1500, 240, 60)
    found = Counter(labels[sample(spec, labels, 1800, t)].tolist())
    assert all(within(found[c], 1800, share) for c, share in enumerate(shares))


@pytest.mark.parametrize("t", [0.0, 0.79])
def test_the_deferred_sampler_starts_as_the_uniform_one(t):
    labels = labels_of(60, 30, 10)
    order = sample(DeferredSampler(at=0.8), labels, 100, t)
    assert sorted(order.tolist()) == list(range(100))  # whole passes: no image twice
    assert order.tolist() == sample(UniformSampler(), labels, 100, t).tolist()


def test_the_progress_reaches_the_sampler():
    images = ImageSet(numbered(40, 1, 2, 2), labels_of(36, 4), torch.zeros(1), torch.ones(1))
    feed = Batches(images, torch.arange(40), [ProgressiveSampler()], 40, 50, Augmentation(), "p")
    for t, share in ((0.0, 0.1), (1.0, 0.5)):
        feed.begin(0, t)
        rare = sum(int(feed(step)[0].labels.sum()) for step in range(50))
        assert within(rare, 2000, share)


def test_every_sampler_of_config_is_implemented_and_tested():
    assert set(specs(Sampler).values()) == set(samplers.SAMPLERS)
    assert set(specs(Sampler)) == {spec.kind for spec, _, _ in SHARES} | {"uniform"}


def test_a_sampler_declares_rebalancing_if_it_changes_class_shares():
    own = (100 / 120, 16 / 120, 4 / 120)
    changing = {spec.kind for spec, _, shares in SHARES if shares != own}
    assert {kind for kind, spec in specs(Sampler).items() if spec.rebalances} == changing


@pytest.mark.parametrize("kind", specs(Sampler))
@pytest.mark.parametrize("t", [0.0, 0.5, 1.0])
def test_every_sampler_of_config_draws_positions(kind, t):
    chosen = spec(Sampler, kind)
    order = sample(chosen, labels_of(7, 5, 1), 50, t)
    assert (order.dtype, order.shape) == (torch.int64, (50,))
    assert set(order.tolist()) <= set(range(13))
    assert torch.equal(order, sample(chosen, labels_of(7, 5, 1), 50, t))
    assert not torch.equal(order, sample(chosen, labels_of(7, 5, 1), 50, t, "another"))


# --- the same draws for the same purpose --------------------------------------------------------------


def some_batches(purpose="0/search/weights", chosen=(UNIFORM, REVERSED)):
    augmentation = Augmentation(crop_padding=1, flip=True, cutout=2)
    images = ImageSet(numbered(40, 1, 4, 4), labels_of(25, 10, 5), torch.zeros(1), torch.ones(1))
    return Batches(images, torch.arange(0, 40, 2), chosen, 6, 3, augmentation, purpose)


def drawn(feed, epoch, step):
    feed.begin(epoch, 0.0)
    return feed(step)


def same(first, second):
    return all(
        torch.equal(a, b)
        for x, y in zip(first, second, strict=True)
        for a, b in zip(x[:2], y[:2], strict=True)
    )


def test_a_batch_depends_only_on_purpose_epoch_and_step():
    feed = some_batches()
    for epoch in range(3):
        feed.begin(epoch, 0.0)
        straight = [feed(step) for step in range(3)]
    assert same(drawn(some_batches(), 2, 1), straight[1])  # like a resumed run
    few = some_batches()
    few.begin(2, 0.0, range(1, 3, 2))
    assert [len(requests) for requests in few.requests] == [0, 2, 0]
    assert same(few(1), straight[1])


@pytest.mark.parametrize(
    "other", [("0/search/weights", 2, 0), ("0/search/weights", 1, 1), ("0/search/alphas", 1, 0)]
)
def test_another_purpose_epoch_or_step_draws_another_batch(other):
    purpose, epoch, step = other
    first, second = drawn(some_batches(), 1, 0), drawn(some_batches(purpose), epoch, step)
    assert not same(first[:1], second[:1])
    assert not same(first[1:], second[1:])


def test_views_show_the_same_images_under_draws_of_their_own():
    one, three = some_batches(), some_batches()
    three.views = [one.augmentation, Augmentation()]
    for epoch, step in ((0, 2), (1, 0)):
        alone, batches = drawn(one, epoch, step), drawn(three, epoch, step)
        assert len(batches) == 6  # of each sampler three
        assert same(alone, batches[::3])
        for first, second, plain in (batches[:3], batches[3:]):
            assert torch.equal(first.labels, second.labels)
            assert torch.equal(first.labels, plain.labels)
            assert not torch.equal(first.images, second.images)
    for batch, request in zip(batches[2::3], three.requests[0][2::3], strict=True):  # the images as they are
        assert torch.equal(batch.images, three.images.normalize(three.images.images[request.positions]))


@pytest.mark.parametrize("sampler", ["uniform", "reversed"])
def test_every_epoch_and_sampler_has_its_own_order(sampler):
    images = ImageSet(numbered(40, 1, 4, 4), torch.arange(40), torch.zeros(1), torch.ones(1))
    feed = Batches(images, torch.arange(40), [spec(Sampler, sampler)] * 2, 8, 5, Augmentation(), "p")
    orders = []
    for epoch in range(3):
        feed.begin(epoch, 0.0)
        orders += [
            tuple(int(label) for step in range(5) for label in feed(step)[place].labels) for place in range(2)
        ]
    assert len(set(orders)) == 6


@pytest.mark.parametrize("augmentation", [Augmentation(4), Augmentation(cutout=4)], ids=["crop", "cutout"])
def test_every_epoch_step_and_sampler_has_its_own_augmentation(augmentation):
    one = plain_set(numbered(1, 1, 8, 8))
    feed = Batches(one, torch.zeros(1, dtype=torch.int64), [UNIFORM] * 2, 1, 12, augmentation, "p")
    streams = []
    for epoch in range(2):
        feed.begin(epoch, 0.0)
        streams += [[str(feed(step)[place].images.tolist()) for step in range(12)] for place in range(2)]
    assert len(set(map(str, streams))) == 4
    assert all(len(set(stream)) > 6 for stream in streams)  # of 81 windows, of 64 holes


def test_generators_differ_between_purposes_only():
    first, again, other = (torch.rand(3, generator=generator(*p)) for p in ((0, "a"), (0, "a"), (1, "a")))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_epoch_visits_every_position_once():
    images = ImageSet(numbered(40, 1, 4, 4), torch.arange(40), torch.zeros(1), torch.ones(1))
    positions = torch.arange(0, 40, 2)
    feed = Batches(images, positions, [UNIFORM], 5, 4, Augmentation(), "p")
    feed.begin(0, 0.0)
    seen = [int(label) for step in range(4) for label in feed(step)[0][1]]
    assert sorted(seen) == positions.tolist()


def test_batch_size_is_at_most_the_number_of_images():
    images = ImageSet(numbered(3, 1, 4, 4), torch.arange(3), torch.zeros(1), torch.ones(1))
    feed = Batches(images, torch.arange(3), [UNIFORM], 64, steps_per_epoch(3, 64), Augmentation(), "p")
    assert sorted(drawn(feed, 0, 0)[0][1].tolist()) == [0, 1, 2]


@pytest.mark.parametrize(("images", "batch", "steps"), [(64, 64, 1), (127, 64, 1), (128, 64, 2), (3, 64, 1)])
def test_the_last_partial_batch_is_dropped(images, batch, steps):
    assert steps_per_epoch(images, batch) == steps


# --- augmentation -------------------------------------------------------------------------------------


def naive_crop(image, padding, row, column, flipped):
    """One image as nested lists [channels][height][width]."""
    height, width = len(image[0]), len(image[0][0])
    cropped = []
    for plane in image:
        lines = []
        for y in range(height):
            line = []
            for x in range(width):
                source_y, source_x = y + row - padding, x + column - padding
                inside = 0 <= source_y < height and 0 <= source_x < width
                line.append(plane[source_y][source_x] if inside else 0)
            lines.append(line[::-1] if flipped else line)
        cropped.append(lines)
    return cropped


@pytest.mark.parametrize("channels", [1, 3])
def test_crop_and_flip_at_literal_offsets(channels):
    images = numbered(6, channels, 4, 5)
    offsets = [(0, 0, False), (2, 2, False), (4, 1, False), (2, 2, True), (0, 4, True), (3, 0, True)]
    rows, columns, flipped = (torch.tensor(column) for column in zip(*offsets, strict=True))
    found = augment._crop_and_flip(images, Augmentation(2, True), rows, columns, flipped)
    expected = [naive_crop(i, 2, *o) for i, o in zip(images.tolist(), offsets, strict=True)]
    assert found.tolist() == expected


def test_offsets_and_flips_are_equally_frequent():
    image = numbered(1, 1, 3, 4)
    variants = {
        str(naive_crop(image[0].tolist(), 1, row, column, flipped))
        for row in range(3)
        for column in range(3)
        for flipped in (False, True)
    }
    cropped, *_ = plain_set(image).batch(
        Request(torch.zeros(3600, dtype=torch.int64), Augmentation(1, True), ("c",))
    )
    counts = Counter(str(one) for one in cropped.round().int().tolist())
    assert set(counts) == variants
    assert len(variants) == 18
    assert all(within(n, 3600, 1 / 18) for n in counts.values())


def test_without_flip_no_image_is_mirrored():
    image = torch.tensor([[[[1, 2, 3]]]], dtype=torch.uint8)
    found, *_ = plain_set(image).batch(Request(torch.zeros(200, dtype=torch.int64), Augmentation(1), ("c",)))
    assert all(one[0][0] != [3, 2, 1] for one in found.round().int().tolist())


def test_flip_alone_mirrors_half_of_the_images():
    image = torch.tensor([[[[1, 2, 3]]]], dtype=torch.uint8)
    found, *_ = plain_set(image).batch(
        Request(torch.zeros(1000, dtype=torch.int64), Augmentation(0, True), ("c",))
    )
    counts = Counter(tuple(one[0][0]) for one in found.round().int().tolist())
    assert set(counts) == {(1, 2, 3), (3, 2, 1)}
    assert within(counts[3, 2, 1], 1000, 1 / 2)


@pytest.mark.parametrize("chosen", [(UNIFORM,), (UNIFORM, REVERSED)], ids=len)
def test_an_alternating_flip_mirrors_half_of_the_images_then_the_others(chosen):
    count = 400  # images 1 2 3, told apart by their labels
    pixels = torch.tensor([[[1, 2, 3]]], dtype=torch.uint8).expand(count, 1, 1, 3)
    images = ImageSet(pixels, torch.arange(count), torch.zeros(1), torch.ones(1) / 255)
    positions = torch.arange(0, count, 2)

    def mirrored(epoch, seed=0):
        """Whether each image is mirrored, by its label."""
        feed = Batches(images, positions, chosen, 50, 4, Augmentation(0, "alternating"), f"{seed}/p")
        feed.begin(epoch, 0.0)
        found = {}
        for batch in (batch for step in range(4) for batch in feed(step)):
            for image, label in zip(batch.images.round().int(), batch.labels.tolist(), strict=True):
                flipped = {(1, 2, 3): False, (3, 2, 1): True}[tuple(image[0, 0].tolist())]
                assert found.setdefault(label, flipped) == flipped  # whichever sampler draws it
        return found

    first = mirrored(0)
    assert sorted(first) == positions.tolist()
    assert within(sum(first.values()), 200, 1 / 2)
    assert mirrored(1) == mirrored(5) == {label: not flipped for label, flipped in first.items()}
    assert mirrored(2) == mirrored(2) == first
    assert mirrored(0, seed=1) != first


def test_an_alternating_flip_leaves_the_crops_as_they_are():
    images = ImageSet(numbered(40, 1, 4, 4), torch.arange(40), torch.zeros(1), torch.ones(1))
    batches = {}
    for flip in (False, "alternating"):
        feed = Batches(images, torch.arange(40), (UNIFORM,), 40, 1, Augmentation(1, flip), "p")
        batches[flip] = drawn(feed, 0, 0)[0].images
    pairs = list(zip(batches[False], batches["alternating"], strict=True))
    assert all(torch.equal(a, b) or torch.equal(a, b.flip(-1)) for a, b in pairs)
    assert 0 < sum(torch.equal(a, b) for a, b in pairs) < 40


def test_cutout_is_a_square_around_any_pixel_clipped_at_the_border():
    # DARTS's utils.Cutout: rows max(y - 2, 0) to min(y + 2, height), likewise columns
    holes = {(max(y - 2, 0), min(y + 2, 6), max(x - 2, 0), min(x + 2, 7)) for y in range(6) for x in range(7)}
    ones = torch.ones(1, 2, 6, 7, dtype=torch.uint8)
    found, *_ = plain_set(ones, (0.0, 0.0), (1 / 255, 1 / 255)).batch(
        Request(torch.zeros(2000, dtype=torch.int64), Augmentation(cutout=4), ("h",))
    )
    seen = set()
    for image in found:
        empty = torch.nonzero(image[0] == 0)
        (top, left), (bottom, right) = empty.amin(0).tolist(), (empty.amax(0) + 1).tolist()
        assert len(empty) == (bottom - top) * (right - left)  # exactly a rectangle
        assert torch.equal(image[0], image[1])  # the same in every channel
        seen.add((top, bottom, left, right))
    assert seen == holes


def test_cutout_fills_with_the_mean_colour_and_padding_is_black():
    white = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    images = plain_set(white, (0.75,), (0.25,))
    cut, *_ = images.batch(Request(torch.zeros(50, dtype=torch.int64), Augmentation(cutout=2), ("h",)))
    assert set(cut.unique().tolist()) == {0.0, 1.0}
    shifted, *_ = images.batch(Request(torch.zeros(50, dtype=torch.int64), Augmentation(1), ("h",)))
    assert set(shifted.unique().tolist()) == {-3.0, 1.0}


def test_without_augmentation_images_are_unchanged():
    images = numbered(5, 1, 3, 3)
    found, labels, *_ = plain_set(images).batch(Request(torch.tensor([3, 0]), Augmentation(), ("n",)))
    assert torch.equal(found.round().to(torch.uint8), images[[3, 0]])
    assert labels.tolist() == [3, 0]


def test_images_are_never_modified():
    images = numbered(8, 3, 6, 6)
    before = images.clone()
    feed = Batches(
        plain_set(images, (0.5,) * 3, (0.2,) * 3),
        torch.arange(8),
        [UNIFORM, REVERSED],
        4,
        2,
        Augmentation(2, True, 4),
        "p",
    )
    feed.begin(0, 0.0)
    for step in range(2):
        for batch in feed(step):
            batch.images.zero_()
    for position in range(8):  # not even through a batch that needed no augmentation
        plain_set(images).batch(Request(torch.tensor([position]), Augmentation(), ("n",))).images.zero_()
    assert torch.equal(images, before)


# --- normalisation ------------------------------------------------------------------------------------


def test_normalisation_numbers():
    images = torch.tensor([[[[0, 51, 255]], [[0, 51, 255]]]], dtype=torch.uint8)
    found = plain_set(images, (0.5, 0.25), (0.25, 0.5)).normalize(images)
    assert found.dtype == torch.float32
    assert found[0, 0, 0].tolist() == pytest.approx([-2.0, -1.2, 2.0], abs=1e-6)
    assert found[0, 1, 0].tolist() == pytest.approx([-0.5, -0.1, 1.5], abs=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_statistics_match_numpy(channels):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (20, channels, 5, 7), dtype=np.uint8)
    images[:, 0] //= 3
    mean, std = channel_statistics([images[:7], images[7:]])
    assert mean == pytest.approx((images / 255).mean((0, 2, 3)).tolist(), rel=1e-12)
    assert std == pytest.approx((images / 255).std((0, 2, 3)).tolist(), rel=1e-9)


def test_channel_statistics_of_a_few_pixels_by_hand():
    mean, std = channel_statistics([np.array([[[[0, 255]]], [[[255, 255]]]], dtype=np.uint8)])
    assert mean == pytest.approx([0.75])
    assert std == pytest.approx([math.sqrt(3) / 4])


@pytest.mark.parametrize("value", [0, 11, 77, 255])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_constant_channel_is_divided_by_one_level(value):
    images = np.full((7, 1, 5, 5), value, dtype=np.uint8)
    mean, std = channel_statistics([images])
    assert mean == pytest.approx([value / 255])
    assert std == pytest.approx([1 / 255])
