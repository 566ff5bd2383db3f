"""The report's page in a real Chromium: what is seen, clicked and printed, with few runs and with 200.

Without Chromium these tests are skipped; HLRS_TEST_BROWSER=required makes them fail instead.
"""

import contextlib
import hashlib
import re
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import hlrs.report.page
from hlrs.artifacts.records import Record
from hlrs.artifacts.tables import SCHEMAS
from hlrs.config.spaces import DartsSpace
from hlrs.longtail.metrics import evaluate
from hlrs.nas.drawing import draw_cell
from hlrs.report import heatmaps
from hlrs.report.claim import claims
from hlrs.report.comparisons import compare, summarize
from hlrs.report.page import page
from hlrs.report.runs import STAGES, JobRecord, Results, Run
from hlrs.report.wording import grouped
from hlrs.stages.report import gather, run
from tests.conftest import untested
from tests.report.test_report import HOSTILE, TWO_SEEDS, make_job, record

DATASETS, METHODS, SEEDS, EPOCHS, CLASSES = ("cifar10_lt", "cifar100_lt"), 10, 10, 50, 100
LINEAGE = "lineage/d/hlrs/0"
NUMBERS = {"darts": 0.5, "a": 0.45, "b": 0.55, "c": 0.5, "d": 0.7}


# --- pages --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The page of two data sets × three methods × two seeds, beside the report's other files."""
    with contextlib.chdir(tmp_path_factory.mktemp("small")):
        job = make_job(TWO_SEEDS, datasets=("d", "e"))
        run(job)
        for stage, name in {"extract": "genotype.json", "retrain": "weights.safetensors"}.items():
            for record in Path("in", stage).rglob("provenance.json"):
                record.with_name(name).touch()
        return job.output("index.html").resolve()


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    """The page of five methods, two of them equal."""
    with contextlib.chdir(tmp_path_factory.mktemp("five")):
        job = make_job({name: [top, top - 0.1] for name, top in NUMBERS.items()})
        run(job)
        return job.output("index.html").resolve()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The page of 200 runs of CIFAR's size."""
    folder = tmp_path_factory.mktemp("large")
    with contextlib.chdir(folder):
        results = many_runs(gather(make_job({"darts": [0.5]})))
    path = folder / "index.html"
    differences = compare(results)
    path.write_text(page(results, summarize(results), differences, claims(results, differences)))
    return path


def many_runs(model: Results) -> Results:
    """Two data sets × ten methods × ten seeds, 50 epochs, 14 edges per cell, 100 classes."""
    methods, seeds = ["darts", *(f"{'method_' * 4}{i}" for i in range(1, METHODS))], list(range(SEEDS))
    sizes = [int(500 * 0.01 ** (c / (CLASSES - 1))) for c in range(CLASSES)]
    counts = {"weights": sizes, "alphas": sizes, "holdout": [0] * CLASSES, "test": [10] * CLASSES}
    classes = {"names": [f"class {c}" for c in range(CLASSES)], "counts": counts}
    keys = alpha_keys()
    labels, rng, runs = np.repeat(np.arange(CLASSES), 10), np.random.default_rng(0), []
    for dataset, (i, method) in product(DATASETS, enumerate(methods)):
        cell = [
            [
                (str(rng.choice(DartsSpace().primitives)), int(source))
                for source in rng.choice(node + 2, 2, replace=False)
            ]
            for node in range(4)
        ]
        genotype = dict.fromkeys(("normal", "reduce"), cell)
        drawn = draw_cell(cell, f"{dataset}/{method}", [2, 3, 4, 5])
        cells = {kind: (f"{kind} cell", drawn) for kind in genotype}
        for seed in seeds:
            name = f"{dataset}/{method}/{seed}"
            logits = rng.normal(size=(len(labels), CLASSES)) + (2 + 0.1 * i) * np.eye(CLASSES)[labels]
            probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            metrics = evaluate(probabilities, labels, [2 * n for n in sizes], 100, 20, 15)
            metrics |= {"weights": 3_300_000 + 1000 * seed + 100_000 * i, "multiply_adds": 533_000_000}
            weights = rng.random(len(keys["epoch"])).tolist()
            alphas = keys | {"alpha": weights, "weight": weights, "edge_weight": [1.0] * len(weights)}
            histories = {stage: history(stage, rng) for stage in ("search", "retrain")}
            records = {stage: record_of(stage, name) for stage in STAGES}
            runs.append(Run(dataset, method, seed, 0, metrics, genotype, histories, alphas, records, cells))
    matrix = {"datasets": [*DATASETS], "methods": methods, "seeds": seeds}
    splits = {name: record_of("split", name) for name in DATASETS}
    params = model.params | {"matrix": model.params["matrix"] | matrix}
    for field, names in (("methods", methods), ("datasets", DATASETS)):
        params[field] = dict.fromkeys(names, next(iter(model.params[field].values())))
    return replace(model, params=params, classes=dict.fromkeys(DATASETS, classes), splits=splits, runs=runs)


