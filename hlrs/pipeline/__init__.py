"""Planning and running jobs: keys, locks, Snakemake, DVC and SLURM."""
