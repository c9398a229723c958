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

test: setup ## Run the tests, against real servers that they start themselves: eleven to thirteen minutes on two cores
	$(BIN)/python -m pytest -n 3 --dist worksteal

test-all: setup ## Run these and the slow ones, and look longer for what breaks the store: half an hour
	CAPTIONING_TEST_EXAMPLES=300 $(BIN)/python -m pytest -n 3 --dist worksteal --slow

faults: setup ## Break everything that can break, each cell twice, and write the table to docs/faults.md: half an hour
	$(BIN)/python -m pytest tests/faults tests/journeys/test_hostile_corpus.py --every-cell --slow -n 3 \
	  --rounds 2 --table docs/faults.md

lint: setup ## ruff, mypy --strict, import-linter, and the compose file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint -s docker-compose.yml

audit: setup ## Ask osv.dev for known weaknesses of what is installed; not a part of CI, it needs the internet
	$(PYTHON) -m venv .audit
	.audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	.audit/bin/pip-audit --vulnerability-service osv --skip-editable \
	  --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

secrets: ## Write random passwords for docker-compose.yml into secrets/; those that are there stay
	@mkdir -p -m 700 secrets
	@for name in redis postgres flower; do \
	  test -s secrets/$$name || { test $$name = flower && printf flower:; \
	    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; } > secrets/$$name && chmod 444 secrets/$$name; done
	@ls secrets

bundles: setup ## Rebuild the shipped models in RUNS/bundles, an hour: make bundles DATA= ENCODER= RUNS=
	@test -n "$(DATA)" -a -n "$(ENCODER)" -a -n "$(RUNS)" || { echo 'make bundles DATA=flickr8k ENCODER=resnet50.safetensors STRIDE=1x1 ORIGIN="where it is from" RUNS=runs'; exit 2; }
	$(BIN)/training train --data $(DATA) --encoder $(ENCODER) $(if $(STRIDE),--stride $(STRIDE)) $(if $(ORIGIN),--origin '$(ORIGIN)') \
	  --cache $(RUNS)/cache --run $(RUNS)/shipped --resume --cell lstm,gru --patience 0 --set views=4 --set min_count=4 \
	  --epochs 12 --learning-rate 1.5e-3 --set warmup_steps=100 --tune-encoder 1e-4 --set encoder_freeze_epochs=1 \
	  --scst-epochs 6 --set scst_learning_rate=1e-4 --set scst_encoder_learning_rate=3e-5 --set temperature=0.5
	for cell in lstm gru; do $(BIN)/training export --run $(RUNS)/shipped --cell $$cell \
	  --name flickr8k-$$cell -o $(RUNS)/bundles --data $(DATA) --cache $(RUNS)/cache || exit 1; done

compare: setup ## Ask again which decoder is better, an hour: make compare DATA= ENCODER= RUNS=
	@test -n "$(DATA)" -a -n "$(ENCODER)" -a -n "$(RUNS)" || { echo 'make compare DATA=flickr8k ENCODER=flickr8k-lstm RUNS=runs'; exit 2; }
	$(BIN)/training compare --data $(DATA) --encoder $(ENCODER) --cache $(RUNS)/cache --run $(RUNS)/compare --jobs 2

bench: setup ## Measure the whole embedded job: make bench IMAGES=folder
	$(BIN)/python benchmarks/embedded_job.py $(IMAGES)

scale: setup ## Caption a million tiny images with a stub for the model, on each database: make scale OUT=docs/scale
	for store in postgresql sqlite; do $(BIN)/python -m benchmarks.scale --items $(or $(ITEMS),1000000) --store $$store \
	  --jobs 2 --high --kill-every 60 --out $(or $(OUT),docs/scale) || exit 1; done
	$(BIN)/python -m benchmarks.scale_plots $(or $(OUT),docs/scale)

migration: setup ## Write a migration from what changed in captioning/store/schema.py: make migration M='add x'
	$(BIN)/python scripts/new_migration.py '$(M)'

wheel: setup ## Build the wheel into dist/
	$(BIN)/pip wheel --quiet --no-deps -w dist .

clean: ## Remove everything that the other targets made
	rm -rf $(VENV) .audit build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help setup demo test test-all faults lint audit secrets bundles compare bench scale migration wheel clean
