"""Resized crops, colours and policies compared with torchvision; mixing worked out by hand."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision import transforms
from torchvision.transforms import functional

from hlrs.config.data import Augment
from hlrs.config.recipes import AutoAugment, Cutmix, Mixup, RandAugment, SimAugment
from hlrs.data import augment
from hlrs.data.augment import Augmentation, Batch, distort, mix, mix_views, resized_crop
from hlrs.data.images import generator
from hlrs.stages.images import augmentation_of

AUTO, RAND = (
    AutoAugment(policy="cifar10"),
    RandAugment(operations=2, magnitude=9),
)


def photo(height=24, width=30, seed=0):
    """Smooth colours with some noise."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    planes = np.stack([y * 8, x * 7, 255 - y * 4 - x * 3], -1) + draw.integers(0, 20, (height, width, 3))
    return Image.fromarray(planes.clip(0, 255).astype(np.uint8))


def tensor(image):
    array = np.asarray(image)
    return torch.from_numpy(array[None].copy() if array.ndim == 2 else array.transpose(2, 0, 1).copy())


# --- resized crop -------------------------------------------------------------------------------------


def boxes(image, share, count):
    """The boxes that torchvision's get_params draws for seeds 0, 1, ..."""
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        found.append(transforms.RandomResizedCrop.get_params(image, [share, 1.0], [3 / 4, 4 / 3]))
    return found


def test_a_resized_crop_matches_torchvision():
    image = photo(40, 60)
    for seed, (top, left, height, width) in enumerate(boxes(image, 0.08, 20)):
        expected = image.crop((left, top, left + width, top + height)).resize(
            (16, 16), Image.Resampling.BILINEAR
        )
        assert np.array_equal(np.asarray(resized_crop(image, 0.08, 16, seed)), np.asarray(expected))


def test_resized_crops_cover_the_range_of_shares_and_ratios():
    """The pixels of the image are its coordinates, so they show what was cropped."""
    y, x = np.mgrid[:200, :250]
    image = Image.fromarray(np.stack([y, x, y * 0], -1).astype(np.uint8))
    shares, ratios = [], []
    for seed in range(300):
        found = np.asarray(resized_crop(image, 0.25, 50, seed)).astype(float)
        height, width = ((found[..., c].max() - found[..., c].min()) * 50 / 49 for c in range(2))
        shares.append(height * width / image.width / image.height)
        ratios.append(width / height)
    assert 0.22 < min(shares) < 0.3
    assert 0.85 < max(shares) < 1.03
    assert 0.72 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.4


# --- colours and policies -----------------------------------------------------------------------------


def changed(images, augmentation, purpose="c"):
    return distort(torch.stack([tensor(image) for image in images]), augmentation, generator(purpose))


def seeds_of(count, purpose="c"):
    """The seed of each image, drawn after the offsets and flips."""
    draw = generator(purpose)
    torch.randint(0, 1, (2, count), generator=draw)
    torch.rand(count, generator=draw)
    return torch.randint(2**63 - 1, (count,), generator=draw).tolist()


def by_hand(images, transform):
    found = []
    for seed, image in zip(seeds_of(len(images)), images, strict=True):
        torch.manual_seed(seed)
        found.append(tensor(transform(image)))
    return torch.stack(found)


def test_colour_jitter_matches_torchvision_with_half_the_strength_for_hue():
    images = [photo(seed=seed) for seed in range(6)]
    expected = by_hand(images, transforms.ColorJitter((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.2, 0.2)))
    assert torch.equal(changed(images, Augmentation(color_jitter=0.4)), expected)


def test_colour_jitter_by_hand_in_the_drawn_order():
    image, [seed] = photo(), seeds_of(1)
    torch.manual_seed(seed)
    order = torch.randperm(4).tolist()
    brightness, contrast, saturation = (float(torch.empty(1).uniform_(0.6, 1.4)) for _ in range(3))
    hue = float(torch.empty(1).uniform_(-0.2, 0.2))
    for step in order:
        if step < 3:
            enhancer = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[step]
            image = enhancer(image).enhance((brightness, contrast, saturation)[step])
        else:
            image = functional.adjust_hue(image, hue)
    assert torch.equal(changed([photo()], Augmentation(color_jitter=0.4))[0], tensor(image))


@pytest.mark.parametrize("policy", [AUTO, RAND, AutoAugment(policy="imagenet"), AutoAugment(policy="svhn")])
def test_policies_match_torchvision(policy):
    images = [photo(seed=seed) for seed in range(8)]
    if policy.kind == "autoaugment":
        transform = transforms.AutoAugment(transforms.AutoAugmentPolicy(policy.policy))
    else:
        transform = transforms.RandAugment(2, 9)
    found = changed(images, Augmentation(policy=policy))
    assert torch.equal(found, by_hand(images, transform))
    assert not torch.equal(found, torch.stack([tensor(image) for image in images]))


