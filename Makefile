# Two commands for newcomers: `make quickstart` does the main job, `make test` passes the tests.
# `make test-faults` kills, fills disks and damages files for some 25 minutes (FAULTS="--kills 20" for fewer).
# `make test-board` benches over SSH on an emulated aarch64 board, four minutes on two idle cores (installs Debian packages where it may).
# `make test-methods` trains a student by every method, some quarter of an hour (METHODS="--seeds 1" for fewer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: quickstart test test-faults test-board test-methods check clean

$(VENV)/.core: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("edgekd needs Python >= 3.11, found " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core pyproject.toml
	$(PIP) install -e '.[dev]'
	@touch $@

# The eval lines hold the result to its promise and end with exit 3 where it is broken; the report line prints the table.
quickstart: $(VENV)/.core
	@$(BIN)/edgekd run --recipe recipes/quickstart.yaml > /dev/null
	@$(BIN)/edgekd eval teacher --min-top1 97 > /dev/null
	@$(BIN)/edgekd eval student --min-top1 97 > /dev/null
	@$(BIN)/edgekd eval bench/onnx-int8@cpu --against student --max-drop 1 > /dev/null
	@$(BIN)/edgekd report

# Two workers, a file to each, one thread a worker: half the time on two cores.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-faults: $(VENV)/.dev
	$(BIN)/python -m tests.faults.campaign --kills 200 --seed 0 $(FAULTS)

test-board: $(VENV)/.dev
	$(BIN)/python -m tests.board.make $(BOARD)

test-methods: $(VENV)/.dev
	$(BIN)/python -m tests.methods.on_digits $(METHODS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
