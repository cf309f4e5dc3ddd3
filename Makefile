# make demo and make test need Python 3.11 and make, nothing else; they build their own environment in .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=
BENCH ?= $(shell grep -l '__main__' benchmarks/*.py | grep -vE '(chart|seasons)\.py' | xargs -n1 basename | sed 's/\.py$$//')
PY := $(VENV)/bin/python
IS_3_11 := -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'
# The first interpreter that really is a 3.11 (a pyenv shim of that name may exist and not run).
PYTHON ?= $(shell for p in python3.11 python3 python; do $$p $(IS_3_11) 2>/dev/null && echo $$p && break; done)
# Packages that come as sources are built with the locked setuptools too (pip < 25.3 reads the first, later ones the second).
PIP := PIP_CONSTRAINT=requirements.txt PIP_BUILD_CONSTRAINT=requirements.txt \
	$(PY) -m pip --disable-pip-version-check --no-input install --no-compile $(PIP_ARGS)

# Without compiled modules every command compiles TensorFlow anew, for seconds; the first import of each writes them.
unexport PYTHONDONTWRITEBYTECODE

DEMO_DATA := data/demo
DEMO_RUN := runs/demo
DEMO_RECS := $(DEMO_RUN)/recommendations.parquet

.PHONY: help install demo test test-long lint types bench lock clean clean-demo

help: ## list the targets
	@echo "usage: make TARGET [PYTHON=/path/to/python3.11] [VENV=.venv] [PIP_ARGS=...] [PYTEST_ARGS=...]"
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

# ---- environment -----------------------------------------------------------------------------------------------

$(VENV)/.created:
	@if [ -z "$(PYTHON)" ]; then \
	  echo "error: no Python 3.11 found (tried python3.11, python3, python)." >&2; \
	  echo "Install it (Debian 12: apt install python3.11 python3.11-venv; or pyenv install 3.11, uv python install 3.11)," >&2; \
	  echo "or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@$(PYTHON) $(IS_3_11) || { \
	  echo "error: PYTHON=$(PYTHON) does not run, or is not Python 3.11, which the pinned packages need." >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { \
	  echo "error: '$(PYTHON) -m venv' failed; on Debian: apt install python3.11-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.installed: requirements.txt | $(VENV)/.created
	$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(PIP) -r requirements.txt -r requirements-dev.txt
	@touch $@

install: $(VENV)/.installed ## the environment alone, in .venv (3 GB); then: . .venv/bin/activate

# ---- the demo: every step leaves the file that the next one waits for ------------------------------------------

demo: $(DEMO_RUN)/.trained $(DEMO_RECS) ## a small shop from raw files to recommendations (under 10 minutes once the packages are there)
	@echo; echo "Done. Where to look:"
	@echo "  $(DEMO_RUN)/report.html     learning curves, metrics against baselines, recommendations in pictures"
	@echo "  $(DEMO_RUN)/metrics.json    the same figures, for programs"
	@echo "  $(DEMO_RECS)    what every customer gets"
	@echo "  saved_models/demo, saved_models/demo_scann    the exported models (exact index; ScaNN)"

$(DEMO_DATA)/manifest.json: | $(VENV)/.installed
	$(PY) -m pipelines demo --out $(DEMO_DATA)

# Training ends with the evaluation: metrics.json and report.html.
$(DEMO_RUN)/.trained: $(DEMO_DATA)/manifest.json
	$(PY) -m tfrec.train --recipe demo --data $(DEMO_DATA) --out $(DEMO_RUN) $(if $(wildcard $(DEMO_RUN)/config.yaml),--resume)
	@touch $@

$(DEMO_RUN)/.exported: $(DEMO_RUN)/.trained
	$(PY) -m tfrec.export --run $(DEMO_RUN) --name demo
	@touch $@

$(DEMO_RECS): $(DEMO_RUN)/.exported
	$(PY) -m tfrec.retrieve --model saved_models/demo_scann --data $(DEMO_DATA) --k 12 --out $@

# ---- checks ----------------------------------------------------------------------------------------------------

PYTEST := $(PY) -m pytest -ra -n 3 --dist loadfile --no-loadscope-reorder --durations=25

# mypy, of one process, runs beside the tests' start.
test: lint ## lint, types and every test but the long ones (a quarter of an hour)
	@$(MAKE) --no-print-directory types & types=$$!; \
	$(PYTEST) -m "not long" $(PYTEST_ARGS) || failed=tests; \
	wait $$types || failed="$${failed:-} types"; \
	[ -z "$${failed:-}" ] || { echo "failed: $$failed" >&2; exit 1; }

test-long: $(VENV)/.installed-dev ## the long tests: from raw files to an answer, killed workers, the notebook, a C++ server
	$(PYTEST) -m long $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(VENV)/.installed-dev ## mypy
	$(PY) -m mypy

bench: $(VENV)/.installed-dev $(DEMO_RECS) ## the benchmarks' tables (all: hours); some: make bench BENCH="photos index"; the demo first
	@failed=""; for name in $(BENCH); do \
	  figures=benchmarks/figures/$$name.json; \
	  echo "== $$name"; $(PY) -m benchmarks.$$name $$([ ! -f $$figures ] || echo --json $$figures) || failed="$$failed $$name"; \
	done; [ -z "$$failed" ] || { echo "missed a criterion or failed:$$failed" >&2; exit 1; }

# ---- upkeep ----------------------------------------------------------------------------------------------------

COMPILE = $(VENV)-lock/bin/pip-compile --quiet --strip-extras --allow-unsafe --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host

lock: | $(VENV)/.created ## write both requirements*.txt again from the *.in files (pip-compile)
	$(PY) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet pip-tools==7.6.2
	$(COMPILE) --output-file=requirements.txt requirements.in
	$(COMPILE) --output-file=requirements-dev.txt requirements-dev.in
	sed -i -E 's/\+cpu$$//' requirements-dev.txt # torch: the platform's own build of that version
	sed -i '1i # The full lock of requirements.in, Python 3.11, made by `make lock` (pip-compile). Do not edit.' requirements.txt
	sed -i '1i # The full lock of requirements-dev.in, Python 3.11, made by `make lock` (pip-compile). Do not edit.' requirements-dev.txt

clean-demo: ## remove the demo's data, run and models
	rm -rf $(DEMO_DATA) $(DEMO_RUN) saved_models/demo saved_models/demo_scann

clean: clean-demo ## remove that, the environment and every cache
	rm -rf $(VENV) $(VENV)-lock build *.egg-info .ruff_cache .mypy_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
