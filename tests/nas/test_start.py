"""What is taken of the weights of an earlier training: all, or all but a classifier of other classes."""

import pytest

from hlrs.errors import UserError
from hlrs.nas.start import keeps_classifier, taken
from tests.messages import says

TRUNK = {"stem.weight": [4, 3, 3, 3], "stem.count": []}
HEAD = {"classifier.weight": [2, 8], "classifier.bias": [2]}
AUXILIARY = {"auxiliary.weight": [2, 6]}


def test_a_classifier_is_kept_if_the_classes_agree():
    for classes, names, kept in (
        (["a", "b"], None, True),
        (["a", "b"], ["a", "b"], True),
        (["a", "b"], ["b", "a"], False),  # row 0 would be another class
        (["a", "b", "c"], None, False),
        (["a"], ["a"], False),  # as the file's names do not count its rows
    ):
        assert keeps_classifier(TRUNK | HEAD, names, classes) == kept, (classes, names)
    assert not keeps_classifier(TRUNK, None, ["a", "b"])


def test_the_trunk_is_taken_and_the_heads_with_it_where_the_classes_agree():
    whole = TRUNK | HEAD | AUXILIARY
    other = TRUNK | {"classifier.weight": [5, 8], "classifier.bias": [5], "auxiliary.weight": [5, 6]}
    assert taken(whole, whole, kept=True) == [*whole]
    assert taken(whole, other, kept=False) == [*TRUNK]
    assert taken(whole, TRUNK | HEAD, kept=True) == [*TRUNK, *HEAD]  # the auxiliary head is initialised
    assert taken(TRUNK | HEAD, whole, kept=True) == [*TRUNK, *HEAD]
    dual = {"class_specific.weight": [5, 8]}
    assert taken(TRUNK | HEAD, other | dual, kept=False) == [*TRUNK]


def test_ranges_are_taken_where_both_have_them():
    """Of approximate arithmetic, whose multiplier stays the network's own."""
    ranges, products = {"stem.product.ranges": [2, 1]}, {"multiplier.products": [256, 256]}
    approximate = TRUNK | HEAD | ranges | products
    assert taken(approximate, approximate, kept=True) == [*TRUNK, *HEAD, *ranges]
    assert taken(approximate, TRUNK | HEAD, kept=True) == [*TRUNK, *HEAD]
    assert taken(TRUNK | HEAD, approximate, kept=True) == [*TRUNK, *HEAD]


def test_the_first_tensor_that_does_not_fit_is_named():
    for own, given, kept, facts in (
        (TRUNK | HEAD, TRUNK | HEAD | {"stem.weight": [8, 3, 3, 3]}, True, ("stem.weight", "8×3×3×3")),
        (TRUNK | HEAD, HEAD | {"stem.count": []}, True, ("stem.weight", "has")),
        (TRUNK | HEAD, TRUNK | HEAD | {"cell.weight": [1]}, False, ("cell.weight", "lacks")),
        (TRUNK | HEAD, TRUNK | {"classifier.weight": [2, 8]}, True, ("classifier.bias", "has")),
        (TRUNK | HEAD, TRUNK | HEAD | {"class_specific.weight": [2, 8]}, True, ("class_specific.weight",)),
        (TRUNK | AUXILIARY, TRUNK | {"auxiliary.weight": [2, 7]}, True, ("auxiliary.weight", "2×7", "2×6")),
    ):
        with pytest.raises(UserError) as found:
            taken(own, given, kept)
        says(str(found.value), *facts)
