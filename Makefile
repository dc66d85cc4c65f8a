# make demo: the default study with all its figures.  make test: the tests.  Both set up .venv first if it is missing.
PYTHON ?= python3.11
VENV := .venv
LOCK := envs/requirements.lock
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test tiny lint clean

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
	snakemake --lint

$(VENV)/installed: $(LOCK) pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement $(LOCK)
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) work results/* .snakemake
