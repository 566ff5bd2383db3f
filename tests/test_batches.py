"""Samplers, augmentation, normalisation: against naive loops, exact shares and literal numbers."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from hlrs.data import batches
from hlrs.data.batches import Augmentation, Batches, ImageSet, channel_statistics, generator, steps_per_epoch


def labels_of(*counts):
    return torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])


def within(found, draws, share, sigmas=4.5):
    """Whether a count is what so many draws give, within the binomial's spread."""
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
    order = batches.uniform(labels_of(7, 5, 1), 13, generator("p"))
    assert sorted(order.tolist()) == list(range(13))
    assert order.tolist() != list(range(13))


def test_uniform_sampler_goes_round_whole_permutations():
    order = batches.uniform(labels_of(5), 13, generator("p")).tolist()
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]
    assert order[:5] != order[5:10]
    assert len(set(order[10:])) == 3


def test_reversed_sampler_draws_classes_by_the_inverse_of_their_size():
    # sizes 60, 30, 10: weights 1/60 : 1/30 : 1/10 = 1 : 2 : 6
    labels = labels_of(60, 30, 10)
    drawn = Counter(labels[batches.reversed_sampler(labels, 9000, generator("r"))].tolist())
    assert within(drawn[0], 9000, 1 / 9)
    assert within(drawn[1], 9000, 2 / 9)
    assert within(drawn[2], 9000, 6 / 9)


def test_reversed_sampler_is_uniform_within_a_class():
    drawn = Counter(batches.reversed_sampler(labels_of(60, 30, 10), 18_000, generator("r")).tolist())
    assert all(within(drawn[i], 18_000, 1 / 9 / 60) for i in range(60))
    assert all(within(drawn[i], 18_000, 2 / 9 / 30) for i in range(60, 90))
    assert all(within(drawn[i], 18_000, 6 / 9 / 10) for i in range(90, 100))


def test_reversed_sampler_passes_over_a_class_that_is_not_there():
    labels = torch.tensor([0, 0, 0, 2])  # shares 1/4 and 3/4
    drawn = labels[batches.reversed_sampler(labels, 4000, generator("r"))]
    assert within(int((drawn == 2).sum()), 4000, 3 / 4)


# --- the same draws for the same purpose --------------------------------------------------------------


def some_batches(purpose="0/search/weights", samplers=("uniform", "reversed")):
    augmentation = Augmentation(crop_padding=1, flip=True, cutout=2)
    images = ImageSet(numbered(40, 1, 4, 4), labels_of(25, 10, 5), torch.zeros(1), torch.ones(1))
    return Batches(images, torch.arange(0, 40, 2), samplers, 6, 3, augmentation, purpose)


def drawn(feed, epoch, step):
    feed.begin(epoch)
    return feed(step)


