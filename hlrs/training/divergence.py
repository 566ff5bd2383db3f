"""Name the parameters that can make a loss infinite or not a number."""

import math
from collections.abc import Iterator
from typing import Any

from hlrs.artifacts.jobs import Job
from hlrs.config.base import Spec
from hlrs.config.jobs import SearchJob, parse
from hlrs.errors import Failure

# the larger, the likelier: steps, penalties, and what scales or exponentiates logits and class frequencies
SUSPECTS = (
    "lr",
    "weight_decay",
    "gamma",
    "tau",
    "scale",
    "max_margin",
    "p",
    "q",
    "auxiliary_weight",
    "sharpness",
)
NAMED = 3  # of them, in a message


def check_finite(job: Job, row: dict[str, Any]) -> None:
    """Raise Failure if a loss in an epoch's history row is not finite, naming what to lower."""
    losses = {name: value for name, value in row.items() if name.endswith("loss") and value is not None}
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    if not broken:
        return
    raise Failure(
        f"{job.run}: {broken[0]} is {losses[broken[0]]} in epoch {row['epoch'] + 1} of the {job.stage}"
        f"{_remedy(job, row, broken)}{_kept(job)}"
    )


def _remedy(job: Job, row: dict[str, Any], broken: list[str]) -> str:
    """Name the suspects furthest above their defaults, and a gradient that is not clipped."""
    specs = dict(_trained(job, row, broken))
    suspects = sorted((s for path, spec in specs.items() for s in _suspects(path, spec)), reverse=True)
    shown = [f"{path} ({value:g})" for _, path, value in suspects[:NAMED]]
    lower = f"; lower {' or '.join(shown)}" if shown else ""
    unclipped = [path for path, spec in specs.items() if getattr(spec, "clip", 0) is None]
    return lower + (f", or set {unclipped[0]}.clip" if unclipped else "")


def _trained(job: Job, row: dict[str, Any], broken: list[str]) -> Iterator[tuple[str, Spec]]:
    """Yield the specs, by their fields in params.yaml, that shape the loss that broke."""
    if not job.params:
        return
    params = parse(job.stage, job.params)
    if isinstance(params, SearchJob):
        if "weights_loss" in broken:
            yield "search.weights", params.search.weights
        if row["alphas_lr"]:
            yield "search.alphas", params.search.alphas
        yield f"methods.{job.run.split('/')[1]}.objective", params.objective
    elif row["phase"] != "network":
        yield "retrain.classifier", params.retrain.classifier
        if any(params.retrain.classifier.passes):
            yield (
                "retrain.weights",
                params.retrain.weights.model_copy(update={"lr": 0.0}),
            )  # which does not act
    else:
        yield "retrain", params.retrain.model_copy(update={"classifier": None})
        yield "retrain.weights", params.retrain.weights
        yield "retrain.objective", params.retrain.objective


def _suspects(path: str, spec: Spec) -> Iterator[tuple[float, str, float]]:
    """Yield (ratio to the default, field, value) of the numbers that can have caused it."""
    for name, value in spec:
        default = type(spec).model_fields[name].default
        if name in SUSPECTS and value:
            yield (value / default if default else math.inf), f"{path}.{name}", value
        elif isinstance(value, Spec) and name in ("loss", "rest"):
            yield from _suspects(f"{path}.{name}", value)


def _kept(job: Job) -> str:
    there = job.checkpoint.exists()
    return f" (an earlier state is kept in {job.checkpoint})" if there else ""
