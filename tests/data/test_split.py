"""Splits: published counts, the indices of LDAM-DRW, stratified halves."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from hlrs.artifacts.files import read_json
from hlrs.artifacts.jobs import Job
from hlrs.artifacts.tables import read_table
from hlrs.config.data import Digits, Exponential, Natural, Pareto, Step
from hlrs.config.jobs import SplitJob
from hlrs.config.params import load
from hlrs.data.sources.arrays import digits_file
from hlrs.data.split import class_counts, draw
from hlrs.errors import UserError
from hlrs.stages import split
from tests.messages import says

CIFAR10_LT_100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]  # as published; 12,406 in all


def exponential(factor):
    return Exponential(factor=factor)


def step(factor, minority=0.5):
    return Step(factor=factor, minority=minority)


def pareto(factor, power=6.0):
    return Pareto(factor=factor, power=power)


def params(imbalance, **changed):
    fields = {
        "content": "",
        "source": Digits(),
        "protocol": "seeded",
        "seed": 0,
        "max_per_class": None,
        "test_per_class": None,
        "weights_fraction": 0.5,
        "holdout_fraction": 0.0,
    }
    return SplitJob(**(fields | {"imbalance": imbalance} | changed))


def shuffled_labels(counts, seed=0):
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


def drawn(train, test, settings):
    """(index, label, subset) of a split of classes named a, b, c, ..."""
    return drawn_of(int(max(train)) + 1, train, test, settings)


def drawn_of(classes, train, test, settings):
    train, test = np.asarray(train), np.asarray(test, dtype=np.int64)
    names = [chr(ord("a") + c) for c in range(classes)]
    columns = draw(train, test, settings, names)
    assert list(columns) == ["index", "label", "subset"]
    labels = np.concatenate([train, test])
    assert (labels[columns["index"]] == columns["label"]).all()
    assert len(set(columns["index"].tolist())) == len(columns["index"])
    return columns["index"], columns["label"], columns["subset"]


# --- counts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("imbalance", "n_max", "classes", "expected"),
    [
        (exponential(100), 5000, 10, CIFAR10_LT_100),
        (exponential(10), 5000, 10, [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]),
        (exponential(1), 500, 3, [500, 500, 500]),
        (exponential(100), 700, 1, [700]),
        (step(100), 5000, 10, [5000] * 5 + [50] * 5),
        (step(10), 100.9, 5, [100] * 2 + [10] * 3),  # LDAM-DRW: int(img_max) in the first C//2
        (step(10, 0.3), 100, 10, [100] * 7 + [10] * 3),
        (step(10, 0.99), 100, 4, [100] + [10] * 3),
        (step(10, 0.01), 100, 4, [100] * 3 + [10]),
        (step(10), 100, 1, [100]),
        # (c + 1)^(-1/1): 1, 1/2, 1/3, 1/4; less 1/4, over 3/4: 1, 1/3, 1/9, 0; of 90, and 10 to each
        (pareto(10, 1), 100, 4, [100, 40, 20, 10]),
        # (c + 1)^(-2): 1, 1/4, 1/9; less 1/9, over 8/9: 1, 5/32, 0; of 99, and 1: 16.47 in the middle
        (pareto(100, 0.5), 100, 3, [100, 16, 1]),
        (pareto(7), 700, 1, [700]),
        (pareto(1), 70, 3, [70, 70, 70]),
        (Natural(), 70, 3, [70, 70, 70]),
    ],
)
def test_class_counts(imbalance, n_max, classes, expected):
    assert class_counts(imbalance, n_max, classes) == expected


def test_published_totals():
    assert sum(class_counts(exponential(100), 5000, 10)) == 12406
    assert sum(class_counts(exponential(100), 500, 100)) == 10847


@pytest.mark.parametrize("factor", [2, 3, 7, 10, 49, 100, 256, 1000])
def test_pareto_keeps_both_ends_and_falls(factor):
    counts = class_counts(pareto(factor), 1000 * factor, 100)
    assert (counts[0], counts[-1]) == (1000 * factor, 1000)
    assert counts == sorted(counts, reverse=True)


def test_pareto_is_near_imagenet_lt():
    """Published: 115,846 images, 1,280 to 5 per class; 385 classes have more than 100, 136 fewer than 20."""
    counts = np.array(class_counts(pareto(256), 1280, 1000))
    assert (counts[0], counts[-1]) == (1280, 5)
    assert abs(counts.sum() / 115_846 - 1) < 0.06
    assert abs((counts > 100).sum() - 385) < 25
    assert abs((counts < 20).sum() - 136) < 10


def test_pareto_is_the_quantile_function_of_numpys_draws():
    """Compares with the mean of sorted draws of numpy's Pareto (Lomax) of power 6."""
    draws = np.sort(np.random.default_rng(0).pareto(6, (4000, 50)))[:, ::-1].mean(axis=0)
    scaled = 1000 * (0.01 + 0.99 * (draws - draws[-1]) / (draws[0] - draws[-1]))
    assert np.abs(np.array(class_counts(pareto(100), 1000, 50)) / scaled - 1)[:40].max() < 0.25


