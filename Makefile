# Every command of this repository; `make` alone lists them. GNU make and Python 3.11 or newer.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PORT ?= 8000
JOBS ?= 2
BOOK_MODE ?= light
export BOOK_MODE

PY := .venv/bin/python
INSTALLED := .venv/.installed
SOURCES := $(sort $(shell find book/src -name '*.md'))
NOTEBOOKS := $(SOURCES:book/src/%.md=book/%.ipynb)
EXECUTED := $(SOURCES:book/src/%.md=_build/executed-$(BOOK_MODE)/%.ipynb)
# Everything on the site that is not a chapter: pages, stylesheet, bibliography, pictures.
PAGES := _config.yml _toc.yml pyproject.toml $(shell find book -type f -not -path 'book/src/*' -not -name '*.ipynb' -not -name '*.tmp')
PACKAGE := build/package.sha256
SITE := _build/html/index.html
PDF := _build/pdf/spectral-theory-of-lora.pdf

.PHONY: help book site test notebooks import repoint bench serve clean wheel test-package test-notebooks test-colab explore check-pages pdf FORCE

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile

# --- The environment: installed once, again only when pyproject.toml or constraints.txt change. ------------------------

$(INSTALLED): pyproject.toml constraints.txt
	$(PY) -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv .venv
	rm -f $@
	$(PY) -m pip install --quiet -c constraints.txt -e ".[all]"
	touch $@

# The content of the package, not its dates: a checkout or a save without a change runs nothing again. The repository
# URL does not count: cells that follow from it are renewed without running a chapter.
$(PACKAGE): FORCE
	@mkdir -p $(@D)
	@find companion $(wildcard LICENSE* NOTICE) -type f -not -path '*/__pycache__/*' -print0 \
	  | LC_ALL=C sort -z | xargs -0 sha256sum > $@.new
	@sed '/^\[project.urls\]/,/^$$/d' pyproject.toml | sha256sum >> $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

# --- Chapters and site. ----------------------------------------------------------------------------------------------

# JOBS chapters at a time, one thread each, as in the tests.
_build/executed-$(BOOK_MODE)/%.ipynb: book/src/%.md jupytext.toml $(PACKAGE) $(INSTALLED)
	@OMP_NUM_THREADS=1 $(PY) -m companion.book.notebooks execute --to _build/executed-$(BOOK_MODE) $<

book: $(INSTALLED) ## run every chapter in light mode and build the site from the results
	@$(MAKE) --no-print-directory -j $(JOBS) $(EXECUTED)
	@$(MAKE) --no-print-directory _build/.site-book
	@echo "The book: $(CURDIR)/$(SITE)"

site: _build/.site-committed ## build the site from the notebooks as they are, running nothing
	@echo "The book: $(CURDIR)/$(SITE)"

# Both sites end in the same folder, so making one forgets the other. The pages are built in a copy of the book, so that
# `make book` leaves the notebooks in book/ alone.
_build/.site-book: CHAPTERS = _build/executed-$(BOOK_MODE)
_build/.site-book: $(EXECUTED)
_build/.site-committed: CHAPTERS = book
_build/.site-committed: $(NOTEBOOKS)
_build/.site-book _build/.site-committed: $(PAGES) $(PACKAGE) $(INSTALLED)
	@rm -rf _build/.site-* _build/book-src _build/html _build/.doctrees _build/pdf
	@mkdir -p _build/book-src
	@tar -cf - --exclude='*.ipynb' --exclude='book/src' _config.yml _toc.yml pyproject.toml book \
	  | tar -xf - -C _build/book-src
	@tar -cf - -C $(CHAPTERS) $(NOTEBOOKS:book/%=%) | tar -xf - -C _build/book-src/book
	@$(PY) -m companion.book.notebooks --book _build/book-src/book stamp
	@.venv/bin/jupyter-book build _build/book-src --path-output . -W -n --keep-going -q > _build/site.log 2>&1 \
	  || { cat _build/site.log; exit 1; }
	@touch $@

$(NOTEBOOKS):
	@test -f $@ || { echo "$@ is missing: run 'make notebooks'" >&2; exit 1; }

notebooks: $(INSTALLED) ## make book/*.ipynb, with outputs, from book/src/*.md
	@$(PY) -m companion.book.notebooks guard
	@$(MAKE) --silent --no-print-directory -j $(JOBS) $(EXECUTED)
	@$(PY) -m companion.book.notebooks build --executed _build/executed-$(BOOK_MODE)

import: $(INSTALLED) ## bring an edited notebook back to its source: make import NB=book/CHAPTER.ipynb
	@test -n "$(NB)" || { echo "name the notebook: make import NB=book/CHAPTER.ipynb" >&2; exit 1; }
	@$(PY) -m companion.book.notebooks import "$(NB)"

repoint: $(INSTALLED) ## point buttons and first cells at another repository: make repoint URL=https://github.com/OWNER/NAME
	@test -n "$(URL)" || { echo "name the repository: make repoint URL=https://github.com/OWNER/NAME" >&2; exit 1; }
	@$(PY) -m companion.book.repository set "$(URL)"
	@$(PY) -m companion.book.notebooks stamp
	@echo "Commit pyproject.toml and the notebooks, and set the tag that their first cells install."

# In Chromium, which is installed where that is possible. Without a site or a browser this fails: nothing is skipped.
check-pages: $(INSTALLED) ## look at every page of the built site: maths, links, light, dark, narrow, print, accessibility
	@$(PY) -m companion.book.browser
	@test -f $(PDF) || $(MAKE) --no-print-directory pdf
	$(PY) -m pytest tests/pages -q -n 2 --dist loadgroup -rs --durations=20

