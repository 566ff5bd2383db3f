"""Print predictions: as lines for people, CSV or JSON."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

import click

from hlrs.artifacts.files import printable
from hlrs.errors import UserError
from hlrs.inference.images import Images
from hlrs.inference.prediction import Prediction

Write = Callable[[Iterable[Prediction], list[str], int], int]  # (predictions, classes, top) -> images printed


def readable(found: Iterable[Prediction], named: Sequence[Images], strict: bool) -> Iterator[Prediction]:
    """Yield predictions under a progress bar; name images that cannot be read, or raise the first's error."""
    from tqdm import tqdm

    total = sum(images.total for images in named)
    shown = sys.stdout is not None and sys.stdout.isatty()  # lines of results would tear the bar
    for prediction in tqdm(
        found, "predicting", total, unit="image", disable=shown or not sys.stderr.isatty()
    ):
        if prediction.error is None:
            yield prediction
        elif strict:
            raise UserError(prediction.error)
        else:
            click.echo(f"hlrs: {printable(prediction.error)}", err=True)


def write_lines(found: Iterable[Prediction], classes: list[str], top: int) -> int:
    """Print one line per image, with its likeliest classes in per cent."""
    printed = 0
    for prediction in found:
        shares = [f"{name} {100 * share:.1f} %" for name, share in prediction.likeliest(classes, top)]
        click.echo(printable(f"{prediction.image}  {', '.join(shares)}"))
        printed += 1
    return printed


def write_csv(found: Iterable[Prediction], classes: list[str], top: int) -> int:
    """Print one row per image: its name, then the likeliest classes, each with its probability."""
    table, ranks, printed = csv.writer(sys.stdout), range(1, min(top, len(classes)) + 1), 0
    table.writerow(["image", *(f"{column}_{rank}" for rank in ranks for column in ("class", "probability"))])
    for prediction in found:
        pairs = prediction.likeliest(classes, top)
        table.writerow([prediction.image, *(value for pair in pairs for value in pair)])
        printed += 1
    return printed


def write_json(found: Iterable[Prediction], classes: list[str], top: int) -> int:
    """Print one JSON list, of each image's name and likeliest classes."""
    rows = [
        {
            "image": prediction.image,
            "classes": [
                {"class": name, "probability": float(share)}
                for name, share in prediction.likeliest(classes, top)
            ],
        }
        for prediction in found
    ]
    click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    return len(rows)


WRITERS: dict[str | None, Write] = {None: write_lines, "csv": write_csv, "json": write_json}
