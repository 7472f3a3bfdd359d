# Every target works alone in a fresh clone: it makes its own .venv from the committed lock.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: help demo test test-long check format bench bench-session scale lock clean

help:            ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1\t/' | expand -t 18

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("ahvault needs Python 3.11 or newer; set PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/pip check --disable-pip-version-check
	touch $@

# The vendor's SDKs judge the simulator. Their pins would downgrade ours, so they live by themselves.
.venv-sdk/.ready: tests/simulator/sdk/requirements.lock
	$(PYTHON) -m venv --clear .venv-sdk
	.venv-sdk/bin/pip install --quiet --disable-pip-version-check --no-deps -r $<
	touch $@

demo: $(READY)   ## back up, change, back up again, verify and restore simulated VMs
	$(BIN)/ahvault demo $(ARGS)

check: $(READY)  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Three at a time on two cores: the tests of sessions mostly wait for the Prefect server.
test: check .venv-sdk/.ready ## check, then the tests that CI runs
	$(BIN)/pytest -n 3 --dist loadgroup -m "not long" $(ARGS)

# What measures rates has the machine to itself. Exit code 5: ARGS chose no test of that part.
test-long: $(READY) ## the long proofs
	$(BIN)/pytest --timeout 3600 -m "long and alone" $(ARGS) || [ $$? -eq 5 ]
	$(BIN)/pytest -n 2 --dist loadgroup --timeout 3600 -m "long and not alone" $(ARGS) || [ $$? -eq 5 ]

bench: $(READY)  ## engine speed beside zstd over the same bytes
	$(BIN)/python -m tests.bench $(ARGS)

scale: $(READY)  ## many machines on this one: Prefect on PostgreSQL, a Prefect worker per worker VM
	$(BIN)/python -m tests.scale $(ARGS)

bench-session: $(READY) ## what a session costs beside its transfers, by the number of VMs
	$(BIN)/python -m tests.scale.bench $(ARGS)

screenshots: $(READY) ## pictures of the Prefect UI for docs/ (needs Chromium)
	$(BIN)/python -m tests.screenshots

format: $(READY) ## apply the formatter and the safe lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:            ## resolve pyproject.toml into requirements.lock (needs uv on PATH)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--extra dev pyproject.toml -o requirements.lock

clean:           ## remove the environment and caches
	rm -rf $(VENV) .venv-sdk .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
