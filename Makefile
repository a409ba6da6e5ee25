# Two commands on a fresh clone: `make quickstart` and `make test`. Both set everything up first.
PYTHON ?= python3
BIN := .venv/bin
# A stamp for each Python version: another PYTHON makes the environment anew.
READY := .venv/.installed-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
LOCK := requirements/dev.txt
PIP := python -m pip --quiet --disable-pip-version-check
# uv installs in seconds what takes pip a minute; pip does it where uv cannot be had.
install = $(1)/uv pip install --quiet --python $(1)/python $(2) || $(1)/$(PIP) install $(2)

.PHONY: quickstart test test-lowest test-torch lint theory docs mutation setup extras lock clean

quickstart: $(READY)
	$(BIN)/dsjax quickstart

test: $(READY)
	$(BIN)/python -m pytest

# The lowest version of every range in pyproject.toml; what they import is newer, and warns of what they use.
test-lowest:
	$(PYTHON) -m venv --clear .venv-lowest
	-.venv-lowest/bin/$(PIP) install --require-hashes --requirement requirements/uv.txt
	$(call install,.venv-lowest/bin,--constraint requirements/lowest.txt --editable '.[dev]')
	.venv-lowest/bin/python -m pytest -W ignore::DeprecationWarning

# What touches PyTorch; the other tests skip it where it is not there.
test-torch: $(READY)-torch
	$(BIN)/python -m pytest tests/adapters

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

theory: $(READY)
	$(BIN)/python -m proofs_check.theory

# The site, with its notebooks run: build/site/index.html.
docs: $(READY)-docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d build/doctrees docs build/site

mutation: $(READY)
	$(BIN)/python -m tests.mutation.runner

setup: $(READY)

extras: $(READY)-docs $(READY)-torch

# Exactly the packages of the lock file, by their hashes.
$(READY): pyproject.toml $(LOCK)
	$(PYTHON) -m venv --clear .venv
	-$(BIN)/$(PIP) install --require-hashes --requirement requirements/uv.txt
	$(call install,$(BIN),--require-hashes --requirement $(LOCK))
	$(call install,$(BIN),--no-deps --no-build-isolation --editable .)
	touch $@

# Sphinx and its like and PyTorch are not locked; what is locked stays as it is.
$(READY)-docs $(READY)-torch: $(READY)-%: $(READY)
	sed 's/ \\$$//; /--hash/d' $(LOCK) > .venv/pins.txt
	$(call install,$(BIN),--constraint .venv/pins.txt --no-build-isolation --editable '.[$*]')
	touch $@

# After a change of dependencies in pyproject.toml: versions with hashes, the lowest of every range, licences.
lock:
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/$(PIP) install uv
	.venv-lock/bin/uv pip compile requirements/uv.in --universal --python-version 3.11 --generate-hashes \
		--upgrade --quiet --no-header --no-annotate --no-emit-index-url --output-file requirements/uv.txt
	.venv-lock/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--upgrade --quiet --no-header --no-annotate --no-emit-index-url --output-file $(LOCK)
	.venv-lock/bin/uv pip compile pyproject.toml --extra dev --resolution lowest-direct --python-version 3.11 \
		--upgrade --quiet --no-header --no-annotate --no-emit-index-url --output-file requirements/lowest.txt

clean:
	rm -rf .venv .venv-lowest .venv-lock build dist docs/generated *.egg-info
