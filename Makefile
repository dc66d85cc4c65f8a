# make demo: the default study with all figures.  make growth, make atlas: the other systems.  make test: the tests.  All set up .venv first.
PYTHON ?= python3.11
VENV := .venv
LOCK := envs/requirements.lock
BIN := $(VENV)/bin
RESULTS ?= results
CORES ?= $(shell nproc)
export PATH := $(CURDIR)/$(BIN):$(PATH)

BRAINS ?= 16

.PHONY: demo brains growth atlas node atlas-rows test tiny lint check config results-page coverage history overhead clean

demo: $(VENV)/installed
	snakemake --cores all

# Volumes from the packaged generator, one network evaluation each, and their contact sheet: no study, no training.
brains: $(VENV)/installed
	python -m tools.brains $(RESULTS)/brains --n $(BRAINS)

growth: $(VENV)/installed
	snakemake growth --cores all

atlas: $(VENV)/installed
	snakemake atlas --cores all

# onnxruntime for the example in Node.js; its install script, which downloads GPU libraries, is not run.
node:
	npm install --ignore-scripts --prefix work/node onnxruntime-node@1.30.0

atlas-rows: $(VENV)/installed
	OMP_NUM_THREADS=1 pytest tests/atlas -m "slow or not slow" --junitxml work/atlas.xml; python -m tools.atlas_rows work/atlas.xml > docs/atlas_rows.md

test: $(VENV)/installed
	OMP_NUM_THREADS=1 pytest --numprocesses 2 --dist loadfile

tiny: $(VENV)/installed
	snakemake --cores all --configfile tests/config/tiny.yaml --directory work/tiny
	snakemake growth atlas atlas_points --cores all --configfile tests/config/tiny.yaml --directory work/tiny
	snakemake --cores all --configfile tests/config/tiny.yaml --directory work/tiny -n --quiet rules

lint: $(VENV)/installed
	ruff check . && ruff format --check .
	snakefmt --check Snakefile rules
	mypy
	lint-imports
	vulture
	snakemake --lint

# Coverage of the tests, in total and by line (coverage.xml). Fewer tests: make coverage TESTS=tests/core/test_files.py
coverage: $(VENV)/installed
	OMP_NUM_THREADS=1 pytest --numprocesses 2 --dist loadfile --cov --cov-report term --cov-report xml $(TESTS)

# Add the cost of every job of a study to docs/benchmarks.csv. Another study: make history RESULTS=work/ixi_2mm/results
history: $(VENV)/installed
	python -m tools.bench_history $(RESULTS) docs/benchmarks.csv

# Fractions of a study's time spent in work, in starting jobs and in waiting. The study must have run without a break.
overhead: $(VENV)/installed
	python -m tools.overhead $(RESULTS) --cores $(CORES)

# Versions, device, packaged weights, data and optional tools.
check: $(VENV)/installed
	python -m tools.check_environment

# docs/configuration.md and the JSON schema, from the descriptions of the config keys.
config: $(VENV)/installed
	python -m tools.configuration

# docs/results.md, and the results table of README.md, from a finished study.
results-page: $(VENV)/installed
	python -m tools.results_page $(RESULTS) > docs/results.md
	python -m tools.results_page $(RESULTS) --readme README.md

$(VENV)/installed: $(LOCK) pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement $(LOCK)
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) work results/* .snakemake
