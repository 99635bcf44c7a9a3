# `make` lists the targets. All of them share one set-up in .venv, and nothing is done twice.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.setup-done

# The interpreter that .venv is made from: `make setup PYTHON=/path/to/python3.12`. Empty: the first that is new enough.
PYTHON ?=

# Extras to install. Linux needs a back end for MLX (`cpu`, or `cuda` with an NVIDIA GPU); macOS brings Metal.
ifeq ($(shell uname -s),Linux)
EXTRAS ?= cpu,dev,otel
else
EXTRAS ?= dev,otel
endif

# Demo, tests and benchmark share the models that they fetched; elsewhere the per-user default applies.
SEMANTIC_MODELS_DIR ?= $(CURDIR)/.cache/models
export SEMANTIC_MODELS_DIR

# Processes that share the tests, at most four: several tests load a real model. `make test WORKERS=0` runs them in one.
WORKERS ?= auto

# Both platforms at the same time.
TYPE_CHECKS := -j 2 mypy-linux mypy-darwin

# More arguments for pytest, as in `make test ARGS="tests/unit -k scheduler"` (then without the coverage gate).
ARGS ?=

.PHONY: help setup demo test coverage-gate test-slow test-clients package-check lint mypy-linux mypy-darwin audit format bench docs screens constraints clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP)  ## Make .venv with everything that demo, tests and linters need

$(STAMP): pyproject.toml constraints.txt contrib/dev/setup.sh
	@PYTHON="$(PYTHON)" bash contrib/dev/setup.sh "$(VENV)" "$(EXTRAS)"
	@touch $@

demo: setup  ## Two agents, a restart, and what they did not have to compute again
	@$(PY) contrib/examples/demo.py

ifeq ($(strip $(ARGS)),)
test: setup  ## Run the tests, and hold the coverage of the pure rooms at 90 % of branches
	@$(PY) -m pytest -m "not clients and not slow" -n $(WORKERS) --maxprocesses 4 --dist worksteal --durations 10 --cov --cov-report=
	@$(MAKE) coverage-gate
else
test: setup
	@$(PY) -m pytest $(ARGS)
endif

coverage-gate:
	@for room in domain application control; do \
	  echo "== branch coverage of semanticd/$$room, at least 90 %"; \
	  $(PY) -m coverage report --include="semanticd/$$room/*" --fail-under=90 || exit 1; \
	done

test-slow: setup  ## Run the tests that take minutes each
	@$(PY) -m pytest -m "slow and not clients" $(ARGS)

# The coding agents take a gigabyte and minutes: make test-clients ARGS="-m clients"
test-clients: setup  ## Run the tests with third-party SDKs and libraries, and schemathesis
	@$(PY) -m pytest -m "clients and not slow" $(ARGS)

package-check: setup  ## Build sdist and wheel, try the wheel alone, find a Mac's wheels of all dependencies
	@$(PY) contrib/dev/checks/package_check.py $(ARGS)

lint: setup audit  ## Formatting, ruff, mypy --strict for Linux and macOS, import contracts, wording, GitHub's files, Dockerfile, known vulnerabilities
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(MAKE) $(TYPE_CHECKS)
	@$(VENV)/bin/lint-imports --no-logo
	@$(PY) contrib/dev/checks/wording.py
	@$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(VENV)/bin/check-jsonschema --quiet --builtin-schema custom.github-workflows-require-timeout .github/workflows/*.yml
	@$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	@$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml .github/ISSUE_TEMPLATE/machine.yml
	@$(VENV)/bin/hadolint contrib/docker/Dockerfile
	@$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.citation-file-format CITATION.cff

# At the same time, each with a cache of its own: what was kept for one platform is of no use for the other.
mypy-linux:  ## Check the types for Linux
	@$(VENV)/bin/mypy --platform linux --cache-dir .mypy_cache/linux

mypy-darwin:  ## Check the types for macOS
	@$(VENV)/bin/mypy --platform darwin --cache-dir .mypy_cache/darwin

# In an environment of its own, so that nothing of it gets into .venv. Without a network it says so, and fails nothing.
audit: setup  ## Look for known vulnerabilities in the pinned dependencies
	@test -x .cache/audit/bin/pip-audit || { $(PY) -m venv .cache/audit && .cache/audit/bin/pip install --quiet "pip-audit>=2.10,<3"; } || true
	@$(PY) contrib/dev/checks/audit.py

format: setup  ## Format, and fix what ruff can fix
	@$(VENV)/bin/ruff check --fix-only --quiet .
	@$(VENV)/bin/ruff format .

bench: setup  ## Measure semanticd, mlx_lm.server and llama.cpp; writes docs/benchmarks.md (ARGS="--help")
	@$(PY) -c "import matplotlib" 2>/dev/null || $(VENV)/bin/pip install --quiet -c constraints.txt -e ".[bench]"
	@$(PY) contrib/dev/bench/run.py $(ARGS)

docs: setup  ## Build the documentation into site/
	@$(PY) -c "import material" 2>/dev/null || $(VENV)/bin/pip install --quiet -c constraints.txt -e ".[docs]"
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet --site-dir site
	@echo "site/index.html"

screens: setup  ## Draw the dashboard's screens for the documentation into docs/img/
	@$(PY) -m contrib.dev.generators.screens

constraints:  ## Resolve constraints.txt anew from pyproject.toml (needs uv)
	@bash contrib/dev/constraints.sh

clean:  ## Remove what make made, but for fetched models
	@rm -rf $(VENV) build dist site htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
