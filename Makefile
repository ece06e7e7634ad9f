# Two commands do everything on a fresh machine: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# One thread a process: two test processes with two threads each would fight over two cores. Byte code is kept, whatever
# the shell says: hundreds of processes start in the tests, and each would compile all of it anew.
TEST_THREADS := OMP_NUM_THREADS=1 PNEUMOSCOPE_THREADS=1 PYTHONDONTWRITEBYTECODE=

# FUZZ_MINUTES: of python -m benchmarks.fuzz, altogether.
FUZZ_MINUTES ?= 5
# More for pytest, as in: make tests PYTEST_ARGUMENTS=--durations=30
PYTEST_ARGUMENTS ?=

.PHONY: demo test fuzz lint types layers tests coverage system test-programs benchmarks audit clean

demo: $(INSTALLED) system
	PATH="$(abspath $(BIN)):$$PATH" sh scripts/demo.sh demo

test: lint types layers tests

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/bandit -q -c pyproject.toml -r src

types: $(INSTALLED)
	$(BIN)/mypy

layers: $(INSTALLED)
	$(BIN)/lint-imports

tests: $(INSTALLED) system test-programs
	$(TEST_THREADS) $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGUMENTS)

# The same tests with branch coverage, for 45 % more processor time (measured on 746 of them: 64 s instead of 44 s).
coverage:
	$(MAKE) tests PYTEST_ARGUMENTS="--cov --cov-report=term:skip-covered"

# Random examples for the property tests, then random files and requests for the parsers; apart from make test,
# whose examples are always the same.
fuzz: $(INSTALLED)
	$(TEST_THREADS) $(BIN)/pytest -n 2 -m hypothesis --hypothesis-profile=fuzz
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	$(BIN)/python -m benchmarks.fuzz --minutes $(FUZZ_MINUTES)

benchmarks: $(INSTALLED)
	$(BIN)/python -m benchmarks.run

# Known vulnerabilities of what is installed; needs pypi.org. --strict: a package that could not be looked up fails.
audit: $(INSTALLED)
	$(BIN)/pip-audit --local --strict --skip-editable

# Pango and HarfBuzz draw the PDF reports; without them everything but --pdf works.
system:
	sh scripts/system_packages.sh

# Orthanc, DCMTK, dicom3tools, PostgreSQL, Chromium: what the clinic is tested against. Without one, its tests skip.
test-programs:
	sh scripts/system_packages.sh tests

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .coverage
