# `make` alone lists the targets. Each sets up what it needs by itself (tools/setup_env.sh).

SETUP := @tools/setup_env.sh
ifneq ($(PYTHON),)
# An environment of the user's own: this package is put on its path, not installed in it.
PY := "$(PYTHON)"
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
else
PY := .venv/bin/python
unexport PYTHONPATH PYTHONHOME
# What `make optional` has fetched, if it has.
OPTIONAL := PYTHONPATH=$(CURDIR)/.venv-optional
endif

.PHONY: help demo look test test-slow test-faults test-gpu test-soak test-browser optional test-official lint clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "The first of them builds .venv (Python 3.10 to 3.13); PYTHON=/path/to/python make … uses your environment instead."

# One thread in each of the demo's processes. The warnings are detectron2's, of its calls of PyTorch.
demo: look ## look, then make the digits' data, train on CPU, evaluate, draw the detections
	OMP_NUM_THREADS=1 $(PY) -W ignore demo/digits.py

look: ## find cell nuclei on six photographs with the trained detector, and see what it looks at
	$(SETUP) demo
	$(PY) -W ignore demo/look.py

# One thread in each worker: two workers with a pool of threads each would only get in each other's way.
test: lint ## lint, then all tests but the slow ones; with a GPU also those of it
	OMP_NUM_THREADS=1 $(OPTIONAL) $(PY) -m pytest -n 2
	@if nvidia-smi -L >/dev/null 2>&1; then set -x; $(PY) -m pytest -m gpu; fi

test-slow: ## the slow tests (they train)
	$(SETUP) test
	$(PY) -m pytest -m slow --timeout 3600

test-faults: ## kill a training at twenty random moments, and see that nothing is lost
	$(SETUP) test
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slow -s --timeout 3600 tests/training/test_faults.py

test-gpu: ## the numerical tests on a GPU, and whole detectors
	$(SETUP) test
	$(PY) -m pytest -m gpu

test-soak: ## thousands of steps and inferences, watching memory
	$(SETUP) test
	OMP_NUM_THREADS=1 $(PY) -m pytest -m soak -s --timeout 3600 tests/test_soak.py

# `make test` runs these too if it finds a browser; here a missing one is an error.
test-browser: ## the attention explorer in a headless Chromium (CHROMIUM=/path/to/it)
	$(SETUP) test
	CHROMIUM="$${CHROMIUM:-chromium}" $(PY) -m pytest tests/analysis/attention/test_explorer_browser.py

# SAHI's OpenCV doesn't fit beside the one that is pinned, and peft's packages are many: a folder of its own.
optional: ## fetch SAHI and peft (200 MB of disk), so that `make test` skips no test for want of them
	$(SETUP) test
	$(PY) -m pip install --quiet --no-deps --upgrade --target .venv-optional --requirement requirements/optional.txt \
		--requirement examples/sahi/requirements.txt

# Operators that only a compiled detectron2 has are tested here, beside all else.
test-official: ## all tests but the slow ones beside your checkout of detectron2, compiled (DETECTRON2=/path)
	$(SETUP) official
	OMP_NUM_THREADS=1 .venv-official/bin/python -m pytest -n 2

lint: ## ruff's rules and format, and mypy over the plug-in
	$(SETUP) test
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

clean: ## remove .venv and the caches; results stay
	rm -rf .venv .venv.old .venv-official .venv-official.old .venv-optional .venv-setup.log
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
