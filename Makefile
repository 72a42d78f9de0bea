# Every target makes what it needs first: `make demo` and `make test` work in a fresh clone.
# Needs Python 3.11 or newer and nothing else; PYTHON=/path/to/python3.12 chooses one.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# A folder of wheels to look into first; a CPU build of torch there saves gigabytes.
WHEELS := $(wildcard ../shared/wheels)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	$(addprefix --find-links ,$(WHEELS))
BASE := $(VENV)/.installed-base
LIVE := $(VENV)/.installed-live
DEV := $(VENV)/.installed-dev
BENCHMARKS := $(filter-out benchmarks/_%,$(sort $(wildcard benchmarks/*.py)))

.PHONY: help setup demo test thirdparty check format bench docs render clean

help: ## say what there is
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

$(BIN)/python:
	@echo "creating $(VENV)"
	@python="$$(.ci/find-python)" && "$$python" -m venv $(VENV)

# What the demo needs: the sidecar, a service to watch and the explorer; no torch, no tools for development.
$(BASE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing mlmon, the demo's service and the explorer into $(VENV)"
	@$(INSTALL) --editable '.[demo,explorer]'
	@touch $@

# What `mlmon demo --live` needs: a server of masked language models, with torch.
$(LIVE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing mlmon and its model server into $(VENV)"
	@$(INSTALL) --editable '.[demo,server]'
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing mlmon and the tools for development into $(VENV)"
	@$(INSTALL) --editable '.[dev]'
	@touch $(BASE) $(LIVE) $@

setup: $(DEV) ## make .venv with everything that development needs

demo: $(if $(findstring --live,$(ARGS)),$(LIVE),$(BASE)) ## watch a small text service, and see what goes wrong being found; ARGS=--live: a masked language model
	@$(BIN)/mlmon demo $(ARGS)

test: $(DEV) ## run every test; installs what is missing where it may; ARGS="-k spool" goes to pytest
	@.ci/setup-system
	@.ci/test $(ARGS)

thirdparty: $(DEV) ## test against another server (MLServer), which is installed below ~/.cache/mlmon; not in `test`
	$(BIN)/python -m pytest -m thirdparty $(ARGS)

check: $(DEV) ## format, lint, types, import contracts, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m mlmon.cli.docs --check
	$(BIN)/mlmon render --check

format: $(DEV) ## write the format, and repair what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(DEV) ## run every benchmark, at the small size that each has by default
	@set -e; for file in $(BENCHMARKS); do echo "== $$file"; $(BIN)/python "$$file"; done

docs: $(DEV) ## write the generated pages: configuration, metrics, events
	$(BIN)/python -m mlmon.cli.docs

render: docs ## write everything that is generated from the code and the SLO specs
	$(BIN)/mlmon render

clean: ## remove what was built and cached
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .tmp dist build
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
