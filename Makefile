# `make quickstart`, `make test`, `make test-ci` and `make test-all`. Each does only what is left to do.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: quickstart test test-ci test-all torture check bench lock image test-image
.DEFAULT_GOAL := quickstart

quickstart: $(VENV)/installed
	snakemake --cores all

# Three processes of one thread each: with more threads than free cores PyTorch's wait for one another
test test-ci test-all: export OMP_NUM_THREADS ?= 1

test: $(VENV)/installed
	pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not e2e and not slow"

# With those that start Snakemake, DVC, SLURM, containers or a browser; these wait as much as they compute
test-ci: $(VENV)/installed
	pytest -n 4 --dist loadfile --no-loadscope-reorder -m "not slow"

test-all: $(VENV)/installed
	pytest -n 4 --dist loadfile --no-loadscope-reorder

# Kills, power cuts, damaged files and mutated params, for long (docs/reliability.md); SEED=N for others
torture: export OMP_NUM_THREADS ?= 1
torture: SEED ?= 0
torture: $(VENV)/installed
	python -m tests.faults.mutate 5000 $(SEED)
	python -m tests.faults.kill 200 $(SEED)
	python -m tests.faults.kill --power 20 $(SEED)
	python -m tests.faults.kill --snakemake 20 $(SEED)
	python -m tests.faults.damage all $(SEED)

check: $(VENV)/installed
	ruff format --check .
	ruff check .
	mypy
	lint-imports

# The CPU benchmarks, about 15 minutes; REFERENCE is a clone of github.com/Tomorrowdawn/darts_torch2.1
bench: $(VENV)/installed
	python benchmarks/planning.py
	python benchmarks/steps.py --reference $(or $(REFERENCE),$(error make bench REFERENCE=CLONE, a clone of Tomorrowdawn/darts_torch2.1))

# The container image: localhost/hlrs for Podman, build/hlrs.sif for Apptainer (docs/containers.md)
image: build/hlrs.sif

# zstd packs PyTorch's 1.2 GB in 2 s on two cores; gzip takes 45 s for the same size (557 MB)
SQUASH := -comp zstd -Xcompression-level 3
LOCK = $(shell sha256sum requirements.lock | cut -d ' ' -f 1)
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

build/hlrs.sif: containers/Containerfile containers/install.sh requirements.lock pyproject.toml $(shell find hlrs -name '*.py' -o -name '*.j2')
	podman build --tag localhost/hlrs --file containers/Containerfile \
	    --build-arg VERSION=$(VERSION) --build-arg LOCK=$(LOCK) \
	    $(if $(PIP_CERT),--volume $(PIP_CERT):/run/ca.crt:ro --build-arg PIP_CERT=/run/ca.crt) \
	    $(if $(PIP_INDEX_URL),--build-arg PIP_INDEX_URL=$(PIP_INDEX_URL)) .
	mkdir -p build
	podman save --quiet --format docker-archive --output build/hlrs.tar localhost/hlrs
	APPTAINER_TMPDIR=$(CURDIR)/build apptainer build --force --mksquashfs-args "$(SQUASH)" $@ docker-archive:build/hlrs.tar
	rm build/hlrs.tar

test-image: $(VENV)/installed build/hlrs.sif
	pytest -p no:cacheprovider tests/image.py
	python containers/tested.py --record

# Newest versions within the bounds of pyproject.toml
lock: $(VENV)/installed
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate pyproject.toml --output-file requirements.lock

$(VENV)/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	@echo "Installing into $(VENV): PyTorch comes with its CUDA libraries, 5 GB to download; this takes some minutes."
	$(PYTHON) -m venv $(VENV)
	@(while sleep 10 > /dev/null 2>&1 && kill -0 $$$$ 2> /dev/null; do \
	    echo "  $(VENV) has $$(du -sh $(VENV) | cut -f 1), $$(date +%T)"; done) & ticker=$$!; \
	$(BIN)/python -m pip install --progress-bar off --requirement requirements.lock; \
	status=$$?; kill $$ticker; exit $$status
	$(BIN)/python -m pip install --quiet --no-deps --config-settings editable_mode=compat --editable .
	@touch $@
