"""Look up: what a table of accuracies says of the genotype."""

from pathlib import Path
from typing import Any

from hlrs.artifacts.files import read_json, write_json
from hlrs.artifacts.jobs import Job
from hlrs.artifacts.tables import write_table
from hlrs.config.jobs import LookupJob
from hlrs.nas.cell_table import read_table_of_cells
from hlrs.nas.genotype import nasbench201_from_json


def run(job: Job) -> dict[str, Any]:
    """Write lookup.json (CellTable.judge), and files.parquet, which records the bytes of the table."""
    params, genotype = LookupJob.model_validate(job.params), Path(job.inputs["genotype"])
    table = read_table_of_cells(Path(params.table))
    write_json(
        job.output("lookup.json"), table.judge(str(nasbench201_from_json(read_json(genotype), str(genotype))))
    )
    file = {"name": table.path.name, "bytes": table.path.stat().st_size, "sha256": params.content}
    write_table(job.output("files.parquet"), "files", {name: [value] for name, value in file.items()})
    return {}
