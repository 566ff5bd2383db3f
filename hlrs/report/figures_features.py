"""Figures of generated features: where they lie beside the images', and how far their classes are apart."""

import statistics
from typing import Any

from hlrs.report import charts
from hlrs.report.charts import Figure, Table
from hlrs.report.runs import Columns, Methods, Results, Run, finite

SMALLEST = 3  # classes in the picture
ORIGINS = ("images", "generated")
COLUMNS = ["method", "class", "name", "images", "generated", "frechet"]


def features_figures(results: Results, dataset: str, methods: Methods) -> list[Figure]:
    """Draw the generated features of a data set's methods; nothing where none has any."""
    having = {name: found for name, runs in methods.items() if (found := [r for r in runs if _has_any(r)])}
    if not having:
        return []
    names = results.classes[dataset]["names"]
    return [_picture(names, having), _distances(names, having)]


def _has_any(run: Run) -> bool:
    return bool(run.features.get("class"))


def _of(features: Columns, column: str, origin: str) -> dict[int, Any]:
    """Return a column by class, of one origin."""
    rows = zip(features["class"], features["origin"], features[column], strict=True)
    return {label: value for label, own, value in rows if own == origin}


def _picture(names: list[str], methods: Methods) -> Figure:
    """Draw features of the smallest classes along two axes, of each method's first run."""
    drawn, rows = {}, []
    for method, runs in methods.items():
        features = runs[0].features
        ends = {axis: charts.extent(v for values in features[axis] for v in values) for axis in ("x", "y")}
        counts = _of(features, "count", "images")
        for label in sorted(counts, key=lambda c: (counts[c], c))[:SMALLEST]:
            points = []
            for series, origin in enumerate(ORIGINS):
                xs, ys = (_of(features, axis, origin)[label] for axis in ("x", "y"))
                points += [charts.Point("", series, x, y) for x, y in zip(xs, ys, strict=True)]
                rows += [
                    [method, label, names[label], origin, p.x, p.y] for p in points if p.series == series
                ]
            title = f"{method}: {names[label]} ({counts[label]} images)"
            axes = charts.Axes(title, "first axis", "second axis", ends["x"], ends["y"])
            drawn[f"{method}_{label}"] = charts.scatter_chart(points, axes, hover=False)
    return Figure(
        "features",
        "Features of the smallest classes, the images’ and generated ones",
        charts.marks(ORIGINS, "dots"),
        drawn,
        "Along the two principal axes of all images’ features, standardised; at most 50 each. The first run "
        "of each method.",
        data=(["method", "class", "name", "origin", "x", "y"], rows),
    )


def _distances(names: list[str], methods: Methods) -> Figure:
    """Draw the Fréchet distance of every class against its training images, one chart per method."""
    header, rows = _table(names, methods)
    known = [row for row in rows if row[5] is not None]
    sizes = [row[3] for row in rows]
    x_range = (0.8 * min(sizes), 1.25 * max(sizes))
    y_range = charts.extent([row[5] for row in known], zero=True)
    drawn, note = {}, ""
    for method in dict.fromkeys(row[0] for row in known):
        points = [
            charts.Point(
                f"{name}: {distance:.3g}, {images} images, {generated} generated", 0, images, distance
            )
            for own, _, name, images, generated, distance in known
            if own == method
        ]
        made = sum(row[4] for row in rows if row[0] == method)
        axes = charts.Axes(
            f"{method}: {made:,} generated",
            "training images",
            "Fréchet distance",
            x_range,
            y_range,
            log_x=True,
            summary=f"{made} features generated for {len(points)} classes.",
        )
        drawn[method] = charts.scatter_chart(points, axes)
    if without := [method for method in methods if method not in drawn]:
        note = (
            f" Not drawn: {', '.join(without)}, without a class of two features generated and two of images."
        )
    return Figure(
        "frechet",
        "Fréchet distance of generated features from the images’, by class",
        [],
        drawn,
        "One point per class, mean over the runs; between Gaussians fitted to its standardised features. The "
        "covariance of few images is poorly known, so that even features like theirs are far from them."
        + note,
        data=(header, rows),
    )


def _table(names: list[str], methods: Methods) -> Table:
    """Build one row per method × class: how many features there are, and the mean distance over the runs."""
    rows = []
    for method, runs in methods.items():
        images, generated = (_of(runs[0].features, "count", origin) for origin in ORIGINS)
        for label in images:
            found = finite(_of(run.features, "frechet", "generated")[label] for run in runs)
            distance = statistics.fmean(found) if found else None
            rows.append([method, label, names[label], images[label], generated[label], distance])
    return COLUMNS, rows