@pytest.mark.parametrize("kind", [AutoAugment, RandAugment])
def test_a_policy_fills_what_it_leaves_empty_with_the_level_asked_for(kind):
    """On white images no operation but a move makes the levels 0 and 77."""
    white = [Image.new("RGB", (30, 24), (255,) * 3) for _ in range(60)]
    black, dark = (
        set(changed(white, Augmentation(policy=kind(**own))).unique().tolist()) for own in ({}, {"fill": 77})
    )
    assert 77 not in black
    assert 77 in dark
    assert "fill" not in kind().model_dump()  # so that keys are what they were before there was a choice


def test_the_level_of_a_moved_image_by_hand():
    """A policy of one sub-policy: 9 of 9 along y, which is 150/331 of 24 rows, 10 of them."""
    transform = augment.auto_augment(AutoAugment(fill=128))
    transform.policies = [(("TranslateY", 1.0, 9), ("AutoContrast", 0.0, None))]
    moved = np.asarray(transform(Image.new("L", (30, 24), 255)))
    assert sorted(moved[:, 0].tolist()) == [128] * 10 + [255] * 14
    assert (moved == moved[:, :1]).all()


def test_views_for_contrast_match_torchvision_and_keep_the_size():
    images = [photo(seed=seed) for seed in range(8)]
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop((24, 30)),
            transforms.RandomHorizontalFlip(p=0.5),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
        ]
    )
    found = changed(images, Augmentation(policy=SimAugment()))
    assert torch.equal(found, by_hand(images, transform))
    grey = [image.convert("L") for image in images]
    assert changed(grey, Augmentation(policy=SimAugment())).shape == (8, 1, 24, 30)


def test_randaugments_options_act():
    images = [photo(seed=seed) for seed in range(8)]
    found = [
        changed(images, Augmentation(policy=RandAugment(**options)))
        for options in ({}, {"operations": 4}, {"magnitude": 25})
    ]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_the_policy_comes_after_the_flip_and_before_the_jitter():
    images = [photo(seed=seed) for seed in range(4)]
    augmentation = Augmentation(flip=True, color_jitter=0.4, policy=RAND)
    draw = generator("c")
    flips = augment._shifts(4, augmentation, draw)[2].tolist()
    assert len(set(flips)) == 2
    flipped = [ImageOps.mirror(i) if f else i for i, f in zip(images, flips, strict=True)]
    chain = transforms.Compose([transforms.RandAugment(2, 9), transforms.ColorJitter(0.4, 0.4, 0.4, 0.2)])
    assert torch.equal(changed(images, augmentation), by_hand(flipped, chain))


@pytest.mark.parametrize(
    "augmentation", [Augmentation(color_jitter=0.4, policy=p) for p in (None, AUTO, RAND)]
)
def test_grey_images_are_distorted_too(augmentation):
    images = [photo(seed=seed).convert("L") for seed in range(8)]
    found = changed(images, augmentation)
    assert (found.dtype, found.shape) == (torch.uint8, (8, 1, 24, 30))
    assert not torch.equal(found, torch.stack([tensor(image) for image in images]))


