PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-postgres soak fuzz image-test bench bench-compare bench-growth bench-looks check audit sbom format lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-14s %s\n", $$1, $$2}'

# The marks say which lock file the environment was installed from; a newer lock installs again.
$(VENV)/.runtime: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "provisioner needs Python 3.11 or newer; try: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned requirements into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime tests/requirements.lock
	@echo "installing the pinned test tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/requirements.lock
	@touch $@

demo: $(VENV)/.runtime ## run the whole product on this machine
	@$(BIN)/provisioner demo

# Six processes on two cores: the tests mostly wait for events. Each would compile all tests anew without bytecode.
test: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/.dev ## run the whole test suite
	@$(BIN)/python -m pytest -n 6 --dist loadgroup

# On one major the tests that look at databases take about a minute.
POSTGRES_TESTS = $(addprefix tests/integration/test_,schema.py schema_rules.py migrate.py queue.py queue_plan.py \
	queue_races.py queue_settling.py permits.py intake.py holds.py operations.py views.py reports.py listener.py) \
	$(wildcard tests/integration/test_postgres_*.py) tests/acceptance/test_journey.py $(wildcard tests/acceptance/test_cli_doctor*.py)
test-postgres: $(VENV)/.dev ## run the database tests on every supported major of PostgreSQL
	@for bin in $$($(BIN)/python -m tests.support.majors); do \
		"$$bin/postgres" --version; \
		POSTGRES_BIN="$$bin" $(BIN)/python -m pytest -q -n 4 --dist loadgroup $(POSTGRES_TESTS) || exit; \
	done

soak: $(VENV)/.dev ## run the long tests, bounded in time
	@$(BIN)/python -m pytest -m soak -p no:randomly --timeout 900

image-test: $(VENV)/.dev ## build the container image and run it; needs root, buildah and debootstrap
	@$(BIN)/python -m pytest -m image --timeout 600 -rs tests/deploy

# What comes from outside, with twenty times the examples; FUZZ_EXAMPLES says how many.
fuzz: $(VENV)/.dev ## run the tests with generated input for longer
	@FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-2000} $(BIN)/python -m pytest -n 2 --timeout 3600 --hypothesis-profile fuzz \
		tests/security/test_fuzz.py tests/security/test_machines.py tests/unit

bench: $(VENV)/.dev ## measure speed and costs, about five minutes; BENCH_ARGS="--reps 3 --only wake,start"
	@$(BIN)/python -m tests.benchmarks $(BENCH_ARGS)

bench-compare: $(VENV)/.dev ## compare two runs: OLD=a.json NEW=b.json
	@$(BIN)/python -m tests.benchmarks.comparison "$(OLD)" "$(NEW)"

bench-growth: $(VENV)/.dev ## measure how the cost grows with the rows; BENCH_ARGS="--rows 10000,10000000"
	@$(BIN)/python -m tests.benchmarks.growth $(BENCH_ARGS)

bench-looks: $(VENV)/.dev ## measure what a look costs with ten million rows; BENCH_ARGS="--rows 1000000 --directory DIR"
	@$(BIN)/python -m tests.benchmarks.looks $(BENCH_ARGS)

check: $(VENV)/.dev audit ## check format, lint, types, import contracts and migrations
	@$(BIN)/ruff format --check --diff .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/squawk migrations/0*.sql

audit: $(VENV)/.dev ## look for known vulnerabilities in the pinned requirements
	@$(BIN)/python -m tests.support.audit requirements.lock tests/requirements.lock

sbom: $(VENV)/.dev ## write the bill of materials (CycloneDX)
	@mkdir -p dist
	@$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible -o dist/sbom.cdx.json requirements.lock
	@echo "dist/sbom.cdx.json"

format: $(VENV)/.dev ## let the formatter and the linter fix what they can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# Names, versions and hashes only: the address of a registry is each machine's own business.
UV_COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --upgrade
lock: $(VENV)/.dev ## upgrade the pinned requirements
	@$(UV_COMPILE) --extra embedded --extra build -o requirements.lock pyproject.toml
	@$(UV_COMPILE) --extra dev -c requirements.lock -o tests/requirements.lock pyproject.toml

clean: ## remove what the other targets made
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .postgres dist build
