# Every target sets up what it needs in .venv; nothing outside the checkout is touched.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
MODEL  ?= quintet-mini

.PHONY: demo test native sweep sanitize lint bench clean

$(READY): pyproject.toml constraints.txt setup.py $(wildcard native/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)   ## translate a sentence with the model in the package; or make demo MODEL=path-or-hub-name
	$(BIN)/quintet run "translate English to German: The house is wonderful." --model "$(MODEL)"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint       ## the tests: style and types first, then behaviour
	$(BIN)/python -m pytest -n auto -m "not sweep"

sweep: $(READY)  ## the rest of the large matrices, of which the tests have a part
	$(BIN)/python -m pytest -n auto -m sweep

sanitize:        ## the native engine under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer
	$(MAKE) -f native/tests/Makefile SANITIZER=address,undefined
	$(MAKE) -f native/tests/Makefile SANITIZER=thread

bench: $(READY)  ## side by side with the reference, on this machine
	$(BIN)/python benchmarks/compare.py

native: $(READY)  ## compile the CPU engine in place, after a change in native/
	$(BIN)/python setup.py --quiet build_ext --inplace

clean:
	rm -rf $(VENV) build dist src/*.egg-info
