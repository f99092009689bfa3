# Every verb works in a fresh checkout: those that need the environment make it first.

# What you may choose, as in `make test T=tests/unit`:
#   PYTHON          the Python 3.11 that makes .venv; else python3.11 or python3 on PATH
#   TORCH_PIP_ARGS  pip options that choose the build of torch; setup remembers them
#   ML100K_DIR      a folder that holds ml-100k.{inter,user,item}; else they are fetched
#   T               the tests to run
#   FAULTS_SEED     moments that faults strike at again
TORCH_PIP_ARGS ?= $(shell cat $(READY) 2>/dev/null)
T ?= tests nfm
PY := .venv/bin/python
# Written last by setup.sh; holds the TORCH_PIP_ARGS it was given.
READY := .venv/.ready
PACKAGES := conf feature_eng jobs nfm

.DEFAULT_GOAL := help
.PHONY: help setup doctor data demo test test-airflow faults lint bench bench-train bench-stream bench-features bench-score bench-preset reproduce docs dist dist-zip dist-env clean FORCE

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@sed -n 's/^# \(What you may choose\)/\n\1/p; s/^#   /       /p' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv: first time 5-10 minutes, most of it building Horovod; then no time

$(READY): requirements.lock pyproject.toml tools/setup.sh tools/horovod_wheel.sh
	@PYTHON='$(PYTHON)' TORCH_PIP_ARGS='$(TORCH_PIP_ARGS)' tools/setup.sh

# Another choice of torch is a reason to set up again.
ifneq ($(strip $(TORCH_PIP_ARGS)),$(strip $(shell cat $(READY) 2>/dev/null)))
$(READY): FORCE
endif

doctor: ## Say what is installed, what is wrong and how to mend it
	@test -x $(PY) || { echo "doctor: there is no .venv yet; run: make setup"; exit 1; }
	@$(PY) tools/doctor.py

data: $(READY) ## Fetch MovieLens-100K into build/demo/raw
	$(PY) -m benchmarks.movielens100k --out build/demo/raw $(if $(ML100K_DIR),--from '$(ML100K_DIR)')

demo: data ## Run the whole pipeline on MovieLens-100K: features, training, scores in build/demo
	$(PY) -m jobs.pipeline --config conf/movielens100k.yaml --ds 1998-04-23 --overwrite

test: $(READY) ## Run the tests, in two processes
	$(PY) -m pytest -q --durations=10 -n 2 --dist loadfile --no-loadscope-reorder $(T)

test-airflow: data ## Run nights of the Airflow DAG on MovieLens-100K, in .venv-airflow: 15 minutes
	@tools/airflow.sh
	$(PY) -m pytest -q tests/airflow

faults: $(READY) ## Kill workers and launchers, fill disks, cut networks: 25 minutes, some as root only
	tools/faults.sh

lint: $(READY) ## Check style (ruff), types (mypy) and who imports whom (import-linter)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) .venv/bin/lint-imports --no-logo

reproduce: data ## Compare lr, fm, fnn, wide_deep, deep_cross and nfm on MovieLens-100K: 3 hours; writes docs/results.md
	@TORCH_PIP_ARGS='$(TORCH_PIP_ARGS)' tools/peers.sh
	$(PY) -m benchmarks.reproduce --docs docs/results.md

bench-preset: $(READY) ## Train nfm_strong, and what is near it, on two generated tables: 2 hours
	$(PY) -m benchmarks.usage --out build/preset/raw
	$(PY) -m benchmarks.preset

bench: bench-train bench-stream bench-features bench-score ## All benchmarks

bench-stream: $(READY) ## Measure the stream of batches, speed and memory: 1 minute; writes build/bench/stream.json
	$(PY) -m benchmarks.stream --docs docs/performance.md

bench-features: data ## Measure the features beside Spark MLlib: 20 minutes; writes build/bench/features.json
	$(PY) -m benchmarks.features --docs docs/performance.md

bench-score: $(READY) ## Measure scoring beside torch, predict_batch_udf and MLlib: 10 minutes; writes build/bench/score.json
	$(PY) -m benchmarks.scores --docs docs/performance.md

bench-train: $(READY) ## Measure training beside other libraries: 20 minutes; writes build/bench/train.json
	@TORCH_PIP_ARGS='$(TORCH_PIP_ARGS)' tools/peers.sh
	$(PY) -m benchmarks.train --docs docs/performance.md

docs: $(READY) ## Write conf/schema.json and docs/config.md from the config classes
	$(PY) -m conf.schema > conf/schema.json
	$(PY) -m conf.schema --markdown > docs/config.md

dist: dist-zip dist-env ## Pack both files a cluster needs: dist-zip and dist-env

dist-zip: $(READY) ## Pack our code for spark-submit --py-files: seconds
	$(PY) -m tools.dist_zip

# The archive links to this machine's Python 3.11: nodes need one at the same path, or give
# VENV_PACK_ARGS='--python-prefix /usr'. It leaves Spark's jars out, since the cluster brings its own.
dist-env: $(READY) ## Pack .venv for spark-submit --archives: a minute, 600 MB
	mkdir -p dist
	$(PY) -m venv_pack --quiet --prefix .venv --exclude '*/pyspark/jars/*' \
	  --output dist/environment.tar.gz --force $(VENV_PACK_ARGS)

clean: ## Remove build/, dist/ and caches; .venv stays (to start anew: rm -rf .venv)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find $(PACKAGES) tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +
