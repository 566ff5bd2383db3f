"""The workflow of workflow/Snakefile, with the code beside this file.

`snakemake --cores all` makes what params.yaml requests; `snakemake -n` lists it. With another parameter file:
`--config params=workflow/experiments/cifar10_lt.yaml`; in an image: `--sdm apptainer --config container=FILE.sif`.
"""

import sys

sys.path.insert(0, workflow.basedir)


include: "workflow/Snakefile"


workflow.default_target = "all"  # Snakemake takes none from an included file
