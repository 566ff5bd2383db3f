"""Describe splits in Croissant 1.0, so that catalogues and loaders of data sets understand them.

https://docs.mlcommons.org/croissant/docs/croissant-spec.html. A split is a folder: its tables and
croissant.json, which names their columns. The images are not in it; `files.parquet` has the SHA-256 of the
files that hold them. Licence, citation and publisher are not on record and left to whoever publishes it.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hlrs.artifacts.data_digest import sha256
from hlrs.artifacts.files import check_new, read_json, replacing_folder, write_json
from hlrs.artifacts.jobs import FILES, PROVENANCE, Job
from hlrs.artifacts.records import Record
from hlrs.artifacts.tables import SCHEMAS
from hlrs.errors import Failure, UserError

METADATA = "croissant.json"
SPLIT = "split.parquet"
TABLES = {SPLIT: ("images", "split"), FILES: ("files", "files")}  # file -> record set, kind of SCHEMAS
TYPES = {"int32": "sc:Integer", "int64": "sc:Integer", "string": "sc:Text"}
MEANINGS = {
    "images/index": "Position of the image in its source: training images first, then test images.",
    "images/label": "Class of the image, counted from 0.",
    "images/subset": "What the image is for: the network's weights, the alphas, a holdout, or the test.",
    "files/name": "File of the source, as the source names it.",
    "files/bytes": "Size of the file.",
    "files/sha256": "SHA-256 of the file.",
}
REFERENCES = {"images/label": "classes/label", "images/subset": "subsets/name"}
TERMS = (  # of the vocabulary, all of which readers expect in the context
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet"),
    *("format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
    *("references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField"),
    "transform",
)
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    **{term: f"cr:{term}" for term in TERMS},
}


def export(jobs: Iterable[Job], target: Path) -> list[str]:
    """Write every split with its description to a new folder, one folder per split; return their names.

    UserError if a split is missing or the folder is not empty; Failure if a table differs from its record.
    """
    splits = [job for job in jobs if job.stage == "split"]
    for job in splits:
        if not job.complete:
            raise UserError(f"{job.directory}: missing; `hlrs split {job.run}` draws it")
    check_new(target)
    with replacing_folder(target.absolute()) as temporary:
        for job in splits:
            (temporary / job.run).mkdir()
            for name in TABLES:
                shutil.copyfile(job.output(name), temporary / job.run / name)
            write_json(temporary / job.run / METADATA, describe(job))
    return [job.run for job in splits]


def describe(job: Job) -> dict[str, Any]:
    """Return the description of a split, as JSON-LD; Failure if a table differs from its record."""
    record, classes = Record.read(job.output(PROVENANCE)), read_json(job.output("classes.json"))
    names, counts = classes["names"], classes["counts"]
    params = {name: value for name, value in job.params.items() if name != "content"}
    sizes = ", ".join(f"{sum(of)} for {use}" for use, of in counts.items())
    rows = [
        {"label": label, "name": name} | {use: of[label] for use, of in counts.items()}
        for label, name in enumerate(names)
    ]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": job.run,
        "description": f"A split of labelled images, drawn by hlrs with {json.dumps(params)}. "
        f"{len(names)} classes; {sizes}. The images themselves are not included.",
        "identifier": [f"hlrs-split:{job.key}", f"sha256:{job.params['content']}"],
        "dateCreated": record.ended,
        "distribution": [_file(job, name, record) for name in TABLES],
        "recordSet": [
            *(_table(name) for name in TABLES),
            _inline("classes", rows, key="label"),
            _inline("subsets", [{"name": use} for use in counts], key="name") | {"dataType": "cr:Split"},
        ],
    }


def _file(job: Job, name: str, record: Record) -> dict[str, Any]:
    path = job.output(name)
    digest = sha256(path)
    if record.outputs.get(name) != digest:
        raise Failure(
            f"{path}: not the file on record in {job.output(PROVENANCE)}; `hlrs audit` shows the remedy"
        )
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": "application/x-parquet",
        "sha256": digest,
    }


def _table(file: str) -> dict[str, Any]:
    """Describe the columns of a table."""
    name, kind = TABLES[file]
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "field": [
            _field(f"{name}/{column}", TYPES[type_])
            | {"source": {"fileObject": {"@id": file}, "extract": {"column": column}}}
            for column, type_ in SCHEMAS[kind].items()
        ],
    }


def _inline(name: str, rows: list[dict[str, Any]], key: str) -> dict[str, Any]:
    """Describe a record set whose rows stand in the description itself."""
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "key": {"@id": f"{name}/{key}"},
        "field": [
            _field(f"{name}/{field}", "sc:Text" if isinstance(value, str) else "sc:Integer")
            for field, value in rows[0].items()
        ],
        "data": [{f"{name}/{field}": value for field, value in row.items()} for row in rows],
    }


def _field(identifier: str, type_: str) -> dict[str, Any]:
    found: dict[str, Any] = {"@type": "cr:Field", "@id": identifier, "name": identifier, "dataType": type_}
    if identifier in MEANINGS:
        found["description"] = MEANINGS[identifier]
    if identifier in REFERENCES:
        found["references"] = {"field": {"@id": REFERENCES[identifier]}}
    return found
