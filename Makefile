# make demo, make test: nothing else is asked of a newcomer.
.DEFAULT_GOAL := help
.PHONY: help setup demo lint compiled test both bench faults screenshots format clean

VENV := .venv
BIN := $(VENV)/bin
# The first that runs and is new enough: a version manager may put names on PATH that only print an error.
PYTHON ?= $(firstword $(foreach v,3.11 3.12 3.13 3,$(shell python$(v) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v python$(v))))
UV := $(shell command -v uv 2>/dev/null)
# A third of the time is waiting, so more than two cores carry.
WORKERS ?= 5
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Else each of the tests' processes compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo "make demo    the story with vendor twins on this machine (DEMO_CHECK=1: run it alone)"
	@echo "make test    lint and all tests"
	@echo "make both    the tests, all that open a database on SQLite and on PostgreSQL"
	@echo "make faults  kill, freeze and race the service, at full counts"
	@echo "make bench   the figures (BENCH=--quick for a short run)"
	@echo "make screenshots   pictures of every page, phone and desktop (TOUR=--whole: whole pages)"

# One line for a missing part, with its fix.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer with venv found: apt-get install python3 python3-venv, or make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@touch $@

ifdef UV
INSTALL = $(UV) pip install --quiet --python $(BIN)/python
else
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

$(VENV)/.runtime: $(VENV)/.made requirements.txt pyproject.toml
	@echo "installing what prefs needs (a minute at most)"
	@$(INSTALL) --require-hashes -r requirements.txt
	@$(BIN)/python .ci/link.py
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.txt
	@echo "installing what the tests need"
	@$(INSTALL) --require-hashes -r requirements-dev.txt
	@touch $@

setup: $(VENV)/.dev

demo: $(VENV)/.runtime
	@$(BIN)/prefs demo

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Compiled once, or every worker does it: pytest's own way takes ten seconds. The tests tell faults.
compiled: $(VENV)/.dev
	@$(BIN)/python -m pytest --collect-only -qq >/dev/null 2>&1 || true

test: $(VENV)/.dev
	@$(MAKE) --no-print-directory -j 2 lint compiled
	$(PYTEST)

both: $(VENV)/.dev
	PREFS_TEST_ENGINES="sqlite postgresql" $(PYTEST)

faults: $(VENV)/.dev
	PREFS_FAULTS=full $(BIN)/python -m pytest tests/faults tests/whole -s --timeout 3000

bench: $(VENV)/.dev
	$(BIN)/python -m bench $(BENCH)

screenshots: $(VENV)/.dev
	$(BIN)/python -m tests.tour $(TOUR)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .prefs-demo .mypy_cache .ruff_cache .hypothesis .import_linter_cache
