# segkd: every task by one name. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help

PROFILE ?= quick
DATASET ?= scenes
SEEDS ?=
METHODS ?=
TABLES ?=
DEVICES ?=
TEACHER ?=
OUT ?=
EXECUTOR ?=
RESOURCES ?=
DATA ?=
STUDENT ?=
METHOD ?= cwd
MINUTES ?= 30
UNLABELLED ?= 0
PYTHON ?=
PIP_FLAGS ?=
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.segkd-stamp
CHOICE = --profile "$(PROFILE)" --dataset "$(DATASET)" $(if $(SEEDS),--seeds "$(SEEDS)") \
  $(if $(METHODS),--methods "$(METHODS)") $(if $(TABLES),--tables "$(TABLES)") $(if $(TEACHER),--teacher "$(TEACHER)")
STUDY = $(CHOICE) $(if $(DEVICES),--devices "$(DEVICES)") $(if $(EXECUTOR),--executor "$(EXECUTOR)") $(if $(RESOURCES),--resources "$(RESOURCES)")

.PHONY: help env test test-all reproduce distill lab data report bench gpu-check gpu-study clean

help:  ## this list
	@echo "Usage: make TARGET [PROFILE=quick] [DATASET=scenes] [SEEDS=3] [METHODS=cwd,hwd] [TABLES=main] [DEVICES=cpu,cpu] [TEACHER=network:file]"
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-12s %s\n", $$1, $$2 }'
	@echo "env takes PYTHON=python3.12 and PIP_FLAGS=... (for example an index of CPU-only wheels)."

env: $(STAMP)  ## create .venv with the exact tested packages (once; instant afterwards)

$(STAMP): pyproject.toml constraints.txt
	@if [ ! -x $(BIN)/python ]; then \
	  for python in $(or $(PYTHON),python3.12 python3.11 python3); do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$${found:-}" ]; then \
	    echo "segkd needs Python 3.11 or newer; none of: $(or $(PYTHON),python3.12 python3.11 python3). Try make env PYTHON=/path/to/python3.12" >&2; exit 1; \
	  fi; \
	  echo "installing into $(VENV) with $$($$found --version): about 3 GB to download, 6 GB on disk, 2 to 5 minutes"; \
	  "$$found" -m venv $(VENV); \
	fi
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e ".[all]"
	@touch $@

test: env  ## the fast tests (what CI runs)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow"

test-all: env  ## all tests, the slow ones too; the log is tests/last-test-all.log
	@set -o pipefail; OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder 2>&1 | tee tests/last-test-all.log

reproduce: env  ## train what is missing, run the notebooks, write reports/PROFILE-DATASET/index.html
	@$(BIN)/segkd reproduce $(STUDY)

distill: env  ## from DATA=folder of images and masks to a page and an ONNX file in MINUTES=30; STUDENT, TEACHER, METHOD, UNLABELLED as you like
	@$(BIN)/segkd distill --data "$(DATA)" --student "$(STUDENT)" --teacher "$(TEACHER)" --method "$(METHOD)" --minutes "$(MINUTES)" --unlabelled "$(UNLABELLED)"

report: env  ## make the pages of the runs and committed results that are here; trains nothing
	@$(BIN)/segkd report $(CHOICE)

lab: env  ## open JupyterLab on the tour, with all notebooks beside it
	@$(BIN)/jupyter lab notebooks/00_tour.ipynb

data: env  ## get DATASET where that is allowed, check it and pack it; DATASET= lists all
	@$(BIN)/segkd data $(if $(DATASET),"$(DATASET)")

bench: env  ## run the benchmarks
	@for name in losses step data pack; do echo "== $$name"; $(BIN)/python "benchmarks/$$name.py"; done

gpu-check: env  ## on one GPU, in at most 13 minutes: its tests, then the speed targets, written as they are measured
	@$(BIN)/python benchmarks/gpu.py --tests

gpu-study: env  ## MINUTES=12 OUT=folder: train the next runs of PROFILE=gpu DATASET=camvid on one GPU; goes on from OUT, here or elsewhere
	@$(if $(OUT),,$(error OUT is the folder that the session leaves: make gpu-study OUT=folder))$(BIN)/segkd session --minutes $(if $(filter file,$(origin MINUTES)),12,"$(MINUTES)") --out "$(OUT)" --profile $(if $(filter file,$(origin PROFILE)),gpu,"$(PROFILE)") \
	 --dataset $(if $(filter file,$(origin DATASET)),camvid,"$(DATASET)") $(if $(DEVICES),--device "$(DEVICES)")

clean:  ## delete caches and rendered pages; never runs/ nor data/
	@rm -rf .pytest_cache .hypothesis build *.egg-info reports/*/pages
	@git clean -qfdX reports 2>/dev/null || true  # rendered pages that are not committed
	@find segkd tests benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} +
	@find notebooks -name .ipynb_checkpoints -prune -exec rm -rf {} +
