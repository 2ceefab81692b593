# Two commands on a machine that has Python 3.11+ with pip, and make:
#   make train   sets everything up and trains mo-halfcheetah with DiBS
#   make test    sets everything up and passes lint, types, import rules, documentation and tests

PYTHON ?= python3
VENV ?= .venv
# Installed first, so that nothing else decides which build it is; CPU or CUDA is the package index's choice. For another:
#   make train TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
# More flags for the main job: make train ARGS="--seed 1 --steps 200000"
ARGS ?=

BIN := $(VENV)/bin

.PHONY: train test lint docs clean
.DEFAULT_GOAL := train

train: $(VENV)/installed
	$(BIN)/dibs-rl train --env mo-halfcheetah $(ARGS)

test: lint docs
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "dibs-rl needs Python 3.11 or newer; point PYTHON at one: make train PYTHON=python3.12"; exit 2; }
	@echo "Setting up $(VENV): a few minutes, the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	@touch $@

$(VENV)/installed: $(VENV)/torch pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/torch pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build dist *.egg-info
