# `make demo` and `make test` do all the set-up themselves and are quick the second time.
PYTHON ?= python3
ATTEMPTS ?= 40
BIN := .venv/bin
ARK := $(BIN)/ark
DEMO := examples/kernel_tuning

# The tests start `ark` a thousand times: each would compile its modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint fix docs bench clean

# Forty attempts in all, however often it is called.
demo: .venv/installed
	@done=$$($(ARK) log $(DEMO) --tag demo --tsv 2>/dev/null | tail -n +3 | wc -l); \
	left=$$(( $(ATTEMPTS) - done )); \
	if [ $$left -gt 0 ]; then $(ARK) run $(DEMO) --tag demo --agent search --attempts $$left; \
	else $(ARK) status $(DEMO) --tag demo; fi
	@echo
	@echo "Where to look next:"
	@echo "  $(ARK) report $(DEMO) --tag demo     one page to look at: chart, changes, gains"
	@echo "  $(ARK) log $(DEMO) --tag demo        every attempt with its verdict"
	@echo "  git log autoresearch/demo                  what was kept, as a diary"
	@echo "  git show refs/ark/demo/0007                an idea, kept or not, with its record"
	@echo "  $(ARK) init my-project               a project of your own"

test: .venv/dev lint
	$(BIN)/pytest -m "" tests examples

lint: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

fix: .venv/dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: .venv/dev
	$(BIN)/python -m autoresearch_kit.views.reference
	for spec in examples/*/autoresearch-config.yaml; do $(ARK) render-program $$spec || exit 1; done

bench: .venv/dev
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/compare.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/watch.py

# The virtual environment: once without and once with what only developers need.
.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/dev: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
