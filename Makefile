# make demo needs nothing but Python 3.11 and a network for the packages; see README.md.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# An index with PyTorch's CPU wheels, where the usual one would bring gigabytes of CUDA libraries (README, "Two commands")
TORCH_INDEX ?=
# WordNet, for METEOR, where "make wordnet" has put it
ifneq ($(wildcard $(VENV)/wordnet/dict),)
export WNSEARCHDIR := $(abspath $(VENV)/wordnet/dict)
endif
DEMO_RUN := method=state_offset task=samsum model=tiny data=sample
# the tests' models are small: several processes of one thread each are faster than one with several
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses=8 --dist=worksteal
# Folders of a checkpoint and of data, for grid-mamba-25m (docs/experiments.md)
MODEL ?=
DATA ?=
# Which releases of the packages: those of constraints.txt, or (make test-newest) the newest that pyproject.toml takes
RELEASES ?= -c constraints.txt
PRE ?=
# apart from the results that are kept: its tables would be theirs
DEMO := results/demo

.PHONY: help demo sweep-tiny grid-mamba-25m wordnet test test-slow test-all test-newest check tables check-tables report clean
.DEFAULT_GOAL := help

help:  ## what there is to make
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ssm-tune needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install -q --no-deps $(RELEASES) torch --index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install -q --disable-pip-version-check $(RELEASES) -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install -q --disable-pip-version-check $(RELEASES) -e '.[dev]'
	@touch $@

demo: $(VENV)/installed  ## install, tune the embedded model on generated dialogues, show table and picture
	$(BIN)/ssm-tune $(DEMO_RUN) output_dir=$(DEMO)
	$(BIN)/ssm-tune table --results $(DEMO) --figure $(DEMO)/scores.png

sweep-tiny: $(VENV)/installed  ## ten tasks x all methods x three seeds on the embedded model, in parallel processes
	$(BIN)/ssm-tune -m +sweep=tiny hydra/launcher=local

grid-mamba-25m: $(VENV)/installed  ## learning rates, then the grid on real data: make grid-mamba-25m MODEL=DIR DATA=DIR
	@test -n "$(MODEL)" -a -n "$(DATA)" || { echo "name the folders: make $@ MODEL=DIR DATA=DIR" >&2; exit 2; }
	$(BIN)/ssm-tune search mamba_25m model.path=$(MODEL) data.root=$(DATA) hydra/launcher=local
	$(BIN)/ssm-tune -m +sweep=mamba_25m model.path=$(MODEL) data.root=$(DATA) hydra/launcher=local

wordnet: $(VENV)/wordnet/dict/data.noun  ## get WordNet, which METEOR (task=dart) needs: Debian's package or nltk's copy

$(VENV)/wordnet/dict/data.noun: | $(VENV)/installed
	scripts/get_wordnet.sh $(VENV)/wordnet $(abspath $(BIN)/python)

test: $(VENV)/installed-dev  ## install what the tests need and run the everyday ones, in parallel
	$(PYTEST) -m "not slow and not gpu and not slurm"

test-slow: $(VENV)/installed-dev  ## the other tests: slow ones, and those that need a GPU or SLURM
	$(PYTEST) -m "slow or gpu or slurm"

test-all: test test-slow  ## every test

test-newest:  ## the everyday tests with the newest release of each package (PRE=--pre: release candidates too)
	rm -f .venv-newest/installed .venv-newest/installed-dev
	$(MAKE) test VENV=.venv-newest RELEASES="--upgrade --upgrade-strategy eager $(PRE)"

check: $(VENV)/installed-dev  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tables: $(VENV)/installed  ## tables and figures of results/shipped from its records (check-tables: are they current?)
	$(BIN)/ssm-tune table --write --results shipped

check-tables: $(VENV)/installed
	$(BIN)/ssm-tune table --check --results shipped

report: $(VENV)/installed  ## results/report.html: the shipped runs of the embedded model
	$(BIN)/ssm-tune report tiny --results shipped --output results/report.html

clean:  ## remove the virtual environment and caches; results stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
