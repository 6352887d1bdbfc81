# Every target works on a clean clone: it makes .venv first if that is needed. `make` alone lists them.
#   EXTRA=gpu    use requirements/gpu.txt (vLLM with CUDA) instead of requirements/cpu.txt
#   PYTHON=...   the interpreter that .venv is made with
#   WORKERS=2    how many files of integration tests run beside each other, each worker with a Ray cluster of its own
#   ARGS=...     handed on to pytest (test, test-fast), to the benchmark or to the lock

EXTRA ?= cpu
PYTHON ?=
ARGS ?=
WORKERS ?= 2
BIN := .venv/bin

export PYTHON
# Two cores are the smallest machine we serve: one thread each for a test and for the process it starts.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false VLLM_NO_USAGE_STATS=1 RAY_USAGE_STATS_ENABLED=0

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-soak test-fast lint format bench lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv from the lock; at once when nothing changed
	@scripts/setup.sh $(EXTRA)

quickstart: setup ## SFT, a reward model, PPO and evaluation of the default model on the bundled data; see runs/quickstart/report.html
	@$(BIN)/rlft run recipes/quickstart.yaml

test: setup lint ## lint, then all tests: unit, then integration with real Ray and vLLM
	@$(TEST_ENV) $(BIN)/python -m pytest -q -n 2 tests/unit $(ARGS)
	@$(TEST_ENV) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -m "not soak" tests/integration tests/gpu $(ARGS)

test-soak: setup ## more runs and learners, killed and started again: some six minutes
	@$(TEST_ENV) $(BIN)/python -m pytest -q -m soak tests $(ARGS)

test-fast: setup ## unit tests only, stops at the first failure
	@$(TEST_ENV) $(BIN)/python -m pytest -x -q -n 2 -m "not slow" tests/unit $(ARGS)

lint: setup ## ruff, format, mypy, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup ## let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup ## measure against TRL, packing, lag and weight sync; writes benchmarks/results/
	@scripts/setup.sh trl
	@$(BIN)/python -m benchmarks.run --peer-python benchmarks/.venv/bin/python $(ARGS)

lock: setup ## derive requirements/*.txt from pyproject.toml (ARGS=--upgrade moves everything)
	@scripts/lock.sh $(ARGS)

clean: ## remove caches and build output; keeps .venv and runs
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find rlft_core services tests -type d -name __pycache__ -prune -exec rm -rf {} +
