# Two commands on a fresh machine: `make run` (a whole life, raw text to a served model) and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test lint types setup clean

run: setup
	$(BIN)/foundling run quickstart

test: setup lint types
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

clean:
	rm -rf .venv
