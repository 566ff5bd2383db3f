"""`python -m hlrs`: the workflow's rules call this, so that a job runs the code beside its Snakefile."""

from hlrs.cli import main

if __name__ == "__main__":
    main()