def history(stage: str, rng: np.random.Generator) -> dict:
    columns = {
        column: rng.integers(0, 8, EPOCHS).tolist() if kind == "int32" else rng.random(EPOCHS).tolist()
        for column, kind in SCHEMAS[f"{stage}_history"].items()
    }
    return columns | {"epoch": list(range(EPOCHS))}


def alpha_keys() -> dict:
    """All columns but the numbers: 14 edges per cell, every primitive, after every epoch."""
    edges = [(node, source) for node in range(4) for source in range(node + 2)]
    keys = product(range(EPOCHS + 1), ("normal", "reduce"), edges, DartsSpace().primitives)
    rows = ((epoch, cell, *edge, primitive) for epoch, cell, edge, primitive in keys)
    return dict(zip(("epoch", "cell", "node", "input", "primitive"), zip(*rows, strict=True), strict=True))


def record_of(stage: str, name: str) -> JobRecord:
    """The record of a job that ran committed code."""
    key = hashlib.sha256(f"{stage} {name}".encode()).hexdigest()[:12]
    throughput = [{"epoch": e, "seconds": 9.0, "images_per_second": 1000.0 + e} for e in range(EPOCHS)]
    facts = {"key": key, "commit": "c" * 40, "dirty": False, "lock": "d" * 64, "throughput": throughput}
    path = f"results/{stage}/{name}/{key}/provenance.json"
    return JobRecord.of(path, Record.sealed(record(stage, name) | facts))


# --- without a browser --------------------------------------------------------------------------------


def test_200_runs_make_a_page_of_less_than_10_megabytes(large):
    text = large.read_text()
    assert text.count('class="cell"') == len(DATASETS) * METHODS * 2  # two cells of the first seeds
    lineage = text[text.index('<section id="lineage">') : text.index('<section id="params">')]
    assert lineage.count('id="lineage/') == len(DATASETS) * METHODS * SEEDS
    assert len(lineage.encode()) < 0.5e6
    assert len(text.encode()) < 10e6


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb (WCAG 2.2)."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def palettes() -> list[dict[str, str]]:
    """Name -> colour: light, dark, paper."""
    template = Path(hlrs.report.page.__file__).with_name("page.html.j2").read_text()
    bodies = re.findall(r":root \{(.*?)\}", template, re.DOTALL)
    assert len(bodies) == 3
    return [dict(re.findall(r"--(\w+): (#\w+)", body)) for body in bodies]


def test_contrast():
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.01)
    for palette in palettes():
        for background in ("page", "panel"):
            for text in ("text", "soft", "link", "up", "down", "bad"):
                assert contrast(palette[text], palette[background]) >= 4.5, (text, background, palette)
            for graphic in ("s0", "s1", "s2"):
                assert contrast(palette[graphic], palette[background]) >= 3, (graphic, background, palette)


def blended(colour: str, opacity: float, background: str) -> str:
    """#rrggbb of a colour over a background."""
    parts = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in (colour, background)]
    return "#" + "".join(f"{round(opacity * a + (1 - opacity) * b):02x}" for a, b in zip(*parts, strict=True))


def test_contrast_of_the_numbers_in_a_matrix():
    shades = heatmaps.Shades(heatmaps.SHARES, (), diverging=True)
    for palette, level in product(palettes(), range(-len(heatmaps.SHARES), len(heatmaps.SHARES) + 1)):
        paper = "#ffffff" if palette["page"] == "#fff" else palette["page"]
        ground = blended(palette[shades.classes(level)[-2:]], float(shades.opacity(level)), paper)
        ink = {"": palette["text"], "inverse": paper, "black": "#000000"}[shades.ink(level)]
        assert contrast(ink, ground) >= 4.5, (level, palette)


