"""The report's figures as PDF and PNG, against the SVG that they are made from."""

import re
import sys
import zipfile
import zlib
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from hlrs.nas.drawing import draw_cell
from hlrs.report import figures
from tests.messages import says
from tests.report.test_figures import make_results, make_run
from tests.test_cli import complaint, run

CELL = draw_cell([[("sep_conv_3x3", 0), ("skip_connect", 1)]], "d/darts/0 · normal cell", [2])
BLUE = (0, 114, 178)  # #0072b2, of series 0
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    """report/figures.zip in the current folder: two methods, one seed each, with a cell."""
    monkeypatch.chdir(tmp_path)
    path = Path("report/figures.zip")
    path.parent.mkdir()
    cells = {"normal": ("normal cell", CELL)}
    figures.archive(make_results([make_run(name, 0, cells=cells) for name in ("darts", "hlrs")]), path)
    return path


def svgs(archive: Path) -> dict[str, str]:
    """The archive's SVG by name without suffix."""
    with zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if name.endswith(".svg")]
        return {name.removesuffix(".svg"): file.read(name).decode() for name in names}


def size(svg: str) -> tuple[float, float]:
    root = ElementTree.fromstring(svg)
    return float(root.get("width")), float(root.get("height"))


def letters(svg: str) -> set[str]:
    """The characters that an SVG shows."""
    shown = "".join("".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text"))
    return set(shown) - {" "}


def plain(pdf: Path) -> str:
    """A PDF with its compressed parts decompressed."""
    parts = re.split(rb"stream\r?\n|\r?\nendstream", pdf.read_bytes())
    for i in range(1, len(parts), 2):
        try:
            parts[i] = zlib.decompress(parts[i])
        except zlib.error:
            continue
    return b"\n".join(parts).decode("latin-1")


def readable(pdf: str) -> set[str]:
    """The characters that a PDF's fonts translate back, as a search or a copy needs."""
    single = re.findall(r"<[0-9A-Fa-f]{4}> <([0-9A-Fa-f]+)>\n", pdf)
    return set("".join(bytes.fromhex(code).decode("utf-16-be") for code in single))


def test_each_figure_becomes_a_pdf_of_its_size_with_text_and_colours(archive):
    found = svgs(archive)
    code, said, _ = run("figures", "--to", "out", "--format", "pdf")
    assert (code, said) == (0, f"out: {len(found)} files\n")
    written = [path for path in Path("out").rglob("*") if path.is_file()]
    assert {path.relative_to("out").as_posix() for path in written} == {f"{name}.pdf" for name in found}
    for name, svg in found.items():
        pdf = plain(Path("out", f"{name}.pdf"))
        width, height = (float(f"{side * 0.75:.4f}") for side in size(svg))  # 96 pixels are 72 points
        [box] = re.findall(r"/MediaBox ?\[([^\]]*)\]", pdf)
        assert [float(side) for side in box.split()] == pytest.approx([0, 0, width, height], abs=0.01), name
        assert letters(svg) <= readable(pdf), name
        assert not re.search(r"/Subtype ?/Image", pdf), name  # but vectors
    counts = plain(Path("out/d/class_counts/counts.pdf"))
    assert re.search(r"\b0 0\.447\d* 0\.698\d* (scn|SCN)", counts)  # 114/255, 178/255
    cell = plain(Path("out/d/cells_darts/seed_0_normal.pdf"))
    assert re.search(r"/BaseFont ?/\w+\+(DejaVuSansMono|Menlo|Consolas)", cell)


def test_single_dots_are_in_the_pdf(archive):
    """The legend's sample is a line of length 0 from (12, 5), with round ends."""
    run("figures", "--to", "out", "--format", "pdf")
    assert 'd="M12 5h0"' in svgs(archive)["d/methods/top1"]
    assert re.search(r"\b12 5 m 12\.01 5 l", plain(Path("out/d/methods/top1.pdf")))


def test_a_png_has_the_resolution_the_background_and_the_colours(archive):
    run("figures", "--to", "out", "--format", "png", "--dpi", "192", "--format", "png")
    found = svgs(archive)
    assert len([*Path("out").rglob("*.*")]) == len(found)
    for name, svg in found.items():
        with Image.open(Path("out", f"{name}.png")) as image:
            assert image.size == pytest.approx([2 * side for side in size(svg)], abs=1), name
            assert image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255), name
    with Image.open("out/d/class_counts/counts.png") as image:
        assert BLUE in {colour for _, colour in image.convert("RGB").getcolors(100_000)}


def test_equal_figures_give_equal_files(archive):
    for folder in ("one", "two"):
        assert run("figures", "--to", folder)[0] == 0
    one, two = (
        {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*.*")}
        for folder in ("one", "two")
    )
    assert {path.suffix for path in one} == {".pdf", ".png"}
    assert one == two


def test_without_typst_its_extra_is_named(archive, monkeypatch):
    monkeypatch.setitem(sys.modules, "typst", None)
    line = complaint("figures", "--to", "out")
    assert line == "figures: typst is missing; `pip install 'hlrs[figures]'`"
    assert not Path("out").exists()


def test_a_damaged_archive_leaves_nothing(archive):
    content = archive.read_bytes()
    middle = len(content) // 2
    for damaged in (content[:middle] + bytes(20) + content[middle + 20 :], content[:middle]):
        archive.write_bytes(damaged)
        says(complaint("figures", "--to", "out", status=1), "report/figures.zip: damaged", "hlrs publish")
    for files, why in (({"a.svg": "<svg"}, "a.svg"), ({"a.csv": "1"}, "no figure")):
        with zipfile.ZipFile(archive, "w") as file:
            for name, text in files.items():
                file.writestr(name, text)
        says(complaint("figures", "--to", "out", status=1), "report/figures.zip: damaged", why)
    assert [path.name for path in Path().iterdir()] == ["report"]


def test_what_cannot_be_converted_is_named(archive):
    Path("full").mkdir()
    Path("full/mine.tex").touch()
    says(complaint("figures", "--to", "full"), "full", "not an empty folder")
    says(complaint("figures", "--to", "out", "--format", "pdf", "--dpi", "96"), "--dpi", "png", "omit")
    assert run("figures", "--to", "out", "--format", "gif")[0] == 2
    archive.unlink()
    says(complaint("figures", "--to", "out"), "report/figures.zip: no such file", "hlrs publish")