def test_the_global_generator_is_unchanged():
    state = torch.get_rng_state()
    changed([photo()], Augmentation(color_jitter=0.4, policy=AUTO))
    resized_crop(photo(), 0.1, 8, 3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("number", [1, 4])
def test_the_number_of_threads_does_not_matter(number):
    images = [photo(260, 260, seed) for seed in range(2)]
    augmentation = Augmentation(crop_padding=3, color_jitter=0.4, policy=AUTO)
    expected = changed(images, augmentation)
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        assert torch.equal(changed(images, augmentation), expected)
    finally:
        torch.set_num_threads(before)


def test_augmentation_takes_every_field_of_its_spec():
    spec = Augment(flip=True, resized_crop=0.08, color_jitter=0.4)
    policy = RandAugment(kind="randaugment")
    expected = Augmentation(0, True, 16, 0.08, 0.4, RAND)
    assert augmentation_of(spec, 16, policy) == expected
    assert augmentation_of(Augment(crop_padding=4), 0) == Augmentation(4)


# --- mixing -------------------------------------------------------------------------------------------


def numbered(n=4, height=8, width=10):
    """Images whose pixels are all their index, with labels of 10 times the index."""
    images = torch.arange(n, dtype=torch.float32).view(n, 1, 1, 1).expand(n, 3, height, width).clone()
    return Batch(images, torch.arange(n) * 10)


def test_mixup_by_hand():
    draw = generator("m")
    share = random.Random(int(torch.randint(2**63 - 1, (), generator=draw))).betavariate(1.0, 1.0)
    order = torch.randperm(4, generator=draw)
    mixed = mix(numbered(), generator("m"), Mixup(alpha=1.0))
    for i, j in enumerate(order.tolist()):
        assert mixed.images[i].unique().tolist() == pytest.approx([share * i + (1 - share) * j])
    assert mixed.labels.tolist() == [0, 10, 20, 30]
    assert mixed.partners.tolist() == (order * 10).tolist()
    assert mixed.share.tolist() == pytest.approx([share] * 4)
    assert mixed.share.dtype == torch.float32


def test_cutmix_pastes_a_box_and_its_share_is_the_remaining_area():
    seen = set()
    for number in range(300):
        batch = numbered()
        mixed = mix(batch, generator(number), Cutmix(alpha=1.0))
        partners = (mixed.partners // 10).tolist()
        for i, j in enumerate(partners):
            if i == j:
                continue
            there = mixed.images[i, 0] == j
            assert torch.equal(there.expand(3, -1, -1), mixed.images[i] == j)
            assert bool(((mixed.images[i, 0] == i) | there).all())
            assert mixed.share[i] == pytest.approx(1 - there.sum().item() / 80)
            if there.any():
                rows, columns = there.any(1).nonzero().ravel(), there.any(0).nonzero().ravel()
                assert there.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)  # a box
                seen |= {("top", int(rows[0])), ("bottom", int(rows[-1]))}
                seen |= {("left", int(columns[0])), ("right", int(columns[-1]))}
        assert torch.equal(batch.images, numbered().images)  # not in place
    assert {("top", 0), ("bottom", 7), ("left", 0), ("right", 9)} <= seen  # clipped at every border


def test_cutmix_by_hand(monkeypatch):
    """λ = 0.36: sides of 0.8; of 10 and 20 pixels 8 and 16, around (3, 18): rows 0 to 6, columns 10 to 19."""
    monkeypatch.setattr(random.Random, "betavariate", lambda self, a, b: 0.36)
    draws = iter([torch.tensor(0), torch.tensor(3), torch.tensor(18)])
    monkeypatch.setattr(torch, "randint", lambda *_, **__: next(draws))
    batch = Batch(torch.stack([torch.zeros(1, 10, 20), torch.ones(1, 10, 20)]), torch.tensor([5, 6]))
    monkeypatch.setattr(torch, "randperm", lambda *_, **__: torch.tensor([1, 0]))
    mixed = mix(batch, torch.Generator(), Cutmix(alpha=1.0))
    expected = torch.zeros(10, 20)
    expected[0:7, 10:20] = 1
    assert torch.equal(mixed.images[0, 0], expected)
    assert torch.equal(mixed.images[1, 0], 1 - expected)
    assert mixed.partners.tolist() == [6, 5]
    assert mixed.share.tolist() == pytest.approx([0.65, 0.65])  # 1 − 70/200, not 0.36


@pytest.mark.parametrize("kind", [Mixup, Cutmix])
@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixing_is_seeded_and_follows_the_beta_distribution(kind, alpha):
    images = numbered(2, 64, 64)
    shares = [float(mix(images, generator(n), kind(alpha=alpha)).share[0]) for n in range(400)]
    assert shares[7] == float(mix(images, generator(7), kind(alpha=alpha)).share[0])
    if kind is Mixup:  # mean 1/2, variance 1/(4(2a + 1))
        variance = 1 / (4 * (2 * alpha + 1))
        assert np.mean(shares) == pytest.approx(0.5, abs=4 * (variance / 400) ** 0.5)
        assert np.var(shares) == pytest.approx(variance, rel=0.2)
    else:  # the border clips boxes, which leaves more of the first image
        assert np.mean(shares) > 0.5
    assert all(0 <= share <= 1 for share in shares)


def test_partners_are_drawn_from_all_images():
    partners = Counter(int(mix(numbered(), generator(n), Mixup(alpha=1.0)).partners[0]) for n in range(400))
    assert set(partners) == {0, 10, 20, 30}
    assert min(partners.values()) > 60


def test_views_are_mixed_with_those_of_another_batch_by_one_share():
    firsts = [Batch(torch.full((2, 1, 8, 8), value), torch.tensor([0, 1])) for value in (1.0, 2.0)]
    seconds = [Batch(torch.full((2, 1, 8, 8), value), torch.tensor([2, 0])) for value in (-1.0, 8.0)]
    shares, areas = [], []
    for n in range(20):
        views = [*firsts, *seconds]
        global_, local = mix_views(views, generator(n), [Mixup(alpha=1.0), Cutmix(alpha=1.0)])
        share = float(global_.share[0])
        assert float(global_.images[0, 0, 0, 0]) == pytest.approx(2 * share - 1, abs=1e-6)
        side = int(8 * (1 - share) ** 0.5) // 2 * 2  # of cutmix's box, before the border clips it
        boxes = (local.images == 8).sum((1, 2, 3)).tolist()
        assert side**2 / 4 <= boxes[0] == boxes[1] <= side**2
        areas.append(boxes[0] / 64)
        for batch in (global_, local):
            assert batch.share.tolist() == [pytest.approx(share)] * 2  # the labels' share, whatever the box
            assert batch.labels.tolist() == [0, 1]
            assert batch.partners.tolist() == [2, 0]
        shares.append(share)
    assert len(set(shares)) == 20
    assert np.mean(areas) < 1 - np.mean(shares)  # the border clips boxes
    assert float(firsts[1].images.mean()) == 2  # the views themselves stay
