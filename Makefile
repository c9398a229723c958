# Every target works on a fresh machine with Python 3.11 or newer; all of it lives in .venv.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
.DEFAULT_GOAL := help

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.done ## Build .venv with the programs producer, worker and training in .venv/bin

$(VENV)/.done: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: setup ## Caption ten freely licensed photographs: the main job, offline, in a temporary folder
	@$(BIN)/python scripts/demo.py

test: setup ## Run all tests, against real servers that they start themselves
	$(BIN)/python -m pytest

lint: setup ## ruff, mypy --strict, import-linter, and the compose file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint -s docker-compose.yml

bench: setup ## Measure the whole embedded job: make bench PICTURES=folder
	$(BIN)/python benchmarks/embedded_job.py $(PICTURES)

migration: setup ## Write a migration from what changed in captioning/store/schema.py: make migration M='add x'
	$(BIN)/python scripts/new_migration.py '$(M)'

wheel: setup ## Build the wheel into dist/
	$(BIN)/pip wheel --quiet --no-deps -w dist .

clean: ## Remove everything that the other targets made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help setup demo test lint bench migration wheel clean
