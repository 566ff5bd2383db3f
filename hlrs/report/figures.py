"""The report's figures, section by section; and all of them as an archive of SVG and CSV."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

from hlrs.report import charts, figures_results
from hlrs.report.charts import Figure
from hlrs.report.exports import comma_separated
from hlrs.report.figures_training import RETRAIN_PANELS, curves_figure, maps, search_panels, single_lines
from hlrs.report.heatmaps import MOST_COLUMNS
from hlrs.report.runs import Results, Run, once

Methods = dict[str, list[Run]]

MAPS_BYTES = 1_000_000  # of a page's maps of architecture weights
CELLS_BYTES = 1_000_000  # of a page's drawings of cells
OPEN_MAPS = 6  # methods: of more, the maps are folded


@dataclass(frozen=True)
class Section:
    """What belongs together; `folded`: closed until a reader opens it."""

    title: str
    figures: list[Figure]
    note: str = ""
    folded: bool = False


def sections(results: Results, dataset: str, *, complete: bool = False) -> list[Section]:
    """Everything that is drawn of a data set, in the order of the page; `complete`: whatever its size."""
    methods = results.methods(dataset)
    searches = {name: found for name, runs in methods.items() if (found := _searched(runs))}
    reference = results.report["reference"]
    classes = [figures_results.accuracy_figure(results, methods)]
    if reference in methods and len(methods) > 1:
        classes.append(figures_results.differences_figure(results, dataset, methods))
    return [
        Section("Images a class", [figures_results.counts_figure(results, dataset)]),
        Section("Accuracy of the methods", [figures_results.methods_figure(results, methods)]),
        Section("Accuracy of a class against its training images", classes),
        Section("Confusions", figures_results.confusion_figures(results, dataset, methods)),
        Section("Calibration", [figures_results.calibration_figure(methods)]),
        *_search_sections(methods, searches),
        *(_every_map(searches) if complete else _maps_sections(searches, MAPS_BYTES // len(results.classes))),
        Section(
            "Training from scratch", [curves_figure(panel, "retrain", methods) for panel in RETRAIN_PANELS]
        ),
    ]


def _searched(runs: list[Run]) -> list[Run]:
    """A run a search, if there are searches."""
    return [run for run in once(runs) if "search" in run.histories]


def _search_sections(methods: Methods, searches: Methods) -> list[Section]:
    """The curves of the searches; without any search there is nothing to say."""
    if not searches:
        return []
    untrained = [
        name for name, runs in searches.items() if not any(r.histories["search"]["epoch"] for r in runs)
    ]
    missing = [name for name in methods if name not in searches]
    notes = [f"Nothing is trained in the search of {', '.join(untrained)}: no curves."] if untrained else []
    notes += [f"Nothing is searched by {', '.join(missing)}."] if missing else []
    if len(untrained) == len(searches):
        return [Section("Search", [], " ".join(notes))]
    notes.append("One line a seed, equal ones once; gaps where there was nothing to measure.")
    most = single_lines(searches)
    if any(len(runs) > most for runs in searches.values()):
        notes.append(f"Of more than {most} different lines: their median, and shaded their range.")
    drawn = [curves_figure(panel, "search", searches) for panel in search_panels(searches)]
    return [Section("Search", drawn, " ".join(notes))]


# --- architecture weights -----------------------------------------------------------------------------

MAPS_NOTE = (
    "Softmax weight of each primitive on each edge. Across: the epochs, from the start of the search on,"
    f" neighbouring ones together (at most {MOST_COLUMNS} columns). Down: the primitives. Framed: the edges"
    " in the genotype, with a mark at their primitive. All methods are on the same scale."
)


def _every_map(methods: Methods) -> list[Section]:
    """A figure a method, all its seeds."""
    if not methods:
        return []
    drawn = maps(run for runs in methods.values() for run in runs)
    figures = []
    for method, runs in methods.items():
        parts = {f"seed_{run.seed}": drawn.chart(run, hover=True) for run in runs}
        figures.append(drawn.figure(f"maps_{method}", method, parts, runs))
    return [Section("Architecture weights over the epochs", figures)]


def _maps_sections(methods: Methods, budget: int) -> list[Section]:
    """The first seed of each method; folded, those of the others; until `budget` bytes are spent."""
    if not methods:
        return []
    drawn = maps(run for runs in methods.values() for run in runs)
    many = len(methods) > OPEN_MAPS
    first = {runs[0].name for runs in methods.values()}
    every = [run for runs in methods.values() for run in runs]
    ordered = sorted(every, key=lambda run: (run.name not in first, run.name not in first and run.seed))
    charts_of: dict[str, str] = {}
    for run in ordered:
        chart = drawn.chart(run, hover=run.name in first and not many)
        budget -= len(chart.encode())
        if budget < 0:
            break
        charts_of[run.name] = chart
    left_out = len(ordered) - len(charts_of)
    firsts = [
        drawn.figure(f"maps_{method}", method, {"map": charts_of[runs[0].name]}, runs[:1])
        for method, runs in methods.items()
        if runs[0].name in charts_of
    ]
    found = [Section("Architecture weights over the epochs", firsts, MAPS_NOTE, folded=many)]
    more = {
        method: {f"seed_{run.seed}": charts_of[run.name] for run in runs[1:] if run.name in charts_of}
        for method, runs in methods.items()
    }
    shown = sum(map(len, more.values()))
    if shown or left_out:
        figures = [
            drawn.figure(f"more_maps_{method}", method, parts, methods[method][1:])
            for method, parts in more.items()
            if parts
        ]
        note = f"Searches shown: {shown}."
        if left_out:
            note += f" {left_out} are left out to keep the page small; figures.zip has them all."
        found.append(Section("Architecture weights of the other seeds", figures, note, folded=True))
    return found


# --- cells --------------------------------------------------------------------------------------------


def cells(results: Results, dataset: str) -> tuple[Methods, int]:
    """The runs whose cells are drawn, by method: the first seed of each, others until the bytes are spent.

    And how many are left out.
    """
    drawn = {method: own for method, runs in results.methods(dataset).items() if (own := _drawn(runs))}
    budget = CELLS_BYTES // len(results.classes)
    budget -= sum(_bytes(runs[0]) for runs in drawn.values())
    shown, left_out = {method: runs[:1] for method, runs in drawn.items()}, 0
    for run in sorted((run for runs in drawn.values() for run in runs[1:]), key=lambda run: run.seed):
        budget -= _bytes(run)
        if budget >= 0:
            shown[run.method].append(run)
        else:
            left_out += 1
    return shown, left_out


def _drawn(runs: list[Run]) -> list[Run]:
    return [run for run in once(runs) if run.cells]


def _bytes(run: Run) -> int:
    return sum(len(text.encode()) for text in run.cells.values())


# --- all of them --------------------------------------------------------------------------------------


def archive(results: Results, path: Path) -> None:
    """Write every figure as SVG and CSV: <dataset>/<figure>/<chart>.svg, <dataset>/<figure>.csv.

    The same results give the same bytes: figures of times and speeds are left out.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for dataset in results.classes:
            for section in sections(results, dataset, complete=True):
                for figure in section.figures:
                    if figure.data is not None:
                        _add(file, f"{dataset}/{figure.name}.csv", comma_separated(*figure.data, digits=6))
                        for name, chart in figure.parts.items():
                            svg = charts.document(chart, figure.marks)
                            _add(file, f"{dataset}/{figure.name}/{name}.svg", svg)


def _add(file: zipfile.ZipFile, name: str, text: str) -> None:
    entry = zipfile.ZipInfo(name)  # dated 1980, whenever it is made
    entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
    file.writestr(entry, text)
