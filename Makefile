# Two commands: `make demo` and `make test`; and `make docs`, `make coverage`. Everything is pinned in constraints.txt; .venv is made on first use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint coverage docs install clean

demo: $(VENV)/.installed
	$(BIN)/nomadiff demo --out demo-run

# Bytecode is written although the environment may say otherwise: tests start hundreds of processes.
test: $(VENV)/.installed-dev lint
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n 2 --dist worksteal

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A figure to look at, not a gate; kept out of `make test`, which it slows down.
coverage: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --cov --cov-report=term

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -b html docs build/docs

install: $(VENV)/.installed

# Not editable: what is tested is what a user gets; sources newer than the stamp are installed again.
SOURCES := pyproject.toml constraints.txt $(shell find src -name '*.py' -o -name '*.j2' -o -name '*.safetensors' -o -name '*.npz')

$(VENV)/.installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt .
	touch $@

$(VENV)/.installed-dev: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) demo-run build dist .coverage .pytest_cache .mypy_cache .ruff_cache
