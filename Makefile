# Each target makes the .venv that it needs, and makes it again only when requirements.lock changes.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
# What `make test` leaves out; `make test-all` leaves out nothing.
QUICK := and not slow
# One thread in each of the parallel workers; nothing is bought by more at these sizes.
export OMP_NUM_THREADS ?= 1
# The cell outputs and Sphinx's messages must not depend on the reader's locale.
export PYTHONUTF8 := 1

.NOTPARALLEL:
.PHONY: help book pdf test test-all lint serve clean lock environment execute html library pages
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' Makefile

environment:
	@$(PYTHON) tools/environment.py

book: environment execute html ## build the pages into _build/html; only chapters without a stored execution run
	@echo "The book: $(CURDIR)/_build/html/index.html"

execute:
	@$(BIN)/python tools/execute.py

# Programs are called through .venv's Python, so that a folder that was moved still works.
html:
	@echo "Writing the pages: about a minute."
	@rm -rf _build/html
	$(BIN)/python $(BIN)/jupyter-book build . -W --keep-going --all --quiet

pdf: environment execute ## print the whole book into _build/sobolev-training.pdf; needs Chromium or Chrome, no TeX
	@$(BIN)/python tools/pdf.py

test: environment lint library html pages ## style, types, library, chapters, pages in a browser: what a change has to pass

test-all: QUICK :=
test-all: test ## the same with the long tests: before a release, and once a week

lint: environment ## style, types, and no outputs in the notebooks' sources
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/python -m nbstripout --verify --keep-id book/*.ipynb

# worksteal: the chapters come first, and would all fall to one worker
library: # every chapter executed once and stored for the pages, and the tests of the library
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not page $(QUICK)" --nbmake book tests

pages: # the tests of the built pages
	$(BIN)/python -m pytest -n $(WORKERS) -m "page $(QUICK)" tests

serve: book ## build, then serve the pages on this machine
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html 8000

lock: environment ## resolve the pins anew from pyproject.toml
	$(BIN)/python tools/lock.py

clean: ## remove what was built, executed and measured, but not .venv
	rm -rf _build out build .pytest_cache .ruff_cache .mypy_cache .coverage .coverage.*
	find sobolev_lib tests tools book -name __pycache__ -type d -prune -exec rm -rf {} +
