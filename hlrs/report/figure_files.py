"""The figures of figures.zip as PDF for LaTeX and PNG for slides, by Typst."""

import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from hlrs.artifacts.files import check_new, replacing_folder
from hlrs.errors import Failure, UserError

# A page of the figure's size. Typst knows no `sans-serif` and no `monospace`, so here are fonts of Linux that
# stand in for Helvetica, Arial, Menlo and Consolas; DejaVu Sans Mono is its own. Without any, it takes
# its own Libertinus Serif. No date, so that equal figures give equal bytes.
PAGE = b"""
#set document(date: none)
#set page(width: auto, height: auto, margin: 0pt)
#let sans = ("Liberation Sans", "Nimbus Sans", "DejaVu Sans")
#set text(font: if sys.inputs.figure.contains("ui-monospace") { "DejaVu Sans Mono" } else { sans })
#image(bytes(sys.inputs.figure), format: "svg")
"""
PATH = re.compile(r' d="[^"]*"')
STEP_OF_0 = re.compile(r"h0(?![.\d])")

Format = Literal["pdf", "png"]
Draw = Callable[[str, Format], bytes]  # from an SVG to a file's content


def convert(archive: Path, folder: Path, formats: Sequence[Format], dpi: int) -> int:
    """Write each figure of an archive to a new folder, in each format; return the number of files.

    `dpi` is the resolution of PNG; a pixel of an SVG is 1/96 inch. UserError if Typst or the archive is
    missing, or the folder is not empty; Failure if the archive is damaged.
    """
    if not archive.is_file():
        raise UserError(f"{archive}: no such file; `hlrs publish` copies it from a finished run")
    check_new(folder)
    draw = _by_typst(dpi)
    with replacing_folder(folder.absolute()) as temporary:
        figures = _unpack(archive, temporary)
        for figure in figures:
            try:
                svg = figure.read_text(encoding="utf-8")
                for name in formats:
                    figure.with_suffix(f".{name}").write_bytes(draw(svg, name))
            except ValueError as error:
                raise _damaged(archive, f"{figure.relative_to(temporary)}: {error}") from None
            figure.unlink()
    return len(figures) * len(formats)


def _by_typst(dpi: int) -> Draw:
    """Return what draws an SVG by Typst; UserError if its package is not installed."""
    try:
        import typst
    except ModuleNotFoundError as error:
        raise UserError(f"figures: {error.name} is missing; `pip install 'hlrs[figures]'`") from None
    fonts = typst.Fonts()  # of this machine; to find them takes longer than to draw

    def draw(svg: str, name: Format) -> bytes:
        try:
            content = typst.compile(
                PAGE,
                format=name,
                ppi=dpi,
                sys_inputs={"figure": _with_dots(svg)},
                font_paths=fonts,
                pdf_standards=["1.5"] if name == "pdf" else [],  # pdfTeX warns of later versions
            )
        except typst.TypstError as error:
            raise ValueError(error) from None
        assert isinstance(content, bytes)  # of one page
        return content

    return draw


def _with_dots(svg: str) -> str:
    """Lengthen lines of length 0, whose round ends are dots: Typst omits a path without extent from a PDF."""
    return PATH.sub(lambda path: STEP_OF_0.sub("h.01", path[0]), svg)


def _unpack(archive: Path, folder: Path) -> list[Path]:
    """Unpack the SVG files of an archive; Failure if it is damaged, or has none."""
    try:
        with zipfile.ZipFile(archive) as file:
            names = [name for name in file.namelist() if name.endswith(".svg")]
            figures = [Path(file.extract(name, folder)) for name in names]
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:  # the last: seemingly encrypted
        raise _damaged(archive, error) from None
    if not figures:
        raise _damaged(archive, "no figure in it")
    return figures


def _damaged(archive: Path, why: object) -> Failure:
    return Failure(f"{archive}: damaged ({why}); delete it and run `hlrs publish`")