# A PDF belongs to one site: building the site anew removes it.
pdf: $(INSTALLED) ## print the built site as one PDF and link it from the landing page
	@test -f $(SITE) || $(MAKE) --no-print-directory book
	@$(PY) -m companion.book.printing --site _build/html --out $(PDF)

serve: ## show the built site on http://localhost:8000 (PORT=... for another port)
	@test -f $(SITE) || { echo "there is no site yet: run 'make book'" >&2; exit 1; }
	$(PYTHON) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

# --- Tests: of the package in this folder, then of the notebooks against the package as it would be installed. ---------

test: ## test the package, then run every notebook against the built package and compare its numbers
	@status=0; \
	$(MAKE) --no-print-directory test-package || status=1; \
	$(MAKE) --no-print-directory test-notebooks || status=1; \
	exit $$status

test-package: $(INSTALLED) build/quantised/.installed ## the first half of make test
	@status=0; export OMP_NUM_THREADS=1; \
	$(PY) -m pytest tests $(patsubst %,--ignore=tests/%,installed bench colab pages quantised) -n 2 --dist loadfile --durations=20 || status=1; \
	PYTHONPATH=build/quantised:tests $(PY) -m pytest tests/quantised -q || status=1; \
	exit $$status

# The gate draws the same examples every time; here they are new ones.
explore: $(INSTALLED) ## run the property tests on new random examples
	HYPOTHESIS_PROFILE=explore OMP_NUM_THREADS=1 $(PY) -m pytest tests -m hypothesis \
	  $(patsubst %,--ignore=tests/%,installed bench colab pages quantised) -n 2 --dist loadfile

# Libraries that pack weights lie beside the environment: only their own tests see them.
build/quantised/.installed: tests/quantised/requirements.txt $(INSTALLED)
	@rm -rf $(@D)
	$(PY) -m pip install --quiet --no-deps --target $(@D) -r $<
	@touch $@

build/.wheel: $(PACKAGE) $(INSTALLED)
	@rm -rf build/wheel build/wheel-site build/lib build/bdist.*
	@$(PY) -m build --wheel --no-isolation --outdir build/wheel . > build/wheel.log 2>&1 \
	  || { cat build/wheel.log; exit 1; }
	@$(PY) -m pip install --quiet --no-deps --no-index --target build/wheel-site build/wheel/*.whl
	@touch $@

wheel: build/.wheel ## build the package as one file that pip installs anywhere
	@ls $(CURDIR)/build/wheel/*.whl

NOTEBOOK_ENVIRONMENT := COMPANION_CHECKOUT="$(CURDIR)" PYTHONHASHSEED=0 BOOK_MODE=light HF_HUB_OFFLINE=1 \
  HF_HUB_DISABLE_PROGRESS_BARS=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
NBVAL := --nbval-lax --nbval-current-env --nbval-sanitize-with nbval_sanitize.cfg --nbval-cell-timeout 300 \
  -n 2 --dist loadscope

# The notebooks run in an empty folder and import the wheel; two kernels at a time, one thread each. What they gave is what
# `make book` would compute, so it is kept for it.
test-notebooks: build/.wheel ## the second half of make test
	@test -n "$(wildcard $(NOTEBOOKS))" || { echo "there are no notebooks in book/: run 'make notebooks'" >&2; exit 1; }
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	cp $(NOTEBOOKS) tests/installed/*.py tests/installed/nbval_sanitize.cfg "$$folder"; \
	(cd "$$folder"; export $(NOTEBOOK_ENVIRONMENT) KEPT_NOTEBOOKS="$$folder/kept" PYTHONPATH="$(CURDIR)/build/wheel-site"; \
	"$(CURDIR)/$(PY)" -m pytest . --rootdir . -p no:cacheprovider -p keep_notebooks $(NBVAL)); \
	BOOK_MODE=light OMP_NUM_THREADS=1 $(PY) -m companion.book.notebooks execute --executed "$$folder/kept" --to _build/executed-light > /dev/null

# Colab's versions in an environment of their own; the package gets there as it does on Colab, by the first cell.
.venv-colab/.installed: tests/colab/requirements.txt
	$(PYTHON) -m venv .venv-colab
	rm -f $@
	.venv-colab/bin/python -m pip install --quiet -r $<
	touch $@

test-colab: build/.wheel .venv-colab/.installed ## run first cells and notebooks with the versions that Colab has
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	cp $(NOTEBOOKS) tests/colab/test_*.py tests/installed/nbval_sanitize.cfg "$$folder"; \
	cd "$$folder"; export $(NOTEBOOK_ENVIRONMENT) COMPANION_PYTHON="$(CURDIR)/$(PY)"; \
	pytest="$(CURDIR)/.venv-colab/bin/python -m pytest --rootdir . -p no:cacheprovider"; \
	$$pytest -q test_first_cell.py; \
	$$pytest $(NBVAL) ./*.ipynb

bench: $(INSTALLED) ## measure the speed of the package
	$(PY) tests/bench/bench.py
	$(PY) tests/bench/bench_gradient_flow.py
	OMP_NUM_THREADS=1 $(PY) tests/bench/bench_tucker_lora.py

clean: ## remove what was built (not the environment)
	rm -rf _build build dist ./*.egg-info .pytest_cache .hypothesis
	find companion tests -name __pycache__ -type d -prune -exec rm -rf {} +
