# Two commands do everything on a fresh Linux machine: `make demo` and `make test`.

# Evaluated where it is used; a failure is reported once, by the install rule.
PYTHON ?= $(shell scripts/find_python.sh 2>/dev/null)
VENV := .venv
BIN := $(VENV)/bin
# Made again whenever the pins change.
STAMP := $(VENV)/.installed$(if $(GPU),-gpu)
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all faults lint format aot clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## make .venv and install requirements.txt (GPU=1: also jax[cuda13] and jax-triton)

$(STAMP): requirements.txt $(if $(GPU),requirements-gpu.txt) pyproject.toml scripts/find_python.sh
	@test -n "$(PYTHON)" || scripts/find_python.sh
	@echo "Making $(VENV) with $(PYTHON)"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(if $(GPU),@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-gpu.txt)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: $(STAMP) ## train, compare, checkpoint, restore: the main job, within five minutes
	@$(BIN)/python -m experiments.demo

test: $(STAMP) ## the CPU suite, within ten minutes on two cores
	@JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n $(WORKERS) -m "not gpu and not slow"

test-all: $(STAMP) ## the CPU suite and its slow variants
	@JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n $(WORKERS) -m "not gpu"

faults: $(STAMP) ## cause every fault, count what was lost: up to 45 minutes
	@$(BIN)/python -m experiments.faults.run --record_dir=experiments/results/faults
	@$(BIN)/python -m experiments.report

lint: $(STAMP) ## formatting and static checks
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

format: $(STAMP) ## rewrite the files as lint wants them
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

aot: .venv-aot/.installed ## compile the GPU kernels: Hopper, Triton for sm_80 to sm_90; needs no GPU
	@.venv-aot/bin/python -m experiments.benchmarks.aot
	@.venv-aot/bin/python -m experiments.benchmarks.aot_triton

.venv-aot/.installed: requirements-aot.txt
	@test -n "$(PYTHON)" || scripts/find_python.sh
	@test -x .venv-aot/bin/python || "$(PYTHON)" -m venv .venv-aot
	@.venv-aot/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-aot.txt
	@touch $@

clean: ## remove .venv and caches
	rm -rf $(VENV) .venv-aot .pytest_cache .ruff_cache *.egg-info
