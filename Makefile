# Every target is one line around the command `fsar-cache`; `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
FSAR := $(BIN)/fsar-cache
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo synth extract train eval run report bench test clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | awk -F '\t' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: $(READY)  ## make .venv and install the package with the tested versions
	@echo "setup: done; nothing to do until pyproject.toml or constraints.txt change"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V)"; \
	  echo "hint: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.11"; exit 2; } >&2
	@echo "setup: installing into .venv (the first time takes a few minutes and about 7 GB, most of it torch)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

demo: $(READY)  ## from nothing to a report: synthetic videos, features, training, accuracy
	@$(FSAR) run --recipe demo

synth: $(READY)  ## render the synthetic videos
	@$(FSAR) synth

extract: $(READY)  ## DATASET=ssv2 [VIDEOS=..] [MISSING=skip] [BACKBONE=..] [CUT=..] [WEIGHTS=..] [KIND=flow|flow-features|text] [PART=1/4] [RECIPE=..]: store features
	@$(FSAR) extract $(call need,DATASET) $(if $(RECIPE),--recipe $(RECIPE)) $(if $(BACKBONE),--backbone $(BACKBONE)) $(if $(CUT),--cut $(CUT)) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(if $(KIND),--kind $(KIND)) $(if $(PART),--part $(PART)) $(skip) $(videos)

train: $(READY)  ## HEAD=gslta or RECIPE=demo [PROTOCOL=ssv2-full-5shot] [RUN=name] [VIDEOS=..]: train on episodes of cached features
	@$(FSAR) train $(if $(RECIPE),--recipe $(RECIPE),--head $(call need,HEAD)) $(protocol) $(if $(RUN),--run $(RUN)) $(videos)

eval: $(READY)  ## TARGET=rareact or PROTOCOL=gslta-rareact [RUN=name] [VIDEOS=..]: accuracy of the newest run
	@$(FSAR) eval $(if $(PROTOCOL),$(if $(TARGET),--target $(TARGET)),--target $(call need,TARGET)) $(protocol) $(if $(RUN),--run $(RUN)) $(videos)

run: $(READY)  ## RECIPE=otam [PROTOCOL=..] [RUN=name] [MISSING=skip] [VIDEOS=..]: videos, features, training, evaluation, report
	@$(FSAR) run --recipe $(call need,RECIPE) $(protocol) $(if $(RUN),--run $(RUN)) $(skip) $(videos)

report: $(READY)  ## [RUN=name]: write the report page of a run again
	@$(FSAR) report $(RUN)

bench: $(READY)  ## measure speed ratios on this machine; figures go to bench/results
	@$(BIN)/python bench/run.py

test: $(READY)  ## lint, types, import layers and the whole test suite
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist loadfile

clean:  ## remove what tools left behind; videos, stores, runs and .venv stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

videos = $(if $(VIDEOS),--videos $(VIDEOS))
protocol = $(if $(PROTOCOL),--protocol $(PROTOCOL))
skip = $(if $(MISSING),$(if $(filter skip,$(MISSING)),--skip-missing,$(error MISSING=$(MISSING) means nothing; for example: make $@ MISSING=skip)))
need = $(or $($(1)),$(error $(1) is missing; for example: make $@ $(1)=$(EXAMPLE_$(1))))
EXAMPLE_DATASET := synth
EXAMPLE_HEAD := gslta
EXAMPLE_TARGET := synth-target
EXAMPLE_RECIPE := demo
