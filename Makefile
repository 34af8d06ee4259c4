# `make` alone lists the targets. Each sets up what it needs by itself (tools/setup_env.sh).

ifneq ($(PYTHON),)
# An environment of the user's own: this package is put on its path, not installed in it.
PY := "$(PYTHON)"
SETUP := @$(PY) tools/check_env.py
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
else
PY := .venv/bin/python
SETUP := @tools/setup_env.sh
unexport PYTHONPATH PYTHONHOME
# What `make optional` has fetched, if it has.
OPTIONAL := PYTHONPATH=$(CURDIR)/.venv-optional
endif
# Without warnings: they are detectron2's, of its calls of PyTorch.
QUIET := TORCH_LOGS=-torch.fx $(PY) -W ignore
# Two workers with a pool of threads each would only get in each other's way.
PYTEST := OMP_NUM_THREADS=1 $(OPTIONAL) $(PY) -m pytest

# Its packages go into a folder of their own, as gradio wants another Pillow than the lock's.
GRADIO := test -f .venv-app/stamp || { $(PY) -m pip install --quiet --no-deps --upgrade --target .venv-app \
	--requirement requirements/app.txt && touch .venv-app/stamp; }

.PHONY: help demo look app test test-core nightly test-gpu test-soak test-official test-browser optional lint clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "The first of them builds .venv (Python 3.10 to 3.13); PYTHON=/path/to/python make … uses your environment instead."

# One thread in each of the demo's processes.
demo: look ## look, then make the digits' data, train on CPU, evaluate, draw the detections
	OMP_NUM_THREADS=1 $(QUIET) demo/digits.py

look: ## find cell nuclei on six photographs with the trained detector, and see what it looks at
	$(SETUP) demo
	$(QUIET) demo/look.py

app: ## a page in the browser to drop photographs on (fetches gradio, 235 MB of disk)
	$(SETUP) demo
	@$(GRADIO)
	PYTHONPATH=$(CURDIR)/.venv-app:$(CURDIR) $(QUIET) -m enl_detectron2 app

test: lint ## lint, then all tests but the slow ones; with a GPU also those of it
	$(PYTEST) -n 2
	@if nvidia-smi -L >/dev/null 2>&1; then set -x; $(PY) -m pytest -m gpu; fi

test-core: ## the plug-in's tests, in under a minute: layers, modeling, model zoo
	$(SETUP) test
	$(PYTEST) -n 2 tests/layers tests/modeling tests/test_model_zoo.py

nightly: ## all slow tests: each configuration, kills, exports of each kind, the notebook, the page, memory, set-up
	$(SETUP) test
	@$(GRADIO) || echo "gradio can't be fetched: the page of enl app isn't tested"
	@$(MAKE) --no-print-directory optional || echo "nbclient can't be fetched: the notebook isn't run"
	$(PYTEST) -n 2 -m slow --timeout 3600

test-gpu: ## the numerical tests on a GPU, and whole detectors
	$(SETUP) test
	$(PY) -m pytest -m gpu

test-soak: ## of the slow tests, thousands of steps and inferences, printing memory
	$(SETUP) test
	$(PYTEST) -m slow -s --timeout 3600 tests/test_soak.py

# Operators that only a compiled detectron2 has are tested here, beside all else.
test-official: ## all tests beside your checkout of detectron2, compiled, and its own with ENL_FPN (DETECTRON2=/path)
	@test -f "$(DETECTRON2)/detectron2/layers/csrc/vision.cpp" || \
		{ echo "say where your checkout of detectron2 is: make test-official DETECTRON2=/path/to/it" >&2; exit 2; }
	$(SETUP) test
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --upgrade --target .venv-official "$(DETECTRON2)"
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/.venv-official:$(CURDIR) $(PY) -m pytest -n 2
	PYTHONPATH=$(CURDIR)/.venv-official:$(CURDIR) $(PY) tests/detectron2_suite.py "$(DETECTRON2)"

# `make test` runs these too if it finds a browser; here a missing one is an error.
test-browser: ## the attention explorer in a headless Chromium (CHROMIUM=/path/to/it)
	$(SETUP) test
	CHROMIUM="$${CHROMIUM:-chromium}" $(PY) -m pytest tests/analysis/attention/test_explorer_browser.py

# SAHI's OpenCV doesn't fit beside the one that is pinned, and the packages of peft and nbclient are many: a folder of its own.
optional: ## fetch SAHI, peft and nbclient (300 MB of disk), so that `make test` skips no test for want of them
	$(SETUP) test
	$(PY) -m pip install --quiet --no-deps --upgrade --target .venv-optional --requirement requirements/optional.txt \
		--requirement examples/sahi/requirements.txt

lint: ## ruff's rules and format, and mypy over the plug-in
	$(SETUP) test
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

clean: ## remove .venv and the caches; results stay
	rm -rf .venv .venv-app .venv-official .venv-optional .venv-setup.log
	rm -rf .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
