# Two commands on a fresh clone: `make quickstart` and `make test`. Both set everything up first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint theory mutation setup clean

quickstart: $(BIN)/.installed
	$(BIN)/dsjax quickstart

test: $(BIN)/.installed
	$(BIN)/python -m pytest

lint: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

theory: $(BIN)/.installed
	$(BIN)/python -m proofs_check.theory

mutation: $(BIN)/.installed
	$(BIN)/python -m tests.mutation.runner

setup: $(BIN)/.installed

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
