# A newcomer needs `make demo` and `make test`; `make` alone lists the rest.
.DEFAULT_GOAL := help
.ONESHELL:
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3.11
UV := 0.13.9
BIN := .venv/bin
READY := .venv/.ready

# Four programs start at once and each imports Dagster: without compiled files that is minutes on a small machine.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo demo-fhir test up down lint drill bench lock

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 11

demo: $(READY) ## See real DICOM files arrive, go through HealthImaging and come out as rows; leaves nothing running
	@$(BIN)/python -m dagster_project.demo

demo-fhir: $(READY) ## The same for HealthLake: FHIR of synthetic patients and of the DICOM samples, imported and searched
	@$(BIN)/python -m dagster_project.demo_fhir

# A file stays on one worker, with what its tests share; one worker more than cores, as tests also wait.
test: lint ## All checks and tests
	$(BIN)/pytest -q -n $$(( $$(nproc) + 1 )) --dist loadfile -m "not drill"

up: $(READY) ## Start everything in the background, Dagster UI on 127.0.0.1:3000 (AHI_HOME, AHI_UI_PORT, AHI_AWS_PORT)
	@$(BIN)/python -m dagster_project.stack up

down: $(READY) ## Stop what `make up` started, and nothing else
	@$(BIN)/python -m dagster_project.stack down

lint: $(READY) ## Lint, format, types, import direction, definitions
	@$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy & types=$$!
	$(BIN)/lint-imports
	# An instance of its own: the check must neither find nor leave one.
	home=$$(mktemp -d)
	cp dagster.yaml $$home
	DAGSTER_HOME=$$home AHI_DAGSTER_EVENTS=$$home/events $(BIN)/dagster definitions validate -w workspace.yaml --log-level warning
	rm -r $$home
	wait $$types

drill: $(READY) ## Minutes long: runs and the daemon killed at work; a corpus against its manifest (AHI_DICOM_CORPUS)
	AHI_DRILL_OBJECTS=$${AHI_DRILL_OBJECTS:-20000} $(BIN)/pytest -q -m drill

bench: $(READY) ## What a run costs, and how fresh the index is
	for bench in benchmarks/bench_*.py; do echo "== $$bench"; $(BIN)/python $$bench; done

lock: $(READY) ## Resolve the dependencies of pyproject.toml anew into requirements.lock
	$(BIN)/uv pip compile pyproject.toml --group local --group dev --generate-hashes --no-emit-index-url -q \
		--python-version 3.11 -o requirements.lock

# Redone when what is locked changes.
$(READY): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV)
	VIRTUAL_ENV=.venv $(BIN)/uv pip sync --quiet requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps -e .
	touch $@
