# Everything a checkout can do. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# One more than there are cores: tests that start servers wait as long as they work.
JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
STAMP := .venv/.installed
# Where it is set, as in many images, every process that a test starts would compile all that it imports once more.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo check test test-all lint format docs bench lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv with the exact pins of requirements.lock

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/starloom compile
	touch $(STAMP)

demo: install ## the whole pipeline on the packages of .venv: a trained, evaluated, traceable tiny model
	@$(BIN)/starloom run conf/demo.yaml

check: install ## what a developer runs after each change: the quickest tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not long and not slow"

test: install ## all tests but the longest, which repeat what shorter ones show on more and larger cases
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not long"

test-all: install ## all tests, on many more generated cases (nightly)
	STARLOOM_TESTS=all $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: install ## ruff, types, floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## let ruff format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install ## write the pages that follow from the code, and paste in what the commands of the others print (minutes)
	$(BIN)/python -m docs.reference
	$(BIN)/python -m docs.transcripts

bench: install ## list the benches; `python -m starloom.bench NAME` runs one
	$(BIN)/python -m starloom.bench --list

lock: install ## write requirements.lock from what .venv holds
	$(BIN)/python -m pip freeze --all --exclude pip --exclude starloom --exclude-editable | sed 's/+cpu$$//' > requirements.lock

clean: ## remove .venv, caches and the demo's store
	rm -rf .venv conf/.starloom .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
