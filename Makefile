# Two commands: `make quickstart` and `make test`. Each does only what is left to do.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: quickstart test check bench lock
.DEFAULT_GOAL := quickstart

quickstart: $(VENV)/installed
	snakemake --cores all --quiet rules host
	@echo
	@echo "The report: $(CURDIR)/report/index.html"

test: $(VENV)/installed
	pytest -n 2

check: $(VENV)/installed
	ruff format --check .
	ruff check .
	mypy

# The CPU benchmarks, a quarter of an hour; REFERENCE is a clone of github.com/Tomorrowdawn/darts_torch2.1
bench: $(VENV)/installed
	python benchmarks/planning.py
	python benchmarks/steps.py --reference $(or $(REFERENCE),$(error make bench REFERENCE=CLONE, a clone of Tomorrowdawn/darts_torch2.1))

# Newest versions within the bounds of pyproject.toml
lock: $(VENV)/installed
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate pyproject.toml --output-file requirements.lock

$(VENV)/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	@echo "Installing into $(VENV): PyTorch comes with its CUDA libraries, 5 GB in all; this takes some minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@
