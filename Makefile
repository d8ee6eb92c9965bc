# `make help` explains itself: the text behind ## is the help.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Where `rebirth caffe install` puts Caffe.
INSTALL_CAFFE := deeprebirth_caffe/engines/caffe/install_caffe.sh
CAFFE_PREFIX ?= $(or $(REBIRTH_CAFFE_PREFIX),$(or $(XDG_DATA_HOME),$(HOME)/.local/share)/rebirth/caffe)
JOBS ?= 2

.PHONY: help demo test test-quick test-kernels replay lint format caffe proto bench fuzz clean

help: ## show this text
	@echo "rebirth: DeepRebirth for Caffe. Targets:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 21
	@echo "Everything is set up on the way: a virtual environment in $(VENV), real Caffe in $(CAFFE_PREFIX)."

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

caffe: ## install real Caffe 1.0 for this user (no root needed; see docs/caffe.md)
	@$(INSTALL_CAFFE) "$(CAFFE_PREFIX)"

demo: $(STAMP) ## the whole method on digits, then the speed of GoogLeNet; in real Caffe where it can be had
	@$(INSTALL_CAFFE) "$(CAFFE_PREFIX)" || echo "make demo: going on without real Caffe" >&2
	@REBIRTH_CAFFE_PREFIX="$(CAFFE_PREFIX)" $(BIN)/python scripts/demo.py

test: $(STAMP) ## run all tests; those that need real Caffe are skipped, and counted, where it cannot be had
	@$(INSTALL_CAFFE) "$(CAFFE_PREFIX)" || echo "make test: going on without real Caffe" >&2
	@REBIRTH_CAFFE_PREFIX="$(CAFFE_PREFIX)" $(BIN)/python -m pytest -n $(JOBS) tests

test-quick: $(STAMP) ## each test once, with the first of its cases, and none that takes long (a minute or so)
	@$(BIN)/python -m pytest -n $(JOBS) --quick tests

test-kernels: $(STAMP) ## the tests that compare numbers, with each set of kernels that this processor can run
	@$(BIN)/python scripts/test_kernels.py -n $(JOBS)

replay: $(STAMP) ## compare what all commands write with what BASE's code writes: make replay BASE=main~1
	@$(BIN)/python scripts/replay.py $(BASE)

lint: $(STAMP) ## ruff, mypy --strict, the import rules, shell syntax
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	bash -n scripts/*.sh $(INSTALL_CAFFE) .ci/run

format: $(STAMP) ## let ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: ## regenerate deeprebirth_caffe/proto from proto/caffe.proto
	$(PYTHON) -m venv .build/proto
	.build/proto/bin/python -m pip install --quiet --disable-pip-version-check 'grpcio-tools==1.62.3' 'setuptools<81'
	.build/proto/bin/python -m grpc_tools.protoc -Ideeprebirth_caffe/proto=proto \
	    --python_out=. --pyi_out=. deeprebirth_caffe/proto/caffe.proto

bench: $(STAMP) ## start-up and conversion, by the size of the net (docs/architecture.md names the other benchmarks)
	@$(BIN)/python benchmarks/startup.py
	@$(BIN)/python benchmarks/scale.py --layers 500

FUZZED := prototxt caffemodel solver net hdf5 schedule log folder lmdb leveldb picture
fuzz: $(STAMP) ## fuzz everything that is read from a disk, 100,000 inputs of each kind (about an hour)
	@for target in $(FUZZED); do $(BIN)/python fuzz/run.py $$target --runs 100000 || exit 1; done

clean: ## remove what make made here (real Caffe stays)
	rm -rf $(VENV) .build build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis demo