@pytest.mark.parametrize("factor", [10, 20, 50, 100, 200])
@pytest.mark.parametrize("classes", [10, 100])
def test_class_counts_equal_those_of_ldam_drw(factor, classes):
    img_max, imb_factor = 50000 / classes, {10: 0.1, 20: 0.05, 50: 0.02, 100: 0.01, 200: 0.005}[factor]
    expected = [int(img_max * (imb_factor ** (cls_idx / (classes - 1.0)))) for cls_idx in range(classes)]
    assert class_counts(exponential(factor), img_max, classes) == expected
    assert class_counts(exponential(factor), int(img_max), classes) == expected
    assert class_counts(step(factor), img_max, classes)[-1] == int(img_max * imb_factor)


# --- protocols ----------------------------------------------------------------------------------------


def ldam_drw(targets, cls_num, imb_type, imb_factor):
    """Draw as LDAM-DRW's IMBALANCECIFAR10, in its own code; restore NumPy's global state."""
    state = np.random.get_state()
    try:
        np.random.seed(0)
        img_max = len(targets) / cls_num
        img_num_per_cls = []
        if imb_type == "exp":
            for cls_idx in range(cls_num):
                num = img_max * (imb_factor ** (cls_idx / (cls_num - 1.0)))
                img_num_per_cls.append(int(num))
        elif imb_type == "step":
            img_num_per_cls += [int(img_max)] * (cls_num // 2)
            img_num_per_cls += [int(img_max * imb_factor)] * (cls_num // 2)
        targets_np = np.array(targets, dtype=np.int64)
        selected = []
        for the_class, the_img_num in zip(np.unique(targets_np), img_num_per_cls, strict=True):
            idx = np.where(targets_np == the_class)[0]
            np.random.shuffle(idx)
            selected.append(idx[:the_img_num])
        return np.concatenate(selected)
    finally:
        np.random.set_state(state)


@pytest.mark.parametrize(("imbalance", "kind"), [(exponential(100), "exp"), (step(100), "step")])
@pytest.mark.parametrize("seed", [0, 1])
def test_ldam_draws_the_images_of_ldam_drw(imbalance, kind, seed):
    train, test = shuffled_labels([5000] * 10), shuffled_labels([1000] * 10)
    before = np.random.get_state()[1].tolist()
    index, _, subset = drawn(train, test, params(imbalance, protocol="ldam", seed=seed))
    expected = ldam_drw(train.tolist(), 10, kind, 0.01)
    assert np.random.get_state()[1].tolist() == before
    assert index[: len(expected)].tolist() == expected.tolist()
    assert index[len(expected) :].tolist() == list(range(50000, 60000))
    assert (subset[len(expected) :] == "test").all()
    assert "test" not in subset[: len(expected)]


def test_ldam_draws_from_the_images_that_the_test_set_leaves():
    train = shuffled_labels([60] * 4)
    index, _, subset = drawn(train, [], params(exponential(5), protocol="ldam", test_per_class=10))
    pool = np.setdiff1d(np.arange(240), index[subset == "test"])
    expected = pool[ldam_drw(train[pool], 4, "exp", 0.2)]
    assert index[subset != "test"].tolist() == expected.tolist()


def test_ldam_mean_and_cap():
    train = shuffled_labels([50, 61, 62])  # mean 57.67: LDAM-DRW would take 57 of the first, which has 50
    with pytest.raises(UserError) as caught:
        drawn(train, train, params(exponential(10), protocol="ldam"))
    says(str(caught.value), "class a", "50", "57", "max_per_class")
    _, label, subset = drawn(train, train, params(exponential(10), protocol="ldam", max_per_class=50))
    assert np.bincount(label[subset != "test"]).tolist() == [50, 15, 5]


def test_seeded():
    train, test = shuffled_labels([100, 120, 90]), shuffled_labels([20, 20, 20])
    first = drawn(train, test, params(exponential(10)))
    again = drawn(train, test, params(exponential(10)))
    other = drawn(train, test, params(exponential(10), seed=1))
    for one, two in zip(first, again, strict=True):
        assert one.tolist() == two.tolist()
    index, label, subset = first
    assert np.bincount(label[subset != "test"]).tolist() == [100, 31, 10]  # head: class 0
    assert set(index.tolist()) != set(other[0].tolist())
    milder = drawn(train, test, params(exponential(5)))[0]
    assert set(index.tolist()) < set(milder.tolist())


def test_seeded_is_uniform():
    train = np.repeat([0, 1], [40, 40])
    times = np.zeros(80)
    for seed in range(400):
        index, _, subset = drawn(train, train, params(step(4), seed=seed))
        times[index[subset != "test"]] += 1
    assert (times[:40] == 400).all()
    assert times[40:].mean() == 100  # 10 of 40, 400 times; standard deviation 8.7
    assert np.abs(times[40:] - 100).max() < 40


def test_natural():
    train = shuffled_labels([30, 7, 12])
    _, label, subset = drawn(train, train, params(Natural()))
    assert np.bincount(label[subset != "test"]).tolist() == [30, 7, 12]
    _, label, subset = drawn(train, train, params(Natural(), max_per_class=10))
    assert np.bincount(label[subset != "test"]).tolist() == [10, 7, 10]


def test_natural_tail_with_an_official_test_list():
    """Like iNaturalist 2018: validation images are the test set, and a class of two is in both halves."""
    train, test = shuffled_labels([500, 40, 3, 2]), shuffled_labels([3, 3, 3, 3])
    index, label, subset = drawn(train, test, params(Natural()))
    assert sorted(index[subset == "test"].tolist()) == list(range(545, 557))
    assert np.bincount(label[subset == "weights"]).tolist() == [250, 20, 2, 1]
    assert np.bincount(label[subset == "alphas"]).tolist() == [250, 20, 1, 1]


def test_many_classes_are_drawn_in_the_order_of_their_positions():
    """Agrees with the plain loop: a class's positions, ascending, then its own shuffle."""
    train = shuffled_labels([30] * 40)
    index, _, subset = drawn_of(40, train, train, params(exponential(3), protocol="ldam"))
    expected = ldam_drw(train, 40, "exp", 1 / 3)
    assert index[subset != "test"].tolist() == expected.tolist()


@pytest.mark.parametrize("seed", [0, 7])
def test_test_set_training_images_and_halves_have_streams_of_their_own(seed):
    """The seed's three children, in this order; each shuffles every class in turn."""
    test, train, halves = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(3))
    labels, counts = shuffled_labels([60, 50]), [40, 8]  # images of either class, in the end
    tested = np.concatenate([test.permutation(np.flatnonzero(labels == c))[:20] for c in (0, 1)])
    left = [np.setdiff1d(np.flatnonzero(labels == c), tested) for c in (0, 1)]
    chosen = [train.permutation(of)[:count] for of, count in zip(left, counts, strict=True)]
    weights = np.concatenate([halves.permutation(of)[: len(of) // 2] for of in (range(40), range(40, 48))])
    index, _, subset = drawn(labels, [], params(exponential(5), test_per_class=20, seed=seed))
    assert index.tolist() == [*np.concatenate(chosen), *np.sort(tested)]
    assert np.flatnonzero(subset == "weights").tolist() == np.sort(weights).tolist()


# --- test set -----------------------------------------------------------------------------------------


def test_a_balanced_test_set_from_the_pool():
    train = shuffled_labels([60, 50, 55])
    index, label, subset = drawn(train, [], params(exponential(5), test_per_class=20))
    assert np.bincount(label[subset == "test"]).tolist() == [20, 20, 20]
    assert np.bincount(label[subset != "test"]).tolist() == [40, 17, 8]
    assert index.max() < 165
    assert subset.tolist()[-60:] == ["test"] * 60


def test_a_part_of_the_official_test_set():
    train, test = shuffled_labels([20, 20]), shuffled_labels([9, 11])
    index, label, subset = drawn(train, test, params(exponential(2), test_per_class=5))
    assert np.bincount(label[subset == "test"]).tolist() == [5, 5]
    assert index[subset == "test"].min() >= 40
    assert np.bincount(label[subset != "test"]).tolist() == [20, 10]


# --- subsets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "weights_fraction", "holdout_fraction", "weights", "alphas", "holdout"),
    [
        ([10, 5, 2], 0.5, 0.0, [5, 3, 1], [5, 2, 1], [0, 0, 0]),  # 2.5 rounds up
        ([10, 5, 3], 0.5, 0.2, [4, 2, 1], [4, 2, 1], [2, 1, 1]),  # 0.6 of an image is one
        ([20, 4, 2], 0.9, 0.0, [18, 3, 1], [2, 1, 1], [0, 0, 0]),  # 3.6 and 1.8, but alphas get one
        ([20, 4, 2], 0.1, 0.1, [2, 1, 1], [16, 3, 1], [2, 0, 0]),  # 0.4 and 0.2, but at least one
    ],
)
def test_subsets_are_stratified(counts, weights_fraction, holdout_fraction, weights, alphas, holdout):
    train = np.repeat([0, 1, 2], counts)
    fractions = {"weights_fraction": weights_fraction, "holdout_fraction": holdout_fraction}
    _, label, subset = drawn(train, [0, 1, 2], params(Natural(), **fractions))
    for name, expected in (
        ("weights", weights),
        ("alphas", alphas),
        ("holdout", holdout),
        ("test", [1, 1, 1]),
    ):
        assert np.bincount(label[subset == name], minlength=3).tolist() == expected, name


def test_subset_fractions_do_not_change_the_drawn_images():
    train = shuffled_labels([100, 100])
    plain = drawn(train, train, params(exponential(5)))
    other = drawn(train, train, params(exponential(5), weights_fraction=0.8, holdout_fraction=0.25))
    assert plain[0].tolist() == other[0].tolist()
    assert plain[2].tolist() != other[2].tolist()
    head = plain[2][:100]
    assert 10 < (head[:50] == "weights").sum() < 40  # at random, not by position


# --- bad inputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "settings", "facts"),
    [
        ([10, 3], params(exponential(2)), ("class b", "3", "5", "max_per_class")),
        (
            [10, 10],
            params(exponential(2), max_per_class=11),
            ("class a", "10", "11", "max_per_class to at most 10"),
        ),
        # LDAM's n_max is the mean over the classes, 10
        (
            [8, 11, 11],
            params(exponential(2), protocol="ldam"),
            ("class a", "10", "max_per_class to at most 8"),
        ),
        ([10, 0, 10], params(exponential(2)), ("1 of 3", "b", "add")),
        ([50, 50], params(exponential(50)), ("class b", "1 of 1", "2", "lower imbalance.factor")),
        (
            [50, 50],
            params(exponential(20), max_per_class=20),
            ("class b", "1 of 1", "lower imbalance.factor, raise max_per_class"),
        ),
        # the first class has no more images, so that no larger max_per_class would do
        ([1, 1], params(exponential(1)), ("class a", "1 of 1", "1 of 2", "b; add images")),
        ([50, 5], params(Natural(), holdout_fraction=0.8), ("class b", "1 of 5", "holdout_fraction")),
        ([50, 1, 9, 1, 1], params(Natural()), ("class b", "1 of 1", "2 of 5", "d, e", "add")),
        ([9, *[0] * 7, 9], params(Natural()), ("7 of 9", "b, c, d, e, f, …", "add")),
        ([99] * 9, params(exponential(99)), ("class h", "1 of 1", "1 of 9", "i", "imbalance.factor")),
        # the tail decides, not the first class
        (
            [50, 20, 10, 3],
            params(exponential(2), max_per_class=50),
            ("class b", "20", "39", "2 of 4", "c, d", "max_per_class to at most 6"),
        ),
        ([50, 50], params(exponential(2), test_per_class=3), ("class a", "2", "3", "test_per_class")),
    ],
)
def test_too_few_images(counts, settings, facts):
    test = np.repeat(np.arange(len(counts)), 2)
    with pytest.raises(UserError) as caught:
        drawn(shuffled_labels(counts), test, settings)
    says(str(caught.value), *facts)


def test_too_few_images_for_a_test_set():
    with pytest.raises(UserError) as caught:
        drawn(shuffled_labels([50, 9]), [], params(exponential(2), test_per_class=10))
    says(str(caught.value), "class b", "9", "10", "test_per_class to at most 9")
    with pytest.raises(UserError) as caught:
        drawn(shuffled_labels([60, 40, 20, 3]), [], params(Natural(), test_per_class=50))
    says(str(caught.value), "class b", "40", "50", "2 of 4", "c, d", "test_per_class to at most 3, to 1 if")
    with pytest.raises(UserError) as caught:  # a class without official test images
        drawn(shuffled_labels([60, 40]), [0, 0], params(Natural(), test_per_class=1))
    says(str(caught.value), "class b", "0", "1", "add images")
    with pytest.raises(UserError, match=r"no test images.*test_per_class"):
        drawn(shuffled_labels([50, 9]), [], params(exponential(2)))


# --- the data sets of the literature ------------------------------------------------------------------

EXPERIMENTS = Path(__file__).parents[2] / "workflow" / "experiments"


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_is_valid(path):
    params = load(path)
    for method in params.methods:
        params.retrain_of(method)


@pytest.mark.parametrize(
    ("name", "classes", "images"), [("cifar10_lt", 10, 12406), ("cifar100_lt", 100, 10847)]
)
def test_cifar_experiments_follow_ldam_drw(name, classes, images):
    params = load(EXPERIMENTS / f"{name}.yaml")
    dataset = params.datasets[name]
    assert (dataset.protocol, dataset.source.name) == ("ldam", name.removesuffix("_lt"))
    assert sum(class_counts(dataset.imbalance, 50_000 / classes, classes)) == images
    recipe = params.retrain_of("resnet32")
    assert (recipe.epochs, recipe.batch_size, recipe.cutout) == (200, 128, 0)
    weights = recipe.weights
    assert (weights.lr, weights.weight_decay, weights.warm_up, weights.clip) == (0.1, 2e-4, 5, None)
    assert [round(at * recipe.epochs) for at in weights.schedule.at] == [160, 180]


def test_bbn_follows_the_authors_configuration():
    params = load(EXPERIMENTS / "bbn.yaml")
    recipe = params.retrain_of("bbn")
    assert (params.datasets["cifar10_lt"].protocol, recipe.objective.branch_cells) == ("ldam", 1)
    assert [round(at * recipe.epochs) for at in recipe.weights.schedule.at] == [120, 160]
    assert (recipe.epochs, recipe.batch_size, recipe.cells, recipe.channels) == (200, 128, 15, 16)


@pytest.mark.parametrize("name", ["imagenet_lt", "inaturalist2018"])
def test_experiments_on_large_images_read_lists_with_an_official_test_set(name):
    params = load(EXPERIMENTS / f"{name}.yaml")
    dataset = params.datasets[name]
    assert (dataset.source.kind, dataset.imbalance.kind) == ("list_file", "natural")
    assert dataset.source.test
    assert dataset.test_per_class is None
    assert (dataset.image_size, dataset.stem) == (224, "imagenet")


# --- stage --------------------------------------------------------------------------------------------


def test_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = params(exponential(10), test_per_class=40, holdout_fraction=0.1, max_per_class=130)
    job = Job("split", "digits_lt", settings.model_dump(), "", {}, "0123456789ab")
    assert split.run(job) == {}
    table = read_table(job.output("split.parquet"), "split").to_pandas()
    facts = read_json(job.output("classes.json"))
    assert facts["names"] == list("0123456789")
    for subset, counts in facts["counts"].items():
        assert table[table.subset == subset].label.value_counts().reindex(range(10)).tolist() == counts
    assert facts["counts"]["test"] == [40] * 10
    sums = np.sum([facts["counts"][subset] for subset in ("weights", "alphas", "holdout")], axis=0)
    assert sums.tolist() == [130, 100, 77, 60, 46, 36, 28, 21, 16, 13]
    bytes_of_digits = digits_file().read_bytes()
    assert read_table(job.output("files.parquet"), "files").to_pylist() == [
        {
            "name": "digits",
            "bytes": len(bytes_of_digits),
            "sha256": hashlib.sha256(bytes_of_digits).hexdigest(),
        }
    ]
    content = job.output("split.parquet").read_bytes()
    split.run(job)
    assert job.output("split.parquet").read_bytes() == content