# --- in a browser -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    """One Chromium for all; without it, CI fails and other runs skip."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        path, sync_playwright = None, None
    if path is None:
        reason = "chromium or playwright is missing (.ci/install-chromium.sh)"
        untested("IN A BROWSER", reason, "HLRS_TEST_BROWSER")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """Open a page in a window of its own: `visit(path, width=1280, **options of the context)`."""
    with contextlib.ExitStack() as stack:

        def open_page(path: Path, fragment: str = "", width: int = 1280, **options):
            context = browser.new_context(viewport={"width": width, "height": 900}, **options)
            stack.callback(context.close)
            tab = context.new_page()
            tab.messages, tab.requests = [], []
            tab.on("console", lambda message: tab.messages.append(message.text))
            tab.on("pageerror", lambda error: tab.messages.append(str(error)))
            tab.on("request", lambda request: tab.requests.append(request.url))
            tab.goto(path.as_uri() + fragment)
            return tab

        yield open_page


def unfold(tab) -> None:
    tab.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_error_no_request_no_overflow(visit, request, size, width):
    path = request.getfixturevalue(size)
    tab = visit(path, width=width, color_scheme="dark" if width == 390 else "light")
    assert (tab.messages, tab.requests) == ([], [path.as_uri()])
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    unfold(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.messages == []


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_first_screen_shows_the_answer(visit, small, width, height):
    tab = visit(small, width=width)
    tab.set_viewport_size({"width": width, "height": height})
    answer = tab.locator(".answer").bounding_box()
    assert answer["y"] + answer["height"] < height
    assert "darts" in tab.locator(".headline").inner_text()
    rows = tab.locator(".answer").get_by_role("row")
    assert rows.count() == 1 + 2 * (1 + 2)  # still a table for screen readers, also on a phone
    row = tab.locator(".answer").get_by_role("row", name="hlrs").first
    assert [" ".join(cell.split()) for cell in row.get_by_role("cell").all_inner_texts()] == [
        "+2.0 −10.7 to +14.7", "", "not significant 2 seeds",
    ]  # fmt: skip
    zero, dot, *ends = (
        row.locator(what).nth(i).bounding_box()
        for what, i in ((".zero", 0), (".dot", 0), (".span", 1), (".span", 2))
    )
    left, right = (end["x"] + end["width"] / 2 for end in ends)
    unit = (right - left) / (14.706 + 10.706)  # pixels per percentage point
    assert zero["x"] + zero["width"] / 2 - left == pytest.approx(10.706 * unit, abs=1.0)
    assert dot["x"] + dot["width"] / 2 - left == pytest.approx(12.706 * unit, abs=1.0)


def test_the_palette_follows_the_reader(visit, small):
    def colours(**options):
        return visit(small, **options).evaluate("getComputedStyle(document.body).backgroundColor")

    assert colours(color_scheme="light") == "rgb(255, 255, 255)"
    assert colours(color_scheme="dark") == "rgb(20, 24, 30)"


def test_every_link_has_a_target(visit, small):
    tab = visit(small)
    links = tab.evaluate("[...document.links].map((link) => link.getAttribute('href'))")
    inside = {link for link in links if link.startswith("#")}
    missing = tab.evaluate("(links) => links.filter((l) => !document.getElementById(l.slice(1)))", [*inside])
    assert missing == []
    outside = set(links) - inside
    assert outside
    assert [link for link in outside if not (small.parent / link).is_file()] == []


def test_a_link_opens_the_records(visit, small):
    tab = visit(small, java_script_enabled=False)
    row = tab.locator(f"[id='{LINEAGE}']")
    assert not row.is_visible()
    tab.locator("[id='data/d'] a[href='#seeds/d/hlrs']").first.click()
    tab.locator(f"[id='seeds/d/hlrs'] a[href='#{LINEAGE}']").click()
    assert row.is_visible()
    assert 0 <= row.bounding_box()["y"] < 850  # within the window
    assert visit(small, f"#{LINEAGE}", java_script_enabled=False).locator(f"[id='{LINEAGE}']").is_visible()


def test_links_to_records_work_where_the_page_was_made_and_where_it_is_published(visit, small):
    folder = small.parents[4]  # of results/report/all/KEY/index.html
    published = folder / "report" / "index.html"
    published.parent.mkdir(exist_ok=True)
    shutil.copyfile(small, published)
    for path in (small, published):
        links = visit(path).evaluate("[...document.querySelectorAll('a.record')].map((link) => link.href)")
        assert len(links) == 2 * 3 * 2 * (5 + 2)  # a record per job, genotype and weights
        assert all(Path(link.removeprefix("file://")).is_file() for link in links)


def test_a_jump_unfolds_its_target(visit, large):
    tab = visit(large, java_script_enabled=False)
    link = tab.locator(".jump a", has_text="Search").first
    target = tab.locator(f"[id='{link.get_attribute('href')[1:]}']")
    assert not target.is_visible()
    link.click()
    assert target.locator("svg.chart").first.is_visible()


def test_a_digest_is_copied_whole(visit, small):
    digest = visit(small, "#lineage").locator("#lineage code.sha").first
    digest.click()
    assert digest.page.evaluate("getSelection().toString()") == "c0de" * 16
    characters = digest.evaluate(
        "(e) => e.getBoundingClientRect().width / parseFloat(getComputedStyle(e).fontSize)"
    )
    assert 12 * 0.5 < characters < 12 * 0.7  # twelve digits of about 0.6 em are visible


def test_without_javascript_only_sorting_is_missing(visit, small):
    def text_of(**options):
        tab = visit(small, **options)
        unfold(tab)
        return tab, tab.locator("body").inner_text()

    (bare, text), (_, scripted) = text_of(java_script_enabled=False), text_of()
    assert text == scripted
    assert HOSTILE in text
    assert bare.locator("button").count() == 0


# --- sorting ------------------------------------------------------------------------------------------


def column(table, index: int) -> list[str]:
    return table.locator(f"tbody tr > :nth-child({index + 1})").all_inner_texts()


def sort_by(table, label: str):
    head = table.get_by_role("columnheader", name=label, exact=True)
    head.get_by_role("button").click()
    return head.get_attribute("aria-sort")


def test_sorting_by_a_column_is_announced_and_stable(visit, five):
    tab = visit(five)
    table = tab.get_by_role("table").filter(has_text="n − 1")
    assert column(table, 0) == ["darts", "a", "b", "c", "d"]
    assert table.locator("[aria-sort]").count() == 0
    assert sort_by(table, "Balanced") == "ascending"
    assert column(table, 0) == ["a", "darts", "c", "b", "d"]  # darts and c are equal
    assert sort_by(table, "Balanced") == "descending"
    assert column(table, 0) == ["d", "b", "darts", "c", "a"]
    assert sort_by(table, "Method") == "ascending"
    assert column(table, 0) == ["a", "b", "c", "d", "darts"]
    assert table.locator("[aria-sort]").count() == 1
    tab.keyboard.press("Enter")  # the heading that was clicked has the focus
    assert column(table, 0) == ["darts", "d", "c", "b", "a"]


def test_sorting_handles_signs_units_and_missing_values(visit, five):
    tab = visit(five)
    table = tab.get_by_role("table").filter(has_text="n − 1")
    table.get_by_role("columnheader", name="vs. darts").first.get_by_role("button").click()
    assert [text.split("\n")[0] for text in column(table, 3)] == ["−5.0", "0.0", "+5.0", "+20.0", "reference"]
    unfold(tab)
    classes = tab.get_by_role("table").filter(has_text="largest first")
    assert sort_by(classes, "Training images") == "ascending"
    assert column(classes, 2) == ["2", "19", "150"]
    for _ in range(2):
        sort_by(classes, "darts")
        assert column(classes, 4)[-1] == "–"


def test_numbers_are_read_as_they_are_written(visit, small):
    tab = visit(small)
    texts = {"980": 980, grouped(15_625): 15_625, "−0.3": -0.3, "55.0 ± 7.1": 55}
    read = "(text) => number(Object.assign(document.createElement('td'), {textContent: text}))"
    assert {text: tab.evaluate(read, text) for text in texts} == texts


def test_totals_and_groups_stay_in_place(visit, small):
    table = visit(small).get_by_role("table").filter(has_text="GPU-hours of jobs")
    for methods in (["darts", "hlrs", "random"], ["random", "hlrs", "darts"]):
        sort_by(table, "Method")
        assert column(table, 0) == ["d", *methods, "all methods", "e", *methods, "all methods"]


def test_keyboard_focus_is_visible(visit, small):
    tab = visit(small)
    button = tab.locator("th button").first
    button.focus()
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Tab")
    assert (
        button.evaluate("(b) => b === document.activeElement && getComputedStyle(b).outlineStyle") == "solid"
    )


# --- paper --------------------------------------------------------------------------------------------


def test_the_page_prints_on_a4_with_the_folded_tables_open(visit, small):
    tab = visit(small)
    pdf = tab.pdf(prefer_css_page_size=True)
    sizes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    assert len(sizes) >= 3
    assert {(round(float(w)), round(float(h))) for w, h in sizes} == {(595, 842)}
    tab.emulate_media(media="print")
    assert not tab.locator("nav").is_visible()
    folded = tab.locator("details.print > summary + *")
    assert folded.count() > 3
    assert all(content.bounding_box()["height"] > 20 for content in folded.all())
    note = "getComputedStyle(document.querySelector('#lineage summary'), '::after').content"
    assert "folded" in tab.evaluate(note)
