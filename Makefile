# Everything a newcomer needs: `make demo`, `make test`. docs/CODE_MAP.md says where things live.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ONLY   ?=

.PHONY: setup demo test nightly lint types imports bench test-socketcan lock clean

# The stamp makes `setup` cheap when nothing changed; the lock file pins every package by hash.
setup: $(VENV)/.ready
$(VENV)/.ready: tests/requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r tests/requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: setup
	$(BIN)/python -m sim_hw demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n auto -m "not nightly"

nightly: setup
	$(BIN)/python -m pytest -n auto -m nightly

bench: setup
	$(BIN)/python -m tests.bench $(ONLY)

test-socketcan: setup
	tests/socketcan/run.sh

lock: setup
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --generate-hashes --python-version 3.11 --no-header -q -o tests/requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra multicast --universal --generate-hashes --python-version 3.11 --no-header -q -o deploy/requirements.lock

clean:
	rm -rf $(VENV) .tools build *.egg-info .hypothesis .import_linter_cache .mypy_cache .ruff_cache .pytest_cache
