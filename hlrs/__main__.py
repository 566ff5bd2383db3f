"""`python -m hlrs`, which the workflow's rules call to run the code beside their Snakefile."""

from hlrs.cli import main

if __name__ == "__main__":
    main()
