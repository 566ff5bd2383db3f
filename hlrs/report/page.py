"""The report's page: one HTML file for people (template page.html.j2, script page.js.j2).

It fetches nothing. Without JavaScript, tables cannot be sorted; everything else works.
"""

import base64
import hashlib
import io
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from ruamel.yaml import YAML

from hlrs.artifacts.jobs import OUTPUTS
from hlrs.report import charts, figures, tables
from hlrs.report.checklist import checklist
from hlrs.report.claim import Claim, controls, headline, tested
from hlrs.report.comparisons import COMPARED, Difference, Summary, deciding
from hlrs.report.job_records import facts, record_table
from hlrs.report.lookups import floor_of, lookups_table
from hlrs.report.runs import ENERGY, STAGES, JobRecord, Results, draws, jobs, several, taus
from hlrs.report.wording import MOST_SENTENCES, accuracies, answer, counted, points, sample

MANY = 4  # methods; the long sections of a data set with more are folded


def page(
    results: Results, summary: list[Summary], differences: list[Difference], claim: list[Claim] | None
) -> str:
    """Render the HTML page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    records = jobs(results.runs, *STAGES)
    script = environment.get_template("page.js.j2").render()
    return environment.get_template(
        "page.html.j2"
    ).render(
        script=Markup(script),  # noqa: S704 - the template's own text
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        report=results.report,
        extent=_extent(results, records),
        uncommitted=sum(record.uncommitted for record in records),
        answer=answer(results, differences),
        accuracies=accuracies(results),
        glance=_glance(results, [d for d in differences if d.metric in deciding(results)[:1]]),
        claim={"headline": headline(claim), "datasets": claim} if claim and tested(claim) else None,
        controls=controls(results),
        metric=COMPARED[deciding(results)[0]],
        labels=COMPARED,
        floors={name: floor for name in results.classes if (floor := floor_of(results, name))},
        retrained=results.retrained,
        adjusted=_adjusted(results),
        energies=any(ENERGY in run.metrics for run in results.runs),
        datasets=[_dataset(results, name, summary, differences) for name in results.classes],
        retrainings=several(results),
        draws=draws(results),
        hours=tables.hours_table(results),
        continued=_continued(results),
        stages=tables.stages_table(results),
        latency=tables.latency_table(results),
        facts=facts(results),
        lineage=record_table(results),
        checklist=checklist(results),
        files=[name for name in OUTPUTS["report"] if name not in ("index.html", "figures.zip")],
        params=_yaml({**results.params, "report": results.report}),
        counted=counted,
    )


def _yaml(params: dict[str, Any]) -> str:
    """Write the parameters as YAML, in the order of params.yaml."""
    yaml, text = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel infers None
    yaml.dump(params, text)
    return text.getvalue()


def _extent(results: Results, records: list[JobRecord]) -> str:
    """Describe what was run, when, and at what cost, in one line."""
    matrix, whole = results.params["matrix"], tables.cost(records)
    nouns = {"datasets": "data set", "methods": "method", "seeds": "seed"}
    if draws(results) > 1:
        nouns["split_seeds"] = "draw"
    if several(results):
        nouns["retrain_seeds"] = "retraining"
    sizes = [counted(len(matrix[name]), noun) for name, noun in nouns.items()]
    parts = [f"{' × '.join(sizes)} = {counted(len(results.runs), 'run')}"]
    days = sorted({record.started[:10] for record in records if record.started})
    if days:
        parts.append(" to ".join(dict.fromkeys((days[0], days[-1]))))
    if not whole.unknown:
        parts.append(tables.spent(whole))
    return ", ".join(filter(None, parts))


def _continued(results: Results) -> list[tuple[str, str]]:
    """Name each method on whose networks others build, and these."""
    found: dict[str, list[str]] = {}
    for name in results.params["matrix"]["methods"]:
        searcher = results.params["methods"][name]["searcher"]
        if "method" in searcher:
            found.setdefault(searcher["method"], []).append(name)
    return [(name, ", ".join(others)) for name, others in found.items()]


def _adjusted(results: Results) -> str:
    """Name the τ of adjusted predictions, and the methods that have each if there are several."""
    found = sorted(taus(results).items())
    return "; ".join(
        f"τ = {tau:g}" + (f" for {', '.join(own)}" if len(found) > 1 else "") for tau, own in found
    )


# --- at a glance --------------------------------------------------------------------------------------


def _glance(results: Results, differences: list[Difference]) -> dict[str, Any] | None:
    """Lay out the differences in balanced accuracy, on one axis around 0; None without any."""
    if not differences:
        return None
    ends = [100 * v for d in differences for v in (d.mean, d.low, d.high) if v is not None]
    farthest = max(map(abs, ends)) or 1.0
    ticks = [tick for tick in charts.nice_ticks(-farthest, farthest, 4) if abs(tick) <= 1.02 * farthest]

    def place(value: float) -> str:
        """Return a position in per cent of the width, which leaves room for half a label at both ends."""
        return f"{50 + 45 * value / farthest:.2f}%"

    groups = []
    for dataset in results.classes:
        rows = [_glance_row(d, place) for d in differences if d.dataset == dataset]
        groups.append({"dataset": dataset, "rows": rows})
    axis = [(place(tick), charts.number(tick) if tick <= 0 else f"+{charts.number(tick)}") for tick in ticks]
    return {"axis": axis, "zero": place(0.0), "groups": groups, "folded": len(differences) > MOST_SENTENCES}


def _glance_row(d: Difference, place: Any) -> dict[str, Any]:
    known = d.low is not None and d.high is not None
    return {
        "method": d.method,
        "href": tables.seeds_of(d.dataset, d.method),
        "mean": points(d.mean),
        "interval": tables.span(d),
        "sample": sample(d) if d.seeds > 1 else "",
        "verdict": d.verdict,
        "kind": tables.direction(d),
        "at": place(100 * d.mean),
        "span": (place(100 * d.low), place(100 * d.high)) if known else None,  # type: ignore[operator]
    }


# --- data sets ----------------------------------------------------------------------------------------


def _dataset(
    results: Results, name: str, summary: list[Summary], differences: list[Difference]
) -> dict[str, Any]:
    return {
        "name": name,
        "test_images": tables.test_images(results, name) if results.retrained else None,
        "lookups": lookups_table(results, name),
        "methods": tables.methods_table(results, name, summary, differences),
        "comparisons": tables.comparisons_table(results, name, differences),
        "seeds": tables.seeds_table(results, name),
        "classes": tables.classes_table(results, name) if results.retrained else None,
        "operations": tables.operations_table(results, name),
        "sections": figures.sections(results, name),
        "cells": figures.cells(results, name),
        "many": len(results.methods(name)) > MANY,
    }
