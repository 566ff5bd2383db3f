"""The model card of an exported network, filled in from its run's records."""

import re
from collections.abc import Iterator, Mapping
from decimal import ROUND_UP, Decimal
from html import escape
from pathlib import Path
from typing import Any

from hlrs.artifacts.files import printable, read_json
from hlrs.artifacts.jobs import Job
from hlrs.config.jobs import EvaluateJob
from hlrs.inference.classifier import ImageClassifier
from hlrs.longtail.metrics import GROUPS
from hlrs.nas.arithmetic import products_of
from hlrs.nas.multipliers import describe_products
from hlrs.nas.network import count_multiply_adds, count_weights

CONFIDENCE = 0.95


def card(classifier: ImageClassifier, name: str, evaluation: Job | None, apart: Mapping[str, float]) -> str:
    """Write the card in Markdown, with Hugging Face's front matter, and with results if there is a run.

    `apart`: the largest difference of a probability from the network's, by the file of another format.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    spec, shape = classifier.facts.network, classifier.facts.preprocessing.shape
    square = shape[1] == shape[2]  # as all that count_multiply_adds counts
    kind = "ResNet" if spec.resnet is not None else f"A network of cells from the space {spec.space.kind}"
    facts: dict[str, Any] = {
        "run": name if evaluation is None else evaluation.run,
        "network": f"{kind}-{spec.resnet}" if spec.resnet is not None else kind,
        "searched": spec.resnet is None,
        "classes": [_markdown(name) for name in classifier.classes],
        "weights": count_weights(classifier.network),
        "multiply_adds": count_multiply_adds(classifier.network, shape[0], shape[1]) if square else None,
        "channels": shape[0],
        "height": shape[1],
        "width": shape[2],
        "resized": classifier.facts.preprocessing.image_size,
        "formats": [f"`{file}`" for file in apart],
        "apart": [f"{_at_least(most):g} in `{file}`" for file, most in apart.items()],
        "arithmetic": _arithmetic(classifier),
        "metrics": None,
    }
    if evaluation is not None:
        facts |= _results(evaluation)
    folder = FileSystemLoader(Path(__file__).parent)
    page = Environment(loader=folder, undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701 - Markdown
    return page.get_template("card.md.j2").render(facts)


def _markdown(name: str) -> str:
    """Escape a class name, so that a table of Markdown shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]()!|~$])", r"\\\1", escape(printable(name)))


def _at_least(number: float) -> float:
    """Round up to one digit."""
    exact = Decimal(number)
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted()), ROUND_UP)) if number else 0.0


def _arithmetic(classifier: ImageClassifier) -> str:
    """Say what computes a network's products; "" in floating point."""
    arithmetic = classifier.facts.network.arithmetic
    if arithmetic is None:
        return ""
    return f"{describe_products(products_of(classifier.network))}, in its {arithmetic.where}"


def _results(evaluation: Job) -> dict[str, Any]:
    """Return what the card says of an evaluation; UserError if it has not run."""
    metrics = read_json(evaluation.output("metrics.json"))
    params = EvaluateJob.model_validate(evaluation.params)
    dataset, method, seed = evaluation.run.split("/")
    recipe = params.retrain
    return {
        "dataset": dataset,
        "metrics": metrics,
        "confidence": round(100 * CONFIDENCE),
        "accuracies": list(_accuracies(metrics)),
        "source": params.images.source.kind,
        "method": f"Method `{method}`, seed {seed}; retrained for {recipe.epochs} epochs in batches of "
        f"{recipe.batch_size}, objective {recipe.objective.kind}, loss {recipe.objective.loss.kind}. "
        f"The evaluation's key is `{evaluation.key}`: `hlrs lineage {evaluation.run}` traces it.",
    }


def _accuracies(metrics: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """List the accuracies in per cent, each with its interval: overall and by group.

    A group's is the mean over its classes: Wilson's interval is for it only if all have as many test images.
    """
    member, rows = metrics["groups"], metrics["confusion"]
    overall = set(member)
    for name, groups, value in (
        ("all", overall, metrics["top1"]),
        *((f"{group}-shot", {group}, metrics[group]) for group in GROUPS),
    ):
        if value is None:
            continue
        own = [(row[label], sum(row)) for label, row in enumerate(rows) if member[label] in groups]
        even = groups == overall or len({images for _, images in own}) == 1
        low, high = _wilson(sum(right for right, _ in own), sum(images for _, images in own))
        interval = f"{100 * low:.1f} to {100 * high:.1f}" if even else "–"
        yield name, f"{100 * value:.1f}", interval


def _wilson(right: int, images: int) -> tuple[float, float]:
    """Return Wilson's interval of a share."""
    from scipy.stats import binomtest

    low, high = binomtest(right, images).proportion_ci(CONFIDENCE, method="wilson")
    return float(low), float(high)
