"""What a network takes from the weights of an earlier training, on other classes perhaps."""

from collections.abc import Mapping, Sequence

from hlrs.errors import UserError

Shapes = Mapping[str, Sequence[int]]  # of tensors, by name
CLASSIFIERS = ("classifier.", "class_specific.")
AUXILIARY = "auxiliary"  # the head, of networks that train with one
MULTIPLIER, RANGES = "multiplier.", ".product.ranges"  # of approximate arithmetic


def keeps_classifier(given: Shapes, names: Sequence[str] | None, classes: Sequence[str]) -> bool:
    """Whether weights of a network on classes `names` (None: unknown) include a classifier of `classes`.

    It does if and only if their number agrees and, where they are known, their names in this order.
    """
    rows = given.get("classifier.weight", [0])[0]
    return rows == len(classes) and (names is None or list(names) == list(classes))


def taken(own: Shapes, given: Shapes, kept: bool) -> list[str]:
    """List the tensors that a network takes: all but its classifiers, and these if `kept`.

    An auxiliary head goes with the classifier where both have one, and is initialised elsewhere. Either may
    have approximate arithmetic: its ranges are taken where both have them. UserError names the first tensor
    that either lacks, or that has another shape.
    """
    auxiliary = {name for name in own if name.startswith(AUXILIARY)}
    whole = auxiliary == {name for name in given if name.startswith(AUXILIARY)}
    left = (AUXILIARY,) if kept else (AUXILIARY, *CLASSIFIERS)
    wanted = [name for name in own if not name.startswith((MULTIPLIER, *left))]
    wanted = [name for name in wanted if name in given or not name.endswith(RANGES)]
    for name in wanted:
        if name not in given:
            raise UserError(f"does not fit the network, which has {name}: {REMEDY}")
        _check_shape(name, own, given)
    for name in given:
        if name not in own and not name.startswith((MULTIPLIER, *left)) and not name.endswith(RANGES):
            raise UserError(f"does not fit the network, which lacks {name}: {REMEDY}")
    if not (kept and whole):
        return wanted
    for name in sorted(auxiliary):
        _check_shape(name, own, given)
    return [*wanted, *sorted(auxiliary)]


REMEDY = "name weights of the same genotype, channels, cells, stem and objective, or change these"


def _check_shape(name: str, own: Shapes, given: Shapes) -> None:
    if list(own[name]) != list(given[name]):
        theirs, ours = ("×".join(map(str, shapes[name])) for shapes in (given, own))
        raise UserError(f"does not fit the network: {name} is {theirs} there, {ours} here; {REMEDY}")
