"""Evaluate: the trained network on the test set, the only stage that reads it."""

from pathlib import Path
from typing import Any

import numpy as np

from hlrs.artifacts.files import read_json, write_json
from hlrs.artifacts.jobs import Job
from hlrs.artifacts.tables import write_table
from hlrs.artifacts.tensors import read_tensors
from hlrs.config.jobs import EvaluateJob
from hlrs.errors import Failure
from hlrs.longtail.metrics import evaluate
from hlrs.nas.arithmetic import ENERGIES
from hlrs.nas.network import count_multiply_adds, count_weights
from hlrs.nas.trained import build, load_weights
from hlrs.stages.images import SplitImages, predict
from hlrs.stages.networks import network_of
from hlrs.training.device import prepare
from hlrs.training.latency import measure
from hlrs.training.startup import ready


def run(job: Job) -> dict[str, Any]:
    """Write metrics.json and predictions.parquet (one row per test image)."""
    params = EvaluateJob.model_validate(job.params)
    device = prepare(params.evaluate.threads)
    weights, notes = read_tensors(Path(job.inputs["weights"]))
    scale = notes["preprocessing"]["mean"], notes["preprocessing"]["std"]
    images = SplitImages(job, params.images, ("test",), device, scale)
    spec = network_of(params, job.inputs, images.stem, images.channels, len(images.classes))
    network = build(spec)
    load_weights(network, weights, job.inputs["weights"])
    network.eval()
    multiply_adds = count_multiply_adds(network, images.channels, images.size)
    size = {"weights": count_weights(network), "multiply_adds": multiply_adds}
    if params.arithmetic is not None:
        of = ENERGIES[type(params.arithmetic)]
        size |= of(network, params.arithmetic, images.channels, images.size)
    network, everything = network.to(device), images.positions("test")
    startup = ready()
    probabilities = predict(network, images.set, everything, params.evaluate.batch_size)
    if not np.isfinite(probabilities).all():
        raise Failure(f"{job.inputs['weights']}: outputs are not finite; lower retrain.weights.lr")
    counts = read_json(Path(job.inputs["classes"]))["counts"]
    train_counts = [w + a for w, a in zip(counts["weights"], counts["alphas"], strict=True)]
    groups = params.groups
    metrics = evaluate(
        probabilities,
        images.labels,
        train_counts,
        groups.many_above,
        groups.few_below,
        params.evaluate.calibration_bins,
        params.evaluate.adjust,
    )
    write_json(job.output("metrics.json"), metrics | size)
    columns = {
        "index": images.index,
        "label": images.labels,
        "predicted": probabilities.argmax(1).astype(np.int32),
        "confidence": probabilities.max(1),
        "probabilities": list(probabilities),
    }
    write_table(job.output("predictions.parquet"), "predictions", columns)
    facts = {"device": device.type, "startup": startup}
    if params.evaluate.latency:
        facts["latency"] = measure(network, images.channels, images.size, params.evaluate.threads)
    return facts
