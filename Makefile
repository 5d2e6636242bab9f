# One command for each thing done in this checkout. `make` alone lists them.
#
# - Everything lands in .venv; stamp files there remember what is installed, so a second run costs nothing.
# - Only pinned files with known hashes are installed (locks/), the build backend included.

PYTHON ?= python3
CONFIG ?= configs/demo.yaml
ARGS   ?=
TESTER ?= pytest
JOBS   ?= auto

BIN    := .venv/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
LOCKED := install --require-hashes --no-deps --only-binary :all:
# Python keeps compiled files (ignored by git, removed by `make clean`) even where the environment says otherwise: each of
# the processes that tests start would compile the same code again.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m $(TESTER)
SHARED := -n $(JOBS) --max-worker-restart 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install lint compile pure run check test tools coverage test-engines test-clients schema lock dist clean format bench bench-peers soak residency chaos strays simulate image

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/.runtime ## create .venv with the gateway and its locked dependencies
	@echo "Installed: $(BIN)/gateway"
	@$(BIN)/python -m bench.interpreter --hint || true

compile: .venv/.dev pure ## compile the hot modules with mypyc, in place; `make pure` undoes it
	@echo "Compiling the hot modules (two minutes on two cores)" >&2
	@GATEWAY_COMPILE=1 $(BIN)/python setup.py --quiet build_ext --inplace
	@rm -rf build
	@$(BIN)/gateway version

pure: ## remove what `make compile` has made
	@find . -name '*.so' -not -path './.*' -delete

run: .venv/.runtime ## start the gateway with configs/demo.yaml (CONFIG=other.yaml for another file)
	@exec $(BIN)/gateway serve $(CONFIG) $(ARGS)

lint: .venv/.dev ## format, lint and types
	$(BIN)/ruff format --check --quiet --output-format concise .
	$(BIN)/ruff check --quiet --output-format concise .
	$(BIN)/mypy --no-error-summary

check: lint ## the same, structure, documents and the fast tests
	$(PYTEST) -q $(SHARED) -m "not slow" $(ARGS)

test: .venv/.dev ## every test, from a clean clone too (ARGS="-k stream" narrows it, ARGS="-n0" uses one process)
	@$(BIN)/python -m tests.tools.debian --optional
	$(PYTEST) $(SHARED) $(ARGS)

tools: .venv/.dev ## fetch Prometheus and PostgreSQL, which some tests run, from Debian's packages into .tools/ (once)
	@$(BIN)/python -m tests.tools.debian

coverage: .venv/.dev ## the fast tests once more, slower: which code they reach; fails below the floor in pyproject.toml
	@mkdir -p .venv/coverage
	$(PYTEST) -q $(SHARED) -m "not slow" --cov --cov-report term $(ARGS)

test-engines: .venv/.dev ## install real engines below .engines/ (once) and run the conformance checks on them
	@$(BIN)/python -m tests.engines.install
	$(PYTEST) -m engines tests/engines $(ARGS)

test-clients: .venv/.dev ## install every client below .clients/ (once), run them all and write docs/clients.md
	@mkdir -p .clients
	$(PYTEST) $(SHARED) -o timeout=600 -m "heavy or not heavy" --junitxml .clients/results.xml \
		--ignore tests/clients/test_page.py tests/clients $(ARGS)
	@$(BIN)/python -m tests.clients.page .clients/results.xml
	$(PYTEST) -q tests/clients/test_page.py

schema: .venv/.runtime ## write configs/schema.json from the code
	@$(BIN)/gateway schema > .venv/schema.json
	@mv .venv/schema.json configs/schema.json

format: .venv/.dev ## rewrite the code in the house format
	$(BIN)/ruff check --quiet --fix-only .
	$(BIN)/ruff format --quiet .

bench: .venv/.runtime ## what the gateway costs, beside HAProxy, nginx and others (ARGS="--quick": does it run)
	@$(BIN)/python -m bench $(ARGS)

bench-peers: ## install the other gateways that `make bench` measures, each below .bench/
	@sed '/^#/d' bench/peers.txt | while read -r package; do \
	    name=$${package%%[=[]*}; \
	    echo "Installing $$package into .bench/$$name" >&2; \
	    { test -x .bench/$$name/bin/python || $(PYTHON) -m venv .bench/$$name; } && \
	    .bench/$$name/bin/python -m pip --disable-pip-version-check --quiet install "$$package" || exit 1; \
	done

MINUTES ?= 30

soak: .venv/.runtime ## mixed traffic and faults for MINUTES (30): does anything leak (ARGS="--write" keeps the result)
	@$(BIN)/python -m bench.soak --minutes $(MINUTES) $(ARGS)

residency: MINUTES = 10
residency: .venv/.runtime ## five engines where two fit, and kill -9, for MINUTES (10): does a request fail, is memory exceeded
	@$(BIN)/python -m bench.residency --minutes $(MINUTES) $(ARGS)

STREAMS ?= 20000

chaos: .venv/.runtime ## STREAMS (20000) of clients and engines at their worst: does it lie, miscount or keep anything
	@$(BIN)/python -m bench.chaos --streams $(STREAMS) $(ARGS)

REQUESTS ?= 100000

strays: .venv/.runtime ## REQUESTS (100000) to an engine that writes answers nobody asked for: does anybody get one
	@$(BIN)/python -m bench.strays --requests $(REQUESTS) $(ARGS)

simulate: .venv/.runtime ## 200 engines and a million requests in virtual time: what each way to balance does (ARGS="--write")
	@$(BIN)/python -m bench.simulation $(ARGS)

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --custom-compile-command "make lock" $(if $(KEEP),,--upgrade)

lock: .venv/.lock ## refresh locks/ to the newest versions (KEEP=1: only what pyproject.toml demands)
	$(COMPILE) pyproject.toml --group build --extra llamacpp --output-file locks/runtime.txt
	$(COMPILE) pyproject.toml --group build --extra llamacpp --group dev --constraint locks/runtime.txt --output-file locks/dev.txt
	$(COMPILE) pyproject.toml --extra llamacpp --extra otel --extra postgres --constraint locks/dev.txt --output-file locks/image.txt
	$(COMPILE) --group build --group compile --constraint locks/dev.txt --output-file locks/compile.txt
	$(COMPILE) --group lock --output-file locks/lock.txt

dist: .venv/.dev ## build the wheel, hot modules compiled, and the source distribution into dist/
	@rm -rf build dist
	@GATEWAY_COMPILE=1 $(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	@$(BIN)/python -c 'from setuptools import build_meta; build_meta.build_sdist("dist")' >/dev/null
	@rm -rf build
	@ls -l dist

image: .venv/.dev ## build the container images, run one and check it (with Docker, Podman, or as root with Buildah)
	@$(BIN)/python -m tests.docker.image $(ARGS)

clean: ## remove .venv and everything that was built
	rm -rf .venv .image build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What the commands stand on: one stamp for each step of an install.

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "The gateway needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$(PYTHON) cannot create virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.runtime: .venv/.created pyproject.toml locks/runtime.txt
	@echo "Installing the gateway into .venv (once)" >&2
	@$(PIP) $(LOCKED) --requirement locks/runtime.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.dev: .venv/.runtime locks/dev.txt
	@echo "Installing the development tools into .venv (once)" >&2
	@$(PIP) $(LOCKED) --requirement locks/dev.txt
	@touch $@

.venv/.lock: .venv/.created locks/lock.txt
	@$(PIP) $(LOCKED) --requirement locks/lock.txt
	@touch $@
