# The commands a person needs; each target is a few plain commands, listed in README.md as well.
PYTHON ?= python3
BIN := .venv/bin
PORT ?= 8501

.PHONY: run test check audit format install install-dev clean

run: install
	$(BIN)/streamlit run app.py --server.port $(PORT)

test: install-dev
	$(BIN)/pytest

check: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Not in `check`: it needs the advisories of the package index. --strict: a package that could not be looked up fails it.
audit: install-dev
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

format: install-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: .venv/installed
install-dev: .venv/installed-dev

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .rank37
