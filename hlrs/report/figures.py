"""The report's figures, section by section; and all of them as an archive of SVG and CSV."""

import re
import statistics
import zipfile
from dataclasses import dataclass
from pathlib import Path

from hlrs.report import charts, figures_results
from hlrs.report.charts import Figure
from hlrs.report.exports import comma_separated
from hlrs.report.figures_features import features_figures
from hlrs.report.figures_training import RETRAIN_PANELS, curves_figure, maps, search_panels, single_lines
from hlrs.report.heatmaps import MOST_COLUMNS
from hlrs.report.runs import GAP, Methods, Results, Run, by_draw, once, search_means
from hlrs.report.statistics import units
from hlrs.report.wording import points

IN_THE_DARK = re.compile(r"@media \(prefers-color-scheme:dark\)\{[^{}]*\{[^{}]*\}\}")  # unwanted in a paper


@dataclass(frozen=True)
class Section:
    """Figures that belong together, under one heading."""

    title: str
    figures: list[Figure]
    note: str = ""


def sections(results: Results, dataset: str) -> list[Section]:
    """Draw all figures of a data set, in the order of the page."""
    methods = results.methods(dataset)
    searches = {name: found for name, runs in methods.items() if (found := _searched(runs))}
    drawn = [
        Section("Images per class", [figures_results.counts_figure(results, dataset)]),
        Section("Accuracy of the methods", _methods_figures(results, dataset, methods)),
        *(_evaluation_sections(results, dataset, methods) if results.retrained else []),
        *([_search_section(methods, searches), _maps_section(searches)] if searches else []),
    ]
    if results.retrained:
        panels = [curves_figure(panel, "retrain", methods) for panel in RETRAIN_PANELS]
        drawn.append(Section("Retraining", panels))
    if features := features_figures(results, dataset, methods):
        drawn.append(Section("Generated features", features))
    return drawn


def _methods_figures(results: Results, dataset: str, methods: Methods) -> list[Figure]:
    """Draw the accuracies, and against what the networks cost where it is known."""
    costs = (figures_results.SIZE, figures_results.ENERGIES)
    fronts = [figures_results.front_figure(results, methods, cost) for cost in costs]
    return [figures_results.methods_figure(results, dataset, methods), *filter(None, fronts)]


def _evaluation_sections(results: Results, dataset: str, methods: Methods) -> list[Section]:
    """Draw what the retrained networks do on the test images."""
    classes = [figures_results.accuracy_figure(results, methods)]
    if results.report["reference"] in methods and len(methods) > 1:
        classes.append(figures_results.differences_figure(results, dataset, methods))
    return [
        Section("Accuracy per class against its training images", classes),
        Section("Confusions", figures_results.confusion_figures(results, dataset, methods)),
        Section("Calibration", [figures_results.calibration_figure(methods)]),
    ]


def _searched(runs: list[Run]) -> list[Run]:
    """Return one run per search; empty for a method that does not search."""
    return [run for run in once(runs) if "search" in run.histories]


def _search_section(methods: Methods, searches: Methods) -> Section:
    """Draw the curves of the searches."""
    untrained = [
        name for name, runs in searches.items() if not any(r.histories["search"]["epoch"] for r in runs)
    ]
    missing = [name for name in methods if name not in searches]
    notes = [f"No curves for {', '.join(untrained)}: that search trains nothing."] if untrained else []
    notes += [f"No search: {', '.join(missing)}."] if missing else []
    if len(untrained) == len(searches):
        return Section("Search", [], " ".join(notes))
    gaps = {name: units(by_draw(search_means(runs, GAP))) for name, runs in searches.items()}
    if any(gaps.values()):
        said = ", ".join(f"{name} {points(statistics.fmean(own))}" for name, own in gaps.items() if own)
        notes.append(
            "Discretisation gap, the supernet’s accuracy minus that of the genotype decoded in it, points, "
            f"mean over the seeds: {said}."
        )
    notes.append("One line per seed; identical lines are drawn once, and gaps were not measured.")
    most = single_lines(searches)
    if any(len(runs) > most for runs in searches.values()):
        notes.append(f"More than {most} different lines are drawn as their median and, shaded, their range.")
    drawn = [curves_figure(panel, "search", searches) for panel in search_panels(searches)]
    return Section("Search", drawn, " ".join(notes))


def _maps_section(searches: Methods) -> Section:
    """Draw the architecture weights of every search, one figure per method, all on the same scale."""
    drawn = maps(run for runs in searches.values() for run in runs)
    note = (
        "Weight of each operation on each edge, by the search’s own relaxation. Across: the epochs from the"
        f" start of the search, neighbouring ones averaged (at most {MOST_COLUMNS} columns). Down: the"
        " operations. Framed: the edges of the genotype, with a mark at their operation. All methods share"
        " one scale, of the weights that were trained; others may exceed it. Shown: the first seed of each"
        " method; figures.zip has all."
    )
    figures = [drawn.figure(f"maps_{method}", method, runs) for method, runs in searches.items()]
    return Section("Architecture weights over the epochs", figures, note)


def cells(results: Results, dataset: str) -> list[Run]:
    """Return the runs whose cells the page draws: the first seed of each method that has cells."""
    return [runs[0] for runs in results.methods(dataset).values() if runs[0].cells]


def archive(results: Results, path: Path) -> None:
    """Write every figure as <dataset>/<figure>/<chart>.svg and <dataset>/<figure>.csv, and every cell as SVG.

    The same results give the same bytes: figures of times and speeds are left out.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for dataset in results.classes:
            for section in sections(results, dataset):
                for figure in section.figures:
                    if figure.data is not None:
                        _add(file, f"{dataset}/{figure.name}.csv", comma_separated(*figure.data, digits=6))
                        for name, chart in figure.parts.items():
                            svg = charts.document(chart, figure.marks)
                            _add(file, f"{dataset}/{figure.name}/{name}.svg", svg)
        for run in once(results.runs):
            for cell, (_, svg) in run.cells.items():
                _add(
                    file, f"{run.dataset}/cells_{run.method}/{run.stem}_{cell}.svg", IN_THE_DARK.sub("", svg)
                )


def _add(file: zipfile.ZipFile, name: str, text: str) -> None:
    entry = zipfile.ZipInfo(name)  # dated 1980, so that the bytes do not depend on the time
    entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
    file.writestr(entry, text)
