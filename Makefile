# Every target works on a fresh machine with Python 3.11 or newer. Everything is installed into .venv.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
.DEFAULT_GOAL := help

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.done ## Install captionmill, its tools and the tested versions of its dependencies into .venv

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup ## Caption ten freely licensed photographs, offline, in a temporary folder
	@$(BIN)/python scripts/demo.py

test: setup ## Run the tests with real servers, which they start themselves (about 10 minutes on two cores)
	$(BIN)/python -m pytest -n 4 --dist worksteal

test-fast: setup ## Run the unit tests: no servers, no other processes (under a minute on two cores)
	$(BIN)/python -m pytest -n 2 --dist worksteal --fast

test-all: setup ## Run all tests, also the slow ones, with more generated examples (about 30 minutes)
	CAPTIONING_TEST_EXAMPLES=300 $(BIN)/python -m pytest -n 4 --dist worksteal --slow

faults: setup ## Run every fault scenario twice and write the table to docs/faults.md (about 30 minutes)
	$(BIN)/python -m pytest tests/faults tests/journeys/test_hostile_corpus.py --every-scenario --slow -n 4 \
	  --rounds 2 --table docs/faults.md

lint: setup ## Run ruff, mypy --strict, import-linter and yamllint, and check the generated pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint -s docker-compose.yml .github .pre-commit-config.yaml
	$(BIN)/python -m scripts.reference --check

docs: setup ## Generate the reference pages: command lines, settings, schema
	$(BIN)/python -m scripts.reference

run-svg: setup ## Draw the image in the README from a real run
	$(BIN)/python -m scripts.render_run

constraints: ## Resolve the newest versions of all dependencies and write constraints.txt
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	{ sed -n '/^#/p' constraints.txt; $(BIN)/pip freeze --exclude-editable; } > constraints.new
	mv constraints.new constraints.txt
	@touch $(VENV)/.done

audit: setup ## Check the installed packages for known vulnerabilities (needs the internet; not part of CI)
	$(PYTHON) -m venv .audit
	.audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	.audit/bin/pip-audit --vulnerability-service osv --skip-editable \
	  --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

secrets: ## Write random passwords for docker-compose.yml into secrets/; existing ones stay
	@mkdir -p -m 700 secrets
	@for name in redis postgres flower; do \
	  test -s secrets/$$name || { test $$name = flower && printf flower:; \
	    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; } > secrets/$$name && chmod 444 secrets/$$name; done
	@ls secrets

TRAIN = $(BIN)/training train $(foreach data,$(DATA),--data $(data)) --cache $(RUNS)/cache --resume --cell lstm,gru --patience 0
bundles: setup ## Rebuild the built-in models in RUNS/bundles: make bundles DATA='flickr8k coco=2' ENCODER= RUNS=
	@test -n "$(DATA)" -a -n "$(ENCODER)" -a -n "$(RUNS)" || { echo "usage: make bundles DATA='flickr8k coco=2' ENCODER=resnet50.safetensors STRIDE=3x3 ORIGIN='source of the weights' RUNS=runs [CLASSIFIER=fc.safetensors] [NAMING=folder]"; exit 2; }
	$(TRAIN) --encoder $(ENCODER) $(if $(STRIDE),--stride $(STRIDE)) $(if $(ORIGIN),--origin "$(ORIGIN)") --run $(RUNS)/model \
	  $(if $(CLASSIFIER),--classifier $(CLASSIFIER) --set classifier_weight=0.3) --set min_count=3 --set keep_last=true \
	  --epochs 12 --learning-rate 1.5e-3 --set warmup_steps=100 --set ema_decay=0.995 \
	  --tune-encoder 1e-4 --tune-from layer2 --set encoder_freeze_epochs=1 --set train_size=192 --set val_limit=400 \
	  --scst-epochs 12 --set scst_learning_rate=1e-4 --set scst_encoder_learning_rate=3e-5 --set scst_dropout=0.5 \
	  --set temperature=0.5 --set repeat_penalty=0.1
	for cell in lstm gru; do $(BIN)/training export --run $(RUNS)/model --encoder $(RUNS)/model --cell $$cell --name $$cell \
	  -o $(RUNS)/bundles $(foreach data,$(DATA),--data $(data)) $(if $(NAMING),--naming $(NAMING)) --cache $(RUNS)/cache \
	  || exit 1; done

compare: setup ## Compare LSTM and GRU again (an hour): make compare DATA= ENCODER= RUNS=
	@test -n "$(DATA)" -a -n "$(ENCODER)" -a -n "$(RUNS)" || { echo 'usage: make compare DATA=flickr8k ENCODER=lstm RUNS=runs'; exit 2; }
	$(BIN)/training compare --data $(DATA) --encoder $(ENCODER) --cache $(RUNS)/cache --run $(RUNS)/compare --jobs 2

bench: setup ## Measure a whole embedded job: make bench IMAGES=folder
	$(BIN)/python benchmarks/embedded_job.py $(IMAGES)

scale: setup ## Caption a million tiny images with a stub model on each database: make scale OUT=docs/scale
	for store in postgresql sqlite; do $(BIN)/python -m benchmarks.scale --items $(or $(ITEMS),1000000) --store $$store \
	  --jobs 2 --high --kill-every 60 --out $(or $(OUT),docs/scale) || exit 1; done
	$(BIN)/python -m benchmarks.scale_plots $(or $(OUT),docs/scale)

migration: setup ## Write a migration from the changes in captioning/store/schema.py: make migration M='add x'
	$(BIN)/python scripts/new_migration.py '$(M)'

wheel: setup ## Build the wheel into dist/
	$(BIN)/pip wheel --quiet --no-deps -w dist .

clean: ## Remove everything that the other targets created
	rm -rf $(VENV) .audit build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help setup demo test test-fast test-all faults lint docs run-svg constraints audit secrets bundles compare bench \
  scale migration wheel clean
