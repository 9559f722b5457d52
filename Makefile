# Everything a developer, CI or a newcomer runs. Needs make, git and a Python of at least 3.11; pip is used as this
# machine has configured it. `make install` is part of every other target and costs nothing when nothing changed.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help install demo test test-all lint format bench figures mutants clean

BIN := .venv/bin
ARGS ?=
# What must be covered whole, branches and all: the parts that decide, route and clean up.
GATED := src/offloop/core/*,src/offloop/graph/*,src/offloop/ingress/*,src/offloop/runners/*

# $(call need,program,debian package): what a target needs from the system, installed where it is missing.
define need
command -v $(1) >/dev/null || { \
	echo "installing $(2)"; \
	if [ "$$(id -u)" = 0 ]; then SUDO=; else SUDO=sudo; fi; \
	{ $$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq $(2) >/dev/null; } \
		|| { echo "cannot install $(2) with apt: please install \"$(1)\" yourself" >&2; exit 1; }; }
endef

help:  ## what there is
	@awk -F ':.*##' '/^[a-z-]+:.*##/ { printf "%-9s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/installed  ## a virtual environment in .venv with everything

.venv/installed: pyproject.toml
	@for python in "$${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; python=; \
	done; \
	[ -n "$$python" ] || { echo "offloop needs Python 3.11 or newer; name one by PYTHON=/path/to/python" >&2; exit 1; }; \
	"$$python" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$$python cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; \
	[ -x $(BIN)/python ] || "$$python" -m venv .venv
	@# `pip install --group` came with pip 25.1
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[all]' --group dev
	@touch $@

demo: install  ## the document service; make demo ARGS="--once"
	@$(BIN)/offloop demo $(ARGS)

test: install  ## all but the slow tests, with the coverage that is asked for
	@$(call need,curl,curl)
	@$(call need,chromium,chromium)
	@$(call need,redis-server,redis-server)
	@$(call need,rabbitmq-server,rabbitmq-server)
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest -m "not slow" $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --fail-under=0
	@$(BIN)/coverage report --include='$(GATED)' --fail-under=100

test-all: install  ## the slow ones too
	@$(call need,curl,curl)
	@$(call need,chromium,chromium)
	@$(call need,redis-server,redis-server)
	@$(call need,rabbitmq-server,rabbitmq-server)
	@$(BIN)/python -m pytest --hypothesis-profile=default $(ARGS)

lint: install  ## ruff, format, types, floors
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: install  ## ruff's formatter and its safe fixes
	@$(BIN)/ruff check --fix --exit-zero --quiet
	@$(BIN)/ruff format

bench: install  ## offloop beside what else there is; make bench ARGS="--only echo,ping --rounds 3"
	@$(call need,wrk,wrk)
	@$(call need,gcc,gcc libc6-dev)
	@$(call need,redis-server,redis-server)
	@$(call need,nats-server,nats-server)
	@$(call need,rabbitmq-server,rabbitmq-server)
	@$(BIN)/python benchmarks/run.py $(ARGS)

figures: install  ## record what a request costs, on purpose (tests/figures/hot_path.json)
	@RECORD_FIGURES=1 $(BIN)/python -m pytest tests/unit/test_hot_path.py -q

mutants: install  ## put listed defects into core/ and ingress/, one at a time: each must fail a test
	@$(BIN)/python -m tests.mutants $(ARGS)

clean:  ## everything that was made here
	rm -rf .venv .coverage .coverage.* .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache \
		build dist benchmarks/results benchmarks/.environments
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
