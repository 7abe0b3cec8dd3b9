# FastGate. `make run` and `make test` do all their own set-up; the rest is for development.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILD ?= release
# Much of a test's time is waiting: one process more than there are processors. A file's tests stay together, and
# files keep their order: the longest first (tests/conftest.py).
PARALLEL := -n $(shell expr $$(nproc) + 1) --dist loadfile --no-loadscope-reorder
CONNECTIONS ?= 10000000
PROCESSES ?= $(shell nproc)
CORE := $(shell find fastgate/_core -name "*.p[yx][xd]")

# Where bytecode is not kept, each start compiles every module of the gateway: 0.3 s of processor time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test quick lint bench compare trained debug asan tsan coverage kills starts money-starts outage balance slow testssl fuzz fuzz-api docs sdist wheel deb packages clean setup setup-test help explanations

help: ## what there is to make
	@awk -F':.*## ' '/^[a-z -]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "FastGate needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@tools/debian-packages build
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

# What is installed and built stands in stamps, so that a second run does nothing.
$(VENV)/.run: $(BIN)/python pyproject.toml setup.py $(CORE)
	@echo "Building the core and installing what it needs: one to three minutes."
	$(BIN)/python -m pip install --quiet --quiet --editable .  # without its warning about editable installs
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/python -m pip install --quiet 'pip>=25.1'  # knows --group
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

$(VENV)/.packages: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group packages
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --group bench
	@touch $@

setup: $(VENV)/.run ## build the gateway into .venv

setup-test: $(VENV)/.test
	@tools/debian-packages test
	@tools/identity-providers

run: setup ## build, start on the embedded defaults with a demonstration, and say what to try
	$(BIN)/fastgate demo

test: setup-test ## set up and run everything: lint, types, layers, unit, property, integration, faults
	@echo "Running all tests: about ten minutes. Real processes and sockets on 127.0.0.1 are part of it."
	$(BIN)/python -m pytest $(PARALLEL)

quick: $(VENV)/.test ## the tests without processes and faults
	$(BIN)/python -m pytest --ignore=tests/integration -x -q

lint: $(VENV)/.test ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.bench ## micro-benchmarks
	$(BIN)/python -m pytest benchmarks/micro --benchmark-columns=median,iqr,ops

compare: $(VENV)/.bench ## FastGate beside nginx, HAProxy, Envoy and the bare relay
	@tools/debian-packages bench
	$(BIN)/python -m benchmarks.compare
	$(BIN)/python -m benchmarks.publish

trained: setup ## build the core once more, laid out by what traffic did in it (GCC)
	tools/trained-build

debug asan tsan coverage: $(VENV)/.test ## the core's tests on a checked build
	tools/checked-build $@

kills: $(VENV)/.test ## 500 kills of workers, control and the whole tree under paid traffic
	FASTGATE_KILLS=500 $(BIN)/python -m pytest tests/integration/test_money_kills.py -v -s

starts: $(VENV)/.test ## 200 starts beside two busy loops a core: the control API answers within 5 s in each
	FASTGATE_STARTS=200 FASTGATE_START_S=5 $(BIN)/python -m pytest tests/integration/test_starts.py -v -s

money-starts: $(VENV)/.test ## 500 starts and kills with accounts that must be refused, and callers all the time
	FASTGATE_STARTS=500 $(BIN)/python -m pytest tests/integration/test_money_starts.py -v -s

outage: $(VENV)/.test ## the store away for a minute under paid traffic: SQLite locked, PostgreSQL stopped, frozen
	FASTGATE_OUTAGE_S=60 $(BIN)/python -m pytest tests/integration/test_money_outage.py -v -s

balance: $(VENV)/.test ## shares, ejection and return for each balancing policy, over many requests
	FASTGATE_BALANCING=20000 $(BIN)/python -m pytest tests/core/test_balancing.py -v

slow: $(VENV)/.test ## uploads, downloads, tunnels of five minutes and readers that pause, with the defaults
	FASTGATE_SLOW_S=300 $(BIN)/python -m pytest tests/integration/test_slow_peers.py -v -s

testssl: $(VENV)/.test ## every section of testssl.sh against a gateway: some minutes
	@tools/debian-packages test
	FASTGATE_TESTSSL=1 $(BIN)/python -m pytest tests/integration/test_testssl.py -v

explanations: $(VENV)/.test ## 100,000 random requests: what `fastgate why` says and what the data plane does
	FASTGATE_DRYRUN_CASES=100000 $(BIN)/python -m pytest tests/core/test_dry_run.py -v -s --timeout 7200

fuzz: $(VENV)/.test ## the parsers for eleven minutes, then CONNECTIONS=10000000 connections under the address sanitizer
	$(BIN)/python tests/fuzz/fuzz_http1.py --seconds 600
	PYTHONPATH=tests $(BIN)/python tests/fuzz/fuzz_proxy.py --seconds 60
	FASTGATE_EVERY_PAIR=1 tools/checked-build asan tests/core/test_states.py
	tools/checked-build asan python tests/fuzz/fuzz_connections.py --connections $(CONNECTIONS) --processes $(PROCESSES)

fuzz-api: $(VENV)/.test ## a hundred cases for each operation of the control API, by its OpenAPI document
	FASTGATE_API_CASES=100 $(BIN)/python -m pytest tests/integration/test_api_schema.py --timeout 3600

docs: $(VENV)/.test ## generate the references in docs/
	$(BIN)/python -m fastgate.docs_gen
	$(BIN)/python -m fastgate.api.reference docs/control-api.md

sdist: $(VENV)/.packages ## the source archive: dist/*.tar.gz
	@rm -f dist/*.tar.gz
	$(BIN)/python -m build --sdist --outdir dist . > /dev/null
	@ls dist/*.tar.gz

wheel: sdist ## wheels with OpenSSL inside, for every Python found: dist/*.whl
	@rm -f dist/*.whl
	tools/wheels
	@ls dist/*.whl

deb: sdist ## the Debian package: dist/*.deb
	@tools/debian-packages deb
	@rm -f dist/*.deb
	tools/deb
	@ls dist/*.deb

packages: wheel deb $(VENV)/.test ## build every package; install, start, upgrade, remove them in Debian systems (as root)
	@tools/debian-packages packages
	$(BIN)/python -m pytest packages/tests -v --timeout 3600

clean: ## remove what was built
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find fastgate -name '*.so' -delete
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	rm -rf $(VENV)
