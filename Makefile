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

test-consumers: setup ## Read every export back with the program it is for: apt-get install libreoffice-calc libimage-exiftool-perl chromium
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,consumers]'
	$(BIN)/python -m pytest --consumers tests/consumers

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

docs: setup ## Generate the reference pages: command lines, settings, schema; the schema of new SQLite files
	$(BIN)/python -m scripts.reference
	$(BIN)/python -m scripts.new_sqlite

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

bench-gallery: setup ## Measure a gallery of 50,000 images in Chromium: apt-get install chromium
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,consumers]'
	$(BIN)/python -m benchmarks.gallery

screenshots: setup ## Take the screenshots of the gallery and the review again: apt-get install chromium
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,consumers]'
	$(BIN)/python -m scripts.screenshots docs/images

secrets: ## Write random passwords for docker-compose.yml into secrets/; existing ones stay
	@mkdir -p -m 700 secrets
	@for name in redis postgres flower; do \
	  test -s secrets/$$name || { test $$name = flower && printf flower:; \
	    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; } > secrets/$$name && chmod 444 secrets/$$name; done
	@ls secrets

TRAIN = $(BIN)/training train $(foreach data,$(DATA),--data $(data)) --cache $(RUNS)/cache --resume --cell lstm,gru --patience 0 \
  --classifier $(CLASSIFIER) --set keep_last=true --set ema_decay=0.995
REWARDS = --set scst_learning_rate=1e-4 --set temperature=0.5 --set repeat_penalty=0.1
bundles: setup ## Rebuild the built-in models in RUNS/bundles: make bundles DATA='flickr8k coco=2' ENCODER= CLASSIFIER= TEXT= RUNS=
	@test -n "$(DATA)" -a -n "$(ENCODER)" -a -n "$(CLASSIFIER)" -a -n "$(TEXT)" -a -n "$(RUNS)" || { echo "usage: make bundles DATA='flickr8k coco=2' ENCODER=resnet50.safetensors STRIDE=3x3 ORIGIN='source of the weights' CLASSIFIER=fc.safetensors TEXT='captions.txt more.txt.gz' RUNS=runs [NAMING=folder]"; exit 2; }
	$(TRAIN) --encoder $(ENCODER) $(if $(STRIDE),--stride $(STRIDE)) $(if $(ORIGIN),--origin "$(ORIGIN)") --run $(RUNS)/encoder \
	  --set classifier_weight=0.3 --set min_count=3 --epochs 12 --learning-rate 1.5e-3 --set warmup_steps=100 \
	  --tune-encoder 1e-4 --tune-from layer2 --set encoder_freeze_epochs=1 --set train_size=192 --set val_limit=400 \
	  --scst-epochs 12 $(REWARDS) --set scst_encoder_learning_rate=3e-5 --set scst_dropout=0.5
	$(TRAIN) --encoder $(RUNS)/encoder --start $(RUNS)/encoder --run $(RUNS)/concepts --concepts 6 --set new_words=true \
	  $(foreach text,$(TEXT),--text $(text)) --set min_count=12 --set views=1 --epochs 6 --set warmup_steps=100 \
	  --set captions_per_image=2 --set text_captions=256 --set text_weight=0.5 --set swapped=0.15 --set val_limit=300
	$(TRAIN) --encoder $(RUNS)/encoder --start $(RUNS)/concepts --run $(RUNS)/rewards --concepts 6 --epochs 0 --scst-epochs 3 \
	  $(REWARDS) --set views=1 --set scst_dropout=1.0 --set invention_penalty=0.3 --set val_limit=300
	for cell in lstm gru; do $(BIN)/training export --run $(RUNS)/rewards --encoder $(RUNS)/encoder --cell $$cell --name $$cell \
	  -o $(RUNS)/bundles $(foreach data,$(DATA),--data $(data)) $(if $(NAMING),--naming $(NAMING)) --cache $(RUNS)/cache \
	  --neutral-gender 0.8 --demand 0.6 --absent 0.2 || exit 1; done

compare: setup ## Compare LSTM and GRU again (an hour): make compare DATA= ENCODER= RUNS=
	@test -n "$(DATA)" -a -n "$(ENCODER)" -a -n "$(RUNS)" || { echo 'usage: make compare DATA=flickr8k ENCODER=lstm RUNS=runs'; exit 2; }
	$(BIN)/training compare --data $(DATA) --encoder $(ENCODER) --cache $(RUNS)/cache --run $(RUNS)/compare --jobs 2

bench: setup ## Measure a whole embedded job: make bench IMAGES=folder
	$(BIN)/python benchmarks/embedded_job.py $(IMAGES)

bench-compare: setup ## Compare with other ways to caption a folder, table and plot into OUT: make bench-compare IMAGES=folder
	@test -n "$(IMAGES)" || { echo "usage: make bench-compare IMAGES=folder [OUT=docs/speed] [ARGUMENTS='--base producer']"; exit 2; }
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks.compare $(IMAGES) --out $(or $(OUT),docs/speed) $(ARGUMENTS)

bench-start: setup ## Measure the start of an embedded job: make bench-start IMAGES=folder [BASE=other/.venv/bin/producer]
	@test -n "$(IMAGES)" || { echo "usage: make bench-start IMAGES=folder"; exit 2; }
	$(BIN)/python -m benchmarks.start_up $(IMAGES) $(if $(BASE),--base $(BASE))

bench-beam: setup ## Time the search of captions against the plain one: make bench-beam IMAGES=folder
	@test -n "$(IMAGES)" || { echo "usage: make bench-beam IMAGES=folder"; exit 2; }
	$(BIN)/python -m benchmarks.beam_search $(IMAGES)

bench-decode: setup ## Measure decoding: images a second, what each costs the worker, large images by stage (3 minutes)
	$(BIN)/python -m benchmarks.decode

bench-pipeline: setup ## Measure what the worker's Python costs an image, with a model and decoding that cost nothing
	$(BIN)/python -m benchmarks.pipeline

bench-exports: setup ## Measure exports: tables of a million rows, and the how-to pages with 20,000 images (20 minutes)
	$(BIN)/python -m benchmarks.exports rows
	$(BIN)/python -m benchmarks.exports pages

bench-store: setup ## Measure the database: registering, recording, and reading at a million rows (half an hour)
	$(BIN)/python -m benchmarks.store all

bench-duplicates: setup ## Measure how well near-duplicates are found: make bench-duplicates IMAGES=folder
	@test -n "$(IMAGES)" || { echo "usage: make bench-duplicates IMAGES='folder more'"; exit 2; }
	$(BIN)/python -m benchmarks.duplicates quality $(IMAGES)

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

.PHONY: help setup demo test test-fast test-all test-consumers faults lint docs run-svg constraints audit secrets bundles compare bench bench-compare bench-beam bench-store bench-decode bench-exports bench-gallery bench-duplicates screenshots bench-pipeline bench-start \
  scale migration wheel clean
