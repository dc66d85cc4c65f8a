# make demo: the default study with all its figures.  make test: the tests.  Both set up .venv first if it is missing.
PYTHON ?= python3.11
VENV := .venv
LOCK := envs/requirements.lock
BIN := $(VENV)/bin
RESULTS ?= results
CORES ?= $(shell nproc)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test tiny lint coverage history overhead clean

demo: $(VENV)/installed
	snakemake --cores all

test: $(VENV)/installed
	OMP_NUM_THREADS=1 pytest --numprocesses 2 --dist loadfile

tiny: $(VENV)/installed
	snakemake --cores all --configfile tests/config/tiny.yaml --directory work/tiny
	snakemake --cores all --configfile tests/config/tiny.yaml --directory work/tiny -n --quiet rules

lint: $(VENV)/installed
	ruff check . && ruff format --check .
	snakefmt --check Snakefile rules
	mypy
	lint-imports
	vulture
	snakemake --lint

# how much of the code the tests run, in all and line by line (coverage.xml); fewer tests: make coverage TESTS=tests/core/test_files.py
coverage: $(VENV)/installed
	OMP_NUM_THREADS=1 pytest --numprocesses 2 --dist loadfile --cov --cov-report term --cov-report xml $(TESTS)

# what every job of a study took, into a table that git keeps; of another study: make history RESULTS=work/heads/results
history: $(VENV)/installed
	python -m tools.bench_history $(RESULTS) docs/benchmarks.csv

# how much of a study's time was work, and how much start of jobs and waiting; it must have run in one go
overhead: $(VENV)/installed
	python -m tools.overhead $(RESULTS) --cores $(CORES)

$(VENV)/installed: $(LOCK) pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement $(LOCK)
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) work results/* .snakemake