def same(first, second):
    return all(
        torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_a_batch_depends_on_purpose_epoch_and_step_alone():
    feed = some_batches()
    for epoch in range(3):
        feed.begin(epoch)
        straight = [feed(step) for step in range(3)]
    assert same(drawn(some_batches(), 2, 1), straight[1])  # as a resumed run draws it


@pytest.mark.parametrize(
    "other", [("0/search/weights", 2, 0), ("0/search/weights", 1, 1), ("0/search/alphas", 1, 0)]
)
def test_another_purpose_epoch_or_step_draws_another_batch(other):
    purpose, epoch, step = other
    first, second = drawn(some_batches(), 1, 0), drawn(some_batches(purpose), epoch, step)
    assert not same(first[:1], second[:1])
    assert not same(first[1:], second[1:])


@pytest.mark.parametrize("sampler", ["uniform", "reversed"])
def test_every_epoch_has_an_order_of_its_own(sampler):
    images = ImageSet(numbered(40, 1, 4, 4), torch.arange(40), torch.zeros(1), torch.ones(1))
    feed = Batches(images, torch.arange(40), [sampler], 8, 5, Augmentation(), "p")
    epochs = []
    for epoch in range(3):
        feed.begin(epoch)
        epochs.append(tuple(int(label) for step in range(5) for label in feed(step)[0][1]))
    assert len(set(epochs)) == 3


def test_every_epoch_and_step_has_an_augmentation_of_its_own():
    one = plain_set(numbered(1, 1, 8, 8))
    feed = Batches(one, torch.zeros(1, dtype=torch.int64), ["uniform"], 1, 12, Augmentation(4), "p")
    epochs = []
    for epoch in range(2):
        feed.begin(epoch)
        epochs.append([str(feed(step)[0][0].tolist()) for step in range(12)])
    assert epochs[0] != epochs[1]
    assert len(set(epochs[0])) > 6  # of 81 windows


def test_generators_of_two_purposes_differ_and_of_one_agree():
    first, again, other = (torch.rand(3, generator=generator(*p)) for p in ((0, "a"), (0, "a"), (1, "a")))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_epoch_passes_over_the_positions_once():
    images = ImageSet(numbered(40, 1, 4, 4), torch.arange(40), torch.zeros(1), torch.ones(1))
    positions = torch.arange(0, 40, 2)
    feed = Batches(images, positions, ["uniform"], 5, 4, Augmentation(), "p")
    feed.begin(0)
    seen = [int(label) for step in range(4) for label in feed(step)[0][1]]
    assert sorted(seen) == positions.tolist()


def test_batch_size_is_at_most_the_number_of_images():
    images = ImageSet(numbered(3, 1, 4, 4), torch.arange(3), torch.zeros(1), torch.ones(1))
    feed = Batches(images, torch.arange(3), ["uniform"], 64, steps_per_epoch(3, 64), Augmentation(), "p")
    assert sorted(drawn(feed, 0, 0)[0][1].tolist()) == [0, 1, 2]


@pytest.mark.parametrize(("images", "batch", "steps"), [(64, 64, 1), (127, 64, 1), (128, 64, 2), (3, 64, 1)])
def test_the_last_partial_batch_is_left_out(images, batch, steps):
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
    found = batches._crop_and_flip(images, Augmentation(2, True), rows, columns, flipped)
    expected = [naive_crop(i, 2, *o) for i, o in zip(images.tolist(), offsets, strict=True)]
    assert found.tolist() == expected


def test_every_offset_and_side_comes_equally_often():
    image = numbered(1, 1, 3, 4)
    variants = {
        str(naive_crop(image[0].tolist(), 1, row, column, flipped))
        for row in range(3)
        for column in range(3)
        for flipped in (False, True)
    }
    cropped, _ = plain_set(image).batch(
        torch.zeros(3600, dtype=torch.int64), Augmentation(1, True), generator("c")
    )
    counts = Counter(str(one) for one in cropped.round().int().tolist())
    assert set(counts) == variants
    assert len(variants) == 18
    assert all(within(n, 3600, 1 / 18) for n in counts.values())


def test_without_flip_no_image_is_mirrored():
    image = torch.tensor([[[[1, 2, 3]]]], dtype=torch.uint8)
    found, _ = plain_set(image).batch(torch.zeros(200, dtype=torch.int64), Augmentation(1), generator("c"))
    assert all(one[0][0] != [3, 2, 1] for one in found.round().int().tolist())


def test_flip_alone_mirrors_half_of_the_images():
    image = torch.tensor([[[[1, 2, 3]]]], dtype=torch.uint8)
    found, _ = plain_set(image).batch(
        torch.zeros(1000, dtype=torch.int64), Augmentation(0, True), generator("c")
    )
    counts = Counter(tuple(one[0][0]) for one in found.round().int().tolist())
    assert set(counts) == {(1, 2, 3), (3, 2, 1)}
    assert within(counts[3, 2, 1], 1000, 1 / 2)


def test_cutout_is_a_square_around_any_pixel_clipped_at_the_border():
    # DARTS's utils.Cutout: rows max(y - 2, 0) to min(y + 2, height), likewise columns
    holes = {(max(y - 2, 0), min(y + 2, 6), max(x - 2, 0), min(x + 2, 7)) for y in range(6) for x in range(7)}
    ones = torch.ones(1, 2, 6, 7, dtype=torch.uint8)
    found, _ = plain_set(ones, (0.0, 0.0), (1 / 255, 1 / 255)).batch(
        torch.zeros(2000, dtype=torch.int64), Augmentation(cutout=4), generator("h")
    )
    seen = set()
    for image in found:
        empty = torch.nonzero(image[0] == 0)
        (top, left), (bottom, right) = empty.amin(0).tolist(), (empty.amax(0) + 1).tolist()
        assert len(empty) == (bottom - top) * (right - left)  # nothing but a rectangle
        assert torch.equal(image[0], image[1])  # the same in every channel
        seen.add((top, bottom, left, right))
    assert seen == holes


def test_cutout_leaves_the_mean_colour_and_the_padding_is_black():
    white = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    images = plain_set(white, (0.75,), (0.25,))
    cut, _ = images.batch(torch.zeros(50, dtype=torch.int64), Augmentation(cutout=2), generator("h"))
    assert set(cut.unique().tolist()) == {0.0, 1.0}
    shifted, _ = images.batch(torch.zeros(50, dtype=torch.int64), Augmentation(1), generator("h"))
    assert set(shifted.unique().tolist()) == {-3.0, 1.0}


def test_without_augmentation_the_images_come_as_they_are():
    images = numbered(5, 1, 3, 3)
    found, labels = plain_set(images).batch(torch.tensor([3, 0]), Augmentation(), generator("n"))
    assert torch.equal(found.round().to(torch.uint8), images[[3, 0]])
    assert labels.tolist() == [3, 0]


def test_images_are_never_modified():
    images = numbered(8, 3, 6, 6)
    before = images.clone()
    feed = Batches(
        plain_set(images, (0.5,) * 3, (0.2,) * 3),
        torch.arange(8),
        ["uniform", "reversed"],
        4,
        2,
        Augmentation(2, True, 4),
        "p",
    )
    feed.begin(0)
    for step in range(2):
        for batch, _ in feed(step):
            batch.zero_()
    for position in range(8):  # not even through a batch that needed no augmentation
        plain_set(images).batch(torch.tensor([position]), Augmentation(), generator("n"))[0].zero_()
    assert torch.equal(images, before)


# --- normalisation ------------------------------------------------------------------------------------


def test_normalisation_numbers():
    images = torch.tensor([[[[0, 51, 255]], [[0, 51, 255]]]], dtype=torch.uint8)
    found = plain_set(images, (0.5, 0.25), (0.25, 0.5)).normalize(images)
    assert found.dtype == torch.float32
    assert found[0, 0, 0].tolist() == pytest.approx([-2.0, -1.2, 2.0], abs=1e-6)
    assert found[0, 1, 0].tolist() == pytest.approx([-0.5, -0.1, 1.5], abs=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_statistics_are_numpys(channels):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (20, channels, 5, 7), dtype=np.uint8)
    images[:, 0] //= 3
    mean, std = channel_statistics(images)
    assert mean == pytest.approx((images / 255).mean((0, 2, 3)).tolist(), rel=1e-12)
    assert std == pytest.approx((images / 255).std((0, 2, 3)).tolist(), rel=1e-9)


def test_channel_statistics_of_a_few_pixels_by_hand():
    mean, std = channel_statistics(np.array([[[[0, 255]]], [[[255, 255]]]], dtype=np.uint8))
    assert mean == pytest.approx([0.75])
    assert std == pytest.approx([math.sqrt(3) / 4])


@pytest.mark.parametrize("value", [0, 11, 77, 255])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_constant_channel_is_divided_by_one_level(value):
    images = np.full((7, 1, 5, 5), value, dtype=np.uint8)
    mean, std = channel_statistics(images)
    assert mean == pytest.approx([value / 255])
    assert std == pytest.approx([1 / 255])
